"""What only servers for threads have: serve_forever, and a shutdown that always returns."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import queue
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import CLOSE, TEXT, close_payload, request
from tests.wsapi.sync_helpers import (
    PATIENCE,
    RawPeer,
    Spawned,
    echo,
    eventually,
    port_of,
    raw_client,
    running,
    serving,
    until_closed,
    uri_of,
)
from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidStatus,
    InvalidUpgrade,
    ProtocolError,
)
from wsapi.http11 import Request, Response
from wsapi.limits import Door
from wsapi.server import ServerProtocol
from wsapi.sync._accepting import ACCEPT_PAUSE
from wsapi.sync.client import connect, unix_connect
from wsapi.sync.server import Server, ServerConnection, basic_auth, serve, unix_serve


def code_of(server: Server) -> Any:
    """Connect; return how the server closed the connection."""
    with connect(uri_of(server)) as ws:
        with pytest.raises(ConnectionClosed) as raised:
            ws.recv()
    assert raised.value.rcvd is not None
    return raised.value.rcvd.code


# ---------------------------------------------------------------------- servers of another kind


@contextlib.contextmanager
def accepted(handshake: bytes) -> Iterator[tuple[ServerConnection, RawPeer]]:
    """Make a connection for a socket that no server of ours has accepted, and its client."""
    sock, ours = socket.socketpair()
    sock.sendall(handshake)
    server: Any = object()
    # The client, in the same thread, doesn't close the connection when it should.
    connection = ServerConnection(ours, ServerProtocol(), server, close_timeout=0.05)
    try:
        yield connection, RawPeer(sock, masked=True)
    finally:
        sock.close()
        connection.close()


def test_handshake_for_a_server_of_another_kind() -> None:
    with accepted(request()) as (connection, peer):
        connection.handshake(server_header="other", timeout=PATIENCE)
        assert b"\r\nServer: other" in peer.read_head()
        peer.write(TEXT, b"hello")
        assert connection.recv() == "hello"
        connection.send("world")
        assert peer.read() == (TEXT, b"world")
        peer.write(CLOSE, close_payload(1000))
        assert list(connection) == []


@pytest.mark.parametrize("callback", ["process_request", "process_response"])
def test_handshake_that_a_callback_refuses(callback: str) -> None:
    def refuse(connection: ServerConnection, *_: object) -> Response:
        return connection.respond(403, "no")

    with accepted(request()) as (connection, peer):
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            connection.handshake(server_header=None, **{callback: refuse})  # type: ignore[arg-type]
        assert peer.read_to_end().startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_handshake_again() -> None:
    with accepted(request()) as (connection, peer):
        for _ in range(2):
            connection.handshake(timeout=PATIENCE)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        connection.send("hello")
        assert peer.read() == (TEXT, b"hello")


def test_handshake_that_fails() -> None:
    with accepted(request(without="Upgrade")) as (connection, peer):
        with pytest.raises(InvalidUpgrade):
            connection.handshake()
        assert peer.read_to_end().startswith(b"HTTP/1.1 426 ")
    with accepted(b"GET / HT") as (connection, _):
        with pytest.raises(TimeoutError):
            connection.handshake(timeout=0.05)


# ---------------------------------------------------------------------- serve_forever


def test_listens_at_once_and_accepts_later() -> None:
    with serve(echo, "127.0.0.1", 0) as server:
        assert server.fileno() == server.socket.fileno()
        client = Spawned(connect, uri_of(server), legacy=True)
        time.sleep(0.05)
        assert client.running
        with running(server):
            ws = client.result()
            ws.send("hello")
            assert ws.recv() == "hello"
            ws.close()


def test_serve_forever_twice() -> None:
    with serving() as server:
        with contextlib.closing(connect(uri_of(server), legacy=True)):
            with pytest.raises(RuntimeError, match="running already"):
                server.serve_forever()


def test_serve_forever_after_shutdown() -> None:
    server = serve(echo, "127.0.0.1", 0)
    server.shutdown()
    server.serve_forever()


def test_one_thread_per_connection() -> None:
    with serving(until_closed) as server:
        before = threading.active_count()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(connect(uri_of(server)))
            assert threading.active_count() <= before + 10 + 1
            assert len(server.connections) == 10
        eventually(lambda: threading.active_count() <= before + 1)
        assert server.connections == set()


class Listening(socket.socket):
    """A listening socket; before it accepts, it does what the test wants."""

    before: Callable[[], None]

    def accept(self) -> Any:
        self.before()
        return super().accept()


@contextlib.contextmanager
def listening(before: Callable[[], None]) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listening = Listening(fileno=sock.detach())
    listening.before = before
    with running(serve(echo, sock=listening)) as server:
        yield server


@pytest.mark.parametrize(
    "error, logged", [(OSError("too many open files"), 1), (ConnectionAbortedError(), 0)]
)
def test_accepting_fails_for_a_while(
    error: OSError,
    logged: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = [error, error]
    pauses: list[float] = []
    monkeypatch.setattr("wsapi.sync._accepting.sleep", pauses.append)

    def before() -> None:
        if failures:
            raise failures.pop()

    with listening(before) as server:
        with connect(uri_of(server)) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"
    assert not failures
    assert caplog.messages.count("accepting a connection failed") == logged
    # What is lacking isn't there sooner for being asked for again and again.
    assert pauses == [ACCEPT_PAUSE] * 2 * logged


def test_accepting_ends_later_than_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsapi.sync._accepting.SIGNAL_INTERVAL", 0.01)
    accepting, go_on = threading.Event(), threading.Event()

    def before() -> None:
        accepting.set()
        assert go_on.wait(PATIENCE)
        raise OSError("closed")

    with listening(before) as server, socket.create_connection(("127.0.0.1", port_of(server))):
        assert accepting.wait(PATIENCE)
        shutdown = Spawned(server.shutdown)
        eventually(lambda: server._closing)
        time.sleep(0.05)
        assert shutdown.running
        go_on.set()
        shutdown.result()
    assert caplog.messages == []


@pytest.mark.parametrize("door", [None, Door(max_connections=1)])
def test_no_more_threads(
    door: Door | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(door=door) as server:
        original = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name.startswith("wsapi-handler"):
                raise RuntimeError("can't start new thread")
            original(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with raw_client(server, b"") as peer:
                assert peer.read_to_end() == b""
        with connect(uri_of(server)) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"
    assert caplog.messages == ["accepting a connection failed"]


def test_failing_factory_of_connections() -> None:
    messages = []

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Not the record, which holds the exception, thus the connection.
            messages.append(record.getMessage())

    logger = logging.Logger("test")
    logger.addHandler(Messages())

    class Failing(ServerConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            raise LookupError("no room")

    with serving(create_connection=Failing, logger=logger) as server:
        with raw_client(server, b"") as peer:
            assert peer.read_to_end() == b""
    assert "opening handshake failed" in messages
    eventually(lambda: "wsproto_fast-housekeeper" not in {t.name for t in threading.enumerate()})


# ---------------------------------------------------------------------- shutdown


def test_shutdown_without_serve_forever() -> None:
    server = serve(echo, "127.0.0.1", 0)
    server.shutdown()
    assert server.fileno() == -1
    server.shutdown()


def test_shutdown_from_another_thread() -> None:
    server = serve(until_closed, "127.0.0.1", 0)
    serving_thread = Spawned(server.serve_forever)
    with connect(uri_of(server)) as ws:
        shutdown = Spawned(server.shutdown, code=4000, reason="later")
        with pytest.raises(ConnectionClosed, match=r"received 4000 .* later") as raised:
            ws.recv()
        assert raised.value.rcvd is not None
    shutdown.result()
    serving_thread.result()


@pytest.mark.parametrize("many", [1, 3])
def test_shutdown_from_handlers(many: int) -> None:
    """It doesn't wait for handlers that wait for it."""
    barrier = threading.Barrier(many)
    returned = queue.Queue[int]()

    def handler(ws: ServerConnection) -> None:
        barrier.wait(PATIENCE)
        ws.server.shutdown(code=1012)
        returned.put(1)

    with serving(handler) as server:
        clients = [Spawned(code_of, server) for _ in range(many)]
        assert [client.result() for client in clients] == [1012] * many
        for _ in range(many):
            returned.get(timeout=PATIENCE)
        assert server.fileno() == -1


