"""Questions to the trace store: typed filters in, records out. Reads only, from any process.

Records come in the order of their `ts`, a stretch at a time, so that no question holds a
database open for long. Each call opens what it needs: a server may call from any thread.
"""

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, final

import zstandard

from modelux.errors import StoreError
from modelux.trace.bodies import BodyPlace, load_bodies
from modelux.trace.files import BodyPart, TraceFiles, day_of
from modelux.trace.record import TS_US_MAX, Record, parse_record, record_json
from modelux.trace.schema import open_day_to_read
from modelux.units import US_PER_MS, NanoUsd

ROWS_A_STRETCH: Final = 500
FOLLOWED_DAYS: Final = 3
"""Where new records may appear: as many days as the writer keeps open."""
META_BYTES_MAX: Final = 1024 * 1024

_COLUMNS: Final = (  # As in `_found`.
    "records.seq, records.ts, bodies, body_hour, body_part, body_offset, body_length, meta"
)
_SOURCE: Final = "records JOIN metas ON metas.seq = records.seq"
_FAILED_STATUS_MIN: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which records are asked for: all conditions must hold; empty ones do not count."""

    start_us: int = 0
    end_us: int = TS_US_MAX
    """Exclusive."""
    project: str = ""
    status: str = ""
    """A status (`404`) or a class of them (`4xx`)."""
    model: str = ""
    """That served, or that was asked for."""
    provider: str = ""
    route: str = ""
    """With or without its `@`."""
    end_user: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    trace_id: str = ""
    conversation_id: str = ""
    min_latency_ms: int | None = None
    min_cost_nusd: NanoUsd | None = None
    q: str = ""
    """A text that occurs in the record or its bodies, whatever its case."""


class FilterError(Exception):
    """A filter that means nothing; names it and the value."""


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place between two records: pages go on behind it."""

    ts_us: int
    seq: int

    def text(self) -> str:
        """Return the form that a caller keeps."""
        return f"{self.ts_us}-{self.seq}"


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """A record in the store; its bodies are loaded when asked for."""

    cursor: Cursor
    meta: bytes
    bodies: str
    place: BodyPlace | None

    def record(self) -> Record:
        """Return the record as our type."""
        return parse_record(self.meta)


@dataclass(frozen=True, slots=True)
class _Search:
    """A filter as SQL: which table leads, and what must hold."""

    lead: str
    """`tagged` where a tag leads: its index has the order of time too."""
    source: str
    where: str
    values: tuple[object, ...]

    def also(self, condition: str, *values: object) -> "_Search":
        """Return the search with one condition more."""
        where = f"{self.where} AND {condition}"
        return _Search(self.lead, self.source, where, (*self.values, *values))


@dataclass(frozen=True, slots=True)
class Page:
    """Some records, newest first, and where the next page begins."""

    traces: list[StoredTrace]
    next_cursor: Cursor | None


def parse_cursor(text: str) -> Cursor:
    """Read what `Cursor.text` wrote.

    Raises:
        FilterError: It is something else.
    """
    ts, _, seq = text.partition("-")
    if not (ts.isdecimal() and seq.isdecimal() and len(text) <= 40):
        raise FilterError(f"cursor `{text}`: not one that was given out")
    return Cursor(int(ts), int(seq))


