"""The trace record as our own types: JSON becomes a dataclass here and nowhere else.

A record arrives from the ring as `meta` (one JSON object without bodies), two raw bodies, and
one word on what is there of them. `parse_record` reads what the store indexes and what
`modelux logs` prints; `record_json` puts meta and bodies together again, byte for byte as the
worker wrote them: fields that this build does not know pass through.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

import orjson

from modelux.units import US_PER_MS, NanoUsd, nusd_from_usd

BODIES_STATES: Final = ("kept", "cut", "shed", "off")

INPUT_PARTS: Final = (
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_input_tokens",
    "image_input_tokens",
)
OUTPUT_PARTS: Final = ("output_tokens", "reasoning_tokens", "audio_output_tokens")

# SQLite and dates hold no more: the year 9999 is far from both edges.
TS_US_MAX: Final = 253_402_300_799_000_000


class RecordError(Exception):
    """Bytes that are no trace record; says what is wrong, never what they hold."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request was answered with an error."""

    type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What all attempts of a request cost together."""

    input_nusd: NanoUsd
    output_nusd: NanoUsd
    total_nusd: NanoUsd


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an answer used: the disjoint parts added up."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call to one target."""

    index: int
    target: str
    provider: str
    model: str
    role: str
    outcome: str
    status: int | None
    reason: str
    timeout_ms: int | None
    total_us: int | None
    tokens: Tokens | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request, without its bodies."""

    id: str
    ts_us: int
    project: str
    route: str
    route_version: int | None
    pinned: bool
    resolved: str
    strategy: str
    model_requested: str
    status: int
    error: Fault | None
    provider: str
    model: str
    tags: Mapping[str, str]
    end_user: str
    trace_id: str
    conversation_id: str
    tokens: Tokens | None
    cost: Cost | None
    overhead_us: int | None
    ttft_us: int | None
    total_us: int | None
    summary: str
    reason: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace as it comes out of a ring."""

    meta: bytes
    request: bytes
    response: bytes
    bodies: str


def parse_record(meta: bytes) -> Record:
    """Read a record; what is absent or null is empty, what has another type is refused.

    Raises:
        RecordError: Not a JSON object, no usable `id` or `ts`, or a field of another type.
    """
    try:
        raw = orjson.loads(meta)
    except orjson.JSONDecodeError:
        raise RecordError("not JSON") from None
    fields = _Fields(raw)
    record_id = fields.text("id")
    if not record_id or len(record_id) > 64 or not record_id.isprintable():
        raise RecordError("`id` is missing or no identifier")
    ts_us = fields.number("ts")
    if ts_us is None or not 0 <= ts_us <= TS_US_MAX:
        raise RecordError("`ts` is missing or no date")
    latency = fields.inner("latency")
    decision = fields.inner("decision")
    return Record(
        id=record_id,
        ts_us=ts_us,
        project=fields.text("project"),
        route=fields.text("route"),
        route_version=fields.number("route_version"),
        pinned=fields.flag("pinned"),
        resolved=fields.text("resolved"),
        strategy=fields.text("strategy"),
        model_requested=fields.text("model_requested"),
        status=fields.number("status") or 0,
        error=_fault(fields.maybe_inner("error")),
        provider=fields.text("provider"),
        model=fields.text("model"),
        tags=_tags(fields.maybe_inner("tags")),
        end_user=fields.text("end_user"),
        trace_id=fields.text("trace_id"),
        conversation_id=fields.text("conversation_id"),
        tokens=_tokens(fields.maybe_inner("usage")),
        cost=_cost(fields.maybe_inner("cost")),
        overhead_us=latency.number("overhead_us"),
        ttft_us=latency.ms_as_us("ttft_ms"),
        total_us=latency.ms_as_us("total_ms"),
        summary=decision.text("summary"),
        reason=decision.text("reason"),
        attempts=tuple(_attempt(attempt) for attempt in fields.inners("attempts")),
    )


