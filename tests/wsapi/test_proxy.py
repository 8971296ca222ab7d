"""Proxies: addresses, environment, CONNECT without I/O, asyncio with real ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import (
    port_of,
    serving,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.exceptions import (
    HeaderLineTooLong,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    ProxyError,
    SecurityError,
    StatusLineTooLong,
    TooManyHeaders,
)
from wsapi.proxy import (
    ConnectProtocol,
    Proxy,
    get_proxy,
    parse_proxy,
    select_proxy,
    socks_errors,
    socks_proxy,
    unreachable_proxy,
)
from wsapi.uri import parse_uri
from wsproto_fast.redaction import redact_url


@pytest.fixture(autouse=True)
def _no_proxies_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "url, proxy",
    [
        ("http://proxy", Proxy("http", "proxy", 80)),
        ("http://proxy/", Proxy("http", "proxy", 80)),
        ("https://proxy", Proxy("https", "proxy", 443)),
        ("http://PROXY:3128", Proxy("http", "proxy", 3128)),
        ("HTTP://proxy", Proxy("http", "proxy", 80)),
        ("http://[::1]:3128", Proxy("http", "::1", 3128)),
        ("http://bücher.example:3128", Proxy("http", "xn--bcher-kva.example", 3128)),
        ("socks4://proxy", Proxy("socks4", "proxy", 1080)),
        ("socks4a://proxy", Proxy("socks4a", "proxy", 1080)),
        ("socks5://proxy", Proxy("socks5", "proxy", 1080)),
        ("socks5h://proxy", Proxy("socks5h", "proxy", 1080)),
        ("socks5h://u%3A:p%40%2F@proxy:9", Proxy("socks5h", "proxy", 9, "u:", "p@/")),
        ("http://u:@proxy", Proxy("http", "proxy", 80, "u", "")),
    ],
)
def test_parse_proxy(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url) == proxy
    assert proxy.is_socks == url.startswith("socks")
    assert proxy.user_info == (None if proxy.username is None else (proxy.username, proxy.password))


@pytest.mark.parametrize(
    "url, msg",
    [
        ("ftp://proxy", "scheme ftp isn't supported"),
        ("proxy:3128", "scheme proxy isn't supported"),
        ("", "scheme  isn't supported"),
        ("http://", "hostname isn't provided"),
        ("http://:80", "hostname isn't provided"),
        ("http://proxy/path", "path is meaningless"),
        ("http://proxy?query", "query component is meaningless"),
        ("http://proxy#fragment", "fragment identifier is meaningless"),
        ("http://user@proxy", "username provided without password"),
        ("http://u%3A:p@proxy", "username contains a colon"),
        ("http://u:%ff@proxy", None),
        ("http://proxy:99999", None),
        ("http://[::1", None),
    ],
)
def test_parse_proxy_refuses(url: str, msg: str | None) -> None:
    with pytest.raises(InvalidProxy) as info:
        parse_proxy(url)
    assert info.value.proxy == url
    if msg is not None:
        assert str(info.value) == f"{redact_url(url)} isn't a valid proxy: {msg}"


ALL = {f"{key}_proxy": f"http://{key}" for key in ("ws", "wss", "socks", "http", "https")}


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these have settings elsewhere")
@pytest.mark.parametrize(
    "uri, without, proxy",
    [
        ("ws://h/", "", "http://ws"),
        ("ws://h/", "ws", "socks5h://socks"),
        ("ws://h/", "ws socks", "http://https"),
        ("ws://h/", "ws socks https", "http://http"),
        ("ws://h/", "ws socks https http", None),
        ("wss://h/", "", "http://wss"),
        ("wss://h/", "wss", "socks5h://socks"),
        ("wss://h/", "wss socks", "http://https"),
        ("wss://h/", "wss socks https", None),
    ],
)
def test_proxy_of_environment(
    monkeypatch: pytest.MonkeyPatch, uri: str, without: str, proxy: str | None
) -> None:
    for name, value in ALL.items():
        if name.removesuffix("_proxy") not in without.split():
            monkeypatch.setenv(name, value)
    assert get_proxy(parse_uri(uri)) == proxy


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these have settings elsewhere")
@pytest.mark.parametrize(
    "no_proxy, uri, bypassed",
    [
        ("*", "ws://h/", True),
        ("h", "ws://h/", True),
        ("h:80", "ws://h/", True),
        ("h:81", "ws://h/", False),
        ("h:81", "ws://h:81/", True),
        ("example.com", "wss://www.example.com/", True),
        (".example.com", "wss://www.example.com/", True),
        ("example.com", "wss://badexample.com/", False),
        ("a, ::1 ,b", "ws://[::1]:80/", True),
        ("", "ws://h/", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, uri: str, bypassed: bool) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert get_proxy(parse_uri(uri)) == (None if bypassed else "http://proxy")


# ---------------------------------------------------------------------- CONNECT, without I/O


@pytest.mark.parametrize(
    "proxy, host, user_agent, request_",
    [
        ("http://p", "h", None, b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n"),
        (
            "http://p",
            "::1",
            "agent/1",
            b"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\nUser-Agent: agent/1\r\n\r\n",
        ),
        (
            "http://user:pass@p",
            "h",
            "",
            b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n"
            b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n",
        ),
    ],
)
def test_connect_request(proxy: str, host: str, user_agent: str | None, request_: bytes) -> None:
    assert ConnectProtocol(parse_proxy(proxy), host, 80, user_agent).request == request_


def exchange(pieces: list[bytes]) -> ConnectProtocol:
    protocol = ConnectProtocol(parse_proxy("http://p"), "h", 80)
    done = [protocol.receive_data(piece) for piece in pieces]
    assert not any(done[:-1])
    if not done[-1]:
        protocol.receive_eof()
    return protocol


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 \r\nVia: x\r\n\r\n",
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 299 Fine\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 103 \r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia: x\r\n\ty\r\n\r\n",
    ],
)
def test_tunnel(answer: bytes, bytewise: bool) -> None:
    pieces = [answer[i : i + 1] for i in range(len(answer))] if bytewise else [answer]
    response = exchange(pieces).response
    assert response is not None
    assert response.status_code in (200, 299)
    assert response.body == b""


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "answer, cause",
    [
        (b"", EOFError),
        (b"HTTP/1.1 200 O", EOFError),
        (b"HTTP/1.1 200 OK\r\nVia: x\r\n", EOFError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ValueError),
        (b"HTTP/2.0 200 OK\r\n\r\n", ValueError),
        (b"HTTP/1.1 200 OK\n\n", ValueError),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", EOFError),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, SecurityError),
        (b"HTTP/1.1 200 " + b"x" * 10_000, StatusLineTooLong),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 10_000, HeaderLineTooLong),
        (b"HTTP/1.1 200 OK\r\na: b\r\n" + b" x\r\n" * 128, TooManyHeaders),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 129, TooManyHeaders),
        (b"x" * 10_000, ValueError),
    ],
)
def test_no_tunnel(answer: bytes, cause: type[Exception], bytewise: bool) -> None:
    pieces = [answer[i : i + 1] for i in range(len(answer))] if bytewise else [answer]
    with pytest.raises(InvalidProxyMessage, match="valid HTTP response from proxy") as info:
        exchange(pieces or [b""])
    assert isinstance(info.value.__cause__, cause)


def test_broken_connection() -> None:
    protocol = ConnectProtocol(parse_proxy("http://p"), "h", 80)
    protocol.receive_data(b"HTTP/1.1 200 OK\r\n")
    broken = ConnectionResetError()
    with pytest.raises(InvalidProxyMessage) as info:
        protocol.receive_eof(broken)
    assert str(info.value.__cause__) == "connection closed while reading HTTP headers"
    assert info.value.__cause__ is not None
    assert info.value.__cause__.__cause__ is broken


def test_data_after_the_answer() -> None:
    with pytest.raises(InvalidProxyMessage) as info:
        exchange([b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n"])
    assert str(info.value.__cause__) == "unexpected data after the response"


def test_more_data_after_the_answer() -> None:
    protocol = exchange([b"HTTP/1.1 200 OK\r\n\r\n"])
    with pytest.raises(InvalidProxyMessage) as info:
        protocol.receive_data(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert str(info.value.__cause__) == "unexpected data after the response"


@pytest.mark.parametrize("status", [101, 302, 403, 407, 502])
def test_refused(status: int) -> None:
    with pytest.raises(InvalidProxyStatus, match=f"HTTP {status}") as info:
        exchange([f"HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nabc".encode()])
    assert info.value.response.status_code == status


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
            {"proxy": "https://p", "proxy_ssl": None},
            ValueError,
            "proxy_ssl=None is incompatible with an https:// proxy",
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
    uri: str, options: dict[str, Any], exception: type[Exception], text: str
) -> None:
    with pytest.raises(exception, match=text):
        connect(uri, **options)


# ---------------------------------------------------------------------- real proxies


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str, port: int) -> Iterator[None]:
    """Run a proxy until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
        try:
            for _ in range(500):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert proxy.poll() is None, "the proxy didn't start"
                    time.sleep(0.01)
            yield
        finally:
            proxy.terminate()


