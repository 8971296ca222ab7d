"""A WebSocket connection on an asyncio event loop.

Moves bytes between a transport and the engine and lets coroutines wait; which frames, when, and
what they mean is the engine's business. After each engine call that reports something, `_update`
does all that follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
)
from time import monotonic
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    overload,
)

from wsproto_fast import Backpressure, Listener, PreparedMessage, Protocol
from wsproto_fast.aliases import fallback
from wsproto_fast.drivers.asyncio import DRAIN, SLOW_PATH, YIELD, TransportDriver
from wsproto_fast.drivers.coroutines import messages, receiving, sending
from wsproto_fast.exceptions import ConnectionClosedOK, InvalidState
from wsproto_fast.frames import State
from wsproto_fast.typing import Data, DataLike

from .._shared.connection import BaseConnection, SkippedBroadcasts, closing
from .._shared.coroutines import AsyncFragments, coroutine_function
from .._shared.options import Limits, OnDrop
from ..limits import MAX_BACKLOG, Slow
from ._link import Link

__all__ = ["Connection"]


class Connection(Link):
    """A WebSocket connection, client or server.

    Args:
        protocol: Engine of the connection.
        write_limit: Size of the write buffer in bytes above which ``send`` waits, or a pair of this
            and of the size at which it goes on.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
    """

    _foreign_methods = frozenset({"data_received", "terminate_pending_pings"})

    def __init__(
        self,
        protocol: Protocol,
        *,
        write_limit: int | tuple[int, int | None] = 2**15,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: Limits = 16,
        slow: Slow = Slow.WAIT,
        max_backlog: int | None = MAX_BACKLOG,
        write_deadline: float | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        # In order: to find them by their names takes longer.
        BaseConnection.__init__(
            self,
            protocol,
            ping_interval,
            ping_timeout,
            close_timeout,
            max_queue,
            slow,
            max_backlog,
            write_deadline,
            on_drop,
        )
        self._make_driver(protocol, write_limit)

    def _make_driver(self, protocol: Protocol, write_limit: int | tuple[int, int | None]) -> None:
        if write_limit != self.write_limit:
            self.write_limit = write_limit
        self.loop = loop = asyncio.get_running_loop()
        self._driver = driver = TransportDriver(self, protocol, loop)
        driver.opening = self._opening
        # The transport calls compiled code directly.
        self.get_buffer = protocol  # type: ignore[method-assign] # see above
        self.buffer_updated = driver  # type: ignore[method-assign] # see above

    # ------------------------------------------------------------------ attributes

    @property
    def transport(self) -> asyncio.Transport:
        """Transport. When the application closes or aborts it, nothing is sent any more."""
        # From now on it has to be asked whether it is closing, at each write.
        self._driver.expose()
        return self._transport

    @transport.setter
    def transport(self, transport: asyncio.Transport) -> None:
        self._driver.expose()
        self._transport = transport

    @property
    def local_address(self) -> Any:
        """Local address: ``(host, port)``, more for IPv6, or the path of a Unix socket."""
        return self._transport.get_extra_info("sockname")

    @property
    def remote_address(self) -> Any:
        """Remote address, in the form of ``local_address``."""
        return self._transport.get_extra_info("peername")

    # ------------------------------------------------------------------ context manager, iteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(*closing(exc_value))

    def __aiter__(self) -> AsyncIterator[Data]:
        """Iterate over messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
        """
        # Programs override it in subclasses, or replace it, as in tests.
        if getattr(self.recv, "__func__", None) is _recv:
            return messages(self._driver)
        return self._messages()

    async def _messages(self) -> AsyncIterator[Data]:
        """Iterate over what ``recv`` returns."""
        try:
            while True:
                yield await self.recv()
        except ConnectionClosedOK:
            return

    # ------------------------------------------------------------------ receiving

    @overload
    def recv(self, decode: Literal[True]) -> Coroutine[Any, Any, str]: ...
    @overload
    def recv(self, decode: Literal[False]) -> Coroutine[Any, Any, bytes]: ...
    @overload
    def recv(self, decode: bool | None = None) -> Coroutine[Any, Any, Data]: ...

    @coroutine_function
    def recv(self, decode: bool | None = None) -> Coroutine[Any, Any, Data]:
        """Receive the next message.

        Cancelling this loses nothing.

        Args:
            decode: None for str from text and bytes from binary messages; True for str, False for
                bytes.

        Raises:
            ConnectionClosed: When the connection is closed and every message was received.
            ConcurrencyError: If the connection is being received from already.
        """
        return receiving(self._driver, decode)

    def _fragments(self, decode: bool | None) -> AsyncFragments:
        return _Fragments(self._driver, decode)

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
        self._driver.listen(on_message, on_frame, listener)

    @property
    def last_in_buffer(self) -> bool:
        """Whether no other callback of ``listen`` follows this one at once."""
        return self.protocol.last_in_buffer

    # ------------------------------------------------------------------ sending

    # No parameter is keyword-only: Python looks such ones up by their names each time.

    def send_nowait(
        self, message: DataLike, text: bool | None = None, compress: bool | None = None
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
        return self._driver.send_nowait(message, text, compress)

    async def drain(self) -> None:
        """Wait until the network takes more.

        Raises:
            ConnectionClosed: When the connection is closed meanwhile.
        """
        if self._driver.writing_paused:
            await self._drain()

    @coroutine_function
    def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None = None,
        compress: bool | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Send a message.

        Cancelling this never tears a frame; a message given as an iterable can't be completed,
        though, and the connection is failed.

        An asynchronous iterable may be given for an iterable.

        Args:
            message: str for a text message or bytes-like object for a binary one; an iterable of
                either for a message in fragments.
            text: Force a text (True) or binary (False) message, whatever the type of ``message``.
            compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError: If ``message`` isn't of one of these types.
            UnicodeError: If a text message given as bytes isn't UTF-8.
        """
        return sending(self._driver, self, message, text, compress)

    async def _send_slowly(
        self,
        obstacle: int,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> None:
        """Go on where the driver's ``send`` left off."""
        while obstacle == SLOW_PATH:
            if self._fragmented is not None and not self._lost:
                await asyncio.shield(self._fragmented)
            elif self.protocol.state is not State.OPEN:
                await self._raise_closed()
            else:
                assert not isinstance(message, (str, bytes, bytearray, memoryview))
                return await self._send_fragments(message, text, compress)
            obstacle = self._driver.send(message, text, compress)
        if obstacle == DRAIN:
            await self._drain()
        elif obstacle == YIELD:
            await asyncio.sleep(0)

    async def _begin_fragments(self) -> None:
        while self._fragmented is not None:
            if self._lost:
                raise self.protocol.close_exc
            await asyncio.shield(self._fragmented)
        self._fragmented = self.loop.create_future()
        self._driver.sending_fragments = True

    def _end_fragments(self) -> None:
        waiter, self._fragmented = self._fragmented, None
        self._driver.sending_fragments = False
        assert waiter is not None
        if not waiter.done():
            waiter.set_result(None)

    async def _flush_and_drain(self) -> None:
        self._driver.update()
        if self._driver.writing_paused:
            await self._drain()

    async def _drain(self) -> None:
        """Wait until the transport has what was sent, and takes more."""
        mark = self.protocol.backlog_mark
        while not self._lost:
            if self._drain_waiter is None:
                self._drain_waiter = self.loop.create_future()
            await asyncio.shield(self._drain_waiter)
            if not self.protocol.is_waiting(mark):
                break
        if self._lost:
            raise self.protocol.close_exc

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed, at most ``close_timeout``.

        Args:
            code: Close code.
            reason: Close reason, at most 123 bytes of UTF-8.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; the connection stays open. They
                don't matter once it isn't.
        """
        self._driver.begin_closing(code, reason)
        if not self._lost:
            await self.wait_closed()

    def _begin_closing(self, code: int, reason: str) -> None:
        self._driver.begin_closing(code, reason)

    async def wait_closed(self) -> None:
        """Wait until the TCP connection is closed."""
        if not self._lost:
            await self._when_lost()

    def _when_lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the TCP connection is closed; it isn't yet."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        # Those that were cancelled mustn't pile up.
        waiting = (other for other in self._lost_waiters if not other.done())
        self._lost_waiters = (*waiting, waiter)
        return waiter

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


# As it is without programs that replace it.
_recv = Connection.recv


class _Fragments(AsyncFragments):
    def __init__(self, driver: TransportDriver, decode: bool | None) -> None:
        super().__init__(decode)
        self.driver = driver

    def start(self) -> None:
        self.driver.begin_streaming()

    async def receive(self) -> tuple[Data, bool]:
        driver = self.driver
        while (fragment := driver.take_fragment(self.decode)) is None:
            driver.receiver = None
            await driver.wait("recv_streaming")
        driver.receiver = "recv_streaming"
        return fragment

    def stop(self) -> None:
        self.driver.streaming = False
        self.driver.receiver = None


def broadcast(
    connections: Iterable[Connection],
    message: DataLike,
    *,
    text: bool | None = None,
    compress: bool | None = None,
    raise_exceptions: bool = False,
    slow: Slow | None = None,
    key: Hashable = None,
    max_backlog: int | None = MAX_BACKLOG,
) -> None:
    """Send a message to several connections without waiting for any of them.

    Connections that aren't open are skipped, as are those that are sending a fragmented message or
    can't be written to; the latter two with a warning in the log.

    While a peer doesn't read as fast as messages come, ``slow`` says what becomes of them. Without
    any other policy, a connection is given up, with a warning, if more than ``max_backlog`` bytes
    wait for it already: its end is a ``ConnectionClosedError``. ``wsapi.limits`` counts them, and
    the messages that are dropped.

    Args:
        connections: Connections, clients or servers.
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, once for all, where permessage-deflate was negotiated;
            None if it pays.
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.
        slow: What becomes of the message where the peer doesn't read as fast as they come; None
            for the policy of the connection, with its limit if it isn't ``Slow.WAIT``. With any
            other than that, the message also waits for the end of one in fragments.
        key: With ``Slow.LATEST``, what the message is the latest of; hashable. None is a key like
            any other.
        max_backlog: Bytes that may wait for being sent on a connection; before this message, with
            ``Slow.WAIT``; None for no limit.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        ExceptionGroup: With ``raise_exceptions``, what kept connections from getting the message.
    """
    prepared = PreparedMessage(message, text)
    terms = Backpressure(slow, max_backlog, key=key)
    skipped = SkippedBroadcasts(raise_exceptions)
    for connection in connections:
        try:
            if connection._driver.broadcast(prepared, compress, terms):
                continue
            failure = connection._driver.failure
            if failure is None:
                skipped.refused(connection)
            else:
                skipped.add(connection, failure)
        except Exception as exc:
            skipped.add(connection, exc)
    skipped.finish()


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
