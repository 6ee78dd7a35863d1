"""Budgets: read from the file, checked against what there is, and named for the ledger.

What the file alone can tell is checked when it is read; which keys and routing configs there
are besides is known to the store only, so that is checked inside the transaction that applies
the configuration, and again whenever something else becomes live.
"""

import hashlib
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from modelux import limits
from modelux._native import is_timezone
from modelux.config.model import (
    EACH,
    EACH_SCOPES,
    SCOPE_KEYS,
    Budget,
    Config,
    Scope,
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
from modelux.config.resolve import LiveRoute, PinnedVersion, Resolver, default_slug
from modelux.config.routing import REFERENCE, canonical, encode_target, read_target
from modelux.units import usd_text

ID_DIGITS: Final = 32
_VALUE_BYTES_MAX: Final[Mapping[str, int]] = {
    "end_user": limits.IDENTIFIER_BYTES_MAX,
    "tag": limits.TAG_VALUE_BYTES_MAX,
}
_NAME_RULE: Final = "printable ASCII without a space at either end"


# --- reading -------------------------------------------------------------------------------


def read_budgets(
    data: Mapping[str, object], projects: Sequence[str], reading: Reading
) -> tuple[Budget, ...]:
    """Read `[[budgets]]`; wrong ones are noted and left out.

    Args:
        data: The whole file.
        projects: Names of the projects that are meant.
        reading: The pass it belongs to.
    """
    items = read_list(data.get("budgets", []), "budgets", reading)
    if len(items) > limits.BUDGETS_COUNT_MAX:
        reading.faults.add(
            "budgets", f"has {len(items)} entries; at most {limits.BUDGETS_COUNT_MAX}"
        )
        return ()
    found: list[Budget] = []
    places: dict[str, str] = {}
    for index, item in enumerate(items):
        budget = _read_budget(item, f"budgets[{index}]", projects, reading)
        if not budget.name:
            continue
        first = places.setdefault(budget.name, budget.place)
        if first != budget.place:
            reading.faults.add(
                join(budget.place, "name"), f"{shown(budget.name)} is the name of {first} too"
            )
        found.append(budget)
    return tuple(found)


def _read_budget(item: object, place: str, projects: Sequence[str], reading: Reading) -> Budget:
    table = read_table(item, place, reading)
    values = read_options(Budget, table, place, reading)
    check_keys(table, values, place, reading, table="budgets")
    name, timezone = str(values["name"]), str(values["timezone"])
    if not name.isascii() or name != name.strip():
        reading.faults.add(join(place, "name"), f"{shown(name)} is not a name: {_NAME_RULE}")
    if not is_timezone(timezone):
        reading.faults.add(
            join(place, "timezone"),
            f"there is no time zone {shown(timezone)}{_zone_hint(timezone)}",
        )
    scopes = _read_scopes(values["scope"], join(place, "scope"), projects, reading)
    project = values["project"]
    if isinstance(project, str) and project not in projects:
        reading.faults.add(
            join(place, "project"), f"unknown project {shown(project)}{hint(project, projects)}"
        )
    target = values["downgrade_to"]
    at = join(place, "downgrade_to")
    if target is not None:
        target = read_target(target, at, reading, 0)
        if values["action"] != "downgrade":
            reading.faults.add(
                at, f'has no meaning with action {shown(values["action"])}: write "downgrade"'
            )
    elif values["action"] == "downgrade":
        reading.faults.add(
            at, 'is missing: action "downgrade" needs a target, as "@cheap" or a model'
        )
    return build(Budget, {**values, "scope": scopes, "downgrade_to": target, "place": place})


def _zone_hint(name: str) -> str:
    near = nearest(name, zoneinfo.available_timezones())
    return f', nearest "{near}"' if near else '; write an IANA name, as "Europe/Berlin"'


def _read_scopes(
    value: object, place: str, projects: Sequence[str], reading: Reading
) -> tuple[Scope, ...]:
    if value == ():
        return ()  # Missing, and noted.
    if isinstance(value, dict):
        scope = _read_scope(value, place, projects, reading)
        return () if scope is None else (scope,)
    if not isinstance(value, list):
        reading.faults.add(
            place,
            f'must be a table, as {{ type = "organization" }}, or a list of them, not '
            f"{shown(value)}",
        )
        return ()
    if not value:
        reading.faults.add(place, 'is empty: write { type = "organization" } for all traffic')
    if len(value) > limits.BUDGET_SCOPES_MAX:
        reading.faults.add(
            place, f"has {len(value)} entries; at most {limits.BUDGET_SCOPES_MAX}"
        )
        return ()
    found: list[Scope] = []
    for index, item in enumerate(value):
        at = f"{place}[{index}]"
        scope = _read_scope(item, at, projects, reading)
        if scope in found:
            reading.faults.add(at, "stands here twice")
        elif scope is not None:
            found.append(scope)
    return tuple(found)


def _read_scope(
    value: object, place: str, projects: Sequence[str], reading: Reading
) -> Scope | None:
    table = read_table(value, place, reading)
    if not isinstance(value, dict):
        return None
    kind = table.get("type")
    at = join(place, "type")
    if not isinstance(kind, str) or kind not in SCOPE_KEYS:
        types = ", ".join(f'"{known}"' for known in SCOPE_KEYS)
        near = nearest(kind, SCOPE_KEYS) if isinstance(kind, str) else None
        suggestion = f', nearest "{near}"' if near else ""
        what = "is missing" if kind is None else f"{shown(kind)} is no scope"
        reading.faults.add(at, f"{what}: write one of {types}{suggestion}")
        return None
    keys = SCOPE_KEYS[kind]
    check_keys(table, {"type", *keys}, place, reading, table="scope")
    texts = [_read_scope_text(table, key, place, kind, reading) for key in keys]
    if None in texts:
        return None
    said = dict(zip(keys, (str(text) for text in texts), strict=True))
    scope = Scope(type=kind, key=said.get("key", ""), value=_value_of(said))
    if kind == "project" and scope.value not in projects:
        reading.faults.add(
            join(place, "id"),
            f"unknown project {shown(scope.value)}{hint(scope.value, projects)}",
        )
        return None
    return scope


def _value_of(said: Mapping[str, str]) -> str:
    return next((said[key] for key in ("value", "id", "slug") if key in said), "")


def _read_scope_text(
    table: Mapping[str, object], key: str, place: str, kind: str, reading: Reading
) -> str | None:
    at = join(place, key)
    if key not in table:
        reading.faults.add(at, f'is missing: a scope of type "{kind}" needs `{key}`')
        return None
    text = table[key]
    if not isinstance(text, str):
        reading.faults.add(at, f"must be a string, not {shown(text)}")
        return None
    most = limits.TAG_KEY_BYTES_MAX if key == "key" else _VALUE_BYTES_MAX.get(kind)
    if key == "slug":
        text = text.removeprefix("@")
    if not text:
        reading.faults.add(at, "is empty")
    elif text == EACH and not (kind in EACH_SCOPES and key != "key"):
        reading.faults.add(
            at,
            f'"{EACH}" is not possible here: only the id of "end_user" and the value of "tag" '
            f"may be; name one {kind}, and make a budget for each",
        )
    elif most is not None and len(text.encode()) > most:
        reading.faults.add(at, f"is longer than {most} bytes: no request has it")
    else:
        return text
    return None


# --- identity ------------------------------------------------------------------------------


def scope_data(scope: Scope) -> dict[str, str]:
    """Return a scope as the file has it."""
    keys = SCOPE_KEYS[scope.type]
    values = (scope.key if key == "key" and len(keys) > 1 else scope.value for key in keys)
    return {"type": scope.type, **dict(zip(keys, values, strict=True))}


def budget_id(budget: Budget) -> str:
    """Return a budget's name in the ledger, in hex: what is not part of it keeps the spend."""
    identity = {
        "name": budget.name,
        "scopes": [scope_data(scope) for scope in budget.scope],
        "project": budget.project,
        "period": budget.period,
        "timezone": budget.timezone,
    }
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:ID_DIGITS]


