"""What only connections for threads have: timeouts, blocked threads, and who reads when none do."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_payload, frame
from tests.wsapi.sync_helpers import (
    FILLING,
    FILLINGS,
    PATIENCE,
    RawPeer,
    Spawned,
    eventually,
    fill,
    pair,
    raw_client,
    raw_server,
    secure_pair,
    serving,
    uri_of,
)
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
    ProtocolError,
)
from wsapi.protocol import Protocol, Side, State
from wsapi.sync.client import connect
from wsapi.sync.connection import Connection, broadcast
from wsapi.sync.server import ServerConnection
from wsproto_fast.drivers._housekeeper import housekeeper
from wsproto_fast.drivers._inbox import Inbox, set_inbox
from wsproto_fast.drivers.threads import SocketDriver

HOUSEKEEPER = "wsproto_fast-housekeeper"


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.fixture
def both_ends() -> Iterator[tuple[Connection, RawPeer]]:
    """Return a connection, as servers have them, and its peer."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=PATIENCE)
    with theirs:
        yield connection, RawPeer(theirs, masked=True)
        theirs.close()
        assert connection.wait_closed(PATIENCE)


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


# ---------------------------------------------------------------------- several threads


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

    logger = connection.logger.logger  # type: ignore[union-attr] # it is a LoggerAdapter
    handler = Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        connection.send("hello")
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
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

    logger = connection.logger.logger  # type: ignore[union-attr] # it is a LoggerAdapter
    handler = Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        connection.send("hello")
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    assert errors == []
    assert peer.read() == (TEXT, b"hello")
    assert peer.read() == (CLOSE, close_payload(4000, "from within"))
    peer.write(CLOSE, close_payload(4000))
    assert peer.read_to_end() == b""
    peer.sock.close()
    assert connection.wait_closed(PATIENCE)


# ---------------------------------------------------------------------- nobody reads


