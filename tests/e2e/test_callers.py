"""Slow, hostile and vanishing callers: a clear 4xx, bounded memory, others served on."""

import contextlib
import http.client
import socket
import threading
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
    call,
    chat_body,
    post,
    provider_table,
    serve,
    until,
)

MODEL: Final = "sim/gpt-4o-mini?tokens=6"
TEXT: Final = " the river kept its own time"
KIB: Final = 1 << 10
MIB: Final = 1 << 20
RESIDENT_BYTES_MAX: Final = 320 * MIB
"""Of one process. Several bodies of 32 MiB may be in flight; nothing else is large."""

LIMITS: Final = """\
client_header_timeout_s = 2
client_body_timeout_s = 2
client_keepalive_s = 3
"""

ROUTES: Final = """
[routes.failover]
strategy = "fallback"
attempts = ["sim/leaver?hang=head", "sim/heir"]
"""

HEAD: Final = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\n".encode()
AUTHORIZED: Final = HEAD + f"Authorization: Bearer {KEY}\r\n".encode()


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = PROJECT + provider_table("sim", shared_simulator.base_url()) + ROUTES
    with serve(tmp_path_factory.mktemp("callers"), config, server=LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def _others_are_served_well(gateway: Gateway, simulator: Simulator) -> Iterator[None]:
    yield
    _expect_served(gateway)
    assert simulator.child.alive()
    assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX
    assert "Traceback" not in gateway.child.said()


def _expect_served(gateway: Gateway) -> None:
    """Another caller gets its answer, and the probes theirs."""
    reply = call(gateway.port, chat_body(MODEL))
    assert (reply.status, reply.text()) == (200, TEXT)
    connection = http.client.HTTPConnection(HOST, gateway.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


def _refused(client: RawClient, status: int, code: str) -> Reply:
    """Expect one error answer, and the end of the connection behind it."""
    reply = client.read_reply()
    assert (reply.status, reply.error()["code"]) == (status, code)
    assert (reply.header("connection") or "").lower() == "close"
    return reply


# --- slow ----------------------------------------------------------------------------------


def test_a_head_that_does_not_end_is_timed_out(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED)
        _expect_served(gateway)
        _refused(client, 408, "client_timeout")
        assert client.read_end()[1] is not Ending.SILENCE


def test_a_body_that_does_not_end_is_timed_out(gateway: Gateway, simulator: Simulator) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED + b'Content-Length: 1000\r\n\r\n{"model":"sim/slow"')
        _expect_served(gateway)
        reply = _refused(client, 408, "client_timeout")
        assert client.read_end()[1] is not Ending.SILENCE
    assert simulator.requests(model="slow") == []
    assert gateway.trace(reply.request_id)["status"] == 408


def test_a_head_and_a_body_sent_byte_by_byte_are_served(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        for byte in post(chat_body(MODEL)):
            client.send(bytes([byte]))
        assert client.read_reply().text() == TEXT


def test_idle_connections_are_closed_without_a_word(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body(MODEL)))
        assert client.read_reply().status == 200
        assert client.read_end() == (b"", Ending.FIN)


def test_hundreds_of_idle_connections_leave_others_alone(gateway: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(RawClient(gateway.port)) for _ in range(300)]
        _expect_served(gateway)
        assert len(idle) == 300


def test_a_caller_that_does_not_read_slows_its_own_provider_only(
    gateway: Gateway, simulator: Simulator
) -> None:
    with RawClient(gateway.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        client.send(post(chat_body("sim/lazy?fault=endless_body", stream=True)))
        client.read_until(b"eeee")
        previous = -1

        def settled() -> bool:
            nonlocal previous
            before, previous = previous, int(simulator.only(model="lazy")["bytes_sent"])
            return before == previous

        until(settled, what="the provider being held back")
        assert previous < 64 * MIB
        _expect_served(gateway)
        assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX
    assert simulator.wait_request(lambda each: each["disconnected"], model="lazy")


def test_a_slow_reader_gets_every_byte(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        client.send(post(chat_body("sim/m?tokens=5000", stream=True)))
        _expect_served(gateway)
        reply = client.read_reply()
    assert (reply.events()[-1], reply.ending) == ("[DONE]", Ending.WHOLE)
    assert len(reply.events()) == 5000 + 3


# --- vanishing -----------------------------------------------------------------------------


def test_a_caller_that_leaves_a_stream_cancels_its_provider(
    gateway: Gateway, simulator: Simulator
) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body("sim/gone?tokens=100000;token_ms=5", stream=True)))
        head = client.read_until(b"\r\n\r\n").decode().lower()
        client.read_until(b'" river"')
    record = simulator.wait_request(lambda each: each["disconnected"], model="gone")
    assert record["output_tokens_sent"] < 100_000
    request_id = head.partition("x-modelux-request-id: ")[2].partition("\r\n")[0]
    trace = gateway.trace(request_id)
    assert trace["error"]["code"] == "client_closed"
    assert trace["attempts"][0]["outcome"] in {"cancelled", "interrupted"}


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_caller_that_leaves_before_the_answer_cancels_its_provider(
    gateway: Gateway, simulator: Simulator, how: str
) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body("sim/early-bird?hang=head")))
        simulator.wait_request(lambda each: each["state"] == "stalled", model="early-bird")
        if how == "reset":
            client.reset()
    assert simulator.wait_request(lambda each: each["disconnected"], model="early-bird")


