"""What is particular about connections on trio: streams, cancellation, how they end."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import wsapi
from tests.wsapi.helpers import PONG, frame
from tests.wsapi.trio_helpers import (
    STREAMS,
    TOO_MUCH,
    PlainStream,
    connections,
    raw_peer,
    trio_test,
    virtual_time_test,
)
from wsapi.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedError, InvalidState
from wsapi.trio._housekeeping import ATTENTION_SPAN
from wsapi.trio.connection import Connection
from wsapi.trio.server import broadcast
from wsproto_fast import Protocol, Side, State

SOURCES = sorted((Path(wsapi.__file__).parent / "trio").glob("*.py"))


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

    @pytest.mark.parametrize(
        ("size", "lost", "failing", "error"),
        [
            (TOO_MUCH, False, False, None),  # cancelled while the network takes nothing
            (TOO_MUCH, False, True, ZeroDivisionError),
            (1, True, False, ConnectionClosed),
            (1, False, False, TypeError),
        ],
    )
    @trio_test
    async def test_generators_that_cannot_be_sent_are_closed(
        self, size: int, lost: bool, failing: bool, error: type[Exception] | None
    ) -> None:
        """Nobody else would do it without a warning."""
        closed = []

        async def fragments() -> Any:
            try:
                yield bytes(size)
                yield "of another type"
            finally:
                closed.append(True)
                if failing:
                    raise ZeroDivisionError
                await trio.sleep_forever()

        async with raw_peer() as (connection, peer):
            if lost:
                await peer.aclose()
                await connection.wait_closed()
            items = fragments()
            with pytest.raises(error) if error else contextlib.nullcontext():
                with trio.move_on_after(0.01 if size == TOO_MUCH else 30) as scope:
                    await connection.send(items)
            assert scope.cancelled_caught == (error is None)
            assert closed == [True]
            assert items.ag_frame is None

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


class Slow(PlainStream):
    """A stream whose end takes its time, whoever cancels it."""

    closings = 0

    async def aclose(self) -> None:
        self.closings += 1
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        await super().aclose()


@virtual_time_test
async def test_cancelled_aclose_of_a_stream_that_takes_its_time() -> None:
    """Whoever leaves doesn't leave before the stream is closed."""
    one, other = trio.testing.memory_stream_pair()
    stream = Slow(one)
    async with trio.open_nursery() as nursery:
        connection = Connection(nursery, stream, Protocol(Side.CLIENT))
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.aclose()
        assert scope.cancelled_caught
        assert stream.closings
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        await connection.wait_closed()
    await other.aclose()


class Unclosable(PlainStream):
    """A stream whose closing fails."""

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            raise OSError("closing failed")


@pytest.mark.parametrize("graceful", [True, False])
@trio_test
async def test_streams_whose_closing_fails(graceful: bool) -> None:
    """It harms nobody else in the nursery, which is that of all connections of a server."""
    one, other = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        connection = Connection(nursery, Unclosable(one), Protocol(Side.CLIENT))
        if graceful:
            await other.send_all(frame(8, b"\x03\xe8"))
            await other.send_eof()
        else:
            connection._abort()
        await connection.wait_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.cancel_scope.cancel_called
    await other.aclose()
