from dataclasses import replace

import pytest

from bench import report
from bench.figures import Rows, Spread
from tests.unit.bench.rows import CONTEXT, rows


def line_with(text: str, *words: str) -> str:
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


def test_the_page_names_its_run_and_says_what_is_met_missed_and_missing() -> None:
    page = report.document(CONTEXT, rows(), file="run.jsonl", request_bytes=1_200)

    for word in ("run.jsonl", "`abc`", "seed 7", "A Processor", "nginx/1.22.1", "1,200 bytes"):
        assert word in page
    assert "1.20 (1.20 to 1.20) × | met" in line_with(page, "request, 32 connections, as")
    assert "**missed**" in line_with(page, "empty data directory")
    assert "not measured" in line_with(page, "idle stream, TLS")


def test_what_each_proxy_adds_stands_below_the_targets() -> None:
    text = report.latency_table(Rows(rows()), [("open_2000", "2,000 requests/s")])

    assert "| 100 (100 to 100) | 200 (200 to 200) |" in line_with(text, "added by nginx")
    assert "| 120 (120 to 120) | 210 (210 to 210) |" in line_with(text, "added by modelux")


def test_the_writer_is_shown_beside_the_worker() -> None:
    text = report.cpu_table(Rows(rows()), [("unary_c32", "32 connections")], "request")

    assert "writer 9.00 (9.00 to 9.00)" in line_with(text, "modelux")


def test_a_run_without_nginx_says_so_and_still_has_its_own_figures() -> None:
    alone = [row for row in rows() if row.target != "nginx"]

    without = replace(CONTEXT, nginx="")
    page = report.document(without, alone, file="f", request_bytes=1)

    assert "not installed" in page
    assert "not measured" in line_with(page, "request, 32 connections, as")
    assert "40.0 MB" in line_with(page, "| worker, idle | modelux |")


@pytest.mark.parametrize(
    ("value", "text"), [(0.951, "0.95"), (17.44, "17.4"), (1_234.5, "1,234"), (-3.0, "-3.00")]
)
def test_figures_are_written_with_about_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_one_round_has_no_spread_to_show() -> None:
    assert report.spread_text(Spread(median=2, low=2, high=2, count=1)) == "2.00"
    assert report.spread_text(None) == "–"


def test_a_run_on_a_busy_machine_says_so() -> None:
    busy = replace(CONTEXT, load_average=3.0)

    assert "not quiet" in report.document(busy, rows(), file="f", request_bytes=1)
    assert "not quiet" not in report.document(CONTEXT, rows(), file="f", request_bytes=1)
