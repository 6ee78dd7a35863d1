import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.trace.facts import parse_facts
from modelux.trace.files import US_A_DAY, TraceFiles, day_of, trace_files
from modelux.trace.histogram import decode_histogram
from modelux.trace.query import LogFilter, TraceQuery
from modelux.trace.record import Trace
from modelux.trace.rollup import load_totals
from modelux.trace.schema import open_day_to_read
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests import traces
from tests.traces import NOON

DAY = day_of(NOON)
RING = {
    "accepted": 9,
    "spilled": 1,
    "bodies_cut": 2,
    "bodies_shed": 3,
    "large_bodies_shed": 4,
    "lost": 5,
}


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    return trace_files(tmp_path)


@contextlib.contextmanager
def opened(files: TraceFiles) -> Iterator[TraceStore]:
    store = TraceStore(files, redact=lambda text: text.replace(b"secret", b"[redacted]"))
    try:
        yield store
    finally:
        store.close()


def rows(files: TraceFiles, query: str, day: int = DAY) -> list[tuple[object, ...]]:
    with contextlib.closing(open_day_to_read(files.day_path(day))) as found:
        return found.execute(query).fetchall()


def test_a_batch_handed_in_again_is_stored_and_summed_once(files: TraceFiles) -> None:
    batch = [traces.trace(number, tags={"a": "b"}) for number in range(10)]
    with opened(files) as store:
        assert store.insert(batch[:7], NOON).stored == 7
        again = store.insert(batch, NOON)
        assert (again.stored, again.known) == (3, 7)
        assert store.insert(batch + batch, NOON).stored == 0
        in_memory = {key: tally.count for key, tally in store.totals.tallies.items()}
    assert rows(files, "SELECT count(*) FROM records") == [(10,)]
    assert rows(files, "SELECT count(*) FROM tags") == [(10,)]
    assert rows(files, "SELECT sum(requests), sum(cost_nusd) FROM rollups") == [
        (10, 21_340_000)
    ]
    with contextlib.closing(open_day_to_read(files.day_path(DAY))) as day:
        on_disk = {key: tally.count for key, tally in load_totals(day).tallies.items()}
    assert on_disk == in_memory


def test_the_day_is_that_of_the_record(files: TraceFiles) -> None:
    midnight = UnixUs((DAY + 1) * US_A_DAY)
    with opened(files) as store:
        store.insert([traces.trace(0, ts=midnight - 1), traces.trace(1, ts=midnight)], midnight)
    assert files.days() == [DAY, DAY + 1]
    assert rows(files, "SELECT ts FROM records", DAY + 1) == [(midnight,)]


def test_what_is_no_record_is_counted_and_stops_nobody(files: TraceFiles) -> None:
    bad = Trace(b"{", b"", b"", "kept")
    with opened(files) as store:
        stored = store.insert([bad, traces.trace(), bad], NOON)
    assert (stored.stored, stored.known, stored.malformed) == (1, 0, 2)


def test_bodies_are_redacted_before_they_are_written(files: TraceFiles) -> None:
    trace = Trace(traces.meta(), b"my secret", b"your secret", "kept")
    with opened(files) as store:
        store.insert([trace], NOON)
    query = TraceQuery(files)
    found = query.by_id(parse_facts(trace.meta).id)
    assert found is not None
    assert query.bodies_of(found) == (b"my [redacted]", b"your [redacted]")
    on_disk = b"".join(path.read_bytes() for path in files.root.rglob("*") if path.is_file())
    assert b"my secret" not in on_disk


def test_a_minute_is_summed_by_what_served(files: TraceFiles) -> None:
    refused = Trace(json.dumps(traces.refused(5, model="invented")).encode(), b"", b"", "off")
    batch = [traces.trace(1), traces.trace(2), traces.trace(3, ts=NOON + 60_000_000), refused]
    with opened(files) as store:
        for trace in batch:
            store.insert([trace], NOON)
    columns = "minute, model, requests, errors, unpriced, input_tokens, output_tokens, latency"
    found = rows(files, f"SELECT {columns} FROM rollups ORDER BY minute, model")
    minute = NOON // 60_000_000
    assert [row[:-1] for row in found] == [
        (minute, "", 1, 1, 1, 0, 0),
        (minute, "gpt-4o-mini", 2, 0, 0, 494, 2000),
        (minute + 1, "gpt-4o-mini", 1, 0, 0, 247, 1000),
    ]
    histogram = found[1][-1]
    assert isinstance(histogram, bytes)
    assert sum(decode_histogram(histogram).values()) == 2


