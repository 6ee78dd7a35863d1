"""`ControlDb`: numbered versions of routes, keys, what the file declared, and their history.

One face on `config/routes.py`, `config/keyring.py` and `config/database.py`. Everything that
would be live after a change is resolved before the change is committed, inside the one
transaction: what cannot serve is refused, and nothing has happened.
"""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from modelux.config.budgets import budget_data, check_known, downgrade_nodes
from modelux.config.credits import BoundReset, Credit, CreditRow, Credits, CreditSum
from modelux.config.database import (
    EVER,
    FILE_NAME,
    AuditBreak,
    AuditRow,
    Database,
    Who,
    load_json,
)
from modelux.config.keyring import Keyring
from modelux.config.keys import PEPPER_BYTES, hash_end_user, load_pepper
from modelux.config.model import Config, KeyPolicy, Model, RoutingConfig, options
from modelux.config.read import Faults, Reading
from modelux.config.resolve import LiveRoute, Resolver
from modelux.config.routes import Routes
from modelux.config.routing import canonical, content_hash, encode, read_routing
from modelux.config.rows import (
    Change,
    KeyRow,
    MadeKey,
    RouteRow,
    Saved,
    VersionRow,
    plain,
    resource,
    route_name,
)
from modelux.errors import RefusedError
from modelux.units import UnixUs

FILE_ACTOR: Final = "file"


