import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import Histogram, round_up

values = st.lists(st.integers(min_value=1, max_value=10**9), min_size=1, max_size=300)


def histogram_of(recorded: list[int]) -> Histogram:
    return Histogram.of([value, 1] for value in recorded)


@given(recorded=values, percent=st.sampled_from([0.1, 1, 50, 90, 99, 99.9, 99.99, 100]))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    recorded: list[int], percent: float
) -> None:
    found = histogram_of(recorded).percentile_ns(percent)

    assert found in recorded
    at_most = sum(value <= found for value in recorded)
    below = sum(value < found for value in recorded)
    assert at_most * 100_000 >= round(percent * 1_000) * len(recorded)
    assert below * 100_000 < round(percent * 1_000) * len(recorded)


def test_percentiles_of_the_first_thousand_numbers_are_the_numbers_themselves() -> None:
    thousand = histogram_of(list(range(1, 1_001)))

    assert [thousand.percentile_ns(p) for p in (50, 99, 99.9, 100)] == [500, 990, 999, 1_000]


@given(one=values, other=values)
def test_pooling_equals_recording_everything_at_once(one: list[int], other: list[int]) -> None:
    pooled = histogram_of(one).pooled_with(histogram_of(other))

    assert pooled == histogram_of([*one, *other])


@given(recorded=values)
def test_the_stored_form_loses_no_value_and_is_never_too_fast(recorded: list[int]) -> None:
    exact = histogram_of(recorded)
    stored = exact.coarsened()

    assert stored.count == exact.count
    assert exact.max_ns <= stored.max_ns <= exact.max_ns * 1.1 + 1


@pytest.mark.parametrize(
    ("value", "rounded"), [(0, 0), (7, 7), (99, 99), (101, 110), (1_990, 2_000)]
)
def test_rounding_up_keeps_two_digits(value: int, rounded: int) -> None:
    assert round_up(value, 2) == rounded


def test_printed_buckets_must_hold_what_was_counted() -> None:
    with pytest.raises(ValueError, match="hold 2 of 3"):
        Histogram.of_json({"count": 3, "buckets": [[10, 2]]})


def test_nothing_has_no_percentile_and_no_summary() -> None:
    empty = Histogram.of([])

    assert empty.summary_us() == {}
    assert empty.max_ns == 0
    with pytest.raises(ValueError, match="no values"):
        empty.percentile_ns(50)
    with pytest.raises(ValueError, match="not in"):
        histogram_of([1]).percentile_ns(0)


def test_a_negative_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Histogram.of([[5, -1]])


def test_a_summary_is_in_microseconds_under_its_prefix() -> None:
    summary = histogram_of([1_000, 2_000, 3_000]).summary_us("ttft_")

    assert summary["ttft_p50_us"] == 2.0
    assert summary["ttft_max_us"] == 3.0
    assert summary["ttft_count"] == 3.0
