"""The compiled configuration, handed from the supervisor to every worker through the LMDB map.

Two keys, written in one transaction: the generation (8 bytes, big-endian) and the blob. A
worker polls the generation, one read of 8 bytes, and loads the blob only when it has grown. A
reader sees both of one publication or both of another, also when the writer is killed between.
"""

import struct
from pathlib import Path
from typing import Final, final

import lmdb

from modelux.errors import StoreError
from modelux.store.env import open_env

DATABASE: Final = b"snapshot"
GENERATION_KEY: Final = b"generation"
BLOB_KEY: Final = b"blob"
GENERATION: Final = struct.Struct(">Q")


@final
class SnapshotStore:
    """The writing side: the supervisor's."""

    __slots__ = ("_db", "_env")

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self._db = env.open_db(DATABASE)

    def publish(self, blob: bytes) -> int:
        """Replace the snapshot and return its generation, which is larger than all before.

        Raises:
            StoreError: The blob does not fit into the map; the old snapshot stays.
        """
        try:
            with self._env.begin(write=True, db=self._db) as txn:
                generation = _generation(txn) + 1
                txn.put(BLOB_KEY, blob)
                txn.put(GENERATION_KEY, GENERATION.pack(generation))
        except lmdb.MapFullError as failure:
            map_bytes = self._env.info()["map_size"]
            raise StoreError(
                f"the compiled configuration of {len(blob)} bytes does not fit into the map of "
                f"{map_bytes} bytes; raise `server.state_map_bytes`"
            ) from failure
        return generation

    def check_readers(self) -> int:
        """Free what dead readers hold, or the map fills up; return how many there were."""
        return int(self._env.reader_check())


@final
class SnapshotReader:
    """The reading side: a worker's. LMDB allows one opening of the map in a process.

    Args:
        state_dir: Where the map lies.
        env: The map, if this process has opened it already; None opens it.
    """

    __slots__ = ("_db", "_env")

    def __init__(self, state_dir: Path, *, env: lmdb.Environment | None = None) -> None:
        self._env = open_env(state_dir) if env is None else env
        try:
            self._db = self._env.open_db(DATABASE, create=False)
        except lmdb.NotFoundError as failure:
            self._env.close()
            raise StoreError(f"{state_dir}: no snapshot has been published") from failure

    def generation(self) -> int:
        """Return the generation that is published; 0 before the first."""
        with self._env.begin(db=self._db) as txn:
            return _generation(txn)

    def load(self) -> tuple[int, bytes]:
        """Return the generation and its blob.

        Raises:
            StoreError: Nothing has been published.
        """
        with self._env.begin(db=self._db) as txn:
            generation, blob = _generation(txn), txn.get(BLOB_KEY)
        if generation == 0:
            raise StoreError("no snapshot has been published")
        assert isinstance(blob, bytes), f"generation {generation} has no blob"
        return generation, blob

    def close(self) -> None:
        """Close the map; nothing may be read after it."""
        self._env.close()


def _generation(txn: lmdb.Transaction) -> int:
    raw = txn.get(GENERATION_KEY)
    if raw is None:
        return 0
    assert len(raw) == GENERATION.size, raw
    return int(GENERATION.unpack(raw)[0])
