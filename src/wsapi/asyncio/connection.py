"""A WebSocket connection on an asyncio event loop.

Moves bytes between a transport and the engine and lets coroutines wait; which frames, when, and
what they mean is the engine's business. After each engine call that reports something, `_update`
does all that follows from it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, Self, cast, overload

from wsproto_fast import Listener, PreparedMessage, Protocol
from wsproto_fast.activity import ABORT, CLOSE, HALF_CLOSE
from wsproto_fast.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidState,
)
from wsproto_fast.frames import MAX_FRAGMENTS, CloseCode, Side, State
from wsproto_fast.http11 import Request, Response
from wsproto_fast.typing import Data, DataLike, LoggerLike, Subprotocol

from ._pump import DRAIN, SLOW_PATH, Pump

__all__ = ["Connection"]

# Connections of an event loop receive through one buffer: what is in it matters only until
# buffer_updated() returns. An idle connection has none of its own.
READ_BUFFER_SIZE = 256 * 1024

_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


class _Shared(NamedTuple):
    """What the connections of an event loop share."""

    read_buffer: memoryview
    done: asyncio.Future[None]


def _shared_by(loop: asyncio.AbstractEventLoop) -> _Shared:
    try:
        return _shared[loop]
    except KeyError:
        done: asyncio.Future[None] = asyncio.Future(loop=loop)
        done.set_result(None)
        return _shared.setdefault(loop, _Shared(memoryview(bytearray(READ_BUFFER_SIZE)), done))


def queue_marks(
    max_queue: int | tuple[int | None, int | None] | None,
) -> tuple[int | None, int | None]:
    """Return the high and the low mark of a ``max_queue`` argument."""
    high, low = max_queue if isinstance(max_queue, tuple) else (max_queue, None)
    if high is None and low is not None:
        high = low * 4
    return high, low


def check_options(
    max_size: int | tuple[int | None, int | None] | None,
    max_queue: int | tuple[int | None, int | None] | None,
    open_timeout: float | None,
    ping_interval: float | None,
    ping_timeout: float | None,
    close_timeout: float | None,
) -> None:
    """Have an engine check the options of connections before there are any.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    protocol = Protocol(Side.CLIENT, max_size=max_size)
    protocol.queue_messages(*queue_marks(max_queue))
    protocol.set_timeouts(
        open_timeout=open_timeout,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
    )


