"""What routing does when providers change: `python -m bench.routing` (`make bench-routing`).

Three stand-in providers and one gateway with one worker, requests at a fixed rate. Measured is
what callers see: the share of requests that the fastest provider serves after one of them
changes its speed, and what a provider that goes dark costs, refusing connections or hanging.
CPU of the worker is compared over two routes of one gateway, in turns, as absolute figures
drift. The result is written to `bench/results/routing.md`, which `bench.report` takes up.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench.macro import processes, targets
from bench.results import ROOT
from modelux.clock import mono_us
from modelux.units import US_PER_S

RESULT: Final = ROOT / "bench" / "results" / "routing.md"
KEY: Final = "mlx_sk_bench0123456789abcdefgh"
TIMEOUT_MS: Final = 2_000
SETTLED_S: Final = 5.0
"""After a change of speed the figure begins so much later."""
LATE_MS: Final = 200.0
"""A request that took so much longer than the median was delayed by the failing provider."""
STARTS_WITHIN_S: Final = 30.0
ROUNDS: Final = 7
BODY: Final = {"messages": [{"role": "user", "content": "Why is the tide late?"}]}

RULES: Final = "\n".join(
    f"  {{ if = \"tags.team == 't{index}' && request.messages > {index}\", "
    f'then = "{"abc"[index % 3]}/m" }},'
    for index in range(19)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request as its caller saw it; times in seconds from the start of the load."""

    at_s: float
    took_ms: float
    status: int
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the page."""

    what: str
    got: str
    aim: str
    is_met: bool


class Bed:
    """A gateway, its three providers, and what changes them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._providers: dict[str, tuple[int, ExitStack]] = {}
        for name in "abc":
            self.begin_provider(name, processes.free_port())
        self.port = processes.free_port()
        config = folder / "modelux.toml"
        config.write_text(self._config(), "utf-8")
        gateway = stack.enter_context(
            processes.running(
                [sys.executable, "-m", "modelux.cli.main", "serve", "--config", str(config)],
                cpu=0,
                log=folder / "serve.log",
                env={"BENCH_KEY": KEY, "BENCH_PROVIDER_KEY": "sk-bench"},
            )
        )
        processes.wait_until_listening(self.port, gateway, timeout_s=STARTS_WITHIN_S)
        self.worker_pid = targets.modelux_roles(gateway.pid)["worker"]

    def begin_provider(self, name: str, port: int) -> None:
        """Start a provider on a port."""
        stack = self._stack.enter_context(ExitStack())
        words = ["simulate", "--listen", f"127.0.0.1:{port}", "--tokens", "3"]
        child = stack.enter_context(
            processes.running(
                [sys.executable, "-m", "modelux.cli.main", *words],
                cpu=1,
                log=self._folder / f"{name}.log",
            )
        )
        processes.wait_until_listening(port, child, timeout_s=STARTS_WITHIN_S)
        self._providers[name] = (port, stack)

    def end_provider(self, name: str) -> int:
        """Stop a provider; return the port that it leaves."""
        port, stack = self._providers[name]
        stack.close()
        return port

    async def tell(self, session: aiohttp.ClientSession, name: str, settings: str) -> None:
        """Change how a provider answers from now on."""
        port, _ = self._providers[name]
        url = f"http://127.0.0.1:{port}/_models/m"
        async with session.put(url, data=settings.encode()) as answer:
            answer.raise_for_status()

    def _config(self) -> str:
        providers = "".join(
            f'[providers.{name}]\nvendor = "openai_compatible"\n'
            f'base_url = "http://127.0.0.1:{port}/v1"\napi_key = "env:BENCH_PROVIDER_KEY"\n'
            f'models = ["m"]\n[prices."{name}/m"]\ninput_usd_per_mtok = 1\n'
            "output_usd_per_mtok = 2\n"
            for name, (port, _) in self._providers.items()
        )
        return (
            f'[server]\nlisten = "127.0.0.1:{self.port}"\n'
            f'control_listen = "127.0.0.1:{processes.free_port()}"\n'
            f'data_dir = "{self._folder / "data"}"\nworkers = 1\n{providers}'
            '[projects.default]\nkeys = ["env:BENCH_KEY"]\n'
            '[routes.one]\nstrategy = "single"\nmodel = "a/m"\n'
            f'[routes.rules]\nstrategy = "custom_rules"\nrules = [\n{RULES}\n'
            '  { else = "a/m" },\n]\n'
            '[routes.fast]\nstrategy = "latency_optimized"\nmodels = ["a/m", "b/m", "c/m"]\n'
            '[routes.chain]\nstrategy = "fallback"\n'
            f'attempts = ["a/m", "b/m", "c/m"]\ntimeout_ms = {TIMEOUT_MS}\n'
        )


