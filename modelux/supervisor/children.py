"""The children of the supervisor: started by exec, found dead by `waitpid`, told by signal.

A child gets its sockets and the read end of one pipe by number. Nothing is ever written to that
pipe: its end of file means that the supervisor is gone, however it went, and that the child is
to finish and leave. Each child is a process group of its own, so that Ctrl-C on a terminal
reaches the supervisor alone, which then ends them in the right order.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from modelux.supervisor.restart import Pause
from modelux.units import MonoUs

PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run: a module of ours, its arguments, and what of ours it inherits."""

    module: str
    arguments: tuple[str, ...]
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a child ended."""

    name: str
    pid: int
    lived_us: int
    code: int
    """Its exit code; the negative number of the signal that killed it."""

    @property
    def why(self) -> str:
        """For people: `exit code 1`, `killed by SIGKILL`."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:  # A real-time signal has no name.
            name = f"signal {-self.code}"
        return f"killed by {name}"


@final
class Child:
    """One place for a process: running, or down until it is due again."""

    __slots__ = ("_pause", "due_us", "generation", "is_stalled", "name", "pid", "started_us")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid: int | None = None
        self.started_us = MonoUs(0)
        self.due_us: int | None = 0
        """When to start it; None while it runs, or is not to be started again."""
        self.generation = 0
        self.is_stalled = False
        """We killed it because it did not move."""
        self._pause = Pause()

    def start(self, program: Program, environ: Mapping[str, str], now_us: MonoUs) -> None:
        """Run the program in this place.

        Raises:
            OSError: It could not be started; the place is due again after a pause.
        """
        assert self.pid is None, (self.name, self.pid)
        self.is_stalled = False
        self.started_us = now_us
        try:
            self.pid = spawn(program, environ)
        except OSError:
            self.due_us = now_us + self._pause.after_death(0)
            raise
        self.due_us = None

    def reap(self, now_us: MonoUs) -> Death | None:
        """Return how it ended if it just has, and make it due again after its pause."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        lived_us = max(0, now_us - self.started_us)
        self.pid = None
        self.due_us = now_us + self._pause.after_death(lived_us)
        code = os.waitstatus_to_exitcode(status)
        return Death(name=self.name, pid=pid, lived_us=lived_us, code=code)

    def tell(self, signal_number: signal.Signals) -> None:
        """Send a signal, if it runs: until it is reaped, its number is no other process's."""
        if self.pid is not None:
            os.kill(self.pid, signal_number)

    def retire(self) -> None:
        """Do not start it again."""
        self.due_us = None


def spawn(program: Program, environ: Mapping[str, str]) -> int:
    """Start a module of ours in a process of its own and return its process id."""
    # Safe path: `-m` alone would let any file beside `data_dir` pass for one of our modules.
    # In a source tree, started from it, the current directory is where our modules are.
    safe = ["-P"] if Path.cwd() != PACKAGE_PARENT else []
    argv = [sys.executable, *safe, "-m", program.module, *program.arguments]
    for fd in program.fds:
        os.set_inheritable(fd, True)  # noqa: FBT003
    try:
        return os.posix_spawn(
            sys.executable,
            argv,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_catchable(),
        )
    finally:
        for fd in program.fds:
            os.set_inheritable(fd, False)  # noqa: FBT003


def is_stopped(pid: int) -> bool:
    """Return whether the kernel has the process stopped (SIGSTOP, a debugger)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The name in parentheses may hold anything; the state follows the last one.
    return words.rpartition(")")[2].split()[:1] in (["T"], ["t"])


def _catchable() -> Sequence[signal.Signals]:
    return [s for s in signal.Signals if s not in {signal.SIGKILL, signal.SIGSTOP}]
