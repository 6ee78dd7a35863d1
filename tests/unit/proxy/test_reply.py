"""Failures as callers read them, made from real plans, refusals and local answers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

from modelux import _native
from modelux._native import Local, Plan, Refused
from modelux.errors import ROWS, Cause
from modelux.proxy import reply
from modelux.proxy.reply import Answer
from modelux.units import UnixUs
from tests.corpus import Json
from tests.unit.proxy.conftest import PROVIDER_KEY, Bed

NOW: Final = UnixUs(1_700_000_000_000_000)
DATE: Final = "Tue, 14 Nov 2023 22:13:20 GMT"


@dataclass(frozen=True, slots=True)
class Read:
    """An answer as a caller takes it apart."""

    line: str
    fields: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Json]:
        """The error object, and nothing beside it."""
        document: Json = json.loads(self.body)
        assert isinstance(document, dict)
        assert list(document) == ["error"]
        error = document["error"]
        assert isinstance(error, dict)
        return error


def read(wire: bytes) -> Read:
    """Take an answer apart; its fields differ, and only the body may be left out."""
    head, body = wire.split(b"\r\n\r\n", 1)
    line, *fields = head.decode("ascii").split("\r\n")
    pairs = [field.split(": ", 1) for field in fields]
    names = [name.lower() for name, _ in pairs]
    assert len(set(names)) == len(names), names
    return Read(line, {name.lower(): value for name, value in pairs}, body)


def answer_of(status: int, body: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def failed(plan: Plan, status: int, body: bytes = b"", *fields: str) -> Answer:
    """What a caller is told after a provider answered so to the only attempt."""
    step, _ = plan.answer(answer_of(status, body, *fields))
    assert step == _native.STEP_FAILED
    assert not plan.next()
    return reply.failure(plan, NOW)


def assert_says(answer: Answer, cause: Cause) -> Read:
    """The answer is that cause's row, on the wire and for the record."""
    row = ROWS[cause]
    wire = read(answer.wire)
    error = wire.error()
    assert (answer.status, answer.type, answer.code) == (row.status, row.type, cause.value)
    assert wire.line.startswith(f"HTTP/1.1 {row.status} ")
    assert (error["type"], error["code"]) == (row.type, cause.value)
    assert error["message"] == answer.message
    should_retry = {None: None, True: "true", False: "false"}[row.should_retry]
    assert wire.fields.get("x-should-retry") == should_retry
    assert wire.fields["content-length"] == str(len(wire.body))
    assert wire.fields["content-type"] == "application/json"
    assert wire.fields["date"] == DATE
    return wire


# --- without a provider ----------------------------------------------------------------------


def test_a_caller_that_waits_for_it_is_told_to_go_on() -> None:
    assert reply.continue_wire() == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("keep_alive", [True, False])
def test_health_is_answered_with_what_the_gate_said(bed: Bed, keep_alive: bool) -> None:
    local = bed.ask("GET /healthz HTTP/1.1")
    assert isinstance(local, Local)
    wire = read(reply.local(local, NOW, keep_alive=keep_alive))
    assert wire.line == "HTTP/1.1 200 OK"
    assert wire.body == local.body != b""
    assert wire.fields["x-modelux-request-id"] == local.id
    assert wire.fields["date"] == DATE
    assert wire.fields.get("connection") == (None if keep_alive else "close")


def test_an_answer_to_head_has_the_length_and_not_the_body(bed: Bed) -> None:
    local = bed.ask("HEAD /healthz HTTP/1.1")
    assert isinstance(local, Local)
    wire = read(reply.local(local, NOW, keep_alive=True))
    assert wire.body == b""
    assert wire.fields["content-length"] == str(len(local.body)) != "0"
    refused = bed.ask("HEAD /nowhere HTTP/1.1")
    assert isinstance(refused, Refused)
    wire = read(reply.refusal(refused, NOW, keep_alive=True).wire)
    assert wire.body == b""
    assert wire.fields["content-length"] != "0"


def test_a_caller_of_http_1_0_is_told_when_its_connection_stays(bed: Bed) -> None:
    for line in ("GET /healthz HTTP/1.0", "GET /nowhere HTTP/1.0"):
        for keep_alive, connection in ((True, "keep-alive"), (False, "close")):
            begun = bed.ask(line, "", "connection: keep-alive")
            if isinstance(begun, Local):
                wire = reply.local(begun, NOW, keep_alive=keep_alive)
            else:
                assert isinstance(begun, Refused)
                wire = reply.refusal(begun, NOW, keep_alive=keep_alive).wire
            assert read(wire).fields["connection"] == connection


