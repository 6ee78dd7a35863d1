"""`modelux budgets`: what is shown where no server runs, and credits with their refusals."""

from pathlib import Path
from typing import Final

import pytest

from modelux._native import row_key
from modelux.cli.budgets import budgets_of
from modelux.clock import unix_us
from modelux.config.file import load_config
from modelux.store.budgets import Budget
from modelux.store.copy import LedgerCopy, Named
from modelux.store.row import LedgerRow
from modelux.units import US_PER_S
from tests.unit.cli.conftest import FILE, Operator, serving

BUDGETS: Final = """
[[budgets]]
name = "team-ml"
scope = { type = "tag", key = "team", value = "ml" }
cap_usd = 100
[[budgets]]
name = "per-user"
scope = { type = "end_user", id = "*" }
cap_usd = 0.5
action = "warn_only"
[[budgets]]
name = "ever"
scope = [{ type = "organization" }, { type = "route", slug = "production" }]
cap_usd = 7.25
period = "total"
enabled = false
shadow = true
"""
USD: Final = 1_000_000_000


@pytest.fixture
def budgets(operator: Operator) -> dict[str, Budget]:
    """The budgets that are in force."""
    operator.write("modelux.toml", FILE + BUDGETS)
    assert operator.run("check", "--apply").code == 0
    config = load_config(operator.folder / "modelux.toml", {}, with_secrets=False)
    return {budget.name: budget for budget in budgets_of(config)}


