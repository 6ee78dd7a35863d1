"""The report: sums and percentiles by bucket and group, from the sums and from the records."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.errors import StoreError
from modelux.trace.files import US_A_DAY, US_A_MINUTE, US_AN_HOUR, day_of, trace_files
from modelux.trace.report import (
    OTHERS,
    Granularity,
    ReportError,
    ReportQuery,
    report,
)
from modelux.trace.store import TraceStore
from modelux.units import UnixUs
from tests import traces
from tests.traces import NOON

START: int = NOON - NOON % US_A_DAY


def stored(root: Path, *records: Mapping[str, object]) -> None:
    """Store traces made of these fields."""
    store = TraceStore(trace_files(root), redact=bytes)
    batch = [traces.trace(number, **fields) for number, fields in enumerate(records)]
    store.insert(batch, UnixUs(NOON))
    store.close()


def told(root: Path, **fields: Any) -> Any:  # noqa: ANN401 - a test looks into it.
    query = ReportQuery(**{"start_us": START, "end_us": START + 2 * US_A_DAY, **fields})
    return report(trace_files(root), query).told()


def requests(found: Any) -> dict[tuple[str, str | None], int]:  # noqa: ANN401 - as above.
    return {(row["bucket"], row["group"]): row["requests"] for row in found["series"]}


def test_the_report_has_the_public_fields_with_their_units(tmp_path: Path) -> None:
    latency = {"overhead_us": 1, "ttft_ms": 100.0, "total_ms": 1_000.0}
    stored(
        tmp_path,
        *({"latency": latency} for _ in range(98)),
        {"latency": latency | {"total_ms": 9_000.0}},
        {"status": 502, "latency": {"overhead_us": 1, "ttft_ms": None, "total_ms": 9_000.0}},
    )
    found = told(tmp_path)
    (row,) = found["series"]
    assert (row.pop("bucket"), row.pop("group")) == ("2026-01-31T12:00:00Z", None)
    assert (row.pop("requests"), row.pop("errors")) == (100, 1)
    assert row.pop("cost_usd") == pytest.approx(0.2134)
    assert (row.pop("input_tokens"), row.pop("output_tokens")) == (24_700, 100_000)
    assert row.pop("p50_latency_ms") == pytest.approx(1_000, rel=0.05)
    assert row.pop("p95_latency_ms") == pytest.approx(1_000, rel=0.05)
    assert row.pop("p99_latency_ms") == pytest.approx(9_000, rel=0.05)
    assert row.pop("p50_ttft_ms") == pytest.approx(100, rel=0.05)
    assert row == {}
    assert found["totals"] == {
        "requests": 100,
        "cost_usd": pytest.approx(0.2134),
        "error_rate": 0.01,
    }


def test_nothing_stored_is_an_empty_report(tmp_path: Path) -> None:
    assert told(tmp_path) == {
        "series": [],
        "totals": {"requests": 0, "cost_usd": 0.0, "error_rate": 0.0},
    }


def test_buckets_are_minutes_hours_and_days_of_utc(tmp_path: Path) -> None:
    times = [NOON, NOON + US_A_MINUTE, NOON + US_AN_HOUR, NOON + US_A_DAY]
    stored(tmp_path, *({"ts": ts} for ts in times))
    buckets = {
        granularity: [
            key[0][11:16] for key in requests(told(tmp_path, granularity=granularity))
        ]
        for granularity in Granularity
    }
    assert buckets[Granularity.MINUTE] == ["12:00", "12:01", "13:00", "12:00"]
    assert buckets[Granularity.HOUR] == ["12:00", "13:00", "12:00"]
    assert buckets[Granularity.DAY] == ["00:00", "00:00"]


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("model", {"gpt-4o-mini": 1, "claude-haiku-4-5": 1, "": 1}),
        ("provider", {"openai": 1, "anthropic": 2}),
        ("project", {"default": 2, "lab": 1}),
        ("route", {"@production": 2, "": 1}),
        ("end_user", {"alice": 1, "": 2}),
        ("tag:team", {"ml": 1, "web": 1, "": 1}),
    ],
)
def test_it_groups_by_what_is_asked_for(
    tmp_path: Path, group_by: str, groups: dict[str, int]
) -> None:
    stored(
        tmp_path,
        {"end_user": "alice", "tags": {"team": "ml"}},
        {"provider": "anthropic", "model": "claude-haiku-4-5", "tags": {"team": "web"}},
        {
            "provider": "anthropic", "model": "invented", "status": 404, "project": "lab",
            "route": None,
        },
    )  # fmt: skip
    found = told(tmp_path, group_by=group_by)
    assert {key[1]: count for key, count in requests(found).items()} == groups


def test_it_counts_only_the_span_the_project_and_the_tags_that_are_asked_for(
    tmp_path: Path,
) -> None:
    stored(
        tmp_path,
        {"ts": NOON, "tags": {"team": "ml", "tier": "gold"}},
        {"ts": NOON, "tags": {"team": "ml"}, "project": "lab"},
        {"ts": NOON + US_AN_HOUR, "tags": {"team": "ml"}},
    )

    def count(**fields: object) -> object:
        return told(tmp_path, **fields)["totals"]["requests"]

    assert count() == 3
    assert count(project="lab") == 1
    assert count(end_us=NOON + 1) == 2
    assert count(start_us=NOON + US_A_MINUTE) == 1
    assert count(tags={"team": "ml"}) == 3
    assert count(tags={"team": "ml"}, end_us=NOON + 1, project="default") == 1
    assert count(tags={"team": "ml", "tier": "gold"}) == 1
    assert count(tags={"team": "none"}) == 0


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["a", "b"])), max_size=12))
def test_the_records_say_what_the_sums_say(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, str]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    stored(
        root,
        *(
            {"ts": NOON + at * US_A_MINUTE, "provider": name, "tags": {"provider": name}}
            for at, name in made
        ),
    )
    assert told(root, group_by="provider") == told(root, group_by="tag:provider")


def test_groups_beyond_all_measure_count_together(tmp_path: Path) -> None:
    stored(tmp_path, *({"end_user": f"user {n}"} for n in range(10)))
    found = requests(told(tmp_path, group_by="end_user", groups_max=3))
    assert len(found) == 4
    assert found["2026-01-31T12:00:00Z", OTHERS] == 7


def test_groups_over_the_whole_span_come_dearest_first(tmp_path: Path) -> None:
    dear = {"cost": {"total_usd": "5.000000000"}, "provider": "dear"}
    stored(tmp_path, {"ts": NOON}, {"ts": NOON + US_A_DAY}, dear)
    query = ReportQuery(start_us=0, end_us=NOON + 2 * US_A_DAY, group_by="provider")
    groups = report(trace_files(tmp_path), query).by_group()
    assert {name: rollup.requests for name, rollup in groups.items()} == {
        "dear": 1,
        "openai": 2,
    }
    assert list(groups) == ["dear", "openai"]


@pytest.mark.parametrize("group_by", ["modle", "tag:", "minute; DROP TABLE rollups"])
def test_what_cannot_be_grouped_by_is_refused_with_what_can(group_by: str) -> None:
    with pytest.raises(ReportError, match="give one of `model`, `provider`"):
        ReportQuery(start_us=0, end_us=1, group_by=group_by)


def test_a_day_that_is_broken_is_named_and_one_without_tables_is_empty(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    stored(tmp_path, {})
    sqlite3.connect(files.day_path(day_of(NOON) + 1)).close()
    assert told(tmp_path)["totals"]["requests"] == 1
    files.day_path(day_of(NOON) + 1).write_bytes(b"broken" * 1_000)
    with pytest.raises(StoreError, match="2026-02-01.db"):
        told(tmp_path)
