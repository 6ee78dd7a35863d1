"""The two Rust programs: how they are found, started and read."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from bench.histogram import Histogram
from bench.macro import processes
from bench.results import ROOT

BINARIES: Final = ROOT / "target" / "release"
DRAIN_S: Final = 10.0


class MeasureError(Exception):
    """The run measured something else than it should have: its figures are worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of the load generator."""

    port: int
    body: Path
    headers: Sequence[str] = ()
    rate: float = 0.0
    """Arrivals a second; 0: closed-loop."""
    connections: int = 1
    warmup_s: float = 0.5
    duration_s: float = 2.0
    stagger_us: int = 0
    seed: int = 1
    is_spinning: bool = False
    """Never sleep, so that the proxy does not pay for waking the load generator."""

    def words(self, watch: Sequence[int] = ()) -> list[str]:
        """Return the command line."""
        words = [
            str(BINARIES / "loadgen"),
            *("--to", f"127.0.0.1:{self.port}"),
            *("--body", str(self.body)),
            *("--rate", str(self.rate)),
            *("--connections", str(self.connections)),
            *("--warmup-s", str(self.warmup_s)),
            *("--duration-s", str(self.duration_s)),
            *("--drain-s", str(DRAIN_S)),
            *("--stagger-us", str(self.stagger_us)),
            *("--seed", str(self.seed)),
        ]
        for header in self.headers:
            words += ["--header", header]
        for pid in watch:
            words += ["--watch", str(pid)]
        return [*words, "--spin"] if self.is_spinning else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the load generator saw; times and counts are those of the window."""

    window_s: float
    answers: int
    answers_in_all: int
    """Those of warm-up and drain too."""
    events: int
    reads: int
    loadgen_cpu_us: float
    cpu_us: dict[int, float]
    latency: Histogram
    send_lag: Histogram
    ttft: Histogram
    gap: Histogram


def build() -> None:
    """Build both programs; a no-op when they are up to date."""
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--package", "modelux-bench"],
        cwd=ROOT,
        check=True,
    )


@contextlib.contextmanager
def upstream(log: Path) -> Iterator[tuple[int, int]]:
    """Run the fixed-answer upstream; gives its port and process id."""
    words = [str(BINARIES / "upstream")]
    with processes.running(words, cpu=processes.LOAD_CPU, log=log) as child:
        listen = processes.read_line(child)["listen"]
        yield int(listen.rpartition(":")[2]), child.pid


@contextlib.contextmanager
def spinning_upstream(port: int) -> Iterator[None]:
    """Keep the upstream from sleeping during the block."""
    upstream_stats(port, "/_spin")
    try:
        yield
    finally:
        upstream_stats(port, "/_sleep")


def upstream_stats(port: int, path: str = "/_stats") -> dict[str, int]:
    """Ask the upstream what it has served; two other paths tell it how to wait."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        stats: dict[str, int] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return stats


def metric(control_port: int, name: str) -> float:
    """Ask a gateway for a metric; the sum over its labels."""
    connection = HTTPConnection("127.0.0.1", control_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = (line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def run_loads(loads: Sequence[Load], *, watch: Sequence[int]) -> list[Answered]:
    """Run several load generators at once; the first one watches the processes.

    Raises:
        MeasureError: An answer was wrong, late or missing.
    """
    limit_s = max(load.warmup_s + load.duration_s for load in loads) + DRAIN_S + 30
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                processes.running(
                    load.words(watch if load is loads[0] else ()),
                    cpu=processes.LOAD_CPU,
                    log=load.body.with_suffix(".log"),
                )
            )
            for load in loads
        ]
        printed = [child.communicate(timeout=limit_s)[0] for child in children]
        for load, child in zip(loads, children, strict=True):
            if child.returncode != 0:
                said = load.body.with_suffix(".log").read_text(errors="replace")[-500:]
                raise MeasureError(f"the load generator failed: {said.strip()}")
    return [read_answered(json.loads(text)) for text in printed]


def read_answered(printed: dict[str, Any]) -> Answered:
    """Read what the load generator printed.

    Raises:
        MeasureError: An answer was wrong, late or missing, or a watched process ended.
    """
    if printed["wrong"] or printed["unfinished"]:
        raise MeasureError(
            f"{printed['wrong']} wrong answers (first: {printed['first_wrong']}), "
            f"{printed['unfinished']} unfinished, {printed['reconnects']} reconnects"
        )
    watched = {row["pid"]: row["cpu_ns"] for row in printed["watched"]}
    if None in watched.values():
        raise MeasureError(f"a process ended while it was measured: {watched}")
    return Answered(
        window_s=printed["window_ns"] / 1e9,
        answers=printed["answers_in_window"],
        answers_in_all=printed["answers"],
        events=printed["events_in_window"],
        reads=printed["reads_in_window"],
        loadgen_cpu_us=printed["own_cpu_ns"] / 1e3,
        cpu_us={pid: cpu_ns / 1e3 for pid, cpu_ns in watched.items()},
        latency=Histogram.of_json(printed["latency"]),
        send_lag=Histogram.of_json(printed["send_lag"]),
        ttft=Histogram.of_json(printed["ttft"]),
        gap=Histogram.of_json(printed["gap"]),
    )


@contextlib.contextmanager
def idle_streams(load: Load) -> Iterator[None]:
    """Hold one stream open on each connection; each has had its first event."""
    words = [*load.words(), "--idle"]
    log = load.body.with_suffix(".idle.log")
    with processes.running(words, cpu=processes.LOAD_CPU, log=log) as child:
        held = processes.read_line(child).get("idle")
        if held != load.connections:
            raise MeasureError(f"{held} of {load.connections} streams are open: see {log}")
        yield
