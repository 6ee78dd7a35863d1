"""Money, time and size as types: the unit is part of the name, never of a comment.

Money is integer nano-USD inside and USD outside; instants say which clock they come from, so
the type checker keeps a monotonic duration and a calendar date apart. Nothing here does I/O.
"""

from decimal import Decimal
from typing import Final, NewType

NanoUsd = NewType("NanoUsd", int)
MonoUs = NewType("MonoUs", int)
"""Microseconds of the monotonic clock: for durations and deadlines."""
UnixUs = NewType("UnixUs", int)
"""Microseconds since 1970 in UTC: for calendars and records."""

NUSD_PER_USD: Final = 1_000_000_000
TOKENS_PER_MTOK: Final = 1_000_000
US_PER_MS: Final = 1_000
US_PER_S: Final = 1_000_000
MS_PER_S: Final = 1_000

# IEEE doubles, and so JavaScript and most JSON readers, hold integers exactly up to here.
MONEY_NUSD_MAX: Final = 2**53
_NANO: Final = Decimal("0.000000001")
_USD_DIGITS_MAX: Final = 9


def usd_text(amount_nusd: int) -> str:
    """Write nano-USD as USD with nine decimals, exactly.

    Args:
        amount_nusd: Nano-USD; may be negative.

    Returns:
        For example `0.002134000` for 2,134,000 nano-USD.
    """
    return f"{Decimal(amount_nusd) / NUSD_PER_USD:.9f}"


def nusd_from_usd(amount_usd: Decimal) -> NanoUsd:
    """Read USD as nano-USD, refusing what nano-USD cannot hold.

    Raises:
        ValueError: More than nine decimals, not finite, or beyond 2**53 nano-USD.
    """
    if not amount_usd.is_finite():
        raise ValueError("not a finite amount")
    # Decimals compare exactly, but calculate in 28 digits: what is far beyond goes first.
    if amount_usd and amount_usd.adjusted() > _USD_DIGITS_MAX:
        raise ValueError("beyond 2**53 nano-USD")
    exact = amount_usd.quantize(_NANO)
    if exact != amount_usd:
        raise ValueError("more than nine decimals")
    amount_nusd = int(exact.scaleb(9))
    if abs(amount_nusd) > MONEY_NUSD_MAX:
        raise ValueError("beyond 2**53 nano-USD")
    return NanoUsd(amount_nusd)
