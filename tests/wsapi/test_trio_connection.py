"""What is particular about connections on trio: streams, cancellation, who reads, and when."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import wsapi
from tests.wsapi.helpers import BINARY, CLOSE, PING, PONG, TEXT, close_payload, frame, logged_errors
from tests.wsapi.trio_helpers import (
    STREAMS,
    PlainStream,
    connections,
    raw_peer,
    socket_streams,
    trio_test,
    until,
    virtual_time_test,
)
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
)
from wsapi.limits import MAX_BACKLOG, MAX_STALL, connections_given_up
from wsapi.trio._housekeeping import ATTENTION_SPAN, Housekeeper
from wsapi.trio._transports import SocketTransport
from wsapi.trio.connection import Connection
from wsapi.trio.server import broadcast
from wsproto_fast import PerMessageDeflate, Protocol, Side, State
from wsproto_fast.drivers.schedule import MAX_OUTDATED

SOURCES = sorted((Path(wsapi.__file__).parent / "trio").glob("*.py"))

# More than sockets and streams take without being read.
TOO_MUCH = 8 * 2**20


class TestImport:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
    def test_only_public_parts_of_trio(self, path: Path) -> None:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trio":
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("trio."):
                names = ast.unparse(node).split(".")
            assert not any(name.startswith("_") and name != "__aexit__" for name in names), names

    def test_there_are_sources(self) -> None:
        assert len(SOURCES) > 4

    def test_trio_is_imported_only_when_needed(self) -> None:
        program = "import sys, wsapi, wsapi.asyncio.server; assert 'trio' not in sys.modules"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("kind", STREAMS)
class TestStreams:
    @trio_test
    async def test_messages(self, kind: str) -> None:
        async with connections(STREAMS[kind]()) as (client, server):
            for message in ("", "a", "é" * 1000, b"", b"\0" * 300_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, message)
                    assert await server.recv() == message
                    nursery.start_soon(server.send, message)
                    assert await client.recv() == message

    @trio_test
    async def test_many_messages(self, kind: str) -> None:
        messages = [str(i) * (i % 100) for i in range(500)]
        async with connections(STREAMS[kind]()) as (client, server):

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert [await server.recv() for _ in messages] == messages

    @trio_test
    async def test_close(self, kind: str) -> None:
        async with connections(STREAMS[kind]()) as (client, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.aclose, 4000, "bye")
                with pytest.raises(ConnectionClosedError, match="received 4000"):
                    await server.recv()
            await server.wait_closed()
            for connection in (client, server):
                assert connection.state is State.CLOSED
                assert (connection.close_code, connection.close_reason) == (4000, "bye")

    @trio_test
    async def test_ping(self, kind: str) -> None:
        async with connections(STREAMS[kind]()) as (client, server):
            for connection in (client, server):
                await (await connection.ping()).wait()
                assert connection.latency > 0

    @trio_test
    async def test_cancelled_aclose_closes_at_once(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            with trio.CancelScope() as scope:
                scope.cancel()
                await connection.aclose()
            assert scope.cancelled_caught
            assert connection.state is State.CLOSED
            await connection.wait_closed()
            with pytest.raises(trio.ClosedResourceError):
                await one.receive_some()
        await other.aclose()

    @trio_test
    async def test_nursery_is_cancelled(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            async with connection:
                nursery.start_soon(connection.recv)
                await connection.send(bytes(10))
                await trio.sleep(3 * ATTENTION_SPAN)
                nursery.cancel_scope.cancel()
        assert connection.state is State.CLOSED
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        await other.aclose()

    @trio_test
    async def test_stream_is_closed_by_somebody_else(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            async with trio.open_nursery() as receiving:

                @receiving.start_soon
                async def receive() -> None:
                    with pytest.raises(ConnectionClosedError) as caught:
                        await connection.recv()
                    assert isinstance(caught.value.__cause__, trio.ClosedResourceError)

                await trio.testing.wait_all_tasks_blocked()
                await one.aclose()
            await connection.wait_closed()
        await other.aclose()

    @trio_test
    async def test_peer_leaves_without_a_word(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            await other.aclose()
            with pytest.raises(ConnectionClosedError, match="no close frame"):
                await connection.recv()
            await connection.wait_closed()


class TestAddresses:
    @trio_test
    async def test_of_sockets(self) -> None:
        async with raw_peer() as (connection, peer):
            assert connection.local_address == peer.socket.getpeername()
            assert connection.remote_address == peer.socket.getsockname()
        for name in ("local_address", "remote_address"):
            with pytest.raises(OSError):
                getattr(connection, name)

    @trio_test
    async def test_of_other_streams(self) -> None:
        async with connections(trio.testing.memory_stream_pair()) as (client, _server):
            with pytest.raises(OSError, match="isn't made of a socket"):
                _ = client.local_address


class TestCancellation:
    @trio_test
    async def test_recv_loses_nothing(self) -> None:
        messages = [str(i) for i in range(300)]
        received: list[Any] = []
        async with connections() as (client, server):

            async def send() -> None:
                for message in messages:
                    await client.send([message[:1], message[1:]])
                    await trio.sleep(0)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(received) < len(messages):
                    with trio.move_on_after(0.0001):
                        while True:
                            received.append(await server.recv())
        assert received == messages

    @pytest.mark.parametrize("kind", ["sockets", "memory"])
    @trio_test
    async def test_send_tears_no_frame(self, kind: str) -> None:
        one, other = STREAMS[kind]()
        if kind == "memory":
            # It takes a little at a time, and waits in between.
            send_all = one.send_stream.send_all

            async def slowly(data: bytes) -> None:
                for i in range(0, len(data), 30_000):
                    await send_all(data[i : i + 30_000])
                    await trio.sleep(0.0005)

            one.send_all = slowly
        async with connections((one, other), max_queue=None) as (client, server):
            sizes = [300_000 + i for i in range(12)]
            cancelled = 0
            for size in sizes:
                with trio.move_on_after(0.0002) as scope:
                    await client.send(bytes(size))
                cancelled += scope.cancelled_caught
            await client.send("end")
            received = []
            while (message := await server.recv()) != "end":
                received.append(len(message))
            assert received == sizes
            assert cancelled

    @trio_test
    async def test_somebody_else_finishes_what_was_sent(self) -> None:
        async with raw_peer() as (connection, peer):
            with trio.move_on_after(0.01) as scope:
                await connection.send(bytes(TOO_MUCH))
            assert scope.cancelled_caught
            left = TOO_MUCH + 10
            while left:
                left -= len(await peer.receive_some(min(left, 65536)))

    @trio_test
    async def test_send_in_fragments_fails_the_connection(self) -> None:
        async with connections() as (client, server):

            async def fragments() -> Any:
                yield "a"
                await trio.sleep_forever()

            items = fragments()
            with trio.move_on_after(0.01) as scope:
                await client.send(items)
            await items.aclose()
            assert scope.cancelled_caught
            with pytest.raises(ConnectionClosedError, match="1011"):
                await server.recv()

    @trio_test
    async def test_sends_are_cancelled_while_they_wait(self) -> None:
        async with raw_peer() as (connection, peer):
            async with trio.open_nursery() as nursery:
                for i in range(5):
                    nursery.start_soon(connection.send, bytes([i]) * 2_000_000)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            left, seen = 5 * 2_000_010, b""
            while left:
                data = await peer.receive_some(min(left, 1_000_000))
                left -= len(data)
                seen += data[:: len(data)]
            assert left == 0

    @trio_test
    async def test_reader_leaves_while_others_wait(self) -> None:
        async with connections() as (client, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.recv)
                await trio.testing.wait_all_tasks_blocked()
                async with trio.open_nursery() as closing:
                    closing.start_soon(server.aclose)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                    await client.wait_closed()
            assert server.state is State.CLOSED

    @trio_test
    async def test_send_in_a_loop(self) -> None:
        async with connections(max_queue=None) as (client, server):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def receive() -> None:
                    async for _ in server:
                        pass

                with trio.move_on_after(0.02) as scope:
                    while True:
                        await client.send("x" * 60)
                assert scope.cancelled_caught
                await client.aclose()


class TestReading:
    """Somebody reads, whether or not the application receives."""

    @trio_test
    async def test_pings_are_answered(self) -> None:
        async with raw_peer() as (connection, peer):
            await peer.send_all(frame(0x9, b"1", masked=True))
            assert await peer.receive_some() == frame(PONG, b"1")
            # The task that reads by now goes on when somebody receives, and when he stops.
            for i in range(3):
                with trio.move_on_after(0.001 * i):
                    await connection.recv()
                await peer.send_all(frame(0x9, b"2", masked=True))
                assert await peer.receive_some() == frame(PONG, b"2")

    @trio_test
    async def test_close_is_noticed(self) -> None:
        async with connections() as (client, server):
            await client.aclose()
            await server.wait_closed()

    @trio_test
    async def test_messages_come_while_nobody_receives(self) -> None:
        async with connections(max_queue=4) as (client, server):
            for i in range(10):
                await client.send(str(i))
                await trio.sleep(ATTENTION_SPAN if i % 3 else 3 * ATTENTION_SPAN)
            assert [await server.recv() for _ in range(10)] == [str(i) for i in range(10)]

    @trio_test
    async def test_second_receiver(self) -> None:
        async with connections() as (client, server):
            await trio.sleep(3 * ATTENTION_SPAN)  # by now a task reads
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.recv)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(ConcurrencyError, match="already running recv"):
                    await server.recv()
                with pytest.raises(ConcurrencyError, match="already running recv"):
                    await anext(server.recv_streaming())
                await client.send("for the first one")

    @trio_test
    async def test_stream_with_a_fault(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        one.receive_stream.receive_some_hook = lambda: 1 / 0
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await other.aclose()


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

    @trio_test
    async def test_broadcast_waits_for_the_slow(self) -> None:
        async with (
            connections(max_queue=None) as (client, server),
            raw_peer() as (slow, peer),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broadcast, [slow, server], bytes(TOO_MUCH // 10))
                assert len(await client.recv()) == TOO_MUCH // 10
                await trio.testing.wait_all_tasks_blocked(0.005)
                assert nursery.child_tasks
                left = TOO_MUCH // 10 + 10
                while left:
                    left -= len(await peer.receive_some(left))
            await broadcast([slow, server], "x")
            assert await client.recv() == "x"


async def _recv_streaming(connection: Connection) -> None:
    async for _ in connection.recv_streaming():
        pass


async def _send_and_recv(connection: Connection) -> None:
    await connection.send("one")
    await connection.send("another")
    await connection.recv()


async def _close(connection: Connection) -> None:
    await connection.aclose()
    raise connection.protocol.close_exc


async def _wait_closed(connection: Connection) -> None:
    connection.protocol.close(now=trio.current_time())
    connection._update()
    await connection.wait_closed()
    raise connection.protocol.close_exc


async def _ping(connection: Connection) -> None:
    await (await connection.ping(ack_on_close=True)).wait()
    raise connection.protocol.close_exc


async def _broadcast(connection: Connection) -> None:
    await broadcast([connection], bytes(TOO_MUCH))
    await broadcast([connection], "a")
    await connection.recv()


OPERATIONS: dict[str, Callable[[Connection], Awaitable[Any]]] = {
    "recv": lambda connection: connection.recv(),
    "recv decoded": lambda connection: connection.recv(decode=True),
    "recv_streaming": _recv_streaming,
    "send": lambda connection: connection.send(bytes(TOO_MUCH)),
    "send and recv": _send_and_recv,
    "send fragments": lambda connection: connection.send(["a" * 50_000] * 5),
    "ping": _ping,
    "pong": lambda connection: _pong(connection),
    "close": _close,
    "wait_closed": _wait_closed,
    "broadcast": _broadcast,
}


async def _pong(connection: Connection) -> None:
    await connection.pong()
    await connection.recv()


class TestSlowBroadcast:
    """A peer that doesn't read can't hold up a broadcast for ever, nor make it keep everything."""

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @virtual_time_test
    async def test_peer_takes_nothing(self, kind: str) -> None:
        before = connections_given_up()
        async with trio.open_nursery() as nursery:
            stuck: list[Connection] = []
            others: list[trio.abc.Stream] = []
            for _ in range(3):
                one, other = STREAMS[kind]()
                others.append(other)
                options: Any = {"ping_interval": None}
                stuck.append(Connection(nursery, one, Protocol(Side.CLIENT), **options))
            start = trio.current_time()
            with pytest.raises(ExceptionGroup) as caught:
                await broadcast(stuck, bytes(TOO_MUCH), raise_exceptions=True)
            # For all at the same time.
            assert trio.current_time() - start < 3 * MAX_STALL
            assert len(caught.value.exceptions) == 3
            for connection in stuck:
                await connection.wait_closed()
                assert isinstance(connection.protocol.close_exc.__cause__, ConnectionAbortedError)
            assert connections_given_up() == before + 3
            for other in others:
                await other.aclose()

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @virtual_time_test
    async def test_peer_takes_little(self, kind: str) -> None:
        one, other = STREAMS[kind]()

        async def read_slowly() -> None:
            while True:
                for _ in range(16):
                    await other.receive_some(65536)
                await trio.sleep(MAX_STALL * 0.8)

        async with trio.open_nursery() as nursery:
            options: Any = {"ping_interval": None}
            connection = Connection(nursery, one, Protocol(Side.CLIENT), **options)
            nursery.start_soon(read_slowly)
            await broadcast([connection], bytes(TOO_MUCH), raise_exceptions=True)
            assert connection.state is State.OPEN
            assert trio.current_time() > MAX_STALL
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
                with trio.move_on_after(0.01):
                    await broadcast([connection], bytes(2**20))
                assert connection._transport.unsent <= MAX_BACKLOG + 2**21
            assert connection.state is State.CLOSED
            assert connection._transport.unsent == 0
            nursery.cancel_scope.cancel()
        await other.aclose()


class TestEndsAnywhere:
    """Whatever ends the connection, wherever it is noticed: nobody waits for what can't come."""

    @pytest.mark.parametrize("kind", ["sockets", "plain"])
    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("end", ["write", "abort"])
    @pytest.mark.parametrize("place", ["_flush", "_update", "write", "write_pending", "receive"])
    @virtual_time_test
    async def test_end(self, kind: str, name: str, end: str, place: str) -> None:
        # The nth call of a method, before or after it did its work.
        for count in itertools.count():
            for after in (False, True):
                if not await self.try_end(kind, name, end, place, count // 2, after):
                    return
            assert count < 100

    async def try_end(
        self, kind: str, name: str, end: str, place: str, count: int, after: bool
    ) -> bool:
        one, other = STREAMS[kind]()
        calls = 0

        def strike(connection: Connection) -> None:
            transport = connection._transport
            if end == "write":

                def write(data: bytes) -> None:
                    raise BrokenPipeError("injected")

                transport.write = write  # type: ignore[method-assign] # injected
                connection.protocol.send_pong(b"")
                connection._flush()
            else:
                connection._abort(ConnectionResetError("injected"))

        async with trio.open_nursery() as outer, other:
            options: Any = {"ping_interval": None, "close_timeout": 5}
            connection = Connection(outer, one, Protocol(Side.CLIENT), **options)
            target = connection._transport if place[0] != "_" else connection
            original = getattr(target, place)

            def called(when: bool) -> None:
                nonlocal calls
                if when is after:
                    calls += 1
                    if calls == count + 1 and not connection._ended:
                        setattr(target, place, original)
                        with contextlib.suppress(ConnectionClosed, InvalidState):
                            strike(connection)

            def injected(*args: Any, **options: Any) -> Any:
                called(False)
                result = original(*args, **options)
                called(True)
                return result

            async def async_injected() -> Any:
                called(False)
                result = await original()
                called(True)
                return result

            wrapper = async_injected if inspect.iscoroutinefunction(original) else injected
            setattr(target, place, wrapper)
            # Without the fault, the peer takes what is sent, and answers nothing.
            outer.start_soon(_swallow, other)
            with trio.move_on_after(100) as scope:
                with contextlib.suppress(ConnectionClosed):  # it may be done before
                    await OPERATIONS[name](connection)
            struck = calls > count
            assert not (struck and scope.cancelled_caught), (name, end, place, count, after)
            await connection.aclose()
            assert connection._lost
            outer.cancel_scope.cancel()
        return struck


async def _swallow(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(65536):
            pass


class TestTime:
    @virtual_time_test
    async def test_keepalive(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT), close_timeout=7)
            start = trio.current_time()
            with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
                await connection.recv()
            assert 47 <= trio.current_time() - start < 48
            await connection.wait_closed()
        await other.aclose()

    @virtual_time_test
    async def test_keepalive_is_answered(self) -> None:
        async with connections(trio.testing.memory_stream_pair()) as (client, server):
            await trio.sleep(300)
            assert client.state is server.state is State.OPEN

    @virtual_time_test
    async def test_close_timeout(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.SERVER), ping_interval=None)
            await trio.sleep(100)
            start = trio.current_time()
            await connection.aclose()
            assert 10 <= trio.current_time() - start < 11
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert str(caught.value.__cause__) == "timed out while closing connection"
        await other.aclose()

    @virtual_time_test
    async def test_peer_leaves_and_does_not_read(self) -> None:
        one, other = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.SERVER), close_timeout=3)
            nursery.start_soon(other.send_eof)
            await connection.send("never read")
            start = trio.current_time()
            await connection.wait_closed()
            assert 3 <= trio.current_time() - start < 4
        await other.aclose()