class Connection(asyncio.BufferedProtocol):
    """A WebSocket connection, client or server.

    Args:
        protocol: Engine of the connection.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received; None for
            no limit.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this
            and of the size at which it goes on.
    """

    # What most connections never change is kept on the class: an idle connection stays small.
    transport: asyncio.Transport
    request: Request | None = None
    response: Response | None = None
    _opening = False  # connections of this class begin with an opening handshake
    _lost = False  # the TCP connection is gone
    _lost_waiters: tuple[asyncio.Future[None], ...] = ()
    _drain_waiter: asyncio.Future[None] | None = None
    _fragmented: asyncio.Future[None] | None = None  # done when the fragmented message was sent
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        protocol: Protocol,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: int | tuple[int | None, int | None] | None = 16,
        write_limit: int | tuple[int, int | None] = 2**15,
    ) -> None:
        protocol.queue_messages(*queue_marks(max_queue), max_fragments=MAX_FRAGMENTS)
        self.protocol = protocol
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.close_timeout = close_timeout
        self.write_limit = write_limit
        self.loop = asyncio.get_running_loop()
        self.logger: LoggerLike = logging.LoggerAdapter(
            protocol.logger, {"websocket": weakref.proxy(self)}
        )
        protocol.logger = self.logger
        shared = _shared_by(self.loop)
        protocol.use_read_buffer(shared.read_buffer)
        self._pump = Pump(self, protocol, self.loop, shared.done)
        self._pump.opening = self._opening
        # The transport calls compiled code directly.
        self.get_buffer = protocol.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = self._pump.buffer_updated  # type: ignore[method-assign]

    # ------------------------------------------------------------------ attributes

    @property
    def id(self) -> uuid.UUID:
        """Unique identifier of the connection, for logs."""
        return self.protocol.id

    @property
    def local_address(self) -> Any:
        """Local address: ``(host, port)``, more for IPv6, or the path of a Unix socket."""
        return self.transport.get_extra_info("sockname")

    @property
    def remote_address(self) -> Any:
        """Remote address, in the form of ``local_address``."""
        return self.transport.get_extra_info("peername")

    @property
    def latency(self) -> float:
        """Round-trip time of the last answered ping, in seconds; 0 before the first one."""
        return self.protocol.latency

    @property
    def state(self) -> State:
        """State of the connection."""
        return self.protocol.state

    @property
    def subprotocol(self) -> Subprotocol | None:
        """Subprotocol negotiated in the opening handshake."""
        return self.protocol.subprotocol

    @property
    def close_code(self) -> int | None:
        """Close code received, 1006 without a Close frame; None before the connection is closed."""
        return self.protocol.close_code

    @property
    def close_reason(self) -> str | None:
        """Close reason received; None before the connection is closed."""
        return self.protocol.close_reason

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.state.name} id={self.id}>"

    # ------------------------------------------------------------------ context manager, iteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(CloseCode.NORMAL_CLOSURE if exc_type is None else CloseCode.INTERNAL_ERROR)

    async def __aiter__(self) -> AsyncIterator[Data]:
        """Yield messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
        """
        pump = self._pump
        take, wait = pump.take, pump.wait
        try:
            while True:
                while (message := take()) is None:
                    await wait("recv")
                yield message
        except ConnectionClosedOK:
            return

    # ------------------------------------------------------------------ receiving

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...

    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message.

        Cancelling this loses nothing.

        Args:
            decode: None for str from text and bytes from binary messages; True for str, False for
                bytes.

        Raises:
            ConnectionClosed: When the connection is closed and every message was received.
            ConcurrencyError: If another coroutine is receiving.
        """
        pump = self._pump
        while (message := pump.take(decode)) is None:
            await pump.wait("recv")
        return message

    @overload
    def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...
    @overload
    def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...
    @overload
    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]: ...

    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]:
        """Receive the next message fragment by fragment.

        Whoever leaves the iteration before its end skips the rest of the message.

        Args:
            decode: As in ``recv``; characters cut by fragmentation come with the later fragment.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another coroutine is receiving.
        """
        return _Fragments(self._pump, decode)

    def listen(
        self,
        on_message: Callable[[Data], object] | None = None,
        *,
        on_frame: Callable[[int, memoryview, bool], object] | None = None,
        listener: Listener | None = None,
    ) -> None:
        """Have callbacks called with what is received, from now on, in place of ``recv``.

        They run inside the transport's callback, without a task: the fastest way to take messages.
        They may call ``send_nowait``; what they send leaves in one write when all that was received
        is processed. An exception in one is logged and fails the connection with 1011. Reading
        pauses while the peer doesn't read what is sent. The handler of a server goes on with
        ``await connection.wait_closed()``.

        Args:
            on_message: Callable that is given each message.
            on_frame: Callable that is given, instead, each frame of a message: its opcode, which is
                CONT after the first one, its payload as a memoryview that is released when the
                callable returns, and whether it ends the message. Nothing is copied; text is
                checked but not decoded.
            listener: Object of a compiled class that is derived from ``wsproto_fast.Listener``.

        Raises:
            TypeError: If there isn't exactly one of the three, or it isn't callable.
            ConcurrencyError: If a coroutine is receiving.
        """
        self._pump.listen(on_message, on_frame, listener)

    @property
    def last_in_buffer(self) -> bool:
        """Whether no other callback of ``listen`` follows this one at once."""
        return self.protocol.last_in_buffer

    # ------------------------------------------------------------------ sending

    def send_nowait(
        self, message: DataLike, text: bool | None = None, *, compress: bool | None = None
    ) -> bool:
        """Send a message without waiting, from callbacks.

        Args:
            message: str for a text message or bytes-like object for a binary one.
            text: As in ``send``.
            compress: As in ``send``.

        Returns:
            Whether the network takes more. If not, messages pile up in memory: ``await drain()``,
            or send less.

        Raises:
            ConnectionClosed: When the connection is closed.
            InvalidState: While it is closing.
            ConcurrencyError: If a fragmented message is being sent.
            TypeError: If ``message`` is of another type.
            UnicodeError: If a text message given as bytes isn't UTF-8.
        """
        return self._pump.send_nowait(message, text, compress)

    async def drain(self) -> None:
        """Wait until the network takes more.

        Raises:
            ConnectionClosed: When the connection is closed meanwhile.
        """
        if self._pump.writing_paused:
            await self._drain()

    async def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None = None,
        *,
        compress: bool | None = None,
    ) -> None:
        """Send a message.

        Cancelling this never tears a frame; a message given as an iterable can't be completed,
        though, and the connection is failed.

        Args:
            message: str for a text message or bytes-like object for a binary one; an iterable or
                asynchronous iterable of either for a message in fragments.
            text: Force a text (True) or binary (False) message, whatever the type of ``message``.
            compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError: If ``message`` isn't of one of these types.
            UnicodeError: If a text message given as bytes isn't UTF-8.
        """
        if obstacle := self._pump.send(message, text, compress):
            await self._send_slowly(obstacle, message, text, compress)

    async def _send_slowly(
        self,
        obstacle: int,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> None:
        """Go on where the pump's ``send`` left off."""
        while obstacle == SLOW_PATH:
            if self._fragmented is not None:
                await asyncio.shield(self._fragmented)
            elif self.protocol.state is not State.OPEN:
                await self._raise_closed()
            elif not isinstance(message, (str, bytes, bytearray, memoryview)):
                return await self._send_fragments(message, text, compress)
            obstacle = self._pump.send(message, text, compress)
        if obstacle == DRAIN:
            await self._drain()

    async def _send_fragments(
        self,
        message: Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> None:
        if isinstance(message, Mapping):
            raise TypeError("data is a dict-like object")
        if isinstance(message, AsyncIterable):
            kind, fragments = "async iterable", aiter(message)
        elif isinstance(message, Iterable):
            kind, fragments = "iterable", _iterate(message)
        else:
            raise TypeError("data must be str, bytes, iterable, or async iterable")
        try:
            first = await anext(fragments)
        except StopAsyncIteration:
            return
        if not isinstance(first, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"{kind} must contain bytes or str")
        is_str = isinstance(first, str)
        protocol = self.protocol
        while self._fragmented is not None:
            await asyncio.shield(self._fragmented)
        self._fragmented = self.loop.create_future()
        self._pump.sending_fragments = True
        try:
            if is_str if text is None else text:
                protocol.send_text(first, fin=False, compress=compress)
            else:
                protocol.send_binary(first, fin=False, compress=compress)
            await self._flush_and_drain()
            async for fragment in fragments:
                if isinstance(fragment, str) != is_str or not isinstance(
                    fragment, (str, bytes, bytearray, memoryview)
                ):
                    raise TypeError(f"{kind} must contain uniform types")
                protocol.send_continuation(fragment, fin=False)
                await self._flush_and_drain()
            protocol.send_continuation(b"", fin=True)
            await self._flush_and_drain()
        except InvalidState:
            await self._raise_closed()
        except BaseException as exc:
            # The message can't be completed, and no other one can start.
            if protocol.state is State.OPEN and not isinstance(exc, ConnectionClosed):
                protocol.fail(
                    CloseCode.INTERNAL_ERROR, "error in fragmented message", now=monotonic()
                )
                self._pump.update()
            raise
        finally:
            waiter, self._fragmented = self._fragmented, None
            self._pump.sending_fragments = False
            waiter.set_result(None)

    async def _flush_and_drain(self) -> None:
        self._pump.update()
        if self._pump.writing_paused:
            await self._drain()

    async def _drain(self) -> None:
        """Wait until the transport's write buffer is below its high mark."""
        if self._drain_waiter is None:
            self._drain_waiter = self.loop.create_future()
        await asyncio.shield(self._drain_waiter)
        if self._lost:
            raise self.protocol.close_exc

    async def _raise_closed(self) -> NoReturn:
        """Wait until the connection is closed; raise what tells how that came."""
        await self.wait_closed()
        closed = self.protocol.close_exc
        # Not the InvalidState that is being handled, but what broke the connection.
        raise closed from closed.__cause__

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed, at most ``close_timeout``.

        Args:
            code: Close code.
            reason: Close reason, at most 123 bytes of UTF-8.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; the connection stays open.
        """
        self.protocol.close(code, reason, now=monotonic())
        if not self._lost:
            self._pump.update()
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the TCP connection is closed."""
        if not self._lost:
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._lost_waiters += (waiter,)
            await waiter

    async def ping(self, data: DataLike | None = None) -> Awaitable[float]:
        """Send a Ping.

        Args:
            data: Payload of at most 125 bytes; None for a random one.

        Returns:
            A future for the latency in seconds; it raises ``ConnectionClosed`` if no answer comes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If a ping with the same payload waits for its answer.
            ProtocolError: If the payload is too long.
        """
        waiter: asyncio.Future[float] = self.loop.create_future()
        try:
            self.protocol.ping(data, waiter, now=monotonic())
        except InvalidState:
            await self._raise_closed()
        await self._flush_and_drain()
        return waiter

    async def pong(self, data: DataLike = b"") -> None:
        """Send an unsolicited Pong.

        Args:
            data: Payload of at most 125 bytes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ProtocolError: If the payload is too long.
        """
        try:
            if self.protocol.state is not State.OPEN:
                raise InvalidState
            self.protocol.send_pong(data)
        except InvalidState:
            await self._raise_closed()
        await self._flush_and_drain()

    # ----------------------------------------------------------------- between engine and transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        high, low = (
            self.write_limit if isinstance(self.write_limit, tuple) else (self.write_limit, None)
        )
        self.transport.set_write_buffer_limits(high, low)
        self._pump.connection_made(self.transport)
        if not self._opening:
            self._set_timeouts()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.protocol.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._pump.buffer_updated(nbytes)

    def eof_received(self) -> None:
        # Returning None makes the transport close itself after it has sent what there is to send.
        self.protocol.receive_eof(monotonic())
        self._pump.update()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.protocol.connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self.protocol.abandoned_pings():
            if not waiter.done():
                waiter.set_exception(self.protocol.close_exc)
                waiter.exception()  # nobody has to look at it
        for waiter in (self._drain_waiter, *self._lost_waiters):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        # Break reference cycles, so that nothing waits for the garbage collector.
        del self.get_buffer, self.buffer_updated
        self._pump.connection_lost()

    def pause_writing(self) -> None:
        self._pump.writing_paused = True
        self.protocol.pause_writing()
        self._update_reading()

    def resume_writing(self) -> None:
        self._pump.writing_paused = False
        self.protocol.resume_writing()
        self._pump.flush()
        self._update_reading()
        if self._drain_waiter is not None:
            waiter, self._drain_waiter = self._drain_waiter, None
            waiter.set_result(None)

    def _act(self, action: int) -> None:
        """Do to the transport what the engine wants."""
        if action == ABORT:
            self.transport.abort()
        elif action == CLOSE or not self.transport.can_write_eof():
            self.transport.close()
        elif action == HALF_CLOSE and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                # The peer is gone already.
                self.transport.abort()

    def _acknowledge_pings(self) -> None:
        for waiter, latency in self.protocol.acknowledged_pings():
            if not waiter.done():
                waiter.set_result(latency)

    def _update_opening(self) -> None:
        """Do what follows from a change during the opening handshake."""

    def _update_reading(self) -> None:
        """Pause or resume reading as the engine wants it."""
        pump = self._pump
        if self.protocol.reading_wanted == pump.reading_paused:
            pump.reading_paused = not pump.reading_paused
            if self.transport.is_closing():
                return
            if pump.reading_paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _set_timer(self, deadline: float) -> None:
        """Have the engine called at ``deadline``."""
        if self._timer is not None:
            self._timer.cancel()
        self._pump.timer_time = deadline
        self._timer = self.loop.call_later(deadline - monotonic(), self._timer_expired)

    def _timer_expired(self) -> None:
        self._timer = None
        self._pump.timer_time = inf
        self.protocol.handle_timeout(monotonic())
        self._pump.update()

    def _set_timeouts(self, open_timeout: float | None = None) -> None:
        self.protocol.set_timeouts(
            open_timeout=open_timeout,
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            close_timeout=self.close_timeout,
            now=monotonic(),
        )
        self._pump.update()


