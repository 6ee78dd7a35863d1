"""The eight strategies, each through the unmodified SDK, streamed and not.

Goal: what serves is what the strategy says, whatever the providers do; what the caller does not
get reaches nobody and is paid for once. Method: one gateway, models of their own for each test,
and the stand-in provider told model by model how to answer; its ledger says what it was asked.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest

from tests.docs.examples import EXAMPLES, Example
from tests.e2e import budgets
from tests.e2e.harness import (
    PROJECT,
    Gateway,
    Json,
    RawClient,
    Simulator,
    chat_body,
    post,
    provider_table,
    serve,
    until,
)
from tests.e2e.routing import HELLO, ask, asked, price, roles, sdk, told

LONG_MS: Final = 60_000
"""Longer than any test: whoever waits for it fails."""
TOOL: Final[list[Any]] = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
]

PRICED: Final = (
    price(["c-dear"], 2, 20)
    + price(["c-middle"], 1, 10)
    + price(["c-cheap"], 0.1, 1)
    + price(["e-1", "e-2", "e-3", "s-2", "sh-main", "sh-mirror", "s-judge", "a-judge"], 0, 1000)
    + price(["s-1", "r-cheap", "r-dear"], 0, 10)
)

ROUTES: Final = """
[routes.single]
strategy = "single"
model = "sim/one"

[routes.fallback]
strategy = "fallback"
attempts = ["sim/f-1", { model = "sim/f-2", timeout_ms = 400 }, "sim/f-3"]

[routes.cost]
strategy = "cost_optimized"
allowed_models = ["sim/c-dear", "sim/c-mystery", "sim/c-cheap", "sim/c-middle"]

[routes.fast-whole]
strategy = "latency_optimized"
models = ["sim/lw-a", "sim/lw-b"]
explore_pct = 0

[routes.fast-stream]
strategy = "latency_optimized"
models = ["sim/ls-a", "sim/ls-b"]
explore_pct = 0

[routes.first]
strategy = "ensemble"
aggregation = "first_valid"
members = ["sim/e-1", "sim/e-2", "sim/e-3"]

[routes.first-json]
strategy = "ensemble"
aggregation = "first_valid"
validate = "json"
members = ["sim/e-1", "sim/e-2"]

[routes.first-rule]
strategy = "ensemble"
aggregation = "first_valid"
validate = "response.text.contains('ferry')"
members = ["sim/e-1", "sim/e-2"]

[routes.vote]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/e-1", "sim/e-2", "sim/e-3"]
timeout_ms = 1500

[routes.vote-one]
strategy = "ensemble"
aggregation = "weighted_vote"
min_responses = 1
members = ["sim/e-1", "sim/e-2", "sim/e-3"]

[routes.vote-all]
strategy = "ensemble"
aggregation = "weighted_vote"
min_responses = 3
members = ["sim/e-1", "sim/e-2", "sim/e-3"]

[routes.vote-weighed]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/e-1", "sim/e-2", { model = "sim/e-3", weight = 3 }]

[routes.mean]
strategy = "ensemble"
aggregation = "weighted_average"
members = ["sim/e-1", { model = "sim/e-2", weight = 3 }]

[routes.picked]
strategy = "ensemble"
aggregation = "llm_judge"
members = ["sim/e-1", "sim/e-2"]
judge = "sim/a-judge"

[routes.arms]
strategy = "ab_test"
variants = [
  { name = "control", weight = 75, target = "sim/ab-1" },
  { name = "trial", weight = 25, target = "sim/ab-2" },
]

[routes.steps]
strategy = "cascade"
steps = [
  { target = "sim/s-1", accept_if = "response.text.contains('good')" },
  { target = "sim/s-2" },
]

[routes.steps-facts]
strategy = "cascade"
steps = [
  { target = "sim/sf-1", accept_if = '''
      response.output_tokens == 5 && response.finish_reason == 'stop'
      && response.text.startsWith('hello') && !response.json_valid
      && response.tool_calls == 0 && response.refusal == null
    ''' },
  { target = "sim/s-2" },
]

