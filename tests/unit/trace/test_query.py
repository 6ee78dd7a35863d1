import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.files import US_A_DAY, TraceFiles, trace_files
from modelux.trace.query import Cursor, FilterError, LogFilter, TraceQuery, parse_cursor
from modelux.trace.record import Trace
from modelux.trace.store import TraceStore
from modelux.units import NanoUsd
from tests import traces
from tests.traces import NOON


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    return trace_files(tmp_path)


def put(files: TraceFiles, *batch: Trace) -> None:
    store = TraceStore(files, redact=bytes)
    store.insert(batch, NOON)
    store.close()


def found(files: TraceFiles, wanted: LogFilter) -> list[int]:
    """Return the numbers of what matches, oldest first."""
    query = TraceQuery(files)
    newest = query.find(wanted, 10_000).traces
    assert [t.cursor for t in query.oldest_first(wanted)] == [t.cursor for t in newest[::-1]]
    return [int(trace.record().id[-4:], 16) for trace in newest[::-1]]


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        (LogFilter(), {}),
        (LogFilter(project="p"), {"project": "p"}),
        (LogFilter(status="4xx"), {"status": 404}),
        (LogFilter(status="404"), {"status": 404}),
        (LogFilter(model="m"), {"model": "m"}),
        (LogFilter(model="asked"), {"model_requested": "asked"}),
        (LogFilter(provider="anthropic"), {"provider": "anthropic"}),
        (LogFilter(route="other"), {"route": "@other"}),
        (LogFilter(route="@other"), {"route": "@other"}),
        (LogFilter(end_user="u"), {"end_user": "u"}),
        (LogFilter(tags={"team": "ml"}), {"tags": {"team": "ml", "x": "y"}}),
        (LogFilter(tags={"team": "ml", "x": "y"}), {"tags": {"team": "ml", "x": "y"}}),
        (LogFilter(tags={"team": "ml", "x": "z"}), {"tags": {"team": "ml", "x": "z"}}),
        (LogFilter(tags={"team": "ml"}, project="p"), {"tags": {"team": "ml"}, "project": "p"}),
        (LogFilter(trace_id="run"), {"trace_id": "run"}),
        (LogFilter(conversation_id="talk"), {"conversation_id": "talk"}),
        (LogFilter(min_latency_ms=500), {"latency": {"total_ms": 500.0}}),
        (LogFilter(min_cost_nusd=NanoUsd(10**7)), {"cost": {"total_usd": "0.010000000"}}),
        (LogFilter(q="NEEDLE"), {"warnings": ["a needle here"]}),
    ],
)
def test_a_filter_finds_what_matches_and_nothing_else(
    files: TraceFiles, wanted: LogFilter, matching: dict[str, object]
) -> None:
    put(
        files, traces.trace(1), traces.trace(2, **matching), traces.trace(3, tags={"team": "x"})
    )
    assert found(files, wanted) == ([2] if matching else [1, 2, 3])


def test_text_is_found_in_bodies_too(files: TraceFiles) -> None:
    put(
        files,
        Trace(traces.meta(1), b'{"content": "Stra\xc3\x9fe"}', b"", "kept"),
        Trace(traces.meta(2), b"", b"data: hello WORLD", "kept"),
    )
    assert found(files, LogFilter(q="straße")) == [1]
    assert found(files, LogFilter(q="hello world")) == [2]


def test_times_bound_what_is_found_over_days(files: TraceFiles) -> None:
    for number in range(4):
        put(files, traces.trace(number, ts=NOON + number * US_A_DAY))
    bounds = LogFilter(start_us=NOON + US_A_DAY, end_us=NOON + 3 * US_A_DAY)
    assert found(files, bounds) == [1, 2]
    assert found(files, LogFilter(start_us=NOON + 1)) == [1, 2, 3]


