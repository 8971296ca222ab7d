"""Signals while threads use connections: Ctrl-C, and handlers that use them, too."""

from __future__ import annotations

import os
import queue
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wsapi
from tests.wsapi.helpers import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_payload
from tests.wsapi.sync_helpers import (
    PATIENCE,
    RawPeer,
    Spawned,
    eventually,
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
)
from wsapi.protocol import Protocol, Side, State
from wsapi.sync.client import connect
from wsapi.sync.connection import Connection
from wsapi.sync.server import ServerConnection

if not hasattr(signal, "pthread_kill"):
    pytest.skip("no signal interrupts anything here", allow_module_level=True)

import fcntl
import termios

PACKAGE = str(Path(wsapi.__file__).parent)

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
BothEnds = tuple[Connection, RawPeer]


@pytest.fixture(params=["plain", "tls"])
def both_ends(request: pytest.FixtureRequest) -> Iterator[BothEnds]:
    """Return a connection, as servers have them, and its peer."""
    sock: Any
    theirs: socket.socket
    if request.param == "plain":
        sock, theirs = socket.socketpair()
    else:
        sock, theirs = secure_pair(request.getfixturevalue("tls"))
    connection = Connection(sock, Protocol(Side.SERVER), close_timeout=PATIENCE)
    with theirs:
        yield connection, RawPeer(theirs, masked=True)
        theirs.close()
        assert connection.wait_closed(PATIENCE)


class Interruption:
    """Sends SIGINT to the thread of the test."""

    def __init__(self) -> None:
        self.main = threading.get_ident()
        self.stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self.threads: list[Spawned] = []

    def __call__(
        self, condition: Callable[[], object] = lambda: True, *, elsewhere: bool = False
    ) -> None:
        """Send it as soon as something is true and the thread blocks.

        With ``elsewhere`` another thread takes it, so that no system call is interrupted; it is the
        same if it comes right before one.
        """

        def kill() -> None:
            eventually(condition)
            # On a busy machine the thread may take its time to get out of the test, which would
            # be interrupted then; some tests block there.
            patience = time.monotonic() + 1
            seen = 0  # how often, without a break
            while seen < 10 and (seen or time.monotonic() < patience):
                time.sleep(0.005)
                seen = seen + 1 if self.blocks() else 0
            thread = threading.get_ident() if elsewhere else self.main
            signal.pthread_kill(thread, signal.SIGINT)

        self.threads.append(Spawned(kill))

    def blocks(self) -> bool:
        """Tell whether the thread waits in what is tested, as far as the system tells."""
        if not sys._current_frames()[self.main].f_code.co_filename.startswith(PACKAGE):
            return False
        return not self.stat.exists() or self.stat.read_text().rpartition(")")[2].split()[0] == "S"

    def calls(self, function: Callable[[], object]) -> queue.Queue[object]:
        """Have the signal's handler call a function; return what it returns or raises."""
        outcomes = queue.Queue[object]()

        def handle(*args: object) -> None:
            try:
                outcomes.put(function())
            except Exception as exc:
                outcomes.put(type(exc))

        signal.signal(signal.SIGINT, handle)
        return outcomes


@pytest.fixture
def interrupt() -> Iterator[Interruption]:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption = Interruption()
    try:
        yield interruption
        for thread in interruption.threads:
            thread.result()
    finally:
        signal.signal(signal.SIGINT, previous)