async def ask(
    session: aiohttp.ClientSession, bed: Bed, route: str, began_us: int, due_us: int
) -> Served:
    """Send one request; its time counts from when it was due."""
    url = f"http://127.0.0.1:{bed.port}/v1/chat/completions"
    headers = {"authorization": f"Bearer {KEY}"}
    try:
        async with session.post(
            url, json={**BODY, "model": f"@{route}"}, headers=headers
        ) as answer:
            await answer.read()
            status = answer.status
            provider = answer.headers.get("X-Modelux-Provider-Used", "")
    except (aiohttp.ClientError, OSError):
        status, provider = 0, ""
    return Served(
        at_s=(due_us - began_us) / US_PER_S,
        took_ms=(mono_us() - due_us) / 1000,
        status=status,
        provider=provider,
    )


async def load(
    session: aiohttp.ClientSession,
    bed: Bed,
    route: str,
    *,
    rate: float,
    seconds: float,
    events: Sequence[tuple[float, Callable[[], object]]] = (),
) -> list[Served]:
    """Send requests at a fixed rate; do what is to happen meanwhile, each at its second."""
    began_us = mono_us()
    asking: list[asyncio.Task[Served]] = []
    pending = list(events)
    async with asyncio.TaskGroup() as group:
        for index in range(int(rate * seconds)):
            due_us = began_us + int(index / rate * US_PER_S)
            while pending and pending[0][0] * US_PER_S <= due_us - began_us:
                _, happen = pending.pop(0)
                made = happen()
                if asyncio.iscoroutine(made):
                    group.create_task(made)
            wait_s = (due_us - mono_us()) / US_PER_S
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            asking.append(group.create_task(ask(session, bed, route, began_us, due_us)))
    return [task.result() for task in asking]


def share(served: Sequence[Served], provider: str, from_s: float, until_s: float) -> float:
    """Return which share of a span's requests a provider served, in percent."""
    within = [one for one in served if from_s <= one.at_s < until_s]
    return 100 * sum(one.provider == provider for one in within) / max(len(within), 1)


async def speeds(session: aiohttp.ClientSession, bed: Bed, period_s: float) -> list[Figure]:
    """Let one provider get faster than all, then slower, and look who serves."""
    for name, first_byte_ms in (("a", 50), ("b", 100), ("c", 400)):
        await bed.tell(session, name, f"first_byte_ms={first_byte_ms};tokens=3")
    warm_s = 10.0

    def slows(name: str, first_byte_ms: int) -> Callable[[], object]:
        return lambda: bed.tell(session, name, f"first_byte_ms={first_byte_ms};tokens=3")

    served = await load(
        session,
        bed,
        "fast",
        rate=100,
        seconds=warm_s + 3 * period_s,
        events=[
            (warm_s, slows("c", 10)),
            (warm_s + period_s, slows("c", 400)),
            (warm_s + 2 * period_s, slows("a", 300)),
        ],
    )
    spans = [("400 -> 10 ms", "c"), ("10 -> 400 ms", "a"), ("the fastest: 50 -> 300 ms", "b")]
    figures = []
    for index, (what, fastest) in enumerate(spans):
        from_s = warm_s + index * period_s
        settled = share(served, fastest, from_s + SETTLED_S, from_s + period_s)
        before = share(served, fastest, from_s, from_s + SETTLED_S)
        figures.append(
            Figure(
                what=f"one provider's speed changes, {what}: share of the fastest from "
                f"{SETTLED_S:g} s on (2 % explore elsewhere)",
                got=f"{settled:.1f} % ({before:.0f} % in the first {SETTLED_S:g} s)",
                aim=">= 90 %",
                is_met=settled >= 90,
            )
        )
    return figures


