"""Who is killed for standing still, and who is not."""

from hypothesis import given
from hypothesis import strategies as st

from modelux.supervisor.heartbeat import (
    MOVE_US,
    OWN_GAP_US,
    START_US,
    HeartbeatWatch,
    Lock,
    Pulse,
)
from modelux.units import US_PER_S, MonoUs

TIMEOUT_US = 5 * US_PER_S
TICK_US = US_PER_S // 10
BEGIN = MonoUs(1_000 * US_PER_S)


def pulse(slot: int, beat_us: int, *, stopped: bool = False, lock: Lock = Lock.NONE) -> Pulse:
    return Pulse(slot=slot, started_us=BEGIN, beat_us=beat_us, is_stopped=stopped, lock=lock)


def killed(watch: HeartbeatWatch, until_us: int, pulses: list[Pulse]) -> list[tuple[int, int]]:
    """Look every tenth of a second; return (slot, µs after the beginning) of each kill."""
    kills, alive = [], list(pulses)
    for now in range(BEGIN, BEGIN + until_us, TICK_US):
        found = watch.judge(MonoUs(now), alive)
        if found is not None:
            alive.remove(found)
            kills.append((found.slot, now - BEGIN))
    return kills


def test_a_worker_that_stops_beating_is_killed_after_the_timeout_and_no_earlier() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    assert killed(watch, 8 * US_PER_S, [pulse(0, BEGIN)]) == [(0, TIMEOUT_US)]


def test_a_worker_that_beats_is_left_alone() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    assert killed(watch, 100 * US_PER_S, [pulse(0, BEGIN + 200 * US_PER_S)]) == []


def test_one_is_killed_at_a_time_and_the_others_get_to_move() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    late = [pulse(slot, BEGIN) for slot in range(3)]
    kills = killed(watch, 10 * US_PER_S, late)
    assert kills == [(0, TIMEOUT_US), (1, TIMEOUT_US + MOVE_US), (2, TIMEOUT_US + 2 * MOVE_US)]


def test_a_stopped_process_goes_before_one_that_may_only_wait_for_it() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    late = [pulse(0, BEGIN - 1), pulse(1, BEGIN), pulse(2, BEGIN, stopped=True)]
    assert [slot for slot, _ in killed(watch, 10 * US_PER_S, late)] == [2, 0, 1]


def test_whoever_holds_the_ledgers_lock_goes_first_and_who_waits_for_it_last() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    late = [
        pulse(0, BEGIN - 1, lock=Lock.WAITS),
        pulse(1, BEGIN, stopped=True),
        pulse(2, BEGIN, lock=Lock.HOLDS),
        pulse(3, BEGIN),
        pulse(4, BEGIN, stopped=True, lock=Lock.WAITS),
    ]
    kills = killed(watch, 10 * US_PER_S, late)
    assert [slot for slot, _ in kills] == [2, 1, 4, 3, 0]


def test_who_only_waited_lives_when_it_moves_after_the_kill_of_the_holder() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    waiting = pulse(0, BEGIN, lock=Lock.WAITS)
    holding = pulse(1, BEGIN, stopped=True, lock=Lock.HOLDS)
    for now in range(BEGIN, BEGIN + TIMEOUT_US, TICK_US):
        assert watch.judge(MonoUs(now), [waiting, holding]) is None
    assert watch.judge(MonoUs(BEGIN + TIMEOUT_US), [waiting, holding]) == holding
    moved_us = BEGIN + TIMEOUT_US + MOVE_US - TICK_US
    for now in range(BEGIN + TIMEOUT_US, BEGIN + 2 * TIMEOUT_US, TICK_US):
        moved = pulse(0, moved_us) if now >= moved_us else waiting
        assert watch.judge(MonoUs(now), [moved]) is None


def test_after_a_gap_in_its_own_clock_everybody_gets_a_whole_timeout() -> None:
    """A machine that was stopped for a minute kills nobody for it."""
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    awake = BEGIN + 60 * US_PER_S
    for now in range(awake, awake + TIMEOUT_US, TICK_US):
        assert watch.judge(MonoUs(now), [pulse(0, BEGIN)]) is None
    assert watch.judge(MonoUs(awake + TIMEOUT_US), [pulse(0, BEGIN)]) is not None


def test_a_worker_that_has_not_beaten_yet_gets_time_to_start() -> None:
    watch = HeartbeatWatch(TIMEOUT_US, BEGIN)
    assert killed(watch, START_US + US_PER_S, [pulse(0, 0)]) == [(0, START_US)]


@given(
    gaps=st.lists(st.integers(min_value=OWN_GAP_US, max_value=10**9), max_size=20),
)
def test_a_watch_that_always_oversleeps_never_kills(gaps: list[int]) -> None:
    watch, now = HeartbeatWatch(TIMEOUT_US, BEGIN), BEGIN
    for gap in gaps:
        now = MonoUs(now + gap)
        assert watch.judge(now, [pulse(0, BEGIN)]) is None