@pytest.fixture(scope="module", params=["", "user:pass@"], ids=["open", "authenticated"])
def tinyproxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Address of a tinyproxy, with the credentials it wants."""
    path = shutil.which("tinyproxy")
    if path is None:
        pytest.skip("tinyproxy isn't installed")
    port = free_port()
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 30", "MaxClients 20"]
    if request.param:
        lines.append("BasicAuth user pass")
    configuration: Path = tmp_path_factory.mktemp("tinyproxy") / "tinyproxy.conf"
    configuration.write_text("\n".join(lines) + "\n")
    with process(path, "-d", "-c", str(configuration), port=port):
        yield f"{request.param}127.0.0.1:{port}"


@pytest.fixture(scope="module", params=["", "user:pass@"], ids=["open", "authenticated"])
def microsocks(request: pytest.FixtureRequest) -> Any:
    """Address of a microsocks, with the credentials it wants."""
    pytest.importorskip("python_socks")
    path = shutil.which("microsocks")
    if path is None:
        pytest.skip("microsocks isn't installed")
    port = free_port()
    options = ["-u", "user", "-P", "pass"] if request.param else []
    with process(path, "-i", "127.0.0.1", "-p", str(port), *options, port=port):
        yield f"{request.param}127.0.0.1:{port}"


def address_of(proxy: str) -> int:
    return int(proxy.rpartition(":")[2])


async def talk(uri: str, proxy_port: int, **options: Any) -> None:
    """Exchange messages of all sizes, and close."""
    async with connect(uri, **options) as ws:
        assert ws.remote_address[1] == proxy_port
        for message in ("hello", b"", b"x" * 70_000, "y" * 800_000):
            await ws.send(message)
            assert await ws.recv() == message
    assert ws.close_code == 1000


async def test_http_proxy(tinyproxy: str) -> None:
    async with serving() as server:
        await talk(uri_of(server), address_of(tinyproxy), proxy=f"http://{tinyproxy}")


async def test_http_proxy_tls(tinyproxy: str, tls: tuple[Any, Any]) -> None:
    async with serving(ssl=tls[0]) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        options = {"ssl": tls[1], "host": "127.0.0.1"}
        await talk(uri, address_of(tinyproxy), proxy=f"http://{tinyproxy}", **options)


async def test_http_proxy_cannot_connect(tinyproxy: str) -> None:
    with pytest.raises(InvalidProxyStatus) as info:
        await connect(f"ws://127.0.0.1:{free_port()}/", proxy=f"http://{tinyproxy}")
    assert info.value.response.status_code in (500, 502, 503)


async def test_http_proxy_wants_credentials(tinyproxy: str) -> None:
    credentials, _, address = tinyproxy.rpartition("@")
    if not credentials:
        pytest.skip("this one doesn't")
    for wrong in ("", "user:wrong@"):
        with pytest.raises(InvalidProxyStatus) as info:
            await connect("ws://127.0.0.1/", proxy=f"http://{wrong}{address}")
        assert info.value.response.status_code in (401, 407)


@contextlib.asynccontextmanager
async def https_proxy(proxy: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Put TLS before a proxy; yield the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", address_of(proxy))
        try:
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        finally:
            for each in (inner_writer, writer):
                try:
                    await each.wait_closed()
                except OSError:
                    pass

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(forward(reader, writer)))

    server = await asyncio.start_server(start, "127.0.0.1", 0, ssl=context)
    try:
        yield port_of(server)
    finally:
        server.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=2)
            assert not late


async def test_https_proxy(tinyproxy: str, tls: tuple[Any, Any]) -> None:
    credentials = tinyproxy.rpartition("127.0.0.1")[0]
    async with serving() as server, https_proxy(tinyproxy, tls[0]) as port:
        proxy = f"https://{credentials}127.0.0.1:{port}"
        await talk(uri_of(server), port, proxy=proxy, proxy_ssl=tls[1])


async def test_tls_in_tls(tinyproxy: str, tls: tuple[Any, Any]) -> None:
    credentials = tinyproxy.rpartition("127.0.0.1")[0]
    async with serving(ssl=tls[0]) as server, https_proxy(tinyproxy, tls[0]) as port:
        proxy = f"https://{credentials}127.0.0.1:{port}"
        uri = f"wss://127.0.0.1:{port_of(server)}/"
        await talk(uri, port, proxy=proxy, proxy_ssl=tls[1], ssl=tls[1])
        # Names may be others than those of the URIs.
        await talk(
            uri,
            port,
            proxy=proxy,
            proxy_ssl=tls[1],
            proxy_server_hostname="localhost",
            ssl=tls[1],
            server_hostname="localhost",
        )


@contextlib.asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[asyncio.Server]:
    """Listen to clients that don't trust the certificate."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    try:
        yield server
    finally:
        server.close()
        # Nothing tells when the loop is done with connections whose TLS handshake failed.
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------------- SOCKS


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_socks_proxy(microsocks: str, scheme: str) -> None:
    async with serving() as server:
        await talk(uri_of(server), address_of(microsocks), proxy=f"{scheme}://{microsocks}")