class TestHousekeeper:
    @trio_test
    async def test_alarms_do_not_pile_up(self) -> None:
        housekeeper = Housekeeper.current()
        for _ in range(5 * MAX_OUTDATED):
            async with raw_peer():
                pass
        assert len(housekeeper._alarms) <= 2 * MAX_OUTDATED

    @trio_test
    async def test_fault_of_one_connection(self) -> None:
        class Faulty(Connection):
            def _look(self) -> bool:
                raise ZeroDivisionError

        one, other = socket_streams()
        async with trio.open_nursery() as nursery, connections() as (client, server):
            faulty = Faulty(nursery, one, Protocol(Side.CLIENT))
            await faulty.wait_closed()
            with pytest.raises(ConnectionClosedError) as caught:
                await faulty.recv()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            await (await client.ping()).wait()
            await (await server.ping()).wait()
        await other.aclose()
        logged_errors("housekeeping failed")

    @trio_test
    async def test_idle_connections_have_no_tasks(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery, trio.open_nursery() as receiving, other:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            receiver = trio.CancelScope()

            @receiving.start_soon
            async def receive() -> None:
                with receiver:
                    await connection.recv()

            await trio.sleep(3 * ATTENTION_SPAN)
            assert not nursery.child_tasks
            receiver.cancel()
            await until(lambda: nursery.child_tasks)
            connection._abort()

    def test_runs_in_several_threads(self) -> None:
        failures: list[BaseException] = []

        async def main() -> None:
            async with connections() as (client, server):
                for i in range(200):
                    message = f"{i} {threading.get_ident()}" * 20
                    await client.send(message)
                    assert await server.recv() == message

        def run() -> None:
            try:
                trio.run(main)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


class TestNursery:
    @trio_test
    async def test_closed_before_the_connection(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
        await connection.wait_closed()
        with pytest.raises(ConnectionClosedError):
            await connection.send("x")
        await other.aclose()

    @trio_test
    async def test_context_manager(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery:
            server = Connection(nursery, other, Protocol(Side.SERVER))
            with pytest.raises(ZeroDivisionError):
                async with Connection(nursery, one, Protocol(Side.CLIENT)):
                    raise ZeroDivisionError
            with pytest.raises(ConnectionClosedError, match="received 1011"):
                await server.recv()
            await server.wait_closed()

    @trio_test
    async def test_iteration_is_left(self) -> None:
        async with connections() as (client, server):
            for message in ("a", "b"):
                await client.send(message)
            async for message in server:
                assert message == "a"
                break
            assert await server.recv() == "b"
            await client.aclose()
            with pytest.raises(ConnectionClosedOK):
                await server.recv()
