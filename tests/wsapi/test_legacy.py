"""The deprecated interface on the asyncio front-end, as programs use it."""

from __future__ import annotations

import asyncio
import http
import logging
import socket
import ssl
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import TEXT, frame, logged_errors, port_of, raw_client, until, uri_of
from wsapi.datastructures import Headers
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidState
from wsapi.limits import Slow
from wsapi.protocol import Side, State

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from wsapi.legacy import auth, handshake
    from wsapi.legacy.auth import basic_auth_protocol_factory
    from wsapi.legacy.client import WebSocketClientProtocol, connect, unix_connect
    from wsapi.legacy.exceptions import AbortHandshake, InvalidStatusCode, RedirectHandshake
    from wsapi.legacy.protocol import WebSocketCommonProtocol
    from wsapi.legacy.server import (
        HTTPResponse,
        WebSocketServer,
        WebSocketServerProtocol,
        broadcast,
        serve,
        unix_serve,
    )


async def echo(ws: WebSocketServerProtocol) -> None:
    async for message in ws:
        await ws.send(message)


async def nothing(ws: WebSocketServerProtocol) -> None:
    await ws.wait_closed()


async def test_connection() -> None:
    seen: list[WebSocketServerProtocol] = []

    async def handler(ws: WebSocketServerProtocol) -> None:
        seen.append(ws)
        await echo(ws)

    async with serve(handler, "127.0.0.1", 0, extra_headers={"X-Server": "1"}) as server:
        assert isinstance(server, WebSocketServer)
        async with connect(uri_of(server, "/p?q"), extra_headers={"X-Client": "2"}) as ws:
            assert isinstance(ws, WebSocketClientProtocol)
            await ws.send("é")
            assert await ws.recv() == "é"
            await ws.send([b"a", b"b"])
            assert await ws.recv() == b"ab"
            assert await (await ws.ping()) > 0
            await ws.pong()
            await ws.ensure_open()
            assert (ws.open, ws.closed, ws.state) == (True, False, State.OPEN)
            assert ws.path == seen[0].path == "/p?q"
            assert ws.request_headers["X-Client"] == seen[0].request_headers["X-Client"] == "2"
            assert ws.response_headers["X-Server"] == seen[0].response_headers["X-Server"] == "1"
            assert [extension.name for extension in ws.extensions] == ["permessage-deflate"]
            assert ws.remote_address == seen[0].local_address
            assert server.websockets == set(seen)
            assert (ws.is_client, seen[0].is_client) == (True, False)
            assert seen[0].ws_server is server
        assert (ws.open, ws.closed, ws.close_code, ws.close_reason) == (False, True, 1000, "")
        assert ws.close_sent == ws.close_rcvd
        with pytest.raises(ConnectionClosedOK):
            await ws.recv()
        with pytest.raises(ConnectionClosedOK):
            await ws.ensure_open()
        await until(lambda: not server.websockets)
    assert server.sockets == ()


async def test_awaiting_and_closing_the_server() -> None:
    server = await serve(echo, "127.0.0.1", 0)
    assert server.is_serving()
    ws = await connect(uri_of(server))
    server.close()
    await server.wait_closed()
    assert not server.is_serving()
    await ws.wait_closed()
    assert ws.close_code == 1001


async def test_draining_the_server() -> None:
    asked = []

    async def process_request(path: str, _headers: Headers) -> None:
        asked.append(path)

    async with serve(echo, "127.0.0.1", 0, process_request=process_request) as server:
        async with connect(uri_of(server)) as ws:
            draining = asyncio.create_task(server.drain(timeout=1000, spread=1000))
            await until(server.draining.is_set)
            with pytest.raises(InvalidStatusCode) as raised:
                await connect(uri_of(server))
            assert raised.value.status_code == 503
            assert raised.value.headers["Retry-After"] == "1"
            assert len(asked) == 1
            await ws.send("hello")
            assert await ws.recv() == "hello"
            server.close()
            await draining
            await ws.wait_closed()
            assert ws.close_code == 1001


