"""What routing configs come to: model names to providers, references opened, cycles found.

Worked out at every activation (save, rollback, promote, load) for all live routes together: an
unknown model, a cycle or a nesting that is too deep is found then and not by a request.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelux import clock, limits
from modelux._native import check_rule
from modelux.config.choosing import path_of
from modelux.config.model import (
    OUTPUT_LIMITS,
    RETRY_ON_WORDS,
    TIME_LIMITS,
    Config,
    Provider,
    RoutingConfig,
    Target,
)
from modelux.config.read import Faults, hint, join, nearest, shown
from modelux.config.routing import REFERENCE
from modelux.config.strategies import SCORE_ONE, TIERS, Expression, Judged, Rule
from modelux.config.vendors import VENDORS, recognised_prefixes, vendor_by_prefix
from modelux.pricing.catalogue import catalogue, model_info
from modelux.units import US_PER_S

_DEFAULT_SLUG: Final = "default"
# A dated snapshot of a known model is known, also one that is younger than the catalogue.
_DATED: Final = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-latest)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRoute:
    """A route and the version of it that serves."""

    project: str
    slug: str
    version: int
    config: RoutingConfig


OPEN_TARGETS_MAX: Final = 32
"""Models that `cost_optimized` chooses among where it names none: the cheapest."""

TOKENS_A_PART: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """Where a config stands, for what it opens beside its own targets."""

    route: LiveRoute
    trail: tuple[tuple[str, int], ...]
    depth: int
    is_outermost: bool


PinnedVersion = Callable[[str, str, int], RoutingConfig | None]
"""Project, slug and version to that version's config; None if there is no such version."""


def default_slug(slugs: Sequence[str]) -> str | None:
    """Return which of a project's routes, in order, answers for `@default`."""
    if _DEFAULT_SLUG in slugs:
        return _DEFAULT_SLUG
    return slugs[0] if slugs else None