def test_a_caller_that_leaves_during_a_failover_is_not_served_any_further(
    gateway: Gateway, simulator: Simulator
) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body("@failover")))
        simulator.wait_request(lambda each: each["state"] == "stalled", model="leaver")
    simulator.wait_request(lambda each: each["disconnected"], model="leaver")
    _expect_served(gateway)
    assert simulator.requests(model="heir") == []


def test_an_upload_that_is_reset_sends_nothing_upstream(
    gateway: Gateway, simulator: Simulator
) -> None:
    whole = post(chat_body("sim/torn", padding="x" * MIB))
    with RawClient(gateway.port) as client:
        client.send(whole[: len(whole) // 2])
        client.reset()
    _expect_served(gateway)
    assert simulator.requests(model="torn") == []


def test_a_caller_that_closes_its_side_is_answered_or_let_go(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(post(chat_body(MODEL)))
        client.sock.shutdown(socket.SHUT_WR)
        data, ended = client.read_end()
    assert ended in {Ending.FIN, Ending.RESET}
    assert not data or data.startswith(b"HTTP/1.1 200 ")


# --- large ---------------------------------------------------------------------------------


def test_a_head_of_64_kib_is_refused(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED + b"X-Large: " + b"x" * (64 * KIB) + b"\r\n\r\n")
        _refused(client, 431, "headers_too_large")


def test_two_thousand_headers_are_refused(gateway: Gateway) -> None:
    fields = b"".join(b"X-%d: v\r\n" % number for number in range(2000))
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED + fields + b"Content-Length: 2\r\n\r\n{}")
        _refused(client, 431, "headers_too_large")


def test_an_endless_head_is_refused_while_it_is_sent(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED)
        with contextlib.suppress(ConnectionError):
            # The answer may come, and the connection end, before all of it is written.
            for number in range(100_000):
                client.send(b"X-%d: endless\r\n" % number)
        reply = client.read_reply()
        assert reply.status in {431, 0}


@pytest.mark.parametrize("length", [10**15, 33 * MIB])
def test_a_length_beyond_the_limit_is_refused_before_the_body(
    gateway: Gateway, simulator: Simulator, length: int
) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED + b"Content-Length: %d\r\n\r\n" % length)
        reply = _refused(client, 413, "body_too_large")
    assert gateway.trace(reply.request_id)["status"] == 413
    assert simulator.requests() == []


def test_a_length_that_no_number_holds_is_refused(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(AUTHORIZED + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n")
        assert client.read_reply().status in {400, 413}


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_are_refused_and_the_caller_can_read_why(
    gateway: Gateway, simulator: Simulator, *, chunked: bool
) -> None:
    part = b"x" * MIB
    with RawClient(gateway.port) as client:
        if chunked:
            client.send(AUTHORIZED + b"Transfer-Encoding: chunked\r\n\r\n")
        else:
            client.send(AUTHORIZED + b"Content-Length: %d\r\n\r\n" % (50 * MIB))
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                client.send(b"%x\r\n%s\r\n" % (MIB, part) if chunked else part)
            client.send(b"0\r\n\r\n" if chunked else b"")
        reply = client.read_reply()
    # Cut off is allowed once so much more was sent than the answer could wait for.
    assert reply.status in {413, 0}
    assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX
    assert simulator.requests() == []


def test_a_body_within_the_limit_passes(gateway: Gateway, simulator: Simulator) -> None:
    body = chat_body("sim/large?tokens=6", padding="x" * (30 * MIB))
    assert call(gateway.port, body).text() == TEXT
    assert simulator.only(model="large")["body_bytes"] == len(body) - len("sim/")


def test_a_body_in_chunks_of_one_byte_passes(gateway: Gateway, simulator: Simulator) -> None:
    body = chat_body("sim/chunked?tokens=6")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with RawClient(gateway.port) as client:
        client.send(
            AUTHORIZED
            + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks
        )
        assert client.read_reply().text() == TEXT
    sent = simulator.only(model="chunked")["body"]
    assert sent == body.decode().replace("sim/chunked", "chunked")


# --- waiting and pipelining ----------------------------------------------------------------


def test_a_caller_that_expects_100_is_told_to_go_on(gateway: Gateway) -> None:
    whole = post(chat_body(MODEL), headers={"Expect": "100-continue"})
    split = whole.index(b"\r\n\r\n") + 4
    with RawClient(gateway.port) as client:
        client.send(whole[:split])
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(whole[split:])
        reply = client.read_reply()
    assert (reply.status, reply.text()) == (200, TEXT)


def test_a_caller_that_expects_100_is_refused_before_it_uploads(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(
            AUTHORIZED + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (40 * MIB)
        )
        reply = client.read_reply()
    assert (reply.status, reply.interim) == (413, [])


def test_an_old_caller_is_never_told_100(gateway: Gateway) -> None:
    whole = post(chat_body(MODEL), headers={"Expect": "100-continue"})
    with RawClient(gateway.port) as client:
        client.send(whole.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        reply = client.read_reply()
    assert (reply.status, reply.interim, reply.text()) == (200, [], TEXT)


@pytest.mark.parametrize("stream", [False, True])
def test_twenty_pipelined_requests_are_answered_in_order(
    gateway: Gateway, *, stream: bool
) -> None:
    with RawClient(gateway.port) as client:
        client.send(
            b"".join(
                post(chat_body(f"sim/p{n}?tokens={n + 1}", stream=stream)) for n in range(20)
            )
        )
        for number in range(20):
            reply = client.read_reply()
            assert reply.status == 200
            assert reply.header("x-modelux-model-used") == f"p{number}?tokens={number + 1}"
            assert len(reply.text().split(" ")) == number + 2


def test_a_refusal_in_a_pipeline_keeps_its_place(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.send(
            post(chat_body("sim/first?first_byte_ms=50;tokens=6"))
            + post(chat_body("@unheard-of"))
            + post(chat_body("sim/third?tokens=6"))
        )
        assert [client.read_reply().status for _ in range(3)] == [200, 404, 200]


# --- wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b'{"model":"sim/m"', "invalid_json", None),
        (b'{"model":"sim/m","x":NaN}', "invalid_json", None),
        (b'{"model":"sim/m","x":"\xff"}', "invalid_json", None),
        (b'["sim/m"]', "invalid_json", None),
        (b'{"model":"sim/m","x":' + b"[" * 200 + b"]" * 200 + b"}", "invalid_json", None),
        (b'{"model":"sim/m","model":"sim/n"}', "duplicate_key", "model"),
        (b'{"model":"sim/m","mod\\u0065l":"sim/n"}', "duplicate_key", "model"),
        (b'{"model":"sim/m","stream":true,"stream":false}', "duplicate_key", "stream"),
        (b'{"messages":[]}', "missing_field", "model"),
        (b'{"model":"nowhere","messages":[]}', "model_not_found", "model"),
    ],
)
def test_a_bad_body_is_a_clear_400_and_goes_nowhere(
    gateway: Gateway, simulator: Simulator, body: bytes, code: str, param: str | None
) -> None:
    reply = call(gateway.port, body)
    assert (reply.status, reply.error()["code"]) == (400, code)
    assert reply.error()["type"] == "invalid_request_error"
    assert param is None or reply.error()["param"] == param
    assert simulator.requests() == []
    trace = gateway.trace(reply.request_id)
    assert (trace["status"], trace["error"]["code"]) == (400, code)


def test_wrong_paths_methods_and_encodings_are_refused(
    gateway: Gateway, simulator: Simulator
) -> None:
    def ask(line: str) -> Reply:
        head = f"{line} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        with RawClient(gateway.port) as client:
            client.send(head.encode())
            return client.read_reply(method=line.split(maxsplit=1)[0])

    assert ask("GET /").status == 404
    assert ask("GET /v1/unheard-of").error()["code"] == "not_found"
    wrong = ask("GET /v1/chat/completions")
    assert (wrong.status, wrong.error()["code"]) == (405, "method_not_allowed")
    assert wrong.header("allow") == "POST"
    assert ask("OPTIONS /v1/chat/completions").status == 405
    encoded = call(gateway.port, chat_body(MODEL), headers={"Content-Encoding": "gzip"})
    assert (encoded.status, encoded.error()["code"]) == (415, "unsupported_encoding")
    assert simulator.requests() == []


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer ", "Basic abc", "Bearer ' OR 1=1 --", "Bearer " + "x" * 20_000],
)
def test_a_missing_or_odd_key_is_refused_with_one_message(
    gateway: Gateway, simulator: Simulator, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = call(gateway.port, chat_body(MODEL), key=None, headers=headers)
    assert (reply.status, reply.error()["code"]) == (401, "invalid_api_key")
    assert reply.error()["type"] == "authentication_error"
    assert simulator.requests() == []


@pytest.mark.parametrize(
    "data",
    [
        AUTHORIZED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        AUTHORIZED + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        AUTHORIZED + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        AUTHORIZED + b"X-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        AUTHORIZED + b"X-Space : a\r\nContent-Length: 2\r\n\r\n{}",
        AUTHORIZED + b"X-Nul: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        AUTHORIZED.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
        AUTHORIZED + b"Host: other\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models\r\n\r\n",
    ],
)
def test_a_request_that_two_parsers_could_read_differently_is_refused(
    gateway: Gateway, simulator: Simulator, data: bytes
) -> None:
    with RawClient(gateway.port) as client:
        client.send(data)
        reply = client.read_reply()
        assert reply.status in {400, 408, 505}
        assert client.read_end()[1] is not Ending.SILENCE
    assert simulator.requests() == []


def test_chunks_that_break_are_refused(gateway: Gateway, simulator: Simulator) -> None:
    for broken in (b"zz\r\n{}\r\n0\r\n\r\n", b"1" + b"0" * 20 + b"\r\n", b"2\r\n{}xx0\r\n\r\n"):
        with RawClient(gateway.port) as client:
            client.send(AUTHORIZED + b"Transfer-Encoding: chunked\r\n\r\n" + broken)
            assert client.read_reply().status == 400
    assert simulator.requests() == []


# --- all at once ---------------------------------------------------------------------------


def test_callers_are_served_while_every_kind_of_hostile_one_is_connected(
    gateway: Gateway, simulator: Simulator
) -> None:
    served: list[int] = []

    def ask() -> None:
        for number in range(20):
            reply = call(gateway.port, chat_body(MODEL, user=str(number)))
            served.append(reply.status)

    hostile = (
        b"",
        AUTHORIZED,
        AUTHORIZED + b"Content-Length: 100\r\n\r\n{",
        AUTHORIZED + b"Content-Length: 1000000000000000\r\n\r\n",
        AUTHORIZED + b"X-Large: " + b"x" * (64 * KIB),
        post(chat_body("sim/m?fault=endless_body", stream=True)),
        post(chat_body("sim/m?hang=head")),
        b"\x00" * KIB,
    )
    with contextlib.ExitStack() as stack:
        for data in hostile * 10:
            client = stack.enter_context(RawClient(gateway.port))
            with contextlib.suppress(ConnectionError):
                client.send(data)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gateway.resident_bytes_max() < RESIDENT_BYTES_MAX
    assert served == [200] * 80
    assert simulator.ledger()["totals"]["requests"] >= 80
