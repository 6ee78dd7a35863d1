"""Spoils an honest answer: each fault is a function from an answer to the steps that send it.

Pure: nothing here knows a socket. Bodies are built from the same pieces as honest ones, so what
reaches the peer before the fault is exactly what a healthy provider would have sent.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from modelux.simulator.answers import (
    SPLIT_WORD,
    Answer,
    Draft,
    Piece,
    make_error,
    stream_word_event,
)
from modelux.simulator.settings import Fault, Settings
from modelux.simulator.steps import (
    CHUNKED,
    CLOSING,
    LAST_CHUNK,
    SEND_BYTES_JOINED_MAX,
    End,
    Send,
    Step,
    Wait,
    encode_chunk,
    encode_head,
    length_field,
)

HUGE_HEADER_BYTES: Final = 1 << 20
MANY_HEADERS_COUNT: Final = 5_000
BIG_EVENT_BYTES: Final = 4 << 20
GZIP_BOMB_BYTES: Final = 256 << 20
ENDLESS_PIECE_BYTES: Final = 64 * 1024
GARBAGE: Final = (
    b"\x16\x03\x01\x02\x00\x01\xfcnothing a client of HTTP can read\x00\xff\r\n\r\n"
)

CANARY_PATH: Final = "/_canary"
"""Where redirects point; a request that comes here is a key sent elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a fault is given."""

    answer: Answer
    settings: Settings
    draft: Draft | None
    """None for an answer that was never drafted: an error, or one given before the body."""
    address: str
    """`http://HOST:PORT` of this server, for redirects."""
    reused: bool
    """Whether the connection carried an earlier request."""


def honest_steps(answer: Answer) -> Iterator[Step]:
    """Yield the steps of an answer that nothing spoils, on a connection that stays open."""
    if answer.streamed:
        yield from _streamed(answer, encode_head(answer, CHUNKED))
        return
    body, tokens, wait = _take_whole(answer)
    yield from wait
    yield Send(encode_head(answer, length_field(len(body))) + body, tokens)


def spoiled_steps(scene: Scene) -> Iterator[Step]:
    """Yield the steps of an answer with the fault its settings name."""
    assert scene.settings.fault is not None, "an honest answer has steps of its own"
    return _FAULTS[scene.settings.fault](scene)


def _streamed(answer: Answer, head: bytes) -> Iterator[Step]:
    """Yield head, events as chunks, last chunk; events without a wait between them joined."""
    pending, tokens = head, 0
    for piece in answer.pieces:
        if piece.delay_ms:
            if pending is not head and pending:
                yield Send(pending, tokens)
                pending, tokens = b"", 0
            yield Wait(piece.delay_ms)
        pending += encode_chunk(piece.data)
        tokens += piece.tokens
        if len(pending) >= SEND_BYTES_JOINED_MAX:
            yield Send(pending, tokens)
            pending, tokens = b"", 0
    yield Send(pending + LAST_CHUNK, tokens)


def _take_whole(answer: Answer) -> tuple[bytes, int, list[Step]]:
    """Return the whole body, its tokens, and the wait before it."""
    pieces = list(answer.pieces)
    wait_ms = sum(piece.delay_ms for piece in pieces)
    body = b"".join(piece.data for piece in pieces)
    return body, sum(piece.tokens for piece in pieces), [Wait(wait_ms)] if wait_ms else []


def _first_wait(answer: Answer) -> tuple[list[Step], Answer]:
    """Return the wait before the first piece, and the answer with that piece not waited for."""
    first = next(answer.pieces, None)
    if first is None:
        return [], answer
    rest = chain([Piece(first.data, 0.0, first.tokens)], answer.pieces)
    wait: list[Step] = [Wait(first.delay_ms)] if first.delay_ms else []
    return wait, _with_pieces(answer, rest)


def _with_pieces(answer: Answer, pieces: Iterator[Piece]) -> Answer:
    return Answer(
        status=answer.status,
        headers=answer.headers,
        pieces=pieces,
        streamed=answer.streamed,
        output_tokens=answer.output_tokens,
    )


def _framing(answer: Answer, body: bytes) -> tuple[bytes, bytes]:
    return CHUNKED if answer.streamed else length_field(len(body))


def _framed(answer: Answer, body: bytes) -> bytes:
    return encode_chunk(body) + LAST_CHUNK if answer.streamed else body


# --- before and inside the head ------------------------------------------------------------


def _nothing(end: End) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        wait, _ = _first_wait(scene.answer)
        yield from wait
        yield end

    return steps


def _half_head(end: End) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        wait, answer = _first_wait(scene.answer)
        head = encode_head(answer, CHUNKED)
        yield from wait
        yield Send(head[: len(head) // 2])
        yield end

    return steps


def _raw(data: bytes, end: End) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        wait, _ = _first_wait(scene.answer)
        yield from wait
        yield Send(data)
        yield end

    return steps


def _bad_status_line(scene: Scene) -> Iterator[Step]:
    wait, answer = _first_wait(scene.answer)
    body, tokens, _ = _take_whole(answer)
    head = encode_head(answer, length_field(len(body)))
    yield from wait
    yield Send(head.replace(b"HTTP/1.1 200", b"HTTP/1.1 2OO", 1) + body, tokens)
    yield End.FIN


def _with_fields(*fields: tuple[bytes, bytes]) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault that is nothing but fields in the head of a whole, honest answer."""

    def steps(scene: Scene) -> Iterator[Step]:
        body, tokens, wait = _take_whole(scene.answer)
        framed = _framed(scene.answer, body)
        framing = _framing(scene.answer, body)
        yield from wait
        yield Send(encode_head(scene.answer, *fields, framing) + framed, tokens)

    return steps


