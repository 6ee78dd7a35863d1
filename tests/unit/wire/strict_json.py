"""Python's JSON reader, made strict and lossless: the oracle of the tests beside it."""

import json
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Members:
    """An object with its members in order, repeated keys and all."""

    pairs: tuple[tuple[str, "Value"], ...]

    def all(self, *keys: str) -> list["Value"]:
        """The values under these keys, in the order of the text."""
        return [value for key, value in self.pairs if key in keys]

    def get(self, key: str) -> "Value":
        """The one value under a key, None if it is absent."""
        values = self.all(key)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Number:
    """A number in the digits of the text."""

    text: str

    def count(self) -> int | None:
        """The count that is meant; None if it is negative, -1 if no integer of 64 bits."""
        if self.text.startswith("-") and self.text[1:].isdigit():
            return None if int(self.text[1:][:30]) < 2**64 else -1
        is_count = self.text.isdigit() and len(self.text) < 30 and int(self.text) < 2**64
        return int(self.text) if is_count else -1


Value: TypeAlias = "None | bool | str | Number | list[Value] | Members"


def _refuse(name: str) -> Value:
    raise ValueError(name)


def parse(body: bytes) -> Value:
    """Read strict JSON, keeping what a dictionary would lose.

    Raises:
        ValueError: The body is not JSON.
    """
    value: Value = json.loads(
        body.decode("utf-8"),
        object_pairs_hook=lambda pairs: Members(tuple(pairs)),
        parse_constant=_refuse,
        parse_int=Number,
        parse_float=Number,
    )
    return value


def depth(value: Value) -> int:
    """How many containers lie inside one another."""
    if isinstance(value, list):
        return 1 + max((depth(element) for element in value), default=0)
    if isinstance(value, Members):
        return 1 + max((depth(element) for _, element in value.pairs), default=0)
    return 0


def is_readable(text: str) -> bool:
    """Whether no surrogate lacks its partner."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
