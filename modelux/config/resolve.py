"""What routing configs come to: model names to providers, references opened, cycles found.

Worked out at every activation (save, rollback, promote, load) for all live routes together: an
unknown model, a cycle or a nesting that is too deep is found then and not by a request.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelux import limits
from modelux._native import check_rule
from modelux.config.model import (
    OUTPUT_LIMITS,
    RETRY_ON_WORDS,
    TIERS,
    TIME_LIMITS,
    AbTest,
    Cascade,
    Config,
    CostOptimized,
    CustomRules,
    Ensemble,
    Judged,
    LatencyOptimized,
    Model,
    Provider,
    RoutingConfig,
    Rule,
    Shadow,
    Target,
)
from modelux.config.read import Faults, hint, join, nearest, shown
from modelux.config.routing import REFERENCE
from modelux.config.strategies import number, target_paths
from modelux.config.vendors import VENDORS, recognised_prefixes, vendor_by_prefix

_DEFAULT_SLUG: Final = "default"
# Parts of the names of models that do something else than answering in text, or stand behind
# another path of the API.
_OTHER_KINDS: Final = (
    "audio",
    "batch",
    "codex",
    "deep-research",
    "embed",
    "ft-",
    "ft:",
    "guard",
    "image",
    "live",
    "moderation",
    "realtime",
    "robotics",
    "search",
    "transcribe",
    "tts",
)
# A dated snapshot of a known model is known, also one that is younger than the catalogue.
_DATED: Final = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-latest)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRoute:
    """A route and the version of it that serves."""

    project: str
    slug: str
    version: int
    config: RoutingConfig


PinnedVersion = Callable[[str, str, int], RoutingConfig | None]
"""Project, slug and version to that version's config; None if there is no such version."""


