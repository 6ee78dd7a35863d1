"""Children of the harness: started pinned, watched through `/proc`, ended with it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelux.clock import mono_us, pause_s
from modelux.units import US_PER_S

PROXY_CPU: Final = 0
"""Whatever is under test runs here."""
LOAD_CPU: Final = 1
"""The load generator and everything upstream of the proxy run here."""

ENDS_WITHIN_S: Final = 15.0
IDLE_WATCH_S: Final = 0.25
IDLE_SHARE_MAX: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a process holds, in bytes; USS is what only it holds."""

    rss_bytes: int
    pss_bytes: int
    uss_bytes: int


@contextlib.contextmanager
def running(
    words: Sequence[str],
    *,
    cpu: int | None,
    log: Path,
    env: Mapping[str, str] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[str]]:
    """Run a child on one CPU (None: on any), its stderr in `log`, until the block ends."""
    with log.open("ab") as stderr:
        child = subprocess.Popen(
            pinned(words, cpu=cpu, env=env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield child
    finally:
        end(child, stop_signal)


def pinned(words: Sequence[str], *, cpu: int | None, env: Mapping[str, str]) -> list[str]:
    """Return the command with its CPU and environment in front; each word execs the next."""
    front: list[str] = []
    # The child must not outlive a harness that was killed.
    if shutil.which("setpriv"):
        front += ["setpriv", "--pdeathsig", "TERM"]
    if cpu is not None and len(os.sched_getaffinity(0)) > 1 and shutil.which("taskset"):
        front += ["taskset", "-c", str(cpu)]
    return [*front, "env", *(f"{name}={value}" for name, value in env.items()), *words]


def end(child: subprocess.Popen[str], stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Stop a child, by force where it does not go."""
    if child.poll() is None:
        child.send_signal(stop_signal)
        try:
            child.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            # The child may have gone before it read what we wrote.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    child.wait()


def read_line(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Read one line of JSON that the child prints.

    Raises:
        RuntimeError: It ended instead.
    """
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args!r} ended with {child.wait()} and printed nothing")
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def free_port() -> int:
    """Return a port that nobody listens on; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(port: int, child: subprocess.Popen[str], *, timeout_s: float) -> None:
    """Wait until `port` accepts.

    Raises:
        RuntimeError: The child ended, or the time is over.
    """
    deadline_us = mono_us() + int(timeout_s * US_PER_S)
    while True:
        if child.poll() is not None:
            raise RuntimeError(
                f"{child.args!r} ended with {child.returncode} before it listened"
            )
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if mono_us() > deadline_us:
            raise RuntimeError(f"{child.args!r} does not listen on port {port}")
        pause_s(0.005)


def descendants(pid: int) -> dict[int, str]:
    """Return the command lines of all processes below `pid`, itself left out."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The name in brackets may hold anything: what counts comes after it.
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found: dict[int, str] = {}
    pending = list(parents.get(pid, ()))
    while pending:
        child = pending.pop()
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes()
            found[child] = words.replace(b"\0", b" ").decode(errors="replace").strip()
        pending += parents.get(child, ())
    return found


def cpu_ns_of(pid: int) -> int:
    """Return the CPU time of all living threads of a process; 0 when it is gone."""
    spent_ns = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                spent_ns += int((task / "schedstat").read_text().split()[0])
    return spent_ns


def wait_until_idle(pids: Sequence[int], *, timeout_s: float = 120.0) -> None:
    """Wait until processes have nothing left to do, so that it does not fall to who is next.

    Raises:
        RuntimeError: They are still busy when the time is over.
    """
    deadline_us = mono_us() + int(timeout_s * US_PER_S)
    while True:
        before_ns = sum(map(cpu_ns_of, pids))
        pause_s(IDLE_WATCH_S)
        spent_s = (sum(map(cpu_ns_of, pids)) - before_ns) / 1e9
        if spent_s < IDLE_SHARE_MAX * IDLE_WATCH_S:
            return
        if mono_us() > deadline_us:
            raise RuntimeError(f"processes {list(pids)} are busy though nobody asks anything")


def memory_of(pid: int) -> Memory:
    """Read what a process holds."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split(":")
        fields[name] = int(amount.split()[0]) * 1024
    return Memory(
        rss_bytes=fields["Rss"],
        pss_bytes=fields["Pss"],
        uss_bytes=fields["Private_Clean"] + fields["Private_Dirty"],
    )