@final
class TraceQuery:
    """The reading side of one store."""

    def __init__(self, files: TraceFiles) -> None:
        self._files = files

    def by_id(self, request_id: str) -> StoredTrace | None:
        """Return the record of one request; `request_id` without `req_`."""
        for day in _likely_days(request_id, self._files.days()):
            search = _Search("records", _SOURCE, "id = ?", (request_id,))
            found = self._select(day, search, "1", 1)
            if found:
                return found[0]
        return None

    def find(self, wanted: LogFilter, limit: int, cursor: Cursor | None = None) -> Page:
        """Return the newest `limit` records that match, or the next ones behind `cursor`.

        Raises:
            FilterError: A condition means nothing.
        """
        assert limit > 0, limit
        traces: list[StoredTrace] = []
        # Without a text to look for each row counts: no more than these are read.
        stretch = ROWS_A_STRETCH if wanted.q else min(ROWS_A_STRETCH, limit + 1)
        for trace in self._walk(wanted, cursor, stretch, ascending=False):
            if len(traces) == limit:
                return Page(traces, traces[-1].cursor)
            traces.append(trace)
        return Page(traces, None)

    def oldest_first(self, wanted: LogFilter) -> Iterator[StoredTrace]:
        """Yield what matches, from the oldest on: for everything, in little memory."""
        return self._walk(wanted, None, ROWS_A_STRETCH, ascending=True)

    def bodies_of(self, trace: StoredTrace) -> tuple[bytes, bytes] | None:
        """Return request and response; None where they were not kept or are gone."""
        return None if trace.place is None else load_bodies(self._files, trace.place)

    def json_of(self, trace: StoredTrace) -> bytes:
        """Return the whole record as one line of JSON, bodies included."""
        request, response = self.bodies_of(trace) or (None, None)
        return record_json(trace.meta, request, response, trace.bodies)

    def follower(self) -> "Follower":
        """Return what yields records that come in from now on."""
        return Follower(self)

    def _walk(
        self, wanted: LogFilter, cursor: Cursor | None, stretch_rows: int, *, ascending: bool
    ) -> Iterator[StoredTrace]:
        search = _search(wanted)
        needle = wanted.q.casefold()
        last = wanted.end_us if cursor is None else cursor.ts_us + 1
        days = [
            day
            for day in self._files.days()
            if day_of(wanted.start_us) <= day <= day_of(max(0, last - 1))
        ]
        lead, way, behind = (
            (search.lead, "ASC", ">") if ascending else (search.lead, "DESC", "<")
        )
        order = f"{lead}.ts {way}, {lead}.seq {way}"
        behind = f"({lead}.ts, {lead}.seq) {behind} (?, ?)"
        for day in days if ascending else reversed(days):
            at = cursor
            while True:
                rest = search if at is None else search.also(behind, at.ts_us, at.seq)
                stretch = self._select(day, rest, order, stretch_rows)
                for trace in stretch:
                    if not needle or self._has_text(trace, needle):
                        yield trace
                if len(stretch) < stretch_rows:
                    break
                at = stretch[-1].cursor

    def _has_text(self, trace: StoredTrace, needle: str) -> bool:
        texts = [trace.meta, *(self.bodies_of(trace) or ())]
        return any(needle in text.decode("utf-8", "replace").casefold() for text in texts)

    def _select(self, day: int, search: _Search, order: str, limit: int) -> list[StoredTrace]:
        query = (
            f"SELECT {_COLUMNS} FROM {search.source} "  # noqa: S608 - words of ours, values bound.
            f"WHERE {search.where} ORDER BY {order} LIMIT {limit}"
        )
        path = self._files.day_path(day)
        try:
            with contextlib.closing(open_day_to_read(path)) as opened:
                rows = opened.execute(query, search.values).fetchall()
        except sqlite3.Error as failure:
            if _is_absent(failure):
                return []  # Being made or being removed at this moment.
            raise StoreError(f"{path}: {failure}") from failure
        return [_found(row) for row in rows]

    def end_of(self, day: int) -> int:
        """Return the largest `seq` of a day; 0 for none."""
        try:
            with contextlib.closing(open_day_to_read(self._files.day_path(day))) as opened:
                found = opened.execute("SELECT max(seq) FROM records").fetchone()[0]
        except sqlite3.Error:
            return 0
        return found or 0

    def behind(self, day: int, seq: int, wanted: LogFilter, up_to: int) -> list[StoredTrace]:
        """Return what a day got behind `seq` and up to `up_to`, in the order of arrival."""
        needle = wanted.q.casefold()
        search = _search(wanted).also("records.seq > ? AND records.seq <= ?", seq, up_to)
        traces = self._select(day, search, "records.seq", up_to - seq)
        return [trace for trace in traces if not needle or self._has_text(trace, needle)]

    def days(self) -> list[int]:
        """Return the days that have a database, ascending."""
        return self._files.days()


