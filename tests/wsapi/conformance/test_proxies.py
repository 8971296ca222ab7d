"""Proxies: what they are asked, what they answer, tunnels for all schemes."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Ws, echo
from tests.wsapi.conformance.proxy import proxying
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import untrusted
from wsapi.client import process_exception
from wsapi.exceptions import (
    InvalidMessage,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    ProxyError,
)
from wsapi.http11 import Request, Response

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "uri, options, exception, text",
    [
        ("ws://h/", {"proxy": "http://p/path"}, InvalidProxy, "path is meaningless"),
        ("ws://h/", {"proxy": False}, TypeError, "proxy must be a URL, True or None, not False"),
        ("ws://h/", {"proxy": 1}, TypeError, "proxy must be a URL, True or None, not 1"),
        (
            "ws://h/",
            {"proxy": "http://p", "proxy_ssl": True},
            ValueError,
            "proxy_ssl argument is incompatible with an http:// proxy",
        ),
        (
            "ws://h/",
            {"proxy": "socks5://p", "proxy_server_hostname": "p"},
            ValueError,
            "proxy_server_hostname argument is incompatible with a socks5:// proxy",
        ),
        (
            "ws://h/",
            {"proxy": "https://p", "proxy_ssl": "yes"},
            TypeError,
            "proxy_ssl must be an SSLContext or True, not str",
        ),
    ],
)
def test_bad_arguments(
    driver: Driver, uri: str, options: dict[str, Any], exception: type[Exception], text: str
) -> None:
    with pytest.raises(exception, match=text):
        driver.connector_class(uri, **options)


async def test_proxy_of_environment_is_checked(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ws_proxy", "http://p")
    with pytest.raises(ValueError, match="proxy_ssl argument is incompatible"):
        await driver.attempt("ws://h/", proxy_ssl=True)
    monkeypatch.setenv("ws_proxy", "ftp://p")
    with pytest.raises(InvalidProxy, match="scheme ftp"):
        await driver.attempt("ws://h/")


@pytest.mark.parametrize("scheme", ["socks5h", "socks4"])
async def test_socks_needs_python_socks(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ImportError, match="python-socks is required to use a SOCKS proxy"):
        await driver.attempt("ws://h/", proxy=f"{scheme}://p")


# ---------------------------------------------------------------------- raw proxies


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    ],
)
async def test_request_and_answer(driver: Driver, answer: bytes) -> None:
    heads: list[str] = []

    async def behave(peer: RawPeer) -> None:
        heads.append(await peer.read_head())
        for byte in answer:
            await peer.send(bytes([byte]))
            await driver.settle()
        heads.append(await peer.answer_handshake())
        assert await peer.read_message() == (1, b"hello")
        await peer.write(1, b"hi")
        await peer.read_message()

    async with driver.raw_server(behave, handshake=False) as proxy:
        async with driver.connect(
            "ws://example.test/path",
            proxy=f"http://user:pass@127.0.0.1:{proxy.port}",
            user_agent_header="agent/1",
            close_timeout=0.1,
        ) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hi"
            assert ws.remote_address[1] == proxy.port
    assert heads[0] == (
        "CONNECT example.test:80 HTTP/1.1\r\nHost: example.test:80\r\nUser-Agent: agent/1\r\n"
        "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    )
    assert heads[1].startswith("GET /path HTTP/1.1\r\nHost: example.test\r\n")
    assert "Proxy-Authorization" not in heads[1]


async def test_tunnel_goes_where_host_and_port_say(driver: Driver) -> None:
    heads: list[str] = []

    async def behave(peer: RawPeer) -> None:
        heads.append(await peer.read_head())
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        heads.append(await peer.answer_handshake())

    async with driver.raw_server(behave, handshake=False) as proxy:
        await driver.attempt(
            "ws://example.test/",
            proxy=f"http://127.0.0.1:{proxy.port}",
            address=("other.test", 81),
            close_timeout=0.1,
        )
    assert heads[0].startswith("CONNECT other.test:81 ")
    assert "Host: example.test\r\n" in heads[1]


@pytest.mark.parametrize(
    "answer, exception",
    [
        (b"", InvalidProxyMessage),
        (b"HTTP/1.1 200", InvalidProxyMessage),
        (b"garbage\r\n\r\n", InvalidProxyMessage),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", InvalidProxyMessage),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 3\r\n\r\nbad", InvalidProxyStatus),
        # The end is seen before or after the tunnel is left.
        (b"HTTP/1.1 200 OK\r\n\r\n", (OSError, InvalidMessage)),
    ],
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_bad_answer(driver: Driver, answer: bytes, exception: Any, scheme: str) -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.read_head()
        await peer.send(answer)

    async with driver.raw_server(behave, handshake=False) as proxy:
        with pytest.raises(exception):
            await driver.attempt(f"{scheme}://h.test/", proxy=f"http://127.0.0.1:{proxy.port}")


async def test_late_data(driver: Driver) -> None:
    """Data that comes before the client has said anything is never the server's."""

    async def behave(peer: RawPeer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await driver.settle()
        await peer.send(b"more")
        await peer.read_to_end()

    async with driver.raw_server(behave, handshake=False) as proxy:
        for _ in range(10):
            with pytest.raises((InvalidProxyMessage, InvalidMessage)):
                await driver.attempt("ws://h.test/", proxy=f"http://127.0.0.1:{proxy.port}")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_silence(driver: Driver, answer: bytes, scheme: str) -> None:
    began, ended = [], []

    async def behave(peer: RawPeer) -> None:
        began.append(peer)
        try:
            await peer.read_head()
            await peer.send(answer)
            await peer.read_to_end()
        finally:
            ended.append(peer)

    async with driver.raw_server(behave, handshake=False) as proxy:
        with pytest.raises(TimeoutError, match="timed out"):
            await driver.attempt(
                f"{scheme}://h.test/",
                proxy=f"http://127.0.0.1:{proxy.port}",
                open_timeout=0.1,
            )
        await driver.until(lambda: began == ended)


async def end(driver: Driver, peer: RawPeer, how: str) -> None:
    """Be a proxy that ends the connection without an answer."""
    if "asked" in how:
        asked = await peer.read_exactly(3)
        await driver.settle()
        if "begun" in how:
            await peer.send({5: b"\5\0", 4: b"\0"}.get(asked[0], b"HTTP/1.1 5"))
            await driver.settle()
    if "reset" in how:
        peer.reset()


ENDS = ["closed", "reset", "closed asked", "reset asked", "closed asked begun", "reset asked begun"]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5h"])
async def test_no_answer(driver: Driver, tls: Contexts, scheme: str, how: str) -> None:
    """It is the same exception in whichever way the proxy ends, and the default policy retries."""

    async def behave(peer: RawPeer) -> None:
        # What is left unread makes a reset of the end.
        await end(driver, peer, how)

    options: dict[str, Any] = {"tls": tls[0]} if scheme == "https" else {}
    secure: dict[str, Any] = {"proxy_ssl": tls[1]} if scheme == "https" else {}
    async with driver.raw_server(behave, handshake=False, **options) as proxy:
        host = "localhost" if secure else HOST
        with pytest.raises(Exception) as caught:
            await driver.attempt("ws://h.test/", proxy=f"{scheme}://{host}:{proxy.port}", **secure)
    assert process_exception(caught.value) is None
    # At worst there wasn't a connection yet.
    if not (how == "reset" and isinstance(caught.value, OSError)):
        assert type(caught.value) is (ProxyError if "socks" in scheme else InvalidProxyMessage)
        assert isinstance(caught.value.__cause__, EOFError)


async def refuse_http(peer: RawPeer, status: int) -> bool:
    """Be an HTTP proxy; tell whether there is a tunnel."""
    await peer.read_head()
    await peer.send(f"HTTP/1.1 {status} Whatever\r\n\r\n".encode())
    return status == 200


async def refuse_socks(peer: RawPeer, reply: int) -> bool:
    """Be a SOCKS5 proxy; tell whether there is a tunnel."""
    await peer.read_exactly(3)
    await peer.send(b"\5\0")
    await peer.read_exactly(4 + 1 + len("h.test") + 2)
    await peer.send(bytes([5, reply, 0, 1]) + bytes(6))
    return reply == 0


@pytest.mark.parametrize(
    "scheme, refuse, answers",
    [
        ("http", refuse_http, [500, 502, 503, 504, 200]),
        ("socks5h", refuse_socks, [1, 3, 4, 5, 6, 0]),
    ],
)
async def test_restart(driver: Driver, scheme: str, refuse: Any, answers: list[int]) -> None:
    """Who connects again and again sees through that a proxy, or a server behind it, restarts."""
    todo: list[Any] = [*ENDS, *answers]

    async def behave(peer: RawPeer) -> None:
        what = todo.pop(0)
        if isinstance(what, str):
            await end(driver, peer, what)
        elif await refuse(peer, what):
            await peer.answer_handshake()
            await peer.read()

    async with driver.raw_server(behave, handshake=False) as proxy:
        async with driver.reconnecting(
            "ws://h.test/",
            proxy=f"{scheme}://{HOST}:{proxy.port}",
            reconnect_delays=lambda: itertools.repeat(0),
            close_timeout=0.1,
        ) as connections:
            async for _ in connections:
                break
    assert not todo


@pytest.mark.parametrize(
    "scheme, refuse, answer",
    [("http", refuse_http, 403), ("http", refuse_http, 407), ("socks5h", refuse_socks, 2)],
)
async def test_refusal_for_good(driver: Driver, scheme: str, refuse: Any, answer: int) -> None:
    async def behave(peer: RawPeer) -> None:
        await refuse(peer, answer)

    async with driver.raw_server(behave, handshake=False) as proxy:
        url = f"{scheme}://{HOST}:{proxy.port}"
        with pytest.raises(ProxyError):
            async with driver.reconnecting("ws://h.test/", proxy=url) as connections:
                async for _ in connections:
                    raise AssertionError


# ---------------------------------------------------------------------- tunnels

# Where a reply has a name of 255 bytes, there is no end of it for long.
SOCKS5_REPLY = b"\x05\0\x05\0\0\x03\xff" + bytes(257)


@pytest.mark.parametrize(
    "scheme, answer",
    [
        ("http", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100),
        ("socks4a", bytes(8)),
        ("socks5h", SOCKS5_REPLY),
    ],
    ids=["http", "socks4a", "socks5h"],
)
async def test_proxy_that_takes_its_time(driver: Driver, scheme: str, answer: bytes) -> None:
    """An answer that comes byte by byte has no more time than another one."""

    async def behave(peer: RawPeer) -> None:
        with contextlib.suppress(OSError):
            for byte in answer:
                await peer.send(bytes([byte]))
                await driver.sleep(0.04)
            await peer.read_to_end()

    async with driver.raw_server(behave, handshake=False) as proxy:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await driver.attempt(
                "ws://example.test/",
                proxy=f"{scheme}://127.0.0.1:{proxy.port}",
                open_timeout=0.1,
            )
        assert time.monotonic() - began < 3


async def test_socks_proxy_that_is_not_there(driver: Driver) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        address = f"{HOST}:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"Could not connect to proxy {address}"):
            await driver.attempt("ws://example.test/", proxy=f"socks5h://{address}")


SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


async def talk(driver: Driver, uri: str, proxy_port: int, **options: Any) -> None:
    """Exchange messages of all sizes, and close."""
    async with driver.connect(uri, **options) as ws:
        assert ws.remote_address[1] == proxy_port
        for message in ("hello", b"", b"x" * 70_000, "y" * 800_000):
            await ws.send(message)
            assert await ws.recv() == message
    assert ws.close_code == 1000


@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_tunnels(driver: Driver, tls: Contexts, scheme: str, server_tls: bool) -> None:
    options: dict[str, Any] = {"ssl": tls[1]} if server_tls else {}
    if scheme == "https":
        options["proxy_ssl"] = tls[1]
    with proxying(tls[0] if scheme == "https" else None) as proxy:
        async with driver.serve(**({"ssl": tls[0]} if server_tls else {})) as server:
            # Those two resolve names themselves: there is nothing to resolve.
            host = HOST if scheme in ("socks4", "socks5") else "localhost"
            uri = server.uri(host=host, tls=server_tls)
            await talk(driver, uri, proxy.port, proxy=proxy.url(scheme), **options)
            assert proxy.targets == [(host, server.port)]


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_credentials(driver: Driver, tls: Contexts, scheme: str) -> None:
    options: dict[str, Any] = {"proxy_ssl": tls[1]} if scheme == "https" else {}
    with proxying(tls[0] if scheme == "https" else None, "user:p@ss") as proxy:
        async with driver.serve() as server:
            url = proxy.url(scheme, "user:p%40ss@")
            await talk(driver, server.uri(), proxy.port, proxy=url, **options)
            for wrong in ("", "user:wrong@"):
                with pytest.raises(ProxyError) as caught:
                    await driver.attempt(server, proxy=proxy.url(scheme, wrong), **options)
                if isinstance(caught.value, InvalidProxyStatus):
                    assert caught.value.response.status_code == 407


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
async def test_proxy_cannot_connect(driver: Driver, scheme: str) -> None:
    with proxying() as proxy:
        with pytest.raises(ProxyError) as caught:
            await driver.attempt(f"ws://{HOST}:{free_port()}/", proxy=proxy.url(scheme))
        if isinstance(caught.value, InvalidProxyStatus):
            assert caught.value.response.status_code == 502
        else:
            assert caught.value.__cause__ is not None


async def test_other_names_for_certificates(driver: Driver, tls: Contexts) -> None:
    with proxying(tls[0]) as proxy:
        async with driver.serve(ssl=tls[0]) as server:
            await talk(
                driver,
                server.uri(host="h.test", tls=True),
                proxy.port,
                proxy=proxy.url("https"),
                proxy_ssl=tls[1],
                proxy_server_hostname="localhost",
                ssl=tls[1],
                server_hostname="localhost",
            )


@pytest.mark.parametrize("side", ["proxy", "server"])
async def test_wrong_certificate(driver: Driver, tls: Contexts, side: str) -> None:
    options = {"ssl": tls[1], "proxy_ssl": tls[1]}
    options["ssl" if side == "server" else "proxy_ssl"] = ssl.create_default_context()
    with proxying(tls[0]) as proxy:
        async with driver.serve(ssl=tls[0]) as server:
            with pytest.raises(Exception) as caught:
                await driver.attempt(server.uri(tls=True), proxy=proxy.url("https"), **options)
            assert untrusted(caught.value)


@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("proxy_tls", [False, True])
async def test_server_refuses(
    driver: Driver, tls: Contexts, server_tls: bool, proxy_tls: bool
) -> None:
    def process_request(connection: Ws, request: Request) -> Response:
        return connection.respond(403, "no\n")

    options: dict[str, Any] = {"ssl": tls[1]} if server_tls else {}
    if proxy_tls:
        options["proxy_ssl"] = tls[1]
    served = {"ssl": tls[0]} if server_tls else {}
    with proxying(tls[0] if proxy_tls else None) as proxy:
        async with driver.serve(process_request=process_request, **served) as server:
            url = proxy.url("https" if proxy_tls else "http")
            response = await driver.rejection(server.uri(tls=server_tls), proxy=url, **options)
            assert (response.status_code, response.body) == (403, b"no\n")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these have settings elsewhere")
async def test_proxy_of_environment(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying() as proxy:
        async with driver.serve() as server:
            monkeypatch.setenv("https_proxy", proxy.url("http"))
            await talk(driver, server.uri(), proxy.port)
            monkeypatch.setenv("no_proxy", HOST)
            await talk(driver, server.uri(), server.port)
            monkeypatch.delenv("no_proxy")
            await talk(driver, server.uri(), server.port, proxy=None)
            monkeypatch.setenv("socks_proxy", proxy.url("socks5h"))
            await talk(driver, server.uri(), proxy.port)
    assert len(proxy.targets) == 2


@pytest.mark.not_on("sync", reason="threads can't be cancelled")
async def test_cancelled_anywhere(driver: Driver, tls: Contexts) -> None:
    options = {"ssl": tls[1], "proxy_ssl": tls[1]}
    with proxying(tls[0]) as proxy:
        async with driver.serve(ssl=tls[0]) as server:
            turns = 1
            while True:
                options["proxy"] = proxy.url("https")
                task = driver.spawn(driver.attempt(server.uri(tls=True), **options))
                # Turns of the loop, not time: what is hit depends on no machine's speed.
                for _ in range(turns):
                    await driver.sleep(0)
                if not await task.cancelled():
                    break
                turns += 1 + turns // 4
            assert turns > 8


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_no_proxy_there(driver: Driver, scheme: str) -> None:
    with pytest.raises(OSError):
        await driver.attempt("ws://127.0.0.1/", proxy=f"{scheme}://127.0.0.1:{free_port()}")


async def test_socks_proxy_is_silent(driver: Driver) -> None:

    async def behave(peer: RawPeer) -> None:
        await peer.read_to_end()

    async with driver.raw_server(behave, handshake=False) as proxy:
        with pytest.raises(TimeoutError, match="timed out"):
            await driver.attempt(
                "ws://h/", proxy=f"socks5h://127.0.0.1:{proxy.port}", open_timeout=0.05
            )


# ---------------------------------------------------------------------- where there is none


async def test_socket_is_used_without_proxy(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ws_proxy", "http://127.0.0.1:1")
    async with driver.serve() as server:
        sock = socket.create_connection((HOST, server.port))
        await driver.attempt("ws://h.test/", ready_made=sock)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_unix_socket_is_used_without_proxy(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ws_proxy", "http://127.0.0.1:1")
    path = tmp_path / "socket"
    async with driver.unix_serve(echo, path), driver.unix_connect(path):
        pass
