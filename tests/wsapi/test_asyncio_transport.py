"""Transports that the application ends, and such that can't write: connections end with them."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from tests.wsapi.helpers import pair, raw_client, request, serving, until, until_closed, uri_of
from wsapi.asyncio.client import connect
from wsapi.asyncio.connection import Connection, broadcast
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError, InvalidMessage, InvalidState
from wsapi.http11 import Request, Response
from wsapi.protocol import State

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

HOW = pytest.mark.parametrize("how", ["close", "abort"])
SECURE = pytest.mark.parametrize("secure", [False, True])


def end(ws: Connection, how: str) -> None:
    getattr(ws.transport, how)()


class TestEndedByTheApplication:
    @HOW
    @SECURE
    @pytest.mark.parametrize("where", ["process_request", "process_response", "select_subprotocol"])
    async def test_in_the_opening_handshake(
        self, tls: Contexts, how: str, secure: bool, where: str
    ) -> None:
        handled = []
        made: list[ServerConnection] = []

        async def handler(ws: ServerConnection) -> None:
            handled.append(ws)

        def callback(ws: ServerConnection, *_: Any) -> None:
            made.append(ws)
            end(ws, how)

        options: dict[str, Any] = {where: callback, "ssl": tls[0] if secure else None}
        async with serving(handler, **options) as server:
            uri = uri_of(server)
            if secure:
                uri = uri.replace("ws://", "wss://")
            with pytest.raises((InvalidMessage, OSError)):
                async with connect(uri, ssl=tls[1] if secure else None):
                    pass
            await made[0].wait_closed()
        assert not handled
        assert made[0].response is None

    @HOW
    async def test_while_the_request_is_considered(self, how: str) -> None:
        async def consider(ws: ServerConnection, _request: Request) -> Response:
            end(ws, how)
            await asyncio.sleep(0.01)
            return ws.respond(403, "no")

        async with serving(until_closed, process_request=consider) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                assert await peer.read_to_end() == b""

    @HOW
    @SECURE
    @pytest.mark.parametrize("role", ["client", "server"])
    async def test_nothing_is_sent(self, tls: Contexts, how: str, secure: bool, role: str) -> None:
        async with serving(until_closed, ssl=tls[0] if secure else None) as server:
            uri = uri_of(server)
            if secure:
                uri = uri.replace("ws://", "wss://")
            async with connect(uri, ssl=tls[1] if secure else None) as client:
                (accepted,) = server.connections
                one, other = (client, accepted) if role == "client" else (accepted, client)
                end(one, how)
                with pytest.raises(ConnectionClosedError, match="no close frame received or sent"):
                    await one.send("after")
                with pytest.raises(ConnectionClosedError):
                    await other.recv()
                assert one.close_code == other.close_code == 1006

    @HOW
    @pytest.mark.parametrize("call", ["ping", "pong", "drain", "fragments"])
    async def test_other_ways_to_send(self, how: str, call: str) -> None:
        async with pair() as (client, server):
            end(server, how)
            if call == "drain":
                with pytest.raises(InvalidState):
                    server.send_nowait("after")
            with pytest.raises(ConnectionClosedError):
                if call == "fragments":
                    await server.send(["a", "b"])
                else:
                    await getattr(server, call)()
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    @HOW
    async def test_close(self, how: str) -> None:
        async with pair() as (client, server):
            end(server, how)
            await server.close()
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert server.protocol.close_sent is None

    @HOW
    async def test_broadcast(self, how: str) -> None:
        async with pair() as (client, server), pair() as (other_client, other_server):
            end(server, how)
            broadcast([server, other_server], "x", raise_exceptions=True)
            assert await other_client.recv() == "x"
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    @HOW
    async def test_while_receiving(self, how: str) -> None:
        async with pair() as (_client, server):
            receiving = asyncio.create_task(server.recv())
            await asyncio.sleep(0)
            end(server, how)
            with pytest.raises(ConnectionClosedError):
                await receiving

    async def test_close_writes_what_was_sent_before(self) -> None:
        async with pair(client={"max_size": None}) as (client, server):
            sending = asyncio.create_task(server.send(bytes(20_000_000)))
            await until(lambda: server.transport.get_write_buffer_size())
            server.transport.close()
            with pytest.raises(ConnectionClosed):
                await server.send("after")
            with pytest.raises(ConnectionClosed):
                await sending
            assert len(await client.recv()) == 20_000_000
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    @pytest.mark.parametrize("kept", [False, True])
    @pytest.mark.parametrize("receives", [False, True])
    async def test_close_after_messages(self, kept: bool, receives: bool) -> None:
        """They were sent, though they might have waited for more that is written with them."""
        async with pair() as (client, server):
            transport = server.transport if kept else None
            if receives:
                receiving = asyncio.create_task(server.recv())
                await asyncio.sleep(0)
                await client.send("go on")
                await receiving
            for number in range(3):
                await server.send(str(number))
            (transport or server.transport).close()
            assert [await client.recv() for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    async def test_close_in_a_callback_after_messages(self) -> None:
        async with pair() as (client, server):

            def answer(_message: str | bytes) -> None:
                server.send_nowait("first")
                server.send_nowait("last")
                server.transport.close()

            server.listen(answer)
            await client.send("go on")
            assert [await client.recv() for _ in range(2)] == ["first", "last"]
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    async def test_close_with_a_peer_that_does_not_read(self) -> None:
        async with serving(until_closed, close_timeout=0.1) as server:
            async with raw_client(server):
                (ws,) = server.connections
                sending = asyncio.create_task(ws.send(bytes(20_000_000)))
                await until(lambda: ws.transport.get_write_buffer_size())
                ws.transport.close()
                with pytest.raises(ConnectionClosed):
                    await ws.ping()
                with pytest.raises(ConnectionClosed):
                    await sending

    async def test_transports_are_not_asked_for_nothing(self) -> None:
        async with pair() as (client, server):
            assert client.local_address == server.remote_address
            await client.send("x")
            await server.recv()
            assert not client._driver.exposed
            assert not server._driver.exposed


async def test_another_method_for_writing() -> None:
    """Programs put one there that counts or swallows what is written."""
    async with pair() as (client, server):
        written: list[bytes] = []
        transport: Any = client.transport
        try:
            transport.write = written.append
        except AttributeError:
            pytest.skip("transports of this event loop don't let them")
        await client.send("x")
        await until(lambda: written)
        del transport.write
        await client.send("y")
        assert await server.recv() == "y"
        assert len(written) == 1


class Failing:
    """A transport that can't write any more."""

    def __init__(self, transport: asyncio.Transport, error: Exception) -> None:
        self._wrapped = transport
        self._error = error

    def write(self, data: Any) -> None:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def failing(transport: asyncio.Transport, error: Exception) -> Any:
    return Failing(transport, error)


