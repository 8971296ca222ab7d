"""What is particular about servers on trio: nurseries, cancellation, listeners."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.helpers import logged_errors
from tests.wsapi.trio_helpers import echo, serving, trio_test, until, virtual_time_test
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus, ProtocolError
from wsapi.trio.client import connect, unix_connect
from wsapi.trio.router import route, unix_route
from wsapi.trio.server import Server, ServerConnection, basic_auth, serve, unix_serve
from wsproto_fast import State


class TestNursery:
    @pytest.mark.parametrize("secure", [False, True])
    @trio_test
    async def test_cancelled(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext], secure: bool
    ) -> None:
        ended: list[str] = []

        async def handler(connection: ServerConnection) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("handler")

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                context = tls[0] if secure else None
                server = await nursery.start(functools.partial(serve, handler, 0, ssl=context))
                port = server.listeners[0].socket.getsockname()[1]
                uri = f"ws{'s' * secure}://localhost:{port}"
                connection = await outer.start(_connected, uri, tls[1] if secure else None)
                nursery.cancel_scope.cancel()
            assert ended == ["handler"]
            with pytest.raises(ConnectionClosedError, match="received 1011"):
                await connection.recv()
            assert not server.connections
            with pytest.raises(OSError):
                await trio.open_tcp_stream("localhost", port)
            outer.cancel_scope.cancel()

    @trio_test
    async def test_cancelled_during_the_opening_handshake(self) -> None:
        async def process_request(*_args: Any) -> None:
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                functools.partial(serve, echo, 0, process_request=process_request)
            )
            port = server.listeners[0].socket.getsockname()[1]
            async with await trio.open_tcp_stream("localhost", port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: server._connections)
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    assert await stream.receive_some() == b""

    @trio_test
    async def test_handler_is_cancelled_by_itself(self) -> None:
        async def handler(connection: ServerConnection) -> None:
            with trio.move_on_after(0.01):
                async for message in connection:
                    await connection.send(message)
            await connection.send("timed out")

        async with serving(handler) as (_server, uri), connect(uri) as connection:
            assert await connection.recv() == "timed out"
            with pytest.raises(ConnectionClosedOK):
                await connection.recv()

    @trio_test
    async def test_fault_of_a_handler(self) -> None:
        async def handler(connection: ServerConnection) -> None:
            raise ZeroDivisionError

        async with serving(handler) as (_server, uri), connect(uri) as connection:
            with pytest.raises(ConnectionClosedError, match="received 1011"):
                await connection.recv()
        logged_errors("connection handler failed")

    @trio_test
    async def test_serve_returns_when_it_is_closed(self) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, echo, 0)
            async with server:
                assert isinstance(server, Server)
                with pytest.raises(RuntimeError, match="running already"):
                    await server.serve_forever()
            await server.aclose()
            assert not nursery.child_tasks


async def _connected(uri: str, context: ssl.SSLContext | None = None, *, task_status: Any) -> None:
    """Hold a connection, in the background."""
    with contextlib.suppress(ConnectionClosedError):
        async with connect(uri, ssl=context) as connection:
            task_status.started(connection)
            await trio.sleep_forever()


class TestAclose:
    @trio_test
    async def test_waits_for_handlers(self) -> None:
        ended: list[str] = []

        async def handler(connection: ServerConnection) -> None:
            with pytest.raises(ConnectionClosedOK):
                await connection.recv()
            await trio.sleep(0.02)
            ended.append("handler")

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, handler, 0)
            port = server.listeners[0].socket.getsockname()[1]
            async with connect(f"ws://localhost:{port}") as connection:
                async with trio.open_nursery() as closing:
                    closing.start_soon(server.aclose)
                    with pytest.raises(ConnectionClosedOK, match="1001"):
                        await connection.recv()
                assert ended == ["handler"]

    @trio_test
    async def test_by_a_handler(self) -> None:
        closed = trio.Event()

        async def handler(connection: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosedError):
                async for _ in connection:
                    await connection.server.aclose(code=1012, reason="again")
                    closed.set()

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, handler, 0)
            port = server.listeners[0].socket.getsockname()[1]
            uri = f"ws://localhost:{port}"
            async with connect(uri) as other, connect(uri) as connection:
                await connection.send("close")
                for client in (other, connection):
                    with pytest.raises(ConnectionClosedError, match=r"1012 .* again"):
                        await client.recv()
                await closed.wait()
            await server.aclose()

    @trio_test
    async def test_cancelled(self) -> None:
        async def handler(connection: ServerConnection) -> None:
            await trio.sleep_forever()

        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            server = await nursery.start(serve, handler, 0)
            port = server.listeners[0].socket.getsockname()[1]
            connection = await outer.start(_connected, f"ws://localhost:{port}")
            with trio.move_on_after(0.01) as scope:
                await server.aclose()
            assert scope.cancelled_caught
            await connection.wait_closed()
            await until(lambda: not nursery.child_tasks)
            outer.cancel_scope.cancel()

    @trio_test
    async def test_refused_code(self) -> None:
        async with serving() as (server, uri):
            with pytest.raises(ProtocolError):
                await server.aclose(code=1005)
            async with connect(uri) as connection:
                await connection.send("still open")
                assert await connection.recv() == "still open"

    @virtual_time_test
    async def test_peer_that_does_not_answer(self) -> None:
        listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, echo, listeners=[listener]))
            stream = await listener.connect()
            async with connect("ws://localhost/", stream=stream, ping_interval=None) as connection:
                connection._transport.receive = trio.sleep_forever  # type: ignore[assignment] # it never returns
                start = trio.current_time()
                await server.aclose()
                assert 10 <= trio.current_time() - start < 11
                connection._abort()


class MemoryListener(trio.abc.Listener[Any]):
    """Listener for connections within the process."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Any](10)

    async def connect(self) -> Any:
        one, other = trio.testing.memory_stream_pair()
        await self._send.send(other)
        return one

    async def accept(self) -> Any:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._receive.close()
        self._send.close()
        await trio.lowlevel.checkpoint()


