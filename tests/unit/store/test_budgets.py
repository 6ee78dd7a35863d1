"""How budgets stand: windows, subjects, clipping, order; and where a ledger is found."""

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux._native import row_key
from modelux.store.budgets import (
    Budget,
    Standing,
    rows_of_copy,
    serving_state_dir,
    standings,
)
from modelux.store.copy import LedgerCopy, Named
from modelux.store.layout import CELLS_FILE, LEDGER_MAP_FILE
from modelux.store.row import LedgerRow
from modelux.units import UnixUs

NOW_S: Final = 1_750_000_000
"""In June 2025, on the 15th."""
JUNE_S: Final = 1_748_736_000
JULY_S: Final = 1_751_328_000


def document(name: str, **changes: object) -> dict[str, object]:
    found: dict[str, object] = {
        "id": name.encode().ljust(16, b"-").hex(),
        "name": name,
        "scopes": [{"type": "organization"}],
        "cap_nusd": 1_000,
        "period": "monthly",
        "timezone": "UTC",
        "action": "block",
        "enabled": True,
        "shadow": False,
        "soft_pct": 80,
    }
    return found | changes


def split(name: str) -> Budget:
    return Budget.of(document(name, scopes=[{"type": "end_user", "id": "*"}]))


def row(budget: Budget, start_s: int, subject: str = "", **amounts: int) -> LedgerRow:
    key = row_key(budget.id, [subject] if budget.is_split else None, start_s)
    return LedgerRow(key, subject, start_s, JULY_S, **amounts)


def test_only_the_open_window_of_configured_budgets_counts() -> None:
    kept, gone = Budget.of(document("kept")), Budget.of(document("gone"))
    rows = [
        row(kept, JUNE_S, spent_nusd=5),
        row(kept, JUNE_S - 86_400 * 31, spent_nusd=900),
        row(gone, JUNE_S, spent_nusd=7),
    ]
    (found,) = standings([kept], rows, NOW_S)
    assert found.row.spent_nusd == 5
    assert found.subject is None


def test_a_budget_that_nobody_used_has_its_whole_cap() -> None:
    (found,) = standings([Budget.of(document("fresh"))], [], NOW_S)
    assert (found.row.spent_nusd, found.held_nusd, found.remaining_nusd) == (0, 0, 1_000)
    assert (found.row.window_start_s, found.row.window_end_s) == (JUNE_S, JULY_S)


def test_a_split_budget_has_a_row_for_each_subject_and_the_largest_spend_first() -> None:
    each, other = split("each"), Budget.of(document("other"))
    key = row_key(each.id, None, JUNE_S, overflow=True)
    overflow = LedgerRow(key, "", JUNE_S, JULY_S, spent_nusd=1, requests=1)
    rows = [
        row(each, JUNE_S, "ann", spent_nusd=2),
        overflow,
        row(each, JUNE_S, "bob", spent_nusd=9),
        row(each, JUNE_S, "", spent_nusd=0),
    ]
    found = standings([each, other], rows, NOW_S)
    assert [(one.budget.name, one.subject) for one in found] == [
        ("each", "bob"), ("each", "ann"), ("each", "*"), ("each", ""), ("other", None),
    ]  # fmt: skip
    assert standings([each], [], NOW_S) == []


def test_a_window_without_an_end_is_a_total() -> None:
    budget = Budget.of(document("ever", period="total"))
    (found,) = standings([budget], [], NOW_S)
    assert (found.row.window_start_s, found.row.window_end_s) == (0, None)


amounts = st.integers(min_value=0, max_value=2_000)


@given(cap=st.integers(min_value=1, max_value=1_000), spent=amounts, held=amounts, more=amounts)
def test_what_is_shown_never_promises_more_than_the_cap(
    cap: int, spent: int, held: int, more: int
) -> None:
    budget = Budget.of(document("any", cap_nusd=cap))
    balance = row(budget, JUNE_S, spent_nusd=spent, held_nusd=held, credits_nusd=more)
    found = Standing(budget=budget, row=balance)
    assert found.remaining_nusd == max(0, cap + more - spent - held)
    assert 0 <= found.held_nusd <= held
    assert found.held_nusd + found.remaining_nusd == max(0, cap + more - spent)


def test_a_document_of_another_layout_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="another layout"):
        Budget.of({"id": "00", "name": "x"})


def test_the_copy_tells_of_open_windows_and_may_be_missing(tmp_path: Path) -> None:
    assert rows_of_copy(tmp_path, NOW_S) == []
    budget = Budget.of(document("kept"))
    copy = LedgerCopy(tmp_path)
    written = row(budget, JUNE_S, spent_nusd=5)
    copy.write([written], {budget.id: Named(name="kept", cap_nusd=1)}, UnixUs(NOW_S * 10**6))
    copy.close()
    assert rows_of_copy(tmp_path, NOW_S) == [written]
    assert rows_of_copy(tmp_path, JULY_S) == []


def test_a_ledger_is_where_the_configuration_says_or_where_it_had_to_go(tmp_path: Path) -> None:
    data_dir, configured = tmp_path / "data", tmp_path / "configured"
    assert serving_state_dir(data_dir, configured) is None
    for place in (configured, data_dir / "state"):
        place.mkdir(parents=True)
        (place / LEDGER_MAP_FILE).touch()
        (place / CELLS_FILE).touch()
    assert serving_state_dir(data_dir, configured) == configured
    assert serving_state_dir(data_dir, None) == data_dir / "state"
