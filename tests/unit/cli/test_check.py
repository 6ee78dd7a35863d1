"""`modelux check`: what loading would change, told before it does."""

import pytest

from modelux.cli.check import change_line
from modelux.config.rows import Change
from modelux.trace.files import trace_files
from modelux.trace.store import TraceStore
from modelux.units import usd_text
from tests import traces
from tests.traces import NOON
from tests.unit.cli.conftest import FILE, Operator, serving


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


BUDGET = """
[[budgets]]
name = "team"
scope = { type = "tag", key = "team", value = "ml" }
cap_usd = 5
period = "total"
"""


def spend(operator: Operator, number: int, nusd: int, **fields: object) -> None:
    store = TraceStore(trace_files(operator.folder / "data"), redact=bytes)
    cost = {"total_usd": usd_text(nusd)}
    store.insert([traces.trace(number, **{"cost": cost, **fields})], NOON)
    store.close()


def test_a_new_budget_shows_what_its_window_has_spent(operator: Operator) -> None:
    spend(operator, 1, 1_500_000_000, tags={"team": "ml"})
    spend(operator, 2, 7_000_000_000, tags={"team": "web"})
    operator.write("modelux.toml", FILE + BUDGET)

    done = operator.run("check")

    assert done.out.splitlines() == [
        "modelux.toml is valid; loading it changes:",
        "  + budget team",
        'budget "team" begins at 1.500000000 USD (all traces)',
    ]


def test_a_budget_for_each_value_shows_the_dearest(operator: Operator) -> None:
    for number in range(7):
        spend(operator, number, 10**9 * (number + 1), tags={"team": f"t{number}"})
    operator.write("modelux.toml", FILE + BUDGET.replace('"ml"', '"*"'))

    done = operator.run("check")

    assert done.out.splitlines()[2:] == [
        'budget "team" begins at 28.000000000 USD over 7 subjects (all traces)',
        *(f'  "t{n}": {n + 1}.000000000 USD' for n in (6, 5, 4, 3, 2)),
        "  and 2 more",
    ]


def test_only_what_begins_anew_is_summed(operator: Operator) -> None:
    spend(operator, 1, 1, tags={"team": "ml"})
    operator.write("modelux.toml", FILE + BUDGET)
    operator.run("check", "--apply")

    operator.write("modelux.toml", FILE + BUDGET.replace("= 5", "= 6"))
    dearer = operator.run("check")
    operator.write("modelux.toml", FILE + BUDGET.replace('"ml"', '"web"'))
    other = operator.run("check")
    operator.write("modelux.toml", FILE + BUDGET.replace('"ml"', '"web"') + "backfill = false")
    at_zero = operator.run("check")

    assert dearer.out.splitlines()[1:] == [
        "  ~ budget team: cap_usd 5.000000000 -> 6.000000000"
    ]
    assert other.out.splitlines()[1:] == [
        '  ~ budget team: scope {"key": "team", "type": "tag", "value": "ml"} -> '
        '{"key": "team", "type": "tag", "value": "web"}',
        'budget "team" begins at 0.000000000 USD (all traces)',
    ]
    assert at_zero.out.splitlines()[-1] == (
        'budget "team" begins at 0 USD: `backfill` is false'
    )


def test_a_budget_that_can_never_match_is_remarked(operator: Operator) -> None:
    text = BUDGET.replace(
        '{ type = "tag", key = "team", value = "ml" }',
        '[{ type = "end_user", id = "a" }, { type = "end_user", id = "b" }]',
    )
    operator.write("modelux.toml", FILE + text)

    done = operator.run("check")

    assert done.code == 0
    assert done.err.splitlines()[-1] == (
        'budget "team" can never match: the end_user cannot be "a" and "b" at once'
    )


def test_a_rule_that_is_never_reached_is_remarked(operator: Operator) -> None:
    rules = '[{ if = "true", then = "small" }, { else = "large" }]'
    route = f'[routes.ruled]\nstrategy = "custom_rules"\nrules = {rules}\n'
    operator.write("modelux.toml", FILE + route)

    done = operator.run("check")

    assert done.code == 0
    assert done.err.splitlines()[-1] == (
        "routes.ruled.rules[1]: is never reached: rules[0] always matches"
    )


def test_a_window_that_begins_anew_tells_since_when(operator: Operator) -> None:
    text = BUDGET.replace('"total"', '"monthly"\ntimezone = "Asia/Kolkata"')
    operator.write("modelux.toml", FILE + text)

    [line] = operator.run("check").out.splitlines()[2:]

    # Midnight in India is half past six in the evening before.
    assert line.startswith('budget "team" begins at 0.000000000 USD (the traces since ')
    assert line.endswith("T18:30:00Z)")


# --- routes that are hardly meant -----------------------------------------------------------

RULED = """
[routes.ruled]
strategy = "custom_rules"
rules = [{ if = "tags.teir == 'gold'", then = "small" }, { else = "large" }]
"""
ALONE = {"strategy": "ensemble", "aggregation": "first_valid", "members": ["small"]}


def test_a_route_that_is_not_the_files_is_looked_at_as_long_as_it_serves(
    operator: Operator,
) -> None:
    operator.run("routes", "set", "mine", operator.write("mine.json", ALONE))
    operator.run("routes", "set", "production", "mine.json")
    before = operator.run("check")
    operator.write("modelux.toml", FILE.replace("2000", "2001"))

    after = operator.run("check")

    assert before.code == 0
    assert [line for line in before.err.splitlines() if "decides alone" in line] == [
        "@production (v2).members: has one member, which decides alone",
        "@mine (v1).members: has one member, which decides alone",
    ]
    assert "@production" not in after.err
    assert "@mine (v1).members" in after.err


def test_a_route_that_the_file_gives_up_is_not_looked_at(operator: Operator) -> None:
    operator.write("modelux.toml", FILE + RULED.replace("tags.teir == 'gold'", "true"))
    assert "is never reached" in operator.run("check", "--apply").err
    operator.write("modelux.toml", FILE)

    done = operator.run("check")

    assert "- route @ruled: v1, retired" in done.out
    assert "is never reached" not in done.err


def test_a_tag_that_nobody_sends_is_told_once_there_are_traces_enough(
    operator: Operator,
) -> None:
    operator.write("modelux.toml", FILE + RULED)
    before = operator.run("check").err
    store = TraceStore(trace_files(operator.folder / "data"), redact=bytes)
    store.insert([traces.trace(number, tags={"tier": "a"}) for number in range(1000)], NOON)
    store.close()

    done = operator.run("check")

    assert "tag" not in before
    assert done.code == 0
    assert (
        'routes.ruled.rules[0].if: reads the tag "teir", which no trace has carried, '
        'nearest "tier"'
    ) in done.err.splitlines()


def test_a_rule_that_only_comes_to_null_is_told_while_a_server_counts(
    operator: Operator,
) -> None:
    with serving(operator, FILE + RULED) as live:
        for _ in range(1000):
            live.null_run("default/@ruled v1 rules[0]", True)
        done = operator.run("check")

    assert (
        "routes.ruled.rules[0]: came to null 1,000 times in a row, which counts as false: "
        "tags.teir == 'gold' -> small"
    ) in done.err.splitlines()


def test_traces_that_cannot_be_read_are_said_and_no_error(operator: Operator) -> None:
    files = trace_files(operator.folder / "data")
    files.root.mkdir(parents=True)
    files.day_path(20_000).write_bytes(b"no database at all" * 100)

    done = operator.run("check")

    assert done.code == 0
    assert "cannot be read" in done.err
