"""`modelux audit`: what was changed, and whether the log is whole."""

import json
import sqlite3

from tests.unit.cli.conftest import Operator


def test_every_change_is_a_line(operator: Operator) -> None:
    operator.run("keys", "create")

    lines = operator.run("audit").out.splitlines()

    assert len(lines) == 5
    assert "route.added" in lines[3]
    assert "key.created" in lines[4]
    assert "cli:" in lines[4]


def test_json_has_one_row_a_line(operator: Operator) -> None:
    rows = [json.loads(line) for line in operator.run("audit", "--json").out.splitlines()]

    assert [row["seq"] for row in rows] == [1, 2, 3, 4]
    assert rows[1]["action"] == "provider.added"
    assert rows[1]["detail"]["vendor"] == {"from": None, "to": "openai_compatible"}


def test_since_leaves_out_what_is_older(operator: Operator) -> None:
    assert len(operator.run("audit", "--since", "1h").out.splitlines()) == 4
    assert operator.run("audit", "--since", "2999-01-01").out == ""
    assert operator.run("audit", "--since", "soon").code == 2


def test_a_whole_log_verifies(operator: Operator) -> None:
    assert operator.run("audit", "--verify").out == "the audit log is whole: 4 rows\n"
    assert operator.run("audit", "--verify", "--json").json == {
        "ok": True,
        "rows": 4,
        "broken": None,
    }


def test_a_log_that_was_tampered_with_fails(operator: Operator) -> None:
    connection = sqlite3.connect(operator.folder / "data" / "control.db")
    connection.execute("DROP TRIGGER audit_is_never_changed")
    connection.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    connection.commit()
    connection.close()

    done = operator.run("audit", "--verify")

    assert done.code == 1
    assert "broken at row 2" in done.err
