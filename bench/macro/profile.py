"""Where a worker's time goes: `python -m bench.macro.profile [--target nginx] [--stream]`.

Samples the worker with `perf` while it is under load, then counts its system calls with
`strace` in a second load, as tracing costs more than the work itself. Shares of CPU are
turned into microseconds a request by the CPU time measured in the same load.
"""

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.macro import measures, processes, run, targets, tools
from bench.macro.measures import Bench
from bench.macro.targets import STREAM, TLS, UNARY, Target
from bench.macro.tools import Load
from bench.results import REQUEST_BYTES
from modelux.clock import pause_s

SAMPLES_PER_S: Final = 1_999
"""A prime-like rate: it does not beat with timers of a millisecond."""
TRACED_S: Final = 2.0
SHARE: Final = re.compile(r"^\s*([0-9.]+)%\s+(.*\S)\s*$")


def options(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.macro.profile", description=__doc__)
    parser.add_argument("--target", default="modelux", choices=["modelux", "nginx"])
    parser.add_argument("--door", default=UNARY, choices=[UNARY, STREAM, TLS])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--top", type=int, default=45, help="symbols to show")
    parser.add_argument("--writer-cpu", type=int)
    parser.add_argument("--keep", type=Path, help="keep perf's data in this file")
    return parser.parse_args(words)


def load_of(bench: Bench, target: Target, asked: argparse.Namespace) -> Load:
    """Return the closed load that the macro scenarios use for this door."""
    is_stream = asked.door == STREAM
    settings = (
        f"events={measures.STREAM_EVENTS} gap_us={measures.STREAM_GAP_US}"
        if is_stream
        else "unary"
    )
    gap_us = measures.STREAM_GAP_US if is_stream else 0
    return Load(
        port=target.doors.ports[asked.door],
        body=bench.body(target, asked.door, settings, bytes_=REQUEST_BYTES),
        headers=target.doors.headers,
        connections=asked.connections,
        duration_s=asked.seconds,
        stagger_us=gap_us // asked.connections,
    )


def sampled(
    load: Load, worker_pid: int, data: Path, asked: argparse.Namespace
) -> tuple[float, str]:
    """Run the load under `perf`; return the worker's CPU share of a request, and a name."""
    words = [
        *("perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(SAMPLES_PER_S)),
        *("--pid", str(worker_pid), "--output", str(data)),
        *("sleep", str(asked.seconds)),
    ]
    with _beside(words, after_s=load.warmup_s):
        (answered,) = tools.run_loads([load], watch=[worker_pid])
    count, unit = (
        (answered.events, "chunk") if asked.door == STREAM else (answered.answers, "request")
    )
    return answered.cpu_us[worker_pid] / max(1, count), unit


@contextlib.contextmanager
def _beside(words: Sequence[str], *, after_s: float) -> Iterator[None]:
    """Run a tool during the block, from a moment after its start."""
    delayed = ["sh", "-c", f'sleep {after_s}; exec "$@"', "sh", *words]
    child = subprocess.Popen(delayed)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(30)


def shares(data: Path, sort: str) -> list[tuple[float, str]]:
    """Return what `perf report` makes of the samples, largest first."""
    done = subprocess.run(
        ["perf", "report", "--stdio", "--input", str(data), "--sort", sort, "--percent-limit",
         "0.1", "--fields", f"overhead,{sort}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = (SHARE.match(line) for line in done.stdout.splitlines())
    # `perf` sorts by name where names are asked for, and fills columns it has no value for.
    named = [(float(one[1]), re.sub(r"[\s-]+$", "", one[2])) for one in found if one]
    return sorted(named, reverse=True)


def traced(load: Load, worker_pid: int) -> str:
    """Run the load under `strace -c`; return calls for each request."""
    short = replace(load, duration_s=TRACED_S)
    with tempfile.NamedTemporaryFile(mode="r", suffix=".strace") as out:
        words = ["strace", "-c", "-f", "-q", "-p", str(worker_pid), "-o", out.name]
        child = subprocess.Popen(words)
        try:
            pause_s(0.2)
            (answered,) = tools.run_loads([short], watch=())
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(30)
        lines = []
        for line in Path(out.name).read_text().splitlines():
            parts = line.split()
            # `% time, seconds, usecs/call, calls, [errors,] syscall`
            if len(parts) >= 5 and parts[3].isdigit() and parts[-1] != "total":
                each = int(parts[3]) / max(1, answered.answers_in_all)
                lines.append(f"{each:8.2f}  {parts[-1]}")
    return "\n".join(sorted(lines, reverse=True)[:15])


def main(words: Sequence[str]) -> int:
    """Profile one target and print where its time goes."""
    asked = options(words)
    if shutil.which("perf") is None:
        print("`perf` is not installed.")
        return 1
    tools.build()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        backends = stack.enter_context(run.backends_of(folder))
        bench = Bench(folder=folder, backends=backends, sizes=measures.QUICK, seed=1)
        making = targets.make(
            asked.target, folder / asked.target, backends, writer_cpu=asked.writer_cpu
        )
        target = stack.enter_context(making)
        assert target.worker_pid is not None
        load = load_of(bench, target, asked)
        data = asked.keep or folder / "perf.data"
        each_us, unit = sampled(load, target.worker_pid, data, asked)
        print(f"{target.name}: {each_us:.1f} µs of CPU a {unit}")
        print("\nby where the code lies:")
        for percent, where in shares(data, "dso")[:12]:
            print(f"{percent:6.1f} %  {percent * each_us / 100:6.2f} µs  {where}")
        print("\nby function:")
        for percent, where in shares(data, "dso,symbol")[: asked.top]:
            print(f"{percent:6.1f} %  {percent * each_us / 100:6.2f} µs  {where}")
        processes.wait_until_idle(measures.pids_of([target]))
        if shutil.which("strace") and asked.door != STREAM:
            print("\nsystem calls a request:")
            print(traced(load, target.worker_pid))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
