"""What is written on trio: with what, when, and to a peer that doesn't read."""

from __future__ import annotations

import logging
import os
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.helpers import BINARY, CLOSE, PING, TEXT, close_payload, frame
from tests.wsapi.trio_helpers import (
    STREAMS,
    TOO_MUCH,
    PlainStream,
    connections,
    raw_peer,
    socket_streams,
    trio_test,
    virtual_time_test,
)
from wsapi.exceptions import ConnectionClosedError
from wsapi.limits import MAX_BACKLOG
from wsapi.trio._transports import SocketTransport
from wsapi.trio.connection import Connection
from wsapi.trio.server import broadcast
from wsproto_fast import PerMessageDeflate, Protocol, Side, State

of_sockets = pytest.mark.skipif(
    not SocketTransport.available, reason="streams write and fail in their own ways"
)


class TestWriting:
    @of_sockets
    @trio_test
    async def test_replies_leave_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        writes: list[int] = []
        write = os.write

        def counting(fd: int, data: bytes) -> int:
            writes.append(len(data))
            return write(fd, data)

        async with raw_peer() as (connection, peer):
            await peer.send_all(b"".join(frame(TEXT, b"x", masked=True) for _ in range(64)))
            monkeypatch.setattr(os, "write", counting)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def echo() -> None:
                    async for message in connection:
                        await connection.send(message)

                data = b""
                while len(data) < 64 * 3:
                    data += await peer.receive_some()
                await peer.send_all(frame(TEXT, b"x", masked=True))
                assert await peer.receive_some() == frame(TEXT, b"x")
                nursery.cancel_scope.cancel()
            monkeypatch.undo()
        assert sum(writes[:-1]) == 64 * 3
        # The socket may be read in more than one piece.
        assert len(writes) <= 5

    @trio_test
    async def test_reply_leaves_though_more_was_received(self) -> None:
        async with raw_peer() as (connection, peer):
            await peer.send_all(frame(TEXT, b"1", masked=True) + frame(TEXT, b"2", masked=True))
            await connection.send(await connection.recv())
            # Nobody receives the second one, nor sends anything else.
            assert await peer.receive_some() == frame(TEXT, b"1")

    @trio_test
    async def test_messages_of_one_turn_leave(self) -> None:
        async with raw_peer() as (connection, peer):
            for _ in range(3):
                await connection.send(b"x")
                await connection.send(b"y")
            data = b""
            while len(data) < 18:
                data += await peer.receive_some()
            assert data == (frame(BINARY, b"x") + frame(BINARY, b"y")) * 3

    @of_sockets
    @trio_test
    async def test_write_error(self) -> None:
        async with raw_peer() as (connection, peer):
            peer.socket.shutdown(trio.socket.SHUT_RDWR)
            with pytest.raises(ConnectionClosedError) as caught:
                while True:
                    await connection.send(bytes(100_000))
            assert isinstance(caught.value.__cause__, BrokenPipeError)

    @trio_test
    async def test_pings_that_cannot_be_answered_while_closing(self) -> None:
        class Mute(PlainStream):
            mute = False

            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                if self.mute:
                    raise trio.BrokenResourceError
                await super().send_all(data)

        one, other = socket_streams()
        mute = Mute(one)
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, mute, Protocol(Side.SERVER))
            nursery.start_soon(connection.aclose)
            assert await other.receive_some() == frame(CLOSE, close_payload(1000))
            mute.mute = True
            for _ in range(2):
                await other.send_all(frame(PING, b"", masked=True))
                await trio.testing.wait_all_tasks_blocked()
                assert connection.state is State.CLOSING
            await other.send_all(frame(CLOSE, close_payload(1000), masked=True))
            await connection.wait_closed()
            assert connection.close_code == 1000
            await other.aclose()

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @trio_test
    async def test_cancelled_when_the_connection_ends(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery, other:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))

            async def end() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                connection._abort()

            with trio.CancelScope() as scope:
                nursery.start_soon(end)
                while True:
                    await connection.send(bytes(100_000))
            await connection.wait_closed()

    @trio_test
    async def test_closing_the_stream_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        class Stuck(PlainStream):
            failures = 1

            async def aclose(self) -> None:
                if self.failures:
                    self.failures -= 1
                    raise OSError("no")
                await super().aclose()

        caplog.set_level(logging.DEBUG)
        one, other = socket_streams()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, Stuck(one), Protocol(Side.SERVER))
            nursery.start_soon(connection.aclose)
            await other.receive_some()
            await other.send_all(frame(CLOSE, close_payload(1000), masked=True))
            await connection.wait_closed()
            assert await other.receive_some() == b""
            await other.aclose()
        assert connection.close_code == 1000
        assert "closing the stream failed" in caplog.messages

    @trio_test
    async def test_who_only_sends_has_an_alarm_to_free_its_context(self) -> None:
        for to_all in (False, True):
            async with connections(ping_interval=None) as (client, server):
                for connection in (client, server):
                    connection.protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
                assert server._alarm == inf
                if to_all:
                    # It would grow, so that each connection compresses it for itself.
                    await broadcast([server], "x", compress=True)
                else:
                    await server.send("compressible " * 50)
                assert server._alarm < trio.current_time() + 10
                await client.recv()


