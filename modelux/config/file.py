"""From `modelux.toml`, or from nothing but provider keys in the environment, to a `Config`.

All faults of a file come at once, each with its line and its fix; a file with a fault gives no
configuration at all. Secrets are references here; they are followed to see that they are there
and, for the keys of projects, to be hashed. Whoever calls hands in the environment, the look
for a local Ollama and the catalogue of models; this module reads files and nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Final

from modelux import limits
from modelux._native import Redactor, parse_toml
from modelux.config.budgets import downgrade_nodes, read_budgets
from modelux.config.model import (
    LATER_VENDORS,
    Catalogue,
    Config,
    Credential,
    Facts,
    KeyDeclaration,
    KeyPolicy,
    Model,
    Price,
    Priced,
    Project,
    Provider,
    Route,
    SecretRef,
    Server,
    options,
)
from modelux.config.read import (
    NAME,
    NAME_RULE,
    Faults,
    Reading,
    build,
    check_keys,
    hint,
    join,
    read_list,
    read_options,
    read_reference,
    read_table,
    shown,
)
from modelux.config.resolve import LiveRoute, Resolver
from modelux.config.routing import read_routing
from modelux.config.vendors import VENDORS, parse_base_url
from modelux.domain import Secret
from modelux.errors import ConfigError
from modelux.pricing.catalogue import has_price, known_models, model_facts

Probe = Callable[[], Sequence[str] | None]
"""Asks a local Ollama for its models; None where none answers."""

FILE_NAME: Final = "modelux.toml"
FILE_VARIABLE: Final = "MODELUX_CONFIG"
BUILT_IN: Final = "built-in defaults"
DEFAULT_PROJECT: Final = "default"

STARTERS: Final[Mapping[str, tuple[str, str]]] = {
    "openai": ("OPENAI_API_KEY", "gpt-4o-mini"),
    "anthropic": ("ANTHROPIC_API_KEY", "claude-haiku-4-5"),
    "google": ("GEMINI_API_KEY", "gemini-2.5-flash"),
}
"""Provider to the variable that its key is looked for in, and one small, fast model of it."""

_AMOUNT: Final = "$decimal"
"""No key of the file is called so."""
_FILE_BYTES_MAX: Final = 4 * limits.MIB
_TABLES: Final = ("server", "providers", "projects", "routes", "budgets", "prices", "models")
_KEY_TEXT: Final = re.compile(r"mlx_sk_[A-Za-z0-9_-]{20,200}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def find_config(flag: Path | None, env: Mapping[str, str]) -> Path | None:
    """Return the file to load: `--config`, then `$MODELUX_CONFIG`, then `./modelux.toml`.

    Returns:
        None where neither is named and `./modelux.toml` does not exist: built-in defaults.
    """
    if flag is not None:
        return flag
    named = env.get(FILE_VARIABLE)
    if named:
        return Path(named)
    usual = Path(FILE_NAME)
    return usual if usual.exists() else None


def load_config(
    path: Path | None,
    env: Mapping[str, str],
    *,
    probe: Probe | None = None,
    catalogue: Catalogue = known_models,
    priced: Priced = has_price,
    facts: Facts = model_facts,
    with_secrets: bool = True,
) -> Config:
    """Read and validate a configuration.

    Args:
        path: The file; None: a provider for each key variable that is set.
        env: The environment, for references.
        probe: Looks for a local Ollama where there is no file.
        catalogue: What vendors are known to serve.
        priced: Which of it has a price.
        facts: What else is known of it.
        with_secrets: Whether references are followed. Commands that only look at routes need no
            secret; keys from the file cannot be hashed then.

    Raises:
        ConfigError: With every fault that was found.
    """
    if path is None:
        reading = Reading(
            faults=Faults(BUILT_IN), folder=Path.cwd(), env=env, with_secrets=with_secrets
        )
        return _read(built_in(env, probe), reading, (catalogue, priced, facts))
    source = str(path)
    text = _file_text(path)
    try:
        data, spans = parse_toml(text)
    except ValueError as failure:
        message, line, column = failure.args
        raise ConfigError(
            [f"{source}:{line}:{column}: not TOML: {message or 'something is missing here'}"]
        ) from None
    folder = path.resolve().parent
    reading = Reading(
        faults=Faults(source, spans), folder=folder, env=env, with_secrets=with_secrets
    )
    return _read(data, reading, (catalogue, priced, facts))


def config_from_declaration(
    declaration: str,
    env: Mapping[str, str],
    *,
    catalogue: Catalogue = known_models,
    priced: Priced = has_price,
    facts: Facts = model_facts,
) -> Config:
    """Read again what a `Config` was declared by, without its secrets.

    Raises:
        ConfigError: This release refuses what the one that stored it accepted.
    """
    stored = json.loads(declaration, object_hook=_amount, parse_float=Decimal)
    reading = Reading(
        faults=Faults(str(stored["source"])),
        folder=Path(stored["folder"]),
        env=env,
        with_secrets=False,
    )
    return _read(stored["data"], reading, (catalogue, priced, facts))


def data_dir_of(path: Path | None) -> Path:
    """Return the `data_dir` that a file names, however faulty the rest of it is."""
    folder = Path.cwd() if path is None else path.resolve().parent
    default = (folder / str(options(Server)["data_dir"][1])).resolve()
    if path is None:
        return default
    try:
        data, _ = parse_toml(_file_text(path))
    except ValueError:
        return default
    server = data.get("server")
    named = server.get("data_dir") if isinstance(server, dict) else None
    return (folder / named).resolve() if isinstance(named, str) and named else default


def built_in(env: Mapping[str, str], probe: Probe | None) -> dict[str, object]:
    """Return the declaration for no file at all.

    Raises:
        ConfigError: There is no provider to be found.
    """
    providers: dict[str, object] = {}
    attempts: list[object] = []
    for name, (variable, model) in STARTERS.items():
        if env.get(variable):
            providers[name] = {"api_key": f"env:{variable}"}
            attempts.append(f"{name}/{model}")
    local = probe() if probe is not None else None
    if local:
        providers["ollama"] = {"models": list(local)}
        attempts.append(f"ollama/{local[0]}")
    if not providers:
        variables = ", ".join(variable for variable, _ in STARTERS.values())
        raise ConfigError(
            [
                f"no provider: none of {variables} is set, no Ollama with a model answers at "
                f"127.0.0.1:11434, and there is no {FILE_NAME}; set one of the variables, or "
                "write the file with `modelux init`"
            ]
        )
    route = {"strategy": "fallback", "attempts": attempts}
    return {"providers": providers, "routes": {"production": route, "default": route}}


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_BYTES_MAX + 1)
    except OSError as failure:
        raise ConfigError([f"{path}: cannot be read: {failure.strerror}"]) from failure
    if len(raw) > _FILE_BYTES_MAX:
        raise ConfigError([f"{path}: is longer than {_FILE_BYTES_MAX} bytes"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8"]) from None


def _read(
    data: Mapping[str, object], reading: Reading, known: tuple[Catalogue, Priced, Facts]
) -> Config:
    faults = reading.faults
    check_keys(data, _TABLES, "", reading, table="")
    server = _read_server(data, reading)
    providers = _read_providers(data, reading)
    projects = _read_projects(data, reading)
    # Names that were meant, also those of faulty tables: one mistake is one fault.
    names = list(read_table(data.get("providers", {}), "providers", reading))
    project_names = [project.name for project in projects]
    config = Config(
        source=faults.source,
        declaration="",
        server=server,
        providers=providers,
        projects=projects,
        routes=_read_routes(data, projects, reading),
        prices=_read_prices(data, names, reading),
        models=_read_models(data, names, reading),
        budgets=read_budgets(data, project_names, reading),
        makes_default_key="projects" not in data,
        catalogue=known[0],
        priced=known[1],
        facts=known[2],
        spans=faults.spans,
    )
    if len(providers) == len(names):
        _check_routes(config, faults)
    faults.check()
    return _with_declaration(config, data, reading.folder)


def _check_routes(config: Config, faults: Faults) -> None:
    """Note targets that nobody serves, and cycles among the routes of the file itself."""
    live = [
        LiveRoute(project=route.project, slug=route.slug, version=0, config=route.config)
        for route in config.routes
    ]
    # Other routes, and versions of these, may stand in the store: not known here.
    resolver = Resolver(config, live, None, faults)
    for route in live:
        resolver.open(route)
    for budget in config.budgets:
        downgrade_nodes(config, budget, live, None, faults)


def _with_declaration(config: Config, data: Mapping[str, object], folder: Path) -> Config:
    stored = {"source": config.source, "folder": str(folder), "data": _plain(data)}
    values = {name: getattr(config, name) for name in Config.__slots__}
    # Not canonical: tables keep the order in which the file has them.
    return build(Config, {**values, "declaration": json.dumps(stored)})


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        # A number where a double holds every digit of it.
        shortest = float(value)
        return shortest if Decimal(repr(shortest)) == value else {_AMOUNT: str(value)}
    return value


def _amount(value: dict[str, object]) -> object:
    """Read again what `_plain` made of a number with more digits than a double holds."""
    return Decimal(str(value[_AMOUNT])) if value.keys() == {_AMOUNT} else value


# --- the tables ----------------------------------------------------------------------------


def _named_tables(
    data: Mapping[str, object], table: str, reading: Reading
) -> list[tuple[str, str, dict[str, object]]]:
    """Return name, key path and content of each table under `[table]` whose name is right."""
    found = []
    for name, item in read_table(data.get(table, {}), table, reading).items():
        place = join(table, name)
        if NAME.fullmatch(name):
            found.append((name, place, read_table(item, place, reading)))
        else:
            reading.faults.add(place, f"is not a name: {NAME_RULE}")
    return found


def _read_server(data: Mapping[str, object], reading: Reading) -> Server:
    table = read_table(data.get("server", {}), "server", reading)
    values = read_options(Server, table, "server", reading)
    check_keys(table, values, "server", reading, table="server")
    values["data_dir"] = (reading.folder / str(values["data_dir"])).resolve()
    server = build(Server, values)
    if server.listen.port == server.control_listen.port and server.listen.port:
        reading.faults.add(
            "server.control_listen",
            f"must not have the port of `listen` ({server.listen}): the management API must "
            "not be reachable where apps are",
        )
    for index, pattern in enumerate(server.redact):
        try:
            Redactor([pattern])
        except ValueError as failure:
            why = str(failure).rpartition("error: ")[2]
            reading.faults.add(f"server.redact[{index}]", f"is not a usable pattern: {why}")
    return server


def _read_providers(data: Mapping[str, object], reading: Reading) -> tuple[Provider, ...]:
    found = [
        _read_provider(name, place, table, reading)
        for name, place, table in _named_tables(data, "providers", reading)
    ]
    if not found:
        example = '[providers.openai] with api_key = "env:OPENAI_API_KEY"'
        reading.faults.add("providers", f"needs at least one provider, as {example}")
    return tuple(provider for provider in found if provider is not None)


def _read_provider(
    name: str, place: str, data: dict[str, object], reading: Reading
) -> Provider | None:
    values = read_options(Provider, data, place, reading)
    check_keys(data, {"credentials", *values}, place, reading, table="providers")
    vendor_name = str(values["vendor"] or name)
    vendor = VENDORS.get(vendor_name)
    if vendor is None:
        at = join(place, "vendor") if values["vendor"] else place
        if vendor_name in LATER_VENDORS:
            reading.faults.add(at, f"vendor {shown(vendor_name)} is not in this release")
        else:
            is_told = "" if values["vendor"] else "; name it with `vendor`"
            known = hint(vendor_name, [*VENDORS, *LATER_VENDORS])
            reading.faults.add(at, f"unknown vendor {shown(vendor_name)}{known}{is_told}")
        return None
    base_url = values["base_url"] or vendor.base_url
    if base_url is None:
        reading.faults.add(
            place, f"vendor {shown(vendor_name)} needs a base_url, as http://127.0.0.1:8000/v1"
        )
        return None
    try:
        origin = parse_base_url(str(base_url), vendor)
    except ValueError as failure:
        reading.faults.add(join(place, "base_url"), str(failure))
        return None
    own = vendor.base_url and parse_base_url(vendor.base_url, vendor)
    _check_headers(values["headers"], join(place, "headers"), reading)
    return build(
        Provider,
        {
            **values,
            "name": name,
            "vendor": vendor_name,
            "origin": origin,
            "is_own_host": origin == own,
            "is_free": vendor.is_free,
            "on_cancel": values["on_cancel"] or vendor.on_cancel,
            "credentials": _read_credentials(name, place, data, values["api_key"], reading),
        },
    )


def _read_credentials(
    name: str, place: str, data: Mapping[str, object], api_key: object, reading: Reading
) -> tuple[Credential, ...]:
    if "credentials" not in data:
        if not isinstance(api_key, SecretRef):
            return ()
        reading.secret(api_key, join(place, "api_key"))
        return (Credential(id=name, reference=api_key),)
    at = join(place, "credentials")
    if "api_key" in data:
        reading.faults.add(at, "stands beside `api_key`; keep one of the two")
    found: dict[str, Credential] = {}
    for index, item in enumerate(read_list(data["credentials"], at, reading)):
        here = f"{at}[{index}]"
        table = read_table(item, here, reading)
        values = read_options(Credential, table, here, reading)
        check_keys(table, {"id", "api_key", *values}, here, reading, table="credentials")
        short = table.get("id")
        if not isinstance(short, str) or not NAME.fullmatch(short):
            reading.faults.add(join(here, "id"), f"must be a name: {NAME_RULE}")
            continue
        if "api_key" not in table:
            reading.faults.add(join(here, "api_key"), "is missing")
            continue
        reference = read_reference(table["api_key"], join(here, "api_key"), reading)
        if reference is None:
            continue
        reading.secret(reference, join(here, "api_key"))
        if short in found:
            reading.faults.add(join(here, "id"), f"{shown(short)} stands here twice")
        found[short] = build(
            Credential, {**values, "id": f"{name}/{short}", "reference": reference}
        )
    return tuple(found.values())


def _check_headers(headers: object, place: str, reading: Reading) -> None:
    assert isinstance(headers, tuple), headers
    seen: set[str] = set()
    for name, value in headers:
        at = join(place, name)
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            reading.faults.add(at, "is not the name of a header field")
        elif lower in {"authorization", "x-api-key", "api-key", "x-goog-api-key"}:
            reading.faults.add(at, "is the provider's key: name it with `api_key`")
        elif lower in _OWN_HEADERS or lower.startswith("x-modelux-"):
            reading.faults.add(at, "is written by modelux itself; take it out")
        elif lower in seen:
            reading.faults.add(at, "stands here twice")
        elif not value.isprintable() or not value.isascii():
            reading.faults.add(at, "its value holds a character that no header field may have")
        seen.add(lower)


def _read_projects(data: Mapping[str, object], reading: Reading) -> tuple[Project, ...]:
    projects: list[Project] = []
    ids: dict[str, str] = {}
    secrets: dict[Secret, str] = {}
    for name, place, table in _named_tables(data, "projects", reading):
        values = read_options(Project, table, place, reading)
        check_keys(table, {"keys", *values}, place, reading, table="projects")
        keys = []
        at = join(place, "keys")
        for index, item in enumerate(read_list(table.get("keys", []), at, reading)):
            key = _read_key(item, f"{at}[{index}]", reading)
            if key is None:
                continue
            keys.append(key)
            if key.id is not None and ids.setdefault(key.id, key.place) != key.place:
                reading.faults.add(key.place, f"id {shown(key.id)} stands at {ids[key.id]} too")
            if key.secret and secrets.setdefault(key.secret, key.place) != key.place:
                reading.faults.add(
                    key.place, f"is the same key as the one at {secrets[key.secret]}"
                )
        projects.append(build(Project, {**values, "name": name, "keys": tuple(keys)}))
    if not projects:
        projects.append(Project(name=DEFAULT_PROJECT))
    return tuple(projects)


def _read_key(item: object, place: str, reading: Reading) -> KeyDeclaration | None:
    table: dict[str, object] = {}
    at = place
    if isinstance(item, dict):
        table = read_table(item, place, reading)
        at = join(place, "key")
        if "key" not in table:
            reading.faults.add(at, 'is missing: a reference, as "env:MODELUX_KEY"')
    elif not isinstance(item, str):
        reading.faults.add(place, f"must be a reference or a table, not {shown(item)}")
        return None
    values = read_options(KeyPolicy, table, place, reading)
    check_keys(table, {"id", "key", *values}, place, reading, table="keys")
    check_policy(values, place, reading)
    key_id = table.get("id")
    if "id" in table and not (isinstance(key_id, str) and NAME.fullmatch(key_id)):
        reading.faults.add(join(place, "id"), f"must be a name: {NAME_RULE}")
        return None
    written = table.get("key") if isinstance(item, dict) else item
    if written is None:
        return None
    reference = read_reference(written, at, reading)
    if reference is None:
        return None
    secret = reading.secret(reference, at)
    if secret is not None and not _KEY_TEXT.fullmatch(secret.reveal()):
        reading.faults.add(
            at,
            f"what `{reference}` holds is not a key: `mlx_sk_` and at least 20 of A-Z a-z 0-9 "
            "_ - (the value is not shown)",
        )
        return None
    policy = build(KeyPolicy, values)
    return KeyDeclaration(
        id=key_id if isinstance(key_id, str) else None,
        reference=reference,
        secret=secret,
        policy=policy,
        place=place,
    )


def check_policy(values: dict[str, object], place: str, reading: Reading) -> None:
    """Check what the declarations of `KeyPolicy` cannot say; slugs lose their `@`."""
    tags = values["tags"]
    assert isinstance(tags, tuple), tags
    if len(tags) > limits.TAGS_COUNT_MAX:
        reading.faults.add(
            join(place, "tags"), f"has {len(tags)}; at most {limits.TAGS_COUNT_MAX}"
        )
    for key, value in tags:
        at = join(join(place, "tags"), key)
        if not key or len(key.encode()) > limits.TAG_KEY_BYTES_MAX:
            reading.faults.add(at, f"a tag's key has 1 to {limits.TAG_KEY_BYTES_MAX} bytes")
        if len(value.encode()) > limits.TAG_VALUE_BYTES_MAX:
            reading.faults.add(at, f"is longer than {limits.TAG_VALUE_BYTES_MAX} bytes")
    require = values["require"]
    assert isinstance(require, tuple), require
    for index, word in enumerate(require):
        if word != "end_user" and not (word.startswith("tag:") and len(word) > len("tag:")):
            reading.faults.add(
                f"{join(place, 'require')}[{index}]",
                f'{shown(word)} is neither "end_user" nor "tag:KEY"',
            )
    slugs = values["allowed_routes"]
    if isinstance(slugs, tuple):
        values["allowed_routes"] = tuple(str(slug).removeprefix("@") for slug in slugs)


def _read_routes(
    data: Mapping[str, object], projects: Sequence[Project], reading: Reading
) -> tuple[Route, ...]:
    names = [project.name for project in projects]
    routes: list[Route] = []
    for slug, place, table in _named_tables(data, "routes", reading):
        project = table.get("project", DEFAULT_PROJECT)
        if not isinstance(project, str) or project not in names:
            at = join(place, "project") if "project" in table else place
            known = hint(project, names) if isinstance(project, str) else ""
            reading.faults.add(at, f"unknown project {shown(project)}{known}")
        config = read_routing(table, place, reading, besides=("project",))
        if config is not None:
            routes.append(Route(project=str(project), slug=slug, config=config))
    return tuple(routes)


def _read_prices(
    data: Mapping[str, object], names: Sequence[str], reading: Reading
) -> tuple[Price, ...]:
    prices = []
    for name, item in read_table(data.get("prices", {}), "prices", reading).items():
        place = join("prices", name)
        table = read_table(item, place, reading)
        values = read_options(Price, table, place, reading)
        check_keys(table, values, place, reading, table="prices")
        pair = _provider_and_model(name, place, names, reading)
        if pair is not None:
            prices.append(build(Price, {**values, "provider": pair[0], "model": pair[1]}))
    return tuple(prices)


def _read_models(
    data: Mapping[str, object], names: Sequence[str], reading: Reading
) -> tuple[Model, ...]:
    models = []
    for name, item in read_table(data.get("models", {}), "models", reading).items():
        place = join("models", name)
        table = read_table(item, place, reading)
        values = read_options(Model, table, place, reading)
        check_keys(table, values, place, reading, table="models")
        pair = _provider_and_model(name, place, names, reading)
        if pair is not None:
            models.append(build(Model, {**values, "provider": pair[0], "model": pair[1]}))
    return tuple(models)


def _provider_and_model(
    name: str, place: str, names: Sequence[str], reading: Reading
) -> tuple[str, str] | None:
    head, slash, model = name.partition("/")
    if not slash or not head or not model:
        reading.faults.add(place, 'must be "PROVIDER/MODEL", in quotes')
        return None
    if head not in names:
        reading.faults.add(place, f"unknown provider {shown(head)}{hint(head, names)}")
        return None
    return head, model
