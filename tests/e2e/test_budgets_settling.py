"""How a hold ends: usage, count, hold or proof, for every way in which an answer can end."""

from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.e2e.budgets import (
    CANCEL_TOKENS,
    DRAIN,
    GEN,
    TEXT,
    TOK,
    ask,
    attempts,
    budget,
    configuration,
    question,
    settled,
    shown,
    spent,
    tags,
    usd,
    was_cut,
)
from tests.e2e.harness import (
    Ending,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    free_port,
    post,
    provider_table,
    serve,
    until,
)

LIMIT: Final = 1000
WORD_BYTES_MAX: Final = 8
"""Where no vocabulary is known, bytes are counted: the stand-in's words have no more."""

OVERRUN: Final = "sim/tok?ignore_limit=1"
HASTY: Final = "@hasty"
"""Waits for a first byte for 150 ms only."""


def _priced(*models: str) -> str:
    return "".join(
        f'[prices."{each}"]\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 1000\n\n'
        for each in models
    )


ROUTES: Final = """
[routes.hasty]
strategy = "single"
model = { model = "sim/tok", timeout_ms = 150 }

[routes.hasty-gen]
strategy = "single"
model = { model = "gen/tok", timeout_ms = 150 }

[routes.chain]
strategy = "fallback"
attempts = ["sim/tok?fault=fin_before", "sim/tok?fault=fin_mid_body", "sim/tok?tokens=7"]

[routes.refusals]
strategy = "fallback"
attempts = ["sim/tok?status=500", "sim/tok?status=429", "sim/tok?tokens=7"]

[routes.nobody]
strategy = "fallback"
attempts = ["dead/tok", "sim/tok?tokens=7"]

[routes.twice]
strategy = "single"
model = "sim/tok?status=503"
max_retries_per_attempt = 2

"""

