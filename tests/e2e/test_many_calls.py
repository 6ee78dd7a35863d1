"""Many calls in one request: what they hold, what they cost, and how long they may take.

Goal: whatever members, judges and mirrors do, the header, the trace, the charges and the sum of
all attempts are one figure, no budget is charged less than the provider bills, and nobody waits
longer than the configs say. Method: an output token costs 0.001 USD and input nothing, so that
the bound of a call is its output limit; the stand-in provider's own ledger judges.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from tests.e2e import budgets
from tests.e2e.budgets import budget, rows, settled, tags, usd
from tests.e2e.harness import (
    PROJECT,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    call,
    chat_body,
    post,
    provider_table,
    serve,
    simulate,
    until,
)
from tests.e2e.routing import ask, asked, price, roles, sdk, told

MODELS: Final = ["one", "two", "three", "four", "judge", "mirror"]
SLOW: Final = ["slow-1", "slow-2", "slow-3", "slow-judge", "hasty-1", "hasty-2"]
"""Of the tests about time: what is slow too often is not asked any more."""

LONG_MS: Final = 60_000
"""Longer than any test: whoever waits for it fails."""

ROUTES: Final = """
[routes.first]
strategy = "ensemble"
aggregation = "first_valid"
members = ["sim/one", "sim/two", "sim/three"]
shadow = { target = "sim/mirror", percent = 100 }

[routes.first-of-two]
strategy = "ensemble"
aggregation = "first_valid"
min_responses = 2
members = ["sim/one", "sim/two", "sim/three"]

[routes.vote]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/one", "sim/two", "sim/three"]
timeout_ms = 700

[routes.slow]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/slow-1", "sim/slow-2", "sim/slow-3"]
timeout_ms = 700

[routes.open]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/open-1", "sim/open-2", "sim/open-3"]

[routes.mean]
strategy = "ensemble"
aggregation = "weighted_average"
members = ["sim/one", "sim/two"]

[routes.picked]
strategy = "ensemble"
aggregation = "llm_judge"
members = ["sim/one", "sim/two", "sim/three"]
judge = "sim/judge"

[routes.nested]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["@vote", "@picked", "sim/four"]

[routes.judged]
strategy = "cascade"
steps = [
  { target = "sim/one", accept_if = { judge = "sim/judge", min_score = 0.5 } },
  { target = "sim/two" },
]
shadow = { target = "sim/mirror", percent = 100 }

[routes.twice-judged]
strategy = "cascade"
steps = [
  { target = "sim/one", accept_if = { judge = "@judges", min_score = 0.5 } },
  { target = "sim/two" },
]

[routes.judges]
strategy = "fallback"
attempts = ["sim/down", "sim/judge"]

[routes.mirrored]
strategy = "single"
model = "sim/one"
shadow = { target = "sim/mirror", percent = 100 }

[routes.hasty-judged]
strategy = "cascade"
total_budget_ms = 500
steps = [
  { target = "sim/one", accept_if = { judge = "sim/slow-judge", min_score = 0.5 } },
  { target = "sim/two" },
]

[routes.late]
strategy = "fallback"
retry_on = ["timeout"]
attempts = ["@slow", "sim/four"]

[routes.hasty]
strategy = "fallback"
total_budget_ms = 500
attempts = ["@hasty-vote", "sim/four"]

[routes.hasty-vote]
strategy = "ensemble"
aggregation = "weighted_vote"
members = ["sim/hasty-1", "sim/hasty-2"]