def is_each(budget: Budget) -> bool:
    """Return whether a budget gives every distinct value a cap of its own."""
    return any(scope.is_each for scope in budget.scope)


def budget_data(budget: Budget) -> dict[str, object]:
    """Return a budget as plain data, for the audit log; amounts as text, digit for digit."""
    scopes = [scope_data(scope) for scope in budget.scope]
    target = budget.downgrade_to
    return {
        "id": budget_id(budget),
        "scope": scopes[0] if len(scopes) == 1 else scopes,
        "project": budget.project,
        "cap_usd": usd_text(budget.cap_usd),
        "period": budget.period,
        "timezone": budget.timezone,
        "action": budget.action,
        "downgrade_to": None if target is None else encode_target(target),
        "soft_pct": budget.soft_pct,
        "unset": budget.unset,
        "max_subjects": budget.max_subjects,
        "backfill": budget.backfill,
        "enabled": budget.enabled,
        "shadow": budget.shadow,
    }


# --- against the world ---------------------------------------------------------------------


def projects_of(config: Config, budget: Budget) -> list[str]:
    """Return the projects whose requests could match, in the order of the configuration."""
    wanted = {scope.value for scope in budget.scope if scope.type == "project"}
    if budget.project is not None:
        wanted.add(budget.project)
    return [project.name for project in config.projects if wanted <= {project.name}]


