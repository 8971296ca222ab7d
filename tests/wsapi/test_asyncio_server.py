"""Servers: opening handshakes, outcomes of handlers, closing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import pickle
import socket
import ssl
import sys
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import (
    logged_errors,
    port_of,
    raw_client,
    request,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.exceptions import (
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
)
from wsapi.http11 import Request
from wsapi.limits import Door


class TestHandler:
    async def test_is_cancelled(self) -> None:
        tasks = []

        async def handler(_ws: ServerConnection) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await asyncio.sleep(3600)

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await until(lambda: tasks)
            tasks[0].cancel()
            await ws.wait_closed()
            assert ws.close_code == 1011
            await asyncio.wait(tasks)
            assert tasks[0].cancelled()

    async def test_runs_in_one_task(self) -> None:
        before = len(asyncio.all_tasks())
        async with serving(until_closed) as server:
            async with connect(uri_of(server)), connect(uri_of(server)):
                await until(lambda: len(server.connections) == 2)
                assert len(asyncio.all_tasks()) == before + 2

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
    async def test_eager_tasks(self) -> None:
        loop = asyncio.get_running_loop()
        factory = asyncio.eager_task_factory  # type: ignore[attr-defined] # since Python 3.12
        parameters = inspect.signature(factory).parameters
        if (
            type(loop).__module__.startswith("uvloop")
            and sys.version_info >= (3, 13)
            and not {"eager_start", "kwargs"} & set(parameters)
        ):
            pytest.skip("uvloop gives factories an argument that this version's doesn't take")
        loop.set_task_factory(factory)
        try:
            async with serving() as server, connect(uri_of(server)) as ws:
                for i in range(10):
                    await ws.send(str(i))
                assert [await ws.recv() for _ in range(10)] == [str(i) for i in range(10)]
        finally:
            loop.set_task_factory(None)

    async def test_debug_mode_of_the_loop(self) -> None:
        asyncio.get_running_loop().set_debug(True)
        async with serving() as server, connect(uri_of(server)) as ws:
            for i in range(10):
                await ws.send(str(i))
                assert await ws.recv() == str(i)


class TestOpeningHandshake:
    async def test_handler_cancelled_while_the_request_is_processed(self) -> None:
        tasks = []

        async def process_request(_ws: ServerConnection, _request: Request) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(3600)

        options = {"process_request": process_request, "open_timeout": None}
        async with serving(until_closed, **options) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                await until(lambda: tasks)
                tasks[0].cancel()
                assert b" 101 " not in await peer.read_to_end()
                await until(lambda: not server._connections)

    async def test_request_in_two_parts_with_a_frame_behind_it(self) -> None:
        sent = request() + b"\x82\x82\0\0\0\0hi"
        async with serving() as server:
            for position in range(1, len(sent)):
                async with raw_client(server, b"") as peer:
                    peer.writer.write(sent[:position])
                    await turns(3)
                    peer.writer.write(sent[position:])
                    head = await peer.reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nDate: ")
                    assert await peer.reader.readexactly(4) == b"\x82\x02hi"

    async def test_handshake_is_looked_at_after_the_end(self) -> None:
        connections = []

        async def handler(ws: ServerConnection) -> None:
            connections.append(ws)

        async with serving(handler) as server, connect(uri_of(server) + "a?b") as client:
            await client.wait_closed()
        (ws,) = connections
        assert ws.request is not None
        assert ws.response is not None
        assert ws.request.path == "/a?b"
        assert ws.request.headers["upgrade"] == "websocket"
        assert client.response is not None
        assert list(ws.response.headers.raw_items()) == list(client.response.headers.raw_items())
        assert copy.deepcopy(ws.response) == pickle.loads(pickle.dumps(client.response))
        assert ws.response.serialize() == client.response.serialize()

    async def test_classes_between(self) -> None:
        class Mixed(Connection):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.mark = "mixed"

        class Own(ServerConnection, Mixed):
            pass

        class Derived(Own):
            pass

        async def handler(ws: Any) -> None:
            await ws.send(ws.mark)

        for cls in (Own, Derived):
            async with serving(handler, create_connection=cls) as server:
                async with connect(uri_of(server)) as ws:
                    assert await ws.recv() == "mixed"

    async def test_own_handshake_and_a_request_that_is_not_right(self) -> None:
        class Own(ServerConnection):
            async def handshake(self) -> None:
                await super().handshake()

        async with serving(until_closed, create_connection=Own) as server:
            async with connect(uri_of(server)):
                pass
            async with raw_client(server, b"") as peer:
                peer.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await peer.read_to_end()).startswith(b"HTTP/1.1 426 Upgrade Required\r\n")

    async def test_own_handshake_that_fails(self) -> None:
        class Own(ServerConnection):
            def handshake(self) -> Any:
                raise ZeroDivisionError

        async with serving(until_closed, create_connection=Own) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                assert b" 101 " not in await peer.read_to_end()
            await until(lambda: not server._connections)
        logged_errors("opening handshake failed")

    async def test_transport_that_is_closed_before_the_answer(self) -> None:
        """Somebody else has it, too: the request isn't answered, and no handler called."""

        class Own(ServerConnection):
            def _update_opening(self) -> None:
                super()._update_opening()
                self.transport.close()

        handler = mock.Mock()
        async with serving(handler, create_connection=Own) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                assert await peer.read_to_end() == b""
            await until(lambda: not server._connections)
        handler.assert_not_called()

    async def test_tls_without_limits_of_time(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        options: dict[str, Any] = {"open_timeout": None, "close_timeout": None}
        async with serving(ssl=tls[0], **options) as server:
            uri = f"wss://localhost:{port_of(server)}/"
            async with connect(uri, ssl=tls[1], host="127.0.0.1", proxy=None) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"


class TestLifeOfAServer:
    @pytest.mark.parametrize("number", [1, 3])
    async def test_closing_when_connections_are_just_accepted(self, number: int) -> None:
        async with serving(close_timeout=0.5) as server:
            address = "127.0.0.1", port_of(server)
            peers = [socket.create_connection(address) for _ in range(3)]
            for peer in peers:
                peer.send(request())
            # The loop looks for connections once per turn, after tasks that are ready.
            await turns(number)
            server.close()
            await server.wait_closed()
            for peer in peers:
                peer.settimeout(10)
                try:
                    answer = await asyncio.to_thread(peer.recv, 12)
                except ConnectionResetError:
                    answer = b""  # it was never accepted
                peer.close()
                assert answer in (b"HTTP/1.1 503", b"HTTP/1.1 101", b"")

    async def test_shapes(self) -> None:
        server = serve(until_closed, "127.0.0.1", 0)
        assert isinstance(server, Server)
        assert not server.is_serving()
        assert await server is server
        assert await server is server
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        assert len(server.sockets) == 1
        assert server.connections == set()
        assert server.connections is not server.connections
        server.close()
        assert not server.is_serving()
        server.close()
        await server.wait_closed()
        await server.wait_closed()
        assert not server.is_serving()
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{port_of(server) if server.sockets else 1}/")

    async def test_start_serving_later(self) -> None:
        async with serving(start_serving=False) as server:
            assert not server.is_serving()
            await server.start_serving()
            assert server.is_serving()
            async with connect(uri_of(server)):
                pass

    async def test_serve_forever(self) -> None:
        server = await serve(until_closed, "127.0.0.1", 0, start_serving=False)
        task = asyncio.create_task(server.serve_forever())
        await until(server.is_serving)
        async with connect(uri_of(server)) as ws:
            server.close()
            await task
            await ws.wait_closed()
            assert ws.close_code == 1001

    async def test_serve_forever_is_cancelled(self) -> None:
        server = await serve(until_closed, "127.0.0.1", 0)
        task = asyncio.create_task(server.serve_forever())
        async with connect(uri_of(server)) as ws:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.is_serving()
            await ws.wait_closed()
            assert ws.close_code == 1001

    async def test_wait_closed_before_close(self) -> None:
        async with serving(until_closed) as server:
            waiting = [asyncio.create_task(server.wait_closed()) for _ in range(3)]
            await turns(3)
            waiting[0].cancel()
            await turns(3)
            assert not waiting[1].done()
            server.close()
            await asyncio.gather(*waiting[1:])

    async def test_close_from_a_handler(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.recv()
            ws.server.close()

        server = await serve(handler, "127.0.0.1", 0)
        async with connect(uri_of(server)) as ws:
            await ws.send("stop")
            await server.wait_closed()
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()

    @staticmethod
    async def attempt(uri: str) -> Any:
        try:
            async with connect(uri) as ws:
                await ws.wait_closed()
                return ws.close_code
        except InvalidStatus as exc:
            return exc.response.status_code
        except (OSError, InvalidMessage):
            return "refused"

    @pytest.mark.parametrize(
        "options, error",
        [
            ({"subprotocols": "a"}, TypeError),
            ({"subprotocols": 1}, TypeError),
            ({"subprotocols": ["a b"]}, ValueError),
            ({"compression": "zip"}, ValueError),
        ],
    )
    def test_wrong_arguments(self, options: Any, error: Any) -> None:
        with pytest.raises(error):
            serve(until_closed, "127.0.0.1", 0, **options)


async def test_door_counts_no_connection_that_cannot_be_made() -> None:
    def create_connection(*args: Any, **kwargs: Any) -> ServerConnection:
        raise ZeroDivisionError

    door = Door()
    async with serve(
        until_closed, "127.0.0.1", 0, door=door, create_connection=create_connection
    ) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert (door.connections, door.opening) == (0, 0)
        assert server.stats().refused == {"error": 1}
    logged_errors("opening handshake failed")
