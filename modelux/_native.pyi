"""The native module, as the type checker sees it. One section a file of `rust/py/src`."""

from collections.abc import Generator
from os import PathLike
from typing import Final, Literal, TypeAlias, TypedDict, final, type_check_only

__all__ = [
    "CHUNK_FAULTS",
    "CHUNK_LINE_BYTES_MAX",
    "Catalogue",
    "Cells",
    "ChunkedDecoder",
    "FAULT_CALLER_GONE",
    "FAULT_CONNECT",
    "FAULT_EOF",
    "FAULT_RESET",
    "FAULT_SHUTDOWN",
    "FAULT_TIMEOUT",
    "Facts",
    "Gate",
    "HEADERS_COUNT_MAX",
    "HEAD_BYTES_CAP",
    "HEAD_FAULTS",
    "HeadFault",
    "Ledger",
    "LedgerError",
    "LedgerFullError",
    "LedgerInconsistentError",
    "LedgerNotOursError",
    "Live",
    "LiveCredential",
    "LiveMark",
    "LiveTarget",
    "Local",
    "ModelInfo",
    "Need",
    "Plan",
    "RULE_DEPTH_MAX",
    "RULE_FUNCTIONS",
    "RULE_NODES_MAX",
    "RULE_TEXT_BYTES_MAX",
    "RULE_VARIABLES",
    "Redactor",
    "Refused",
    "RequestHead",
    "ResponseHead",
    "RingBusyError",
    "RingError",
    "RingReader",
    "RingWriter",
    "RuleReport",
    "STEP_CUT",
    "STEP_DONE",
    "STEP_FAILED",
    "STEP_MORE",
    "STEP_WRITE",
    "ScanError",
    "Slots",
    "Snapshot",
    "SseFollower",
    "TRAILER_BYTES_MAX",
    "Usage",
    "VERDICT_COUNT",
    "VERDICT_GATHER",
    "VERDICT_GO",
    "VERDICT_PAUSE",
    "VERDICT_STOPPED",
    "VERDICT_WAIT",
    "__version__",
    "check_rule",
    "count",
    "count_text",
    "evaluate_rule",
    "is_timezone",
    "is_vocabulary_loaded",
    "load_vocabulary",
    "parse_request",
    "parse_response",
    "parse_toml",
    "patch",
    "read_facts",
    "relayed_tokens",
    "route",
    "row_key",
    "scan",
    "usage_of_answer",
    "vocabulary",
    "window",
]

__version__: str

# --- cells.rs ------------------------------------------------------------------------------

@final
class Cells:
    """Shared counters of one node: one mapped file, one atomic word a cell.

    Names: `mode` (0 starting, 1 ready, 2 draining, 3 crash loop), `bugs`, `bugs_writer`,
    `bugs_control`, `restarts_exited`, `restarts_killed`, `restarts_stalled`,
    `restarts_replaced`, `snapshot_generation`; with a worker slot: `heartbeat_us`, `in_flight`,
    `connections_open`, `upstreams_open`, `requests`, `worker_snapshot`, `worker_pid`,
    `overloaded`. An unknown name is a `KeyError`, a slot out of range an `IndexError`.
    """

    @staticmethod
    def create(path: str | PathLike[str], workers: int) -> Cells: ...
    @staticmethod
    def open(path: str | PathLike[str]) -> Cells: ...
    @property
    def workers(self) -> int: ...
    def get(self, name: str, slot: int = 0) -> int: ...
    def set(self, name: str, value: int, slot: int = 0) -> None: ...
    def add(self, name: str, delta: int, slot: int = 0) -> None: ...
    def take(self, key: int, now_us: int, rpm: int, burst: int) -> tuple[bool, int, int, int]:
        """Return allowed, remaining, reset_us, retry_after_us."""

# --- live.rs -------------------------------------------------------------------------------

