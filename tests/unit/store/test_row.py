"""A row's key, against the layout that Rust writes."""

from hypothesis import given
from hypothesis import strategies as st

from modelux.store.row import LedgerRow, row_key, window_start_s

KEY = row_key(b"b" * 16, b"s" * 16, 1_790_000_000)
SECONDS = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(start_s=SECONDS)
def test_a_key_gives_back_its_budget_and_its_window(start_s: int) -> None:
    row = LedgerRow(row_key(b"b" * 16, b"s" * 16, start_s), "", None)
    assert (row.budget_id, row.window_start_s) == (b"b" * 16, start_s)


@given(one=SECONDS, other=SECONDS)
def test_keys_of_one_subject_sort_by_time(one: int, other: int) -> None:
    keys = [row_key(bytes(16), bytes(16), start_s) for start_s in (one, other)]
    assert [window_start_s(key) for key in sorted(keys)] == sorted([one, other])


def test_a_row_survives_the_way_to_the_native_ledger_and_back() -> None:
    row = LedgerRow(KEY, "alice", 1_800_000_000, 9, 8, 7, 6, 5, 4, 3, 2)
    assert LedgerRow.of(row.values()) == row


def test_a_window_without_an_end_is_never_past() -> None:
    assert not LedgerRow(KEY, "", None).is_past(2**62)
    assert LedgerRow(KEY, "", 100).is_past(100)
    assert not LedgerRow(KEY, "", 100).is_past(99)
