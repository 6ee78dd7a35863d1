"""Latencies as buckets: percentiles, pooling over rounds, and a coarser form for storing.

The load generator hands over every bucket of its HDR histogram, so percentiles are taken here,
of single rounds and of all rounds together, instead of being averaged.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

Bucket = tuple[int, int]
"""Upper bound in nanoseconds, and how many lie in it."""

SIGNIFICANT_DIGITS_STORED = 2
PERCENTILES: Mapping[str, float] = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counted latencies; the buckets ascend and none is empty."""

    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, buckets: Iterable[Iterable[int]]) -> Self:
        """Take `[upper_ns, count]` pairs in any order; equal bounds are added up."""
        counts: Counter[int] = Counter()
        for upper_ns, count in buckets:
            if upper_ns < 0 or count < 0:
                raise ValueError(f"bucket [{upper_ns}, {count}] is negative")
            if count:
                counts[upper_ns] += count
        return cls(buckets=tuple(sorted(counts.items())))

    @classmethod
    def of_json(cls, json: Mapping[str, Any]) -> Self:
        """Take what the load generator prints, and check its count.

        Raises:
            ValueError: The buckets do not hold as many values as were recorded.
        """
        made = cls.of(json["buckets"])
        if made.count != json["count"]:
            raise ValueError(f"buckets hold {made.count} of {json['count']} values")
        return made

    @property
    def count(self) -> int:
        """How many values."""
        return sum(count for _, count in self.buckets)

    @property
    def max_ns(self) -> int:
        """The bound of the last bucket; 0 when empty."""
        return self.buckets[-1][0] if self.buckets else 0

    def percentile_ns(self, percent: float) -> int:
        """Return the smallest bound that at least `percent` of all values do not exceed.

        Raises:
            ValueError: There are no values, or `percent` is not in (0, 100].
        """
        if not 0 < percent <= 100:
            raise ValueError(f"percentile {percent} is not in (0, 100]")
        if not self.buckets:
            raise ValueError("no values, no percentile")
        # Compared as counts times 1,000: 99.9 % of a count as a float may land a hair above
        # the whole number that it is.
        wanted = round(percent * 1_000) * self.count
        seen = 0
        for upper_ns, count in self.buckets:
            seen += count
            if seen * 100_000 >= wanted:
                return upper_ns
        raise AssertionError("the buckets hold fewer values than their own sum")

    def pooled_with(self, *others: Self) -> "Histogram":
        """Return one histogram of all values."""
        return Histogram.of(bucket for one in (self, *others) for bucket in one.buckets)

    def coarsened(self) -> "Histogram":
        """Return it with bounds of two significant digits, rounded up: what is stored."""
        return Histogram.of(
            (round_up(bound, SIGNIFICANT_DIGITS_STORED), n) for bound, n in self.buckets
        )

    def summary_us(self, prefix: str = "") -> dict[str, float]:
        """Return count, percentiles and maximum by name, in microseconds; {} when empty."""
        if not self.buckets:
            return {}
        percentiles = {
            f"{prefix}{name}_us": self.percentile_ns(percent) / 1e3
            for name, percent in PERCENTILES.items()
        }
        ends = {f"{prefix}max_us": self.max_ns / 1e3, f"{prefix}count": float(self.count)}
        return percentiles | ends


def round_up(value: int, digits: int) -> int:
    """Round a whole number up to so many significant decimal digits."""
    step: int = 10 ** max(0, len(str(value)) - digits)
    return -(-value // step) * step
