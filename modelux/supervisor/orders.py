"""What the configuration asks of the ledger: made by a `Source`, carried by the keeper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modelux.store.row import LedgerRow
from modelux.units import UnixUs

PAST_S: Final = 48 * 3_600
"""A window so long over leaves the map, if nothing is held in it; the copy keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOrder:
    """A budget that is to be in the ledger before any worker knows it."""

    id: bytes
    name: str
    cap_nusd: int
    spent: Callable[[UnixUs], Sequence[LedgerRow]]
    """Asked once, if the ledger has never had it: what its rows begin with, from the traces.
    Called in the keeper's thread; may take its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditOrder:
    """What all credits of one row come to."""

    key: bytes
    subject: str
    window_end_s: int | None
    nusd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOrder:
    """An operator's wish that the bound of a model is what its price says again."""

    id: int
    """Grows from one to the next: each is obeyed once."""
    model: str
    """`provider/model`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Everything at one instant; the next orders take the place of these."""

    budgets: Sequence[BudgetOrder] = ()
    credits: Sequence[CreditOrder] = ()
    resets: Sequence[ResetOrder] = ()
