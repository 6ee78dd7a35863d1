"""Ways in which caps of other gateways are known not to hold, each tried on ours.

Every request costs exactly its bound, so what fits a cap is a number, not a range; four workers
decide at the same time on connections that spread over all of them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from modelux._native import row_key
from modelux.cli.budgets import budgets_of
from modelux.clock import unix_us
from modelux.config.file import load_config
from modelux.store.copy import LedgerCopy, Named
from modelux.store.row import LedgerRow
from modelux.units import US_PER_S
from tests.e2e.budgets import (
    DRAIN,
    GEN,
    TOK,
    TOKEN_NUSD,
    ask,
    at_once,
    budget,
    configuration,
    instant,
    question,
    row,
    rows,
    seconds_until,
    settled,
    spend,
    spent,
    tags,
    usd,
)
from tests.e2e.harness import (
    KEY,
    KEY_VARIABLE,
    PROVIDER_KEY_VARIABLE,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    post,
    serve,
    until,
)

EACH: Final = 200
FITTING: Final = 20
CAP: Final = EACH * FITTING
CROWD: Final = 240
WORKERS: Final = 4

STAR: Final = '{ type = "tag", key = "customer", value = "*" }'
INDIA: Final = timedelta(hours=5, minutes=30)
"""Ahead of UTC, all year."""

BUDGETS: Final = (
    budget("burst-unary", CAP),
    budget("burst-stream", CAP),
    budget("burst-late", CAP),
    budget("one-left", CAP),
    budget("workers", CAP),
    budget("over", CAP),
    budget("gone-sim", CAP),
    budget("gone-gen", CAP),
    budget("gone-drain", CAP),
    budget("silent", CAP),
    budget("refusals", CAP),
    budget("clocks", CAP, period="daily"),
    budget("india", CAP, period="daily", timezone="Asia/Kolkata"),
    budget("outer", 2 * CAP, scope='{ type = "tag", key = "t", value = "two" }'),
    budget("inner", CAP, scope='{ type = "tag", key = "t", value = "two" }'),
    budget("customers", CAP, scope=STAR, unset="skip"),
)


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = configuration(shared_simulator, BUDGETS)
    with serve(tmp_path_factory.mktemp("races"), config, workers=WORKERS) as running:
        yield running


def _request(name: str, *, stream: bool = False, simulate: str = "", model: str = TOK) -> bytes:
    settings = f"tokens={EACH};{simulate}"
    body = question(model, limit=EACH, simulate=settings, stream=stream)
    return post(body, headers=tags(name))


def _judge(simulator: Simulator, replies: list[Reply], fitting: int) -> None:
    """Check that exactly what fits was served, the rest refused, and nothing else billed."""
    statuses = Counter(reply.status for reply in replies)
    assert statuses[200] == fitting, statuses
    assert set(statuses) <= {200, 402, 429}, statuses
    for reply in replies:
        if reply.status != 200:
            assert reply.error()["type"] in {"budget_held", "budget_exceeded"}
    totals = simulator.totals()["total"]
    assert (totals["requests"], totals["billed_nusd"]) == (fitting, fitting * EACH * TOKEN_NUSD)


# --- bursts --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_of_a_burst_exactly_what_fits_is_served(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    name = "burst-stream" if stream else "burst-unary"
    replies = at_once(gateway, [_request(name, stream=stream)] * CROWD)
    _judge(simulator, replies, FITTING)
    assert spent(gateway, name) == usd(CAP)


def test_slow_answers_let_no_second_burst_in_behind_their_holds(
    gateway: Gateway, simulator: Simulator
) -> None:
    slow = _request("burst-late", simulate="first_byte_ms=400")
    _judge(simulator, at_once(gateway, [slow] * CROWD), FITTING)


def test_of_many_that_want_the_last_slot_one_gets_it(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "one-left", CAP - EACH)
    simulator.reset()
    _judge(simulator, at_once(gateway, [_request("one-left")] * CROWD), 1)


def test_the_first_requests_of_a_new_customer_meet_its_cap(
    gateway: Gateway, simulator: Simulator
) -> None:
    body = question(limit=EACH, simulate=f"tokens={EACH}")
    crowd = [
        post(body, headers={"X-Modelux-User-Tags": f"customer={name}"})
        for name in ("new", "newer", "newest")
        for _ in range(CROWD // 3)
    ]
    _judge(simulator, at_once(gateway, crowd), 3 * FITTING)
    found = {each["subject"]: each["spent_usd"] for each in rows(gateway, "customers")}
    assert found == dict.fromkeys(("new", "newer", "newest"), usd(CAP))


def test_a_cap_is_one_for_all_workers_and_not_one_for_each(
    gateway: Gateway, simulator: Simulator
) -> None:
    # One after another on fresh connections: each worker gets its share of them.
    replies = [at_once(gateway, [_request("workers")])[0] for _ in range(2 * FITTING)]
    _judge(simulator, replies, FITTING)
    assert [reply.status for reply in replies] == [200] * FITTING + [402] * FITTING


def test_several_budgets_take_a_request_all_or_none(
    gateway: Gateway, simulator: Simulator
) -> None:
    replies = at_once(gateway, [_request("two")] * CROWD)
    _judge(simulator, replies, FITTING)
    assert spent(gateway, "inner") == spent(gateway, "outer") == usd(CAP)


# --- over the cap --------------------------------------------------------------------------


def test_over_the_cap_nothing_is_served_in_any_form(
    gateway: Gateway, simulator: Simulator
) -> None:
    spend(gateway, "over", CAP)
    simulator.reset()
    crowd = [
        _request("over", stream=number % 2 == 0, model=(TOK, GEN, DRAIN)[number % 3])
        for number in range(24)
    ]
    assert {reply.status for reply in at_once(gateway, crowd)} == {402}
    assert simulator.requests() == []


def test_refused_requests_use_nothing_up(gateway: Gateway, simulator: Simulator) -> None:
    for _ in range(FITTING):
        assert ask(gateway, "refusals", question(limit=CAP + 1)).status == 402
    replies = at_once(gateway, [_request("refusals")] * FITTING)
    _judge(simulator, replies, FITTING)


# --- streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["sim", "gen", "drain"])
def test_streams_whose_callers_leave_use_the_cap_up(
    gateway: Gateway, simulator: Simulator, provider: str
) -> None:
    name, model = f"gone-{provider}", f"{provider}/tok"
    served = 0
    for number in range(4 * FITTING):
        with RawClient(gateway.port) as client:
            client.send(_request(name, stream=True, simulate="token_ms=2", model=model))
            head = client.read_until(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200"):
                served += 1
                for word in (b" the", b" river", b" kept")[: number % 4]:
                    client.read_until(word)
                client.reset()
            else:
                assert re.match(rb"HTTP/1.1 4(02|29) ", head), head
        if number % 8 == 7:
            settled(gateway, name)
        billed = simulator.totals()["total"]
        assert billed["billed_nusd"] <= CAP * TOKEN_NUSD
    state = settled(gateway, name)
    until(lambda: simulator.totals()["total"]["open"] == 0, what="the end of all streams")
    assert simulator.totals()["total"]["billed_nusd"] <= round(state["spent_usd"] * 1e9)
    # What is charged for one is at most its hold, so no fewer than fit were served.
    assert served >= FITTING
    assert state["spent_usd"] <= usd(CAP)


def test_streams_without_usage_trip_the_cap(gateway: Gateway, simulator: Simulator) -> None:
    served = 0
    for _ in range(2 * FITTING):
        request = _request("silent", stream=True, simulate="usage=missing")
        reply = at_once(gateway, [request])[0]
        served += reply.status == 200
        settled(gateway, "silent")
    assert served == FITTING
    assert simulator.totals()["total"]["billed_nusd"] == CAP * TOKEN_NUSD


# --- windows -------------------------------------------------------------------------------


def test_header_body_retry_after_and_command_tell_the_same_end(gateway: Gateway) -> None:
    spend(gateway, "clocks", CAP)
    before_s = None
    for _ in range(2):  # Once more where midnight falls between two looks.
        reply = ask(gateway, "clocks", question(limit=1))
        ends = {
            reply.header("x-modelux-budget-reset"),
            reply.error()["budget"]["period_resets_at"],
            row(gateway, "clocks")["window_end"],
        }
        before_s = seconds_until(instant(ends.pop() or ""))
        if not ends:
            break
    assert ends == set()
    assert before_s is not None
    assert before_s <= int(reply.header("retry-after") or "") <= before_s + 20


def test_a_day_begins_at_midnight_where_the_budget_lives(gateway: Gateway) -> None:
    reply = ask(gateway, "india", question(limit=1))
    resets = instant(reply.header("x-modelux-budget-reset") or "")
    local = resets.astimezone(UTC) + INDIA
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    now = datetime.fromtimestamp(unix_us() // US_PER_S, UTC)
    assert timedelta(0) < resets - now <= timedelta(days=1)


def test_a_cap_that_was_spent_in_the_last_window_is_whole_in_this_one(
    simulator: Simulator, tmp_path: Path
) -> None:
    text = configuration(simulator, [budget("daily", CAP, period="daily")])
    path = tmp_path / "declared.toml"
    path.write_text(text, "utf-8")
    environ = {KEY_VARIABLE: KEY, PROVIDER_KEY_VARIABLE: "sk-anything-long-enough"}
    config = load_config(path, environ, with_secrets=False)
    (declared,) = budgets_of(config)
    start_s, _ = declared.window(unix_us() // US_PER_S)
    (tmp_path / "data").mkdir(mode=0o700)
    copy = LedgerCopy(tmp_path / "data")
    past = LedgerRow(
        row_key(declared.id, None, start_s - 86_400),
        "",
        start_s - 86_400,
        start_s,
        spent_nusd=CAP * TOKEN_NUSD,
        requests=1,
    )
    named = {declared.id: Named(name="daily", cap_nusd=declared.cap_nusd)}
    copy.write([past], named, unix_us())
    copy.close()
    with serve(tmp_path, text) as gateway:
        reply = ask(gateway, "daily", question(limit=CAP, simulate="tokens=1"))
        assert reply.status == 200
        assert spent(gateway, "daily") == usd(1)