ALIASES: Final = (
    OVERRUN, "dead/tok",
    *(f"sim/tok?{each}" for each in (
        "fault=fin_before", "fault=fin_mid_body", "tokens=7", "status=500", "status=429",
        "status=503",
    )),
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    scope = '{ type = "tag", key = "t", value = "*" }'
    dead = provider_table("dead", f"http://127.0.0.1:{free_port()}/v1")
    config = configuration(
        shared_simulator,
        [budget("case", 10_000, scope=scope), budget("narrow", 1500)],
        routes=ROUTES,
        more=_priced(*ALIASES) + dead,
    )
    with serve(tmp_path_factory.mktemp("settling"), config) as running:
        yield running


def _ask(
    gateway: Gateway,
    case: str,
    model: str,
    simulate: str,
    *,
    limit: int | None = LIMIT,
    stream: bool = False,
) -> Reply:
    return ask(gateway, case, question(model, limit=limit, simulate=simulate, stream=stream))


def _billed_usd(simulator: Simulator) -> float:
    """Return what the provider billed, once it has ended everything."""

    def ended() -> Mapping[str, int] | None:
        total: Mapping[str, int] = simulator.totals()["total"]
        return total if total["open"] == 0 else None

    return until(ended, what="the end at the provider")["billed_nusd"] / 1_000_000_000


# --- usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", [TOK, GEN, DRAIN])
def test_usage_settles_a_hold_to_the_last_nano_usd(
    gateway: Gateway, simulator: Simulator, provider: str, *, stream: bool
) -> None:
    case = f"usage-{provider[:3]}-{stream}"
    reply = _ask(gateway, case, provider, "tokens=37", stream=stream)
    assert reply.status == 200
    assert spent(gateway, "case", case) == _billed_usd(simulator) == usd(37)
    (attempt,) = attempts(gateway, reply)
    assert attempt["settled_by"] == "usage"
    assert float(attempt["held_usd"]) == usd(LIMIT)


LIES: Final = ("missing", "null", "negative", "string", "float", "nan", "huge")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_usage_that_cannot_be_believed_is_as_good_as_none(
    gateway: Gateway, simulator: Simulator, lie: str, *, stream: bool
) -> None:
    by_hold, by_count = f"lie-{lie}-{stream}", f"counted-{lie}-{stream}"
    _ask(gateway, by_hold, TOK, f"tokens=37;usage={lie}", stream=stream)
    assert spent(gateway, "case", by_hold) == usd(LIMIT)
    simulator.reset()
    _ask(gateway, by_count, GEN, f"tokens=37;usage={lie}", stream=stream)
    counted = spent(gateway, "case", by_count)
    assert _billed_usd(simulator) == usd(37)
    # `NaN` is no JSON at all: what holds it is counted whole, as nobody can tell text in it.
    most = LIMIT if lie == "nan" else 37 * WORD_BYTES_MAX + CANCEL_TOKENS
    assert usd(37 + CANCEL_TOKENS) <= counted <= usd(most)


@pytest.mark.parametrize("stream", [False, True])
def test_a_usage_of_nothing_is_usage(gateway: Gateway, *, stream: bool) -> None:
    case = f"zero-{stream}"
    _ask(gateway, case, TOK, "tokens=37;usage=zero", stream=stream)
    assert spent(gateway, "case", case) == 0


@pytest.mark.parametrize("told", ["twice", "twice_lower", "with_choice", "running"])
def test_usage_told_more_than_once_never_lowers_what_was_charged(
    gateway: Gateway, told: str
) -> None:
    _ask(gateway, told, TOK, f"tokens=37;usage={told}", stream=True)
    assert spent(gateway, "case", told) == usd(37)


# --- answers that were not told whole ------------------------------------------------------

CUT: Final = (
    "fault=fin_mid_body", "fault=reset_mid_body", "fault=fin_before", "fault=reset_mid_head",
    "fault=garbage", "malformed=json", "malformed=empty", "malformed=html",
    "fault=bad_chunk_size",
)  # fmt: skip


@pytest.mark.parametrize("fault", CUT)
def test_an_answer_that_cannot_be_read_is_charged_by_its_hold(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    case = f"cut-{fault}"
    reply = _ask(gateway, case, TOK, f"tokens=100;bill=all;{fault}")
    assert reply.status == 502
    # A pooled connection that closed before any byte is followed by one try on a fresh one.
    tries = len(simulator.requests())
    charged = spent(gateway, "case", case)
    assert charged == usd(LIMIT * tries)
    assert charged >= _billed_usd(simulator)
    settled_by = {each["settled_by"] for each in attempts(gateway, reply)}
    assert settled_by == {"hold"}


STREAM_CUT: Final = ("sse_reset_mid", "sse_fin_mid", "sse_error_mid", "sse_cut_in_event")


@pytest.mark.parametrize("fault", STREAM_CUT)
def test_a_stream_that_breaks_is_charged_by_what_its_provider_bills(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    held, counted = f"held-{fault}", f"counted-{fault}"
    reply = _ask(gateway, held, TOK, f"tokens=100;bill=all;fault={fault};at=5", stream=True)
    assert fault == "sse_error_mid" or was_cut(reply)
    assert spent(gateway, "case", held) == usd(LIMIT)
    simulator.reset()
    _ask(gateway, counted, GEN, f"tokens=100;fault={fault};at=5", stream=True)
    charged = spent(gateway, "case", counted)
    assert _billed_usd(simulator) <= charged < usd(LIMIT)
    assert charged >= usd(5 + CANCEL_TOKENS)


@pytest.mark.parametrize(("route", "tokens"), [(HASTY, LIMIT), ("@hasty-gen", CANCEL_TOKENS)])
def test_a_timeout_is_charged(
    gateway: Gateway, simulator: Simulator, route: str, tokens: int
) -> None:
    case = f"timeout-{route}"
    reply = _ask(gateway, case, route, "tokens=100;hang=head")
    assert reply.status == 504
    assert spent(gateway, "case", case) == usd(tokens)
    assert _billed_usd(simulator) <= usd(tokens)


def test_the_input_is_charged_too_where_the_output_is_counted(
    gateway: Gateway, simulator: Simulator
) -> None:
    body = question("gen/text", limit=LIMIT, simulate="tokens=9;usage=missing")
    assert ask(gateway, "input", body).status == 200
    charged = spent(gateway, "case", "input")
    assert charged > _billed_usd(simulator) + usd(CANCEL_TOKENS)
    # One token for each byte of it, and for its message.
    assert charged <= usd(len(body) + 16 + 9 * WORD_BYTES_MAX + CANCEL_TOKENS)


# --- callers that vanish -------------------------------------------------------------------


def _vanish(gateway: Gateway, simulator: Simulator, case: str, model: str, chunks: int) -> None:
    """Ask for a stream, read so many of its words, and go away with a reset."""
    body = question(model, limit=LIMIT, simulate="tokens=60;token_ms=5", stream=True)
    with RawClient(gateway.port) as client:
        client.send(post(body, headers=tags(case)))
        simulator.wait_request(lambda _request: True)
        for word in (b" the", b" river", b" kept")[:chunks]:
            client.read_until(word)
        client.reset()


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
def test_a_caller_that_vanishes_costs_what_its_provider_bills(
    gateway: Gateway, simulator: Simulator, chunks: int
) -> None:
    for model in (TOK, GEN):
        case = f"gone-{model[:3]}-{chunks}"
        simulator.reset()
        _vanish(gateway, simulator, case, model, chunks)
        charged = spent(gateway, "case", case)
        assert charged >= _billed_usd(simulator)
        assert simulator.only()["disconnected"]
        if model == TOK:
            assert charged == usd(LIMIT)
        else:
            assert usd(chunks + CANCEL_TOKENS) <= charged < usd(LIMIT)


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
def test_a_drained_answer_is_read_to_its_end_and_charged_exactly(
    gateway: Gateway, simulator: Simulator, chunks: int
) -> None:
    case = f"drained-{chunks}"
    _vanish(gateway, simulator, case, DRAIN, chunks)
    assert spent(gateway, "case", case) == usd(60)
    assert _billed_usd(simulator) == usd(60)
    assert simulator.only()["state"] == "done"


def test_an_answer_is_drained_for_as_long_as_its_provider_may_take(
    gateway: Gateway, simulator: Simulator
) -> None:
    # Longer than a caller that leaves in order is waited for.
    body = question(DRAIN, limit=LIMIT, simulate="tokens=60;first_byte_ms=2600")
    with RawClient(gateway.port) as client:
        client.send(post(body, headers=tags("drained-late")))
        simulator.wait_request(lambda _request: True)
    assert spent(gateway, "case", "drained-late") == usd(60)


@pytest.mark.parametrize(("model", "tokens"), [(TOK, LIMIT), (GEN, CANCEL_TOKENS), (DRAIN, 60)])
def test_a_caller_of_a_whole_answer_that_vanishes_is_charged_too(
    gateway: Gateway, simulator: Simulator, model: str, tokens: int
) -> None:
    case = f"left-{model[:3]}"
    body = question(model, limit=LIMIT, simulate="tokens=60;first_byte_ms=300")
    with RawClient(gateway.port) as client:
        client.send(post(body, headers=tags(case)))
        simulator.wait_request(lambda _request: True)
        client.reset()
    assert spent(gateway, "case", case) == usd(tokens)
    assert _billed_usd(simulator) <= usd(tokens)


# --- proof that nothing is billed ----------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 422, 429, 500, 503, 529])
def test_a_refusal_by_the_provider_releases_the_hold(
    gateway: Gateway, simulator: Simulator, status: int
) -> None:
    case = f"status-{status}"
    reply = _ask(gateway, case, TOK, f"status={status}")
    assert reply.status >= 400
    assert settled(gateway, "case", case)["spent_usd"] == 0
    assert _billed_usd(simulator) == 0
    assert attempts(gateway, reply)[0]["settled_by"] == "released"


def test_a_provider_that_was_never_reached_is_not_charged(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "dead", question("dead/tok", limit=LIMIT))
    assert reply.status == 502
    assert settled(gateway, "case", "dead")["spent_usd"] == 0
    assert simulator.requests() == []


# --- several attempts ----------------------------------------------------------------------


def test_each_attempt_that_may_be_billed_is_charged(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "chain", question("@chain", limit=LIMIT, simulate=""))
    assert reply.status == 200
    tries = len(simulator.requests())
    assert spent(gateway, "case", "chain") == usd(LIMIT * (tries - 1) + 7)
    by = [each["settled_by"] for each in attempts(gateway, reply)]
    assert by == ["hold"] * (tries - 1) + ["usage"]
    assert float(reply.header("x-modelux-cost-usd") or "") == usd(LIMIT * (tries - 1) + 7)


def test_the_next_attempt_is_refused_where_the_one_before_used_the_money_up(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "narrow", question("@chain", limit=LIMIT, simulate=""))
    assert (reply.status, reply.error()["type"]) == (402, "budget_exceeded")
    assert reply.error()["budget"]["spend_usd"] == usd(LIMIT)
    assert len(simulator.requests()) == 1
    assert spent(gateway, "narrow") == usd(LIMIT)


@pytest.mark.parametrize("route", ["@refusals", "@nobody"])
def test_attempts_that_cost_nothing_leave_the_money_to_the_next(
    gateway: Gateway, route: str
) -> None:
    case = f"free-{route}"
    # More than half of the cap: two holds at a time would not fit.
    reply = ask(gateway, case, question(route, limit=9000, simulate=""))
    assert reply.status == 200
    assert spent(gateway, "case", case) == usd(7)
    assert [each["settled_by"] for each in attempts(gateway, reply)][-1] == "usage"


def test_a_retry_on_the_same_target_is_held_anew(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = ask(gateway, "again", question("@twice", limit=9000, simulate=""))
    assert reply.status == 503
    assert len(simulator.requests()) == 3
    assert settled(gateway, "case", "again")["spent_usd"] == 0


# --- overruns ------------------------------------------------------------------------------


def test_what_is_billed_beyond_the_hold_is_charged_and_the_bound_learns_from_it(
    gateway: Gateway, simulator: Simulator
) -> None:
    for number in range(3):
        reply = ask(gateway, "over", question(OVERRUN, limit=100, simulate="tokens=150"))
        assert reply.status == 200
        assert reply.header("x-modelux-budget-remaining") == shown(10_000 - 150 * number - 100)
    assert spent(gateway, "case", "over") == _billed_usd(simulator) == usd(450)
    (told,) = gateway.trace(reply.request_id)["budgets"]
    assert float(told["overrun_usd"]) == usd(50)
    assert float(told["charged_usd"]) == usd(150)

    def held_usd() -> float:
        again = ask(gateway, "over-again", question(OVERRUN, limit=100, simulate="tokens=1"))
        left = float(again.header("x-modelux-budget-remaining") or "")
        return round(usd(10_000) - left - spent(gateway, "case", "over-again") + usd(1), 9)

    until(lambda: held_usd() == usd(165), what="a bound that has learnt")
    done = gateway.run("providers", "--reset-bound", OVERRUN)
    assert done.returncode == 0, done.stderr
    until(lambda: held_usd() == usd(100), what="the bound as it was")


def test_an_overrun_may_pass_the_cap_and_then_nothing_more_does(gateway: Gateway) -> None:
    body = question(TOK, limit=9_999, simulate="tokens=10500;ignore_limit=1")
    assert ask(gateway, "past", body).status == 200
    state = settled(gateway, "case", "past")
    assert (state["spent_usd"], state["remaining_usd"]) == (usd(10_500), 0)
    refused = ask(gateway, "past", question(limit=1))
    assert (refused.status, refused.error()["budget"]["remaining_usd"]) == (402, 0)


def test_a_bill_for_the_input_beyond_its_bytes_is_charged_as_well(
    gateway: Gateway, simulator: Simulator
) -> None:
    body = question(TEXT, limit=10, simulate="tokens=1;input_tokens=3000")
    assert ask(gateway, "wide", body).status == 200
    assert spent(gateway, "case", "wide") == _billed_usd(simulator) == usd(3001)


def test_nothing_of_all_this_was_cut_short_for_callers_who_stayed(gateway: Gateway) -> None:
    reply = _ask(gateway, "whole", TOK, "tokens=12", stream=True)
    assert reply.ending is Ending.WHOLE
    assert reply.events()[-1] == "[DONE]"
