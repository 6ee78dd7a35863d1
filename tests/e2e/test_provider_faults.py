"""Every way in which a provider fails: what the caller gets, and what is traced.

Goal: a failure before the first content byte goes on to the next target, or is one clear
error; a failure after it is visible; nothing of one caller's answer ever reaches another.
Method: each fault is asked for by the model's name, once as the only target and once in front
of a healthy one; the provider's ledger says what really happened there.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from modelux.simulator.faults import POISON
from tests.e2e.harness import (
    KEY,
    PROJECT,
    PROVIDER_KEY,
    Ending,
    Gateway,
    Json,
    RawClient,
    Reply,
    Simulator,
    call,
    chat_body,
    free_port,
    post,
    provider_table,
    serve,
)

TIMEOUT_MS: Final = 600
TEXT: Final = " the river kept its own time"
"""What six tokens say."""
MIB: Final = 1 << 20
RESIDENT_BYTES_MAX: Final = 256 * MIB
"""Of one process, whatever a provider sends; an idle worker takes about 60 MB."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a fault leads to where no other target can serve."""

    outcomes: tuple[str, ...]
    status: int
    code: str


RESET: Final = Expected(("reset",), 502, "all_attempts_failed")
MALFORMED: Final = Expected(("malformed",), 502, "upstream_malformed")
TIMEOUT: Final = Expected(("timeout",), 504, "upstream_timeout")

BEFORE_CONTENT: Final[dict[str, Expected]] = {
    "reset_before": RESET,
    "fin_before": RESET,
    "reset_mid_head": RESET,
    "fin_mid_head": RESET,
    "garbage": MALFORMED,
    "garbage_hold": MALFORMED,  # Garbage is known for what it is at its first byte.
    "bad_status_line": MALFORMED,
    "header_nul": MALFORMED,
    "header_ctl": MALFORMED,
    "header_ctl_cr": MALFORMED,
    "cl_negative": MALFORMED,
    "cl_twice_differ": MALFORMED,
    "te_and_cl": MALFORMED,
    "upgrade_101": MALFORMED,
    "endless_100": MALFORMED,
    "huge_header": MALFORMED,
    "many_headers": MALFORMED,
    "endless_headers": MALFORMED,
    "stall_headers": TIMEOUT,
    "stall_mid_head": TIMEOUT,
    "stall_body": TIMEOUT,
}
"""Faults that strike before any content, whole or streamed."""

WHOLE_BODY: Final[dict[str, Expected]] = {
    "fin_mid_body": RESET,
    "reset_mid_body": RESET,
    "stall_mid_body": TIMEOUT,
    "cl_too_long": RESET,
    "bad_chunk_size": MALFORMED,
    "chunk_size_overflow": MALFORMED,
}
"""Faults in the body of an answer that is held until it is complete."""

ERROR_STATUSES: Final[dict[int, tuple[int, str, bool]]] = {
    500: (502, "all_attempts_failed", True),
    502: (502, "all_attempts_failed", True),
    503: (503, "overloaded", True),
    529: (503, "overloaded", True),
    401: (502, "provider_credential_rejected", True),
    402: (502, "provider_credential_rejected", True),
    403: (502, "provider_credential_rejected", True),
}
"""Provider's status → ours, `error.code`, and whether the next target is tried."""

PASSED_ON: Final[dict[int, bool]] = {
    400: False,
    404: False,
    409: False,
    413: False,
    422: False,
    429: True,
}
"""Statuses a caller sees as they are, and whether the next target is tried before."""

AFTER_CONTENT: Final = ("sse_reset_mid", "sse_fin_mid", "sse_stall_mid")
KEPT_OR_CLOSED: Final = (
    "conn_close",
    "http10_close",
    "eof_delimited",
    "close_after_ok",
    "half_close",
)


def slug(name: str) -> str:
    """Return the slug of the route that tries `name` first and a healthy target next."""
    return "then-healthy-" + name.replace("_", "-")


