"""One coarse timer for all connections of a worker.

A timer object a request would cost more than the request's routing. Here a connection carries
one deadline, which its exchange moves as it goes; the wheel looks at each connection at most
about once a second, or at its deadline if that is nearer. Moving a deadline is an assignment.
"""

from typing import Final, Protocol

from modelux.units import MonoUs

TICK_US: Final = 20_000
"""How exact a deadline is: providers' limits are in hundreds of milliseconds and up."""

SLOTS_COUNT: Final = 64
"""Ticks the wheel looks ahead, 1.28 s; a later deadline is looked at again then."""


class Timed(Protocol):
    """What the wheel watches: a caller's connection, and a stand-in for it in tests."""

    deadline_us: int
    watched_tick: int

    def is_over(self) -> bool:
        """Return whether nothing has to be watched any more."""

    def deadline_passed(self) -> None:
        """Act on a deadline that has passed."""


class Wheel:
    """The watched connections by the tick at which each is looked at next."""

    __slots__ = ("_slots", "_tick", "now_us")

    def __init__(self, now_us: MonoUs) -> None:
        self._slots: list[list[Timed]] = [[] for _ in range(SLOTS_COUNT)]
        self._tick = now_us // TICK_US
        self.now_us: int = now_us
        """The monotonic clock at the last turn: exact to a tick, and free to read."""

    def watch(self, timed: Timed) -> None:
        """Look at `timed` at its deadline, or at the end of the horizon if that is sooner."""
        tick = min(-(-timed.deadline_us // TICK_US), self._tick + SLOTS_COUNT - 1)
        tick = max(tick, self._tick + 1)
        timed.watched_tick = tick
        self._slots[tick % SLOTS_COUNT].append(timed)

    def turn(self, now_us: MonoUs) -> None:
        """Go on to `now_us`: tell each whose deadline has passed, look later at the others."""
        self.now_us = now_us
        until = now_us // TICK_US
        # After a long pause (a stopped process) one turn of the wheel has seen every slot.
        self._tick = max(self._tick, until - SLOTS_COUNT)
        while self._tick < until:
            self._tick += 1
            tick = self._tick
            due = self._slots[tick % SLOTS_COUNT]
            if not due:
                continue
            self._slots[tick % SLOTS_COUNT] = []
            try:
                while due:
                    self._look_at(due.pop(), tick, now_us)
            finally:
                # One of them raised: the others' deadlines hold all the same.
                self._slots[(tick + 1) % SLOTS_COUNT] += due

    def _look_at(self, timed: Timed, tick: int, now_us: MonoUs) -> None:
        # An entry whose connection was watched again since then is stale.
        if timed.watched_tick > tick or timed.is_over():
            return
        if timed.deadline_us > now_us:
            self.watch(timed)
            return
        timed.watched_tick = 0
        timed.deadline_passed()
        if timed.watched_tick == 0 and not timed.is_over():
            self.watch(timed)