def record_json(
    meta: bytes, request: bytes | None, response: bytes | None, bodies: str
) -> bytes:
    """Return the whole record as one line of JSON: meta with `request`, `response`, `bodies`.

    A body that is a whole JSON text stands in it as that, digit for digit; any other as a
    string. None means that it is not there any more.
    """
    assert bodies in BODIES_STATES, bodies
    assert meta.startswith(b"{"), meta[:1]
    assert meta.rstrip().endswith(b"}"), meta[-1:]
    head = _one_line(meta.rstrip()[:-1].rstrip())
    comma = b"" if head == b"{" else b","
    parts = (
        head + comma,
        b'"request":' + _body_json(request),
        b',"response":' + _body_json(response),
        b',"bodies":"' + bodies.encode("ascii") + b'"}',
    )
    return b"".join(parts)


def _body_json(body: bytes | None) -> bytes:
    if not body:
        return b"null"
    if body[:1] in b'{["':
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        else:
            return _one_line(body)
    return orjson.dumps(body.decode("utf-8", "replace"))


def _one_line(json_text: bytes) -> bytes:
    # Inside a JSON string a line end cannot stand as it is: these are all between tokens.
    return json_text.replace(b"\r", b" ").replace(b"\n", b" ")


def _fault(fields: "_Fields | None") -> Fault | None:
    if fields is None:
        return None
    return Fault(fields.text("type"), fields.text("code"), fields.text("message"))


def _tags(fields: "_Fields | None") -> Mapping[str, str]:
    if fields is None:
        return {}
    return {key: fields.text(key) for key in fields.names()}


def _tokens(fields: "_Fields | None") -> Tokens | None:
    if fields is None:
        return None
    return Tokens(
        sum(fields.number(part) or 0 for part in INPUT_PARTS),
        sum(fields.number(part) or 0 for part in OUTPUT_PARTS),
    )


def _cost(fields: "_Fields | None") -> Cost | None:
    if fields is None:
        return None
    total = fields.money("total_usd")
    if total is None:
        return None
    zero = NanoUsd(0)
    return Cost(fields.money("input_usd") or zero, fields.money("output_usd") or zero, total)


def _attempt(fields: "_Fields") -> Attempt:
    return Attempt(
        index=fields.number("index") or 0,
        target=fields.text("target"),
        provider=fields.text("provider"),
        model=fields.text("model"),
        role=fields.text("role"),
        outcome=fields.text("outcome"),
        status=fields.number("status"),
        reason=fields.text("reason"),
        timeout_ms=fields.number("timeout_ms"),
        total_us=fields.ms_as_us("total_ms"),
        tokens=_tokens(fields.maybe_inner("usage")),
    )


class _Fields:
    """One JSON object, asked for its fields by type."""

    __slots__ = ("_raw",)

    def __init__(self, raw: object) -> None:
        if not isinstance(raw, dict):
            raise RecordError("not a JSON object")
        self._raw: dict[str, object] = raw

    def names(self) -> list[str]:
        return list(self._raw)

    def text(self, name: str) -> str:
        match self._find(name):
            case str(value):
                return value
            case None:
                return ""
            case _:
                raise RecordError(f"`{name}` is no text")

    def number(self, name: str) -> int | None:
        match self._find(name):
            case bool():
                raise RecordError(f"`{name}` is no integer")
            case int(value) if abs(value) < 2**63:
                return value
            case None:
                return None
            case _:
                raise RecordError(f"`{name}` is no integer")

    def flag(self, name: str) -> bool:
        match self._find(name):
            case bool(value):
                return value
            case None:
                return False
            case _:
                raise RecordError(f"`{name}` is neither true nor false")

    def ms_as_us(self, name: str) -> int | None:
        match self._find(name):
            case bool():
                raise RecordError(f"`{name}` is no number")
            case int(value) | float(value) if abs(value) < 2**53:
                return round(value * US_PER_MS)
            case None:
                return None
            case _:
                raise RecordError(f"`{name}` is no number")

    def money(self, name: str) -> NanoUsd | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return nusd_from_usd(Decimal(text))
        except (InvalidOperation, ValueError):
            raise RecordError(f"`{name}` is no amount") from None

    def maybe_inner(self, name: str) -> "_Fields | None":
        value = self._find(name)
        return None if value is None else _Fields(value)

    def inner(self, name: str) -> "_Fields":
        value = self._find(name)
        return _Fields({} if value is None else value)

    def inners(self, name: str) -> list["_Fields"]:
        match self._find(name):
            case list(values):
                return [_Fields(value) for value in values]
            case None:
                return []
            case _:
                raise RecordError(f"`{name}` is no list")

    def _find(self, name: str) -> object:
        return self._raw.get(name)
