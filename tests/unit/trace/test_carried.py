"""Which tags traces have carried: all of them, and nothing is said of too few traces."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.trace.carried import KEYS_MAX, carried_tags
from modelux.trace.files import US_A_DAY, TraceFiles, day_of, trace_files
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests import traces
from tests.traces import NOON


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    return trace_files(tmp_path)


@pytest.fixture
def store(files: TraceFiles) -> Iterator[TraceStore]:
    store = TraceStore(files, redact=bytes)
    yield store
    store.close()


def put(store: TraceStore, number: int, tags: dict[str, str], day: int = 0) -> None:
    ts = UnixUs(NOON + day * US_A_DAY)
    store.insert([traces.trace(number, ts=ts, tags=tags)], ts)


def test_no_store_tells_nothing(files: TraceFiles) -> None:
    assert carried_tags(files, 1) is None
    assert carried_tags(files, 0) == frozenset()


def test_keys_of_all_days_are_found_and_each_value_counts_for_its_key(
    files: TraceFiles, store: TraceStore
) -> None:
    put(store, 1, {"team": "a", "tier": "gold"})
    put(store, 2, {"team": "b"})
    put(store, 3, {"zone": "eu"}, day=1)
    put(store, 4, {})

    assert carried_tags(files, 4) == frozenset({"team", "tier", "zone"})


def test_too_few_traces_say_nothing_of_what_is_missing(
    files: TraceFiles, store: TraceStore
) -> None:
    put(store, 1, {"team": "a"})
    put(store, 2, {}, day=1)

    assert carried_tags(files, 2) == frozenset({"team"})
    assert carried_tags(files, 3) is None


def test_more_keys_than_anybody_means_say_nothing(files: TraceFiles, store: TraceStore) -> None:
    for number in range(KEYS_MAX // 30 + 2):
        put(store, number, {f"key-{number}-{at}": "x" for at in range(30)})

    assert carried_tags(files, 1) is None


def test_a_day_that_cannot_be_read_is_named(files: TraceFiles, store: TraceStore) -> None:
    put(store, 1, {"team": "a"})
    store.close()
    path = files.day_path(day_of(NOON))
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(StoreError, match=r"2026-01-31\.db: cannot be read"):
        carried_tags(files, 1)
