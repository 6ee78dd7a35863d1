"""The native module, as the type checker sees it. One section a file of `rust/py/src`."""

from os import PathLike
from typing import final

__all__ = ["Cells", "RingError", "RingReader", "RingWriter", "__version__"]

__version__: str

# --- cells.rs ------------------------------------------------------------------------------

@final
class Cells:
    """Shared counters of one node: one mapped file, one atomic word a cell.

    Names: `mode` (0 starting, 1 ready, 2 draining, 3 crash loop), `bugs`, `bugs_writer`,
    `bugs_control`, `restarts_exited`, `restarts_killed`, `restarts_stalled`,
    `restarts_replaced`, `snapshot_generation`; with a worker slot: `heartbeat_us`, `in_flight`,
    `connections_open`, `upstreams_open`, `requests`, `worker_snapshot`, `worker_pid`,
    `overloaded`. An unknown name is a `KeyError`, a slot out of range an `IndexError`.
    """

    @staticmethod
    def create(path: str | PathLike[str], workers: int) -> Cells: ...
    @staticmethod
    def open(path: str | PathLike[str]) -> Cells: ...
    @property
    def workers(self) -> int: ...
    def get(self, name: str, slot: int = 0) -> int: ...
    def set(self, name: str, value: int, slot: int = 0) -> None: ...
    def add(self, name: str, delta: int, slot: int = 0) -> None: ...
    def take(self, key: int, now_us: int, rpm: int, burst: int) -> tuple[bool, int, int, int]:
        """Return allowed, remaining, reset_us, retry_after_us."""

# --- ring.rs -------------------------------------------------------------------------------

class RingError(Exception):
    """A trace ring that cannot be read: another layout or boot, damaged, read by another."""

@final
class RingWriter:
    """The producing end of a trace ring; in Python for tests only."""

    def __new__(
        cls,
        path: str | PathLike[str],
        spill_dir: str | PathLike[str],
        *,
        ring_bytes: int,
        spill_max_bytes: int,
        boot_id: str = "",
        slot: int = 0,
        generation: int = 0,
    ) -> RingWriter: ...
    def append(
        self,
        meta: bytes,
        request: bytes | None = None,
        response: bytes | None = None,
        bodies: str = "kept",
    ) -> str:
        """Return `ring`, `spill` or `lost`."""

    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...

@final
class RingReader:
    """The consuming end of a trace ring: `read` until nothing comes, `commit` what is stored.

    An `OSError` is the file system's; a `RingError` says why the ring cannot be read.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        spill_dir: str | PathLike[str],
        boot_id: str | None = None,
    ) -> RingReader: ...
    @property
    def slot(self) -> int: ...
    @property
    def generation(self) -> int: ...
    def read(self, records_max: int) -> list[tuple[bytes, bytes, bytes, str]]: ...
    def commit(self) -> None: ...
    def skip(self) -> int: ...
    def owner_alive(self) -> bool: ...
    def is_drained(self) -> bool: ...
    def backlog_bytes(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...