async def test_handler_that_takes_the_path() -> None:
    async def handler(ws: WebSocketServerProtocol, path: str) -> None:
        await ws.send(path)

    with pytest.warns(DeprecationWarning, match="^remove second argument of ws_handler$"):
        serving = serve(handler, "127.0.0.1", 0)
    async with serving as server:
        async with connect(uri_of(server, "/a")) as ws:
            assert await ws.recv() == "/a"


async def test_handler_that_fails() -> None:
    async def handler(ws: WebSocketServerProtocol) -> None:
        raise ValueError("no")

    async with serve(handler, "127.0.0.1", 0) as server:
        async with connect(uri_of(server)) as ws:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1011
    logged_errors("connection handler failed")


async def test_handler_that_takes_something_else() -> None:
    async def handler() -> None: ...

    async with serve(handler, "127.0.0.1", 0) as server:  # type: ignore[arg-type] # the fault
        async with connect(uri_of(server)) as ws:
            with pytest.raises(ConnectionClosedError, match="1011"):
                await ws.recv()
    [record] = logged_errors("connection handler failed")
    assert record.exc_info is not None
    assert "takes 0 positional arguments" in str(record.exc_info[1])


async def test_handshake_that_is_cancelled() -> None:
    asked: list[WebSocketServerProtocol] = []

    class Deliberating(WebSocketServerProtocol):
        async def process_request(self, path: str, headers: Headers) -> HTTPResponse | None:
            asked.append(self)
            return await asyncio.Future()

    async with serve(nothing, "127.0.0.1", 0, create_protocol=Deliberating) as server:
        opening = asyncio.ensure_future(raw_client(server).__aenter__())
        await until(lambda: bool(asked))
        assert asked[0].handler_task is not None
        asked[0].handler_task.cancel()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await opening
        await until(lambda: asked[0].closed)
        assert not server.websockets


async def test_request_that_is_processed_for_too_long() -> None:
    async def process_request(path: str, headers: Headers) -> None:
        await asyncio.Future()

    options: dict[str, Any] = {"process_request": process_request, "open_timeout": 0.03}
    async with serve(nothing, "127.0.0.1", 0, **options) as server:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await raw_client(server).__aenter__()
        await until(lambda: not server.websockets)


async def test_server_that_nothing_starts() -> None:
    with pytest.raises(RuntimeError, match=r"^a WebSocketServer is started by serve\(\)$"):
        await WebSocketServer()


async def test_compression() -> None:
    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        async with connect(uri_of(server)) as ws:
            await ws.send("plain")
            assert await ws.recv() == "plain"
            assert ws.extensions == []
    with pytest.raises(ValueError, match=r"^unsupported compression: br$"):
        serve(echo, "127.0.0.1", 0, compression="br")


@pytest.mark.parametrize("how", ["argument", "method", "plain method", "raised", "plain"])
async def test_response_of_the_application(how: str) -> None:
    response: HTTPResponse = (http.HTTPStatus.NOT_FOUND, [("X-A", "b")], b"no\n")

    async def process_request(path: str, headers: Headers) -> HTTPResponse | None:
        if how == "raised":
            raise AbortHandshake(*response)
        return response if path == "/no" and headers["X-C"] == "d" else None

    class Refusing(WebSocketServerProtocol):
        async def process_request(self, path: str, headers: Headers) -> HTTPResponse | None:
            return response

    options: dict[str, Any] = {"process_request": process_request}
    if how == "method":
        options = {"create_protocol": Refusing}

    class Plain(WebSocketServerProtocol):
        def process_request(  # type: ignore[override] # as before it was a coroutine function
            self, path: str, headers: Headers
        ) -> HTTPResponse | None:
            return response

    if how == "plain method":
        options = {"create_protocol": Plain}
    if how == "plain":
        options = {"process_request": lambda path, headers: response}
    async with serve(nothing, "127.0.0.1", 0, **options) as server:
        with warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always")
            with pytest.raises(InvalidStatusCode) as caught:
                await connect(uri_of(server, "/no"), extra_headers=[("X-C", "d")])
        texts = ["declare process_request as a coroutine"] if how.startswith("plain") else []
        assert [str(warning.message) for warning in caught_warnings] == texts
        assert caught.value.status_code == 404
        assert str(caught.value) == "server rejected WebSocket connection: HTTP 404"
        headers = caught.value.headers
        assert (headers["X-A"], headers["Content-Length"]) == ("b", "3")
        assert headers["Connection"] == "close"
        assert headers["Content-Type"] == "text/plain"
        assert "Server" in headers


