"""How the stand-in provider behaves for one request, and the small grammar that says so.

`first_byte_ms=40; tokens=lognormal:120:0.6; fault=sse_reset_mid; at=3`: settings are
`key=value`, separated by `;`. They are taken from flags, from a flag for one model, from a path
prefix `/_s/SETTINGS/v1/...`, from the model's name after `?` (or after `sim:`), from the body's
`metadata.simulate` and from the header `x-simulate`; each wins over the ones before it. They
are declared once, below, and the flags are made from them.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, unique
from hashlib import sha256
from statistics import NormalDist
from typing import Final, TypeVar
from urllib.parse import unquote

TOKENS_MAX: Final = 1_000_000
"""Output tokens of one answer; a longer one is a typing mistake."""

SIZE_BYTES_MAX: Final = 1 << 30
DELAY_MS_MAX: Final = 3_600_000.0
DIMENSIONS_MAX: Final = 16_384
MODEL_PREFIX: Final = "sim:"


class SettingsError(Exception):
    """A setting that cannot be read; the message names it, its value and what is known."""


@unique
class Fault(StrEnum):
    """Every way to misbehave, by what a gateway would see."""

    RESET_BEFORE = "reset_before"
    FIN_BEFORE = "fin_before"
    RESET_MID_HEAD = "reset_mid_head"
    FIN_MID_HEAD = "fin_mid_head"
    GARBAGE = "garbage"
    GARBAGE_HOLD = "garbage_hold"
    BAD_STATUS_LINE = "bad_status_line"
    HEADER_NUL = "header_nul"
    HEADER_CTL = "header_ctl"
    HEADER_CTL_CR = "header_ctl_cr"
    STALL_HEADERS = "stall_headers"
    STALL_MID_HEAD = "stall_mid_head"
    STALL_BODY = "stall_body"
    CL_NEGATIVE = "cl_negative"
    CL_TWICE_DIFFER = "cl_twice_differ"
    CL_TOO_LONG = "cl_too_long"
    TE_AND_CL = "te_and_cl"
    FIN_MID_BODY = "fin_mid_body"
    RESET_MID_BODY = "reset_mid_body"
    STALL_MID_BODY = "stall_mid_body"
    BAD_CHUNK_SIZE = "bad_chunk_size"
    CHUNK_SIZE_OVERFLOW = "chunk_size_overflow"
    SSE_RESET_MID = "sse_reset_mid"
    SSE_FIN_MID = "sse_fin_mid"
    SSE_STALL_MID = "sse_stall_mid"
    SSE_ERROR_MID = "sse_error_mid"
    SSE_CUT_IN_EVENT = "sse_cut_in_event"
    SSE_CUT_UTF8 = "sse_cut_utf8"
    SSE_NO_DONE = "sse_no_done"
    SSE_BIG_EVENT = "sse_big_event"
    SSE_SPLIT1 = "sse_split1"
    EXTRA_RESPONSE = "extra_response"
    EXTRA_BYTES = "extra_bytes"
    STATUS_100 = "status_100"
    STATUS_103 = "status_103"
    ENDLESS_100 = "endless_100"
    UPGRADE_101 = "upgrade_101"
    TRAILERS = "trailers"
    HUGE_HEADER = "huge_header"
    MANY_HEADERS = "many_headers"
    ENDLESS_HEADERS = "endless_headers"
    ENDLESS_BODY = "endless_body"
    GZIP = "gzip"
    GZIP_BAD = "gzip_bad"
    GZIP_BOMB = "gzip_bomb"
    REDIRECT = "redirect"
    REDIRECT_307 = "redirect_307"
    CONN_CLOSE = "conn_close"
    HTTP10_CLOSE = "http10_close"
    EOF_DELIMITED = "eof_delimited"
    CLOSE_AFTER_OK = "close_after_ok"
    HALF_CLOSE = "half_close"
    STALE_RESET = "stale_reset"
    STALE_FIN = "stale_fin"
    EARLY_413 = "early_413"
    EARLY_200 = "early_200"
    DRIP = "drip"
    DRIP_HEAD = "drip_head"
    DRIP_BODY = "drip_body"


EARLY_FAULTS: Final = frozenset({Fault.EARLY_413, Fault.EARLY_200})
"""Answered as soon as the head is read: only a path prefix, a flag or the header can ask."""


@unique
class UsageLie(StrEnum):
    """What the reported usage says; the ledger always has the truth."""

    HONEST = "honest"
    MISSING = "missing"
    NULL = "null"
    ZERO = "zero"
    NEGATIVE = "negative"
    STRING = "string"
    FLOAT = "float"
    NAN = "nan"
    HUGE = "huge"
    TWICE = "twice"
    TWICE_LOWER = "twice_lower"
    WITH_CHOICE = "with_choice"
    RUNNING = "running"
    """Each event of a stream has the usage up to it, as vLLM's can."""
    RUNNING_ONLY = "running_only"
    """As `RUNNING`, without the event that tells the sum at the end."""


