"""What all connections of one worker share: the gate, the pools, the wheel, the times.

One `Shell` a process, owned by `worker`; connections and exchanges read it. It exists so that
they need not know the worker, and a test can put one together with parts of its own.
"""

import contextlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelux._native import Cells, Gate
from modelux.log import Log
from modelux.proxy.turns import Turns
from modelux.proxy.upstream import Pool
from modelux.proxy.wheel import Wheel

if TYPE_CHECKING:
    from modelux.proxy.calls import Call
    from modelux.proxy.connection import ClientConnection
    from modelux.proxy.resumable import Exchange, Resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What `[server]` says about callers, in the units of the hot path."""

    client_header_timeout_us: int
    client_body_timeout_us: int
    client_keepalive_us: int
    body_bytes_max: int
    access_log: bool
    mirrors: bool
    """Whether any routing config mirrors traffic."""


class Shell:
    """The shared parts of one worker."""

    __slots__ = (
        "calls",
        "cells",
        "connections",
        "draining",
        "gate",
        "log",
        "pools",
        "serve_connection",
        "times",
        "turns",
        "wheel",
    )

    def __init__(
        self,
        *,
        gate: Gate,
        cells: Cells,
        pools: list[Pool],
        times: Times,
        wheel: Wheel,
        turns: Turns,
        log: Log,
        serve: "Callable[[ClientConnection, Shell], Exchange[None]]",
    ) -> None:
        self.gate = gate
        self.cells = cells
        self.pools = pools
        self.times = times
        self.log = log
        self.wheel = wheel
        self.turns = turns
        self.connections: set[ClientConnection] = set()
        self.calls: set[Call] = set()
        self.draining = False
        self.serve_connection = serve

    def serve(self, caller: "ClientConnection") -> "Exchange[None]":
        """Return the generator that runs a caller's connection."""
        return self.serve_connection(caller, self)

    def report_bug(self, caller: "Resumable", bug: BaseException) -> None:
        """End one exchange after a bug of ours: counted, logged, and closed at once.

        What a caller has got so far stays; nothing that looks like success follows it.
        """
        self.cells.add("bugs", 1)
        self.log.error(
            "bug",
            where="exchange",
            request_id=caller.plan.id if caller.plan is not None else None,
            error=repr(bug),
            trace="".join(traceback.format_exception(bug)),
        )
        if caller.upstream is not None:
            caller.upstream.abort()
            caller.upstream = None
        plan, caller.plan = caller.plan, None
        if not caller.closed:
            caller.abort()
        if plan is not None:
            # A panic may have left the native side unusable: then the log has to do. Last, as a
            # second panic here would leave the caller waiting.
            with contextlib.suppress(RuntimeError):
                plan.abandon()
                self.turns.settle_soon()
        if isinstance(bug, KeyboardInterrupt | SystemExit):
            sys.exit(1)
