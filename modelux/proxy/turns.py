"""Turns of the ledger: one write transaction for all that one turn of the event loop brought.

Requests that a budget covers join the turn that is due at the end of this turn of the loop, and
what has been used is settled in the same transaction: so a caller who sends again once it has
its answer finds that answer charged, and no longer held. Nobody else in this process touches
the ledger, and no transaction outlives the call that made it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

from modelux._native import Gate, Plan, count, is_vocabulary_loaded
from modelux.limits import COUNT_THREADS, COUNTED_AT_ONCE_BYTES_MAX
from modelux.proxy.connection import LEDGER

if TYPE_CHECKING:
    from modelux.proxy.connection import ClientConnection

SETTLE_AGAIN_S: Final = 0.1
"""Where the ledger took nothing, what is due is tried again after this; it is never dropped."""


@final
class Turns:
    """The turns of one worker."""

    __slots__ = ("_counters", "_gate", "_is_soon", "_loop", "_waiting")

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate = gate
        self._loop = loop
        self._waiting: list[ClientConnection] = []
        self._is_soon = False
        self._counters: ThreadPoolExecutor | None = None

    def join(self, caller: "ClientConnection") -> None:
        """Let a caller's plan wait for the next turn; its exchange is resumed after it."""
        self._waiting.append(caller)
        self.settle_soon()

    def settle_soon(self) -> None:
        """Make a turn at the end of this turn of the loop."""
        if not self._is_soon:
            self._is_soon = True
            self._loop.call_soon(self._turn)

    def flush(self) -> None:
        """Settle all that is due, now: this process is about to end."""
        if self._gate.has_due:
            self._gate.turn([])

    def count(self, caller: "ClientConnection", plan: Plan) -> bool:
        """Count the text of a caller's request; return whether that is done already.

        At most 8 KiB are counted here. More of it, or the first text of all, which has to wait
        for the vocabulary, is counted in a thread, and the exchange is resumed after that.
        """
        asked = plan.to_count()
        assert asked is not None, "nobody asked for a count"
        body, shape, vocabulary = asked
        if len(body) <= COUNTED_AT_ONCE_BYTES_MAX and is_vocabulary_loaded(vocabulary):
            plan.counted(count(body, shape, vocabulary))
            return True
        if self._counters is None:
            self._counters = ThreadPoolExecutor(COUNT_THREADS, "count")

        def take(counted: asyncio.Future[int | None]) -> None:
            if caller.plan is plan and caller.waits_for == LEDGER:
                failed = counted.cancelled() or counted.exception() is not None
                plan.counted(None if failed else counted.result())
                caller.turn_over()

        self._loop.run_in_executor(
            self._counters, count, body, shape, vocabulary
        ).add_done_callback(take)
        return False

    def _turn(self) -> None:
        self._is_soon = False
        waiting, self._waiting = self._waiting, []
        # Who left while it waited has settled its affairs already.
        waiting = [caller for caller in waiting if caller.waits_for == LEDGER]
        self._gate.turn([caller.plan for caller in waiting if caller.plan is not None])
        has_failed = self._gate.has_due
        for caller in waiting:
            if caller.waits_for == LEDGER:
                caller.turn_over()
        if has_failed:
            self._loop.call_later(SETTLE_AGAIN_S, self.settle_soon)
