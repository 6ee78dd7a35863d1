"""How long a dead child stays down, and when deaths are a crash loop. No I/O, no clock."""

from collections import deque
from typing import Final, final

from modelux.units import US_PER_S, MonoUs

PAUSE_US_MIN: Final = US_PER_S // 10
PAUSE_US_MAX: Final = 30 * US_PER_S
HEALTHY_AFTER_US: Final = 10 * US_PER_S
"""A child that lived this long died of something else than its start: the pause begins anew."""

CRASH_LOOP_DEATHS: Final = 5
CRASH_LOOP_WINDOW_US: Final = 60 * US_PER_S


@final
class Pause:
    """The growing pause of one child: doubled at each quick death, the least after calm."""

    __slots__ = ("_next_us",)

    def __init__(self) -> None:
        self._next_us = PAUSE_US_MIN

    def after_death(self, lived_us: int) -> int:
        """Return how long to wait before the next start.

        Args:
            lived_us: From its start to its death; 0 when it could not even be started.
        """
        assert lived_us >= 0, lived_us
        if lived_us >= HEALTHY_AFTER_US:
            self._next_us = PAUSE_US_MIN
        pause_us = self._next_us
        self._next_us = min(PAUSE_US_MAX, 2 * pause_us)
        return pause_us


@final
class CrashLoop:
    """Counts deaths of workers, of all slots together, within a sliding window."""

    __slots__ = ("_deaths",)

    def __init__(self) -> None:
        # Older deaths than these can never be among the last few that decide.
        self._deaths: deque[MonoUs] = deque(maxlen=CRASH_LOOP_DEATHS)

    def worker_died(self, now_us: MonoUs) -> None:
        """Count one death."""
        self._deaths.append(now_us)

    def is_looping(self, now_us: MonoUs) -> bool:
        """Return whether the last few deaths all lie within the window."""
        if len(self._deaths) < CRASH_LOOP_DEATHS:
            return False
        return now_us - self._deaths[0] < CRASH_LOOP_WINDOW_US

    def calm_in_us(self, now_us: MonoUs) -> int:
        """Return how long it takes to calm down if nobody dies; 0 when it is calm."""
        if not self.is_looping(now_us):
            return 0
        return CRASH_LOOP_WINDOW_US - (now_us - self._deaths[0])
