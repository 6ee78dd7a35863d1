"""The supervisor's loop: one thread, one `poll`, a turn ten times a second or on a signal.

```
 lock data_dir → bind → ledger → publish → start workers → all beat → mode ready → the others
        turn: signals → reap → restart → judge heartbeats → republish → mode → shutdown
```

It owns the sockets, the cells' `mode`, and the snapshot; it serves nobody (save the refusal of
`refusal.py`) and takes no lock that a child could hold: what has to be done to the ledger is
left to the `keeper`, a thread, and asked about in later turns. What it decides is decided in
`restart`, `heartbeat` and `shutdown`; here is what has hands. Its own end, however it comes, is
an end of file on the pipe that every child watches.
"""

import fcntl
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, final

from modelux._native import Cells, Live
from modelux.clock import mono_us, pause_s, unix_us
from modelux.errors import ConfigError, StoreError
from modelux.log import Log
from modelux.store.env import create_env
from modelux.store.generations import Generations
from modelux.store.layout import CELLS_FILE, LIVE_FILE, boot_id
from modelux.store.snapshot import SnapshotStore
from modelux.store.state import StateDir, StateSizes, generation_max, prepare_state_dir
from modelux.supervisor.accounts import Accounts, Place
from modelux.supervisor.children import Child, Death, Program, is_stopped
from modelux.supervisor.heartbeat import HeartbeatWatch, Lock, Pulse
from modelux.supervisor.keeper import Keeper
from modelux.supervisor.lock import ServeLock
from modelux.supervisor.options import ServeOptions, Source, write_reload
from modelux.supervisor.refusal import Refusal
from modelux.supervisor.restart import CrashLoop
from modelux.supervisor.shutdown import Alive, Order, Shutdown, Stage
from modelux.supervisor.sockets import (
    ListenError,
    bind_shared,
    bind_single,
    bound_address,
    reachable,
)
from modelux.units import US_PER_MS, US_PER_S, MonoUs

TURN_MS: Final = 100
STARTING_TURN_MS: Final = 5
"""Until the workers are ready: a start is to take half a second, so we look often."""
COMPANY_AFTER_US: Final = 3 * US_PER_S
"""Writer and control plane wait for the workers, but not for workers that never come."""
CHECK_READERS_EVERY_US: Final = 5 * US_PER_S

MODE_STARTING: Final = 0
MODE_READY: Final = 1
MODE_DRAINING: Final = 2
MODE_CRASH_LOOP: Final = 3

PATIENT_TRIES_COUNT: Final = 60
TRY_PAUSE_S: Final = 0.05
"""Children of a killed supervisor stop listening at once; three seconds are for a busy disk."""
Bound = TypeVar("Bound")

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGUSR2,
)
# Of one slot, what counts something that a dead worker no longer has.
GAUGES: Final = (
    "heartbeat_us",
    "in_flight",
    "connections_open",
    "upstreams_open",
    "ledger_state",
)
FORMER_DRAIN_US: Final = 10 * US_PER_S
"""Beyond `drain_s`: what workers of a supervisor that is gone may take to end."""
PREPARED_LOOK_S: Final = 0.05
STILL_PREPARING_US: Final = 10 * US_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What a running supervisor holds."""

    state: StateDir
    store: SnapshotStore
    cells: Cells
    live: Live
    listeners: list[socket.socket]
    control_listener: socket.socket
    parent_fd: int
    """The read end of the pipe whose writing end goes with us."""
    generations: Generations
    keeper: Keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A snapshot that waits for the ledger to know its budgets."""

    blob: bytes
    ticket: int
    is_reload: bool
    """Somebody asked for it and waits for the answer."""


