"""What only clients for threads have: the shapes of connect, and blocking steps of the opening."""

from __future__ import annotations

import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.sync_helpers import (
    PATIENCE,
    Spawned,
    eventually,
    port_of,
    raw_server,
    running,
    serving,
    uri_of,
)
from wsapi._shared.gate import gate
from wsapi.exceptions import ConnectionClosed, InvalidURI
from wsapi.sync.client import (
    ClientConnection,
    connect,
    reconnect,
    unix_connect,
    unix_reconnect,
)
from wsapi.sync.server import ServerConnection, unix_serve


class Codes:
    """A handler that keeps how connections were closed."""

    def __init__(self) -> None:
        self.queue = queue.Queue[int | None]()

    def __call__(self, ws: ServerConnection) -> None:
        try:
            ws.send("hello")
        except ConnectionClosed:
            pass  # the client may have closed it before the handler began
        ws.wait_closed()
        self.queue.put(ws.close_code)

    def next(self) -> int | None:
        return self.queue.get(timeout=PATIENCE)


@pytest.fixture
def codes() -> Codes:
    return Codes()


@pytest.fixture
def uri(codes: Codes) -> Iterator[str]:
    with serving(codes) as server:
        yield uri_of(server)


# ---------------------------------------------------------------------- shapes


def test_connect_returns_a_connection(uri: str, codes: Codes) -> None:
    with connect(uri) as ws:
        assert isinstance(ws, ClientConnection)
        assert ws.recv() == "hello"
    assert codes.next() == 1000


def test_connect_without_context_manager(uri: str, codes: Codes) -> None:
    ws = connect(uri, legacy=True)
    assert ws.recv() == "hello"
    ws.close(4000)
    assert codes.next() == 4000


def test_connect_later(uri: str, codes: Codes) -> None:
    connector = connect(uri, legacy=False)
    assert isinstance(connector, reconnect)
    with connector as ws:
        assert ws.recv() == "hello"
    assert codes.next() == 1000


def test_reconnect_is_entered_again(uri: str, codes: Codes) -> None:
    connector = reconnect(uri)
    for _ in range(2):
        with connector as ws:
            assert ws.recv() == "hello"
            with pytest.raises(RuntimeError, match="isn't reentrant"):
                with connector:
                    pass
        assert codes.next() == 1000


@pytest.mark.parametrize("shape", ["connection", "connector"])
def test_exception_closes_with_1011(uri: str, codes: Codes, shape: str) -> None:
    with pytest.raises(LookupError):
        with connect(uri) if shape == "connection" else reconnect(uri):
            raise LookupError
    assert codes.next() == 1011


def test_interrupted_when_it_is_entered(
    uri: str, codes: Codes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(connection: ClientConnection) -> ClientConnection:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClientConnection, "__enter__", enter)
    connector = reconnect(uri)
    with pytest.raises(KeyboardInterrupt):
        connector.__enter__()
    assert codes.next() == 1011


def test_iteration(uri: str, codes: Codes) -> None:
    turns = 0
    for ws in reconnect(uri):
        assert ws.recv() == "hello"
        turns += 1
        if turns == 2:
            continue
        if turns == 4:
            break
    assert [codes.next() for _ in range(4)] == [1000] * 4


def test_exception_in_an_iteration(uri: str, codes: Codes) -> None:
    connections = iter(reconnect(uri))
    next(connections)
    with pytest.raises(LookupError):
        connections.throw(LookupError)  # type: ignore[attr-defined] # it is a generator
    assert codes.next() == 1011


def test_iteration_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wsapi.client")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        for _ in reconnect(f"ws://127.0.0.1:{port}/", reconnect_delays=lambda: iter([0, 0.001])):
            raise AssertionError("nobody listens")
    assert [message[:42] for message in caplog.messages] == [
        "connect failed; reconnecting in 0.0 second"
    ] * 2