class Resolver:
    """Opens routing configs into nodes whose leaves name providers; notes what cannot be."""

    __slots__ = ("_config", "_faults", "_leaves", "_live", "_pinned", "_slugs")

    def __init__(
        self,
        config: Config,
        live: Sequence[LiveRoute],
        pinned: PinnedVersion | None,
        faults: Faults,
    ) -> None:
        """Resolve in the world of `live`.

        Args:
            config: Who serves what.
            live: Every live route, in the order they were made.
            pinned: Finds other versions; None: routes and versions outside of `live` may
                exist, so references to them are left out and are no fault.
            faults: Takes what is wrong.
        """
        self._config = config
        self._live = {(route.project, route.slug): route for route in live}
        self._pinned = pinned
        self._faults = faults
        self._leaves = 0
        self._slugs: dict[str, list[str]] = {}
        for route in live:
            self._slugs.setdefault(route.project, []).append(route.slug)

    def open(self, route: LiveRoute) -> dict[str, object]:
        """Return the node of a route for the snapshot; wrong targets are noted and left out."""
        self._leaves = 0
        return self._config_node(route, ())

    def open_target(
        self, target: Target | RoutingConfig, project: str
    ) -> dict[str, object] | None:
        """Return the node of a target on its own, for a project; None with the fault noted.

        None also for a routing config that may stand in the store and is not known here.
        """
        self._leaves = 0
        sole = RoutingConfig(strategy="single", targets=(target,), place=target.place)
        route = LiveRoute(project=project, slug="", version=0, config=sole)
        node = self._node(sole, route, (), 0)
        children = node["children"]
        assert isinstance(children, list), children
        if not children:
            return None
        child: dict[str, object] = children[0]
        # It stands in nothing.
        child["path"] = ""
        return child if child["kind"] == "config" else node

    def _config_node(
        self, route: LiveRoute, trail: tuple[tuple[str, int], ...]
    ) -> dict[str, object]:
        trail = (*trail, (route.slug, route.version))
        return self._node(route.config, route, trail, len(trail))

    def _node(
        self,
        config: RoutingConfig,
        route: LiveRoute,
        trail: tuple[tuple[str, int], ...],
        depth: int,
        path: str = "",
    ) -> dict[str, object]:
        is_named = config is route.config and bool(route.slug)
        children: list[dict[str, object] | None] = []
        for at, target in enumerate(config.targets):
            where = _child_path(config, at, "" if is_named else path)
            child = self._child(target, route, trail, depth, where)
            if child is not None:
                child["path"] = where
            children.append(child)
        if config.own.is_open and config.strategy == "cost_optimized":
            children += self._open_children(config, path)
        outer = Outer(route=route, trail=trail, depth=depth, is_outermost=depth <= 1)
        found = [child for child in children if child is not None]
        return {
            "kind": "config",
            "strategy": config.strategy,
            "slug": route.slug if is_named else None,
            "version": route.version if is_named else None,
            "path": "" if is_named else path,
            # Where one is wrong the fault is noted, and nothing of this is used.
            "children": found,
            **(self._own(config, found, outer) if len(found) == len(children) else {}),
            "retry_on": list(RETRY_ON_WORDS if config.retry_on is None else config.retry_on),
            "max_retries_per_attempt": config.max_retries_per_attempt or 0,
            **{name: getattr(config, name) for name in (*TIME_LIMITS, *OUTPUT_LIMITS)},
            "fit_to_budget": config.fit_to_budget,
        }

    def _child(
        self,
        target: Target | RoutingConfig,
        route: LiveRoute,
        trail: tuple[tuple[str, int], ...],
        depth: int,
        path: str = "",
    ) -> dict[str, object] | None:
        if isinstance(target, RoutingConfig):
            if self._is_too_deep(target.place, depth + 1):
                return None
            return self._node(target, route, trail, depth + 1, path)
        if target.model.startswith("@"):
            return self._reference(target, route, trail, depth)
        return self._leaf(target)

    def _own(
        self, config: RoutingConfig, children: list[dict[str, object]], outer: "Outer"
    ) -> dict[str, object]:
        """Return what the snapshot holds of a strategy beside its targets."""
        own = config.own
        node: dict[str, object] = {}
        match config.strategy:
            case "cost_optimized" if own.quality_tier is not None:
                for child in children:
                    if child["kind"] == "target" and self._is_below(child, own.quality_tier):
                        child["rejected"] = "below_quality_tier"
            case "latency_optimized":
                node = {
                    "metric": own.metric or "ttft",
                    "tolerance_pct": (1000 if own.tolerance is None else own.tolerance) / 100,
                    "explore_pct": (200 if own.explore is None else own.explore) / 100,
                }
            case "ab_test":
                node = {
                    "variants": [
                        {"name": variant.name, "weight": variant.weight}
                        for variant in own.variants
                    ],
                    "sticky_by": own.sticky_by or "end_user",
                    "salt": outer.route.slug if own.salt is None else own.salt,
                }
            case "cascade":
                node = {"accepts": [self._accept(accept, outer) for accept in own.accepts]}
            case "custom_rules":
                node = {"rules": [self._rule(at, rule) for at, rule in enumerate(own.rules)]}
            case "ensemble":
                node = self._ensemble(config, outer)
            case _:
                pass
        if own.embedding_dimensions is not None:
            node["embedding_dimensions"] = own.embedding_dimensions
        if own.shadow is not None and outer.is_outermost:
            target = self._aside(own.shadow.target, outer)
            if target is not None:
                node["shadow"] = {"target": target, "percent_bp": own.shadow.percent}
        return node

    def _ensemble(self, config: RoutingConfig, outer: "Outer") -> dict[str, object]:
        own = config.own
        validate: object = own.validate
        if isinstance(validate, Expression):
            validate = {"rule": self._expression(validate)}
        return {
            "aggregation": own.aggregation,
            "min_responses": own.min_responses,
            "validate": validate,
            "weights": [
                SCORE_ONE
                if isinstance(target, RoutingConfig) or target.weight is None
                else target.weight
                for target in config.targets
            ],
            "judge": None if own.judge is None else self._aside(own.judge, outer),
        }

    def _accept(
        self, accept: Expression | Judged | None, outer: "Outer"
    ) -> dict[str, object] | None:
        if isinstance(accept, Expression):
            return {"rule": self._expression(accept)}
        if accept is None:
            return None
        judge = self._aside(accept.judge, outer)
        if judge is None:
            return None
        return {"judge": judge, "min_score_permille": accept.min_score}

    def _rule(self, at: int, rule: Rule) -> dict[str, object]:
        return {
            "if": None if rule.condition is None else self._expression(rule.condition),
            "then": rule.then,
            "block": rule.block,
            "path": f"rules[{at}]",
        }

    def _aside(
        self, target: Target | RoutingConfig, outer: "Outer"
    ) -> dict[str, object] | None:
        """Open a target that is not one of the config's own: a judge, a shadow."""
        leaves, self._leaves = self._leaves, 0
        node = self._child(target, outer.route, outer.trail, outer.depth)
        self._leaves = leaves
        return node

    def _expression(self, expression: Expression) -> dict[str, object]:
        """Return an expression with the names in it resolved; wrong ones are noted."""
        report = check_rule(expression.text, answers=True)
        targets: dict[str, object] = {}
        for name, line, column in report.targets:
            try:
                provider, model = resolve_model(self._config, name)
            except ValueError as failure:
                self._faults.add(expression.place, f"line {line}, column {column}: {failure}")
                continue
            targets[name] = {"provider": provider, "model": model}
        known = [budget.name for budget in self._config.budgets]
        for name, line, column in report.budgets:
            if name not in known:
                self._faults.add(
                    expression.place,
                    f"line {line}, column {column}: unknown budget {shown(name)}"
                    + hint(name, known),
                )
        return {"text": expression.text, "targets": targets}

    def _open_children(
        self, config: RoutingConfig, path: str
    ) -> list[dict[str, object] | None]:
        """Return every model of the deployment that may serve, the cheapest first."""
        tier = config.own.quality_tier or TIERS[0]
        ranked: list[tuple[int, str, int, str]] = []
        for index, provider in enumerate(self._config.providers):
            for model in _known_at(self._config, provider):
                child = {"provider": index, "model": model}
                price = _list_price(self._config, index, model)
                known = self._tier(child)
                if price is not None and known is not None and not self._is_below(child, tier):
                    ranked.append((price, f"{provider.name}/{model}", index, model))
        if not ranked:
            self._faults.add(
                config.place,
                f'has no `allowed_models`, and no model of tier "{tier}" or above has a price '
                "here; name some",
            )
        cheapest = sorted(ranked)[:OPEN_TARGETS_MAX]
        return [
            self._leaf(Target(model=label, place=config.place)) for _, label, *_ in cheapest
        ]

    def _tier(self, child: Mapping[str, object]) -> str | None:
        index, model = child["provider"], child["model"]
        assert isinstance(index, int), index
        assert isinstance(model, str), model
        provider = self._config.providers[index]
        for stated in self._config.models:
            if (stated.provider, stated.model) == (provider.name, model) and stated.tier:
                return stated.tier
        info = model_info(provider.vendor, model)
        # What has no known longest answer is no model that chats.
        return None if info is None or info.max_output_tokens is None else info.tier

    def _is_below(self, child: Mapping[str, object], tier: str) -> bool:
        known = self._tier(child)
        # Named without a known tier: it is eligible because it is named.
        return known is not None and TIERS.index(known) < TIERS.index(tier)

    def _is_too_deep(self, place: str, depth: int) -> bool:
        if depth <= limits.ROUTE_DEPTH_MAX:
            return False
        self._faults.add(
            place,
            f"is nested {depth} deep; at most {limits.ROUTE_DEPTH_MAX}, the outermost counted",
        )
        return True

    def _reference(
        self,
        target: Target,
        outer: LiveRoute,
        trail: tuple[tuple[str, int], ...],
        depth: int,
    ) -> dict[str, object] | None:
        match = REFERENCE.fullmatch(target.model)
        assert match is not None, target.model
        inner = self._find(outer.project, match["slug"], match["version"])
        if inner is None and self._pinned is None:
            return None
        if inner is None:
            slugs = [f"@{slug}" for slug in self._slugs.get(outer.project, [])]
            what = "version" if match["version"] else "routing config"
            self._faults.add(
                target.place,
                f"unknown {what} {shown(target.model)}"
                + hint(target.model.rpartition("@")[0] or target.model, slugs),
            )
            return None
        if (inner.slug, inner.version) in trail:
            names = [f"@{slug}" for slug, _ in trail] + [f"@{inner.slug}"]
            self._faults.add(target.place, f"makes a cycle: {' -> '.join(names)}")
            return None
        if self._is_too_deep(target.place, depth + 1):
            return None
        inner = replace(inner, config=_within(target, inner.config))
        inner_trail = (*trail, (inner.slug, inner.version))
        return self._node(inner.config, inner, inner_trail, depth + 1)

    def _find(self, project: str, slug: str, version: str | None) -> LiveRoute | None:
        live = self._live.get((project, slug))
        if live is None and slug == _DEFAULT_SLUG and version is None:
            stand_in = default_slug(self._slugs.get(project, []))
            live = None if stand_in is None else self._live.get((project, stand_in))
        if version is None or self._pinned is None:
            return None if version else live
        config = self._pinned(project, slug, int(version))
        if config is None:
            return None
        return LiveRoute(project=project, slug=slug, version=int(version), config=config)

    def _leaf(self, target: Target) -> dict[str, object] | None:
        self._leaves += 1
        if self._leaves > limits.ROUTE_TARGETS_MAX:
            self._faults.add(
                target.place,
                f"is one target too many: at most {limits.ROUTE_TARGETS_MAX} once nested "
                "configs are opened",
            )
            return None
        try:
            index, model = resolve_model(self._config, target.model)
        except ValueError as failure:
            self._faults.add(target.place, str(failure))
            return None
        provider = self._config.providers[index]
        ids = [credential.id for credential in provider.credentials]
        if target.credential is not None and target.credential not in ids:
            place = target.place.removesuffix(".model")
            self._faults.add(
                join(place, "provider_credential_id"),
                f"provider `{provider.name}` has no credential {shown(target.credential)}"
                + hint(target.credential, ids),
            )
            return None
        return {
            "kind": "target",
            "provider": index,
            "model": model,
            "credential": target.credential,
            "timeout_ms": target.timeout_ms,
            **{name: getattr(target, name) for name in OUTPUT_LIMITS},
            "max_cost_nusd": target.max_cost_usd,
            "params": None if target.params is None else json.loads(target.params),
            "label": model,
        }


