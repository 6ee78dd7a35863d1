"""The keeper's thread: in which order what is done, and that nothing is given up."""

import json
import threading
from collections.abc import Callable

import pytest

from modelux.clock import mono_us
from modelux.errors import StoreError
from modelux.log import Log
from modelux.supervisor.keeper import Keeper, KeeperDiedError
from modelux.supervisor.orders import Orders, ResetOrder
from modelux.units import MonoUs, UnixUs

WAIT_S = 30.0


def orders(number: int) -> Orders:
    return Orders(resets=(ResetOrder(id=number, model="m"),))


class Ledger:
    """Notes what is asked of it, and fails or waits where it is told to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.alive: set[int] = set()
        self.left: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def note(self, what: str) -> None:
        assert self.gate.wait(WAIT_S)
        with self.changed:
            self.seen.append(what)
            self.changed.notify_all()
        failure = self.fails.get(what)
        if failure is not None:
            raise failure

    def until(self, holds: Callable[[list[str]], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self.seen), WAIT_S), self.seen

    def open(self) -> None:
        self.note("open")

    def orphans(self) -> list[int]:
        return self.left

    def recover(self, generation: int) -> bool:
        self.note(f"recover {generation}")
        return generation not in self.alive

    def apply(self, orders: Orders) -> None:
        self.note(f"apply {orders.resets[0].id}")

    def sweep(self, now_us: MonoUs) -> None:
        assert now_us > 0

    def copy_all(self) -> None:
        self.note("copy")


def keeper(ledger: Ledger, lines: list[bytes] | None = None) -> Keeper:
    lines = [] if lines is None else lines
    log = Log("keeper", human=False, write=lines.append, now=lambda: UnixUs(0))
    return Keeper(ledger, log, mono_us)


def finish(under_test: Keeper) -> None:
    under_test.finish()
    under_test._thread.join(WAIT_S)
    assert under_test.has_finished()


def test_orphans_are_recovered_before_the_first_orders_are_in_force() -> None:
    ledger = Ledger()
    ledger.left = [7, 3]
    under_test = keeper(ledger)
    outcome = under_test.wait(under_test.prepare(orders(1)), WAIT_S)
    assert outcome is not None
    assert outcome.fault is None
    assert ledger.seen == ["open", "recover 3", "recover 7", "apply 1"]
    finish(under_test)


def test_who_still_lives_is_asked_again_until_it_does_not() -> None:
    ledger = Ledger()
    ledger.alive = {4}
    under_test = keeper(ledger)
    under_test.died(4)
    under_test.died(5)
    ledger.until(lambda seen: seen.count("recover 4") == 2)
    ledger.alive = set()
    ledger.until(lambda seen: seen.count("recover 4") == 3)
    finish(under_test)
    assert ledger.seen.count("recover 5") == 1
    assert ledger.seen.count("recover 4") == 3


def test_no_method_waits_for_the_thread_however_long_the_ledger_takes() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    under_test = keeper(ledger)
    ticket = under_test.prepare(orders(1))
    under_test.died(1)
    under_test.check()
    assert under_test.outcome(ticket) is None
    assert under_test.wait(ticket, 0.01) is None
    under_test.finish()
    assert not under_test.has_finished()
    ledger.gate.set()
    finish(under_test)


def test_later_orders_take_the_place_of_those_that_wait_and_answer_for_them() -> None:
    ledger = Ledger()
    ledger.gate.clear()
    under_test = keeper(ledger)
    first, second = under_test.prepare(orders(1)), under_test.prepare(orders(2))
    ledger.gate.set()
    assert under_test.wait(second, WAIT_S) is not None
    assert under_test.outcome(first) == under_test.outcome(second)
    finish(under_test)
    assert "apply 2" in ledger.seen
    assert ledger.seen.count("apply 1") <= 1


def test_orders_that_fail_say_why_and_the_thread_goes_on() -> None:
    ledger = Ledger()
    lines: list[bytes] = []
    ledger.fails = {"apply 1": StoreError("the disk is full")}
    under_test = keeper(ledger, lines)
    outcome = under_test.wait(under_test.prepare(orders(1)), WAIT_S)
    assert outcome is not None
    assert outcome.fault == "the disk is full"
    outcome = under_test.wait(under_test.prepare(orders(2)), WAIT_S)
    assert outcome is not None
    assert outcome.fault is None
    assert [json.loads(line)["event"] for line in lines] == ["ledger_not_kept"]
    finish(under_test)


def test_a_ledger_that_cannot_be_opened_is_the_fault_of_the_first_orders() -> None:
    ledger = Ledger()
    ledger.fails = {"open": StoreError("no room")}
    under_test = keeper(ledger)
    outcome = under_test.wait(under_test.prepare(orders(1)), WAIT_S)
    assert outcome is not None
    assert outcome.fault == "no room"
    assert "apply 1" not in ledger.seen
    finish(under_test)


def test_a_recovery_that_fails_is_tried_again() -> None:
    ledger = Ledger()
    ledger.fails = {"recover 9": StoreError("not now")}
    under_test = keeper(ledger)
    under_test.died(9)
    ledger.until(lambda seen: "recover 9" in seen)
    ledger.fails = {}
    ledger.until(lambda seen: seen.count("recover 9") >= 2)
    finish(under_test)


def test_the_last_copy_comes_after_the_last_recovery_and_ends_the_thread() -> None:
    ledger = Ledger()
    under_test = keeper(ledger)
    under_test.died(2)
    finish(under_test)
    assert ledger.seen[-2:] == ["recover 2", "copy"]
    under_test.check()


def test_a_copy_that_fails_ends_all_the_same() -> None:
    ledger = Ledger()
    ledger.fails = {"copy": StoreError("the disk is full")}
    finish(keeper(ledger))


def test_a_thread_that_a_fault_of_ours_ended_is_told_and_started_again() -> None:
    ledger = Ledger()
    ledger.fails = {"recover 1": LookupError("nobody expected this")}
    clock = [MonoUs(1)]
    log = Log("keeper", human=False, write=lambda _: None, now=lambda: UnixUs(0))
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        under_test = Keeper(ledger, log, lambda: clock[0])
        under_test.died(1)
        under_test._thread.join(WAIT_S)
    finally:
        threading.excepthook = hook
    under_test.check()  # Not at once: a fault may come again and again.
    ledger.fails = {}
    clock[0] = MonoUs(2_000_000)
    with pytest.raises(KeeperDiedError):
        under_test.check()
    under_test.check()
    finish(under_test)
    assert ledger.seen.count("recover 1") >= 2