[routes.first-short]
strategy = "ensemble"
aggregation = "first_valid"
validate = "response.output_tokens < 4"
members = ["sim/sf-1", "sim/sf-2"]

[routes.judged]
strategy = "cascade"
steps = [
  { target = "sim/s-1", accept_if = { judge = "sim/s-judge", min_score = 0.7 } },
  { target = "sim/s-2" },
]

[routes.rules]
strategy = "custom_rules"
rules = [
  { if = "tags.tier == 'banned'", then = { block = "this tier may not ask" } },
  { if = "tags.tier == 'gold'", then = "sim/r-gold" },
  { if = "request.has_tools", then = "sim/r-tools" },
  { if = "request.stream && tags.lane == 'live'", then = "sim/r-stream" },
  { if = "tags.lane == 'live'", then = "sim/r-whole" },
  { if = "budget.used_pct >= 0.5", then = "sim/r-cheap" },
  { if = "tags.t == 'rules'", then = "sim/r-dear" },
]

[routes.inner]
strategy = "fallback"
attempts = ["sim/n-1", "sim/n-2"]

[routes.nested]
strategy = "fallback"
attempts = ["@inner", "sim/n-3"]

[routes.deep]
strategy = "fallback"
attempts = [
  { strategy = "custom_rules", rules = [
    { if = "tags.tier == 'banned'", then = { block = "not here" } },
    { else = { strategy = "ab_test", variants = [
      { name = "only", weight = 1, target = { strategy = "single", model = "sim/n-4" } },
    ] } },
  ] },
  "sim/n-3",
]

[routes.nested-vote]
strategy = "fallback"
attempts = ["@vote-all", "sim/n-3"]

[routes.configs-vote]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["@configs", { strategy = "single", model = "sim/n-5" }, "sim/n-6"]

[routes.vote-first]
strategy = "cascade"
steps = [
  { target = "@vote", accept_if = "response.text == 'sure'" },
  { target = "sim/s-2" },
]

[routes.vote-judged]
strategy = "cascade"
steps = [
  { target = "@vote", accept_if = { judge = "sim/s-judge", min_score = 0.5 } },
  { target = "sim/s-2" },
]

[routes.steps-vote]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["@steps", "@judged", "sim/n-6"]

[routes.steps-mirrored]
strategy = "single"
model = "sim/sh-main"
shadow = { target = "@judged", percent = 100 }

[routes.blocked-late]
strategy = "fallback"
attempts = [
  "sim/n-7",
  { strategy = "custom_rules", rules = [{ else = { block = "not beyond here" } }] },
  "sim/n-3",
]
retry_on = ["5xx"]

[routes.blocked-member]
strategy = "ensemble"
aggregation = "weighted_vote"
min_responses = 1
members = [
  "sim/e-1",
  { strategy = "custom_rules", rules = [
    { if = "tags.tier == 'banned'", then = { block = "not a member" } },
    { else = "sim/e-2" },
  ] },
  "sim/e-3",
]

[routes.blocked-step]
strategy = "cascade"
steps = [
  { target = "sim/s-1", accept_if = "response.text.contains('good')" },
  { target = { strategy = "custom_rules", rules = [{ else = { block = "no dearer one" } }] } },
]

[routes.configs]
strategy = "fallback"
attempts = ["sim/n-8", "sim/n-9"]

[routes.mirrored]
strategy = "single"
model = "sim/sh-main"
shadow = { target = "sim/sh-mirror", percent = 100 }

