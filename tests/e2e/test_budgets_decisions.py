"""What happens to a request under a cap: each row of the decision table, as callers see it."""

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol

import openai
import pytest

from modelux.clock import unix_us
from modelux.units import US_PER_S
from tests.e2e.budgets import (
    CHEAP,
    MYSTERY,
    TEXT,
    TOK,
    Holding,
    ask,
    budget,
    configuration,
    instant,
    month_end,
    question,
    row,
    sent_body,
    sent_limit,
    settled,
    shown,
    spend,
    spent,
    tags,
    usd,
)
from tests.e2e.harness import (
    KEY,
    Gateway,
    Reply,
    Simulator,
    call,
    chat_body,
    serve,
    until,
)

HELLO: Final[list[Any]] = [{"role": "user", "content": "hello"}]
FILE: Final[list[Any]] = [
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}
]
"""Its length is known to the provider alone."""

ROUTES: Final = """
[routes.roomy]
strategy = "single"
model = { model = "sim/tok", max_output_tokens = 300 }

[routes.patient]
strategy = "single"
model = "sim/tok"
fit_to_budget = "never"

[routes.eager]
strategy = "single"
model = "sim/tok"
fit_to_budget = "always"
min_output_tokens = 20

[routes.choosy]
strategy = "single"
model = "sim/tok"
min_output_tokens = 200

[routes.small]
strategy = "single"
model = { model = "sim/tok", default_output_tokens = 50 }

[routes.cheap]
strategy = "single"
model = "sim/cheap"

[routes.circle]
strategy = "fallback"
attempts = ["sim/tok", "sim/text"]

[prices."sim/tok?label=short"]
input_usd_per_mtok = 0
output_usd_per_mtok = 1000

[models."sim/tok?label=short"]
max_output_tokens = 100

[routes.promised]
strategy = "single"
model = { model = "sim/text", max_cost_usd = 0.25 }
"""

BUDGETS: Final = (
    budget("plain", 1000),
    budget("forever", 1000, period="total"),
    budget("spent", 1000),
    budget("spent-forever", 1000, period="total"),
    budget("too-big", 1000),
    budget("too-long", 1000),
    budget("two-answers", 1000),
    budget("fitted", 1000),
    budget("fitted-twice", 1000),
    budget("sized", 1000),
    budget("never-fitted", 1000),
    budget("always-fitted", 1000),
    budget("least", 1000),
    budget("held", 1000),
    budget("held-unlimited", 1000),
    budget("held-down", 1000, action="downgrade", downgrade_to=CHEAP),
    budget("down", 1000, action="downgrade", downgrade_to=CHEAP),
    budget("down-route", 1000, action="downgrade", downgrade_to="@cheap"),
    budget("down-big", 1000, action="downgrade", downgrade_to=CHEAP),
    budget("down-nowhere", 1, action="downgrade", downgrade_to=CHEAP),
    budget("down-spent", 1000, action="downgrade", downgrade_to=TOK),
    budget("down-circle", 1000, action="downgrade", downgrade_to="@circle"),
    budget("pair-block", 1000, scope='{ type = "tag", key = "t", value = "pair" }'),
    budget(
        "pair-down", 1000, scope='{ type = "tag", key = "t", value = "pair" }',
        action="downgrade", downgrade_to=CHEAP,
    ),
    budget("rows-held", 2000, scope='{ type = "tag", key = "t", value = "rows" }'),
    budget("rows-small", 500, scope='{ type = "tag", key = "t", value = "rows" }'),
    budget("loose", 1000, scope='{ type = "tag", key = "t", value = "tight" }'),
    budget("tight", 500, scope='{ type = "tag", key = "t", value = "tight" }'),
    budget("unpriced", 1000),
    budget("promised", 1000),
    budget("unseen", 100_000),
    budget("gratis", 0.001),
    budget("input", 10),
    budget("untouched", 1000),
    budget("beyond", 1000),
    budget("sdk-spent", 1000),
    budget("sdk-held", 1000),
    budget("sdk-back", 1000),
    budget("streamed", 1000),
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = configuration(shared_simulator, BUDGETS, routes=ROUTES)
    with serve(tmp_path_factory.mktemp("decisions"), config) as running:
        yield running


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=0) as client:
        yield client


