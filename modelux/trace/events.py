"""What happened to a budget, as it is kept in the trace store and told to others.

An event is made once, by whoever copies the ledger, and has an id of its own from then on: it
may be handed in again after a kill, and is stored once. Its day is that of its `ts_us`.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum, unique
from typing import Final

from modelux.trace.files import TraceFiles, day_of
from modelux.trace.schema import open_day_to_read


@unique
class EventKind(Enum):
    """What happened; the values are public and permanent."""

    THRESHOLD_REACHED = "budget.threshold_reached"
    """Spent and held have reached the part of the cap that is to be told of."""
    EXCEEDED = "budget.exceeded"
    """A request did not fit because the cap is spent."""
    OVERRUN = "budget.overrun"
    """A provider billed more than was held."""
    SUBJECTS_FULL = "budget.subjects_full"
    """New values of a `*` budget share the overflow row from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEvent:
    """One event, with the amounts of the row as they stood then, in nano-USD."""

    id: str
    ts_us: int
    kind: EventKind
    budget_id: str
    """32 hexadecimal digits: which budget, whatever it is called."""
    budget: str
    """Its name; empty where it was gone from the configuration already."""
    subject: str
    """Whose row; empty where the budget has only one."""
    window_start_s: int
    window_end_s: int | None
    """None for a budget over all time."""
    cap_nusd: int | None
    """None where the budget was gone from the configuration already."""
    credits_nusd: int
    spent_nusd: int
    held_nusd: int
    overrun_nusd: int
    """Of an overrun, what was billed above the holds this time; of others 0."""


_NAMES: Final = tuple(one.name for one in fields(BudgetEvent))
COLUMNS: Final = ", ".join(_NAMES)
MARKS: Final = ", ".join("?" * len(_NAMES))

Plain = str | int | None


def event_row(event: BudgetEvent) -> tuple[Plain, ...]:
    """Return the columns of an event, in the order of `COLUMNS`."""
    kind = event.kind.value
    return tuple(kind if name == "kind" else getattr(event, name) for name in _NAMES)


def event_of(row: Sequence[Plain]) -> BudgetEvent:
    """Read what `event_row` wrote."""
    values = dict(zip(_NAMES, row, strict=True))
    return BudgetEvent(**(values | {"kind": EventKind(values["kind"])}))  # type: ignore[arg-type]


def insert_events(day: sqlite3.Connection, events: Iterable[BudgetEvent]) -> None:
    """Add events to their day; those that are there already stay as they are.

    Raises:
        sqlite3.Error: They cannot be written.
    """
    day.executemany(
        f"INSERT OR IGNORE INTO events ({COLUMNS}) VALUES ({MARKS})",  # noqa: S608 - ours.
        [event_row(event) for event in events],
    )


def load_events(
    files: TraceFiles, start_us: int, end_us: int, count_max: int
) -> list[BudgetEvent]:
    """Return the newest events from `start_us` until before `end_us`, oldest first.

    A day that cannot be read, or that was written before there were events, has none.
    """
    rows = newest_rows(files, f"SELECT {COLUMNS} FROM events", start_us, end_us, count_max)  # noqa: S608
    return [event_of(row) for row in rows]


def newest_rows(
    files: TraceFiles, select: str, start_us: int, end_us: int, count_max: int
) -> list[Sequence[Plain]]:
    """Return the newest rows of a table of events from `start_us` until before `end_us`.

    Args:
        select: `SELECT COLUMNS FROM TABLE`, in words of ours; the table has `ts_us` and `id`.

    Returns:
        The rows, oldest first; a day that cannot be read, or has no such table, has none.
    """
    found: list[Sequence[Plain]] = []
    query = f"{select} WHERE ts_us >= ? AND ts_us < ? ORDER BY ts_us DESC, id LIMIT ?"
    for day in reversed(files.days()):
        if not day_of(start_us) <= day <= day_of(end_us) or len(found) >= count_max:
            continue
        try:
            connection = open_day_to_read(files.day_path(day))
        except sqlite3.Error:
            continue
        try:
            values = (start_us, end_us, count_max - len(found))
            found += connection.execute(query, values)
        except sqlite3.Error:
            continue
        finally:
            connection.close()
    return found[::-1]
