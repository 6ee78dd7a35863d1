"""Events on their way from the ledger's copy to the trace store."""

from pathlib import Path

import pytest

from modelux._native import row_key
from modelux.errors import StoreError
from modelux.store.copy import LedgerCopy, Named
from modelux.store.row import LedgerRow
from modelux.trace.events import EventKind, load_events
from modelux.trace.files import trace_files
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from modelux.writer.events import EventCourier

NOW = UnixUs(1_800_000_000_000_000)
BUDGET = b"b" * 16


def copied(data_dir: Path, flags: int, at_us: UnixUs = NOW) -> None:
    """Copy a row that has these flags."""
    copy = LedgerCopy(data_dir)
    row = LedgerRow(row_key(BUDGET, None, 0), "", 0, None, spent_nusd=90, flags=flags)
    copy.write([row], {BUDGET: Named(name="all", cap_nusd=100)}, at_us)
    copy.close()


def kinds(data_dir: Path) -> list[EventKind]:
    files = trace_files(data_dir)
    return [event.kind for event in load_events(files, 0, NOW + 10, 100)]


def test_events_are_stored_and_wait_no_longer(tmp_path: Path) -> None:
    courier = EventCourier(tmp_path, TraceStore(trace_files(tmp_path), redact=bytes))
    assert courier.carry(NOW) == 0
    copied(tmp_path, 1)
    assert (courier.carry(NOW), courier.carry(NOW)) == (1, 0)
    copied(tmp_path, 3, UnixUs(NOW + 1))
    assert courier.carry(NOW) == 1
    assert kinds(tmp_path) == [EventKind.THRESHOLD_REACHED, EventKind.EXCEEDED]


def test_a_kill_between_storing_and_forgetting_doubles_nothing(tmp_path: Path) -> None:
    store = TraceStore(trace_files(tmp_path), redact=bytes)
    copied(tmp_path, 1)
    copy = LedgerCopy(tmp_path)
    store.add_events(copy.events(), NOW)
    assert EventCourier(tmp_path, store).carry(NOW) == 1
    assert copy.events() == []
    assert kinds(tmp_path) == [EventKind.THRESHOLD_REACHED]


def test_what_the_store_does_not_take_waits(tmp_path: Path) -> None:
    store = TraceStore(trace_files(tmp_path), redact=bytes)
    courier = EventCourier(tmp_path, store)
    copied(tmp_path, 1)
    files = trace_files(tmp_path)
    day = files.day_path(NOW // 86_400_000_000)
    day.mkdir()
    with pytest.raises(StoreError):
        courier.carry(NOW)
    day.rmdir()
    assert courier.carry(NOW) == 1
    assert kinds(tmp_path) == [EventKind.THRESHOLD_REACHED]