def _route(name: str, settings: str, provider: str = "sim") -> str:
    alone = provider if provider == "sim" else f"{provider}only"
    return (
        f'[routes.{slug(name)}]\nstrategy = "fallback"\n'
        f"idle_timeout_ms = {TIMEOUT_MS}\nattempts = [\n"
        f'  {{ model = "{provider}/m?{settings};tokens=6", timeout_ms = {TIMEOUT_MS} }},\n'
        f'  "healthy/m?tokens=6",\n]\n\n'
        f'[routes.only-{name.replace("_", "-")}]\nstrategy = "single"\n'
        f"idle_timeout_ms = {TIMEOUT_MS}\ntimeout_ms = {TIMEOUT_MS}\n"
        # Another model than the one above: its breaker is its own.
        f'model = "{alone}/m?tokens=6;{settings}"\n\n'
    )


def _provider_of(status: int) -> str:
    """Who answers so: a refused key is passed over for a minute, whatever it is asked for."""
    return f"sim{status}" if status in (401, 402, 403) else "sim"


def _config(simulator: Simulator) -> str:
    faults = (*BEFORE_CONTENT, *WHOLE_BODY, *AFTER_CONTENT, "sse_cut_in_event", "sse_cut_utf8")
    routes = [_route(fault, f"fault={fault}") for fault in faults]
    routes += [_route(f"{fault}_at_0", f"fault={fault};at=0") for fault in AFTER_CONTENT]
    statuses = (*ERROR_STATUSES, *PASSED_ON)
    routes += [
        _route(f"status_{status}", f"status={status}", _provider_of(status))
        for status in statuses
    ]
    return (
        PROJECT
        + provider_table("sim", simulator.base_url())
        + "".join(
            provider_table(_provider_of(status) + suffix, simulator.base_url())
            for status in (401, 402, 403)
            for suffix in ("", "only")
        )
        + provider_table("healthy", simulator.base_url("label=healthy"))
        + provider_table("early413", simulator.base_url("fault=early_413;label=early"))
        + provider_table("early200", simulator.base_url("fault=early_200;label=early"))
        + provider_table("absent", f"http://127.0.0.1:{free_port()}/v1")
        + '[routes.then-healthy-absent]\nstrategy = "fallback"\n'
        + 'attempts = ["absent/m", "healthy/m?tokens=6"]\n\n'
        + "".join(routes)
    )


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with serve(tmp_path_factory.mktemp("faults"), _config(shared_simulator)) as running:
        yield running


@pytest.fixture(autouse=True)
def _others_are_served_well(gateway: Gateway, simulator: Simulator) -> Iterator[None]:
    """After each fault the next caller gets an answer of its own, byte for byte."""
    yield
    for _ in range(3):
        reply = call(gateway.port, chat_body("healthy/m?tokens=6"))
        assert (reply.status, reply.text(), reply.ending) == (200, TEXT, Ending.WHOLE)
    assert simulator.child.alive()
    assert "Traceback" not in gateway.child.said()


def _first_attempt(trace: Json) -> Json:
    attempt: Json = trace["attempts"][0]
    return attempt


# --- before the first content byte ---------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE_CONTENT)
def test_the_next_target_serves_after_a_fault_before_content(
    gateway: Gateway, simulator: Simulator, fault: str, *, stream: bool
) -> None:
    reply = call(gateway.port, chat_body(f"@{slug(fault)}", stream=stream))
    assert (reply.status, reply.text(), reply.ending) == (200, TEXT, Ending.WHOLE)
    assert reply.header("x-modelux-provider-used") == "healthy"
    seen = simulator.requests()
    assert seen[-1]["fault"] is None
    _expect_tries_on_one_target(seen[:-1], fault)
    assert reply.header("x-modelux-attempts") == str(len(seen))
    trace = gateway.trace(reply.request_id)
    assert _first_attempt(trace)["outcome"] in BEFORE_CONTENT[fault].outcomes
    assert trace["attempts"][-1]["outcome"] == "ok"
    assert len(trace["attempts"]) == len(seen)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE_CONTENT)
def test_a_fault_before_content_is_one_clear_error_where_nobody_else_can_serve(
    gateway: Gateway, simulator: Simulator, fault: str, *, stream: bool
) -> None:
    model = f"@only-{fault.replace('_', '-')}"
    _expect_error(gateway, simulator, chat_body(model, stream=stream), BEFORE_CONTENT[fault])


