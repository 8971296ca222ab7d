"""``connect`` on asyncio: arguments that only it has, and cancellation at every step."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import port_of, serving, turns, until, uri_of
from wsapi.asyncio._opening import _Tunnel, turn
from wsapi.asyncio._stand_in import StandIn
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import InvalidProxyStatus
from wsapi.frames import CloseCode
from wsapi.protocol import State
from wsapi.proxy import ConnectProtocol, parse_proxy
from wsproto_fast.uri import parse_uri


@pytest.fixture(autouse=True)
def _no_proxies_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


# ---------------------------------------------------------------------- arguments

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    "uri, options, exception, text",
    [
        ("wss://h/", {"ssl": None}, ValueError, "ssl=None is incompatible with a wss:// URI"),
        ("wss://h/", {"ssl": "x"}, TypeError, "ssl must be an SSLContext or True, not str"),
        ("wss://h/", {"server_hostname": 1}, TypeError, "server_hostname must be a str or None"),
        ("wss://h/", {"ssl_handshake_timeout": 0}, ValueError, "ssl_handshake_timeout must be pos"),
        ("ws://h/", {"write_limit": (1, 2)}, ValueError, "write_limit must be"),
        ("ws://h/", {"port": 70000}, ValueError, "port must be 0 to 65535; got 70000"),
        ("ws://h/", {"sock": object(), "host": "h"}, ValueError, "sock is incompatible with host"),
        ("ws://h/", {"sockk": 1, "extra_headers": 2}, TypeError, "'extra_headers', 'sockk'"),
    ],
)
def test_bad_arguments(
    uri: Any, options: dict[str, Any], exception: type[Exception], text: str
) -> None:
    with pytest.raises(exception) as info:
        connect(uri, **options)
    assert text in str(info.value)


async def test_iterating_by_hand() -> None:
    """An exception that is thrown into the iterator ends the connection as a failure."""
    codes: list[int | None] = []

    async def handler(ws: ServerConnection) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    async with serving(handler) as server:
        connections: Any = aiter(connect(uri_of(server)))
        connection = await anext(connections)
        with pytest.raises(ZeroDivisionError):
            await connections.athrow(ZeroDivisionError())
        assert connection.state is State.CLOSED
        await until(lambda: codes == [CloseCode.INTERNAL_ERROR])


async def test_await() -> None:
    async with serving() as server:
        connecting = connect(uri_of(server))
        first = await connecting
        second = await connecting
        assert first is not second
        await first.close()
        await second.close()


# ---------------------------------------------------------------------- where to connect


async def test_host_and_port() -> None:
    async with serving() as server:
        async with connect("ws://h.test:81/", host="127.0.0.1", port=port_of(server)) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "h.test:81"
        async with connect(f"ws://h.test:{port_of(server)}/", host="127.0.0.1"):
            pass
        async with connect("ws://127.0.0.1/", port=port_of(server)):
            pass


@pytest.mark.parametrize("options", [{}, {"server_hostname": "localhost"}])
async def test_tls(options: dict[str, Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    host = "h.test" if options else "localhost"
    async with serving(ssl=tls[0]) as server:
        async with connect(
            f"wss://{host}:{port_of(server)}/", host="127.0.0.1", ssl=tls[1], **options
        ) as ws:
            assert ws.transport.get_extra_info("peercert")["subjectAltName"]
            await ws.send("hello")
            assert await ws.recv() == "hello"


# ---------------------------------------------------------------------- failures


async def test_timeouts_of_the_system_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TimeoutError(110, "Connection timed out")

    async def create_connection(*args: Any, **kwargs: Any) -> Any:
        raise error

    connector = connect("ws://127.0.0.1/")

    async def open_transport(*args: Any) -> None:
        raise error

    monkeypatch.setattr(connector, "_open_transport", open_transport)
    with pytest.raises(TimeoutError) as info:
        await connector
    assert info.value is error


async def test_cancelled_anywhere() -> None:
    async with serving() as server:
        uri = uri_of(server)
        for steps in range(1000):
            task = asyncio.ensure_future(opened(uri))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                await (await task).close()
                break
            task.cancel()
            try:
                # Done in spite of it, if it was too late.
                await (await task).close()
            except asyncio.CancelledError:
                pass
        else:
            raise AssertionError
        assert steps > 2


async def opened(uri: str) -> ClientConnection:
    return await connect(uri)


# ---------------------------------------------------------------------- tunnels


def tunnel() -> Any:
    tunnel = _Tunnel(ConnectProtocol(parse_proxy("http://p"), "h", 80))
    tunnel.connection_made(mock.Mock(spec=asyncio.Transport))
    return tunnel


def receive(tunnel: Any, data: bytes) -> None:
    tunnel.get_buffer(-1)[: len(data)] = data
    tunnel.buffer_updated(len(data))


async def test_proxy_sends_more_after_it_refused() -> None:
    refused = tunnel()
    receive(refused, b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    receive(refused, b"because")
    refused.connection_lost(None)
    with pytest.raises(InvalidProxyStatus, match="HTTP 502"):
        await refused.established


@pytest.mark.parametrize(
    "broken, text", [(None, "closed by proxy"), (BrokenPipeError("broken"), "broken")]
)
async def test_tunnel_is_lost_before_it_is_used(broken: Exception | None, text: str) -> None:
    lost = tunnel()
    receive(lost, b"HTTP/1.1 200 OK\r\n\r\n")
    lost.connection_lost(broken)
    await lost.established
    with pytest.raises(ConnectionError, match=text):
        await connect._leave_tunnel(lost, mock.Mock(), {})


async def test_connection_is_lost_when_tls_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event loops may say so by returning no transport."""

    async def start_tls(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", start_tls)
    established = tunnel()
    receive(established, b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ConnectionResetError, match="lost during TLS handshake"):
        await connect._leave_tunnel(established, mock.Mock(), {"ssl": CONTEXT})


# ---------------------------------------------------------------------- taking turns


async def test_cancelled_when_the_turn_has_just_come() -> None:
    async def take_turn() -> None:
        async with turn("key"):
            raise AssertionError

    async with turn("key"):
        waiting = asyncio.create_task(take_turn())
        await turns(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await turns(2)
    async with asyncio.timeout(5), turn("key"):
        pass


@pytest.mark.parametrize(
    "options, limits",
    [
        ({}, {"ssl_handshake_timeout": 10, "ssl_shutdown_timeout": 10}),
        ({"open_timeout": 9, "close_timeout": None}, {"ssl_handshake_timeout": 9}),
        (
            {"ssl_handshake_timeout": 7, "ssl_shutdown_timeout": 6},
            {"ssl_handshake_timeout": 7, "ssl_shutdown_timeout": 6},
        ),
    ],
)
def test_tls_lasts_no_longer_than_all(options: dict[str, Any], limits: dict[str, float]) -> None:
    connector = connect("wss://h/", ssl=CONTEXT, **options)
    given = connector._bounded(connector._tls(parse_uri("wss://h/")))
    assert given == {"ssl": CONTEXT, "server_hostname": "h", **limits}


@pytest.mark.parametrize("uri", ["ws://h/", "wss://h/"])
async def test_event_loop_that_gives_another_connection(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs test themselves so: it is what their loop gives that is opened, and returned."""
    opened = mock.Mock(handshake=mock.AsyncMock())
    asked: list[Any] = []

    async def create_connection(
        factory: Any, *, host: str, port: int, **options: Any
    ) -> tuple[Any, Any]:
        asked.append((factory().protocol.uri, host, port))
        return mock.Mock(), opened

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    headers = {"X-Custom": "1"}
    assert await connect(uri, additional_headers=headers, user_agent_header="me") is opened
    opened.handshake.assert_awaited_once_with(headers, "me")
    assert asked == [(parse_uri(uri), "h", 443 if uri.startswith("wss") else 80)]


def test_engine_of_a_connection_that_is_gone() -> None:
    with pytest.raises(RuntimeError, match="connection was given up"):
        _ = StandIn(lambda: None).protocol