async def test_socks_proxy_tls(microsocks: str, tls: tuple[Any, Any]) -> None:
    async with serving(ssl=tls[0]) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        options = {"ssl": tls[1], "host": "127.0.0.1"}
        await talk(uri, address_of(microsocks), proxy=f"socks5h://{microsocks}", **options)
    async with tls_server(tls[0]) as raw:
        uri = f"wss://localhost:{port_of(raw)}/"
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(uri, proxy=f"socks5h://{microsocks}", host="127.0.0.1")


async def test_socks_proxy_cannot_connect(microsocks: str) -> None:
    with pytest.raises(ProxyError, match="failed to connect to SOCKS proxy") as info:
        await connect(f"ws://127.0.0.1:{free_port()}/", proxy=f"socks5://{microsocks}")
    assert info.value.__cause__ is not None


async def test_socks_proxy_wants_credentials(microsocks: str) -> None:
    credentials, _, address = microsocks.rpartition("@")
    if not credentials:
        pytest.skip("this one doesn't")
    for wrong in ("", "user:wrong@"):
        with pytest.raises(ProxyError):
            await connect("ws://127.0.0.1/", proxy=f"socks5://{wrong}{address}")


def test_choice_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.proxy.get_proxy", lambda uri: f"socks5h://{uri.host}:1")
    uri = parse_uri("ws://target")
    assert select_proxy(True, uri) == parse_proxy("socks5h://target:1")
    assert select_proxy("http://proxy:2", uri) == parse_proxy("http://proxy:2")
    assert select_proxy(None, uri) is None
    monkeypatch.setattr("wsapi.proxy.get_proxy", lambda uri: None)
    assert select_proxy(True, uri) is None