class TestSlowBroadcast:
    """A peer that doesn't read holds up nobody, nor does it have everything kept."""

    @trio_test
    async def test_broadcast_waits_for_nobody(self) -> None:
        async with (
            connections(max_queue=None) as (client, server),
            raw_peer() as (slow, peer),
        ):
            await broadcast([slow, server], bytes(TOO_MUCH // 10))
            await broadcast([slow, server], "x")
            assert len(await client.recv()) == TOO_MUCH // 10
            assert await client.recv() == "x"
            left = TOO_MUCH // 10 + 10 + 3
            while left:
                left -= len(await peer.receive_some(left))

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @virtual_time_test
    async def test_peer_takes_nothing(self, kind: str) -> None:
        async with trio.open_nursery() as nursery:
            stuck: list[Connection] = []
            others: list[trio.abc.Stream] = []
            for _ in range(3):
                one, other = STREAMS[kind]()
                others.append(other)
                options: Any = {"ping_interval": None, "write_deadline": 20}
                stuck.append(Connection(nursery, one, Protocol(Side.CLIENT), **options))
            start = trio.current_time()
            await broadcast(stuck, bytes(TOO_MUCH), raise_exceptions=True)
            assert trio.current_time() == start
            for connection in stuck:
                await connection.wait_closed()
                assert isinstance(connection.protocol.close_exc.__cause__, TimeoutError)
            # For all at the same time.
            assert 20 <= trio.current_time() - start <= 30
            for other in others:
                await other.aclose()

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @virtual_time_test
    async def test_peer_takes_little(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            options: Any = {"ping_interval": None, "write_deadline": 20}
            connection = Connection(nursery, one, Protocol(Side.CLIENT), **options)

            @nursery.start_soon
            async def read_slowly() -> None:
                while True:
                    for _ in range(16):
                        await other.receive_some(65536)
                    await trio.sleep(16)

            await broadcast([connection], bytes(TOO_MUCH), raise_exceptions=True)
            while connection._transport.pending:
                await trio.sleep(1)
            assert connection.state is State.OPEN
            assert trio.current_time() > 20
            connection._abort()
            nursery.cancel_scope.cancel()
        await other.aclose()

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @virtual_time_test
    async def test_broadcasts_pile_up(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            for _ in range(2 * MAX_BACKLOG // 2**20):
                await broadcast([connection], bytes(2**20))
                assert connection._transport.unsent <= MAX_BACKLOG + 2**21
            assert connection.state is State.CLOSED
            assert connection._transport.unsent == 0
            nursery.cancel_scope.cancel()
        await other.aclose()