class _Fragments:
    """Iterator over fragments of one message; others can receive as soon as nobody holds it."""

    def __init__(self, pump: Pump, decode: bool | None) -> None:
        self.pump = pump
        self.decode = decode
        self.started = False
        self.finished = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        pump = self.pump
        if self.finished:
            raise StopAsyncIteration
        if not self.started:
            if pump.receiver is not None:
                raise pump.concurrent_receiver("recv_streaming")
            self.started = pump.streaming = True
        try:
            while (fragment := pump.take_fragment(self.decode)) is None:
                pump.receiver = None
                await pump.wait("recv_streaming")
        except BaseException:
            self.release()
            raise
        pump.receiver = "recv_streaming"
        data, fin = fragment
        if fin:
            self.release()
        return data

    async def aclose(self) -> None:
        """Skip the rest of the message."""
        self.release()

    def release(self) -> None:
        if self.started and not self.finished:
            self.pump.streaming = False
            self.pump.receiver = None
        self.finished = True

    __del__ = release


async def _iterate(iterable: Iterable[DataLike]) -> AsyncIterator[DataLike]:
    for item in iterable:
        yield item


def broadcast(
    connections: Iterable[Connection],
    message: DataLike,
    *,
    text: bool | None = None,
    compress: bool | None = None,
    raise_exceptions: bool = False,
) -> None:
    """Send a message to several connections without waiting for any of them.

    Connections that aren't open are skipped, as are those that are sending a fragmented message or
    can't be written to; the latter two with a warning in the log.

    Args:
        connections: Connections, clients or servers.
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, once for all, where permessage-deflate was negotiated;
            None if it pays.
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.

    Raises:
        TypeError: If ``message`` isn't str or bytes-like.
        ExceptionGroup: With ``raise_exceptions``, what kept connections from getting the message.
    """
    prepared = PreparedMessage(message, text)
    exceptions: list[Exception] = []
    for connection in connections:
        try:
            connection._pump.broadcast(prepared, compress)
        except ConcurrencyError as exc:
            problem: Exception = exc
        except Exception as exc:
            problem = RuntimeError("failed to write message")
            problem.__cause__ = exc
        else:
            continue
        if raise_exceptions:
            exceptions.append(problem)
        else:
            connection.logger.warning("skipped broadcast: %s", problem)
    if exceptions:
        raise ExceptionGroup("skipped broadcast", exceptions)
