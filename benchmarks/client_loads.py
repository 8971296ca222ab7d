"""What clients do that `instructions` counts: messages to one and the same server, and back.

That server is a thread of the process that counts, without any WebSocket library, so that nothing
of it is in the figures. It compares every byte that a client sends with what it had to, but for
masking keys, and answers what came together in one piece: each client reads as often as the others.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from . import data, load

SIZE: Final = 64
TEXT: Final = "x" * SIZE


@dataclass(frozen=True)
class ClientLoad:
    """A load.

    Args:
        in_flight: Messages that are sent one after the other, before their echoes are awaited.
        times: How often that is done in a window.
    """

    in_flight: int
    times: int

    @property
    def messages(self) -> int:
        """Messages of a window."""
        return self.in_flight * self.times


LOADS: Final = {"client-1x64": ClientLoad(1, 200), "client-32x64": ClientLoad(32, 20)}


def _exactly(sock: socket.socket, size: int) -> bytes:
    """Receive so many bytes, or less at the end of the stream."""
    received = b""
    while len(received) < size and (piece := sock.recv(size - len(received))):
        received += piece
    return received


def _echo(sock: socket.socket, in_flight: int) -> None:
    """Answer the opening handshake, if the client begins with one, and then messages."""
    first = sock.recv(1, socket.MSG_PEEK)
    websocket = first == b"G"
    if websocket:
        head = load.receive_head(sock)
        fields = [line.partition(b":") for line in head.split(b"\r\n")]
        keys = [value for name, _, value in fields if name.lower() == b"sec-websocket-key"]
        accept = data.accept_key(base64.b64decode(keys[0]))
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
    size = len(data.frame(data.TEXT, TEXT.encode(), bytes(4)))
    answer = data.frame(data.TEXT, TEXT.encode()) * in_flight
    while received := _exactly(sock, size * in_flight):
        for start in range(0, len(received), size):
            frame = received[start : start + size]
            if websocket and frame != data.frame(data.TEXT, TEXT.encode(), frame[2:6]):
                raise load.WrongEcho(f"the client sent {frame!r}")
        sock.sendall(answer if websocket else received)


@contextlib.contextmanager
def server(in_flight: int, patience: float) -> Iterator[int]:
    """Run the server for one client for as long as the context lasts.

    Args:
        in_flight: Messages that are answered together.
        patience: Seconds for anything that the client sends.

    Returns:
        The port.

    Raises:
        WrongEcho: The client sent something else than it had to.
    """
    failures: list[Exception] = []
    with socket.create_server((load.HOST, 0)) as listener:
        listener.settimeout(patience)

        def run() -> None:
            try:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(patience)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _echo(sock, in_flight)
            except ConnectionError:
                pass  # clients end without a word
            except Exception as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # where nobody has come
            thread.join()
    if failures:
        raise load.WrongEcho(f"the client's server: {failures[0]}")
