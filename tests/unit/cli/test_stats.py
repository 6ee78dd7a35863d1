"""`modelux stats`: the report as people and programs see it."""

from collections.abc import Mapping

import pytest

from modelux.clock import unix_us
from modelux.trace.files import US_AN_HOUR, trace_files
from modelux.trace.store import TraceStore
from tests import traces
from tests.unit.cli.conftest import Operator


def store(operator: Operator, *records: Mapping[str, object]) -> None:
    """Store traces of this hour, made of these fields."""
    now_us = unix_us()
    writing = TraceStore(trace_files(operator.folder / "data"), redact=bytes)
    batch = [
        traces.trace(number, **{"ts": now_us, **fields})
        for number, fields in enumerate(records)
    ]
    writing.insert(batch, now_us)
    writing.close()


def test_without_traces_and_without_a_server_it_says_both(operator: Operator) -> None:
    done = operator.run("stats")
    assert (done.code, done.out) == (0, "no request in this time span\n")
    assert "no server is running" in done.err
    assert operator.run("stats", "--json").json == {
        "series": [],
        "totals": {"requests": 0, "cost_usd": 0.0, "error_rate": 0.0},
    }


def test_people_see_a_line_for_each_group_the_dearest_first_and_a_sum(
    operator: Operator,
) -> None:
    store(
        operator,
        {"model": "cheap"},
        {"model": "dear", "cost": {"total_usd": "1.250000000"}},
        {"model": "dear", "cost": None},
        {"status": 502, "model": None, "provider": None, "cost": None},
    )
    done = operator.run("stats")
    head, *lines = done.out.splitlines()
    assert head.split()[:4] == ["MODEL", "REQUESTS", "ERRORS", "COST"]
    assert [line.split()[0] for line in lines] == ["dear", "cheap", "(none)", "all"]
    assert lines[0].split()[1:4] == ["2", "0", "$1.250000"]
    assert lines[2].split()[1:4] == ["1", "1", "(100.0%)"]
    assert lines[3].split()[1:5] == ["4", "1", "(25.0%)", "$1.252134"]
    assert lines[1].count(" ms") == 4
    assert "2 requests have no known price" in done.err


def test_json_has_one_series_or_one_for_each_group(operator: Operator) -> None:
    store(operator, {"model": "a"}, {"model": "b"}, {"model": "b", "end_user": "alice"})
    (row,) = operator.run("stats", "--json").json["series"]
    assert (row["group"], row["requests"]) == (None, 3)

    def groups(*words: str) -> dict[str, int]:
        found = operator.run("stats", "--json", *words).json
        return {one["group"]: one["requests"] for one in found["series"]}

    assert groups("--group-by", "model") == {"a": 1, "b": 2}
    assert groups("--group-by", "end_user") == {"": 2, "alice": 1}
    assert groups("--group-by", "model", "--project", "other") == {}


def test_the_span_decides_how_long_a_bucket_is_unless_it_is_said(operator: Operator) -> None:
    ago = [0, US_AN_HOUR, 2 * US_AN_HOUR]
    store(operator, *({"ts": unix_us() - us} for us in ago))

    def buckets(*words: str) -> list[str]:
        found = operator.run("stats", "--json", *words).json
        return [row["bucket"][14:] for row in found["series"]]

    assert len(buckets("--since", "150m")) == 3
    assert buckets("--since", "24h") == ["00:00Z"] * 3
    assert set(buckets("--since", "30d")) == {"00:00Z"}
    assert len(buckets("--since", "90m")) == 2
    assert buckets("--since", "150m", "--granularity", "hour") == ["00:00Z"] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--group-by", "modle"), "give one of `model`"),
        (("--since", "yesterday"), "neither a time ago"),
        (("--tag", "team"), "give KEY=VALUE"),
    ],
)
def test_what_means_nothing_is_refused_with_the_fix(
    operator: Operator, words: tuple[str, ...], said: str
) -> None:
    done = operator.run("stats", *words)
    assert (done.code, said in done.err) == (1, True), done.err
