"""The tables of a day's database, and how it is opened.

`records` has a column for what is searched by, and is narrow because a search by latency or
cost reads all of it; `metas` has the records themselves, compressed. `tags` is the index of
tags in the order of time, so the newest with a tag stand at its end. `rollups` sums each minute
for the report, with histograms for its percentiles; `totals` sums the day for `/metrics`;
`rings` keeps what drained rings had counted; `events` is what happened to budgets, and
`health_events` to targets. These five outlive the records.
"""

import sqlite3
import urllib.parse
from pathlib import Path
from typing import Final

from modelux.errors import StoreError

SCHEMA_VERSION: Final = 3
BUSY_TIMEOUT_MS: Final = 5_000
"""Two writers meet only while one of them is ending; readers never block anybody (WAL)."""

KEPT_TABLES: Final = ("rollups", "totals", "rings", "events", "health_events")
"""What stays of a day when its records go."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  ts INTEGER NOT NULL,
  project TEXT NOT NULL,
  route TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  model_requested TEXT NOT NULL,
  status INTEGER NOT NULL,
  end_user TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  conversation_id TEXT NOT NULL,
  total_us INTEGER,
  cost_nusd INTEGER,
  bodies TEXT NOT NULL,
  body_hour INTEGER,
  body_part INTEGER,
  body_offset INTEGER,
  body_length INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS metas (seq INTEGER PRIMARY KEY, meta BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS records_ts ON records (ts);
CREATE INDEX IF NOT EXISTS records_failed ON records (ts) WHERE status >= 400;
CREATE INDEX IF NOT EXISTS records_trace_id ON records (trace_id) WHERE trace_id <> '';
CREATE INDEX IF NOT EXISTS records_conversation_id ON records (conversation_id)
  WHERE conversation_id <> '';
CREATE INDEX IF NOT EXISTS records_end_user ON records (end_user, ts) WHERE end_user <> '';
CREATE TABLE IF NOT EXISTS tags (
  key TEXT NOT NULL, value TEXT NOT NULL, ts INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (key, value, ts, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollups (
  minute INTEGER NOT NULL,
  project TEXT NOT NULL, route TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
  requests INTEGER NOT NULL, errors INTEGER NOT NULL, unpriced INTEGER NOT NULL,
  cost_nusd INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
  latency BLOB NOT NULL, ttft BLOB NOT NULL,
  PRIMARY KEY (minute, project, route, provider, model)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
  kind TEXT NOT NULL, labels TEXT NOT NULL, bucket INTEGER NOT NULL,
  count INTEGER NOT NULL, sum INTEGER NOT NULL,
  PRIMARY KEY (kind, labels, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rings (
  slot INTEGER NOT NULL, generation INTEGER NOT NULL,
  accepted INTEGER NOT NULL, spilled INTEGER NOT NULL, bodies_cut INTEGER NOT NULL,
  bodies_shed INTEGER NOT NULL, large_bodies_shed INTEGER NOT NULL, lost INTEGER NOT NULL,
  PRIMARY KEY (slot, generation)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id TEXT PRIMARY KEY,
  ts_us INTEGER NOT NULL,
  kind TEXT NOT NULL,
  budget_id TEXT NOT NULL, budget TEXT NOT NULL, subject TEXT NOT NULL,
  window_start_s INTEGER NOT NULL, window_end_s INTEGER,
  cap_nusd INTEGER,
  credits_nusd INTEGER NOT NULL, spent_nusd INTEGER NOT NULL, held_nusd INTEGER NOT NULL,
  overrun_nusd INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_ts_us ON events (ts_us);
CREATE TABLE IF NOT EXISTS health_events (
  id TEXT PRIMARY KEY,
  ts_us INTEGER NOT NULL,
  provider TEXT NOT NULL, model TEXT NOT NULL,
  before TEXT NOT NULL, state TEXT NOT NULL,
  error_permille INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS health_events_ts_us ON health_events (ts_us);
"""


def open_day(path: Path) -> sqlite3.Connection:
    """Open a day's database for writing, making it where it is not there yet.

    Durable against the death of any process; a power loss may take the last seconds, never
    the file (WAL with `synchronous=NORMAL`).

    Raises:
        StoreError: Made by a newer build.
        sqlite3.Error: Damaged, or it cannot be written.
    """
    is_new = not path.exists()
    # Every transaction is begun and ended by name; Python's own guesses stay out of it.
    day = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1_000)
    try:
        if is_new:
            path.chmod(0o600)
        day.execute("PRAGMA journal_mode = WAL")
        day.execute("PRAGMA synchronous = NORMAL")
        # 16 MiB between checkpoints: fewer fsyncs than the default 4.
        day.execute("PRAGMA wal_autocheckpoint = 4096")
        # Tags of many values touch pages all over their tree; the default is 2 MiB.
        day.execute("PRAGMA cache_size = -32768")
        version = day.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written by a newer modelux (schema {version}, this one writes "
                f"{SCHEMA_VERSION}): use that one, or move the file away"
            )
        if version < SCHEMA_VERSION:
            day.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
    except BaseException:
        day.close()
        raise
    return day


def open_day_to_read(path: Path) -> sqlite3.Connection:
    """Open a day's database for reading only; whoever writes it is not disturbed.

    Raises:
        sqlite3.Error: It is not there, or cannot be read.
    """
    uri = f"file:{urllib.parse.quote(str(path))}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1_000)


def is_damaged(failure: sqlite3.Error) -> bool:
    """Return whether an error says that the file itself is broken."""
    code = failure.sqlite_errorcode if hasattr(failure, "sqlite_errorcode") else 0
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
