"""One row of the ledger as Python sees it: whose money it is, and what stands there.

The key is made in Rust (`rust/core/src/ledger/row.rs`) and has a fixed layout:

| offset | bytes | what |
|---|---|---|
| 0 | 16 | the budget's id |
| 16 | 16 | the subject's id: zeros where there is only one, 0xff for the overflow row |
| 32 | 8 | the window's start, seconds since 1970, big-endian with the sign bit flipped |
"""

from dataclasses import dataclass
from typing import Final, Self

KEY_BYTES: Final = 40
BUDGET_BYTES: Final = 16
_START_OFFSET: Final = 32
_SIGN: Final = 1 << 63

FLAG_SOFT: Final = 1
FLAG_EXCEEDED: Final = 2
FLAG_SUBJECTS_FULL: Final = 4

Values = tuple[bytes, str, int | None, int, int, int, int, int, int, int, int]
"""A row as the native ledger hands it over; the fields of `LedgerRow` in their order."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A budget's balance for one subject in one window. Amounts are nano-USD."""

    key: bytes
    subject: str
    """What the subject's id stands for; empty where the budget has only one."""
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

    @property
    def window_start_s(self) -> int:
        """When the window began, seconds since 1970."""
        return window_start_s(self.key)

    def is_past(self, cutoff_s: int) -> bool:
        """Return whether the window ended at `cutoff_s` or before."""
        return self.window_end_s is not None and self.window_end_s <= cutoff_s


def row_key(budget_id: bytes, subject_id: bytes, start_s: int) -> bytes:
    """Put a key together."""
    assert len(budget_id) == len(subject_id) == BUDGET_BYTES, (budget_id, subject_id)
    return budget_id + subject_id + (start_s + _SIGN).to_bytes(8, "big")


def window_start_s(key: bytes) -> int:
    """Read the window's start out of a key."""
    return int.from_bytes(key[_START_OFFSET:], "big") - _SIGN
