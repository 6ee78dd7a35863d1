"""Routes and their numbered versions; *live* is a pointer, each move of it an activation.

A version is immutable. The file's declaration makes one only when its content differs from what
the file declared last, so a rollback sticks until the file changes. Whether what is live can
serve is not judged here: who changes something does so inside a transaction, and resolves
everything before it is committed (`config/versions.py`).
"""

from collections.abc import Iterator
from typing import final

from modelux import clock
from modelux.config.database import Database, Who
from modelux.config.model import Config
from modelux.config.read import hint, shown
from modelux.config.routing import ContentHash, canonical, content_hash, encode
from modelux.config.rows import (
    Change,
    RouteRow,
    VersionRow,
    resource,
    route_name,
    whole,
)
from modelux.errors import RefusedError
from modelux.units import UnixUs


@final
class Routes:
    """The routes of one `control.db`."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, project: str | None = None) -> list[RouteRow]:
        """Return all routes, or a project's, in the order in which they were made."""
        found = self._database.rows(
            "SELECT id, project, slug, live, in_file, file_hash, updated_at_us FROM routes "
            "WHERE ?1 IS NULL OR project = ?1 ORDER BY id",
            project,
        )
        return [self._row(row) for row in found]

    def one(self, project: str, slug: str) -> RouteRow | None:
        """Return one route."""
        found = self._database.rows(
            "SELECT id, project, slug, live, in_file, file_hash, updated_at_us FROM routes "
            "WHERE project = ? AND slug = ?",
            project,
            slug,
        )
        return self._row(found[0]) if found else None

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

    def existing(self, project: str, slug: str) -> RouteRow:
        """Return one route.

        Raises:
            RefusedError: There is none; the message names the nearest.
        """
        row = self.one(project, slug)
        if row is None:
            slugs = [other.slug for other in self.all(project)]
            raise RefusedError(
                f"unknown routing config @{slug} in project {shown(project)}"
                + hint(slug, slugs)
            )
        return row

    def live_before(self, row: RouteRow) -> int:
        """Return what a rollback goes back to: steps back are taken back, not walked again."""
        trail: list[int] = []
        for version, kind in self._database.rows(
            "SELECT version, kind FROM activations WHERE route_id = ? ORDER BY id", row.id
        ):
            if not isinstance(version, int):
                continue
            if kind == "rolled_back" and version in trail:
                while trail[-1] != version:
                    trail.pop()
            elif not trail or trail[-1] != version:
                trail.append(version)
        if row.live is None and trail:
            return trail[-1]
        if len(trail) < 2:
            raise RefusedError(f"@{row.slug} has no earlier version to go back to")
        return trail[-2]

    def apply(self, config: Config, who: Who) -> Iterator[Change]:
        """Make the routes as the file declares them, inside a transaction; rollbacks stick."""
        is_strict = config.server.provision == "strict"
        declared = {(route.project, route.slug): route for route in config.routes}
        for route in config.routes:
            row = self.one(route.project, route.slug)
            row = row or self.make(route.project, route.slug)
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
                version = self.add_version(row, content, who)
            self.activate(row, version, "file", who)
            yield Change(
                action="route.changed" if row.latest else "route.added",
                resource=resource("route", route_name(route.project, route.slug)),
                detail={
                    "from": None if row.live is None else row.live.version,
                    "to": version,
                    "hash": content_hash(content),
                    "made": is_made,
                },
            )
        for row in self.all():
            if (row.project, row.slug) not in declared:
                yield from self._leave_out(row, who, is_strict=is_strict)

    def _leave_out(self, row: RouteRow, who: Who, *, is_strict: bool) -> Iterator[Change]:
        """Retire a route that the file says no more, unless somebody has taken it over."""
        is_the_files = row.in_file and row.live is not None and row.live.hash == row.file_hash
        if row.in_file:
            self._database.run("UPDATE routes SET in_file = 0 WHERE id = ?", row.id)
        if row.live is None or not (is_strict or is_the_files):
            return
        self.activate(row, None, "file", who)
        yield Change(
            action="route.retired",
            resource=resource("route", route_name(row.project, row.slug)),
            detail={"from": row.live.version, "to": None},
        )

    def make(self, project: str, slug: str) -> RouteRow:
        """Make a route without versions, inside a transaction."""
        self._database.run(
            "INSERT INTO routes (project, slug, updated_at_us) VALUES (?, ?, ?)",
            project,
            slug,
            clock.unix_us(),
        )
        row = self.one(project, slug)
        assert row is not None, slug
        return row

    def add_version(self, row: RouteRow, content: str, who: Who) -> int:
        """Append a version, inside a transaction; return its number."""
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

    def activate(self, row: RouteRow, version: int | None, kind: str, who: Who) -> None:
        """Make a version live, or none, inside a transaction.

        Args:
            row: The route.
            version: Which; None retires the route.
            kind: How it came to it; `rolled_back` is a step back, all others lead on.
            who: By whom.
        """
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

    def _latest(self, route_id: int) -> int:
        found = self._database.rows(
            "SELECT coalesce(max(version), 0) FROM versions WHERE route_id = ?", route_id
        )
        return whole(found[0][0])

    def _newest_with(self, row: RouteRow, content: str) -> int | None:
        found = self._database.rows(
            "SELECT max(version) FROM versions WHERE route_id = ? AND hash = ?",
            row.id,
            content_hash(content),
        )
        return None if found[0][0] is None else whole(found[0][0])

    def _row(self, row: tuple[object, ...]) -> RouteRow:
        route_id, project, slug, live, in_file, file_hash, updated_at = row
        found = self._database.rows(
            "SELECT version, hash, content, actor, source, why, created_at_us FROM versions "
            "WHERE route_id = ? AND version = ?",
            route_id,
            live,
        )
        return RouteRow(
            id=whole(route_id),
            project=str(project),
            slug=str(slug),
            live=_version_row(found[0]) if found else None,
            latest=self._latest(whole(route_id)),
            in_file=bool(in_file),
            file_hash=None if file_hash is None else ContentHash(str(file_hash)),
            updated_at=UnixUs(whole(updated_at)),
        )


def _version_row(row: tuple[object, ...]) -> VersionRow:
    version, digest, content, actor, source, why, created_at = row
    return VersionRow(
        version=whole(version),
        hash=ContentHash(str(digest)),
        content=str(content),
        actor=str(actor),
        source=str(source),
        why=str(why),
        created_at=UnixUs(whole(created_at)),
    )
