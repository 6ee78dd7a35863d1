"""The nouns that more than one layer speaks of: values, without behaviour of their own."""

import re
from typing import Final, final

MASK_KEEP_BYTES: Final = 4
"""How much of a secret's end may be shown, so that two keys can be told apart in a list."""
_FAMILY: Final = re.compile(r"[a-z]{2,8}[-_](?:[a-z]{2,8}[-_])?", re.ASCII)
"""`sk-`, `sk-proj-`, `gsk_`, `mlx_sk_`: lower case, which random parts seldom are."""


@final
class Secret:
    """A text that cannot be printed by accident: `str`, `repr` and formatting are masked.

    Only `reveal` gives the value, so each place that really needs it can be found by name.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself; for the bytes that go to its owner, never for a log."""
        return self._value

    def fingerprint(self) -> str:
        """Return a form for people: `sk-proj-...TA0A`, its family and the last four.

        A family is one or two short words with `-` or `_` behind each, as vendors write them;
        a secret without one shows its last four. Short secrets show nothing at all.
        """
        value = self._value
        if len(value) < 6 * MASK_KEEP_BYTES:
            return "..."
        family = _FAMILY.match(value)
        return f"{family[0] if family else ''}...{value[-MASK_KEEP_BYTES:]}"

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)
