"""Which tags requests have carried, as far as the traces that are kept tell."""

import contextlib
import sqlite3
from typing import Final

from modelux.errors import StoreError
from modelux.trace.files import TraceFiles
from modelux.trace.schema import open_day_to_read

KEYS_MAX: Final = 1_000
"""Of one day: callers name tags, and whoever makes up more than these means none of them."""


def carried_tags(files: TraceFiles, requests_least: int) -> frozenset[str] | None:
    """Return the keys of all tags that traces have carried.

    Args:
        files: The trace store; need not exist.
        requests_least: How many traces there have to be, so that a missing key says something.

    Returns:
        The keys; None where there are fewer traces, or more keys than can be told.

    Raises:
        StoreError: A day cannot be read.
    """
    keys: set[str] = set()
    requests = 0
    for day in files.days():
        path = files.day_path(day)
        try:
            with contextlib.closing(open_day_to_read(path)) as db:
                if requests < requests_least:
                    requests += _count(db, requests_least)
                found = _keys(db)
        except sqlite3.Error as failure:
            raise StoreError(f"{path}: cannot be read: {failure}") from failure
        if len(found) > KEYS_MAX:
            return None
        keys.update(found)
    return frozenset(keys) if requests >= requests_least else None


def _count(db: sqlite3.Connection, most: int) -> int:
    """Return how many requests a day has, and no more than `most`: all of them take long."""
    found = db.execute("SELECT count(*) FROM (SELECT 1 FROM records LIMIT ?)", (most,))
    return int(found.fetchone()[0])


def _keys(db: sqlite3.Connection) -> list[str]:
    """Return the keys of a day's tags by leaps: the index has one entry for each value."""
    keys: list[str] = []
    after = ""
    while len(keys) <= KEYS_MAX:
        found = db.execute("SELECT min(key) FROM tags WHERE key > ?", (after,)).fetchone()[0]
        if found is None:
            break
        after = str(found)
        keys.append(after)
    return keys
