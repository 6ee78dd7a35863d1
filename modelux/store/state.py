"""Which directory holds the shared memory, and whether what lies in it may be trusted.

By default a directory on the tmpfs at `/dev/shm`, named by the hash of `data_dir`: maps on a
disk stall a worker for milliseconds. Where the sizes do not fit there, one in `data_dir`
serves, with a warning. A stamp names the boot and the layout that wrote the directory; what
another boot or layout wrote is removed, save the rings, which the trace writer drains, and the
ledger with its slots and the live state, which say themselves what wrote them.
"""

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelux._native import Live
from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.store.env import discard_env
from modelux.store.layout import (
    CELLS_FILE,
    LAYOUT_VERSION,
    METRICS_FILE,
    RING_PREFIX,
    SLOTS_PREFIX,
    STAMP_FILE,
    boot_id,
)

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directory in it is checked.
MAP_BYTES_MAX: Final = 64 * MIB
MAP_BYTES_MIN: Final = 1 * MIB
LEDGER_BYTES_MIN: Final = 4 * MIB
"""What one turn may touch fits several times into the part that is kept for settles."""
MAP_SHARE: Final = 4
"""The ledger's map takes at most this part of the mount, if its size is not configured."""
SNAPSHOT_SHARE: Final = 4
"""The snapshot's map is this part of the ledger's: it holds one document a few times over."""
SLOTS_BYTES: Final = 256 * 1024
"""Of one worker: what its holds have come to, some bytes for each request it may serve."""
RING_GENERATIONS: Final = 2
"""Rings a slot may have at once: a dead worker's, not yet drained, and its successor's."""
OTHER_BYTES: Final = 4 * MIB
"""Cells with the rate-limit table, stamps, metrics; the live state is counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSizes:
    """What the shared memory has to hold."""

    workers: int
    ring_bytes: int
    map_bytes: int
    """Of the ledger; 0: a quarter of the mount, at most 64 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDir:
    """The directory that was chosen and made ready."""

    path: Path
    map_bytes: int
    """Of the snapshot."""
    ledger_bytes: int
    """Of the ledger."""
    warning: str | None
    """Why it is not where it should be; None where it is."""


def default_state_dir(data_dir: Path, shared_memory: Path = SHARED_MEMORY) -> Path:
    """Return the place on the tmpfs that belongs to `data_dir`."""
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    return shared_memory / f"modelux-{name}"


def prepare_state_dir(
    data_dir: Path,
    configured: Path | None,
    sizes: StateSizes,
    shared_memory: Path = SHARED_MEMORY,
) -> StateDir:
    """Choose the directory, make it ours alone, and remove what is stale in it.

    To be called with the lock on `data_dir` held, before any other process is started.

    Raises:
        StoreError: The configured directory cannot be used, or the sizes fit nowhere.
    """
    fallback = data_dir / "state"
    if configured is not None:
        return _prepare(configured, sizes, None)
    try:
        return _prepare(default_state_dir(data_dir, shared_memory), sizes, None)
    except StoreError as failure:
        warning = f"{failure}; the shared memory is in {fallback}, with a slower tail"
    return _prepare(fallback, sizes, warning)


def _prepare(path: Path, sizes: StateSizes, warning: str | None) -> StateDir:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path)
        ledger_bytes = _check_room(path, sizes)
        _discard_stale(path)
        return StateDir(
            path=path,
            map_bytes=_snapshot_bytes(ledger_bytes),
            ledger_bytes=ledger_bytes,
            warning=warning,
        )
    except OSError as failure:
        raise StoreError(f"{path}: cannot be used: {failure.strerror}") from failure


def _check_owner(path: Path) -> None:
    """Refuse a directory that somebody else could have put there or can write to."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path}: is not a directory")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def _check_room(path: Path, sizes: StateSizes) -> int:
    mount = os.statvfs(path)
    mount_bytes = mount.f_blocks * mount.f_frsize
    # What lies there already is ours and will be used again or removed.
    ours_bytes = sum(entry.stat().st_blocks * 512 for entry in path.iterdir())
    free_bytes = mount.f_bavail * mount.f_frsize + ours_bytes
    ledger_bytes = sizes.map_bytes or min(MAP_BYTES_MAX, mount_bytes // MAP_SHARE)
    rings_bytes = sizes.workers * sizes.ring_bytes
    worker_bytes = RING_GENERATIONS * (rings_bytes + sizes.workers * SLOTS_BYTES)
    shared_bytes = Live.file_bytes(sizes.workers) + OTHER_BYTES
    need_bytes = ledger_bytes + _snapshot_bytes(ledger_bytes) + worker_bytes + shared_bytes
    if sizes.map_bytes and sizes.map_bytes < LEDGER_BYTES_MIN:
        raise StoreError(
            f"`server.state_map_bytes` is {sizes.map_bytes}: the ledger needs at least "
            f"{LEDGER_BYTES_MIN}"
        )
    if ledger_bytes < LEDGER_BYTES_MIN or need_bytes > free_bytes:
        raise StoreError(
            f"{path}: {need_bytes // MIB} MiB are needed and {free_bytes // MIB} MiB are free"
        )
    if rings_bytes > mount_bytes // 2:
        raise StoreError(
            f"{path}: the rings of {sizes.workers} workers ({rings_bytes // MIB} MiB) would "
            f"take more than half of the mount ({mount_bytes // MIB} MiB)"
        )
    return ledger_bytes


def _snapshot_bytes(ledger_bytes: int) -> int:
    return max(MAP_BYTES_MIN, ledger_bytes // SNAPSHOT_SHARE)


def _discard_stale(path: Path) -> None:
    stamp = json.dumps({"boot_id": boot_id(), "layout": LAYOUT_VERSION})
    file = path / STAMP_FILE
    found = file.read_text(encoding="utf-8") if file.exists() else ""
    # Counters of the last run count from zero again, like the metrics of any process; workers
    # that still drain have the old file mapped and do no harm.
    for name in (CELLS_FILE, METRICS_FILE):
        (path / name).unlink(missing_ok=True)
    if found == stamp:
        return
    discard_env(path)
    file.write_text(stamp, encoding="utf-8")


def generation_max(path: Path) -> int:
    """Return the largest generation that a ring or a slot file is named by; 0 without any."""
    rings = [entry.name.split(".") for entry in path.glob(f"{RING_PREFIX}*")]
    slots = [entry.name.split(".") for entry in path.glob(f"{SLOTS_PREFIX}*")]
    found = [parts for parts in rings if len(parts) == 3 and parts[1].isdecimal()]
    found += [parts for parts in slots if len(parts) == 2]
    return max((int(parts[-1]) for parts in found if parts[-1].isdecimal()), default=0)