def test_a_bug_of_ours_says_nothing_of_itself_and_closes() -> None:
    wire = read(reply.internal_error(NOW))
    row = ROWS[Cause.INTERNAL_ERROR]
    assert wire.line.startswith(f"HTTP/1.1 {row.status} ")
    assert wire.fields["connection"] == "close"
    assert wire.error() == {
        "message": "modelux failed at this request",
        "type": row.type,
        "param": None,
        "code": "internal_error",
    }


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "cause", "param"),
    [
        ("{", Cause.INVALID_JSON, None),
        ('{"messages":[]}', Cause.MISSING_FIELD, "model"),
        ('{"model":7}', Cause.INVALID_REQUEST, "model"),
        ('{"model":"a","model":"b"}', Cause.DUPLICATE_KEY, "model"),
        ('{"model":"@none"}', Cause.ROUTING_CONFIG_NOT_FOUND, "model"),
    ],
)
def test_a_refusal_says_what_is_wrong_where(
    bed: Bed, body: str, cause: Cause, param: str | None
) -> None:
    refused = bed.ask("POST /v1/chat/completions HTTP/1.1", body)
    assert isinstance(refused, Refused)
    wire = assert_says(reply.refusal(refused, NOW, keep_alive=True), cause)
    assert wire.error()["param"] == param
    assert "upstream_status" not in wire.error()
    assert wire.fields["x-modelux-request-id"] == refused.id
    assert "connection" not in wire.fields


def test_a_method_that_a_path_does_not_take_is_told_those_that_it_does(bed: Bed) -> None:
    refused = bed.ask("GET /v1/chat/completions HTTP/1.1")
    assert isinstance(refused, Refused)
    wire = assert_says(reply.refusal(refused, NOW, keep_alive=False), Cause.METHOD_NOT_ALLOWED)
    assert wire.fields["allow"] == "POST"
    assert wire.fields["connection"] == "close"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("client_timeout", Cause.CLIENT_TIMEOUT),
        ("body_too_large", Cause.BODY_TOO_LARGE),
        ("invalid_request", Cause.INVALID_REQUEST),
        ("internal_error", Cause.INTERNAL_ERROR),
    ],
)
def test_what_only_the_shell_can_refuse_is_answered_alike(
    bed: Bed, code: str, cause: Cause
) -> None:
    refused = bed.gate.refuse(b"POST /v1/chat/completions HTTP/1.1\r\n", code, "why it is")
    assert isinstance(refused, Refused)
    answer = reply.refusal(refused, NOW, keep_alive=False)
    assert answer.message == "why it is"
    assert_says(answer, cause)


def test_a_key_that_asks_too_often_is_told_how_long_to_wait(
    make_bed: Callable[[int], Bed],
) -> None:
    bed = make_bed(1)
    while isinstance(refused := bed.ask(), Plan):
        pass
    assert isinstance(refused, Refused)
    assert refused.retry_after_s is not None
    wire = assert_says(reply.refusal(refused, NOW, keep_alive=True), Cause.RATE_LIMITED)
    assert wire.fields["retry-after"] == str(refused.retry_after_s)
    assert wire.fields["x-ratelimit-limit-requests"] == "1"


# --- no attempt could serve ------------------------------------------------------------------


def test_a_providers_own_refusal_passes_with_status_and_body(bed: Bed) -> None:
    body = b'{"error":{"message":"bad \\"temperature\\"","type":"t","code":"c"},"x":1}'
    plan = bed.plan()
    answer = failed(plan, 400, body, "retry-after: 7")
    wire = read(answer.wire)
    assert (answer.status, answer.type, answer.code) == (400, "t", "c")
    assert answer.message == 'bad "temperature"'
    assert wire.line == "HTTP/1.1 400 Bad Request"
    assert wire.body == body
    assert wire.fields["retry-after"] == "7"
    assert wire.fields["x-modelux-request-id"] == plan.id
    assert "x-should-retry" not in wire.fields


def test_an_error_without_type_or_code_still_has_both_for_the_record(bed: Bed) -> None:
    answer = failed(bed.plan(), 422, b'{"error":{"message":"no"}}')
    assert (answer.status, answer.type, answer.code) == (422, *["provider_error"] * 2)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (418, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        "<html>busy</html>",
        '{"detail":"no"}',
        '{"error":"no"}',
        '{"error":{"message":7}}',
        "[1]",
    ],
)
def test_another_shape_of_error_is_quoted_in_ours(
    bed: Bed, status: int, kind: str, body: str
) -> None:
    answer = failed(bed.plan(), status, b" " + body.encode() + b"\n")
    wire = read(answer.wire)
    assert wire.line.startswith(f"HTTP/1.1 {status} ")
    assert (answer.status, answer.type, answer.code) == (status, kind, "provider_error")
    assert wire.error() == {
        "message": body,
        "type": kind,
        "param": None,
        "code": "provider_error",
        "upstream_status": status,
    }


def test_an_error_without_a_body_says_the_status(bed: Bed) -> None:
    answer = failed(bed.plan(), 400)
    assert answer.message == "the provider answered 400 without a message"


def test_a_long_message_is_cut_and_a_key_in_it_never_passes(bed: Bed) -> None:
    body = f"Incorrect API key provided: {PROVIDER_KEY}. ".encode() + b"x" * 50_000
    answer = failed(bed.plan(), 400, body)
    assert PROVIDER_KEY not in answer.message
    assert PROVIDER_KEY.encode() not in answer.wire
    assert len(answer.message) <= reply.MESSAGE_BYTES_MAX