@final
class LiveTarget:
    """A target: its breaker, what is in flight, and how it fared in the last five minutes."""

    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def state(self) -> str:
        """Return `closed`, `open` or `half_open`."""

    @property
    def since_us(self) -> int:
        """Return when that began, on the monotonic clock; 0: it was never otherwise."""

    @property
    def until_us(self) -> int | None:
        """Return when an open one may be probed; None: it is not open."""

    @property
    def error_rate(self) -> float | None:
        """Return the share of failures of the last 30 s; None without a result."""

    @property
    def in_flight(self) -> int: ...
    @property
    def last_used_us(self) -> int: ...
    @property
    def attempts(self) -> int:
        """Return how many have begun since the entry was made."""

    @property
    def ok(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def p50_ttft_ms(self) -> float | None: ...
    @property
    def p95_ttft_ms(self) -> float | None: ...
    @property
    def p99_ttft_ms(self) -> float | None: ...
    @property
    def p50_latency_ms(self) -> float | None: ...
    @property
    def p95_latency_ms(self) -> float | None: ...
    @property
    def p99_latency_ms(self) -> float | None: ...
    @property
    def averages(self) -> list[tuple[str, float | None, float | None]]:
        """Return size class, TTFT and total in µs, of the classes that have samples."""

@final
class LiveCredential:
    """A credential that a provider has refused or asked to wait, now or before."""

    @property
    def provider(self) -> str: ...
    @property
    def credential(self) -> str: ...
    @property
    def rejected_until_us(self) -> int | None: ...
    @property
    def cooling_until_us(self) -> int | None: ...

@final
class LiveMark:
    """How often a node of a routing config was chosen."""

    @property
    def hits(self) -> int: ...
    @property
    def last_unix_s(self) -> int: ...
    @property
    def null_run(self) -> int: ...

@final
class Live:
    """Health and latency of providers, shared by all processes of one node.

    Times are on the monotonic clock. Workers write it from within their gates; the calls here
    that write are for tests. A result is `ok`, `failed` or `neutral`, else a `KeyError`.
    """

    @staticmethod
    def file_bytes(workers: int) -> int: ...
    @staticmethod
    def open_or_create(path: str | PathLike[str], boot_id: str, workers: int) -> Live:
        """Keep what lies there if it is of this boot and layout; else make it anew."""

    @staticmethod
    def open(path: str | PathLike[str]) -> Live: ...
    @property
    def workers(self) -> int: ...
    def targets(self, now_us: int) -> list[LiveTarget]: ...
    def credentials(self, now_us: int) -> list[LiveCredential]: ...
    def mark(self, name: str) -> LiveMark | None: ...
    def clear_worker(self, worker: int) -> None:
        """Say that nothing is in flight in this worker slot."""

    def began(self, provider: str, model: str, worker: int, now_us: int) -> None: ...
    def ended(self, provider: str, model: str, worker: int) -> None: ...
    def latency(
        self,
        provider: str,
        model: str,
        input_tokens: int,
        ttft_us: int,
        total_us: int,
        now_us: int,
    ) -> None: ...
    def report(
        self, provider: str, model: str, result: str, began_us: int, now_us: int
    ) -> tuple[str, str] | None:
        """Return the states before and after, if that changed."""

    def take_probe(self, provider: str, model: str, now_us: int) -> bool: ...
    def cool(
        self, provider: str, model: str, credential: str, until_us: int, now_us: int
    ) -> None: ...
    def reject_credential(
        self, provider: str, credential: str, secret_hash: int, now_us: int
    ) -> None: ...
    def touch(self, name: str, unix_s: int) -> None: ...
    def null_run(self, name: str, is_null: bool) -> int: ...  # noqa: FBT001

# --- gate.rs -------------------------------------------------------------------------------

VERDICT_GO: Final[int]
VERDICT_WAIT: Final[int]
VERDICT_COUNT: Final[int]
VERDICT_STOPPED: Final[int]
VERDICT_GATHER: Final[int]
VERDICT_PAUSE: Final[int]
STEP_MORE: Final[int]
STEP_WRITE: Final[int]
STEP_DONE: Final[int]
STEP_FAILED: Final[int]
STEP_CUT: Final[int]

FAULT_CONNECT: Final[int]
FAULT_TIMEOUT: Final[int]
FAULT_RESET: Final[int]
FAULT_EOF: Final[int]
FAULT_CALLER_GONE: Final[int]
FAULT_SHUTDOWN: Final[int]

@final
class Need:
    """More bytes are needed: a head, or the rest of a body."""

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole request once that is known, else 0."""

    @property
    def head_bytes(self) -> int:
        """Where the head ends, where the body is chunked; else 0."""

    @property
    def expect_continue(self) -> bool: ...

@final
class Local:
    """An answer that needs no provider: health, models, dry runs."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def is_stream(self) -> bool: ...
    @property
    def consumed(self) -> int: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def head_only(self) -> bool: ...
    @property
    def http_1_0(self) -> bool: ...
    @property
    def lines(self) -> bytes:
        """Head lines besides the id."""

@final
class Refused:
    """A refused request: what to tell its caller."""

    @property
    def id(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def param(self) -> str | None: ...
    @property
    def allow(self) -> str | None: ...
    @property
    def retry_after_s(self) -> int | None: ...
    @property
    def consumed(self) -> int: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def head_only(self) -> bool: ...
    @property
    def http_1_0(self) -> bool: ...
    @property
    def rate_lines(self) -> bytes: ...

@type_check_only
class BudgetFigures(TypedDict):
    """What `error.budget` says, in nano-USD."""

    name: str
    spend_nusd: int
    held_nusd: int
    cap_nusd: int
    remaining_nusd: int
    period: str
    period_resets_at: str | None

@type_check_only
class Stopped(TypedDict):
    """Why a budget stops a request."""

    code: str
    message: str
    param: str | None
    retry_after_s: int | None
    max_affordable_output_tokens: int | None
    budget: BudgetFigures | None

@final
class Plan:
    """One exchange that the gate let in: its attempts, their answers, its record."""

    @property
    def id(self) -> str: ...
    @property
    def consumed(self) -> int: ...
    @property
    def provider_index(self) -> int: ...
    @property
    def connect_timeout_us(self) -> int: ...
    @property
    def deadline_us(self) -> int: ...
    @property
    def reusable(self) -> bool: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def ends_by_close(self) -> bool: ...
    @property
    def wants_fresh_connection(self) -> bool: ...
    @property
    def has_provider_key(self) -> bool: ...
    @property
    def error_retry_after(self) -> str | None: ...
    def forbid_keep_alive(self) -> None: ...
    def connecting(self) -> None: ...
    @property
    def verdict(self) -> int:
        """What the current attempt waits for: one of `VERDICT_*`."""

    @property
    def not_before_us(self) -> int:
        """The instant before which the current attempt must not be sent."""

    @property
    def drains(self) -> bool:
        """Whether the caller is gone and the answer is read on for its usage only."""

    def stopped(self) -> Stopped | None: ...
    def to_count(self) -> tuple[bytes, str, str] | None:
        """Return body, shape and vocabulary of a text that is to be counted."""

    def counted(self, text_tokens: int | None) -> None: ...
    def send(self) -> bytes:
        """Return the bytes of the current attempt, which are to be written at once."""

    def answer(self, data: bytes) -> tuple[int, bytes]:
        """Take in bytes of the answer; return a step and what to write to the caller."""

    def fault(self, fault: int) -> tuple[int, bytes]: ...
    def next(self) -> bool: ...
    def stand(self) -> tuple[int, bytes]:
        """Send an answer that was read before; `STEP_FAILED` where there is none."""

    def members(self) -> tuple[list[Plan], int, bool]:
        """Return an ensemble's calls, how many it needs, whether the last is its judge."""

    @property
    def gather_deadline_us(self) -> int:
        """When the members' time is up."""

    def take_member(self, member: Plan) -> bool:
        """Take in what a member came to; return whether no other is needed."""

    def adopt_stop(self, members: list[Plan]) -> None:
        """Go where a budget sends this request, as not enough of its calls can be held."""

    def brief_judge(self, judge: Plan) -> bool:
        """Give the judge what it has to judge; False where there is nothing to pick from."""

    def take_judge(self, judge: Plan) -> None: ...
    def gathered(self) -> tuple[int, bytes]:
        """Make one answer of the members' answers; return a step and what to write."""

    @property
    def mirrors(self) -> bool:
        """Whether there is traffic to mirror, now that the caller has its answer."""

    def mirror(self) -> Plan | None:
        """Return the call that mirrors this request; None where nobody can take it."""

    def mirrored(self, shadow: Plan | None = None) -> None:
        """Write the record that waited for mirrored traffic."""

    def resume(self) -> None:
        """Take note that the wait before a retry is over."""

    def outcomes(self) -> list[tuple[str, str, str, int | None, int]]:
        """Return target, provider, outcome, status and time limit in ms of each attempt."""

    def error_body(self) -> tuple[str, bool]: ...
    @property
    def recorded(self) -> tuple[int, int] | None:
        """Status and total time in microseconds, once the exchange is recorded."""

    def abandon(self) -> None:
        """Write what is known of an exchange that a bug of ours ended, once."""

    def own_lines(self) -> bytes: ...
    def give_up(self, status: int, kind: str, code: str, message: str) -> None: ...

@final
class Gate:
    """One worker's gate: a request's bytes in, a plan, a refusal or a local answer out."""

    def __new__(
        cls,
        snapshot: bytes,
        secrets: dict[str, str],
        catalogue: bytes,
        models: bytes,
        *,
        cells_path: str | PathLike[str],
        ring_path: str | PathLike[str],
        ring_bytes: int,
        spill_dir: str | PathLike[str],
        spill_bytes_max: int,
        boot_id: str,
        slot: int,
        generation: int,
        seed: tuple[int, int],
        ledger_dir: str | PathLike[str] | None = None,
        live_path: str | PathLike[str] | None = None,
    ) -> Gate: ...
    def load(self, snapshot: bytes, secrets: dict[str, str]) -> None: ...
    def begin(
        self, data: bytes, body: bytes | None, peer: str
    ) -> Plan | Refused | Local | Need: ...
    def refuse(self, data: bytes, code: str, message: str) -> Plan | Refused | Local | Need: ...
    def record_refused(self, refused: Refused, status: int, kind: str, body: bytes) -> None: ...
    def turn(self, plans: list[Plan], groups: list[tuple[list[Plan], int, bool]] = ...) -> None:
        """Settle what is due in the ledger, and decide on every plan that waits.

        A group are the calls of one request, how many of them it needs, and whether the last
        of them is a judge.
        """

    @property
    def has_due(self) -> bool:
        """Whether a settle waits for a turn."""

    @property
    def in_flight(self) -> int: ...

# --- indexed.rs ----------------------------------------------------------------------------

def read_facts(
    record: bytes,
) -> tuple[
    str, int, str, str, str, str, str, str, str, str, int, int | str | None, int, int,
    int | None, int | None, int | None, dict[str, str], tuple[tuple[str, str, str], ...],
]:  # fmt: skip
    """Read what the trace store indexes of a record, in the order of `trace.facts.Facts`.

    An amount that has not just nine decimals comes as it is written.

    Raises:
        ValueError: Not a JSON object, or a field of another type; says which.
    """

# --- ledger.rs -----------------------------------------------------------------------------

class LedgerError(Exception):
    """The ledger cannot do what was asked; the message says why."""

class LedgerFullError(LedgerError):
    """There is no room in the ledger."""

class LedgerNotOursError(LedgerError):
    """It is missing, unfinished, a copy, of another boot or of another layout."""

class LedgerInconsistentError(LedgerError):
    """What stands in the ledger contradicts itself, or what was asked contradicts it."""

# key, subject, start and end of the window; spent, held, credits, overrun, crash in nano-USD;
# requests, overruns, flags (1: soft, 2: exceeded, 4: subjects full).
_LedgerRow: TypeAlias = tuple[
    bytes, str, int, int | None, int, int, int, int, int, int, int, int
]

_LedgerStep: TypeAlias = (
    # The row by now, as a `_LedgerRow` without a subject.
    tuple[Literal["balance"], bytes]
    # How many subjects of a budget have a row in the window.
    | tuple[Literal["subjects"], bytes, int]
    # seq, slot, amount, rows: key, subject, end of the window.
    | tuple[Literal["hold"], int, int, int, list[tuple[bytes, str, int | None]]]
    # seq, charge; gives amount and overrun, or None.
    | tuple[Literal["settle"], int, int]
    # key, subject, end of the window, flags.
    | tuple[Literal["flag"], bytes, str, int | None, int]
    # target, charge, bound, µs; gives a factor in thousandths that was just raised, or None.
    | tuple[Literal["overrun"], str, int, int, int]
)

@final
class Ledger:
    """What every budget has spent and holds; every fault is a `LedgerError`.

    A process opens the map once; `as_worker` gives further views of it.
    """

    @staticmethod
    def create(state_dir: str | PathLike[str], *, map_bytes: int, stamp: str) -> Ledger:
        """Make the map, or take over the one made with the same stamp."""

    @staticmethod
    def open(state_dir: str | PathLike[str], generation: int = 0) -> Ledger: ...
    @staticmethod
    def discard(state_dir: str | PathLike[str]) -> None:
        """Remove the map; whoever has it open keeps it, unseen."""

    def close(self) -> None: ...
    def as_worker(self, generation: int) -> Ledger: ...
    def watch(self, path: str | PathLike[str], slot: int) -> None:
        """Mark in the cells at `path` when this process waits for the lock and holds it."""

    @property
    def stamp(self) -> str: ...
    def row(self, key: bytes) -> _LedgerRow | None: ...
    def rows(self) -> list[_LedgerRow]: ...
    def changed_since(self, txn_id: int) -> tuple[int, list[_LedgerRow]]:
        """Return the number to ask with next time, and the rows written after `txn_id`.

        Numbers of two maps, told apart by `identity` in `info`, do not compare.
        """

    def info(self) -> dict[str, int]:
        """Return map_bytes, used_bytes, readers, last_txn_id, holds, identity."""

    def verify(self) -> None:
        """Compare everything with everything; a `LedgerInconsistentError` says what differs."""

    def import_rows(self, rows: list[_LedgerRow]) -> None:
        """Set rows to what a copy says, what they held counted as spent."""

    def set_credits(
        self,
        key: bytes,
        subject: str,
        window_end_s: int | None,
        credits_nusd: int,
    ) -> None: ...
    def drop_past(self, before_s: int, copied_txn_id: int = ...) -> int:
        """Drop rows that ended by then, hold nothing and were not written since the copy."""

    def add_backfill(
        self, budget: bytes, rows: list[tuple[bytes, str, int | None, int]]
    ) -> bool:
        """Add spend to the rows of a budget that is not known yet, and make it known."""

    def knows_budget(self, budget: bytes) -> bool: ...
    def clear_stale_readers(self) -> int: ...
    def orphans(self) -> list[int]:
        """Return the generations that have slots or holds, living ones included."""

    def recover(self, generation: int) -> dict[str, int]:
        """End the holds of a dead worker: alive, released, settled, crashed, crash_nusd."""

    def bound_factors(self) -> tuple[int, list[tuple[str, int, int]]]:
        """Return a generation, and target, factor and worst ratio in thousandths."""

    def reset_bound(self, target: str) -> bool: ...
    def turn(self, steps: Generator[_LedgerStep, object]) -> None:
        """Do what `steps` yields in one transaction, each result sent back; for tests."""

@final
class Slots:
    """A worker's slots; in Python for tests only."""

    def __new__(cls, state_dir: str | PathLike[str], generation: int, count: int) -> Slots: ...
    def take(self) -> int | None: ...
    def held(self, slot: int, seq: int) -> None: ...
    def sent(self, slot: int, charge_if_dead: int) -> None: ...
    def progress(self, slot: int, charge_if_dead: int) -> None: ...
    def done(self, slot: int, charge: int) -> None: ...
    def free(self, slot: int) -> None: ...
    def close(self) -> None: ...

def row_key(
    budget: bytes, values: list[str] | None, window_start_s: int, *, overflow: bool = False
) -> bytes:
    """Return the key of a row; `values` of its `*` scopes, None where it has none."""

def window(timezone: str, period: str, unix_s: int) -> tuple[int, int | None]:
    """Return the first second of the window, and the first after it."""

def is_timezone(name: str) -> bool: ...

# --- pricing.rs ----------------------------------------------------------------------------

@final
class Catalogue:
    """Prices and models; a `ValueError` says why their data cannot be used."""

    def __new__(cls, data: bytes, models: bytes | None = None) -> Catalogue: ...
    @property
    def version(self) -> str: ...
    @property
    def models_version(self) -> str: ...
    def info(self, vendor: str, model: str) -> ModelInfo | None: ...
    def known_models(self, vendor: str) -> list[str]: ...
    def knows(self, vendor: str, model: str) -> bool: ...
    def has_price(self, vendor: str, model: str, at_unix_s: int) -> bool: ...
    def cost(
        self,
        vendor: str,
        model: str,
        at_unix_s: int,
        usage: dict[str, int],
        service_tier: str | None = None,
    ) -> tuple[int, int] | None:
        """Return nano-USD of input and output; `usage` names the parts of a `Usage`."""

    def bound(
        self,
        vendor: str,
        model: str,
        at_unix_s: int,
        body: bytes,
        shape: str,
        limit: int | None = None,
    ) -> tuple[int, int | None]:
        """Return the most that a request may cost, in nano-USD, and its output limit.

        Args:
            vendor: Our name of it.
            model: As the vendor calls it.
            at_unix_s: When.
            body: The request.
            shape: `chat`, `completions` or `embeddings`.
            limit: The output limit; without it the request's own, else the one we would set.

        Raises:
            ValueError: There is no price or no finite bound; the message says why.
        """

@final
class ModelInfo:
    """What is known of one model; the Rust type of that name says what each field means."""

    @property
    def context_tokens(self) -> int | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def tier(self) -> str | None: ...
    @property
    def tools(self) -> bool | None: ...
    @property
    def images(self) -> bool | None: ...
    @property
    def json_schema(self) -> bool | None: ...
    @property
    def image_tokens_max(self) -> int | None: ...
    @property
    def searches(self) -> bool: ...
    @property
    def search_nusd(self) -> int | None: ...

# --- ring.rs -------------------------------------------------------------------------------

class RingError(Exception):
    """A trace ring that cannot be read: another layout or boot, damaged, read by another."""

class RingBusyError(RingError):
    """Another process reads this ring; it may be free a little later."""

@final
class RingWriter:
    """The producing end of a trace ring; in Python for tests only."""

    def __new__(
        cls,
        path: str | PathLike[str],
        spill_dir: str | PathLike[str],
        *,
        ring_bytes: int,
        spill_max_bytes: int,
        boot_id: str = "",
        slot: int = 0,
        generation: int = 0,
    ) -> RingWriter: ...
    def append(
        self,
        meta: bytes,
        request: bytes | None = None,
        response: bytes | None = None,
        bodies: str = "kept",
    ) -> str:
        """Return `ring`, `spill` or `lost`."""

    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...

@final
class RingReader:
    """The consuming end of a trace ring: `read` until nothing comes, `commit` what is stored.

    An `OSError` is the file system's; a `RingError` says why the ring cannot be read.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        spill_dir: str | PathLike[str],
        boot_id: str | None = None,
    ) -> RingReader: ...
    @property
    def slot(self) -> int: ...
    @property
    def generation(self) -> int: ...
    def read(self, records_max: int) -> list[tuple[bytes, bytes, bytes, str]]: ...
    def commit(self) -> None: ...
    def skip(self) -> int: ...
    def owner_alive(self) -> bool: ...
    def is_drained(self) -> bool: ...
    def backlog_bytes(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...

# --- route.rs ------------------------------------------------------------------------------

@final
class Snapshot:
    """A published configuration, compiled, without its secrets: for decisions by themselves."""

    def __new__(cls, document: bytes, catalogue: bytes, models: bytes) -> Snapshot: ...

def route(snapshot: Snapshot, facts: bytes, state: bytes) -> bytes:
    """Decide where a request goes: a pure function, the one that live traffic is routed by.

    Args:
        snapshot: What is configured.
        facts: JSON object: `id`, `model` (`@slug`, `@slug@7`, `provider/model`, `model`); and,
            where they are not empty, `project` (`default`), `endpoint` (`chat`, `completions`,
            `embeddings`), `key_id`, `tags`, `end_user`, `conversation_id`, `stream`,
            `max_output_tokens`, `has_tools`, `has_images`, `json_schema`, `messages`.
        state: JSON object: `decision.inputs` of a record, and its `tokens_by`. `targets` are in
            the order of the config's text; without them all is well with each.

    Returns:
        JSON object: `strategy`, `order` (attempts if all before them fail: `target`,
        `provider`, `model`, `path`), `reason`, `candidates`, `rules`, `variant`, `tokens_by` in
        the words of the record, `needs_count` (a rule asks for tokens that nobody counted), and
        `stopped` (`code`, `reason`) or null.

    Raises:
        ValueError: Either is no such object, or names what the snapshot does not have.
    """

# --- rules.rs ------------------------------------------------------------------------------

RULE_TEXT_BYTES_MAX: Final[int]
RULE_DEPTH_MAX: Final[int]
RULE_NODES_MAX: Final[int]

# Form and meaning of each function.
RULE_FUNCTIONS: Final[tuple[tuple[str, str], ...]]

# Name, type, whether it is known in answers only, and meaning of each variable.
RULE_VARIABLES: Final[tuple[tuple[str, str, bool, str], ...]]

@final
class RuleReport:
    """What is wrong with a rule, or else what it reads."""

    @property
    def fault(self) -> tuple[int, int, str] | None:
        """Line and column, both from 1, and what is wrong; None: the rule is sound."""

    @property
    def targets(self) -> list[tuple[str, int, int]]:
        """Names in `cost`, `latency` and `health`, each once, with line and column."""

    @property
    def budgets(self) -> list[tuple[str, int, int]]:
        """Names in `budgets`, each once, with line and column."""

    @property
    def tags(self) -> list[str]:
        """Keys of the tags it reads."""

    @property
    def variables(self) -> list[str]:
        """Every variable it reads, each once, as a rule would write it."""

def check_rule(text: str, *, answers: bool) -> RuleReport:
    """Read and check a rule.

    Args:
        answers: It is to judge an answer, so `response` is known, too.
    """

def evaluate_rule(
    text: str, values: dict[str, object], *, answers: bool
) -> bool | Literal["open"] | None:
    """Evaluate a rule, for tests and documents.

    Args:
        values: None, bool, number or text by variable; what is missing is null. A tuple of
            two numbers is a span.

    Returns:
        What it says; None: null; `open`: the span leaves it undecided.

    Raises:
        ValueError: The text is no rule.
        KeyError: A name in `values` is no variable.
        TypeError: A value is not of its variable's type.
    """

# --- parse.rs ------------------------------------------------------------------------------

HEAD_FAULTS: list[str]
CHUNK_FAULTS: list[str]
HEAD_BYTES_CAP: int
HEADERS_COUNT_MAX: int
CHUNK_LINE_BYTES_MAX: int
TRAILER_BYTES_MAX: int

@final
class HeadFault:
    """Why a head is refused: `name` is one of `HEAD_FAULTS`, `status` 400 or 431."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def status(self) -> int: ...

@final
class RequestHead:
    """A request's head, copied out; `framing` is `none`, `length` or `chunked`."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def minor_version(self) -> int: ...
    @property
    def framing(self) -> str: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def expect_continue(self) -> bool: ...
    @property
    def head_bytes(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def hop_by_hop(self) -> list[str]: ...

@final
class ResponseHead:
    """A response's head, copied out; `framing` may also be `until_close`."""

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def minor_version(self) -> int: ...
    @property
    def framing(self) -> str: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def head_bytes(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def hop_by_hop(self) -> list[str]: ...

def parse_request(data: bytes, head_bytes_max: int) -> RequestHead | HeadFault | None:
    """Parse a request's head; None while it is not whole."""

def parse_response(
    data: bytes, head_bytes_max: int, *, to_head_request: bool = False
) -> ResponseHead | HeadFault | None:
    """Parse a response's head; None while it is not whole."""

@final
class ChunkedDecoder:
    """Takes one chunked body apart.

    A broken coding is a `ValueError` of two texts: one of `CHUNK_FAULTS`, and a sentence.
    """

    def __new__(cls) -> ChunkedDecoder: ...
    def feed(self, data: bytes) -> tuple[bytes, int, bool]:
        """Return payload, bytes consumed and whether the message has ended."""

# --- scan.rs -------------------------------------------------------------------------------

class ScanError(Exception):
    """A request body that is refused: `args` are `error.code`, `param` or None, `message`."""

@final
class Facts:
    """What one request body says; the Rust type of that name says what each field means."""

    @property
    def model(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def include_usage(self) -> bool | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def limit_key(self) -> str | None: ...
    @property
    def n(self) -> int | None: ...
    @property
    def best_of(self) -> int | None: ...
    @property
    def has_tools(self) -> bool: ...
    @property
    def has_images(self) -> bool: ...
    @property
    def json_schema(self) -> bool: ...
    @property
    def messages(self) -> int: ...
    @property
    def text_bytes(self) -> int: ...
    @property
    def media_bytes(self) -> int: ...
    @property
    def image_count(self) -> int: ...
    @property
    def audio_bytes(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def text_file_bytes(self) -> int: ...
    @property
    def has_unseen(self) -> bool: ...
    @property
    def has_server_tools(self) -> bool: ...
    @property
    def searches_max(self) -> int | None: ...
    @property
    def prompts(self) -> int: ...
    @property
    def prediction_bytes(self) -> int: ...
    @property
    def thinking_budget(self) -> int | None: ...
    @property
    def end_user(self) -> str | None: ...
    @property
    def tags(self) -> list[tuple[str, str]]: ...
    @property
    def trace_id(self) -> str | None: ...
    @property
    def conversation_id(self) -> str | None: ...
    @property
    def mlx_trace(self) -> bool: ...
    @property
    def cache_skip(self) -> bool: ...

def scan(body: bytes, shape: str) -> Facts:
    """Read a body of the shape `chat`, `completions` or `embeddings`, or raise `ScanError`."""

def patch(
    body: bytes,
    model: str | None = None,
    *,
    include_usage: bool = False,
    max_tokens: int | None = None,
    max_completion_tokens: int | None = None,
) -> bytes:
    """Return the body as it would go upstream, or raise `ScanError`.

    An output limit is set in the spelling that it is given in.
    """

@final
class Usage:
    """Tokens of one answer in disjoint parts."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def cache_write_tokens(self) -> int: ...
    @property
    def cache_write_1h_tokens(self) -> int: ...
    @property
    def audio_input_tokens(self) -> int: ...
    @property
    def image_input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def audio_output_tokens(self) -> int: ...

def usage_of_answer(body: bytes) -> Usage | None:
    """Return the usage in a whole answer of the OpenAI protocol, None if there is none."""

@final
class SseFollower:
    """Follows one stream of the OpenAI protocol; bytes in, bytes to relay out."""

    def __new__(cls, *, cut_usage: bool, count_text: bool = False) -> SseFollower: ...
    def feed(self, chunk: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    @property
    def content_seen(self) -> bool: ...
    @property
    def usage(self) -> Usage | None: ...
    @property
    def done_seen(self) -> bool: ...
    @property
    def finish_reason_seen(self) -> bool: ...
    @property
    def error_event(self) -> bytes | None: ...
    @property
    def at_event_boundary(self) -> bool: ...
    @property
    def output_events(self) -> int: ...
    @property
    def usage_events_cut(self) -> int: ...
    @property
    def text_bytes(self) -> int:
        """Bytes of what the model wrote, where they are counted."""

# --- tokens.rs -----------------------------------------------------------------------------

def vocabulary(vendor: str, model: str) -> str | None:
    """Return `cl100k` or `o200k` where the model's exact vocabulary is published."""

def is_vocabulary_loaded(vocabulary: str) -> bool: ...
def load_vocabulary(vocabulary: str) -> None:
    """Load a vocabulary if it is not; slow, so off the event loop."""

def count(body: bytes, shape: str, vocabulary: str) -> int | None:
    """Return an upper bound of the input tokens; None where no formula is public.

    Slow and linear, so for a thread: the interpreter is free meanwhile.
    """

def count_text(text: str, vocabulary: str) -> int: ...
def relayed_tokens(body: bytes, *, is_sse: bool, vocabulary: str | None = None) -> int:
    """Return the tokens of what came of an answer that ended early, or its bytes of text."""

# --- redact.rs -----------------------------------------------------------------------------

@final
class Redactor:
    """Takes API keys, e-mail addresses and what further patterns match out of bodies.

    A `ValueError` names the pattern that is no regular expression of linear time.
    """

    def __new__(cls, patterns: list[str]) -> Redactor: ...
    def redact(self, text: bytes) -> bytes: ...
    def redact_record(self, record: bytes) -> bytes:
        """Take only keys out of a record: it stays JSON, and end users keep their names."""

# --- toml.rs -------------------------------------------------------------------------------

def parse_toml(text: str) -> tuple[dict[str, object], dict[str, int]]:
    """Parse TOML into its values and the line of every key path, counted from 1.

    Raises:
        ValueError: `(message, line, column)`, where the text is not TOML.
    """