def keep(folder: Path, budget: Budget, subject: str | None, **amounts: int) -> None:
    """Write a row of the open window to the copy on disk."""
    start_s, end_s = budget.window(unix_us() // US_PER_S)
    values = None if subject is None else [subject]
    key = row_key(budget.id, values, start_s, overflow=subject == "*")
    copy = LedgerCopy(folder / "data")
    name = {budget.id: Named(name=budget.name, cap_nusd=budget.cap_nusd)}
    copy.write([LedgerRow(key, subject or "", start_s, end_s, **amounts)], name, unix_us())
    copy.close()


def test_without_budgets_it_says_how_to_have_some(operator: Operator) -> None:
    done = operator.run("budgets")
    assert (done.code, done.out) == (0, "")
    assert "[[budgets]]" in done.err
    assert operator.run("budgets", "--json").json == []


def test_json_has_one_entry_a_row_with_the_documented_keys(
    operator: Operator, budgets: dict[str, Budget]
) -> None:
    keep(operator.folder, budgets["team-ml"], None, spent_nusd=40 * USD, held_nusd=USD)
    keep(operator.folder, budgets["per-user"], "ann", spent_nusd=10_000_000)
    keep(operator.folder, budgets["per-user"], "", spent_nusd=20_000_000)
    keep(operator.folder, budgets["per-user"], "*", spent_nusd=30_000_000)
    told = operator.run("budgets", "--json").json
    assert [(one["name"], one["subject"]) for one in told] == [
        ("team-ml", None), ("per-user", "*"), ("per-user", ""), ("per-user", "ann"),
        ("ever", None),
    ]  # fmt: skip
    team, *users, ever = told
    start_s, end_s = budgets["team-ml"].window(unix_us() // US_PER_S)
    assert team.pop("window_start") < team.pop("window_end")
    assert end_s is not None
    assert team == {
        "name": "team-ml", "scope": {"type": "tag", "key": "team", "value": "ml"},
        "subject": None, "period": "monthly", "cap_usd": 100, "spent_usd": 40, "held_usd": 1,
        "remaining_usd": 59, "action": "block",
    }  # fmt: skip
    assert [one["remaining_usd"] for one in users] == [0.47, 0.48, 0.49]
    assert ever["scope"] == [{"type": "organization"}, {"type": "route", "slug": "production"}]
    assert (ever["window_start"], ever["window_end"]) == (None, None)


def test_the_table_is_for_people(operator: Operator, budgets: dict[str, Budget]) -> None:
    keep(
        operator.folder, budgets["team-ml"], None,
        spent_nusd=40 * USD + 1, held_nusd=USD, credits_nusd=5 * USD,
    )  # fmt: skip
    keep(operator.folder, budgets["per-user"], "", spent_nusd=20_000_000)
    lines = [line.split() for line in operator.run("budgets").out.splitlines()]
    assert lines[0] == [
        "NAME", "SUBJECT", "CAP", "SPENT", "HELD", "REMAINING", "RESETS", "ACTION",
        "LAST", "ACTED",
    ]  # fmt: skip
    assert lines[1][:7] == [
        "team-ml", "-", "100.00", "+5.00", "40.000000001", "1.00", "63.999999999",
    ]  # fmt: skip
    assert lines[2][:3] == ["per-user", "(unset)", "0.50"]
    assert lines[3][-5:] == ["never", "block,", "disabled,", "shadow", "-"]


def test_the_table_says_when_a_budget_last_acted(operator: Operator) -> None:
    with serving(operator, FILE + BUDGETS) as live:
        live.touch("budget team-ml", 1_800_000_000)
        lines = operator.run("budgets").out.splitlines()[1:]

    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("team-ml", "2027-01-15T08:00:00Z"),
        ("ever", "never"),
    ]


def test_a_split_budget_shows_those_that_spent_most(
    operator: Operator, budgets: dict[str, Budget]
) -> None:
    for number in range(25):
        keep(operator.folder, budgets["per-user"], f"u{number}", spent_nusd=number)
    done = operator.run("budgets")
    shown = [line.split()[1] for line in done.out.splitlines() if "per-user" in line]
    assert shown == [f"u{number}" for number in range(24, 4, -1)]
    assert "5 more" in done.err
    assert operator.run("budgets", "--all").out.count("per-user") == 25
    assert len(operator.run("budgets", "--json").json) == 27


def test_a_credit_is_kept_for_the_next_start_and_audited(
    operator: Operator, budgets: dict[str, Budget]
) -> None:
    assert "team-ml" in budgets
    done = operator.run(
        *("budgets", "credit", "team-ml", "--usd", "12.5", "--reason", "refunded"),
        *("--request", "req_1"),
    )
    assert done.code == 0
    assert done.out.splitlines() == [
        'credited 12.50 USD to budget "team-ml"',
        "no server is running; the next start counts it",
    ]
    assert "refunded" in operator.run("audit").out


def test_a_credit_to_a_subject_needs_its_name(
    operator: Operator, budgets: dict[str, Budget]
) -> None:
    keep(operator.folder, budgets["per-user"], "ann", spent_nusd=USD)
    words = ("budgets", "credit", "per-user", "--usd", "1", "--reason", "r")
    assert "--subject V" in operator.run(*words).err
    unknown = operator.run(*words, "--subject", "anne")
    assert (unknown.code, 'nearest "ann"' in unknown.err) == (1, True)
    assert operator.run(*words, "--subject", "ann").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("team-lm", "--usd", "1", "--reason", "r"), 1, 'nearest "team-ml"'),
        (("team-ml", "--usd", "1", "--reason", "  "), 1, "needs a reason"),
        (("team-ml", "--usd", "1", "--reason", "r", "--subject", "x"), 1, "one cap for all"),
        (("team-ml", "--usd", "1"), 2, "--reason"),
        (("team-ml", "--usd", "0", "--reason", "r"), 2, "not above 0"),
        (("team-ml", "--usd=-1", "--reason", "r"), 2, "never raised by hand"),
        (("team-ml", "--usd", "1.0000000001", "--reason", "r"), 2, "nine decimals"),
        (("team-ml", "--usd", "9" * 40, "--reason", "r"), 2, "beyond"),
        (("team-ml", "--usd", "Infinity", "--reason", "r"), 2, "not a finite amount"),
        (("team-ml", "--usd", "lots", "--reason", "r"), 2, "not a number"),
    ],
)
def test_a_credit_that_cannot_be_says_why(
    operator: Operator,
    budgets: dict[str, Budget],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert budgets
    done = operator.run("budgets", "credit", *words)
    assert done.code == code
    assert said in done.err
    assert operator.run("audit").out.count("credit") == 0
