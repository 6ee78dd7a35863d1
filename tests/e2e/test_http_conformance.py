"""HTTP/1.1 as callers may and may not speak it: no answer too many, no request smuggled."""

import contextlib
import email.utils
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.harness import (
    HOST,
    KEY,
    PROJECT,
    Ending,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    provider_table,
    serve,
)
from tests.e2e.http_probes import (
    CHAT,
    CHUNKED,
    CHUNKS,
    HOSTED,
    KEYED,
    LEGIT,
    PROBES,
    SMUGGLE,
    SMUGGLED,
    Probe,
    chat,
)

LIMITS: Final = """\
client_header_timeout_s = 1
client_body_timeout_s = 1
client_keepalive_s = 5
"""

LAST: Final = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
"""What shows that a connection is still in step."""


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = PROJECT + provider_table("sim", shared_simulator.base_url())
    with serve(tmp_path_factory.mktemp("http"), config, server=LIMITS) as running:
        yield running
        assert "Traceback" not in running.child.said()


def _is_well_formed(reply: Reply, *, method: str) -> None:
    """The head of an answer has what it must and nothing twice."""
    names = [name for name, _ in reply.headers]
    for name in ("content-length", "transfer-encoding", "date", "content-type", "connection"):
        assert names.count(name) <= 1, reply.headers
    assert not {"content-length", "transfer-encoding"} <= set(names)
    date = email.utils.parsedate_to_datetime(reply.header("date") or "")
    assert date.tzinfo is not None
    assert reply.header("x-modelux-request-id")
    assert not {"keep-alive", "upgrade", "trailer", "te", "server"} & set(names)
    assert reply.ending is Ending.WHOLE
    if method == "HEAD":
        assert reply.body == b""


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_gets_its_answers_and_nothing_else_happens(
    gateway: Gateway, simulator: Simulator, probe: Probe
) -> None:
    with RawClient(gateway.port) as client:
        client.send(probe.wire)
        replies = [client.read_reply(method=probe.method) for _ in probe.answers]
        assert tuple(reply.status for reply in replies) == probe.answers
        if probe.kept:
            client.send(LAST)
            last = client.read_reply(method="GET")
            assert (last.status, last.json()) == (200, {"status": "ok"})
            replies.append(last)
        assert replies[-1].header("connection") == "close"
        assert client.read_end() == (b"", Ending.FIN)
    for reply in replies:
        _is_well_formed(reply, method="GET" if reply is not replies[0] else probe.method)
    for name, value in probe.fields.items():
        assert replies[0].header(name) == value
    if probe.code is not None:
        assert replies[0].error()["code"] == probe.code
    models = [each["model"].partition("?")[0] for each in simulator.requests()]
    assert models == [LEGIT] * probe.calls
    assert SMUGGLED not in models


# --- requests that arrive in pieces, or never whole ----------------------------------------


@pytest.mark.parametrize("probe", PROBES[::4], ids=lambda probe: probe.name)
def test_the_outcome_does_not_depend_on_how_the_bytes_are_cut(
    gateway: Gateway, simulator: Simulator, probe: Probe
) -> None:
    if len(probe.wire) > 4096:
        pytest.skip("the same rules, a thousand reads later")
    with RawClient(gateway.port) as client:
        # After a refusal nobody takes in the rest for longer than the answer needs.
        with contextlib.suppress(ConnectionError):
            for byte in probe.wire:
                client.send(bytes([byte]))
        replies = [client.read_reply(method=probe.method) for _ in probe.answers]
    # An interim answer may come where the body is not there yet.
    assert tuple(reply.status for reply in replies) == probe.answers
    models = [each["model"].partition("?")[0] for each in simulator.requests()]
    assert models == [LEGIT] * probe.calls


UNFINISHED: Final = {
    "a head": CHAT + HOSTED + KEYED,
    "a head without its last lf": chat(body=b"")[:-1],
    "a body": chat()[:-1],
    "a chunk": chat(framing=CHUNKED, body=CHUNKS[:20]),
    "a last chunk": chat(framing=CHUNKED, body=CHUNKS[:-7]),
    "a last empty line": chat(framing=CHUNKED, body=CHUNKS[:-2]),
    "a last lf": chat(framing=CHUNKED, body=CHUNKS[:-1]),
    "a trailer": chat(framing=CHUNKED, body=CHUNKS[:-2] + SMUGGLE),
}


def test_what_does_not_end_is_timed_out_and_goes_nowhere(
    gateway: Gateway, simulator: Simulator
) -> None:
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(RawClient(gateway.port)) for name in UNFINISHED}
        for name, client in clients.items():
            client.send(UNFINISHED[name])
        for name, client in clients.items():
            reply = client.read_reply()
            # A request line among the trailers is no field: refused at once.
            assert reply.status == (400 if name == "a trailer" else 408), name
            assert reply.header("connection") == "close"
            assert client.read_end() == (b"", Ending.FIN)
    assert simulator.requests() == []


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_caller_that_ends_early_sends_nothing_upstream(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    with RawClient(gateway.port) as client:
        client.send(UNFINISHED[name])
        client.sock.shutdown(socket.SHUT_WR)
        answer, _ = client.read_end()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
    assert simulator.requests() == []


def test_an_empty_line_behind_a_request_gets_no_answer(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(chat() + b"\r\n")
        assert client.read_reply().status == 200
        assert client.read_end() == (b"", Ending.FIN)


def test_an_empty_line_between_two_requests_is_skipped(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(chat() + b"\r\n" + chat() + b"\r\n" + LAST)
        assert [client.read_reply().status for _ in range(3)] == [200, 200, 200]
        assert client.read_end() == (b"", Ending.FIN)


# --- early answers -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["mlx_sk_unknown_0123456789abcdefgh", KEY])
@pytest.mark.parametrize("size_mib", [1, 8, 40])
def test_a_caller_that_writes_all_before_it_reads_gets_its_refusal(
    gateway: Gateway, simulator: Simulator, key: str, size_mib: int
) -> None:
    connection = http.client.HTTPConnection(HOST, gateway.port, timeout=20)
    path = "/v1/chat/completions" if size_mib == 40 or key != KEY else "/v1/nothing"
    with contextlib.closing(connection):
        connection.request(
            "POST",
            path,
            body=b"x" * (size_mib << 20),
            headers={"Authorization": f"Bearer {key}"},
        )
        answer = connection.getresponse()
        assert answer.status in {401, 404, 413}
        assert json.loads(answer.read())["error"]["code"] in {
            "invalid_api_key",
            "not_found",
            "body_too_large",
        }
        assert answer.getheader("connection") == "close"
    assert simulator.requests() == []


def test_interim_answers_go_to_http_1_1_callers_that_wait_only(gateway: Gateway) -> None:
    whole = chat(b"Expect: 100-Continue\r\n", framing=CHUNKED, body=CHUNKS)
    head, _, body = whole.partition(b"\r\n\r\n")
    with RawClient(gateway.port) as client:
        client.send(head + b"\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body + chat())
        replies = [client.read_reply() for _ in range(2)]
    assert [(reply.status, reply.interim) for reply in replies] == [(200, []), (200, [])]
