import json
from pathlib import Path
from typing import Any

import pytest

from bench.macro import measures, tools
from bench.macro.tools import Load, MeasureError
from bench.results import REQUEST_BYTES


def printed(**changes: object) -> dict[str, Any]:
    empty = {"count": 0, "buckets": []}
    made: dict[str, Any] = {
        "window_ns": 2_000_000_000, "answers": 12, "answers_in_window": 10, "wrong": 0,
        "not_200": 0, "first_wrong": "", "reconnects": 0, "unfinished": 0,
        "events_in_window": 0, "reads_in_window": 0, "own_cpu_ns": 5_000,
        "watched": [{"pid": 7, "cpu_ns": 30_000}],
        "latency": {"count": 2, "buckets": [[1_000, 2]]},
        "send_lag": empty, "ttft": empty, "gap": empty,
    }  # fmt: skip
    return made | changes


def test_what_the_load_generator_prints_becomes_seconds_and_microseconds() -> None:
    answered = tools.read_answered(printed())

    assert answered.window_s == 2.0
    assert answered.cpu_us == {7: 30.0}
    assert answered.answers_in_all == 12
    assert answered.latency.percentile_ns(50) == 1_000


@pytest.mark.parametrize(
    "changes",
    [{"wrong": 1}, {"unfinished": 1}, {"watched": [{"pid": 7, "cpu_ns": None}]}],
)
def test_a_run_with_anything_wrong_gives_no_figures(changes: dict[str, Any]) -> None:
    with pytest.raises(MeasureError):
        tools.read_answered(printed(**changes))


def test_a_body_has_its_size_and_its_wish(tmp_path: Path) -> None:
    path = measures.write_body(
        tmp_path, "@bench", "stream", "events=3 gap_us=5", bytes_=REQUEST_BYTES
    )

    body = json.loads(path.read_text())
    assert abs(path.stat().st_size - REQUEST_BYTES) <= 2
    assert body["stream"] is True
    assert body["metadata"]["bench"] == "events=3 gap_us=5"


def test_the_command_line_repeats_headers_and_watched_processes(tmp_path: Path) -> None:
    words = Load(port=1, body=tmp_path / "b", headers=("a: b", "c: d")).words([5, 6])

    assert words.count("--header") == 2
    assert words[-4:] == ["--watch", "5", "--watch", "6"]