def test_part_of_a_password_is_not_told() -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse_proxy("http://user:sec/ret@proxy:1")
    assert caught.value.msg == "invalid host or port"
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "scheme, version, rdns",
    [
        ("socks4", "SOCKS4", False),
        ("socks4a", "SOCKS4", True),
        ("socks5", "SOCKS5", False),
        ("socks5h", "SOCKS5", True),
    ],
)
def test_arguments_for_python_socks(
    monkeypatch: pytest.MonkeyPatch, scheme: str, version: str, rdns: bool
) -> None:
    made = mock.Mock()
    monkeypatch.setitem(sys.modules, "python_socks.sync", mock.Mock(Proxy=made))
    proxy = parse_proxy(f"{scheme}://u:p@proxy:3")
    assert socks_proxy("sync", proxy, forward=1) is made.return_value
    (kind, *others), options = made.call_args
    assert (kind.name, *others) == (version, "proxy", 3, "u", "p")
    assert options == {"rdns": rdns, "forward": 1}


def test_socks_proxy_that_is_not_there() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    error = unreachable_proxy(parse_proxy("socks5://u:p@proxy:3"), refused)
    assert type(error).__name__ == "ProxyConnectionError"
    assert error.errno == errno.ECONNREFUSED
    assert error.strerror == "Could not connect to proxy proxy:3 [Connection refused]"


def test_without_python_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ImportError, match=r"install wsproto-fast\[proxy\]"):
        socks_proxy("sync", parse_proxy("socks5://proxy"))


class IncompleteReadError(Exception):
    """As python-socks has one, of its own."""


@pytest.mark.parametrize("exc", [TimeoutError("late"), OSError("unreachable")])
def test_errors_on_the_way_to_a_socks_proxy(exc: OSError) -> None:
    with pytest.raises(OSError) as caught:
        with socks_errors():
            raise exc
    assert caught.value is exc


def test_errors_of_a_socks_proxy() -> None:
    private = RuntimeError("connection closed")
    private.__cause__ = IncompleteReadError()
    for exc, eof in [
        (RuntimeError("refused"), False),
        (ConnectionResetError("reset"), True),
        (private, True),
    ]:
        with pytest.raises(ProxyError, match="failed to connect to SOCKS proxy") as caught:
            with socks_errors():
                raise exc
        cause = caught.value.__cause__
        if eof:
            assert type(cause) is EOFError
            assert str(cause) == "connection closed by proxy"
            assert cause.__cause__ is exc
        else:
            assert cause is exc
        assert exc.__traceback__ is None
