"""What the traces show of a window for a budget's scopes: the start of one that is new.

Exact: each record's cost is whole nano-USD. What the store has given up by age is not there any
more; sums a minute outlive the records and answer where only projects are asked for.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
import zstandard

from modelux.config.model import Scope
from modelux.errors import StoreError
from modelux.trace.files import US_A_MINUTE, TraceFiles, day_of
from modelux.trace.query import META_BYTES_MAX
from modelux.trace.schema import open_day_to_read
from modelux.units import NanoUsd

Subject = tuple[str, ...]
"""The values of a budget's `*` scopes, in their order; empty for a budget without one."""

_SUMMED_TYPES: Final = frozenset({"organization", "project"})
_READ_TYPES: Final = frozenset({"key", "route"})
"""What only a record itself tells: it has no column."""


@dataclass(frozen=True, slots=True)
class _Search:
    """One day's question as SQL; `columns` are the values of the `*` scopes."""

    each_tags: tuple[tuple[str, str], ...]
    """Name of a temporary table, and the key of the tag whose values it holds."""
    columns: tuple[str, ...]
    joins: tuple[str, ...]
    where: tuple[str, ...]
    values: tuple[object, ...]
    """Of the joins first, then of the conditions."""


def spent_in_window(
    files: TraceFiles,
    scopes: Sequence[Scope],
    project: str | None,
    start_us: int,
    end_us: int,
    *,
    unset: str = "count",
    stored_end_user: Callable[[str], str] = str,
) -> dict[Subject, NanoUsd]:
    """Add up what requests that match all scopes cost from `start_us` to before `end_us`.

    Args:
        files: The trace store; need not exist.
        scopes: The budget's.
        project: Only this project's requests; None for all.
        start_us: Where the window begins.
        end_us: The instant up to which is summed.
        unset: For `*`: `count` sums requests without the value under the empty text, `skip`
            leaves them out.
        stored_end_user: An end user as the traces hold it (`hash_end_users`).

    Returns:
        Nano-USD by subject. Without a `*` there is exactly one, `()`; with one, only what has
        cost something.

    Raises:
        StoreError: A day cannot be read.
    """
    wanted = {scope.value for scope in scopes if scope.type == "project"}
    if project is not None:
        wanted.add(project)
    has_each = any(scope.is_each for scope in scopes)
    spent: dict[Subject, NanoUsd] = {} if has_each else {(): NanoUsd(0)}
    if len(wanted) > 1 or start_us >= end_us:
        return spent
    only = next(iter(wanted), None)
    is_summed = start_us % US_A_MINUTE == 0 and {s.type for s in scopes} <= _SUMMED_TYPES
    search = None if is_summed else _search(scopes, only, start_us, end_us, stored_end_user)
    for day in files.days():
        if not day_of(start_us) <= day <= day_of(end_us - 1):
            continue
        try:
            with contextlib.closing(open_day_to_read(files.day_path(day))) as opened:
                if search is None:
                    found = _rolled_up(opened, only, start_us, end_us)
                else:
                    found = _recorded(opened, search, scopes)
                for values, cost_nusd in found:
                    if unset == "skip" and None in values:
                        continue
                    subject = tuple(value or "" for value in values)
                    spent[subject] = NanoUsd(spent.get(subject, 0) + cost_nusd)
        except sqlite3.Error as failure:
            if files.day_path(day).exists():
                raise StoreError(f"{files.day_path(day)}: {failure}") from failure
    return {subject: nusd for subject, nusd in spent.items() if nusd or not has_each}


def _rolled_up(
    day: sqlite3.Connection, project: str | None, start_us: int, end_us: int
) -> Iterator[tuple[tuple[str | None, ...], int]]:
    row = day.execute(
        "SELECT coalesce(sum(cost_nusd), 0) FROM rollups "
        "WHERE minute >= ?1 AND minute <= ?2 AND (?3 IS NULL OR project = ?3)",
        (start_us // US_A_MINUTE, (end_us - 1) // US_A_MINUTE, project),
    ).fetchone()
    yield (), int(row[0])


def _search(
    scopes: Sequence[Scope],
    project: str | None,
    start_us: int,
    end_us: int,
    stored_end_user: Callable[[str], str],
) -> _Search:
    each_tags: list[tuple[str, str]] = []
    columns: list[str] = []
    joins: list[str] = []
    where = ["records.ts >= ? AND records.ts < ?", "records.cost_nusd > 0"]
    joined: list[object] = []
    late: list[object] = [start_us, end_us]
    if project is not None:
        where.append("records.project = ?")
        late.append(project)
    for index, scope in enumerate(scopes):
        name = f"tag{index}"
        if scope.type == "end_user" and scope.is_each:
            columns.append("nullif(records.end_user, '')")
        elif scope.type == "end_user":
            where.append("records.end_user = ?")
            late.append(stored_end_user(scope.value))
        elif scope.type == "tag" and scope.is_each:
            each_tags.append((name, scope.key))
            joins.append(f"LEFT JOIN {name} ON {name}.seq = records.seq")
            columns.append(f"{name}.value")
        elif scope.type == "tag":
            joins.append(
                f"JOIN tags AS {name} ON {name}.key = ? AND {name}.value = ?"
                f" AND {name}.ts = records.ts AND {name}.seq = records.seq"
            )
            joined += [scope.key, scope.value]
    return _Search(
        tuple(each_tags), tuple(columns), tuple(joins), tuple(where), (*joined, *late)
    )


def _recorded(
    day: sqlite3.Connection, search: _Search, scopes: Sequence[Scope]
) -> Iterator[tuple[tuple[str | None, ...], int]]:
    read = [scope for scope in scopes if scope.type in _READ_TYPES]
    columns = ", ".join(search.columns)
    for name, key in search.each_tags:
        # By record, which the index of tags is not: without it each record would read them all.
        day.execute(f"CREATE TEMP TABLE {name} (seq INTEGER PRIMARY KEY, value TEXT)")
        day.execute(
            f"INSERT INTO {name} SELECT seq, value FROM tags WHERE key = ?",  # noqa: S608
            (key,),
        )
    source = " ".join(("FROM records", *search.joins))
    where = f"WHERE {' AND '.join(search.where)}"
    if not read:
        group = f"GROUP BY {columns}" if columns else ""
        shown = ", ".join((*search.columns, "coalesce(sum(records.cost_nusd), 0)"))
        query = f"SELECT {shown} {source} {where} {group}"
        for row in day.execute(query, search.values):
            yield row[:-1], int(row[-1])
        return
    shown = ", ".join((*search.columns, "records.cost_nusd", "metas.meta"))
    query = f"SELECT {shown} {source} JOIN metas ON metas.seq = records.seq {where}"
    unpack = zstandard.ZstdDecompressor()
    for row in day.execute(query, search.values):
        meta = unpack.decompress(row[-1], max_output_size=META_BYTES_MAX)
        if _matches(orjson.loads(meta), read):
            yield row[:-2], int(row[-2])


def _matches(record: dict[str, object], scopes: Sequence[Scope]) -> bool:
    decision = record.get("decision")
    path = decision.get("path") if isinstance(decision, dict) else None
    steps = [record.get("route"), *(path if isinstance(path, list) else ())]
    # As in the path of a decision: `@production (v4)`.
    slugs = {str(step).partition(" ")[0].removeprefix("@") for step in steps if step}
    return all(
        scope.value in slugs if scope.type == "route" else scope.value == record.get("key_id")
        for scope in scopes
    )
