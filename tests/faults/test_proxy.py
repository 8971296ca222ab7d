"""What the proxy of the fault matrix does like a network."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import HOST, SMALL_WINDOW, AtByte, Fault, FaultProxy

PATIENCE = 10  # seconds for what comes at once

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="what was received is gone with a reset there"
)


@contextlib.contextmanager
def connected(fault: Fault) -> Iterator[tuple[FaultProxy, socket.socket, socket.socket]]:
    """Yield a proxy, and both ends of a connection through it, with a small window at each."""
    with FaultProxy() as proxy, socket.socket() as listener, socket.socket() as client:
        for sock in (listener, client):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
            sock.settimeout(PATIENCE)
        listener.bind((HOST, 0))
        listener.listen(1)
        flow = proxy.open(listener.getsockname()[1], fault)
        client.connect((HOST, flow.port))
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE)
            yield proxy, client, server
        flow.forget()


@contextlib.contextmanager
def standing_still(proxy: FaultProxy) -> Iterator[None]:
    """Let nothing pass meanwhile."""
    stands, go = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        go.wait(PATIENCE)

    proxy.call(stand)
    assert stands.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()


def fill(sock: socket.socket) -> None:
    """Send until the proxy has more than the other end takes."""
    sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while True:
            sock.send(bytes(65536))
    sock.settimeout(PATIENCE)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def received(sock: socket.socket) -> bytes:
    """Return what comes before a reset."""
    data = b""
    with pytest.raises(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
        pytest.fail("the end came in order")
    return data


@pytest.mark.parametrize("upward", [False, True])
@pytest.mark.parametrize("kind", ["none", "delay", "bytes", "splits"])
def test_what_was_sent_before_a_reset_arrives(kind: str, upward: bool) -> None:
    """The proxy finds out by writing, while it hasn't read all."""
    place = None if kind == "none" else AtByte(3)
    fault = Fault(kind, upward, place, seconds=0.1)  # type: ignore[arg-type] # of a parameter
    with connected(fault) as (proxy, client, server):
        resetting, other = (client, server) if upward else (server, client)
        fill(other)
        with standing_still(proxy):
            resetting.sendall(b"last words")
            reset(resetting)
        assert received(other) == b"last words"


def test_what_does_not_fit_into_a_window_arrives_before_a_reset() -> None:
    with connected(Fault("none", False, None)) as (proxy, client, server):
        sent = bytes(range(256)) * 100
        with standing_still(proxy):
            server.sendall(sent)
            reset(server)
        assert received(client) == sent


def test_a_network_that_has_fallen_silent_tells_nothing() -> None:
    with connected(Fault("drop", False, AtByte(4), both=True)) as (_, client, server):
        server.sendall(b"four and more")
        with contextlib.suppress(TimeoutError):
            client.settimeout(0.2)
            assert client.recv(100) == b"four"
        reset(server)
        with pytest.raises(TimeoutError):
            client.recv(100)