@given(limit=st.integers(1, 7), per_instant=st.integers(1, 4))
def test_pages_put_together_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, limit: int, per_instant: int
) -> None:
    files = trace_files(tmp_path_factory.mktemp("pages"))
    instants = [NOON + days * US_A_DAY for days in range(3)]
    batch = [
        traces.trace(number, ts=at)
        for number, (at, _) in enumerate(itertools.product(instants, range(per_instant)))
    ]
    put(files, *batch)
    query = TraceQuery(files)
    whole = query.find(LogFilter(), 100).traces
    pages, cursor = [], None
    while True:
        page = query.find(LogFilter(), limit, cursor)
        pages += page.traces
        if page.next_cursor is None:
            break
        cursor = parse_cursor(page.next_cursor.text())
    assert pages == whole
    assert len(whole) == len(batch)


def test_stretches_put_together_are_the_whole(files: TraceFiles) -> None:
    put(files, *(traces.trace(number, ts=NOON + number // 3) for number in range(1_203)))
    assert found(files, LogFilter()) == list(range(1_203))
    assert len(TraceQuery(files).find(LogFilter(q="production"), 2_000).traces) == 1_203


def test_a_request_is_found_by_its_id_on_whatever_day(files: TraceFiles) -> None:
    put(files, traces.trace(1), traces.trace(2, ts=NOON - 9 * US_A_DAY))
    odd = Trace(traces.meta(3, id="not-a-uuid"), b"", b"", "off")
    put(files, odd)
    query = TraceQuery(files)
    for wanted in (
        traces.trace_id_at(NOON, 1),
        traces.trace_id_at(NOON - 9 * US_A_DAY, 2),
        "not-a-uuid",
    ):
        trace = query.by_id(wanted)
        assert trace is not None
        assert trace.record().id == wanted
    assert query.by_id(traces.trace_id_at(NOON, 9)) is None
    assert query.by_id("'; DROP TABLE records; --") is None


def test_what_comes_in_is_followed_once_in_its_order(files: TraceFiles) -> None:
    put(files, traces.trace(1))
    follower = TraceQuery(files).follower()
    assert list(follower.poll(LogFilter())) == []
    # Began earlier, ended later: the order of arrival counts.
    put(files, traces.trace(2, ts=NOON + 5))
    put(files, traces.trace(3, ts=NOON - 5), traces.trace(4, ts=NOON + US_A_DAY))
    numbers = [int(t.record().id[-4:], 16) for t in follower.poll(LogFilter())]
    assert numbers == [2, 3, 4]
    assert list(follower.poll(LogFilter())) == []
    put(files, traces.trace(5, project="p"), traces.trace(6))
    assert len(list(follower.poll(LogFilter(project="p")))) == 1


def test_a_whole_record_has_its_bodies(files: TraceFiles) -> None:
    put(files, traces.trace(1))
    query = TraceQuery(files)
    whole = json.loads(query.json_of(query.find(LogFilter(), 1).traces[0]))
    assert (whole["request"], whole["response"]) == ({"model": "@production"}, {"ok": True})
    assert whole["bodies"] == "kept"
    assert {name: whole[name] for name in traces.record(1)} == traces.record(1)


def test_an_empty_store_has_nothing(files: TraceFiles) -> None:
    query = TraceQuery(files)
    assert query.find(LogFilter(), 9).traces == []
    assert query.by_id("x") is None
    assert list(query.follower().poll(LogFilter())) == []


def test_a_database_under_construction_is_empty(files: TraceFiles) -> None:
    files.root.mkdir(parents=True)
    (files.root / "2026-01-31.db").touch()
    assert TraceQuery(files).find(LogFilter(), 9).traces == []


@pytest.mark.parametrize("status", ["abc", "4x", "99999", "xxx"])
def test_a_status_that_means_nothing_is_refused(files: TraceFiles, status: str) -> None:
    put(files, traces.trace(1))
    with pytest.raises(FilterError, match=status):
        TraceQuery(files).find(LogFilter(status=status), 1)


@given(st.integers(0, 2**60), st.integers(0, 2**60))
def test_a_cursor_is_read_back(ts_us: int, seq: int) -> None:
    assert parse_cursor(Cursor(ts_us, seq).text()) == Cursor(ts_us, seq)


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "a-1", "1-2-3", "1" * 50 + "-1"])
def test_a_cursor_that_was_not_given_out_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse_cursor(text)