async def test_response_with_headers_of_its_own() -> None:
    async def process_request(path: str, headers: Headers) -> HTTPResponse:
        return http.HTTPStatus.OK, {"Content-Type": "application/json", "X-A": "b"}, b"{}"

    async with serve(nothing, "127.0.0.1", 0, process_request=process_request) as server:
        with pytest.raises(InvalidStatusCode) as caught:
            await connect(uri_of(server))
    assert caught.value.headers.get_all("Content-Type") == ["application/json"]
    assert caught.value.headers.get_all("Content-Length") == ["2"]


async def test_connection_that_is_open_already() -> None:
    class Bare(WebSocketCommonProtocol):
        is_client = False
        side = Side.SERVER

    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs:
        loop = asyncio.get_running_loop()
        _, ws = await loop.connect_accepted_socket(lambda: Bare(max_size=2), ours)
        theirs.sendall(frame(TEXT, b"hi", masked=True) + frame(TEXT, b"long", masked=True))
        theirs.shutdown(socket.SHUT_WR)
        assert await ws.recv() == "hi"
        with pytest.raises(ConnectionClosedError, match="1009"):
            await ws.recv()


async def test_refusals_by_the_rules() -> None:
    async def process_request(path: str, headers: Headers) -> None:
        handshake.check_request(headers)

    async with serve(nothing, "127.0.0.1", 0, process_request=process_request) as server:
        async with raw_client(server, b"") as peer:
            peer.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await peer.read_to_end()
    assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in head


async def test_origins() -> None:
    with pytest.warns(DeprecationWarning, match="^use None instead of '' in origins$"):
        protocol = WebSocketServerProtocol(nothing, WebSocketServer(), origins=["", "http://a"])  # type: ignore[list-item] # a str is one
    assert protocol.origins == [None, "http://a"]
    protocol.connection_lost(None)
    async with serve(nothing, "127.0.0.1", 0, origins=["http://a"]) as server:  # type: ignore[list-item] # a str is one
        async with connect(uri_of(server), origin="http://a"):  # type: ignore[arg-type] # a str is one
            (connection,) = server.websockets
            assert connection.origin == "http://a"
        with pytest.raises(InvalidStatusCode, match="403"):
            await connect(uri_of(server))


async def test_subprotocols() -> None:
    async with serve(nothing, "127.0.0.1", 0, subprotocols=["a", "b", "c"]) as server:  # type: ignore[list-item] # a str is one
        for offered, chosen in [
            (["c", "b", "a"], "b"),
            (["d", "c"], "c"),
            (["d"], None),
            ([], None),
        ]:
            async with connect(uri_of(server), subprotocols=offered) as ws:  # type: ignore[arg-type] # a str is one
                if offered == ["c", "b", "a"]:
                    assert ws.subprotocol in offered  # each is as good for both together
                else:
                    assert ws.subprotocol == chosen

    class Stubborn(WebSocketServerProtocol):
        def process_subprotocol(self, headers: Headers, available: Any) -> Any:
            return headers["Sec-WebSocket-Protocol"].split(", ")[-1]

    async with serve(nothing, "127.0.0.1", 0, create_protocol=Stubborn) as server:
        async with connect(uri_of(server), subprotocols=["a", "b"]) as ws:  # type: ignore[list-item] # a str is one
            assert ws.subprotocol == "b"
    select = mock.Mock(return_value="x")
    options: Any = {"subprotocols": ["y", "x"], "select_subprotocol": select}
    async with serve(nothing, "127.0.0.1", 0, **options) as server:
        async with connect(uri_of(server), subprotocols=["x", "z"]) as ws:  # type: ignore[list-item] # a str is one
            assert ws.subprotocol == "x"
    select.assert_called_once_with(["x", "z"], ["y", "x"])


async def test_headers_by_a_callable() -> None:
    def headers(path: str, request_headers: Headers) -> dict[str, str]:
        return {"X-Path": path, "X-Host": request_headers["Host"]}

    async with serve(nothing, "127.0.0.1", 0, extra_headers=headers, server_header=None) as server:
        async with connect(uri_of(server, "/p")) as ws:
            assert ws.response_headers["X-Path"] == "/p"
            assert ws.response_headers["X-Host"] == f"127.0.0.1:{port_of(server)}"
            assert "Server" not in ws.response_headers