"""

BUDGETS: Final = [
    budgets.budget("two-members", 25),
    budgets.budget("no-member", 5),
    budgets.budget("all-members", 25),
    budgets.budget("step-whole", 5),
    budgets.budget("step-stream", 5),
    budgets.budget("rules", 1),
    budgets.budget("mirror", 10_000),
    budgets.budget("mirror-none", 15),
]


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    tables = PROJECT + provider_table("sim", shared_simulator.base_url()) + ROUTES + PRICED
    folder = tmp_path_factory.mktemp("strategies")
    with serve(folder, tables + "".join(BUDGETS)) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    assert simulator.child.alive()
    with sdk(gateway) as opened:
        yield opened


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# --- single, fallback ----------------------------------------------------------------------


@both
def test_single_has_one_target(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"one": "text=just me"}):
        answer = ask(client, "@single", stream=stream)
    assert (answer.text, answer.model, answer.attempts) == ("just me", "one", 1)
    assert gateway.trace(answer.request_id)["strategy"] == "single"


@both
def test_fallback_goes_on_to_who_can_serve(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    spoiled = {"f-1": "status=500", "f-2": "hang=head", "f-3": "text=at last"}
    with told(simulator, spoiled):
        answer = ask(client, "@fallback", stream=stream)
    assert (answer.text, answer.attempts) == ("at last", 3)
    outcomes = [outcome for _, _, outcome in roles(gateway.trace(answer.request_id))]
    assert outcomes == ["http_error", "timeout", "ok"]


# --- cost_optimized ------------------------------------------------------------------------


@both
def test_the_cheapest_serves_and_the_others_follow_by_price(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    assert ask(client, "@cost", stream=stream).model == "c-cheap"
    simulator.reset()
    fails = {"c-cheap": "status=500", "c-middle": "status=503"}
    with told(simulator, fails):
        answer = ask(client, "@cost", stream=stream)
    assert answer.model == "c-dear"
    assert asked(simulator) == ["c-cheap", "c-middle", "c-dear"]
    candidates = gateway.trace(answer.request_id)["decision"]["candidates"]
    costs = {each["target"]: each["est_cost_usd"] for each in candidates}
    assert costs["c-mystery"] is None
    known = [float(costs[f"c-{name}"]) for name in ("cheap", "middle", "dear")]
    assert 0 < known[0] < known[1] < known[2]


def test_what_has_no_price_serves_only_after_all_that_have(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, dict.fromkeys(("c-cheap", "c-middle", "c-dear"), "status=500")):
        assert ask(client, "@cost").model == "c-mystery"


# --- latency_optimized ---------------------------------------------------------------------


@both
def test_the_fastest_serves_until_it_turns_slow(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    letter = "ls" if stream else "lw"
    route = "@fast-stream" if stream else "@fast-whole"
    first, second = f"{letter}-a", f"{letter}-b"
    with told(simulator, {first: "first_byte_ms=250", second: "first_byte_ms=2"}):
        served = [ask(client, route, stream=stream).model for _ in range(8)]
        assert set(served[:2]) == {first, second}, "both are tried"
        assert set(served[2:]) == {second}
        simulator.tell(second, "first_byte_ms=900")
        until(
            lambda: ask(client, route, stream=stream).model == first,
            what="traffic on the other",
        )
        answer = ask(client, route, stream=stream)
        assert answer.model == first
    candidates = gateway.trace(answer.request_id)["decision"]["candidates"]
    latencies = {each["target"]: each["latency_ms"] for each in candidates}
    assert 250 <= latencies[first] < latencies[second]


# --- ensemble ------------------------------------------------------------------------------


@both
def test_the_first_valid_answer_serves_and_the_losers_are_cancelled(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    slow = f"first_byte_ms={LONG_MS}"
    with told(simulator, {"e-1": slow, "e-2": "text=me first;first_byte_ms=150", "e-3": slow}):
        answer = ask(client, "@first", stream=stream)
    assert (answer.text, answer.model) == ("me first", "e-2")
    for loser in ("e-1", "e-3"):
        assert simulator.wait_request(lambda each: each["disconnected"], model=loser)
    outcomes = {model: outcome for model, _, outcome in roles(gateway.trace(answer.request_id))}
    assert outcomes == {"e-1": "cancelled", "e-2": "ok", "e-3": "cancelled"}


@both
@pytest.mark.parametrize(
    ("route", "wrong", "right"),
    [("@first-json", "no json", '{"a":1}'), ("@first-rule", "a bridge", "a ferry")],
)
def test_an_answer_that_is_not_valid_is_not_the_first(
    client: openai.OpenAI,
    simulator: Simulator,
    route: str,
    wrong: str,
    right: str,
    *,
    stream: bool,
) -> None:
    with told(simulator, {"e-1": f"text={wrong}", "e-2": f"text={right};first_byte_ms=150"}):
        assert ask(client, route, stream=stream).text == right


def test_an_ensemble_without_a_valid_answer_fails(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with (
        told(simulator, {"e-1": "text=no", "e-2": "text=neither"}),
        pytest.raises(openai.APIStatusError) as caught,
    ):
        ask(client, "@first-json")
    assert caught.value.status_code == 502


@both
def test_members_vote_whatever_they_add_to_a_word(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = {"e-1": "text=No", "e-2": "text=Yes.", "e-3": "text=yes"}
    with told(simulator, said):
        assert ask(client, "@vote", stream=stream).text == "Yes."
        answer = ask(client, "@vote-weighed", stream=stream)
    assert answer.attempts == 3
    cost = gateway.trace(answer.request_id)["cost"]["total_usd"]
    assert float(cost) == pytest.approx(0.003), "all members are paid for"
    said = {"e-1": "text=No", "e-2": "text=no", "e-3": "text=yes"}
    with told(simulator, said):
        assert ask(client, "@vote", stream=stream).text == "No"
        assert ask(client, "@vote-weighed", stream=stream).text == "yes"


@both
def test_a_member_that_is_late_does_not_hold_the_answer(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = {"e-1": "text=left", "e-2": f"first_byte_ms={LONG_MS}", "e-3": "text=left"}
    with told(simulator, said):
        answer = ask(client, "@vote", stream=stream)
    assert answer.text == "left"
    assert simulator.wait_request(lambda each: each["disconnected"], model="e-2")
    outcomes = {model: outcome for model, _, outcome in roles(gateway.trace(answer.request_id))}
    assert outcomes["e-1"] == outcomes["e-3"] == "ok"
    assert outcomes["e-2"] in {"timeout", "cancelled"}


@both
def test_a_mean_is_weighted_and_said_as_one_number(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"e-1": "text=10", "e-2": "text=20"}):
        assert ask(client, "@mean", stream=stream).text == "17.5"
    with told(simulator, {"e-1": "text=10", "e-2": "text=who knows"}):
        assert ask(client, "@mean", stream=stream).text == "10"


@both
def test_a_judge_picks_and_an_unreadable_one_leaves_it_to_the_first_member(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = {"e-1": "text=plain", "e-2": "text=splendid", "a-judge": 'text={"index":1}'}
    with told(simulator, said):
        answer = ask(client, "@picked", stream=stream)
    assert (answer.text, answer.attempts) == ("splendid", 3)
    trace = gateway.trace(answer.request_id)
    assert ("a-judge", "judge", "ok") in roles(trace)
    assert float(trace["cost"]["total_usd"]) == pytest.approx(0.003)
    with told(simulator, said | {"a-judge": "text=either is fine"}):
        assert ask(client, "@picked", stream=stream).text == "plain"


@both
def test_members_that_a_budget_has_no_room_for_are_left_out_from_the_end(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = {"e-1": "text=aye", "e-2": "text=aye", "e-3": "text=nay"}
    with told(simulator, said):
        answer = ask(client, "@vote-one", stream=stream, tags="t=two-members", max_tokens=10)
    assert answer.text == "aye"
    assert sorted(asked(simulator)) == ["e-1", "e-2"]
    outcomes = {model: outcome for model, _, outcome in roles(gateway.trace(answer.request_id))}
    assert outcomes["e-3"] == "skipped"


@both
@pytest.mark.parametrize(
    ("route", "name"), [("@vote-all", "all-members"), ("@vote-one", "no-member")]
)
def test_too_few_members_that_fit_are_refused_before_anybody_is_asked(
    client: openai.OpenAI,
    gateway: Gateway,
    simulator: Simulator,
    route: str,
    name: str,
    *,
    stream: bool,
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, route, stream=stream, tags=f"t={name}", max_tokens=10)
    assert caught.value.status_code == 402
    assert caught.value.type == "request_exceeds_budget"
    assert asked(simulator) == []
    assert budgets.settled(gateway, name)["spent_usd"] == 0


# --- ab_test -------------------------------------------------------------------------------


def _arm(client: openai.OpenAI, user: str, *, stream: bool = False) -> str:
    answer = ask(client, "@arms", stream=stream, user=user)
    arm = answer.headers["x-modelux-ab-variant"]
    assert answer.model == {"control": "ab-1", "trial": "ab-2"}[arm]
    return arm


def test_users_are_split_by_weight_and_stay_where_they_are(client: openai.OpenAI) -> None:
    users = [f"user-{n}" for n in range(200)]
    arms = {user: _arm(client, user) for user in users}
    counts = Counter(arms.values())
    assert 30 <= counts["trial"] <= 70, counts
    for user in users[:20]:
        assert _arm(client, user, stream=True) == arms[user]


def test_an_arm_outlives_a_restart(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = PROJECT + provider_table("sim", shared_simulator.base_url()) + ROUTES
    seen: list[list[str]] = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("arms")
        with serve(folder, config) as gateway, sdk(gateway) as client:
            seen.append([_arm(client, f"user-{n}") for n in range(20)])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 2


# --- cascade -------------------------------------------------------------------------------


@both
def test_a_step_stands_or_is_followed_by_the_next(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"s-1": "text=a good one", "s-2": "text=dear"}):
        assert ask(client, "@steps", stream=stream).text == "a good one"
    assert asked(simulator) == ["s-1"]
    with told(simulator, {"s-1": "text=a poor one", "s-2": "text=dear"}):
        answer = ask(client, "@steps", stream=stream)
    # Nothing of the step that was not good enough reached the caller.
    assert (answer.text, answer.model, answer.attempts) == ("dear", "s-2", 2)
    trace = gateway.trace(answer.request_id)
    assert float(trace["cost"]["total_usd"]) == pytest.approx(0.00103)


@both
def test_a_rule_reads_all_that_an_answer_says(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    good, other = "text=hello there my dear friend", "text=hello there my friend"
    with told(simulator, {"sf-1": good, "sf-2": "text=so short"}):
        assert ask(client, "@steps-facts", stream=stream).model == "sf-1"
        assert ask(client, "@first-short", stream=stream).text == "so short"
    with told(simulator, {"sf-1": other}):
        assert ask(client, "@steps-facts", stream=stream).model == "s-2"


@both
@pytest.mark.parametrize(
    ("word", "stands"),
    [('{"score":0.9}', True), ('{"score":0.3}', False), ("hard to tell", False)],
)
def test_a_judge_decides_whether_a_step_stands(
    client: openai.OpenAI,
    gateway: Gateway,
    simulator: Simulator,
    word: str,
    *,
    stands: bool,
    stream: bool,
) -> None:
    with told(simulator, {"s-1": "text=quick", "s-2": "text=dear", "s-judge": f"text={word}"}):
        answer = ask(client, "@judged", stream=stream)
    assert answer.text == ("quick" if stands else "dear")
    expected = [("s-1", "serve", "ok"), ("s-judge", "judge", "ok"), ("s-2", "serve", "ok")]
    assert roles(gateway.trace(answer.request_id)) == expected[: 2 if stands else 3]


@both
def test_a_step_that_the_budget_has_no_room_for_leaves_the_answer_before_it(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    name = "step-stream" if stream else "step-whole"
    with told(simulator, {"s-1": "text=a poor one", "s-2": "text=dear"}):
        answer = ask(client, "@steps", stream=stream, tags=f"t={name}", max_tokens=10)
    assert answer.text == "a poor one"
    assert "cascade_budget" in answer.headers["x-modelux-warnings"]
    assert asked(simulator) == ["s-1"]


# --- custom_rules --------------------------------------------------------------------------


@both
def test_the_first_rule_that_matches_serves(
    client: openai.OpenAI, gateway: Gateway, *, stream: bool
) -> None:
    gold = ask(client, "@rules", stream=stream, tags="tier=gold", tools=TOOL)
    assert gold.model == "r-gold"
    decision = gateway.trace(gold.request_id)["decision"]
    assert [each["result"] for each in decision["rules"]] == [False, True]
    assert ask(client, "@rules", stream=stream, tools=TOOL).model == "r-tools"
    live = ask(client, "@rules", stream=stream, tags="lane=live")
    assert live.model == ("r-stream" if stream else "r-whole")


def test_a_rule_reads_what_is_left_of_a_budget(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, {"r-dear": "tokens=60"}):
        first = ask(client, "@rules", tags="t=rules", max_tokens=60)
        assert first.model == "r-dear"
        budgets.settled(gateway, "rules")
        assert ask(client, "@rules", tags="t=rules", max_tokens=10).model == "r-cheap"


@both
def test_a_rule_blocks_with_its_reason(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client, "@rules", stream=stream, tags="tier=banned")
    assert caught.value.code == "blocked_by_rule"
    assert "this tier may not ask" in str(caught.value)
    assert asked(simulator) == []
    request_id = caught.value.response.headers["x-modelux-request-id"]
    assert gateway.trace(request_id)["error"]["code"] == "blocked_by_rule"


@both
def test_a_request_that_no_rule_matches_is_refused(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "@rules", stream=stream)
    assert caught.value.code == "no_rule_matched"
    assert asked(simulator) == []


# --- nesting -------------------------------------------------------------------------------


@both
def test_a_config_inside_by_name_is_one_attempt_of_the_one_around_it(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"n-1": "status=500", "n-2": "status=500", "n-3": "text=outside"}):
        answer = ask(client, "@nested", stream=stream)
    assert (answer.text, asked(simulator)) == ("outside", ["n-1", "n-2", "n-3"])
    assert answer.headers["x-modelux-config"] == "@nested (v1)"
    with told(simulator, {"n-1": "status=500", "n-2": "text=inside"}):
        answer = ask(client, "@nested", stream=stream)
    assert answer.text == "inside"
    path = gateway.trace(answer.request_id)["decision"]["path"]
    assert any("@inner" in str(each) for each in path), path


@both
def test_four_configs_deep_serve_and_fail_over_and_block(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"n-4": "text=deep"}):
        answer = ask(client, "@deep", stream=stream)
    assert (answer.text, answer.headers["x-modelux-ab-variant"]) == ("deep", "only")
    with told(simulator, {"n-4": "status=500"}):
        assert ask(client, "@deep", stream=stream).model == "n-3"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client, "@deep", stream=stream, tags="tier=banned")
    assert caught.value.code == "blocked_by_rule"


@both
def test_an_ensemble_that_fails_is_one_failed_attempt(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"e-2": "status=500", "n-3": "text=after them"}):
        answer = ask(client, "@nested-vote", stream=stream)
    assert (answer.text, answer.attempts) == ("after them", 4)
    assert sorted(asked(simulator)[:3]) == ["e-1", "e-2", "e-3"]
    assert len(gateway.trace(answer.request_id)["attempts"]) == 4


@both
def test_members_may_be_configs_that_fail_over_on_their_own(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    said = {"n-8": "status=500", "n-9": "text=yes", "n-5": "text=no", "n-6": "text=Yes"}
    with told(simulator, said):
        answer = ask(client, "@configs-vote", stream=stream)
    assert (answer.text, answer.attempts) == ("yes", 4)


@both
def test_an_ensemble_may_be_a_step(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, dict.fromkeys(("e-1", "e-2", "e-3"), "text=sure")):
        assert ask(client, "@vote-first", stream=stream).text == "sure"
    with told(
        simulator, dict.fromkeys(("e-1", "e-2", "e-3"), "text=maybe") | {"s-2": "text=it"}
    ):
        assert ask(client, "@vote-first", stream=stream).text == "it"


@both
def test_a_judge_reads_what_an_ensemble_came_to(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = dict.fromkeys(("e-1", "e-2", "e-3"), "text=maybe") | {"s-2": "text=it"}
    with told(simulator, said | {"s-judge": 'text={"score":0.2}'}):
        answer = ask(client, "@vote-judged", stream=stream)
    assert (answer.text, answer.attempts) == ("it", 5)
    assert ("s-judge", "judge", "ok") in roles(gateway.trace(answer.request_id))
    with told(simulator, said | {"s-judge": 'text={"score":0.8}'}):
        assert ask(client, "@vote-judged", stream=stream).text == "maybe"


@both
def test_cascades_inside_of_an_ensemble_reject_their_own_steps(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    said = {"s-1": "text=poor", "s-2": "text=dear", "s-judge": 'text={"score":0.2}'}
    with told(simulator, said | {"n-6": "text=poor"}):
        answer = ask(client, "@steps-vote", stream=stream)
    assert answer.text == "dear"
    assert "x-modelux-warnings" not in answer.headers
    trace = gateway.trace(answer.request_id)
    assert Counter(role for _, role, _ in roles(trace)) == {"serve": 5, "judge": 1}


def test_a_mirrored_cascade_with_its_judge_is_outside_of_the_total(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    said = {"s-1": "text=poor", "s-2": "text=dear", "s-judge": 'text={"score":0.2}'}
    with told(simulator, said | {"sh-main": "text=mine"}):
        answer = ask(client, "@steps-mirrored")
        trace = gateway.trace(answer.request_id)
    assert answer.text == "mine"
    assert [(model, role) for model, role, _ in roles(trace)] == [
        ("sh-main", "serve"),
        ("s-1", "shadow"),
        ("s-judge", "shadow"),
        ("s-2", "shadow"),
    ]
    assert float(trace["cost"]["total_usd"]) == pytest.approx(0.001)
    assert float(trace["cost"]["shadow_usd"]) == pytest.approx(0.00201)


@both
def test_a_block_behind_a_failed_target_ends_the_request(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with (
        told(simulator, {"n-7": "status=500"}),
        pytest.raises(openai.APIStatusError) as caught,
    ):
        ask(client, "@blocked-late", stream=stream)
    assert (caught.value.status_code, caught.value.code) == (403, "blocked_by_rule")
    assert "not beyond here" in str(caught.value)
    assert asked(simulator) == ["n-7"]
    with (
        told(simulator, {"n-7": "status=429"}),
        pytest.raises(openai.RateLimitError),
    ):
        # What is not retried does not come as far as the rule.
        ask(client, "@blocked-late", stream=stream)


@both
def test_a_member_that_a_rule_blocks_ends_the_request_before_anybody_is_asked(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    assert ask(client, "@blocked-member", stream=stream).attempts == 3
    simulator.reset()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client, "@blocked-member", stream=stream, tags="tier=banned")
    assert "not a member" in str(caught.value)
    assert asked(simulator) == []


@both
def test_a_block_behind_a_rejected_step_ends_the_request(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"s-1": "text=a good one"}):
        assert ask(client, "@blocked-step", stream=stream).text == "a good one"
    with (
        told(simulator, {"s-1": "text=a poor one"}),
        pytest.raises(openai.PermissionDeniedError) as caught,
    ):
        ask(client, "@blocked-step", stream=stream)
    assert "no dearer one" in str(caught.value)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_caller_who_leaves_takes_all_members_along(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    slow = dict.fromkeys(("e-1", "e-2", "e-3"), f"first_byte_ms={LONG_MS}")
    with told(simulator, slow):
        client = RawClient(gateway.port)
        client.send(post(chat_body("@first", stream=stream)))
        until(lambda: len(asked(simulator)) == 3, what="three members asked")
        client.reset()
        for member in slow:
            assert simulator.wait_request(lambda each: each["disconnected"], model=member)


def test_the_last_step_is_relayed_as_it_comes(gateway: Gateway, simulator: Simulator) -> None:
    said = {"s-1": "text=a poor one", "s-2": "hang=mid@1"}
    with told(simulator, said), RawClient(gateway.port) as client:
        client.send(post(chat_body("@steps", stream=True)))
        before = client.read_until(b'" the"')
    assert before.endswith(b'" the"')
    assert b"poor" not in before


# --- shadow --------------------------------------------------------------------------------


@both
def test_a_mirrored_request_changes_nothing_for_its_caller(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"sh-main": "text=mine", "sh-mirror": "text=not yours at all"}):
        answer = ask(client, "@mirrored", stream=stream, tags="t=mirror", max_tokens=9)
        trace = gateway.trace(answer.request_id)
    assert (answer.text, answer.model, answer.attempts) == ("mine", "sh-main", 1)
    assert roles(trace) == [("sh-main", "serve", "ok"), ("sh-mirror", "shadow", "ok")]
    assert float(trace["cost"]["total_usd"]) == pytest.approx(0.001)
    assert float(trace["cost"]["shadow_usd"]) == pytest.approx(0.004)


@both
def test_a_slow_mirror_delays_nobody(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"sh-mirror": "first_byte_ms=2500"}):
        answers = [ask(client, "@mirrored", stream=stream) for _ in range(3)]
        under_way = simulator.requests(model="sh-mirror")
        assert len(under_way) == 3
        assert all(each["ended_us"] is None for each in under_way), under_way
    traces = [gateway.trace(answer.request_id) for answer in answers]
    assert all(roles(trace)[-1] == ("sh-mirror", "shadow", "ok") for trace in traces)


def test_a_mirror_that_a_budget_has_no_room_for_is_skipped(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, {"sh-main": "tokens=10"}):
        answer = ask(client, "@mirrored", tags="t=mirror-none", max_tokens=10)
    trace = gateway.trace(answer.request_id)
    assert asked(simulator) == ["sh-main"]
    assert _shadows(trace) in ([], ["skipped"])
    assert budgets.spent(gateway, "mirror-none") == budgets.usd(10)


def _shadows(trace: Json) -> list[str]:
    return [outcome for _, role, outcome in roles(trace) if role == "shadow"]


# --- completions ---------------------------------------------------------------------------


def test_completions_are_routed_alike(client: openai.OpenAI, simulator: Simulator) -> None:
    assert len(HELLO) == 1
    with told(simulator, {"c-cheap": "status=500", "c-middle": "text=middle"}):
        assert client.completions.create(model="@cost", prompt="hi").choices[0].text == "middle"
    with told(simulator, {"s-1": "text=a poor one", "s-2": "text=dear"}):
        whole = client.completions.create(model="@steps", prompt="hi")
        assert whole.choices[0].text == "dear"
        chunks = client.completions.create(model="@steps", prompt="hi", stream=True)
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert text == "dear"
    with told(simulator, {"e-1": "text=4", "e-2": "text=8"}):
        mean = client.completions.create(model="@mean", prompt="hi")
        assert mean.choices[0].text == "7"


# --- the pages -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    url = shared_simulator.base_url()
    config = PROJECT + provider_table("openai", url) + provider_table("anthropic", url)
    config += "\n".join(example.toml for example in EXAMPLES)
    with serve(tmp_path_factory.mktemp("documented"), config) as running:
        yield running


@both
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_of_the_pages_serves(
    documented: Gateway, simulator: Simulator, example: Example, *, stream: bool
) -> None:
    judge = {"gpt-4o-mini": 'text={"score":1}'}
    with sdk(documented) as client, told(simulator, judge):
        answer = ask(client, f"@{example.slug}", stream=stream, user="ann")
    assert answer.text
    assert answer.headers["x-modelux-config"] == f"@{example.slug} (v1)"
