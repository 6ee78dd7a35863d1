"""Processes that are killed while they write the live state leave sane figures, and no lock."""

import subprocess
import sys
from pathlib import Path

from modelux._native import Live
from modelux.clock import pause_s

WORKERS = 3
ROUNDS = 4
ROUND_S = 0.15
HOURS_LATER_US = 20_000_000_000


def start(path: Path, slot: int) -> "subprocess.Popen[str]":
    """Start a process, and return once it works."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.model.live_worker", str(path), str(slot)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def test_killed_writers_leave_sane_figures(tmp_path: Path) -> None:
    path = tmp_path / "live"
    live = Live.open_or_create(path, "boot", WORKERS)
    for _ in range(ROUNDS):
        processes = [start(path, slot) for slot in range(WORKERS)]
        # How far they get does not matter: wherever they are, they are cut short.
        pause_s(ROUND_S)
        for process in processes:
            process.kill()
            process.communicate()
        for slot in range(WORKERS):
            live.clear_worker(slot)
    found = {target.model: target for target in live.targets(HOURS_LATER_US)}
    assert {"m0", "m1", "m2"} <= set(found)
    assert {target.in_flight for target in found.values()} == {0}
    assert {target.state for target in found.values()} <= {"closed", "open", "half_open"}
    for at_us in (1_000_000_000, 1_010_000_000):
        for target in live.targets(at_us):
            for size, ttft_us, total_us in target.averages:
                assert size == "small"
                assert 9_999 < (ttft_us or 0) < 10_007
                assert 19_999 < (total_us or 0) < 20_001
    # Everything can still be written: once the others are idle, a new target finds its place.
    live.began("p", "m0", 0, HOURS_LATER_US)
    for _ in range(5):
        live.report("p", "fresh", "failed", HOURS_LATER_US, HOURS_LATER_US)
    (fresh,) = [t for t in live.targets(HOURS_LATER_US) if t.model == "fresh"]
    assert (fresh.state, fresh.error_rate) == ("open", 1.0)
    mark = live.mark("mark")
    assert mark is not None
    assert mark.hits > 0


def test_of_many_processes_one_gets_each_probe(tmp_path: Path) -> None:
    path = tmp_path / "live"
    live = Live.open_or_create(path, "boot", 1)
    due_us = 1_000_000_000
    asking = (
        "import sys; from modelux._native import Live; live = Live.open(sys.argv[1]);"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(sum(live.take_probe('p', f'm{n}', int(sys.argv[2])) for n in range(200)))"
    )
    for number in range(200):
        for _ in range(5):
            live.report("p", f"m{number}", "failed", 0, 0)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", asking, str(path), str(due_us)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(process.communicate()[0]) for process in processes]
    assert sum(won) == 200
