"""A caller's connection: bytes in, events to its exchange, backpressure both ways.

One generator (`exchange.serve`) runs a connection from its first request to its close. It is
not a task: the callbacks below resume it directly, so that a request costs no future, no task
step and no extra turn of the loop. It waits for exactly one kind of thing at a time;
`waits_for` says which.

```text
 data_received ─┐                                    ┌─ upstream_data
 connection_lost├──► resume(event) ──► serve() ◄─────┤  upstream_ended
 deadline_passed┘                                    └─ connected
```
"""

import asyncio
import socket
import struct
from collections.abc import Generator
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast

from modelux import clock
from modelux._native import (
    FAULT_CALLER_GONE,
    FAULT_EOF,
    FAULT_RESET,
    FAULT_SHUTDOWN,
    FAULT_TIMEOUT,
)
from modelux.limits import (
    CLIENT_WRITE_BUFFER_BYTES_MAX,
    LEAVING_BYTES_MIN,
    LINGER_BYTES_MAX,
    LINGER_US,
    PIPELINE_BYTES_MAX,
)
from modelux.proxy.upstream import UpstreamConnection
from modelux.proxy.wheel import TICK_US

if TYPE_CHECKING:
    from modelux._native import Plan
    from modelux.proxy.shell import Shell

RESET_LINGER: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends a reset."""

FAR_FUTURE_US: Final = 2**62
"""A deadline that never passes."""


NOTHING: Final = 0
REQUEST: Final = 1
CONNECTION: Final = 2
ANSWER: Final = 3
ROOM: Final = 4
LEDGER: Final = 5
"""What the exchange of a connection waits for. Plain integers: in CPython 3.11 each use of an
enum's member costs as much as ten of these, and a request has a dozen."""


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


