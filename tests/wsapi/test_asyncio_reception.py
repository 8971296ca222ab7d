"""What stands before connections of servers with a door, where a network can hardly lead it."""

from __future__ import annotations

from typing import Any
from unittest import mock

from wsapi.asyncio._reception import MAX_HELD, Reception
from wsapi.limits import Door

HEADER = b"PROXY UNKNOWN\r\n"


def reception(door: Door, *, closing: bool = False, **options: Any) -> tuple[Reception, Any]:
    """Return one with its transport."""
    server = mock.Mock(_closing=closing, _receptions=set(), _handlers=set())
    server._settings.open_timeout = None
    loop = server.get_loop.return_value
    loop.create_task.side_effect = lambda coroutine: (coroutine.close(), mock.Mock())[1]
    transport = mock.Mock()
    transport.get_extra_info.return_value = ("192.0.2.1", 1)
    made = Reception(server, door, options.get("create", mock.Mock()), options.get("tls"))
    made.connection_made(transport)
    return made, transport


def feed(made: Reception, data: bytes) -> None:
    while data:
        buffer = made.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        made.buffer_updated(size)
        data = data[size:]


def test_server_that_is_closing() -> None:
    door = Door(proxy_protocol=True)
    made, transport = reception(door, closing=True)
    transport.abort.assert_called_once_with()
    made.connection_lost(None)
    assert door.connections == 0


def test_too_much_behind_the_tls_handshake() -> None:
    """The event loop gives it before the connection can take it."""
    door = Door(proxy_protocol=True)
    made, transport = reception(door, tls={"sslcontext": None})
    feed(made, HEADER)
    feed(made, bytes(MAX_HELD - 1))
    transport.abort.assert_not_called()
    feed(made, bytes(1))
    transport.abort.assert_called_once_with()
    made.connection_lost(None)
    assert door.connections == 0


def test_end_before_the_tls_handshake() -> None:
    """What a client has said at the door is no part of it: the event loop closes the transport."""
    door = Door(proxy_protocol=True)
    made, transport = reception(door, tls={"sslcontext": None})
    feed(made, HEADER)
    made.eof_received()
    transport.abort.assert_not_called()
    made.connection_lost(None)
    assert door.connections == 0
    made._server._statistics.refused.assert_not_called()


def test_factory_that_fails() -> None:
    door = Door(proxy_protocol=True)
    made, transport = reception(door, create=mock.Mock(return_value=None))
    feed(made, HEADER)
    transport.abort.assert_called_once_with()
    made.connection_lost(None)
    assert door.connections == 0
