"""``connect`` on asyncio: arguments, addresses, TLS, timeouts; nothing half-open stays behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest

from tests.wsapi.helpers import RawPeer, port_of, raw_server, serving, uri_of
from wsapi.asyncio.client import ClientConnection, connect, unix_connect
from wsapi.exceptions import InvalidMessage, InvalidStatus, InvalidURI
from wsapi.http11 import Response


@pytest.fixture(autouse=True)
def _no_proxies_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


# ---------------------------------------------------------------------- arguments

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    "uri, options, exception, text",
    [
        ("http://h/", {}, InvalidURI, "scheme isn't ws or wss"),
        (b"ws://h/", {}, TypeError, "uri must be a str, not bytes"),
        ("ws://h/", {"ssl": CONTEXT}, ValueError, "ssl argument is incompatible with a ws:// URI"),
        ("ws://h/", {"server_hostname": "h"}, ValueError, "server_hostname argument is incompat"),
        ("wss://h/", {"ssl": None}, ValueError, "ssl=None is incompatible with a wss:// URI"),
        ("wss://h/", {"ssl": "x"}, TypeError, "ssl must be an SSLContext or True, not str"),
        ("wss://h/", {"server_hostname": 1}, TypeError, "server_hostname must be a str or None"),
        ("wss://h/", {"ssl_handshake_timeout": 0}, ValueError, "ssl_handshake_timeout must be pos"),
        ("ws://h/", {"subprotocols": "chat"}, TypeError, "subprotocols must be a list, not a str"),
        ("ws://h/", {"subprotocols": ["a b"]}, ValueError, "invalid subprotocol: a b"),
        ("ws://h/", {"compression": "gzip"}, ValueError, "unsupported compression: gzip"),
        ("ws://h/", {"extensions": [object()]}, TypeError, "extensions must contain"),
        ("ws://h/", {"origin": 1}, TypeError, "origin must be a str or None"),
        ("ws://h/", {"origin": "a\nb"}, ValueError, "origin must have no control characters"),
        ("ws://h/", {"user_agent_header": 1}, TypeError, "user_agent_header must be a str or None"),
        ("ws://h/", {"additional_headers": 1}, TypeError, "additional_headers must be Headers"),
        ("ws://h/", {"additional_headers": {"X": 1}}, TypeError, "additional_headers must have"),
        ("ws://h/", {"process_exception": None}, TypeError, "process_exception must be a callable"),
        ("ws://h/", {"reconnect_delays": 1}, TypeError, "reconnect_delays must be a callable"),
        ("ws://h/", {"create_connection": 1}, TypeError, "create_connection must be a callable"),
        ("ws://h/", {"logger": "x"}, TypeError, "logger must be a Logger"),
        ("ws://h/", {"max_size": (1, 2, 3)}, ValueError, "max_size must be one number or a pair"),
        ("ws://h/", {"max_queue": (1, 2)}, ValueError, None),
        ("ws://h/", {"write_limit": (1, 2)}, ValueError, "write_limit must be"),
        ("ws://h/", {"port": 70000}, ValueError, "port must be 0 to 65535; got 70000"),
        ("ws://h/", {"sock": object(), "host": "h"}, ValueError, "sock is incompatible with host"),
        ("ws://h/", {"sockk": 1, "extra_headers": 2}, TypeError, "'extra_headers', 'sockk'"),
    ],
)
def test_bad_arguments(
    uri: Any, options: dict[str, Any], exception: type[Exception], text: str | None
) -> None:
    with pytest.raises(exception) as info:
        connect(uri, **options)
    if text is not None:
        assert text in str(info.value)


def test_unix_connect_wants_a_path() -> None:
    with pytest.raises(ValueError, match="missing path argument"):
        unix_connect()


def test_nothing_happens_before_it_is_awaited() -> None:
    """There isn't even an event loop here."""
    connect("wss://user:pass@h.test/", proxy="socks5h://p.test")
    unix_connect("path")


async def test_not_reentrant() -> None:
    async with serving() as server:
        connector = connect(uri_of(server))
        async with connector:
            with pytest.raises(RuntimeError, match="isn't reentrant"):
                async with connector:
                    pass
        async with connector:
            pass


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


async def test_local_addr() -> None:
    async with serving() as server:
        async with connect(uri_of(server), local_addr=("127.0.0.1", 0)) as ws:
            assert ws.local_address[0] == "127.0.0.1"


@pytest.mark.parametrize("options", [{}, {"server_hostname": "localhost"}])
async def test_tls(options: dict[str, Any]) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    host = "h.test" if options else "localhost"
    async with serving(ssl=server_context) as server:
        async with connect(
            f"wss://{host}:{port_of(server)}/", host="127.0.0.1", ssl=context, **options
        ) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


# ---------------------------------------------------------------------- failures


async def test_refused() -> None:
    async with serving() as server:
        uri = uri_of(server)
    with pytest.raises(ConnectionRefusedError):
        await connect(uri)


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


@pytest.mark.parametrize("tls", [False, True])
async def test_silence(tls: bool) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def behave(peer: RawPeer) -> None:
        await peer.read_to_end()
        ended.set_result(None)

    async with raw_server(behave, handshake=False) as server:
        with pytest.raises(TimeoutError, match="timed out during opening handshake"):
            await connect(f"ws{'s' * tls}://127.0.0.1:{port_of(server)}/", open_timeout=0.05)
        await ended


@pytest.mark.parametrize(
    "answer, exception",
    [
        (b"", InvalidMessage),
        (b"HTTP/1.1 200", InvalidMessage),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", InvalidStatus),
    ],
)
async def test_bad_answer(answer: bytes, exception: type[Exception]) -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(answer)
        peer.writer.write_eof()
        await peer.read_to_end()

    async with raw_server(behave, handshake=False) as server:
        with pytest.raises(exception) as info:
            await connect(uri_of(server))
    if isinstance(info.value, InvalidStatus):
        assert isinstance(info.value.response, Response)
        assert info.value.response.body == b"no"


async def test_factory_that_fails() -> None:
    def create_connection(*args: Any, **kwargs: Any) -> ClientConnection:
        raise KeyError("factory")

    async with serving() as server:
        with pytest.raises(KeyError):
            await connect(uri_of(server), create_connection=create_connection)


async def test_ready_made_socket_is_closed_after_a_failure() -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert await peer.read_to_end() == b""

    async with raw_server(behave, handshake=False) as server:
        sock = socket.create_connection(("127.0.0.1", port_of(server)))
        with pytest.raises(InvalidStatus):
            await connect("ws://h.test/", sock=sock)
        assert sock.fileno() == -1


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
