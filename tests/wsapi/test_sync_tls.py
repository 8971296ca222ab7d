"""TLS for threads: one that blocks in reading doesn't keep others from writing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import BINARY, CLOSE, PING, PONG, TEXT, close_payload, frame
from tests.wsapi.sync_helpers import (
    PATIENCE,
    RawPeer,
    Spawned,
    echo,
    eventually,
    port_of,
    secure_pair,
    serving,
    uri_of,
)
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK
from wsapi.protocol import Protocol, Side
from wsapi.sync._channel import Channel, Deadline
from wsapi.sync.client import ClientConnection, connect
from wsapi.sync.connection import Connection
from wsapi.sync.server import ServerConnection
from wsproto_fast.drivers.tls import TLS, SecureSocket

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture
def contexts(tls: Contexts) -> Contexts:
    """Contexts of a server called localhost and 127.0.0.1, and of clients that trust it."""
    return tls


@pytest.fixture
def both_ends(contexts: Contexts) -> Iterator[tuple[Connection, RawPeer]]:
    """Return a connection, as servers have them, and its peer."""
    sock, secure = secure_pair(contexts)
    connection = Connection(sock, Protocol(Side.SERVER), close_timeout=PATIENCE)
    with secure:
        yield connection, RawPeer(secure, masked=True)
        secure.close()
        assert connection.wait_closed(PATIENCE)


@contextlib.contextmanager
def connecting(contexts: Contexts, handler: Any = echo) -> Iterator[ClientConnection]:
    server, client = contexts
    with serving(handler, ssl=server) as listening:
        with connect(uri_of(listening, scheme="wss"), ssl=client, compression=None) as ws:
            yield ws


def test_certificate(contexts: Contexts) -> None:
    with connecting(contexts) as ws:
        sock: Any = ws.socket
        assert sock.getpeercert()["subjectAltName"]
        assert sock.version() == "TLSv1.3"
        assert sock.getpeername() == ws.remote_address
        with pytest.raises(AttributeError, match="SecureSocket"):
            _ = sock.nothing_like_this


def test_writing_while_a_thread_blocks_in_reading(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    receiver = Spawned(connection.recv)
    for number in range(10):
        connection.send(str(number))
        assert peer.read() == (TEXT, str(number).encode())
    peer.write(TEXT, b"end")
    assert receiver.result() == "end"


def test_both_ways_at_once(contexts: Contexts) -> None:
    message = bytes(range(256)) * 4000

    def handler(ws: ServerConnection) -> None:
        sending = Spawned(lambda: [ws.send(message) for _ in range(20)])
        assert [ws.recv() for _ in range(20)] == [message] * 20
        sending.result()

    with connecting(contexts, handler) as ws:
        sending = Spawned(lambda: [ws.send(message) for _ in range(20)])
        assert list(ws) == [message] * 20
        sending.result()


def test_idle_connection_answers_pings(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    for payload in (b"1", b"2"):
        peer.write(PING, payload)
        assert peer.read() == (PONG, payload)
    peer.write(TEXT, b"kept")
    assert connection.recv(timeout=PATIENCE) == "kept"


def test_recv_timeout(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    with pytest.raises(TimeoutError):
        connection.recv(timeout=0.01)
    peer.write(BINARY, bytes(300_000))
    assert connection.recv(timeout=PATIENCE) == bytes(300_000)
    with pytest.raises(TimeoutError):
        connection.recv(timeout=0)


def test_peer_that_does_not_read(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    sender = Spawned(lambda: [connection.send(b"%06d" % n * 50_000) for n in range(30)])
    time.sleep(0.2)
    assert sender.running
    peer.write(TEXT, b"hello")
    assert connection.recv(timeout=PATIENCE) == "hello"
    for number in range(30):
        assert peer.read() == (BINARY, b"%06d" % number * 50_000)
    sender.result()


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_close_says_so(both_ends: tuple[Connection, RawPeer], side: str) -> None:
    connection, peer = both_ends
    waiting = Spawned(connection.close if side == "ours" else connection.wait_closed)
    if side == "ours":
        assert peer.read() == (CLOSE, close_payload(1000))
    peer.write(CLOSE, close_payload(1000))
    if side == "theirs":
        assert peer.read() == (CLOSE, close_payload(1000))
    # TLS ends, too; otherwise this raised an exception.
    assert peer.sock.recv(100) == b""
    peer.sock.close()
    waiting.result()
    with pytest.raises(ConnectionClosedOK):
        connection.recv()


def test_end_without_end_of_tls(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.write(TEXT, b"last")
    peer.sock.shutdown(socket.SHUT_WR)  # of the socket below TLS
    assert connection.recv() == "last"
    with pytest.raises(ConnectionClosedError) as raised:
        connection.recv()
    assert isinstance(raised.value.__cause__, EOFError)


def test_garbage(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    with socket.socket(fileno=peer.sock.detach()) as plain:
        plain.sendall(frame(TEXT, b"without TLS", masked=True) * 10)
        with pytest.raises(ConnectionClosedError) as raised:
            connection.recv()
        assert isinstance(raised.value.__cause__, ssl.SSLError)


def test_garbage_behind_a_message(contexts: Contexts) -> None:
    """What was sound is received, although what comes in the same packet isn't."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    tls = TLS(contexts[0], server_side=True)
    while True:
        with contextlib.suppress(ssl.SSLWantReadError):
            secure.do_handshake()
        tls.receive(outgoing.read())
        if tls.handshake():
            break
        incoming.write(tls.take_output())
    secure.write(frame(TEXT, b"first", masked=True))
    secure.write(frame(CLOSE, close_payload(4000), masked=True))
    ours, theirs = socket.socketpair()
    connection = Connection(SecureSocket(ours, tls), Protocol(Side.SERVER))  # type: ignore[arg-type] # it acts for one
    with theirs:
        theirs.sendall(outgoing.read() + b"garbage" * 10)
        assert connection.recv() == "first"
        with pytest.raises(ConnectionClosedError) as raised:
            connection.recv()
        assert raised.value.rcvd is not None
        assert raised.value.rcvd.code == 4000


