"""A WebSocket connection on trio.

Moves bytes between a transport and the engine and lets tasks wait; which frames, when, and what
they mean is the engine's business. After each engine call that reports something, `_update` does
all that follows from it.

Whoever waits for something to be received reads by itself, so that no task has to be switched to on
its behalf; others wait for what the reader finds. While nobody waits, the housekeeper looks whether
somebody should.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import trio

from wsproto_fast import PreparedMessage, Protocol
from wsproto_fast._aliases import fallback
from wsproto_fast.activity import ATTENTION, CLOSE, FLUSH, HALF_CLOSE, KEEP, MESSAGE
from wsproto_fast.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidState
from wsproto_fast.frames import State
from wsproto_fast.typing import Data, DataLike

from .. import limits
from .._connection import SkippedBroadcasts, closing, concurrent_receiver, forget_frames
from .._coroutines import AsyncConnection, AsyncFragments
from .._liveness import network_silence
from .._options import Limits
from ..limits import MAX_BACKLOG
from ._housekeeping import Housekeeper
from ._transports import SocketTransport, StreamTransport, Transport, find_socket

__all__ = ["Connection", "broadcast"]


# Seconds that a cancellation waits for streams other than sockets to take a last frame, which they
# hardly ever need: there is no way to send without waiting.
FAREWELL = 0.05


class Connection(AsyncConnection, trio.abc.AsyncResource):
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

    # What most connections never change is kept on the class: an idle connection stays small.
    _opening = False  # connections of this class begin with an opening handshake
    _ended = False  # no bytes are moved any more
    _lost = False  # so is the stream
    _action = KEEP  # what was done to the stream
    _broken = False  # nothing can be written any more
    _reading = False  # a task waits for bytes, or there won't be any
    _writing = False  # a task writes what is pending
    _receiver: str | None = None  # what the receiving task is doing
    _wrote = False  # the first message of this turn was written at once
    _held_back = False  # the housekeeper is going to write the others
    _neglected = False  # nobody has read since the housekeeper looked
    _paused = False  # the engine knows that writing is paused
    _fragmented: trio.StrictFIFOLock | None = None  # held while a fragmented message is sent
    _received: trio.lowlevel.ParkingLot | None = None  # for what the reader finds
    _written: trio.lowlevel.ParkingLot | None = None  # for senders
    _closed: trio.Event | None = None  # for the end
    # The housekeeper's.
    _alarm = inf  # when the engine is called
    _watched = False  # it looks whether somebody reads

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
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
        )
        self.stream = stream
        self.nursery = nursery
        self._housekeeper = Housekeeper.current()
        self._transport: Transport
        if isinstance(stream, trio.SocketStream) and SocketTransport.available:
            protocol.use_read_buffer(self._housekeeper.read_buffer)
            self._transport = SocketTransport(stream, protocol)
        else:
            self._transport = StreamTransport(stream, protocol)
        if not self._opening:
            self._set_timeouts(trio.current_time())
            self._update()
        self._see_to_reading()

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
        if not protocol.reading_wanted:
            self._receive_kept()
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
        if not self.protocol.reading_wanted:
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

    async def _wait(self) -> bool:
        """Wait until something was received, or anything else has changed.

        Returns:
            Whether other tasks wait for the same.
        """
        if self._reading or not self.protocol.reading_wanted:
            if self._ended:
                return False  # by what the caller did last; nobody is going to wake it
            if self._received is None:
                self._received = trio.lowlevel.ParkingLot()
            await self._received.park()
            return False
        self._reading = True
        try:
            activity = await self._transport.receive()
            if activity & ATTENTION:
                self._update()
        except Exception as exc:
            self._abort(exc)
        finally:
            self._reading = self._ended or self.protocol.transport_action >= CLOSE
            self._neglected = False
            self._see_to_reading()
            others = self._received is not None and len(self._received) > 0
            if others:
                self._notify()
        return others

    def _see_to_reading(self) -> None:
        """See to it that somebody reads, sooner or later."""
        if not self._watched and not self._reading:
            self._housekeeper.watch(self)

    def _read_now(self) -> None:
        """See to it that an answer is noticed as soon as it comes."""
        if not self._reading and self.protocol.reading_wanted:
            self._start(self._attend)

    async def _attend(self) -> None:
        """Read, until somebody else does."""
        while not self._reading and self.protocol.reading_wanted:
            if await self._wait():
                break

    def _notify(self) -> None:
        """Have those go on who wait for what was received."""
        if self._received is not None:
            self._received.unpark_all()

    # ------------------------------------------------------------------ sending

    async def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None = None,
        *,
        compress: bool | None = None,
    ) -> None:
        """Send a message.

        Cancelling this never tears a frame; a message given as an iterable can't be completed,
        though, and the connection is failed. The iterable may be asynchronous. Other tasks get
        their turn when the network doesn't take more, and every 64 KiB.

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
            return await self._send_fragments(message, text, compress)
        if self._fragmented is not None and self._fragmented.locked():
            async with self._fragmented:
                pass  # the next one is woken, but this task goes on first
        try:
            activity = self.protocol.send(message, text, compress=compress)
        except InvalidState:
            await self._raise_closed()
        if activity & ATTENTION:
            self._update()
        if activity & FLUSH:
            await self._flush_and_drain()
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
            await self._drain()

    async def _begin_fragments(self) -> None:
        if self._fragmented is None:
            self._fragmented = trio.StrictFIFOLock()
        await self._fragmented.acquire()

    def _end_fragments(self) -> None:
        assert self._fragmented is not None
        self._fragmented.release()

    async def _flush_and_drain(self) -> None:
        self._flush(waits=True)
        if not self._transport.blocked:
            await trio.lowlevel.checkpoint()
        await self._drain()

    async def _drain(self) -> None:
        """Wait until the network takes more.

        Raises:
            ConnectionClosed: If it won't take any more.
        """
        transport = self._transport
        while transport.blocked and not self._ended:
            if self._writing or transport.detached:
                if self._written is None:
                    self._written = trio.lowlevel.ParkingLot()
                await self._written.park()
                continue
            try:
                await self._write()
            except BaseException:
                if transport.pending and not self._ended:
                    # Somebody has to see it through.
                    self._start(self._write_behind)
                raise
        if self._ended:
            raise self.protocol.close_exc

    async def _write(self) -> None:
        """Write what is pending."""
        if self._writing or self._ended:
            return
        self._writing = True
        try:
            await self._transport.write_pending()
        except Exception as exc:
            self._fail_writing(exc)
        finally:
            self._writing = False
            if self._paused and not self._transport.blocked:
                self._paused = False
                self.protocol.resume_writing()
            if self._written is not None:
                self._written.unpark_all()
        self._update()

    async def _write_behind(self) -> None:
        """Write what is pending, in a task of its own."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            if not self._writing:
                self._end_with_output()  # nothing is torn yet
            raise
        try:
            await self._write()
        except BaseException:
            # Nobody else is going to, and a frame may be torn.
            self._abort()
            raise

    def _now(self) -> float:
        return trio.current_time()

    def _flush(self, *, waits: bool = False) -> None:
        """Hand to the transport what the engine has to send.

        Args:
            waits: Whether the caller is going to wait if the network doesn't take all.
        """
        protocol, transport = self.protocol, self._transport
        try:
            while protocol.output_size:
                data = protocol.take_output()
                if not self._broken:
                    transport.write(data)
        except Exception as exc:
            self._fail_writing(exc)
        if transport.pending and not self._ended:
            if transport.blocked and not self._paused:
                self._paused = True
                protocol.pause_writing()
            if not self._writing and (transport.detached or not waits):
                self._start(self._write_behind)

    def _fail_writing(self, exc: Exception) -> None:
        """Give up writing."""
        self._broken = True
        self._transport.discard()
        if self.protocol.state is State.CLOSING:
            # What the peer sent before it left tells more.
            return
        self._abort(exc)

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
            ProtocolError: If the code or the reason isn't allowed; the connection stays open.
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

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        while not self._ended and self.protocol.state is not State.OPEN:
            await self._wait()
        await self._wait_lost()

    async def _wait_lost(self) -> None:
        """Wait for the end of the stream, which has begun."""
        if not self._lost:
            if self._closed is None:
                self._closed = trio.Event()
            await self._closed.wait()

    async def _wait_for_farewell(self) -> None:
        """Wait a little, even if this is cancelled, for the end of the stream, which has begun."""
        with trio.CancelScope(deadline=trio.current_time() + FAREWELL, shield=True):
            await self._wait_lost()

    def _abort(self, exc: Exception | None = None) -> None:
        """Close the connection at once, without a closing handshake.

        Args:
            exc: What broke it.
        """
        self._end(exc)

    def _drop(self, code: int) -> None:
        """Close the connection at once, and tell the peer so if that needs no waiting."""
        if not self._ended:
            self.protocol.close(code, now=trio.current_time())
            self._end_with_output()

    def _end_with_output(self) -> None:
        """Close the stream at once, but send what there is to send if that needs no waiting."""
        farewell = self._transport.detached and not self._writing
        self._writing = self._writing or farewell
        self._flush()
        self._end(farewell=farewell)

    def _end(
        self, exc: Exception | None = None, *, graceful: bool = False, farewell: bool = False
    ) -> None:
        """Close the stream.

        Args:
            exc: What broke the connection.
            graceful: Whether there is time for what comes with closing a stream.
            farewell: Whether there is a little time for what is pending.
        """
        if self._ended:
            return
        self._ended = self._reading = True
        protocol = self.protocol
        deadline = protocol.next_timeout()  # of the end, which has begun if this is graceful
        forget_frames(exc)
        refused = protocol.handshake_exc is not None
        protocol.connection_lost(exc)
        if not refused:
            forget_frames(protocol.handshake_exc)
        for event, ack_on_close in protocol.abandoned_pings():
            if ack_on_close:
                event.set()
        self._housekeeper.clear_alarm(self)
        if not self._transport.detached:
            find_socket(self.stream).close()
            self._lose()
        else:
            self._start(self._close_stream, deadline, graceful, farewell)
        self._notify()
        if self._written is not None:
            self._written.unpark_all()

    async def _close_stream(self, deadline: float | None, graceful: bool, farewell: bool) -> None:
        try:
            if farewell:
                with trio.CancelScope(deadline=trio.current_time() + FAREWELL, shield=True):
                    await self._transport.write_pending()
            if graceful:
                with trio.CancelScope(deadline=inf if deadline is None else deadline):
                    await self.stream.aclose()
        except Exception:
            self.logger.debug("closing the stream failed", exc_info=True)
        finally:
            try:
                await trio.aclose_forcefully(self.stream)
            finally:
                self._lose()

    def _lose(self) -> None:
        """Do what follows from the end of the stream."""
        self._lost = True
        if self._closed is not None:
            self._closed.set()

    # ------------------------------------------------------------------ between engine and stream

    def _update(self) -> None:
        """Do what follows from a change in the engine."""
        if self._ended:
            return
        protocol = self.protocol
        self._flush()
        for (event, _), _ in protocol.acknowledged_pings():
            event.set()
        if protocol.transport_action != self._action:
            self._act(protocol.transport_action)
        # An alarm that is set for an earlier time stays: it costs less to find that nothing is due
        # than to set another one.
        deadline = protocol.next_timeout()
        if deadline is not None and deadline < self._alarm:
            self._housekeeper.set_alarm(self, deadline)
        self._see_to_reading()
        self._notify()

    def _act(self, action: int) -> None:
        """Do to the stream what the engine wants."""
        if action > CLOSE:
            self._end()
        elif self._transport.pending:
            pass  # not before it is written, for which the engine sets the time
        elif action == HALF_CLOSE:
            self._action = action
            try:
                if self._transport.half_close():
                    self._flush()
                    return
            except OSError:
                pass  # the peer is gone already
            self._end(graceful=True)
        else:
            self._end(graceful=True)

    def _start(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task."""
        with contextlib.suppress(RuntimeError):
            self.nursery.start_soon(function, *args)
            return
        # The nursery is closed: whoever opened it has left the connection behind.
        with contextlib.suppress(OSError):
            find_socket(self.stream).close()
        self._end()
        self._lose()

    # ------------------------------------------------------------------ the housekeeper's

    def _end_turn(self) -> None:
        """Send what was held back."""
        self._held_back = self._wrote = False
        if self.protocol.output_size:
            self._flush()

    def _handle_timeout(self, now: float) -> None:
        """Have the engine do what is due."""
        silence = None
        if self.protocol.network_silence_wanted:
            with contextlib.suppress(OSError):  # there may be no socket
                silence = network_silence(find_socket(self.stream))
        self.protocol.handle_timeout(now, silence)
        self._update()
        self._read_now()

    def _look(self) -> bool:
        """See to it that somebody reads; return whether to look again."""
        if not self._reading and self.protocol.reading_wanted:
            if not self._neglected:
                self._neglected = True
                return True
            self._start(self._attend)
        self._watched = False
        return False


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


