from pathlib import Path

import pytest

from modelux.trace.files import US_A_DAY, US_AN_HOUR, TraceFiles, day_of, trace_files
from modelux.trace.query import LogFilter, TraceQuery
from modelux.trace.record import Trace
from modelux.trace.retention import Dropped, Retention, RetentionOptions, store_bytes
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests import traces
from tests.traces import NOON

OPTIONS = RetentionOptions(body_retention_h=24, record_retention_days=30)


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    return trace_files(tmp_path)


@pytest.fixture
def store(files: TraceFiles) -> TraceStore:
    return TraceStore(files, redact=bytes, part_bytes_max=20_000)


def with_body(number: int, ts_us: int) -> Trace:
    # Hardly compressible, so that sizes can be reckoned with.
    noise = b"".join(((number * 7919 + i) ** 5).to_bytes(12, "big") for i in range(100))
    return Trace(traces.meta(number, ts=ts_us), noise, noise[::-1], "kept")


def bodies_left(files: TraceFiles) -> int:
    query = TraceQuery(files)
    found = query.find(LogFilter(), 1_000).traces
    return sum(query.bodies_of(trace) is not None for trace in found)


def test_bodies_go_after_their_hours_and_records_stay(
    files: TraceFiles, store: TraceStore
) -> None:
    retention = Retention(store, files, OPTIONS)
    for hours in range(3):
        at_us = UnixUs(NOON + hours * US_AN_HOUR)
        store.insert([with_body(hours, at_us)], at_us)
    assert retention.apply(UnixUs(NOON + 24 * US_AN_HOUR)) == Dropped()
    assert retention.apply(UnixUs(NOON + 25 * US_AN_HOUR)) == Dropped(body_files=1)
    assert bodies_left(files) == 2
    assert retention.apply(UnixUs(NOON + 48 * US_AN_HOUR)).body_files == 2
    assert len(TraceQuery(files).find(LogFilter(), 9).traces) == 3


def test_records_go_after_their_days_and_sums_after_theirs(
    files: TraceFiles, store: TraceStore
) -> None:
    retention = Retention(store, files, OPTIONS)
    store.insert([with_body(0, NOON)], NOON)
    assert not retention.apply(UnixUs(NOON + 20 * US_AN_HOUR))
    assert retention.apply(UnixUs(NOON + 30 * US_A_DAY)).record_days == 0
    assert retention.apply(UnixUs(NOON + 31 * US_A_DAY)).record_days == 1
    assert retention.apply(UnixUs(NOON + 32 * US_A_DAY)).record_days == 0
    assert TraceQuery(files).find(LogFilter(), 9).traces == []
    assert files.days() == [day_of(NOON)]
    assert retention.apply(UnixUs(NOON + 401 * US_A_DAY)).days == 1
    assert files.days() == []


def test_beyond_its_size_the_oldest_bodies_go_first(
    files: TraceFiles, store: TraceStore
) -> None:
    for number in range(40):
        store.insert([with_body(number, NOON + number)], NOON)
    before = store_bytes(files)
    limit = before - 30_000
    retention = Retention(store, files, RetentionOptions(trace_max_bytes=limit))
    dropped = retention.apply(NOON)
    assert dropped.body_files >= 1
    assert dropped.record_days == 0
    assert store_bytes(files) <= limit
    query = TraceQuery(files)
    kept = [
        query.bodies_of(trace) is not None for trace in query.find(LogFilter(), 99).traces[::-1]
    ]
    # Newest last: what is left of the bodies is one stretch at the end.
    assert kept == sorted(kept)
    assert True in kept
    assert len(kept) == 40


def test_without_bodies_left_the_oldest_records_go(
    files: TraceFiles, store: TraceStore
) -> None:
    for days in range(3):
        at_us = UnixUs(NOON + days * US_A_DAY)
        batch = [traces.trace(n, ts=at_us + n) for n in range(300)]
        store.insert(batch, at_us)
    now_us = UnixUs(NOON + 2 * US_A_DAY)
    store.close()
    # The newest alone is what may stay: its own size, and the sums of the others.
    limit = 2 * files.day_path(day_of(now_us)).stat().st_size
    retention = Retention(store, files, RetentionOptions(trace_max_bytes=limit))
    dropped = retention.apply(now_us)
    assert (dropped.body_files > 0, dropped.record_days) == (True, 2)
    assert [t.record().ts_us // US_A_DAY for t in TraceQuery(files).find(LogFilter(), 1).traces]
    assert store_bytes(files) <= limit
    # The day that was emptied for its size still takes records, and gives them up again.
    store.insert([traces.trace(1_000, ts=NOON)], NOON)
    assert len(TraceQuery(files).find(LogFilter(end_us=NOON + 1), 9).traces) == 1
