"""Connections between open and closed: messages, pings, closing."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import (
    CLOSE,
    LOOPS,
    PING,
    PONG,
    TEXT,
    RawPeer,
    close_payload,
    frame,
    pair,
    raw_client,
    raw_server,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio._stand_in import StandIn
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
)
from wsproto_fast import ClientProtocol, Protocol, ServerProtocol, Side, State
from wsproto_fast.uri import parse_uri


class TestPings:
    async def test_latency(self) -> None:
        async with pair() as (client, server):
            assert client.latency == 0
            answer = await client.ping()
            latency = await answer
            assert isinstance(latency, float)
            assert latency > 0
            assert client.latency == latency
            assert server.latency == 0
            await (await server.ping("payload"))
            assert server.latency > 0

    async def test_a_later_pong_answers_earlier_pings(self) -> None:
        answers: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            answers.extend([await ws.ping(name) for name in "abc"])
            answers[0].cancel()
            await answers[1]
            assert not answers[2].done()
            await answers[2]

        async with serving(handler) as server, raw_client(server) as peer:
            for _ in range(3):
                await peer.read_message()
            peer.write(PONG, b"unknown")
            peer.write(PONG, b"b")
            peer.write(PONG, b"a")
            await until(lambda: answers[1].done())
            await turns(5)
            peer.write(PONG, b"c")
            assert (await peer.read_message()) == (CLOSE, close_payload(1000))
            assert answers[0].cancelled()

    @pytest.mark.parametrize("code", [1000, 1011])
    async def test_abandoned(self, code: int) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read()
            await peer.read()
            peer.write(CLOSE, close_payload(code))
            await peer.read()

        async with raw_server(silent) as server:
            async with connect(uri_of(server)) as ws:
                awaited, _ignored = await ws.ping(), await ws.ping()
                with pytest.raises(ConnectionClosed) as caught:
                    await awaited
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == code


class TestStartOpen:
    """Connections whose opening handshake was done elsewhere."""

    async def make(self, **options: Any) -> tuple[Connection, RawPeer]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, ws = await loop.create_connection(
            lambda: Connection(Protocol(Side.CLIENT, state=State.OPEN), **options), sock=ours
        )
        return ws, RawPeer(*await asyncio.open_connection(sock=theirs), masked=False)

    async def test_messages(self) -> None:
        ws, peer = await self.make()
        assert ws.state is State.OPEN
        await ws.send("out")
        assert await peer.read_message() == (TEXT, b"out")
        peer.write(TEXT, b"in")
        assert await ws.recv() == "in"
        closing = asyncio.create_task(ws.close(1001))
        assert await peer.read_message() == (CLOSE, close_payload(1001))
        peer.write(CLOSE, close_payload(1001))
        await peer.close()
        await closing
        assert ws.close_code == 1001

    async def test_close_timeout(self) -> None:
        ws, peer = await self.make(close_timeout=0.03)
        await ws.close()
        assert ws.close_code == 1006
        await peer.close()

    async def test_keepalive(self) -> None:
        ws, peer = await self.make(ping_interval=0.01, ping_timeout=0.02, close_timeout=0.02)
        assert (await peer.read_message())[0] == PING
        with pytest.raises(ConnectionClosedError, match="keepalive"):
            await ws.recv()
        await peer.close()

    async def test_both_ends_are_ours(self) -> None:
        a, b = socket.socketpair()
        loop = asyncio.get_running_loop()
        uri = parse_uri("ws://localhost/")
        _, client = await loop.create_connection(
            lambda: ClientConnection(ClientProtocol(uri, state=State.OPEN)), sock=a
        )
        _, server = await loop.create_connection(
            lambda: Connection(ServerProtocol(state=State.OPEN)), sock=b
        )
        await client.send(["a", "b"])
        assert await server.recv() == "ab"
        await server.send(b"c" * 100_000)
        assert await client.recv() == b"c" * 100_000
        await (await server.ping())
        await client.close()
        await server.wait_closed()
        assert server.close_code == 1000


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_loops_are_freed(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Programs call asyncio.run() again and again: nothing of ours may keep its event loop."""
    loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    async def main() -> None:
        loops.add(asyncio.get_running_loop())
        async with pair() as (client, server):
            await client.send("x")
            await server.recv()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    del runner
    gc.collect()
    assert not list(loops)


class Recording:
    """A transport in front of another one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def close(self) -> None:
        self.closed = True
        self.transport.close()


async def test_connection_is_gone_when_tls_is_set_up() -> None:
    transport = mock.Mock(spec=asyncio.Transport)
    StandIn(lambda: None).connection_made(transport)
    transport.abort.assert_called_once_with()


async def test_transport_can_be_replaced() -> None:
    async with pair() as (client, server):
        replacement: Any = Recording(server.transport)
        server.transport = replacement
        assert server.transport is replacement
        await server.send("still here")
        assert await client.recv() == "still here"
        await server.close()
        assert replacement.closed


class TestAfterTheEnd:
    """Nobody waits for what can't come any more."""

    async def test_drain(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            (ws,) = server.connections
            while ws.send_nowait(bytes(1_000_000)):
                pass
            peer.abort()
            await ws.wait_closed()
            with pytest.raises(ConnectionClosedError):
                await ws.drain()

    async def test_with_a_first_fragment_that_comes_later(self) -> None:
        gates = [asyncio.Event() for _ in range(2)]

        async def fragments(before: asyncio.Event | None, after: asyncio.Event | None) -> Any:
            if before is not None:
                await before.wait()
            yield "a"
            if after is not None:
                await after.wait()
            yield "b"

        async with serving(until_closed) as server, raw_client(server) as peer:
            (ws,) = server.connections
            second = asyncio.create_task(ws.send(fragments(gates[0], None)))
            await turns(3)
            first = asyncio.create_task(ws.send(fragments(None, gates[1])))
            await peer.read()
            gates[0].set()
            await turns(3)
            peer.abort()
            with pytest.raises(ConnectionClosedError):
                await second
            assert not first.done()
            gates[1].set()
            with pytest.raises(ConnectionClosedError):
                await first

    async def test_pings_that_nobody_waits_for(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            (ws,) = server.connections
            given_up, pending = [await ws.ping() for _ in range(2)]
            given_up.cancel()
            peer.abort()
            with pytest.raises(ConnectionClosedError):
                await pending

    async def test_data_that_the_transport_had_read(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            (ws,) = server.connections
            peer.abort()
            await ws.wait_closed()
            ws.get_buffer(-1)[:3] = frame(TEXT, b"x")
            ws.buffer_updated(3)
            with pytest.raises(ConnectionClosedError):
                await ws.recv()

    async def test_waiters_that_give_up_do_not_pile_up(self) -> None:
        async with pair() as (client, _server):
            for _ in range(100):
                waiting = asyncio.create_task(client.wait_closed())
                await turns(1)
                waiting.cancel()
                await turns(1)
            assert len(client._lost_waiters) <= 1
