"""What moves bytes between a stream and the engine on trio, and lets tasks wait for that.

After each engine call that reports something, `_update` does all that follows from it.

Whoever waits for something to be received reads by itself, so that no task has to be switched to on
its behalf; others wait for what the reader finds. While nobody waits, the housekeeper looks whether
somebody should.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import trio

from wsproto_fast import Backpressure, PreparedMessage, Protocol
from wsproto_fast.activity import ATTENTION, CLOSE, HALF_CLOSE, KEEP
from wsproto_fast.drivers.liveness import bytes_acknowledged, network_silence
from wsproto_fast.frames import State

from .._shared.connection import forget_frames
from .._shared.coroutines import AsyncConnection
from ._housekeeping import Housekeeper
from ._transports import SocketTransport, StreamTransport, Transport, find_socket

__all__ = ["Link", "Turns"]

# Seconds that a cancellation waits for streams other than sockets to take a last frame, which they
# hardly ever need: there is no way to send without waiting.
FAREWELL = 0.05
# Bytes from which on output may have payloads that needn't be copied.
LARGE_OUTPUT = 32768


class Turns:
    """Whose turn it is to send while messages are sent in fragments: first come, first served."""

    def __init__(self) -> None:
        self.taken = False
        self._over = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Wait for a turn, until nobody has one any more because the connection has ended."""
        if self.taken and not self._over:
            await self._waiting.park()
        self.taken = True

    def give(self) -> None:
        """Let the next one have it."""
        if not self._waiting.unpark():
            self.taken = False

    def end(self) -> None:
        """Wake all who wait: they can't send anything, and find that out."""
        self._over = True
        self._waiting.unpark_all()