def _child_path(config: RoutingConfig, at: int, prefix: str) -> str:
    is_else = False
    index = at
    if config.strategy == "custom_rules":
        index, rule = next(
            (place, rule) for place, rule in enumerate(config.own.rules) if rule.then == at
        )
        is_else = rule.condition is None
    path = path_of(config.strategy, index, is_else=is_else)
    return f"{prefix}.{path}" if prefix else path


def _list_price(config: Config, index: int, model: str) -> int | None:
    """Return what three parts of input and one of output cost, for an order; None: no price."""
    provider = config.providers[index]
    for price in config.prices:
        if (price.provider, price.model) == (provider.name, model):
            return 3 * price.input_usd_per_mtok + price.output_usd_per_mtok
    usage = {"input_tokens": 3 * TOKENS_A_PART, "output_tokens": TOKENS_A_PART}
    cost = catalogue().cost(provider.vendor, model, clock.unix_us() // US_PER_S, usage)
    return None if cost is None else sum(cost)


def _within(target: Target, inner: RoutingConfig) -> RoutingConfig:
    """Return a config as a target of its own limits makes it: the tighter holds.

    Of what is only a wish, the inner one's holds.
    """

    def tighter(outer: int | None, inner: int | None) -> int | None:
        said = [value for value in (outer, inner) if value is not None]
        return min(said) if said else None

    return replace(
        inner,
        timeout_ms=tighter(target.timeout_ms, inner.timeout_ms),
        max_output_tokens=tighter(target.max_output_tokens, inner.max_output_tokens),
        min_output_tokens=inner.min_output_tokens or target.min_output_tokens,
        default_output_tokens=inner.default_output_tokens or target.default_output_tokens,
    )


def resolve_model(config: Config, text: str) -> tuple[int, str]:
    """Find who serves a model name, `MODEL` or `PROVIDER/MODEL`.

    A provider whose `models` names it wins; then the prefix rule; then the catalogue.

    Returns:
        The provider's index and the model's name there.

    Raises:
        ValueError: Nobody does, or several would; the message names the nearest or all of them.
    """
    head, slash, rest = text.partition("/")
    for index, provider in enumerate(config.providers):
        if slash and rest and provider.name == head:
            _check_served(config, provider, rest)
            return index, rest
    listed = [
        index
        for index, provider in enumerate(config.providers)
        if text in (provider.models or ()) or (provider.name, text) in _described(config)
    ]
    if listed:
        return _the_only(config, listed, text), text
    vendor = vendor_by_prefix(text)
    alike = [
        index
        for index, provider in enumerate(config.providers)
        if provider.vendor == vendor and provider.models is None
    ]
    if alike:
        named = [index for index in alike if config.providers[index].name == vendor]
        index = _the_only(config, named or alike, text)
        _check_served(config, config.providers[index], text)
        return index, text
    # A name whose prefix tells its vendor is that vendor's: others' catalogues resell it, under
    # protocols that are not this provider's.
    in_catalogue = [
        index
        for index, provider in enumerate(config.providers)
        if vendor is None
        and _is_catalogued(config, provider)
        and _is_known(config, provider, text)
    ]
    if in_catalogue:
        return _the_only(config, in_catalogue, text), text
    raise ValueError(_nobody(config, text, vendor))


def _the_only(config: Config, found: Sequence[int], text: str) -> int:
    if len(found) == 1:
        return found[0]
    names = [config.providers[index].name for index in found]
    choices = " or ".join(f'"{name}/{text}"' for name in names)
    raise ValueError(f"{shown(text)} is served by {' and '.join(names)}: write {choices}")


def _nobody(config: Config, text: str, vendor: str | None) -> str:
    names = served_names(config)
    near = nearest(text, names)
    head, slash, rest = text.partition("/")
    if slash and near is None:
        provider = nearest(head, [item.name for item in config.providers])
        suggestion = f', nearest "{provider}/{rest}"' if provider else ""
        return f"unknown provider {shown(head)} in {shown(text)}{suggestion}"
    if vendor is not None and vendor not in {item.vendor for item in config.providers}:
        return f"no provider serves {shown(text)}: add [providers.{vendor}]"
    if near is not None:
        return f'unknown model {shown(text)}, nearest "{near}"'
    return f"unknown model {shown(text)}; recognised prefixes: {recognised_prefixes()}"


def served_names(config: Config) -> list[str]:
    """Return every model name that is known to be served, bare and as `PROVIDER/MODEL`."""
    names: set[str] = set()
    for provider in config.providers:
        models = _known_at(config, provider)
        names.update(models)
        names.update(f"{provider.name}/{model}" for model in models)
    return sorted(names)


def _known_at(config: Config, provider: Provider) -> set[str]:
    if provider.models is not None:
        return set(provider.models)
    known = {model for name, model in _described(config) if name == provider.name}
    return known | (
        set(config.catalogue(provider.vendor)) if _is_catalogued(config, provider) else set()
    )


def _described(config: Config) -> set[tuple[str, str]]:
    priced = {(price.provider, price.model) for price in config.prices}
    return {
        (name, model)
        for name, model in priced | {(item.provider, item.model) for item in config.models}
        # `models`, where given, is all that may be called there.
        if any(item.name == name and item.models is None for item in config.providers)
    }


def _is_catalogued(config: Config, provider: Provider) -> bool:
    return (
        provider.models is None
        and provider.is_own_host
        and not VENDORS[provider.vendor].is_open
        and bool(config.catalogue(provider.vendor))
    )


def _is_known(config: Config, provider: Provider, model: str) -> bool:
    catalogue = config.catalogue(provider.vendor)
    if model.startswith("ft:"):
        model = model.split(":")[1]
    undated = _DATED.sub("", model)
    return (
        (provider.name, model) in _described(config)
        or model in catalogue
        or undated in catalogue
    )


def _check_served(config: Config, provider: Provider, model: str) -> None:
    if provider.models is not None and model not in provider.models:
        raise ValueError(
            f"provider `{provider.name}` may call only its `models`, and {shown(model)} is not "
            f"among them{hint(model, provider.models)}"
        )
    if _is_catalogued(config, provider) and not _is_known(config, provider, model):
        near = nearest(model, _known_at(config, provider))
        fix = (
            f', nearest "{near}"'
            if near
            else f'; if it is new, add [models."{provider.name}/{model}"]'
        )
        raise ValueError(f"unknown model {shown(model)}{fix}")
