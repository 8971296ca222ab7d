"""What front-ends share, without any of them: settings, openings, fragments, broadcasts."""

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from wsapi._client import BaseConnect, TransportNames, unix_arguments
from wsapi._connection import (
    BaseConnection,
    ClientSide,
    FragmentedMessage,
    ServerSide,
    SkippedBroadcasts,
    concurrent_receiver,
    finish,
)
from wsapi._options import ClientOptions, ServerOptions, complete
from wsapi._server import BaseServer, ServerSettings, check_close, check_listening, format_address
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, InvalidState, ProtocolError
from wsapi.proxy import parse_proxy
from wsapi.uri import parse_uri
from wsproto_fast import (
    ClientProtocol,
    Headers,
    Protocol,
    Request,
    Response,
    ServerProtocol,
    Side,
    State,
)

URI = "ws://example.org/"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: chat\r\n\r\n"
)


def nothing(*args: Any) -> None:
    pass


def settings(**options: Any) -> ServerSettings[ServerSide]:
    awaitables = options.pop("awaitables", False)
    complete_options: Any = complete(ServerOptions, options, "serve")
    return ServerSettings(nothing, complete_options, ServerSide, awaitables=awaitables)


def requested(settings: ServerSettings[ServerSide]) -> ServerSide:
    """Return a connection that has received a request."""
    connection = settings.new_connection(
        lambda protocol: settings.connection_class(protocol, **settings.connection_options)
    )
    connection.protocol.receive_data(REQUEST)
    assert connection._receive_request()
    return connection


def answer(
    connection: ServerSide, settings: ServerSettings[ServerSide], *, closing: Any = bool
) -> Response:
    return finish(connection._answer(settings, closing))


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


