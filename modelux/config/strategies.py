"""What each strategy has of its own: the nouns of a routing config beside its targets.

`config/choosing.py` reads and writes them; `config/resolve.py` makes of them what a snapshot
holds. Numbers with a fraction are kept as whole ones (weights and percents in hundredths,
scores and votes in thousandths), so that a stored config has one spelling.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from modelux.config.model import RoutingConfig, Target

TIERS: Final = ("economy", "standard", "premium", "frontier")
"""From the cheapest; a config that asks for one takes those above it, too."""

METRICS: Final = ("ttft", "total")
AGGREGATIONS: Final = ("first_valid", "weighted_vote", "weighted_average", "llm_judge")
VALIDITIES: Final = ("json", "json_schema")
STICKY: Final = ("end_user", "conversation", "request")
"""Beside `tag:KEY`."""

SCORE_ONE: Final = 1000
"""A judge's best score, and the weight of a member that says none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """An expression of the rule language, checked when it was read."""

    text: str
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An arm of an A/B test; its target is the config's child at the same place."""

    name: str
    weight: int
    """In hundredths of what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A cascade's step that another model judges."""

    judge: "Target | RoutingConfig"
    min_score: int
    """In thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: a condition, and which child serves or why nobody does."""

    condition: Expression | None
    """None is the `else`."""
    then: int | None
    block: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Where a share of the traffic is mirrored to."""

    target: "Target | RoutingConfig"
    percent: int
    """In hundredths of a percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Everything that a strategy has of its own; None is what was not said."""

    quality_tier: str | None = None
    is_open: bool = False
    """`cost_optimized` without `allowed_models`: every model of the deployment may serve."""
    metric: str | None = None
    tolerance: int | None = None
    """In hundredths of a percent."""
    explore: int | None = None
    """In hundredths of a percent."""
    variants: tuple[Variant, ...] = ()
    sticky_by: str | None = None
    salt: str | None = None
    accepts: tuple[Expression | Judged | None, ...] = ()
    rules: tuple[Rule, ...] = ()
    aggregation: str | None = None
    min_responses: int | None = None
    validate: str | Expression | None = None
    judge: "Target | RoutingConfig | None" = None
    shadow: Shadow | None = None
    embedding_dimensions: int | None = None
