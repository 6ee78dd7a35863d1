"""Three judges of one HTTP head, brought to one form: ours, llhttp (httptools) and h11.

Given exactly one head and no byte more. How the body is framed is not asked but seen: a judge
that accepts a head is fed a body byte by byte, and where it sees the end tells the framing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11
import httptools

from modelux import _native

HEAD_BYTES_MAX: Final = 32 * 1024
CHUNKS: Final = b"2\r\nab\r\n0\r\n\r\n"
PROBE: Final = CHUNKS + b"x" * 20
UNSEEN: Final = "unseen"
"""The framing of a judge that looks at no body."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a judge that accepts a head makes of it."""

    start: tuple[bytes, ...]
    headers: list[tuple[bytes, bytes]]
    framing: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A judge's no, in its own words."""

    why: str


Verdict = Message | Refusal | None


def lowered(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Fields in one form: names have no case, and h11 writes codings in lower case."""
    return [
        (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in headers
    ]


# --- ours ----------------------------------------------------------------------------------


def framing_seen(framing: str, length: int | None) -> str:
    """What a probe can tell of a framing: nothing ends after the probe itself."""
    if length is None:
        return "open" if framing == "until_close" else framing
    if length > len(PROBE):
        return "open"
    return f"length {length}" if length else "none"


def ours_request(data: bytes) -> Verdict:
    """Judge a request by our parser."""
    head = _native.parse_request(data, HEAD_BYTES_MAX)
    if head is None:
        return None
    if isinstance(head, _native.HeadFault):
        return Refusal(head.name)
    return Message(
        (head.method.encode(), head.target.encode(), b"1.%d" % head.minor_version),
        lowered(head.headers),
        framing_seen(head.framing, head.content_length),
    )


def ours_response(data: bytes) -> Verdict:
    """Judge the answer to a GET by our parser."""
    head = _native.parse_response(data, HEAD_BYTES_MAX)
    if head is None:
        return None
    if isinstance(head, _native.HeadFault):
        return Refusal(head.name)
    return Message(
        (b"%d" % head.status, b"1.%d" % head.minor_version),
        lowered(head.headers),
        framing_seen(head.framing, head.content_length),
    )


# --- the other two, behind one face --------------------------------------------------------


class Other:
    """A judge that is fed bytes and tells when a message has ended."""

    start: tuple[bytes, ...] | None = None
    headers: list[tuple[bytes, bytes]]
    body = b""
    ended = False
    upgraded = False

    def feed(self, data: bytes) -> None:
        """Take bytes; a `RefusedError` says no to them."""
        raise NotImplementedError


class RefusedError(Exception):
    """Another judge's no."""


def judged(other: Other, data: bytes, *, probes: bool) -> Verdict:
    """Feed a head, then, if it is known to be one head and no more, the probe."""
    try:
        other.feed(data)
    except RefusedError as refused:
        return Refusal(str(refused))
    if other.start is None:
        return None
    return Message(other.start, lowered(other.headers), probed(other) if probes else UNSEEN)


def probed(other: Other) -> str:
    """Tell the framing by where a body of the probe's bytes ends."""
    if other.upgraded:
        return UNSEEN
    for fed in range(len(PROBE)):
        if other.ended:
            break
        other.feed(PROBE[fed : fed + 1])
    else:
        fed = len(PROBE)
    if not other.ended:
        assert other.body == PROBE, other.body
        return "open"
    if other.body == b"ab" and fed == len(CHUNKS):
        return "chunked"
    assert other.body == PROBE[:fed], other.body
    return f"length {fed}" if fed else "none"


class Llhttp(Other):
    """llhttp through httptools: strict unless told otherwise."""

    def __init__(self, *, is_request: bool) -> None:
        self.is_request = is_request
        self.url = b""
        self.headers = []
        kind = httptools.HttpRequestParser if is_request else httptools.HttpResponseParser
        self.parser = kind(self)

    def on_url(self, url: bytes) -> None:
        """Called by httptools."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        # It leaves white space at the end of a value to whoever reads it.
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        version = self.parser.get_http_version().encode()
        if isinstance(self.parser, httptools.HttpRequestParser):
            self.start = (self.parser.get_method(), self.url, version)
        else:
            self.start = (b"%d" % self.parser.get_status_code(), version)

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self.body += body

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self.ended = True

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.upgraded = True
        except httptools.HttpParserError as error:
            raise RefusedError(str(error)) from error


class H11(Other):
    """h11, on the side that receives."""

    def __init__(self, *, is_request: bool) -> None:
        self.headers = []
        role = h11.SERVER if is_request else h11.CLIENT
        self.connection = h11.Connection(role, max_incomplete_event_size=HEAD_BYTES_MAX)
        if not is_request:
            request = h11.Request(method="GET", target="/", headers=[("host", "h")])
            self.connection.send(request)
            self.connection.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self.connection.receive_data(data)
        try:
            while True:
                event = self.connection.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED or self.ended:
                    return
                self.take(event)
        except h11.RemoteProtocolError as error:
            raise RefusedError(str(error)) from error

    def take(self, event: object) -> None:
        """Keep what an event says."""
        match event:
            case h11.Request():
                self.start = (event.method, event.target, event.http_version)
                self.headers = list(event.headers)
            case h11.Response() | h11.InformationalResponse():
                self.start = (b"%d" % event.status_code, event.http_version)
                self.headers = list(event.headers)
                self.ended = isinstance(event, h11.InformationalResponse)
            case h11.Data():
                self.body += event.data
            case _:
                self.ended = True


@dataclass(frozen=True, slots=True)
class Bench:
    """The three judges of one kind of message."""

    ours: Callable[[bytes], Verdict]
    is_request: bool

    def others(self, data: bytes, *, probes: bool) -> dict[str, Verdict]:
        """The verdicts of the other two, by name."""
        return {
            "llhttp": judged(Llhttp(is_request=self.is_request), data, probes=probes),
            "h11": judged(H11(is_request=self.is_request), data, probes=probes),
        }


REQUESTS: Final = Bench(ours_request, is_request=True)
RESPONSES: Final = Bench(ours_response, is_request=False)