def unread(sock: socket.socket) -> int:
    """Return how many bytes wait for being read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def answer_close(peer: RawPeer, code: int) -> None:
    """Read up to a Close frame with this code; answer it; close."""
    frame = peer.read()
    while frame[0] != CLOSE:
        frame = peer.read()
    assert frame == (CLOSE, close_payload(code))
    peer.write(CLOSE, close_payload(code))
    assert peer.read_to_end() == b""
    peer.sock.close()


# ---------------------------------------------------------------------- Ctrl-C


def test_interrupted_recv(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    peer.write(TEXT, b"one", fin=False)
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        connection.recv()
    # Nothing is lost, and others may receive.
    peer.write(CONT, b"two")
    assert Spawned(connection.recv).result() == "onetwo"


def test_interrupted_recv_of_a_large_message(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    message = os.urandom(1_000_000)
    sending = threading.Event()

    class Halting:
        """Halts in the middle of what is sent through it."""

        def sendall(self, data: bytes) -> None:
            sock.sendall(data[:500_000])
            interrupt()
            assert sending.wait(PATIENCE)
            sock.sendall(data[500_000:])

    sock, peer.sock = peer.sock, Halting()  # type: ignore[assignment] # it acts for one
    writing = Spawned(peer.write, BINARY, message)
    with pytest.raises(KeyboardInterrupt):
        connection.recv()
    sending.set()
    assert connection.recv() == message
    writing.result()
    peer.sock = sock


def test_interrupted_recv_with_timeout(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        connection.recv(timeout=PATIENCE)
    peer.write(TEXT, b"hello")
    assert connection.recv() == "hello"


def test_interrupted_send(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        for number in range(1000):
            connection.send(b"%06d" % number * 20_000)
    # The frame that was being written isn't torn: the rest of it leaves by and by.
    for expected in range(number + 1):
        assert peer.read() == (BINARY, b"%06d" % expected * 20_000)
    connection.send("next")
    assert peer.read() == (TEXT, b"next")


def test_interrupted_wait_closed(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, _ = both_ends
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        connection.wait_closed()


def test_interrupted_close(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    interrupt(lambda: connection.state is State.CLOSING)
    with pytest.raises(KeyboardInterrupt):
        connection.close()
    answer_close(peer, 1000)
    assert connection.wait_closed(PATIENCE)


def test_interrupt_ends_the_block_with_1011(interrupt: Interruption) -> None:
    codes = queue.Queue[int | None]()

    def handler(ws: ServerConnection) -> None:
        ws.wait_closed()
        codes.put(ws.close_code)

    with serving(handler) as server:
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            with connect(uri_of(server)) as ws:
                ws.recv()
        assert codes.get(timeout=PATIENCE) == 1011


def test_interrupted_opening_handshake(interrupt: Interruption) -> None:
    with raw_server(lambda peer: peer.read_to_end(), handshake=False) as uri:
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            connect(uri)
        # The server sees the end, or this doesn't end; nothing looks after the connection.
    eventually(lambda: "wsproto_fast-housekeeper" not in {t.name for t in threading.enumerate()})


def test_interrupted_tls_handshake(tls: Contexts, interrupt: Interruption) -> None:
    with raw_server(lambda peer: peer.read_to_end(), handshake=False) as uri:
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            connect(uri.replace("ws:", "wss:"), ssl=tls[1])


# ---------------------------------------------------------------------- handlers that close


def receive_for_ever(connection: Connection) -> None:
    connection.recv()


def receive_with_timeout(connection: Connection) -> None:
    connection.recv(timeout=PATIENCE)


def iterate(connection: Connection) -> None:
    for _ in connection:
        raise AssertionError("nothing was sent")
    raise connection.protocol.close_exc


def receive_fragments(connection: Connection) -> None:
    next(connection.recv_streaming())


def wait_for_the_end(connection: Connection) -> None:
    assert connection.wait_closed()
    raise connection.protocol.close_exc


USES = [receive_for_ever, receive_with_timeout, iterate, receive_fragments, wait_for_the_end]


def send_for_ever(connection: Connection) -> None:
    while True:
        connection.send(b"x" * 1_000_000)


@pytest.mark.parametrize("use", [*USES, Connection.close, send_for_ever])
def test_signal_that_interrupts_nothing(
    both_ends: BothEnds, interrupt: Interruption, use: Callable[[Connection], None]
) -> None:
    connection, _ = both_ends
    interrupt(elsewhere=True)
    with pytest.raises(KeyboardInterrupt):
        use(connection)


@pytest.mark.parametrize("use", USES)
def test_close_in_a_signal_handler(
    both_ends: BothEnds, interrupt: Interruption, use: Callable[[Connection], None]
) -> None:
    connection, peer = both_ends
    outcomes = interrupt.calls(lambda: connection.close(4000))
    interrupt()
    answering = Spawned(answer_close, peer, 4000)
    with pytest.raises(ConnectionClosed) as raised:
        use(connection)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 4000
    assert outcomes.get_nowait() is None
    answering.result()


@pytest.mark.parametrize("use", USES)
def test_close_in_a_signal_handler_with_a_silent_peer(
    interrupt: Interruption, use: Callable[[Connection], None]
) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Protocol(Side.SERVER), close_timeout=0.1)
    with theirs:
        outcomes = interrupt.calls(connection.close)
        interrupt()
        with pytest.raises(ConnectionClosedError) as raised:
            use(connection)
    assert isinstance(raised.value.__cause__, TimeoutError)
    assert outcomes.get_nowait() is None


@pytest.mark.parametrize("reading", [True, False])
def test_close_in_a_signal_handler_during_send(
    both_ends: BothEnds, interrupt: Interruption, reading: bool
) -> None:
    """What waits is written during the closing handshake, although its sender is interrupted."""
    connection, peer = both_ends
    connection.protocol.set_timeouts(
        close_timeout=PATIENCE if reading else 0.1, now=time.monotonic()
    )
    interrupted = threading.Event()

    def close() -> None:
        interrupted.set()
        connection.close(4000)

    outcomes = interrupt.calls(close)
    interrupt()

    def read() -> int:
        assert interrupted.wait(PATIENCE)
        time.sleep(0.05)
        count = 0
        while peer.read() == (BINARY, b"x" * 1_000_000):
            count += 1
        peer.write(CLOSE, close_payload(4000))
        peer.sock.close()
        return count

    answering = Spawned(read) if reading else None
    sent = 0
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            connection.send(b"x" * 1_000_000)
            sent += 1
    assert outcomes.get_nowait() is None
    if answering is None:
        assert raised.value.rcvd is None
    else:
        assert answering.result() in {sent, sent + 1}
        assert raised.value.rcvd is not None


def test_close_in_a_signal_handler_during_close(
    both_ends: BothEnds, interrupt: Interruption
) -> None:
    connection, peer = both_ends
    outcomes = interrupt.calls(connection.close)
    interrupt(lambda: connection.state is State.CLOSING)

    def answer() -> None:
        time.sleep(0.2)
        answer_close(peer, 4000)

    answering = Spawned(answer)
    connection.close(4000)
    assert outcomes.get_nowait() is None
    answering.result()


def test_close_in_a_signal_handler_while_another_thread_receives(
    both_ends: BothEnds, interrupt: Interruption
) -> None:
    connection, peer = both_ends
    receiver = Spawned(connection.recv)
    outcomes = interrupt.calls(lambda: connection.close(1001))
    interrupt()
    answering = Spawned(answer_close, peer, 1001)
    assert connection.wait_closed()
    assert outcomes.get_nowait() is None
    with pytest.raises(ConnectionClosedOK):
        receiver.result()
    answering.result()


# ---------------------------------------------------------------------- handlers that do more


def test_ping_in_a_signal_handler(both_ends: BothEnds, interrupt: Interruption) -> None:
    """Somebody else reads the Pong that it waits for."""
    connection, peer = both_ends
    outcomes = interrupt.calls(lambda: connection.ping(b"ping").wait(PATIENCE))
    interrupt()

    def answer() -> None:
        assert peer.read() == (PING, b"ping")
        peer.write(PONG, b"ping")
        peer.write(TEXT, b"hello")

    answering = Spawned(answer)
    assert connection.recv() == "hello"
    assert outcomes.get_nowait() is True
    answering.result()


@pytest.mark.parametrize("use", [*USES[:-1], lambda ws: ws.recv(timeout=0)])
def test_receiving_in_a_signal_handler(
    both_ends: BothEnds, interrupt: Interruption, use: Callable[[Connection], None]
) -> None:
    connection, peer = both_ends
    outcomes = interrupt.calls(lambda: use(connection))
    interrupt()
    receiving = Spawned(outcomes.get, timeout=PATIENCE)

    def answer() -> None:
        assert receiving.result() is ConcurrencyError
        peer.write(TEXT, b"hello")

    answering = Spawned(answer)
    assert connection.recv() == "hello"
    answering.result()


def test_send_in_a_signal_handler(both_ends: BothEnds, interrupt: Interruption) -> None:
    connection, peer = both_ends
    outcomes = interrupt.calls(lambda: connection.send(b"y" * 3_000_000))
    interrupt()

    def answer() -> None:
        assert peer.read() == (BINARY, b"y" * 3_000_000)
        peer.write(TEXT, b"hello")

    answering = Spawned(answer)
    assert connection.recv() == "hello"
    assert outcomes.get_nowait() is None
    answering.result()


def test_failing_send_in_a_signal_handler(both_ends: BothEnds, interrupt: Interruption) -> None:
    """It doesn't wait for the thread that it interrupted to read what is left."""
    connection, _ = both_ends
    with socket.socket(fileno=os.dup(connection._driver.socket.fileno())) as same:
        outcomes = interrupt.calls(lambda: (same.shutdown(socket.SHUT_WR), connection.send("x")))
        interrupt()
        with pytest.raises(ConnectionClosedError):
            connection.recv()
    assert outcomes.get_nowait() is ConnectionClosedError


