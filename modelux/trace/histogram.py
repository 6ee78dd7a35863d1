"""Log-bucket histograms: percentiles from a few hundred bytes, at most 4.5 % off.

A bucket holds the values of one eighth of an octave, so its width is the same share of the
value everywhere; two histograms are merged by adding counts. Stored as pairs of 32-bit
integers (little endian): bucket, count; ascending by bucket.
"""

import math
import struct
from collections.abc import Mapping
from typing import Final

BUCKETS_AN_OCTAVE: Final = 8
BUCKET_MAX: Final = 53 * BUCKETS_AN_OCTAVE

_PAIR: Final = struct.Struct("<II")
_COUNT_MAX: Final = 2**32 - 1


def bucket_of(value: int) -> int:
    """Return the bucket of a value; 0 is for everything below 1."""
    if value < 1:
        return 0
    return min(BUCKET_MAX, 1 + int(math.log2(value) * BUCKETS_AN_OCTAVE))


def middle_of(bucket: int) -> float:
    """Return the value that stands for a bucket: the geometric middle of its edges."""
    return 0.0 if bucket == 0 else 2.0 ** ((bucket - 0.5) / BUCKETS_AN_OCTAVE)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """Return the value that `share` (0 to 1) of the values do not pass; None for none."""
    assert 0 <= share <= 1, share
    total = sum(counts.values())
    if total == 0:
        return None
    rank = max(1, math.ceil(total * share))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return middle_of(bucket)
    raise AssertionError("the counts add up to their total")


def encode_histogram(counts: Mapping[int, int]) -> bytes:
    """Return the stored form."""
    return b"".join(
        _PAIR.pack(bucket, min(counts[bucket], _COUNT_MAX)) for bucket in sorted(counts)
    )


def add_stored(counts: dict[int, int], stored: bytes) -> None:
    """Add a stored histogram to counts: for many of them, without a dict for each."""
    assert len(stored) % _PAIR.size == 0, len(stored)
    for bucket, count in _PAIR.iter_unpack(stored):
        counts[bucket] = counts.get(bucket, 0) + count


def decode_histogram(stored: bytes) -> dict[int, int]:
    """Return the counts of a stored histogram."""
    assert len(stored) % _PAIR.size == 0, len(stored)
    return dict(_PAIR.iter_unpack(stored))
