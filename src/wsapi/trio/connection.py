"""A WebSocket connection on trio.

What users call: it has the engine do it, and lets the task wait. Which frames, when, and what they
mean is the engine's business; how bytes are moved is that of `_link`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable
from inspect import isasyncgen
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import trio

from wsproto_fast import Backpressure, PreparedMessage, Protocol
from wsproto_fast.activity import ATTENTION, FLUSH, MESSAGE
from wsproto_fast.aliases import fallback
from wsproto_fast.exceptions import ConnectionClosedOK, InvalidState
from wsproto_fast.frames import State
from wsproto_fast.typing import Data, DataLike

from .._shared.connection import SkippedBroadcasts, closing, concurrent_receiver
from .._shared.coroutines import AsyncFragments
from .._shared.options import Limits, OnDrop
from ..limits import MAX_BACKLOG, Slow
from ._link import Link, Turns
from ._transports import find_socket

__all__ = ["Connection", "broadcast"]


class Connection(Link, trio.abc.AsyncResource):
    """A WebSocket connection, client or server.

    Args:
        nursery: Nursery for tasks that the connection needs now and then. It must stay open until
            the connection is closed.
        stream: Stream to the peer, which becomes the connection's own.
        protocol: Engine of the connection.
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

    _foreign_methods = frozenset(
        {
            "acknowledge_pending_pings",
            "close_stream",
            "pause_reading",
            "recv_events",
            "resume_reading",
        }
    )

    _receiver: str | None = None  # what the receiving task is doing

    def __init__(
        self,
        nursery: trio.Nursery,
        stream: trio.abc.Stream,
        protocol: Protocol,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: Limits = 16,
        slow: Slow = Slow.WAIT,
        max_backlog: int | None = MAX_BACKLOG,
        write_deadline: float | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        super().__init__(
            nursery,
            stream,
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            slow=slow,
            max_backlog=max_backlog,
            write_deadline=write_deadline,
            on_drop=on_drop,
        )

    # ------------------------------------------------------------------ attributes

    @property
    def local_address(self) -> Any:
        """Local address: ``(host, port)``, more for IPv6, or the path of a Unix socket.

        Raises:
            OSError: When the connection is closed.
        """
        return find_socket(self.stream).getsockname()

    @property
    def remote_address(self) -> Any:
        """Remote address, in the form of ``local_address``.

        Raises:
            OSError: When the connection is closed.
        """
        return find_socket(self.stream).getpeername()

    # ------------------------------------------------------------------ context manager, iteration

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(*closing(exc_value))

    def __aiter__(self) -> AsyncIterator[Data]:
        """Iterate over messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
        """
        return _Messages(self)

    # ------------------------------------------------------------------ receiving

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...

    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message.

        Cancelling this loses nothing. It doesn't yield to other tasks if there is a message
        already.

        Args:
            decode: None for str from text and bytes from binary messages; True for str, False for
                bytes.

        Raises:
            ConnectionClosed: When the connection is closed and every message was received.
            ConcurrencyError: If the connection is being received from already.
        """
        if self._receiver is not None:
            raise concurrent_receiver("recv", self._receiver, "coroutine")
        protocol = self.protocol
        if decode is None and protocol.validate_text:
            while (message := protocol.next_message()) is None:
                await self._receive("recv")
        else:
            # Failing to decode fails the connection.
            while (message := protocol.next_message(decode, now=trio.current_time())) is None:
                self._update()
                await self._receive("recv")
        if protocol.can_receive_kept:
            self._receive_kept()
        if not self._watched:  # a call saved for most messages
            self._see_to_reading()
        return message

    def _fragments(self, decode: bool | None) -> AsyncFragments:
        return _Fragments(self, decode)

    def _receive_kept(self) -> None:
        """Go on with what waits since the queue was full."""
        if self.protocol.receive_kept(trio.current_time()) & ATTENTION:
            self._update()

    async def _receive(self, name: str) -> None:
        """Wait for something to be received.

        Raises:
            ConnectionClosed: If nothing can be received any more.
        """
        if self._ended:
            raise self.protocol.close_exc
        if self.protocol.can_receive_kept:
            # There is something that the queue had no room for.
            self._receive_kept()
            return
        if self.protocol.output_size:
            self._flush()
        self._wrote = False
        self._receiver = name
        try:
            await self._wait()
        except BaseException:
            self.protocol.stop_waiting()
            raise
        finally:
            self._receiver = None

    # ------------------------------------------------------------------ sending

    async def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Send a message.

        Cancelling this never tears a frame; a message given as an iterable can't be completed,
        though, and the connection is failed. The iterable may be asynchronous; an asynchronous
        generator is closed then, in a scope that is cancelled. Other tasks get their turn when the
        network doesn't take more, and every 64 KiB.

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
        if not isinstance(message, (str, bytes, bytearray, memoryview)):
            try:
                return await self._send_fragments(message, text, compress)
            except BaseException:
                if isasyncgen(message):
                    # asyncio closes what nobody refers to any more; trio does, too, but with a
                    # warning. As there, cleaning up can't wait for anything.
                    with trio.CancelScope(shield=True) as scope:
                        scope.cancel()
                        await message.aclose()
                raise
        if self._turns is not None and self._turns.taken:
            await self._turns.take()
            self._turns.give()  # the next one is woken, but this task goes on first
        try:
            activity = self.protocol.send(message, text, compress=compress)
        except InvalidState:
            await self._raise_closed()
        if activity & ATTENTION:
            self._update()
            if not self.protocol.waits_to_send:
                self._report_drops()
        if activity & FLUSH:
            await self._flush_and_drain(waits=self.protocol.waits_to_send)
            return
        if self._wrote or activity & MESSAGE:
            # More is likely to follow.
            if not self._held_back:
                self._held_back = True
                self._housekeeper.send_soon(self)
        else:
            self._wrote = True
            self._flush(waits=True)
        if self._transport.blocked or self._ended:
            if self._ended or self.protocol.waits_to_send:
                await self._drain()
            else:
                self._flush()  # a task of its own writes the rest
                await trio.lowlevel.checkpoint()

    async def _begin_fragments(self) -> None:
        if self._turns is None:
            self._turns = Turns()
        await self._turns.take()

    def _end_fragments(self) -> None:
        assert self._turns is not None
        self._turns.give()

    # ------------------------------------------------------------------ control frames

    async def ping(self, data: DataLike | None = None, *, ack_on_close: bool = False) -> trio.Event:
        """Send a Ping.

        Args:
            data: Payload of at most 125 bytes; None for a random one.
            ack_on_close: Set the event also when the connection is closed before the answer comes.

        Returns:
            An event that is set when the answer comes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If a ping with the same payload waits for its answer.
            ProtocolError: If the payload is too long.
        """
        event = trio.Event()
        try:
            self.protocol.ping(data, (event, ack_on_close), now=trio.current_time())
        except InvalidState:
            await self._raise_closed()
        await self._flush_and_drain()
        self._read_now()
        return event

    # ------------------------------------------------------------------ closing

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed, at most ``close_timeout``.

        Cancelling this closes the connection at once.

        Args:
            code: Close code.
            reason: Close reason, at most 123 bytes of UTF-8.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; the connection stays open. They
                don't matter once it isn't.
        """
        self.protocol.close(code, reason, now=trio.current_time())
        try:
            self._update()
            await self.wait_closed()
        except BaseException:
            if not self._ended:
                self._end_with_output()
            await self._wait_for_farewell()
            if not self._lost:
                await trio.aclose_forcefully(self.stream)
            raise

    def _begin_closing(self, code: int, reason: str) -> None:
        self.protocol.close(code, reason, now=trio.current_time())
        self._update()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        while not self._ended and self.protocol.state is not State.OPEN:
            await self._wait()
        await self._wait_lost()


class _Messages:
    """Iterator over messages."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        try:
            return await self._connection.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Do nothing, as there is nothing to release: for ``contextlib.aclosing``."""


class _Fragments(AsyncFragments):
    def __init__(self, connection: Connection, decode: bool | None) -> None:
        super().__init__(decode)
        self.connection = connection

    def start(self) -> None:
        if self.connection._receiver is not None:
            raise concurrent_receiver("recv_streaming", self.connection._receiver, "coroutine")
        self.connection.protocol.skip_fragments()

    async def receive(self) -> tuple[Data, bool]:
        connection = self.connection
        connection._receiver = "recv_streaming"
        next_fragment = connection.protocol.next_fragment
        while (fragment := next_fragment(self.decode, now=trio.current_time())) is None:
            connection._update()
            await connection._receive("recv_streaming")
        if connection.protocol.can_receive_kept:
            connection._receive_kept()
        connection._receiver = "recv_streaming"
        connection._see_to_reading()
        return fragment

    def stop(self) -> None:
        self.connection._receiver = None


async def broadcast(
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

    Other tasks get their turn at the end, once.

    Connections that aren't open are skipped, as are those that are sending a fragmented message
    or can't be written to; the latter two with a warning in the log.

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
            if not connection._broadcast(prepared, compress, terms):
                skipped.refused(connection)
        except Exception as exc:
            skipped.add(connection, exc)
    skipped.finish()
    await trio.lowlevel.checkpoint()


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
