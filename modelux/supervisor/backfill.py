"""What the ledger is to hold of a configured budget, and what a new one begins with.

A budget that the ledger has never had begins at what the traces show of its current window: the
cap holds for what was spent before anybody wrote it down.
"""

from collections.abc import Callable
from typing import Final

from modelux._native import row_key, window
from modelux.config.budgets import budget_id, is_each
from modelux.config.model import Budget
from modelux.store.row import LedgerRow
from modelux.supervisor.orders import BudgetOrder
from modelux.trace.files import TraceFiles
from modelux.trace.spend import Subject, spent_in_window
from modelux.units import US_PER_S, NanoUsd, UnixUs

OVERFLOW: Final = "*"
"""What the row is called that values beyond `max_subjects` share."""


def budget_order(
    budget: Budget, files: TraceFiles, stored_end_user: Callable[[str], str]
) -> BudgetOrder:
    """Return the order that brings a budget into the ledger.

    Args:
        budget: As configured.
        files: The trace store that a new one begins with.
        stored_end_user: An end user as the traces hold it.
    """

    def spent(now_us: UnixUs) -> list[LedgerRow]:
        if not budget.backfill:
            return []
        start_s, end_s = window(budget.timezone, budget.period, now_us // US_PER_S)
        found = spent_in_window(
            files,
            budget.scope,
            budget.project,
            max(0, start_s) * US_PER_S,
            now_us + 1,
            unset=budget.unset,
            stored_end_user=stored_end_user,
        )
        return rows_of(budget, found, start_s, end_s)

    return BudgetOrder(
        id=bytes.fromhex(budget_id(budget)),
        name=budget.name,
        cap_nusd=budget.cap_usd,
        spent=spent,
    )


def rows_of(
    budget: Budget, spent: dict[Subject, NanoUsd], start_s: int, end_s: int | None
) -> list[LedgerRow]:
    """Return the rows of what each subject spent; those beyond `max_subjects` share one.

    Those that spent most keep rows of their own.
    """
    number = bytes.fromhex(budget_id(budget))
    by_cost = sorted(spent.items(), key=lambda item: (-item[1], item[0]))
    kept = by_cost[: budget.max_subjects] if is_each(budget) else by_cost
    rows = [
        LedgerRow(
            row_key(number, list(subject) if is_each(budget) else None, start_s),
            ",".join(subject),
            start_s,
            end_s,
            spent_nusd=nusd,
        )
        for subject, nusd in kept
        if nusd
    ]
    rest = sum(nusd for _, nusd in by_cost[len(kept) :])
    if rest:
        key = row_key(number, None, start_s, overflow=True)
        rows.append(LedgerRow(key, OVERFLOW, start_s, end_s, spent_nusd=rest))
    return rows
