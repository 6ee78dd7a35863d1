"""The only caller of `time`: everything else is told the time, so that tests can tell it."""

import time

from modelux.units import MonoUs, UnixUs


def mono_us() -> MonoUs:
    """Return the monotonic clock in microseconds; the same clock in every process."""
    return MonoUs(time.monotonic_ns() // 1_000)


def unix_us() -> UnixUs:
    """Return the wall clock in microseconds since 1970, UTC. It may step either way."""
    return UnixUs(time.time_ns() // 1_000)


def pause_s(seconds: float) -> None:
    """Block this thread; only for processes that serve nobody from it."""
    time.sleep(seconds)
