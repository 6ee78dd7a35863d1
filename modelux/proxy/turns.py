"""Turns of the ledger: one write transaction for all that one turn of the event loop brought.

Requests that a budget covers join the turn that is due at the end of this turn of the loop, and
what has been used is settled in the same transaction: so a caller who sends again once it has
its answer finds that answer charged, and no longer held. Nobody else in this process touches
the ledger, and no transaction outlives the call that made it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, final

from modelux._native import Gate, Plan, count, is_vocabulary_loaded
from modelux.limits import COUNT_THREADS, COUNTED_AT_ONCE_BYTES_MAX
from modelux.proxy.resumable import LEDGER

if TYPE_CHECKING:
    from modelux.proxy.resumable import Resumable

Group: TypeAlias = tuple[list[Plan], int, bool]
"""Calls of one request, how many of them it needs, and whether the last one is a judge."""

SETTLE_AGAIN_S: Final = 0.1
"""Where the ledger took nothing, what is due is tried again after this; it is never dropped."""


@final
class Turns:
    """The turns of one worker."""

    __slots__ = (
        "_counters",
        "_counting",
        "_gate",
        "_groups",
        "_is_later",
        "_is_soon",
        "_loop",
        "_waiting",
    )

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate = gate
        self._loop = loop
        self._waiting: dict[Resumable, None] = {}
        self._groups: dict[Resumable, Group] = {}
        self._counting: dict[Resumable, object] = {}
        self._is_soon = False
        self._is_later = False
        self._counters: ThreadPoolExecutor | None = None

    def join(self, caller: "Resumable") -> None:
        """Let a caller's plan wait for the next turn; its exchange is resumed after it."""
        self._waiting[caller] = None
        self.settle_soon()

    def join_group(self, caller: "Resumable", group: Group) -> None:
        """Let calls that one request makes at once wait for the next turn: all in one step."""
        self._groups[caller] = group
        self.settle_soon()

    def leave(self, caller: "Resumable") -> None:
        """Stop waiting: a deadline passed or the caller went away.

        Its next attempt, or its next request, may wait by the time that the turn comes or the
        count is there: what comes late must not be taken for theirs.
        """
        self._waiting.pop(caller, None)
        self._groups.pop(caller, None)
        self._counting.pop(caller, None)

    def settle_soon(self) -> None:
        """Make a turn at the end of this turn of the loop."""
        if not self._is_soon:
            self._is_soon = True
            self._loop.call_soon(self._turn)

    def flush(self) -> None:
        """Settle all that is due, now: this process is about to end."""
        if self._gate.has_due:
            self._gate.turn([])

    def count(self, caller: "Resumable", plan: Plan) -> bool:
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

        ticket = self._counting[caller] = object()

        def take(counted: asyncio.Future[int | None]) -> None:
            if self._counting.get(caller) is ticket:
                del self._counting[caller]
                failed = counted.cancelled() or counted.exception() is not None
                plan.counted(None if failed else counted.result())
                caller.turn_over()

        self._loop.run_in_executor(
            self._counters, count, body, shape, vocabulary
        ).add_done_callback(take)
        return False

    def _turn(self) -> None:
        self._is_soon = False
        waiting, self._waiting = list(self._waiting), {}
        groups, self._groups = self._groups, {}
        is_whole = False
        try:
            self._gate.turn(
                [caller.plan for caller in waiting if caller.plan is not None],
                list(groups.values()),
            )
            is_whole = True
        finally:
            # Also where the turn itself has failed, by a bug of ours: nobody waits for good.
            if self._gate.has_due:
                self._settle_later()
            self._resume([*waiting, *groups], is_whole=is_whole)

    def _resume(self, waiting: "list[Resumable]", *, is_whole: bool) -> None:
        try:
            while waiting:
                caller = waiting.pop(0)
                if caller.waits_for != LEDGER:
                    # Gone, by what became of one before it.
                    continue
                if is_whole:
                    caller.turn_over()
                else:
                    caller.turn_failed()
        finally:
            if waiting:
                # One of them raised: the others go on all the same.
                self._loop.call_soon(partial(self._resume, waiting, is_whole=is_whole))

    def _settle_later(self) -> None:
        if not self._is_later:
            self._is_later = True
            self._loop.call_later(SETTLE_AGAIN_S, self._settle_again)

    def _settle_again(self) -> None:
        self._is_later = False
        self.settle_soon()