def default_slug(slugs: Sequence[str]) -> str | None:
    """Return which of a project's routes, in order, answers for `@default`."""
    if _DEFAULT_SLUG in slugs:
        return _DEFAULT_SLUG
    return slugs[0] if slugs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Where in a route something stands that is being opened."""

    route: LiveRoute
    """The nearest config with a name."""
    trail: tuple[tuple[str, int], ...]
    """The slugs and versions around, the outermost first."""
    depth: int
    at: str = ""
    """Where the config around stands: in the stored form of the named one that holds it."""
    inside: str = ""
    """The same as it goes on inside: a config with a name begins anew."""

    def path(self, path: str) -> str:
        """Return where something stands, by its path in the config around."""
        return f"{self.inside}.{path}" if self.inside else path


class Resolver:
    """Opens routing configs into nodes whose leaves name providers; notes what cannot be."""

    __slots__ = ("_config", "_faults", "_leaves", "_live", "_nodes", "_pinned", "_slugs")

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
        self._leaves = self._nodes = 0
        self._slugs: dict[str, list[str]] = {}
        for route in live:
            self._slugs.setdefault(route.project, []).append(route.slug)

    def open(self, route: LiveRoute) -> dict[str, object]:
        """Return the node of a route for the snapshot; wrong targets are noted and left out."""
        self._leaves = self._nodes = 0
        trail = ((route.slug, route.version),)
        scope = _Scope(route=route, trail=trail, depth=1)
        return self._config_node(route.config, scope, is_outermost=True)

    def open_target(
        self, target: Target | RoutingConfig, project: str
    ) -> dict[str, object] | None:
        """Return the node of a target on its own, for a project; None with the fault noted.

        None also for a routing config that may stand in the store and is not known here.
        """
        self._leaves = self._nodes = 0
        sole = RoutingConfig(strategy="single", targets=(target,), place=target.place)
        route = LiveRoute(project=project, slug="", version=0, config=sole)
        scope = _Scope(route=route, trail=(), depth=0)
        if isinstance(target, RoutingConfig) or target.model.startswith("@"):
            return self._node(target, scope, "")
        node = self._config_node(sole, scope)
        return node if node["children"] else None

    def _config_node(
        self, config: RoutingConfig, scope: "_Scope", *, is_outermost: bool = False
    ) -> dict[str, object]:
        route = scope.route
        is_named = config is route.config and bool(route.slug)
        children: list[dict[str, object]] = []
        # Of each target its place among the children; those that cannot be opened have none.
        places: dict[int, int] = {}
        for index, (target, path) in enumerate(
            zip(config.targets, target_paths(config), strict=True)
        ):
            child = self._node(target, scope, scope.path(path))
            if child is not None:
                places[index] = len(children)
                children.append(child)
        if isinstance(config.own, CostOptimized):
            children = self._by_price(config, config.own, children, scope)
        shadow = config.shadow if is_outermost else None
        return {
            "kind": "config",
            "strategy": config.strategy,
            "slug": route.slug if is_named else None,
            "version": route.version if is_named else None,
            "path": scope.at,
            "children": children,
            "retry_on": list(RETRY_ON_WORDS if config.retry_on is None else config.retry_on),
            "max_retries_per_attempt": config.max_retries_per_attempt or 0,
            **{name: getattr(config, name) for name in (*TIME_LIMITS, *OUTPUT_LIMITS)},
            "fit_to_budget": config.fit_to_budget,
            "embedding_dimensions": config.embedding_dimensions,
            **self._own(config, scope, places),
            **({} if shadow is None else {"shadow": self._shadow(shadow, scope)}),
        }

    def _own(
        self, config: RoutingConfig, scope: "_Scope", places: Mapping[int, int]
    ) -> dict[str, object]:
        """Return what a strategy has of its own; lists beside the children are as long."""
        match config.own:
            case LatencyOptimized() as own:
                found = {
                    "metric": own.metric,
                    "tolerance_pct": _percent(own.tolerance_pct),
                    "explore_pct": _percent(own.explore_pct),
                }
                return {name: value for name, value in found.items() if value is not None}
            case AbTest() as own:
                variants = [own.variants[index] for index in places]
                return {
                    "variants": [{"name": one.name, "weight": one.weight} for one in variants],
                    "sticky_by": own.sticky_by or "end_user",
                    "salt": scope.route.slug if own.salt is None else own.salt,
                }
            case Ensemble() as own:
                weights = [config.targets[index] for index in places]
                judge = None if own.judge is None else self._judge(own.judge, scope, "judge")
                rule = own.validate
                return {
                    "aggregation": own.aggregation,
                    "min_responses": own.min_responses,
                    "validate": {"rule": self._rule(rule, answers=True)}
                    if isinstance(rule, Rule)
                    else rule,
                    "weights": [_thousandths(target) for target in weights],
                    "judge": judge,
                }
            case Cascade() as own:
                return {
                    "accepts": [
                        self._accept(own.accepts[index], scope, f"steps[{index}].accept_if")
                        for index in places
                    ]
                }
            case CustomRules() as own:
                return {
                    "rules": [
                        {
                            "if": None
                            if case.condition is None
                            else self._rule(case.condition, answers=False),
                            "then": None if case.then is None else places.get(case.then),
                            "block": case.block,
                            "path": scope.path(f"rules[{index}]"),
                        }
                        for index, case in enumerate(own.rules)
                    ]
                }
            case _:
                return {}

    def _accept(
        self, accept: Rule | Judged | None, scope: "_Scope", path: str
    ) -> dict[str, object] | None:
        if accept is None:
            return None
        if isinstance(accept, Rule):
            return {"rule": self._rule(accept, answers=True)}
        judge = self._judge(accept.judge, scope, f"{path}.judge")
        return {"judge": judge, "min_score_permille": accept.min_score}

    def _judge(
        self, target: Target | RoutingConfig, scope: "_Scope", path: str
    ) -> dict[str, object] | None:
        node = self._apart(target, scope, path)
        found = None if node is None else _made_of_several(node)
        if found is not None:
            self._faults.add(
                target.place,
                f"makes its answer of several, by `{found}`: a judge says one word; name a "
                "target, or a config that goes on only where one fails",
            )
        return node

    def _shadow(self, shadow: Shadow, scope: "_Scope") -> dict[str, object]:
        target = self._apart(shadow.target, scope, "shadow.target")
        return {"target": target, "percent_bp": shadow.percent}

    def _apart(
        self, target: Target | RoutingConfig, scope: "_Scope", path: str
    ) -> dict[str, object] | None:
        """Open a target that is not one of a config's own: its leaves count for themselves."""
        leaves, self._leaves = self._leaves, 0
        node = self._node(target, scope, scope.path(path))
        self._leaves = leaves
        return node

    def _node(
        self, target: Target | RoutingConfig, scope: "_Scope", path: str
    ) -> dict[str, object] | None:
        """Open what stands at a path of a named config; None with the fault noted."""
        self._nodes += 1
        if self._nodes > limits.ROUTE_NODES_MAX:
            # Once: whatever comes after it is too much as well.
            if self._nodes == limits.ROUTE_NODES_MAX + 1:
                self._faults.add(
                    target.place,
                    f"is one too many: at most {limits.ROUTE_NODES_MAX} targets and configs, "
                    "once nested ones, judges and shadows are opened",
                )
            return None
        if isinstance(target, RoutingConfig):
            if self._is_too_deep(target.place, scope.depth + 1):
                return None
            inner = replace(scope, depth=scope.depth + 1, at=path, inside=path)
            return self._config_node(target, inner)
        if target.model.startswith("@"):
            return self._reference(target, scope, path)
        return self._leaf(target, path)

    def _by_price(
        self,
        config: RoutingConfig,
        own: CostOptimized,
        children: list[dict[str, object]],
        scope: "_Scope",
    ) -> list[dict[str, object]]:
        """Return what a choice by price is between: what is named, or the cheapest there are.

        A model that is named and whose tier is known to be too low never serves; one whose tier
        nobody knows is eligible because it is named.
        """
        least = TIERS.index(own.quality_tier or TIERS[0])
        if not config.targets:
            cheapest = cheapest_models(self._config, own.quality_tier)
            if not cheapest:
                self._faults.add(
                    join(config.place, "allowed_models"),
                    "is missing, and of what the providers are known to serve no chat model "
                    f'has a price and at least the tier "{TIERS[least]}"; name targets here, '
                    "or describe them by [prices] and [models]",
                )
            return [
                node
                for name in cheapest
                if (node := self._named_leaf(name, config, scope)) is not None
            ]
        is_low = [self._is_below(child, least) for child in children]
        if children and all(is_low):
            self._faults.add(
                join(config.place, "quality_tier"),
                f'no target has the tier "{TIERS[least]}" or a better one; lower it',
            )
        return [
            {**child, "rejected": "below_quality_tier"} if low else child
            for child, low in zip(children, is_low, strict=True)
        ]

    def _named_leaf(
        self, name: str, config: RoutingConfig, scope: "_Scope"
    ) -> dict[str, object] | None:
        target = Target(model=name, place=join(config.place, "allowed_models"))
        return self._node(target, scope, scope.path(f'allowed_models["{name}"]'))

    def _is_below(self, child: Mapping[str, object], least: int) -> bool:
        if child["kind"] != "target":
            return False
        index = child["provider"]
        assert isinstance(index, int), index
        tier = tier_of(self._config, self._config.providers[index], str(child["model"]))
        return tier is not None and TIERS.index(tier) < least

    def _rule(self, rule: Rule, *, answers: bool) -> dict[str, object]:
        """Return a rule with what the names in it come to; unknown ones are noted."""
        report = check_rule(rule.text, answers=answers)
        targets: dict[str, object] = {}
        for name, line, column in report.targets:
            try:
                index, model = resolve_model(self._config, name)
            except ValueError as failure:
                self._faults.add(rule.place, f"line {line}, column {column}: {failure}")
            else:
                targets[name] = {"provider": index, "model": model}
        budgets = [budget.name for budget in self._config.budgets]
        for name, line, column in report.budgets:
            if name not in budgets:
                self._faults.add(
                    rule.place,
                    f"line {line}, column {column}: unknown budget {shown(name)}"
                    + hint(name, budgets),
                )
        return {"text": rule.text, "targets": targets}

    def _is_too_deep(self, place: str, depth: int) -> bool:
        if depth <= limits.ROUTE_DEPTH_MAX:
            return False
        self._faults.add(
            place,
            f"is nested {depth} deep; at most {limits.ROUTE_DEPTH_MAX}, the outermost counted",
        )
        return True

    def _reference(
        self, target: Target, scope: "_Scope", path: str
    ) -> dict[str, object] | None:
        outer, trail = scope.route, scope.trail
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
        if self._is_too_deep(target.place, scope.depth + 1):
            return None
        inner = replace(inner, config=_within(target, inner.config))
        within = _Scope(
            route=inner,
            trail=(*trail, (inner.slug, inner.version)),
            depth=scope.depth + 1,
            at=path,
        )
        return self._config_node(inner.config, within)

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

    def _leaf(self, target: Target, path: str) -> dict[str, object] | None:
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
            "label": model,
            "params": None if target.params is None else dict(target.params),
            "rejected": None,
            "path": path,
        }


