"""The wheel: each deadline is met once, to a tick, whatever happens around it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.proxy.wheel import SLOTS_COUNT, TICK_US, Wheel
from modelux.units import MonoUs

START_US = 7 * TICK_US + 3


class Watched:
    """Stands in for a connection: says when it was told that its time is up."""

    def __init__(self, wheel: Wheel, deadline_us: int, *, fails: bool = False) -> None:
        self.deadline_us = deadline_us
        self.watched_tick = 0
        self.told_at_us: list[int] = []
        self._wheel = wheel
        self._fails = fails

    def is_over(self) -> bool:
        return bool(self.told_at_us)

    def deadline_passed(self) -> None:
        self.told_at_us.append(self._wheel.now_us)
        if self._fails:
            raise RuntimeError("a bug in one connection")


def turn_until(wheel: Wheel, until_us: int, step_us: int) -> None:
    for now_us in range(wheel.now_us, until_us + step_us, step_us):
        wheel.turn(MonoUs(now_us))


@given(
    delays_us=st.lists(st.integers(0, 5 * SLOTS_COUNT * TICK_US), min_size=1, max_size=8),
    step_us=st.sampled_from([TICK_US // 3, TICK_US, 7 * TICK_US, 3 * SLOTS_COUNT * TICK_US]),
)
def test_every_deadline_is_told_once_and_never_early(
    delays_us: list[int], step_us: int
) -> None:
    wheel = Wheel(MonoUs(START_US))
    watched = [Watched(wheel, START_US + delay_us) for delay_us in delays_us]
    for each in watched:
        wheel.watch(each)
    turn_until(wheel, START_US + max(delays_us) + 2 * TICK_US, step_us)
    for each in watched:
        assert len(each.told_at_us) == 1
        assert 0 <= each.told_at_us[0] - each.deadline_us <= step_us + 2 * TICK_US


def test_a_deadline_that_moved_on_is_looked_at_again_then() -> None:
    wheel = Wheel(MonoUs(START_US))
    watched = Watched(wheel, START_US + 10 * TICK_US)
    wheel.watch(watched)
    watched.deadline_us += 500 * TICK_US
    turn_until(wheel, START_US + 490 * TICK_US, TICK_US)
    assert not watched.told_at_us
    turn_until(wheel, START_US + 513 * TICK_US, TICK_US)
    assert len(watched.told_at_us) == 1


def test_a_nearer_deadline_that_is_watched_anew_is_met() -> None:
    wheel = Wheel(MonoUs(START_US))
    watched = Watched(wheel, START_US + 500 * TICK_US)
    wheel.watch(watched)
    watched.deadline_us = START_US + 5 * TICK_US
    wheel.watch(watched)
    turn_until(wheel, START_US + 7 * TICK_US, TICK_US)
    assert len(watched.told_at_us) == 1


def test_one_that_fails_leaves_the_deadlines_of_others_alone() -> None:
    wheel = Wheel(MonoUs(START_US))
    watched = [Watched(wheel, START_US + TICK_US, fails=index == 1) for index in range(4)]
    for each in watched:
        wheel.watch(each)
    with pytest.raises(RuntimeError):
        turn_until(wheel, START_US + 5 * TICK_US, TICK_US)
    with contextlib.suppress(RuntimeError):
        turn_until(wheel, START_US + 5 * TICK_US, TICK_US)
    assert [len(each.told_at_us) for each in watched] == [1, 1, 1, 1]
