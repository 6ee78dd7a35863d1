"""`control.db`: the file, its tables, its transactions, and the audit log inside it.

SQLite in WAL mode with `synchronous = FULL`: what was acknowledged survives power loss.
Several processes write (the supervisor at a load, commands of the operator), one at a time:
each change is one `BEGIN IMMEDIATE` transaction, and it writes its audit rows in that same
transaction. Versions and audit rows are never changed and never deleted; triggers see to that.

The audit log is a chain: each row's hash covers the row and the hash before it, so a row that
was changed, taken out or put in breaks every hash from there on.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelux import clock
from modelux.config.routing import canonical
from modelux.errors import StoreError
from modelux.units import UnixUs

FILE_NAME: Final = "control.db"
LAYOUT: Final = 2
BUSY_S: Final = 10.0
"""How long a change waits for another process's; theirs take milliseconds."""
_OPEN_TRIES_MAX: Final = 50
_OPEN_PAUSE_S: Final = 0.1
EVER: Final = UnixUs(-(2**63))
"""Before every instant that a row can bear."""
_GENESIS: Final = "0" * 64

_TABLES: Final = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE declared (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

CREATE TABLE routes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project TEXT NOT NULL,
    slug TEXT NOT NULL,
    live INTEGER,
    in_file INTEGER NOT NULL DEFAULT 0,
    file_hash TEXT,
    updated_at_us INTEGER NOT NULL,
    UNIQUE (project, slug)
);

CREATE TABLE versions (
    route_id INTEGER NOT NULL REFERENCES routes (id),
    version INTEGER NOT NULL CHECK (version >= 1),
    hash TEXT NOT NULL,
    content TEXT NOT NULL,
    actor TEXT NOT NULL,
    source TEXT NOT NULL,
    why TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    PRIMARY KEY (route_id, version)
) WITHOUT ROWID;

CREATE TABLE activations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route_id INTEGER NOT NULL REFERENCES routes (id),
    version INTEGER,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    at_us INTEGER NOT NULL
);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL,
    project TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('file', 'made')),
    policy TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at_us INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX keys_by_hash ON keys (hash) WHERE revoked_at_us IS NULL;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    source TEXT NOT NULL,
    action TEXT NOT NULL,
    resource TEXT NOT NULL,
    why TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_only_appended BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER versions_are_never_changed BEFORE UPDATE ON versions
BEGIN SELECT RAISE(ABORT, 'versions are immutable'); END;
CREATE TRIGGER versions_are_never_deleted BEFORE DELETE ON versions
BEGIN SELECT RAISE(ABORT, 'versions are immutable'); END;
"""

_CORRECTIONS: Final = """
CREATE TABLE credits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row_key BLOB NOT NULL,
    budget TEXT NOT NULL,
    subject TEXT NOT NULL,
    window_start_s INTEGER NOT NULL,
    window_end_s INTEGER,
    usd INTEGER NOT NULL CHECK (usd > 0),
    reason TEXT NOT NULL,
    request_id TEXT,
    actor TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
);
CREATE INDEX credits_by_row ON credits (row_key);

CREATE TABLE bound_resets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    actor TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
);

