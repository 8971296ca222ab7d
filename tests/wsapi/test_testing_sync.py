"""The testing kit for threads: pairs and servers without a network."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from wsapi.exceptions import ConnectionClosed, InvalidStatus
from wsapi.sync.client import ClientConnection
from wsapi.testing.sync import pair, serving
from wsproto_fast.frames import State


def echo(connection: Any) -> None:
    for message in connection:
        connection.send(message)


def test_a_pair_exchanges_messages() -> None:
    with pair(subprotocols=["chat"]) as (client, server):
        assert client.subprotocol == server.subprotocol == "chat"
        client.send("question")
        assert server.recv() == "question"
        server.send(b"answer")
        assert client.recv() == b"answer"
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)
    assert client.close_code == server.close_code == 1000


def test_a_pair_uses_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("an address is used")

    for name in ("bind", "connect", "connect_ex", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)
    with pair() as (client, server):
        client.send("message")
        assert server.recv() == "message"


def test_options_of_a_pair() -> None:
    with pair(
        "ws://example.com/path",
        client={"additional_headers": {"X-Test": "1"}, "create_connection": ClientConnection},
        server={"server_header": "kit"},
        compression=None,
    ) as (client, server):
        assert server.request is not None
        assert (server.request.path, server.request.headers["X-Test"]) == ("/path", "1")
        assert client.response is not None
        assert client.response.headers["Server"] == "kit"


def test_a_pair_whose_handshake_fails() -> None:
    with pytest.raises(InvalidStatus, match="403"):
        with pair(client={"origin": "http://a"}, server={"origins": ["http://b"]}):
            raise AssertionError


def test_a_pair_whose_block_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        with pair() as (client, server):
            raise ZeroDivisionError
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


def test_serving_a_handler() -> None:
    with serving(echo) as place:
        with place.connect() as first, place.connect() as second:
            first.send("1")
            second.send("2")
            assert (first.recv(), second.recv()) == ("1", "2")
        third = place.connect(legacy=True)
    with pytest.raises(ConnectionClosed):
        third.recv()
    assert third.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        place.connect()


def test_nothing_is_left() -> None:
    before = set(threading.enumerate())
    with serving(echo) as place, place.connect() as connection:
        connection.send("message")
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert names <= {"wsproto_fast-housekeeper"}


def test_who_does_not_answer_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing.sync.GRACE", 0.05)

    def handler(connection: Any) -> None:
        connection.wait_closed()

    with serving(handler, close_timeout=None) as place:
        connection = place.connect(max_queue=1, legacy=True)
        for each in place.server.connections:
            for _ in range(5):
                each.send("message")
    assert connection.state is not State.CONNECTING


@pytest.mark.parametrize("option", ["host", "port", "sock", "ssl", "path"])
def test_options_of_sockets_have_no_use(option: str) -> None:
    with pytest.raises(ValueError, match=f"no use for {option}"):
        serving(echo, **{option: None})


def test_mistakes_leave_no_socket_open() -> None:
    """Else there would be a ResourceWarning."""
    with pytest.raises(TypeError):
        serving(echo, colour="blue")
    with serving(echo) as place:
        with pytest.raises(ValueError, match="no use for sock"):
            place.connect(sock=None)
        with pytest.raises(TypeError):
            place.connect(colour="blue")


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket stays open: else there would be a ResourceWarning."""

    def fail(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with serving(echo) as place:
        monkeypatch.setattr(place.server, "_start", fail)
        with pytest.raises(RuntimeError, match="thread"):
            place.connect()
