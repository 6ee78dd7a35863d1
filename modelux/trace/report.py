"""The report: requests, money, tokens and percentiles over a span of time, in buckets.

By model, provider, project or route it is added up from the minutes' sums, which are kept for
`rollup_retention_days`. Sums know no end users and no tags, as those have no bound; by them
the records themselves are read, which takes longer and reaches back as far as records do. Both
ways a failed request counts under no model: callers may invent names.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, unique
from typing import Final

import zstandard

from modelux.errors import StoreError
from modelux.trace.facts import Facts, parse_facts
from modelux.trace.files import US_A_MINUTE, TraceFiles, day_of
from modelux.trace.histogram import add_stored, percentile
from modelux.trace.query import META_BYTES_MAX
from modelux.trace.record import RecordError
from modelux.trace.rollup import Rollup, rollup_key
from modelux.trace.schema import open_day_to_read
from modelux.units import NUSD_PER_USD, US_PER_MS, US_PER_S

TAG_PREFIX: Final = "tag:"
GROUPS_MAX: Final = 10_000
"""Groups of one bucket that a report tells apart, unless it says otherwise."""
OTHERS: Final = "(others)"
_ROWS_A_STRETCH: Final = 1_000
_SHOWN_DIGITS: Final = 3


@unique
class Granularity(Enum):
    """How long a bucket of the report is; all are aligned to UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def minutes(self) -> int:
        """Minutes of one bucket."""
        return {"minute": 1, "hour": 60, "day": 1_440}[self.value]


@unique
class Dimension(Enum):
    """What the minutes' sums can be grouped by; the values are public."""

    MODEL = "model"
    PROVIDER = "provider"
    PROJECT = "project"
    ROUTE = "route"


END_USER: Final = "end_user"
GROUP_WORDS: Final = (*(one.value for one in Dimension), END_USER, f"{TAG_PREFIX}KEY")


class ReportError(Exception):
    """A report that cannot be: names what was asked for, and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """What is asked for."""

    start_us: int
    end_us: int
    """Exclusive. Both ends are taken to the minute that they lie in."""
    granularity: Granularity = Granularity.HOUR
    group_by: str = ""
    """Empty, one of `Dimension`, `end_user`, or `tag:KEY`."""
    project: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    groups_max: int = GROUPS_MAX
    """Groups of one bucket: beyond it, what is left counts together, as `(others)`."""

    def __post_init__(self) -> None:
        is_tag = self.group_by.startswith(TAG_PREFIX) and self.group_by != TAG_PREFIX
        known = {"", END_USER, *(one.value for one in Dimension)}
        if not is_tag and self.group_by not in known:
            words = ", ".join(f"`{word}`" for word in GROUP_WORDS)
            raise ReportError(f"group_by `{self.group_by}`: give one of {words}")

    @property
    def needs_records(self) -> bool:
        """Whether the minutes' sums do not know enough."""
        return bool(self.tags) or self.group_by.startswith((END_USER, TAG_PREFIX))


@dataclass(frozen=True, slots=True)
class Report:
    """Sums by bucket and group, in this order, and over all."""

    query: ReportQuery
    rows: Mapping[tuple[int, str], Rollup]
    """By the minute since 1970 in which the bucket begins, and the group."""

    def by_group(self) -> dict[str, Rollup]:
        """Return the sums of each group over the whole span, the dearest first."""
        groups: dict[str, Rollup] = {}
        for (_, group), rollup in self.rows.items():
            groups.setdefault(group, Rollup()).merge(rollup)
        return dict(
            sorted(groups.items(), key=lambda one: (-one[1].cost_nusd, -one[1].requests, one))
        )

    def total(self) -> Rollup:
        """Return the sums over everything."""
        total = Rollup()
        for rollup in self.rows.values():
            total.merge(rollup)
        return total

    def told(self) -> dict[str, object]:
        """Return the object of `GET analytics/report`."""
        total = self.total()
        return {
            "series": [
                {
                    "bucket": bucket_text(minute),
                    "group": group if self.query.group_by else None,
                    "requests": rollup.requests,
                    "cost_usd": usd(rollup.cost_nusd),
                    "input_tokens": rollup.input_tokens,
                    "output_tokens": rollup.output_tokens,
                    "errors": rollup.errors,
                    "p50_latency_ms": percentile_ms(rollup.latency, 0.5),
                    "p95_latency_ms": percentile_ms(rollup.latency, 0.95),
                    "p99_latency_ms": percentile_ms(rollup.latency, 0.99),
                    "p50_ttft_ms": percentile_ms(rollup.ttft, 0.5),
                }
                for (minute, group), rollup in self.rows.items()
            ],
            "totals": {
                "requests": total.requests,
                "cost_usd": usd(total.cost_nusd),
                "error_rate": error_rate(total),
            },
        }


