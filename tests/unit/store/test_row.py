"""A row of the ledger, as it comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from modelux._native import row_key
from modelux.store.row import KEY_BYTES, LedgerRow

KEY = row_key(b"b" * 16, None, 1_790_000_000)


def test_a_row_survives_the_way_to_the_native_ledger_and_back() -> None:
    row = LedgerRow(KEY, "alice", 1_790_000_000, 1_800_000_000, 9, 8, 7, 6, 5, 4, 3, 2)
    assert LedgerRow.of(row.values()) == row


@given(start_s=st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_a_row_knows_its_budget_by_its_key(start_s: int) -> None:
    key = row_key(b"b" * 16, ["alice"], start_s)
    assert len(key) == KEY_BYTES
    assert LedgerRow(key, "alice", start_s, None).budget_id == b"b" * 16


def test_a_window_without_an_end_is_never_past() -> None:
    assert not LedgerRow(KEY, "", 0, None).is_past(2**62)
    assert LedgerRow(KEY, "", 0, 100).is_past(100)
    assert not LedgerRow(KEY, "", 0, 100).is_past(99)
