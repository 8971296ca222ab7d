"""Servers as all front-ends have them: settings, answers to requests, addresses."""

import asyncio
import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from wsapi._shared.options import SERVER_OPTIONS, defaults
from wsapi._shared.server import (
    BaseServer,
    ServerSettings,
    ServerSide,
    check_listening,
    finish,
    format_address,
)
from wsapi.limits import Door, Slow
from wsproto_fast import Headers, Request, Response, ServerProtocol, State

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n\r\n"
)


class Accepted(ServerSide):
    def __init__(self, protocol: ServerProtocol, server: object, **options: Any) -> None:
        super().__init__(protocol, **options)
        self.server = server


def nothing(*args: Any) -> None:
    pass


def settings(**options: Any) -> ServerSettings:
    awaitables = options.pop("awaitables", False)
    complete = defaults(SERVER_OPTIONS) | options
    return ServerSettings(nothing, complete, awaitables=awaitables)


def requested(settings: ServerSettings) -> ServerSide:
    """Return a connection that has received a request."""
    connection = Accepted(settings.new_protocol(), None)
    connection.protocol.receive_data(REQUEST)
    assert connection._receive_request()
    return connection


def answer(connection: ServerSide, settings: ServerSettings, *, closing: bool = False) -> Response:
    connection.server = SimpleNamespace(_closing=closing)
    return finish(connection._answer(settings))


class TestFinish:
    def test_result(self) -> None:
        async def coroutine() -> int:
            return 1

        assert finish(coroutine()) == 1

    def test_exception(self) -> None:
        async def coroutine() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            finish(coroutine())

    def test_coroutine_that_waits(self) -> None:
        left = []

        async def coroutine() -> None:
            try:
                await asyncio.sleep(0)
            finally:
                left.append(True)

        with pytest.raises(RuntimeError, match="waits where none can"):
            finish(coroutine())
        assert left


