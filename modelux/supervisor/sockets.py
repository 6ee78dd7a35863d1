"""The listening sockets, bound once by the supervisor, handed to the children that serve them.

One for each worker slot, all on one address by `SO_REUSEPORT`: the kernel spreads connections
over them. They outlive the worker, so a connection that waits to be accepted while a worker is
replaced is served by its successor.
"""

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final

from modelux.errors import StoreError

BACKLOG: Final = 1024
"""Connections that wait for `accept`, a slot; the kernel's `somaxconn` may lower it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ListenError(StoreError):
    """An address that cannot be listened on; the message says why and what to do."""

    def __init__(self, message: str, *, is_in_use: bool) -> None:
        super().__init__(message)
        self.is_in_use = is_in_use


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, with an IPv6 host in brackets.

    Raises:
        ValueError: It is not of that form; the message says what is wrong.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"`{text}` is not HOST:PORT with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"`{text}`: write an IPv6 address in brackets, as in [::1]:{port}")
    if not host:
        raise ValueError(f"`{text}`: name a host; 0.0.0.0 listens on all IPv4 addresses")
    return Address(host, int(port))


def bind_shared(address: Address, count: int) -> list[socket.socket]:
    """Return `count` sockets that listen together on one address.

    Raises:
        ListenError: Somebody else listens there, or the address cannot be bound.
    """
    assert count > 0, count
    # Shared binding would silently join any other program of this user on the same port.
    with _bind(address, shared=False) as probe:
        address = Address(address.host, probe.getsockname()[1])
    return [_bind(address, shared=True) for _ in range(count)]


def bind_single(address: Address) -> socket.socket:
    """Return one socket that listens on the address.

    Raises:
        ListenError: As for `bind_shared`.
    """
    return _bind(address, shared=False)


def bound_address(listener: socket.socket) -> Address:
    """Return where a socket listens, with the port that port 0 became."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def reachable(address: Address) -> Address:
    """Return where a caller on this machine reaches what listens on the address."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound.
    return Address(loopback.get(address.host, address.host), address.port)


def _bind(address: Address, *, shared: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as failure:
        raise ListenError(
            f"cannot listen on {address}: no such host ({failure.strerror})", is_in_use=False
        ) from failure
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.settimeout(0)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as failure:
        listener.close()
        raise ListenError(
            f"cannot listen on {address}: {_reason(failure)}",
            is_in_use=failure.errno == errno.EADDRINUSE,
        ) from failure
    return listener


def _reason(failure: OSError) -> str:
    match failure.errno:
        case errno.EADDRINUSE:
            return "the port is in use by another program; choose another or end that program"
        case errno.EACCES:
            return "ports below 1024 need a privilege; choose one above"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case _:
            return os.strerror(failure.errno or 0)
