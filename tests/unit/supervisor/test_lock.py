"""One supervisor a data directory, found by its process id, gone with its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.store.layout import SERVE_LOCK_FILE
from modelux.supervisor.lock import AlreadyServingError, ServeLock, serving_pid

HOLD = """
import sys
from pathlib import Path
from modelux.supervisor.lock import ServeLock
lock = ServeLock.take(Path(sys.argv[1]))
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_the_lock_of_another_process_is_refused_by_its_process_id(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert serving_pid(tmp_path) == holder.pid
        with pytest.raises(AlreadyServingError, match=rf"process {holder.pid}\)"):
            ServeLock.take(tmp_path)
        holder.kill()
    # The file is still there and still names it, but nobody holds it.
    assert json.loads((tmp_path / SERVE_LOCK_FILE).read_text())["pid"] == holder.pid
    assert serving_pid(tmp_path) is None
    lock = ServeLock.take(tmp_path)
    assert lock.follows_a_kill
    lock.release()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    ServeLock.take(tmp_path).release()
    assert serving_pid(tmp_path) is None
    lock = ServeLock.take(tmp_path)
    assert not lock.follows_a_kill
    lock.release()


def test_the_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    lock = ServeLock.take(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    lock.release()


def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        ServeLock.take(tmp_path / "file")


def test_nobody_serves_on_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert serving_pid(tmp_path / "none") is None