class ControlDb:
    """All that is kept of the configuration, in one data directory."""

    __slots__ = ("_credits", "_database", "_keyring", "_pepper", "_routes")

    def __init__(self, data_dir: Path | None) -> None:
        """Open, or make, what `data_dir` keeps; None keeps it in memory, for looking ahead.

        Raises:
            StoreError: `control.db` or `keys.pepper` cannot be used.
        """
        self._pepper = bytes(PEPPER_BYTES) if data_dir is None else load_pepper(data_dir)
        self._database = Database(None if data_dir is None else data_dir / FILE_NAME)
        self._routes = Routes(self._database)
        self._keyring = Keyring(self._database, self._pepper)
        self._credits = Credits(self._database)

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
            *self._keyring.apply(config, who),
            *self._routes.apply(config, who),
        ]
        faults = Faults(config.source, config.spans)
        self._check_budgets(config, faults)
        self._check_live(config, faults)
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
                resource=resource(kind, name),
                detail=_difference(before, content),
            )
        for kind, name in known.keys() - wanted.keys():
            self._database.run("DELETE FROM declared WHERE kind = ? AND name = ?", kind, name)
            yield Change(
                action=f"{kind}.removed",
                resource=resource(kind, name),
                detail=_difference(known[kind, name], None),
            )

    # --- routes ----------------------------------------------------------------------------

    def routes(self, project: str | None = None) -> list[RouteRow]:
        """Return all routes, or a project's, in the order in which they were made."""
        return self._routes.all(project)

    def route(self, project: str, slug: str) -> RouteRow | None:
        """Return one route."""
        return self._routes.one(project, slug)

    def versions(self, route: RouteRow) -> list[VersionRow]:
        """Return a route's versions, oldest first."""
        return self._routes.versions(route)

    def version(self, route: RouteRow, version: int) -> VersionRow | None:
        """Return one version of a route."""
        return self._routes.version(route, version)

    def known_slugs(self, config: Config) -> dict[str, list[str]]:
        """Return the slugs that serve, by project, also those that the file adds."""
        known: dict[str, list[str]] = {project.name: [] for project in config.projects}
        live = [(row.project, row.slug) for row in self.routes() if row.live is not None]
        for project, slug in [*live, *((one.project, one.slug) for one in config.routes)]:
            if project in known:
                known[project].append(slug)
        return known

    def known_keys(self, config: Config) -> dict[str, str | None]:
        """Return each key's project by its id, as once the configuration is applied.

        None stands for the project of a key that opens nothing any more.
        """
        known = {
            row.id: None if row.revoked_at is not None or row.origin == "file" else row.project
            for row in self.key_rows()
        }
        for project in config.projects:
            for key in project.keys:
                key_id = key.id or (key.secret and self._keyring.id_of(key.secret))
                if key_id:
                    known[key_id] = project.name
                elif key.secret is None:
                    # Read without its secrets: any of the file's keys may be this one.
                    known = {name: owner for name, owner in known.items() if owner is not None}
        return known

    def hash_end_user(self, end_user: str) -> str:
        """Return an end user as the traces hold it where only hashes are stored."""
        return hash_end_user(self._pepper, end_user)

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
            row = self.route(project, slug) or self._routes.make(project, slug)
            content = canonical(encode(routing))
            if row.live is not None and row.live.hash == content_hash(content):
                return Saved(version=row.live.version, is_made=False, is_live=True)
            version = self._routes.add_version(row, content, who)
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
                self._routes.activate(row, version, "saved", who)
                self._check_live(config, faults, made)
            self._database.note(
                who,
                "route.saved" if draft else "route.changed",
                resource("route", route_name(project, slug)),
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
            row = self._routes.existing(project, slug)
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
            row = self._routes.existing(project, slug)
            if version is None:
                version = self._routes.live_before(row)
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
        self._routes.activate(row, version, kind, who)
        self._check_live(config, Faults(f"@{row.slug} (v{version})"))
        self._database.note(
            who,
            f"route.{kind}",
            resource("route", route_name(row.project, row.slug)),
            {"from": before, "to": version},
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
        for budget in config.budgets:
            downgrade_nodes(config, budget, live, self.pinned, faults)
        faults.check()

    def _check_budgets(self, config: Config, faults: Faults) -> None:
        """Note keys and routing configs that no budget can mean, as the store stands now."""
        declared = [key for project in config.projects for key in project.keys]
        ids = [row.id for row in self.key_rows()] + [key.id for key in declared if key.id]
        # Read without its secrets, a key without an id has one that is not known.
        is_complete = all(key.id or key.secret for key in declared)
        slugs = [row.slug for row in self.routes()]
        for budget in config.budgets:
            check_known(budget, ids if is_complete else None, slugs, faults)

    # --- keys ------------------------------------------------------------------------------

    def key_rows(self) -> list[KeyRow]:
        """Return all keys, revoked ones too, oldest first."""
        return self._keyring.all()

    def create_key(self, project: str, policy: KeyPolicy, who: Who) -> MadeKey:
        """Make a key for a project; its text is returned here and never again."""
        return self._keyring.create(project, policy, who)

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
        return self._keyring.revoke(key_id, who)

    # --- corrections of the ledger ---------------------------------------------------------

    def add_credit(self, credit: Credit, who: Who) -> int:
        """Keep a credit; return what its row's come to, in nano-USD.

        Raises:
            RefusedError: Nothing is credited, no reason is given, or it all comes to too much.
        """
        return self._credits.add(credit, who)

    def credits_total(self, key: bytes) -> int:
        """Return what the credits of one row of the ledger come to, in nano-USD."""
        return self._credits.total(key)

    def credit_sums(self, ending_after_s: int | None = None) -> list[CreditSum]:
        """Return the sum of each row that was ever credited; without windows past by then."""
        return self._credits.sums(ending_after_s)

    def credits_since(self, after_id: int = 0) -> list[CreditRow]:
        """Return the credits behind a number, oldest first."""
        return self._credits.since(after_id)

    def add_bound_reset(self, model: str, who: Who) -> int:
        """Keep the wish that a model's bound is learnt anew; return its number."""
        return self._credits.add_reset(model, who)

    def bound_resets(self, after_id: int = 0) -> list[BoundReset]:
        """Return the resets behind a number, oldest first."""
        return self._credits.resets(after_id)

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
    for model in config.models:
        nouns["model", f"{model.provider}/{model.model}"] = canonical(_said(model))
    for budget in config.budgets:
        nouns["budget", budget.name] = canonical(budget_data(budget))
    return nouns


def _said(model: Model) -> dict[str, object]:
    """Return what is said of a model, and nothing of what is left to the shipped list."""
    said = {name: getattr(model, name) for name in options(Model)}
    return {name: value for name, value in said.items() if value is not None}


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