class TestConnection:
    def test_attributes(self) -> None:
        protocol = Protocol(Side.CLIENT)
        connection = BaseConnection(protocol, max_queue=(None, 2), close_timeout=3)
        assert connection.protocol is protocol
        assert connection.id == protocol.id
        assert connection.state is State.OPEN
        assert connection.latency == 0
        assert (connection.subprotocol, connection.close_code, connection.close_reason) == (
            None,
        ) * 3
        assert (connection.request, connection.response) == (None, None)
        assert (connection.ping_interval, connection.close_timeout) == (20, 3)
        assert repr(connection) == f"<wsapi._connection.BaseConnection OPEN id={protocol.id}>"

    def test_logger_is_made_when_it_is_used(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        gc.collect()
        before = [adapter for adapter in gc.get_objects() if type(adapter) is logging.LoggerAdapter]
        logger = connection.logger
        assert not any(logger is adapter for adapter in before)
        assert connection.logger is logger is connection.protocol.logger
        logger.warning("once")
        (record,) = caplog.records
        assert record.name == "wsapi.client"
        assert record.__dict__["websocket"].id == connection.id

    def test_engine_logs_about_the_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        connection = BaseConnection(Protocol(Side.CLIENT))
        connection.protocol.send_text("a")
        (record,) = caplog.records
        assert record.getMessage() == "> TEXT 'a' [1 byte]"
        assert record.__dict__["websocket"].id == connection.id

    def test_logger_of_ones_own(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        connection.logger = logging.getLogger("mine")
        assert connection.logger is connection.protocol.logger is logging.getLogger("mine")

    def test_logger_does_not_keep_the_connection(self) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        protocol = connection.protocol
        del connection
        gc.collect()
        assert protocol.logger is logging.getLogger("wsapi.client")

    @pytest.mark.parametrize("kind", ["coroutine", "thread"])
    def test_concurrent_receiver(self, kind: str) -> None:
        assert str(concurrent_receiver("recv", "recv_streaming", kind)) == (
            f"cannot call recv while another {kind} is already running recv_streaming"
        )


class TestClientSide:
    def test_handshake(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request({"X-A": "b"}, "agent", 0)
        assert connection.request is not None
        assert connection.request.headers["X-A"] == "b"
        assert connection.request.headers["User-Agent"] == "agent"
        server = ServerProtocol()
        server.receive_data(connection.protocol.take_output())
        (request,) = server.events_received()
        assert isinstance(request, Request)
        assert not connection._receive_response()
        server.send_response(server.accept(request))
        connection.protocol.receive_data(server.take_output())
        assert connection._receive_response()
        assert connection.response is not None
        assert connection.response.status_code == 101

    def test_own_user_agent(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request([("user-agent", "mine")], "agent", 0)
        assert connection.request is not None
        assert connection.request.headers.get_all("User-Agent") == ["mine"]

    def test_failure(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request(None, None, 0)
        connection.protocol.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert connection._receive_response()
        assert connection.response is not None
        assert connection.protocol.handshake_exc is not None


class TestServerSide:
    def test_accepts(self) -> None:
        chosen = settings()
        connection = requested(chosen)
        response = answer(connection, chosen)
        assert response.status_code == 101
        assert connection._send_response(response)
        assert connection.response is response
        assert connection.state is State.OPEN
        assert not connection._send_response(response)

    def test_half_a_request(self) -> None:
        chosen = settings()
        connection = chosen.new_connection(chosen.connection_class)
        connection.protocol.receive_data(REQUEST[:20])
        assert not connection._receive_request()
        connection.protocol.receive_data(REQUEST[20:])
        assert connection._receive_request()
        assert connection._receive_request()

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
        assert asyncio.run(connection._answer(chosen, bool)).status_code == 403

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
        response = answer(requested(chosen), chosen, closing=lambda: True)
        assert (response.status_code, response.body) == (503, b"Server is shutting down.\n")

    def test_shutting_down_meanwhile(self) -> None:
        closing = iter([False, True])
        chosen = settings(process_response=nothing)
        assert answer(requested(chosen), chosen, closing=lambda: next(closing)).status_code == 503

    def test_refusal_while_shutting_down(self) -> None:
        chosen = settings(process_request=lambda connection, _: connection.respond(403, "no\n"))
        assert answer(requested(chosen), chosen, closing=lambda: True).status_code == 403

    def test_response_that_cannot_be_sent(self, caplog: pytest.LogCaptureFixture) -> None:
        chosen = settings()
        connection = requested(chosen)
        response = Response(200, "☃", Headers())
        assert connection._send_response(response)
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
            ({"nothing": 1}, TypeError, r"serve\(\) got unexpected keyword arguments"),
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

    def test_own_connection_class(self) -> None:
        class Mine(ServerSide):
            pass

        chosen = settings(create_connection=Mine)
        assert type(chosen.new_connection(chosen.connection_class)) is Mine


class TestServer:
    def test_connections_are_those_that_are_open(self) -> None:
        chosen = settings()
        server: BaseServer[ServerSide] = BaseServer(nothing)
        opening, ready = requested(chosen), requested(chosen)
        server._connections |= {opening, ready}
        ready._send_response(answer(ready, chosen))
        assert server.connections == {ready}
        assert server.logger is logging.getLogger("wsapi.server")

    @pytest.mark.parametrize("code, reason", [(1006, ""), (1000, "x" * 124)])
    def test_close_code(self, code: int, reason: str) -> None:
        with pytest.raises(ProtocolError):
            check_close(code, reason)

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


class Connect(BaseConnect[ClientSide]):
    names = TransportNames(
        ready="stream",
        places=("address",),
        tls=("ssl", "server_hostname"),
        tcp=frozenset({"local"}),
    )


class StrictConnect(BaseConnect[ClientSide]):
    names = TransportNames("sock", ("host", "port"), ("ssl", "server_hostname"), frozenset())
    ssl_optional = False


def connector(uri: str = URI, kind: type[BaseConnect[ClientSide]] = Connect, **options: Any) -> Any:
    own = {name: options.pop(name) for name in options.keys() - ClientOptions.__annotations__}
    complete_options: Any = complete(ClientOptions, options) | own
    return kind(uri, complete_options, ClientSide)


class TestConnect:
    def test_address(self) -> None:
        assert connector()._address(parse_uri(URI)) == ("example.org", 80)
        assert connector(address=("::1", 5))._address(parse_uri(URI)) == ("::1", 5)
        assert connector(kind=StrictConnect, port=5)._address(parse_uri(URI)) == ("example.org", 5)

    @pytest.mark.parametrize("address", ["a", ("a",), ("a", "b"), (1, 2), ("a", 70000)])
    def test_wrong_address(self, address: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            connector(address=address)

    def test_tls(self) -> None:
        context = ssl.create_default_context()
        secure = parse_uri("wss://example.org/")
        assert connector()._tls(parse_uri(URI)) is None
        given = connector("wss://example.org/", ssl=context)
        assert given._tls(secure) == {"ssl": context, "server_hostname": "example.org"}
        default = connector("wss://example.org/", ssl=None, server_hostname="other")
        options = default._tls(secure)
        assert options["server_hostname"] == "other"
        assert options["ssl"] is default._tls(secure)["ssl"]  # made once

    def test_no_tls(self) -> None:
        with pytest.raises(ValueError, match="ssl=None is incompatible with a wss:// URI"):
            connector("wss://example.org/", StrictConnect, ssl=None)
        with pytest.raises(ValueError, match="ssl argument is incompatible with a ws:// URI"):
            connector(ssl=ssl.create_default_context())
        with pytest.raises(TypeError, match="ssl must be an SSLContext or True, not str"):
            connector("wss://example.org/", ssl="yes")

    def test_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy.test:1")
        uri = parse_uri(URI)
        assert connector()._select_proxy(uri) == parse_proxy("http://proxy.test:1")
        assert connector(proxy=None)._select_proxy(uri) is None
        assert connector(path="x")._select_proxy(uri) is None
        assert connector(stream=object())._select_proxy(uri) is None
        with pytest.raises(ValueError, match=r"proxy_ssl .* an http:// proxy"):
            connector(proxy_ssl=True)._select_proxy(uri)
        with pytest.raises(TypeError, match="proxy must be a URL, True or None"):
            connector(proxy=False)

    def test_proxy_tls(self) -> None:
        proxy = parse_proxy("https://proxy.test:1")
        context = ssl.create_default_context()
        options = connector(proxy_ssl=context)._proxy_tls(proxy)
        assert options == {"ssl": context, "server_hostname": "proxy.test"}
        assert connector()._proxy_tls(parse_proxy("http://proxy.test:1")) is None

    def test_two_places(self) -> None:
        with pytest.raises(ValueError, match="stream is incompatible with address and path"):
            connector(stream=object(), address=("a", 1))
        with pytest.raises(ValueError, match="sock is incompatible with host, port and path"):
            connector(URI, StrictConnect, sock=object(), port=1)

    def test_engine(self) -> None:
        made = connector(origin="http://a", max_size=7)
        protocol = made._new_protocol(parse_uri(URI))
        assert (protocol.origin, protocol.max_size) == ("http://a", 7)
        assert made._connection_class is ClientSide

    def test_failures_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        made = connector(reconnect_delays=lambda: iter([1.5]))
        assert made._failed(made._reconnection(), OSError("gone")) == 1.5
        assert [record.getMessage() for record in caplog.records] == [
            "connect failed; reconnecting in 1.5 seconds: OSError: gone"
        ]

    def test_gate_key(self) -> None:
        uri = parse_uri(URI)
        assert connector(proxy=None)._gate_key(uri) is None
        assert connector(path="x")._gate_key(uri) == "example.org"
        assert connector(proxy="http://proxy.test:1")._gate_key(uri) == "example.org"

    def test_unix(self) -> None:
        assert unix_arguments("x", None, {}) == "ws://localhost/"
        assert unix_arguments("x", None, {"ssl": True}) == "wss://localhost/"
        assert unix_arguments(None, URI, {"stream": 1}, "stream") == URI
        with pytest.raises(ValueError, match="missing path argument"):
            unix_arguments(None, None, {})
        with pytest.raises(ValueError, match="path and stream arguments are incompatible"):
            unix_arguments("x", None, {"stream": 1}, "stream")


def fragmented(message: Any, text: bool | None = None, **options: Any) -> FragmentedMessage:
    protocol = options.pop("protocol", None) or Protocol(Side.SERVER)
    return FragmentedMessage(protocol, message, text, None, asynchronous=True, **options)


async def letters() -> AsyncIterator[str]:
    for letter in "ab":
        yield letter


class TestFragments:
    @pytest.mark.parametrize("make", [lambda: ["a", "b"], letters])
    def test_frames(self, make: Callable[[], Any]) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(make(), protocol=protocol)

        async def send() -> None:
            async for item in message.items():
                message.send(item)
            message.finish()

        finish(send())
        assert protocol.take_output() == b"\x01\x01a\x00\x01b\x80\x00"

    @pytest.mark.parametrize("text, first", [(None, b"\x02"), (True, b"\x01"), (False, b"\x02")])
    def test_opcode(self, text: bool | None, first: bytes) -> None:
        protocol = Protocol(Side.SERVER)
        fragmented([b"a"], text, protocol=protocol).send(b"a")
        assert protocol.take_output()[:1] == first

    def test_nothing(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented([], protocol=protocol)
        message.finish()
        assert protocol.take_output() == b""

    @pytest.mark.parametrize("message, text", [({}, "dict-like"), (1, "or async iterable")])
    def test_wrong_messages(self, message: Any, text: str) -> None:
        with pytest.raises(TypeError, match=text):
            fragmented(message)

    def test_asynchronous_where_it_is_not_fine(self) -> None:
        with pytest.raises(TypeError, match="data must be str, bytes, or iterable"):
            FragmentedMessage(Protocol(Side.SERVER), letters(), None, None, asynchronous=False)

    @pytest.mark.parametrize(
        "items, text",
        [
            ([1], "iterable must contain bytes or str"),
            (["a", b"b"], "iterable must contain uniform types"),
            ([b"a", 2], "iterable must contain uniform types"),
        ],
    )
    def test_wrong_items(self, items: list[Any], text: str) -> None:
        message = fragmented(items)
        with pytest.raises(TypeError, match=f"^{text}"):
            for item in items:
                message.send(item)

    def test_abandoned(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(["a"], protocol=protocol)
        message.abandon(ValueError(), 0)
        assert protocol.state is State.OPEN  # nothing was sent
        message.send("a")
        message.abandon(ValueError(), 0)
        assert protocol.close_sent is not None
        assert (protocol.close_sent.code, protocol.close_sent.reason) == (
            1011,
            "error in fragmented message",
        )

    def test_closed_meanwhile(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(["a"], protocol=protocol)
        message.send("a")
        protocol.connection_lost()
        with pytest.raises(InvalidState):
            message.send("a")
        message.abandon(protocol.close_exc, 0)
        assert isinstance(protocol.close_exc, ConnectionClosedError)
        assert protocol.close_sent is None


class TestSkippedBroadcasts:
    def test_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        skipped = SkippedBroadcasts(False)
        skipped.add(connection, ConcurrencyError("sending a fragmented message"))
        skipped.add(connection, OSError("gone"))
        skipped.finish()
        assert [record.getMessage() for record in caplog.records] == [
            "skipped broadcast: sending a fragmented message",
            "skipped broadcast: failed to write message",
        ]

    def test_raised(self) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        skipped = SkippedBroadcasts(True)
        first, second = ConcurrencyError("busy"), OSError("gone")
        skipped.add(connection, first)
        skipped.add(connection, second)
        with pytest.raises(ExceptionGroup, match="skipped broadcast") as caught:
            skipped.finish()
        assert caught.value.exceptions[0] is first
        assert caught.value.exceptions[1].__cause__ is second
        assert str(caught.value.exceptions[1]) == "failed to write message"