@unique
class Malformed(StrEnum):
    """What stands in the body of a 200 that no client can read."""

    JSON = "json"
    EMPTY = "empty"
    HTML = "html"
    ARRAY = "array"
    UTF8 = "utf8"


@unique
class Bill(StrEnum):
    """What a request costs that was not answered to the end."""

    GENERATED = "generated"
    ALL = "all"
    NONE = "none"


class Chance:
    """Draws that depend on nothing but a seed, so that a run repeats."""

    __slots__ = ("_count", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def share(self) -> float:
        """Return the next figure, evenly spread over 0 to 1, both excluded."""
        self._count += 1
        digest = sha256(self._seed + self._count.to_bytes(8, "big")).digest()
        # 52 bits and a half: the ends can never come out, so no logarithm meets a zero.
        return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / (1 << 52)


@dataclass(frozen=True, slots=True)
class Spread:
    """A fixed figure, or a log-normal one: median and sigma, as real latencies are."""

    median: float
    sigma: float = 0.0

    def draw(self, chance: Chance) -> float:
        """Return one figure."""
        if self.sigma == 0.0 or self.median == 0.0:
            return self.median
        deviation = NormalDist().inv_cdf(chance.share())
        return self.median * math.exp(self.sigma * deviation)


def _parse_spread(text: str) -> Spread:
    kind, _, rest = text.partition(":")
    if kind != "lognormal":
        return Spread(_parse_number(text))
    median, _, sigma = rest.partition(":")
    return Spread(_parse_number(median), _parse_number(sigma))


def _parse_number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= DELAY_MS_MAX):
        raise ValueError("not between 0 and 3,600,000")
    return value


def _parse_share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("not between 0 and 1")
    return value


def _parse_status(text: str) -> int:
    value = int(text)
    if not 200 <= value <= 599:  # noqa: PLR2004 - 1xx answers are faults of their own.
        raise ValueError("not between 200 and 599")
    return value


def _parse_count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= SIZE_BYTES_MAX:
        raise ValueError("not between 0 and 2^30")
    return value


def _parse_dimensions(text: str) -> int:
    value = int(text)
    if not 1 <= value <= DIMENSIONS_MAX:
        raise ValueError("not between 1 and 16,384")
    return value


def _parse_flag(text: str) -> bool:
    match text:
        case "" | "1" | "true" | "yes":
            return True
        case "0" | "false" | "no":
            return False
        case _:
            raise ValueError("neither true nor false")


def _parse_text(text: str) -> str:
    return text


def _parse_fault(text: str) -> Fault | None:
    return Fault(text) if text != "none" else None


T = TypeVar("T")
Parse = Callable[[str], object]