class Link(AsyncConnection):
    """A connection without what its users call.

    Args:
        nursery: Nursery for tasks that it needs now and then.
        stream: Stream to the peer.
        protocol: Engine of the connection.
        options: Options of connections.
    """

    # What most connections never change is kept on the class: an idle connection stays small.
    _opening = False  # connections of this class begin with an opening handshake
    _ended = False  # no bytes are moved any more
    _lost = False  # so is the stream
    _action = KEEP  # what was done to the stream
    _broken = False  # nothing can be written any more
    _reading = False  # a task waits for bytes, or there won't be any
    _writing = False  # a task writes what is pending
    _wrote = False  # the first message of this turn was written at once
    _held_back = False  # the housekeeper is going to write the others
    _neglected = False  # nobody has read since the housekeeper looked
    _paused = False  # the engine knows that writing is paused
    _received: trio.lowlevel.ParkingLot | None = None  # for what the reader finds
    _written: trio.lowlevel.ParkingLot | None = None  # for senders
    _turns: Turns | None = None  # of those who send; there were fragmented messages
    _closed: trio.Event | None = None  # for the end
    _farewells: dict[Callable[[], object], None] | None = None  # what is called at the end
    # The housekeeper's.
    _alarm = inf  # when the engine is called
    _watched = False  # it looks whether somebody reads

    def __init__(
        self, nursery: trio.Nursery, stream: trio.abc.Stream, protocol: Protocol, **options: Any
    ) -> None:
        super().__init__(protocol, **options)
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

    # ------------------------------------------------------------------ reading

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
            if not self._watched:  # a call saved for most messages
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

    # ------------------------------------------------------------------ writing

    def _flush(self, *, waits: bool = False) -> None:
        """Hand to the transport what the engine has to send.

        Args:
            waits: Whether the caller is going to wait if the network doesn't take all.
        """
        protocol, transport = self.protocol, self._transport
        try:
            while size := protocol.output_size:
                if self._broken:
                    protocol.take_output()  # nobody gets it
                elif size < LARGE_OUTPUT:
                    transport.write(protocol.take_output())
                else:
                    transport.write_parts(protocol.take_output_parts())
                if protocol.output_size:
                    # More of what waits has become this.
                    self._pause_if_blocked()
        except Exception as exc:
            self._fail_writing(exc)
        if transport.pending and not self._ended:
            self._pause_if_blocked()
            if not self._writing and (transport.detached or not waits):
                self._start(self._write_behind)

    def _pause_if_blocked(self) -> None:
        """Tell the engine when the network begins to take no more."""
        if self._transport.blocked and not self._paused:
            self._paused = True
            self.protocol.pause_writing(self._transport.unsent)
            deadline = self.protocol.next_timeout()
            if deadline is not None and deadline < self._alarm:
                # For how long may the peer take nothing?
                self._housekeeper.set_alarm(self, deadline)

    async def _flush_and_drain(self, *, waits: bool = True) -> None:
        self._flush(waits=waits)
        if not waits or not self._transport.blocked:
            await trio.lowlevel.checkpoint()
        if waits:
            await self._drain()

    def _broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        """Send a message that goes to many connections; skip a connection that isn't open.

        Args:
            message: Message.
            compress: As for ``send``.
            terms: What becomes of it while the network takes no more.

        Returns:
            False if ``terms`` have it closed, or there is something to tell of dropped messages.

        Raises:
            ConcurrencyError: If a fragmented message is being sent, and it can't wait for its end.
            ConnectionClosed: If writing fails.
        """
        protocol, transport = self.protocol, self._transport
        if protocol.state is not State.OPEN:
            return True
        turns = self._turns
        if (
            transport.blocked
            or self._paused
            or (turns is not None and turns.taken and terms.slow is not None)
        ):
            activity = protocol.offer(
                message,
                terms,
                unsent=transport.unsent if transport.blocked else 0,
                compress=compress,
                now=trio.current_time(),
            )
            if activity & ATTENTION:
                self._update()
                return False
            self._flush()
        elif protocol.send_prepared(message, compress=compress) & ATTENTION:
            self._update()
        else:
            self._flush()
        if self._ended:
            raise protocol.close_exc
        return True

    async def _drain(self) -> None:
        """Wait until the network takes more.

        Raises:
            ConnectionClosed: If it won't take any more.
        """
        transport = self._transport
        mark = None
        while not self._ended:
            if not transport.blocked and (mark is None or not self.protocol.is_waiting(mark)):
                break
            if mark is None:
                mark = self.protocol.backlog_mark
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

    def _fail_writing(self, exc: Exception) -> None:
        """Give up writing."""
        self._broken = True
        self._transport.discard()
        if self.protocol.state is State.CLOSING:
            # What the peer sent before it left tells more.
            return
        self._abort(exc)

    # ------------------------------------------------------------------ the end

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
        protocol.connection_lost(exc, now=trio.current_time())
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
        if self._turns is not None:
            self._turns.end()
        if self._farewells is not None:
            farewells, self._farewells = self._farewells, None
            for function in farewells:
                function()

    def _call_at_end(self, function: Callable[[], object]) -> None:
        """Have a function called, which never raises, when no bytes are moved any more.

        Args:
            function: The function; the connection is open.
        """
        assert not self._ended
        if self._farewells is None:
            self._farewells = {}
        self._farewells[function] = None

    def _call_no_more(self, function: Callable[[], object]) -> None:
        """Have it called no more."""
        if self._farewells is not None:
            self._farewells.pop(function, None)

    async def _close_stream(self, deadline: float | None, graceful: bool, farewell: bool) -> None:
        try:
            try:
                if farewell:
                    with trio.CancelScope(deadline=trio.current_time() + FAREWELL, shield=True):
                        await self._transport.write_pending()
                if graceful:
                    with trio.CancelScope(deadline=inf if deadline is None else deadline):
                        await self.stream.aclose()
            finally:
                await trio.aclose_forcefully(self.stream)
        except Exception:
            # The nursery may be of others, too.
            self.logger.debug("closing the stream failed", exc_info=True)
        finally:
            self._lose()

    def _lose(self) -> None:
        """Do what follows from the end of the stream."""
        self._lost = True
        if self._closed is not None:
            self._closed.set()

    # ------------------------------------------------------------------ between engine and stream

    def _now(self) -> float:
        return trio.current_time()

    def _unsent(self) -> int:
        return self._transport.unsent

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
        protocol = self.protocol
        silence = progress = sock = None
        if protocol.network_silence_wanted or protocol.progress_wanted:
            with contextlib.suppress(OSError):  # there may be no socket
                sock = find_socket(self.stream)
        if protocol.network_silence_wanted:
            silence = network_silence(sock)
        if protocol.progress_wanted:
            progress = self._transport.taken, bytes_acknowledged(sock)
        protocol.handle_timeout(now, silence, progress)
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
