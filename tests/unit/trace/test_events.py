"""Events of budgets in the trace store: once each, found by their time."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.trace.events import BudgetEvent, EventKind, event_of, event_row, load_events
from modelux.trace.files import US_A_DAY, day_of, trace_files
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests.traces import NOON

EVENT = BudgetEvent(
    id="0123",
    ts_us=NOON,
    kind=EventKind.EXCEEDED,
    budget_id="ab" * 16,
    budget="team-ml",
    subject="alice",
    window_start_s=0,
    window_end_s=None,
    cap_nusd=None,
    credits_nusd=1,
    spent_nusd=2,
    held_nusd=3,
    overrun_nusd=0,
)
LATER = replace(EVENT, id="4567", ts_us=NOON + US_A_DAY, kind=EventKind.OVERRUN)


def store(root: Path) -> TraceStore:
    return TraceStore(trace_files(root), redact=bytes)


def everything(root: Path, count_max: int = 100) -> list[BudgetEvent]:
    return load_events(trace_files(root), 0, NOON + 2 * US_A_DAY, count_max)


def test_an_event_survives_the_way_into_its_columns_and_back() -> None:
    assert event_of(event_row(EVENT)) == EVENT


def test_an_event_is_stored_once_however_often_it_is_handed_in(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.add_events([EVENT, LATER], UnixUs(NOON))
    first.close()
    second = store(tmp_path)
    second.add_events([LATER, EVENT], UnixUs(NOON))
    second.close()
    assert everything(tmp_path) == [EVENT, LATER]


def test_the_newest_events_of_a_time_are_found(tmp_path: Path) -> None:
    events = [replace(EVENT, id=str(n), ts_us=NOON + n * US_A_DAY // 4) for n in range(8)]
    writing = store(tmp_path)
    writing.add_events(events, UnixUs(NOON))
    writing.close()
    assert everything(tmp_path, 3) == events[-3:]
    found = load_events(trace_files(tmp_path), events[1].ts_us, events[6].ts_us, 100)
    assert found == events[1:6]


def test_events_stay_when_the_records_of_their_day_go(tmp_path: Path) -> None:
    writing = store(tmp_path)
    writing.add_events([EVENT], UnixUs(NOON))
    writing.drop_records(day_of(NOON))
    writing.close()
    assert everything(tmp_path) == [EVENT]


def test_a_day_that_cannot_be_read_or_is_older_than_events_has_none(tmp_path: Path) -> None:
    writing = store(tmp_path)
    writing.add_events([EVENT], UnixUs(NOON))
    writing.close()
    files = trace_files(tmp_path)
    files.day_path(day_of(NOON) + 1).write_bytes(b"broken" * 1_000)
    sqlite3.connect(files.day_path(day_of(NOON) - 1)).execute("CREATE TABLE records (seq)")
    assert everything(tmp_path) == [EVENT]


def test_a_damaged_day_is_set_aside_and_takes_events_again(tmp_path: Path) -> None:
    told: list[str] = []
    writing = TraceStore(trace_files(tmp_path), redact=bytes, on_damage=told.append)
    trace_files(tmp_path).day_path(day_of(NOON)).write_bytes(b"broken" * 1_000)
    with pytest.raises(StoreError, match="not a database"):
        writing.add_events([EVENT], UnixUs(NOON))
    writing.add_events([EVENT], UnixUs(NOON))
    writing.close()
    assert len(told) == 1
    assert everything(tmp_path) == [EVENT]
