"""The snapshot is whole, the newest, and survives the death of whoever wrote it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.store.env import create_env
from modelux.store.snapshot import SnapshotReader, SnapshotStore

# Publishes for as long as it lives; each blob is one byte repeated, in a length of its own, so
# that a mixture of two publications cannot look like one.
PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
from modelux.store.env import create_env
from modelux.store.snapshot import SnapshotStore
store = SnapshotStore(create_env(Path(sys.argv[1]), 1 << 20))
while True:
    n = store.publish(b"")
    store.publish(bytes([n % 251]) * (1000 + n % 5000))
    sys.stdout.write("x")
    sys.stdout.flush()
"""


def test_a_reader_finds_what_was_published_last(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    store = SnapshotStore(env)
    first = store.publish(b"one")
    second = store.publish(b"two")
    assert second > first
    reader = SnapshotReader(tmp_path, env=env)
    assert reader.generation() == second
    assert reader.load() == (second, b"two")


def test_a_reader_that_stays_open_sees_a_later_publication(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    store = SnapshotStore(env)
    store.publish(b"one")
    reader = SnapshotReader(tmp_path, env=env)
    generation = store.publish(b"two")
    assert reader.load() == (generation, b"two")


def test_the_generation_goes_on_after_the_store_is_opened_again(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    first = SnapshotStore(env).publish(b"one")
    env.close()
    assert SnapshotStore(create_env(tmp_path, MIB)).publish(b"two") == first + 1


def test_before_the_first_publication_there_is_generation_0_and_no_blob(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    SnapshotStore(env)
    reader = SnapshotReader(tmp_path, env=env)
    assert reader.generation() == 0
    with pytest.raises(StoreError, match="no snapshot"):
        reader.load()


def test_a_blob_beyond_the_map_is_refused_by_name_and_the_old_one_stays(tmp_path: Path) -> None:
    env = create_env(tmp_path, MIB)
    store = SnapshotStore(env)
    generation = store.publish(b"one")
    with pytest.raises(StoreError, match="state_map_bytes"):
        store.publish(bytes(2 * MIB))
    assert SnapshotReader(tmp_path, env=env).load() == (generation, b"one")


def test_many_publications_do_not_fill_the_map(tmp_path: Path) -> None:
    """Method: a hundred times the map's size in all, with a reader that stays open."""
    env = create_env(tmp_path, MIB)
    store = SnapshotStore(env)
    store.publish(b"x")
    reader = SnapshotReader(tmp_path, env=env)
    for number in range(1_000):
        store.publish(bytes([number % 251]) * 100_000)
        assert reader.load()[1][:1] == bytes([number % 251])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(blobs=st.lists(st.binary(max_size=10_000), min_size=1, max_size=5))
def test_any_bytes_come_back_as_they_went_in(tmp_path: Path, blobs: list[bytes]) -> None:
    env = create_env(tmp_path, MIB)
    store = SnapshotStore(env)
    for blob in blobs:
        store.publish(blob)
    env.close()
    reader = SnapshotReader(tmp_path)
    assert reader.load()[1] == blobs[-1]
    reader.close()


def test_a_process_that_has_the_map_open_cannot_open_it_twice(tmp_path: Path) -> None:
    """Two openings in one process would silently drop LMDB's locks."""
    env = create_env(tmp_path, MIB)
    SnapshotStore(env)
    with pytest.raises(StoreError, match="already open"):
        SnapshotReader(tmp_path)


def test_a_killed_publisher_leaves_a_whole_snapshot_and_a_usable_map(tmp_path: Path) -> None:
    """Method: kill -9 at an arbitrary moment, twenty times; the next one goes on each time."""
    last = 0
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
        ) as publisher:
            assert publisher.stdout is not None
            # Wait until it publishes at full speed, then hit it in the middle of something.
            os.read(publisher.stdout.fileno(), 1)
            publisher.send_signal(signal.SIGKILL)
        reader = SnapshotReader(tmp_path)
        generation, blob = reader.load()
        reader.close()
        assert generation > last
        previous = generation - 1
        assert blob in {b"", bytes([previous % 251]) * (1000 + previous % 5000)}
        last = generation
