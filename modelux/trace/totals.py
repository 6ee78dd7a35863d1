"""What `/metrics` shows of traces: totals over all days that are kept, and how they are told.

The trace writer adds up and writes `metrics.json`; the control plane reads it and knows no
store.
"""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from modelux.trace.facts import Facts
from modelux.units import US_PER_S

ADDED_LATENCY_BOUNDS_US: Final = (
    25, 50, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000,
    250_000, 1_000_000,
)  # fmt: skip
"""Upper bounds of the buckets of `modelux_added_latency_seconds`."""
TTFT_BOUNDS_US: Final = (
    10_000, 25_000, 50_000, 100_000, 200_000, 300_000, 500_000, 750_000, 1_000_000, 1_500_000,
    2_000_000, 3_000_000, 5_000_000, 10_000_000, 20_000_000, 60_000_000, 120_000_000,
)  # fmt: skip
"""Upper bounds of the buckets of `modelux_ttft_seconds`."""

REQUESTS: Final = "requests"
ATTEMPTS: Final = "attempts"
ADDED_LATENCY: Final = "added_latency"
TTFT: Final = "ttft"


@dataclass(frozen=True, slots=True)
class Series:
    """How one kind of total appears in `/metrics`."""

    metric: str
    labels: tuple[str, ...]
    bounds_us: tuple[int, ...] = ()
    """Empty for a counter."""

    def named(self, values: tuple[str, ...]) -> Mapping[str, str]:
        """Return label values by their labels."""
        return dict(zip(self.labels, values, strict=True))


SERIES: Final[Mapping[str, Series]] = {
    REQUESTS: Series("modelux_requests_total", ("route", "provider", "model", "status")),
    ATTEMPTS: Series("modelux_attempts_total", ("provider", "model", "outcome")),
    ADDED_LATENCY: Series("modelux_added_latency_seconds", ("route",), ADDED_LATENCY_BOUNDS_US),
    TTFT: Series("modelux_ttft_seconds", ("provider", "model"), TTFT_BOUNDS_US),
}

LABEL_SETS_MAX: Final = 4_096
"""Series of all kinds together. Model names come from callers where a provider takes any; what
would be one series more counts under the label `other`."""
OTHER: Final = "other"
LABEL_CHARS_MAX: Final = 128

TotalKey = tuple[str, tuple[str, ...], int]
"""Kind, label values, bucket (0 for counters)."""


@dataclass(slots=True)
class Tally:
    """A count, and for histograms the sum of what was counted."""

    count: int = 0
    sum: int = 0


class Totals:
    """Counters and histograms by kind, labels and bucket."""

    __slots__ = ("_labels", "tallies")

    def __init__(self) -> None:
        self.tallies: dict[TotalKey, Tally] = {}
        self._labels: set[tuple[str, tuple[str, ...]]] = set()

    def add(self, key: TotalKey, count: int, total: int = 0) -> None:
        """Add to one tally."""
        tally = self.tallies.get(key)
        if tally is None:
            tally = self._new_tally(key)
        tally.count += count
        tally.sum += total

    def _new_tally(self, key: TotalKey) -> Tally:
        kind, labels, bucket = key
        if (kind, labels) not in self._labels:
            if len(self._labels) >= LABEL_SETS_MAX:
                # The first label of each kind is the operator's own: it stays.
                labels = (labels[0], *(OTHER for _ in labels[1:]))
            self._labels.add((kind, labels))
        return self.tallies.setdefault((kind, labels, bucket), Tally())

    def count(self, record: Facts) -> None:
        """Count one record and its attempts."""
        model = record.model[:LABEL_CHARS_MAX]
        status = str(record.status)
        self.add((REQUESTS, (record.route, record.provider, model, status), 0), 1)
        for provider, asked, outcome in record.attempts:
            self.add((ATTEMPTS, (provider, asked[:LABEL_CHARS_MAX], outcome), 0), 1)
        if record.overhead_us is not None:
            bucket = bisect.bisect_left(ADDED_LATENCY_BOUNDS_US, record.overhead_us)
            self.add((ADDED_LATENCY, (record.route,), bucket), 1, record.overhead_us)
        if record.ttft_us is not None:
            bucket = bisect.bisect_left(TTFT_BOUNDS_US, record.ttft_us)
            self.add((TTFT, (record.provider, model), bucket), 1, record.ttft_us)

    def merge(self, other: "Totals") -> None:
        """Add everything that another one holds."""
        for key, tally in other.tallies.items():
            self.add(key, tally.count, tally.sum)


def encode_metrics(
    totals: Totals,
    *,
    accepted: int,
    shed: Mapping[str, int],
    index_lag_us: int,
    updated_us: int,
    ledger_copy_age_us: int | None = None,
) -> bytes:
    """Return the content of `metrics.json`.

    `{"updated_us": N, "samples": [[NAME, LABELS, VALUE], ...]}`, named as in `/metrics`; the
    value of a histogram is `{"bounds": [...], "counts": [...], "sum": S}` in seconds, one count
    for each bound, not cumulative, and one for what lies beyond all of them.
    """
    samples: list[tuple[str, Mapping[str, str], object]] = [
        ("modelux_trace_index_lag_seconds", {}, index_lag_us / US_PER_S),
        ("modelux_traces_accepted_total", {}, accepted),
    ]
    if ledger_copy_age_us is not None:
        age_s = ledger_copy_age_us / US_PER_S
        samples.append(("modelux_ledger_copy_age_seconds", {}, age_s))
    for reason, count in shed.items():
        samples.append(("modelux_traces_shed_total", {"reason": reason}, count))
    histograms: dict[tuple[str, tuple[str, ...]], dict[int, Tally]] = {}
    for (kind, labels, bucket), tally in totals.tallies.items():
        series = SERIES[kind]
        if series.bounds_us:
            histograms.setdefault((kind, labels), {})[bucket] = tally
        else:
            samples.append((series.metric, series.named(labels), tally.count))
    for (kind, labels), buckets in histograms.items():
        series = SERIES[kind]
        samples.append((series.metric, series.named(labels), _histogram(series, buckets)))
    return orjson.dumps({"updated_us": updated_us, "samples": samples})


def _histogram(series: Series, buckets: Mapping[int, Tally]) -> Mapping[str, object]:
    last = len(series.bounds_us)
    counts = [0] * (last + 1)
    for bucket, tally in buckets.items():
        # The day may have been counted by a build with more bounds.
        counts[min(bucket, last)] += tally.count
    return {
        "bounds": [bound_us / US_PER_S for bound_us in series.bounds_us],
        "counts": counts,
        "sum": sum(tally.sum for tally in buckets.values()) / US_PER_S,
    }
