"""Connections and servers are freed without the cyclic collector, however they ended."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.wsapi.helpers import collecting
from tests.wsapi.sync_helpers import (
    PATIENCE,
    RawPeer,
    echo,
    eventually,
    raw_client,
    raw_server,
    running,
    serving,
    uri_of,
)
from wsapi.client import ClientProtocol
from wsapi.exceptions import ConnectionClosed
from wsapi.sync.client import ClientConnection, connect
from wsapi.sync.server import Server, ServerConnection, serve
from wsproto_fast.drivers._housekeeper import housekeeper

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def reset(peer: RawPeer) -> None:
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def settle(server: Server | None = None) -> None:
    """Wait until no thread has anything to do with connections."""
    names = ("wsproto_fast-housekeeper", "wsapi-handler")
    eventually(lambda: not any(t.name.startswith(names) for t in threading.enumerate()))
    assert server is None or not server._connections


def leave_nothing(use: Callable[[], object], server: Server | None = None) -> None:
    """Check that nothing is left for the collector."""
    use()  # what is made once is there now
    settle(server)
    with collecting() as found:
        use()
        settle(server)
    assert found == []


def use_after_the_end(ws: ClientConnection) -> None:
    for use in (ws.recv, lambda: ws.send("x"), ws.ping, ws.pong, lambda: list(ws), ws.close):
        with contextlib.suppress(Exception):
            use()
    with contextlib.suppress(Exception):
        next(ws.recv_streaming())


def exchange(ws: ClientConnection) -> None:
    ws.send("hello")
    assert ws.recv() == "hello"


def break_a_fragmented_message(ws: ClientConnection) -> None:
    with contextlib.suppress(TypeError):
        ws.send(iter(["a", b"b"]))  # type: ignore[list-item] # wrong on purpose
    use_after_the_end(ws)


def close(ws: ClientConnection) -> None:
    ws.close()
    use_after_the_end(ws)


def abort(ws: ClientConnection) -> None:
    ws._driver.abort()
    use_after_the_end(ws)


def close_in_a_thread(ws: ClientConnection) -> None:
    thread = threading.Thread(target=ws.close)
    thread.start()
    use_after_the_end(ws)
    thread.join()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize(
    "use", [exchange, close, break_a_fragmented_message, abort, close_in_a_thread]
)
def test_both_sides(tls: Contexts, scheme: str, use: Callable[[ClientConnection], None]) -> None:
    context = tls if scheme == "wss" else (None, None)

    def once() -> None:
        with connect(uri_of(server, scheme=scheme), ssl=context[1], ping_interval=0.01) as ws:
            use(ws)

    with serving(ssl=context[0], close_timeout=PATIENCE) as server:
        leave_nothing(once, server)


@pytest.mark.parametrize("end", [reset, lambda peer: None, lambda peer: peer.sock.sendall(b"\xff")])
def test_client_whose_server_ends(end: Callable[[RawPeer], object]) -> None:
    def once() -> None:
        with connect(uri, legacy=True) as ws:
            use_after_the_end(ws)

    with raw_server(end) as uri:
        # The threads of the raw server are kept until its end, not the connections.
        leave_nothing(once)


@pytest.mark.parametrize(
    "handshake", [None, b"", b"GET / ", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100]
)
@pytest.mark.parametrize("end", [reset, lambda peer: peer.sock.sendall(b"\xff" * 9)])
def test_server_whose_client_ends(
    handshake: bytes | None, end: Callable[[RawPeer], object], tls: Contexts
) -> None:
    def once() -> None:
        with raw_client(server, handshake if handshake is None else b"") as peer:
            with contextlib.suppress(OSError):
                peer.sock.sendall(handshake or b"")
                end(peer)

    for options in ({}, {"ssl": tls[0]}) if handshake is not None else ({},):
        with serving(**options) as server:
            leave_nothing(once, server)


def test_failing_handler() -> None:
    def fail(ws: ServerConnection) -> None:
        raise LookupError

    def once() -> None:
        with connect(uri_of(server)) as ws:
            use_after_the_end(ws)

    logger = logging.Logger("silent", logging.CRITICAL)
    with serving(fail, logger=logger) as server:
        leave_nothing(once, server)


@pytest.mark.parametrize("used", [True, False])
def test_server(used: bool) -> None:
    def once() -> None:
        with running(serve(echo, "127.0.0.1", 0)) as server:
            if used:
                with connect(uri_of(server)) as ws:
                    exchange(ws)

    leave_nothing(once)


def test_server_that_ends_before_its_clients() -> None:
    def once() -> None:
        with contextlib.ExitStack() as stack, serving() as server:
            sock: Any = stack.enter_context(socket.create_connection(server.socket.getsockname()))
            stack.enter_context(connect(uri_of(server)))
            del sock

    leave_nothing(once)


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.close(),
        lambda ws: ws.ping(),
        lambda ws: ws.wait_closed(),
        lambda ws: ws.send("x"),
        lambda ws: ws.recv(),
    ],
)
def test_used_when_nobody_looks_after_connections(use: Callable[[ClientConnection], Any]) -> None:
    """It isn't left to who looks after connections when there is one again."""
    with serving(echo) as server:
        ws = connect(uri_of(server), legacy=True)
        ws.close()
        settle()
        with contextlib.suppress(ConnectionClosed):
            use(ws)
    assert housekeeper.inbox.take() == []


def test_last_one() -> None:
    """Who looks after connections keeps none while sleeping, not even the one tended last."""

    def engines() -> int:
        return sum(isinstance(thing, ClientProtocol) for thing in gc.get_objects())

    def read_later(_connection: ServerConnection) -> None:
        ended.wait(PATIENCE)

    ended = threading.Event()
    # Another connection lets the housekeeper live.
    with serving(echo) as server, connect(uri_of(server)), serving(read_later) as idle:
        before = engines()
        ws = connect(uri_of(idle), ping_interval=0.01, legacy=True)
        eventually(lambda: ws.latency > 0)  # the housekeeper has read an answer
        ended.set()
        ws.close()
        ws = None  # type: ignore[assignment] # as a closure has it, del can't be used
        eventually(lambda: engines() == before)