CREATE TRIGGER credits_are_never_changed BEFORE UPDATE ON credits
BEGIN SELECT RAISE(ABORT, 'credits are append-only'); END;
CREATE TRIGGER credits_are_never_deleted BEFORE DELETE ON credits
BEGIN SELECT RAISE(ABORT, 'credits are append-only'); END;
CREATE TRIGGER bound_resets_are_never_changed BEFORE UPDATE ON bound_resets
BEGIN SELECT RAISE(ABORT, 'resets of bounds are append-only'); END;
CREATE TRIGGER bound_resets_are_never_deleted BEFORE DELETE ON bound_resets
BEGIN SELECT RAISE(ABORT, 'resets of bounds are append-only'); END;
"""

_STEPS: Final = (_TABLES, _CORRECTIONS)
"""What leads from each layout to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who changes something, from where, and why, for the audit log."""

    actor: str
    """`file`, `cli:LOGIN`, `api:KEY`."""
    source: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row of the audit log."""

    seq: int
    at: UnixUs
    actor: str
    source: str
    action: str
    """A noun and a verb, as in `route.promoted`."""
    resource: str
    why: str
    detail: str
    """What changed, as canonical JSON; never a secret."""
    previous: str
    hash: str

    def computed_hash(self) -> str:
        """Return the hash that this row must have."""
        covered = [
            self.seq,
            self.at,
            self.actor,
            self.source,
            self.action,
            self.resource,
            self.why,
            self.detail,
            self.previous,
        ]
        return hashlib.sha256(canonical(covered).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditBreak:
    """The first place at which the audit log is not what was written."""

    seq: int
    why: str


class Database:
    """One connection to `control.db`; one for each process that needs it, in one thread."""

    __slots__ = ("_changes", "_connection", "path")

    def __init__(self, path: Path | None) -> None:
        """Open the file, making it and its folder where they are missing.

        Args:
            path: The file; None for one in memory that nobody else sees.

        Raises:
            StoreError: It cannot be opened, or a later release made it.
        """
        self.path = path
        self._changes = 0
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=BUSY_S, isolation_level=None
            )
            self._prepare()
        except (OSError, sqlite3.Error) as failure:
            raise StoreError(f"`{path}` cannot be used: {failure}") from failure

    def _prepare(self) -> None:
        if self.path is not None:
            self.path.chmod(0o600)
        for tries in range(1, _OPEN_TRIES_MAX + 1):
            try:
                # SQLite does not wait for the lock that this takes, however long its timeout.
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if tries == _OPEN_TRIES_MAX:
                    raise
                clock.pause_s(_OPEN_PAUSE_S)
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA trusted_schema = OFF")
        layout = self._layout()
        if layout < LAYOUT:
            with self.transaction():
                # Another process may have made the tables while this one waited.
                for known in range(self._layout(), LAYOUT):
                    for statement in _statements(_STEPS[known]):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {known + 1}")
            layout = self._layout()
        if layout != LAYOUT:
            raise StoreError(
                f"`{self.path}` has layout {layout}, this release knows {LAYOUT}: a later "
                "release of modelux made it"
            )

    def _layout(self) -> int:
        row = self._connection.execute("PRAGMA user_version").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def data_version(self) -> int:
        """Return a number that changes whenever this or another process has changed the file.

        Costs a few microseconds; only ever compared for being different.
        """
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0]) + self._changes

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of the block or nothing of it, alone.

        Raises:
            StoreError: Another process held the file for too long, or it cannot be written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as failure:
            raise StoreError(f"`{self.path}` cannot be changed: {failure}") from failure
        try:
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as failure:
            self.undo()
            raise StoreError(f"`{self.path}` cannot be changed: {failure}") from failure
        except BaseException:
            self.undo()
            raise
        self._changes += 1

    def undo(self) -> None:
        """Take back what the open transaction did; nothing where none is open."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def run(self, statement: str, *values: object) -> None:
        """Run one statement that changes something, inside a transaction."""
        assert self._connection.in_transaction, statement
        self._connection.execute(statement, values)

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Return all rows of a query."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as failure:
            raise StoreError(f"`{self.path}` cannot be read: {failure}") from failure

    def meta(self, name: str) -> str | None:
        """Return a value kept under a name."""
        found = self.rows("SELECT value FROM meta WHERE name = ?", name)
        return str(found[0][0]) if found else None

    def set_meta(self, name: str, value: str) -> None:
        """Keep a value under a name, inside a transaction."""
        self.run("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value)

    # --- audit -----------------------------------------------------------------------------

    def note(self, who: Who, action: str, resource: str, detail: Mapping[str, object]) -> None:
        """Append one audit row, inside the transaction that makes the change."""
        last = self.rows("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        seq, previous = (_int(last[0][0]) + 1, str(last[0][1])) if last else (1, _GENESIS)
        row = AuditRow(
            seq=seq,
            at=clock.unix_us(),
            actor=who.actor,
            source=who.source,
            action=action,
            resource=resource,
            why=who.why,
            detail=canonical(dict(detail)),
            previous=previous,
            hash="",
        )
        self.run(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.seq,
            row.at,
            row.actor,
            row.source,
            row.action,
            row.resource,
            row.why,
            row.detail,
            row.previous,
            row.computed_hash(),
        )
        # Where the log's end was cut off, the chain alone could not tell.
        self.set_meta("audit_seq", str(seq))

    def audit(self, since: UnixUs = EVER) -> Iterator[AuditRow]:
        """Yield the rows from an instant on, oldest first."""
        try:
            cursor = self._connection.execute(
                "SELECT seq, at_us, actor, source, action, resource, why, detail, previous, "
                "hash FROM audit WHERE at_us >= ? ORDER BY seq",
                (since,),
            )
            for row in cursor:
                yield _audit_row(row)
        except sqlite3.Error as failure:
            raise StoreError(f"`{self.path}` cannot be read: {failure}") from failure

    def verify(self) -> AuditBreak | None:
        """Walk the whole audit log; return where it first is not what was written."""
        seq, previous = 0, _GENESIS
        for row in self.audit():
            seq += 1
            if row.seq != seq:
                return AuditBreak(seq=seq, why=f"the row is missing; row {row.seq} follows")
            if row.previous != previous:
                return AuditBreak(seq=seq, why="it does not continue the row before it")
            if row.hash != row.computed_hash():
                return AuditBreak(seq=seq, why="its content is not what was written")
            previous = row.hash
        written = int(self.meta("audit_seq") or 0)
        if seq != written:
            return AuditBreak(
                seq=seq + 1, why=f"the log ends after row {seq}, and {written} were written"
            )
        return None


def _audit_row(row: tuple[object, ...]) -> AuditRow:
    seq, at, actor, source, action, resource, why, detail, previous, digest = row
    return AuditRow(
        seq=_int(seq),
        at=UnixUs(_int(at)),
        actor=str(actor),
        source=str(source),
        action=str(action),
        resource=str(resource),
        why=str(why),
        detail=str(detail),
        previous=str(previous),
        hash=str(digest),
    )


def _int(value: object) -> int:
    # A column whose type was tampered with must read as a broken row, not stop the walk.
    return value if isinstance(value, int) else -1


def _statements(script: str) -> Iterator[str]:
    """Split a script: run as a whole it would commit the transaction that it is in."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def load_json(text: str) -> object:
    """Return what a stored canonical text holds."""
    value: object = json.loads(text)
    return value
