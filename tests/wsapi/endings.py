"""How clients may end a connection, for tests that look at what is left of it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from typing import Any

from tests.wsapi.helpers import CLOSE, PING, TEXT, close_payload, frame, request
from wsapi.http11 import Request, Response


class Peer:
    """A client that blocks, in a thread."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, data: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.sock.sendall(data)

    def read_to_end(self) -> None:
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        self.read_to_end()

    def garbage(self) -> None:
        os.write(self.sock.fileno(), b"\x15garbage" * 10)
        self.read_to_end()


def masked(opcode: int, payload: bytes = b"") -> bytes:
    return frame(opcode, payload, masked=True)


HANDSHAKE = request()
PONGS = HANDSHAKE + masked(PING, b"1") + masked(TEXT, b"a")

ENDINGS: dict[str, tuple[bytes, str]] = {
    "closed": (PONGS + masked(CLOSE, close_payload(1000)), "read_to_end"),
    "left": (PONGS, "end"),
    "reset": (PONGS, "reset"),
    "bad frame": (PONGS + frame(TEXT, b"not masked"), "read_to_end"),
    "bad text": (PONGS + masked(TEXT, b"\xff"), "read_to_end"),
    "garbage": (PONGS, "garbage"),
    "bad request": (b"GET / HTTP/2.0\r\n\r\n", "read_to_end"),
    "no WebSocket": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "read_to_end"),
    "bad key": (request(Sec_WebSocket_Key="x"), "read_to_end"),
    "half a request": (b"GET / HT", "end"),
    "nothing": (b"", "end"),
    "reset before": (b"", "reset"),
    "reset in the request": (b"GET / HT", "reset"),
}


def refuse(ws: Any, _request: Request) -> Response:
    """Refuse an opening handshake, as `process_request`."""
    response: Response = ws.respond(403, "no")
    return response


def fail(_ws: Any, _request: Request) -> None:
    """Fail, as `process_request`, with an exception that has a cause."""
    cause = KeyError()
    try:
        raise cause
    except KeyError as exc:
        raise ZeroDivisionError from exc
