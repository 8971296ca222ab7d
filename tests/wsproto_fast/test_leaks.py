"""Nothing is left of connections and messages: by counts, however they end.

`make leaks` does it with 50,000 connections for each way of ending, and a million messages.
"""

from __future__ import annotations

import gc
import os
import sysconfig
from collections.abc import Callable
from typing import Any

import pytest

from wsproto_fast import (
    Backpressure,
    ClientProtocol,
    PerMessageDeflate,
    PreparedMessage,
    Protocol,
    ServerProtocol,
    Side,
    Slow,
    State,
    activity,
)
from wsproto_fast.backends import available_backends
from wsproto_fast.uri import parse_uri

from .handshake_helpers import head
from .helpers import BINARY, CLOSE, PING, TEXT, frame, messages, output

CONNECTIONS = int(os.environ.get("LEAK_CONNECTIONS", "1000"))
MESSAGES = int(os.environ.get("LEAK_MESSAGES", "5000"))
MAX_BYTES = 40  # of a connection or message, that the resident memory may grow by
# What allocators take in the beginning; without the global lock they also give back later.
SLACK = 2**23 if sysconfig.get_config_var("Py_GIL_DISABLED") else 2**20
URI = parse_uri("ws://example.com/")
OK = b"\x03\xe8"
FAULTS = [b"\xff\xff", b"\x81\x81\0\0\0\0\xff", b"\x82\xff" + b"\x7f" * 12]


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def check_flat(use: Callable[[int], object], times: int) -> None:
    """Do something many times, and look whether objects or memory are left."""
    for number in range(times // 5):
        use(number)
    gc.collect()
    objects, memory = len(gc.get_objects()), rss()
    for number in range(times):
        use(number)
    # Without the collector: there are no cycles either.
    assert len(gc.get_objects()) - objects < 50
    gc.collect()
    assert len(gc.get_objects()) - objects < 20
    assert rss() - memory < MAX_BYTES * times + SLACK


def opened(number: int) -> tuple[ClientProtocol, ServerProtocol]:
    """Return two ends that are connected, and have exchanged messages and Pings."""
    client, server = ClientProtocol(URI), ServerProtocol()
    for protocol in (client, server):
        protocol.queue_messages()
        protocol.set_timeouts(
            open_timeout=10, ping_interval=20, ping_timeout=20, close_timeout=10, now=1
        )
    client.send_request(client.connect())
    server.receive_data(output(client), 1)
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type] # it is one
    client.receive_data(output(server), 1)
    if number % 2:
        for protocol in (client, server):
            protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    client.send("hello" * 20)
    client.ping(waiter=object())
    server.receive_data(output(client), 2)
    assert messages(server) == ["hello" * 20]
    server.send_binary(b"part" * 30, False)
    client.receive_data(output(server), 2)
    client.acknowledged_pings()
    return client, server


def over(*protocols: Protocol) -> None:
    for protocol in protocols:
        output(protocol)
        protocol.connection_lost(now=20)
        assert protocol.state is State.CLOSED
        str(protocol.close_exc)


def end_by_client(number: int) -> None:
    client, server = opened(number)
    client.close(now=3)
    server.receive_data(output(client), 3)
    client.receive_data(output(server), 3)
    over(client, server)


def end_by_server(number: int) -> None:
    client, server = opened(number)
    server.send_continuation(b"", True)
    server.close(1001, "bye", now=3)
    client.receive_data(output(server), 3)
    server.receive_data(output(client), 3)
    over(client, server)


def end_by_both(number: int) -> None:
    client, server = opened(number)
    client.close(now=3)
    server.close(now=3)
    over(client, server)


def end_by_reset(number: int) -> None:
    client, server = opened(number)
    for protocol in (client, server):
        protocol.connection_lost(ConnectionResetError())
    over(client, server)


def end_of_stream(number: int) -> None:
    client, server = opened(number)
    server.receive_data(frame(Side.SERVER, TEXT, b"half")[:7], 3)
    for protocol in (client, server):
        protocol.receive_eof(3)
    over(client, server)


