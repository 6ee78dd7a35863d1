"""Routing configs: read in both spellings, kept in one; targets resolved to providers.

A config is stored as it was meant, with model names and not with providers, so that a version
stays what it is when providers change. What the names come to is worked out at every activation
(save, rollback, promote, load) for all live routes together: an unknown model, a cycle or a
nesting that is too deep is found then and not by a request.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NewType

from modelux import limits
from modelux.config.model import (
    LATER_STRATEGIES,
    RETRY_ON_WORDS,
    TIME_LIMITS,
    Config,
    Provider,
    RoutingConfig,
    Target,
)
from modelux.config.read import (
    Faults,
    Reading,
    build,
    check_keys,
    hint,
    join,
    nearest,
    read_list,
    read_options,
    read_table,
    shown,
)
from modelux.config.vendors import VENDORS, recognised_prefixes, vendor_by_prefix

ContentHash = NewType("ContentHash", str)
"""SHA-256 of a routing config's canonical JSON, in hex."""

REFERENCE: Final = re.compile(r"@(?P<slug>[A-Za-z0-9_][A-Za-z0-9_.-]*)(@(?P<version>[0-9]+))?")
_STATUS: Final = re.compile(r"[45][0-9][0-9]")
# A dated snapshot of a known model is known, also one that is younger than the catalogue.
_DATED: Final = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-latest)$")
_STRATEGIES: Final = {"single": "single", "fallback": "fallback", "fallback_chain": "fallback"}
_DEFAULT_SLUG: Final = "default"
_MODEL_BYTES_MAX: Final = 256


# --- reading -------------------------------------------------------------------------------


def read_routing(
    value: object, place: str, reading: Reading, *, besides: Sequence[str] = (), depth: int = 1
) -> RoutingConfig | None:
    """Read a routing config in either spelling; None with faults noted.

    Args:
        value: A table.
        place: Its key path.
        reading: The pass it belongs to.
        besides: Keys that are the caller's own (`project`).
        depth: How deep it is nested; the outermost is 1.
    """
    if depth > limits.ROUTE_DEPTH_MAX:
        reading.faults.add(place, f"is nested deeper than {limits.ROUTE_DEPTH_MAX}")
        return None
    data = read_table(value, place, reading)
    named = "strategy"
    if "policy" in data:
        named = "policy"
        check_keys(data, {"policy", "config", *besides}, place, reading, table="routes")
        written = data["policy"]
        place = join(place, "config")
        data = read_table(data.get("config", {}), place, reading)
        besides = ()
    else:
        written = data.get("strategy")
        besides = ("strategy", *besides)
    strategy = _read_strategy(written, place, named, reading)
    if strategy is None:
        return None
    targets_key = "model" if strategy == "single" else "attempts"
    if strategy == "fallback" and "attempts" not in data and "models" in data:
        targets_key = "models"
    values = read_options(RoutingConfig, data, place, reading)
    check_keys(data, {targets_key, *besides, *values}, place, reading, table="routes")
    targets = _read_targets(data, targets_key, place, reading, depth)
    values["retry_on"] = _read_retry_on(values["retry_on"], place, reading)
    return build(
        RoutingConfig, {**values, "strategy": strategy, "targets": targets, "place": place}
    )


def _read_strategy(written: object, place: str, named: str, reading: Reading) -> str | None:
    place = join(place.removesuffix(".config") if named == "policy" else place, named)
    if isinstance(written, str) and written in _STRATEGIES:
        return _STRATEGIES[written]
    if written is None:
        message = 'is missing: "single" or "fallback"'
    elif written in LATER_STRATEGIES:
        message = f'{shown(written)} is not in this release; it has "single" and "fallback"'
    elif isinstance(written, str):
        names = (*_STRATEGIES, *LATER_STRATEGIES)
        message = f"unknown strategy {shown(written)}{hint(written, names)}"
    else:
        message = f"must be a string, not {shown(written)}"
    reading.faults.add(place, message)
    return None


def _read_targets(
    data: Mapping[str, object], key: str, place: str, reading: Reading, depth: int
) -> tuple[Target | RoutingConfig, ...]:
    place = join(place, key)
    if key not in data:
        reading.faults.add(place, "is missing")
        return ()
    if key == "model":
        one = _read_target(data[key], place, reading, depth)
        return () if one is None else (one,)
    items = read_list(data[key], place, reading)
    if not items:
        reading.faults.add(place, "needs at least one target")
    if len(items) > limits.ROUTE_TARGETS_MAX:
        reading.faults.add(
            place, f"has {len(items)} targets; at most {limits.ROUTE_TARGETS_MAX}"
        )
        return ()
    found = (
        _read_target(item, f"{place}[{index}]", reading, depth)
        for index, item in enumerate(items)
    )
    return tuple(target for target in found if target is not None)


