"""The keys of one `control.db`: made, declared by the file, revoked; never the key itself."""

from collections.abc import Iterator
from dataclasses import fields
from typing import final

from modelux import clock
from modelux.config.database import Database, Who, load_json
from modelux.config.keys import KeyHash, hash_key, make_key
from modelux.config.model import Config, KeyPolicy
from modelux.config.read import build, hint, shown
from modelux.config.routing import canonical
from modelux.config.rows import Change, KeyRow, MadeKey, plain, resource, whole
from modelux.domain import Secret
from modelux.errors import ConfigError, RefusedError
from modelux.units import UnixUs

_SHORT_HASH_CHARACTERS = 8


@final
class Keyring:
    """Keys by their id; each is known by its hash under the pepper."""

    __slots__ = ("_database", "_pepper")

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper

    def all(self) -> list[KeyRow]:
        """Return all keys, revoked ones too, oldest first."""
        found = self._database.rows(
            "SELECT id, hash, project, origin, policy, created_at_us, created_by, "
            "revoked_at_us FROM keys ORDER BY created_at_us, id"
        )
        return [_key_row(row) for row in found]

    def create(self, project: str, policy: KeyPolicy, who: Who) -> MadeKey:
        """Make a key for a project; its text is returned here and never again."""
        secret = make_key()
        with self._database.transaction():
            key_id = self._add(secret, project, policy, who, origin="made", named=None)
            self._database.note(
                who,
                "key.created",
                resource("key", key_id),
                {"project": project, "policy": plain(policy)},
            )
        return MadeKey(id=key_id, secret=secret)

    def revoke(self, key_id: str, who: Who) -> bool:
        """Revoke a made key.

        Returns:
            False where it was revoked already.

        Raises:
            RefusedError: There is none, or the file declares it.
        """
        with self._database.transaction():
            keys = {row.id: row for row in self.all()}
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
            self._end(key_id)
            self._database.note(
                who, "key.revoked", resource("key", key_id), {"project": row.project}
            )
        return True

    def apply(self, config: Config, who: Who) -> Iterator[Change]:
        """Make the keys of the file as it declares them, inside a transaction.

        Raises:
            ConfigError: One of them is a key that was made, or has its id.
        """
        known = {
            row.id: row for row in self.all() if row.origin == "file" and row.revoked_at is None
        }
        wanted: dict[str, tuple[Secret, str, KeyPolicy]] = {}
        for project in config.projects:
            for key in project.keys:
                if key.secret is None:
                    # Read without secrets: what stands is left as it is.
                    return
                key_id = key.id or self.id_of(key.secret)
                wanted[key_id] = (key.secret, project.name, key.policy)
        for key_id in known.keys() - wanted.keys():
            self._end(key_id)
            yield Change(
                action="key.removed",
                resource=resource("key", key_id),
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
            self._add(secret, name, policy, who, origin="file", named=key_id)
            yield Change(
                action="key.added" if row is None else "key.changed",
                resource=resource("key", key_id),
                detail={
                    "project": name,
                    "policy": plain(policy),
                    "value": row is None or row.hash != digest,
                },
            )

    def _refuse_twin(self, config: Config, key_id: str, digest: KeyHash) -> None:
        for row in self.all():
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

    def id_of(self, secret: Secret) -> str:
        """Return the id that a key of the file has where it names none."""
        return self._id_from(hash_key(self._pepper, secret))

    def _add(
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
        taken = {row.id for row in self.all() if row.hash != digest}
        length = _SHORT_HASH_CHARACTERS
        while (key_id := f"key_{digest[:length]}") in taken:
            length += 1
        return key_id

    def _end(self, key_id: str) -> None:
        self._database.run(
            "UPDATE keys SET revoked_at_us = ? WHERE id = ?", clock.unix_us(), key_id
        )


def _key_row(row: tuple[object, ...]) -> KeyRow:
    key_id, digest, project, origin, policy, created_at, created_by, revoked_at = row
    return KeyRow(
        id=str(key_id),
        hash=KeyHash(str(digest)),
        project=str(project),
        origin=str(origin),
        policy=_policy(str(policy)),
        created_at=UnixUs(whole(created_at)),
        created_by=str(created_by),
        revoked_at=None if revoked_at is None else UnixUs(whole(revoked_at)),
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
