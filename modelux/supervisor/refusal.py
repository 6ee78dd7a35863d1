"""Answers for a worker that is down in a crash loop, so that callers are told and do not hang.

While workers die again and again, the place of a dead one stays down for seconds, and what the
kernel routes to its socket would wait for all of them. The supervisor takes those connections,
answers 503 `crash_loop`, and reads on for a moment so that the answer is not lost to a reset.
"""

import json
import os
import socket
from typing import Final, final

from modelux.clock import unix_us
from modelux.errors import ROWS, Cause
from modelux.units import US_PER_MS, US_PER_S, MonoUs

CONNECTIONS_MAX: Final = 256
"""Open at once; those beyond wait in the backlog for the next turn."""
LINGER_US: Final = US_PER_S
READ_BYTES: Final = 64 * 1024


@final
class Refusal:
    """The connections being refused; `turn` is called while slots are down."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[socket.socket, tuple[int, bool]] = {}
        """Each with its deadline, and whether it has been answered."""

    def turn(self, now_us: MonoUs, listeners: list[socket.socket], retry_after_s: int) -> None:
        """Accept, answer and close what can be, without waiting for anybody."""
        for listener in listeners:
            self._accept(now_us, listener)
        for client, (deadline_us, is_answered) in list(self._open.items()):
            self._serve(client, retry_after_s, is_answered=is_answered)
            if client.fileno() == -1 or now_us >= deadline_us:
                client.close()
                del self._open[client]

    def close(self) -> None:
        """Drop every connection."""
        for client in self._open:
            client.close()
        self._open.clear()

    def _accept(self, now_us: MonoUs, listener: socket.socket) -> None:
        while len(self._open) < CONNECTIONS_MAX:
            try:
                client, _ = listener.accept()
            except OSError:  # Nobody waits, or the caller has left already.
                return
            client.settimeout(0)
            self._open[client] = (now_us + LINGER_US, False)

    def _serve(self, client: socket.socket, retry_after_s: int, *, is_answered: bool) -> None:
        try:
            heard = client.recv(READ_BYTES)
            if not heard:
                client.close()
                return
            if not is_answered:
                client.send(refusal_bytes(retry_after_s))
                client.shutdown(socket.SHUT_WR)
                self._open[client] = (self._open[client][0], True)
        except BlockingIOError:
            return
        except OSError:
            client.close()


def refusal_bytes(retry_after_s: int) -> bytes:
    """Return the whole answer: 503 `crash_loop`, in OpenAI's shape, closing the connection."""
    row = ROWS[Cause.CRASH_LOOP]
    error = {
        "message": "The gateway's workers keep failing and are being restarted with a pause. "
        "Retry later; the operator finds the reason in the log of `modelux serve`.",
        "type": row.type,
        "param": None,
        "code": Cause.CRASH_LOOP.value,
    }
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {row.status} Service Unavailable\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-modelux-request-id: {_request_id()}\r\n"
        f"retry-after: {max(1, retry_after_s)}\r\n"
        "x-should-retry: true\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


def _request_id() -> str:
    """Return a UUIDv7: milliseconds first, then chance."""
    value = (unix_us() // US_PER_MS) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
