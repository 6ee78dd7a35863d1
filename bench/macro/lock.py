"""How long a reserve waits for the ledger: `python -m bench.macro.lock [--workers 8]`.

Many workers, few cores: processes that do nothing but turns of the ledger (one reserve, and the
settle of the one before, on three budgets), at random instants as requests come. Timed is the
whole turn, waiting for the lock included, so the figure is an upper bound of the wait; the
cells say how much of it was waiting, and which share of the time the lock was held.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

from modelux._native import Cells, Ledger, Slots, row_key
from modelux.clock import mono_us, pause_s
from modelux.store.layout import CELLS_FILE
from modelux.units import US_PER_S

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the state lives in production.
MAP_BYTES: Final = 32 << 20
BUDGETS: Final = 3
AMOUNT_NUSD: Final = 1_000
PERCENTILES: Final = (50.0, 99.0, 99.9)


def main(words: Sequence[str]) -> int:
    """Measure, or be one of the workers of a measurement."""
    parser = argparse.ArgumentParser(prog="python -m bench.macro.lock", description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument(
        "--rate", type=float, default=4_000, help="turns a second, all together"
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--be", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.be is not None:
        return work(asked.folder, asked.be, asked.rate / asked.workers, asked.seconds)
    with tempfile.TemporaryDirectory(prefix="bench-lock-", dir=MEMORY) as name:
        folder = Path(name)
        cells = Cells.create(folder / CELLS_FILE, asked.workers)
        ledger = Ledger.create(folder, map_bytes=MAP_BYTES, stamp="bench")
        workers = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "bench.macro.lock", *words),
                    *("--be", str(slot), "--folder", name),
                ],
                stdout=subprocess.PIPE,
            )
            for slot in range(asked.workers)
        ]
        turns_us: list[float] = []
        for worker in workers:
            said, _ = worker.communicate()
            if worker.returncode != 0:
                raise RuntimeError(f"a worker ended with {worker.returncode}")
            turns_us += json.loads(said)
        ledger.verify()
        tell(turns_us, cells, asked.workers, asked.seconds)
    return 0


def work(folder: Path, slot: int, rate: float, seconds: float) -> int:
    """Do turns at random instants and print how long each took, in microseconds."""
    ledger = Ledger.open(folder, slot + 1)
    ledger.watch(folder / CELLS_FILE, slot)
    slots = Slots(folder, slot + 1, 8)
    keys = [row_key(bytes([number] * 16), None, 0) for number in range(BUDGETS)]
    chance = random.Random(slot)  # noqa: S311 - arrivals, not secrets.
    turns_us = []
    until_us = mono_us() + seconds * US_PER_S
    due_us = float(mono_us())
    seq = 0
    place = slots.take()
    assert place is not None, "a fresh worker has slots"
    while mono_us() < until_us:
        due_us += chance.expovariate(rate) * US_PER_S
        # A gap that is late already is not slept: requests do not wait for one another.
        pause_s(max(0.0, due_us - mono_us()) / US_PER_S)
        seq += 1
        began_us = mono_us()
        ledger.turn(steps(keys, seq, place))
        turns_us.append(mono_us() - began_us)
    sys.stdout.write(json.dumps(turns_us))
    return 0


def steps(keys: Sequence[bytes], seq: int, place: int) -> Generator[Any, object]:
    """Settle the hold of before, look at three balances, and hold against them."""
    yield ("settle", seq - 1, AMOUNT_NUSD)
    for key in keys:
        yield ("balance", key)
    yield ("hold", seq, place, AMOUNT_NUSD, [(key, "", None) for key in keys])


def tell(turns_us: list[float], cells: Cells, workers: int, seconds: float) -> None:
    """Print the figures."""
    ordered = sorted(turns_us)
    last = len(ordered) - 1
    at = {p: ordered[min(last, int(len(ordered) * p / 100))] for p in PERCENTILES}
    shown = ", ".join(f"p{percentile:g} {taken:.0f} us" for percentile, taken in at.items())
    sums = {
        name: [cells.get(name, slot) for slot in range(workers)]
        for name in ("ledger_turns", "ledger_wait_us", "ledger_wait_max_us", "ledger_held_us")
    }
    turns = max(1, sum(sums["ledger_turns"]))
    print(f"{workers} workers, {len(ordered) / seconds:.0f} turns/s: a turn takes {shown}")
    print(
        f"waiting for the lock: {sum(sums['ledger_wait_us']) / turns:.1f} us a turn, "
        f"at most {max(sums['ledger_wait_max_us'])} us; held "
        f"{sum(sums['ledger_held_us']) / seconds / 10_000:.1f} % of the time"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
