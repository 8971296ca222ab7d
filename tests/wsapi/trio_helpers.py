"""Runner of tests on trio, pairs of connections over all kinds of streams, and servers."""

from __future__ import annotations

import contextlib
import functools
import gc
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import trio
import trio.testing

from tests.wsapi.helpers import TEST_TIMEOUT, checking_errors
from wsapi.trio.connection import Connection
from wsapi.trio.server import Server, ServerConnection, serve
from wsproto_fast import Protocol, Side

# More than sockets and streams take without being read.
TOO_MUCH = 8 * 2**20


def trio_test(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on trio; fail it if it leaves resources behind or logs errors."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            with trio.fail_after(TEST_TIMEOUT):
                await test(*args, **kwargs)

        with checking_errors():
            trio.run(main)
            gc.collect()

    return run


def virtual_time_test(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on trio with a clock that jumps whenever there is nothing to do."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        with checking_errors():
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.002))
            gc.collect()

    return run


# ---------------------------------------------------------------------- streams


class PlainStream(trio.abc.Stream):
    """A stream that can't be half-closed, as those of TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


def socket_streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two ends of a connection over sockets."""
    one, other = (
        trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair()
    )
    return one, other


def plain_streams() -> tuple[PlainStream, PlainStream]:
    """Return two ends of a connection that can't be half-closed."""
    one, other = socket_streams()
    return PlainStream(one), PlainStream(other)


STREAMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sockets": socket_streams,
    "memory": trio.testing.memory_stream_pair,
    "lockstep": trio.testing.lockstep_stream_pair,
    "plain": plain_streams,
}


# ---------------------------------------------------------------------- connections


@contextlib.asynccontextmanager
async def connections(
    streams: tuple[Any, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Give a client and a server that are connected; close them in the end."""
    one, other = socket_streams() if streams is None else streams
    async with trio.open_nursery() as nursery:
        client = Connection(nursery, one, Protocol(Side.CLIENT), **options)
        server = Connection(nursery, other, Protocol(Side.SERVER), **options)
        yield client, server
        nursery.start_soon(server.aclose)
        await client.aclose()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def raw_peer(
    side: Side = Side.SERVER, **options: Any
) -> AsyncIterator[tuple[Connection, trio.SocketStream]]:
    """Give a connection and the stream of its peer; abort it in the end."""
    one, other = socket_streams()
    async with trio.open_nursery() as nursery, other:
        connection = Connection(nursery, one, Protocol(side), **options)
        yield connection, other
        connection._abort()


async def echo(connection: ServerConnection) -> None:
    """Send back what is received."""
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[ServerConnection], Any] = echo, **options: Any
) -> AsyncIterator[tuple[Server, str]]:
    """Give a server and its URI; close it in the end."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(serve, handler, 0, host="127.0.0.1", **options)
        )
        port = server.listeners[0].socket.getsockname()[1]
        scheme = "wss" if options.get("ssl") else "ws"
        yield server, f"{scheme}://localhost:{port}/"
        await server.aclose()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has become true."""
    while not condition():
        await trio.sleep(0.001)