def test_arguments_are_checked_before_anything_else() -> None:
    with pytest.raises(InvalidURI):
        reconnect("http://localhost/")
    with pytest.raises(TypeError, match="unexpected keyword argument 'adress'"):
        reconnect("ws://localhost/", adress=("localhost", 80))  # type: ignore[call-arg] # wrong on purpose
    with pytest.raises(ValueError, match="ssl argument is incompatible with a ws:// URI"):
        reconnect("ws://localhost/", ssl=True)


def test_ssl_context_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="ssl_context was renamed to ssl"):
        reconnect("ws://localhost/", ssl_context=None)


# ---------------------------------------------------------------------- where and how


def test_address(codes: Codes) -> None:
    with serving(codes) as server:
        address = ("127.0.0.1", port_of(server))
        with connect("ws://example.com/", address=address, proxy=None) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "example.com"
            assert ws.remote_address == address


def test_source_address(uri: str) -> None:
    with connect(uri, source_address=("127.0.0.2", 0)) as ws:
        assert ws.local_address[0] == "127.0.0.2"


@pytest.mark.parametrize("timeout, limit", [(5, 5), (1000, PATIENCE)])
def test_timeout_of_the_tcp_connection(
    uri: str, monkeypatch: pytest.MonkeyPatch, timeout: float, limit: float
) -> None:
    """It is no longer than all that is opened may take."""
    original, seen = socket.create_connection, []

    def create_connection(*args: Any, **options: Any) -> socket.socket:
        seen.append(options["timeout"])
        return original(*args, **options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with connect(uri, timeout=timeout, open_timeout=PATIENCE) as ws:
        assert ws.recv() == "hello"
    assert limit - 4 < seen[0] <= limit


class Addresses:
    """What a host has: addresses, of which none answers for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: Any = None) -> None:
        self.last = last
        self.limits: list[float] = []
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{i}", 1)) for i in range(3)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: infos)
        monkeypatch.setattr(socket, "create_connection", self.create_connection)

    def create_connection(self, address: tuple[str, int], *, timeout: float) -> Any:
        self.limits.append(timeout)
        if address[0] == "192.0.2.2" and self.last is not None:
            return self.last
        time.sleep(0.05)
        raise OSError(address[0])


def test_addresses_of_a_host_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = Addresses(monkeypatch)
    with pytest.raises(TimeoutError, match="timed out"):
        reconnect("ws://h.test/", proxy=None, open_timeout=0.08).__enter__()
    first, second = addresses.limits
    assert second <= first - 0.05


def test_a_socks_proxy_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't one that can't be reached."""
    pytest.importorskip("python_socks", reason="python-socks isn't installed")

    def create_connection(*args: object, **options: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with pytest.raises(TimeoutError):
        reconnect("ws://h.test/", proxy="socks5h://127.0.0.1:1").__enter__()


def test_addresses_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    Addresses(monkeypatch)
    with pytest.raises(OSError, match=r"^192\.0\.2\.2$"):
        reconnect("ws://h.test/", proxy=None).__enter__()
    with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
        reconnect("ws://h.test/", proxy=None, all_errors=True, open_timeout=None).__enter__()
    assert [str(exc) for exc in caught.value.exceptions] == [f"192.0.2.{i}" for i in range(3)]


def test_address_of_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its scope nobody knows which link (RFC 4007 section 11)."""
    asked: list[tuple[str, int]] = []

    def create_connection(address: tuple[str, int], **options: Any) -> Any:
        asked.append(address)
        raise OSError("nobody")

    addresses = [("fe80::1", 1, 0, 7), ("::1", 1, 0, 0)]
    infos = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: infos)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    with pytest.raises(OSError, match="nobody"):
        reconnect("ws://h.test/", proxy=None).__enter__()
    assert asked == [("fe80::1%7", 1), ("::1", 1)]


def test_last_address_answers(monkeypatch: pytest.MonkeyPatch, codes: Codes) -> None:
    with serving(codes) as server:
        sock = socket.create_connection(server.socket.getsockname())
        addresses = Addresses(monkeypatch, sock)
        with reconnect("ws://h.test/", proxy=None) as ws:
            assert len(addresses.limits) == 3
            assert ws.socket.getpeername() == server.socket.getsockname()


def test_nodelay(uri: str) -> None:
    with connect(uri) as ws:
        assert ws.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ready_made_socket(codes: Codes) -> None:
    with serving(codes) as server:
        sock = socket.create_connection(("127.0.0.1", port_of(server)), timeout=0.001)
        with connect(uri_of(server), sock=sock) as ws:
            assert ws.socket is sock
            assert ws.recv() == "hello"  # whatever timeout the socket had
        with pytest.raises(ValueError, match="sock is closed"):
            connect(uri_of(server), sock=sock)


def test_ready_made_socket_has_no_tls() -> None:
    context = ssl.create_default_context()
    with context.wrap_socket(socket.socket(), server_hostname="localhost") as sock:
        with pytest.raises(TypeError, match="sock must be a plain socket"):
            connect("wss://localhost", sock=sock)
        assert sock.fileno() != -1


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_unix(codes: Codes, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(unix_serve(codes, path)):
        with unix_connect(path) as ws:
            assert ws.recv() == "hello"
        for ws in unix_reconnect(path, "ws://example.com/"):
            assert ws.request is not None
            assert ws.request.headers["Host"] == "example.com"
            break
        with unix_connect(path, legacy=False) as ws:
            assert ws.recv() == "hello"
    with pytest.raises(ValueError, match="missing path argument"):
        unix_connect()
    with pytest.raises(FileNotFoundError):
        unix_connect(tmp_path / "nothing")


# ---------------------------------------------------------------------- how long


def test_open_timeout_is_for_all() -> None:
    """A server that answers with redirects, each in less time than the limit, doesn't extend it."""

    def redirect(peer: Any) -> None:
        peer.read_head()
        time.sleep(0.08)
        peer.sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    with raw_server(redirect, handshake=False) as uri:
        with pytest.raises(TimeoutError, match="timed out"):
            connect(uri, open_timeout=0.2)


def test_open_timeout_of_a_silent_server() -> None:
    with raw_server(lambda peer: peer.read_to_end(), handshake=False) as uri:
        with pytest.raises(TimeoutError, match="timed out while waiting for handshake response"):
            connect(uri, open_timeout=0.05)


def test_one_connecting(uri: str) -> None:
    assert gate.enter("127.0.0.1", lambda: None)
    waiting = Spawned(connect, uri, one_connecting=True, legacy=True)
    with pytest.raises(TimeoutError, match="waiting for another opening handshake"):
        connect(uri, one_connecting=True, open_timeout=0.05)
    assert waiting.running
    gate.leave("127.0.0.1")
    waiting.result().close()
    with connect(uri, one_connecting=True):
        pass


if hasattr(signal, "pthread_kill"):

    def test_interrupted_connect() -> None:
        ends = queue.Queue[bytes]()
        requested = threading.Event()

        def behave(peer: Any) -> None:
            peer.read_head()
            requested.set()
            ends.put(peer.read_to_end())

        main = threading.get_ident()

        def interrupt() -> None:
            assert requested.wait(PATIENCE)
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)

        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with raw_server(behave, handshake=False) as uri:
                spawned = Spawned(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    connect(uri)
                spawned.result()
                # The TCP connection is closed.
                assert ends.get(timeout=PATIENCE) == b""
        finally:
            signal.signal(signal.SIGINT, previous)


def test_nothing_is_left_after_failures() -> None:
    def refuse(peer: Any) -> None:
        peer.read_head()
        peer.sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with raw_server(refuse, handshake=False) as uri:
        for _ in range(3):
            with pytest.raises(Exception, match="HTTP 404"):
                connect(uri)
    eventually(lambda: "wsproto_fast-housekeeper" not in {t.name for t in threading.enumerate()})
