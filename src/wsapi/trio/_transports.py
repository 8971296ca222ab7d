"""Ways for bytes between an engine and its peer.

A transport never decides anything: it moves what it is given. `SocketTransport` is the fast one,
for plain sockets; `StreamTransport` takes any stream, TLS included.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl as ssl_module
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import trio
from trio.lowlevel import wait_readable, wait_writable

import wsproto_fast

from .._shared.connection import forget_frames

__all__ = [
    "Carrier",
    "SocketTransport",
    "StreamTransport",
    "Transport",
    "find_socket",
    "start_tls",
    "tls_errors",
]

# Bytes that a stream may have waiting before senders have to wait.
STREAM_BACKLOG = 65536
# Parts that are written by one system call, at most: less than any system's limit.
MAX_PARTS = 64
# Bytes of parts that are written by one system call, at most: macOS refuses more, see writev(2). Of
# one part alone it takes a piece.
MAX_WRITTEN = 2**31 - 1


class Transport(Protocol):
    """Moves the bytes of one connection.

    Attributes:
        blocked: Whether senders should wait until it has moved more.
        pending: Whether it has bytes to move.
        unsent: How many these are.
        taken: How many of those that waited were moved so far.
        detached: Whether bytes are moved by a task that nobody may cancel without breaking the
            connection.
    """

    blocked: bool
    detached: bool
    taken: int

    @property
    def pending(self) -> bool: ...

    @property
    def unsent(self) -> int: ...

    async def receive(self) -> int:
        """Wait for bytes, pass them on to the engine, and return its activity.

        Cancelling this loses nothing.
        """

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them if that isn't possible at once."""

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Do the same with several parts, which leave together, without a copy if possible."""

    async def write_pending(self) -> None:
        """Send what was kept."""

    def discard(self) -> None:
        """Forget what was kept."""

    def half_close(self) -> bool:
        """Send the end of the stream; return False if there is no such thing."""


class SocketTransport:
    """Reads a socket straight into the engine's buffer, and writes to it without waiting.

    Args:
        stream: Stream of the socket.
        protocol: The engine.
    """

    available = hasattr(os, "readv")
    detached = False
    blocked = False
    taken = 0

    def __init__(self, stream: trio.SocketStream, protocol: wsproto_fast.Protocol) -> None:
        self._socket = stream.socket
        self._protocol = protocol
        self._backlog: deque[bytes | memoryview] | None = None

    @property
    def pending(self) -> bool:
        return self.blocked

    @property
    def unsent(self) -> int:
        return sum(map(len, self._backlog or ()))

    async def receive(self) -> int:
        # What trio's own sockets do beyond this is to try before they wait, and to yield
        # afterwards: that costs a system call, and the buffer is shared.
        fd = self._socket.fileno()
        if fd != -1:
            await wait_readable(fd)
        if fd == -1 or self._socket.fileno() != fd:
            raise trio.ClosedResourceError("socket was closed")
        protocol = self._protocol
        try:
            size = os.readv(fd, (protocol.get_buffer(),))
        except BlockingIOError:
            return 0
        if size:
            return protocol.buffer_updated(size, trio.current_time())
        return protocol.receive_eof(trio.current_time())

    def write(self, data: bytes | memoryview) -> None:
        if self._backlog is not None:
            self._backlog.append(data)
            return
        try:
            sent = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._backlog = deque((memoryview(data)[sent:],))
            self.blocked = True

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        if self._backlog is not None:
            self._backlog.extend(parts)
            return
        if sum(map(len, parts)) > MAX_WRITTEN:
            for part in parts:
                self.write(part)
            return
        try:
            sent = os.writev(self._socket.fileno(), parts[:MAX_PARTS])
        except BlockingIOError:
            sent = 0
        left: deque[bytes | memoryview] = deque()
        for part in parts:
            if sent < len(part):
                left.append(memoryview(part)[sent:] if sent else part)
            sent = max(sent - len(part), 0)
        if left:
            self._backlog = left
            self.blocked = True

    async def write_pending(self) -> None:
        while self._backlog:
            fd = self._socket.fileno()
            if fd != -1:
                await wait_writable(fd)
            if not self._backlog:
                break
            if fd == -1 or self._socket.fileno() != fd:
                raise trio.ClosedResourceError("socket was closed")
            data = self._backlog[0]
            try:
                sent = os.write(fd, data)
            except BlockingIOError:
                continue
            self.taken += sent
            if sent < len(data):
                self._backlog[0] = memoryview(data)[sent:]
            else:
                self._backlog.popleft()
        self.discard()

    def discard(self) -> None:
        self._backlog = None
        self.blocked = False

    def half_close(self) -> bool:
        self._socket.shutdown(trio.socket.SHUT_WR)
        return True


class StreamTransport:
    """Moves bytes over any stream.

    Args:
        stream: The stream.
        protocol: The engine.
    """

    detached = True
    blocked = False
    taken = 0

    def __init__(self, stream: trio.abc.Stream, protocol: wsproto_fast.Protocol) -> None:
        self._stream = stream
        self._protocol = protocol
        carrier = getattr(stream, "transport_stream", None)
        self._carrier = carrier if isinstance(carrier, Carrier) else None
        # None is the end of the stream.
        self._backlog: deque[bytes | memoryview | None] = deque()
        self._size = 0

    @property
    def pending(self) -> bool:
        return bool(self._backlog) or self._size > 0

    @property
    def unsent(self) -> int:
        return self._size

    async def receive(self) -> int:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError as exc:
            if not isinstance(exc.__cause__, ssl_module.SSLEOFError):
                raise
            # Many peers end TLS without saying so. Frames tell whether anything is missing.
            data = b""
        if data:
            return self._protocol.receive_data(data, trio.current_time())
        return self._protocol.receive_eof(trio.current_time())

    def write(self, data: bytes | memoryview) -> None:
        self._backlog.append(data)
        self._size += len(data)
        self.blocked = self._size > STREAM_BACKLOG

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        small = b""
        for part in parts:
            if len(part) + len(small) <= STREAM_BACKLOG:
                small += part
                continue
            # What is small leaves with what follows it: a record of TLS, and a segment, cost more
            # than a copy.
            end = STREAM_BACKLOG - len(small)
            view = memoryview(part)
            self.write(small + view[:end])
            self.write(view[end:])
            small = b""
        if small:
            self.write(small)

    async def write_pending(self) -> None:
        while self._backlog:
            data = self._backlog.popleft()
            if data is None:
                assert isinstance(self._stream, trio.abc.HalfCloseableStream)
                await self._stream.send_eof()
                continue
            # In pieces, so that it can be seen whether the peer takes anything.
            view = memoryview(data)
            for start in range(0, len(data), STREAM_BACKLOG):
                piece = view[start : start + STREAM_BACKLOG] if len(data) > STREAM_BACKLOG else data
                await self._stream.send_all(piece)
                if self._carrier is not None and self._carrier.failure is not None:
                    raise self._carrier.failure
                self._size -= len(piece)
                self.taken += len(piece)
            self.blocked = self._size > STREAM_BACKLOG

    def discard(self) -> None:
        self._backlog.clear()
        self._size = 0
        self.blocked = False

    def half_close(self) -> bool:
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return False
        self._backlog.append(None)
        return True


def _forget(exc: Exception) -> None:
    """Cut the cycles of an exception, which the frames of trio's context managers hold."""
    if exc.__suppress_context__:
        forget_frames(exc.__context__)  # it was translated
    forget_frames(exc)


