"""Failures as HTTP answers, before the first byte of an answer: here and nowhere else.

What a caller reads is built from the closed list in `errors.py`, in the OpenAI shape. Each
function returns the bytes of one whole answer and what the record says of it.
"""

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson

from modelux._native import Local, Plan, Refused
from modelux.errors import ROWS, Cause
from modelux.units import US_PER_S, UnixUs, usd_text

if TYPE_CHECKING:
    from modelux._native import BudgetFigures

JSON: Final = b"application/json"

CREDENTIAL_STATUSES: Final = frozenset({401, 402, 403})
OVERLOADED_STATUSES: Final = frozenset({503, 529})
"""529 is Anthropic's word for overloaded."""

OVERLOADED_RETRY_AFTER_S: Final = 1
SDK_WAIT_S_MAX: Final = 60
"""SDKs obey `Retry-After` up to here and guess beyond: then they are told not to try."""

MESSAGE_BYTES_MAX: Final = 4096
"""Of a provider's message that is quoted: enough for any real one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole answer, and what the record says of it."""

    wire: bytes
    status: int
    type: str
    code: str
    message: str


def continue_wire() -> bytes:
    """Return what a caller waits for that sent `Expect: 100-continue`."""
    return b"HTTP/1.1 100 Continue\r\n\r\n"


def local(answer: Local, unix_us: UnixUs, *, keep_alive: bool) -> bytes:
    """Return an answer that the gate gave by itself."""
    return _wire(
        answer.status,
        answer.body,
        b"X-Modelux-Request-Id: "
        + answer.id.encode()
        + b"\r\n"
        + answer.lines
        + _persistence(http_1_0=answer.http_1_0, keep_alive=keep_alive),
        keep_alive=keep_alive,
        head_only=answer.head_only,
        unix_us=unix_us,
        content_type=b"text/event-stream" if answer.is_stream else JSON,
    )


def refusal(refused: Refused, unix_us: UnixUs, *, keep_alive: bool) -> Answer:
    """Return the answer to a request that the gate refused."""
    cause = Cause(refused.code)
    row = ROWS[cause]
    lines = b"X-Modelux-Request-Id: " + refused.id.encode() + b"\r\n" + refused.rate_lines
    if refused.allow is not None:
        lines += b"Allow: " + refused.allow.encode() + b"\r\n"
    if refused.retry_after_s is not None:
        lines += b"Retry-After: %d\r\n" % refused.retry_after_s
    is_long = refused.retry_after_s is not None and refused.retry_after_s > SDK_WAIT_S_MAX
    lines += _should_retry(False if is_long and row.should_retry is None else row.should_retry)
    lines += _persistence(http_1_0=refused.http_1_0, keep_alive=keep_alive)
    body = _error_body(row.type, cause.value, refused.message, refused.param)
    wire = _wire(
        row.status,
        body,
        lines,
        keep_alive=keep_alive,
        head_only=refused.head_only,
        unix_us=unix_us,
    )
    return Answer(
        wire=wire, status=row.status, type=row.type, code=cause.value, message=refused.message
    )