def _made_of_several(node: Mapping[str, object]) -> str | None:
    """Return the first strategy in an opened config that reads answers before it gives one."""
    strategy, children = node.get("strategy"), node.get("children", ())
    if strategy in {"ensemble", "cascade"}:
        return str(strategy)
    assert isinstance(children, list | tuple), children
    return next(filter(None, map(_made_of_several, children)), None)


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


def _percent(hundredths: int | None) -> float | int | None:
    return None if hundredths is None else number(hundredths, 2)


def _thousandths(target: Target | RoutingConfig) -> int:
    """Return a member's weight: 1 where none is said."""
    weight = target.weight if isinstance(target, Target) else None
    return 1000 if weight is None else weight * 10


def cheapest_models(config: Config, quality_tier: str | None) -> list[str]:
    """Return the chat models that a choice by price has where none is named, cheapest first.

    They have a price and are known to be at least of that tier, without one of the lowest.
    Names are `PROVIDER/MODEL`.
    """
    least_tier = quality_tier or TIERS[0]
    found: list[tuple[int, str]] = []
    for provider in config.providers:
        for model in sorted(_known_at(config, provider)):
            tier = tier_of(config, provider, model)
            if tier is None or TIERS.index(tier) < TIERS.index(least_tier):
                continue
            price = _mix_nusd(config, provider, model)
            if price is not None and _is_chat(config, provider, model):
                found.append((price, f"{provider.name}/{model}"))
    return [name for _, name in sorted(found)[: limits.ROUTE_CHEAPEST_MAX]]


