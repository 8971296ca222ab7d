"""Dispatching of connections by URL, with werkzeug."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, port_of, raw_client, uri_of
from tests.wsapi.helpers import request as raw_request
from wsapi.asyncio.client import connect, unix_connect
from wsapi.asyncio.router import Router, route, unix_route
from wsapi.asyncio.server import Server, ServerConnection, basic_auth
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidStatus
from wsapi.http11 import Request, Response

routing = pytest.importorskip("werkzeug.routing", reason="werkzeug isn't installed")
Map, Rule, Subdomain = routing.Map, routing.Rule, routing.Subdomain


async def show(ws: ServerConnection, **kwargs: Any) -> None:
    await ws.send(repr(kwargs))


async def other(ws: ServerConnection) -> None:
    await ws.send("other")


def url_map(*rules: Any, **options: Any) -> Any:
    return Map(
        list(rules)
        or [
            Rule("/", endpoint=show),
            Rule("/other", endpoint=other),
            Rule("/item/<int:number>/", endpoint=show),
            Rule("/user/<name>", endpoint=show),
            Rule("/files/<path:path>", endpoint=show),
            Rule("/old/<name>", redirect_to="/user/<name>"),
            Rule("/posted", endpoint=show, methods=["GET"]),
        ],
        **options,
    )


@contextlib.asynccontextmanager
async def routing_server(*rules: Any, **options: Any) -> AsyncIterator[Server]:
    async with route(url_map(*rules), "127.0.0.1", 0, **options) as server:
        yield server


async def answer(server: Server, request: bytes) -> bytes:
    """Return all that a server answers to a request that it refuses."""
    async with raw_client(server, b"") as peer:
        peer.writer.write(request)
        return await peer.read_to_end()


async def refusal(server: Server, path: str) -> Response:
    """Return the response to a request, whatever it is."""
    host = f"127.0.0.1:{port_of(server)}"
    request = raw_request(f"GET {path} HTTP/1.1", Host=host)
    head, _, body = (await answer(server, request)).partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    _, code, reason = status_line.split(" ", 2)
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name] = value
    return Response(int(code), reason, headers, body)


@pytest.mark.parametrize(
    "path, message",
    [
        ("/", "{}"),
        ("/?query=1", "{}"),
        ("/other", "other"),
        ("/item/42/", "{'number': 42}"),
        ("/user/a%20b", "{'name': 'a%20b'}"),  # it's for the handler to decode it
        ("/user/a%2Fb?x=/", "{'name': 'a%2Fb'}"),
        ("/files/a/b/c.txt", "{'path': 'a/b/c.txt'}"),
    ],
)
async def test_handlers_get_parts_of_the_url(path: str, message: str) -> None:
    async with routing_server() as server:
        async with connect(uri_of(server, path)) as ws:
            assert await ws.recv() == message


@pytest.mark.parametrize("path", ["/nothing", "/item/x/", "/user/", "/other/"])
async def test_not_found(path: str) -> None:
    async with routing_server() as server:
        response = await refusal(server, path)
        assert (response.status_code, response.reason_phrase) == (404, "Not Found")
        assert response.body == b"Not Found"
        assert response.headers["Connection"] == "close"
        assert response.headers.get_all("Server")[1:] == []


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    "path, location",
    [
        ("/item/42", "/item/42/"),  # the rule has a slash
        ("/item/42?a=1&b=%20", "/item/42/?a=1&b=%20"),
        ("/old/me", "/user/me"),
        ("/user//%C3%A9%25", "/user/%C3%A9%25"),
        ("/old/%C3%A9%2F?a=%2525", "/user/%C3%A9%2F"),
        ("/files//%25?a=%2525", "/files/%25?a=%2525"),
    ],
)
async def test_redirections(path: str, location: str, secure: bool) -> None:
    options: dict[str, Any] = {"ssl": True} if secure else {}
    async with routing_server(**options) as server:
        response = await refusal(server, path)
        url = uri_of(server, location)
        if secure:
            url = url.replace("ws://", "wss://")
        assert (response.status_code, response.reason_phrase) == (302, "Found")
        assert response.headers["Location"] == url
        assert response.body == f"Found at {url}".encode()


async def test_absolute_form() -> None:
    # RFC 9112 section 3.2.2: a server must understand it.
    async with routing_server() as server:
        async with raw_client(server, raw_request("GET http://localhost/other?x HTTP/1.1")) as peer:
            assert (await peer.read_message())[1] == b"other"
            peer.write(8)


async def test_server_name() -> None:
    async with routing_server(server_name="public.example") as server:
        response = await refusal(server, "/item/42")
        assert response.headers["Location"] == "ws://public.example/item/42/"


async def test_host_matching() -> None:
    urls = Map(
        [
            Rule("/", host="a.example", endpoint=show),
            Rule("/", host="b.example:<port>", endpoint=show),
        ],
        host_matching=True,
    )
    async with route(urls, "127.0.0.1", 0) as server:
        host = ("127.0.0.1", server.sockets[0].getsockname()[1])
        for uri, message in [
            ("ws://a.example/", "{}"),
            ("ws://b.example:8000/", "{'port': '8000'}"),
        ]:
            async with connect(uri, host=host[0], port=host[1]) as ws:
                assert await ws.recv() == message
        with pytest.raises(InvalidStatus) as raised:
            await connect("ws://c.example/", host=host[0], port=host[1])
        assert raised.value.response.status_code == 404


@pytest.mark.parametrize(
    "headers, problem",
    [
        ({"without": "Host"}, "missing Host header"),
        ({"more": "Host: elsewhere\r\n"}, "invalid Host header: localhost, elsewhere"),
        ({"Host": "a" * 64 + ".example"}, f"invalid Host header: {'a' * 64}.example"),
    ],
)
async def test_unusable_host(headers: dict[str, str], problem: str) -> None:
    async with routing_server() as server:
        response = await answer(server, raw_request(**headers))
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    body = f"Failed to open a WebSocket connection: {problem}.\n"
    assert response.endswith(b"\r\n\r\n" + body.encode())


async def test_method_is_for_the_handshake_to_judge() -> None:
    async with routing_server() as server:
        for path in ("/", "/posted"):
            response = await answer(server, raw_request(f"POST {path} HTTP/1.1"))
            assert response.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
            assert b"\r\nAllow: GET\r\n" in response


async def test_process_request_comes_first() -> None:
    seen = []

    def process_request(connection: ServerConnection, request: Request) -> Response | None:
        seen.append((request.path, hasattr(connection, "handler")))
        if request.path == "/health":
            return connection.respond(200, "OK\n")
        return None

    async with routing_server(process_request=process_request) as server:
        assert (await refusal(server, "/health")).body == b"OK\n"
        assert (await refusal(server, "/nothing")).status_code == 404
        async with connect(uri_of(server, "/other")) as ws:
            assert await ws.recv() == "other"
    assert seen == [("/health", False), ("/nothing", False), ("/other", False)]


async def test_process_request_as_coroutine_function() -> None:
    auth = basic_auth(credentials=("a", "b"))
    async with routing_server(process_request=auth) as server:
        assert (await refusal(server, "/nothing")).status_code == 401
        async with connect(uri_of(server, "/other").replace("://", "://a:b@")) as ws:
            assert await ws.recv() == "other"


async def test_process_request_of_a_wrong_type() -> None:
    def process_request(connection: ServerConnection, request: Request) -> Any:
        return "no"

    async with routing_server(process_request=process_request) as server:
        assert (await refusal(server, "/")).status_code == 500
    logged_errors("process_request failed")


async def test_subclass() -> None:
    class MyRouter(Router):
        def get_server_name(self, connection: ServerConnection, request: Request) -> str:
            return "mine.example"

        def redirect(self, connection: ServerConnection, url: str) -> Response:
            response = super().redirect(connection, url)
            response.status_code, response.reason_phrase = 307, "Temporary Redirect"
            return response

        def not_found(self, connection: ServerConnection) -> Response:
            return connection.respond(404, "Nowhere\n")

        def route_request(self, connection: ServerConnection, request: Request) -> Response | None:
            response = super().route_request(connection, request)
            if response is None:
                connection.handler_kwargs = {**connection.handler_kwargs, "more": True}
            return response

        async def handler(self, connection: ServerConnection) -> None:
            await connection.send("first")
            await super().handler(connection)

    async with routing_server(create_router=MyRouter) as server:
        async with connect(uri_of(server, "/user/me")) as ws:
            assert [message async for message in ws] == ["first", "{'name': 'me', 'more': True}"]
        response = await refusal(server, "/item/1")
        assert response.status_code == 307
        assert response.headers["Location"] == "ws://mine.example/item/1/"
        assert (await refusal(server, "/nothing")).body == b"Nowhere\n"


async def test_create_router_gets_what_router_takes() -> None:
    calls = []

    def create_router(*args: Any) -> Router:
        calls.append(args[1:])
        return Router(*args)

    async with routing_server(create_router=create_router, server_name="x", ssl=True):
        pass
    assert calls == [("x", "wss")]


async def test_handler_and_its_arguments_are_attributes() -> None:
    connections = []

    async def handler(ws: ServerConnection, **kwargs: Any) -> None:
        connections.append(ws)

    async with routing_server(Rule("/<a>/<int:b>", endpoint=handler)) as server:
        async with connect(uri_of(server, "/x/1")) as ws:
            assert [message async for message in ws] == []
    assert connections[0].handler is handler
    assert connections[0].handler_kwargs == {"a": "x", "b": 1}


async def test_handler_that_fails() -> None:
    async def handler(ws: ServerConnection) -> None:
        raise RuntimeError("oops")

    async with routing_server(Rule("/", endpoint=handler)) as server:
        async with connect(uri_of(server)) as ws:
            await ws.wait_closed()
            assert ws.close_code == 1011
    logged_errors("connection handler failed")


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
async def test_unix_route(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with unix_route(url_map(), path):
        async with unix_connect(str(path), "ws://localhost/user/me") as ws:
            assert await ws.recv() == "{'name': 'me'}"


def test_rules_become_rules_for_websockets() -> None:
    urls = url_map()
    assert not any(rule.websocket for rule in urls.iter_rules())
    Router(urls)
    assert all(rule.websocket for rule in urls.iter_rules())


def test_tls_configuration_reaches_the_server() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    schemes = []

    def create_router(url_map: Any, server_name: str | None, url_scheme: str) -> Router:
        schemes.append(url_scheme)
        return Router(url_map, server_name, url_scheme)

    route(url_map(), "127.0.0.1", 0, ssl=context, create_router=create_router)
    assert schemes == ["wss"]


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"url_map": []}, "url_map must be a werkzeug.routing.Map, not list"),
        ({"create_router": 1}, "create_router must be a callable or None, not int"),
        ({"process_request": 1}, "process_request must be a callable or None, not int"),
        ({"ssl": 1}, "ssl must be an SSLContext or None, not int"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        route(**({"url_map": url_map()} | arguments))


@pytest.mark.parametrize("call", ["route({})", "unix_route({}, 'path')", "Router({})"])
def test_without_werkzeug(call: str) -> None:
    code = (
        "import sys; sys.modules['werkzeug'] = None; "
        "from wsapi.asyncio.router import Router, route, unix_route\n"
        f"try: {call}\nexcept ImportError as exc: print(exc)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "requires werkzeug: pip install 'wsproto-fast[router]'" in result.stdout, result.stderr
