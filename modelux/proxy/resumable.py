"""What an exchange waits by: a generator that callbacks resume, with one deadline.

Two things run exchanges: a caller's connection (`connection.py`), and a call that one request
makes beside others (`calls.py`). Both wait for exactly one kind of thing at a time; `waits_for`
says which. An exchange is not a task: the callbacks resume it directly, so that a request costs
no future, no task step and no extra turn of the loop.
"""

from collections.abc import Generator
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from modelux._native import (
    FAULT_CALLER_GONE,
    FAULT_EOF,
    FAULT_RESET,
    FAULT_SHUTDOWN,
    FAULT_TIMEOUT,
)
from modelux.proxy.upstream import UpstreamConnection
from modelux.proxy.wheel import TICK_US

if TYPE_CHECKING:
    from modelux._native import Plan
    from modelux.proxy.shell import Shell

FAR_FUTURE_US: Final = 2**62
"""A deadline that never passes."""

NOTHING: Final = 0
REQUEST: Final = 1
CONNECTION: Final = 2
ANSWER: Final = 3
ROOM: Final = 4
LEDGER: Final = 5
PAUSE: Final = 6
CALLS: Final = 7
"""What an exchange waits for. Plain integers: in CPython 3.11 each use of an enum's member
costs as much as ten of these, and a request has a dozen."""


@unique
class Event(IntEnum):
    """What can happen to an exchange besides bytes; values are those of the native faults."""

    TIMEOUT = FAULT_TIMEOUT
    RESET = FAULT_RESET
    EOF = FAULT_EOF
    CALLER_GONE = FAULT_CALLER_GONE
    SHUTDOWN = FAULT_SHUTDOWN
    CONNECT_FAILED = 100


Happening: TypeAlias = bytes | Event | UpstreamConnection
"""What a wait ends with."""


T = TypeVar("T")

Exchange: TypeAlias = Generator[None, Happening, T]
"""A part of an exchange: it yields to wait, is sent what happens next, and returns a `T`.

A plain generator and no coroutine: each `await` of one would make two more objects, and a
request waits four times."""


class Resumable:
    """One exchange and what resumes it."""

    __slots__ = (
        "_exchange",
        "_shell",
        "closed",
        "deadline_us",
        "plan",
        "upstream",
        "waits_for",
        "watched_tick",
        "write_paused",
    )

    def __init__(self, shell: "Shell") -> None:
        self._shell = shell
        self._exchange: Exchange[None]
        self.plan: Plan | None = None
        self.upstream: UpstreamConnection | None = None
        self.closed = False
        self.write_paused = False
        self.waits_for = NOTHING
        self.deadline_us = FAR_FUTURE_US
        self.watched_tick = 0

    def send(self, data: bytes) -> None:
        """Give bytes of the answer to whoever it is for."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once whatever this answers to."""
        raise NotImplementedError

    def upstream_ended(self, *, in_order: bool) -> None:
        """Go on after the provider closed."""
        if self.waits_for == ANSWER:
            self._run(Event.EOF if in_order else Event.RESET)

    def connected(self, upstream: UpstreamConnection | None) -> None:
        """Go on with a connection, or without one."""
        assert self.waits_for == CONNECTION, self.waits_for
        self._run(Event.CONNECT_FAILED if upstream is None else upstream)

    def turn_over(self) -> None:
        """Go on after a turn of the ledger."""
        self._run(b"")

    def turn_failed(self) -> None:
        """End what waited for a turn that failed by a bug of ours: nothing of it was sent."""
        self._run(Event.SHUTDOWN)

    def call_over(self) -> None:
        """Go on after one of the calls that this one waits for has ended."""
        if self.waits_for == CALLS:
            self._run(b"")

    def set_deadline(self, deadline_us: int) -> None:
        """Let the present wait end at `deadline_us`, on the monotonic clock."""
        self.deadline_us = deadline_us
        if not self.watched_tick or deadline_us < self.watched_tick * TICK_US:
            self._shell.wheel.watch(self)

    def is_over(self) -> bool:
        """Return whether this exchange needs no more watching."""
        raise NotImplementedError

    def deadline_passed(self) -> None:
        """Act on a deadline that has passed."""
        raise NotImplementedError

    def _over(self) -> None:
        """Take note that the exchange has come to its end."""
        raise NotImplementedError

    def _failed(self, bug: BaseException) -> None:
        """End an exchange that a bug of ours broke."""
        raise NotImplementedError

    def _run(self, event: Happening | None) -> None:
        """Resume the exchange; this is the one place where a bug of ours ends one."""
        try:
            self._exchange.send(event)  # type: ignore[arg-type]  # None starts it.
        except StopIteration:
            self.waits_for = NOTHING
            self._over()
        except BaseException as bug:  # noqa: BLE001  # A native panic is one, too.
            self.waits_for = NOTHING
            self._failed(bug)

    upstream_data = _run
    """Go on with bytes of the answer: the same thing, without a call in between."""
