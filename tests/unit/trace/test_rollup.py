import contextlib
from pathlib import Path

import pytest

from modelux.trace.facts import Facts, parse_facts
from modelux.trace.histogram import decode_histogram, percentile
from modelux.trace.rollup import add_rollups, add_totals, load_totals, rollup_key
from modelux.trace.schema import open_day
from modelux.trace.totals import Totals
from tests import traces


def facts(number: int, **fields: object) -> Facts:
    return parse_facts(traces.meta(number, **fields))


def test_batches_of_one_minute_add_up(tmp_path: Path) -> None:
    batches = [
        [facts(n, latency={"total_ms": n + 1, "ttft_ms": 1}) for n in range(start, start + 50)]
        for start in (0, 50)
    ]
    with contextlib.closing(open_day(tmp_path / "day.db")) as day:
        for batch in batches:
            add_rollups(day, batch)
        ((requests, cost_nusd, latency),) = day.execute(
            "SELECT requests, cost_nusd, latency FROM rollups"
        )
    assert (requests, cost_nusd) == (100, 213_400_000)
    counts = decode_histogram(latency)
    assert sum(counts.values()) == 100
    median = percentile(counts, 0.5)
    assert median == pytest.approx(50_000, rel=0.05)


def test_a_failed_request_is_summed_without_the_model_that_was_invented() -> None:
    assert rollup_key(facts(0, status=404, model="invented"))[-1] == ""
    assert rollup_key(facts(0))[-1] == "gpt-4o-mini"


def test_totals_are_read_as_they_were_added(tmp_path: Path) -> None:
    totals = Totals()
    totals.count(facts(0))
    with contextlib.closing(open_day(tmp_path / "day.db")) as day:
        for _ in range(2):
            add_totals(day, totals)
        found = load_totals(day)
    assert {key: (t.count, t.sum) for key, t in found.tallies.items()} == {
        key: (2 * t.count, 2 * t.sum) for key, t in totals.tallies.items()
    }
