"""The testing kit on asyncio: pairs and servers in memory, faults, transports."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.wsapi.helpers import echo, on_asyncio
from wsapi import route, serve
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from wsapi.testing import Clock, Wire, link, pair, serving
from wsapi.testing._memory import MemoryTransport, connected
from wsapi.testing._wires import WINDOW
from wsproto_fast.frames import State

# ---------------------------------------------------------------------- pairs


@on_asyncio
async def test_a_pair_exchanges_messages() -> None:
    async with pair() as (client, server):
        assert (client.state, server.state) == (State.OPEN, State.OPEN)
        assert client.response is not None
        assert client.response.status_code == 101
        await client.send("question")
        assert await server.recv() == "question"
        await server.send(b"answer" * 100_000)
        assert await client.recv() == b"answer" * 100_000
        assert client.local_address == server.remote_address
    assert (client.close_code, server.close_code) == (1000, 1000)


@on_asyncio
async def test_options_of_a_pair() -> None:
    options = {"subprotocols": ["chat"], "compression": None}
    async with pair(
        "ws://example.com/path",
        client={"additional_headers": {"X-Test": "1"}},
        server={"server_header": "kit"},
        **options,
    ) as (client, server):
        assert server.request is not None
        assert (server.request.path, server.request.headers["Host"]) == ("/path", "example.com")
        assert server.request.headers["X-Test"] == "1"
        assert client.response is not None
        assert client.response.headers["Server"] == "kit"
        assert client.subprotocol == server.subprotocol == "chat"


@on_asyncio
async def test_a_pair_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    async with pair() as (client, server):
        await client.send("message")
        assert await server.recv() == "message"


@on_asyncio
async def test_a_pair_ends_with_unread_messages() -> None:
    """The peer that doesn't read can't answer a Close frame; nobody waits for it."""
    async with Clock():
        async with pair(max_queue=1) as (client, server):
            for _ in range(10):
                await client.send("message")
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


@on_asyncio
async def test_a_pair_ends_although_the_cable_is_cut() -> None:
    async with Clock():
        async with pair() as (client, server):
            link(client).cut()
        assert (client.close_code, server.close_code) == (1006, 1006)


@on_asyncio
async def test_a_pair_whose_handshake_fails() -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with pair(client={"origin": "http://a"}, server={"origins": ["http://b"]}):
            raise AssertionError


# ---------------------------------------------------------------------- servers


@on_asyncio
async def test_serving_a_handler() -> None:
    async with serving(echo) as place:
        async with place.connect() as first, place.connect() as second:
            await first.send("1")
            await second.send("2")
            assert (await first.recv(), await second.recv()) == ("1", "2")
            assert len(place.server.connections) == 2
        third = await place.connect()
    assert third.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        await place.connect()


@on_asyncio
async def test_serving_a_server_that_was_made_elsewhere() -> None:
    pytest.importorskip("werkzeug", reason="the router needs it")
    from werkzeug.routing import Map, Rule

    async with serving(route(Map([Rule("/echo", endpoint=echo)]))) as place:
        async with place.connect("ws://localhost/echo") as connection:
            await connection.send("message")
            assert await connection.recv() == "message"
        with pytest.raises(InvalidStatus, match="404"):
            await place.connect("ws://localhost/elsewhere")
    with pytest.raises(TypeError, match="options"):
        serving(serve(echo), compression=None)


@on_asyncio
async def test_reconnecting_in_memory() -> None:
    async def handler(connection: Any) -> None:
        await connection.send("hello")

    async with Clock() as clock, serving(handler) as place:
        greetings = []

        async def client() -> None:
            async for connection in place.connect(reconnect_delays=lambda: iter([5.0] * 9)):
                greetings.append(await connection.recv())
                if len(greetings) == 3:
                    break

        task = asyncio.create_task(client())
        await clock.advance(60)
        await task
    assert greetings == ["hello"] * 3


@on_asyncio
async def test_a_handler_that_does_not_end_is_cancelled() -> None:
    ends = []

    async def handler(connection: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append(connection.state)

    async with Clock(), serving(handler) as place:
        await place.connect()
    assert ends == [State.CLOSED]


@on_asyncio
async def test_a_handler_that_sleeps_when_it_is_cancelled() -> None:
    """The time that it waits for doesn't come."""
    ends = []

    async def handler(connection: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await asyncio.sleep(1)
            finally:
                ends.append("end")

    async with Clock(), serving(handler) as place:
        await place.connect()
    assert ends == ["end"]


@on_asyncio
async def test_a_test_that_is_cancelled_while_its_server_ends() -> None:
    async def handler(connection: Any) -> None:
        await asyncio.sleep(3600)

    async def test() -> None:
        async with serving(handler) as place:
            await place.connect()
            entered.set()

    entered = asyncio.Event()
    task = asyncio.create_task(test())
    await entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_asyncio
async def test_creation_of_connections_goes_by_the_options() -> None:
    from wsapi.asyncio.client import ClientConnection
    from wsapi.asyncio.server import ServerConnection

    class Client(ClientConnection):
        pass

    class Server(ServerConnection):
        pass

    async with (
        Clock(),
        pair(client={"create_connection": Client}, server={"create_connection": Server}) as both,
    ):
        assert [type(each) for each in both] == [Client, Server]


@pytest.mark.parametrize("option", ["host", "port", "sock", "ssl", "path", "backlog"])
def test_options_of_sockets_have_no_use_on_servers(option: str) -> None:
    with pytest.raises(ValueError, match=f"no use for {option}"):
        serving(echo, **{option: None})


@on_asyncio
async def test_options_of_sockets_have_no_use_on_clients() -> None:
    async with serving(echo) as place:
        with pytest.raises(ValueError, match="no use for host"):
            place.connect(host="localhost")


@on_asyncio
async def test_one_connection_at_a_time_in_its_handshake() -> None:
    async with serving(echo) as place:
        await place.server.start_serving()  # it is already
        async with place.connect(one_connecting=True) as connection:
            await connection.send("message")
            assert await connection.recv() == "message"


def test_uvloop_has_no_fake_time_but_pairs() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop isn't installed")

    async def main() -> None:
        with pytest.raises(TypeError, match="event loop of asyncio"):
            async with Clock():
                raise AssertionError
        async with pair() as (client, server):
            link(client).outgoing.split = 1
            await client.send("message")
            assert await server.recv() == "message"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# ---------------------------------------------------------------------- faults


@on_asyncio
async def test_single_bytes() -> None:
    """From the first byte of the opening handshake on."""
    async with pair(client={"outgoing": Wire(split=1), "incoming": Wire(split=1)}) as (
        client,
        server,
    ):
        for message in ("text " * 100, b"\0\1" * 5000, ""):
            await client.send(message)
            assert await server.recv() == message
            await server.send(message)
            assert await client.recv() == message
    assert client.close_code == 1000


@on_asyncio
async def test_delays_keep_the_order() -> None:
    async with Clock() as clock, pair() as (client, server):
        wire = link(client).outgoing
        wire.delay = 3
        await client.send("slow")
        wire.delay = 0
        await client.send("fast")
        receiving = asyncio.create_task(server.recv())
        await clock.advance(2.9)
        assert not receiving.done()
        await clock.advance(0.1)
        assert await receiving == "slow"
        assert await server.recv() == "fast"


@on_asyncio
async def test_holding() -> None:
    async with Clock() as clock, pair() as (client, server):
        link(server).incoming.hold = True
        assert link(client).outgoing.hold
        await client.send("message")
        receiving = asyncio.create_task(server.recv())
        await clock.advance(5)
        assert not receiving.done()
        assert link(client).outgoing.bytes_under_way > 0
        link(server).incoming.hold = False
        await clock.settle()
        assert await receiving == "message"
        assert link(client).outgoing.bytes_under_way == 0


@on_asyncio
async def test_dropping() -> None:
    async with Clock() as clock, pair(compression=None) as (client, server):
        wire = link(client).outgoing
        before = wire.bytes_written
        wire.drop = True
        await client.send("lost")
        await clock.settle()
        assert wire.bytes_written - before == 2 + 4 + 4
        wire.drop = False
        await client.send("found")
        assert await server.recv() == "found"


@on_asyncio
async def test_a_reset() -> None:
    async with pair() as (client, server):
        await client.send("lost")
        link(server).reset()
        for connection in (client, server):
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert isinstance(caught.value.__cause__, ConnectionResetError)


@on_asyncio
async def test_backpressure() -> None:
    async with Clock() as clock, pair(max_queue=1, compression=None) as (client, server):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await client.send(bytes(10_000))
                sent += 1

        task = asyncio.create_task(flood())
        await clock.advance(1)
        stuck = sent
        assert 5 < stuck < 100
        await clock.advance(1)
        assert sent == stuck
        for _ in range(20):
            assert len(await server.recv()) == 10_000
        await clock.settle()
        assert sent > stuck
        task.cancel()


@on_asyncio
async def test_who_does_not_read_for_too_long() -> None:
    async with (
        Clock() as clock,
        pair(server={"write_deadline": 5, "compression": None}, ping_interval=None) as (
            _,
            server,
        ),
    ):
        link(server).outgoing.hold = True
        sending = asyncio.create_task(server.send(bytes(500_000)))
        await clock.advance(4.9)
        assert not sending.done()
        await clock.advance(10)
        with pytest.raises(ConnectionClosed):
            await sending


@on_asyncio
async def test_what_is_not_in_memory_has_no_link() -> None:
    with pytest.raises(TypeError, match="in memory"):
        link(object())  # type: ignore[arg-type] # that is the test


def test_wires_are_checked() -> None:
    with pytest.raises(ValueError, match="delay"):
        Wire(delay=-1)
    with pytest.raises(ValueError, match="split"):
        Wire(split=0)


@on_asyncio
async def test_a_wire_is_good_for_one_connection() -> None:
    async with serving(echo) as place:
        wire = Wire()
        with pytest.raises(ValueError, match="Wire"):
            await place.connect(outgoing=wire, incoming=wire)
        async with place.connect(outgoing=wire):
            with pytest.raises(ValueError, match="Wire"):
                await place.connect(outgoing=wire)


# ---------------------------------------------------------------------- transports


class Recorder(asyncio.Protocol):
    """Notes how it is called."""

    keeps_open = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        if data == b"fail":
            raise ZeroDivisionError
        self.calls.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def recorders() -> tuple[Recorder, Recorder, MemoryTransport, MemoryTransport]:
    left, right = Recorder(), Recorder()
    return left, right, *connected(left, right, Wire(), Wire())


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@on_asyncio
async def test_a_transport_does_what_those_of_event_loops_do() -> None:
    """The same calls on a socket of the event loop and in memory, with the same outcome."""

    async def exercise(
        left: Recorder,
        right: Recorder,
        client: Any,
        server: Any,
        rest: Callable[[], Coroutine[Any, Any, None]],
    ) -> list[Any]:
        client.write(b"one")
        await rest()
        server.pause_reading()
        client.write(bytearray(b"two"))
        await rest()
        outcome: list[Any] = [server.is_reading(), list(right.calls)]
        server.resume_reading()
        await rest()
        right.keeps_open = True
        client.write_eof()
        await rest()
        with pytest.raises(RuntimeError, match="write_eof"):
            client.write(b"more")
        with pytest.raises(TypeError, match="bytes-like"):
            server.write("text")
        server.write(memoryview(b"three"))
        await rest()
        server.close()
        server.write(b"ignored")
        outcome += [server.is_closing(), server.can_write_eof()]
        await rest()
        return [*outcome, left.calls, right.calls, client.is_closing()]

    left, right, client, server = recorders()
    in_memory = await exercise(left, right, client, server, turns)

    async def pause() -> None:
        await asyncio.sleep(0.02)

    left, right = Recorder(), Recorder()
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    client_transport, _ = await loop.create_connection(lambda: left, sock=one)
    server_transport, _ = await loop.create_connection(lambda: right, sock=other)
    on_sockets = await exercise(left, right, client_transport, server_transport, pause)
    assert in_memory == on_sockets


@on_asyncio
async def test_flow_control_of_a_transport() -> None:
    left, right, client, server = recorders()
    client.set_write_buffer_limits(1000, 100)
    assert client.get_write_buffer_limits() == (100, 1000)
    server.pause_reading()
    client.write(bytes(WINDOW))
    assert client.get_write_buffer_size() == 0
    client.write(bytes(1001))
    assert client.get_write_buffer_size() == 1001
    await turns()
    assert left.calls == ["made", "pause"]
    client.close()
    await turns()
    assert left.calls == ["made", "pause"]  # it has something to write
    server.resume_reading()
    await turns()
    assert ("lost", None) in left.calls
    assert sum(len(call) for call in right.calls if isinstance(call, bytes)) == WINDOW + 1001
    assert right.calls[-2:] == ["eof", ("lost", None)]
    client.set_write_buffer_limits(low=10)
    assert client.get_write_buffer_limits() == (10, 40)
    client.set_write_buffer_limits()
    assert client.get_write_buffer_limits() == (2**14, 2**16)


class Sipping(asyncio.BufferedProtocol):
    """Takes two bytes, and then pauses."""

    def __init__(self) -> None:
        self.buffer = bytearray(2)
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.transport.pause_reading()


@on_asyncio
async def test_a_protocol_that_pauses_gets_the_rest_later() -> None:
    sipping = Sipping()
    client, server = connected(Recorder(), sipping, Wire(), Wire())
    client.write(b"12345")
    await turns()
    assert sipping.received == b"12"
    assert client._outgoing.bytes_under_way == 3
    for expected in (b"1234", b"12345"):
        server.resume_reading()
        await turns()
        assert sipping.received == expected
    other = Recorder()
    server.set_protocol(other)
    assert server.get_protocol() is other
    server.resume_reading()
    client.write(b"6")
    await turns()
    assert other.calls == [b"6"]
    client.abort()
    client.write_eof()  # too late
    await turns()
    assert other.calls == [b"6", "eof", ("lost", None)]


@on_asyncio
async def test_aborting_a_transport_loses_what_waits() -> None:
    left, right, client, server = recorders()
    server.pause_reading()
    client.write(bytes(WINDOW - 10))
    client.write(bytes(2 * WINDOW))
    client.abort()
    client.abort()
    await turns()
    assert left.calls[-1] == ("lost", None)
    server.resume_reading()
    await turns()
    assert sum(len(call) for call in right.calls if isinstance(call, bytes)) == WINDOW


@pytest.mark.parametrize("place", ["data", "eof"])
def test_a_protocol_that_fails(place: str) -> None:
    async def main() -> None:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        left, right, client, _ = recorders()
        if place == "eof":
            right.eof_received = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value] # fails
            client.write_eof()
        else:
            client.write(b"fail")
        await turns()
        assert isinstance(told[0]["exception"], ZeroDivisionError)
        assert right.calls[-1] == ("lost", told[0]["exception"])
        assert left.calls[-1] == ("lost", None)
        assert isinstance(client.get_protocol(), Recorder)

    asyncio.run(main())


@on_asyncio
async def test_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Neither tasks nor timers, nor errors in logs."""
    caplog.set_level(logging.WARNING)
    async with pair() as (client, server):
        await client.send("message")
        await server.recv()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [record.getMessage() for record in caplog.records] == []


@on_asyncio
async def test_holding_what_is_about_to_arrive() -> None:
    async with Clock() as clock, pair() as (client, server):
        await client.send("message")
        await clock.settle()
        assert await server.recv() == "message"
        link(client).outgoing.delay = 1
        await client.send("held")
        await clock.advance(0.5)
        link(client).outgoing.hold = True
        await clock.advance(10)
        receiving = asyncio.ensure_future(server.recv())
        await clock.settle()
        assert not receiving.done()
        link(client).outgoing.hold = False
        await clock.settle()
        assert receiving.result() == "held"
