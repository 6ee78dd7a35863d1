"""Pauses grow and fall back; five deaths within a minute are a crash loop, four are not."""

from hypothesis import given
from hypothesis import strategies as st

from modelux.supervisor.restart import (
    CRASH_LOOP_DEATHS,
    CRASH_LOOP_WINDOW_US,
    HEALTHY_AFTER_US,
    PAUSE_US_MAX,
    PAUSE_US_MIN,
    CrashLoop,
    Pause,
)
from modelux.units import US_PER_S, MonoUs


def test_quick_deaths_double_the_pause_up_to_half_a_minute() -> None:
    pause = Pause()
    pauses_s = [pause.after_death(0) / US_PER_S for _ in range(11)]
    assert pauses_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]


def test_a_healthy_while_sets_the_pause_back_to_its_least() -> None:
    pause = Pause()
    for _ in range(6):
        pause.after_death(0)
    assert pause.after_death(HEALTHY_AFTER_US) == PAUSE_US_MIN
    assert pause.after_death(0) == 2 * PAUSE_US_MIN


@given(lives=st.lists(st.integers(min_value=0, max_value=10**12)))
def test_a_pause_always_lies_between_its_bounds(lives: list[int]) -> None:
    pause = Pause()
    assert all(PAUSE_US_MIN <= pause.after_death(lived) <= PAUSE_US_MAX for lived in lives)


def test_the_fifth_death_within_a_minute_is_a_crash_loop() -> None:
    loop = CrashLoop()
    for second in range(CRASH_LOOP_DEATHS - 1):
        loop.worker_died(MonoUs(second * US_PER_S))
        assert not loop.is_looping(MonoUs(second * US_PER_S))
    loop.worker_died(MonoUs(10 * US_PER_S))
    assert loop.is_looping(MonoUs(10 * US_PER_S))


def test_a_crash_loop_ends_when_its_first_death_is_a_minute_ago() -> None:
    loop = CrashLoop()
    for second in range(CRASH_LOOP_DEATHS):
        loop.worker_died(MonoUs(second * US_PER_S))
    now = MonoUs(CRASH_LOOP_WINDOW_US - 1)
    assert (loop.is_looping(now), loop.calm_in_us(now)) == (True, 1)
    now = MonoUs(CRASH_LOOP_WINDOW_US)
    assert (loop.is_looping(now), loop.calm_in_us(now)) == (False, 0)


@given(steps=st.lists(st.integers(min_value=0, max_value=40 * US_PER_S), max_size=40))
def test_looping_means_that_five_deaths_lie_within_the_window(steps: list[int]) -> None:
    """Method: a model that keeps every death and counts."""
    loop, deaths, now = CrashLoop(), [], 0
    for step in steps:
        now += step
        loop.worker_died(MonoUs(now))
        deaths.append(now)
        within = [death for death in deaths if now - death < CRASH_LOOP_WINDOW_US]
        assert loop.is_looping(MonoUs(now)) == (len(within) >= CRASH_LOOP_DEATHS)
