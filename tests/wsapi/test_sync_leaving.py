"""Servers for threads that drain and close, as signals and lacking threads have it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wsapi.sync_helpers import (
    PATIENCE,
    Spawned,
    eventually,
    raw_client,
    running,
    serving,
    until_closed,
    uri_of,
)
from wsapi.exceptions import ConnectionClosed
from wsapi.sync.client import connect
from wsapi.sync.server import ServerConnection, serve

if not hasattr(signal, "pthread_kill"):
    pytest.skip("no signal interrupts anything here", allow_module_level=True)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, previous)


def unnoticed_signal() -> None:
    """Have this thread take a signal, so that it doesn't interrupt the main thread."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def end_of(client: Any) -> Any:
    with pytest.raises(ConnectionClosed) as raised:
        client.recv(PATIENCE)
    assert raised.value.rcvd is not None
    return raised.value.rcvd.code, raised.value.rcvd.reason


def starting(name: str, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something done before a thread of a name starts."""
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            before()
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_signal_whose_handler_drains_during_drain() -> None:
    """What it has interrupted goes on when it returns: it doesn't wait for that."""
    main, handled = threading.get_ident(), threading.Event()

    def drain(*args: Any) -> None:
        server.drain()
        handled.set()

    def handler(ws: ServerConnection) -> None:
        ws.wait_closed()
        signal.pthread_kill(main, signal.SIGINT)
        assert handled.wait(PATIENCE)

    signal.signal(signal.SIGINT, drain)
    with serving(handler) as server, connect(uri_of(server)) as ws:
        eventually(lambda: server.connections)
        server.drain(timeout=None, spread=0)
        assert handled.is_set()
        assert ws.close_code == 1012


def test_signal_whose_handler_drains_in_serve_forever() -> None:
    """The first call prevails; serve_forever() returns when it is done."""
    server = serve(until_closed, "127.0.0.1", 0)
    main = threading.get_ident()

    def drain(*args: Any) -> None:
        server.drain(spread=0, reason="first")
        server.drain(spread=0, reason="second")

    def client() -> Any:
        with connect(uri_of(server)) as ws:
            signal.pthread_kill(main, signal.SIGINT)
            return end_of(ws)

    signal.signal(signal.SIGINT, drain)
    spawned = Spawned(client)
    with server:
        server.serve_forever()
    assert spawned.result() == (1012, "first")


def test_signals_that_drain_and_close() -> None:
    """The second one ends what the first one has begun; more of them change nothing."""
    with serving() as server, connect(uri_of(server)) as ws:
        server.drain_on_signal(signal.SIGINT, timeout=None, spread=3600, reason="away")
        signal.raise_signal(signal.SIGINT)
        assert server.draining.wait(PATIENCE)
        with pytest.raises(TimeoutError):
            ws.recv(0.01)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert end_of(ws) == (1012, "away")


def test_no_thread_for_draining(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is closed at once: whoever sent the signal wants it to end."""

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    starting("wsapi-drain", fail, monkeypatch)
    with serving() as server, connect(uri_of(server)) as ws:
        server.drain_on_signal(signal.SIGINT, timeout=None, spread=3600, reason="away")
        signal.raise_signal(signal.SIGINT)
        assert end_of(ws) == (1012, "away")
        eventually(lambda: server._stopped.is_set())


def test_drained_by_another_thread_just_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drained once, as the first one wanted it."""
    drains: list[Spawned] = []

    def drain() -> None:
        drains.append(Spawned(server.drain, timeout=None, spread=0, reason="first"))
        eventually(server.draining.is_set)

    starting("wsapi-drain", drain, monkeypatch)
    with serving() as server, connect(uri_of(server)) as ws:
        server.drain_on_signal(signal.SIGINT, timeout=None, spread=0, reason="second")
        signal.raise_signal(signal.SIGINT)
        assert end_of(ws) == (1012, "first")
        eventually(lambda: drains)
        drains[0].result()


def test_signal_that_interrupts_nothing_while_another_thread_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for that isn't interrupted, but looks whether handlers of signals have to run."""
    monkeypatch.setattr("wsapi.sync._leaving.SIGNAL_INTERVAL", 0.01)
    go_on = threading.Event()
    signal.signal(signal.SIGINT, lambda *args: go_on.set())

    def handler(ws: ServerConnection) -> None:
        ws.wait_closed()
        eventually(lambda: len(server._handlers.excused) == 2)  # the main thread waits, too
        unnoticed_signal()
        assert go_on.wait(PATIENCE)

    with serving(handler) as server, connect(uri_of(server)):
        eventually(lambda: server.connections)
        first = Spawned(server.drain, timeout=None, spread=0)
        eventually(server.draining.is_set)
        server.drain()
        assert go_on.is_set()
        first.result()


def test_signal_that_interrupts_nothing_while_a_connection_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsapi.sync._leaving.SIGNAL_INTERVAL", 0.01)
    accepting, go_on = threading.Event(), threading.Event()
    signal.signal(signal.SIGINT, lambda *args: go_on.set())

    def wait() -> None:
        accepting.set()
        eventually(lambda: server._closing)
        unnoticed_signal()
        assert go_on.wait(PATIENCE)

    starting("wsapi-handler", wait, monkeypatch)
    with running(serve(until_closed, "127.0.0.1", 0)) as server:
        with raw_client(server, b""):
            assert accepting.wait(PATIENCE)
            server.shutdown()
            assert go_on.is_set()
