"""What traffic has shown of a routing config that is valid, and that nobody means: remarks.

Expressions that read a tag which nobody sends, and rules that only ever come to null, are no
fault that a look at the config could find. Both count as false for every request.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelux._native import check_rule
from modelux.config.model import AbTest, Cascade, CustomRules, Ensemble, RoutingConfig, Rule
from modelux.config.outline import counted, inner_configs, mark_name
from modelux.config.read import hint, join, shown
from modelux.config.resolve import LiveRoute
from modelux.limits import NULL_RUN_MAX

_TAG = "tag:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is known of the requests so far."""

    tags: frozenset[str] | None
    """Keys of the tags that traces have carried; None: there are too few traces to tell."""
    null_run: Callable[[str], int]
    """A mark's name to how many times in a row its rule came to null."""


def traffic_remarks(route: LiveRoute, traffic: Traffic) -> Iterator[str]:
    """Yield what requests never gave to a route, each with its place.

    Args:
        route: A version that serves.
        traffic: What is known.
    """
    if traffic.tags is not None:
        for place, tag in _tags(route.config):
            if tag not in traffic.tags:
                near = hint(tag, traffic.tags)
                yield f"{place}: reads the tag {shown(tag)}, which no trace has carried{near}"
    for part in counted(route.config, None):
        if not part.is_rule:
            continue
        run = traffic.null_run(mark_name(route.project, route.slug, route.version, part.path))
        if run >= NULL_RUN_MAX:
            yield (
                f"{route.config.place}.{part.path}: came to null {run:,} times in a row, which "
                f"counts as false: {part.what}"
            )


def _tags(routing: RoutingConfig) -> Iterator[tuple[str, str]]:
    """Yield each tag that a config reads, and those inside of it, with the place."""
    for rule, answers in _rules(routing):
        for tag in check_rule(rule.text, answers=answers).tags:
            yield rule.place, tag
    sticky = routing.own.sticky_by if isinstance(routing.own, AbTest) else None
    if sticky is not None and sticky.startswith(_TAG):
        yield join(routing.place, "sticky_by"), sticky.removeprefix(_TAG)
    for inner in inner_configs(routing):
        yield from _tags(inner)


def _rules(routing: RoutingConfig) -> Iterator[tuple[Rule, bool]]:
    """Yield the expressions of a config, and whether each is about an answer."""
    match routing.own:
        case CustomRules() as own:
            yield from ((one.condition, False) for one in own.rules if one.condition)
        case Cascade() as own:
            yield from ((one, True) for one in own.accepts if isinstance(one, Rule))
        case Ensemble(validate=Rule() as validate):
            yield validate, True
        case _:
            pass
