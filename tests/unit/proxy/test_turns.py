"""Turns of the ledger: whoever waits for one goes on, once, whatever happens around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from modelux._native import Gate, Plan
from modelux.proxy.connection import ClientConnection
from modelux.proxy.resumable import LEDGER, NOTHING
from modelux.proxy.turns import Turns


class Ledger:
    """Stands in for the gate: takes down who took part in each turn."""

    def __init__(self) -> None:
        self.turns: list[list[object]] = []
        self.has_due = False
        self.fails = False

    def turn(self, plans: list[object], groups: list[object]) -> None:
        self.turns.append(plans)
        if self.fails:
            raise RuntimeError("a bug in one turn")


class Counted:
    """Stands in for a plan whose text is to be counted in a thread."""

    def __init__(self) -> None:
        self.counts: list[int | None] = []

    def to_count(self) -> tuple[bytes, str, str]:
        return (
            b'{"messages":[{"role":"user","content":"' + b"a " * 8192 + b'"}]}',
            "chat",
            "o200k_base",
        )

    def counted(self, tokens: int | None) -> None:
        self.counts.append(tokens)


class Waiting:
    """Stands in for a caller's connection that waits for a turn."""

    def __init__(self, plan: object) -> None:
        self.plan = plan
        self.waits_for = LEDGER
        self.told: list[str] = []
        self.went_on = asyncio.Event()
        self.and_then: Callable[[], None] = lambda: None

    def turn_over(self) -> None:
        self.waits_for = NOTHING
        self.told.append("over")
        self.went_on.set()
        self.and_then()

    def turn_failed(self) -> None:
        self.waits_for = NOTHING
        self.told.append("failed")


def as_caller(waiting: Waiting) -> ClientConnection:
    return cast("ClientConnection", waiting)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def run_with(ledger: Ledger, work: Callable[[Turns], Awaitable[None]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        # What a turn raises is told here, and is the test's own.
        loop.set_exception_handler(lambda _loop, _context: None)
        await work(Turns(cast("Gate", ledger), loop))

    asyncio.run(run())


async def some_turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def test_a_turn_is_shared_by_all_who_join_before_it(ledger: Ledger) -> None:
    async def run(turns: Turns) -> None:
        callers = [Waiting("one"), Waiting("two")]
        for caller in callers:
            turns.join(as_caller(caller))
        await some_turns()
        assert ledger.turns == [["one", "two"]]
        assert [caller.told for caller in callers] == [["over"], ["over"]]

    run_with(ledger, run)


def test_who_left_and_joined_again_takes_part_once(ledger: Ledger) -> None:
    async def run(turns: Turns) -> None:
        caller, other = Waiting("first attempt"), Waiting("other")
        turns.join(as_caller(caller))
        turns.leave(as_caller(caller))
        caller.plan = "second attempt"
        turns.join(as_caller(caller))
        turns.join(as_caller(other))
        turns.join(as_caller(caller))
        await some_turns()
        assert ledger.turns == [["second attempt", "other"]]
        assert caller.told == ["over"]

    run_with(ledger, run)


def test_who_left_is_left_alone(ledger: Ledger) -> None:
    async def run(turns: Turns) -> None:
        caller = Waiting("plan")
        turns.join(as_caller(caller))
        turns.leave(as_caller(caller))
        await some_turns()
        assert caller.told == []

    run_with(ledger, run)


def test_a_turn_that_fails_leaves_nobody_waiting(ledger: Ledger) -> None:
    async def run(turns: Turns) -> None:
        callers = [Waiting("one"), Waiting("two")]
        for caller in callers:
            turns.join(as_caller(caller))
        ledger.fails = True
        await some_turns()
        assert [caller.told for caller in callers] == [["failed"], ["failed"]]
        ledger.fails = False
        after = Waiting("three")
        turns.join(as_caller(after))
        await some_turns()
        assert after.told == ["over"]

    run_with(ledger, run)


def test_a_bug_in_one_exchange_leaves_the_others_of_its_turn_going(
    ledger: Ledger,
) -> None:
    async def run(turns: Turns) -> None:
        callers = [Waiting("one"), Waiting("two")]

        def fail() -> None:
            raise RuntimeError("a bug in one exchange")

        callers[0].and_then = fail
        for caller in callers:
            turns.join(as_caller(caller))
        await some_turns()
        assert [caller.told for caller in callers] == [["over"], ["over"]]

    run_with(ledger, run)


def test_a_count_that_comes_late_is_nobodys(ledger: Ledger) -> None:
    async def run(turns: Turns) -> None:
        plan = Counted()
        caller = Waiting(plan)
        assert not turns.count(as_caller(caller), cast("Plan", plan))
        turns.leave(as_caller(caller))
        # The next attempt of the same request is counted as well: by its own vocabulary.
        assert not turns.count(as_caller(caller), cast("Plan", plan))
        async with asyncio.timeout(30):
            await caller.went_on.wait()
        # They are counted one after the other: the first has come as well by now.
        assert caller.told == ["over"]
        assert len(plan.counts) == 1

    run_with(ledger, run)
