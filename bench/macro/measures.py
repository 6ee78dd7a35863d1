"""The scenarios: each takes a running target and gives one row.

Closed-loop ones measure CPU; open-loop ones measure latency. A row exists only if every answer
of its run was right, so a fast wrong result cannot become a figure.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.macro import processes, targets, tools
from bench.macro.targets import STREAM, TLS, UNARY, Backends, Target
from bench.macro.tools import Answered, Load, MeasureError
from bench.results import REQUEST_BYTES, Row
from modelux.clock import mono_us, pause_s

STREAM_EVENTS: Final = 256
STREAM_GAP_US: Final = 10_000
"""Far enough apart that each chunk is its own wake-up: glued ones would flatter everybody."""
TTFT_EVENTS: Final = 8
TTFT_GAP_US: Final = 5_000
METRICS_LAG_S: Final = 0.6
WRITER_WITHIN_S: Final = 600.0
IDLE_STREAMS_FIRST: Final = 16
HOUR_US: Final = 3_600_000_000
LARGE_PROMPT_BYTES: Final = 400_000
"""About 100,000 tokens of English."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How long and how much: the full run, or a glance."""

    rounds: int
    closed_s: float
    open_s: Mapping[int, float]
    """Seconds by arrivals a second."""
    stream_s: float
    idle_streams: int
    starts: int
    history: int


