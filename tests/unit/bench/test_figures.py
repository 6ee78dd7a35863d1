from dataclasses import replace

import pytest

from bench.figures import Figure, How, Rows, Spread, exceeded, load_figures, measured
from tests.unit.bench.rows import row, rows


def figure(scenario: str, value: str, how: How) -> Figure:
    return Figure(title=scenario, scenario=scenario, value=value, how=how)


def test_a_ratio_is_taken_inside_a_round_so_a_slow_round_does_not_move_it() -> None:
    ratio = figure("unary_c32", "worker_cpu_us_per_request", How.RATIO)

    spread = measured(ratio, Rows(rows()))

    assert spread is not None
    assert spread.low == pytest.approx(1.2)
    assert spread.high == pytest.approx(1.2)
    assert spread.count == 3


def test_added_is_ours_minus_direct_and_may_be_a_multiple_of_what_nginx_adds() -> None:
    known = Rows(rows())

    added = measured(figure("open_2000", "p50_us", How.ADDED), known)
    multiple = measured(figure("open_2000", "p50_us", How.ADDED_RATIO), known)

    assert added == Spread(median=120, low=120, high=120, count=3)
    assert multiple == Spread(median=1.2, low=1.2, high=1.2, count=3)


def test_there_is_no_multiple_of_what_nginx_does_not_add() -> None:
    known = Rows(
        [
            row("open_2000", "direct", 0, p50_us=50),
            row("open_2000", "nginx", 0, p50_us=49),
            row("open_2000", "modelux", 0, p50_us=60),
        ]
    )

    assert measured(figure("open_2000", "p50_us", How.ADDED_RATIO), known) is None


def test_a_round_in_which_direct_itself_stalled_is_left_out() -> None:
    stalled = row("open_2000", "direct", 1, p99_us=9_000)
    known = Rows(
        [one for one in rows() if (one.target, one.round) != ("direct", 1)] + [stalled]
    )

    added = replace(figure("open_2000", "p99_us", How.ADDED), direct_max=5_000)

    spread = measured(added, known)
    assert spread is not None
    assert spread.count == 2


def test_rows_that_were_not_checked_are_no_figures() -> None:
    unchecked = [replace(one, is_checked=False) for one in rows()]

    assert (
        measured(figure("start_fresh", "first_answer_ms", How.VALUE), Rows(unchecked)) is None
    )


def test_a_ceiling_is_compared_with_the_median_in_the_figures_own_unit() -> None:
    value = figure("memory_idle", "pss_bytes", How.VALUE)
    memory = replace(value, scale=1e-6, ceiling=39.0)
    known = Rows(rows())

    assert len(exceeded([memory], known)) == 1
    assert exceeded([replace(memory, ceiling=40.0)], known) == []
    assert exceeded([replace(memory, ceiling=None)], known) == []


def test_the_stated_figures_can_be_read_and_aim_no_higher_than_their_ceiling() -> None:
    stated = load_figures()

    assert len({one.title for one in stated}) == len(stated)
    for one in stated:
        assert (one.aim is None) == (one.ceiling is None), one.title
        assert one.aim is None or one.ceiling is None or one.aim <= one.ceiling, one.title
