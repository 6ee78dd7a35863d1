"""Sums over the records of one batch: by minute for the report, by day for `/metrics`.

A batch is summed in memory and added to the tables in the transaction that inserts its
records, so a record counts exactly as often as it is stored: once.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

import orjson

from modelux.trace.facts import Facts
from modelux.trace.files import US_A_MINUTE
from modelux.trace.histogram import bucket_of, decode_histogram, encode_histogram
from modelux.trace.totals import Totals

RollupKey = tuple[int, str, str, str, str]
"""Minute since 1970, project, route, provider, model."""

_ERROR_STATUS_MIN: Final = 400

_SELECT: Final = """SELECT latency, ttft FROM rollups
  WHERE minute = ? AND project = ? AND route = ? AND provider = ? AND model = ?"""
_UPSERT: Final = """INSERT INTO rollups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, errors = errors + excluded.errors,
    unpriced = unpriced + excluded.unpriced, cost_nusd = cost_nusd + excluded.cost_nusd,
    input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    latency = excluded.latency, ttft = excluded.ttft"""
_UPSERT_TOTAL: Final = """INSERT INTO totals VALUES (?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET count = count + excluded.count, sum = sum + excluded.sum"""


class Rollup:
    """Sums of one minute and one combination of labels."""

    __slots__ = (
        "cost_nusd", "errors", "input_tokens", "latency", "output_tokens", "requests", "ttft",
        "unpriced",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.unpriced = 0
        self.cost_nusd = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.latency: dict[int, int] = {}
        self.ttft: dict[int, int] = {}

    def add(self, record: Facts) -> None:
        """Count one record."""
        self.requests += 1
        self.errors += record.status >= _ERROR_STATUS_MIN
        if record.cost_nusd is None:
            self.unpriced += 1
        else:
            self.cost_nusd += record.cost_nusd
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        for histogram, value_us in (
            (self.latency, record.total_us),
            (self.ttft, record.ttft_us),
        ):
            if value_us is not None:
                bucket = bucket_of(value_us)
                histogram[bucket] = histogram.get(bucket, 0) + 1

    def merge(self, other: "Rollup") -> None:
        """Add everything that another one holds."""
        self.requests += other.requests
        self.errors += other.errors
        self.unpriced += other.unpriced
        self.cost_nusd += other.cost_nusd
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        for histogram, more in ((self.latency, other.latency), (self.ttft, other.ttft)):
            for bucket, count in more.items():
                histogram[bucket] = histogram.get(bucket, 0) + count


def rollup_key(record: Facts) -> RollupKey:
    """Return what a record is summed under.

    A failed request is summed without its model: a caller may invent names, and a minute must
    not get a row for each of them. An answer can only come from a model that there is.
    """
    model = record.model if record.status < _ERROR_STATUS_MIN else ""
    minute = record.ts_us // US_A_MINUTE
    return minute, record.project, record.route, record.provider, model


def add_rollups(day: sqlite3.Connection, records: Iterable[Facts]) -> None:
    """Add records to the minutes' sums, inside the caller's transaction."""
    rollups: dict[RollupKey, Rollup] = {}
    for record in records:
        key = rollup_key(record)
        if key not in rollups:
            rollups[key] = Rollup()
        rollups[key].add(record)
    rows = []
    for key, rollup in rollups.items():
        latency, ttft = rollup.latency, rollup.ttft
        stored = day.execute(_SELECT, key).fetchone()
        if stored is not None:
            latency = _merged(decode_histogram(stored[0]), latency)
            ttft = _merged(decode_histogram(stored[1]), ttft)
        rows.append(
            (
                *key,
                rollup.requests,
                rollup.errors,
                rollup.unpriced,
                rollup.cost_nusd,
                rollup.input_tokens,
                rollup.output_tokens,
                encode_histogram(latency),
                encode_histogram(ttft),
            )
        )
    day.executemany(_UPSERT, rows)


def add_totals(day: sqlite3.Connection, totals: Totals) -> None:
    """Add a batch's totals to the day's, inside the caller's transaction."""
    day.executemany(
        _UPSERT_TOTAL,
        [
            (kind, orjson.dumps(labels).decode(), bucket, tally.count, tally.sum)
            for (kind, labels, bucket), tally in totals.tallies.items()
        ],
    )


def load_totals(day: sqlite3.Connection) -> Totals:
    """Return the totals of a day."""
    totals = Totals()
    for kind, labels, bucket, count, total in day.execute("SELECT * FROM totals"):
        totals.add((kind, tuple(orjson.loads(labels)), bucket), count, total)
    return totals


def _merged(first: dict[int, int], second: dict[int, int]) -> dict[int, int]:
    merged = dict(first)
    for bucket, count in second.items():
        merged[bucket] = merged.get(bucket, 0) + count
    return merged
