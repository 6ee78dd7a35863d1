"""The writing side of the trace store: batches in, each record stored exactly once.

One batch is one transaction a day: what is in the store already is left out, bodies are
appended, rows, tags and sums go in together. Whoever is killed in between hands the same batch
in again, and only what is missing is added. The day is that of the record's own `ts`, so a
record comes back to the same file whenever it comes.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, final

import zstandard

from modelux.errors import StoreError
from modelux.trace.bodies import PART_BYTES_MAX, BodyPlace, BodyWriter
from modelux.trace.events import BudgetEvent, insert_events
from modelux.trace.facts import Facts, parse_facts
from modelux.trace.files import BodyPart, TraceFiles, day_of, hour_of
from modelux.trace.health import HealthEvent, insert_health_events
from modelux.trace.record import RecordError, Trace
from modelux.trace.rollup import add_rollups, add_totals, load_totals
from modelux.trace.schema import KEPT_TABLES, is_damaged, open_day
from modelux.trace.totals import Totals
from modelux.units import UnixUs

DAYS_OPEN_MAX: Final = 3
"""Yesterday's long streams end today, and a clock may be a little ahead."""
_IDS_A_QUERY_MAX: Final = 500

Event = TypeVar("Event", BudgetEvent, HealthEvent)

_INSERT: Final = (
    "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_RING_COUNTS: Final = (
    "accepted",
    "spilled",
    "bodies_cut",
    "bodies_shed",
    "large_bodies_shed",
    "lost",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one batch."""

    stored: int
    known: int
    """Were in the store already."""
    malformed: int
    """Were no records: a bug of whoever wrote them."""
    newest_us: int
    """The latest `ts` among them; 0 for none."""


@dataclass(frozen=True, slots=True)
class _Incoming:
    record: Facts
    meta: bytes
    trace: Trace


@final
class TraceStore:
    """Day databases and body files of one `data_dir`, open for writing."""

    def __init__(
        self,
        files: TraceFiles,
        *,
        redact: Callable[[bytes], bytes],
        redact_record: Callable[[bytes], bytes] = bytes,
        part_bytes_max: int = PART_BYTES_MAX,
        on_damage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._files = files
        self._redact = redact
        self._redact_record = redact_record
        self._bodies = BodyWriter(files, part_bytes_max)
        self._compress: Callable[[bytes], bytes] = zstandard.ZstdCompressor(level=1).compress
        self._days: dict[int, sqlite3.Connection] = {}
        self._on_damage = on_damage
        self.totals = Totals()
        self.bytes_written = 0
        """Roughly what was added since the start; says when to look at the store's size."""
        files.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load_totals(self) -> None:
        """Take up the totals of every day that is there; once, before the first batch.

        A day that cannot be read is left out: its file is set aside when it is written to.
        """
        for day in self._files.days():
            try:
                self.totals.merge(load_totals(self._day(day)))
            except (sqlite3.Error, StoreError) as failure:
                self._forget(day)
                self._on_damage(f"{self._files.day_path(day)}: {failure}")

    def insert(self, traces: Sequence[Trace], now_us: UnixUs) -> Stored:
        """Store a batch.

        Raises:
            StoreError: The disk is full or broken. Part of the batch may be stored; handing it
                in again stores the rest.
        """
        by_day: dict[int, dict[str, _Incoming]] = {}
        malformed = newest_us = 0
        for trace in traces:
            try:
                meta = self._redact_record(trace.meta)
                record = parse_facts(meta)
            except RecordError:
                malformed += 1
                continue
            newest_us = max(newest_us, record.ts_us)
            day = day_of(record.ts_us)
            if day not in by_day:
                by_day[day] = {}
            if record.id not in by_day[day]:
                by_day[day][record.id] = _Incoming(record, meta, trace)
        stored = 0
        for day, incoming in by_day.items():
            stored += self._insert_day(day, incoming, now_us)
        return Stored(stored, len(traces) - malformed - stored, malformed, newest_us)

    def add_ring(
        self, slot: int, generation: int, counts: Mapping[str, int], now_us: UnixUs
    ) -> None:
        """Keep what a drained ring had counted, once however often it is said.

        Raises:
            StoreError: It cannot be written.
        """
        values = [counts[name] for name in _RING_COUNTS]
        try:
            self._day(day_of(now_us)).execute(
                "INSERT OR IGNORE INTO rings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (slot, generation, *values),
            )
        except sqlite3.Error as failure:
            raise StoreError(f"traces: {failure}") from failure

    def add_events(self, events: Sequence[BudgetEvent], now_us: UnixUs) -> None:
        """Keep what happened to budgets, each event once however often it is said.

        Raises:
            StoreError: They cannot be written; some of them may be stored.
        """
        self._add_by_day(events, insert_events, now_us)

    def add_health_events(self, events: Sequence[HealthEvent], now_us: UnixUs) -> None:
        """Keep what happened to targets, each event once however often it is said.

        Raises:
            StoreError: They cannot be written; some of them may be stored.
        """
        self._add_by_day(events, insert_health_events, now_us)

    def _add_by_day(
        self,
        events: Sequence[Event],
        insert: Callable[[sqlite3.Connection, Sequence[Event]], None],
        now_us: UnixUs,
    ) -> None:
        by_day: dict[int, list[Event]] = {}
        for event in events:
            by_day.setdefault(day_of(event.ts_us), []).append(event)
        for day, some in by_day.items():
            path = self._files.day_path(day)
            try:
                insert(self._day(day), some)
            except sqlite3.Error as failure:
                # A damaged day goes out of the way, and the same events come again.
                if is_damaged(failure):
                    self._set_aside(day, str(failure), now_us)
                raise StoreError(f"{path}: {failure}") from failure

    def ring_counts(self) -> dict[str, int]:
        """Return the sums over all drained rings that are remembered."""
        sums = dict.fromkeys(_RING_COUNTS, 0)
        query = f"SELECT {', '.join(_RING_COUNTS)} FROM rings"  # noqa: S608 - names of ours.
        for day in self._files.days():
            try:
                rows = self._day(day).execute(query).fetchall()
            except (sqlite3.Error, StoreError):
                continue  # Told by `load_totals` already.
            for row in rows:
                for name, value in zip(_RING_COUNTS, row, strict=True):
                    sums[name] += value
        return sums

    def drop_bodies(self, before_hour: int) -> int:
        """Delete the bodies of hours before `before_hour`; return how many files went."""
        dropped = 0
        for part in self._files.body_parts():
            if part.hour < before_hour:
                self.drop_part(part)
                dropped += 1
        return dropped

    def drop_part(self, part: BodyPart) -> None:
        """Delete one body file; where it is the current one, the next bodies begin another."""
        if part == self._bodies.current():
            self._bodies.close()
        self._files.body_path(part).unlink(missing_ok=True)

    def drop_records(self, day: int) -> None:
        """Delete the records and tags of a day; its sums stay.

        The sums are copied to a new file that takes the old one's place: quick however many
        records there were. Killed in between, the old file stands as it was.

        Raises:
            StoreError: It cannot be written.
        """
        path = self._files.day_path(day)
        fresh = path.with_suffix(".new")
        try:
            # Everything out of the WAL, so that the file alone is the whole database.
            self._day(day).execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._forget(day)
            fresh.unlink(missing_ok=True)
            kept = open_day(fresh)
            try:
                kept.execute("ATTACH ? AS old", (str(path),))
                kept.execute("BEGIN IMMEDIATE")
                for table in KEPT_TABLES:
                    kept.execute(f"INSERT INTO {table} SELECT * FROM old.{table}")  # noqa: S608
                kept.execute("COMMIT")
                kept.execute("DETACH old")
                kept.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                kept.close()
            # The WAL's files first: next to the new database they would be another's.
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            fresh.replace(path)
        except (sqlite3.Error, OSError) as failure:
            raise StoreError(f"{path}: {failure}") from failure

    def drop_day(self, day: int) -> None:
        """Delete everything about a day, its sums included."""
        self._forget(day)
        path = self._files.day_path(day)
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def has_records(self, day: int) -> bool:
        """Return whether a day still holds records."""
        try:
            found = self._day(day).execute("SELECT 1 FROM records LIMIT 1").fetchone()
        except (sqlite3.Error, StoreError):
            return False
        return found is not None

    def close(self) -> None:
        """Close every file; the databases fold their logs into themselves."""
        self._bodies.close()
        for day in list(self._days):
            self._forget(day)

    def _insert_day(self, day: int, incoming: Mapping[str, _Incoming], now_us: UnixUs) -> int:
        try:
            return self._insert_into(self._day(day), incoming, now_us)
        except sqlite3.DatabaseError as failure:
            if not is_damaged(failure):
                raise StoreError(f"{self._files.day_path(day)}: {failure}") from failure
            self._set_aside(day, str(failure), now_us)
        except OSError as failure:
            raise StoreError(f"{self._files.bodies}: {failure}") from failure
        try:
            return self._insert_into(self._day(day), incoming, now_us)
        except (sqlite3.Error, OSError) as failure:
            raise StoreError(f"{self._files.day_path(day)}: {failure}") from failure

    def _insert_into(
        self, day: sqlite3.Connection, incoming: Mapping[str, _Incoming], now_us: UnixUs
    ) -> int:
        day.execute("BEGIN IMMEDIATE")
        try:
            known = _known_ids(day, list(incoming))
            fresh = [one for record_id, one in incoming.items() if record_id not in known]
            if not fresh:
                day.execute("ROLLBACK")
                return 0
            totals = self._insert_fresh(day, fresh, now_us)
            day.execute("COMMIT")
        except BaseException:
            if day.in_transaction:
                day.execute("ROLLBACK")
            raise
        self.totals.merge(totals)
        return len(fresh)

    def _insert_fresh(
        self, day: sqlite3.Connection, fresh: Sequence[_Incoming], now_us: UnixUs
    ) -> Totals:
        places = self._write_bodies(fresh, now_us)
        first = (day.execute("SELECT max(seq) FROM records").fetchone()[0] or 0) + 1
        rows = []
        metas = []
        tags: list[tuple[str, str, int, int]] = []
        totals = Totals()
        for seq, (one, place) in enumerate(zip(fresh, places, strict=True), first):
            record = one.record
            meta = self._compress(one.meta)
            self.bytes_written += len(meta)
            rows.append(_row(seq, record, one.trace.bodies, place))
            metas.append((seq, meta))
            tags.extend((key, value, record.ts_us, seq) for key, value in record.tags.items())
            totals.count(record)
        day.executemany(_INSERT, rows)
        day.executemany("INSERT INTO metas VALUES (?, ?)", metas)
        day.executemany("INSERT INTO tags VALUES (?, ?, ?, ?)", tags)
        add_rollups(day, [one.record for one in fresh])
        add_totals(day, totals)
        return totals

    def _write_bodies(
        self, fresh: Sequence[_Incoming], now_us: UnixUs
    ) -> list[BodyPlace | None]:
        redact = self._redact
        places: list[BodyPlace | None] = [None] * len(fresh)
        having = [i for i, one in enumerate(fresh) if one.trace.request or one.trace.response]
        if not having:
            return places
        written = self._bodies.append(
            hour_of(now_us),
            [(redact(fresh[i].trace.request), redact(fresh[i].trace.response)) for i in having],
        )
        for i, place in zip(having, written, strict=True):
            places[i] = place
            self.bytes_written += place.length
        return places

    def _day(self, day: int) -> sqlite3.Connection:
        if day not in self._days:
            while len(self._days) >= DAYS_OPEN_MAX:
                self._forget(min(self._days))
            self._days[day] = open_day(self._files.day_path(day))
        return self._days[day]

    def _forget(self, day: int) -> None:
        if day in self._days:
            self._days.pop(day).close()

    def _set_aside(self, day: int, why: str, now_us: UnixUs) -> None:
        """Move a damaged database out of the way: what comes in must have a place."""
        self._forget(day)
        path = self._files.day_path(day)
        for suffix in ("-wal", "-shm", ""):
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.replace(path.with_name(f"{path.name}.damaged-{now_us}{suffix}"))
        self._on_damage(f"{path}: {why}; moved to {path.name}.damaged-{now_us}")


def _known_ids(day: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for start in range(0, len(ids), _IDS_A_QUERY_MAX):
        some = ids[start : start + _IDS_A_QUERY_MAX]
        marks = ",".join("?" * len(some))
        query = f"SELECT id FROM records WHERE id IN ({marks})"  # noqa: S608 - marks only.
        known.update(row[0] for row in day.execute(query, some))
    return known


def _row(seq: int, record: Facts, bodies: str, place: BodyPlace | None) -> tuple[object, ...]:
    return (
        seq,
        record.id,
        record.ts_us,
        record.project,
        record.route,
        record.provider,
        record.model,
        record.model_requested,
        record.status,
        record.end_user,
        record.trace_id,
        record.conversation_id,
        record.total_us,
        record.cost_nusd,
        bodies,
        None if place is None else place.part.hour,
        None if place is None else place.part.part,
        None if place is None else place.offset,
        None if place is None else place.length,
    )