class TestServerSide:
    def test_accepts(self) -> None:
        chosen = settings()
        connection = requested(chosen)
        response = answer(connection, chosen)
        assert response.status_code == 101
        assert connection._respond(response)
        assert connection.response is response
        assert connection.state is State.OPEN
        assert not connection._respond(response)

    def test_accepts_at_a_door_that_does_not_know_it(self) -> None:
        """As a connection that a program makes by itself: no server has asked the door before."""
        chosen = settings(door=Door(max_connections=1))
        assert answer(requested(chosen), chosen).status_code == 101

    def test_what_was_dropped_without_a_server(self) -> None:
        requested(settings())._count_dropped(Slow.DROP_OLDEST, 1)  # there is nowhere to count it

    def test_half_a_request(self) -> None:
        chosen = settings()
        connection = Accepted(chosen.new_protocol(), None)
        connection.protocol.receive_data(REQUEST[:20])
        assert not connection._receive_request()
        connection.protocol.receive_data(REQUEST[20:])
        assert connection._receive_request()
        assert connection._receive_request()  # since before
        assert connection.request is not None

    def test_process_request(self) -> None:
        def process_request(connection: ServerSide, request: Request) -> Response:
            assert request is connection.request
            return connection.respond(403, "no\n")

        chosen = settings(process_request=process_request, server_header="me")
        response = answer(requested(chosen), chosen)
        assert (response.status_code, response.body) == (403, b"no\n")
        assert response.headers.get_all("Server") == ["me"]

    def test_process_response(self) -> None:
        replacement = Response(200, "OK", Headers())

        def process_response(
            connection: ServerSide, request: Request, response: Response
        ) -> Response:
            assert response.status_code == 101
            return replacement

        chosen = settings(process_response=process_response)
        assert answer(requested(chosen), chosen) is replacement

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    def test_callbacks_that_fail(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*args: Any) -> None:
            raise ValueError("no")

        chosen = settings(**{name: fail})
        connection = requested(chosen)
        response = answer(connection, chosen)
        assert response.status_code == 500
        assert response.headers.get_all("Server") == [chosen.server_header]
        assert [record.getMessage() for record in caplog.records] == [f"{name} failed"]
        assert isinstance(connection.protocol.handshake_exc, ValueError)

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    def test_callbacks_that_return_something_else(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        chosen = settings(**{name: lambda *args: "no"})
        connection = requested(chosen)
        assert answer(connection, chosen).status_code == 500
        assert str(connection.protocol.handshake_exc) == (
            f"{name} must return a Response or None, not str"
        )

    def test_coroutines_are_awaited(self) -> None:
        async def process_request(connection: ServerSide, request: Request) -> Response:
            await asyncio.sleep(0)
            return connection.respond(403, "no\n")

        chosen = settings(process_request=process_request, awaitables=True)
        connection = requested(chosen)
        assert asyncio.run(connection._answer(chosen)).status_code == 403

    def test_coroutines_where_nobody_awaits_them(self, caplog: pytest.LogCaptureFixture) -> None:
        async def process_request(connection: ServerSide, request: Request) -> None:
            raise AssertionError("it isn't run")

        chosen = settings(process_request=process_request)
        connection = requested(chosen)
        assert answer(connection, chosen).status_code == 500
        assert str(connection.protocol.handshake_exc) == (
            "process_request must return a Response or None, not coroutine"
        )

    def test_shutting_down(self) -> None:
        chosen = settings(process_response=nothing)
        response = answer(requested(chosen), chosen, closing=True)
        assert (response.status_code, response.body) == (503, b"Server is shutting down.\n")

    def test_shutting_down_meanwhile(self) -> None:
        def close(connection: Any, *_: object) -> None:
            connection.server._closing = True

        chosen = settings(process_response=close)
        assert answer(requested(chosen), chosen).status_code == 503

    def test_refusal_while_shutting_down(self) -> None:
        chosen = settings(process_request=lambda connection, _: connection.respond(403, "no\n"))
        assert answer(requested(chosen), chosen, closing=True).status_code == 403

    def test_response_that_cannot_be_sent(self, caplog: pytest.LogCaptureFixture) -> None:
        chosen = settings()
        connection = requested(chosen)
        response = Response(200, "☃", Headers())
        assert connection._respond(response)
        assert connection.response is not None
        assert connection.response.status_code == 500
        assert [record.getMessage() for record in caplog.records if record.levelno > 20] == [
            "opening handshake failed"
        ]

    def test_select_subprotocol(self) -> None:
        calls: list[Any] = []

        def select_subprotocol(connection: ServerSide, offered: list[str]) -> str:
            calls.append((connection, list(offered)))
            return "chat"

        chosen = settings(select_subprotocol=select_subprotocol)
        connection = requested(chosen)
        response = answer(connection, chosen)
        assert response.headers["Sec-WebSocket-Protocol"] == "chat"
        assert calls == [(connection, ["chat"])]

    def test_what_programs_set(self) -> None:
        """Subclasses say that there is neither at first, and programs set what they like."""

        class Mine(Accepted):
            request = None
            response = None

        chosen = settings()
        connection = Mine(chosen.new_protocol(), None)
        connection.protocol.receive_data(REQUEST)
        assert connection._receive_request()
        received = connection.request
        assert isinstance(received, Request)
        assert connection.response is None
        connection.request = request = Request("/other", received.headers)
        connection.response = response = Response(200, "OK", Headers())
        assert connection.protocol.request is connection.request is request
        assert connection.protocol.response is connection.response is response


class TestSettings:
    @pytest.mark.parametrize(
        "options, error, text",
        [
            ({"origins": "a"}, TypeError, "origins must be a list"),
            ({"compression": "zip"}, ValueError, "unsupported compression: zip"),
            ({"process_request": 1}, TypeError, "process_request must be a callable or None"),
            ({"server_header": "\n"}, ValueError, "server_header must have no control"),
            ({"server_header": 0}, TypeError, "server_header must be a str or None"),
            ({"ping_interval": -1}, ValueError, "ping_interval"),
            ({"max_queue": (1, 2, 3)}, ValueError, "max_queue must be one number or a pair"),
            ({"logger": "x"}, TypeError, "logger must be a Logger"),
        ],
    )
    def test_wrong_options(self, options: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            settings(**options)

    def test_connection_options(self) -> None:
        assert settings(max_queue=3).connection_options == {
            "ping_interval": 20,
            "ping_timeout": 20,
            "close_timeout": 10,
            "max_queue": 3,
        }


class TestServer:
    def test_connections_are_those_that_are_open(self) -> None:
        chosen = settings()
        server: BaseServer[ServerSide] = BaseServer(nothing)
        opening, ready = requested(chosen), requested(chosen)
        server._connections |= {opening, ready}
        ready._respond(answer(ready, chosen))
        assert server.connections == {ready}
        assert server.logger is logging.getLogger("wsapi.server")

    def test_addresses(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            assert format_address(sock) == f"127.0.0.1:{sock.getsockname()[1]}"
        if socket.has_ipv6:
            with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
                assert format_address(sock) == f"[::1]:{sock.getsockname()[1]}"

    def test_where_to_listen(self) -> None:
        with pytest.raises(ValueError, match="host and port must be None"):
            check_listening("127.0.0.1", None, {"path": "x"})
        with pytest.raises(ValueError, match="exactly one of path and sock"):
            check_listening(None, None, {"path": None})
