"""Changes of breakers on their way from the live state to the trace store."""

from pathlib import Path

import pytest

from modelux._native import Live
from modelux.errors import StoreError
from modelux.store.layout import LIVE_FILE
from modelux.trace.files import day_of, trace_files
from modelux.trace.health import HealthEvent, load_health_events
from modelux.trace.store import TraceStore
from modelux.units import MonoUs, UnixUs
from modelux.writer.health import HealthWatch

S = 1_000_000
T0 = MonoUs(1_000 * S)
NOW = UnixUs(1_800_000_000 * S)
Seen = list[tuple[str, str, str]]


class Place:
    """A live state, a trace store, and one watch at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = trace_files(root)
        self.live = Live.open_or_create(root / LIVE_FILE, "boot", 1)
        self.watch = self.restarted()

    def restarted(self, boot_id: str = "boot") -> HealthWatch:
        store = TraceStore(self.files, redact=bytes)
        self.watch = HealthWatch(self.root, self.files, store, boot_id)
        return self.watch

    def look(self, at_us: int) -> Seen:
        """Look at `at_us`, the two clocks going alike."""
        found = self.watch.watch(MonoUs(at_us), UnixUs(NOW + at_us - T0))
        return [(one.model, one.before, one.state) for one in found]

    def fail(self, at_us: int, model: str = "m", times: int = 5) -> None:
        for _ in range(times):
            self.live.report("p", model, "failed", at_us, at_us)

    def stored(self) -> list[HealthEvent]:
        return load_health_events(self.files, 0, NOW + 3_600 * S, 1_000)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_each_change_of_a_breaker_is_told_once_with_the_time_that_it_happened(
    place: Place,
) -> None:
    place.live.began("p", "m", 0, T0)
    assert place.look(T0) == []
    place.fail(T0 + S)
    assert place.look(T0 + 2 * S) == [("m", "closed", "open")]
    assert place.look(T0 + 3 * S) == []
    assert place.live.take_probe("p", "m", T0 + 6 * S)
    assert place.look(T0 + 6 * S) == [("m", "open", "half_open")]
    place.live.report("p", "m", "ok", T0 + 6 * S, T0 + 7 * S)
    assert place.look(T0 + 7 * S) == [("m", "half_open", "closed")]
    assert place.look(T0 + 8 * S) == []
    opened, _, closed = place.stored()
    assert (opened.ts_us, opened.error_permille) == (NOW + S, 1_000)
    assert (closed.ts_us, closed.error_permille) == (NOW + 7 * S, None)


def test_a_failed_probe_that_nobody_saw_is_no_change(place: Place) -> None:
    place.fail(T0)
    assert place.look(T0) == [("m", "closed", "open")]
    assert place.live.take_probe("p", "m", T0 + 6 * S)
    place.live.report("p", "m", "failed", T0 + 6 * S, T0 + 6 * S)
    assert place.look(T0 + 7 * S) == []


def test_a_restart_tells_nothing_twice_and_what_it_missed(place: Place) -> None:
    place.fail(T0)
    place.fail(T0, "other")
    assert len(place.look(T0)) == 2
    place.restarted()
    assert place.look(T0 + S) == []
    assert place.live.take_probe("p", "m", T0 + 6 * S)
    place.live.report("p", "m", "ok", T0 + 6 * S, T0 + 6 * S)
    place.restarted()
    assert place.look(T0 + 9 * S) == [("m", "open", "closed")]
    assert len(place.stored()) == 3


def test_one_that_opened_and_closed_while_no_writer_ran_shows_as_closed_again(
    place: Place,
) -> None:
    place.fail(T0)
    assert place.live.take_probe("p", "m", T0 + 6 * S)
    place.live.report("p", "m", "ok", T0 + 6 * S, T0 + 6 * S)
    assert place.look(T0 + 9 * S) == [("m", "open", "closed")]
    place.restarted()
    assert place.look(T0 + 9 * S) == []


def test_after_another_boot_what_was_open_is_told_to_be_closed(place: Place) -> None:
    place.fail(T0)
    place.look(T0)
    place.live = Live.open_or_create(place.root / LIVE_FILE, "next boot", 1)
    place.live.began("p", "m", 0, T0)
    place.restarted("next boot")
    assert place.look(T0 + S) == [("m", "open", "closed")]
    place.restarted("next boot")
    assert place.look(T0 + S) == []


def test_what_the_store_does_not_take_is_told_by_the_next_look(place: Place) -> None:
    place.fail(T0)
    day = place.files.day_path(day_of(NOW))
    day.mkdir()
    with pytest.raises(StoreError):
        place.look(T0)
    day.rmdir()
    assert place.look(T0 + S) == [("m", "closed", "open")]


def test_without_a_live_state_nothing_is_told_and_a_foreign_one_is_named(
    tmp_path: Path,
) -> None:
    files = trace_files(tmp_path)
    watch = HealthWatch(tmp_path, files, TraceStore(files, redact=bytes), "boot")
    assert watch.watch(T0, NOW) == []
    (tmp_path / LIVE_FILE).write_bytes(b"x" * 9_000)
    with pytest.raises(StoreError, match="not a file of live state"):
        watch.watch(T0, NOW)
