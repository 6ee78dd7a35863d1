"""Connections to providers: pools that stay warm, names resolved off the loop, TLS.

A pool belongs to one provider of one worker. A connection is either idle in its pool or owned
by one exchange; what an idle one receives was never asked for, so it is dropped. Nothing here
knows HTTP: bytes go to the owner, which says at the end whether the connection may serve
again.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, Protocol, cast, final

from modelux import clock
from modelux.proxy.wheel import Wheel
from modelux.units import US_PER_S

NAMES_KEPT_US: Final = 30 * US_PER_S
"""How long a resolved name is used: providers move traffic by DNS within a minute."""

ADDRESS_WAIT_S_MIN: Final = 0.25
"""What one of several addresses gets at least before the next one is tried."""

WAITER_CONNECT_US: Final = 5 * US_PER_S
"""For a connection in the place of one that closed; who waits for it has a deadline itself."""

WAITERS_COUNT_MAX: Final = 4096
"""Exchanges waiting for a connection of a pool at its maximum: as many as may be in flight."""

METADATA_ADDRESSES: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
)


class Owner(Protocol):
    """Who gets what a connection receives: one exchange, on its caller's connection."""

    def upstream_data(self, data: bytes) -> None:
        """Take in bytes of the answer."""

    def upstream_ended(self, *, in_order: bool) -> None:
        """Take note that the provider closed, in order or by a reset."""


class Waiter(Protocol):
    """Who waits for a connection."""

    def connected(self, upstream: "UpstreamConnection | None") -> None:
        """Take a connection, or learn that none can be made."""


@final
class Ticket:
    """One wait for one connection of one pool.

    A waiter that gave up may wait for another provider by the time this connection stands: what
    comes late must go to its own pool, never into another provider's exchange.
    """

    __slots__ = ("waiter",)

    def __init__(self, waiter: Waiter) -> None:
        self.waiter: Waiter | None = waiter

    def serve(self, upstream: "UpstreamConnection | None") -> None:
        """End the wait; a connection that nobody waits for any more is kept warm."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.connected(upstream)
        elif upstream is not None:
            upstream.give_back()


class AddressRefusedError(OSError):
    """A provider's name leads to an address that is never called, such as link-local."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a provider is and how to reach it; equal origins share a pool."""

    scheme: str
    host: str
    port: int
    ca_file: str | None
    connect_ip_family: str
    max_connections: int
    keepalive_us: int


