import json
from pathlib import Path

import pytest

from modelux._native import Cells, RingWriter, row_key
from modelux.errors import StoreError
from modelux.log import Log
from modelux.store.copy import LedgerCopy
from modelux.store.row import LedgerRow
from modelux.trace.events import EventKind, load_events
from modelux.trace.files import trace_files
from modelux.trace.query import LogFilter, TraceQuery
from modelux.units import MonoUs, UnixUs
from modelux.writer.loop import COMPLAINT_US, METRICS_US, TraceWriter
from modelux.writer.options import WriterOptions, parse_options
from tests import traces
from tests.traces import NOON

T0 = MonoUs(1_000_000_000)


class Place:
    """A state directory, a data directory, and what was logged."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.data = root / "data"
        self.logged: list[dict[str, object]] = []
        self.now_us = NOON
        for folder in (self.state, self.data, self.data / "spill"):
            folder.mkdir(exist_ok=True)

    def ring(self, slot: int = 0, generation: int = 1, ring_bytes: int = 1 << 20) -> RingWriter:
        return RingWriter(
            self.state / f"ring.{slot}.{generation}",
            self.data / "spill",
            ring_bytes=ring_bytes,
            spill_max_bytes=1 << 26,
            boot_id="boot",
            slot=slot,
            generation=generation,
        )

    def writer(self, options: WriterOptions | None = None) -> TraceWriter:
        def write(line: bytes) -> None:
            self.logged.append(json.loads(line))

        def now() -> UnixUs:
            return UnixUs(self.now_us)

        log = Log("writer", human=False, write=write, now=now)
        return TraceWriter(
            self.state, self.data, options or WriterOptions(boot_id="boot"), log, now
        )

    def stored(self) -> list[int]:
        query = TraceQuery(trace_files(self.data))
        found = [t.record() for t in query.oldest_first(LogFilter())]
        return [int(record.id[-4:], 16) for record in found]

    def events(self) -> list[object]:
        return [line["event"] for line in self.logged]

    def samples(self) -> dict[tuple[str, ...], float]:
        told = json.loads((self.state / "metrics.json").read_bytes())["samples"]
        return {(name, *labels.values()): value for name, labels, value in told}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run_until_idle(writer: TraceWriter, at_us: MonoUs = T0) -> None:
    for turn in range(1_000):
        if not writer.turn(MonoUs(at_us + turn * 1_000_000)):
            return
    raise AssertionError("never idle")


def test_traces_of_all_rings_are_stored_and_rings_of_the_living_stay(place: Place) -> None:
    rings = [place.ring(slot) for slot in range(3)]
    writer = place.writer()
    for number in range(30):
        rings[number % 3].append(traces.meta(number), b"{}", b"{}")
    run_until_idle(writer)
    assert sorted(place.stored()) == list(range(30))
    assert len(list(place.state.glob("ring.*"))) == 3
    assert writer.has_owner()
    for ring in rings:
        ring.close()
    run_until_idle(writer)
    assert not writer.has_owner()
    assert list(place.state.glob("ring.*")) == []


def test_a_dead_workers_ring_and_spill_are_drained_and_removed(place: Place) -> None:
    ring = place.ring(ring_bytes=1 << 16)
    went = {ring.append(traces.meta(number), b"x" * 40_000) for number in range(200)}
    assert went == {"ring", "spill"}
    ring.close()
    assert list((place.data / "spill").iterdir()) != []
    run_until_idle(place.writer())
    assert place.stored() == list(range(200))
    assert list(place.state.glob("ring.*")) == []
    assert list((place.data / "spill").iterdir()) == []


def test_a_successor_goes_on_where_the_store_is(place: Place) -> None:
    ring = place.ring()
    for number in range(5):
        ring.append(traces.meta(number))
    first = place.writer()
    first.turn(T0)
    for number in range(5, 9):
        ring.append(traces.meta(number))
    # Killed between the store's commit and the ring's: the successor gets the same again.
    second_look = place.writer()
    second_look.turn(T0)
    assert second_look.stored == 0  # The ring has a reader: it waits.
    first.close()
    ring.close()
    third = place.writer()
    run_until_idle(third)
    assert third.stored == 4
    assert place.stored() == list(range(9))


def test_rings_of_another_boot_are_refused_and_removed(place: Place) -> None:
    ring = place.ring()
    ring.append(traces.meta(1))
    ring.close()
    run_until_idle(place.writer(parse_options('{"boot_id": "later"}')))
    assert place.stored() == []
    assert "ring_refused" in place.events()
    assert list(place.state.glob("ring.*")) == []


def test_a_file_that_cannot_be_a_ring_stops_nobody(place: Place) -> None:
    (place.state / "ring.7.1").touch()
    (place.state / "ring.7.2").mkdir()
    (place.state / "ring.7.3").write_bytes(b"x" * 10_000)
    ring = place.ring()
    ring.append(traces.meta(0))
    run_until_idle(place.writer())
    assert place.stored() == [0]
    assert place.events().count("ring_not_opened") == 2
    assert place.events().count("ring_refused") == 1


def test_what_the_store_does_not_take_is_kept_and_stored_later(place: Place) -> None:
    ring = place.ring()
    writer = place.writer()
    for number in range(5):
        ring.append(traces.meta(number), b"body")
    blocker = place.data / "traces" / "bodies"
    blocker.write_bytes(b"")
    for turn in range(3):
        with pytest.raises(StoreError) as failure:
            writer.turn(MonoUs(T0 + turn))
        writer.complain(failure.value, MonoUs(T0 + turn))
    assert place.events().count("traces_not_stored") == 1
    writer.complain(failure.value, MonoUs(T0 + COMPLAINT_US))
    assert place.events().count("traces_not_stored") == 2
    blocker.unlink()
    ring.append(traces.meta(5))
    run_until_idle(writer)
    assert place.stored() == list(range(6))


def test_a_record_that_is_none_is_said_and_stops_nobody(place: Place) -> None:
    ring = place.ring()
    writer = place.writer()
    for meta in (traces.meta(0), b"{", traces.meta(1)):
        ring.append(meta)
    run_until_idle(writer)
    writer.tidy(T0)
    assert place.stored() == [0, 1]
    assert place.samples()["modelux_traces_shed_total", "malformed"] == 1
    assert "traces_malformed" in place.events()


def test_a_bug_on_one_record_costs_that_record_only(place: Place) -> None:
    cells = Cells.create(place.state / "cells", 1)
    ring = place.ring()
    writer = place.writer()
    real = writer._store.insert

    def insert(batch: list[object], now_us: UnixUs) -> object:
        if any(b"poison" in trace.meta for trace in batch):  # type: ignore[attr-defined]
            raise ZeroDivisionError
        return real(batch, now_us)  # type: ignore[arg-type]

    writer._store.insert = insert  # type: ignore[method-assign, assignment]
    for number in range(5):
        ring.append(traces.meta(number, project="poison" if number == 2 else "p"))
    run_until_idle(writer)
    assert place.stored() == [0, 1, 3, 4]
    assert cells.get("bugs_writer") == 2


def test_damage_in_a_ring_is_said_and_the_ring_goes_on(place: Place) -> None:
    ring = place.ring()
    writer = place.writer()
    ring.append(traces.meta(0))
    run_until_idle(writer)
    with (place.state / "ring.0.1").open("r+b") as file:
        ring.append(traces.meta(1))
        file.seek(4096 + 24 + len(traces.meta(0)) + 8)
        file.write(b"\xff" * 64)
    run_until_idle(writer, MonoUs(T0 + 1))
    ring.append(traces.meta(2))
    run_until_idle(writer, MonoUs(T0 + 2))
    assert place.stored() == [0, 2]
    assert "ring_damaged" in place.events()
    writer.tidy(T0)
    assert place.samples()["modelux_traces_shed_total", "ring_damaged"] == 1


def test_metrics_tell_what_was_stored_and_shed_also_after_a_restart(place: Place) -> None:
    ring = place.ring(ring_bytes=1 << 16)
    for number in range(100):
        ring.append(traces.meta(number), b"x" * 3_000)
    ring.close()
    before: dict[tuple[str, ...], float] = {}
    for _ in range(2):
        writer = place.writer()
        run_until_idle(writer)
        writer.tidy(T0)
        writer.close()
        samples = place.samples()
        served = ("@production", "openai", "gpt-4o-mini", "200")
        assert samples["modelux_requests_total", *served] == 100
        assert samples[("modelux_traces_accepted_total",)] == 100
        assert samples["modelux_traces_shed_total", "bodies_shed"] > 0
        assert samples["modelux_traces_shed_total", "lost"] == 0
        assert before in ({}, samples)
        before = samples


def test_the_lag_counts_from_the_newest_that_is_stored(place: Place) -> None:
    ring = place.ring()
    writer = place.writer()
    writer.tidy(T0)
    assert place.samples()[("modelux_trace_index_lag_seconds",)] == 0
    ring.append(traces.meta(0))
    writer.discover()
    place.now_us = UnixUs(NOON + 1_000_000)
    writer.tidy(MonoUs(T0 + METRICS_US))
    place.now_us = UnixUs(NOON + 4_000_000)
    writer.tidy(MonoUs(T0 + 2 * METRICS_US))
    assert place.samples()[("modelux_trace_index_lag_seconds",)] == 3
    run_until_idle(writer)
    writer.tidy(MonoUs(T0 + 3 * METRICS_US))
    assert place.samples()[("modelux_trace_index_lag_seconds",)] == 0


def test_after_the_freeze_no_ring_is_taken_and_no_metric_told(place: Place) -> None:
    first = place.ring(0)
    writer = place.writer()
    first.append(traces.meta(0))
    writer.freeze()
    second = place.ring(1)
    second.append(traces.meta(1))
    run_until_idle(writer)
    writer.tidy(T0)
    writer.close()
    assert place.stored() == [0]
    assert not (place.state / "metrics.json").exists()


def test_leftovers_of_a_power_loss_go_and_what_lives_stays(place: Place) -> None:
    living = place.ring(0, 2)
    spill = place.data / "spill"
    for name in ("spill.0.1.0", "spill.0.2.0", "other"):
        (spill / name).touch()
    place.writer()
    assert sorted(path.name for path in spill.iterdir()) == ["other", "spill.0.2.0"]
    living.close()


def test_retention_is_applied_when_its_time_has_come(place: Place) -> None:
    ring = place.ring()
    writer = place.writer()
    ring.append(traces.meta(0), b"body")
    run_until_idle(writer)
    writer.tidy(T0)
    bodies = place.data / "traces" / "bodies"
    assert len(list(bodies.iterdir())) == 1
    place.now_us = UnixUs(NOON + 26 * 3_600_000_000)
    writer.tidy(MonoUs(T0 + 1))
    assert len(list(bodies.iterdir())) == 1
    writer.tidy(MonoUs(T0 + 61_000_000))
    assert list(bodies.iterdir()) == []
    assert "traces_dropped" in place.events()


def test_events_are_stored_with_the_next_tidying_and_a_broken_copy_stops_no_trace(
    place: Place,
) -> None:
    copy = LedgerCopy(place.data)
    row = LedgerRow(row_key(bytes(16), None, 0), "", 0, None, spent_nusd=1, flags=1)
    copy.write([row], {}, UnixUs(place.now_us))
    writer = place.writer()
    writer.tidy(T0)
    found = load_events(trace_files(place.data), 0, NOON + 1, 10)
    assert [event.kind for event in found] == [EventKind.THRESHOLD_REACHED]
    writer.close()
    copy.close()
    for path in place.data.glob("ledger.db*"):
        path.unlink()
    (place.data / "ledger.db").write_bytes(b"torn" * 4_096)
    ring = place.ring()
    ring.append(traces.meta(0))
    writer = place.writer()
    run_until_idle(writer)
    writer.tidy(T0)
    assert place.stored() == [0]
    assert place.events().count("traces_not_stored") == 1
    writer.close()
