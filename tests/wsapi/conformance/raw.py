"""The other end of a connection, written by the test: bytes and frames on a TCP socket."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tests.wsapi.helpers import accept_key, apply_mask, frame
from wsapi.datastructures import Headers
from wsapi.http11 import Response

if TYPE_CHECKING:
    from tests.wsapi.conformance.driver import Driver, Task


def parsed(answer: bytes) -> Response:
    """Make a response of what a server sent."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, reason = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    pairs = [line.split(": ", 1) for line in lines]
    return Response(int(status), reason, Headers([(name, value) for name, value in pairs]), body)


RESET = b"\x01\0\0\0\0\0\0\0"  # SO_LINGER without time: closing sends RST


class RawPeer:
    """A socket, and what was received on it and not yet read by the test."""

    def __init__(self, driver: Driver, sock: Any, masked: bool, over: Any = None) -> None:
        self.driver = driver
        # An event for peers that do nothing until the test is over.
        self.over = over
        self.sock = sock
        self.masked = masked
        self.buffer = bytearray()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, data: bytes) -> None:
        await self.driver.sock_sendall(self.sock, data)

    async def write(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame."""
        await self.send(frame(opcode, payload, fin=fin, masked=self.masked))

    async def fill(self) -> bool:
        """Receive something; tell whether there was something."""
        data = await self.driver.sock_recv(self.sock, 65536)
        self.buffer += data
        return bool(data)

    async def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not await self.fill():
                raise EOFError
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def read_head(self) -> str:
        """Read to the end of an HTTP head."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if not await self.fill():
                raise EOFError
        return (await self.read_exactly(end + 4)).decode("latin-1")

    async def read(self) -> tuple[int, bytes]:
        """Return the next frame's opcode (plus 0x80 if it is a final one) and payload."""
        first, second = await self.read_exactly(2)
        assert bool(second & 0x80) is not self.masked
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self.read_exactly(2 if size == 126 else 8), "big")
        key = await self.read_exactly(4) if second & 0x80 else bytes(4)
        return first, apply_mask(await self.read_exactly(size), key)

    async def read_message(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; it must be a final one."""
        first, payload = await self.read()
        assert first & 0x80
        return first & 0x7F, payload

    async def read_to_end(self) -> bytes:
        try:
            while await self.fill():
                pass
        except ConnectionError:
            pass
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    async def answer_handshake(self, more: str = "") -> str:
        """Read a request, accept it, return it."""
        head = await self.read_head()
        lines = head.split("\r\n")
        (key,) = [line.split(": ")[1] for line in lines if line.startswith("Sec-WebSocket-Key")]
        await self.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{more}\r\n".encode()
        )
        return head

    def write_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the TCP connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def close(self) -> None:
        try:
            # Who is reading in another task or thread wakes up.
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class SecurePeer(RawPeer):
    """The same with TLS."""

    def __init__(
        self, driver: Driver, sock: Any, masked: bool, tls: ssl.SSLContext, over: Any = None
    ) -> None:
        super().__init__(driver, sock, masked, over)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=not masked,
            server_hostname="localhost" if masked else None,
        )

    async def start_tls(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not (data := await self.driver.sock_recv(self.sock, 65536)):
                    raise EOFError from None
                self.incoming.write(data)
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self._flush()

    async def _flush(self) -> None:
        await super().send(self.outgoing.read())

    async def fill(self) -> bool:
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                received = await self.driver.sock_recv(self.sock, 65536)
                if received:
                    self.incoming.write(received)
                else:
                    self.incoming.write_eof()
            except ssl.SSLError:
                return False
            else:
                self.buffer += data
                return bool(data)

    async def say_goodbye(self) -> None:
        """Send the alert that ends what this side sends (close_notify)."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # the other side hasn't said it
        await self._flush()


class RawServer:
    """A listening socket; each connection is a task that does what the test says."""

    def __init__(
        self,
        driver: Driver,
        behave: Callable[[RawPeer], Awaitable[None]],
        handshake: bool,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.driver = driver
        self.behave = behave
        self.handshake = handshake
        self.sock = driver.sock_adopt(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self.sock.getsockname()[1]
        self.over = driver.event()
        self.serving: list[tuple[Task, RawPeer]] = []

    def uri(
        self, path: str = "/", *, host: str = "127.0.0.1", user: str = "", tls: bool = False
    ) -> str:
        return f"ws{'s' * tls}://{user}{host}:{self.port}{path}"

    async def accept(self) -> None:
        while True:
            sock = await self.driver.sock_accept(self.sock)
            if self.over.is_set():
                sock.close()
                self.sock.close()
                return
            peer = (
                RawPeer(self.driver, sock, masked=False, over=self.over)
                if self.tls is None
                else SecurePeer(self.driver, sock, masked=False, tls=self.tls, over=self.over)
            )
            self.serving.append((self.driver.spawn(self.serve_one(peer)), peer))

    async def serve_one(self, peer: RawPeer) -> None:
        try:
            if isinstance(peer, SecurePeer):
                await peer.start_tls()
            if self.handshake:
                await peer.answer_handshake()
            await self.behave(peer)
        except (OSError, EOFError):
            pass
        finally:
            peer.close()

    async def stop(self) -> None:
        """Stop listening; what still runs is told by the end of its connection."""
        self.over.set()
        try:
            (await self.driver.sock_connect(("127.0.0.1", self.port))).close()
        except OSError:
            pass
        for task, peer in self.serving:
            if not await task.ended(1):
                peer.close()
            await task
