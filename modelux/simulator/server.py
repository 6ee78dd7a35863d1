"""The sockets of the stand-in provider: reads requests, plays the steps of their answers.

One connection is one `asyncio.Protocol` on uvloop with an httptools parser. Requests are
answered in the order they came; the next step of an answer is pulled only while the peer
reads, so a slow peer costs one step of memory. A peer that goes away, or closes its side, is
noticed in the loop turn in which the kernel says so, and the ledger says when and how much had
been sent.
"""

import asyncio
import fcntl
import signal
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Final, assert_never, cast

import httptools

from modelux.simulator.ledger import State
from modelux.simulator.provider import Incoming, Playing, Provider
from modelux.simulator.steps import End, Send, Wait

BODY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Above any body that a gateway in front of us passes on; at more the connection closes."""

PENDING_MAX: Final = 64
"""Pipelined requests read ahead of the one being answered; then reading pauses."""

LINGER_S: Final = 5.0
"""How long the rest of an upload is read after an early answer."""

RESET_POLL_S: Final = 0.001
RESET_WAIT_US: Final = 1_000_000
"""A reset waits for the peer to have acknowledged what came before it, at most this long."""

WRITE_BUFFER_BYTES: Final = 64 * 1024
BACKLOG: Final = 4096

BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)


async def serve(
    provider: Provider,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is told the address once it is bound."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections: set[Connection] = set()
    server = await loop.create_server(
        lambda: Connection(provider, loop, connections), host, port, ssl=tls, backlog=BACKLOG
    )
    bound_host, bound_port = server.sockets[0].getsockname()[:2]
    shown_host = f"[{bound_host}]" if ":" in bound_host else bound_host
    provider.address = f"{'https' if tls else 'http'}://{shown_host}:{bound_port}"
    announce(provider.address)
    await stop.wait()
    server.close()
    for connection in tuple(connections):
        connection.abort()
    await server.wait_closed()


class Connection(asyncio.Protocol):
    """One connection: a parser in front, a queue of requests, the answer being played."""

    def __init__(
        self,
        provider: Provider,
        loop: asyncio.AbstractEventLoop,
        connections: "set[Connection]",
    ) -> None:
        self._provider = provider
        self._loop = loop
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = Incoming()
        self._pending: deque[Incoming] = deque()
        self._playing: Playing | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._number = provider.next_connection()
        self._answered = 0
        self._paused = False
        self._discarding = False
        self._transport: asyncio.Transport

    # --- what the loop calls ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._discarding:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # Only our own tests talk to us, so a request we cannot read is worth a look.
            self._discarding = True
            if self._playing is None:
                self._transport.write(BAD_REQUEST)
                self._transport.close()

    def eof_received(self) -> bool:
        """Treat a peer that closes its side as gone: gateways cancel that way."""
        self._lose_peer()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Bill what was under way."""
        self._lose_peer()
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """Stop pulling steps: the peer does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on where a slow peer made us stop."""
        self._paused = False
        if self._timer is None:
            self._advance()

    def abort(self) -> None:
        """End the connection at once, as the server stops."""
        self._transport.abort()

    # --- what the parser calls -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._incoming = Incoming()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        self._incoming.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Answer at once where the settings say so; ask for the body where the peer waits."""
        incoming = self._incoming
        incoming.method = self._parser.get_method().decode("latin-1")
        incoming.keep_alive = self._parser.should_keep_alive()
        if self._playing is not None:
            return
        if self._provider.is_early(incoming):
            incoming.is_early = True
            self._begin(incoming)
        elif incoming.header("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        incoming = self._incoming
        incoming.body_bytes += len(data)
        if incoming.is_early:
            return
        if incoming.body_bytes > BODY_BYTES_MAX:
            self._discarding = True
            self._transport.close()
            return
        incoming.parts.append(data)

    def on_message_complete(self) -> None:
        """Answer, or wait for the answers before."""
        if self._incoming.is_early:
            return
        if self._playing is None:
            self._begin(self._incoming)
            return
        self._pending.append(self._incoming)
        if len(self._pending) >= PENDING_MAX:
            self._transport.pause_reading()

    # --- playing an answer -----------------------------------------------------------------

    def _begin(self, incoming: Incoming) -> None:
        self._playing = self._provider.play(incoming, self._number, self._answered)
        self._answered += 1
        self._advance()

    def _advance(self) -> None:
        """Play steps until one waits, the peer stops reading, or the answer ends."""
        playing = self._playing
        self._timer = None
        while playing is not None and not self._paused and not playing.stalled:
            match next(playing.steps, None):
                case Send(data, tokens):
                    self._send(playing, data, tokens)
                    playing = self._playing  # A peer found gone while writing ended it.
                case Wait(delay_ms):
                    self._timer = self._loop.call_later(delay_ms / 1000, self._advance)
                    return
                case None:
                    playing = self._finish(playing)
                case End() as end:
                    self._end(playing, end)
                    return

    def _send(self, playing: Playing, data: bytes, tokens: int) -> None:
        record = playing.record
        if record is not None:
            if record.first_byte_us is None and data:
                record.first_byte_us = self._provider.now_us()
            record.bytes_sent += len(data)
            record.output_tokens_sent += tokens
        self._transport.write(data)

    def _finish(self, playing: Playing) -> Playing | None:
        """End an answer that kept its promises; return the next one, if any is due."""
        self._settle(State.DONE)
        if not playing.keep_alive:
            self._transport.close()
            return None
        if self._pending and not self._transport.is_closing():
            following = self._pending.popleft()
            if len(self._pending) == PENDING_MAX - 1:
                self._transport.resume_reading()
            self._playing = self._provider.play(following, self._number, self._answered)
            self._answered += 1
        elif self._discarding:
            self._transport.close()
        return self._playing

    def _end(self, playing: Playing, end: End) -> None:
        match end:
            case End.CLOSE | End.SILENT_CLOSE:
                self._settle(State.DONE)
                self._transport.close()
            case End.FIN:
                self._settle(State.CUT)
                self._transport.close()
            case End.RESET:
                self._settle(State.CUT)
                self._reset(self._provider.now_us() + RESET_WAIT_US)
            case End.STALL:
                playing.stalled = True
                if playing.record is not None:
                    playing.record.state = State.STALLED
            case End.HALF_CLOSE:
                self._settle(State.DONE)
                self._half_close()
            case End.LINGER:
                self._settle(State.DONE)
                self._discarding = True
                self._half_close()
                self._timer = self._loop.call_later(LINGER_S, self._transport.close)
            case never:
                assert_never(never)

    def _half_close(self) -> None:
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS has no half-closed state.

    def _reset(self, deadline_us: int) -> None:
        """Reset once all that was written is acknowledged: a reset throws away what is not."""
        self._timer = None
        queue = struct.pack("i", 0)
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._transport.is_closing():
            return
        queue = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queue)
        unsent = self._transport.get_write_buffer_size() + struct.unpack("i", queue)[0]
        if unsent and self._provider.now_us() < deadline_us:
            self._timer = self._loop.call_later(RESET_POLL_S, self._reset, deadline_us)
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _settle(self, state: State, *, disconnected: bool = False) -> None:
        playing, self._playing = self._playing, None
        if playing is not None and playing.record is not None:
            self._provider.ledger.close(playing.record, state, disconnected=disconnected)

    def _lose_peer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
        playing = self._playing
        if playing is None:
            return
        if playing.record is not None:
            playing.record.bytes_sent -= self._transport.get_write_buffer_size()
        state = State.STALLED if playing.stalled else State.DISCONNECTED
        self._settle(state, disconnected=True)
