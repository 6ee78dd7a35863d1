"""The keeper: the one thread of the supervisor that may wait for the ledger's lock.

The supervisor's loop judges who has stopped, also a process that stopped with the lock in its
hand, so it must never wait for that lock itself. It leaves orders here, never blocking, and
looks now and then how they went. What is done lies in `accounts`; here is when, in which order,
and that what fails is tried again.

```
 loop: died(generation) ─┐                    ┌─► recover, until nobody holds the slots
       prepare(orders) ──┼─► [orders] ─► thread ─► budgets, credits; outcome(ticket)
       finish() ─────────┘         each second └─► sweep: readers, rows that are past
```
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, final

from modelux.errors import StoreError
from modelux.log import Log
from modelux.supervisor.orders import Orders
from modelux.units import US_PER_S, MonoUs

TICK_S: Final = 1.0
"""How often what failed, or what a living worker still holds, is tried again."""
PAUSE_US: Final = 1 * US_PER_S
"""Between two threads, where a fault of ours ends one after the other."""
COMPLAINT_US: Final = 10 * US_PER_S


class Accounts(Protocol):
    """What the keeper keeps; see `modelux.supervisor.accounts`."""

    def open(self) -> None:
        """Open the ledger, made anew from its copy where it cannot be trusted."""

    def recover(self, generation: int) -> bool:
        """End the holds of a worker; False while it lives."""

    def orphans(self) -> list[int]:
        """Return the generations that left slots or holds."""

    def apply(self, orders: Orders) -> None:
        """Take budgets in, set credits, reset bounds."""

    def sweep(self, now_us: MonoUs) -> None:
        """Do what is due every now and then."""

    def copy_all(self) -> None:
        """Copy every row to the disk."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How orders went: without a fault, they are in force."""

    fault: str | None


class KeeperDiedError(Exception):
    """The thread has ended by a fault of ours; its traceback is on stderr."""


@final
class Keeper:
    """One thread and the orders for it. Every method returns at once but `wait`."""

    def __init__(self, accounts: Accounts, log: Log, mono_us: Callable[[], MonoUs]) -> None:
        self._accounts = accounts
        self._log = log
        self._mono_us = mono_us
        self._changed = threading.Condition()
        # Touched under `_changed` only.
        self._fresh: set[int] = set()
        self._orders: Orders | None = None
        self._ticket = 0
        self._outcomes: dict[int, Outcome] = {}
        self._finishing = False
        self._finished = False
        # Touched in the thread only.
        self._dead: set[int] = set()
        self._is_open = False
        self._complained_us = -COMPLAINT_US
        self._spawned_us = MonoUs(0)
        self._thread = self._spawn()

    def died(self, generation: int) -> None:
        """Have the holds of a worker ended that has just died, or is about to."""
        with self._changed:
            self._fresh.add(generation)
            self._changed.notify_all()

    def prepare(self, orders: Orders) -> int:
        """Have orders applied, in place of any that still wait; return their ticket."""
        with self._changed:
            self._ticket += 1
            self._orders = orders
            self._changed.notify_all()
            return self._ticket

    def outcome(self, ticket: int) -> Outcome | None:
        """Return how the orders of a ticket went; None while they wait.

        Those that others took the place of went as the others did.
        """
        with self._changed:
            done = [number for number in self._outcomes if number >= ticket]
            return self._outcomes[min(done)] if done else None

    def wait(self, ticket: int, seconds: float) -> Outcome | None:
        """Return the outcome, waiting so long for it at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over(ticket), seconds)
        return self.outcome(ticket)

    def finish(self) -> None:
        """Have the last copy made, once every worker is recovered that can be."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def has_finished(self) -> bool:
        """Return whether the last copy is made, or never will be."""
        with self._changed:
            return self._finished

    def check(self) -> None:
        """Start the thread again if a fault of ours ended it.

        Raises:
            KeeperDiedError: It did; to be said and counted by the caller.
        """
        if self._thread.is_alive() or self.has_finished():
            return
        if self._mono_us() - self._spawned_us < PAUSE_US:
            return
        self._thread = self._spawn()
        raise KeeperDiedError("the keeper's thread ended by a fault; it is started again")

    def _is_over(self, ticket: int) -> bool:
        return any(number >= ticket for number in self._outcomes) or not self._thread.is_alive()

    def _spawn(self) -> threading.Thread:
        # A daemon: if somebody sits on the lock for ever, our end does not wait for it.
        thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        thread.start()
        self._spawned_us = self._mono_us()
        return thread

    # --- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._turn():
            with self._changed:
                self._changed.wait_for(self._has_news, TICK_S)

    def _has_news(self) -> bool:
        return bool(self._fresh) or self._orders is not None or self._finishing

    def _turn(self) -> bool:
        """Do everything that waits; return whether that was the last."""
        with self._changed:
            orders, ticket = self._orders, self._ticket
            is_last = self._finishing
        fault = None if self._is_open else self._try(self._open)
        if self._is_open:
            self._recover()
            if orders is not None:
                fault = self._try(lambda: self._accounts.apply(orders))
            self._try(lambda: self._accounts.sweep(self._mono_us()))
            if is_last:
                self._try(self._accounts.copy_all)
        with self._changed:
            if orders is not None:
                self._outcomes = {ticket: Outcome(fault)}
                self._orders = self._orders if self._ticket != ticket else None
            self._finished = is_last
            self._changed.notify_all()
        return is_last

    def _open(self) -> None:
        self._accounts.open()
        orphans = self._accounts.orphans()
        with self._changed:
            self._fresh.update(orphans)
        self._is_open = True

    def _recover(self) -> None:
        with self._changed:
            self._dead |= self._fresh
            self._fresh.clear()
        for generation in sorted(self._dead):
            self._try(functools.partial(self._recover_one, generation))

    def _recover_one(self, generation: int) -> None:
        if self._accounts.recover(generation):
            self._dead.discard(generation)

    def _try(self, step: Callable[[], None]) -> str | None:
        """Take a step; say and return why it failed, if it did. It is due again next time."""
        try:
            step()
        except StoreError as failure:
            now_us = self._mono_us()
            if now_us - self._complained_us >= COMPLAINT_US:
                self._complained_us = now_us
                self._log.error("ledger_not_kept", why=str(failure))
            return str(failure)
        return None
