"""The lock on `data_dir`: one supervisor at a time, and a way to find its process id.

The file holds `{"pid": ...}` while the lock is held. The lock is the kernel's, on the open
file, and goes with the process however it ends; a file without a lock on it says nothing.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Final, Self, final

from modelux.clock import pause_s
from modelux.errors import StoreError
from modelux.store.layout import SERVE_LOCK_FILE

TRIES_COUNT: Final = 10
TRY_PAUSE_S: Final = 0.02


class AlreadyServingError(StoreError):
    """Another supervisor runs on this `data_dir`."""


@final
class ServeLock:
    """Held from `take` to `release`, or to the end of the process."""

    __slots__ = ("_fd", "follows_a_kill")

    def __init__(self, fd: int, *, follows_a_kill: bool) -> None:
        self._fd = fd
        self.follows_a_kill = follows_a_kill
        """The holder before us did not release it: what it started may still be leaving."""

    @classmethod
    def take(cls, data_dir: Path) -> Self:
        """Take the lock, making `data_dir` if there is none.

        Raises:
            AlreadyServingError: It is held; the message names the process that holds it.
            StoreError: `data_dir` cannot be made or written.
        """
        path = data_dir / SERVE_LOCK_FILE
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise StoreError(f"{path}: cannot be written: {failure.strerror}") from failure
        if not _lock_soon(fd):
            pid = _pid_in(fd)
            os.close(fd)
            raise AlreadyServingError(
                f"another `modelux serve` runs on {data_dir} (process {pid or 'unknown'}); end "
                "it first, or give this one a `data_dir` of its own"
            )
        follows_a_kill = os.fstat(fd).st_size > 0
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid()}).encode(), 0)
        return cls(fd, follows_a_kill=follows_a_kill)

    def release(self) -> None:
        """Give it up, leaving an empty file: a removed one could be locked by two at once."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def serving_pid(data_dir: Path) -> int | None:
    """Return the process id of the supervisor that runs on `data_dir`; None without one."""
    try:
        fd = os.open(data_dir / SERVE_LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    else:
        return None
    finally:
        os.close(fd)


def _lock_soon(fd: int) -> bool:
    """Try for a moment: whoever only asks `serving_pid` holds the lock for an instant."""
    for _ in range(TRIES_COUNT):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause_s(TRY_PAUSE_S)
        else:
            return True
    return False


def _pid_in(fd: int) -> int | None:
    try:
        found = json.loads(os.pread(fd, 1_000, 0))
    except ValueError:  # Taken this instant: the holder has not written it yet.
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return pid if isinstance(pid, int) else None