"""


def _on_route(name: str) -> str:
    return budget(f"on-{name}", 1_000_000, scope=f'{{ type = "route", slug = "{name}" }}')


BUDGETS: Final = [
    budget("ample", 10_000_000),
    *map(_on_route, ("first", "picked", "judged")),
    budget("told", 1000),
    budget("shared", 145),
    budget("small", 100),
    budget("dry", 145),
    budget("held", 25, action="downgrade", downgrade_to="sim/four"),
    budget("leaves", 15, action="downgrade", downgrade_to="sim/four"),
    budget("unjudged", 15, action="downgrade", downgrade_to="sim/four"),
]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    usd_per_mtok = dict.fromkeys(MODELS, 1000) | {"four": 10}
    prices = [
        word for name, usd in usd_per_mtok.items() for word in ("--price", f"{name}=0:{usd}")
    ]
    folder = tmp_path_factory.mktemp("provider")
    with simulate(folder, *prices, *budgets.PRICES, "--keep-bodies") as simulator:
        yield simulator


@pytest.fixture
def simulator(provider: Simulator) -> Simulator:
    """The stand-in provider of this module, with an empty ledger."""
    provider.reset()
    return provider


@pytest.fixture(scope="module")
def gateway(provider: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with _served(provider, tmp_path_factory.mktemp("many")) as running:
        yield running


@contextlib.contextmanager
def _served(provider: Simulator, folder: Path) -> Iterator[Gateway]:
    url = provider.base_url()
    tables = (
        PROJECT
        + provider_table("sim", url, 'on_cancel = "bills_generated"')
        + provider_table("gen", url, 'on_cancel = "bills_generated"')
        + ROUTES
        + price([*MODELS[:3], "judge", "mirror", *SLOW], 0, 1000)
        + price(["four"], 0, 10)
        + price(["tok"], 0, 1000).replace("sim/tok", "gen/tok")
    )
    with serve(folder, tables + "".join(BUDGETS)) as running:
        yield running
        assert "Traceback" not in running.child.said()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with sdk(gateway) as opened:
        yield opened


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def _post(gateway: Gateway, model: str, name: str = "ample", **more: Any) -> Reply:  # noqa: ANN401 - any field.
    return call(gateway.port, chat_body(model, **more), headers=tags(name))


def _spent(gateway: Gateway) -> dict[str, float]:
    return {row["name"]: settled(gateway, row["name"])["spent_usd"] for row in rows(gateway)}


# --- one figure ----------------------------------------------------------------------------

SAID: Final = {
    "one": "text=10",
    "two": "text=20 and more",
    "three": "text=20 and more;first_byte_ms=40",
    "four": "text=20",
    "judge": 'text={"index":1}',
    "mirror": "tokens=9",
}
TROUBLES: Final = {
    "none": {},
    "slow": {"one": f"first_byte_ms=50;token_ms={LONG_MS};tokens=9"},
    "cut": {"one": "fault=reset_before", "three": "fault=sse_reset_mid"},
    "refused": {"one": "status=400", "judge": "status=500"},
    "no-json": {"one": "malformed=html", "judge": "malformed=html"},
    "no-judge": {"judge": "fault=reset_before", "mirror": "fault=reset_before"},
    "silent": {"two": "usage=missing", "judge": "usage=missing"},
}


@both
@pytest.mark.parametrize("trouble", TROUBLES)
def test_header_trace_charges_and_attempts_say_the_same(
    simulator: Simulator, tmp_path: Path, trouble: str, *, stream: bool
) -> None:
    # One of its own: what fails often is not asked any more.
    with _served(simulator, tmp_path) as gateway:
        _compare(gateway, simulator, trouble, stream=stream)


def _compare(gateway: Gateway, simulator: Simulator, trouble: str, *, stream: bool) -> None:
    routes = ["@first", "@vote", "@mean", "@picked", "@nested", "@judged"]
    for route in routes[:2] if trouble == "slow" else routes:
        simulator.reset()
        before = _spent(gateway)
        with told(simulator, SAID | TROUBLES[trouble]):
            reply = _post(gateway, route, stream=stream, max_tokens=100)
            trace = gateway.trace(reply.request_id)
        until(lambda: simulator.totals()["total"]["open"] == 0, what="quiet at the provider")
        where = (route, trace["attempts"])
        charged = {
            name: round(spent - before.get(name, 0), 9)
            for name, spent in _spent(gateway).items()
        }
        cost = trace["cost"]
        total, mirrored = float(cost["total_usd"]), float(cost["shadow_usd"] or 0)
        assert charged["ample"] == pytest.approx(total + mirrored), where
        own = f"on-{route[1:]}"
        if own in charged:
            assert charged[own] == pytest.approx(total + mirrored), where
        by_attempt = [float(each["cost_usd"] or 0) for each in trace["attempts"]]
        assert sum(by_attempt) == pytest.approx(total + mirrored), where
        header = reply.header("x-modelux-cost-usd")
        if header is not None:
            assert float(header) == pytest.approx(total, abs=1e-6), where
        billed = simulator.totals()["total"]["billed_nusd"] / 1e9
        assert billed <= charged["ample"] + 1e-9, where
        if reply.status == 200 and stream:
            assert reply.events()[-1] == "[DONE]"


@both
def test_ensembles_in_an_ensemble_hold_for_their_own_members(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, SAID):
        answer = ask(client, "@nested", stream=stream, tags="t=ample", max_tokens=100)
    assert (answer.text, answer.attempts) == ("20 and more", 8)


def test_what_is_left_is_told_beside_the_holds_of_all(
    gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, SAID):
        reply = _post(gateway, "@vote", "told", max_tokens=100)
    assert float(reply.header("x-modelux-budget-remaining") or 0) == usd(700)
    (row,) = gateway.trace(reply.request_id)["budgets"]
    assert (float(row["held_usd"]), float(row["remaining_usd"])) == (usd(300), usd(700))


def test_a_mirror_is_no_part_of_what_the_trace_says_of_the_decision(
    gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, SAID):
        reply = _post(gateway, "@judged", max_tokens=100)
        trace = gateway.trace(reply.request_id)
    assert [role for _, role, _ in roles(trace)][-1] == "shadow"
    assert trace["decision"]["path"] == ["@judged (v1)"]
    assert "fourth" not in trace["decision"]["reason"]


# --- at the cap ----------------------------------------------------------------------------


@both
def test_members_that_are_all_needed_share_what_is_left(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"one": "text=a", "two": "text=a", "three": "text=a"}):
        reply = _post(gateway, "@vote", "shared", stream=stream)
    left = 145 - round(1000 * settled(gateway, "shared")["spent_usd"]) + 2
    assert reply.status == 200, reply.body
    assert sorted(asked(simulator)) == ["one", "two"]
    limits = [budgets.sent_limit(_body(each)) for each in simulator.requests()]
    assert limits == [left // 2, left // 2]
    assert reply.header("x-modelux-fit-max-tokens") == str(left // 2)


def _body(request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request["body"])
    return found


def test_a_refusal_names_the_limit_that_all_that_are_needed_could_have(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = _post(gateway, "@vote", "small", max_tokens=100)
    assert (reply.status, asked(simulator)) == (402, [])
    assert reply.error()["type"] == "request_exceeds_budget"
    assert reply.error()["max_affordable_output_tokens"] == 50
    assert reply.header("x-modelux-budget-name") == "small"
    assert gateway.trace(reply.request_id)["budgets"][0]["name"] == "small"


@pytest.mark.parametrize(
    ("route", "limit", "verdict", "fitted"),
    [
        ("@vote", 72, "ok", None),
        ("@vote", 73, "block", None),
        ("@vote", None, "fit", 72),
        ("@first", 145, "ok", None),
        ("@picked", 145, "block", None),
        ("@picked", 81, "ok", None),
    ],
)
def test_a_dry_run_says_of_an_ensemble_what_the_budget_would(
    gateway: Gateway, simulator: Simulator, route: str, limit: int | None, verdict: str,
    fitted: int | None,
) -> None:  # fmt: skip
    more: dict[str, Any] = {} if limit is None else {"max_tokens": limit}
    body = chat_body(route, **more)
    headers = tags("dry") | {"X-Modelux-Dry-Run": "true"}
    found = call(gateway.port, body, headers=headers).json()["modelux"]["budgets"]
    (said,) = [each for each in found if each["name"] == "dry"]
    assert (said["verdict"], said["fitted_max_tokens"]) == (verdict, fitted)
    assert asked(simulator) == []


def test_an_ensemble_is_not_downgraded_for_money_that_is_only_held(
    gateway: Gateway, simulator: Simulator
) -> None:
    with budgets.Holding(gateway, "held", 10):
        reply = _post(gateway, "@vote", "held", max_tokens=10)
    assert (reply.status, reply.error()["code"]) == (429, "budget_held")
    assert asked(simulator) == ["tok"]


def test_an_ensemble_is_downgraded_where_it_does_not_fit(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = _post(gateway, "@vote", "leaves", max_tokens=10)
    assert (reply.status, asked(simulator)) == (200, ["four"])
    assert reply.header("x-modelux-warnings") == "budget_downgrade"


def test_a_judge_that_does_not_fit_sends_nobody_elsewhere(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = _post(gateway, "@judged", "unjudged", max_tokens=12)
    assert (reply.status, reply.header("x-modelux-model-used")) == (200, "one")
    assert reply.header("x-modelux-warnings") == "cascade_budget"
    assert "four" not in asked(simulator)


# --- who serves ----------------------------------------------------------------------------


@both
def test_a_judge_picks_by_member_whoever_was_the_faster(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    said = {"one": "text=first;first_byte_ms=120", "two": "text=second", "three": "text=third"}
    with told(simulator, said | {"judge": 'text={"index":1}'}):
        assert ask(client, "@picked", stream=stream).text == "second"


@both
def test_a_judge_that_fails_is_followed_by_the_next_one_of_its_own_config(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    said = {"one": "text=mine", "two": "text=dear", "judge": 'text={"score":0.9}'}
    with told(simulator, said | {"down": "status=500"}):
        answer = ask(client, "@twice-judged", stream=stream)
    assert (answer.text, asked(simulator)) == ("mine", ["one", "down", "judge"])


def test_a_mirror_outlives_a_reload_without_it(simulator: Simulator, tmp_path: Path) -> None:
    with _served(simulator, tmp_path) as gateway, told(simulator, SAID | {"one": "tokens=3"}):
        simulator.tell("one", "first_byte_ms=800")
        with RawClient(gateway.port) as client:
            client.send(post(chat_body("@mirrored"), headers=tags("ample")))
            simulator.wait_request(lambda each: each["model"] == "one")
            text = gateway.config.read_text("utf-8")
            kept = [line for line in text.splitlines() if not line.startswith("shadow")]
            gateway.config.write_text("\n".join(kept), "utf-8")
            gateway.child.signal(signal.SIGHUP)
            reply = client.read_reply()
        trace = gateway.trace(reply.request_id)
    assert [role for _, role, _ in roles(trace)] == ["serve", "shadow"]


@both
def test_the_first_valid_answer_serves_however_many_may_be_asked(
    client: openai.OpenAI, simulator: Simulator, *, stream: bool
) -> None:
    slow = f"first_byte_ms={LONG_MS}"
    with told(simulator, {"one": slow, "two": "text=me", "three": slow}):
        assert ask(client, "@first-of-two", stream=stream).text == "me"


def test_members_whose_breakers_are_open_are_asked_where_the_others_are_too_few(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"open-1": "status=500", "open-2": "status=500"}):
        for _ in range(5):
            with pytest.raises(openai.APIStatusError):
                ask(client, "@open")
    simulator.reset()
    with told(simulator, {f"open-{n}": "text=aye" for n in (1, 2, 3)}):
        assert ask(client, "@open").text == "aye"
    assert len(asked(simulator)) == 3


# --- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "stream"), [(f"token_ms={LONG_MS};tokens=9", False), ("hang=mid@3", True)]
)
def test_members_that_are_all_too_slow_are_a_timeout(
    gateway: Gateway, simulator: Simulator, slow: str, *, stream: bool
) -> None:
    members = ("slow-1", "slow-2", "slow-3")
    with told(simulator, dict.fromkeys(members, slow) | {"four": "text=late"}):
        reply = _post(gateway, "@slow", stream=stream)
        assert (reply.status, reply.error()["code"]) == (504, "upstream_timeout")
        reply = _post(gateway, "@late", stream=stream)
        assert (reply.status, reply.text()) == (200, "late")
    outcomes = {outcome for model, _, outcome in roles(gateway.trace(reply.request_id))}
    assert outcomes == {"timeout", "ok"}


@both
def test_the_time_for_all_attempts_holds_for_an_ensemble_as_a_whole(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    slow = f"token_ms={LONG_MS};tokens=9"
    with told(simulator, {"hasty-1": slow, "hasty-2": slow}):
        reply = _post(gateway, "@hasty", stream=stream)
    assert (reply.status, reply.error()["code"]) == (504, "upstream_timeout")
    assert "four" not in asked(simulator), "no time is left for it"


@both
def test_the_time_for_all_steps_holds_for_their_judge(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with told(simulator, {"one": "text=mine", "slow-judge": "hang=head"}):
        reply = _post(gateway, "@hasty-judged", stream=stream)
    assert (reply.status, reply.text()) == (200, "mine")
    assert reply.header("x-modelux-warnings") == "cascade_unaccepted"
    assert asked(simulator) == ["one", "slow-judge"]
