"""Run the macro benchmark: `python -m bench.macro.run [--quick]`; see `--help`.

Every round measures every target once before the next round begins, in rotated order, so that
a machine that slows down slows all of them.
"""

import argparse
import contextlib
import datetime
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench import report, results
from bench.macro import history, measures, processes, targets, tools
from bench.macro.measures import Bench, Scenario
from bench.macro.targets import STREAM, TLS, Backends, Target
from bench.results import Context, Row

EXIT_FAILURE = 1


class Recorder:
    """Writes rows to the results file and one line each to the terminal."""

    def __init__(self, path: Path, context: Context) -> None:
        self._path = path
        self._context = context
        self.failures: list[str] = []

    def add(self, row: Row) -> None:
        """Keep a row."""
        results.write_row(self._path, self._context, row)
        shown = " ".join(
            f"{name}={value:,.2f}"
            for name, value in row.values.items()
            if not name.startswith(("gap_", "send_lag_"))
        )
        print(f"{row.scenario:16} {row.target:8} round {row.round}  {shown}", flush=True)

    def failed(self, what: str, why: Exception) -> None:
        """Say what could not be measured; the rest goes on."""
        self.failures.append(f"{what}: {why}")
        print(f"NOT MEASURED {what}: {why}", flush=True)


def options(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.macro.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, two rounds")
    parser.add_argument("--rounds", type=int, help="instead of the run's own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--targets",
        default="direct,nginx,modelux,uncapped",
        help="of direct, nginx, nginx2 (a second nginx, to test the harness), modelux, "
        "uncapped (modelux without budgets)",
    )
    parser.add_argument("--only", default="", help="scenarios by name, comma-separated")
    parser.add_argument(
        "--history", type=int, help="traces in the store for the history row; 0: no such row"
    )
    parser.add_argument(
        "--writer-cpu", type=int, help="move the trace writer to this CPU (default: stays)"
    )
    parser.add_argument("--no-report", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="results folder")
    return parser.parse_args(words)


def context_of(asked: argparse.Namespace, words: Sequence[str]) -> Context:
    """Describe this run."""
    started = datetime.datetime.now(datetime.UTC)
    commit, is_dirty = results.git_commit()
    quick = "-quick" if asked.quick else ""
    return Context(
        run=f"{started:%Y%m%dT%H%M%S}-{commit}{quick}",
        started=started.isoformat(timespec="seconds"),
        machine=results.cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_gib=results.memory_gib(),
        kernel=platform.release(),
        python=platform.python_version(),
        nginx=targets.nginx_version(),
        commit=commit,
        is_dirty=is_dirty,
        seed=asked.seed,
        command=shlex.join(["python", "-m", "bench.macro.run", *words]),
        is_quick=asked.quick,
        load_average=round(os.getloadavg()[0], 2),
    )


@contextlib.contextmanager
def backends_of(folder: Path) -> Iterator[Backends]:
    """Run the upstream, and TLS in front of it where the machine has what that takes."""
    with contextlib.ExitStack() as stack:
        plain_port, upstream_pid = stack.enter_context(tools.upstream(folder / "upstream.log"))
        tls_port, ca_file = None, None
        if targets.has_tls():
            tls = targets.tls_terminator(folder / "tls", plain_port)
            tls_port, ca_file = stack.enter_context(tls)
        else:
            print("No TLS row: it needs nginx and openssl.")
        yield Backends(
            plain_port=plain_port, upstream_pid=upstream_pid, tls_port=tls_port, ca_file=ca_file
        )


def start_targets(
    stack: contextlib.ExitStack, asked: argparse.Namespace, bench: Bench, recorder: Recorder
) -> list[Target]:
    """Start what was asked for; what cannot start is said and left out."""
    started = []
    for name in asked.targets.split(","):
        if name.startswith("nginx") and not targets.NGINX:
            print("nginx is not installed: its rows are missing, and so are the ratios to it.")
            continue
        making = targets.make(
            name, bench.folder / name, bench.backends, writer_cpu=asked.writer_cpu
        )
        try:
            started.append(stack.enter_context(making))
        except (RuntimeError, OSError) as error:
            recorder.failed(f"target {name}", error)
    return started


def measure_rounds(
    bench: Bench, running: Sequence[Target], wanted: Sequence[Scenario], recorder: Recorder
) -> None:
    """Measure all rounds of all scenarios, targets in turn."""
    for round_ in range(bench.sizes.rounds):
        turn = round_ % max(1, len(running))
        for scenario in wanted:
            for target in [*running[turn:], *running[:turn]]:
                if not scenario.suits(target):
                    continue
                try:
                    # A backlog of traces would be written while the next target is measured.
                    processes.wait_until_idle(measures.pids_of(running))
                    recorder.add(scenario.measure(bench, target, round_))
                except (tools.MeasureError, RuntimeError, OSError) as error:
                    recorder.failed(f"{scenario.name} of {target.name}", error)


def measure_idle_streams(bench: Bench, names: Sequence[str], recorder: Recorder) -> None:
    """Hold idle streams open in a target of its own for each row: memory must be fresh."""
    doors = [STREAM] if bench.backends.tls_port is None else [STREAM, TLS]
    for round_ in range(bench.sizes.starts):
        for name in names:
            for door in doors:
                folder = bench.folder / f"{name}-{door}-{round_}"
                try:
                    with targets.make(name, folder, bench.backends) as target:
                        recorder.add(measures.idle_stream(bench, target, door, round_))
                except (tools.MeasureError, RuntimeError, OSError) as error:
                    recorder.failed(f"idle {door} of {name}", error)


def measure_starts(bench: Bench, recorder: Recorder) -> None:
    """Start a `modelux serve` of its own, several times."""
    for round_ in range(bench.sizes.starts):
        try:
            for row in measures.start(bench, round_):
                recorder.add(row)
        except (RuntimeError, OSError) as error:
            recorder.failed("start", error)
            return


def measure_history(bench: Bench, recorder: Recorder, traces: int) -> None:
    """Compare a store full of traces with an empty one."""
    try:
        for row in history.measure(bench, traces):
            recorder.add(row)
    except (tools.MeasureError, RuntimeError, OSError) as error:
        recorder.failed("history", error)


def run(words: Sequence[str]) -> int:
    """Run what the words ask for; return the exit status."""
    asked = options(words)
    sizes = measures.QUICK if asked.quick else measures.FULL
    if asked.rounds is not None:
        sizes = replace(sizes, rounds=asked.rounds)
    only = set(filter(None, asked.only.split(",")))
    tools.build()
    context = context_of(asked, words)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"{context.run}.jsonl"
    recorder = Recorder(path, context)
    if context.cpus < 2:
        print("One CPU only: load and proxy share it, so latencies hold the load's own.")

    def is_wanted(name: str) -> bool:
        return not only or name in only

    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        backends = stack.enter_context(backends_of(folder))
        bench = Bench(folder=folder, backends=backends, sizes=sizes, seed=asked.seed)
        running = start_targets(stack, asked, bench, recorder)
        workers = [target for target in running if target.worker_pid is not None]
        if is_wanted("memory"):
            for target in workers:
                recorder.add(measures.idle_memory(target, "memory_idle"))
        wanted = [one for one in measures.scenarios(sizes) if is_wanted(one.name)]
        measure_rounds(bench, running, wanted, recorder)
        if is_wanted("memory"):
            for target in workers:
                recorder.add(measures.idle_memory(target, "memory_after_load"))
        if is_wanted("idle_stream"):
            measure_idle_streams(bench, [target.name for target in workers], recorder)
        if any(target.name == "modelux" for target in running):
            if is_wanted("start"):
                measure_starts(bench, recorder)
            traces = asked.history if asked.history is not None else sizes.history
            if traces and is_wanted("history"):
                measure_history(bench, recorder, traces)
    if not path.exists():
        print("Nothing was measured.")
        return EXIT_FAILURE
    print(f"\n{report.tables(*results.read_rows(path))}\nResults: {path}")
    if not asked.no_report:
        report.write()
    for failure in recorder.failures:
        print(f"NOT MEASURED {failure}")
    return EXIT_FAILURE if recorder.failures else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
