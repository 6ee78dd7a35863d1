"""`ledger.db`: the copy of the ledger that survives power loss, and the events copying finds.

The ledger itself lies in memory and dies with the machine. The trace writer copies the rows
that changed at least once a second, each copy one durable transaction (WAL,
`synchronous=FULL`). What a copy shows for the first time (a flag, one more overrun) becomes an
event in that same transaction, so none is made twice or never; events wait in a table of their
own until the trace store has them.

`spent` never falls here either: a row that says less than the copy comes from a map that was
given up, and is left out. Rows outlive the ledger's: they go after `ledger_retention_days`.
"""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from modelux.errors import StoreError
from modelux.store.layout import LEDGER_COPY_FILE
from modelux.store.row import (
    FLAG_EXCEEDED,
    FLAG_SOFT,
    FLAG_SUBJECTS_FULL,
    LedgerRow,
)
from modelux.trace.events import COLUMNS, MARKS, BudgetEvent, EventKind, event_of, event_row
from modelux.trace.schema import is_damaged
from modelux.units import US_PER_S, UnixUs

LAYOUT: Final = 1
BUSY_S: Final = 5.0
"""The supervisor and the trace writer meet here at a start and at an end."""
KEYS_A_QUERY_MAX: Final = 500
EVENTS_A_LOOK_MAX: Final = 1_000

_TABLES: Final = """
CREATE TABLE rows (
  key BLOB PRIMARY KEY,
  subject TEXT NOT NULL,
  window_start_s INTEGER NOT NULL,
  window_end_s INTEGER,
  spent_nusd INTEGER NOT NULL CHECK (spent_nusd >= 0),
  held_nusd INTEGER NOT NULL CHECK (held_nusd >= 0),
  credits_nusd INTEGER NOT NULL CHECK (credits_nusd >= 0),
  overrun_nusd INTEGER NOT NULL CHECK (overrun_nusd >= 0),
  crash_nusd INTEGER NOT NULL CHECK (crash_nusd >= 0),
  requests INTEGER NOT NULL,
  overruns INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  budget TEXT NOT NULL,
  updated_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX rows_window_end_s ON rows (window_end_s) WHERE window_end_s IS NOT NULL;
CREATE TABLE known (budget_id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE events (
  id TEXT PRIMARY KEY,
  ts_us INTEGER NOT NULL,
  kind TEXT NOT NULL,
  budget_id TEXT NOT NULL, budget TEXT NOT NULL, subject TEXT NOT NULL,
  window_start_s INTEGER NOT NULL, window_end_s INTEGER,
  cap_nusd INTEGER,
  credits_nusd INTEGER NOT NULL, spent_nusd INTEGER NOT NULL, held_nusd INTEGER NOT NULL,
  overrun_nusd INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""

_COLUMNS: Final = (
    "key, subject, window_start_s, window_end_s, spent_nusd, held_nusd, credits_nusd, "
    "overrun_nusd, crash_nusd, requests, overruns, flags"
)
_UPSERT: Final = f"""
INSERT INTO rows ({_COLUMNS}, budget, updated_us) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (key) DO UPDATE SET
  window_end_s = excluded.window_end_s, spent_nusd = excluded.spent_nusd,
  held_nusd = excluded.held_nusd, credits_nusd = excluded.credits_nusd,
  overrun_nusd = excluded.overrun_nusd, crash_nusd = excluded.crash_nusd,
  requests = excluded.requests, overruns = excluded.overruns, flags = excluded.flags,
  budget = CASE excluded.budget WHEN '' THEN budget ELSE excluded.budget END,
  updated_us = excluded.updated_us
"""  # noqa: S608 - names of ours.
_FLAG_EVENTS: Final = (
    (FLAG_SOFT, EventKind.THRESHOLD_REACHED),
    (FLAG_EXCEEDED, EventKind.EXCEEDED),
    (FLAG_SUBJECTS_FULL, EventKind.SUBJECTS_FULL),
)


class DamagedCopyError(StoreError):
    """`ledger.db` itself is broken: what it held can be read no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the configuration says of a budget that the ledger does not."""

    name: str
    cap_nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What one copy did."""

    rows: int
    events: int
    fallen: tuple[LedgerRow, ...]
    """Rows that say less than the copy does: left out."""


