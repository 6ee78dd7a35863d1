"""A trace as text for people: why a request went where it went, in about ten lines.

```
[modelux] req_... gpt-4o-mini 238ms $0.002134 200
  attempt_1  claude-haiku-4-5   timeout (2000ms)
  attempt_2  gpt-4o-mini        200 OK  1,247 tokens
  decision:  fallback -> attempt_2
  ...
```

Whatever comes from callers or providers is escaped: a terminal must not obey a trace.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from http import HTTPStatus
from typing import Final

from modelux.log import printable
from modelux.trace.record import Attempt, Record
from modelux.units import NUSD_PER_USD, US_PER_MS, US_PER_S

LABEL_WIDTH: Final = 11
MODEL_GAP: Final = 3
TEXT_CHARS_MAX: Final = 300
"""Of one value that others chose; the whole stands in the JSON."""

_USD_DECIMALS: Final = Decimal("0.000001")
_NONE: Final = "-"


def headline(record: Record) -> str:
    """Return the first line: request, model, total time, cost, status."""
    model = record.model or record.model_requested or _NONE
    cost = _NONE if record.cost is None else _usd_digits(record.cost.total_nusd)
    words = (f"req_{record.id}", _safe(model), _ms(record.total_us), f"${cost}", record.status)
    return f"[modelux] {' '.join(map(str, words))}"


def list_line(record: Record) -> str:
    """Return the line of a list: when, the headline, and for a refusal its code."""
    at = datetime.fromtimestamp(record.ts_us / US_PER_S, UTC)
    when = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // US_PER_MS:03d}Z"
    code = f" {_safe(record.error.code)}" if record.error else ""
    return f"{when} {headline(record)}{code}"


def explanation(record: Record) -> list[str]:
    """Return every line about one request."""
    return [headline(record), *_attempts(record), *map(_labelled, _facts(record))]


def _facts(record: Record) -> Iterable[tuple[str, str]]:
    if record.error is not None:
        yield "error", f"{record.error.code}: {record.error.message}"
    yield "decision", record.summary or _NONE
    yield "reason", record.reason or _NONE
    yield "cost", _cost(record)
    yield "latency", _latency(record)
    yield "project", record.project or _NONE
    yield "config", _config(record)
    if record.tags:
        yield "tags", ", ".join(f"{key}={value}" for key, value in record.tags.items())


def _labelled(fact: tuple[str, str]) -> str:
    label, text = fact
    return f"  {label + ':':<{LABEL_WIDTH}}{_safe(text)}"


def _attempts(record: Record) -> Iterable[str]:
    names = [_target(attempt, record.attempts) for attempt in record.attempts]
    width = max(map(len, names), default=0) + MODEL_GAP
    for attempt, name in zip(record.attempts, names, strict=True):
        label = f"attempt_{attempt.index}"
        yield f"  {label:<{LABEL_WIDTH - 1}} {name:<{width}}{_safe(_outcome(attempt))}"


def _target(attempt: Attempt, attempts: tuple[Attempt, ...]) -> str:
    """Return the model, with its provider where another attempt asked another one for it."""
    providers = {other.provider for other in attempts if other.model == attempt.model}
    name = attempt.model if len(providers) == 1 else f"{attempt.provider}/{attempt.model}"
    return _safe(name or attempt.target or _NONE)


def _outcome(attempt: Attempt) -> str:
    tokens = attempt.tokens
    used = ""
    if tokens is not None and tokens.input_tokens + tokens.output_tokens:
        used = f"  {tokens.input_tokens + tokens.output_tokens:,} tokens"
    role = "" if attempt.role in {"", "serve"} else f"  ({attempt.role})"
    took = f" ({_ms(attempt.total_us)})" if attempt.total_us is not None else ""
    match attempt.outcome:
        case "ok" | "http_error":
            words = _status(attempt.status)
        case "timeout":
            # The limit, not the moment at which a coarse timer saw that it had passed.
            limit = f" ({attempt.timeout_ms}ms)" if attempt.timeout_ms else took
            words = f"timeout{limit}"
        case "malformed" | "interrupted" | "cancelled":
            head = f"{_status(attempt.status)}  " if attempt.status else ""
            words = f"{head}{attempt.outcome}{took}"
        case "connect_error":
            words = f"connect error{took}"
        case outcome:
            words = f"{outcome or 'unfinished'}{took}"
    return f"{words}{used}{role}"


def _status(status: int | None) -> str:
    if status is None:
        return "no status"
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _cost(record: Record) -> str:
    if record.cost is None:
        return "unknown" if any(one.outcome == "ok" for one in record.attempts) else _NONE
    halves = (_usd_digits(record.cost.input_nusd), _usd_digits(record.cost.output_nusd))
    return f"input ${halves[0]} + output ${halves[1]}"


def _latency(record: Record) -> str:
    parts = []
    if record.ttft_us is not None:
        parts.append(f"ttft {_ms(record.ttft_us)}")
    parts.append(f"total {_ms(record.total_us)}")
    if record.overhead_us is not None:
        parts.append(f"overhead {record.overhead_us / US_PER_MS:.1f}ms")
    return "  ".join(parts)


def _config(record: Record) -> str:
    if not record.route:
        return f"{_NONE} (model named by the caller)" if record.attempts else _NONE
    if record.route_version is None:
        return record.route
    pinned = ", pinned" if record.pinned else ""
    return f"{record.route} (v{record.route_version}{pinned})"


def _ms(value_us: int | None) -> str:
    return f"{_NONE}ms" if value_us is None else f"{(value_us + US_PER_MS // 2) // US_PER_MS}ms"


def _usd_digits(amount_nusd: int) -> str:
    exact = Decimal(amount_nusd) / NUSD_PER_USD
    return str(exact.quantize(_USD_DECIMALS, rounding=ROUND_HALF_UP))


def _safe(text: str) -> str:
    # Cut before, so that no megabyte is escaped, and after, as an escape is up to ten long.
    safe = printable(text[: TEXT_CHARS_MAX + 1])
    return safe if len(safe) <= TEXT_CHARS_MAX else f"{safe[:TEXT_CHARS_MAX]}..."