def _expect_tries_on_one_target(seen: list[Json], fault: str | None = None) -> None:
    """One try once a byte was written; but a pooled connection may have closed under way."""
    assert {each["fault"] for each in seen} == {fault} or fault is None
    if len(seen) > 1:
        pooled, fresh = seen
        assert pooled["fault"] in {"reset_before", "fin_before"}
        assert pooled["on_connection"] > 0
        assert fresh["on_connection"] == 0


def _expect_error(
    gateway: Gateway, simulator: Simulator, body: bytes, expected: Expected
) -> None:
    reply = call(gateway.port, body)
    assert (reply.status, reply.error()["code"]) == (expected.status, expected.code)
    assert reply.error()["type"] == "upstream_error"
    assert reply.header("x-should-retry") == "false"
    assert reply.ending is Ending.WHOLE
    _expect_tries_on_one_target(simulator.requests())
    trace = gateway.trace(reply.request_id)
    assert (trace["status"], trace["error"]["code"]) == (expected.status, expected.code)
    assert _first_attempt(trace)["outcome"] in expected.outcomes
    assert _first_attempt(trace)["reason"]


@pytest.mark.parametrize("fault", WHOLE_BODY)
def test_a_whole_answer_that_is_cut_fails_over_unseen(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    reply = call(gateway.port, chat_body(f"@{slug(fault)}"))
    assert (reply.status, reply.text()) == (200, TEXT)
    assert [each["fault"] for each in simulator.requests()] == [fault, None]
    outcome = _first_attempt(gateway.trace(reply.request_id))["outcome"]
    assert outcome in WHOLE_BODY[fault].outcomes


@pytest.mark.parametrize("fault", WHOLE_BODY)
def test_a_whole_answer_that_is_cut_is_one_clear_error_where_nobody_else_can_serve(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    model = f"@only-{fault.replace('_', '-')}"
    _expect_error(gateway, simulator, chat_body(model), WHOLE_BODY[fault])


@pytest.mark.parametrize("fault", ["fin_mid_body", "reset_mid_body"])
def test_a_large_answer_that_is_cut_is_cut_visibly(gateway: Gateway, fault: str) -> None:
    reply = call(gateway.port, chat_body(f"sim/m?fault={fault};tokens=500000"))
    assert reply.status == 200
    assert len(reply.body) > MIB
    assert reply.ending in {Ending.FIN, Ending.RESET}
    trace = gateway.trace(reply.request_id)
    assert _first_attempt(trace)["outcome"] == "interrupted"


@pytest.mark.parametrize("fault", AFTER_CONTENT)
def test_a_stream_cut_before_its_first_content_fails_over_unseen(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    reply = call(gateway.port, chat_body(f"@{slug(fault + '_at_0')}", stream=True))
    assert (reply.text(), reply.events()[-1]) == (TEXT, "[DONE]")
    roles = [each for each in reply.events() if '"role"' in each]
    assert len(roles) == 1
    assert len(simulator.requests()) == 2


def test_a_provider_that_is_not_there_is_passed_over(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("@then-healthy-absent"))
    assert (reply.status, reply.text()) == (200, TEXT)
    # Nothing was written to it, so it is no attempt in the header's sense.
    assert reply.header("x-modelux-attempts") == "1"
    assert len(simulator.requests()) == 1
    first = _first_attempt(gateway.trace(reply.request_id))
    assert first["outcome"] == "connect_error"
    alone = call(gateway.port, chat_body("absent/m"))
    assert (alone.status, alone.error()["code"]) == (502, "all_attempts_failed")


# --- after it ------------------------------------------------------------------------------


def _expect_cut(gateway: Gateway, reply: Reply, outcomes: set[str]) -> None:
    assert reply.status == 200
    assert reply.ending in {Ending.FIN, Ending.RESET}
    assert "[DONE]" not in reply.events()
    assert not [each for each in reply.events() if '"finish_reason":"stop"' in each]
    trace = gateway.trace(reply.request_id)
    assert _first_attempt(trace)["outcome"] in outcomes
    assert len(trace["attempts"]) == 1


@pytest.mark.parametrize("place", ["then-healthy", "only"])
@pytest.mark.parametrize("fault", AFTER_CONTENT)
def test_a_stream_cut_between_events_ends_with_one_error_event(
    gateway: Gateway, simulator: Simulator, fault: str, place: str
) -> None:
    model = f"@{place}-{fault.replace('_', '-')}"
    reply = call(gateway.port, chat_body(model, stream=True))
    *words, last = reply.events()
    texts = [json.loads(each)["choices"][0]["delta"]["content"] for each in words]
    assert "".join(texts) == " the river kept"
    assert set(json.loads(last)) == {"error"}
    assert json.loads(last)["error"]["type"] == "upstream_error"
    assert len(simulator.requests()) == 1, "no retry once content reached the caller"
    _expect_cut(gateway, reply, {"interrupted", "timeout"})


@pytest.mark.parametrize("place", ["then-healthy", "only"])
@pytest.mark.parametrize("fault", ["sse_cut_in_event", "sse_cut_utf8"])
def test_a_stream_cut_inside_an_event_is_only_cut(
    gateway: Gateway, simulator: Simulator, fault: str, place: str
) -> None:
    model = f"@{place}-{fault.replace('_', '-')}"
    reply = call(gateway.port, chat_body(model, stream=True))
    assert b'"error"' not in reply.body
    assert not reply.body.endswith(b"\n\n")
    # Directly as the gateway asks: with usage, which is a member of every event.
    asked = {"stream_options": {"include_usage": True}}
    direct = call(simulator.port, chat_body(f"m?fault={fault};tokens=6", stream=True, **asked))
    # What came is passed on to the last byte: both hold the same half event.
    assert reply.body.rpartition(b"\n\n")[2][60:] == direct.body.rpartition(b"\n\n")[2][60:]
    _expect_cut(gateway, reply, {"interrupted"})


@pytest.mark.parametrize("fault", ["bad_chunk_size", "chunk_size_overflow"])
def test_a_stream_whose_chunks_break_is_cut(gateway: Gateway, fault: str) -> None:
    reply = call(gateway.port, chat_body(f"sim/m?fault={fault};tokens=6", stream=True))
    _expect_cut(gateway, reply, {"interrupted", "malformed"})


def test_the_providers_own_error_event_passes_on_and_no_second_follows(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=sse_error_mid;tokens=6", stream=True))
    errors = [each for each in reply.events() if '"error"' in each]
    assert len(errors) == 1
    assert "The server had an error" in errors[0]
    assert "[DONE]" not in reply.events()
    assert len(simulator.requests()) == 1
    trace = gateway.trace(reply.request_id)
    assert _first_attempt(trace)["outcome"] == "interrupted"


def test_a_stream_without_its_done_is_passed_on_as_it_is(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=sse_no_done;tokens=6", stream=True))
    assert reply.text() == TEXT
    assert "[DONE]" not in reply.events()


# --- statuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ERROR_STATUSES)
def test_an_error_status_becomes_ours(
    gateway: Gateway, simulator: Simulator, status: int
) -> None:
    ours, code, _ = ERROR_STATUSES[status]
    reply = call(gateway.port, chat_body(f"@only-status-{status}"))
    assert (reply.status, reply.error()["code"]) == (ours, code)
    assert reply.error()["upstream_status"] == status
    assert simulator.only()["status"] == status
    assert PROVIDER_KEY not in reply.body.decode()
    trace = gateway.trace(reply.request_id)
    assert PROVIDER_KEY not in json.dumps(trace)
    assert KEY not in json.dumps(trace)
    assert PROVIDER_KEY not in gateway.child.said()
    first = _first_attempt(trace)
    assert (first["outcome"], first["status"]) == ("http_error", status)
    if ours == 503:
        assert reply.header("x-should-retry") == "true"
        assert reply.header("retry-after") is not None


@pytest.mark.parametrize("status", PASSED_ON)
def test_a_status_about_the_request_is_passed_on(
    gateway: Gateway, simulator: Simulator, status: int
) -> None:
    model = f"sim/m?status={status};message=so it is;retry_after=7"
    reply = call(gateway.port, chat_body(model))
    assert reply.status == status
    assert reply.error()["message"] == "so it is"
    assert simulator.only()["status"] == status
    assert gateway.trace(reply.request_id)["status"] == status
    if status == 429:
        assert reply.header("retry-after") == "7"


@pytest.mark.parametrize("status", [*ERROR_STATUSES, *PASSED_ON])
def test_the_next_target_is_tried_for_what_it_could_do_better(
    gateway: Gateway, simulator: Simulator, status: int
) -> None:
    retried = ERROR_STATUSES[status][2] if status in ERROR_STATUSES else PASSED_ON[status]
    reply = call(gateway.port, chat_body(f"@{slug(f'status_{status}')}"))
    assert reply.status == (200 if retried else status)
    assert len(simulator.requests()) == (2 if retried else 1)


@pytest.mark.parametrize("fault", ["redirect", "redirect_307"])
def test_a_redirect_is_passed_on_and_never_followed(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    reply = call(gateway.port, chat_body(f"sim/m?fault={fault}"))
    assert reply.status in {302, 307}
    assert (reply.header("location") or "").endswith("/_canary")
    assert simulator.requests(label="canary") == []


# --- how answers and connections end -------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["extra_response", "extra_bytes"])
def test_bytes_behind_an_answer_reach_nobody(
    gateway: Gateway, simulator: Simulator, fault: str, *, stream: bool
) -> None:
    with RawClient(gateway.port) as client:
        for _ in range(3):
            client.send(post(chat_body(f"sim/m?fault={fault};tokens=6;label=x", stream=stream)))
            reply = client.read_reply()
            assert (reply.status, reply.text(), reply.rest) == (200, TEXT, b"")
            assert POISON not in reply.body
            client.send(post(chat_body("healthy/m?tokens=6")))
            assert client.read_reply().text() == TEXT
    spoiled = simulator.requests(label="x")
    assert len({each["connection"] for each in spoiled}) == 3, "a spoiled connection is dropped"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", KEPT_OR_CLOSED)
def test_every_way_to_end_a_whole_answer_is_a_success(
    gateway: Gateway, fault: str, *, stream: bool
) -> None:
    for _ in range(4):
        reply = call(gateway.port, chat_body(f"sim/m?fault={fault};tokens=6", stream=stream))
        assert (reply.status, reply.text(), reply.ending) == (200, TEXT, Ending.WHOLE)


@pytest.mark.parametrize("fault", ["stale_reset", "stale_fin"])
def test_a_pooled_connection_that_closed_is_tried_once_on_a_fresh_one(
    gateway: Gateway, simulator: Simulator, fault: str
) -> None:
    call(gateway.port, chat_body("sim/m"))  # There is a pooled connection now.
    simulator.reset()
    reply = call(gateway.port, chat_body(f"sim/m?fault={fault};tokens=6"))
    assert (reply.status, reply.text()) == (200, TEXT)
    stale, fresh = simulator.requests()
    assert (stale["state"], fresh["state"]) == ("cut", "done")
    assert fresh["on_connection"] == 0
    outcomes = [each["outcome"] for each in gateway.trace(reply.request_id)["attempts"]]
    assert outcomes == ["reset", "ok"]


@pytest.mark.parametrize("fault", ["status_100", "status_103"])
def test_interim_answers_do_not_hide_the_final_one(gateway: Gateway, fault: str) -> None:
    body = chat_body(f"sim/m?fault={fault};tokens=6")
    assert call(gateway.port, body).text() == TEXT
    old = post(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with RawClient(gateway.port) as client:
        client.send(old)
        reply = client.read_reply()
    assert (reply.status, reply.interim, reply.text()) == (200, [], TEXT)


@pytest.mark.parametrize("stream", [False, True])
def test_trailers_never_become_headers(gateway: Gateway, *, stream: bool) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=trailers;tokens=6", stream=stream))
    assert (reply.status, reply.text(), reply.ending) == (200, TEXT, Ending.WHOLE)
    assert reply.header("authorization") is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["drip", "drip_head", "drip_body", "sse_split1"])
def test_a_dripped_answer_arrives_whole(gateway: Gateway, fault: str, *, stream: bool) -> None:
    model = f"sim/m?fault={fault};drip_ms=0;tokens=6"
    reply = call(gateway.port, chat_body(model, stream=stream))
    assert (reply.status, reply.text(), reply.ending) == (200, TEXT, Ending.WHOLE)


def test_each_event_is_passed_on_without_waiting_for_more(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        # The provider falls silent after one token: whoever waits for more never sees it.
        client.send(post(chat_body("sim/m?hang=mid@1", stream=True)))
        assert client.read_until(b'" the"').endswith(b'" the"')


@pytest.mark.parametrize(("name", "status"), [("early413", 413), ("early200", 200)])
def test_an_answer_before_the_end_of_the_upload_is_relayed(
    gateway: Gateway, simulator: Simulator, name: str, status: int
) -> None:
    body = chat_body(f"{name}/m", padding="x" * (20 * MIB))
    reply = call(gateway.port, body)
    assert reply.status == status
    assert simulator.only(label="early")["status"] == status


# --- sizes and encodings -------------------------------------------------------------------


def test_an_encoded_answer_passes_with_its_encoding_and_is_read_for_its_usage(
    gateway: Gateway,
) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=gzip;tokens=6"))
    assert (reply.status, reply.header("content-encoding")) == (200, "gzip")
    assert json.loads(gzip.decompress(reply.body))["usage"]["completion_tokens"] == 6
    assert gateway.trace(reply.request_id)["usage"]["output_tokens"] == 6


def test_a_broken_encoding_is_passed_on_and_its_usage_not_believed(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=gzip_bad;tokens=6"))
    assert (reply.status, reply.header("content-encoding")) == (200, "gzip")
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress(reply.body)
    usage = gateway.trace(reply.request_id)["usage"]
    assert usage is None or usage["source"] == "counted"


def test_a_decompression_bomb_costs_no_memory(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=gzip_bomb"))
    assert reply.status == 200
    assert len(reply.body) < MIB
    assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX


def test_a_big_event_passes_whole_and_the_ones_behind_it_too(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("sim/m?fault=sse_big_event;tokens=6", stream=True))
    assert max(map(len, reply.events())) > 4 * MIB
    assert reply.events()[-1] == "[DONE]"
    assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX


@pytest.mark.parametrize("stream", [False, True])
def test_an_endless_body_is_passed_on_in_bounded_memory_until_the_caller_leaves(
    gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body("sim/m?fault=endless_body;label=endless", stream=stream)))
        assert len(client.read_some(32 * MIB)) == 32 * MIB
        assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX
    assert simulator.wait_request(lambda each: each["disconnected"], label="endless")


# --- answers that cannot be believed -------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "empty", "html", "array", "utf8"])
def test_an_unreadable_answer_is_passed_on_as_it_is_or_refused(
    gateway: Gateway, simulator: Simulator, kind: str
) -> None:
    reply = call(gateway.port, chat_body(f"sim/m?malformed={kind}"))
    direct = call(simulator.port, chat_body(f"m?malformed={kind}"))
    if reply.status == 200:
        assert reply.body == direct.body
    else:
        assert (reply.status, reply.error()["code"]) == (502, "upstream_malformed")
    assert gateway.trace(reply.request_id)["usage"] is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "lie", ["missing", "null", "negative", "string", "float", "nan", "huge"]
)
def test_usage_that_lies_is_passed_on_and_never_believed(
    gateway: Gateway, lie: str, *, stream: bool
) -> None:
    more: dict[str, object] = {"stream_options": {"include_usage": True}} if stream else {}
    reply = call(gateway.port, chat_body(f"sim/m?usage={lie};tokens=6", stream=stream, **more))
    assert reply.status == 200
    usage = gateway.trace(reply.request_id)["usage"]
    if usage is not None:
        assert usage["source"] == "counted"
        assert all(value >= 0 for value in usage.values() if isinstance(value, int))


@pytest.mark.parametrize("lie", ["twice", "twice_lower"])
def test_a_second_usage_report_never_lowers_the_first(gateway: Gateway, lie: str) -> None:
    reply = call(gateway.port, chat_body(f"sim/m?usage={lie};tokens=6", stream=True))
    assert reply.text() == TEXT
    assert gateway.trace(reply.request_id)["usage"]["output_tokens"] == 6


def test_a_usage_event_that_carries_a_choice_is_not_cut_out(gateway: Gateway) -> None:
    reply = call(gateway.port, chat_body("sim/m?usage=with_choice;tokens=6", stream=True))
    finish = [each for each in reply.events() if '"finish_reason":"stop"' in each]
    assert len(finish) == 1
    assert gateway.trace(reply.request_id)["usage"]["output_tokens"] == 6
