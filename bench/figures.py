"""The stated figures: from rows of one run to a median with minimum and maximum.

Ratios and differences are taken inside a round, between runs that followed each other within
seconds, and only then summarised: the machine's slow minutes cancel out.
"""

import statistics
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from bench.results import ROOT, Row

CEILINGS: Final = ROOT / "bench" / "ceilings.toml"
US: Final = "modelux"
PEER: Final = "nginx"
DIRECT: Final = "direct"


class How(StrEnum):
    """How a figure comes from the values of one round."""

    VALUE = "value"
    RATIO = "ratio"
    ADDED = "added"
    ADDED_RATIO = "added_ratio"
    OVER_PEER = "over_peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of `ceilings.toml`."""

    title: str
    scenario: str
    value: str
    how: How
    unit: str = "×"
    scale: float = 1.0
    aim: float | None = None
    ceiling: float | None = None
    direct_max: float | None = None
    target: str = US
    peer: str = PEER


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, minimum and maximum over the rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Summarise; None of nothing."""
        known = list(values)
        if not known:
            return None
        return cls(
            median=statistics.median(known), low=min(known), high=max(known), count=len(known)
        )


class Rows:
    """The rows of a run, by scenario, target and round."""

    def __init__(self, rows: Iterable[Row]) -> None:
        # A run that is not checked is not a figure.
        self._rows = {
            (row.scenario, row.target, row.round): row for row in rows if row.is_checked
        }

    def rounds(self, scenario: str) -> list[int]:
        """Return the rounds that a scenario has, of any target."""
        return sorted({round_ for name, _, round_ in self._rows if name == scenario})

    def targets(self, scenario: str) -> list[str]:
        """Return the targets of a scenario in the order of measuring."""
        return list(dict.fromkeys(t for name, t, _ in self._rows if name == scenario))

    def one(self, scenario: str, target: str, round_: int, value: str) -> float | None:
        """Return one measured value, or None where it was not measured."""
        row = self._rows.get((scenario, target, round_))
        return row.values.get(value) if row is not None else None

    def row(self, scenario: str, target: str, round_: int) -> Row | None:
        """Return one row, or None where it was not measured."""
        return self._rows.get((scenario, target, round_))

    def spread(self, scenario: str, target: str, value: str) -> Spread | None:
        """Summarise a target's value over the rounds."""
        found = (self.one(scenario, target, r, value) for r in self.rounds(scenario))
        return Spread.of(value for value in found if value is not None)


def load_figures(path: Path = CEILINGS) -> list[Figure]:
    """Read the stated figures.

    Raises:
        TypeError: A key that a figure does not have.
        ValueError: A `how` that is none.
    """
    parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Figure(**{**table, "how": How(table["how"])}) for table in parsed["figure"]]


def measured(figure: Figure, rows: Rows) -> Spread | None:
    """Return a figure over the rounds that have all it needs; None where none has."""
    by_round = (_of_round(figure, rows, r) for r in rows.rounds(figure.scenario))
    return Spread.of(value for value in by_round if value is not None)


def _of_round(figure: Figure, rows: Rows, round_: int) -> float | None:
    def of(target: str) -> float | None:
        return rows.one(figure.scenario, target, round_, figure.value)

    ours, peers, direct = of(figure.target), of(figure.peer), of(DIRECT)
    if figure.direct_max is not None and direct is not None and direct > figure.direct_max:
        return None
    match figure.how:
        case How.VALUE:
            result = ours
        case How.RATIO:
            result = _ratio(ours, peers)
        case How.ADDED:
            result = _minus(ours, direct)
        case How.OVER_PEER:
            result = _minus(ours, peers)
        case How.ADDED_RATIO:
            result = _ratio(_minus(ours, direct), _minus(peers, direct))
    return None if result is None else result * figure.scale


def _ratio(above: float | None, below: float | None) -> float | None:
    # What nginx adds may drown in noise: there is no multiple of nothing or less.
    if above is None or below is None or below <= 0:
        return None
    return above / below


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def exceeded(figures: Sequence[Figure], rows: Rows) -> list[str]:
    """Say which ceilings the run exceeds, by their medians; empty when none."""
    messages = []
    for figure in figures:
        spread = measured(figure, rows)
        if figure.ceiling is None or spread is None or spread.median <= figure.ceiling:
            continue
        messages.append(
            f"{figure.title}: {spread.median:.2f} {figure.unit}, "
            f"at most {figure.ceiling:g} is allowed"
        )
    return messages
