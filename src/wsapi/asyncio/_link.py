"""What is between a connection's engine and its transport, but for messages.

Those are carried by the driver, which calls this, as the transport does, when something else has
come. What anything means is the engine's business.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from wsproto_fast.activity import ABORT, CLOSE, FRAGMENT, HALF_CLOSE, MESSAGE
from wsproto_fast.drivers.asyncio import TransportDriver
from wsproto_fast.drivers.liveness import network_silence

from .._shared.connection import forget_frames
from .._shared.coroutines import AsyncConnection

__all__ = ["Link"]


class Link(AsyncConnection, asyncio.BufferedProtocol):
    """The lower half of a connection."""

    loop: asyncio.AbstractEventLoop
    _driver: TransportDriver

    # What most connections never change is kept on the class: an idle connection stays small.
    write_limit: int | tuple[int, int | None] = 2**15
    _transport: asyncio.Transport
    _held = True  # by the driver
    _opening = False  # connections of this class begin with an opening handshake
    _lost = False  # the TCP connection is gone
    _lost_waiters: tuple[asyncio.Future[None], ...] = ()
    _drain_waiter: asyncio.Future[None] | None = None
    _fragmented: asyncio.Future[None] | None = None  # done when the fragmented message was sent

    if not TYPE_CHECKING:
        # uvloop looks for it, and finding nothing takes longer than anything else that it does.
        data_received = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if TYPE_CHECKING:
            assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        limit = self.write_limit
        if isinstance(limit, tuple):
            transport.set_write_buffer_limits(*limit)
        else:
            transport.set_write_buffer_limits(limit)
        self._driver.connection_made(transport)
        if not self._opening:
            self._set_timeouts(monotonic())
            self._driver.update()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.protocol.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._driver.buffer_updated(nbytes)

    def eof_received(self) -> None:
        # Returning None makes the transport close itself after it has sent what there is to send.
        self.protocol.receive_eof(monotonic())
        self._driver.update()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        protocol = self.protocol
        for failure in (exc, protocol.parser_exc):
            if failure is not None:
                forget_frames(failure)
        protocol.connection_lost(exc, now=monotonic())
        for waiter in protocol.abandoned_pings():
            if not waiter.done():
                waiter.set_exception(protocol.close_exc)
                waiter.exception()  # nobody has to look at it
        # Whoever sends a fragmented message may wait for the rest of it for ever.
        for waiter in (self._drain_waiter, self._fragmented, *self._lost_waiters):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        # Break reference cycles, so that nothing waits for the garbage collector.
        del self.get_buffer, self.buffer_updated
        self._driver.connection_lost()

    def pause_writing(self) -> None:
        self._driver.writing_paused = True
        self.protocol.pause_writing(self._transport.get_write_buffer_size())
        self._update_reading()
        deadline = self.protocol.next_timeout()
        if deadline is not None:
            self._driver.set_timer(deadline)  # for how long may the peer take nothing?

    def resume_writing(self) -> None:
        if self._driver.given_up:
            return
        self._driver.writing_paused = False
        self.protocol.resume_writing()
        self._driver.flush()
        self._driver.go_on_listening()
        self._update_reading()
        if self._drain_waiter is not None:
            waiter, self._drain_waiter = self._drain_waiter, None
            waiter.set_result(None)

    def _update(self) -> None:
        self._driver.update()

    def _unsent(self) -> int:
        return 0 if self._lost else self._transport.get_write_buffer_size()

    def _act(self, action: int) -> None:
        """Do to the transport what the engine wants."""
        if action == ABORT:
            self._transport.abort()
        elif action == CLOSE or not self._transport.can_write_eof():
            self._close_transport()
        elif action == HALF_CLOSE and not self._transport.is_closing():  # pragma: no branch: rare
            # An application hardly ever closes a transport between what the driver looks at.
            try:
                self._transport.write_eof()
            except Exception:
                # The peer is gone already.
                self._transport.abort()

    def _close_transport(self) -> None:
        """Close the transport when it has written everything; it can be aborted until then."""
        # After a second close(), abort() of asyncio's TLS transports does nothing.
        if not self._transport.is_closing():
            self._transport.close()

    def _acknowledge_pings(self) -> None:
        for waiter, latency in self.protocol.acknowledged_pings():
            if not waiter.done():
                waiter.set_result(latency)

    def _update_opening(self) -> None:
        """Do what follows from a change during the opening handshake."""

    def _update_reading(self) -> None:
        """Pause or resume reading as the engine wants it."""
        driver = self._driver
        if self.protocol.reading_wanted == driver.reading_paused:
            driver.reading_paused = not driver.reading_paused
            if self._transport.is_closing():
                return
            if driver.reading_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _timer_expired(self) -> None:
        silence = progress = None
        if self.protocol.network_silence_wanted:
            silence = network_silence(self._transport.get_extra_info("socket"))
        if self.protocol.progress_wanted:
            progress = self._driver.progress()
        try:
            activity = self.protocol.handle_timeout(monotonic(), silence, progress)
        finally:
            self._driver.update()  # also if a callback ends the event loop, which may be run again
        if activity & (MESSAGE | FRAGMENT):
            self._driver.wake()  # what waited because of a limit on the rate
