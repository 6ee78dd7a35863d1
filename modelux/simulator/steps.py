"""What the server does to answer one request, as values: bytes to send, waits, ways to end.

An answer is an iterator of steps. The server pulls the next one only when the peer reads, so an
endless answer costs no memory.
"""

from dataclasses import dataclass
from enum import Enum, unique
from http import HTTPStatus
from typing import Final

from modelux.simulator.answers import Answer

SEND_BYTES_JOINED_MAX: Final = 16 * 1024
"""Stream events with no wait between them leave in one write up to this size."""


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the wire, and the output tokens whose text ends in them."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause; one of 0 lets other connections have their turn."""

    delay_ms: float


@unique
class End(Enum):
    """How an answer ends where it does not end well, or not with the connection kept."""

    CLOSE = "close"
    """The answer is whole; the connection closes behind it."""
    FIN = "fin"
    """The connection closes in the middle of the answer."""
    RESET = "reset"
    """The connection is reset, once the peer has all that was sent."""
    STALL = "stall"
    """Nothing more is sent; the connection stays open until the peer ends it."""
    HALF_CLOSE = "half_close"
    """The answer is whole; our side closes, the peer's stays open."""
    SILENT_CLOSE = "silent_close"
    """The answer is whole and promises to keep the connection; then it closes."""
    LINGER = "linger"
    """The answer is whole before the request is; what comes of the upload is dropped."""


Step = Send | Wait | End


def encode_head(
    answer: Answer,
    *framing: tuple[bytes, bytes],
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """Return the head of `answer` with the given framing fields behind its own."""
    try:
        reason = HTTPStatus(answer.status).phrase.encode()
    except ValueError:
        reason = b"Simulated"
    fields = b"".join(
        name + b": " + value + b"\r\n" for name, value in (*answer.headers, *framing)
    )
    return b"%s %d %s\r\n%s\r\n" % (version, answer.status, reason, fields)


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED: Final = (b"transfer-encoding", b"chunked")
CLOSING: Final = (b"connection", b"close")
LAST_CHUNK: Final = b"0\r\n\r\n"


def length_field(size_bytes: int) -> tuple[bytes, bytes]:
    """Return the field that says how long a body is."""
    return (b"content-length", b"%d" % size_bytes)