def _refused(reply: Reply, status: int, kind: str, code: object) -> dict[str, Any]:
    """Check what all refusals of a budget have in common; return its part of the body."""
    error = reply.error()
    assert (reply.status, error["type"], error["code"]) == (status, kind, code), error
    assert error["message"]
    found: dict[str, Any] = error["budget"]
    assert set(found) == {
        "name", "spend_usd", "held_usd", "cap_usd", "remaining_usd", "period",
        "period_resets_at",
    }  # fmt: skip
    return found


# --- what fits -----------------------------------------------------------------------------


def test_a_request_that_fits_is_served_and_told_what_is_left_beside_its_hold(
    gateway: Gateway, simulator: Simulator
) -> None:
    before_us = unix_us()
    reply = ask(gateway, "plain", question(limit=100, simulate="tokens=40"))
    assert reply.status == 200
    assert reply.header("x-modelux-budget-name") == "plain"
    assert reply.header("x-modelux-budget-remaining") == shown(900)
    assert reply.header("x-modelux-budget-action") == "block"
    resets = instant(reply.header("x-modelux-budget-reset") or "")
    assert resets in {month_end(before_us), month_end(unix_us())}
    assert reply.header("x-modelux-fit-max-tokens") is None
    assert sent_limit(sent_body(simulator)) == 100
    assert spent(gateway, "plain") == usd(40)
    again = ask(gateway, "plain", question(limit=10))
    assert again.header("x-modelux-budget-remaining") == shown(1000 - 40 - 10)


def test_a_total_never_resets(gateway: Gateway) -> None:
    reply = ask(gateway, "forever", question(limit=100))
    assert reply.header("x-modelux-budget-remaining") == shown(900)
    assert reply.header("x-modelux-budget-reset") is None


def test_a_stream_is_told_the_same_before_its_first_byte(
    gateway: Gateway, simulator: Simulator
) -> None:
    body = question(limit=100, simulate="tokens=7", stream=True)
    reply = ask(gateway, "streamed", body)
    assert reply.header("x-modelux-budget-remaining") == shown(900)
    assert reply.events()[-1] == "[DONE]"
    assert all('"usage":{' not in each.replace(" ", "") for each in reply.events())
    assert spent(gateway, "streamed") == usd(7)
    assert simulator.totals()["total"]["billed_nusd"] == round(usd(7) * 1e9)


def test_a_request_without_a_budget_has_no_limit_added_and_no_headers_of_one(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, question())
    assert reply.status == 200
    assert not [name for name, _ in reply.headers if name.startswith("x-modelux-budget")]
    assert sent_limit(sent_body(simulator)) is None


def test_the_tightest_budget_is_told(gateway: Gateway) -> None:
    reply = ask(gateway, "tight", question(limit=100, simulate="tokens=100"))
    assert reply.header("x-modelux-budget-name") == "tight"
    assert reply.header("x-modelux-budget-remaining") == shown(400)
    assert (spent(gateway, "tight"), spent(gateway, "loose")) == (usd(100), usd(100))


# --- row 1: it could never fit -------------------------------------------------------------


def test_a_request_beyond_the_cap_is_told_the_limit_that_really_fits(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "too-big", question(limit=1001, simulate="tokens=1"))
    part = _refused(reply, 402, "request_exceeds_budget", 402)
    assert part["cap_usd"] == part["remaining_usd"] == 1.0
    assert reply.header("retry-after") is None
    assert simulator.requests() == []
    affordable = reply.error()["max_affordable_output_tokens"]
    assert affordable == 1000
    fits = ask(gateway, "too-big", question(limit=affordable, simulate="tokens=1"))
    assert fits.status == 200


def test_the_affordable_limit_counts_every_answer_that_is_asked_for(gateway: Gateway) -> None:
    reply = ask(gateway, "two-answers", question(limit=501, n=2))
    assert reply.error()["max_affordable_output_tokens"] == 500
    assert ask(gateway, "two-answers", question(limit=500, n=2)).status == 200


def test_no_limit_is_affordable_where_the_input_alone_does_not_fit(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "input", question(TEXT, limit=1))
    _refused(reply, 402, "request_exceeds_budget", 402)
    assert reply.error()["max_affordable_output_tokens"] == 0
    assert simulator.requests() == []