def test_signal_handler_that_takes_its_time(both_ends: BothEnds, interrupt: Interruption) -> None:
    """Meanwhile the connection is looked after, and what others send leaves."""
    connection, peer = both_ends
    go_on = threading.Event()
    interrupt.calls(lambda: go_on.wait(PATIENCE))
    interrupt()

    def use() -> None:
        time.sleep(0.2)
        peer.write(PING, b"ping")
        assert peer.read() == (PONG, b"ping")
        connection.send("from another thread")
        assert peer.read() == (TEXT, b"from another thread")
        go_on.set()
        peer.write(TEXT, b"hello")

    using = Spawned(use)
    assert connection.recv() == "hello"
    using.result()


def test_signal_handler_that_takes_its_time_during_send(
    both_ends: BothEnds, interrupt: Interruption
) -> None:
    """What was being sent leaves meanwhile."""
    connection, peer = both_ends
    go_on = threading.Event()
    handling = threading.Event()
    outcomes = interrupt.calls(lambda: (handling.set(), go_on.wait(PATIENCE)))
    # A handler that runs before something is being sent would wait in vain.
    interrupt(lambda: unread(peer.sock) > 10_000)  # more than TLS has at the beginning

    def read() -> None:
        assert handling.wait(PATIENCE)
        assert peer.read() == (BINARY, b"z" * 3_000_000)
        go_on.set()

    reading = Spawned(read)
    connection.send(b"z" * 3_000_000)
    reading.result()
    assert outcomes.get_nowait() == (None, True)


def test_many_signals(both_ends: BothEnds, interrupt: Interruption) -> None:
    """They come at any time; nothing is lost, doubled, or torn."""
    connection, peer = both_ends
    handled = []
    signal.signal(signal.SIGINT, lambda *_: handled.append(connection.state))
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.0005):
            signal.pthread_kill(interrupt.main, signal.SIGINT)

    def echo() -> None:
        while (message := peer.read()) != (TEXT, b"end"):
            peer.write(*message)

    echoing, killing = Spawned(echo), Spawned(kill)
    number = 0
    try:
        while number < 300 or len(handled) < 20:
            message = b"%d" % number * (number**2 % 30_000)
            connection.send(message)
            assert connection.recv() == message
            number += 1
    finally:
        stop.set()
        killing.result()
    connection.send("end")
    echoing.result()