def failure(plan: Plan, unix_us: UnixUs) -> Answer:
    """Return the answer when no attempt could serve: the last one's outcome decides.

    A provider's 4xx is the caller's business and passes with its status and message. A provider
    that refuses our credential is ours: the caller must not take it for its own key.
    """
    outcomes = plan.outcomes()
    assert outcomes, "a plan that fails has made an attempt"
    outcome, status = outcomes[-1][2], outcomes[-1][3]
    if outcome == "http_error":
        assert status is not None, "an http_error has a status"
        if status in CREDENTIAL_STATUSES and not plan.has_provider_key:
            return _own(plan, Cause.PROVIDER_CREDENTIAL_REJECTED, unix_us, upstream=status)
        if status in OVERLOADED_STATUSES:
            return _own(plan, Cause.OVERLOADED, unix_us, upstream=status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _own(plan, Cause.ALL_ATTEMPTS_FAILED, unix_us, upstream=status)
        return _passed_on(plan, status, unix_us)
    if outcome == "timeout":
        return _own(plan, Cause.UPSTREAM_TIMEOUT, unix_us)
    if outcome == "malformed":
        return _own(plan, Cause.UPSTREAM_MALFORMED, unix_us, upstream=status)
    return _own(plan, Cause.ALL_ATTEMPTS_FAILED, unix_us)


def stopped(plan: Plan, unix_us: UnixUs) -> Answer:
    """Return the answer to a request that a budget stops before anything of it is sent."""
    why = plan.stopped()
    assert why is not None, "asked of a plan that may go"
    cause = Cause(why["code"])
    row = ROWS[cause]
    extras: dict[str, object] = {}
    if why["budget"] is not None:
        extras["budget"] = _budget(why["budget"])
    if cause is Cause.REQUEST_EXCEEDS_BUDGET:
        extras["max_affordable_output_tokens"] = why["max_affordable_output_tokens"]
    lines = plan.own_lines() + _should_retry(row.should_retry)
    if why["retry_after_s"] is not None:
        lines += b"Retry-After: %d\r\n" % why["retry_after_s"]
    code = cause.value if row.number is None else row.number
    body = _error_body(row.type, code, why["message"], why["param"], **extras)
    wire = _wire(
        row.status, body, lines, keep_alive=plan.keep_alive, head_only=False, unix_us=unix_us
    )
    return Answer(
        wire=wire, status=row.status, type=row.type, code=cause.value, message=why["message"]
    )


def _budget(figures: "BudgetFigures") -> dict[str, object]:
    """Return `error.budget`: amounts as numbers of USD, always with all keys."""
    return {
        "name": figures["name"],
        "spend_usd": _usd(figures["spend_nusd"]),
        "held_usd": _usd(figures["held_nusd"]),
        "cap_usd": _usd(figures["cap_nusd"]),
        "remaining_usd": _usd(figures["remaining_nusd"]),
        "period": figures["period"],
        "period_resets_at": figures["period_resets_at"],
    }


def _usd(amount_nusd: int) -> float:
    """Return USD as the number that JSON shows: the double nearest to the exact decimal."""
    return float(usd_text(amount_nusd))


def internal_error(unix_us: UnixUs) -> bytes:
    """Return the answer for a bug of ours: says nothing of it, closes the connection."""
    row = ROWS[Cause.INTERNAL_ERROR]
    body = _error_body(
        row.type, Cause.INTERNAL_ERROR.value, "modelux failed at this request", None
    )
    return _wire(row.status, body, b"", keep_alive=False, head_only=False, unix_us=unix_us)


def _own(plan: Plan, cause: Cause, unix_us: UnixUs, *, upstream: int | None = None) -> Answer:
    row = ROWS[cause]
    told = "; ".join(
        f"attempt_{index} {target} at {provider}: {_outcome_text(outcome, status, limit_ms)}"
        for index, (target, provider, outcome, status, limit_ms) in enumerate(
            plan.outcomes(), start=1
        )
    )
    lead = {
        Cause.PROVIDER_CREDENTIAL_REJECTED: "the provider rejected the credential that modelux "
        "holds for it; check its `api_key`",
        Cause.UPSTREAM_TIMEOUT: "no attempt answered in time",
        Cause.OVERLOADED: "the provider is overloaded",
        Cause.UPSTREAM_MALFORMED: "the provider's answer cannot be read",
    }.get(cause, "no attempt could serve this request")
    message = f"{lead}: {told}"
    lines = plan.own_lines() + _should_retry(row.should_retry)
    if cause is Cause.OVERLOADED:
        retry_after = plan.error_retry_after or str(OVERLOADED_RETRY_AFTER_S)
        lines += b"Retry-After: " + _field(retry_after) + b"\r\n"
    extras = {} if upstream is None else {"upstream_status": upstream}
    body = _error_body(row.type, cause.value, message, None, **extras)
    wire = _wire(
        row.status, body, lines, keep_alive=plan.keep_alive, head_only=False, unix_us=unix_us
    )
    return Answer(
        wire=wire, status=row.status, type=row.type, code=cause.value, message=message
    )


def _passed_on(plan: Plan, status: int, unix_us: UnixUs) -> Answer:
    """Pass on a provider's own refusal: its status, and its body where that has our shape."""
    text, is_whole = plan.error_body()
    error = _openai_error(text) if is_whole else None
    lines = plan.own_lines()
    if plan.error_retry_after is not None:
        lines += b"Retry-After: " + _field(plan.error_retry_after) + b"\r\n"
    if error is not None:
        body, (kind, code, message) = text.encode(), error
    else:
        kind, code = _kind_of(status), "provider_error"
        quoted = text.strip()[:MESSAGE_BYTES_MAX]
        message = quoted or f"the provider answered {status} without a message"
        body = _error_body(kind, code, message, None, upstream_status=status)
    wire = _wire(
        status, body, lines, keep_alive=plan.keep_alive, head_only=False, unix_us=unix_us
    )
    return Answer(wire=wire, status=status, type=kind, code=code, message=message)


def _openai_error(text: str) -> tuple[str, str, str] | None:
    """Read type, code and message of an error in the OpenAI shape; None for anything else."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return (
        str(error.get("type") or "provider_error"),
        str(error.get("code") or "provider_error"),
        error["message"][:MESSAGE_BYTES_MAX],
    )


def _kind_of(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    if status == HTTPStatus.NOT_FOUND:
        return "not_found_error"
    return "invalid_request_error"


def _outcome_text(outcome: str, status: int | None, limit_ms: int) -> str:
    if outcome == "http_error":
        return str(status)
    if outcome == "timeout":
        return f"timeout ({limit_ms}ms)"
    return outcome.replace("_", " ")


def _persistence(*, http_1_0: bool, keep_alive: bool) -> bytes:
    """Return what a caller of HTTP/1.0 has to be told that HTTP/1.1 takes for granted."""
    return b"connection: keep-alive\r\n" if http_1_0 and keep_alive else b""


def _should_retry(value: bool | None) -> bytes:  # noqa: FBT001
    if value is None:
        return b""
    return b"x-should-retry: true\r\n" if value else b"x-should-retry: false\r\n"


def _field(text: str) -> bytes:
    """Return a provider's field value as one that may be sent on: visible ASCII only."""
    return "".join(c for c in text if c.isascii() and c.isprintable()).encode()


def _error_body(
    kind: str, code: str | int, message: str, param: str | None, **extras: object
) -> bytes:
    error: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    return orjson.dumps({"error": error | extras})


def _wire(
    status: int,
    body: bytes,
    lines: bytes,
    *,
    keep_alive: bool,
    head_only: bool,
    unix_us: UnixUs,
    content_type: bytes = JSON,
) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    date = formatdate(unix_us // US_PER_S, usegmt=True)
    return (
        b"HTTP/1.1 %d %s\r\ndate: %s\r\ncontent-type: %s\r\n"
        b"content-length: %d\r\n"
        % (status, reason.encode(), date.encode(), content_type, len(body))
        + lines
        + (b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        + (b"" if head_only else body)
    )
