"""The map: allocated at once, made anew when broken, refused by name when impossible."""

import os
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.store.env import create_env, discard_env, open_env
from modelux.store.layout import STATE_MAP_FILE
from modelux.store.snapshot import SnapshotReader, SnapshotStore


def test_all_blocks_of_the_map_are_allocated_when_it_is_made(tmp_path: Path) -> None:
    create_env(tmp_path, 2 * MIB)
    found = (tmp_path / STATE_MAP_FILE).stat()
    assert found.st_size == 2 * MIB
    assert found.st_blocks * 512 >= 2 * MIB
    assert found.st_mode & 0o077 == 0


def test_a_larger_map_keeps_what_the_smaller_one_held(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    SnapshotStore(env).publish(b"kept")
    env.close()
    env = create_env(tmp_path, 4 * MIB)
    assert SnapshotReader(tmp_path, env=env).load()[1] == b"kept"
    SnapshotStore(env).publish(bytes(2 * MIB))


def test_a_map_is_never_shrunk(tmp_path: Path) -> None:
    create_env(tmp_path, 4 * MIB).close()
    create_env(tmp_path, MIB).close()
    assert (tmp_path / STATE_MAP_FILE).stat().st_size == 4 * MIB


@pytest.mark.parametrize("junk", [b"", b"\0" * 8192, os.urandom(100_000), b"x"])
def test_a_file_that_is_no_map_is_made_anew(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / STATE_MAP_FILE).write_bytes(junk)
    env = create_env(tmp_path, MIB)
    assert SnapshotStore(env).publish(b"one") == 1


def test_opening_a_map_that_nobody_made_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=STATE_MAP_FILE):
        open_env(tmp_path)


def test_a_map_larger_than_its_mount_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=STATE_MAP_FILE):
        create_env(tmp_path, 1 << 60)


def test_discarding_twice_is_no_failure(tmp_path: Path) -> None:
    create_env(tmp_path, MIB).close()
    discard_env(tmp_path)
    discard_env(tmp_path)
    assert list(tmp_path.iterdir()) == []
