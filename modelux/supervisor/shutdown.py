"""The way from serving to the end, as a table of stages. No I/O, no clock.

```
           TERM              delay over        workers gone         writer gone
 SERVING ───────► ANNOUNCED ───────────► DRAINING ───────────► FLUSHING ─────► CLOSING ──► ENDED
                  readyz 503,            TERM to workers,      TERM to         TERM to control,
                  still accepting        KILL when it is late  the writer      ledger copied
```

The writer goes after the workers, because what they accepted lies in their rings; the control
plane last, because `/metrics` tells how the drain goes. Once nobody else writes to the ledger
or copies it, the keeper copies it a last time. A second signal hurries: everybody but the
writer is killed at once, and writer and keeper get a moment.
"""

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, final

from modelux.units import US_PER_S, MonoUs

DRAIN_GRACE_US: Final = 2 * US_PER_S
"""Workers end by themselves at `drain_s` and cut what is left; this is for that cut."""
FLUSH_US_MAX: Final = 30 * US_PER_S
"""A full ring of each worker is written in about a second; a slow disk gets more."""
HURRIED_FLUSH_US: Final = 2 * US_PER_S
CLOSE_US_MAX: Final = 3 * US_PER_S


@unique
class Stage(Enum):
    """Where we are; in this order, never back."""

    SERVING = 0
    ANNOUNCED = 1
    DRAINING = 2
    FLUSHING = 3
    CLOSING = 4
    ENDED = 5


@unique
class Order(Enum):
    """What the supervisor is to do; each is given once."""

    STOP_LISTENING = "stop listening"
    END_WORKERS = "end workers"
    KILL_WORKERS = "kill workers"
    END_WRITER = "end writer"
    KILL_WRITER = "kill writer"
    COPY_LEDGER = "copy the ledger"
    END_CONTROL = "end control"
    KILL_CONTROL = "kill control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Who is not done yet."""

    workers: bool
    writer: bool
    control: bool
    keeper: bool
    """The ledger's last copy is not made yet."""


@final
class Shutdown:
    """The current stage and its deadline; `step` is called at every turn of the loop."""

    __slots__ = ("_deadline_us", "_delay_us", "_drain_us", "_hurried", "_killed", "stage")

    def __init__(self, *, drain_delay_us: int, drain_us: int) -> None:
        assert drain_delay_us >= 0, drain_delay_us
        assert drain_us >= 0, drain_us
        self.stage = Stage.SERVING
        self._delay_us = drain_delay_us
        self._drain_us = drain_us
        self._deadline_us = 0
        self._hurried = False
        self._killed = False

    def terminate(self, now_us: MonoUs) -> None:
        """Take a SIGTERM: the first begins the drain, any later one hurries."""
        if self.stage is Stage.SERVING:
            self.stage = Stage.ANNOUNCED
            self._deadline_us = now_us + self._delay_us
        else:
            self.hurry()

    def hurry(self) -> None:
        """Take a SIGINT or a second SIGTERM: end at once."""
        self._hurried = True
        if self.stage is Stage.SERVING:
            self.stage = Stage.ANNOUNCED

    def step(self, now_us: MonoUs, alive: Alive) -> list[Order]:
        """Return what is to be done, and go on to the next stages as far as possible."""
        orders: list[Order] = []
        if self.stage is Stage.ANNOUNCED and (self._hurried or now_us >= self._deadline_us):
            orders.append(Order.STOP_LISTENING)
            if not self._hurried:
                orders.append(Order.END_WORKERS)
            self._enter(Stage.DRAINING, now_us + self._drain_us + DRAIN_GRACE_US)
        if self.stage is Stage.DRAINING:
            orders += self._drain(now_us, alive)
        if self.stage is Stage.FLUSHING:
            orders += self._flush(now_us, alive)
        if self.stage is Stage.CLOSING:
            orders += self._close(now_us, alive)
        return orders

    def _drain(self, now_us: MonoUs, alive: Alive) -> list[Order]:
        if alive.workers:
            is_over = self._hurried or now_us >= self._deadline_us
            return self._kill_once(Order.KILL_WORKERS) if is_over else []
        flush_us = HURRIED_FLUSH_US if self._hurried else FLUSH_US_MAX
        self._enter(Stage.FLUSHING, now_us + flush_us)
        return [Order.END_WRITER] if alive.writer else []

    def _flush(self, now_us: MonoUs, alive: Alive) -> list[Order]:
        if self._hurried:
            self._deadline_us = min(self._deadline_us, now_us + HURRIED_FLUSH_US)
        if alive.writer:
            is_over = now_us >= self._deadline_us
            return self._kill_once(Order.KILL_WRITER) if is_over else []
        self._enter(Stage.CLOSING, now_us + CLOSE_US_MAX)
        copy = [Order.COPY_LEDGER] if alive.keeper else []
        return [*copy, Order.END_CONTROL] if alive.control else copy

    def _close(self, now_us: MonoUs, alive: Alive) -> list[Order]:
        is_over = now_us >= self._deadline_us
        if alive.control:
            return self._kill_once(Order.KILL_CONTROL) if self._hurried or is_over else []
        # A disk that hangs does not keep us: the next start goes on from the map.
        if not alive.keeper or is_over:
            self._enter(Stage.ENDED, 0)
        return []

    def _enter(self, stage: Stage, deadline_us: int) -> None:
        assert stage.value == self.stage.value + 1, (self.stage, stage)
        self.stage = stage
        self._deadline_us = deadline_us
        self._killed = False

    def _kill_once(self, order: Order) -> list[Order]:
        if self._killed:
            return []
        self._killed = True
        return [order]
