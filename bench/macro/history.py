"""Does a request cost more when many traces lie in the store?

Two gateways side by side, one of them after a million requests. They are real ones, sent
through it, so that the store holds what its own writer makes of traffic.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bench.macro import measures, processes, targets, tools
from bench.macro.measures import Bench
from bench.macro.targets import UNARY, Target
from bench.macro.tools import Load
from bench.results import REQUEST_BYTES, Row

FILL_S: Final = 5.0
FILL_CONNECTIONS: Final = 32
WRITER_WITHIN_S: Final = 600.0


def measure(bench: Bench, traces: int) -> Iterator[Row]:
    """Fill one of two gateways with so many traces, then measure both in turn."""
    with contextlib.ExitStack() as stack:
        empty, full = (
            stack.enter_context(targets.modelux(bench.folder / name, bench.backends, name=name))
            for name in ("modelux_empty", "modelux_full")
        )
        fill(bench, full, traces)
        # Short runs: each of them adds to the store that is to be empty.
        short = replace(bench, sizes=replace(bench.sizes, closed_s=1.0))
        measure_once = measures.closed_unary(32)
        for round_ in range(bench.sizes.rounds):
            pair = (empty, full) if round_ % 2 == 0 else (full, empty)
            for target in pair:
                wait_until_written(pair)
                row = measure_once(short, target, round_)
                yield replace(row, scenario="history_c32", note=f"{traces} traces")


def fill(bench: Bench, target: Target, traces: int) -> None:
    """Send requests until so many have been answered and written down."""
    load = Load(
        port=target.doors.ports[UNARY],
        body=bench.body(target, UNARY, "unary", bytes_=REQUEST_BYTES),
        headers=target.doors.headers,
        connections=FILL_CONNECTIONS,
        warmup_s=0.0,
        duration_s=FILL_S,
    )
    answered = 0
    while answered < traces:
        answered += tools.run_loads([load], watch=())[0].answers_in_all
        # Without pauses the ring runs over, and bodies or whole traces are shed.
        wait_until_written([target])


def wait_until_written(written: Sequence[Target]) -> None:
    """Wait until the trace writers have nothing left to do."""
    processes.wait_until_idle(measures.pids_of(written), timeout_s=WRITER_WITHIN_S)
