"""The nouns that more than one layer speaks of: values, without behaviour of their own."""

from typing import Final, final

MASK_KEEP_BYTES: Final = 4
"""How much of a secret's end may be shown, so that two keys can be told apart in a list."""


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
        """Return a form for people: the start up to the second `-` or `_`, and the last four.

        Short secrets show nothing at all.
        """
        value = self._value
        if len(value) < 6 * MASK_KEEP_BYTES:
            return "..."
        return f"{value[:MASK_KEEP_BYTES]}...{value[-MASK_KEEP_BYTES:]}"

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)
