"""`control.db`: all or nothing, one writer at a time, and an audit log that shows tampering."""

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelux import clock
from modelux.config.database import EVER, LAYOUT, Database, Who
from modelux.errors import StoreError

WHO = Who(actor="cli:somebody", source="a test", why="because")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "control.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def note(database: Database, *resources: str) -> None:
    for resource in resources:
        with database.transaction():
            database.note(WHO, "thing.changed", resource, {"b": 1, "a": [resource]})


def tampered(path: Path, *statements: str) -> None:
    """Change the file as somebody with a shell would, the triggers taken out."""
    connection = sqlite3.connect(path)
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_the_file_is_readable_by_its_owner_only(path: Path, database: Database) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_acknowledged_survives_power_loss(database: Database) -> None:
    assert database.rows("PRAGMA journal_mode") == [("wal",)]
    assert database.rows("PRAGMA synchronous") == [(2,)]


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def half() -> None:
        with database.transaction():
            database.set_meta("name", "value")
            database.note(WHO, "thing.changed", "x", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()

    assert database.meta("name") is None
    assert list(database.audit()) == []


def test_a_file_of_a_later_release_is_refused(path: Path, database: Database) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreError, match="has layout 99, this release knows 2"):
        Database(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(StoreError, match="cannot be used"):
        Database(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match=r"control\.db` cannot be used"):
        Database(tmp_path / "file" / "control.db")


def test_a_change_by_another_connection_shows(path: Path, database: Database) -> None:
    before = database.data_version()
    assert database.data_version() == before
    other = Database(path)
    note(other, "x")
    other.close()

    after = database.data_version()

    assert after != before
    note(database, "y")
    assert database.data_version() != after


# --- audit ---------------------------------------------------------------------------------


def test_a_row_says_who_what_and_why(database: Database) -> None:
    before = clock.unix_us()
    note(database, "x")

    [row] = database.audit()

    assert (row.seq, row.actor, row.source, row.why) == (1, WHO.actor, WHO.source, WHO.why)
    assert (row.action, row.resource, row.detail) == (
        "thing.changed",
        "x",
        '{"a":["x"],"b":1}',
    )
    assert before <= row.at <= clock.unix_us()
    assert row.previous == "0" * 64
    assert row.hash == row.computed_hash()


def test_each_row_continues_the_one_before(database: Database) -> None:
    note(database, "x", "y", "z")

    rows = list(database.audit())

    assert [row.previous for row in rows[1:]] == [row.hash for row in rows[:-1]]
    assert database.verify() is None
    assert [row.resource for row in database.audit(rows[1].at)] == ["y", "z"]
    assert len(list(database.audit(EVER))) == 3


def test_an_empty_log_is_whole(database: Database) -> None:
    assert database.verify() is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 3",
        "INSERT OR REPLACE INTO audit SELECT seq, 0, '', '', '', '', '', '', '', '' FROM audit",
        "INSERT INTO audit VALUES (9, 0, '', '', '', '', '', '', '', '')",
    ],
)
def test_the_log_is_append_only(database: Database, statement: str) -> None:
    note(database, "x", "y", "z")

    with pytest.raises(StoreError, match="append-only"), database.transaction():
        database.run(statement)

    assert database.verify() is None


@pytest.mark.parametrize(
    ("statement", "seq", "why"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 2", 2, "content is not what was"),
        ("UPDATE audit SET at_us = at_us + 1 WHERE seq = 3", 3, "content is not what was"),
        ("UPDATE audit SET detail = '{}' WHERE seq = 1", 1, "content is not what was"),
        ("UPDATE audit SET at_us = 'x' WHERE seq = 2", 2, "content is not what was"),
        ("UPDATE audit SET hash = 'x' WHERE seq = 2", 2, "content is not what was"),
        ("UPDATE audit SET previous = 'x' WHERE seq = 2", 2, "does not continue"),
        ("DELETE FROM audit WHERE seq = 2", 2, "the row is missing; row 3 follows"),
        ("DELETE FROM audit WHERE seq = 1", 1, "the row is missing; row 2 follows"),
        ("DELETE FROM audit WHERE seq = 4", 4, "the log ends after row 3, and 4 were written"),
        ("DELETE FROM audit", 1, "the log ends after row 0, and 4 were written"),
        (
            "INSERT INTO audit SELECT 5, at_us, actor, source, action, resource, why, detail, "
            "hash, hash FROM audit WHERE seq = 4",
            5,
            "content is not what was",
        ),
    ],
)
def test_tampering_shows_at_the_first_row_it_touched(
    path: Path, database: Database, statement: str, seq: int, why: str
) -> None:
    note(database, "a", "b", "c", "d")
    tampered(path, statement)

    broken = database.verify()

    assert broken is not None
    assert broken.seq == seq
    assert why in broken.why


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    column=st.sampled_from(["actor", "source", "action", "resource", "why", "detail", "hash"]),
    seq=st.integers(1, 5),
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_any_changed_text_of_any_row_shows(
    tmp_path: Path, column: str, seq: int, value: str
) -> None:
    path = tmp_path / "one.db"
    path.unlink(missing_ok=True)
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    database = Database(path)
    note(database, "a", "b", "c", "d", "e")
    before = getattr(list(database.audit())[seq - 1], column)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER audit_is_never_changed")
    connection.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (value, seq))
    connection.commit()
    connection.close()

    broken = database.verify()
    database.close()

    if value == before:
        assert broken is None
    else:
        assert broken is not None
        assert broken.seq == seq


def test_versions_are_immutable(database: Database) -> None:
    with database.transaction():
        database.run("INSERT INTO routes (project, slug, updated_at_us) VALUES ('p', 's', 0)")
        database.run("INSERT INTO versions VALUES (1, 1, 'h', '{}', 'a', 's', 'w', 0)")

    for statement in ("UPDATE versions SET content = 'x'", "DELETE FROM versions"):
        with pytest.raises(StoreError, match="immutable"), database.transaction():
            database.run(statement)


# --- several processes ---------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from modelux.config.database import Database, Who
database = Database(Path(sys.argv[1]))
for index in range(int(sys.argv[3])):
    with database.transaction():
        database.note(Who(actor=sys.argv[2], source="s"), "thing.changed", str(index), {})
"""


def test_writers_of_several_processes_make_one_chain(path: Path) -> None:
    """Goal: also the making of the file itself is raced; every row is there exactly once."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"writer-{index}", "25"])
        for index in range(4)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]

    database = Database(path)
    rows = list(database.audit())

    assert database.verify() is None
    assert len(rows) == 100
    for index in range(4):
        mine = [row.resource for row in rows if row.actor == f"writer-{index}"]
        assert mine == [str(number) for number in range(25)]
    database.close()


def test_a_file_of_the_first_layout_is_taken_over_with_all_it_holds(path: Path) -> None:
    database = Database(path)
    note(database, "x")
    database.close()
    connection = sqlite3.connect(path)
    for table in ("credits", "bound_resets"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()

    database = Database(path)

    assert [row.resource for row in database.audit()] == ["x"]
    assert database.rows("SELECT count(*) FROM credits") == [(0,)]
    assert database.rows("PRAGMA user_version") == [(LAYOUT,)]
    database.close()
