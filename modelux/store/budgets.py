"""How budgets stand: what the snapshot says of them beside what the ledger holds for them.

Read by the command line and by the metrics, never by a worker. A budget without a row has spent
nothing; rows of budgets that are configured no more, or of other windows, are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from modelux._native import Ledger, LedgerError, row_key, window
from modelux.errors import StoreError
from modelux.store.copy import LedgerCopy
from modelux.store.layout import CELLS_FILE, LEDGER_COPY_FILE, LEDGER_MAP_FILE
from modelux.store.row import BUDGET_BYTES, LedgerRow
from modelux.store.state import default_state_dir

STAR: Final = "*"
OVERFLOW_SUBJECT: Final = b"\xff" * BUDGET_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One budget as the snapshot has it, as far as its state is told."""

    id: bytes
    name: str
    scopes: tuple[Mapping[str, str], ...]
    cap_nusd: int
    period: str
    timezone: str
    action: str
    enabled: bool
    shadow: bool

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Self:
        """Read an entry of the snapshot's `budgets`."""
        match document:
            case {
                "id": str(hex_id),
                "name": str(name),
                "scopes": [*scopes],
                "cap_nusd": int(cap_nusd),
                "period": str(period),
                "timezone": str(timezone),
                "action": str(action),
                "enabled": bool(enabled),
                "shadow": bool(shadow),
            }:
                return cls(
                    id=bytes.fromhex(hex_id),
                    name=name,
                    scopes=tuple(dict(scope) for scope in scopes if isinstance(scope, dict)),
                    cap_nusd=cap_nusd,
                    period=period,
                    timezone=timezone,
                    action=action,
                    enabled=enabled,
                    shadow=shadow,
                )
            case _:
                raise AssertionError(f"a budget of another layout: {document}")

    @property
    def is_split(self) -> bool:
        """Whether a `*` gives each value a cap of its own."""
        return any(STAR in scope.values() for scope in self.scopes)

    def window(self, now_s: int) -> tuple[int, int | None]:
        """Return the start and the end of the window that `now_s` lies in."""
        return window(self.timezone, self.period, now_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A budget and subject in the window that is open."""

    budget: Budget
    row: LedgerRow

    @property
    def subject(self) -> str | None:
        """Whose cap it is; None without a `*`, `*` for all beyond `max_subjects` together."""
        if not self.budget.is_split:
            return None
        is_overflow = self.row.key[BUDGET_BYTES : 2 * BUDGET_BYTES] == OVERFLOW_SUBJECT
        return STAR if is_overflow else self.row.subject

    @property
    def left_nusd(self) -> int:
        """What is not spent, holds included."""
        return max(0, self.budget.cap_nusd + self.row.credits_nusd - self.row.spent_nusd)

    @property
    def held_nusd(self) -> int:
        """What requests in flight hold, as far as the cap covers it."""
        return min(self.row.held_nusd, self.left_nusd)

    @property
    def remaining_nusd(self) -> int:
        """What can still be held."""
        return self.left_nusd - self.held_nusd


def standings(
    budgets: Iterable[Budget], rows: Iterable[LedgerRow], now_s: int
) -> list[Standing]:
    """Return how each budget stands, in their order; subjects with the largest spend first."""
    by_window: dict[tuple[bytes, int], list[LedgerRow]] = {}
    for row in rows:
        by_window.setdefault((row.budget_id, row.window_start_s), []).append(row)
    found: list[Standing] = []
    for budget in budgets:
        start_s, end_s = budget.window(now_s)
        of_budget = by_window.pop((budget.id, start_s), [])
        if not of_budget and not budget.is_split:
            of_budget = [LedgerRow(row_key(budget.id, None, start_s), "", start_s, end_s)]
        of_budget.sort(key=lambda row: (-row.spent_nusd, -row.held_nusd, row.subject))
        found += [Standing(budget=budget, row=row) for row in of_budget]
    return found


def rows_of_map(state_dir: Path) -> list[LedgerRow]:
    """Return every row of a ledger in shared memory.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        ledger = Ledger.open(state_dir)
        try:
            return [LedgerRow.of(values) for values in ledger.rows()]
        finally:
            ledger.close()
    except LedgerError as failure:
        raise StoreError(f"{state_dir}: the ledger cannot be read: {failure}") from failure


def rows_of_copy(data_dir: Path, now_s: int) -> list[LedgerRow]:
    """Return the rows of open windows in `ledger.db`; none where nothing was copied yet.

    Raises:
        StoreError: It cannot be read.
    """
    if not (data_dir / LEDGER_COPY_FILE).exists():
        return []
    copy = LedgerCopy(data_dir)
    try:
        return copy.rows(now_s)
    finally:
        copy.close()


def serving_state_dir(data_dir: Path, configured: Path | None) -> Path | None:
    """Return where the ledger of a running deployment lies; None where there is none."""
    places: Sequence[Path] = (default_state_dir(data_dir), data_dir / "state")
    found = [
        place
        for place in ([configured] if configured is not None else places)
        if (place / LEDGER_MAP_FILE).exists() and (place / CELLS_FILE).exists()
    ]
    # Where the memory was too small at one start and not at another, both are there: the cells
    # are made at each start.
    return max(found, key=lambda place: (place / CELLS_FILE).stat().st_mtime_ns, default=None)
