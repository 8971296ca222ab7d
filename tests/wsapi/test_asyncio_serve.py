"""Arguments of ``serve``: what isn't acceptable is refused before any I/O, in words that help."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import (
    echo,
    logged_errors,
    port_of,
    raw_client,
    serving,
    until_closed,
    uri_of,
)
from tests.wsapi.helpers import request as raw_request
from wsapi.asyncio.client import connect, unix_connect
from wsapi.asyncio.server import ServerConnection, serve, unix_serve
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidStatus
from wsapi.http11 import Request, Response
from wsapi.typing import Origin, Subprotocol

NOT_SECONDS = "must be a number of seconds, 0 or more, or None"


class Factory:
    """An extension factory, as far as can be told without using it."""

    name = "x-test"

    def process_request_params(self, params: Any, accepted: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    "argument, value, error, text",
    [
        ("handler", None, TypeError, "handler must be a callable, not NoneType"),
        ("handler", "echo", TypeError, "handler must be a callable, not str"),
        ("port", "http", TypeError, "port must be an int or None, not str"),
        ("port", "65536", ValueError, "port must be 0 to 65535; got 65536"),
        ("port", True, TypeError, "port must be an int or None, not bool"),
        ("port", -1, ValueError, "port must be 0 to 65535; got -1"),
        ("port", 65536, ValueError, "port must be 0 to 65535; got 65536"),
        ("origins", "http://a", TypeError, "origins must be a list or None, not a str"),
        ("origins", b"http://a", TypeError, "origins must be a list or None, not a bytes"),
        ("origins", {"http://a"}, TypeError, "origins must be a list or None, not set"),
        ("origins", re.compile("a"), TypeError, "origins must be a list or None, not Pattern"),
        ("origins", [b"http://a"], TypeError, "origins must contain str, compiled regular"),
        ("origins", [re.compile(b"a")], TypeError, "compiled regular expressions of str, or None"),
        ("extensions", "deflate", TypeError, "extensions must be a list or None, not a str"),
        ("extensions", Factory(), TypeError, "extensions must be a list or None, not Factory"),
        ("extensions", ["deflate"], TypeError, "extensions must contain extension factories"),
        ("extensions", [Factory], TypeError, "which have name, process_request_params"),
        ("subprotocols", "chat", TypeError, "subprotocols must be a list, not a str"),
        ("subprotocols", 1, TypeError, "subprotocols must be a list"),
        ("subprotocols", [b"chat"], TypeError, "subprotocols must contain str, not bytes"),
        ("subprotocols", ["a b"], ValueError, "invalid subprotocol: a b"),
        ("select_subprotocol", "chat", TypeError, "select_subprotocol must be a callable or None"),
        ("compression", "zstd", ValueError, "unsupported compression: zstd"),
        ("process_request", 1, TypeError, "process_request must be a callable or None, not int"),
        ("process_response", [], TypeError, "process_response must be a callable or None, not li"),
        ("server_header", 1, TypeError, "server_header must be a str or None, not int"),
        ("server_header", "a\r\nb: c", ValueError, "server_header must have no control characters"),
        ("server_header", "☃", ValueError, "server_header must have no control characters"),
        ("open_timeout", -1, ValueError, f"open_timeout {NOT_SECONDS}"),
        ("open_timeout", "1", TypeError, "open_timeout must be a number of seconds or None"),
        ("ping_interval", 0, ValueError, "ping_interval must be more than 0, or None"),
        ("ping_interval", float("nan"), ValueError, f"ping_interval {NOT_SECONDS}"),
        ("ping_timeout", -0.1, ValueError, f"ping_timeout {NOT_SECONDS}"),
        ("close_timeout", [], TypeError, "close_timeout must be a number of seconds or None"),
        ("max_size", -1, ValueError, "max_size must be 0 or more, or None"),
        ("max_size", 1.5, TypeError, "max_size must be int or None"),
        ("max_size", (1,), ValueError, "max_size must be one number or a pair of two"),
        ("max_queue", "16", TypeError, "max_queue must be int, a pair of int, or None"),
        ("max_queue", (1, 2), ValueError, "max_queue must be (high, low) with high >= low >= 0"),
        ("max_queue", (3, 2, 1), ValueError, "max_queue must be one number or a pair of two"),
        ("write_limit", "1", TypeError, "write_limit must be int, a pair of int, or None; got str"),
        ("write_limit", True, TypeError, "write_limit must be int, a pair of int, or None"),
        ("write_limit", -1, ValueError, "write_limit must be (high, low) with high >= low >= 0"),
        ("write_limit", (1, 2), ValueError, "write_limit must be (high, low)"),
        ("write_limit", (2, -1), ValueError, "write_limit must be (high, low)"),
        ("write_limit", (), ValueError, "write_limit must be one number or a pair of two"),
        ("logger", "wsapi", TypeError, "logger must be a Logger, a LoggerAdapter or None, not str"),
        ("create_connection", 1, TypeError, "create_connection must be a callable or None"),
        ("ssl", True, TypeError, "ssl must be an SSLContext or None, not bool"),
        ("sock", 1, TypeError, "sock must be a socket or None, not int"),
        ("path", 1, TypeError, "path must be a str, bytes, path-like or None, not int"),
        ("path", None, ValueError, "exactly one of path and sock must be given"),
    ],
)
def test_serve_refuses(argument: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        serve(**({"handler": echo} | {argument: value}))


async def test_ports_by_digits() -> None:
    """As event loops take them: they often come from the environment."""
    async with serve(echo, "127.0.0.1", "0") as server:  # type: ignore[arg-type] # on purpose
        assert server.server.is_serving()
        port: Any = str(port_of(server))
        async with connect("ws://localhost/", host="127.0.0.1", port=port) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"
    with pytest.raises(RuntimeError, match="server is closed"):
        server.server  # noqa: B018 # it raises


@pytest.mark.parametrize("where", [{"host": "localhost"}, {"port": 0}])
def test_one_place_to_listen(where: Any) -> None:
    text = "host and port must be None when sock or path says where to listen"
    with socket.socket() as sock:
        with pytest.raises(ValueError, match=text):
            serve(echo, sock=sock, **where)
        with pytest.raises(ValueError, match="exactly one of path and sock"):
            unix_serve(echo, "path", sock=sock)
    with pytest.raises(ValueError, match=text):
        unix_serve(echo, "path", **where)
    with pytest.raises(ValueError, match="exactly one of path and sock"):
        unix_serve(echo)


def test_nothing_happens_before_it_is_awaited() -> None:
    # There isn't even an event loop.
    server = serve(
        echo,
        "127.0.0.1",
        0,
        origins=[Origin("http://a"), re.compile("b"), None],
        extensions=(Factory(),),
        subprotocols=(Subprotocol("chat"),),
        compression=None,
        server_header=None,
        open_timeout=None,
        ping_interval=None,
        ping_timeout=None,
        close_timeout=0,
        max_size=(None, 10),
        max_queue=(None, 4),
        write_limit=(100, None),
        logger=logging.LoggerAdapter(logging.getLogger("test"), {}),
        create_connection=ServerConnection,
    )
    assert server.sockets == ()
    assert server.connections == set()
    assert not server.is_serving()
    for method in (server.get_loop, server.close):
        with pytest.raises(RuntimeError, match="await it first"):
            method()


# ---------------------------------------------------------------------- effects


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_paths(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "socket"
    async with unix_serve(echo, kind(path)) as server:
        assert len(server.sockets) == 1
        async with unix_connect(str(path)) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


@pytest.mark.parametrize("wrong", [1, b"chat", "not a token", "a\r\nb: c", ""])
async def test_select_subprotocol_returns_something_wrong(wrong: Any) -> None:
    def select(connection: ServerConnection, offered: Any) -> Any:
        return wrong

    async with serving(until_closed, select_subprotocol=select) as server:
        with pytest.raises(InvalidStatus) as raised:
            await connect(uri_of(server))
        assert raised.value.response.status_code == 500
        assert b"See server log" in raised.value.response.body
    logged_errors("opening handshake failed")


@pytest.mark.parametrize("kind", ["process_request", "process_response"])
@pytest.mark.parametrize(
    "response",
    [
        Response(200, "☃", Headers()),
        Response(200, "OK", Headers(), "text"),  # type: ignore[arg-type] # wrong on purpose
    ],
    ids=["reason phrase", "body"],
)
async def test_response_that_cannot_be_sent(kind: str, response: Response) -> None:
    """It's the same as any other failure: 500 at once, nothing left behind."""

    def process(connection: ServerConnection, *args: Request | Response) -> Response:
        return response

    options: dict[str, Any] = {kind: process}
    async with serving(until_closed, open_timeout=None, **options) as server:
        async with raw_client(server, b"") as peer:
            peer.writer.write(raw_request())
            answer = await peer.read_to_end()
        assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert answer.count(b"\r\nServer: ") == 1
    logged_errors("opening handshake failed")


async def test_server_closes_at_once_although_a_client_says_nothing() -> None:
    """Browsers connect in advance, and don't look at such a connection for long."""
    async with serving(until_closed, open_timeout=None, close_timeout=None) as server:
        async with raw_client(server, b"") as peer:
            server.close()
            # Nobody reads here, nor closes.
            await server.wait_closed()
            answer = await peer.read_to_end()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


async def test_log_is_nested(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsapi.server")
    async with serving(until_closed) as server:
        listening = server.sockets[0].getsockname()
        async with connect(uri_of(server)) as ws:
            server.close(code=1012, reason="update")
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1012, "update")
    assert [record.getMessage() for record in caplog.records] == [
        f"server listening on 127.0.0.1:{listening[1]}",
        "connection open",
        "server closing",
        "connection closed",
        "server closed",
    ]