def test_the_affordable_limit_of_a_priced_input_is_the_largest_that_fits(
    gateway: Gateway,
) -> None:
    reply = ask(gateway, "too-long", question(TEXT, limit=5000))
    _refused(reply, 402, "request_exceeds_budget", 402)
    affordable = reply.error()["max_affordable_output_tokens"]
    assert 0 < affordable < 1000
    # The bound counts the bytes of the body: as many digits, as many bytes.
    over = ask(gateway, "too-long", question(TEXT, limit=10_000))
    assert over.error()["max_affordable_output_tokens"] == affordable - 1
    fits = ask(gateway, "too-long", question(TEXT, limit=affordable))
    assert fits.status == 200


# --- row 2: the cap is spent ---------------------------------------------------------------


def test_a_spent_cap_refuses_until_its_window_ends(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "spent", 950)
    asked = len(simulator.requests())
    before_us = unix_us()
    reply = ask(gateway, "spent", question(limit=51))
    after_us = unix_us()
    part = _refused(reply, 402, "budget_exceeded", 402)
    assert part | {"period_resets_at": None} == {
        "name": "spent", "spend_usd": usd(950), "held_usd": 0, "cap_usd": 1.0,
        "remaining_usd": usd(50), "period": "monthly", "period_resets_at": None,
    }  # fmt: skip
    resets = instant(part["period_resets_at"])
    assert resets in {month_end(before_us), month_end(after_us)}
    left_s = [math.ceil(resets.timestamp() - at / US_PER_S) for at in (after_us, before_us)]
    assert left_s[0] <= int(reply.header("retry-after") or "") <= left_s[1]
    assert reply.header("x-modelux-budget-name") == "spent"
    assert len(simulator.requests()) == asked
    assert ask(gateway, "spent", question(limit=50)).status == 200


def test_a_spent_total_has_no_time_to_come_back(gateway: Gateway) -> None:
    spend(gateway, "spent-forever", 1000)
    reply = ask(gateway, "spent-forever", question(limit=1))
    part = _refused(reply, 402, "budget_exceeded", 402)
    assert (part["period"], part["period_resets_at"]) == ("total", None)
    assert reply.header("retry-after") is None


def test_a_refusal_shows_its_request_and_is_recorded(gateway: Gateway) -> None:
    reply = ask(gateway, "untouched", question(limit=1001))
    trace = gateway.trace(reply.request_id)
    assert trace["status"] == 402
    assert trace["error"]["type"] == "request_exceeds_budget"
    assert settled(gateway, "untouched")["spent_usd"] == 0


# --- row 3: the limit is lowered -----------------------------------------------------------


def test_without_a_limit_of_the_callers_what_is_left_is_the_limit(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "fitted", question(simulate="tokens=400"))
    assert reply.status == 200
    assert reply.header("x-modelux-fit-max-tokens") == "1000"
    assert reply.header("x-modelux-budget-remaining") == shown(0)
    assert sent_limit(sent_body(simulator)) == 1000
    assert spent(gateway, "fitted") == usd(400)
    again = ask(gateway, "fitted", question(simulate="tokens=1"))
    assert again.header("x-modelux-fit-max-tokens") == "600"


def test_a_fitted_answer_is_cut_by_the_provider_at_what_was_left(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "fitted-twice", question(simulate="tokens=5000"))
    assert reply.json()["choices"][0]["finish_reason"] == "length"
    assert reply.json()["usage"]["completion_tokens"] == 1000
    assert spent(gateway, "fitted-twice") == usd(1000)
    assert simulator.totals()["total"]["billed_nusd"] == round(usd(1000) * 1e9)
    assert ask(gateway, "fitted-twice", question()).status == 402


@pytest.mark.parametrize(("model", "limit"), [("@roomy", 300), ("@small", 50)])
def test_the_least_of_the_limits_that_we_know_is_sent(
    gateway: Gateway, simulator: Simulator, model: str, limit: int
) -> None:
    reply = ask(gateway, "sized", question(model))
    assert reply.header("x-modelux-fit-max-tokens") == str(limit)
    assert sent_limit(sent_body(simulator)) == limit


def test_a_limit_of_the_callers_is_never_lowered_unless_the_route_says_so(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "always-fitted", 900)
    simulator.reset()
    assert ask(gateway, "always-fitted", question(limit=101)).status == 402
    reply = ask(gateway, "always-fitted", question("@eager", limit=101, simulate="tokens=1"))
    assert reply.status == 200
    assert reply.header("x-modelux-fit-max-tokens") == "100"
    assert sent_limit(sent_body(simulator)) == 100


