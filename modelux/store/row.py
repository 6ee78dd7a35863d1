"""One row of the ledger as Python sees it: whose money it is, and what stands there.

Its key is made in Rust (`rust/core/src/ledger/row.rs`): the budget's id, the subject's id (both
16 bytes) and the window's start (8 bytes, big-endian, sign flipped).
"""

from dataclasses import dataclass
from typing import Final, Self

KEY_BYTES: Final = 40
BUDGET_BYTES: Final = 16

FLAG_SOFT: Final = 1
FLAG_EXCEEDED: Final = 2
FLAG_SUBJECTS_FULL: Final = 4

Values = tuple[bytes, str, int, int | None, int, int, int, int, int, int, int, int]
"""A row as the native ledger hands it over: the fields of `LedgerRow` in their order."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A budget's balance for one subject in one window. Amounts are nano-USD."""

    key: bytes
    subject: str
    """What the subject's id stands for; empty where the budget has only one."""
    window_start_s: int
    """When the window began, seconds since 1970; a part of the key."""
    window_end_s: int | None
    """When the window ends, seconds since 1970; None: never."""
    spent_nusd: int = 0
    """Settled charges, overruns included. Never falls."""
    held_nusd: int = 0
    credits_nusd: int = 0
    overrun_nusd: int = 0
    crash_nusd: int = 0
    requests: int = 0
    overruns: int = 0
    flags: int = 0
    """`FLAG_*`: what has happened in this window."""

    def __post_init__(self) -> None:
        assert len(self.key) == KEY_BYTES, self.key
        assert min(self.spent_nusd, self.held_nusd, self.credits_nusd) >= 0, self

    @classmethod
    def of(cls, values: Values) -> Self:
        """Take over what the native ledger handed out."""
        return cls(*values)

    def values(self) -> Values:
        """Return the form that the native ledger takes."""
        return (
            self.key,
            self.subject,
            self.window_start_s,
            self.window_end_s,
            self.spent_nusd,
            self.held_nusd,
            self.credits_nusd,
            self.overrun_nusd,
            self.crash_nusd,
            self.requests,
            self.overruns,
            self.flags,
        )

    @property
    def budget_id(self) -> bytes:
        """Which budget."""
        return self.key[:BUDGET_BYTES]

    def is_past(self, cutoff_s: int) -> bool:
        """Return whether the window ended at `cutoff_s` or before."""
        return self.window_end_s is not None and self.window_end_s <= cutoff_s
