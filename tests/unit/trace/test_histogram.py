import math

from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.histogram import (
    add_stored,
    bucket_of,
    decode_histogram,
    encode_histogram,
    middle_of,
    percentile,
)

VALUES = st.integers(min_value=1, max_value=2**40)


@given(VALUES)
def test_a_bucket_stands_for_its_values_within_five_percent(value: int) -> None:
    assert math.isclose(middle_of(bucket_of(value)), value, rel_tol=0.05)


@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(min_value=0.01, max_value=1))
def test_a_percentile_lies_within_five_percent_of_the_exact_one(
    values: list[int], share: float
) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    exact = sorted(values)[max(1, math.ceil(len(values) * share)) - 1]
    found = percentile(counts, share)
    assert found is not None
    assert math.isclose(found, exact, rel_tol=0.05)


def test_nothing_counted_has_no_percentile() -> None:
    assert percentile({}, 0.5) is None


def test_zero_has_a_bucket_of_its_own() -> None:
    assert bucket_of(0) == 0
    assert middle_of(0) == 0.0


@given(st.dictionaries(st.integers(0, 424), st.integers(1, 2**32 - 1)))
def test_what_is_stored_is_read_again(counts: dict[int, int]) -> None:
    assert decode_histogram(encode_histogram(counts)) == counts


def test_stored_histograms_add_up() -> None:
    counts = {1: 2, 7: 1}
    for stored in ({1: 3}, {}, {9: 4}):
        add_stored(counts, encode_histogram(stored))
    assert counts == {1: 5, 7: 1, 9: 4}
