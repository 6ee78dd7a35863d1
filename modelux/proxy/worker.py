"""A proxy worker: one process, one event loop, one gate.

Started by the supervisor with everything it needs in its arguments; it accepts on a socket
that the supervisor keeps, so that a connection which waits in its queue outlives this
process. It beats from its own loop, picks up a new snapshot between two requests, and drains
when it is told to or when its supervisor is gone.
"""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import uvloop

from modelux import clock
from modelux._native import Cells, Gate
from modelux.limits import MIB
from modelux.log import Log, open_log
from modelux.pricing.catalogue import catalogue_bytes, models_bytes
from modelux.proxy.connection import ClientConnection
from modelux.proxy.exchange import serve
from modelux.proxy.resumable import REQUEST
from modelux.proxy.shell import Shell, Times
from modelux.proxy.turns import Turns
from modelux.proxy.upstream import Origin, Pool, Resolver
from modelux.proxy.wheel import TICK_US, Wheel
from modelux.store.layout import CELLS_FILE, LIVE_FILE, RING_PREFIX, SPILL_DIRECTORY, boot_id
from modelux.store.snapshot import SnapshotReader
from modelux.units import US_PER_MS, US_PER_S

SNAPSHOT_POLL_S: Final = 0.05
"""A new snapshot serves within 100 ms: this, and the turn of the loop it falls into."""

HEARTBEAT_S: Final = 0.25
SWEEP_S: Final = 1.0
LISTEN_BACKLOG: Final = 4096

GC_THRESHOLD: Final = (50_000, 50, 100)
"""Exchanges make no cycles: collecting is rare, and must not fall into a request often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What the supervisor tells a worker."""

    slot: int
    generation: int
    listen_fd: int
    parent_fd: int
    state_dir: Path
    data_dir: Path
    ring_bytes: int
    spill_max_bytes: int
    drain_s: float
    log_format: str
    log_level: str


