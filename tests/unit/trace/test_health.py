"""Events of targets in the trace store: once each, found by their time."""

import sqlite3
from dataclasses import replace
from pathlib import Path

from modelux.trace.files import US_A_DAY, day_of, trace_files
from modelux.trace.health import HealthEvent, load_health_events
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests.traces import NOON

EVENT = HealthEvent(
    id="0123",
    ts_us=NOON,
    provider="openai",
    model="gpt-4o",
    before="closed",
    state="open",
    error_permille=600,
)
LATER = replace(
    EVENT, id="4567", ts_us=NOON + US_A_DAY, before="open", state="closed", error_permille=None
)


def store(root: Path) -> TraceStore:
    return TraceStore(trace_files(root), redact=bytes)


def everything(root: Path, count_max: int = 100) -> list[HealthEvent]:
    return load_health_events(trace_files(root), 0, NOON + 2 * US_A_DAY, count_max)


def test_an_event_is_stored_once_however_often_it_is_handed_in(tmp_path: Path) -> None:
    for _ in range(2):
        writing = store(tmp_path)
        writing.add_health_events([LATER, EVENT], UnixUs(NOON))
        writing.close()
    assert everything(tmp_path) == [EVENT, LATER]
    assert everything(tmp_path, 1) == [LATER]
    assert load_health_events(trace_files(tmp_path), NOON + 1, NOON + 2, 100) == []


def test_events_stay_when_the_records_of_their_day_go(tmp_path: Path) -> None:
    writing = store(tmp_path)
    writing.add_health_events([EVENT], UnixUs(NOON))
    writing.drop_records(day_of(NOON))
    writing.close()
    assert everything(tmp_path) == [EVENT]


def test_a_day_that_cannot_be_read_or_is_older_than_events_has_none(tmp_path: Path) -> None:
    writing = store(tmp_path)
    writing.add_health_events([EVENT], UnixUs(NOON))
    writing.close()
    files = trace_files(tmp_path)
    files.day_path(day_of(NOON) + 1).write_bytes(b"broken" * 1_000)
    sqlite3.connect(files.day_path(day_of(NOON) - 1)).execute("CREATE TABLE records (seq)")
    assert everything(tmp_path) == [EVENT]


def test_a_day_of_an_older_build_takes_events_once_it_is_opened(tmp_path: Path) -> None:
    writing = store(tmp_path)
    writing.add_health_events([EVENT], UnixUs(NOON))
    writing.close()
    path = trace_files(tmp_path).day_path(day_of(NOON))
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript("DROP TABLE health_events; PRAGMA user_version = 2;")
    old.close()
    assert everything(tmp_path) == []
    writing = store(tmp_path)
    writing.add_health_events([EVENT], UnixUs(NOON))
    writing.close()
    assert everything(tmp_path) == [EVENT]