def report(files: TraceFiles, query: ReportQuery) -> Report:
    """Add up what is asked for.

    Raises:
        StoreError: A day cannot be read.
    """
    rows: dict[tuple[int, str], Rollup] = {}
    minutes = query.granularity.minutes
    groups_count: dict[int, int] = {}

    def at(minute: int, group: str) -> Rollup:
        bucket = minute // minutes * minutes
        if (bucket, group) not in rows:
            count = groups_count.get(bucket, 0)
            if count >= query.groups_max:
                return rows.setdefault((bucket, OTHERS), Rollup())
            groups_count[bucket] = count + 1
            rows[bucket, group] = Rollup()
        return rows[bucket, group]

    read = _add_records if query.needs_records else _add_rollups
    for day in files.days():
        if not day_of(query.start_us) <= day <= day_of(max(0, query.end_us - 1)):
            continue
        path = files.day_path(day)
        try:
            with contextlib.closing(open_day_to_read(path)) as opened:
                read(opened, query, at)
        except sqlite3.Error as failure:
            if "no such table" in str(failure) or "unable to open" in str(failure):
                continue  # Being made or being removed at this moment.
            raise StoreError(f"{path}: {failure}") from failure
    return Report(query, dict(sorted(rows.items())))


def _add_rollups(
    day: sqlite3.Connection, query: ReportQuery, at: Callable[[int, str], Rollup]
) -> None:
    group = query.group_by or "''"  # Checked to be a column's name.
    rows = day.execute(
        f"SELECT minute, {group}, requests, errors, unpriced, "  # noqa: S608 - words of ours.
        "cost_nusd, input_tokens, output_tokens, latency, ttft FROM rollups "
        "WHERE minute >= ? AND minute < ? AND (? = '' OR project = ?)",
        (
            query.start_us // US_A_MINUTE,
            -(-query.end_us // US_A_MINUTE),
            query.project,
            query.project,
        ),
    )
    for minute, name, requests, errors, unpriced, cost_nusd, inputs, outputs, *stored in rows:
        one = at(minute, name)
        one.requests += requests
        one.errors += errors
        one.unpriced += unpriced
        one.cost_nusd += cost_nusd
        one.input_tokens += inputs
        one.output_tokens += outputs
        for histogram, more in zip((one.latency, one.ttft), stored, strict=True):
            add_stored(histogram, more)


def _add_records(
    day: sqlite3.Connection, query: ReportQuery, at: Callable[[int, str], Rollup]
) -> None:
    for facts in _records(day, query):
        if all(facts.tags.get(key) == value for key, value in query.tags.items()):
            at(facts.ts_us // US_A_MINUTE, _group_of(facts, query.group_by)).add(facts)


def _group_of(facts: Facts, group_by: str) -> str:
    if group_by == END_USER:
        return facts.end_user
    if group_by.startswith(TAG_PREFIX):
        return facts.tags.get(group_by.removeprefix(TAG_PREFIX), "")
    _, project, route, provider, model = rollup_key(facts)
    by_name = {"project": project, "route": route, "provider": provider, "model": model}
    return by_name.get(group_by, "")


def _records(day: sqlite3.Connection, query: ReportQuery) -> Iterator[Facts]:
    """Yield the records of a day, a stretch at a time, so that no reader holds it for long."""
    decompress = zstandard.ZstdDecompressor().decompress
    seq = 0
    start_us = query.start_us // US_A_MINUTE * US_A_MINUTE
    end_us = -(-query.end_us // US_A_MINUTE) * US_A_MINUTE
    while True:
        rows: Iterable[tuple[int, bytes]] = day.execute(
            "SELECT records.seq, meta FROM records JOIN metas ON metas.seq = records.seq "
            "WHERE records.seq > ? AND ts >= ? AND ts < ? AND (? = '' OR project = ?) "
            "ORDER BY records.seq LIMIT ?",
            (seq, start_us, end_us, query.project, query.project, _ROWS_A_STRETCH),
        ).fetchall()
        last = seq
        for seq, packed in rows:  # noqa: B007 - the last is where the next stretch begins.
            with contextlib.suppress(RecordError):
                yield parse_facts(decompress(packed, max_output_size=META_BYTES_MAX))
        if seq == last:
            return


def bucket_text(minute: int) -> str:
    """Return the begin of a bucket as ISO 8601 in UTC."""
    at = datetime.fromtimestamp(minute * US_A_MINUTE // US_PER_S, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def percentile_ms(histogram: Mapping[int, int], share: float) -> float | None:
    """Return a percentile in milliseconds; None without a value."""
    found_us = percentile(histogram, share)
    return None if found_us is None else round(found_us / US_PER_MS, _SHOWN_DIGITS)


def error_rate(rollup: Rollup) -> float:
    """Return the share of requests that failed; 0 for none."""
    return round(rollup.errors / rollup.requests, 6) if rollup.requests else 0.0


def usd(amount_nusd: int) -> float:
    """Return an amount as JSON has it: the one number that its readers expect."""
    return amount_nusd / NUSD_PER_USD