def _replaced_framing(
    *fields: Callable[[int], tuple[bytes, bytes]], chunked: bool = False, end: End = End.FIN
) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault that states the length of a whole body wrongly."""

    def steps(scene: Scene) -> Iterator[Step]:
        body, tokens, wait = _take_whole(scene.answer)
        head = encode_head(scene.answer, *(make(len(body)) for make in fields))
        yield from wait
        yield Send(head + (encode_chunk(body) + LAST_CHUNK if chunked else body), tokens)
        yield end

    return steps


def _upgrade_101(scene: Scene) -> Iterator[Step]:
    wait, _ = _first_wait(scene.answer)
    yield from wait
    yield Send(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    )
    yield Send(b"\x81\x05hello")
    yield End.STALL


def _interim(head: bytes) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        yield Send(head)
        yield from honest_steps(scene.answer)

    return steps


def _endless_100(_scene: Scene) -> Iterator[Step]:
    while True:
        yield Send(b"HTTP/1.1 100 Continue\r\n\r\n" * 64)
        yield Wait(0)


def _huge_header(scene: Scene) -> Iterator[Step]:
    size = scene.settings.size_bytes or HUGE_HEADER_BYTES
    return _with_fields((b"x-huge", b"h" * size))(scene)


def _many_headers(scene: Scene) -> Iterator[Step]:
    count = scene.settings.size_bytes or MANY_HEADERS_COUNT
    return _with_fields(*((b"x-%d" % number, b"v") for number in range(count)))(scene)


def _endless_headers(scene: Scene) -> Iterator[Step]:
    wait, answer = _first_wait(scene.answer)
    yield from wait
    yield Send(encode_head(answer, CHUNKED)[:-2])
    while True:
        yield Send(b"x-endless: " + b"h" * 1000 + b"\r\n")
        yield Wait(0)


# --- in the body ---------------------------------------------------------------------------


def _head_only(end: End) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        wait, answer = _first_wait(scene.answer)
        body, _, _ = _take_whole(answer) if not answer.streamed else (b"", 0, [])
        yield from wait
        yield Send(encode_head(answer, _framing(answer, body)))
        yield end

    return steps


def _mid_body(end: End) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault that cuts the body anywhere: a whole one at half, a stream in an event."""

    def steps(scene: Scene) -> Iterator[Step]:
        if scene.answer.streamed:
            yield from _cut_stream(scene, end, inside=True)
            return
        body, _, wait = _take_whole(scene.answer)
        yield from wait
        yield Send(encode_head(scene.answer, length_field(len(body))) + body[: len(body) // 2])
        yield end

    return steps


def _mid_stream(end: End, *, inside: bool = False) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        if not scene.answer.streamed:
            yield from _mid_body(end)(scene)
            return
        yield from _cut_stream(scene, end, inside=inside)

    return steps


def _cut_stream(scene: Scene, end: End, *, inside: bool) -> Iterator[Step]:
    answer = scene.answer
    yield from _open_events(scene)
    following = next(answer.pieces, None)
    if inside and following is not None:
        yield Send(encode_chunk(following.data[: len(following.data) // 2]))
    yield end


def _open_events(scene: Scene) -> Iterator[Step]:
    """Yield the head and the events that come before the point of the cut, one a write."""
    answer, settings = scene.answer, scene.settings
    cut = settings.at if settings.at is not None else answer.output_tokens // 2
    head, tokens = encode_head(answer, CHUNKED), 0
    while head or tokens < cut:
        # The role event goes out even where no token does: it is what a stream opens with.
        piece = next(answer.pieces, None)
        if piece is None:
            break
        if piece.delay_ms:
            yield Wait(piece.delay_ms)
        tokens += piece.tokens
        yield Send(head + encode_chunk(piece.data), piece.tokens)
        head = b""


def _sse_error_mid(scene: Scene) -> Iterator[Step]:
    if not scene.answer.streamed:
        yield from honest_steps(make_error(500, scene.settings))
        return
    yield from _open_events(scene)
    yield Send(
        encode_chunk(
            b'data: {"error":{"message":"The server had an error while processing your '
            b'request.","type":"server_error","param":null,"code":null}}\n\n'
        )
        + LAST_CHUNK
    )
    yield End.CLOSE


def _sse_cut_utf8(scene: Scene) -> Iterator[Step]:
    if not scene.answer.streamed or scene.draft is None:
        yield from _mid_body(End.FIN)(scene)
        return
    yield from _open_events(scene)
    event = stream_word_event(scene.draft, SPLIT_WORD)
    yield Send(encode_chunk(event[: event.index(SPLIT_WORD.encode()) + 2]))
    yield End.FIN


def _sse_no_done(scene: Scene) -> Iterator[Step]:
    pieces = (piece for piece in scene.answer.pieces if piece.data != b"data: [DONE]\n\n")
    yield from honest_steps(_with_pieces(scene.answer, pieces))


def _sse_big_event(scene: Scene) -> Iterator[Step]:
    if not scene.answer.streamed or scene.draft is None:
        yield from honest_steps(scene.answer)
        return
    size = scene.settings.size_bytes or BIG_EVENT_BYTES
    yield from _open_events(scene)
    yield Send(encode_chunk(stream_word_event(scene.draft, "b" * size)), 1)
    for piece in scene.answer.pieces:
        yield Send(encode_chunk(piece.data), piece.tokens)
    yield Send(LAST_CHUNK)


def _split1(scene: Scene) -> Iterator[Step]:
    """Yield each byte of the body as a chunk of its own, as fast as the peer reads."""
    body, tokens, wait = _take_whole(scene.answer)
    yield from wait
    yield Send(encode_head(scene.answer, CHUNKED))
    for number in range(len(body)):
        yield Send(encode_chunk(body[number : number + 1]))
        yield Wait(0)
    yield Send(LAST_CHUNK, tokens)


def _bad_chunk(size_line: bytes) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        body, _, wait = _take_whole(scene.answer)
        half = len(body) // 2
        yield from wait
        yield Send(encode_head(scene.answer, CHUNKED) + encode_chunk(body[:half]))
        yield Send(size_line + b"\r\n" + body[half:] + b"\r\n" + LAST_CHUNK)
        yield End.FIN

    return steps


def _trailers(scene: Scene) -> Iterator[Step]:
    body, tokens, wait = _take_whole(scene.answer)
    yield from wait
    yield Send(
        encode_head(scene.answer, (b"trailer", b"x-checksum"), CHUNKED)
        + encode_chunk(body)
        + b"0\r\nx-checksum: 1\r\nauthorization: Bearer trailer\r\ncontent-length: 5\r\n\r\n",
        tokens,
    )


def _endless_body(scene: Scene) -> Iterator[Step]:
    wait, answer = _first_wait(scene.answer)
    yield from wait
    yield Send(encode_head(answer, CHUNKED))
    if answer.streamed:
        for piece in answer.pieces:
            if piece.data.startswith(b"data: [DONE]"):
                break
            yield Send(encode_chunk(piece.data), piece.tokens)
        filling = b": " + b"e" * (ENDLESS_PIECE_BYTES - 4) + b"\n\n"
    else:
        yield Send(encode_chunk(b'{"endless":"'))
        filling = b"e" * ENDLESS_PIECE_BYTES
    while True:
        yield Send(encode_chunk(filling))
        yield Wait(0)


def _gzip(*, bad: bool) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        body, tokens, wait = _take_whole(scene.answer)
        packed = gzip.compress(body, mtime=0)
        if bad:
            # A checksum that does not fit, and deflate data with a bit turned in its middle.
            middle = len(packed) // 2
            packed = packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :]
        encoding = (b"content-encoding", b"gzip")
        yield from wait
        yield Send(
            encode_head(scene.answer, encoding, _framing(scene.answer, packed))
            + _framed(scene.answer, packed),
            tokens,
        )

    return steps


def _gzip_bomb(scene: Scene) -> Iterator[Step]:
    wait, answer = _first_wait(scene.answer)
    size = scene.settings.size_bytes or GZIP_BOMB_BYTES
    packer = zlib.compressobj(9, wbits=31)
    yield from wait
    yield Send(encode_head(answer, (b"content-encoding", b"gzip"), CHUNKED))
    block = b" " * (1 << 20)
    opening = packer.compress(b'{"usage":')
    for _ in range(max(1, size // len(block))):
        if packed := opening + packer.compress(block):
            yield Send(encode_chunk(packed))
            opening = b""
        yield Wait(0)
    yield Send(encode_chunk(packer.compress(b"{}}") + packer.flush()) + LAST_CHUNK)


# --- after the answer, and how the connection ends -----------------------------------------


def _extra(data: bytes) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault that sends `data` right behind a whole answer."""

    def steps(scene: Scene) -> Iterator[Step]:
        body, tokens, wait = _take_whole(scene.answer)
        whole = encode_head(scene.answer, _framing(scene.answer, body))
        yield from wait
        yield Send(whole + _framed(scene.answer, body) + data, tokens)

    return steps


POISON: Final = b'{"poison":"this answer was never asked for"}'
"""What no caller may ever see: the body of an answer behind the answer."""

_POISON_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(POISON), POISON)
)


def _redirect(status: int) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        answer = Answer(
            status=status,
            headers=((b"location", (scene.address + CANARY_PATH).encode()),),
            pieces=iter((Piece(b"moved"),)),
            streamed=False,
            output_tokens=0,
        )
        return honest_steps(answer)

    return steps


def _until_close(
    version: bytes, *fields: tuple[bytes, bytes]
) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault whose body ends where the connection ends."""

    def steps(scene: Scene) -> Iterator[Step]:
        wait, answer = _first_wait(scene.answer)
        yield from wait
        yield Send(encode_head(answer, *fields, version=version))
        for piece in answer.pieces:
            if piece.delay_ms:
                yield Wait(piece.delay_ms)
            yield Send(piece.data, piece.tokens)
        yield End.CLOSE

    return steps


def _conn_close(scene: Scene) -> Iterator[Step]:
    yield from _with_fields(CLOSING)(scene)
    yield End.CLOSE


def _then(end: End) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        yield from honest_steps(scene.answer)
        yield end

    return steps


def _stale(end: End) -> Callable[[Scene], Iterator[Step]]:
    """Return a fault of kept connections only: a fresh one is served."""

    def steps(scene: Scene) -> Iterator[Step]:
        if scene.reused:
            yield end
            return
        yield from honest_steps(scene.answer)

    return steps


def _early(status: int) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        answer = (
            make_error(status, scene.settings, message="Request too large.")
            if status >= 400
            else scene.answer
        )
        body, tokens, wait = _take_whole(answer)
        yield from wait
        yield Send(encode_head(answer, CLOSING, length_field(len(body))) + body, tokens)
        yield End.LINGER

    return steps


def _drip(*, head: bool, body: bool) -> Callable[[Scene], Iterator[Step]]:
    def steps(scene: Scene) -> Iterator[Step]:
        payload, tokens, wait = _take_whole(scene.answer)
        framing = _framing(scene.answer, payload)
        parts = (
            (encode_head(scene.answer, framing), head),
            (_framed(scene.answer, payload), body),
        )
        yield from wait
        for data, dripped in parts:
            if not dripped:
                yield Send(data)
                continue
            for number in range(len(data)):
                yield Send(data[number : number + 1])
                yield Wait(scene.settings.drip_ms)
        yield Send(b"", tokens)

    return steps


_FAULTS: Final[Mapping[Fault, Callable[[Scene], Iterator[Step]]]] = {
    Fault.RESET_BEFORE: _nothing(End.RESET),
    Fault.FIN_BEFORE: _nothing(End.FIN),
    Fault.RESET_MID_HEAD: _half_head(End.RESET),
    Fault.FIN_MID_HEAD: _half_head(End.FIN),
    Fault.GARBAGE: _raw(GARBAGE, End.FIN),
    Fault.GARBAGE_HOLD: _raw(GARBAGE, End.STALL),
    Fault.BAD_STATUS_LINE: _bad_status_line,
    Fault.HEADER_NUL: _with_fields((b"x-nul", b"a\x00b")),
    Fault.HEADER_CTL: _with_fields((b"x-ctl", b"a\x07b")),
    Fault.HEADER_CTL_CR: _with_fields((b"x-cr", b"a\rx-smuggled: b")),
    Fault.STALL_HEADERS: _nothing(End.STALL),
    Fault.STALL_MID_HEAD: _half_head(End.STALL),
    Fault.STALL_BODY: _head_only(End.STALL),
    Fault.CL_NEGATIVE: _replaced_framing(lambda size: (b"content-length", b"-%d" % size)),
    Fault.CL_TWICE_DIFFER: _replaced_framing(length_field, lambda size: length_field(size - 7)),
    Fault.CL_TOO_LONG: _replaced_framing(lambda size: length_field(size + 10)),
    Fault.TE_AND_CL: _replaced_framing(
        length_field, lambda _size: CHUNKED, chunked=True, end=End.SILENT_CLOSE
    ),
    Fault.FIN_MID_BODY: _mid_body(End.FIN),
    Fault.RESET_MID_BODY: _mid_body(End.RESET),
    Fault.STALL_MID_BODY: _mid_body(End.STALL),
    Fault.BAD_CHUNK_SIZE: _bad_chunk(b"zz"),
    Fault.CHUNK_SIZE_OVERFLOW: _bad_chunk(b"1" + b"0" * 20),
    Fault.SSE_RESET_MID: _mid_stream(End.RESET),
    Fault.SSE_FIN_MID: _mid_stream(End.FIN),
    Fault.SSE_STALL_MID: _mid_stream(End.STALL),
    Fault.SSE_ERROR_MID: _sse_error_mid,
    Fault.SSE_CUT_IN_EVENT: _mid_stream(End.FIN, inside=True),
    Fault.SSE_CUT_UTF8: _sse_cut_utf8,
    Fault.SSE_NO_DONE: _sse_no_done,
    Fault.SSE_BIG_EVENT: _sse_big_event,
    Fault.SSE_SPLIT1: _split1,
    Fault.EXTRA_RESPONSE: _extra(_POISON_ANSWER),
    Fault.EXTRA_BYTES: _extra(b"\x00\x01extra" * 8),
    Fault.STATUS_100: _interim(b"HTTP/1.1 100 Continue\r\n\r\n"),
    Fault.STATUS_103: _interim(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"),
    Fault.ENDLESS_100: _endless_100,
    Fault.UPGRADE_101: _upgrade_101,
    Fault.TRAILERS: _trailers,
    Fault.HUGE_HEADER: _huge_header,
    Fault.MANY_HEADERS: _many_headers,
    Fault.ENDLESS_HEADERS: _endless_headers,
    Fault.ENDLESS_BODY: _endless_body,
    Fault.GZIP: _gzip(bad=False),
    Fault.GZIP_BAD: _gzip(bad=True),
    Fault.GZIP_BOMB: _gzip_bomb,
    Fault.REDIRECT: _redirect(302),
    Fault.REDIRECT_307: _redirect(307),
    Fault.CONN_CLOSE: _conn_close,
    Fault.HTTP10_CLOSE: _until_close(b"HTTP/1.0"),
    Fault.EOF_DELIMITED: _until_close(b"HTTP/1.1", CLOSING),
    Fault.CLOSE_AFTER_OK: _then(End.SILENT_CLOSE),
    Fault.HALF_CLOSE: _then(End.HALF_CLOSE),
    Fault.STALE_RESET: _stale(End.RESET),
    Fault.STALE_FIN: _stale(End.FIN),
    Fault.EARLY_413: _early(413),
    Fault.EARLY_200: _early(200),
    Fault.DRIP: _drip(head=True, body=True),
    Fault.DRIP_HEAD: _drip(head=True, body=False),
    Fault.DRIP_BODY: _drip(head=False, body=True),
}
assert set(_FAULTS) == set(Fault), set(Fault) - set(_FAULTS)
