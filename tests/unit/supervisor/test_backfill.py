"""What a budget begins with in the ledger."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from modelux._native import row_key, window
from modelux.config.budgets import budget_id
from modelux.config.model import Budget, Scope
from modelux.supervisor.backfill import OVERFLOW, budget_order, rows_of
from modelux.trace.files import trace_files
from modelux.trace.record import Trace
from modelux.trace.spend import Subject
from modelux.trace.store import TraceStore
from modelux.units import NUSD_PER_USD, US_PER_S, NanoUsd, UnixUs
from tests import traces
from tests.traces import NOON

NOW: Final = UnixUs(NOON + 3_600 * US_PER_S)
ALL: Final = Budget(name="all", scope=(Scope(type="organization"),), cap_usd=10)
EACH: Final = replace(ALL, name="each", scope=(Scope(type="end_user", value="*"),))
MONTH: Final = window("UTC", "monthly", NOW // US_PER_S)


def number(budget: Budget) -> bytes:
    return bytes.fromhex(budget_id(budget))


def stored(folder: Path, costs: dict[int, str]) -> None:
    """Store a trace at each of these instants, in seconds from noon, at a cost in USD."""
    store = TraceStore(trace_files(folder), redact=bytes)
    metas = [
        traces.meta(n, ts=NOON + at_s * US_PER_S, cost={"total_usd": usd})
        for n, (at_s, usd) in enumerate(costs.items())
    ]
    store.insert([Trace(meta, b"", b"", "kept") for meta in metas], NOW)
    store.close()


def test_the_order_names_the_budget_as_the_snapshot_does(tmp_path: Path) -> None:
    order = budget_order(ALL, trace_files(tmp_path), str)
    assert (order.id, order.name, order.cap_nusd) == (number(ALL), "all", 10)


def test_a_budget_begins_at_what_its_window_has_spent_so_far(tmp_path: Path) -> None:
    """Noon is on the 31st: the day before is in the month, and not in the day."""
    day_s = 86_400
    stored(tmp_path, {-40 * day_s: "9", -day_s: "1", 0: "0.5", 7_200: "4"})
    files = trace_files(tmp_path)
    daily = replace(ALL, period="daily")
    (row,) = budget_order(daily, files, str).spent(NOW)
    assert row.spent_nusd == NUSD_PER_USD // 2
    assert (row.window_start_s, row.window_end_s) == window("UTC", "daily", NOW // US_PER_S)
    (row,) = budget_order(ALL, files, str).spent(NOW)
    assert row.spent_nusd == NUSD_PER_USD * 3 // 2
    (row,) = budget_order(replace(ALL, period="total"), files, str).spent(NOW)
    assert row.spent_nusd == NUSD_PER_USD * 21 // 2
    assert row.window_end_s is None


def test_without_traces_a_budget_begins_at_nothing(tmp_path: Path) -> None:
    assert list(budget_order(ALL, trace_files(tmp_path), str).spent(NOW)) == []
    assert list(budget_order(EACH, trace_files(tmp_path), str).spent(NOW)) == []


def test_without_backfill_the_traces_are_not_asked(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    files.root.mkdir()
    files.day_path(NOON // 86_400_000_000).write_bytes(b"broken" * 1_000)
    assert list(budget_order(replace(ALL, backfill=False), files, str).spent(NOW)) == []


def test_subjects_get_rows_of_their_own_by_their_values() -> None:
    spent: dict[Subject, NanoUsd] = {
        ("alice",): NanoUsd(5),
        ("",): NanoUsd(3),
        ("bob",): NanoUsd(0),
    }
    rows = rows_of(EACH, spent, *MONTH)
    assert [(row.subject, row.spent_nusd) for row in rows] == [("alice", 5), ("", 3)]
    assert rows[0].key == row_key(number(EACH), ["alice"], MONTH[0])
    assert (rows[0].window_start_s, rows[0].window_end_s) == MONTH


def test_a_budget_without_a_star_has_one_row() -> None:
    (row,) = rows_of(ALL, {(): NanoUsd(7)}, 0, None)
    assert (row.key, row.subject, row.spent_nusd) == (row_key(number(ALL), None, 0), "", 7)


def test_beyond_max_subjects_the_cheapest_share_the_overflow_row() -> None:
    spent: dict[Subject, NanoUsd] = {(f"u{n}",): NanoUsd(n) for n in range(1, 6)}
    rows = rows_of(replace(EACH, max_subjects=2), spent, *MONTH)
    assert [(row.subject, row.spent_nusd) for row in rows] == [
        ("u5", 5),
        ("u4", 4),
        (OVERFLOW, 6),
    ]
    assert rows[-1].key == row_key(number(EACH), None, MONTH[0], overflow=True)