FULL: Final = Sizes(
    rounds=5,
    closed_s=4.0,
    open_s={200: 10.0, 2_000: 8.0},
    stream_s=5.0,
    idle_streams=500,
    starts=5,
    history=1_000_000,
)
QUICK: Final = Sizes(
    rounds=2,
    closed_s=1.0,
    open_s={200: 1.5, 2_000: 1.5},
    stream_s=1.5,
    idle_streams=200,
    starts=2,
    history=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all scenarios share."""

    folder: Path
    backends: Backends
    sizes: Sizes
    seed: int

    def body(self, target: Target, door: str, settings: str, *, bytes_: int) -> Path:
        """Write the request body for a door of a target; return its path."""
        model = target.doors.models.get(door, "gpt-4o-mini")
        return write_body(self.folder, model, door, settings, bytes_=bytes_)


def write_body(folder: Path, model: str, door: str, settings: str, *, bytes_: int) -> Path:
    """Write a chat request of about `bytes_`; a streamed one unless for the unary door."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You explain the sea to people who live by it."},
            {"role": "user", "content": ""},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
        "stream": door != UNARY and "events=" in settings,
        "metadata": {"bench": settings, "team": "harbour"},
    }
    filler = "Why is the tide an hour later each day, and less so in the Baltic? "
    short = bytes_ - len(json.dumps(body))
    assert isinstance(body["messages"], list)
    body["messages"][1]["content"] = (filler * (short // len(filler) + 1))[:short]
    name = f"{model}-{door}-{settings}-{bytes_}".replace("/", "_").replace(" ", "_")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(body))
    return path


Measure = Callable[[Bench, Target, int], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A named measurement, for the targets that have its door."""

    name: str
    door: str
    measure: Measure
    needs_worker: bool = False
    """Nothing of it is worth measuring on the direct way."""

    def suits(self, target: Target) -> bool:
        """Has the target what this looks at?"""
        if self.needs_worker and target.worker_pid is None:
            return False
        return self.door in target.doors.ports


def scenarios(sizes: Sizes) -> list[Scenario]:
    """Return all of them in the order of a round."""
    found = [
        Scenario(name=f"unary_c{connections}", door=UNARY, measure=closed_unary(connections))
        for connections in (1, 32, 64)
    ]
    awake = closed_unary_awake(32)
    found += [Scenario(name="unary_awake_c32", door=UNARY, measure=awake, needs_worker=True)]
    found += [
        Scenario(name=f"open_{rate}", door=UNARY, measure=open_unary(rate, seconds))
        for rate, seconds in sizes.open_s.items()
    ]
    return [
        *found,
        Scenario(name="stream_c32", door=STREAM, measure=stream_cpu(32), needs_worker=True),
        Scenario(name="stream_c256", door=STREAM, measure=stream_cpu(256), needs_worker=True),
        Scenario(name="stream_ttft", door=STREAM, measure=stream_ttft),
        Scenario(name="large_prompts", door=UNARY, measure=large_prompts),
        Scenario(
            name="unary_tls_c32", door=TLS, measure=closed_unary(32, TLS), needs_worker=True
        ),
    ]  # fmt: skip


def pids_of(running: Sequence[Target]) -> list[int]:
    """Return all processes of targets."""
    found = [pid for target in running for pid in target.beside.values()]
    return found + [one.worker_pid for one in running if one.worker_pid is not None]


def _load(bench: Bench, target: Target, door: str, settings: str, round_: int) -> Load:
    return Load(
        port=target.doors.ports[door],
        body=bench.body(target, door, settings, bytes_=REQUEST_BYTES),
        headers=target.doors.headers,
        seed=bench.seed + round_,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One load and what the processes spent in its window."""

    answered: Answered
    spent_us: Mapping[str, float]
    traces_shed: float | None
    """Traces, or bodies of them, that were not kept; None where no traces are written."""

    def shares(self, count: int, per: str) -> dict[str, float]:
        """Return CPU by role for each of `count`, and how busy both sides were."""
        if count == 0:
            raise MeasureError("nothing was answered in the window")
        window_us = self.answered.window_s * 1e6
        values = {f"{role}_cpu_us_per_{per}": us / count for role, us in self.spent_us.items()}
        values[f"loadgen_cpu_us_per_{per}"] = self.answered.loadgen_cpu_us / count
        load_side_us = self.answered.loadgen_cpu_us + self.spent_us["upstream"]
        values["load_side_busy"] = load_side_us / window_us
        if "worker" in self.spent_us:
            values["worker_busy"] = self.spent_us["worker"] / window_us
            # Ours beside the worker share its CPU: together they say whether it was the limit.
            ours = sum(us for role, us in self.spent_us.items() if role != "upstream")
            values["proxy_side_busy"] = ours / window_us
        if self.traces_shed is not None:
            values["traces_shed_share"] = self.traces_shed / self.answered.answers_in_all
        return values


def _run(bench: Bench, target: Target, load: Load, *beside: Load) -> Measured:
    """Run a load, others beside it, and give what the processes spent in its window."""
    watch = {"upstream": bench.backends.upstream_pid, **target.beside}
    if target.worker_pid is not None:
        watch["worker"] = target.worker_pid
    requests_before = tools.upstream_stats(bench.backends.plain_port)["requests"]
    shed_before = _traces_shed(target)
    answered, *others = tools.run_loads([load, *beside], watch=list(watch.values()))
    requests = tools.upstream_stats(bench.backends.plain_port)["requests"] - requests_before
    # One request out for each one in: nothing was retried, sent twice or answered by us.
    answers = sum(one.answers_in_all for one in (answered, *others))
    if requests != answers:
        raise MeasureError(f"{answers} answers came of {requests} upstream requests")
    shed_after = _traces_shed(target)
    return Measured(
        answered=answered,
        spent_us={role: answered.cpu_us[pid] for role, pid in watch.items()},
        traces_shed=None if shed_after is None else shed_after - (shed_before or 0.0),
    )


def _traces_shed(target: Target) -> float | None:
    if target.control_port is None:
        return None
    return settled_metric(target, "modelux_traces_shed_total")


def settled_metric(target: Target, name: str) -> float:
    """Return a metric of the trace writer once it has drained everything."""
    assert target.control_port is not None
    # It counts what it has drained, and tells it at most every half second.
    processes.wait_until_idle(pids_of([target]), timeout_s=WRITER_WITHIN_S)
    pause_s(METRICS_LAG_S)
    return tools.metric(target.control_port, name)


def closed_unary(connections: int, door: str = UNARY) -> Measure:
    """CPU per request with so many connections, each always waiting for an answer."""
    tls = "_tls" if door == TLS else ""

    def measure(bench: Bench, target: Target, round_: int) -> Row:
        load = replace(
            _load(bench, target, door, "unary", round_),
            connections=connections,
            duration_s=bench.sizes.closed_s,
        )
        return _closed_row(f"unary{tls}_c{connections}", bench, target, load, round_)

    return measure


def closed_unary_awake(connections: int) -> Measure:
    """Return the same where load generator and upstream never sleep.

    A sender on loopback also wakes the receiver, the more often the idler that is: a proxy that
    is the limit pays for peers that wait for it. Over a network it would not.
    """

    def measure(bench: Bench, target: Target, round_: int) -> Row:
        load = replace(
            _load(bench, target, UNARY, "unary", round_),
            connections=connections,
            duration_s=bench.sizes.closed_s,
            is_spinning=True,
        )
        with tools.spinning_upstream(bench.backends.plain_port):
            return _closed_row(f"unary_awake_c{connections}", bench, target, load, round_)

    return measure


def _closed_row(scenario: str, bench: Bench, target: Target, load: Load, round_: int) -> Row:
    run = _run(bench, target, load)
    values = run.shares(run.answered.answers, "request")
    values["requests_per_s"] = run.answered.answers / run.answered.window_s
    return Row(
        scenario=scenario, target=target.name, round=round_, is_checked=True, values=values
    )


def open_unary(rate: int, seconds: float) -> Measure:
    """Latency at a fixed arrival rate, from the intended send time."""

    def measure(bench: Bench, target: Target, round_: int) -> Row:
        load = replace(
            _load(bench, target, UNARY, "unary", round_),
            rate=float(rate),
            # Enough that an arrival never waits for a connection unless answers stall.
            connections=64,
            duration_s=seconds,
        )
        run = _run(bench, target, load)
        answered = run.answered
        return Row(
            scenario=f"open_{rate}",
            target=target.name,
            round=round_,
            is_checked=True,
            values=run.shares(answered.answers, "request")
            | answered.latency.summary_us()
            | answered.send_lag.summary_us("send_lag_"),
            histograms={"latency": answered.latency.coarsened().buckets},
        )

    return measure


def stream_cpu(streams: int) -> Measure:
    """CPU per chunk with so many streams, each with a chunk every 10 ms."""

    def measure(bench: Bench, target: Target, round_: int) -> Row:
        settings = f"events={STREAM_EVENTS} gap_us={STREAM_GAP_US}"
        load = replace(
            _load(bench, target, STREAM, settings, round_),
            connections=streams,
            duration_s=bench.sizes.stream_s,
            # Spread over one gap, so that the streams do not tick together.
            stagger_us=STREAM_GAP_US // streams,
        )
        run = _run(bench, target, load)
        answered = run.answered
        values = run.shares(answered.events, "chunk")
        values["chunks_per_s"] = answered.events / answered.window_s
        values["chunks_per_read"] = answered.events / max(1, answered.reads)
        return Row(
            scenario=f"stream_c{streams}",
            target=target.name,
            round=round_,
            is_checked=True,
            values=values | answered.gap.summary_us("gap_"),
        )

    return measure


def stream_ttft(bench: Bench, target: Target, round_: int) -> Row:
    """Time to the first content of a stream, at 50 streams a second."""
    load = replace(
        _load(bench, target, STREAM, f"events={TTFT_EVENTS} gap_us={TTFT_GAP_US}", round_),
        rate=50.0,
        connections=32,
        duration_s=bench.sizes.stream_s,
    )
    answered = _run(bench, target, load).answered
    return Row(
        scenario="stream_ttft",
        target=target.name,
        round=round_,
        is_checked=True,
        values=answered.ttft.summary_us("ttft_") | answered.gap.summary_us("gap_"),
        histograms={"ttft": answered.ttft.coarsened().buckets},
    )


def large_prompts(bench: Bench, target: Target, round_: int) -> Row:
    """Latency of small requests while two large prompts a second pass by.

    What is added here is what a large body does to everybody else.
    """
    small = replace(
        _load(bench, target, UNARY, "unary", round_),
        rate=500.0,
        connections=64,
        duration_s=bench.sizes.stream_s,
    )
    large = replace(
        small,
        body=bench.body(target, UNARY, "unary", bytes_=LARGE_PROMPT_BYTES),
        rate=2.0,
        connections=8,
    )
    answered = _run(bench, target, small, large).answered
    return Row(
        scenario="large_prompts",
        target=target.name,
        round=round_,
        is_checked=True,
        values=answered.latency.summary_us(),
        histograms={"latency": answered.latency.coarsened().buckets},
    )


def idle_stream(bench: Bench, target: Target, door: str, round_: int) -> Row:
    """Memory of a stream that has begun and waits for its next event.

    The target must be fresh: what earlier connections have freed would be used again, and the
    streams would seem to cost nothing.
    """
    assert target.worker_pid is not None
    load = replace(
        _load(bench, target, door, f"events=2 gap_us={HOUR_US}", round_),
        connections=bench.sizes.idle_streams,
        stagger_us=1_000,
    )
    # A first, smaller batch pays for what is allocated once, not for each stream.
    with tools.idle_streams(replace(load, connections=IDLE_STREAMS_FIRST)):
        pause_s(0.2)
    pause_s(0.5)
    before = processes.memory_of(target.worker_pid)
    with tools.idle_streams(load):
        pause_s(0.5)
        held = processes.memory_of(target.worker_pid)
    # What the first batch held is free to be used again, so it is not counted as held.
    streams = load.connections - IDLE_STREAMS_FIRST
    return Row(
        scenario=f"idle_stream{'_tls' if door == TLS else ''}",
        target=target.name,
        round=round_,
        is_checked=True,
        values={
            "uss_bytes_per_stream": (held.uss_bytes - before.uss_bytes) / streams,
            "rss_bytes_per_stream": (held.rss_bytes - before.rss_bytes) / streams,
        },
    )


def idle_memory(target: Target, scenario: str) -> Row:
    """What the worker holds right now, and the processes beside it."""
    assert target.worker_pid is not None
    held = processes.memory_of(target.worker_pid)
    values = {
        "rss_bytes": float(held.rss_bytes),
        "pss_bytes": float(held.pss_bytes),
        "uss_bytes": float(held.uss_bytes),
    }
    for role, pid in target.beside.items():
        values[f"{role}_pss_bytes"] = float(processes.memory_of(pid).pss_bytes)
    return Row(scenario=scenario, target=target.name, round=0, is_checked=True, values=values)


def start(bench: Bench, round_: int) -> list[Row]:
    """Time from starting `modelux serve` to its first answer: on nothing, and once more."""
    files = targets.write_modelux(bench.folder / f"start-{round_}", bench.backends)
    rows = []
    with targets.removed_after(files.state_dir):
        for scenario in ("start_fresh", "start_again"):
            started_us = mono_us()
            # On any CPU, as a user's: nothing else is measured meanwhile.
            with targets.serving(files, cpu=None) as child:
                targets.wait_until_answering(files, child)
                took_us = mono_us() - started_us
                # Ending it before all of it runs would measure another start than users see.
                targets.modelux_roles(child.pid)
            rows.append(
                Row(
                    scenario=scenario,
                    target="modelux",
                    round=round_,
                    is_checked=True,
                    values={"first_answer_ms": took_us / 1e3},
                )
            )
    return rows