def check_known(
    budget: Budget, keys: Sequence[str] | None, slugs: Sequence[str], faults: Faults
) -> None:
    """Note keys and routing configs in a budget's scope that do not exist.

    Args:
        budget: Which.
        keys: Ids of all keys that there ever were; None where not all are known.
        slugs: Names of all routing configs that there ever were.
        faults: Takes what is wrong.
    """
    for index, scope in enumerate(budget.scope):
        place = join(budget.place, "scope")
        if len(budget.scope) > 1:
            place = f"{place}[{index}]"
        if scope.type == "key" and keys is not None and scope.value not in keys:
            faults.add(
                join(place, "id"), f"unknown key {shown(scope.value)}{hint(scope.value, keys)}"
            )
        if scope.type == "route" and scope.value not in slugs:
            faults.add(
                join(place, "slug"),
                f"unknown routing config {shown('@' + scope.value)}"
                + hint("@" + scope.value, [f"@{slug}" for slug in slugs]),
            )


def downgrade_nodes(
    config: Config,
    budget: Budget,
    live: Sequence[LiveRoute],
    pinned: PinnedVersion | None,
    faults: Faults,
) -> list[dict[str, object] | None]:
    """Open where a budget's requests go at the cap: a node a project.

    None stands where no request matches, and where the project lacks the routing config that is
    named: there the budget blocks, and `modelux check` says so. Lacking everywhere is a fault.

    Args:
        config: Who serves what, at which price.
        budget: Which.
        live: Every live route.
        pinned: As `Resolver` takes it: None where routes may stand in a store not at hand.
        faults: Takes what is wrong.
    """
    target = budget.downgrade_to
    if target is None or budget.action != "downgrade":
        return [None for _ in config.projects]
    matching = projects_of(config, budget)
    lacking = _lacking(target, matching, live) if pinned is not None else []
    if lacking == matching:
        for name in lacking:
            place = join(budget.place, "downgrade_to")
            faults.add(place, _unknown(target, name, live, config))
    nodes: list[dict[str, object] | None] = []
    for project in config.projects:
        if project.name not in matching or project.name in lacking:
            nodes.append(None)
        else:
            node = Resolver(config, live, pinned, faults).open_target(target, project.name)
            if node is not None:
                _check_prices(config, budget, node, faults)
            nodes.append(node)
    return nodes


def _lacking(target: object, projects: Sequence[str], live: Sequence[LiveRoute]) -> list[str]:
    """Return the projects that do not have the routing config that a target names."""
    return [name for name in projects if not _stands(target, name, live)]


def _slugs_of(project: str, live: Sequence[LiveRoute]) -> list[str]:
    return [route.slug for route in live if route.project == project]


def _stands(target: object, project: str, live: Sequence[LiveRoute]) -> bool:
    """Return whether the routing config that a target names exists in a project."""
    match = REFERENCE.fullmatch(target.model) if isinstance(target, Target) else None
    if match is None or match["version"]:
        return True  # No reference, or one whose absence the resolver tells.
    slugs = _slugs_of(project, live)
    return match["slug"] in slugs or (
        match["slug"] == "default" and default_slug(slugs) is not None
    )


