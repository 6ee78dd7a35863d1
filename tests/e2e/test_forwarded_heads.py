"""What leaves for a provider, byte for byte, and what comes back of an unusual answer."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.e2e.harness import (
    HOST,
    KEY,
    PROJECT,
    PROVIDER_KEY,
    Ending,
    Gateway,
    RawClient,
    call,
    post,
    provider_table,
    serve,
)

ANSWER: Final = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi"},
                "finish_reason": "stop",
            }
        ],
    }
).encode()
PLAIN: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    % (len(ANSWER))
)


@dataclass(slots=True)
class Wire:
    """A provider that keeps every byte it gets, and answers what it is told to."""

    listener: socket.socket
    answer: bytes = PLAIN + b"\r\n" + ANSWER
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Serve one connection after another until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with peer:
                    self._serve(peer)

    def _serve(self, peer: socket.socket) -> None:
        with peer.makefile("rb") as stream:
            while head := self._read_head(stream):
                size = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                self.heads.append(head)
                self.bodies.append(stream.read(size))
                peer.sendall(self.answer)

    @staticmethod
    def _read_head(stream: "socket.SocketIO | object") -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line: bytes = stream.readline()  # type: ignore[union-attr]
            if not line:
                return b""
            head += line
        return head


@pytest.fixture(scope="module")
def running() -> Iterator[Wire]:
    with socket.create_server((HOST, 0)) as listener:
        wire = Wire(listener)
        thread = threading.Thread(target=wire.run, daemon=True)
        thread.start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def gateway(running: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    base_url = f"http://{HOST}:{running.port}/base/v1"
    config = PROJECT + provider_table("p", base_url, 'headers = { "X-Own" = "ours" }')
    with serve(tmp_path_factory.mktemp("heads"), config) as started:
        yield started


@pytest.fixture
def wire(running: Wire) -> Wire:
    running.answer = PLAIN + b"\r\n" + ANSWER
    running.heads.clear()
    running.bodies.clear()
    return running


def _fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")[1:]
    return [(line.partition(": ")[0].lower(), line.partition(": ")[2]) for line in lines]


BODY: Final = b'{"model":"p/m","messages":[]}'

HOSTILE: Final = {
    "Connection": "close, X-Hop, Authorization, Content-Type, Content-Length, Host",
    "X-Hop": "1",
    "Keep-Alive": "timeout=5",
    "Proxy-Connection": "keep-alive",
    "Proxy-Authorization": "Basic caller-secret",
    "Proxy-Authenticate": "Basic",
    "TE": "trailers, gzip",
    "Trailer": "X-T",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABk",
    "Expect": "something",
    "Via": "1.1 caller-secret",
    "Cookie": "caller-secret",
    "X-Api-Key": "caller-secret",
    "Api-Key": "caller-secret",
    "X-Goog-Api-Key": "caller-secret",
    "Forwarded": "for=caller-secret",
    "X-Forwarded-For": "caller-secret",
    "X-Forwarded-Host": "caller-secret",
    "X-Real-IP": "caller-secret",
    "X_Forwarded_For": "caller-secret",
    "X_Modelux_User_Id": "caller-secret",
    "X-Modelux-User-Id": "caller-secret",
    "X-Modelux-User-Tags": "team=caller-secret",
    "X-Modelux-Trace-Id": "caller-secret",
    "X-Modelux-Anything": "caller-secret",
    "X-Own": "caller-secret",
    "Content_Length": "3",
    "Transfer_Encoding": "chunked",
    "Accept-Encoding": "gzip",
}


def test_a_forwarded_head_is_well_formed_and_holds_nothing_of_the_callers_hop(
    gateway: Gateway, wire: Wire
) -> None:
    reply = call(gateway.port, BODY, headers=HOSTILE)
    assert reply.status == 200
    (head,) = wire.heads
    assert head.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\n")
    assert b"\n" not in head.replace(b"\r\n", b"")
    fields = _fields(head)
    names = [name for name, _ in fields]
    assert len(names) == len(set(names)), names
    sent = dict(fields)
    assert sent["host"] == f"{HOST}:{wire.port}"
    assert sent["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert sent["content-length"] == str(len(BODY) - len("p/"))
    assert sent["accept-encoding"] == "identity"
    assert sent["x-own"] == "ours"
    assert b"caller-secret" not in head
    assert KEY.encode() not in head
    assert set(names) == {
        "host",
        "authorization",
        "content-type",
        "content-length",
        "accept-encoding",
        "x-own",
    }


def test_unknown_fields_travel_with_their_bytes_and_repeats(
    gateway: Gateway, wire: Wire
) -> None:
    extra = b"X-A: \xe9\xff \t;\r\nX-B: 1\r\nx-b: 2\r\nOpenAI-Beta: v2\r\nX-Empty:\r\n"
    raw = post(BODY).replace(b"\r\n\r\n", b"\r\n" + extra + b"\r\n", 1)
    with RawClient(gateway.port) as client:
        client.send(raw)
        assert client.read_reply().status == 200
    for line in (b"X-A: \xe9\xff \t;\r\n", b"X-B: 1\r\nx-b: 2\r\n", b"OpenAI-Beta: v2\r\n"):
        assert line in wire.heads[0]


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        (b'{"model":"p/m"}', b'{"model":"m"}'),
        (
            b' \r\n{ "x" : "\\u00e9\\/" ,"model"\t:\r\n"p\\/m" , "k":1e0 , "y":[ ] }\r\n ',
            b' \r\n{ "x" : "\\u00e9\\/" ,"model"\t:\r\n"m" , "k":1e0 , "y":[ ] }\r\n ',
        ),
        (
            '{"messages":[{"content":"\u00e9\U0001f600 p/m \\"model\\":\\"p/m\\""}],'
            '"model":"p/\u00e9"}'.encode(),
            '{"messages":[{"content":"\u00e9\U0001f600 p/m \\"model\\":\\"p/m\\""}],'
            '"model":"\u00e9"}'.encode(),
        ),
        (
            b'{"a":1,"a":2,"big":123456789012345678901234567890.10,"model":"p/m","z":-0.0}',
            b'{"a":1,"a":2,"big":123456789012345678901234567890.10,"model":"m","z":-0.0}',
        ),
        (
            b'{"mlx:tags":{"a":"b"},"model":"p/m","mlx:end_user":"u","z":{"mlx:tags":1}}',
            b'{"model":"m","z":{"mlx:tags":1}}',
        ),
        (
            b'{"model":"p/POST \\r\\n\\r\\nHTTP/1.1 200"}',
            b'{"model":"POST \\u000d\\u000a\\u000d\\u000aHTTP/1.1 200"}',
        ),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_arrives_as_it_was_sent_but_for_what_is_ours(
    gateway: Gateway, wire: Wire, sent: bytes, arrived: bytes, *, chunked: bool
) -> None:
    raw = post(sent)
    if chunked:
        head = raw.partition(b"\r\n\r\n")[0].rpartition(b"\r\n")[0]
        chunks: Sequence[bytes] = [sent[at : at + 7] for at in range(0, len(sent), 7)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        raw = head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    with RawClient(gateway.port) as client:
        client.send(raw)
        assert client.read_reply().status == 200
    assert wire.bodies == [arrived]


def test_a_query_travels_as_it_was_sent(gateway: Gateway, wire: Wire) -> None:
    call(gateway.port, BODY, path="/v1/chat/completions?a=b%20c&&d=%zz?e/../f")
    line = wire.heads[0].partition(b"\r\n")[0]
    assert line == b"POST /base/v1/chat/completions?a=b%20c&&d=%zz?e/../f HTTP/1.1"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/openai/v1/chat/completions/", "/v1/v1/chat/completions"]
)
def test_the_path_towards_the_provider_is_ours(gateway: Gateway, wire: Wire, path: str) -> None:
    call(gateway.port, BODY, path=path)
    assert wire.heads[0].startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\n")


def test_an_answer_loses_what_concerns_its_own_connection_and_gains_a_date(
    gateway: Gateway, wire: Wire
) -> None:
    lines = (
        b"Connection: keep-alive, X-Request-Id\r\nX-Request-Id: 1\r\nKeep-Alive: timeout=5\r\n"
        b"OpenAI-Version: v\r\nTrailer: X\r\nUpgrade: h2c\r\nProxy-Authenticate: x\r\n"
        b"Set-Cookie: a=b\r\nServer: s\r\nContent-Length-X: 1\r\n"
    )
    wire.answer = PLAIN + lines + b"\r\n" + ANSWER
    reply = call(gateway.port, BODY)
    names = {name for name, _ in reply.headers if not name.startswith("x-modelux-")}
    assert names == {"content-type", "content-length", "openai-version", "date"}
    assert reply.body == ANSWER


def test_the_date_of_an_answer_is_left_alone(gateway: Gateway, wire: Wire) -> None:
    wire.answer = PLAIN + b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n" + ANSWER
    reply = call(gateway.port, BODY)
    dates = [value for name, value in reply.headers if name == "date"]
    assert dates == ["Sun, 06 Nov 1994 08:49:37 GMT"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: \r\rContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_answer_of_doubtful_framing_is_a_502_and_ends_that_connection(
    gateway: Gateway, wire: Wire, answer: bytes
) -> None:
    wire.answer = answer
    with RawClient(gateway.port) as client:
        client.send(post(BODY))
        reply = client.read_reply()
        assert (reply.status, reply.ending) == (502, Ending.WHOLE)
        wire.answer = PLAIN + b"\r\n" + ANSWER
        client.send(post(BODY))
        assert client.read_reply().body == ANSWER


def test_what_follows_an_answer_reaches_nobody(gateway: Gateway, wire: Wire) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    wire.answer = PLAIN + b"\r\n" + ANSWER + poison
    with RawClient(gateway.port) as client:
        for _ in range(5):
            client.send(post(BODY))
            assert client.read_reply().body == ANSWER
        assert client.read_some(0) == b""
