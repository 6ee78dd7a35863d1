"""The snapshot: everything a worker needs of the configuration, as one JSON document.

Compiled by the supervisor after a load and whenever `control.db` has changed; workers read it
once a generation. Secrets do not stand in it: a provider's key is a reference that the worker
follows, a caller's key is a keyed hash. What cannot serve makes no snapshot, so workers go on
with the one they have.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from modelux.config.budgets import budget_id, downgrade_nodes, scope_data
from modelux.config.model import Budget, Config, Credential, Model, Price, Provider, Server
from modelux.config.read import Faults
from modelux.config.resolve import LiveRoute, Resolver, default_slug
from modelux.config.routing import canonical
from modelux.config.rows import KeyRow, VersionRow
from modelux.config.versions import ControlDb, decode
from modelux.units import MS_PER_S

FORMAT: Final = 1


def compile_snapshot(config: Config, db: ControlDb) -> bytes:
    """Return the snapshot of a configuration and of what is live.

    Raises:
        ConfigError: Something that is live cannot serve under this configuration.
    """
    faults = Faults(config.source, config.spans)
    document: dict[str, object] = {
        "format": FORMAT,
        "server": _server(config.server),
        "providers": [_provider(provider) for provider in config.providers],
        "projects": [
            {
                "name": project.name,
                "auto_resolve_bare_model": project.auto_resolve_bare_model,
                "store_bodies": project.store_bodies or config.server.store_bodies,
            }
            for project in config.projects
        ],
        "keys": _keys(config, db),
        "routes": _routes(config, db, faults),
        "prices": [_price(price) for price in config.prices],
        "models": [_model(model) for model in config.models],
        "budgets": _budgets(config, db, faults),
    }
    faults.check()
    digest = hashlib.sha256(canonical(document).encode()).hexdigest()
    document |= {"config_hash": digest, "key_pepper": db.pepper.hex()}
    return canonical(document).encode()


def _server(server: Server) -> dict[str, object]:
    return {
        "header_bytes_max": server.header_bytes_max,
        "body_bytes_max": server.body_bytes_max,
        "max_in_flight": server.max_in_flight,
        "store_bodies": server.store_bodies,
        "client_header_timeout_ms": server.client_header_timeout_s * MS_PER_S,
        "client_body_timeout_ms": server.client_body_timeout_s * MS_PER_S,
        "client_keepalive_ms": server.client_keepalive_s * MS_PER_S,
        "upstream_keepalive_ms": server.upstream_keepalive_s * MS_PER_S,
        "hash_end_users": server.hash_end_users,
        "store_client_ip": server.store_client_ip,
        "access_log": server.access_log,
        "default_output_tokens": server.default_output_tokens,
        "min_output_tokens": server.min_output_tokens,
    }


def _provider(provider: Provider) -> dict[str, object]:
    return {
        "name": provider.name,
        "vendor": provider.vendor,
        "scheme": provider.origin.scheme,
        "host": provider.origin.host,
        "port": provider.origin.port,
        "base_path": provider.origin.base_path,
        "auth_header": "authorization",
        "auth_prefix": "Bearer ",
        "credentials": [_credential(credential) for credential in provider.credentials],
        "headers": [[name, value] for name, value in provider.headers],
        "models": None if provider.models is None else list(provider.models),
        "stream_usage": provider.stream_usage,
        "on_cancel": provider.on_cancel,
        "drain_max_ms": provider.drain_max_ms,
        "ca_file": None if provider.ca_file is None else str(provider.ca_file),
        "proxy": None,
        "connect_ip_family": provider.connect_ip_family,
        "max_connections": provider.max_connections,
        "free": provider.is_free,
    }


def _credential(credential: Credential) -> dict[str, object]:
    return {
        "id": credential.id,
        "ref": str(credential.reference),
        "weight": credential.weight,
    }


def _price(price: Price) -> dict[str, object]:
    return {
        "provider": price.provider,
        "model": price.model,
        "input_nusd_per_mtok": price.input_usd_per_mtok,
        "output_nusd_per_mtok": price.output_usd_per_mtok,
        "cached_nusd_per_mtok": price.cached_usd_per_mtok,
        "cache_write_nusd_per_mtok": price.cache_write_usd_per_mtok,
        "request_nusd": price.request_usd,
    }


def _model(model: Model) -> dict[str, object]:
    return {
        "provider": model.provider,
        "model": model.model,
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "tier": model.tier,
        "tools": model.tools,
        "images": model.images,
        "json_schema": model.json_schema,
    }


def _budgets(config: Config, db: ControlDb, faults: Faults) -> list[dict[str, object]]:
    live = db.live_routes(config, faults)
    index = _project_index(config)
    return [
        _budget(budget, index, downgrade_nodes(config, budget, live, db.pinned, faults))
        for budget in config.budgets
    ]


def _budget(
    budget: Budget, projects: Mapping[str, int], downgrade: Sequence[object]
) -> dict[str, object]:
    return {
        "id": budget_id(budget),
        "name": budget.name,
        "scopes": [scope_data(scope) for scope in budget.scope],
        "project": None if budget.project is None else projects[budget.project],
        "cap_nusd": budget.cap_usd,
        "period": budget.period,
        "timezone": budget.timezone,
        "action": budget.action,
        "downgrade": list(downgrade),
        "soft_pct": budget.soft_pct,
        "unset": budget.unset,
        "max_subjects": budget.max_subjects,
        "enabled": budget.enabled,
        "shadow": budget.shadow,
    }


def _keys(config: Config, db: ControlDb) -> list[dict[str, object]]:
    index = _project_index(config)
    return [
        _key(row, index[row.project])
        for row in db.key_rows()
        if row.revoked_at is None and row.project in index
    ]


def _key(row: KeyRow, project: int) -> dict[str, object]:
    policy = row.policy
    routes, models = policy.allowed_routes, policy.allowed_models
    return {
        "id": row.id,
        "hash": row.hash,
        "project": project,
        "name": policy.name,
        "rpm": policy.rpm,
        "expires_at_us": policy.expires_at,
        "allowed_routes": None if routes is None else list(routes),
        "allowed_models": None if models is None else list(models),
        "tags": [[key, value] for key, value in policy.tags],
        "end_user": policy.end_user,
        "require_end_user": "end_user" in policy.require,
        "require_tags": [
            word.removeprefix("tag:") for word in policy.require if word.startswith("tag:")
        ],
        "allow_versions": policy.allow_versions,
    }


def _routes(config: Config, db: ControlDb, faults: Faults) -> list[dict[str, object]]:
    live = db.live_routes(config, faults)
    resolver = Resolver(config, live, db.pinned, faults)
    index = _project_index(config)
    pinners = {
        row.project
        for row in db.key_rows()
        if row.policy.allow_versions and row.revoked_at is None
    }
    routes = []
    for route in live:
        slugs = [other.slug for other in live if other.project == route.project]
        node = resolver.open(route)
        row = db.route(route.project, route.slug)
        assert row is not None, route.slug
        assert row.live is not None, route.slug
        versions = [_version(row.live, node)]
        # Other versions are only for keys that may ask for them.
        if route.project in pinners:
            versions += [
                _version(other, opened)
                for other in db.versions(row)
                if other.version != route.version
                and (opened := _opened(config, db, live, route, other)) is not None
            ]
        routes.append(
            {
                "slug": route.slug,
                "project": index[route.project],
                "live": route.version,
                "is_default": route.slug == default_slug(slugs),
                "versions": versions,
            }
        )
    return routes


def _opened(
    config: Config, db: ControlDb, live: list[LiveRoute], route: LiveRoute, row: VersionRow
) -> Mapping[str, object] | None:
    """Open a version that is not live; None where it could not serve any more."""
    faults = Faults(config.source)
    routing = decode(route.slug, row, faults)
    if routing is None:
        return None
    one = LiveRoute(project=route.project, slug=route.slug, version=row.version, config=routing)
    node = Resolver(config, live, db.pinned, faults).open(one)
    return None if faults else node


def _version(row: VersionRow, node: Mapping[str, object]) -> dict[str, object]:
    return {"version": row.version, "hash": row.hash, "config": node}


def _project_index(config: Config) -> dict[str, int]:
    return {project.name: index for index, project in enumerate(config.projects)}