def test_no_field_of_a_provider_adds_a_line(bed: Bed) -> None:
    answer = failed(bed.plan(), 400, b"no", "retry-after: 7\tdays\x80é")
    assert read(answer.wire).fields["retry-after"] == "7days"


@pytest.mark.parametrize("status", sorted(reply.CREDENTIAL_STATUSES))
def test_a_credential_of_ours_that_was_rejected_is_not_the_callers_key(
    bed: Bed, status: int
) -> None:
    body = b'{"error":{"message":"Incorrect API key","type":"t","code":"invalid_api_key"}}'
    answer = failed(bed.plan(), status, body)
    wire = assert_says(answer, Cause.PROVIDER_CREDENTIAL_REJECTED)
    assert wire.error()["upstream_status"] == status
    assert "`api_key`" in answer.message
    assert f"attempt_1 one/small at one: {status}" in answer.message
    assert "Incorrect" not in answer.message


@pytest.mark.parametrize("status", sorted(reply.CREDENTIAL_STATUSES))
def test_a_credential_of_the_callers_own_is_its_business(bed: Bed, status: int) -> None:
    body = b'{"error":{"message":"Incorrect API key","type":"t","code":"invalid_api_key"}}'
    plan = bed.plan("one/small", "x-modelux-provider-key: sk-mine-0123456789")
    assert plan.has_provider_key
    answer = failed(plan, status, body)
    assert (answer.status, answer.code) == (status, "invalid_api_key")
    assert read(answer.wire).body == body


@pytest.mark.parametrize("status", sorted(reply.OVERLOADED_STATUSES))
def test_an_overloaded_provider_says_when_to_come_again(bed: Bed, status: int) -> None:
    wire = assert_says(failed(bed.plan(), status), Cause.OVERLOADED)
    assert wire.fields["retry-after"] == str(reply.OVERLOADED_RETRY_AFTER_S)
    assert wire.error()["upstream_status"] == status
    answer = failed(bed.plan(), status, b"", "retry-after: 17")
    assert read(answer.wire).fields["retry-after"] == "17"


def test_every_attempt_is_told_in_its_order(bed: Bed) -> None:
    plan = bed.plan("@both")
    plan.answer(answer_of(500, b"oops"))
    assert plan.next()
    plan.send()
    plan.fault(_native.FAULT_CONNECT)
    assert not plan.next()
    answer = reply.failure(plan, NOW)
    wire = assert_says(answer, Cause.ALL_ATTEMPTS_FAILED)
    assert answer.message.endswith(
        "attempt_1 small at one: 500; attempt_2 large at one: connect error"
    )
    # The status of an attempt before the last would tell nothing of the last.
    assert "upstream_status" not in wire.error()
    assert wire.fields["x-modelux-request-id"] == plan.id


def test_the_last_status_is_told(bed: Bed) -> None:
    wire = assert_says(failed(bed.plan(), 500, b"oops"), Cause.ALL_ATTEMPTS_FAILED)
    assert wire.error()["upstream_status"] == 500


def test_a_timeout_says_which_limit_was_over(bed: Bed) -> None:
    plan = bed.plan("@both")
    plan.fault(_native.FAULT_TIMEOUT)
    assert plan.outcomes()[0][2] == "timeout"
    answer = reply.failure(plan, NOW)
    assert_says(answer, Cause.UPSTREAM_TIMEOUT)
    assert answer.message.endswith(": attempt_1 small at one: timeout (1500ms)")


@pytest.mark.parametrize(("fault", "told"), [("FAULT_RESET", "reset"), ("FAULT_EOF", "reset")])
def test_a_connection_that_ends_early_failed(bed: Bed, fault: str, told: str) -> None:
    plan = bed.plan()
    plan.fault(getattr(_native, fault))
    answer = reply.failure(plan, NOW)
    assert_says(answer, Cause.ALL_ATTEMPTS_FAILED)
    assert answer.message.endswith(f": {told}")


def test_an_answer_that_cannot_be_read_is_the_providers_fault(bed: Bed) -> None:
    plan = bed.plan()
    step, _ = plan.answer(b"SMTP ready\r\n\r\n")
    assert step == _native.STEP_FAILED
    answer = reply.failure(plan, NOW)
    assert_says(answer, Cause.UPSTREAM_MALFORMED)
    assert answer.message.startswith("the provider's answer cannot be read: ")


def test_a_connection_that_must_close_says_so(bed: Bed) -> None:
    for body in (b'{"error":{"message":"no"}}', b"no"):
        plan = bed.plan()
        plan.forbid_keep_alive()
        assert read(failed(plan, 400, body).wire).fields["connection"] == "close"
    plan = bed.plan()
    plan.forbid_keep_alive()
    assert read(failed(plan, 503).wire).fields["connection"] == "close"