class LateListener(MemoryListener):
    """Listener that accepts a connection when its server has just begun to close."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self.nursery = nursery
        self.server: Server

    async def accept(self) -> Any:
        stream = await super().accept()
        self.nursery.start_soon(self.server.aclose)
        with trio.CancelScope(shield=True):
            await until(lambda: self.server._closing)
        return stream


class TestAcceptedWhileClosing:
    @trio_test
    async def test_refused(self) -> None:
        async with trio.open_nursery() as nursery:
            listener = LateListener(nursery)
            listener.server = await nursery.start(
                functools.partial(serve, echo, listeners=[listener])
            )
            stream = await listener.connect()
            with pytest.raises(InvalidStatus, match="503"):
                async with connect("ws://localhost/", stream=stream):
                    pass

    @trio_test
    async def test_tls_handshake_is_given_up(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async with trio.open_nursery() as nursery:
            listener = LateListener(nursery)
            listener.server = await nursery.start(
                functools.partial(serve, echo, listeners=[listener], ssl=tls[0])
            )
            stream = await listener.connect()
            with pytest.raises(OSError):
                async with connect("wss://localhost/", stream=stream, ssl=tls[1]):
                    pass


class TestListeners:
    @trio_test
    async def test_of_any_kind(self) -> None:
        listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, echo, listeners=[listener]))
            stream = await listener.connect()
            async with connect("ws://localhost/", stream=stream) as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            await server.aclose()

    @trio_test
    async def test_given(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, echo, listeners=listeners))
            assert server.listeners == listeners
            port = listeners[0].socket.getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}") as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            await server.aclose()
        assert listeners[0].socket.fileno() == -1

    @pytest.mark.parametrize(
        "options",
        [{}, *({"listeners": [], name: 1} for name in ("port", "backlog"))],
        ids=lambda options: " ".join(options),
    )
    @trio_test
    async def test_contradictions(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="port"):
            await serve(echo, **options)

    @trio_test
    async def test_unknown_options(self) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await serve(echo, 0, reuse_port=True)  # type: ignore[call-arg] # wrong on purpose

    @trio_test
    async def test_address_in_use(self) -> None:
        async with serving() as (server, _uri):
            port = server.listeners[0].socket.getsockname()[1]
            with pytest.raises(OSError):
                await serve(echo, port, host="127.0.0.1")

    @trio_test
    async def test_direct_use(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery, Server(listeners, echo) as server:
            await nursery.start(server.serve_forever)
            async with connect(f"ws://127.0.0.1:{port}") as connection:
                assert len(server.connections) == 1
                await connection.send("hello")
                assert await connection.recv() == "hello"
        assert not server.connections

    @trio_test
    async def test_closed_without_being_used(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with Server(listeners, echo):
            pass
        assert listeners[0].socket.fileno() == -1

    @trio_test
    async def test_closing_is_cancelled_without_being_used(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(listeners, echo)
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.aclose()
        assert scope.cancelled_caught
        assert listeners[0].socket.fileno() == -1


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
class TestUnix:
    @trio_test
    async def test_serve(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(unix_serve, echo, path)
                async with unix_connect(path) as connection:
                    await connection.send("hello")
                    assert await connection.recv() == "hello"
                    assert connection.remote_address == os.fspath(path)
                await server.aclose()
            assert not path.exists()
            # What another server has left.
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(os.fspath(path))

    @trio_test
    async def test_another_server_has_the_path_by_now(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            server = await nursery.start(unix_serve, echo, path)
            new_server = await nursery.start(unix_serve, echo, path)
            await server.aclose()
            async with unix_connect(path) as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            await new_server.aclose()
        assert not path.exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has an abstract namespace")
    @trio_test
    async def test_abstract_namespace(self, tmp_path: Path) -> None:
        path = f"\0{tmp_path}"
        async with trio.open_nursery() as nursery:
            server = await nursery.start(unix_serve, echo, path)
            async with unix_connect(path) as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            await server.aclose()

    @trio_test
    async def test_not_a_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        with pytest.raises(OSError):
            await unix_serve(echo, path)
        assert path.exists()

    @trio_test
    async def test_no_listeners(self, tmp_path: Path) -> None:
        for function in (serve, unix_serve):
            with pytest.raises(ValueError, match="one or more"):
                await function(echo, listeners=[])

    @trio_test
    async def test_path_and_listeners(self, tmp_path: Path) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with pytest.raises(ValueError, match="exactly one"):
            await unix_serve(echo, tmp_path / "socket", listeners=listeners)
        await listeners[0].aclose()

    @trio_test
    async def test_route(self, tmp_path: Path) -> None:
        routing = pytest.importorskip("werkzeug.routing")
        url_map = routing.Map([routing.Rule("/echo", endpoint=echo)])
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            server = await nursery.start(unix_route, url_map, path)
            async with unix_connect(path, "ws://localhost/echo") as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            await server.aclose()


class TestRoute:
    @trio_test
    async def test_parameters(self) -> None:
        routing = pytest.importorskip("werkzeug.routing")

        async def handler(connection: ServerConnection, name: str) -> None:
            await connection.send(f"{connection.username} asks for {name}")

        async def check(_username: str, password: str) -> bool:
            await trio.sleep(0)
            return password == "secret"

        url_map = routing.Map([routing.Rule("/<name>", endpoint=handler)])
        auth = basic_auth("realm", check_credentials=check)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                functools.partial(route, url_map, 0, host="127.0.0.1", process_request=auth)
            )
            port = server.listeners[0].socket.getsockname()[1]
            async with connect(f"ws://anna:secret@127.0.0.1:{port}/tea") as connection:
                assert await connection.recv() == "anna asks for tea"
            await server.aclose()


class TestTLS:
    @trio_test
    async def test_messages(self, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        async with serving(ssl=tls[0]) as (_server, uri):
            async with connect(uri, ssl=tls[1]) as connection:
                for message in ("hello", bytes(2**19), "x" * 100):
                    await connection.send(message)
                    assert await connection.recv() == message
                for i in range(300):
                    await connection.send(str(i))
                assert [await connection.recv() for _ in range(300)] == [*map(str, range(300))]
                assert connection.remote_address[0] in ("127.0.0.1", "::1")
                assert connection.stream.getpeercert()
            assert connection.close_code == 1000

    @trio_test
    async def test_without_a_limit_of_time(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async with serving(ssl=tls[0], open_timeout=None) as (_server, uri):
            async with connect(uri, ssl=tls[1]) as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"

    @trio_test
    async def test_clients_without_tls(self, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        async with serving(ssl=tls[0], open_timeout=0.5) as (server, uri):
            port = server.listeners[0].socket.getsockname()[1]
            for data in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01"):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(data)
                    with contextlib.suppress(trio.BrokenResourceError):
                        while await stream.receive_some():
                            pass
            await until(lambda: not server._handlers)
            async with connect(uri, ssl=tls[1]) as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"

    @trio_test
    async def test_peer_ends_tls_without_saying_so(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        caught: list[Exception] = []

        async def handler(connection: ServerConnection) -> None:
            try:
                await connection.recv()
            except ConnectionClosedError as exc:
                caught.append(exc)

        async with serving(handler, ssl=tls[0]) as (_server, uri):
            async with connect(uri, ssl=tls[1]) as connection:
                await connection.stream.transport_stream.aclose()
                await until(lambda: caught)
                assert isinstance(caught[0].__cause__, EOFError)
                assert connection.state is State.OPEN or connection.state is State.CLOSED

    @trio_test
    async def test_cancelled(self, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        async def handler(connection: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosedError):
                async for _ in connection:
                    pass

        async with serving(handler, ssl=tls[0]) as (server, uri):
            with trio.CancelScope() as scope:
                async with connect(uri, ssl=tls[1]) as connection:
                    scope.deadline = trio.current_time() + 0.05
                    while True:
                        await connection.send(bytes(100_000))
            assert scope.cancelled_caught
            assert connection.state is State.CLOSED
            await until(lambda: not server._connections)
