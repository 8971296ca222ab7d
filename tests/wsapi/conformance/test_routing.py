"""Dispatching of connections by URL, with werkzeug."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Served, Ws
from tests.wsapi.helpers import logged_errors
from tests.wsapi.helpers import request as raw_request
from wsapi.http11 import Request, Response

routing = pytest.importorskip("werkzeug.routing", reason="werkzeug isn't installed")
Map, Rule, Subdomain = routing.Map, routing.Rule, routing.Subdomain


async def show_arguments(ws: Ws, **kwargs: Any) -> None:
    await ws.send(repr(kwargs))


async def say_other(ws: Ws) -> None:
    await ws.send("other")


def url_map(driver: Driver) -> Any:
    show, other = driver.endpoint(show_arguments), driver.endpoint(say_other)
    return Map(
        [
            Rule("/", endpoint=show),
            Rule("/other", endpoint=other),
            Rule("/item/<int:number>/", endpoint=show),
            Rule("/user/<name>", endpoint=show),
            Rule("/files/<path:path>", endpoint=show),
            Rule("/old/<name>", redirect_to="/user/<name>"),
            Rule("/posted", endpoint=show, methods=["GET"]),
        ]
    )


async def refusal(server: Served, path: str) -> Response:
    """Return the response to a request, whatever it is."""
    return await server.ask(raw_request(f"GET {path} HTTP/1.1", Host=f"{HOST}:{server.port}"))


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
async def test_handlers_get_parts_of_the_url(driver: Driver, path: str, message: str) -> None:
    async with driver.route(url_map(driver)) as server:
        async with driver.connect(server.uri(path)) as ws:
            assert await ws.recv() == message


@pytest.mark.parametrize("path", ["/nothing", "/item/x/", "/user/", "/other/"])
async def test_not_found(driver: Driver, path: str) -> None:
    async with driver.route(url_map(driver)) as server:
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
async def test_redirections(driver: Driver, path: str, location: str, secure: bool) -> None:
    options: dict[str, Any] = {"ssl": True} if secure else {}
    async with driver.route(url_map(driver), **options) as server:
        response = await refusal(server, path)
        url = server.uri(location)
        if secure:
            url = url.replace("ws://", "wss://")
        assert (response.status_code, response.reason_phrase) == (302, "Found")
        assert response.headers["Location"] == url
        assert response.body == f"Found at {url}".encode()


async def test_absolute_form(driver: Driver) -> None:
    # RFC 9112 section 3.2.2: a server must understand it.
    async with driver.route(url_map(driver)) as server:
        async with driver.raw_client(
            server, raw_request("GET http://localhost/other?x HTTP/1.1")
        ) as peer:
            assert (await peer.read_message())[1] == b"other"
            await peer.write(8)


async def test_server_name(driver: Driver) -> None:
    async with driver.route(url_map(driver), server_name="public.example") as server:
        response = await refusal(server, "/item/42")
        assert response.headers["Location"] == "ws://public.example/item/42/"


async def test_host_matching(driver: Driver) -> None:
    show = driver.endpoint(show_arguments)
    urls = Map(
        [
            Rule("/", host="a.example", endpoint=show),
            Rule("/", host="b.example:<port>", endpoint=show),
        ],
        host_matching=True,
    )
    async with driver.route(urls) as server:
        address = (HOST, server.port)
        for uri, message in [
            ("ws://a.example/", "{}"),
            ("ws://b.example:8000/", "{'port': '8000'}"),
        ]:
            async with driver.connect(uri, address=address) as ws:
                assert await ws.recv() == message
        response = await driver.rejection("ws://c.example/", address=address)
        assert response.status_code == 404


@pytest.mark.parametrize(
    "headers, problem",
    [
        ({"without": "Host"}, "missing Host header"),
        ({"more": "Host: elsewhere\r\n"}, "invalid Host header: localhost, elsewhere"),
        ({"Host": "a" * 64 + ".example"}, f"invalid Host header: {'a' * 64}.example"),
        *(
            ({"Host": host}, f"invalid Host header: {host}")
            for host in ("a b", "user:password@a", "a/?", "a#b", "[::1")
        ),
        ({"Host": ""}, "empty Host header"),
    ],
)
async def test_unusable_host(driver: Driver, headers: dict[str, str], problem: str) -> None:
    async with driver.route(url_map(driver)) as server:
        for path in ("/", "/old/a", "/item/1"):  # the latter two would be redirected
            response = await server.ask(raw_request(f"GET {path} HTTP/1.1", **headers))
            assert response.status_code == 400
            assert response.body.decode() == f"Failed to open a WebSocket connection: {problem}.\n"


async def test_method_is_for_the_handshake_to_judge(driver: Driver) -> None:
    async with driver.route(url_map(driver)) as server:
        for path in ("/", "/posted"):
            response = await server.ask(raw_request(f"POST {path} HTTP/1.1"))
            assert response.status_code == 405
            assert response.headers["Allow"] == "GET"


async def test_process_request_comes_first(driver: Driver) -> None:
    seen = []

    def process_request(connection: Ws, request: Request) -> Response | None:
        seen.append((request.path, hasattr(connection, "handler")))
        if request.path == "/health":
            return connection.respond(200, "OK\n")
        return None

    async with driver.route(url_map(driver), process_request=process_request) as server:
        assert (await refusal(server, "/health")).body == b"OK\n"
        assert (await refusal(server, "/nothing")).status_code == 404
        async with driver.connect(server.uri("/other")) as ws:
            assert await ws.recv() == "other"
    assert seen == [("/health", False), ("/nothing", False), ("/other", False)]


async def test_basic_auth_comes_first(driver: Driver) -> None:
    auth = driver.server.basic_auth(credentials=("a", "b"))
    async with driver.route(url_map(driver), process_request=auth) as server:
        assert (await refusal(server, "/nothing")).status_code == 401
        async with driver.connect(server.uri("/other").replace("://", "://a:b@")) as ws:
            assert await ws.recv() == "other"


async def test_process_request_of_a_wrong_type(driver: Driver) -> None:
    def process_request(connection: Ws, request: Request) -> Any:
        return "no"

    async with driver.route(url_map(driver), process_request=process_request) as server:
        assert (await refusal(server, "/")).status_code == 500
    logged_errors("process_request failed")


async def test_subclass(driver: Driver) -> None:
    class MyRouter(driver.router.Router):  # type: ignore[misc, name-defined] # of the front-end at hand
        def get_server_name(self, connection: Any, request: Request) -> str:
            return "mine.example"

        def redirect(self, connection: Any, url: str) -> Response:
            response: Response = super().redirect(connection, url)
            response.status_code, response.reason_phrase = 307, "Temporary Redirect"
            return response

        def not_found(self, connection: Any) -> Any:
            return connection.respond(404, "Nowhere\n")

        def route_request(self, connection: Any, request: Request) -> Any:
            response = super().route_request(connection, request)
            if response is None:
                connection.handler_kwargs = {**connection.handler_kwargs, "more": True}
            return response

    async def handler(self: Any, connection: Any) -> None:
        await driver.call(connection.send, "first")
        await driver.call(super(MyRouter, self).handler, connection)

    MyRouter.handler = driver.function(handler)
    async with driver.route(url_map(driver), create_router=MyRouter) as server:
        async with driver.connect(server.uri("/user/me")) as ws:
            assert [message async for message in ws] == ["first", "{'name': 'me', 'more': True}"]
        response = await refusal(server, "/item/1")
        assert response.status_code == 307
        assert response.headers["Location"] == "ws://mine.example/item/1/"
        assert (await refusal(server, "/nothing")).body == b"Nowhere\n"


async def test_create_router_gets_what_router_takes(driver: Driver) -> None:
    calls = []

    def create_router(*args: Any) -> Any:
        calls.append(args[1:])
        return driver.router.Router(*args)

    async with driver.route(
        url_map(driver), create_router=create_router, server_name="x", ssl=True
    ):
        pass
    assert calls == [("x", "wss")]


async def test_handler_and_its_arguments_are_attributes(driver: Driver) -> None:
    connections = []

    async def handler(ws: Ws, **kwargs: Any) -> None:
        connections.append(ws)

    endpoint = driver.endpoint(handler)
    async with driver.route(Map([Rule("/<a>/<int:b>", endpoint=endpoint)])) as server:
        async with driver.connect(server.uri("/x/1")) as ws:
            assert [message async for message in ws] == []
    assert connections[0].handler is endpoint
    assert connections[0].handler_kwargs == {"a": "x", "b": 1}


async def test_handler_that_fails(driver: Driver) -> None:
    async def handler(ws: Ws) -> None:
        raise RuntimeError("oops")

    async with driver.route(Map([Rule("/", endpoint=driver.endpoint(handler))])) as server:
        async with driver.connect(server) as ws:
            await ws.wait_closed()
            assert ws.close_code == 1011
    logged_errors("connection handler failed")


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
async def test_unix_route(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with driver.route(url_map(driver), path=path):
        async with driver.unix_connect(str(path), "ws://localhost/user/me") as ws:
            assert await ws.recv() == "{'name': 'me'}"


def test_rules_become_rules_for_websockets(driver: Driver) -> None:
    urls = url_map(driver)
    assert not any(rule.websocket for rule in urls.iter_rules())
    driver.router.Router(urls)
    assert all(rule.websocket for rule in urls.iter_rules())


async def test_tls_configuration_reaches_the_server(driver: Driver) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    schemes = []

    def create_router(url_map: Any, server_name: str | None, url_scheme: str) -> Any:
        schemes.append(url_scheme)
        return driver.router.Router(url_map, server_name, url_scheme)

    async with driver.route(url_map(driver), ssl=context, create_router=create_router):
        pass
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
async def test_bad_arguments(driver: Driver, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        async with driver.route(**({"url_map": url_map(driver)} | arguments)):
            pass


async def test_arguments_by_position(driver: Driver) -> None:
    names = ["port"] if driver.package == "trio" else ["host", "port"]
    text = f"route() takes a map, and at most {' and '.join(names)} by position"
    with pytest.raises(TypeError, match=re.escape(text)):
        await driver.call(driver.router.route, url_map(driver), *[None] * len(names), None)
    text = f"route() got multiple values for argument {names[0]!r}"
    with pytest.raises(TypeError, match=re.escape(text)):
        await driver.call(driver.router.route, url_map(driver), 1, **{names[0]: 1})


def test_without_werkzeug(driver: Driver) -> None:
    calls = ["Router({})"]
    if driver.package != "trio":  # where route() is a coroutine function
        calls += ["route({})", "unix_route({}, 'path')"]
    lines = [f"try: {call}\nexcept ImportError as exc: print(exc)" for call in calls]
    imports = f"from wsapi.{driver.package}.router import Router, route, unix_route"
    code = "\n".join(["import sys; sys.modules['werkzeug'] = None", imports, *lines])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    text = "requires werkzeug: pip install 'wsproto-fast[router]'"
    assert result.stdout.count(text) == len(calls), result.stderr
