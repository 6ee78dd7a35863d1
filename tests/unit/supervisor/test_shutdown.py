"""The way to the end: who is told what, in which order, and that it always arrives."""

from hypothesis import given
from hypothesis import strategies as st

from modelux.supervisor.shutdown import (
    CLOSE_US_MAX,
    DRAIN_GRACE_US,
    FLUSH_US_MAX,
    HURRIED_FLUSH_US,
    Alive,
    Order,
    Shutdown,
    Stage,
)
from modelux.units import US_PER_S, MonoUs

DELAY_US = 2 * US_PER_S
DRAIN_US = 60 * US_PER_S
ALL = Alive(workers=True, writer=True, control=True, keeper=True)
NO_WORKERS = Alive(workers=False, writer=True, control=True, keeper=True)
NO_WRITER = Alive(workers=False, writer=False, control=True, keeper=True)
ONLY_CONTROL = Alive(workers=False, writer=False, control=True, keeper=False)
ONLY_KEEPER = Alive(workers=False, writer=False, control=False, keeper=True)
NOBODY = Alive(workers=False, writer=False, control=False, keeper=False)


def begun() -> Shutdown:
    return Shutdown(drain_delay_us=DELAY_US, drain_us=DRAIN_US)


def at(us: int) -> MonoUs:
    return MonoUs(us)


def test_nothing_is_ordered_while_serving() -> None:
    shutdown = begun()
    assert shutdown.step(at(10**12), ALL) == []
    assert shutdown.stage is Stage.SERVING


def test_connections_are_accepted_until_the_delay_is_over() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    assert shutdown.step(at(DELAY_US - 1), ALL) == []
    assert shutdown.stage is Stage.ANNOUNCED
    assert shutdown.step(at(DELAY_US), ALL) == [Order.STOP_LISTENING, Order.END_WORKERS]


def test_the_writer_goes_after_the_workers_and_the_control_plane_last() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    shutdown.step(at(DELAY_US), ALL)
    assert shutdown.step(at(DELAY_US + 1), ALL) == []
    assert shutdown.step(at(DELAY_US + 2), NO_WORKERS) == [Order.END_WRITER]
    assert shutdown.step(at(DELAY_US + 3), NO_WORKERS) == []
    assert shutdown.step(at(DELAY_US + 4), ONLY_CONTROL) == [Order.END_CONTROL]
    assert shutdown.step(at(DELAY_US + 5), NOBODY) == []
    assert shutdown.stage is Stage.ENDED


def test_the_ledger_is_copied_once_more_when_the_writer_is_gone_and_waited_for() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    shutdown.step(at(DELAY_US), ALL)
    shutdown.step(at(DELAY_US), NO_WORKERS)
    orders = shutdown.step(at(DELAY_US), NO_WRITER)
    assert orders == [Order.COPY_LEDGER, Order.END_CONTROL]
    assert shutdown.step(at(DELAY_US + CLOSE_US_MAX - 1), ONLY_KEEPER) == []
    assert shutdown.stage.value == Stage.CLOSING.value
    shutdown.step(at(DELAY_US + CLOSE_US_MAX - 1), NOBODY)
    assert shutdown.stage.value == Stage.ENDED.value


def test_a_copy_that_hangs_does_not_keep_the_end_from_coming() -> None:
    shutdown = begun()
    shutdown.hurry()
    shutdown.step(at(0), ONLY_KEEPER)
    assert shutdown.step(at(CLOSE_US_MAX), ONLY_KEEPER) == []
    assert shutdown.stage is Stage.ENDED


def test_workers_that_outlast_the_drain_are_killed_once() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    shutdown.step(at(DELAY_US), ALL)
    deadline = DELAY_US + DRAIN_US + DRAIN_GRACE_US
    assert shutdown.step(at(deadline - 1), ALL) == []
    assert shutdown.step(at(deadline), ALL) == [Order.KILL_WORKERS]
    assert shutdown.step(at(deadline + 1), ALL) == []


def test_a_second_terminate_kills_workers_and_still_lets_the_writer_flush() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    shutdown.step(at(DELAY_US), ALL)
    shutdown.terminate(at(DELAY_US + 1))
    assert shutdown.step(at(DELAY_US + 1), ALL) == [Order.KILL_WORKERS]
    now = DELAY_US + 2
    assert shutdown.step(at(now), NO_WORKERS) == [Order.END_WRITER]
    assert shutdown.step(at(now + HURRIED_FLUSH_US - 1), NO_WORKERS) == []
    assert shutdown.step(at(now + HURRIED_FLUSH_US), NO_WORKERS) == [Order.KILL_WRITER]
    orders = shutdown.step(at(now + HURRIED_FLUSH_US), ONLY_CONTROL)
    assert orders == [Order.END_CONTROL, Order.KILL_CONTROL]


def test_an_interrupt_while_serving_ends_at_once_without_the_delay() -> None:
    shutdown = begun()
    shutdown.hurry()
    assert shutdown.step(at(0), ALL) == [Order.STOP_LISTENING, Order.KILL_WORKERS]


def test_an_interrupt_while_the_writer_flushes_shortens_its_time() -> None:
    shutdown = begun()
    shutdown.terminate(at(0))
    shutdown.step(at(DELAY_US), ALL)
    shutdown.step(at(DELAY_US), NO_WORKERS)
    shutdown.hurry()
    assert shutdown.step(at(DELAY_US + 1), NO_WORKERS) == []
    late = DELAY_US + 1 + HURRIED_FLUSH_US
    assert shutdown.step(at(late), NO_WORKERS) == [Order.KILL_WRITER]


def test_with_nobody_left_the_end_is_reached_in_one_step() -> None:
    shutdown = begun()
    shutdown.hurry()
    shutdown.step(at(0), NOBODY)
    assert shutdown.stage is Stage.ENDED


@given(
    hurry_at=st.integers(min_value=0, max_value=2 * DRAIN_US),
    stubborn=st.sets(st.sampled_from(["workers", "writer", "control", "keeper"])),
)
def test_the_end_always_comes_however_stubborn_the_children_are(
    hurry_at: int, stubborn: set[str]
) -> None:
    """Method: stubborn children obey only a kill; the others obey the first order."""
    names = ("workers", "writer", "control", "keeper")
    shutdown, alive = begun(), set(names)
    limit = DELAY_US + DRAIN_US + DRAIN_GRACE_US + FLUSH_US_MAX + CLOSE_US_MAX + 10 * US_PER_S
    seen: list[Order] = []
    shutdown.terminate(at(0))
    for now in range(0, limit, US_PER_S // 4):
        if now <= hurry_at < now + US_PER_S // 4:
            shutdown.terminate(at(now))
        state = Alive(**{name: name in alive for name in names})
        for order in shutdown.step(at(now), state):
            seen.append(order)
            verb, _, name = order.value.partition(" ")
            if verb == "kill" or (verb == "end" and name not in stubborn):
                alive.discard(name)
            if order is Order.COPY_LEDGER and "keeper" not in stubborn:
                alive.discard("keeper")
    assert shutdown.stage is Stage.ENDED
    assert alive <= {"keeper"} & stubborn
    assert len(seen) == len(set(seen))