class Carrier(trio.abc.Stream):
    """What is below TLS: a stream that loses nothing which the peer sent before the end.

    Args:
        transport_stream: The stream.

    Attributes:
        lenient: Whether bytes that can't be sent are dropped: trio's TLS wouldn't receive after a
            failure, not even what has arrived already.
        failure: Why bytes were dropped.
    """

    def __init__(self, transport_stream: trio.abc.Stream) -> None:
        self.transport_stream = transport_stream
        self.lenient = False
        self.failure: trio.BrokenResourceError | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.failure is not None:
            return await trio.lowlevel.checkpoint()
        try:
            await self.transport_stream.send_all(data)
        except Exception as exc:
            _forget(exc)
            if not self.lenient or not isinstance(exc, trio.BrokenResourceError):
                raise
            self.failure = exc

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self.transport_stream.receive_some(max_bytes)
        except Exception as exc:
            _forget(exc)
            raise

    async def aclose(self) -> None:
        """Close the stream as soon as the peer has closed it, too.

        A socket that is closed while the peer still sends, be it Pongs, resets the connection; what
        the peer hasn't received yet, be it the last Close frame, is lost then. There is no deadline
        here: cancelling this closes the stream at once.
        """
        stream = self.transport_stream
        try:
            if isinstance(stream, trio.SocketStream):
                trio.lowlevel.notify_closing(stream.socket)  # whoever waits for it
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        except Exception as exc:
            _forget(exc)  # the stream is closed or broken already
        finally:
            await stream.aclose()


def find_socket(stream: Any) -> Any:
    """Return the socket below a stream.

    Raises:
        OSError: If there is none.
    """
    while not isinstance(stream, trio.SocketStream):
        stream = getattr(stream, "transport_stream", None)
        if stream is None:
            raise OSError("the connection isn't made of a socket")
    return stream.socket


@functools.cache
def _broken(kind: Any) -> Any:
    """Return a class of OSError that also is what streams of trio raise."""
    return type(kind.__name__, (kind, trio.BrokenResourceError), {"__module__": kind.__module__})


@contextlib.contextmanager
def tls_errors() -> Iterator[None]:
    """Translate what streams raise while a connection is being opened.

    Raises:
        OSError: In place of ``trio.BrokenResourceError``, which it is, too.
    """
    try:
        yield
        return
    except trio.BrokenResourceError as exc:
        _forget(exc)
        cause: BaseException | None = exc.__cause__
    # Not where it is handled: an error whose context is the one that it causes is freed too late.
    try:
        if isinstance(cause, OSError):
            kind: Any = type(cause)
            error: Any = _broken(kind)(*cause.args)
            error.__dict__.update(cause.__dict__)
            raise error
        raise _broken(ConnectionResetError)("connection lost")
    finally:
        del cause
        error = None


async def start_tls(
    stream: trio.abc.Stream,
    ssl: ssl_module.SSLContext,
    server_hostname: str | None = None,
    *,
    server_side: bool = False,
) -> trio.abc.Stream:
    """Add TLS to a stream, which is closed if that fails.

    Args:
        stream: The stream.
        ssl: Configuration of TLS.
        server_hostname: Name in the server's certificate.
        server_side: Whether this is the server.

    Raises:
        OSError: If it fails.
    """
    carrier = Carrier(stream)
    try:
        # Already this fails if the context is one for the other side.
        secure = trio.SSLStream(
            carrier, ssl, server_hostname=server_hostname, server_side=server_side
        )
        with tls_errors():
            await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    carrier.lenient = True
    return secure