@final
class LedgerCopy:
    """One connection to `ledger.db`, for one thread."""

    __slots__ = ("_connection", "path")

    def __init__(self, data_dir: Path) -> None:
        """Open the copy, making it where it is missing.

        Raises:
            DamagedCopyError: It is broken.
            StoreError: It cannot be used, or a later release made it.
        """
        self.path = data_dir / LEDGER_COPY_FILE
        try:
            is_new = not self.path.exists()
            self._connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            if is_new:
                self.path.chmod(0o600)
            self._prepare()
        except sqlite3.Error as failure:
            raise self._failure("used", failure) from failure
        except OSError as failure:
            raise StoreError(f"`{self.path}` cannot be used: {failure}") from failure

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def write(
        self, rows: Sequence[LedgerRow], named: Mapping[bytes, Named], now_us: UnixUs
    ) -> Written:
        """Copy rows durably, and make events of what they show for the first time.

        Raises:
            StoreError: The disk is full or broken; nothing of it is written.
        """
        begun = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            begun = True
            before = self._rows_of([row.key for row in rows])
            fallen = []
            upserts: list[tuple[object, ...]] = []
            events: list[BudgetEvent] = []
            for row in rows:
                old = before[row.key] if row.key in before else _nothing(row)
                if row.spent_nusd < old.spent_nusd:
                    fallen.append(row)
                    continue
                budget = named.get(row.budget_id)
                upserts.append((*row.values(), "" if budget is None else budget.name, now_us))
                events += events_between(old, row, budget, now_us)
            self._connection.executemany(_UPSERT, upserts)
            self._connection.executemany(
                f"INSERT OR IGNORE INTO events ({COLUMNS}) VALUES ({MARKS})",  # noqa: S608
                [event_row(event) for event in events],
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            if begun and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._failure("written", failure) from failure
        return Written(rows=len(upserts), events=len(events), fallen=tuple(fallen))

    def rows(self, cutoff_s: int) -> list[LedgerRow]:
        """Return the rows whose windows were not over at `cutoff_s`, by key.

        Raises:
            StoreError: They cannot be read.
        """
        query = (
            f"SELECT {_COLUMNS} FROM rows "  # noqa: S608 - names of ours.
            "WHERE window_end_s IS NULL OR window_end_s > ? ORDER BY key"
        )
        return [LedgerRow.of(row) for row in self._select(query, (cutoff_s,))]

    def known(self) -> set[bytes]:
        """Return the ids of the budgets that have been taken into the ledger."""
        found = self._select("SELECT budget_id FROM known", ())
        return {bytes(row[0]) for row in found}

    def note_known(self, budget_ids: Sequence[bytes]) -> None:
        """Remember durably that these budgets have been taken into the ledger."""
        self._run_many("INSERT OR IGNORE INTO known VALUES (?)", [(one,) for one in budget_ids])

    def events(self) -> list[BudgetEvent]:
        """Return the oldest events that wait for the trace store."""
        query = f"SELECT {COLUMNS} FROM events ORDER BY ts_us, id LIMIT ?"  # noqa: S608
        return [event_of(row) for row in self._select(query, (EVENTS_A_LOOK_MAX,))]

    def forget_events(self, events: Sequence[BudgetEvent]) -> None:
        """Drop events that the trace store has."""
        self._run_many("DELETE FROM events WHERE id = ?", [(event.id,) for event in events])

    def drop_before(self, cutoff_s: int) -> int:
        """Drop the rows of windows that ended before `cutoff_s`; return how many."""
        try:
            return self._connection.execute(
                "DELETE FROM rows WHERE window_end_s < ?", (cutoff_s,)
            ).rowcount
        except sqlite3.Error as failure:
            raise self._failure("written", failure) from failure

    def meta(self, name: str) -> str | None:
        """Return a remark that was kept; None without one."""
        found = self._select("SELECT value FROM meta WHERE name = ?", (name,))
        return str(found[0][0]) if found else None

    def set_meta(self, name: str, value: str) -> None:
        """Keep a remark."""
        self._run_many("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, value)])

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA trusted_schema = OFF")
        layout = self._layout()
        if layout == 0:
            # Two processes may come here at once: the second finds the tables made.
            self._connection.execute("BEGIN IMMEDIATE")
            if self._layout() == 0:
                for statement in _TABLES.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {LAYOUT}")
            self._connection.execute("COMMIT")
            layout = self._layout()
        if layout != LAYOUT:
            raise StoreError(
                f"`{self.path}` has layout {layout}, this release knows {LAYOUT}: a later "
                "release of modelux made it"
            )

    def _layout(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _rows_of(self, keys: Sequence[bytes]) -> dict[bytes, LedgerRow]:
        found: dict[bytes, LedgerRow] = {}
        for first in range(0, len(keys), KEYS_A_QUERY_MAX):
            some = keys[first : first + KEYS_A_QUERY_MAX]
            marks = ",".join("?" * len(some))
            query = f"SELECT {_COLUMNS} FROM rows WHERE key IN ({marks})"  # noqa: S608
            for values in self._connection.execute(query, some):
                row = LedgerRow.of(values)
                found[row.key] = row
        return found

    def _failure(self, what: str, failure: sqlite3.Error) -> StoreError:
        words = f"`{self.path}` cannot be {what}: {failure}"
        return DamagedCopyError(words) if is_damaged(failure) else StoreError(words)

    def _select(self, query: str, values: tuple[object, ...]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as failure:
            raise self._failure("read", failure) from failure

    def _run_many(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._failure("written", failure) from failure


def set_copy_aside(data_dir: Path, now_us: UnixUs) -> Path:
    """Move a broken copy out of the way, and return where it lies."""
    path = data_dir / LEDGER_COPY_FILE
    aside = path.with_name(f"{path.name}.damaged-{now_us}")
    for suffix in ("-wal", "-shm", ""):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(aside.with_name(aside.name + suffix))
    return aside


def events_between(
    old: LedgerRow, new: LedgerRow, budget: Named | None, now_us: UnixUs
) -> list[BudgetEvent]:
    """Return what happened to a row between two looks at it, soft before hard.

    Each has a microsecond of its own, so that they keep this order wherever they are sorted.
    """
    kinds = [kind for flag, kind in _FLAG_EVENTS if new.flags & ~old.flags & flag]
    if new.overruns > old.overruns:
        kinds.append(EventKind.OVERRUN)
    return [
        BudgetEvent(
            id=_event_id(new, kind),
            ts_us=now_us + place,
            kind=kind,
            budget_id=new.budget_id.hex(),
            budget="" if budget is None else budget.name,
            subject=new.subject,
            window_start_s=new.window_start_s,
            window_end_s=new.window_end_s,
            cap_nusd=None if budget is None else budget.cap_nusd,
            credits_nusd=new.credits_nusd,
            spent_nusd=new.spent_nusd,
            held_nusd=new.held_nusd,
            overrun_nusd=(
                new.overrun_nusd - old.overrun_nusd if kind is EventKind.OVERRUN else 0
            ),
        )
        for place, kind in enumerate(kinds)
    ]


def cutoff_of(now_us: UnixUs, past_s: int) -> int:
    """Return the second before which a window must have ended to count as past."""
    return now_us // US_PER_S - past_s


def _event_id(row: LedgerRow, kind: EventKind) -> str:
    # The amount tells a flag that was taken back and set again from one that is said twice.
    words = f"{kind.value} {row.spent_nusd} {row.overruns}".encode()
    return hashlib.sha256(row.key + words).hexdigest()[:32]


def _nothing(row: LedgerRow) -> LedgerRow:
    return LedgerRow(row.key, row.subject, row.window_start_s, row.window_end_s)