def _unknown(target: object, project: str, live: Sequence[LiveRoute], config: Config) -> str:
    assert isinstance(target, Target), target
    slugs = [f"@{slug}" for slug in _slugs_of(project, live)]
    if len(config.projects) == 1:
        return f"unknown routing config {shown(target.model)}{hint(target.model, slugs)}"
    return (
        f"project {shown(project)} has no routing config {shown(target.model)}"
        f"{hint(target.model, slugs)}; make it there, name a model, or give the budget one "
        "`project`"
    )


def _check_prices(
    config: Config, budget: Budget, node: Mapping[str, object], faults: Faults
) -> None:
    priced = {(price.provider, price.model) for price in config.prices}
    for leaf in _leaves(node):
        index, model = leaf["provider"], str(leaf["model"])
        assert isinstance(index, int), index
        provider = config.providers[index]
        if not (
            provider.is_free
            or (provider.name, model) in priced
            or config.priced(provider.vendor, model)
        ):
            name = f"{provider.name}/{model}"
            faults.add(
                join(budget.place, "downgrade_to"),
                f"leads to {shown(name)}, which has no price; add "
                f'[prices."{name}"] with input_usd_per_mtok and output_usd_per_mtok',
            )


def _leaves(node: object) -> Iterator[Mapping[str, object]]:
    """Yield every target that may be asked, judges too; not those that never are."""
    assert isinstance(node, dict), node
    if node["kind"] == "target":
        if not node["rejected"]:
            yield node
        return
    judges = [node.get("judge"), *((one or {}).get("judge") for one in node.get("accepts", ()))]
    for child in (*node["children"], *(judge for judge in judges if judge)):
        yield from _leaves(child)


def remarks(
    config: Config,
    keys: Mapping[str, str | None],
    slugs: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """Yield what is allowed and hardly meant: budgets that no request can match.

    Args:
        config: A valid configuration.
        keys: Id of each key to its project; to None where it was revoked.
        slugs: Project to the names of its live routing configs.
    """
    for budget in config.budgets:
        why = _never(config, budget, keys, slugs)
        if why:
            yield f"budget {shown(budget.name)} can never match: {why}"
        elif budget.action == "downgrade":
            yield from _blocked(config, budget, slugs)


def _blocked(
    config: Config, budget: Budget, slugs: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield where a budget cannot send anybody elsewhere, so that it blocks at its cap."""
    target = budget.downgrade_to
    match = REFERENCE.fullmatch(target.model) if isinstance(target, Target) else None
    if match is None:
        return
    slug = match["slug"]
    for name in projects_of(config, budget):
        if slug not in slugs.get(name, ()) and slug != "default":
            yield (
                f"budget {shown(budget.name)} blocks in project {shown(name)}, which has no "
                f"routing config {shown('@' + slug)} to send its requests to"
            )


def _never(
    config: Config,
    budget: Budget,
    keys: Mapping[str, str | None],
    slugs: Mapping[str, Sequence[str]],
) -> str | None:
    matching = projects_of(config, budget)
    if not matching:
        return "its `project` and its scope name different projects"
    seen: dict[tuple[str, str], str] = {}
    for scope in budget.scope:
        if scope.type == "route":
            # A request passes many routing configs: two of these scopes can match together.
            if not any(scope.value in slugs.get(name, ()) for name in matching):
                where = f" in project {shown(matching[0])}" if len(matching) == 1 else ""
                return f"no live routing config{where} is called {shown('@' + scope.value)}"
            continue
        if scope.is_each:
            continue
        if scope.type == "key" and scope.value in keys:
            project = keys[scope.value]
            if project is None:
                return f"the key {shown(scope.value)} is revoked"
            if project not in matching:
                return f"the key {shown(scope.value)} is project {shown(project)}'s"
        before = seen.setdefault((scope.type, scope.key), scope.value)
        if before != scope.value:
            what = f"the tag {shown(scope.key)}" if scope.key else f"the {scope.type}"
            return f"{what} cannot be {shown(before)} and {shown(scope.value)} at once"
    return None
