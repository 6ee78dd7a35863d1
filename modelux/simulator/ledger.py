"""What the stand-in provider received and billed: the truth that our own ledger is judged by.

A record lives from the moment a request has been read to the end of its answer. Billing follows
`bill`: with `generated`, a request that is not refused costs its input from the moment it was
read, and each output token as its bytes leave; with `all` it costs the whole output from that
moment on, however it ends; with `none` nothing unless it was answered to the end. Answers of
400 and above are free. So what a request has cost so far never falls, nor does their sum.

Records are bounded; totals go on when the oldest are shed. `totals_json` looks at nothing but
the sums and the requests that are open, so that a test may read it all the time.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, unique
from hashlib import sha256
from typing import Final

import orjson

from modelux.clock import mono_us
from modelux.simulator.settings import Bill, Fault
from modelux.units import TOKENS_PER_MTOK, nusd_from_usd, usd_text

SECRET_HEADERS: Final = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
)
FINGERPRINT_DIGITS: Final = 12

LABELS_MAX: Final = 10_000
"""Labels and models with sums of their own; those beyond it are in the totals only."""


@unique
class State(Enum):
    """Where the answer to a request stands."""

    OPEN = "open"
    DONE = "done"
    """Answered to the end, honestly or with a fault that is a whole answer."""
    CUT = "cut"
    """We ended the connection in the middle."""
    STALLED = "stalled"
    """We stopped sending and wait for the peer to give up."""
    DISCONNECTED = "disconnected"
    """The peer went away first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD for a million tokens, as integer nano-USD."""

    input_nusd_per_mtok: int
    output_nusd_per_mtok: int
    cached_nusd_per_mtok: int

    def cost_nusd(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Return the cost; each of the three lines rounds up once."""
        lines = (
            (input_tokens - cached_tokens, self.input_nusd_per_mtok),
            (cached_tokens, self.cached_nusd_per_mtok),
            (output_tokens, self.output_nusd_per_mtok),
        )
        return sum(-(-tokens * nusd // TOKENS_PER_MTOK) for tokens, nusd in lines)


def parse_price(text: str) -> tuple[str, Price]:
    """Read `MODEL=INPUT:OUTPUT[:CACHED]`, in USD for a million tokens; cached costs as input.

    Raises:
        ValueError: The text has another form, or an amount is not a decimal of at most nine
            places.
    """
    model, _, amounts = text.rpartition("=")
    parts = amounts.split(":")
    if not model or len(parts) not in {2, 3}:
        raise ValueError(f"`{text}` is not MODEL=INPUT:OUTPUT[:CACHED]")
    try:
        nusd = [nusd_from_usd(Decimal(part)) for part in parts]
    except ArithmeticError as error:
        raise ValueError(f"`{text}`: an amount is not a decimal number") from error
    cached = nusd[2] if len(nusd) == 3 else nusd[0]
    return model, Price(
        input_nusd_per_mtok=nusd[0], output_nusd_per_mtok=nusd[1], cached_nusd_per_mtok=cached
    )


@dataclass(slots=True, kw_only=True)
class Record:
    """One request as the provider saw it. Mutable: owned by the connection that answers it."""

    id: str
    ordinal: int
    connection: int
    on_connection: int
    """0 for the first request of its connection."""
    method: str
    path: str
    headers: list[tuple[str, str]]
    body_sha256: str
    body_bytes: int
    body: bytes | None
    started_us: int
    model: str = ""
    stream: bool = False
    fault: str | None = None
    label: str | None = None
    status: int = 0
    state: State = State.OPEN
    bill: Bill = Bill.GENERATED
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens_whole: int = 0
    output_tokens_sent: int = 0
    bytes_sent: int = 0
    first_byte_us: int | None = None
    ended_us: int | None = None
    disconnected_us: int | None = None
    """When the peer went away before its answer had ended."""
    generation: int = 0
    """The ledger's, when the request was entered."""

    def billed(self) -> tuple[int, int, int]:
        """Return the input, cached and output tokens that this request costs so far."""
        if self.status >= 400:
            return 0, 0, 0
        if self.state is not State.DONE and self.bill is Bill.NONE:
            return 0, 0, 0
        output = self.output_tokens_sent
        # An error event ends an answer of which no more was generated than was sent.
        is_whole = self.state is State.DONE and self.fault != Fault.SSE_ERROR_MID
        if self.bill is Bill.ALL or is_whole:
            output = self.output_tokens_whole
        return self.input_tokens, self.cached_tokens, output

    def worst(self) -> tuple[int, int, int]:
        """Return the tokens that this request may yet cost, what it costs already included."""
        if self.status >= 400:
            return 0, 0, 0
        return self.input_tokens, self.cached_tokens, self.output_tokens_whole


@dataclass(slots=True)
class Totals:
    """Sums over requests that have ended, but for `requests` and `open`."""

    requests: int = 0
    open: int = 0
    errors: int = 0
    disconnected: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    unpriced: int = 0
    """Requests that billed tokens at a model without a price: never counted as free."""

    def as_json(self) -> dict[str, object]:
        """Return what `/_ledger` shows."""
        return {
            "requests": self.requests,
            "open": self.open,
            "errors": self.errors,
            "disconnected": self.disconnected,
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "cost_nusd": self.cost_nusd,
            "cost_usd": usd_text(self.cost_nusd),
            "unpriced": self.unpriced,
        }


@dataclass(slots=True)
class Running:
    """What one model or label has cost up to this moment."""

    requests: int = 0
    open: int = 0
    billed_nusd: int = 0
    """Of requests that have ended and of those that are open: never falls."""
    worst_nusd: int = 0
    """As `billed_nusd`, with what is open billed to the end of its answer."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """All that was received and billed since the start or the last reset."""

    prices: Mapping[str, Price]
    records_max: int
    totals: Totals = field(default_factory=Totals)
    by_model: dict[str, Totals] = field(default_factory=dict)
    by_label: dict[str, Totals] = field(default_factory=dict)
    live: dict[int, Record] = field(default_factory=dict)
    """Requests that are not answered yet, by ordinal."""
    records: deque[Record] = field(default_factory=deque)
    shed: int = 0
    generation: int = 0
    """Counts resets: a request from before one leaves the sums after it alone."""

    def open(self, record: Record) -> None:
        """Enter a request that has been read."""
        record.generation = self.generation
        self.totals.requests += 1
        self.totals.open += 1
        self.live[record.ordinal] = record
        self.records.append(record)
        if len(self.records) > self.records_max:
            self.records.popleft()
            self.shed += 1

    def close(self, record: Record, state: State, *, disconnected: bool) -> None:
        """Bill a request that has ended."""
        record.state = state
        record.ended_us = mono_us()
        if disconnected:
            record.disconnected_us = record.ended_us
        if record.generation != self.generation:
            return
        self.totals.open -= 1
        del self.live[record.ordinal]
        self._add(self.totals, record)
        for name, sums in ((record.model, self.by_model), (record.label, self.by_label)):
            if name and (name in sums or len(sums) < LABELS_MAX):
                each = sums.setdefault(name, Totals())
                each.requests += 1
                self._add(each, record)

    def reset(self) -> None:
        """Forget everything; requests in flight are not billed to what follows."""
        self.totals = Totals()
        self.by_model = {}
        self.by_label = {}
        self.live = {}
        self.records = deque()
        self.shed = 0
        self.generation += 1

    def cost_nusd(self, record: Record) -> int | None:
        """Return what a request costs, None at a model without a price."""
        return self._price(record.model, record.billed())

    def totals_json(self) -> bytes:
        """Return the body of `GET /_ledger/totals`: what was billed up to this moment."""
        total = self._running(self.totals)
        models = {name: self._running(each) for name, each in self.by_model.items()}
        labels = {name: self._running(each) for name, each in self.by_label.items()}
        for record in self.live.values():
            billed = self._price(record.model, record.billed()) or 0
            worst = self._price(record.model, record.worst()) or 0
            sums = [total]
            if record.model:
                sums.append(models.setdefault(record.model, Running()))
            if record.label:
                sums.append(labels.setdefault(record.label, Running()))
            for each in sums:
                each.open += 1
                each.billed_nusd += billed
                each.worst_nusd += worst
                # A sum over all counts a request when it comes, the others when it ends.
                each.requests += each is not total
        return orjson.dumps(
            {"now_us": mono_us(), "total": total, "by_model": models, "by_label": labels}
        )

    def as_json(self, keep: Callable[[Record], bool]) -> bytes:
        """Return the body of `GET /_ledger`, with the records that `keep` accepts."""
        return orjson.dumps(
            {
                "totals": self.totals.as_json(),
                "by_model": {name: each.as_json() for name, each in self.by_model.items()},
                "by_label": {name: each.as_json() for name, each in self.by_label.items()},
                "shed": self.shed,
                "now_us": mono_us(),
                "requests": [self._record(each) for each in self.records if keep(each)],
            }
        )

    def _price(self, model: str, tokens: tuple[int, int, int]) -> int | None:
        input_tokens, cached_tokens, output_tokens = tokens
        if input_tokens == output_tokens == 0:
            return 0
        if model not in self.prices:
            return None
        return self.prices[model].cost_nusd(
            input_tokens=input_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens
        )

    def _running(self, totals: Totals) -> Running:
        return Running(
            requests=totals.requests,
            billed_nusd=totals.cost_nusd,
            worst_nusd=totals.cost_nusd,
        )

    def _add(self, totals: Totals, record: Record) -> None:
        input_tokens, cached_tokens, output_tokens = record.billed()
        totals.input_tokens += input_tokens
        totals.cached_tokens += cached_tokens
        totals.output_tokens += output_tokens
        totals.errors += record.status >= 400
        totals.disconnected += record.disconnected_us is not None
        cost_nusd = self.cost_nusd(record)
        if cost_nusd is None:
            totals.unpriced += 1
        else:
            totals.cost_nusd += cost_nusd

    def _record(self, record: Record) -> dict[str, object]:
        input_tokens, cached_tokens, output_tokens = record.billed()
        cost_nusd = self.cost_nusd(record)
        shown: dict[str, object] = {
            "id": record.id,
            "ordinal": record.ordinal,
            "connection": record.connection,
            "on_connection": record.on_connection,
            "method": record.method,
            "path": record.path,
            "model": record.model,
            "stream": record.stream,
            "label": record.label,
            "fault": record.fault,
            "status": record.status,
            "state": record.state.value,
            "input_tokens": input_tokens,
            "cached_tokens": cached_tokens,
            "output_tokens": output_tokens,
            "output_tokens_sent": record.output_tokens_sent,
            "bytes_sent": record.bytes_sent,
            "cost_nusd": cost_nusd,
            "cost_usd": None if cost_nusd is None else usd_text(cost_nusd),
            "disconnected": record.disconnected_us is not None,
            "started_us": record.started_us,
            "first_byte_us": record.first_byte_us,
            "ended_us": record.ended_us,
            "disconnected_us": record.disconnected_us,
            "headers": [
                (name, fingerprint(value) if name in SECRET_HEADERS else value)
                for name, value in record.headers
            ],
            "authorization": next(
                (fingerprint(text) for name, text in record.headers if name == "authorization"),
                None,
            ),
            "body_bytes": record.body_bytes,
            "body_sha256": record.body_sha256,
        }
        if record.body is not None:
            shown["body"] = record.body.decode("utf-8", "backslashreplace")
        return shown


def fingerprint(secret: str) -> str:
    """Return what stands for a key: enough to compare, not enough to use.

    The scheme word of an `authorization` value is not part of it.
    """
    key = secret.rpartition(" ")[2]
    return "sha256:" + sha256(key.encode()).hexdigest()[:FINGERPRINT_DIGITS]