def test_shutdown_waits_for_handlers() -> None:
    release = threading.Event()

    def handler(ws: ServerConnection) -> None:
        until_closed(ws)
        release.wait(PATIENCE)

    with serving(handler) as server:
        with connect(uri_of(server)):
            first, second = Spawned(server.shutdown), Spawned(server.shutdown)
            time.sleep(0.1)
            assert first.running
            assert second.running
            release.set()
            first.result()
            second.result()


def test_shutdown_leaves_connections() -> None:
    with serving() as server:
        with connect(uri_of(server)) as ws:
            shutdown = Spawned(server.shutdown, close_connections=False)
            eventually(lambda: server.fileno() == -1)
            ws.send("still here")
            assert ws.recv() == "still here"
            assert shutdown.running
        shutdown.result()


def test_shutdown_with_wrong_arguments() -> None:
    with serving() as server:
        with pytest.raises(ProtocolError):
            server.shutdown(code=1006)
        with connect(uri_of(server)) as ws:
            ws.send("not shut down")
            assert ws.recv() == "not shut down"


def test_shutdown_refuses_connecting_clients() -> None:
    with serving() as server:
        with raw_client(server, b"") as partial, raw_client(server, b"") as silent:
            partial.sock.sendall(b"GET / HTTP/1.1\r\n")
            eventually(lambda: len(server._connections) == 2)
            time.sleep(0.05)
            shutdown = Spawned(server.shutdown)
            for peer in (partial, silent):
                assert peer.read_to_end().startswith(b"HTTP/1.1 503 ")
                peer.sock.close()
            shutdown.result()


