"""Who has stopped: workers whose event loop has not moved for too long. No I/O, no clock.

A worker beats from its own event loop, so a beat vouches for the loop and for nothing else. One
is killed at a time and the others are given time to move, because they may only have waited for
what the first one held: the ledger's lock. Whoever holds it goes first, whoever waits for it
last. If our own clock jumped, it was us or the whole machine that stood still: then everybody
gets a whole timeout to beat again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, final

from modelux.units import US_PER_S, MonoUs

OWN_GAP_US: Final = US_PER_S
"""We look ten times a second; a second between two looks means that we did not run."""
MOVE_US: Final = US_PER_S // 2
"""What the others get to move after one was killed."""
START_US: Final = 30 * US_PER_S
"""To the first beat: importing on a cold, busy disk takes long."""


@unique
class Lock(Enum):
    """What a worker has to do with the ledger's lock; the values are those of its cell."""

    NONE = 0
    WAITS = 1
    HOLDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What is known of one running worker."""

    slot: int
    started_us: MonoUs
    beat_us: int
    """Its last beat; 0 before the first."""
    is_stopped: bool
    """The kernel says so (state `T`): it cannot beat, whatever it waits for."""
    lock: Lock = Lock.NONE
    """What it has marked in its cell."""


@final
class HeartbeatWatch:
    """Judges the pulses; its answer is to be carried out before it is asked again."""

    __slots__ = ("_last_us", "_lenient_until_us", "_timeout_us")

    def __init__(self, timeout_us: int, now_us: MonoUs) -> None:
        assert timeout_us > 0, timeout_us
        self._timeout_us = timeout_us
        self._last_us = now_us
        self._lenient_until_us: int = now_us

    def judge(self, now_us: MonoUs, pulses: Sequence[Pulse]) -> Pulse | None:
        """Return the worker to kill, if it is time to: the likeliest cause first."""
        if now_us - self._last_us >= OWN_GAP_US:
            self._lenient_until_us = now_us + self._timeout_us
        self._last_us = now_us
        if now_us < self._lenient_until_us:
            return None
        late = [pulse for pulse in pulses if self._is_late(now_us, pulse)]
        if not late:
            return None
        self._lenient_until_us = now_us + MOVE_US
        return min(late, key=lambda pulse: (_rank(pulse), pulse.beat_us, pulse.slot))

    def _is_late(self, now_us: MonoUs, pulse: Pulse) -> bool:
        if pulse.beat_us == 0:
            allowed_us = max(START_US, self._timeout_us)
            return now_us - pulse.started_us >= allowed_us
        return now_us - pulse.beat_us >= self._timeout_us


def _rank(pulse: Pulse) -> int:
    """Return how far the worker is from being the cause: 0 is the cause."""
    if pulse.lock is Lock.HOLDS:
        return 0
    if pulse.is_stopped:
        return 1
    # Whoever waits cannot beat while another holds the lock, and will once it is free.
    return 3 if pulse.lock is Lock.WAITS else 2