def test_idle_connection_answers_pings(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    for payload in (b"1", b"2"):
        peer.write(PING, payload)
        assert peer.read() == (PONG, payload)
    peer.write(TEXT, b"kept")
    assert connection.recv(timeout=PATIENCE) == "kept"
    # It is watched again after somebody read.
    peer.write(PING, b"3")
    assert peer.read() == (PONG, b"3")


def test_idle_connection_notices_a_close(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.write(CLOSE, close_payload(1001, "bye"))
    assert peer.read() == (CLOSE, close_payload(1001, "bye"))
    peer.sock.close()
    assert connection.wait_closed(PATIENCE)
    assert (connection.close_code, connection.close_reason) == (1001, "bye")


def test_idle_connection_notices_a_loss(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.sock.close()
    eventually(lambda: connection.state is State.CLOSED)
    with pytest.raises(ConnectionClosedError):
        connection.send("too late")


def test_ping_is_answered_at_once(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    event = connection.ping(b"ping")
    assert peer.read() == (PING, b"ping")
    assert not event.is_set()
    peer.write(PONG, b"ping")
    assert event.wait(PATIENCE)
    assert connection.latency > 0


def test_pings_that_are_not_answered(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    event, acknowledged = connection.ping(), connection.ping(ack_on_close=True)
    peer.sock.close()
    assert acknowledged.wait(PATIENCE)
    assert not event.is_set()


def test_keepalive() -> None:
    received = queue.Queue[int]()

    def count_pings(peer: RawPeer) -> None:
        while True:
            opcode, payload = peer.read()
            received.put(opcode)
            if opcode == PING:
                peer.write(PONG, payload)
            elif opcode == CLOSE:
                peer.write(CLOSE, payload)
                return

    with raw_server(count_pings) as uri:
        with connect(uri, ping_interval=0.02) as ws:
            assert [received.get(timeout=PATIENCE) for _ in range(3)] == [PING] * 3
            # A thread that blocks in reading doesn't hinder them.
            receiver = Spawned(ws.recv)
            assert [received.get(timeout=PATIENCE) for _ in range(3)] == [PING] * 3
        with pytest.raises(ConnectionClosedOK):
            receiver.result()


@pytest.mark.parametrize("receiving", [True, False])
def test_keepalive_timeout(receiving: bool) -> None:
    with raw_server(lambda peer: peer.read_to_end()) as uri:
        with connect(uri, ping_interval=0.02, ping_timeout=0.02, close_timeout=0.05) as ws:
            if receiving:
                with pytest.raises(ConnectionClosedError, match=r"1011 .* keepalive ping timeout"):
                    ws.recv()
            else:
                assert ws.wait_closed(PATIENCE)


def test_one_thread_for_all_connections() -> None:
    release = threading.Event()
    with raw_server(lambda peer: release.wait(PATIENCE)) as uri:
        before = threading.active_count()
        connections = [connect(uri, legacy=True, close_timeout=0.01) for _ in range(50)]
        servers = len(connections)  # threads of the raw server
        assert threading.active_count() <= before + servers + 1
        assert threads_named(HOUSEKEEPER) == 1
        release.set()
        for connection in connections:
            connection.close()
    eventually(lambda: threads_named(HOUSEKEEPER) == 0)


def test_housekeeper_starts_again() -> None:
    for _ in range(2):
        with pair() as (client, server):
            server.send("hello")
            assert client.recv() == "hello"
        eventually(lambda: threads_named(HOUSEKEEPER) == 0)


def test_housekeeper_stays_while_it_is_woken() -> None:
    """What wakes it writes to a descriptor, which may be another's as soon as it has ended."""
    inbox = Inbox(lambda: None)
    ended = list[bool]()
    inbox.wake = lambda data: ended.append(inbox.finish())
    ours, theirs = socket.socketpair()
    set_inbox(inbox)
    try:
        driver = SocketDriver(Protocol(Side.SERVER), ours, None)
        driver.abort()
        assert driver.closed
    finally:
        set_inbox(housekeeper.inbox)
        theirs.close()
    assert ended == [False]
    assert inbox.finish()


def test_flow_control_without_reader() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), max_queue=(4, 2), close_timeout=0.01)
    with theirs:
        peer = RawPeer(theirs, masked=True)
        theirs.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000:
                peer.write(BINARY, bytes(10_000))
                sent += 1
        # Some are in the queue and in the system's buffers, not all.
        assert 4 <= sent < 1000
        for _ in range(sent):
            assert connection.recv(timeout=PATIENCE) == bytes(10_000)
    connection.close()


# ---------------------------------------------------------------------- what leaves, and when


def test_replies_leave_together(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    handler = Spawned(lambda: [connection.send(connection.recv()) for _ in range(64)])
    peer.sock.sendall(b"".join(frame(TEXT, b"%02d" % n, masked=True) for n in range(64)))
    replies = b"".join(frame(TEXT, b"%02d" % n) for n in range(64))
    assert peer.sock.recv(65536) == replies
    handler.result()


def test_reply_leaves_although_its_thread_does_something_else(
    both_ends: tuple[Connection, RawPeer],
) -> None:
    connection, peer = both_ends
    peer.sock.sendall(frame(TEXT, b"one", masked=True) + frame(TEXT, b"two", masked=True))
    assert connection.recv() == "one"
    connection.send("reply")
    # This thread doesn't receive the second message, nor send more.
    assert peer.read() == (TEXT, b"reply")
    assert connection.recv() == "two"


def test_other_threads_do_not_hold_back(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.sock.sendall(frame(TEXT, b"one", masked=True) + frame(TEXT, b"two", masked=True))
    assert connection.recv() == "one"
    connection.send("held back")
    Spawned(connection.send, "at once").result()
    theirs = peer.sock
    theirs.setblocking(False)
    assert theirs.recv(100) == frame(TEXT, b"held back") + frame(TEXT, b"at once")
    theirs.settimeout(PATIENCE)


def test_close_sends_what_was_held_back(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    peer.sock.sendall(frame(TEXT, b"one", masked=True) + frame(TEXT, b"two", masked=True))
    assert connection.recv() == "one"
    connection.send("reply")
    closer = Spawned(connection.close)
    assert peer.read() == (TEXT, b"reply")
    assert peer.read() == (CLOSE, close_payload(1000))
    peer.sock.close()
    closer.result()


# ---------------------------------------------------------------------- a peer that doesn't read


def test_blocked_sender_lets_others_receive(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    sender = fill(connection)
    assert sender.running
    peer.write(TEXT, b"hello")
    assert connection.recv(timeout=PATIENCE) == "hello"
    second = Spawned(connection.send, "last")
    peer.write(PING, b"ping")
    messages = [peer.read() for _ in range(FILLINGS + 2)]
    sender.result()
    second.result()
    assert messages.count(FILLING) == FILLINGS
    assert {(TEXT, b"last"), (PONG, b"ping")} < set(messages)


def test_blocked_sender_sees_the_end(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    sender = fill(connection)
    assert sender.running
    peer.sock.close()
    with pytest.raises(ConnectionClosedError):
        sender.result()


def test_close_while_a_sender_is_blocked() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=0.1)
    with theirs:
        sender = fill(connection)
        assert sender.running
        connection.close()
        assert connection.close_code == 1006
        with pytest.raises(ConnectionClosedError):
            sender.result()


ENDS: dict[str, Callable[[Connection], object]] = {
    "nothing": lambda ws: None,
    "close": lambda ws: ws.close(),
    "send": lambda ws: ws.send("more"),
    "recv": lambda ws: ws.recv(),
    "recv with timeout": lambda ws: ws.recv(timeout=PATIENCE),
    "iteration": lambda ws: list(ws),
    "ping": lambda ws: ws.ping(ack_on_close=True).wait(PATIENCE),
    "pong": lambda ws: ws.pong(),
}


@pytest.mark.parametrize("action", ENDS)
def test_unsent_data_and_a_peer_that_half_closes(action: str) -> None:
    """Whoever waits is done within the time limit for closing, and so is the blocked sender."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=0.1)
    with theirs:
        sender = fill(connection)
        assert sender.running
        receiver = Spawned(connection.recv) if action in {"close", "send"} else None
        theirs.shutdown(socket.SHUT_WR)
        using = Spawned(ENDS[action], connection)
        assert connection.wait_closed(PATIENCE)
        with contextlib.suppress(ConnectionClosed):
            using.result()
        with pytest.raises(ConnectionClosedError):
            sender.result()
        if receiver is not None:
            with pytest.raises(ConnectionClosedError):
                receiver.result()
        assert connection.close_code == 1006
    eventually(lambda: threads_named(HOUSEKEEPER) == 0)


def test_shutdown_with_unsent_data_and_a_client_that_half_closes() -> None:
    def send_much(ws: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                ws.send(FILLING[1])

    with serving(send_much, close_timeout=0.1) as server, raw_client(server) as peer:
        time.sleep(0.2)  # now it is blocked
        peer.sock.shutdown(socket.SHUT_WR)
        Spawned(server.shutdown).result()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("end", ["close", "reset", "answer"])
def test_whoever_waits_is_done_when_another_thread_closes(
    request: pytest.FixtureRequest, secured: bool, end: str
) -> None:
    sock: Any
    theirs: socket.socket
    sock, theirs = secure_pair(request.getfixturevalue("tls")) if secured else socket.socketpair()
    connection = Connection(sock, Protocol(Side.SERVER), close_timeout=0.2)
    with theirs:
        peer = RawPeer(theirs, masked=True)
        event = connection.ping(ack_on_close=True)
        peer.read()
        waiting = [
            Spawned(connection.recv),
            Spawned(connection.wait_closed),
            Spawned(event.wait, PATIENCE),
            *(Spawned(connection.close) for _ in range(3)),
        ]
        if end == "answer":
            assert peer.read() == (CLOSE, close_payload(1000))
            peer.write(CLOSE, close_payload(1000))
        if end != "close":
            theirs.close()
        for thread in waiting:
            with contextlib.suppress(ConnectionClosed):
                thread.result()
        for use in (lambda: connection.recv(timeout=0), lambda: connection.recv(timeout=-1)):
            with pytest.raises(ConnectionClosed):
                use()


def test_pongs_are_bounded(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    sender = fill(connection)
    assert sender.running
    size = connection.protocol.output_size
    for number in range(10_000):
        peer.write(PING, b"%d" % number)
    peer.write(TEXT, b"end")
    assert connection.recv(timeout=PATIENCE) == "end"
    assert connection.protocol.output_size <= size + 1000
    messages = [peer.read() for _ in range(FILLINGS)]
    while messages.count(FILLING) < FILLINGS or (PONG, b"9999") not in messages:
        messages.append(peer.read())
    sender.result()
    assert len(messages) < FILLINGS + 10


def test_broadcast_does_not_wait(both_ends: tuple[Connection, RawPeer]) -> None:
    connection, peer = both_ends
    with pair() as (client, server):
        sender = fill(connection)
        assert sender.running
        broadcast([connection, server], "hello", max_workers=2)
        assert client.recv(timeout=PATIENCE) == "hello"
    messages = [peer.read() for _ in range(FILLINGS + 1)]
    sender.result()
    assert messages.count(FILLING) == FILLINGS
    assert (TEXT, b"hello") in messages


def test_broadcast_arguments() -> None:
    broadcast([], "hello", max_workers=1, thread_name_prefix="x", initializer=None, initargs=())
    with pytest.raises(TypeError, match="unexpected keyword arguments: \\['workers'\\]"):
        broadcast([], "hello", workers=1)


def test_write_failure_tells_what_the_peer_sent() -> None:
    """The peer closes properly, but doesn't wait, so that writing fails."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), ping_interval=None)
    connection.send("before")
    theirs.recv(100)
    theirs.sendall(frame(CLOSE, close_payload(4000, "enough"), masked=True))
    theirs.close()
    with pytest.raises(ConnectionClosed) as raised:
        for _ in range(1000):
            connection.send("after")
    assert raised.value.rcvd is not None
    assert (raised.value.rcvd.code, raised.value.rcvd.reason) == (4000, "enough")
    assert connection.wait_closed(PATIENCE)


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