class TestWritingFails:
    """RuntimeError after write_eof(), say, or whatever a transport raises."""

    @pytest.mark.parametrize("call", ["send", "ping", "pong", "fragments"])
    async def test_raises_connection_closed(self, call: str) -> None:
        async with pair() as (client, server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            with pytest.raises(ConnectionClosedError) as caught:
                if call == "fragments":
                    await server.send(["a", "b"])
                else:
                    await getattr(server, call)(b"x")
            assert caught.value.__cause__ is error
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    @pytest.mark.parametrize("call, arguments", [("send", ["x"]), ("ping", []), ("pong", [])])
    async def test_after_write_eof(self, call: str, arguments: list[str]) -> None:
        async with pair() as (client, server):
            server.transport.write_eof()
            with pytest.raises(ConnectionClosedError) as caught:
                while True:  # uvloop does it in its next turn
                    await getattr(server, call)(*arguments)
                    await asyncio.sleep(0)
            cause = caught.value.__cause__
            assert isinstance(cause, (RuntimeError, EOFError, OSError))
            await client.wait_closed()

    async def test_close(self) -> None:
        async with pair() as (client, server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            await server.close()
            assert server.state is State.CLOSED
            assert server.protocol.close_exc.__cause__ is error
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    async def test_send_nowait(self) -> None:
        async with pair() as (_client, server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            assert not server.send_nowait("x")
            with pytest.raises(ConnectionClosedError) as caught:
                await server.drain()
            assert caught.value.__cause__ is error

    async def test_broadcast(self, caplog: pytest.LogCaptureFixture) -> None:
        async with pair() as (_client, server), pair() as (other_client, other_server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            broadcast([server, other_server], "x")
            assert "skipped broadcast: failed to write message" in caplog.text
            broadcast([server, other_server], "y", raise_exceptions=True)
            assert [await other_client.recv(), await other_client.recv()] == ["x", "y"]
            await server.wait_closed()

    async def test_in_a_timer(self) -> None:
        # Errors in callbacks are logged as errors, which the runner of the tests looks for.
        async with pair(server={"ping_interval": 0.05}) as (_client, server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            with pytest.raises(ConnectionClosedError) as caught:
                await server.recv()
            assert caught.value.__cause__ is error

    async def test_in_an_answer(self) -> None:
        async with pair() as (client, server):
            error = RuntimeError("can't")
            server._driver.connection_made(failing(server.transport, error))
            await client.ping()
            with pytest.raises(ConnectionClosedError) as caught:
                await server.recv()
            assert caught.value.__cause__ is error

    async def test_in_the_opening_handshake(self) -> None:
        error = RuntimeError("can't")

        def fail(ws: ServerConnection, _request: Request) -> None:
            ws._driver.connection_made(failing(ws.transport, error))

        async with serving(until_closed, process_request=fail) as server:
            with pytest.raises((InvalidMessage, OSError)):
                await connect(uri_of(server))
