"""The trace writer as a process: killed in the middle, told to end, left alone."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelux._native import RingWriter
from modelux.trace.files import trace_files
from modelux.trace.query import LogFilter, TraceQuery
from modelux.trace.schema import open_day_to_read
from tests import traces
from tests.e2e.harness import WAIT_S, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROUNDS = 16

PRODUCER = """
import sys
from modelux._native import RingWriter
from tests import traces
ring, spill, generation = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = RingWriter(
    ring, spill, ring_bytes=1 << 20, spill_max_bytes=1 << 28, generation=generation
)
number = generation * 100_000
while True:
    body = b"x" * (60_000 if number % 9 == 0 else 500)
    assert writer.append(traces.meta(number), body, b"{}") != "lost"
    number += 1
    sys.stdout.write(".")
    sys.stdout.flush()
"""


class Place:
    """One state and data directory, and the processes that work on it."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.data = root / "data"
        self.spill = self.data / "spill"
        for folder in (self.state, self.data, self.spill):
            folder.mkdir()
        self.number = 0

    def ring(self, slot: int, generation: int) -> RingWriter:
        return RingWriter(
            self.state / f"ring.{slot}.{generation}",
            self.spill,
            ring_bytes=1 << 20,
            spill_max_bytes=1 << 28,
            slot=slot,
            generation=generation,
        )

    def append(self, ring: RingWriter, count: int) -> None:
        for _ in range(count):
            body = b"x" * (60_000 if self.number % 9 == 0 else 500)
            assert ring.append(traces.meta(self.number), body, b"{}") != "lost"
            self.number += 1

    def start(self, *words: str, fds: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "modelux.writer.process"]
        place = ("--state-dir", str(self.state), "--data-dir", str(self.data))
        # The records of these tests bear one date, whatever the day is.
        kept = '{"boot_id": "", "record_retention_days": 90000, "rollup_retention_days": 90000}'
        line = [*command, *place, "--options", kept, *words]
        return subprocess.Popen(line, cwd=ROOT, pass_fds=fds)

    def count(self) -> int:
        """Return how many are stored, as a reader beside the writer sees it."""
        found = 0
        files = trace_files(self.data)
        for day in files.days():
            try:
                opened = open_day_to_read(files.day_path(day))
            except sqlite3.Error:
                continue
            with contextlib.closing(opened), contextlib.suppress(sqlite3.Error):
                found += opened.execute("SELECT count(*) FROM records").fetchone()[0]
        return found

    def wait_for(self, count: int) -> None:
        """Wait until so many are stored."""
        until(lambda: self.count() >= count, what=f"{count} stored")

    def stored(self) -> list[int]:
        query = TraceQuery(trace_files(self.data))
        found = [t.record().id for t in query.oldest_first(LogFilter())]
        return sorted(int(one[-8:], 16) for one in found)

    def sums(self) -> int:
        """Return how many requests the rollups count."""
        total = 0
        files = trace_files(self.data)
        for day in files.days():
            with contextlib.closing(open_day_to_read(files.day_path(day))) as opened:
                found = opened.execute("SELECT sum(requests) FROM rollups").fetchone()[0]
                total += found or 0  # The day of today has but the counts of drained rings.
        return total


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextlib.contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """End the process whatever happens, and nothing else."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(WAIT_S)


def test_a_writer_killed_again_and_again_loses_nothing_and_doubles_nothing(
    place: Place,
) -> None:
    rings = [place.ring(0, 1), place.ring(1, 1)]
    for round_number in range(ROUNDS):
        before = place.count()
        with ended(place.start()) as writer:
            for ring in rings:
                place.append(ring, 40)
            # Killed at another point each time: before, amid and after its batches.
            goal = before + round_number * 11
            place.wait_for(min(goal, place.number))
            writer.send_signal(signal.SIGKILL)
            writer.wait(WAIT_S)
    for ring in rings:
        place.append(ring, 5)
        ring.close()
    with ended(place.start()) as writer:
        # Before that it may not have got to where it understands the signal.
        place.wait_for(place.number)
        writer.terminate()
        assert writer.wait(WAIT_S) == 0
    assert place.stored() == list(range(place.number))
    assert place.sums() == place.number
    assert [path.name for path in place.state.iterdir()] == ["metrics.json"]
    assert list(place.spill.iterdir()) == []
    told = json.loads((place.state / "metrics.json").read_bytes())["samples"]
    requests = [value for name, _, value in told if name == "modelux_requests_total"]
    assert requests == [place.number]


def test_workers_killed_amid_traffic_leave_rings_that_are_drained_and_removed(
    place: Place,
) -> None:
    accepted: list[tuple[int, int]] = []
    with ended(place.start()) as writer:
        for generation in range(1, 9):
            ring = place.state / f"ring.0.{generation}"
            producer = subprocess.Popen(
                [sys.executable, "-c", PRODUCER, str(ring), str(place.spill), str(generation)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            with ended(producer):
                assert producer.stdout is not None
                with producer.stdout as told:
                    said = told.read(generation * 37)
                    producer.kill()
                    said += told.read()
            accepted.append((generation * 100_000, len(said)))
        until(lambda: not list(place.state.glob("ring.*")), what="rings are removed")
        writer.terminate()
        assert writer.wait(WAIT_S) == 0
    stored = set(place.stored())
    for first, count in accepted:
        assert set(range(first, first + count)) <= stored
    # One more each at most: committed, and killed before it could say so.
    assert len(stored) <= sum(count + 1 for _, count in accepted)
    assert list(place.spill.iterdir()) == []


def test_told_to_end_it_stores_what_is_left_first(place: Place) -> None:
    ring = place.ring(0, 1)
    with ended(place.start()) as writer:
        until((place.state / "metrics.json").exists, what="started")
        place.append(ring, 500)
        ring.close()
        writer.terminate()
        assert writer.wait(WAIT_S) == 0
    assert place.stored() == list(range(500))


def test_without_its_supervisor_it_waits_for_the_workers_and_ends(place: Place) -> None:
    read_fd, write_fd = os.pipe()
    ring = place.ring(0, 1)
    with ended(place.start("--parent-pipe", str(read_fd), fds=(read_fd,))) as writer:
        os.close(read_fd)
        place.append(ring, 10)
        place.wait_for(10)
        os.close(write_fd)
        place.append(ring, 10)
        place.wait_for(20)
        assert writer.poll() is None
        ring.close()
        assert writer.wait(WAIT_S) == 0
    assert [path.name for path in place.state.iterdir()] == ["metrics.json"]


def test_ctrl_c_is_the_supervisors_to_understand(place: Place) -> None:
    ring = place.ring(0, 1)
    with ended(place.start()) as writer:
        until((place.state / "metrics.json").exists, what="started")
        writer.send_signal(signal.SIGINT)
        place.append(ring, 10)
        place.wait_for(10)
        ring.close()
        writer.terminate()
        assert writer.wait(WAIT_S) == 0


def test_a_successor_takes_over_what_its_predecessor_still_reads(place: Place) -> None:
    ring = place.ring(0, 1)
    with ended(place.start()) as first, ended(place.start()) as second:
        place.append(ring, 50)
        place.wait_for(50)
        first.kill()
        first.wait(WAIT_S)
        place.append(ring, 50)
        place.wait_for(100)
        ring.close()
        second.terminate()
        assert second.wait(WAIT_S) == 0
    assert place.stored() == list(range(100))


def test_bad_options_are_a_usage_error(place: Place) -> None:
    with ended(place.start("--options", '{"trace_max_bytes": "much"}')) as writer:
        assert writer.wait(WAIT_S) == 2
    with ended(place.start("--options", '{"redact": ["("]}')) as writer:
        assert writer.wait(WAIT_S) == 1