async def darkness(
    session: aiohttp.ClientSession, bed: Bed, how: str, rate: float
) -> list[Figure]:
    """Let the first of three providers fail for a while, and look what callers notice."""
    for name in "abc":
        await bed.tell(session, name, "first_byte_ms=20;tokens=3")
    dark_s, back_s, end_s = 5.0, 17.0, 32.0
    port: list[int] = []
    if how == "refuses":
        events: list[tuple[float, Callable[[], object]]] = [
            (dark_s, lambda: port.append(bed.end_provider("a"))),
            (back_s, lambda: bed.begin_provider("a", port[0])),
        ]
    else:
        events = [
            (dark_s, lambda: bed.tell(session, "a", "fault=stall_headers")),
            (back_s, lambda: bed.tell(session, "a", "first_byte_ms=20;tokens=3")),
        ]
    served = await load(session, bed, "chain", rate=rate, seconds=end_s, events=events)
    errors = sum(one.status != 200 for one in served)
    usual_ms = statistics.median(one.took_ms for one in served if one.at_s < dark_s)
    # A change of ours (a process that starts) also holds this client up: only what was served
    # elsewhere was delayed by the provider.
    dark = [one for one in served if dark_s <= one.at_s < back_s]
    late = [one for one in dark if one.took_ms > usual_ms + LATE_MS]
    first = [one for one in late if one.at_s < dark_s + 1]
    used = [one.at_s for one in served if one.at_s >= back_s and one.provider == "a"]
    again_s = min(used) - back_s if used else float("inf")
    return [
        Figure(
            what=f"a provider {how} at {rate:g} requests/s, two left: errors that callers see",
            got=f"{errors} of {len(served):,}",
            aim="0",
            is_met=errors == 0,
        ),
        Figure(
            what="requests delayed by more than "
            f"{LATE_MS:g} ms, in its first second and after it",
            got=f"{len(first)} and {len(late) - len(first)} of {len(dark):,}"
            + (f", the longest {max(one.took_ms for one in late):,.0f} ms" if late else ""),
            aim="the first few, then 0",
            is_met=len(late) - len(first) <= 5 and len(first) <= 10,
        ),
        Figure(
            what="used again after it came back (it had been open for 5 s, then 10 s)",
            got=f"{again_s:.1f} s",
            aim="within 2 probe intervals (20 s)",
            is_met=again_s <= 20,
        ),
    ]


async def cpu(session: aiohttp.ClientSession, bed: Bed, seconds: float) -> Figure:
    """Compare the worker's CPU a request over two routes, in turns."""
    await bed.tell(session, "a", "tokens=3")
    ratios = []
    for _ in range(ROUNDS):
        spent_us = {}
        for route in ("one", "rules"):
            before_ns = processes.cpu_ns_of(bed.worker_pid)
            served = await load(session, bed, route, rate=400, seconds=seconds)
            spent = processes.cpu_ns_of(bed.worker_pid) - before_ns
            spent_us[route] = spent / 1000 / len(served)
        ratios.append(spent_us["rules"] / spent_us["one"])
    ratio = statistics.median(ratios)
    return Figure(
        what="CPU a request with a route of 20 rules against `single`, 400 requests/s",
        got=f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        aim="<= 1.1",
        is_met=ratio <= 1.1,
    )


async def measure(period_s: float, rate: float) -> list[Figure]:
    """Run all of it on one gateway."""
    with tempfile.TemporaryDirectory(prefix="bench-routing-") as name, ExitStack() as stack:
        bed = Bed(Path(name), stack)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            figures = [await cpu(session, bed, seconds=4)]
            figures += await speeds(session, bed, period_s)
            figures += await darkness(session, bed, "refuses", rate)
            # Until what the last one left in the breakers is over.
            await asyncio.sleep(31)
            figures += await darkness(session, bed, "hangs", rate)
        return figures


def page(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for the page of benchmarks."""
    lines = [
        "## Routing",
        "",
        "`make bench-routing`: three stand-in providers, one worker, one client in Python that",
        "shares CPU 1 with them. What a decision costs alone: `cargo bench --bench routing`.",
        "",
        "| what | got | aim |",
        "| --- | --- | --- |",
    ]
    for figure in figures:
        got = figure.got if figure.is_met else f"**missed: {figure.got}**"
        lines.append(f"| {figure.what} | {got} | {figure.aim} |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Measure and write the table; 1 where a figure misses its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--period", type=float, default=60, help="seconds between changes")
    parser.add_argument("--rate", type=float, default=500, help="requests a second in the dark")
    asked = parser.parse_args(words)
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {processes.LOAD_CPU})
    figures = asyncio.run(measure(asked.period, asked.rate))
    text = page(figures)
    RESULT.write_text(text, "utf-8")
    sys.stdout.write(text)
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
