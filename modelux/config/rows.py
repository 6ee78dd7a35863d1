"""What the store of the configuration hands out: changes, versions, routes, keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from modelux.config.keys import KeyHash
from modelux.config.model import Address, KeyPolicy, Origin, SecretRef
from modelux.config.routing import ContentHash
from modelux.domain import Secret
from modelux.units import UnixUs


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


def resource(kind: str, name: str) -> str:
    """Return how the audit log calls a thing."""
    return kind if kind == name else f"{kind} {name}"


def route_name(project: str, slug: str) -> str:
    """Return how a route is called: its project is told where it is not the default one."""
    return f"@{slug}" if project == "default" else f"{project}/@{slug}"


def whole(value: object) -> int:
    """Return a column that holds a whole number."""
    assert isinstance(value, int), value
    return value