@final
class Supervisor:
    """Runs one deployment from start to end; `run` returns its exit code."""

    def __init__(self, options: ServeOptions, source: Source, log: Log) -> None:
        now_us = mono_us()
        self._options = options
        self._source = source
        self._log = log
        self._workers = [Child(f"worker.{slot}") for slot in range(options.workers)]
        self._writer = Child("writer")
        self._control = Child("control")
        self._children = (*self._workers, self._writer, self._control)
        self._crash_loop = CrashLoop()
        self._refusal = Refusal()
        timeout_us = round(options.heartbeat_timeout_s * US_PER_S)
        self._watch = HeartbeatWatch(timeout_us, now_us)
        self._shutdown = Shutdown(
            drain_delay_us=round(options.drain_delay_s * US_PER_S),
            drain_us=round(options.drain_s * US_PER_S),
        )
        self._started_us = now_us
        self._mode = MODE_STARTING
        self._has_been_ready = False
        self._readers_checked_us = now_us
        self._blob = b""
        self._publication: Publication | None = None

    def run(self) -> int:
        """Serve until a signal ends it.

        Raises:
            ConfigError: The configuration cannot be used.
            StoreError: Another supervisor runs here, or a place or port cannot be used.
        """
        wakeup_fd = _wake_on_signals()
        lock = ServeLock.take(self._options.data_dir)
        try:
            shared, early = self._prepare(lock, wakeup_fd)
        except OSError as failure:
            raise StoreError(f"cannot start: {failure}") from failure
        poll = select.poll()
        poll.register(wakeup_fd, select.POLLIN)
        self._turn(shared, early)
        while self._shutdown.stage is not Stage.ENDED:
            poll.poll(self._wait_ms(mono_us()))
            self._turn(shared, _take_signals(wakeup_fd))
        self._refusal.close()
        lock.release()
        self._log.info("stopped")
        return 0

    def _prepare(self, lock: ServeLock, wakeup_fd: int) -> tuple[Shared, set[int]]:
        """Make everything ready for the workers; return also what signals came meanwhile."""
        options = self._options
        blob = self._source.load()
        sizes = StateSizes(
            workers=options.workers,
            ring_bytes=options.ring_bytes,
            map_bytes=options.state_map_bytes,
        )
        state = prepare_state_dir(options.data_dir, options.state_dir, sizes)
        if state.warning is not None:
            self._log.warning("state_dir_on_disk", why=state.warning)
        store = SnapshotStore(create_env(state.path, state.map_bytes))
        cells = Cells.create(state.path / CELLS_FILE, options.workers)
        live = Live.open_or_create(state.path / LIVE_FILE, boot_id(), options.workers)
        keeper = self._make_keeper(state)
        ticket = keeper.prepare(self._source.orders())
        parent_fd, _ = _silent_pipe()
        shared = Shared(
            state=state,
            store=store,
            cells=cells,
            live=live,
            listeners=_bind_soon(lock, lambda: bind_shared(options.listen, options.workers)),
            control_listener=_bind_soon(lock, lambda: bind_single(options.control_listen)),
            parent_fd=parent_fd,
            generations=Generations(options.data_dir, at_least=generation_max(state.path)),
            keeper=keeper,
        )
        early = self._wait_prepared(keeper, ticket, wakeup_fd)
        self._publish(shared, blob)
        write_reload(options.data_dir, (), unix_us())
        return shared, early

    def _make_keeper(self, state: StateDir) -> Keeper:
        options = self._options
        place = Place(
            state_dir=state.path,
            data_dir=options.data_dir,
            map_bytes=state.ledger_bytes,
            patience_us=round(options.drain_s * US_PER_S) + FORMER_DRAIN_US,
        )
        accounts = Accounts(place, self._log, unix_us=unix_us, mono_us=mono_us, pause_s=pause_s)
        return Keeper(accounts, self._log, mono_us)

    def _wait_prepared(self, keeper: Keeper, ticket: int, wakeup_fd: int) -> set[int]:
        """Wait until the ledger is ready; return the signals that came and do not end us."""
        early: set[int] = set()
        told_us = mono_us()
        while (outcome := keeper.wait(ticket, PREPARED_LOOK_S)) is None:
            keeper.check()
            early |= _take_signals(wakeup_fd)
            if early & {signal.SIGTERM, signal.SIGINT}:
                raise StoreError("ended by a signal while the ledger was being made ready")
            if mono_us() - told_us >= STILL_PREPARING_US:
                told_us = mono_us()
                self._log.warning("ledger_not_ready_yet")
        if outcome.fault is not None:
            raise StoreError(outcome.fault)
        return early

    def _wait_ms(self, now_us: MonoUs) -> int:
        """Return how long to wait for a signal: less than a turn if a worker is due before."""
        is_waited_for = self._mode == MODE_STARTING or self._publication is not None
        if is_waited_for or self._shutdown.stage is not Stage.SERVING:
            return STARTING_TURN_MS
        dues_us = [child.due_us for child in self._workers if child.due_us is not None]
        return max(1, min([TURN_MS, *(-(-(due - now_us) // US_PER_MS) for due in dues_us)]))

    def _turn(self, shared: Shared, signals: set[int]) -> None:
        """Do what is due. Whatever goes wrong in it, the way to the end stays open."""
        now_us = mono_us()
        if signal.SIGTERM in signals:
            self._log.info("terminating", stage=self._shutdown.stage.name.lower())
            self._shutdown.terminate(now_us)
        if signal.SIGINT in signals:
            self._log.info("interrupted")
            self._shutdown.hurry()
        try:
            self._watch_over(shared, now_us, signals)
        except Exception as bug:  # noqa: BLE001 - a gateway that serves must not end by this.
            shared.cells.add("bugs_control", 1)
            what = "".join(traceback.format_exception(bug))
            self._log.error("bug", where="supervisor", what=what)  # noqa: TRY400
            if signal.SIGHUP in signals:
                self._answer_reload(["a fault of modelux itself; the log of `serve` has it"])
        for order in self._shutdown.step(now_us, self._alive(shared)):
            self._obey(shared, order)

    def _watch_over(self, shared: Shared, now_us: MonoUs, signals: set[int]) -> None:
        self._reap(shared, now_us)
        self._start_due(shared, now_us)
        if signal.SIGUSR2 in signals:
            self._log.warning("replacing_workers_is_not_available", signal="SIGUSR2")
        if self._shutdown.stage is Stage.SERVING:
            self._judge(shared, now_us)
            if signal.SIGHUP in signals:
                self._reload(shared)
            elif self._source.has_changed():
                self._republish(shared)
            self._end_publication(shared)
        self._show_mode(shared, now_us)
        self._refuse(shared, now_us)
        if now_us - self._readers_checked_us >= CHECK_READERS_EVERY_US:
            self._check_readers(shared, now_us)
        # Last: what it raises must keep nobody from being reaped, started or judged.
        shared.keeper.check()

    # --- the snapshot ----------------------------------------------------------------------

    def _reload(self, shared: Shared) -> None:
        try:
            self._begin_publication(shared, self._source.load(), is_reload=True)
        except ConfigError as failure:
            self._end_reload(failure.faults)
        except StoreError as failure:
            self._end_reload([str(failure)])

    def _end_reload(self, faults: list[str]) -> None:
        for fault in faults:
            self._log.error("reload_refused", fault=fault)
        for note in () if faults else self._source.notes():
            self._log.warning("takes_effect_at_the_next_start", option=note)
        self._answer_reload(faults)
        if not faults:
            self._log.info("reloaded")

    def _answer_reload(self, faults: list[str]) -> None:
        try:
            write_reload(self._options.data_dir, faults, unix_us())
        except OSError as failure:  # A full disk: whoever waits for the answer is told late.
            self._log.warning("reload_not_answered", why=failure.strerror)

    def _republish(self, shared: Shared) -> None:
        try:
            self._begin_publication(shared, self._source.compile(), is_reload=False)
        except (ConfigError, StoreError) as failure:
            self._log.error("republish_refused", fault=str(failure))

    def _begin_publication(self, shared: Shared, blob: bytes, *, is_reload: bool) -> None:
        """Have the ledger prepared for a snapshot; no worker may know a budget before it."""
        before = self._publication
        self._publication = Publication(
            blob=blob,
            ticket=shared.keeper.prepare(self._source.orders()),
            # Whoever waits for the one that this takes the place of, is answered by this.
            is_reload=is_reload or (before is not None and before.is_reload),
        )

    def _end_publication(self, shared: Shared) -> None:
        """Publish the snapshot that waits, once the ledger is prepared for it."""
        waiting = self._publication
        if waiting is None:
            return
        outcome = shared.keeper.outcome(waiting.ticket)
        if outcome is None:
            return
        self._publication = None
        fault = outcome.fault
        try:
            # A reload is published though nothing in it changed: what it refers to, as the
            # files with keys, may have, and workers read that when they take a snapshot.
            if fault is None and (waiting.is_reload or waiting.blob != self._blob):
                self._publish(shared, waiting.blob)
        except StoreError as failure:
            fault = str(failure)
        if waiting.is_reload:
            self._end_reload([] if fault is None else [fault])
        elif fault is not None:
            self._log.error("republish_refused", fault=fault)

    def _publish(self, shared: Shared, blob: bytes) -> None:
        generation = shared.store.publish(blob)
        self._blob = blob
        shared.cells.set("snapshot_generation", generation)
        self._log.debug("published", generation=generation, blob_bytes=len(blob))

    # --- children --------------------------------------------------------------------------

    def _reap(self, shared: Shared, now_us: MonoUs) -> None:
        for child in self._children:
            death = child.reap(now_us)
            if death is None:
                continue
            self._check_readers(shared, now_us)
            if child in self._workers:
                shared.keeper.died(child.generation)
                shared.live.clear_worker(self._workers.index(child))
            if self._is_expected(child):
                child.retire()
                self._log.debug("ended", child=death.name, child_pid=death.pid, why=death.why)
                continue
            self._mourn(shared, child, death, now_us)

    def _mourn(self, shared: Shared, child: Child, death: Death, now_us: MonoUs) -> None:
        if child in self._workers:
            self._crash_loop.worker_died(now_us)
            reason = "exited" if death.code >= 0 else "killed"
            shared.cells.add(f"restarts_{'stalled' if child.is_stalled else reason}", 1)
        pause_s = ((child.due_us or now_us) - now_us) / US_PER_S
        self._log.error(
            "died",
            child=death.name,
            child_pid=death.pid,
            why=death.why,
            lived_s=round(death.lived_us / US_PER_S, 3),
            restart_in_s=round(pause_s, 3),
        )

    def _is_expected(self, child: Child) -> bool:
        stage = self._shutdown.stage
        if child is self._writer:
            return stage.value >= Stage.FLUSHING.value
        if child is self._control:
            return stage.value >= Stage.CLOSING.value
        return stage.value >= Stage.DRAINING.value

    def _start_due(self, shared: Shared, now_us: MonoUs) -> None:
        stage = self._shutdown.stage.value
        if stage <= Stage.ANNOUNCED.value:
            for slot, child in enumerate(self._workers):
                self._start(shared, child, now_us, slot)
        is_time = self._has_been_ready or now_us - self._started_us >= COMPANY_AFTER_US
        if is_time and stage <= Stage.DRAINING.value:
            self._start(shared, self._writer, now_us)
            self._start(shared, self._control, now_us)

    def _start(self, shared: Shared, child: Child, now_us: MonoUs, slot: int = -1) -> None:
        if child.due_us is None or now_us < child.due_us:
            return
        if child is self._writer:
            program = self._writer_program(shared)
        elif child is self._control:
            program = self._control_program(shared)
        else:
            child.generation = shared.generations.next()
            for gauge in GAUGES:
                shared.cells.set(gauge, 0, slot)
            shared.live.clear_worker(slot)
            program = self._worker_program(shared, slot, child.generation)
        try:
            child.start(program, self._options.environ, now_us)
        except OSError as failure:
            self._log.error("cannot_start", child=child.name, why=failure.strerror)
            return
        self._log.debug("started", child=child.name, child_pid=child.pid)

    def _worker_program(self, shared: Shared, slot: int, generation: int) -> Program:
        listen_fd = shared.listeners[slot].fileno()
        return Program(
            module=self._options.worker_module,
            arguments=(
                *("--slot", str(slot), "--generation", str(generation)),
                *("--listen-fd", str(listen_fd), "--parent-fd", str(shared.parent_fd)),
                *self._places(shared),
                *("--options", json.dumps(dict(self._options.worker_options))),
            ),
            fds=(listen_fd, shared.parent_fd),
        )

    def _writer_program(self, shared: Shared) -> Program:
        return Program(
            module=self._options.writer_module,
            arguments=(
                *("--parent-pipe", str(shared.parent_fd)),
                *self._places(shared),
                *("--options", json.dumps(dict(self._options.writer_options))),
            ),
            fds=(shared.parent_fd,),
        )

    def _control_program(self, shared: Shared) -> Program:
        listen_fd = shared.control_listener.fileno()
        return Program(
            module=self._options.control_module,
            arguments=(
                *("--listen-fd", str(listen_fd), "--parent-fd", str(shared.parent_fd)),
                *self._places(shared),
                *("--options", json.dumps(dict(self._options.control_options))),
            ),
            fds=(listen_fd, shared.parent_fd),
        )

    def _places(self, shared: Shared) -> tuple[str, ...]:
        data_dir = self._options.data_dir
        return ("--state-dir", str(shared.state.path), "--data-dir", str(data_dir))

    # --- watching --------------------------------------------------------------------------

    def _judge(self, shared: Shared, now_us: MonoUs) -> None:
        pulses: list[Pulse] = []
        for slot, child in enumerate(self._workers):
            if child.pid is None:
                continue
            beat_us = shared.cells.get("heartbeat_us", slot)
            # Reading `/proc` is dear; a worker that has just beaten is not stopped.
            is_quiet = now_us - beat_us > US_PER_S
            pulses.append(
                Pulse(
                    slot=slot,
                    started_us=child.started_us,
                    beat_us=beat_us,
                    is_stopped=is_quiet and is_stopped(child.pid),
                    lock=Lock(shared.cells.get("ledger_state", slot)),
                )
            )
        late = self._watch.judge(now_us, pulses)
        if late is None:
            return
        child = self._workers[late.slot]
        quiet_us = now_us - (late.beat_us or late.started_us)
        self._log.error(
            "stalled",
            child=child.name,
            child_pid=child.pid,
            quiet_s=round(quiet_us / US_PER_S, 3),
            stopped=late.is_stopped,
            ledger_lock=late.lock.name.lower(),
        )
        child.is_stalled = True
        child.tell(signal.SIGKILL)

    def _show_mode(self, shared: Shared, now_us: MonoUs) -> None:
        mode = self._current_mode(shared, now_us)
        if mode == self._mode and mode != MODE_STARTING:
            return
        before, self._mode = self._mode, mode
        shared.cells.set("mode", mode)
        if mode == MODE_CRASH_LOOP:
            calm_s = self._crash_loop.calm_in_us(now_us) / US_PER_S
            self._log.error("crash_loop", refusing_for_s=round(calm_s))
        elif before == MODE_CRASH_LOOP and mode == MODE_READY:
            self._refusal.close()
            self._log.info("crash_loop_over")
        if mode == MODE_READY and not self._has_been_ready:
            self._has_been_ready = True
            self._greet(shared, now_us)

    def _current_mode(self, shared: Shared, now_us: MonoUs) -> int:
        if self._shutdown.stage is not Stage.SERVING:
            return MODE_DRAINING
        if self._crash_loop.is_looping(now_us):
            return MODE_CRASH_LOOP
        if self._has_been_ready:
            return MODE_READY
        slots = range(len(self._workers))
        is_ready = all(shared.cells.get("heartbeat_us", slot) for slot in slots)
        return MODE_READY if is_ready else MODE_STARTING

    def _refuse(self, shared: Shared, now_us: MonoUs) -> None:
        if self._mode != MODE_CRASH_LOOP:
            return
        down = [
            listener
            for listener, child in zip(shared.listeners, self._workers, strict=True)
            if child.pid is None
        ]
        calm_s = -(-self._crash_loop.calm_in_us(now_us) // US_PER_S)
        self._refusal.turn(now_us, down, calm_s)

    def _check_readers(self, shared: Shared, now_us: MonoUs) -> None:
        self._readers_checked_us = now_us
        shared.store.check_readers()

    def _greet(self, shared: Shared, now_us: MonoUs) -> None:
        address = bound_address(shared.listeners[0])
        self._log.info(
            "ready",
            address=str(address),
            control=str(bound_address(shared.control_listener)),
            workers=len(self._workers),
            data_dir=str(self._options.data_dir),
            state_dir=str(shared.state.path),
            start_ms=(now_us - self._started_us) // US_PER_MS,
        )
        for line in self._source.greeting(f"http://{reachable(address)}/v1"):
            self._log.say(line)

    # --- the end ---------------------------------------------------------------------------

    def _alive(self, shared: Shared) -> Alive:
        return Alive(
            keeper=not shared.keeper.has_finished(),
            workers=any(child.pid is not None for child in self._workers),
            writer=self._writer.pid is not None,
            control=self._control.pid is not None,
        )

    def _obey(self, shared: Shared, order: Order) -> None:
        self._log.debug("shutdown", order=order.value)
        match order:
            case Order.STOP_LISTENING:
                for listener in shared.listeners:
                    listener.close()
            case Order.END_WORKERS:
                self._tell_workers(signal.SIGTERM)
            case Order.KILL_WORKERS:
                self._log.warning("cutting_requests")
                self._tell_workers(signal.SIGKILL)
            case Order.END_WRITER:
                self._writer.tell(signal.SIGTERM)
            case Order.KILL_WRITER:
                self._log.error("traces_left_for_the_next_start")
                self._writer.tell(signal.SIGKILL)
            case Order.COPY_LEDGER:
                shared.keeper.finish()
            case Order.END_CONTROL:
                self._control.tell(signal.SIGTERM)
            case Order.KILL_CONTROL:
                self._control.tell(signal.SIGKILL)

    def _tell_workers(self, signal_number: signal.Signals) -> None:
        for child in self._workers:
            child.tell(signal_number)


def _bind_soon(lock: ServeLock, bind: Callable[[], Bound]) -> Bound:
    """Bind; after a kill, with patience for the children it left, who are letting go."""
    tries_count = PATIENT_TRIES_COUNT if lock.follows_a_kill else 0
    for _ in range(tries_count):
        try:
            return bind()
        except ListenError as failure:
            if not failure.is_in_use:
                raise
        pause_s(TRY_PAUSE_S)
    return bind()


def _silent_pipe() -> tuple[int, int]:
    """Return a pipe's read and write end; the write end is never written, and ours alone."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    return read_fd, write_fd


def _wake_on_signals() -> int:
    """Turn signals into bytes on a pipe and return its read end.

    The handlers do nothing, so nothing of ours ever runs inside of something else of ours.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.fcntl(write_fd, fcntl.F_SETFL, os.O_NONBLOCK)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _ignore)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return read_fd


def _ignore(_number: int, _frame: object) -> None:
    """Stand in for a handler: the wakeup byte says it all."""


def _take_signals(wakeup_fd: int) -> set[int]:
    try:
        return set(os.read(wakeup_fd, 4096))
    except BlockingIOError:
        return set()
