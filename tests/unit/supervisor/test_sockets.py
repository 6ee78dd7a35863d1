"""Addresses are read strictly; sockets share a port among themselves and with nobody else."""

import socket

import pytest

from modelux.supervisor.sockets import (
    Address,
    ListenError,
    bind_shared,
    bind_single,
    bound_address,
    parse_address,
    reachable,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "host", "host:", "host:x", "host:65536", "::1:80", "host:-1"]
)
def test_anything_else_is_refused_with_the_text_in_the_message(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT|brackets|name a host"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_sockets_of_one_address_listen_on_one_port(host: str) -> None:
    listeners = bind_shared(Address(host, 0), 3)
    ports = {bound_address(listener).port for listener in listeners}
    assert len(ports) == 1
    port = ports.pop()
    for _ in range(8):
        socket.create_connection((host, port), timeout=5).close()
    for listener in listeners:
        listener.close()


def test_a_port_that_another_program_has_is_refused_even_if_it_would_share() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(ListenError, match=f"{taken}: the port is in use"):
            bind_shared(taken, 2)
        with pytest.raises(ListenError, match="in use"):
            bind_single(taken)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ListenError, match="no such address"):
        bind_single(Address("192.0.2.1", 0))


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(ListenError, match="no such host"):
        bind_single(Address("no such host", 0))


def test_what_listens_on_all_addresses_is_reached_on_the_loopback() -> None:
    assert str(reachable(Address("0.0.0.0", 1))) == "127.0.0.1:1"
    assert str(reachable(Address("::", 1))) == "[::1]:1"
    assert str(reachable(Address("10.0.0.1", 1))) == "10.0.0.1:1"