def test_shutdown_while_a_request_is_processed() -> None:
    processing, go_on = threading.Event(), threading.Event()

    def process_request(ws: ServerConnection, request: Request) -> None:
        processing.set()
        go_on.wait(PATIENCE)

    with serving(process_request=process_request) as server:
        client = Spawned(connect, uri_of(server))
        assert processing.wait(PATIENCE)
        shutdown = Spawned(server.shutdown)
        eventually(lambda: server.fileno() == -1)
        go_on.set()
        with pytest.raises(InvalidStatus, match="HTTP 503"):
            client.result()
        shutdown.result()


def test_shutdown_while_a_door_asks_for_an_address() -> None:
    asking, go_on = threading.Event(), threading.Event()

    def client_address(ws: ServerConnection, request: Request) -> None:
        asking.set()
        go_on.wait(PATIENCE)

    with serving(door=Door(client_address=client_address)) as server:
        client = Spawned(connect, uri_of(server))
        assert asking.wait(PATIENCE)
        shutdown = Spawned(server.shutdown)
        eventually(lambda: server.fileno() == -1)
        time.sleep(0.05)  # connections are closed now
        go_on.set()
        with pytest.raises(InvalidStatus, match="HTTP 503"):
            client.result()
        shutdown.result()


def test_drain_while_a_subprotocol_is_selected() -> None:
    """When others have been closed already, nothing opens any more."""
    selecting, go_on = threading.Event(), threading.Event()

    def select_subprotocol(ws: ServerConnection, offered: object) -> None:
        if offered:
            selecting.set()
            go_on.wait(PATIENCE)

    with serving(until_closed, select_subprotocol=select_subprotocol) as server:
        with connect(uri_of(server)) as ws:
            client = Spawned(connect, uri_of(server), subprotocols=["chat"])
            assert selecting.wait(PATIENCE)
            drain = Spawned(server.drain, timeout=None, spread=0)
            with pytest.raises(ConnectionClosed):
                ws.recv(PATIENCE)
            go_on.set()
            with pytest.raises(InvalidStatus, match="HTTP 503"):
                client.result()
            drain.result()


def test_drain_begins_while_a_connection_opens() -> None:
    """One that opens when the others have been closed is closed, too."""
    opening, go_on = threading.Event(), threading.Event()

    class SlowConnection(ServerConnection):
        def _respond(self, response: Response) -> bool:
            assert self.request is not None
            if self.request.path == "/slow":
                opening.set()
                go_on.wait(PATIENCE)
            return super()._respond(response)

    with serving(until_closed, create_connection=SlowConnection) as server:
        with connect(uri_of(server)) as ws:
            client = Spawned(connect, uri_of(server, "/slow"))
            assert opening.wait(PATIENCE)
            drain = Spawned(server.drain, timeout=None, spread=0)
            with pytest.raises(ConnectionClosed):
                ws.recv(PATIENCE)
            go_on.set()
            with client.result() as late, pytest.raises(ConnectionClosed):
                late.recv(PATIENCE)
            assert late.close_code == 1012
            drain.result()