@final
class Follower:
    """Yields records as they are stored, each once, in the order of arrival."""

    def __init__(self, query: TraceQuery) -> None:
        self._query = query
        self._ends = {day: query.end_of(day) for day in query.days()[-FOLLOWED_DAYS:]}

    def poll(self, wanted: LogFilter) -> Iterator[StoredTrace]:
        """Yield what came in since the last call."""
        for day in self._query.days()[-FOLLOWED_DAYS:]:
            seen = self._ends.get(day, 0)
            end = self._query.end_of(day)
            # A day whose records were dropped begins anew.
            seen = min(seen, end)
            while seen < end:
                up_to = min(end, seen + ROWS_A_STRETCH)
                yield from self._query.behind(day, seen, wanted, up_to)
                seen = up_to
            self._ends[day] = end


def _search(wanted: LogFilter) -> _Search:
    lead = "tagged" if wanted.tags else "records"
    # CROSS JOIN fixes the order: from the tag's index to its rows, never the other way.
    source = "tags AS tagged CROSS JOIN records ON records.seq = tagged.seq JOIN metas"
    search = _Search(
        lead,
        f"{source} ON metas.seq = records.seq" if wanted.tags else _SOURCE,
        f"{lead}.ts >= ? AND {lead}.ts < ?",
        (wanted.start_us, wanted.end_us),
    )
    for index, (key, value) in enumerate(wanted.tags.items()):
        if index == 0:
            search = search.also("tagged.key = ? AND tagged.value = ?", key, value)
        else:
            search = search.also(
                "EXISTS (SELECT 1 FROM tags WHERE key = ? AND value = ? AND"
                " tags.ts = tagged.ts AND tags.seq = tagged.seq)",
                key,
                value,
            )
    equal = {
        "project": wanted.project,
        "provider": wanted.provider,
        "route": wanted.route and "@" + wanted.route.removeprefix("@"),
        "end_user": wanted.end_user,
        "trace_id": wanted.trace_id,
        "conversation_id": wanted.conversation_id,
    }
    for column, text in equal.items():
        if text:
            # The second half lets SQLite use an index that leaves the empty ones out.
            search = search.also(f"{column} = ? AND {column} <> ''", text)
    if wanted.model:
        search = search.also("(model = ? OR model_requested = ?)", wanted.model, wanted.model)
    if wanted.status:
        low, high = _statuses(wanted.status)
        search = search.also("status BETWEEN ? AND ?", low, high)
        if low >= _FAILED_STATUS_MIN:
            search = search.also(f"status >= {_FAILED_STATUS_MIN}")
    if wanted.min_latency_ms is not None:
        search = search.also("total_us >= ?", wanted.min_latency_ms * US_PER_MS)
    if wanted.min_cost_nusd is not None:
        search = search.also("cost_nusd >= ?", wanted.min_cost_nusd)
    return search


def _statuses(text: str) -> tuple[int, int]:
    if len(text) == 3 and text.isascii():
        if text.isdecimal():
            return int(text), int(text)
        if text[0].isdecimal() and text[1:].lower() == "xx":
            return int(text[0]) * 100, int(text[0]) * 100 + 99
    raise FilterError(f"status `{text}`: give a status such as `404`, or a class such as `4xx`")


def _found(row: tuple[object, ...]) -> StoredTrace:
    seq, ts_us, bodies, hour, part, offset, length, packed = row
    assert isinstance(seq, int)
    assert isinstance(ts_us, int)
    assert isinstance(bodies, str)
    assert isinstance(packed, bytes)
    place = None
    if isinstance(hour, int):
        assert isinstance(part, int)
        assert isinstance(offset, int)
        assert isinstance(length, int)
        place = BodyPlace(BodyPart(hour, part), offset, length)
    meta = zstandard.ZstdDecompressor().decompress(packed, max_output_size=META_BYTES_MAX)
    return StoredTrace(Cursor(ts_us, seq), meta, bodies, place)


def _likely_days(request_id: str, days: list[int]) -> list[int]:
    """Return the days, those near the time inside a UUIDv7 first, then from the newest back."""
    try:
        made_us = (uuid.UUID(request_id).int >> 80) * US_PER_MS
    except ValueError:
        return days[::-1]
    near = day_of(made_us)
    return sorted(days, key=lambda day: (abs(day - near) > 1, abs(day - near), -day))


def _is_absent(failure: sqlite3.Error) -> bool:
    return "no such table" in str(failure) or "unable to open database file" in str(failure)