class UpstreamConnection(asyncio.Protocol):
    """One connection to a provider."""

    __slots__ = ("_got_eof", "_pool", "closed", "idle_since_us", "owner", "transport")

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._got_eof = False
        self.owner: Owner | None = None
        self.transport: asyncio.Transport
        self.closed = False
        self.idle_since_us = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the pool hands the connection to who waits for it."""
        # uvloop's transports have the methods of `asyncio.Transport` without being one.
        self.transport = cast("asyncio.Transport", transport)
        # Here and not once the pool's task goes on: it may be lost again before that.
        self._pool.joined(self)

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the owner; unasked ones end the connection."""
        owner = self.owner
        if owner is None:
            # Unasked bytes on an idle connection must never reach the next caller.
            self.abort()
        else:
            owner.upstream_data(data)

    def eof_received(self) -> bool:
        """Tell the owner that the provider ended the connection in order."""
        self._got_eof = True
        self.closed = True
        if self.owner is not None:
            self.owner.upstream_ended(in_order=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool, and tell the owner."""
        self.closed = True
        self._pool.forget(self)
        owner, self.owner = self.owner, None
        if owner is not None and not self._got_eof:
            # TLS without close_notify ends here, too: in order only if nobody broke it.
            owner.upstream_ended(in_order=exc is None)

    def give_back(self) -> None:
        """Return to the pool: the answer is complete, or nobody wants it any more."""
        self._pool.give_back(self)

    def abort(self) -> None:
        """Close at once; whatever is under way is lost."""
        self.closed = True
        self.owner = None
        self.transport.abort()


class Resolver:
    """Names to addresses, off the loop, kept for a short while."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[str, int, int], tuple[int, list[str]]] = {}

    async def addresses(self, host: str, port: int, family: int) -> list[str]:
        """Return all usable addresses of `host`.

        Raises:
            OSError: The name does not resolve.
            AddressRefusedError: Every address is one that is never called.
        """
        key = (host, port, family)
        known = self._known.get(key)
        if known is not None and known[0] > clock.mono_us():
            return known[1]
        found = await self._loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        usable = [text for text in texts if is_callable_address(text)]
        if not usable:
            raise AddressRefusedError(f"{host} resolves to {texts}, which is never called")
        self._known[key] = (clock.mono_us() + NAMES_KEPT_US, usable)
        return usable

    def forget(self, host: str) -> None:
        """Resolve `host` anew next time: none of its addresses answered."""
        for key in [key for key in self._known if key[0] == host]:
            del self._known[key]


def is_callable_address(text: str) -> bool:
    """Return whether a provider may be at this address: never link-local, never metadata."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in METADATA_ADDRESSES
    )


FAMILIES: Final = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class Pool:
    """The connections of one worker to one origin."""

    __slots__ = (
        "_connecting_count",
        "_connections",
        "_idle",
        "_is_closed",
        "_loop",
        "_origin",
        "_resolver",
        "_spawn",
        "_tls",
        "_waiters",
        "_wheel",
    )

    def __init__(
        self,
        origin: Origin,
        resolver: Resolver,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._origin = origin
        self._resolver = resolver
        self._loop = loop
        self._wheel = wheel
        self._spawn = spawn
        self._tls = tls_context(origin) if origin.scheme == "https" else None
        self._idle: list[UpstreamConnection] = []
        self._connections: set[UpstreamConnection] = set()
        self._connecting_count = 0
        self._is_closed = False
        self._waiters: deque[Ticket] = deque()

    def take(self) -> UpstreamConnection | None:
        """Return the connection that was used last, if one is idle and fresh enough."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream.closed:
                continue
            if self._wheel.now_us - upstream.idle_since_us > self._origin.keepalive_us:
                # All that lie below are older still.
                upstream.abort()
                continue
            return upstream
        return None

    def give_back(self, upstream: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete and which may serve again."""
        upstream.owner = None
        is_spent = upstream.closed or upstream.transport.get_write_buffer_size() > 0
        if is_spent or self._is_closed:
            upstream.abort()
            return
        if self._waiters:
            ticket = self._waiters.popleft()
            # Not from inside the exchange that is just giving it back.
            self._loop.call_soon(self._hand_over, ticket, upstream)
            return
        upstream.idle_since_us = self._wheel.now_us
        self._idle.append(upstream)

    def connect(self, waiter: Waiter, wait_us: int) -> Ticket:
        """Make a connection for `waiter`, or let it wait where the pool is at its maximum.

        Returns:
            What to give to `leave` by a waiter that does not wait any longer.
        """
        ticket = Ticket(waiter)
        if self._has_room():
            self._begin(ticket, wait_us)
        elif len(self._waiters) < WAITERS_COUNT_MAX:
            self._waiters.append(ticket)
        else:
            self._loop.call_soon(ticket.serve, None)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Stop waiting: a deadline passed or the caller went away."""
        ticket.waiter = None
        if ticket in self._waiters:
            self._waiters.remove(ticket)

    def joined(self, upstream: UpstreamConnection) -> None:
        """Count a connection that has just been made."""
        self._connections.add(upstream)

    def forget(self, upstream: UpstreamConnection) -> None:
        """Drop a connection that is closed; its place may go to one who waits."""
        self._connections.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)
        self._serve_next()

    def sweep(self) -> None:
        """Close what has been idle for too long; called about once a second."""
        oldest_us = self._wheel.now_us - self._origin.keepalive_us
        while self._idle and self._idle[0].idle_since_us < oldest_us:
            self._idle.pop(0).abort()

    def close(self) -> None:
        """Close what is idle; what is owned closes when it is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()

    def _hand_over(self, ticket: Ticket, upstream: UpstreamConnection) -> None:
        if upstream.closed and ticket.waiter is not None:
            self._begin(ticket, WAITER_CONNECT_US)
        else:
            ticket.serve(upstream)

    def _has_room(self) -> bool:
        return len(self._connections) + self._connecting_count < self._origin.max_connections

    def _begin(self, ticket: Ticket, wait_us: int) -> None:
        self._connecting_count += 1
        self._spawn(self._connect(ticket, wait_us))

    def _serve_next(self) -> None:
        """Connect for the first who waits, if there is room."""
        if self._waiters and self._has_room():
            self._begin(self._waiters.popleft(), WAITER_CONNECT_US)

    async def _connect(self, ticket: Ticket, wait_us: int) -> None:
        upstream: UpstreamConnection | None = None
        try:
            upstream = await self._connect_any(wait_us / US_PER_S)
        except (OSError, ValueError):
            # A ValueError is a name that cannot be asked for; a timeout is an OSError.
            self._resolver.forget(self._origin.host)
        finally:
            self._connecting_count -= 1
        ticket.serve(upstream)
        if upstream is None:
            # Whoever waits for a place would wait for good: no connection ends to free one.
            self._serve_next()

    async def _connect_any(self, wait_s: float) -> UpstreamConnection:
        """Try the addresses in their order, each with its share of the time."""
        origin = self._origin
        loop = self._loop
        ends_s = loop.time() + wait_s
        async with asyncio.timeout(wait_s):
            addresses = await self._resolver.addresses(
                origin.host, origin.port, FAMILIES[origin.connect_ip_family]
            )
        failure: Exception | None = None
        for index, address in enumerate(addresses):
            left_s = ends_s - loop.time()
            share_s = max(left_s / (len(addresses) - index), ADDRESS_WAIT_S_MIN)
            try:
                async with asyncio.timeout(min(left_s, share_s)):
                    _, upstream = await loop.create_connection(
                        lambda: UpstreamConnection(self),
                        address,
                        origin.port,
                        ssl=self._tls,
                        server_hostname=origin.host if self._tls is not None else None,
                    )
            except (OSError, ValueError) as error:
                failure = error
                continue
            return upstream
        raise failure or TimeoutError


def tls_context(origin: Origin) -> ssl.SSLContext:
    """Return the TLS settings for an origin: the system's trust store, HTTP/1.1 only."""
    context = ssl.create_default_context()
    if origin.ca_file is not None:
        context.load_verify_locations(cafile=origin.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
