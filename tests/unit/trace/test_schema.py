import contextlib
import sqlite3
from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.trace.schema import SCHEMA_VERSION, is_damaged, open_day, open_day_to_read


def test_a_day_is_made_once_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "day.db"
    for _ in range(2):
        with contextlib.closing(open_day(path)) as day:
            assert day.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
            assert day.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_newer_layout_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "day.db"
    with contextlib.closing(open_day(path)) as day:
        day.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreError, match="schema 7"):
        open_day(path)


def test_a_reader_makes_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a day?#%.db"
    with pytest.raises(sqlite3.OperationalError):
        open_day_to_read(path).execute("SELECT 1")
    open_day(path).close()
    with contextlib.closing(open_day_to_read(path)) as day:
        assert day.execute("SELECT count(*) FROM records").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            day.execute("DELETE FROM records")


def test_damage_is_told_from_other_failures(tmp_path: Path) -> None:
    path = tmp_path / "day.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError) as damaged:
        open_day(path)
    assert is_damaged(damaged.value)
    with pytest.raises(sqlite3.OperationalError) as other:
        open_day(tmp_path / "no" / "such" / "folder.db")
    assert not is_damaged(other.value)


def test_a_day_from_before_events_gets_its_missing_tables(tmp_path: Path) -> None:
    path = tmp_path / "day.db"
    with contextlib.closing(open_day(path)) as day:
        day.execute("DROP TABLE events")
        day.execute("PRAGMA user_version = 1")
    with contextlib.closing(open_day(path)) as day:
        assert day.execute("SELECT count(*) FROM events").fetchone() == (0,)
