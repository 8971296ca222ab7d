"""Pings, their answers, and keepalive: whether the peer is there (RFC 6455 sections 5.5.2 and 5.5.3).

Owns the times at which a Ping is due and at which its answer is missing. What follows from that is up to the
layer above.
"""

import os

from libc.math cimport INFINITY

from ._endpoint cimport OPEN, to_bytes
from ._frames cimport OP_PING
from ._receiver cimport Receiver

from .exceptions import ConcurrencyError
from .frames import CloseCode


# A peer that sends bytes but no Pong is alive for so long after the Ping, in multiples of ping_timeout.
cdef double MAX_UNANSWERED = 4.0

cdef class Keepalive(Receiver):
    """A connection that knows whether its peer is there."""

    def __cinit__(self):
        self._ping_interval = self._ping_timeout = self._ping_time = self._pong_deadline = INFINITY

    # ------------------------------------------------------------------ pings

    def ping(self, data=None, waiter=None, *, now: float | None = None) -> bytes:
        """Send a Ping frame and remember it until a Pong answers it.

        Args:
            data: Payload of at most 125 bytes; None for four random bytes.
            waiter: What ``acknowledged_pings`` gives back with the latency.
            now: Current time.

        Returns:
            Payload of the ping.

        Raises:
            ConcurrencyError: If a ping with the same payload waits for its answer.
            ProtocolError: If the payload is too long.
            InvalidState: If the connection isn't open.
        """
        cdef bytes payload
        cdef double time = self._time(now)
        self._require_state(False)
        payload = self._unused_ping_payload() if data is None else to_bytes("data", data)
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ConcurrencyError("already waiting for a pong with the same data")
        self._write_control(OP_PING, payload)
        self._now = time
        self._pings[payload] = (time, waiter)
        return payload

    def _unused_ping_payload(self):
        cdef bytes payload
        if self._pings is None:
            self._pings = {}
        while True:
            payload = os.urandom(4)
            if payload not in self._pings:
                return payload

    cdef int _received_pong(self, bytes payload) except -1:
        if self._pings is None or payload not in self._pings:
            return 0
        # RFC 6455 section 5.5.3: a Pong answers the latest Ping, and with it the earlier ones.
        for earlier in list(self._pings):
            sent, waiter = self._pings.pop(earlier)
            if waiter is not None:
                if self._acknowledged is None:
                    self._acknowledged = []
                self._acknowledged.append((waiter, self._now - sent))
            if earlier == self._keepalive_payload:
                self._keepalive_payload = None
                self._pong_deadline = INFINITY
                if self._state == OPEN:
                    self._ping_time = max(self._now, sent + self._ping_interval)
                if self._debug():
                    self.logger.debug("% received keepalive pong")
            if earlier == payload:
                self.latency = self._now - sent
                return 0

    def acknowledged_pings(self) -> list:
        """Return and forget pairs of a ping's waiter and its latency in seconds."""
        acknowledged = self._acknowledged
        self._acknowledged = None
        return [] if acknowledged is None else acknowledged

    def abandoned_pings(self) -> list:
        """Return and forget the waiters of pings that weren't answered."""
        pings, self._pings = self._pings, None
        if pings is not None and self._state == OPEN and self._keepalive_payload in pings:
            # Keepalive goes on, and waits for its own.
            self._pings = {self._keepalive_payload: pings[self._keepalive_payload]}
        return [] if pings is None else [waiter for _, waiter in pings.values() if waiter is not None]

    # ------------------------------------------------------------------ keepalive

    @property
    def network_silence_wanted(self) -> bool:
        """Whether ``network_silence`` would matter to ``handle_timeout``.

        A Ping waits for an answer that won't be read, since ``reading_wanted`` is false.
        """
        return self.wants_network_silence()

    cdef bint wants_network_silence(self) noexcept:
        return self._pong_deadline != INFINITY and not self.wants_reading()

    cdef int _handle_keepalive(self, double now, double silence) except -1:
        """Do what is due at ``now``, as ``handle_timeout`` does."""
        cdef double late
        if self._pong_deadline <= now:
            late = now - self._pong_deadline
            if not self.wants_reading():
                # The Pong may be among what isn't read because the application is slow.
                if not silence >= now - self._keepalive_sent:
                    self._repeat_keepalive()
            else:
                self._look_for_life()
                if self._pong_deadline <= now and late > 0.25 * min(self._ping_timeout, 4.0):
                    # The caller comes late: it may not have had time to read either.
                    self._pong_deadline = now + min(late, self._ping_timeout)
            if self._pong_deadline <= now:
                if self._debug():
                    self.logger.debug("- timed out waiting for keepalive pong")
                self._pong_deadline = INFINITY
                # A peer that is gone won't read it; one that is there knows of no fault of its own: 1011.
                self._fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self._ping_time <= now:
            if self._pong_deadline == INFINITY:
                self._send_keepalive()
            else:
                if not self.wants_reading() and silence < now - self._keepalive_sent:
                    # The peer's host has it; whether it is still there, another one tells.
                    self._repeat_keepalive()
                self._ping_time = now + self._ping_interval

    cdef int _send_keepalive(self) except -1:
        if self._keepalive_payload is not None:
            # Without a pong deadline the last one may still be unanswered; a later Pong stands for it.
            self._pings.pop(self._keepalive_payload, None)
        self._keepalive_payload = self._unused_ping_payload()
        self._write_control(OP_PING, self._keepalive_payload)
        self._pings[self._keepalive_payload] = (self._now, None)
        self._ping_time = self._now + self._ping_interval
        self._keepalive_began()
        if self._debug():
            self.logger.debug("% sent keepalive ping")

    cdef int _repeat_keepalive(self) except -1:
        """Send the Ping that waits for its answer once more, while that can't be read."""
        if not self._writing_paused:
            self._write_control(OP_PING, self._keepalive_payload)
        # Otherwise, something waits for being acknowledged anyway.
        self._keepalive_began()

    cdef int _keepalive_began(self) except -1:
        self._keepalive_sent = self._now
        self._pong_deadline = self._now + self._ping_timeout
        self._answer_deadline = self._now + MAX_UNANSWERED * self._ping_timeout
        self._answer_spared = False

    cdef int _look_for_life(self) noexcept:
        """Let the pong deadline follow the bytes that were received since the Ping."""
        if self._last_received <= self._keepalive_sent:
            return 0
        if self._answer_deadline <= self._now:
            # In the middle of a frame a peer can't answer (RFC 6455 section 5.5).
            if not self._in_frame or (self._answer_spared and not self._frame_spared):
                return 0
            self._answer_spared = self._frame_spared = True
            self._answer_deadline = self._now + self._ping_timeout
        self._pong_deadline = min(self._last_received + self._ping_timeout, self._answer_deadline)

    cdef int _fail(self, int code, str reason) except -1:
        """Fail the connection; Protocol overrides it."""
        raise NotImplementedError
