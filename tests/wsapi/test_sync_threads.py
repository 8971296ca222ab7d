"""Connections that several threads use, or code that runs inside the engine."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.wsapi.helpers import CLOSE, PING, TEXT, close_payload
from tests.wsapi.sync_helpers import PATIENCE, RawPeer, Spawned, eventually
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    ProtocolError,
)
from wsapi.protocol import Protocol, Side
from wsapi.sync.connection import Connection


def test_second_receiver(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    first = Spawned(connection.recv)
    eventually(lambda: _receives(connection))
    with pytest.raises(
        ConcurrencyError, match="cannot call recv while another thread is already running recv"
    ):
        connection.recv()
    with pytest.raises(ConcurrencyError, match="cannot call recv_streaming while another thread"):
        next(connection.recv_streaming())
    peer.write(TEXT, b"for the first")
    assert first.result() == "for the first"


def _receives(connection: Connection) -> bool:
    try:
        connection.recv(timeout=0)
    except ConcurrencyError:
        return True
    except TimeoutError:
        return False
    raise AssertionError("nothing was sent")


def test_sending_while_another_thread_receives(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    receiver = Spawned(connection.recv)
    for number in range(10):
        connection.send(str(number))
        assert peer.read() == (TEXT, str(number).encode())
    peer.write(TEXT, b"end")
    assert receiver.result() == "end"


def test_close_wakes_a_receiver(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    receiver = Spawned(connection.recv)
    closer = Spawned(connection.close)
    assert peer.read() == (CLOSE, close_payload(1000))
    peer.write(CLOSE, close_payload(1000))
    assert peer.read_to_end() == b""
    peer.sock.close()
    closer.result()
    with pytest.raises(ConnectionClosedOK):
        receiver.result()


@pytest.mark.parametrize("receiving", [True, False])
def test_close_timeout(receiving: bool) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.CLIENT), close_timeout=0.05)
    with theirs:
        receiver = Spawned(connection.recv) if receiving else None
        connection.close()
        assert (connection.close_code, connection.close_reason) == (1006, "")
        with pytest.raises(ConnectionClosedError) as raised:
            connection.recv()
        assert isinstance(raised.value.__cause__, TimeoutError)
        if receiver is not None:
            with pytest.raises(ConnectionClosedError):
                receiver.result()


class Closing(socket.socket):
    """Has something happen while it is closed.

    Attributes:
        calls: How many threads have closed it, or are about to.
        meanwhile: What the first one does.
    """

    calls = 0
    meanwhile: Callable[[], object]

    def close(self) -> None:
        self.calls += 1
        if self.calls == 1:
            self.meanwhile()
        super().close()


def closing_pair() -> tuple[Connection, Closing, socket.socket]:
    ours, theirs = socket.socketpair()
    sock = Closing(fileno=ours.detach())
    return Connection(sock, Protocol(Side.CLIENT), close_timeout=0.05), sock, theirs


def test_one_thread_closes_the_socket() -> None:
    connection, sock, theirs = closing_pair()
    go_on = threading.Event()
    sock.meanwhile = lambda: go_on.wait(PATIENCE)
    with theirs:
        closer = Spawned(connection.close)
        eventually(lambda: sock.calls)
        others = [Spawned(connection.recv) for _ in range(2)]
        others.append(Spawned(connection.ping))
        # From inside the engine, as a logging handler does.
        assert not Spawned(connection._driver.call, connection._driver.close, 1000, "").result()
        assert not connection.wait_closed(0.1)
        assert sock.calls == 1
        go_on.set()
        closer.result()
        assert connection.wait_closed(PATIENCE)
        for other in others:
            with pytest.raises(ConnectionClosedError):
                other.result()
    assert sock.calls == 1


def test_wait_closed_in_what_interrupts_the_closing_of_the_socket() -> None:
    connection, sock, theirs = closing_pair()
    sock.meanwhile = lambda: waited.append(connection.wait_closed(PATIENCE))
    waited: list[bool] = []
    with theirs:
        connection.close()
        # It may be the housekeeper that is interrupted, if it closes the socket.
        eventually(lambda: waited and sock.calls == 2)
    assert waited == [True]
    assert sock.calls == 2


def test_close_drops_what_it_reads(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    for number in range(20):
        peer.write(TEXT, str(number).encode())
    time.sleep(0.2)  # the queue is full, and nobody watches the socket
    closer = Spawned(connection.close)
    assert peer.read() == (CLOSE, close_payload(1000))
    for number in range(20, 1000):
        peer.write(TEXT, str(number).encode())
    peer.write(CLOSE, close_payload(1000))
    peer.read_to_end()
    peer.sock.close()
    closer.result()
    messages = []
    with pytest.raises(ConnectionClosedOK):
        while True:
            messages.append(connection.recv())
    assert messages == [str(number) for number in range(len(messages))]
    assert 16 <= len(messages) < 1000


def test_fragmented_messages_exclude_others(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    go_on = threading.Event()

    def fragments() -> Iterator[str]:
        yield "one"
        assert go_on.wait(PATIENCE)
        yield "two"

    sender = Spawned(connection.send, fragments())
    assert peer.sock.recv(100)[2:] == b"one"
    with pytest.raises(ConcurrencyError):
        connection.send("a message")
    with pytest.raises(ConcurrencyError):
        connection.send(["another", "one"])
    connection.ping(b"p")
    assert peer.read() == (PING, b"p")
    go_on.set()
    sender.result()
    assert peer.sock.recv(100).startswith(b"\x00\x03two")
    connection.send("a message")


@contextlib.contextmanager
def everything_logged(connection: Connection, handler: logging.Handler) -> Iterator[None]:
    logger = connection.logger.logger  # type: ignore[union-attr] # it is a LoggerAdapter
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def test_use_from_within_is_refused(both_ends: tuple[Connection, RawPeer]) -> None:
    """What runs inside the engine can't use the same connection: it doesn't wait for itself."""
    connection, peer = both_ends
    errors: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for use in (lambda: connection.send("logged"), connection.recv, connection.ping):
                try:
                    use()
                except BaseException as exc:
                    errors.append(exc)

    with everything_logged(connection, Handler()):
        connection.send("hello")
    assert peer.read() == (TEXT, b"hello")
    assert {type(exc) for exc in errors} == {ConcurrencyError}
    connection.send("bye")
    assert peer.read() == (TEXT, b"bye")


def test_closing_from_within_comes_later(both_ends: tuple[Connection, RawPeer]) -> None:
    """What runs inside the engine can't wait for the end; the closing handshake starts after it."""
    connection, peer = both_ends
    errors: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                with pytest.raises(ProtocolError):
                    connection.close(1006)
                connection.close(4000, "from within")
                connection.close(4001, "again")
            except BaseException as exc:
                errors.append(exc)

    with everything_logged(connection, Handler()):
        connection.send("hello")
    assert errors == []
    assert peer.read() == (TEXT, b"hello")
    assert peer.read() == (CLOSE, close_payload(4000, "from within"))
    peer.write(CLOSE, close_payload(4000))
    assert peer.read_to_end() == b""
    peer.sock.close()
    assert connection.wait_closed(PATIENCE)