def test_totals_are_taken_up_by_the_next_process(files: TraceFiles) -> None:
    with opened(files) as store:
        store.insert([traces.trace(0), traces.trace(1, ts=NOON - US_A_DAY)], NOON)
        before = {key: (t.count, t.sum) for key, t in store.totals.tallies.items()}
    with opened(files) as store:
        store.load_totals()
        assert {key: (t.count, t.sum) for key, t in store.totals.tallies.items()} == before


def test_a_drained_ring_is_counted_once(files: TraceFiles) -> None:
    with opened(files) as store:
        for _ in range(3):
            store.add_ring(0, 1, RING, NOON)
        store.add_ring(0, 2, RING, NOON)
        assert store.ring_counts() == {name: 2 * count for name, count in RING.items()}


def test_records_go_and_their_sums_stay(files: TraceFiles) -> None:
    with opened(files) as store:
        store.insert([traces.trace(number) for number in range(50)], NOON)
        store.add_ring(0, 1, RING, NOON)
        assert store.has_records(DAY)
        store.drop_records(DAY)
        assert not store.has_records(DAY)
        assert store.ring_counts()["lost"] == 5
        # The day goes on as if nothing had been.
        assert store.insert([traces.trace(99)], NOON).stored == 1
    assert rows(files, "SELECT sum(requests) FROM rollups") == [(51,)]
    assert rows(files, "SELECT sum(count) FROM totals WHERE kind = 'requests'") == [(51,)]
    assert [path.name for path in files.root.glob("*.new*")] == []


def test_a_reader_of_a_day_is_not_disturbed_when_its_records_go(files: TraceFiles) -> None:
    with opened(files) as store:
        store.insert([traces.trace(number) for number in range(5)], NOON)
        with contextlib.closing(open_day_to_read(files.day_path(DAY))) as reader:
            cursor = reader.execute("SELECT id FROM records")
            first = cursor.fetchone()
            with contextlib.suppress(StoreError):
                store.drop_records(DAY)
            assert len([first, *cursor]) == 5


def test_a_damaged_day_is_set_aside_and_said(files: TraceFiles) -> None:
    said: list[str] = []
    files.root.mkdir()
    files.day_path(DAY).write_bytes(b"this was a database once" * 400)
    store = TraceStore(files, redact=bytes, on_damage=said.append)
    store.load_totals()
    assert store.insert([traces.trace()], NOON).stored == 1
    store.close()
    assert len(said) == 2
    assert [path.name for path in files.root.glob("*.damaged-*")] == [
        f"2026-01-31.db.damaged-{NOON}"
    ]
    assert TraceQuery(files).find(LogFilter(), 9).traces != []


def test_a_store_of_a_newer_build_is_refused_with_the_reason(files: TraceFiles) -> None:
    with opened(files) as store:
        store.insert([traces.trace()], NOON)
    with contextlib.closing(sqlite3.connect(files.day_path(DAY))) as day:
        day.execute("PRAGMA user_version = 99")
    with opened(files) as store, pytest.raises(StoreError, match="newer modelux"):
        store.insert([traces.trace(1)], NOON)


def test_a_disk_that_takes_nothing_is_an_error_and_later_nothing_is_missing(
    files: TraceFiles,
) -> None:
    batch = [traces.trace(number) for number in range(5)]
    with opened(files) as store:
        files.bodies.write_bytes(b"")  # A file where the directory must be.
        with pytest.raises(StoreError):
            store.insert(batch, NOON)
        files.bodies.unlink()
        assert store.insert(batch, NOON).stored == 5
    assert rows(files, "SELECT sum(requests) FROM rollups") == [(5,)]


def test_every_file_is_for_its_owner_only(files: TraceFiles) -> None:
    with opened(files) as store:
        store.insert([traces.trace()], NOON)
        modes = {
            path.stat().st_mode & 0o777 for path in files.root.rglob("*") if path.is_file()
        }
    assert modes == {0o600}
