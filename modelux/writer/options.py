"""What the trace writer is told at its start, as one JSON object."""

from dataclasses import dataclass, field, fields
from typing import Final

import orjson

from modelux.trace.retention import RetentionOptions

DRAIN_S: Final = 60.0
LEDGER_RETENTION_DAYS: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """The options of `[server]` that concern traces, by their names there."""

    redact: tuple[str, ...] = ()
    """Further patterns; API keys and e-mail addresses are always taken out."""
    retention: RetentionOptions = field(default_factory=RetentionOptions)
    drain_s: float = DRAIN_S
    """How long workers may take to end once the supervisor is gone."""
    ledger_retention_days: int = LEDGER_RETENTION_DAYS
    """How long the copy of the ledger keeps windows that are over."""
    boot_id: str | None = None
    """Rings of another boot are refused; None: this boot is meant."""
    log_level: str = "info"
    log_format: str = "auto"


def parse_options(text: str) -> WriterOptions:
    """Read the options; those that concern others are left alone.

    Raises:
        ValueError: Not a JSON object, or an option of another type.
    """
    raw = orjson.loads(text)
    if not isinstance(raw, dict):
        raise ValueError("the options are no JSON object")  # noqa: TRY004 - one kind for all.
    bounds = {
        one.name: _whole(one.name, raw[one.name])
        for one in fields(RetentionOptions)
        if one.name in raw
    }
    redact = raw.get("redact", [])
    if not isinstance(redact, list) or not all(isinstance(one, str) for one in redact):
        raise ValueError("`redact` is no list of texts")
    drain_s = raw.get("drain_s", DRAIN_S)
    if isinstance(drain_s, bool) or not isinstance(drain_s, int | float) or drain_s < 0:
        raise ValueError(f"`drain_s` is no time: {drain_s!r}")
    return WriterOptions(
        redact=tuple(redact),
        retention=RetentionOptions(**bounds),
        drain_s=float(drain_s),
        ledger_retention_days=_whole(
            "ledger_retention_days", raw.get("ledger_retention_days", LEDGER_RETENTION_DAYS)
        ),
        boot_id=_text("boot_id", raw.get("boot_id")),
        log_level=_text("log_level", raw.get("log_level")) or "info",
        log_format=_text("log_format", raw.get("log_format")) or "auto",
    )


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` is no number above 0: {value!r}")
    return value


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"`{name}` is no text: {value!r}")
