"""`modelux check`: what loading would change, told before it does."""

import pytest

from modelux.cli.check import change_line
from modelux.config.rows import Change
from tests.unit.cli.conftest import FILE, Operator


def test_what_would_change_is_told_and_not_done(operator: Operator) -> None:
    text = FILE.replace('"small", {', '"large", {').replace("[server]", "[server]\nworkers = 3")
    operator.write("modelux.toml", text + '[routes.more]\nstrategy="single"\nmodel="small"\n')

    done = operator.run("check")

    assert done.code == 0
    assert done.out.splitlines() == [
        "modelux.toml is valid; loading it changes:",
        "  ~ server: workers",
        "  ~ route @production: v1 -> v2",
        "  + route @more: v1",
    ]
    assert operator.run("check").out == done.out


def test_apply_without_a_server_leaves_it_to_the_next_start(operator: Operator) -> None:
    operator.write("modelux.toml", FILE.replace('"small", {', '"large", {'))

    done = operator.run("check", "--apply")

    assert done.out.splitlines()[-1] == (
        "applied; no server is running, the next start serves it"
    )
    assert operator.run("check").out == "modelux.toml is valid; loading it changes nothing\n"


def test_a_faulty_file_prints_all_of_its_faults_and_changes_nothing(
    operator: Operator,
) -> None:
    text = FILE.replace('"small", {', '"smal", {').replace("[server]", "[server]\nworkrs = 3")
    operator.write("modelux.toml", text)

    done = operator.run("check", "--apply")

    assert done.code == 78
    assert done.out == ""
    assert done.err.splitlines() == [
        'modelux.toml:2: server.workrs: unknown key, nearest "workers"',
        'modelux.toml:10: routes.production.attempts[0]: unknown model "smal", nearest "small"',
    ]


def test_check_of_a_file_that_was_never_applied_makes_nothing(operator: Operator) -> None:
    operator.write("other.toml", FILE.replace('"data"', '"fresh"'))

    done = operator.run("check", "--config", "other.toml")

    assert "  + provider sim" in done.out.splitlines()
    assert not (operator.folder / "fresh").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Change(action="key.added", resource="key ci", detail={"value": True}), "+ key ci"),
        (
            Change(action="key.changed", resource="key ci", detail={"value": True}),
            "~ key ci: its value",
        ),
        (
            Change(action="key.changed", resource="key ci", detail={"value": False}),
            "~ key ci: its options",
        ),
        (Change(action="key.removed", resource="key ci", detail={}), "- key ci"),
        (
            Change(action="route.retired", resource="route @a", detail={"from": 3, "to": None}),
            "- route @a: v3, retired",
        ),
    ],
)
def test_a_change_is_one_line(change: Change, line: str) -> None:
    assert change_line(change) == line
