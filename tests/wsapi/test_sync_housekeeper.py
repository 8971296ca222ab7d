"""Connections that nobody reads from: the housekeeper answers, and gives up."""

from __future__ import annotations

import errno
import logging
import queue
import selectors
import socket
import sys
import threading
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import BINARY, CLOSE, PING, PONG, TEXT, close_payload
from tests.wsapi.sync_helpers import (
    HOUSEKEEPER,
    PATIENCE,
    RawPeer,
    Spawned,
    eventually,
    pair,
    raw_server,
    threads_named,
)
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK
from wsapi.protocol import Protocol, Side, State
from wsapi.sync.client import connect
from wsapi.sync.connection import Connection
from wsproto_fast.drivers import _housekeeper
from wsproto_fast.drivers._housekeeper import Housekeeper, housekeeper
from wsproto_fast.drivers._inbox import READ, WRITE, Inbox, set_inbox
from wsproto_fast.drivers.threads import SocketDriver


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


def test_what_comes_before_it_sleeps_is_not_left_behind(
    both_ends: tuple[Connection, RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has something for it when it has just looked."""
    ours, theirs = socket.socketpair()
    late = queue.SimpleQueue[Connection]()
    work = _housekeeper.Round.work

    def work_then_get_more(round_: _housekeeper.Round) -> float:
        until = work(round_)
        if late.empty():
            late.put(Connection(ours, Protocol(Side.SERVER), close_timeout=0.01))
        return until

    monkeypatch.setattr(_housekeeper.Round, "work", work_then_get_more)
    _, waker = both_ends
    waker.write(PING, b"wake up")
    assert waker.read() == (PONG, b"wake up")
    with theirs:
        peer = RawPeer(theirs, masked=True)
        peer.write(PING, b"late")
        assert peer.read() == (PONG, b"late")
        late.get(timeout=PATIENCE).close()


def test_one_connection_that_fails_does_not_concern_others(
    both_ends: tuple[Connection, RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "> PING" in record.getMessage():
                raise ZeroDivisionError

    told = queue.SimpleQueue[object]()
    monkeypatch.setattr(sys, "excepthook", lambda kind, exc, traceback: told.put(kind))
    logger = logging.Logger("broken", logging.DEBUG)
    logger.addHandler(Broken())
    ours, theirs = socket.socketpair()
    failing = Connection(
        ours, Protocol(Side.SERVER, logger=logger), ping_interval=0.02, close_timeout=0.01
    )
    with theirs:
        assert told.get(timeout=PATIENCE) is ZeroDivisionError
        _, peer = both_ends
        peer.write(PING, b"answered")
        assert peer.read() == (PONG, b"answered")
        failing.close()


def test_socket_that_cannot_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program has closed it, say, behind the back of its connection."""
    register = selectors.DefaultSelector.register

    def failing(
        self: selectors.BaseSelector, fileobj: Any, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        if isinstance(data, SocketDriver):
            raise ValueError("Invalid file descriptor: -1")
        return register(self, fileobj, events, data)

    monkeypatch.setattr(selectors.DefaultSelector, "register", failing)
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours, Protocol(Side.SERVER), ping_interval=None)
        assert connection.wait_closed(PATIENCE)
        assert isinstance(connection.protocol.close_exc.__cause__, ValueError)
        with pytest.raises(ConnectionClosedError):
            connection.recv()


def test_what_a_socket_is_watched_for_changes() -> None:
    """To write, too, while what was sent before waits; and no longer."""
    ours, theirs = socket.socketpair()
    with selectors.DefaultSelector() as selector, ours, theirs:
        round_ = _housekeeper.Round(Inbox(lambda: None), selector)
        driver = mock.Mock(socket=ours)
        for wanted, events in [
            (READ, selectors.EVENT_READ),
            (READ | WRITE, selectors.EVENT_READ | selectors.EVENT_WRITE),
            (READ | WRITE, selectors.EVENT_READ | selectors.EVENT_WRITE),
            (WRITE, selectors.EVENT_WRITE),
        ]:
            round_._watch(driver, wanted)
            key = selector.get_key(ours)
            assert (key.events, key.data) == (events, driver)
        driver.unwatched.assert_not_called()
        round_._watch(driver, 0)
        assert len(selector.get_map()) == 0
        driver.unwatched.assert_called_once_with()


def test_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    starting = Housekeeper()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        starting._start()
    assert starting._resources is not None
    selector, *sockets = starting._resources
    assert selector.get_map() is None, "closed"
    assert [sock.fileno() for sock in sockets] == [-1, -1]


def test_sockets_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors are left, say; none of those that there are is kept."""
    made: list[selectors.BaseSelector] = []

    class Selector(selectors.DefaultSelector):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    def fail() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(selectors, "DefaultSelector", Selector)
    monkeypatch.setattr(socket, "socketpair", fail)
    starting = Housekeeper()
    with pytest.raises(OSError, match="too many open files"):
        starting._start()
    (selector,) = made
    assert selector.get_map() is None, "closed"
    starting.close()  # as a child process does after a fork


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


@pytest.mark.parametrize(
    ("owner", "name"), [(_housekeeper.Round, "work"), (Housekeeper, "_attend")]
)
def test_lack_of_memory(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The housekeeper goes on when there is some again."""
    ours, theirs = socket.socketpair()
    original = getattr(owner, name)
    failures: list[bool] = []

    def fail_once(*args: Any) -> Any:
        if not failures:
            failures.append(True)
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(owner, name, fail_once)
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=0.01)
    with theirs:
        peer = RawPeer(theirs, masked=True)
        for payload in (b"1", b"2"):
            peer.write(PING, payload)
            assert peer.read() == (PONG, payload)
    assert connection.wait_closed(PATIENCE)
    assert failures


def test_nothing_that_was_left_is_forgotten_without_memory() -> None:
    inbox = mock.Mock(gone=0)
    inbox.take.side_effect = [[(1.0, "first"), (2.0, "second")], []]
    inbox.clock.time.return_value = 0.0
    with selectors.DefaultSelector() as selector:
        round_ = _housekeeper.Round(inbox, selector)
        schedule = mock.Mock()
        schedule.next_time.return_value = 1.0
        schedule.add.side_effect = [None, MemoryError, None]
        round_._schedule = schedule
        with pytest.raises(MemoryError):
            round_.work()
        round_.work()
    assert schedule.add.call_args_list == [
        mock.call(1.0, "first"),
        mock.call(2.0, "second"),
        mock.call(2.0, "second"),
    ]
