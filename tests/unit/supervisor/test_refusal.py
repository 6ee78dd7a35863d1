"""The answer of last resort is whole HTTP, in the caller's shape, and waits for nobody."""

import json
import socket
import uuid

from modelux.supervisor.refusal import CONNECTIONS_MAX, LINGER_US, Refusal, refusal_bytes
from modelux.supervisor.sockets import Address, bind_shared, bound_address
from modelux.units import MonoUs


def test_the_refusal_is_a_503_that_says_when_to_come_back() -> None:
    head, _, body = refusal_bytes(42).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ") for line in lines[1:])
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert fields["retry-after"] == "42"
    assert fields["x-should-retry"] == "true"
    assert int(fields["content-length"]) == len(body)
    assert uuid.UUID(fields["x-modelux-request-id"]).version == 7
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("overloaded_error", "crash_loop")


def test_a_caller_that_has_asked_is_answered_and_one_that_has_not_is_waited_for() -> None:
    (listener,) = bind_shared(Address("127.0.0.1", 0), 1)
    place = bound_address(listener)
    refusal = Refusal()
    with (
        socket.create_connection((place.host, place.port), timeout=5) as eager,
        socket.create_connection((place.host, place.port), timeout=5) as silent,
    ):
        eager.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
        refusal.turn(MonoUs(0), [listener], 1)
        assert eager.recv(100_000).startswith(b"HTTP/1.1 503 ")
        assert eager.recv(100_000) == b""
        refusal.turn(MonoUs(LINGER_US), [listener], 1)
        assert silent.recv(100) == b""
    refusal.close()
    listener.close()


def test_more_callers_than_its_bound_wait_for_a_later_turn() -> None:
    (listener,) = bind_shared(Address("127.0.0.1", 0), 1)
    place = bound_address(listener)
    refusal = Refusal()
    callers = [
        socket.create_connection((place.host, place.port), timeout=5)
        for _ in range(CONNECTIONS_MAX + 1)
    ]
    for caller in callers:
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
    refusal.turn(MonoUs(0), [listener], 1)
    callers[-1].settimeout(0)
    try:
        assert callers[-1].recv(1) == b"never here"
    except BlockingIOError:
        callers[-1].settimeout(5)
    for caller in callers[:-1]:
        caller.close()
    for _ in range(3):
        refusal.turn(MonoUs(0), [listener], 1)
    assert callers[-1].recv(100).startswith(b"HTTP/1.1 503 ")
    callers[-1].close()
    refusal.close()
    listener.close()


def test_a_caller_that_resets_harms_nobody() -> None:
    (listener,) = bind_shared(Address("127.0.0.1", 0), 1)
    place = bound_address(listener)
    refusal = Refusal()
    rude = socket.create_connection((place.host, place.port), timeout=5)
    rude.sendall(b"x")
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    refusal.turn(MonoUs(0), [listener], 1)
    rude.close()
    refusal.turn(MonoUs(1), [listener], 1)
    refusal.close()
    listener.close()
