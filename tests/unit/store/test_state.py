"""Where the shared memory lies, and that nothing stale or foreign in it is trusted."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.store.env import create_env
from modelux.store.layout import STAMP_FILE, STATE_MAP_FILE
from modelux.store.snapshot import SnapshotReader, SnapshotStore
from modelux.store.state import (
    SLOTS_BYTES,
    StateSizes,
    default_state_dir,
    generation_max,
    prepare_state_dir,
)

SMALL = StateSizes(workers=1, ring_bytes=MIB, map_bytes=4 * MIB)
HUGE = replace(SMALL, map_bytes=1 << 60)


def test_the_default_is_a_private_directory_on_the_shared_memory_mount(tmp_path: Path) -> None:
    chosen = prepare_state_dir(tmp_path / "data", None, SMALL, tmp_path / "shm")
    assert chosen.path == default_state_dir(tmp_path / "data", tmp_path / "shm")
    assert chosen.path.stat().st_mode & 0o777 == 0o700
    assert (chosen.warning, chosen.map_bytes) == (None, MIB)


def test_two_names_of_one_data_dir_share_one_state_dir(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    assert default_state_dir(tmp_path / "data") == default_state_dir(tmp_path / "link")
    assert default_state_dir(tmp_path / "data") != default_state_dir(tmp_path / "other")


def test_without_a_size_the_map_is_at_most_64_mib(tmp_path: Path) -> None:
    sizes = replace(SMALL, map_bytes=0)
    chosen = prepare_state_dir(tmp_path, None, sizes, tmp_path / "shm")
    assert 4 * MIB <= chosen.ledger_bytes <= 64 * MIB
    assert MIB <= chosen.map_bytes <= 16 * MIB


def test_both_maps_rings_and_slots_have_to_fit(tmp_path: Path) -> None:
    """What is preallocated later must not find the mount full: a mapped hole is a SIGBUS."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    for sizes in (
        replace(SMALL, map_bytes=free - 16 * MIB),
        replace(SMALL, workers=free // (2 * SLOTS_BYTES)),
    ):
        with pytest.raises(StoreError, match="MiB are needed"):
            prepare_state_dir(tmp_path, tmp_path / "mine", sizes)


def test_a_map_that_fits_nowhere_is_refused_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="MiB are needed"):
        prepare_state_dir(tmp_path, None, HUGE, tmp_path / "shm")


def test_a_ledger_that_is_too_small_to_work_is_refused_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"server\.state_map_bytes` is 1048576"):
        prepare_state_dir(tmp_path, tmp_path / "mine", replace(SMALL, map_bytes=MIB))


def test_data_dir_serves_with_a_warning_when_the_mount_cannot_be_used(tmp_path: Path) -> None:
    not_a_mount = tmp_path / "file"
    not_a_mount.write_bytes(b"")
    chosen = prepare_state_dir(tmp_path / "data", None, SMALL, not_a_mount)
    assert chosen.path == tmp_path / "data" / "state"
    assert chosen.warning is not None
    assert str(not_a_mount) in chosen.warning


def test_a_configured_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="MiB are needed"):
        prepare_state_dir(tmp_path, tmp_path / "mine", HUGE)


def test_a_link_that_somebody_put_in_our_place_is_not_followed(tmp_path: Path) -> None:
    place = default_state_dir(tmp_path / "data", tmp_path / "shm")
    place.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    chosen = prepare_state_dir(tmp_path / "data", None, SMALL, tmp_path / "shm")
    assert chosen.path == tmp_path / "data" / "state"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_of_another_user_is_not_used(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    place = default_state_dir(tmp_path / "data", tmp_path / "shm")
    place.mkdir(parents=True)
    os.chown(place, 12345, 12345)
    chosen = prepare_state_dir(tmp_path / "data", None, SMALL, tmp_path / "shm")
    assert chosen.path == tmp_path / "data" / "state"
    assert "belongs to user 12345" in str(chosen.warning)


def test_a_directory_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    chosen = prepare_state_dir(tmp_path, tmp_path / "mine", SMALL)
    assert chosen.path.stat().st_mode & 0o777 == 0o700


def test_the_map_of_the_same_boot_and_layout_is_kept(tmp_path: Path) -> None:
    path = prepare_state_dir(tmp_path, tmp_path / "mine", SMALL).path
    SnapshotStore(create_env(path, MIB)).publish(b"kept")
    prepare_state_dir(tmp_path, tmp_path / "mine", SMALL)
    assert SnapshotReader(path).load()[1] == b"kept"


@pytest.mark.parametrize("stamp", ["", "{}", '{"boot_id": "another", "layout": 1}'])
def test_what_another_boot_or_layout_left_is_removed_but_for_the_rings(
    tmp_path: Path, stamp: str
) -> None:
    path = prepare_state_dir(tmp_path, tmp_path / "mine", SMALL).path
    create_env(path, MIB).close()
    (path / "ring.0.7").write_bytes(b"undrained")
    (path / STAMP_FILE).write_text(stamp)
    prepare_state_dir(tmp_path, tmp_path / "mine", SMALL)
    assert not (path / STATE_MAP_FILE).exists()
    assert (path / "ring.0.7").read_bytes() == b"undrained"


def test_the_largest_generation_is_found_among_other_files(tmp_path: Path) -> None:
    assert generation_max(tmp_path) == 0
    for name in ("ring.0.3", "ring.1.12", "ring.x.99", "ring.0", "stamp", "ring.0.5.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert generation_max(tmp_path) == 12
    for name in ("slots.13", "slots.14.new", "slots.x", "slots"):
        (tmp_path / name).write_bytes(b"")
    assert generation_max(tmp_path) == 13


def test_the_ledger_and_its_slots_are_left_for_another_judge(tmp_path: Path) -> None:
    path = prepare_state_dir(tmp_path, tmp_path / "mine", SMALL).path
    (path / "ledger.mdb").write_bytes(b"money")
    (path / "slots.3").write_bytes(b"holds")
    (path / STAMP_FILE).write_text("{}")
    prepare_state_dir(tmp_path, tmp_path / "mine", SMALL)
    assert (path / "ledger.mdb").read_bytes() == b"money"
    assert (path / "slots.3").read_bytes() == b"holds"
