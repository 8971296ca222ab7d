"""What only connections for threads have: timeouts, and what they do at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.wsapi.helpers import BINARY, CLOSE, CONT, TEXT, close_payload, frame
from tests.wsapi.sync_helpers import (
    HOUSEKEEPER,
    PATIENCE,
    RawPeer,
    fill,
    pair,
    raw_client,
    serving,
    uri_of,
)
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, InvalidState
from wsapi.protocol import Protocol, Side, State
from wsapi.sync.client import connect
from wsapi.sync.connection import Connection
from wsapi.sync.server import ServerConnection

# ---------------------------------------------------------------------- timeouts of recv


@pytest.mark.parametrize("timeout", [0.01, 0, -1])
def test_recv_timeout(both_ends: tuple[Connection, RawPeer], timeout: float) -> None:
    connection, peer = both_ends
    with pytest.raises(TimeoutError, match="timed out in"):
        connection.recv(timeout)
    peer.write(TEXT, b"late")
    assert connection.recv(timeout=PATIENCE) == "late"


def test_recv_polls(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.write(TEXT, b"one")
    peer.write(TEXT, b"two")
    assert connection.recv(timeout=0) == "one"
    assert connection.recv(timeout=-1) == "two"


def test_recv_timeout_in_the_middle_of_a_message(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    data = frame(TEXT, b"first", fin=False, masked=True) + frame(CONT, b"last", masked=True)
    for index in range(len(data) - 1):
        peer.sock.sendall(data[index : index + 1])
        with pytest.raises(TimeoutError):
            connection.recv(timeout=0)
    peer.sock.sendall(data[-1:])
    assert connection.recv(timeout=PATIENCE) == "firstlast"


def test_recv_timeout_must_be_a_number(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    with pytest.raises(ValueError, match="timeout must be a number"):
        connection.recv(timeout=float("nan"))
    with pytest.raises(TypeError):
        connection.recv(timeout="soon")  # type: ignore[call-overload] # wrong on purpose
    peer.write(TEXT, b"fine")
    assert connection.recv() == "fine"


def test_recv_decodes(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.write(BINARY, b"one")
    peer.write(TEXT, b"two")
    assert connection.recv(decode=True) == "one"
    assert connection.recv(None, False) == b"two"


def test_recv_streaming_timeout(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    fragments = connection.recv_streaming(timeout=0.01)
    with pytest.raises(TimeoutError):
        next(fragments)
    peer.write(TEXT, b"one", fin=False)
    assert next(fragments) == "one"
    with pytest.raises(TimeoutError):
        next(fragments)
    with pytest.raises(ConcurrencyError, match="already running recv_streaming"):
        connection.recv(timeout=0)
    # Nothing is lost.
    peer.write(CONT, b"two")
    assert next(fragments) == "two"
    assert list(fragments) == []


def test_recv_streaming_left_after_a_timeout(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.write(TEXT, b"one", fin=False)
    with pytest.raises(TimeoutError):
        for _ in connection.recv_streaming(timeout=0.01):
            pass
    peer.write(CONT, b"skipped")
    peer.write(TEXT, b"next")
    assert connection.recv(timeout=PATIENCE) == "next"


def test_wait_closed_timeout(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    assert connection.wait_closed(0.01) is False
    peer.sock.shutdown(socket.SHUT_WR)
    assert connection.wait_closed(PATIENCE) is True
    assert connection.wait_closed(0) is True


# ---------------------------------------------------------------------- the rest


def test_addresses_after_the_end() -> None:
    with pair() as (client, server):
        assert client.local_address == server.remote_address
        assert client.remote_address == server.local_address
    with pytest.raises(OSError):
        _ = client.local_address
    with pytest.raises(OSError):
        _ = client.remote_address
    assert client.socket.fileno() == -1


def test_closing_before_the_opening_handshake() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = ServerConnection(ours, _connecting(), None)  # type: ignore[arg-type] # without a server
        with pytest.raises(InvalidState):
            connection.send("hello")
        connection.close()
        assert connection.state is State.CLOSED
        assert theirs.recv(1) == b""


def _connecting() -> Any:
    from wsapi.server import ServerProtocol

    return ServerProtocol()


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.send("hello"),
        lambda ws: ws.recv(timeout=PATIENCE),
        lambda ws: next(ws.recv_streaming(timeout=PATIENCE)),
        lambda ws: ws.ping(),
        lambda ws: ws.pong(),
        lambda ws: ws.close(),
    ],
    ids=["send", "recv", "recv_streaming", "ping", "pong", "close"],
)
def test_use_outside_of_a_context_manager(use: Callable[[Any], object]) -> None:
    def greet(ws: ServerConnection) -> None:
        ws.send("hello")
        ws.wait_closed()

    with serving(greet) as server:
        ws = connect(uri_of(server))
        with pytest.warns(DeprecationWarning, match="context manager") as caught:
            use(ws)
        assert [warning.filename for warning in caught] == [__file__]
        ws.close()  # it warns once only
        connect(uri_of(server), legacy=True).close()
        with connect(uri_of(server)) as ws:
            use(ws)


def test_iteration_outside_of_a_context_manager() -> None:
    with serving(lambda ws: ws.send("hello")) as server:
        ws = connect(uri_of(server))
        with pytest.warns(DeprecationWarning, match="context manager") as caught:
            assert list(ws) == ["hello"]
        assert [warning.filename for warning in caught] == [__file__]


DAEMON = """
import os, sys, threading
from wsapi.sync.client import connect

with connect(sys.argv[1], legacy=True, ping_timeout=None) as ws:
    ws.ping().wait()  # the housekeeper watches it
    if os.fork():
        os._exit(0)  # what daemons do
    names = [thread.name for thread in threading.enumerate()]
    ws.send("from the child")
    assert ws.ping().wait(10)
    assert ws.recv(timeout=10) == "from the child"
    with connect(sys.argv[1]) as another:
        assert another.ping().wait(10)
    names += [thread.name for thread in threading.enumerate()]
print(names, ws.close_code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_fork() -> None:
    """A child that uses a connection has a housekeeper of its own."""
    with serving() as server:
        command = [sys.executable, "-W", "ignore", "-c", DAEMON, uri_of(server)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.stderr == ""
    assert result.stdout == f"['MainThread', 'MainThread', '{HOUSEKEEPER}'] 1000\n"


def test_raw_client_of_a_thread_server() -> None:
    with serving() as server, raw_client(server) as peer:
        peer.write(TEXT, b"hello")
        assert peer.read() == (TEXT, b"hello")
        peer.write(CLOSE, close_payload(1000))
        assert peer.read() == (CLOSE, close_payload(1000))
        assert peer.read_to_end() == b""


class CountingSocket(socket.socket):
    """Counts how often it is read from."""

    reads = 0

    def recv_into(self, *args: Any) -> int:  # type: ignore[override] # as it is called
        self.reads += 1
        return super().recv_into(*args)


def test_nobody_reads_after_the_end_of_the_stream() -> None:
    ours, theirs = socket.socketpair()
    counting = CountingSocket(fileno=ours.detach())
    connection = Connection(counting, Protocol(Side.SERVER), close_timeout=0.1)
    with theirs:
        sending = fill(connection)
        theirs.shutdown(socket.SHUT_WR)
        connection.close()
        with pytest.raises(ConnectionClosedError):
            sending.result()
    assert counting.reads < 10