def _read_target(
    value: object, place: str, reading: Reading, depth: int
) -> Target | RoutingConfig | None:
    if isinstance(value, str):
        return Target(model=value, place=place) if _is_model(value, place, reading) else None
    if not isinstance(value, dict):
        reading.faults.add(place, f"must be a model or a table, not {shown(value)}")
        return None
    data = read_table(value, place, reading)
    if "strategy" in data or "policy" in data:
        return read_routing(data, place, reading, depth=depth + 1)
    values = read_options(Target, data, place, reading)
    known = {"model", "provider_credential_id", *values}
    check_keys(data, known, place, reading, table="targets")
    at = join(place, "model")
    if "model" not in data:
        reading.faults.add(at, "is missing")
        return None
    model = data["model"]
    if not isinstance(model, str):
        reading.faults.add(at, f"must be a string, not {shown(model)}")
        return None
    if not _is_model(model, at, reading):
        return None
    credential = data.get("provider_credential_id")
    credential_at = join(place, "provider_credential_id")
    if credential is not None and not isinstance(credential, str):
        reading.faults.add(credential_at, f"must be a string, not {shown(credential)}")
        credential = None
    if credential is not None and model.startswith("@"):
        reading.faults.add(credential_at, "has no meaning for a routing config; take it out")
    return build(Target, {**values, "model": model, "credential": credential, "place": at})


def _is_model(text: str, place: str, reading: Reading) -> bool:
    if text.startswith("@"):
        match = REFERENCE.fullmatch(text)
        if match and match["version"] != "0":
            return True
        reading.faults.add(place, f"{shown(text)} is not @SLUG or @SLUG@VERSION")
    elif not text or not text.isprintable() or " " in text:
        reading.faults.add(place, f"{shown(text)} is not a model's name")
    elif len(text.encode()) > _MODEL_BYTES_MAX:
        reading.faults.add(place, f"is longer than {_MODEL_BYTES_MAX} bytes")
    else:
        return True
    return False


def _read_retry_on(value: object, place: str, reading: Reading) -> tuple[str, ...] | None:
    if not isinstance(value, tuple):
        return None
    for index, word in enumerate(value):
        if word in RETRY_ON_WORDS or _STATUS.fullmatch(word):
            continue
        near = nearest(word, RETRY_ON_WORDS)
        words = ", ".join(f'"{known}"' for known in RETRY_ON_WORDS)
        reading.faults.add(
            f"{join(place, 'retry_on')}[{index}]",
            f"{shown(word)} is none of {words}, nor a status from 400 to 599"
            + (f', nearest "{near}"' if near else ""),
        )
    return value


# --- the stored form -----------------------------------------------------------------------


def encode(config: RoutingConfig) -> dict[str, object]:
    """Return a config as the plain data that is stored and shown: only what was said."""
    data: dict[str, object] = {"strategy": config.strategy}
    targets = [_encode_target(target) for target in config.targets]
    data |= {"model": targets[0]} if config.strategy == "single" else {"attempts": targets}
    said = {
        **{name: getattr(config, name) for name in TIME_LIMITS},
        "retry_on": None if config.retry_on is None else list(config.retry_on),
        "max_retries_per_attempt": config.max_retries_per_attempt,
    }
    return data | {name: value for name, value in said.items() if value is not None}


def _encode_target(target: Target | RoutingConfig) -> object:
    if isinstance(target, RoutingConfig):
        return encode(target)
    said = {"provider_credential_id": target.credential, "timeout_ms": target.timeout_ms}
    extra = {name: value for name, value in said.items() if value is not None}
    return {"model": target.model, **extra} if extra else target.model


def canonical(value: object) -> str:
    """Return plain data as JSON that does not depend on the order of its keys."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_hash(content: str) -> ContentHash:
    """Return the hash of a canonical text, in hex."""
    return ContentHash(hashlib.sha256(content.encode()).hexdigest())


# --- resolving -----------------------------------------------------------------------------


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
    ) -> dict[str, object]:
        is_named = config is route.config
        children: list[dict[str, object]] = []
        for target in config.targets:
            if isinstance(target, RoutingConfig):
                if self._is_too_deep(target.place, depth + 1):
                    continue
                child: dict[str, object] | None = self._node(target, route, trail, depth + 1)
            elif target.model.startswith("@"):
                child = self._reference(target, route, trail, depth)
            else:
                child = self._leaf(target)
            if child is not None:
                children.append(child)
        return {
            "kind": "config",
            "strategy": config.strategy,
            "slug": route.slug if is_named else None,
            "version": route.version if is_named else None,
            "children": children,
            "retry_on": list(RETRY_ON_WORDS if config.retry_on is None else config.retry_on),
            "max_retries_per_attempt": config.max_retries_per_attempt or 0,
            **{name: getattr(config, name) for name in TIME_LIMITS},
        }

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
        if target.timeout_ms is not None:
            tighter = min(target.timeout_ms, inner.config.timeout_ms or target.timeout_ms)
            inner = replace(inner, config=replace(inner.config, timeout_ms=tighter))
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
            "max_output_tokens": None,
            "label": model,
        }


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
        for name, model in priced | set(config.models)
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