class ClientConnection(asyncio.Protocol):
    """One caller's connection."""

    __slots__ = (
        "_exchange",
        "_is_lost",
        "_leaving_bytes",
        "_lingering_bytes",
        "_more",
        "_reading_paused",
        "_shell",
        "buffered_bytes",
        "closed",
        "deadline_us",
        "input",
        "peer",
        "plan",
        "transport",
        "upstream",
        "waits_for",
        "watched_tick",
        "write_paused",
    )

    def __init__(self, shell: "Shell") -> None:
        self._shell = shell
        self._exchange: Exchange[None]
        self._more: list[bytes] = []
        self.buffered_bytes = 0
        self._lingering_bytes = -1
        self._leaving_bytes = 0
        self._is_lost = False
        self._reading_paused = False
        self.transport: asyncio.Transport
        self.peer = ""
        self.input = b""
        self.plan: Plan | None = None
        self.upstream: UpstreamConnection | None = None
        self.closed = False
        self.write_paused = False
        self.waits_for = NOTHING
        self.deadline_us = FAR_FUTURE_US
        self.watched_tick = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve a caller that has just connected."""
        # uvloop's transports have the methods of `asyncio.Transport` without being one.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=CLIENT_WRITE_BUFFER_BYTES_MAX)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else ""
        self._shell.connections.add(self)
        self._exchange = self._shell.serve(self)
        self._run(None)

    def data_received(self, data: bytes) -> None:
        """Go on with what the caller sent, or keep it until it is wanted."""
        if self.waits_for == REQUEST:
            self._run(data)
        elif self._lingering_bytes >= 0:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > LINGER_BYTES_MAX:
                self.abort()
        else:
            # Sent ahead while a request is in flight (pipelining): kept, within a bound.
            self._more.append(data)
            self.buffered_bytes += len(data)
            if self.buffered_bytes > PIPELINE_BYTES_MAX and not self._reading_paused:
                self._reading_paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Take the end of a caller's sending for its leaving."""
        # Nobody half-closes and still wants an answer that costs money.
        self._leave()
        if self.waits_for == NOTHING:
            # What is still to be written goes out first; who does not read it is not waited
            # for. An answer that is read on for what it was billed keeps its own deadline.
            self._leaving_bytes = self.transport.get_write_buffer_size()
            self.set_deadline(clock.mono_us() + LINGER_US)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection is gone."""
        self._is_lost = True
        self._leave()

    def pause_writing(self) -> None:
        """Stop reading from the provider: the caller does not keep up."""
        self.write_paused = True
        if self.upstream is not None and not self.upstream.closed:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the provider again."""
        self.write_paused = False
        if self.upstream is not None and not self.upstream.closed:
            self.upstream.transport.resume_reading()
        if self.waits_for == ROOM:
            self._run(b"")

    def is_over(self) -> bool:
        """Return whether this connection needs no more watching."""
        return self._is_lost and self.waits_for == NOTHING

    def deadline_passed(self) -> None:
        """End what took too long: a linger, a caller that does not read, a wait."""
        if self._lingering_bytes < 0 and self.waits_for == NOTHING:
            self._go_on_leaving()
        elif self._lingering_bytes >= 0:
            self.abort()
        elif self.write_paused and not self.closed:
            # It is the caller that stalls, not the provider.
            self._leave()
            self.abort()
        else:
            self.deadline_us = FAR_FUTURE_US
            self._run(Event.TIMEOUT)

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

    def set_deadline(self, deadline_us: int) -> None:
        """Let the present wait end at `deadline_us`, on the monotonic clock."""
        self.deadline_us = deadline_us
        if not self.watched_tick or deadline_us < self.watched_tick * TICK_US:
            self._shell.wheel.watch(self)

    def unread(self, rest: bytes) -> None:
        """Put back what a request did not take, before what came in meanwhile."""
        if self._more:
            rest = b"".join((rest, *self._more))
            self._more.clear()
            self.buffered_bytes = 0
        self.input = rest
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Close once everything written has gone out, or when its time is up."""
        self._leaving_bytes = self.transport.get_write_buffer_size()
        self.transport.close()
        self.set_deadline(clock.mono_us() + LINGER_US)

    def close_lingering(self) -> None:
        """Close our side, then read and drop the rest of an upload (RFC 9112 section 9.6)."""
        self._lingering_bytes = 0
        self._more.clear()
        self.set_deadline(clock.mono_us() + LINGER_US)
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def reset(self) -> None:
        """Close so that the caller sees a reset: where only that shows that a body was cut."""
        handle = self.transport.get_extra_info("socket")
        if handle is not None:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_LINGER)
        self.transport.abort()

    def shut_down(self) -> None:
        """End what is in flight: this process has to go."""
        if self.waits_for in (CONNECTION, ANSWER, LEDGER):
            self._run(Event.SHUTDOWN)
        elif not self.closed:
            self.close()

    def _go_on_leaving(self) -> None:
        """Wait on for a caller that reads the rest of its answer, however slowly; not at rest.

        An answer of a megabyte takes longer than `LINGER_US` on a slow line, and one that is
        cut here would look like a provider's fault.
        """
        left_bytes = self.transport.get_write_buffer_size()
        if self._leaving_bytes - left_bytes < LEAVING_BYTES_MIN:
            self.abort()
            return
        self._leaving_bytes = left_bytes
        self.set_deadline(clock.mono_us() + LINGER_US)

    def _leave(self) -> None:
        """Take note that the caller is gone; its upstream ends in this same turn."""
        if self.closed:
            return
        self.closed = True
        if self.waits_for != NOTHING:
            self._run(Event.CALLER_GONE)
        if self.waits_for == NOTHING:
            # Else an answer is read on for what it was billed: its end is the end of this.
            self._shell.connections.discard(self)
            self._exchange.close()

    def _run(self, event: Happening | None) -> None:
        """Resume the exchange; this is the one place where a bug of ours ends a connection."""
        try:
            self._exchange.send(event)  # type: ignore[arg-type]  # None starts it.
        except StopIteration:
            self.waits_for = NOTHING
            if self.closed:
                self._shell.connections.discard(self)
        except BaseException as bug:  # noqa: BLE001  # A native panic is one, too.
            self.waits_for = NOTHING
            self._shell.report_bug(self, bug)

    upstream_data = _run
    """Go on with bytes of the answer: the same thing, without a call in between."""