def tier_of(config: Config, provider: Provider, model: str) -> str | None:
    """Return how good a model is: what the file says, else the shipped list; None: unknown."""
    said = _said(config, provider, model)
    if said is not None and said.tier is not None:
        return said.tier
    return config.facts(provider.vendor, model).tier


def _said(config: Config, provider: Provider, model: str) -> Model | None:
    return next(
        (
            item
            for item in config.models
            if (item.provider, item.model) == (provider.name, model)
        ),
        None,
    )


def _mix_nusd(config: Config, provider: Provider, model: str) -> int | None:
    """Return the price of 3,000 tokens of input and 1,000 of output; None: not known."""
    for price in config.prices:
        if (price.provider, price.model) == (provider.name, model):
            per_mtok = 3 * price.input_usd_per_mtok + price.output_usd_per_mtok
            return per_mtok // 1000 + price.request_usd
    return 0 if provider.is_free else config.facts(provider.vendor, model).mix_nusd


def _is_chat(config: Config, provider: Provider, model: str) -> bool:
    """Whether a model can be asked as others are: nobody has named it for the purpose.

    One that calls tools is a chat model; the names of those that speak, draw or judge say so.
    """
    if any(part in model.lower() for part in _OTHER_KINDS):
        return False
    said = _said(config, provider, model)
    is_listed = model in (provider.models or ()) or said is not None
    return is_listed or config.facts(provider.vendor, model).calls_tools


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
