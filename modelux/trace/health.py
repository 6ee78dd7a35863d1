"""What happened to a target's breaker, as it is kept in the trace store and told to others.

The breakers are in memory that all workers share; the trace writer looks at them once a second.
An event's id is made of what it tells, so a writer that is killed and looks again stores it
once. Its day is that of its `ts_us`.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from modelux.trace.events import newest_rows
from modelux.trace.files import TraceFiles

HEALTH_CHANGED: Final = "provider.health_changed"
"""The public name of these events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthEvent:
    """A target's breaker has changed its state: `closed`, `open`, `half_open`."""

    id: str
    ts_us: int
    provider: str
    model: str
    before: str
    state: str
    error_permille: int | None
    """Failures of 1,000 results in the 30 s before; None without a result."""


_NAMES: Final = tuple(one.name for one in fields(HealthEvent))
_COLUMNS: Final = ", ".join(_NAMES)
_MARKS: Final = ", ".join("?" * len(_NAMES))


def insert_health_events(day: sqlite3.Connection, events: Iterable[HealthEvent]) -> None:
    """Add events to their day; those that are there already stay as they are.

    Raises:
        sqlite3.Error: They cannot be written.
    """
    day.executemany(
        f"INSERT OR IGNORE INTO health_events ({_COLUMNS}) VALUES ({_MARKS})",  # noqa: S608 - ours.
        [tuple(getattr(event, name) for name in _NAMES) for event in events],
    )


def load_health_events(
    files: TraceFiles, start_us: int, end_us: int, count_max: int
) -> list[HealthEvent]:
    """Return the newest events from `start_us` until before `end_us`, oldest first.

    A day that cannot be read, or that was written before there were such events, has none.
    """
    select = f"SELECT {_COLUMNS} FROM health_events"  # noqa: S608 - words of ours.
    return [_event_of(row) for row in newest_rows(files, select, start_us, end_us, count_max)]


def _event_of(row: Sequence[str | int | None]) -> HealthEvent:
    return HealthEvent(**dict(zip(_NAMES, row, strict=True)))  # type: ignore[arg-type]
