"""`ControlDb`: numbered versions of routes, keys, what the file declared, and their history.

A version is immutable; *live* is a pointer, and every move of it is an activation. The file's
declaration makes a version only when its content differs from what the file declared last, so a
rollback sticks until the file changes. Everything that would be live after a change is resolved
before the change is committed: what cannot serve is refused, and nothing has happened.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from modelux import clock
from modelux.config.database import (
    EVER,
    FILE_NAME,
    AuditBreak,
    AuditRow,
    Database,
    Who,
    load_json,
)
from modelux.config.keys import PEPPER_BYTES, KeyHash, hash_key, load_pepper, make_key
from modelux.config.model import Address, Config, KeyPolicy, Origin, RoutingConfig, SecretRef
from modelux.config.read import Faults, Reading, build, hint, shown
from modelux.config.routing import (
    ContentHash,
    LiveRoute,
    Resolver,
    canonical,
    content_hash,
    encode,
    read_routing,
)
from modelux.domain import Secret
from modelux.errors import ConfigError, RefusedError
from modelux.units import UnixUs

FILE_ACTOR: Final = "file"
_SHORT_HASH_CHARACTERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that a load, or a command, changes."""

    action: str
    """A noun and a verb, as in the audit log."""
    resource: str
    detail: Mapping[str, object]
    """Plain data; never a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One version of a route."""

    version: int
    hash: ContentHash
    content: str
    """The routing config as canonical JSON."""
    actor: str
    source: str
    why: str
    created_at: UnixUs


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow:
    """A route as it stands."""

    id: int
    project: str
    slug: str
    live: VersionRow | None
    latest: int
    in_file: bool
    file_hash: ContentHash | None
    """What the file declared last; kept when the file declares the route no more."""
    updated_at: UnixUs

    @property
    def differs_from_file(self) -> bool:
        """Whether what is live is not what the file says."""
        return self.in_file and (self.live is None or self.live.hash != self.file_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What became of a routing config that was saved."""

    version: int
    is_made: bool
    """False where the live version had the same content already."""
    is_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key as it is kept: everything but the key."""

    id: str
    hash: KeyHash
    project: str
    origin: str
    """`file` or `made`."""
    policy: KeyPolicy
    created_at: UnixUs
    created_by: str
    revoked_at: UnixUs | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey:
    """A key in the only moment in which it is known."""

    id: str
    secret: Secret


class ControlDb:
    """All that is kept of the configuration, in one data directory."""

    __slots__ = ("_database", "_pepper")

    def __init__(self, data_dir: Path | None) -> None:
        """Open, or make, what `data_dir` keeps; None keeps it in memory, for looking ahead.

        Raises:
            StoreError: `control.db` or `keys.pepper` cannot be used.
        """
        self._pepper = bytes(PEPPER_BYTES) if data_dir is None else load_pepper(data_dir)
        self._database = Database(None if data_dir is None else data_dir / FILE_NAME)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def pepper(self) -> bytes:
        """Under which keys are hashed."""
        return self._pepper

    def data_version(self) -> int:
        """Return a number that changes whenever any process has changed something."""
        return self._database.data_version()

    def declaration(self) -> str | None:
        """Return the declaration of the `Config` that was applied last."""
        return self._database.meta("declaration")

    # --- loads -----------------------------------------------------------------------------

    def apply_config(
        self, config: Config, *, actor: str = FILE_ACTOR, source: str = "", why: str = ""
    ) -> list[Change]:
        """Make everything as the configuration says, in one transaction; keep rollbacks.

        Returns:
            What changed, in order; the same list that `plan_config` gives.

        Raises:
            ConfigError: What would be live cannot serve; nothing has changed.
            StoreError: `control.db` cannot be written; nothing has changed.
        """
        who = Who(actor=actor, source=source or config.source, why=why)
        with self._database.transaction():
            return self._apply(config, who)

    def plan_config(self, config: Config) -> list[Change]:
        """Return what `apply_config` would change, and change nothing.

        Raises:
            ConfigError: What would be live could not serve.
        """
        changes: list[Change] = []
        try:
            with self._database.transaction():
                changes = self._apply(config, Who(actor=FILE_ACTOR, source=config.source))
                raise _OnlyLookingError
        except _OnlyLookingError:
            return changes

    def _apply(self, config: Config, who: Who) -> list[Change]:
        changes = [
            *self._declare(config),
            *self._apply_keys(config, who),
            *self._apply_routes(config, who),
        ]
        self._check_live(config, Faults(config.source, config.spans))
        for change in changes:
            self._database.note(who, change.action, change.resource, change.detail)
        if self.declaration() != config.declaration:
            self._database.set_meta("declaration", config.declaration)
        return changes

    def _declare(self, config: Config) -> Iterator[Change]:
        wanted = declared_nouns(config)
        known = {
            (str(kind), str(name)): str(content)
            for kind, name, content in self._database.rows(
                "SELECT kind, name, content FROM declared ORDER BY kind, name"
            )
        }
        for (kind, name), content in wanted.items():
            before = known.get((kind, name))
            if before == content:
                continue
            self._database.run(
                "INSERT OR REPLACE INTO declared VALUES (?, ?, ?)", kind, name, content
            )
            verb = "added" if before is None else "changed"
            yield Change(
                action=f"{kind}.{verb}",
                resource=_resource(kind, name),
                detail=_difference(before, content),
            )
        for kind, name in known.keys() - wanted.keys():
            self._database.run("DELETE FROM declared WHERE kind = ? AND name = ?", kind, name)
            yield Change(
                action=f"{kind}.removed",
                resource=_resource(kind, name),
                detail=_difference(known[kind, name], None),
            )

    # --- routes ----------------------------------------------------------------------------

    def routes(self, project: str | None = None) -> list[RouteRow]:
        """Return all routes, or a project's, in the order in which they were made."""
        found = self._database.rows(
            "SELECT id, project, slug, live, in_file, file_hash, updated_at_us FROM routes "
            "WHERE ?1 IS NULL OR project = ?1 ORDER BY id",
            project,
        )
        return [self._route_row(row) for row in found]

    def route(self, project: str, slug: str) -> RouteRow | None:
        """Return one route."""
        found = self._database.rows(
            "SELECT id, project, slug, live, in_file, file_hash, updated_at_us FROM routes "
            "WHERE project = ? AND slug = ?",
            project,
            slug,
        )
        return self._route_row(found[0]) if found else None

    def versions(self, route: RouteRow) -> list[VersionRow]:
        """Return a route's versions, oldest first."""
        found = self._database.rows(
            "SELECT version, hash, content, actor, source, why, created_at_us FROM versions "
            "WHERE route_id = ? ORDER BY version",
            route.id,
        )
        return [_version_row(row) for row in found]

    def version(self, route: RouteRow, version: int) -> VersionRow | None:
        """Return one version of a route."""
        return next((row for row in self.versions(route) if row.version == version), None)

    def live_routes(self, config: Config, faults: Faults) -> list[LiveRoute]:
        """Return what serves, of the projects that there are, in the order of making."""
        names = {project.name for project in config.projects}
        live = []
        for row in self.routes():
            if row.live is None or row.project not in names:
                continue
            routing = self._of_file(config, row) or decode(row.slug, row.live, faults)
            if routing is not None:
                live.append(
                    LiveRoute(
                        project=row.project,
                        slug=row.slug,
                        version=row.live.version,
                        config=routing,
                    )
                )
        return live

    def pinned(self, project: str, slug: str, version: int) -> RoutingConfig | None:
        """Return the config of one version; None if there is none that can be read."""
        row = self.route(project, slug)
        found = self.version(row, version) if row is not None else None
        return decode(slug, found, Faults("")) if found is not None else None

    def save_route(
        self,
        config: Config,
        project: str,
        slug: str,
        routing: RoutingConfig,
        who: Who,
        *,
        draft: bool = False,
        faults: Faults | None = None,
    ) -> Saved:
        """Save a version of a route and, unless it is a draft, make it live.

        Content that is live already makes no version. `faults` names the source that `routing`
        was read from.

        Raises:
            ConfigError: What would be live could not serve; nothing has changed.
        """
        faults = Faults(who.source) if faults is None else faults
        with self._database.transaction():
            row = self.route(project, slug) or self._make_route(project, slug)
            content = canonical(encode(routing))
            if row.live is not None and row.live.hash == content_hash(content):
                return Saved(version=row.live.version, is_made=False, is_live=True)
            version = self._add_version(row, content, who)
            made = LiveRoute(project=project, slug=slug, version=version, config=routing)
            if draft:
                live = [
                    other
                    for other in self.live_routes(config, faults)
                    if (other.project, other.slug) != (project, slug)
                ]
                resolver = Resolver(config, [*live, made], self.pinned, faults)
                resolver.open(made)
                faults.check()
            else:
                self._activate(row, version, "saved", who)
                self._check_live(config, faults, made)
            self._database.note(
                who,
                "route.saved" if draft else "route.changed",
                _resource("route", _route_name(project, slug)),
                {"version": version, "hash": content_hash(content), "draft": draft},
            )
        return Saved(version=version, is_made=True, is_live=not draft)

    def promote(
        self, config: Config, project: str, slug: str, version: int, who: Who
    ) -> RouteRow:
        """Make an existing version live.

        Returns:
            The route as it stood before; its live version tells whether anything changed.

        Raises:
            RefusedError: There is no such route or version.
            ConfigError: It could not serve any more; nothing has changed.
        """
        with self._database.transaction():
            row = self._existing(project, slug)
            self._move(config, row, version, "promoted", who)
        return row

    def rollback(
        self, config: Config, project: str, slug: str, version: int | None, who: Who
    ) -> tuple[RouteRow, int]:
        """Make an earlier version live: the named one, or the one that was live before.

        Returns:
            The route as it stood before, and the version that is live.

        Raises:
            RefusedError: There is none.
            ConfigError: It could not serve any more; nothing has changed.
        """
        with self._database.transaction():
            row = self._existing(project, slug)
            if version is None:
                version = self._live_before(row)
            self._move(config, row, version, "rolled_back", who)
        return row, version

    def _move(self, config: Config, row: RouteRow, version: int, kind: str, who: Who) -> None:
        if self.version(row, version) is None:
            raise RefusedError(
                f"@{row.slug} has no version {version}; it has 1 to {row.latest}"
            )
        before = None if row.live is None else row.live.version
        if before == version:
            return
        self._activate(row, version, kind, who)
        self._check_live(config, Faults(f"@{row.slug} (v{version})"))
        self._database.note(
            who,
            f"route.{kind}",
            _resource("route", _route_name(row.project, row.slug)),
            {"from": before, "to": version},
        )

    def _live_before(self, row: RouteRow) -> int:
        """Return what a rollback goes back to: steps back are taken back, not walked again."""
        trail: list[int] = []
        for version, kind in self._database.rows(
            "SELECT version, kind FROM activations WHERE route_id = ? ORDER BY id", row.id
        ):
            if not isinstance(version, int):
                continue
            if kind == "rolled_back" and version in trail:
                del trail[trail.index(version) + 1 :]
            elif not trail or trail[-1] != version:
                trail.append(version)
        if row.live is None and trail:
            return trail[-1]
        if len(trail) < 2:
            raise RefusedError(f"@{row.slug} has no earlier version to go back to")
        return trail[-2]

    def _existing(self, project: str, slug: str) -> RouteRow:
        row = self.route(project, slug)
        if row is None:
            slugs = [other.slug for other in self.routes(project)]
            raise RefusedError(
                f"unknown routing config @{slug} in project {shown(project)}"
                + hint(slug, slugs)
            )
        return row

    def _apply_routes(self, config: Config, who: Who) -> Iterator[Change]:
        is_strict = config.server.provision == "strict"
        declared = {(route.project, route.slug): route for route in config.routes}
        for route in config.routes:
            row = self.route(route.project, route.slug)
            row = row or self._make_route(route.project, route.slug)
            content = canonical(encode(route.config))
            is_said_before = row.file_hash == content_hash(content)
            is_live = row.live is not None and row.live.hash == content_hash(content)
            if not (is_said_before and row.in_file):
                self._database.run(
                    "UPDATE routes SET in_file = 1, file_hash = ? WHERE id = ?",
                    content_hash(content),
                    row.id,
                )
            is_settled = is_said_before and (row.in_file or row.live is not None)
            if is_live or (is_settled and not is_strict):
                continue
            # Said before and not live now: what was made for it then is what it means.
            version = self._newest_with(row, content) if is_said_before else None
            is_made = version is None
            if version is None:
                version = self._add_version(row, content, who)
            self._activate(row, version, "file", who)
            yield Change(
                action="route.changed" if row.latest else "route.added",
                resource=_resource("route", _route_name(route.project, route.slug)),
                detail={
                    "from": None if row.live is None else row.live.version,
                    "to": version,
                    "hash": content_hash(content),
                    "made": is_made,
                },
            )
        for row in self.routes():
            if (row.project, row.slug) not in declared:
                yield from self._leave_out(row, who, is_strict=is_strict)

    def _leave_out(self, row: RouteRow, who: Who, *, is_strict: bool) -> Iterator[Change]:
        """Retire a route that the file says no more, unless somebody has taken it over."""
        is_the_files = row.in_file and row.live is not None and row.live.hash == row.file_hash
        if row.in_file:
            self._database.run("UPDATE routes SET in_file = 0 WHERE id = ?", row.id)
        if row.live is None or not (is_strict or is_the_files):
            return
        self._activate(row, None, "file", who)
        yield Change(
            action="route.retired",
            resource=_resource("route", _route_name(row.project, row.slug)),
            detail={"from": row.live.version, "to": None},
        )

    def _of_file(self, config: Config, row: RouteRow) -> RoutingConfig | None:
        """Return the file's own reading of what is live, which knows its lines."""
        for route in config.routes:
            is_it = (route.project, route.slug) == (row.project, row.slug)
            if is_it and row.live and row.live.content == canonical(encode(route.config)):
                return route.config
        return None

    def _check_live(
        self, config: Config, faults: Faults, made: LiveRoute | None = None
    ) -> None:
        """Resolve everything that is live at this point of the transaction."""
        live = [
            made if made and (made.project, made.slug) == (one.project, one.slug) else one
            for one in self.live_routes(config, faults)
        ]
        resolver = Resolver(config, live, self.pinned, faults)
        for route in live:
            resolver.open(route)
        faults.check()

    def _make_route(self, project: str, slug: str) -> RouteRow:
        self._database.run(
            "INSERT INTO routes (project, slug, updated_at_us) VALUES (?, ?, ?)",
            project,
            slug,
            clock.unix_us(),
        )
        row = self.route(project, slug)
        assert row is not None, slug
        return row

    def _add_version(self, row: RouteRow, content: str, who: Who) -> int:
        self._database.run(
            "INSERT INTO versions SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4, ?5, "
            "?6, ?7 FROM versions WHERE route_id = ?1",
            row.id,
            content_hash(content),
            content,
            who.actor,
            who.source,
            who.why,
            clock.unix_us(),
        )
        return self._latest(row.id)

    def _latest(self, route_id: int) -> int:
        found = self._database.rows(
            "SELECT coalesce(max(version), 0) FROM versions WHERE route_id = ?", route_id
        )
        return _int(found[0][0])

    def _newest_with(self, row: RouteRow, content: str) -> int | None:
        found = self._database.rows(
            "SELECT max(version) FROM versions WHERE route_id = ? AND hash = ?",
            row.id,
            content_hash(content),
        )
        return None if found[0][0] is None else _int(found[0][0])

    def _activate(self, row: RouteRow, version: int | None, kind: str, who: Who) -> None:
        now = clock.unix_us()
        self._database.run(
            "UPDATE routes SET live = ?, updated_at_us = ? WHERE id = ?", version, now, row.id
        )
        self._database.run(
            "INSERT INTO activations (route_id, version, kind, actor, at_us) "
            "VALUES (?, ?, ?, ?, ?)",
            row.id,
            version,
            kind,
            who.actor,
            now,
        )

    def _route_row(self, row: tuple[object, ...]) -> RouteRow:
        route_id, project, slug, live, in_file, file_hash, updated_at = row
        found = self._database.rows(
            "SELECT version, hash, content, actor, source, why, created_at_us FROM versions "
            "WHERE route_id = ? AND version = ?",
            route_id,
            live,
        )
        return RouteRow(
            id=_int(route_id),
            project=str(project),
            slug=str(slug),
            live=_version_row(found[0]) if found else None,
            latest=self._latest(_int(route_id)),
            in_file=bool(in_file),
            file_hash=None if file_hash is None else ContentHash(str(file_hash)),
            updated_at=UnixUs(_int(updated_at)),
        )

    # --- keys ------------------------------------------------------------------------------

    def key_rows(self) -> list[KeyRow]:
        """Return all keys, revoked ones too, oldest first."""
        found = self._database.rows(
            "SELECT id, hash, project, origin, policy, created_at_us, created_by, "
            "revoked_at_us FROM keys ORDER BY created_at_us, id"
        )
        return [_key_row(row) for row in found]

    def create_key(self, project: str, policy: KeyPolicy, who: Who) -> MadeKey:
        """Make a key for a project; its text is returned here and never again."""
        secret = make_key()
        with self._database.transaction():
            key_id = self._add_key(secret, project, policy, who, origin="made", named=None)
            self._database.note(
                who,
                "key.created",
                _resource("key", key_id),
                {"project": project, "policy": plain(policy)},
            )
        return MadeKey(id=key_id, secret=secret)

    def ensure_default_key(self, config: Config, who: Who) -> MadeKey | None:
        """Make a key for the default project where no project is declared and none exists.

        Returns:
            The key, at the first start only; None ever after, and once any key was made.
        """
        if not config.makes_default_key or self.key_rows():
            return None
        project = config.projects[0].name
        return self.create_key(project, KeyPolicy(name="made at the first start"), who)

    def revoke_key(self, key_id: str, who: Who) -> bool:
        """Revoke a made key.

        Returns:
            False where it was revoked already.

        Raises:
            RefusedError: There is none, or the file declares it.
        """
        with self._database.transaction():
            keys = {row.id: row for row in self.key_rows()}
            row = keys.get(key_id)
            if row is None:
                raise RefusedError(f"unknown key {shown(key_id)}{hint(key_id, keys)}")
            if row.origin == "file" and row.revoked_at is None:
                raise RefusedError(
                    f"key {shown(key_id)} is declared in the configuration file: take it "
                    "out of there, then `modelux check --apply`"
                )
            if row.revoked_at is not None:
                return False
            self._end_key(key_id)
            self._database.note(
                who, "key.revoked", _resource("key", key_id), {"project": row.project}
            )
        return True

    def _apply_keys(self, config: Config, who: Who) -> Iterator[Change]:
        known = {
            row.id: row
            for row in self.key_rows()
            if row.origin == "file" and row.revoked_at is None
        }
        wanted: dict[str, tuple[Secret, str, KeyPolicy]] = {}
        for project in config.projects:
            for key in project.keys:
                if key.secret is None:
                    # Read without secrets: what stands is left as it is.
                    return
                key_id = key.id or self._id_from(hash_key(self._pepper, key.secret))
                wanted[key_id] = (key.secret, project.name, key.policy)
        for key_id in known.keys() - wanted.keys():
            self._end_key(key_id)
            yield Change(
                action="key.removed",
                resource=_resource("key", key_id),
                detail={"project": known[key_id].project},
            )
        changed = []
        for key_id, (secret, name, policy) in wanted.items():
            row = known.get(key_id)
            digest = hash_key(self._pepper, secret)
            if row and (row.hash, row.project, row.policy) == (digest, name, policy):
                continue
            changed.append(key_id)
            self._refuse_twin(config, key_id, digest)
            # All that change go before the first returns: two may have swapped their values.
            self._database.run("DELETE FROM keys WHERE id = ? AND origin = 'file'", key_id)
        for key_id in changed:
            secret, name, policy = wanted[key_id]
            row = known.get(key_id)
            digest = hash_key(self._pepper, secret)
            self._add_key(secret, name, policy, who, origin="file", named=key_id)
            yield Change(
                action="key.added" if row is None else "key.changed",
                resource=_resource("key", key_id),
                detail={
                    "project": name,
                    "policy": plain(policy),
                    "value": row is None or row.hash != digest,
                },
            )

    def _refuse_twin(self, config: Config, key_id: str, digest: KeyHash) -> None:
        for row in self.key_rows():
            if row.revoked_at is not None:
                continue
            if row.origin == "made" and key_id == row.id:
                raise ConfigError(
                    [
                        f"{config.source}: key id {shown(key_id)} belongs to a key that was "
                        "made with `modelux keys create`; give the file's another one"
                    ]
                )
            if row.id != key_id and row.hash == digest and row.origin == "made":
                raise ConfigError(
                    [
                        f"{config.source}: key {shown(key_id)} is the same key as {row.id}, "
                        "which was made with `modelux keys create`; make another one"
                    ]
                )

    def _add_key(
        self,
        secret: Secret,
        project: str,
        policy: KeyPolicy,
        who: Who,
        *,
        origin: str,
        named: str | None,
    ) -> str:
        digest = hash_key(self._pepper, secret)
        key_id = named or self._id_from(digest)
        # A revoked key of that id gives its place up; the audit log remembers it.
        self._database.run(
            "DELETE FROM keys WHERE id = ? AND revoked_at_us IS NOT NULL", key_id
        )
        self._database.run(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            key_id,
            digest,
            project,
            origin,
            canonical(plain(policy)),
            clock.unix_us(),
            who.actor,
        )
        return key_id

    def _id_from(self, digest: KeyHash) -> str:
        taken = {row.id for row in self.key_rows() if row.hash != digest}
        length = _SHORT_HASH_CHARACTERS
        while (key_id := f"key_{digest[:length]}") in taken:
            length += 1
        return key_id

    def _end_key(self, key_id: str) -> None:
        self._database.run(
            "UPDATE keys SET revoked_at_us = ? WHERE id = ?", clock.unix_us(), key_id
        )

    # --- audit -----------------------------------------------------------------------------

    def audit(self, since: UnixUs = EVER) -> Iterator[AuditRow]:
        """Yield the audit log from an instant on, oldest first."""
        return self._database.audit(since)

    def verify(self) -> AuditBreak | None:
        """Return where the audit log first is not what was written; None where it is whole."""
        return self._database.verify()


class _OnlyLookingError(Exception):
    """Ends a transaction that only looked at what it would do."""


def decode(slug: str, row: VersionRow, faults: Faults) -> RoutingConfig | None:
    """Read a stored version again; None with faults noted where this release cannot."""
    reading = Reading(
        faults=faults, folder=Path(), env=MappingProxyType({}), with_secrets=False
    )
    return read_routing(load_json(row.content), f"@{slug} (v{row.version})", reading)


def declared_nouns(config: Config) -> dict[tuple[str, str], str]:
    """Return what a configuration declares besides keys and routes: kind and name to JSON."""
    nouns: dict[tuple[str, str], str] = {
        ("server", "server"): canonical(plain(config.server)),
    }
    for provider in config.providers:
        nouns["provider", provider.name] = canonical(plain(provider))
    for project in config.projects:
        nouns["project", project.name] = canonical(plain(project, without=("keys",)))
    for price in config.prices:
        nouns["price", f"{price.provider}/{price.model}"] = canonical(plain(price))
    for name, model in config.models:
        nouns["model", f"{name}/{model}"] = canonical({})
    return nouns


def plain(value: object, *, without: Sequence[str] = ()) -> object:
    """Return a noun of the configuration as plain data; what only locates it is left out."""
    if isinstance(value, Path | Address | Origin | SecretRef):
        return str(value)
    if is_dataclass(value):
        return {
            item.name: plain(getattr(value, item.name))
            for item in fields(value)
            if item.compare and item.name not in without
        }
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _difference(before: str | None, after: str | None) -> dict[str, object]:
    """Return which members differ, each with what it was and what it is."""
    old = load_json(before) if before else {}
    new = load_json(after) if after else {}
    assert isinstance(old, dict), before
    assert isinstance(new, dict), after
    return {
        name: {"from": old.get(name), "to": new.get(name)}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _resource(kind: str, name: str) -> str:
    return kind if kind == name else f"{kind} {name}"


def _route_name(project: str, slug: str) -> str:
    return f"@{slug}" if project == "default" else f"{project}/@{slug}"


def _version_row(row: tuple[object, ...]) -> VersionRow:
    version, digest, content, actor, source, why, created_at = row
    return VersionRow(
        version=_int(version),
        hash=ContentHash(str(digest)),
        content=str(content),
        actor=str(actor),
        source=str(source),
        why=str(why),
        created_at=UnixUs(_int(created_at)),
    )


def _key_row(row: tuple[object, ...]) -> KeyRow:
    key_id, digest, project, origin, policy, created_at, created_by, revoked_at = row
    return KeyRow(
        id=str(key_id),
        hash=KeyHash(str(digest)),
        project=str(project),
        origin=str(origin),
        policy=_policy(str(policy)),
        created_at=UnixUs(_int(created_at)),
        created_by=str(created_by),
        revoked_at=None if revoked_at is None else UnixUs(_int(revoked_at)),
    )


def _policy(stored: str) -> KeyPolicy:
    data = load_json(stored)
    assert isinstance(data, dict), stored
    names = {item.name for item in fields(KeyPolicy)}
    return build(
        KeyPolicy, {name: _tuples(value) for name, value in data.items() if name in names}
    )


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _int(value: object) -> int:
    assert isinstance(value, int), value
    return value