def end_by_fault(number: int) -> None:
    client, server = opened(number)
    server.receive_data(FAULTS[number % len(FAULTS)])
    assert server.parser_exc is not None
    over(client, server)


def end_by_timeout(number: int) -> None:
    client, server = opened(number)
    if number % 4 < 2:
        server.close(now=3)
    else:
        server.handle_timeout(21)
        server.handle_timeout(41)
    server.handle_timeout(60)
    assert server.transport_action == activity.ABORT
    over(client, server)


def end_by_callback(number: int) -> None:
    client, server = opened(number)

    def fail(message: Any) -> None:
        raise ZeroDivisionError

    server.logger = Silent()
    server.listen(fail)
    server.receive_data(frame(Side.SERVER, BINARY, b"x"), 3)
    assert isinstance(server.parser_exc, ZeroDivisionError)
    # Its traceback has the frames of the program, and they have its variables.
    server.parser_exc.__traceback__ = None
    over(client, server)


def end_with_what_waits(number: int) -> None:
    client, server = opened(number)
    server.send_continuation(b"", True)
    server.pause_writing()
    for slow in Slow:
        if server.state is State.OPEN:
            server.offer(PreparedMessage(b"x" * 100), Backpressure(slow, 150, key=object()))
    server.receive_data(frame(Side.SERVER, PING, b"x") * 3, 3)
    server.receive_data(frame(Side.SERVER, TEXT, b"not taken") * 3, 3)
    over(client, server)


def end_by_giving_up(number: int) -> None:
    client, server = opened(number)
    client.give_up(OSError())
    server.shed(OSError())
    over(client, server)


def refused(number: int) -> None:
    server = ServerProtocol()
    server.receive_data(head(Sec_WebSocket_Key="x"))
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type] # it is one
    client = ClientProtocol(URI)
    client.send_request(client.connect())
    output(client)
    client.receive_data(output(server))
    assert client.handshake_exc is not None
    for protocol in (client, server):
        protocol.connection_lost()


def unfinished(number: int) -> None:
    for data in (b"", b"GET / HTTP/1.1\r\nHost", head() + b"\x81\x81", b"\0"):
        server = ServerProtocol()
        server.set_timeouts(open_timeout=10, now=1)
        server.receive_data(data)
        if number % 2:
            server.handle_timeout(11)
        server.connection_lost()


class Silent:
    """A logger that isn't interested."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def error(self, *args: Any, **kwargs: Any) -> None: ...


ENDINGS = [
    *(end_by_client, end_by_server, end_by_both, end_by_reset, end_of_stream, end_by_fault),
    *(end_by_timeout, end_by_callback, end_with_what_waits, end_by_giving_up, refused, unfinished),
]

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("ending", ENDINGS)
def test_connections(ending: Callable[[int], object]) -> None:
    check_flat(ending, CONNECTIONS)


@needs_proc
@pytest.mark.parametrize("backend", [None, *available_backends()])
def test_messages(backend: str | None) -> None:
    """Both ways, whole and in fragments, compressed and not."""
    client, server = Protocol(Side.CLIENT), Protocol(Side.SERVER)
    for protocol in (client, server):
        protocol.queue_messages()
        if backend is not None:
            protocol.extensions = [PerMessageDeflate(False, False, 15, 15, backend=backend)]

    def exchange(number: int) -> None:
        message = f"{number} " + "message " * (number % 50)
        if number % 3:
            client.send(message)
        else:
            client.send_text(message, False)
            client.send_continuation(message, True)
        server.receive_data(output(client))
        (received,) = messages(server)
        server.send_prepared(PreparedMessage(received))
        client.receive_data(output(server))
        assert messages(client) == [received]

    check_flat(exchange, MESSAGES)
    client.close()
    server.receive_data(output(client))
    assert frame(Side.CLIENT, CLOSE, OK) == output(server)
