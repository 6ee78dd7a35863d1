"""`modelux routes` as an operator uses it, without a running server."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import FILE, Operator, serving

SMALL = {"strategy": "single", "model": "small"}
LARGE = {"strategy": "single", "model": "large"}


def test_ls_has_the_keys_of_the_interface(operator: Operator) -> None:
    [route] = operator.run("routes", "ls", "--json").json

    assert set(route) == {
        "slug",
        "project",
        "strategy",
        "live_version",
        "latest_version",
        "updated_at",
        "source",
        "differs_from_file",
    }
    assert route["slug"] == "production"
    assert route["project"] == "default"
    assert route["strategy"] == "fallback"
    assert (route["live_version"], route["latest_version"]) == (1, 1)
    assert route["source"] == "file"
    assert route["differs_from_file"] is False
    assert route["updated_at"].endswith("Z")


def test_set_saves_shows_and_marks_the_difference(operator: Operator) -> None:
    operator.write("new.json", SMALL)

    done = operator.run("routes", "set", "production", "new.json", "--why", "cheaper")

    assert (done.code, done.out) == (0, "@production (v2) is live\n")
    assert operator.run("routes", "show", "@production").json == SMALL
    listed = operator.run("routes", "ls").out.splitlines()[1].split()
    assert listed[:4] == ["@production", "single", "v2", "v2"]
    assert listed[-2:] == ["cli", "yes"]
    again = operator.run("routes", "set", "production", "new.json")
    assert again.out == "@production (v2) is live and says that already\n"


def test_a_shadow_that_is_lost_inside_is_said_at_the_save(operator: Operator) -> None:
    inner = {**SMALL, "shadow": {"target": "large", "percent": 1}}
    operator.run("routes", "set", "inner", operator.write("a.json", inner))

    outer = operator.write("b.json", {"strategy": "fallback", "attempts": ["large", "@inner"]})
    done = operator.run("routes", "set", "outer", outer)

    assert (done.code, done.out) == (0, "@outer (v1) is live\n")
    assert done.err.splitlines() == [
        "attempts[1]: the `shadow` of @inner is ignored here: only the outermost routing "
        "config mirrors its traffic"
    ]


def test_show_prints_what_set_reads(operator: Operator) -> None:
    operator.write("shown.json", operator.run("routes", "show", "production").out)

    done = operator.run("routes", "set", "production", "shown.json", "--json")

    assert done.json == {
        "slug": "production",
        "project": "default",
        "version": 1,
        "live": True,
        "made": False,
    }


def test_a_pinned_version_is_shown_with_who_made_it(operator: Operator) -> None:
    operator.run("routes", "set", "production", operator.write("new.json", SMALL))

    found = operator.run("routes", "show", "production@1", "--json").json

    assert isinstance(found, dict)
    assert (found["version"], found["live"], found["actor"]) == (1, False, "file")
    assert found["config"]["strategy"] == "fallback"


def test_a_draft_waits_for_its_promotion(operator: Operator) -> None:
    operator.write("new.json", SMALL)

    done = operator.run("routes", "set", "fresh", "new.json", "--draft")

    assert done.out == "@fresh (v1) is saved as a draft\n"
    assert operator.run("routes", "promote", "fresh", "1").out == "@fresh (v1) is live\n"
    assert (
        operator.run("routes", "promote", "fresh", "v1").out == "@fresh (v1) is live already\n"
    )


def test_rollback_goes_back_and_sticks(operator: Operator) -> None:
    operator.run("routes", "set", "production", operator.write("new.json", SMALL))
    operator.run("routes", "set", "production", operator.write("new.json", LARGE))

    assert operator.run("routes", "rollback", "production").out == (
        "@production (v2) is live, was v3\n"
    )
    assert operator.run("routes", "rollback", "production", "1", "--json").json == {
        "slug": "production",
        "project": "default",
        "from": 2,
        "version": 1,
    }
    assert operator.run("check").out.endswith("loading it changes nothing\n")


def test_history_and_diff_tell_versions_apart(operator: Operator) -> None:
    operator.run("routes", "set", "production", operator.write("new.json", SMALL), "--why", "w")

    history = operator.run("routes", "history", "production").out.splitlines()
    diff = operator.run("routes", "diff", "production", "1", "2").out

    assert [line.split()[0] for line in history] == ["VERSION", "v1", "v2"]
    assert history[2].split()[1] == "live"
    assert history[2].endswith("w")
    assert '-  "strategy": "fallback"' in diff
    assert '+  "strategy": "single"' in diff
    same = operator.run("routes", "diff", "production", "1", "1")
    assert (same.code, same.out) == (0, "")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("{", 78, "new.json:1:2: not JSON: "),
        ('{"a": 1, "a": 2}', 78, 'new.json: the key "a" stands twice in one object'),
        ("[]", 78, "new.json: must be a table, not a list"),
        ({"strategy": "sngle"}, 78, 'new.json: strategy: unknown strategy "sngle", nearest'),
        (
            {"strategy": "single", "model": "smal"},
            78,
            'new.json: model: unknown model "smal", nearest "small"',
        ),
        (
            {"strategy": "fallback", "attempts": ["@production"]},
            78,
            "new.json: attempts[0]: makes a cycle: @production -> @production",
        ),
        ("[" * 100_000, 78, "new.json: is nested too deep"),
    ],
)
def test_a_bad_file_is_refused_and_nothing_is_saved(
    operator: Operator, content: object, code: int, message: str
) -> None:
    operator.write("new.json", content)

    done = operator.run("routes", "set", "production", "new.json")

    assert done.code == code
    assert done.err.startswith(message)
    assert len(operator.run("routes", "history", "production").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("show", "prodction"), 1, "unknown routing config @prodction"),
        (("show", "production@9"), 1, "@production has no version 9; it has 1 to 1"),
        (("promote", "production", "9"), 1, "@production has no version 9"),
        (("rollback", "production"), 1, "@production has no earlier version"),
        (("set", "production", "no.json"), 1, "no.json: cannot be read"),
        (
            ("set", "x", "new.json", "--project", "defalt"),
            1,
            'unknown project "defalt", nearest',
        ),
        (("promote", "production", "zero"), 2, "is not a version"),
        (("set", "a b", "new.json"), 2, "is not a slug"),
        ((), 2, "WORD"),
    ],
)
def test_what_cannot_be_done_says_why(
    operator: Operator, words: tuple[str, ...], code: int, message: str
) -> None:
    operator.write("new.json", SMALL)

    done = operator.run("routes", *words)

    assert done.code == code
    assert message in done.err
    assert done.out == ""


def test_only_looking_makes_no_data_directory(operator: Operator) -> None:
    done = operator.run("routes", "ls", "--data-dir", "elsewhere", "--json")

    assert done.json == []
    assert not Path("elsewhere").exists()


def test_a_faulty_file_does_not_stop_a_rollback(operator: Operator) -> None:
    """Goal: in an incident the way back works whatever state the file is in."""
    operator.run("routes", "set", "production", operator.write("new.json", SMALL))
    operator.write("modelux.toml", f"{FILE}\nbroken = true\n")

    assert operator.run("check").code == 78
    assert operator.run("routes", "rollback", "production").out == (
        "@production (v1) is live, was v2\n"
    )


def test_escapes_in_a_routing_config_do_not_reach_the_terminal(operator: Operator) -> None:
    operator.run(
        "routes", "set", "x", operator.write("new.json", SMALL), "--why", "\x1b[31mred"
    )

    assert "\x1b" not in operator.run("routes", "history", "x").out
    assert "\x1b" not in operator.run("audit").out


RULES = """
[routes.ruled]
strategy = "custom_rules"
rules = [
  { if = "tags.tier == 'gold'", then = "large" },
  { if = "request.stream", then = { block = "no streams" } },
  { else = { strategy = "fallback", attempts = ["small", "@production"] } },
]
"""


def test_show_says_how_often_each_part_mattered_and_when_last(operator: Operator) -> None:
    with serving(operator, FILE + RULES) as live:
        live.touch("default/@ruled v1 rules[0]", 1_800_000_000)
        live.touch("default/@ruled v1 rules[0]", 1_800_000_060)
        for _ in range(1000):
            live.null_run("default/@ruled v1 rules[1]", True)  # noqa: FBT003
        shown = operator.run("routes", "show", "ruled")
        told = operator.run("routes", "show", "ruled", "--json").json["counts"]

    # What `set` reads stands alone on stdout.
    assert shown.json["strategy"] == "custom_rules"
    assert [line.split("  ")[0] for line in shown.err.splitlines()[2:]] == [
        "rules[0]",
        "rules[1]",
        "rules[2]",
        "rules[2].else.attempts[0]",
    ]
    lines = shown.err.splitlines()[2:]
    assert lines[0].split()[-2:] == ["2", "2027-01-15T08:01:00Z"]
    assert "never; came to null 1000 times in a row" in lines[1]
    assert lines[2].split()[-2:] == ["0", "never"]
    assert told[0] == {
        "path": "rules[0]",
        "what": "tags.tier == 'gold' -> large",
        "times": 2,
        "last_at": "2027-01-15T08:01:00Z",
        "null_run": 0,
    }
    assert told[1]["null_run"] == 1000
    assert told[3] == {
        "path": "rules[2].else.attempts[0]",
        "what": "small",
        "times": 0,
        "last_at": None,
    }


def test_without_a_server_show_has_no_counts(operator: Operator) -> None:
    assert operator.run("routes", "show", "production", "--json").json["counts"] is None
    assert len(operator.run("routes", "show", "production").err.splitlines()) == 1


def test_set_remarks_what_is_hardly_meant(operator: Operator) -> None:
    operator.write("new.json", {"strategy": "fallback", "attempts": ["small", "small"]})

    done = operator.run("routes", "set", "production", "new.json")

    assert done.code == 0
    assert done.err.startswith('attempts[1]: repeats attempts[0], "small"')