class Worker:
    """One worker while it runs."""

    def __init__(self, arguments: Arguments, log: Log, environ: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._log = log
        self._environ = environ
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resolver = Resolver(self._loop)
        self._wheel = Wheel(clock.mono_us())
        self._pools: dict[Origin, Pool] = {}
        self._snapshots = SnapshotReader(arguments.state_dir)
        self._generation = 0
        self._server: asyncio.Server | None = None
        self._ended = self._loop.create_future()
        self._shell = self._open()

    async def run(self) -> None:
        """Serve until drained."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self._end)
        loop.add_reader(self._arguments.parent_fd, self._parent_gone)
        listener = socket.socket(fileno=self._arguments.listen_fd)
        listener.setblocking(False)
        self._server = await loop.create_server(
            lambda: ClientConnection(self._shell), sock=listener, backlog=LISTEN_BACKLOG
        )
        self._beat()
        self._turn()
        self._poll()
        self._sweep()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        self._shell.cells.set("worker_pid", os.getpid(), self._arguments.slot)
        await self._ended

    def _beat(self) -> None:
        """Vouch for this loop from this loop: a beat from a thread would vouch for nothing."""
        cells, slot = self._shell.cells, self._arguments.slot
        cells.set("heartbeat_us", clock.mono_us(), slot)
        cells.set("in_flight", self._shell.gate.in_flight, slot)
        cells.set("connections_open", len(self._shell.connections), slot)
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _turn(self) -> None:
        # The next turn first, here and below: what fails once must not fail for good.
        self._loop.call_later(TICK_US / US_PER_S, self._turn)
        self._wheel.turn(clock.mono_us())

    def _poll(self) -> None:
        self._loop.call_later(SNAPSHOT_POLL_S, self._poll)
        if self._snapshots.generation() != self._generation:
            self._load()

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        for pool in self._pools.values():
            pool.sweep()

    def _open(self) -> Shell:
        arguments = self._arguments
        self._generation, blob = self._snapshots.load()
        document = orjson.loads(blob)
        ring_name = f"{RING_PREFIX}{arguments.slot}.{arguments.generation}"
        cells_path = arguments.state_dir / CELLS_FILE
        gate = Gate(
            blob,
            resolve_secrets(document, self._environ),
            catalogue_bytes(),
            models_bytes(),
            cells_path=cells_path,
            ring_path=arguments.state_dir / ring_name,
            ring_bytes=arguments.ring_bytes,
            spill_dir=arguments.data_dir / SPILL_DIRECTORY,
            spill_bytes_max=arguments.spill_max_bytes,
            boot_id=boot_id(),
            slot=arguments.slot,
            generation=arguments.generation,
            seed=(
                int.from_bytes(os.urandom(8), "little"),
                int.from_bytes(os.urandom(8), "little"),
            ),
            ledger_dir=arguments.state_dir,
            live_path=arguments.state_dir / LIVE_FILE,
        )
        cells = Cells.open(cells_path)
        cells.set("worker_snapshot", self._generation, arguments.slot)
        return Shell(
            gate=gate,
            cells=cells,
            pools=self._pools_of(document),
            times=times_of(document),
            wheel=self._wheel,
            turns=Turns(gate, self._loop),
            log=self._log,
            serve=serve,
        )

    def _load(self) -> None:
        """Use a new snapshot from the next request on; an unusable one changes nothing."""
        self._generation, blob = self._snapshots.load()
        try:
            document = orjson.loads(blob)
            secrets = resolve_secrets(document, self._environ)
            pools = self._pools_of(document)
            self._shell.gate.load(blob, secrets)
        except (ValueError, OSError) as fault:
            self._log.error("snapshot_refused", generation=self._generation, error=str(fault))
            return
        # A new list: exchanges under way keep the one whose indices their plan knows.
        self._shell.pools = pools
        self._shell.times = times_of(document)
        used = set(pools)
        for origin in [origin for origin, pool in self._pools.items() if pool not in used]:
            self._pools.pop(origin).close()
        self._shell.cells.set("worker_snapshot", self._generation, self._arguments.slot)
        self._log.debug("snapshot_loaded", generation=self._generation)

    def _pools_of(self, document: dict[str, object]) -> list[Pool]:
        pools = []
        for origin in origins_of(document):
            if origin not in self._pools:
                self._pools[origin] = Pool(
                    origin, self._resolver, self._loop, self._wheel, self._spawn
                )
            pools.append(self._pools[origin])
        return pools

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        # The loop keeps only weak references to tasks: without ours one could vanish.
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _parent_gone(self) -> None:
        """The pipe from the supervisor has ended: nobody would restart or recover us."""
        self._loop.remove_reader(self._arguments.parent_fd)
        self._log.warning("supervisor_gone")
        if not self._shell.draining:
            self._terminate()

    def _terminate(self) -> None:
        """Drain; at a second signal end at once."""
        if self._shell.draining:
            self._end()
            return
        self._shell.draining = True
        if self._server is not None:
            self._server.close()
        for caller in list(self._shell.connections):
            if caller.plan is not None:
                caller.plan.forbid_keep_alive()
            elif caller.waits_for == REQUEST and not caller.input:
                caller.close()
        self._loop.call_later(self._arguments.drain_s, self._cut_all)
        self._check_drained()

    def _check_drained(self) -> None:
        if not (self._shell.connections or self._shell.calls):
            self._end()
        else:
            self._loop.call_later(0.02, self._check_drained)

    def _cut_all(self) -> None:
        for caller in list(self._shell.connections):
            caller.shut_down()
        for call in list(self._shell.calls):
            call.shut_down()
        self._loop.call_later(0.5, self._end)

    def _end(self) -> None:
        if not self._ended.done():
            try:
                for caller in list(self._shell.connections):
                    caller.shut_down()
                for call in list(self._shell.calls):
                    call.shut_down()
                self._shell.turns.flush()
            finally:
                # Whatever fails: what is held is in the ledger, and ends there.
                self._ended.set_result(None)


def origins_of(document: dict[str, object]) -> list[Origin]:
    """Return where each provider of a snapshot is, in its order."""
    server, providers = document["server"], document["providers"]
    assert isinstance(server, dict), server
    assert isinstance(providers, list), providers
    return [
        Origin(
            scheme=provider["scheme"],
            host=provider["host"],
            port=provider["port"],
            ca_file=provider["ca_file"],
            connect_ip_family=provider["connect_ip_family"],
            max_connections=provider["max_connections"],
            keepalive_us=server["upstream_keepalive_ms"] * US_PER_MS,
        )
        for provider in providers
    ]


def times_of(document: dict[str, object]) -> Times:
    """Return what a snapshot says about callers."""
    server, routes = document["server"], document["routes"]
    assert isinstance(server, dict), server
    assert isinstance(routes, list), routes
    return Times(
        client_header_timeout_us=server["client_header_timeout_ms"] * US_PER_MS,
        client_body_timeout_us=server["client_body_timeout_ms"] * US_PER_MS,
        client_keepalive_us=server["client_keepalive_ms"] * US_PER_MS,
        body_bytes_max=server["body_bytes_max"],
        access_log=server["access_log"],
        mirrors=any(
            version["config"].get("shadow") for route in routes for version in route["versions"]
        ),
    )


def resolve_secrets(document: dict[str, object], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the value behind each reference of a snapshot: `env:NAME` or `file:PATH`.

    Raises:
        ValueError: A reference of another kind, or to a variable that is not set.
        OSError: A file that cannot be read.
    """
    providers = document["providers"]
    assert isinstance(providers, list), providers
    secrets: dict[str, str] = {}
    for provider in providers:
        for credential in provider["credentials"]:
            reference: str = credential["ref"]
            kind, _, name = reference.partition(":")
            if kind == "env" and name in environ:
                secrets[reference] = environ[name]
            elif kind == "file":
                secrets[reference] = Path(name).read_text(encoding="utf-8").strip()
            else:
                raise ValueError(f"{reference} cannot be resolved")
    return secrets


def parse_arguments(argv: list[str]) -> Arguments:
    """Read what the supervisor passes; see `supervisor`."""
    parser = argparse.ArgumentParser(prog="modelux.proxy.worker")
    for name in ("--slot", "--generation", "--listen-fd", "--parent-fd"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--state-dir", "--data-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--options", type=orjson.loads, default={})
    known = parser.parse_args(argv)
    options: dict[str, object] = known.options
    return Arguments(
        slot=known.slot,
        generation=known.generation,
        listen_fd=known.listen_fd,
        parent_fd=known.parent_fd,
        state_dir=known.state_dir,
        data_dir=known.data_dir,
        ring_bytes=int(str(options.get("ring_bytes", 8 * MIB))),
        spill_max_bytes=int(str(options.get("spill_max_bytes", 1024 * MIB))),
        drain_s=float(str(options.get("drain_s", 60))),
        log_format=str(options.get("log_format", "auto")),
        log_level=str(options.get("log_level", "info")),
    )


def main() -> int:
    """Run one worker; the supervisor starts this module."""
    arguments = parse_arguments(sys.argv[1:])
    log = open_log(
        f"worker.{arguments.slot}",
        format_name=arguments.log_format,
        level_name=arguments.log_level,
    )

    async def run() -> None:
        await Worker(arguments, log, os.environ).run()  # noqa: TID251

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
