"""The catalogues that ship with modelux, of prices and of models: their bytes, and the names.

Made by `scripts/update_prices.py` and `scripts/update_models.py`. They are evaluated in Rust,
by the gate for prices and bounds and here for names: when a configuration names a model, and
when the nearest known name is looked for.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, final

from modelux import clock
from modelux._native import Catalogue, ModelInfo
from modelux.units import US_PER_S

PRICES_FILE: Final = Path(__file__).parent / "data" / "prices.json"
MODELS_FILE: Final = Path(__file__).parent / "data" / "models.json"


def catalogue_bytes() -> bytes:
    """Return the data file of prices, for the native module."""
    return PRICES_FILE.read_bytes()


def models_bytes() -> bytes:
    """Return the data file of what models can take and give, for the native module."""
    return MODELS_FILE.read_bytes()


@cache
def catalogue() -> Catalogue:
    """Return the catalogue, read once a process: it takes milliseconds and never changes."""
    return Catalogue(catalogue_bytes(), models_bytes())


def model_info(vendor: str, model: str) -> ModelInfo | None:
    """Return what is known of a model beside its price; None is nothing.

    Args:
        vendor: Our name of it, as in a provider's `vendor`.
        model: As the vendor calls it; dated names and aliases too.
    """
    return catalogue().info(vendor, model)


def has_price(vendor: str, model: str) -> bool:
    """Return whether the catalogue has a price, today, for a vendor's model."""
    return catalogue().has_price(vendor, model, clock.unix_us() // US_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a choice by price needs to know of a model."""

    tier: str | None
    """None: not known."""
    calls_tools: bool
    """Whether it is known to: then it is a chat model, whatever else it is."""
    mix_nusd: int | None
    """The price of 3,000 tokens of input and 1,000 of output; None: not known."""


def model_facts(vendor: str, model: str) -> ModelFacts:
    """Return what is known of a vendor's model for a choice by price."""
    info = model_info(vendor, model)
    usage = {"input_tokens": 3000, "output_tokens": 1000}
    cost = catalogue().cost(vendor, model, clock.unix_us() // US_PER_S, usage)
    return ModelFacts(
        tier=None if info is None else info.tier,
        calls_tools=info is not None and info.tools is True,
        mix_nusd=None if cost is None else sum(cost),
    )


@final
class KnownModels(Collection[str]):
    """A vendor's models: going through them gives each one's own name, `in` knows all names."""

    __slots__ = ("_names", "_vendor")

    def __init__(self, vendor: str) -> None:
        self._vendor = vendor
        self._names = catalogue().known_models(vendor)

    def __contains__(self, name: object) -> bool:
        """Whether some rule of the catalogue knows that name; dated ones and aliases too."""
        return isinstance(name, str) and catalogue().knows(self._vendor, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def known_models(vendor: str) -> KnownModels:
    """Return what a vendor is known to serve; empty for a vendor that is not in the catalogue.

    Args:
        vendor: Our name of it, as in a provider's `vendor`.
    """
    return KnownModels(vendor)