async def test_no_headers_by_a_callable() -> None:
    headers: Any = lambda path, request_headers: None  # noqa: E731 # as programs have it
    async with serve(nothing, "127.0.0.1", 0, extra_headers=headers) as server:
        async with connect(uri_of(server)) as ws:
            assert "Server" in ws.response_headers


async def test_subclasses_get_the_arguments() -> None:
    class Server(WebSocketServerProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.arguments = args, kwargs
            super().__init__(*args, **kwargs)

    class Client(WebSocketClientProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.arguments = args, kwargs
            super().__init__(*args, **kwargs)

    options: Any = {"max_size": 100, "ping_interval": 7, "close_timeout": 3, "max_queue": 4}
    async with serve(echo, "127.0.0.1", 0, create_protocol=Server, **options) as server:
        async with connect(uri_of(server), create_protocol=Client, **options) as ws:
            assert isinstance(ws, Client)
            (connection,) = server.websockets
            assert isinstance(connection, Server)
            assert connection.arguments[0] == (echo, server)
            for found in (ws.arguments[1], connection.arguments[1]):
                assert {name: found[name] for name in options} == options
            assert (ws.max_size, ws.ping_interval, ws.close_timeout) == (100, 7, 3)
            assert ws.arguments[1]["host"] == "127.0.0.1"
            with pytest.warns(DeprecationWarning, match="^use remote_address.1. instead of port$"):
                assert ws.port == port_of(server)
            with pytest.warns(DeprecationWarning, match="^use local_address.0. instead of host$"):
                assert connection.host == "127.0.0.1"
            with pytest.warns(DeprecationWarning, match="^don't use secure$"):
                assert connection.secure is False


async def test_older_names_of_options() -> None:
    with pytest.warns(DeprecationWarning, match="rename") as caught:
        serving = serve(echo, "127.0.0.1", 0, timeout=3, klass=WebSocketServerProtocol)
    texts = ["rename timeout to close_timeout", "rename klass to create_protocol"]
    assert [str(warning.message) for warning in caught] == texts
    assert {warning.filename for warning in caught} == {__file__}
    async with serving as server:
        loop = asyncio.get_running_loop()
        with pytest.warns(DeprecationWarning, match="rename|remove") as caught:
            connecting = connect(
                uri_of(server), timeout=4, klass=WebSocketClientProtocol, loop=loop
            )
        assert [str(warning.message) for warning in caught] == [*texts, "remove loop argument"]
        async with connecting as ws:
            (connection,) = server.websockets
            assert (ws.close_timeout, connection.close_timeout) == (4, 3)
    with pytest.raises(TypeError, match="legacy_recv"):
        connect("ws://localhost", legacy_recv=True)
    with pytest.raises(ValueError, match="unsupported compression: x"):
        serve(echo, compression="x")


async def test_failing_a_connection() -> None:
    async with serve(nothing, "127.0.0.1", 0) as server:
        async with connect(uri_of(server)) as ws:
            (connection,) = server.websockets
            connection.fail_connection(1012, "restart")
            with pytest.raises(ConnectionClosedError, match=r"1012 \(service restart\) restart"):
                await ws.recv()
        async with connect(uri_of(server)) as ws:
            (connection,) = server.websockets
            connection.fail_connection()
            with pytest.raises(ConnectionClosedError, match="no close frame received"):
                await ws.recv()
            await until(lambda: not server.websockets)
            connection.fail_connection()


async def test_server_that_is_given() -> None:
    """A connection belongs to whatever has the methods of a server, and is fed by hand."""

    class Registry:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def register(self, ws: WebSocketServerProtocol) -> None:
            self.calls.append("register")

        def unregister(self, ws: WebSocketServerProtocol) -> None:
            self.calls.append("unregister")

        def is_serving(self) -> bool:
            return "closing" not in self.calls

    registry = Registry()
    for status in (b"101", b"503"):
        transport = mock.Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        written: list[bytes] = []
        transport.write.side_effect = written.append
        connection = WebSocketServerProtocol(nothing, registry)  # type: ignore[arg-type] # a duck
        connection.connection_made(transport)
        with pytest.raises(InvalidState):
            await connection.ensure_open()
        with pytest.raises(AttributeError, match="no request before the opening handshake"):
            connection.path  # noqa: B018 # it raises
        headers = Headers(Host="localhost")
        handshake.build_request(headers)
        connection.data_received(b"GET /x HTTP/1.1\r\n" + headers.serialize())
        while not written:
            await asyncio.sleep(0)
        assert written[0].startswith(b"HTTP/1.1 " + status)
        connection.connection_lost(None)
        assert connection.handler_task is not None
        await connection.handler_task
        registry.calls.append("closing")
    assert registry.calls == ["register", "unregister", "closing"] * 2
    connection = WebSocketServerProtocol(nothing, registry)  # type: ignore[arg-type] # a duck
    connection.connection_made(transport)
    connection.connection_lost(None)
    assert registry.calls[-2:] == ["register", "unregister"]


@pytest.mark.parametrize("kind", ["credentials", "list", "function", "method"])
async def test_basic_auth(kind: str) -> None:
    async def check(username: str, password: str) -> bool:
        return (username, password) == ("lea", "x")

    class Checking(auth.BasicAuthWebSocketServerProtocol):
        async def check_credentials(self, username: str, password: str) -> bool:
            return await check(username, password)

    options: Any = {
        "credentials": {"credentials": ("lea", "x")},
        "list": {"credentials": [("lea", "x"), ("tom", "z")]},
        "function": {"check_credentials": check},
        "method": {"check_credentials": check, "create_protocol": Checking},
    }[kind]
    factory = basic_auth_protocol_factory(realm="r", **options)

    async def handler(ws: WebSocketServerProtocol) -> None:
        assert isinstance(ws, auth.BasicAuthWebSocketServerProtocol)
        await ws.send(ws.username)

    async with serve(handler, "127.0.0.1", 0, create_protocol=factory) as server:
        async with connect(f"ws://lea:x@127.0.0.1:{port_of(server)}") as ws:
            assert await ws.recv() == "lea"
        for headers in [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic bGVhOnk="}]:
            with pytest.raises(InvalidStatusCode, match="HTTP 401") as caught:
                await connect(uri_of(server), extra_headers=headers)
            assert caught.value.headers["WWW-Authenticate"] == 'Basic realm="r", charset="UTF-8"'


def test_arguments_of_basic_auth() -> None:
    with pytest.raises(TypeError, match="provide either credentials or check_credentials"):
        basic_auth_protocol_factory("r")
    with pytest.raises(TypeError, match="invalid credentials argument: "):
        basic_auth_protocol_factory("r", credentials=["lea"])  # type: ignore[list-item] # on purpose


async def test_nobody_passes_without_credentials() -> None:
    class Bare(auth.BasicAuthWebSocketServerProtocol):
        realm = "bare"

    async with serve(nothing, "127.0.0.1", 0, create_protocol=Bare) as server:
        with pytest.raises(InvalidStatusCode, match="HTTP 401"):
            await connect(f"ws://lea:x@127.0.0.1:{port_of(server)}")


async def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with serve(echo, "localhost", 0, ssl=tls[0]) as server:
        async with connect(f"wss://localhost:{port_of(server)}", ssl=tls[1]) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
async def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with unix_serve(echo, path):
        async with unix_connect(path) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"


async def test_broadcast_and_reconnection() -> None:
    async with serve(nothing, "127.0.0.1", 0) as server:
        number = 0
        async for ws in connect(uri_of(server)):
            broadcast(server.websockets, "x")  # type: ignore[arg-type] # a set of a subclass
            assert await ws.recv() == "x"
            number += 1
            if number == 2:
                await ws.close()
                break


async def test_what_slow_clients_miss_is_counted() -> None:
    async with serve(nothing, "127.0.0.1", 0, compression=None) as server:
        async with connect(uri_of(server), max_size=None) as ws:
            for size in (2**23, 1, 1):  # the first one is more than the network takes at once
                message = "x" * size
                broadcast(
                    server.websockets,  # type: ignore[arg-type] # a set of a subclass
                    message,
                    slow=Slow.DROP_NEWEST,
                    max_backlog=0,
                )
            assert server.stats().dropped == {"drop newest": 2}
            assert len(await ws.recv()) == 2**23


async def test_records_have_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(echo, "127.0.0.1", 0) as server:
        async with connect(uri_of(server)):
            pass
        await until(lambda: "connection closed" in caplog.messages)
    records = [record for record in caplog.records if record.name == "wsapi.server"]
    assert "connection open" in [record.getMessage() for record in records]


def test_doubles_by_specification() -> None:
    double = mock.Mock(spec=WebSocketServerProtocol)
    for name in ("recv", "send", "close", "open", "closed", "path", "request_headers", "ws_server"):
        if name != "ws_server":
            getattr(double, name)
    assert isinstance(double, WebSocketServerProtocol)
    assert isinstance(mock.Mock(spec=WebSocketClientProtocol), WebSocketCommonProtocol)


def test_overrides_that_nothing_calls() -> None:
    with pytest.raises(TypeError, match=r"read_http_request\(\) isn't called by anything"):

        class Other(WebSocketServerProtocol):
            async def read_http_request(self) -> None: ...


def test_exceptions() -> None:
    exc = AbortHandshake(404, {"A": "b"}, b"xy")
    assert (exc.status, exc.headers, exc.body) == (404, Headers(A="b"), b"xy")
    assert str(exc) == "HTTP 404, 1 headers, 2 bytes"
    redirect = RedirectHandshake("ws://u:hunter2@a/")
    assert redirect.uri == "ws://u:hunter2@a/"
    assert str(redirect) == "redirect to ws://u:***@a/"
    assert repr(redirect) == "RedirectHandshake('ws://u:***@a/')"


def test_handshake() -> None:
    request, response = Headers(Host="a"), Headers()
    key = handshake.build_request(request)
    assert handshake.check_request(request) == key
    handshake.build_response(response, key)
    handshake.check_response(response, key)


UVICORN = """
import asyncio, warnings, wsapi
wsapi.install_as_websockets()
warnings.simplefilter("ignore", DeprecationWarning)
import uvicorn
from websockets.asyncio.client import connect

async def app(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/no":
        return await send({"type": "websocket.close"})
    await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-a", b"c")]})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
    print(event["type"], event["code"])

async def main():
    config = uvicorn.Config(app, port=0, ws="websockets", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    uri = f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    async with connect(uri, subprotocols=["a", "b"]) as ws:
        await ws.send("text")
        print(await ws.recv(), ws.subprotocol, ws.response.headers["x-a"])
        await ws.send(b"bytes")
        print(await ws.recv())
    try:
        await connect(f"{uri}/no")
    except Exception as exc:
        print(exc)
    async with connect(uri, subprotocols=["b"]) as ws:
        server.should_exit = True
        try:
            await ws.recv()
        except Exception as exc:
            print(exc)
    await running

asyncio.run(main())
"""


def test_uvicorn() -> None:
    """uvicorn's implementation on the deprecated interface runs on this one, unchanged."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UVICORN)], capture_output=True, text=True, timeout=50
    )
    *lines, last, last_but_one = result.stdout.splitlines()
    assert lines == [
        "text b c",
        "b'bytes'",
        "websocket.disconnect 1000",
        "server rejected WebSocket connection: HTTP 403",
    ], result.stderr
    assert {last, last_but_one} == {
        "received 1012 (service restart); then sent 1012 (service restart)",
        "websocket.disconnect 1012",
    }


async def test_secrets_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cookies = {"Set-Cookie": "session=hunter2"}
    protocol = basic_auth_protocol_factory(credentials=("user", "hunter2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        async with serve(
            nothing, "127.0.0.1", 0, create_protocol=protocol, extra_headers=cookies
        ) as server:
            uri = uri_of(server).replace("//", "//user:hunter2@")
            async with connect(uri) as ws:
                assert ws.response_headers["Set-Cookie"] == "session=hunter2"
    assert "hunter2" not in caplog.text
    for direction in "<>":
        assert f"{direction} Authorization: Basic ***" in caplog.messages
        assert f"{direction} Set-Cookie: ***" in caplog.messages
