"""The only opener of the LMDB map: one environment a process, always through here.

The supervisor creates and fills the map; workers open what they find. The map is written
through (`writemap`) and never synced: it lives on a tmpfs, must survive the death of any
process, and is thrown away with the boot that wrote it (`store/state.py`). All of its blocks
are allocated at once, because a mapped tmpfs that runs full later kills the writer by SIGBUS.
"""

import os
from pathlib import Path
from typing import Final

import lmdb

from modelux.errors import StoreError
from modelux.store.layout import STATE_MAP_FILE

DATABASES_MAX: Final = 16
READERS_MAX: Final = 126
"""LMDB's own default; a worker uses one slot, so do the supervisor and the control plane."""


def create_env(state_dir: Path, map_bytes: int) -> lmdb.Environment:
    """Open the map for the supervisor, making it or growing it to `map_bytes` first.

    A map that LMDB cannot read is made anew: what it holds can be published again.

    Raises:
        StoreError: The mount has no room for it, or it cannot be written.
    """
    assert map_bytes > 0, map_bytes
    path = state_dir / STATE_MAP_FILE
    try:
        return _create(path, map_bytes)
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
        discard_env(state_dir)
    except (lmdb.Error, OSError) as failure:
        raise StoreError(f"{path}: cannot be opened: {failure}") from failure
    try:
        return _create(path, map_bytes)
    except (lmdb.Error, OSError) as failure:
        raise StoreError(f"{path}: cannot be made: {failure}") from failure


def open_env(state_dir: Path) -> lmdb.Environment:
    """Open the map that the supervisor has made.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    path = state_dir / STATE_MAP_FILE
    try:
        return _open(path, path.stat().st_size, create=False)
    except (lmdb.Error, OSError) as failure:
        raise StoreError(f"{path}: cannot be opened: {failure}") from failure


def discard_env(state_dir: Path) -> None:
    """Remove the map and its lock file; who has it open keeps what it has."""
    for name in (STATE_MAP_FILE, f"{STATE_MAP_FILE}-lock"):
        (state_dir / name).unlink(missing_ok=True)


def _create(path: Path, map_bytes: int) -> lmdb.Environment:
    size = max(map_bytes, path.stat().st_size if path.exists() else 0)
    env = _open(path, size, create=True)
    try:
        # LMDB takes a file of zeros for a broken one, so it is opened first and filled then.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        env.reader_check()
    except BaseException:
        env.close()
        raise
    return env


def _open(path: Path, map_bytes: int, *, create: bool) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        subdir=False,
        create=create,
        mode=0o600,
        sync=False,
        metasync=False,
        writemap=True,
        max_dbs=DATABASES_MAX,
        max_readers=READERS_MAX,
    )
