"""Servers, pairs of connections and raw peers for tests of the front-end for threads."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.wsapi.helpers import BINARY, accept_key, apply_mask, frame, request
from wsapi.exceptions import ConnectionClosed
from wsapi.sync._channel import Channel, Deadline
from wsapi.sync.client import ClientConnection, connect
from wsapi.sync.connection import Connection
from wsapi.sync.server import Server, ServerConnection, serve
from wsproto_fast.drivers.tls import SecureSocket

# Longest time to wait for what comes at once if all is well, in seconds; a busy machine is well.
PATIENCE = 30


def eventually(condition: Callable[[], object]) -> None:
    """Wait until something has become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.001)


class Spawned:
    """A thread whose result or exception the test wants."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def run() -> None:
            try:
                self._outcome.put((function(*args, **kwargs), None))
            except BaseException as exc:
                self._outcome.put((None, exc))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self) -> Any:
        result, exc = self._outcome.get(timeout=PATIENCE)
        self.thread.join(PATIENCE)
        if exc is not None:
            raise exc
        return result

    @property
    def running(self) -> bool:
        return self._outcome.empty()


def echo(ws: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for message in ws:
            ws.send(message)


def until_closed(ws: ServerConnection) -> None:
    ws.wait_closed()


def port_of(server: Server) -> int:
    port: int = server.socket.getsockname()[1]
    return port


def uri_of(server: Server, path: str = "/", scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{port_of(server)}{path}"


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Have a server accept connections in another thread."""
    thread = Spawned(server.serve_forever)
    try:
        yield server
    finally:
        server.shutdown()
        thread.result()


@contextlib.contextmanager
def serving(handler: Callable[[ServerConnection], None] = echo, **options: Any) -> Iterator[Server]:
    # What fills a buffer must not depend on how well it compresses.
    options.setdefault("compression", None)
    with running(serve(handler, "127.0.0.1", 0, **options)) as server:
        yield server


@contextlib.contextmanager
def pair(
    client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **both: Any
) -> Iterator[tuple[ClientConnection, ServerConnection]]:
    """Connect a client and a server; both are used by the test."""
    accepted: queue.Queue[ServerConnection] = queue.Queue()

    def handler(ws: ServerConnection) -> None:
        accepted.put(ws)
        ws.wait_closed()

    with serving(handler, **both | (server or {})) as listening:
        with connect(uri_of(listening), **both | (client or {})) as ws:
            yield ws, accepted.get(timeout=PATIENCE)


class RawPeer:
    """The other end of a connection, frame by frame."""

    def __init__(self, sock: socket.socket, masked: bool) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.masked = masked
        self.buffer = b""

    def write(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin=fin, masked=self.masked))

    def _read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def read(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; it must be a final one."""
        first, second = self._read_exactly(2)
        assert first & 0x80
        assert bool(second & 0x80) is not self.masked
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._read_exactly(8))
        key = self._read_exactly(4) if second & 0x80 else bytes(4)
        return first & 0x7F, apply_mask(self._read_exactly(size), key)

    def read_to_end(self) -> bytes:
        data, self.buffer = self.buffer, b""
        try:
            while more := self.sock.recv(65536):
                data += more
        except ConnectionError:
            pass
        return data


@contextlib.contextmanager
def raw_client(server: Server, handshake: bytes | None = None) -> Iterator[RawPeer]:
    """Connect to a server; after the opening handshake, unless ``handshake`` is ``b""``."""
    with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
        peer = RawPeer(sock, masked=True)
        if handshake is None:
            handshake = request()
        if handshake:
            sock.sendall(handshake)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        yield peer


def answer_handshake(peer: RawPeer) -> bytes:
    """Read a request, accept it, return it."""
    head = peer.read_head()
    (key,) = [
        line.split(": ")[1]
        for line in head.decode().split("\r\n")
        if line.startswith("Sec-WebSocket-Key")
    ]
    peer.sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
    )
    return head


@contextlib.contextmanager
def raw_server(behave: Callable[[RawPeer], object], *, handshake: bool = True) -> Iterator[str]:
    """Listen; hand each connection to ``behave`` in a thread; yield the URI."""
    threads = []
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        closing = threading.Event()

        def serve_one(sock: socket.socket) -> None:
            with sock:
                peer = RawPeer(sock, masked=False)
                with contextlib.suppress(EOFError, OSError):
                    if handshake:
                        answer_handshake(peer)
                    behave(peer)

        def accept() -> None:
            while True:
                sock, _ = listening.accept()
                if closing.is_set():
                    sock.close()
                    return
                threads.append(Spawned(serve_one, sock))

        accepting = Spawned(accept)
        address = listening.getsockname()
        try:
            yield f"ws://127.0.0.1:{address[1]}/"
        finally:
            closing.set()
            socket.create_connection(address).close()
            accepting.result()
            for thread in threads:
                thread.result()


def secure_pair(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> tuple[socket.socket | SecureSocket, ssl.SSLSocket]:
    """Return a socket as connections of servers have it, and its peer, after the TLS handshake."""
    server, client = contexts
    ours, theirs = socket.socketpair()
    channel = Channel(ours, Deadline(PATIENCE))
    handshake = Spawned(channel.start_tls, server, server_side=True)
    # So that the end of the stream without the end of TLS is an error here.
    secure = client.wrap_socket(theirs, server_hostname="localhost", suppress_ragged_eofs=False)
    handshake.result()
    return channel.secured(), secure


FILLING = (BINARY, b"x" * 100_000)
FILLINGS = 50


def fill(connection: Connection) -> Spawned:
    """Send more than the network takes."""
    thread = Spawned(lambda: [connection.send(FILLING[1]) for _ in range(FILLINGS)])
    size = -1
    while thread.running and size != (size := connection.protocol.output_size):
        time.sleep(0.05)
    return thread


HOUSEKEEPER = "wsproto_fast-housekeeper"


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())
