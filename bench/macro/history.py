"""Does a request cost more when many traces lie in the store?

Two gateways side by side, one of them after a million requests. They are real ones, sent
through it, so that the store holds what its own writer makes of traffic.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bench.macro import measures, targets, tools
from bench.macro.measures import Bench
from bench.macro.targets import UNARY, Target
from bench.macro.tools import Load
from bench.results import REQUEST_BYTES, Row

FILL_S: Final = 5.0
FILL_CONNECTIONS: Final = 32


def measure(bench: Bench, traces: int) -> Iterator[Row]:
    """Fill one of two gateways with so many traces, then measure both in turn."""
    with contextlib.ExitStack() as stack:
        empty, full = (
            stack.enter_context(targets.modelux(bench.folder / name, bench.backends, name=name))
            for name in ("modelux_empty", "modelux_full")
        )
        stored = fill(bench, full, traces)
        # Short runs: each of them adds to the store that is to be empty.
        short = replace(bench, sizes=replace(bench.sizes, closed_s=1.0))
        measure_once = measures.closed_unary(32)
        for round_ in range(bench.sizes.rounds):
            pair = (empty, full) if round_ % 2 == 0 else (full, empty)
            for target in pair:
                row = measure_once(short, target, round_)
                values = {**row.values, "traces_before": stored if target is full else 0.0}
                yield replace(row, scenario="history_c32", values=values)


def fill(bench: Bench, target: Target, traces: int) -> float:
    """Send requests until so many traces have been written; return how many have."""
    load = Load(
        port=target.doors.ports[UNARY],
        body=bench.body(target, UNARY, "unary", bytes_=REQUEST_BYTES),
        headers=target.doors.headers,
        connections=FILL_CONNECTIONS,
        warmup_s=0.0,
        duration_s=FILL_S,
    )
    while True:
        # Pauses let the writer keep up: without them whole traces would be lost.
        stored = measures.settled_metric(target, "modelux_traces_accepted_total")
        if stored >= traces:
            return stored
        tools.run_loads([load], watch=())
