import json
from typing import Any

from modelux.trace.facts import parse_facts
from modelux.trace.totals import LABEL_SETS_MAX, OTHER, REQUESTS, Totals, encode_metrics
from tests import traces


def told(totals: Totals) -> list[Any]:
    encoded = encode_metrics(
        totals, accepted=5, shed={"lost": 2}, index_lag_us=1_500_000, updated_us=1
    )
    samples: list[Any] = json.loads(encoded)["samples"]
    return samples


def test_requests_attempts_and_times_are_counted() -> None:
    totals = Totals()
    attempts = [traces.attempt(1, outcome="timeout"), traces.attempt(2)]
    for number in range(3):
        totals.count(parse_facts(traces.meta(number, attempts=attempts)))
    samples = {(name, *labels.values()): value for name, labels, value in told(totals)}
    served = ("@production", "openai", "gpt-4o-mini", "200")
    assert samples["modelux_requests_total", *served] == 3
    asked = ("openai", "gpt-4o-mini")
    assert samples["modelux_attempts_total", *asked, "timeout"] == 3
    assert samples["modelux_attempts_total", *asked, "ok"] == 3
    added = samples["modelux_added_latency_seconds", "@production"]
    assert sum(added["counts"]) == 3
    assert added["counts"][added["bounds"].index(0.0003)] == 3
    assert added["sum"] == 0.000636
    assert sum(samples["modelux_ttft_seconds", *asked]["counts"]) == 3
    assert samples["modelux_traces_shed_total", "lost"] == 2
    assert samples[("modelux_trace_index_lag_seconds",)] == 1.5
    assert samples[("modelux_traces_accepted_total",)] == 5


def test_a_time_beyond_every_bound_is_counted() -> None:
    totals = Totals()
    latency = {"overhead_us": 10**12, "ttft_ms": 10**9, "total_ms": 1}
    totals.count(parse_facts(traces.meta(latency=latency)))
    histograms = [value for name, _, value in told(totals) if name.endswith("_seconds")]
    histograms = [value for value in histograms if isinstance(value, dict)]
    assert len(histograms) == 2
    assert all(value["counts"][-1] == 1 for value in histograms)


def test_invented_models_do_not_make_series_without_end() -> None:
    totals = Totals()
    for number in range(LABEL_SETS_MAX + 100):
        totals.add((REQUESTS, ("@r", "openai", f"invented-{number}", "404"), 0), 1)
    assert len(totals.tallies) == LABEL_SETS_MAX + 1
    assert totals.tallies[REQUESTS, ("@r", OTHER, OTHER, OTHER), 0].count == 100


def test_merging_adds_up() -> None:
    first, second = Totals(), Totals()
    for totals in (first, second, second):
        totals.count(parse_facts(traces.meta()))
    first.merge(second)
    assert {tally.count for tally in first.tallies.values()} == {3}