def test_garbage_behind_the_tls_handshake(contexts: Contexts) -> None:
    """It is no connection of TLS, then, whatever the handshake said."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    with serving(ssl=contexts[0]) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
            sock.settimeout(PATIENCE)
            while True:
                try:
                    secure.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            sock.sendall(outgoing.read() + b"garbage" * 10)
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):
                    pass
        eventually(lambda: server.stats().refused == {"tls": 1})


@contextlib.contextmanager
def handshake_with_data(
    contexts: Contexts, data: bytes
) -> Iterator[tuple[Channel, socket.socket, ssl.MemoryBIO, ssl.SSLObject]]:
    """Return a server's channel, and its client, which sent data with the end of the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours, Deadline(PATIENCE))
        handshake = Spawned(channel.start_tls, contexts[0], server_side=True)
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                theirs.sendall(outgoing.read())
                incoming.write(theirs.recv(65536))
        secure.write(data)
        theirs.sendall(outgoing.read())
        handshake.result()
        yield channel, theirs, incoming, secure


def test_idle_connection_reads_what_came_with_the_tls_handshake(contexts: Contexts) -> None:
    """Nobody receives, and nothing else comes: the Ping is answered nevertheless."""
    early = frame(PING, b"early", masked=True)
    with handshake_with_data(contexts, early) as (channel, theirs, incoming, secure):
        connection = Connection(channel.secured(), Protocol(Side.SERVER))
        theirs.settimeout(PATIENCE)
        received = b""
        while not received.endswith(frame(PONG, b"early")):
            incoming.write(theirs.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                received += secure.read()
        theirs.close()
        assert connection.wait_closed(PATIENCE)


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("queued", [0, 50])
def test_write_failure_reaches_the_reader(contexts: Contexts, secured: bool, queued: int) -> None:
    """One thread reads, another one fails to write: both see the end."""
    sock: Any
    theirs: socket.socket
    sock, theirs = secure_pair(contexts) if secured else socket.socketpair()
    with theirs:
        connection = Connection(sock, Protocol(Side.SERVER), max_queue=4)
        messages: list[Any] = []

        def receive() -> None:
            while True:
                messages.append(connection.recv())

        receiver = Spawned(receive)
        acknowledged = connection.ping(ack_on_close=True)
        peer = RawPeer(theirs, masked=True)
        peer.read()
        for number in range(queued):
            peer.write(TEXT, b"%d" % number)
        eventually(lambda: len(messages) == queued)
        with socket.socket(fileno=os.dup(connection._driver.socket.fileno())) as same:
            same.shutdown(socket.SHUT_WR)
        sender = Spawned(connection.send, "too late")
        for thread in (sender, receiver):
            with pytest.raises(ConnectionClosedError) as raised:
                thread.result()
            assert isinstance(raised.value.__cause__, BrokenPipeError)
        assert acknowledged.wait(PATIENCE)
        assert connection.wait_closed(PATIENCE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="ssl can't begin a renegotiation")
def test_sending_during_a_renegotiation(tmp_path: Path) -> None:
    """TLS can't send until it has received: sending waits for that."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-tls1_2", "-msg", "-accept", f"127.0.0.1:{port}"]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        # What the server answers to the new ClientHello comes later.
        theirs.sendall(upstream.recv(65536))
        data = upstream.recv(65536)
        held.set()
        assert release.wait(PATIENCE)
        theirs.sendall(data)

    def relay(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)

    ours, theirs = socket.socketpair()
    with (
        theirs,
        subprocess.Popen(
            [*command, "-cert", tmp_path / "pem"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            while server.stdout.readline() != b"ACCEPT\n":
                pass
            Spawned(server.stdout.read)
            with socket.create_connection(("127.0.0.1", port)) as upstream:
                channel = Channel(ours, Deadline(PATIENCE))
                handshake = Spawned(channel.start_tls, context, server_hostname="localhost")
                to_server = Spawned(relay, theirs, upstream)
                while handshake.running:
                    with contextlib.suppress(TimeoutError):
                        upstream.settimeout(0.1)
                        theirs.sendall(upstream.recv(65536))
                upstream.settimeout(None)
                handshake.result()
                holding = Spawned(hold)
                connection = Connection(channel.secured(), Protocol(Side.CLIENT), close_timeout=0.1)
                server.stdin.write(b"R\n")
                server.stdin.flush()
                assert held.wait(PATIENCE)
                secured = connection.socket
                assert isinstance(secured, SecureSocket)
                senders = [Spawned(connection.send, "x" * 100_000) for _ in range(3)]
                eventually(lambda: secured.tls.blocked)
                assert all(sender.running for sender in senders)
                release.set()
                for sender in senders:
                    sender.result()
                holding.result()
                connection.close()
                to_server.result()
        finally:
            server.kill()


def test_data_with_the_end_of_the_tls_handshake(contexts: Contexts) -> None:
    """What comes in the same packet isn't forgotten."""
    early = frame(TEXT, b"early", masked=True)
    with handshake_with_data(contexts, early) as (channel, *_):
        connection = Connection(channel.secured(), Protocol(Side.SERVER), close_timeout=0.1)
        assert connection.recv(timeout=PATIENCE) == "early"
        connection.close()


def tls_pair(contexts: Contexts) -> tuple[TLS, TLS]:
    """Return both ends after their handshake, without sockets."""
    server = TLS(contexts[0], server_side=True)
    client = TLS(contexts[1], server_hostname="localhost")
    for _ in range(2):
        for here, there in ((client, server), (server, client)):
            here.handshake()
            there.receive(here.take_output())
    assert client.decrypt(b"") == b""
    return server, client


def test_error_that_another_connection_has_left(contexts: Contexts) -> None:
    server, client = tls_pair(contexts)
    other_server, other_client = tls_pair(contexts)
    other_client.receive_eof()
    other_client.decrypt(b"")
    other_server.receive(other_client.take_output())  # a fatal alert
    # It succeeds, and leaves an error in the queue of this thread.
    other_server.object.unwrap()
    client.encrypt(b"hello")
    data = client.take_output()
    assert server.decrypt(data[:10]) == b""
    assert server.decrypt(data[10:]) == b"hello"


def test_handshake_timeout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours, Deadline(0.05))
        with pytest.raises(TimeoutError):
            channel.start_tls(ssl.create_default_context(), server_hostname="localhost")


def test_shutdown_during_a_tls_handshake(contexts: Contexts) -> None:
    with serving(ssl=contexts[0], open_timeout=None) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
            while not server._opening:
                time.sleep(0.001)
            server.shutdown()
            sock.settimeout(PATIENCE)
            assert sock.recv(1) == b""


def test_shutdown_while_a_tls_handshake_fails(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket isn't shut down by a descriptor that may be another's meanwhile."""
    shutdown = socket.socket.shutdown
    descriptors = list[int]()

    def slow_shutdown(sock: socket.socket, how: int) -> None:
        client.close()
        time.sleep(0.1)  # its thread would close it
        descriptors.append(sock.fileno())
        shutdown(sock, how)

    with serving(ssl=contexts[0], open_timeout=None) as server:
        client = socket.create_connection(("127.0.0.1", port_of(server)))
        eventually(lambda: server._opening)
        monkeypatch.setattr(socket.socket, "shutdown", slow_shutdown)
        server.shutdown()
    assert len(descriptors) == 1
    assert descriptors[0] >= 0
