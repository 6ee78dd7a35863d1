"""A caller's connection: bytes in, events to its exchange, backpressure both ways.

One generator (`exchange.serve`) runs a connection from its first request to its close; the
callbacks below resume it (`resumable.py`).

```text
 data_received ─┐                                    ┌─ upstream_data
 connection_lost├──► resume(event) ──► serve() ◄─────┤  upstream_ended
 deadline_passed┘                                    └─ connected
```
"""

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from modelux import clock
from modelux.limits import (
    CLIENT_WRITE_BUFFER_BYTES_MAX,
    LEAVING_BYTES_MIN,
    LINGER_BYTES_MAX,
    LINGER_US,
    PIPELINE_BYTES_MAX,
)
from modelux.proxy.resumable import (
    ANSWER,
    CALLS,
    CONNECTION,
    FAR_FUTURE_US,
    LEDGER,
    NOTHING,
    PAUSE,
    REQUEST,
    ROOM,
    Event,
    Resumable,
)

if TYPE_CHECKING:
    from modelux.proxy.shell import Shell

RESET_LINGER: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends a reset."""


class ClientConnection(Resumable, asyncio.Protocol):
    """One caller's connection."""

    __slots__ = (
        "_is_lost",
        "_leaving_bytes",
        "_lingering_bytes",
        "_more",
        "_reading_paused",
        "buffered_bytes",
        "input",
        "peer",
        "transport",
    )

    def __init__(self, shell: "Shell") -> None:
        super().__init__(shell)
        self._more: list[bytes] = []
        self.buffered_bytes = 0
        self._lingering_bytes = -1
        self._leaving_bytes = 0
        self._is_lost = False
        self._reading_paused = False
        self.transport: asyncio.Transport
        self.peer = ""
        self.input = b""

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

    def send(self, data: bytes) -> None:
        """Write to the caller, unless it has gone."""
        if not self.closed:
            self.transport.write(data)

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
        if self.waits_for in (CONNECTION, ANSWER, LEDGER, PAUSE, CALLS):
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

    def _over(self) -> None:
        if self.closed:
            self._shell.connections.discard(self)

    def _failed(self, bug: BaseException) -> None:
        self._shell.report_bug(self, bug)