if hasattr(signal, "pthread_kill"):

    @pytest.fixture
    def restored_sigint() -> Iterator[None]:
        previous = signal.getsignal(signal.SIGINT)
        yield
        signal.signal(signal.SIGINT, previous)

    @pytest.mark.parametrize("action", ["shutdown", "interrupt"])
    def test_signal_ends_serve_forever(action: str) -> None:
        server = serve(until_closed, "127.0.0.1", 0)

        def shut_down(*args: Any) -> None:
            server.shutdown()
            server.shutdown(code=1011)  # the first one prevails

        handler = shut_down if action == "shutdown" else signal.default_int_handler
        previous = signal.signal(signal.SIGINT, handler)
        main = threading.get_ident()

        def client() -> Any:
            with connect(uri_of(server)) as ws:
                signal.pthread_kill(main, signal.SIGINT)
                with pytest.raises(ConnectionClosedOK) as raised:
                    ws.recv()
                return raised.value.rcvd

        try:
            spawned = Spawned(client)
            with server:
                if action == "shutdown":
                    server.serve_forever()
                else:
                    with pytest.raises(KeyboardInterrupt):
                        server.serve_forever()
            assert spawned.result().code == 1001
        finally:
            signal.signal(signal.SIGINT, previous)

    def unnoticed_signal() -> None:
        """Have this thread take a signal, so that it doesn't interrupt the main thread."""
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def test_signal_that_interrupts_nothing_ends_serve_forever(restored_sigint: None) -> None:
        server = serve(until_closed, "127.0.0.1", 0)
        signal.signal(signal.SIGINT, lambda *args: server.shutdown())

        def client() -> Any:
            with connect(uri_of(server)) as ws:
                time.sleep(0.05)  # the main thread waits for the next one
                unnoticed_signal()
                with pytest.raises(ConnectionClosedOK) as raised:
                    ws.recv()
                return raised.value.rcvd

        spawned = Spawned(client)
        with server:
            server.serve_forever()
        assert spawned.result().code == 1001

    def test_signal_that_interrupts_nothing_in_shutdown(restored_sigint: None) -> None:
        go_on = threading.Event()
        signal.signal(signal.SIGINT, lambda *args: go_on.set())

        def handler(ws: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosed):
                ws.recv()
            time.sleep(0.05)  # the main thread waits for this one
            unnoticed_signal()
            assert go_on.wait(PATIENCE)
            ended.append(ws)

        ended: list[ServerConnection] = []
        with serving(handler) as server, connect(uri_of(server)) as ws:
            eventually(lambda: server.connections)
            server.shutdown()
            assert ws.close_code == 1001
            assert ended

    def test_signal_whose_handler_shuts_down_during_shutdown(restored_sigint: None) -> None:
        main, handled = threading.get_ident(), threading.Event()

        def shut_down(*args: Any) -> None:
            server.shutdown()
            handled.set()

        def handler(ws: ServerConnection) -> None:
            ws.wait_closed()
            signal.pthread_kill(main, signal.SIGINT)
            assert handled.wait(PATIENCE)

        signal.signal(signal.SIGINT, shut_down)
        with serving(handler) as server, connect(uri_of(server)) as ws:
            eventually(lambda: server.connections)
            server.shutdown()
            assert handled.is_set()
            assert ws.close_code == 1001

    def test_signal_that_keeps_a_thread_from_starting(
        monkeypatch: pytest.MonkeyPatch, restored_sigint: None
    ) -> None:
        server = serve(echo, "127.0.0.1", 0)
        original = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name.startswith("wsapi-handler"):
                signal.raise_signal(signal.SIGINT)
            original(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with socket.create_connection(("127.0.0.1", port_of(server))), server:
            with pytest.raises(KeyboardInterrupt):
                server.serve_forever()
            server.shutdown()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody has the accepted socket
            gc.collect()


# ---------------------------------------------------------------------- opening


def test_open_timeout() -> None:
    with serving(open_timeout=0.1, close_timeout=0.1) as server:
        with raw_client(server, b"") as silent, raw_client(server, b"") as slow:
            slow.sock.sendall(b"GET / HTTP/1.1\r\n")
            assert silent.read_to_end() == b""
            assert slow.read_to_end().startswith(b"HTTP/1.1 408 ")
        eventually(lambda: not server._handlers)


def test_open_timeout_that_is_over_before_the_request_is_waited_for() -> None:
    """A TLS handshake may last as long, or the thread may start late."""

    def create(*args: Any, **options: Any) -> ServerConnection:
        time.sleep(0.02)
        return ServerConnection(*args, **options)

    with serving(open_timeout=0.01, create_connection=create) as server:
        with raw_client(server, b"") as peer:
            assert peer.read_to_end() == b""
        eventually(lambda: not server._handlers)
        assert server.stats().refused == {"timeout": 1}


def test_slow_callbacks_do_not_keep_the_housekeeper() -> None:
    release = threading.Event()

    def select_subprotocol(ws: ServerConnection, offered: Any) -> None:
        release.wait(PATIENCE)

    with serving(select_subprotocol=select_subprotocol) as slow, serving(until_closed) as server:
        client = Spawned(connect, uri_of(slow), legacy=True)
        with connect(uri_of(server)) as ws:
            for _ in range(3):
                assert ws.ping().wait(PATIENCE)
        assert client.running
        release.set()
        client.result().close()


def test_awaitables_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def process_request(ws: ServerConnection, request: Request) -> Response | None:
        raise AssertionError("nobody awaits this")

    with serving(process_request=process_request) as server:
        with pytest.raises(InvalidStatus, match="HTTP 500"):
            connect(uri_of(server))
    assert caplog.messages[0] == "process_request failed"


def test_basic_auth_is_a_plain_function() -> None:
    process_request = basic_auth(credentials=("user", "password"))
    assert not inspect.iscoroutinefunction(process_request)
    names = queue.Queue[str]()

    def handler(ws: ServerConnection) -> None:
        names.put(ws.username)

    with serving(handler, process_request=process_request) as server:
        with connect(f"ws://user:password@127.0.0.1:{port_of(server)}/"):
            assert names.get(timeout=PATIENCE) == "user"
        with pytest.raises(InvalidStatus, match="HTTP 401"):
            connect(uri_of(server))


def test_early_messages() -> None:
    """They come in the same packet as the request."""
    with serving() as server:
        with raw_client(server, b"") as peer:
            peer.sock.sendall(request() + b"\x81\x82\0\0\0\0hi")
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            assert peer.read() == (TEXT, b"hi")
            peer.write(CLOSE, close_payload(1000))
            assert peer.read() == (CLOSE, close_payload(1000))


def test_handler_that_exits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    threads = queue.Queue[threading.Thread]()

    def handler(ws: ServerConnection) -> None:
        threads.put(threading.current_thread())
        raise SystemExit

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with serving(handler) as server:
        assert code_of(server) == 1011
        threads.get(timeout=PATIENCE).join()
    assert caplog.messages == []


# ---------------------------------------------------------------------- where to listen


def test_all_addresses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(serve(echo, None, 0)) as server:
        with connect(uri_of(server)) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"
    assert caplog.messages[0].startswith("server listening on ")
    assert caplog.messages[-1] == "server closed"


def test_addresses_of_ipv4_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with running(serve(echo, None, 0)) as server:
        assert server.socket.family == socket.AF_INET
        with connect(uri_of(server)) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"


def test_family() -> None:
    with running(serve(echo, "localhost", 0, family=socket.AF_INET)) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "arguments, options, error",
    [
        ((), {}, "missing port argument"),
        (("127.0.0.1", 70000), {}, "port must be 0 to 65535"),
        (("127.0.0.1", 0), {"max_queue": (1, 2)}, "max_queue must be"),
        (("127.0.0.1", 0), {"compression": "zip"}, "unsupported compression"),
    ],
)
def test_wrong_arguments(arguments: Any, options: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        serve(echo, *arguments, **options)


def test_socket_excludes_host_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises(ValueError, match="host and port must be None"):
            serve(echo, "127.0.0.1", 0, sock=sock)


def test_unknown_argument() -> None:
    with pytest.raises(TypeError, match="serve\\(\\) got an unexpected keyword argument 'hots'"):
        serve(echo, hots="127.0.0.1")  # type: ignore[call-arg] # wrong on purpose


def test_ssl_context_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="ssl_context was renamed to ssl"):
        serve(echo, "127.0.0.1", 0, ssl_context=None).shutdown()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
@pytest.mark.parametrize("kind", [str, Path, lambda path: str(path).encode()])
def test_unix_socket(kind: Any, tmp_path: Path) -> None:
    path = kind(tmp_path / "socket")
    with running(unix_serve(echo, path)):
        with unix_connect(path) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"


def test_unix_socket_needs_a_path() -> None:
    with pytest.raises(ValueError, match="path"):
        unix_serve(echo)


def test_door_lets_go_of_connections_while_it_asks_for_an_address() -> None:
    def client_address(connection: ServerConnection, request: Request) -> None:
        # It may take its time, and use the connection.
        connection._driver.call(lambda: None)

    door = Door(client_address=client_address)
    with serving(echo, door=door) as server, connect(uri_of(server)) as ws:
        ws.send("hello")
        assert ws.recv() == "hello"
