"""The pool, against real listeners: nobody gets another's connection, nobody is forgotten."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine

import pytest

from modelux import clock
from modelux.proxy.upstream import (
    Origin,
    Pool,
    Resolver,
    UpstreamConnection,
    is_callable_address,
)
from modelux.proxy.wheel import Wheel
from modelux.units import US_PER_S

WAIT_S = 10


class Waiting:
    """Stands in for an exchange that waits for a connection."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[UpstreamConnection | None] = asyncio.Queue()

    def connected(self, upstream: UpstreamConnection | None) -> None:
        self.got.put_nowait(upstream)

    async def take(self) -> UpstreamConnection | None:
        async with asyncio.timeout(WAIT_S):
            return await self.got.get()


def pool_of(port: int, *, max_connections: int = 1) -> Pool:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[None, None, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    origin = Origin(
        scheme="http",
        host="127.0.0.1",
        port=port,
        ca_file=None,
        connect_ip_family="any",
        max_connections=max_connections,
        keepalive_us=30 * US_PER_S,
    )
    return Pool(origin, Resolver(loop), loop, Wheel(clock.mono_us()), spawn)


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing, and leave when the other side does."""
    try:
        with contextlib.suppress(ConnectionError):
            await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    server = await asyncio.start_server(_hold, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_connection_that_nobody_waits_for_any_more_serves_the_next() -> None:
    async def run() -> None:
        async with listening() as port:
            pool, gone, next_one = pool_of(port), Waiting(), Waiting()
            ticket = pool.connect(gone, WAIT_S * US_PER_S)
            pool.connect(next_one, WAIT_S * US_PER_S)
            pool.leave(ticket)
            upstream = await next_one.take()
            assert upstream is not None
            assert gone.got.empty()
            pool.give_back(upstream)
            assert pool.take() is upstream
            upstream.abort()

    asyncio.run(run())


def test_everybody_who_waits_learns_that_no_connection_can_be_made() -> None:
    async def run() -> None:
        pool = pool_of(closed_port())
        waiting = [Waiting() for _ in range(3)]
        for each in waiting:
            pool.connect(each, WAIT_S * US_PER_S)
        assert [await each.take() for each in waiting] == [None, None, None]

    asyncio.run(run())


def test_a_place_that_becomes_free_goes_to_who_waits() -> None:
    async def run() -> None:
        async with listening() as port:
            pool, first, second = pool_of(port), Waiting(), Waiting()
            pool.connect(first, WAIT_S * US_PER_S)
            upstream = await first.take()
            assert upstream is not None
            pool.connect(second, WAIT_S * US_PER_S)
            upstream.abort()
            fresh = await second.take()
            assert fresh is not None
            assert fresh is not upstream
            fresh.abort()

    asyncio.run(run())


def test_a_pool_that_was_closed_keeps_nothing() -> None:
    async def run() -> None:
        async with listening() as port:
            pool, waiting = pool_of(port), Waiting()
            pool.connect(waiting, WAIT_S * US_PER_S)
            upstream = await waiting.take()
            assert upstream is not None
            pool.close()
            pool.give_back(upstream)
            assert upstream.closed
            assert pool.take() is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "callable_"),
    [
        ("127.0.0.1", True),
        ("10.0.0.1", True),
        ("169.254.169.254", False),
        ("::ffff:169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("0.0.0.0", False),  # noqa: S104
        ("224.0.0.1", False),
    ],
)
def test_metadata_and_link_local_addresses_are_never_called(
    address: str, *, callable_: bool
) -> None:
    assert is_callable_address(address) is callable_