def _setting(default: T, parse: Parse, prose: str) -> T:
    return field(default=default, metadata={"parse": parse, "prose": prose})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one request is answered. The prose of each is its line in `--help`."""

    first_byte_ms: Spread = _setting(
        Spread(0), _parse_spread, "wait before the first byte: MS or lognormal:MEDIAN:SIGMA"
    )
    token_ms: Spread = _setting(
        Spread(0), _parse_spread, "wait for each output token; a whole answer waits for all"
    )
    tokens: Spread = _setting(
        Spread(16), _parse_spread, "output tokens: N or lognormal:MEDIAN:SIGMA"
    )
    text: str | None = _setting(
        None, unquote, "say this, a token a word, in place of `tokens` words; percent-decoded"
    )
    input_tokens: int | None = _setting(
        None, _parse_count, "input tokens billed; otherwise text bytes / 4, rounded up"
    )
    cached_tokens: int = _setting(0, _parse_count, "of the input, how many were cached")
    reasoning_tokens: int = _setting(
        0, _parse_count, "of the output, how many are reported as reasoning"
    )
    usage: UsageLie = _setting(
        UsageLie.HONEST, UsageLie, f"usage reported: {', '.join(UsageLie)}"
    )
    status: int = _setting(200, _parse_status, "answer with this status and an error body")
    retry_after: str | None = _setting(None, _parse_text, "value of Retry-After on an error")
    message: str | None = _setting(None, _parse_text, "message of the error")
    error_rate: float = _setting(0.0, _parse_share, "share of requests that fail, 0 to 1")
    error_status: int = _setting(500, _parse_status, "the status those fail with")
    fault: Fault | None = _setting(None, _parse_fault, f"misbehave: {', '.join(Fault)}")
    at: int | None = _setting(
        None, _parse_count, "where a cut falls: tokens sent before it; default: half of them"
    )
    size_bytes: int | None = _setting(None, _parse_count, "size of what a fault makes huge")
    drip_ms: float = _setting(1.0, _parse_number, "wait between two bytes of a drip")
    times: int | None = _setting(
        None, _parse_count, "misbehave only so many times for one model, then serve"
    )
    malformed: Malformed | None = _setting(
        None, Malformed, f"a 200 with an unreadable body: {', '.join(Malformed)}"
    )
    bill: Bill = _setting(
        Bill.GENERATED, Bill, f"cost of an answer that was cut: {', '.join(Bill)}"
    )
    ignore_limit: bool = _setting(
        default=False, parse=_parse_flag, prose="answer beyond the limit that the caller set"
    )
    obfuscation: bool = _setting(
        default=False, parse=_parse_flag, prose="pad stream events as OpenAI does"
    )
    tool_call: bool = _setting(
        default=False, parse=_parse_flag, prose="answer with a call of the first tool"
    )
    dimensions: int = _setting(1536, _parse_dimensions, "length of an embedding")
    label: str | None = _setting(None, _parse_text, "noted in the ledger, to find it again")


FIELDS: Final = {each.name: each for each in dataclasses.fields(Settings)}


def parse_settings(text: str, base: Settings) -> Settings:
    """Read settings text over `base`.

    `hang=head|mid` and `cut=reset|fin[@TOKENS]` are short for a fault.

    Raises:
        SettingsError: An unknown key or a value that does not fit it.
    """
    changes: dict[str, object] = {}
    for part in text.split(";"):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key:
            changes |= _parse_one(key.replace("-", "_"), value)
    return dataclasses.replace(base, **changes) if changes else base  # type: ignore[arg-type]


def _parse_one(key: str, value: str) -> dict[str, object]:
    match key, value.partition("@"):
        case "hang", ("head", _, _):
            return {"fault": Fault.STALL_HEADERS}
        case "hang", ("mid", _, at):
            return {"fault": Fault.SSE_STALL_MID} | _parse_at(at)
        case "cut", ("reset", _, at):
            return {"fault": Fault.SSE_RESET_MID} | _parse_at(at)
        case "cut", ("fin", _, at):
            return {"fault": Fault.SSE_FIN_MID} | _parse_at(at)
        case _:
            pass
    if key not in FIELDS:
        nearest = difflib.get_close_matches(key, [*FIELDS, "hang", "cut"], n=1)
        hint = f", nearest `{nearest[0]}`" if nearest else ""
        raise SettingsError(f"unknown setting `{key}`{hint}")
    parse: Parse = FIELDS[key].metadata["parse"]
    try:
        return {key: parse(value)}
    except ValueError as error:
        raise SettingsError(f"setting `{key}`: `{value}`: {error}") from error


def _parse_at(text: str) -> dict[str, object]:
    return _parse_one("at", text) if text else {}


def split_model(name: str) -> tuple[str, str]:
    """Split a model's name from the settings in it.

    Returns:
        The bare name and the settings text: `gpt-4o?tokens=3` gives `gpt-4o` and `tokens=3`;
        `sim:status=500` gives `sim` and `status=500`; a plain name gives itself and nothing.
    """
    if name.startswith(MODEL_PREFIX):
        return "sim", name[len(MODEL_PREFIX) :]
    bare, _, settings = name.partition("?")
    return bare, settings
