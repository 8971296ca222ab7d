"""The server whose clients are counted answers what it should, and tells what it shouldn't."""

from __future__ import annotations

import socket

import pytest

from benchmarks import client_loads, data, load

KEY = b"\x12\x34\x56\x78"
FRAME = data.frame(data.TEXT, client_loads.TEXT.encode(), KEY)
ECHO = data.frame(data.TEXT, client_loads.TEXT.encode())


def receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := sock.recv(size - len(received))):
        received += piece
    return received


def open_connection(port: int) -> socket.socket:
    sock = socket.create_connection((load.HOST, port), timeout=10)
    sock.sendall(data.upgrade_request(port, bytes(16)))
    load.check_head(load.receive_head(sock), bytes(16))
    return sock


def test_messages_are_answered_together() -> None:
    with client_loads.server(3, 10) as port, open_connection(port) as sock:
        for _ in range(2):
            sock.sendall(FRAME * 2)
            sock.sendall(FRAME)
            assert receive(sock, 3 * len(ECHO)) == ECHO * 3


def test_bytes_without_a_handshake_come_back() -> None:
    with (
        client_loads.server(2, 10) as port,
        socket.create_connection((load.HOST, port), timeout=10) as sock,
    ):
        sent = b"x" * len(FRAME) * 2
        sock.sendall(sent)
        assert receive(sock, len(sent)) == sent


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(data.frame(data.BINARY, client_loads.TEXT.encode(), KEY), id="opcode"),
        pytest.param(FRAME[:-1] + b"?", id="payload"),
        pytest.param(FRAME[:-1], id="end"),
    ],
)
def test_another_frame_is_an_error(wrong: bytes) -> None:
    with (
        pytest.raises(load.WrongEcho, match="the client sent"),
        client_loads.server(1, 10) as port,
        open_connection(port) as sock,
    ):
        sock.sendall(wrong)
        sock.shutdown(socket.SHUT_WR)
        assert not sock.recv(1)


def test_nobody_has_to_come() -> None:
    with pytest.raises(load.WrongEcho), client_loads.server(1, 10):
        pass
