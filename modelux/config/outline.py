"""What stands in a routing config, for people: what of it is counted, what is hardly meant."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelux._native import check_rule, evaluate_rule
from modelux.config.model import (
    AbTest,
    Cascade,
    Config,
    CostOptimized,
    CustomRules,
    Ensemble,
    Judged,
    RoutingConfig,
    Rule,
    RuleCase,
    Target,
)
from modelux.config.read import join, shown
from modelux.config.resolve import LiveRoute, cheapest_models
from modelux.config.routing import REFERENCE
from modelux.config.strategies import WEIGHED, Node, target_paths

Ways = frozenset[frozenset[str]]

_WORD: Final = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[\w.]+|&&|\|\||[=!<>]=|\S""", re.DOTALL
)
_SPELLINGS: Final = {"and": "&&", "or": "||"}
_OPEN: Final = frozenset("([")
_CLOSE: Final = frozenset(")]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A part of a routing config that the live state counts."""

    path: str
    """Where it stands in the stored form of the config with a name."""
    what: str
    """What it is, for people."""
    is_rule: bool = False


def mark_name(project: str, slug: str, version: int, path: str) -> str:
    """Return the name under which the live state counts a part of a version."""
    return f"{project}/@{slug} v{version} {path}"


def counted(routing: RoutingConfig, config: Config | None, at: str = "") -> Iterator[Counted]:
    """Yield what is counted, in the order of the text: rules, variants, targets.

    Args:
        routing: The config.
        config: Who serves what, for a choice by price that names nobody; None leaves it out.
        at: The path of what is inside, where it is not the outermost.
    """
    own = routing.own
    if isinstance(own, CustomRules):
        for index, case in enumerate(own.rules):
            path = _inside(at, f"rules[{index}]")
            then = None if case.then is None else routing.targets[case.then]
            yield Counted(path=path, what=_rule_text(case, then), is_rule=True)
            if isinstance(then, RoutingConfig):
                key = "else" if case.condition is None else "then"
                yield from counted(then, config, f"{path}.{key}")
        return
    if isinstance(own, CostOptimized) and not routing.targets and config is not None:
        for name in cheapest_models(config, own.quality_tier):
            yield Counted(path=_inside(at, f'allowed_models["{name}"]'), what=name)
    for index, (target, path) in enumerate(
        zip(routing.targets, target_paths(routing), strict=True)
    ):
        inner = _inside(at, path)
        if isinstance(own, AbTest):
            name = own.variants[index].name
            yield Counted(path=inner, what=f"{name}: {_target_text(target)}")
        elif isinstance(target, Target) and not target.model.startswith("@"):
            yield Counted(path=inner, what=target.model)
        if isinstance(target, RoutingConfig):
            yield from counted(target, config, inner)


def _inside(at: str, path: str) -> str:
    return f"{at}.{path}" if at else path


def _rule_text(case: RuleCase, then: Target | RoutingConfig | None) -> str:
    leads = f"block {shown(case.block)}" if then is None else _target_text(then)
    return f"else {leads}" if case.condition is None else f"{case.condition.text} -> {leads}"


def _target_text(target: Target | RoutingConfig) -> str:
    return target.model if isinstance(target, Target) else target.strategy


# --- remarks -------------------------------------------------------------------------------


def route_remarks(configs: Iterable[RoutingConfig]) -> Iterator[str]:
    """Yield what is allowed and hardly meant, each with its place.

    Args:
        configs: Outermost ones.
    """
    for routing in configs:
        yield from _remarks(routing)
        for inner in inner_configs(routing):
            yield from _ignored(inner)


def budget_remarks(config: Config) -> Iterator[str]:
    """Yield the same of routing configs that stand where budgets send their requests."""
    for budget in config.budgets:
        target = budget.downgrade_to
        if isinstance(target, RoutingConfig):
            yield from _remarks(target)
            yield from _ignored(target)
        elif target is not None:
            yield from _weightless([target])


def inner_configs(routing: RoutingConfig) -> Iterator[RoutingConfig]:
    """Yield the configs that stand directly in one."""
    for target in (*routing.targets, *_aside(routing)):
        if isinstance(target, RoutingConfig):
            yield target


def _aside(routing: RoutingConfig) -> list[Target | RoutingConfig]:
    """Return what stands beside a config's own targets: judges, and where it is mirrored to."""
    aside: list[Target | RoutingConfig] = []
    if isinstance(routing.own, Ensemble) and routing.own.judge is not None:
        aside.append(routing.own.judge)
    if isinstance(routing.own, Cascade):
        aside += [one.judge for one in routing.own.accepts if isinstance(one, Judged)]
    if routing.shadow is not None:
        aside.append(routing.shadow.target)
    return aside


def _ignored(inner: RoutingConfig) -> Iterator[str]:
    if inner.shadow is not None:
        place = join(inner.place, "shadow")
        yield f"{place}: is ignored: only the outermost routing config mirrors its traffic"
    for one in inner_configs(inner):
        yield from _ignored(one)


def shadow_remarks(route: LiveRoute, live: Sequence[LiveRoute]) -> Iterator[str]:
    """Yield each place where a config is named whose `shadow` has no effect there.

    Args:
        route: The route that is looked at.
        live: Every live route, this one too.
    """
    mirrored = {
        one.slug
        for one in live
        if one.project == route.project and one.config.shadow is not None
    }
    for target in _named(route.config):
        match = REFERENCE.fullmatch(target.model)
        if match and not match["version"] and match["slug"] in mirrored:
            yield (
                f"{target.place}: the `shadow` of @{match['slug']} is ignored here: only the "
                "outermost routing config mirrors its traffic"
            )


def _named(routing: RoutingConfig) -> Iterator[Target]:
    """Yield every target that stands in a config or inside of it, by name."""
    for target in (*routing.targets, *_aside(routing)):
        if isinstance(target, Target):
            yield target
        else:
            yield from _named(target)


def _remarks(routing: RoutingConfig) -> Iterator[str]:
    match routing.own:
        case CustomRules() as own:
            yield from _rule_remarks(own, join(routing.place, "rules"))
        case AbTest() as own:
            for index, variant in enumerate(own.variants):
                if variant.weight == 0:
                    place = f"{join(routing.place, 'variants')}[{index}]"
                    yield f"{place}: nobody gets {shown(variant.name)}: its weight is 0"
        case Ensemble():
            if len(routing.targets) == 1:
                yield f"{join(routing.place, 'members')}: has one member, which decides alone"
        case None if routing.strategy == "fallback":
            yield from _repeats(routing)
        case _:
            pass
    if not (isinstance(routing.own, Ensemble) and routing.own.aggregation in WEIGHED):
        yield from _weightless(routing.targets)
    yield from _weightless(_aside(routing))
    for inner in inner_configs(routing):
        yield from _remarks(inner)


def _weightless(targets: Iterable[Node]) -> Iterator[str]:
    """Yield each weight that stands where nothing is weighed."""
    for target in targets:
        if isinstance(target, Target) and target.weight is not None:
            place = join(target.place.removesuffix(".model"), "weight")
            yield (
                f"{place}: says nothing here: only the members of a vote or a mean are weighed"
            )


def _rule_remarks(own: CustomRules, place: str) -> Iterator[str]:
    """Yield rules that can never be reached, or never match."""
    before: list[tuple[int, Ways]] = []
    always: int | None = None
    for index, case in enumerate(own.rules):
        text = "" if case.condition is None else case.condition.text.strip()
        ways = ways_to_match(text)
        verdict = None if case.condition is None else _constant(case.condition)
        if always is not None:
            yield f"{place}[{index}]: is never reached: rules[{always}] always matches"
        elif (same := next((at for at, other in before if other == ways), None)) is not None:
            yield f"{place}[{index}]: never decides: rules[{same}] asks the same before"
        elif (
            wider := next((at for at, other in before if _covers(other, ways)), None)
        ) is not None:
            yield (
                f"{place}[{index}]: is never reached: rules[{wider}] matches all that it would"
            )
        elif verdict == "false":
            yield f"{place}[{index}]: never matches: {shown(text)} is never true"
        if verdict == "true" and always is None:
            always = index
        if text:
            before.append((index, ways))


def ways_to_match(text: str) -> Ways:
    """Return the ways in which an expression can be true: of each, all that has to hold.

    What is joined by `||` are ways, what is joined by `&&` has to hold together. Only the
    outermost level is looked at, and all else is compared by its text: so what is found to be
    covered is, and some that is goes unfound.
    """
    words = _bare([_SPELLINGS.get(word, word) for word in _WORD.findall(text)])
    if not words:
        return frozenset()
    if "?" in _outermost(words):
        return frozenset({frozenset({" ".join(words)})})
    return frozenset(
        frozenset(" ".join(_bare(part)) for part in _split(_bare(way), "&&"))
        for way in _split(words, "||")
    )


def _covers(wider: Ways, narrower: Ways) -> bool:
    """Whether something that holds in each way of the one is enough for the other."""
    return bool(narrower) and all(any(way <= one for way in wider) for one in narrower)


def _depths(words: Sequence[str]) -> Iterator[int]:
    depth = 0
    for word in words:
        depth -= word in _CLOSE
        yield depth
        depth += word in _OPEN


def _outermost(words: Sequence[str]) -> list[str]:
    return [word for word, depth in zip(words, _depths(words), strict=True) if depth == 0]


def _bare(words: list[str]) -> list[str]:
    """Take off the parentheses that are around all of it."""
    while words[:1] == ["("] and all(list(_depths(words))[1:-1]) and words[-1] == ")":
        words = words[1:-1]
    return words


def _split(words: Sequence[str], between: str) -> Iterator[list[str]]:
    part: list[str] = []
    for word, depth in zip(words, _depths(words), strict=True):
        if depth == 0 and word == between:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _constant(rule: Rule) -> str | None:
    """Return what a rule always says, `true` or `false`; None where it depends on something."""
    if check_rule(rule.text, answers=False).variables:
        return None
    return "true" if evaluate_rule(rule.text, {}, answers=False) is True else "false"


def _repeats(routing: RoutingConfig) -> Iterator[str]:
    seen: list[tuple[object, ...]] = []
    for target in routing.targets:
        if isinstance(target, RoutingConfig):
            seen.append(())
            continue
        same = (target.model, target.credential, target.params)
        if same in seen:
            place = target.place.removesuffix(".model")
            yield (
                f"{place}: repeats attempts[{seen.index(same)}], {shown(target.model)}: to try "
                "one target more often, use `max_retries_per_attempt`"
            )
        seen.append(same)