def test_a_limit_above_the_models_most_holds_the_most_and_is_sent_as_it_was(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "beyond", question("sim/tok?label=short", limit=5000))
    assert reply.header("x-modelux-budget-remaining") == shown(900)
    assert reply.header("x-modelux-fit-max-tokens") is None
    assert sent_limit(sent_body(simulator)) == 5000


def test_a_route_may_forbid_fitting(gateway: Gateway, simulator: Simulator) -> None:
    reply = ask(gateway, "never-fitted", question("@patient"))
    _refused(reply, 402, "request_exceeds_budget", 402)
    assert reply.error()["max_affordable_output_tokens"] == 1000
    assert simulator.requests() == []


def test_no_answer_is_fitted_below_the_least_that_is_useful(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "least", 801)
    simulator.reset()
    reply = ask(gateway, "least", question("@choosy"))
    _refused(reply, 402, "budget_exceeded", 402)
    assert simulator.requests() == []
    assert ask(gateway, "least", question(TOK)).header("x-modelux-fit-max-tokens") == "199"


# --- row 4: the money is there, but held ---------------------------------------------------


def test_money_that_is_only_held_is_worth_another_try_in_a_second(
    gateway: Gateway, simulator: Simulator
) -> None:
    with Holding(gateway, "held", 900):
        reply = ask(gateway, "held", question(limit=101))
        part = _refused(reply, 429, "budget_held", "budget_held")
        assert (part["held_usd"], part["spend_usd"]) == (usd(900), 0)
        assert part["remaining_usd"] == usd(100)
        assert reply.header("retry-after") == "1"
        assert reply.header("x-should-retry") == "true"
        assert len(simulator.requests()) == 1
        assert ask(gateway, "held", question(limit=100)).status == 200
    settled(gateway, "held")
    assert ask(gateway, "held", question(limit=101)).status == 200


def test_held_money_is_never_a_reason_to_lower_a_limit(gateway: Gateway) -> None:
    with Holding(gateway, "held-unlimited", 900):
        reply = ask(gateway, "held-unlimited", question())
        _refused(reply, 429, "budget_held", "budget_held")


def test_held_money_is_never_a_reason_to_downgrade(
    gateway: Gateway, simulator: Simulator
) -> None:
    with Holding(gateway, "held-down", 900):
        reply = ask(gateway, "held-down", question(limit=101))
        _refused(reply, 429, "budget_held", "budget_held")
        assert simulator.requests(model="cheap") == []