class _Fragments(AsyncFragments):
    def __init__(self, connection: Connection, decode: bool | None) -> None:
        super().__init__(decode)
        self.connection = connection

    def start(self) -> None:
        if self.connection._receiver is not None:
            raise concurrent_receiver("recv_streaming", self.connection._receiver, "coroutine")

    async def receive(self) -> tuple[Data, bool]:
        connection = self.connection
        connection._receiver = "recv_streaming"
        next_fragment = connection.protocol.next_fragment
        while (fragment := next_fragment(self.decode, now=trio.current_time())) is None:
            connection._update()
            await connection._receive("recv_streaming")
        if not connection.protocol.reading_wanted:
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
    max_backlog: int | None = MAX_BACKLOG,
) -> None:
    """Send a message to several connections, and wait until the network has taken it.

    Connections that aren't open are skipped, as are those that are sending a fragmented message
    or can't be written to; the latter two with a warning in the log.

    A connection whose peer doesn't read is given up, with a warning, if more than
    ``max_backlog`` bytes wait for it already: its end is a ``ConnectionClosedError``.
    ``wsapi.limits`` counts them. So is one whose peer takes nothing for ``wsapi.limits.MAX_STALL``
    seconds.

    Args:
        connections: Connections, clients or servers.
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, once for all, where permessage-deflate was negotiated;
            None if it pays.
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.
        max_backlog: Bytes that may wait for being sent on a connection before this message; None
            for no limit.

    Raises:
        TypeError: If ``message`` isn't str or bytes-like.
        ExceptionGroup: With ``raise_exceptions``, what kept connections from getting the message.
    """
    prepared = PreparedMessage(message, text)
    skipped = SkippedBroadcasts(raise_exceptions, max_backlog)
    slow: list[Connection] = []
    for connection in connections:
        if connection.protocol.state is not State.OPEN:
            continue
        protocol, transport = connection.protocol, connection._transport
        try:
            if transport.blocked and protocol.limit_backlog(transport.unsent, max_backlog):
                connection._update()
                skipped.give_up(connection)
                continue
            if protocol.send_prepared(prepared, compress=compress) & ATTENTION:
                connection._update()
            else:
                connection._flush()
            if connection._ended:
                raise protocol.close_exc
        except Exception as exc:
            skipped.add(connection, exc)
        else:
            if transport.pending:
                slow.append(connection)
    await trio.lowlevel.checkpoint()
    if slow:
        async with trio.open_nursery() as nursery:
            for connection in slow:
                nursery.start_soon(_wait_for_slow, connection, skipped)
    skipped.finish()


async def _wait_for_slow(connection: Connection, skipped: SkippedBroadcasts) -> None:
    """Wait until the network has taken a broadcast, as long as it takes something."""
    transport = connection._transport
    unsent = -1
    try:
        while unsent != transport.unsent:
            unsent = transport.unsent
            with trio.move_on_after(limits.MAX_STALL):
                await connection._drain()
                return
    except ConnectionClosed as exc:
        skipped.add(connection, exc)
    else:
        stalled = ConnectionAbortedError(f"peer doesn't read: {unsent} bytes wait to be sent")
        connection.protocol.give_up(stalled, now=trio.current_time())
        connection._update()
        skipped.give_up(connection)


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