# --- downgrades ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["down", "down-route"])
def test_at_the_cap_a_cheaper_target_serves(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    spend(gateway, name, 950)
    reply = ask(gateway, name, question(limit=100, simulate="tokens=100"))
    assert reply.status == 200
    assert reply.header("x-modelux-model-used") == "cheap"
    assert reply.header("x-modelux-budget-action") == "downgrade"
    assert reply.header("x-modelux-budget-remaining") == shown(49)
    decision = gateway.trace(reply.request_id)["decision"]
    assert "tok" in str(decision["downgraded_from"])
    assert spent(gateway, name) == usd(951)
    assert len(simulator.requests(model="cheap")) == 1


def test_what_could_never_fit_is_downgraded_too(gateway: Gateway) -> None:
    reply = ask(gateway, "down-big", question(limit=2000, simulate="tokens=5"))
    assert reply.status == 200
    assert reply.header("x-modelux-model-used") == "cheap"


def test_where_the_cheaper_target_can_never_fit_either_the_request_is_refused(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "down-nowhere", question(limit=101))
    _refused(reply, 402, "request_exceeds_budget", 402)
    assert reply.error()["max_affordable_output_tokens"] == 100
    assert simulator.requests() == []


@pytest.mark.parametrize("name", ["down-spent", "down-circle"])
def test_a_downgrade_happens_once_and_a_second_refusal_blocks(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    spend(gateway, name, 990)
    asked = len(simulator.requests())
    reply = ask(gateway, name, question(limit=11))
    _refused(reply, 402, "budget_exceeded", 402)
    assert len(simulator.requests()) == asked


# --- several budgets -----------------------------------------------------------------------


def test_a_block_comes_before_a_downgrade(gateway: Gateway, simulator: Simulator) -> None:
    spend(gateway, "pair", 950)
    reply = ask(gateway, "pair", question(limit=100))
    assert _refused(reply, 402, "budget_exceeded", 402)["name"] == "pair-block"
    assert simulator.requests(model="cheap") == []


def test_the_first_row_that_is_true_for_any_budget_decides(gateway: Gateway) -> None:
    spend(gateway, "rows", 200)
    with Holding(gateway, "rows", 250):
        # Held money of one would say 429; the other can never take it.
        exceeds = ask(gateway, "rows", question(limit=501))
        assert _refused(exceeds, 402, "request_exceeds_budget", 402)["name"] == "rows-small"
        spent_up = ask(gateway, "rows", question(limit=301))
        assert _refused(spent_up, 402, "budget_exceeded", 402)["name"] == "rows-small"
        held = ask(gateway, "rows", question(limit=51))
        assert _refused(held, 429, "budget_held", "budget_held")["name"] == "rows-small"
    left = row(gateway, "rows-held")
    assert left["spent_usd"] >= usd(200)


# --- what has no bound ---------------------------------------------------------------------


def test_a_model_without_a_price_is_refused_under_a_cap_and_served_without_one(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "unpriced", question(MYSTERY, limit=1))
    error = reply.error()
    assert (reply.status, error["type"]) == (400, "invalid_request_error")
    assert error["code"] == "model_not_priced"
    assert reply.header("x-should-retry") == "false"
    assert simulator.requests() == []
    free = call(gateway.port, question(MYSTERY, limit=1))
    assert free.status == 200
    assert free.header("x-modelux-cost-usd") is None


def test_a_promised_cost_is_held_where_nothing_else_bounds_a_request(
    gateway: Gateway,
) -> None:
    reply = ask(gateway, "promised", chat_body("@promised", messages=FILE, max_tokens=5))
    assert reply.status == 200
    assert reply.header("x-modelux-budget-remaining") == shown(750)


def test_content_that_we_cannot_see_needs_a_bound(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "unseen", chat_body(TEXT, messages=FILE, max_tokens=5))
    assert (reply.status, reply.error()["code"]) == (400, "cost_unbounded")
    assert simulator.requests() == []


def test_a_price_of_nothing_holds_nothing(gateway: Gateway) -> None:
    reply = ask(gateway, "gratis", question("sim/free", limit=100_000, simulate="tokens=9"))
    assert reply.status == 200
    assert spent(gateway, "gratis") == 0


# --- the SDK -------------------------------------------------------------------------------


def test_the_sdk_raises_a_status_error_at_a_spent_cap_and_does_not_try_again(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "sdk-spent", 1000)
    asked = len(simulator.requests())
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=KEY, max_retries=2) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(
            model=TOK, messages=HELLO, max_tokens=1, extra_headers=tags("sdk-spent")
        )
    assert caught.value.status_code == 402
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["budget"]["name"] == "sdk-spent"
    assert caught.value.body["type"] == "budget_exceeded"
    assert len(simulator.requests()) == asked

    def statuses() -> list[int]:
        found = [each for each in gateway.traces() if each["tags"] == {"t": "sdk-spent"}]
        return [each["status"] for each in found]

    until(lambda: 402 in statuses(), what="the trace of the refusal")
    assert statuses() == [200, 402]


def test_the_sdk_raises_a_rate_limit_error_for_held_money(
    gateway: Gateway, sdk: openai.OpenAI
) -> None:
    with Holding(gateway, "sdk-held", 900), pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(
            model=TOK, messages=HELLO, max_tokens=101, extra_headers=tags("sdk-held")
        )
    assert caught.value.code == "budget_held"


class _Answer(Protocol):
    """An answer as the hooks of an SDK see it."""

    status_code: int


def test_the_sdk_comes_back_by_itself_and_is_served_once_the_hold_has_gone(
    gateway: Gateway,
) -> None:
    statuses: list[int] = []
    with Holding(gateway, "sdk-back", 700) as holding:

        def seen(response: _Answer) -> None:
            statuses.append(response.status_code)
            holding.release()

        with (
            openai.DefaultHttpxClient(event_hooks={"response": [seen]}) as http,
            openai.OpenAI(
                base_url=gateway.base_url, api_key=KEY, max_retries=2, http_client=http
            ) as client,
        ):
            answer = client.chat.completions.create(
                model=TOK,
                messages=HELLO,
                max_tokens=400,
                extra_headers=tags("sdk-back"),
                metadata={"simulate": "tokens=1"},
            )
    assert answer.choices
    assert statuses == [429, 200]


def test_an_unpriced_model_is_a_bad_request_to_the_sdk(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(
            model=MYSTERY, messages=HELLO, max_tokens=1, extra_headers=tags("unpriced")
        )
    assert caught.value.code == "model_not_priced"
