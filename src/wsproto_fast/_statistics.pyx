"""What a connection tells of what passed on it, how long that took, and how much waits.

The layers below count. Nothing is decided here.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_GET_SIZE
from libc.math cimport NAN, isnan
from libc.stdint cimport UINT32_MAX, int64_t, uint64_t

from ._endpoint cimport CONNECTING, OPEN, Traffic
from ._pacing cimport Pacing

from .frames import CloseCode
from .statistics import HANDSHAKE_BOUNDS, ConnectionStats


cdef object _ABNORMAL = int(CloseCode.ABNORMAL_CLOSURE)

cdef double[BOUNDS] _bounds
assert len(HANDSHAKE_BOUNDS) == BOUNDS
for _place, _bound in enumerate(HANDSHAKE_BOUNDS):
    _bounds[_place] = _bound


cdef class Statistics(Pacing):
    """A connection that knows what it has counted."""

    def __cinit__(self):
        self._begin_time = self._open_time = self._end_time = NAN

    def stats(self, *, unsent: int = 0, now: float | None = None) -> ConnectionStats:
        """Return what was counted so far: at any time, from any thread, also after the end.

        Args:
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
            now: Current time.
        """
        cdef Totals totals = Totals()
        cdef double end = self._time(now) if isnan(self._end_time) else self._end_time
        totals.add(self, unsent)
        return ConnectionStats(
            **totals.counts(),
            latency=self.latency,
            handshake_seconds=self.handshake_seconds,
            open_seconds=0.0 if isnan(self._open_time) else max(0.0, end - self._open_time),
        )

    @property
    def handshake_seconds(self) -> float | None:
        """Duration of the opening handshake in seconds; None before its end, or without one.

        It begins with the first ``set_timeouts``.
        """
        return self._open_time - self._begin_time if self._has_opened() else None

    cdef bint _has_opened(self) noexcept:
        """Tell whether there has been an opening handshake that succeeded."""
        return not isnan(self._begin_time) and not isnan(self._open_time)

    @property
    def queued_frames(self) -> int:
        """Number of received frames that wait for the application."""
        return 0 if self._queue is None else self._queue.frames

    @property
    def queue_marks(self) -> tuple[int | None, int | None]:
        """Numbers of queued frames above which reading pauses and at which it resumes; None for no limit."""
        if self._queue is None or self._queue.high == UINT32_MAX:
            return None, None
        return self._queue.high, self._queue.low

    cdef uint64_t _queued_bytes(self) noexcept:
        """Return the number of received bytes that wait."""
        cdef uint64_t size = 0 if self._queue is None else self._queue.size
        return size + <uint64_t>self._kept_size

    def buffered_bytes(self, Py_ssize_t unsent = 0) -> int:
        """Return how many bytes wait here for somebody: for the application, for the network, for the rest of a frame.

        It can be called at any time, from any thread.

        Args:
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
        """
        return self._buffered_bytes(unsent)

    cdef uint64_t _buffered_bytes(self, Py_ssize_t unsent) except? 0:
        cdef uint64_t size = self._queued_bytes() + <uint64_t>self._note_waiting(unsent)
        size += <uint64_t>self._partial_size
        with cython.critical_section(self):  # another thread may be receiving
            if self._early is not None:
                size += <uint64_t>PyByteArray_GET_SIZE(self._early)
        return size


@cython.final
cdef class Totals:
    """Sum of what several connections have counted.

    Attributes:
        opening: Number of connections, of those that were added, in their opening handshake.
        open: Number of those that are open.
        closing: Number of those whose end has begun; they may be closed, too.
        handshakes: How many opening handshakes of those that were added lasted at most each of ``HANDSHAKE_BOUNDS``,
            and longer than the one before.
        handshake_seconds: How long they lasted together.
    """

    def add(self, Statistics protocol not None, Py_ssize_t unsent = 0) -> bool:
        """Add what a connection has counted so far, and what there is on it now.

        Args:
            protocol: Engine of the connection.
            unsent: Number of bytes that were taken from its output, and the network hasn't taken yet.

        Returns:
            Whether the network doesn't take what is sent on it at the moment.
        """
        cdef uint64_t unwritten = <uint64_t>protocol._note_waiting(unsent)
        self._add_past(protocol)
        if protocol._queue is not None:
            self._queued_frames += protocol._queue.frames
        self._queued_bytes += protocol._queued_bytes()
        self._write_buffer += unwritten
        if protocol._state == OPEN:
            self.open += 1
        elif protocol._state == CONNECTING and not protocol._closing_started:
            self.opening += 1
        else:
            self.closing += 1
        return protocol._writing_paused

    def add_unsent(self, Py_ssize_t unsent) -> None:
        """Add what the network hasn't taken on a connection that was added without it.

        Args:
            unsent: Number of bytes that were taken from its output.
        """
        self._write_buffer += <uint64_t>unsent
        self._max_write_buffer = max(self._max_write_buffer, <uint64_t>unsent)

    def add_past(self, Statistics protocol not None) -> int:
        """Add what a connection has counted, when it has ended.

        Args:
            protocol: Engine of the connection.

        Returns:
            The close code received, or else the one sent; 1006 without either; 0 if no opening handshake succeeded.
        """
        self._add_past(protocol)
        if not protocol._has_opened():
            return 0
        close = protocol.close_sent if protocol.close_rcvd is None else protocol.close_rcvd
        return _ABNORMAL if close is None else int(close.code)

    cdef int _add_past(self, Statistics protocol) except -1:
        cdef double seconds
        cdef int place = 0
        _add_traffic(&self._sent, &protocol._sent)
        _add_traffic(&self._received, &protocol._received)
        self._sent.wire += protocol._output.taken
        if protocol._queue is not None:
            self._max_queued_frames = max(self._max_queued_frames, protocol._queue.most_frames)
            self._max_queued_bytes = max(self._max_queued_bytes, protocol._queue.most_bytes)
        self._max_write_buffer = max(self._max_write_buffer, <uint64_t>protocol._output.most)
        if protocol._congestion is not None:
            self._dropped += <uint64_t>sum(protocol.dropped.values())
        if protocol._has_opened():
            seconds = protocol._open_time - protocol._begin_time
            while seconds > _bounds[place]:
                place += 1
            self._handshakes[place] += 1
            self.handshake_seconds += seconds

    @property
    def handshakes(self) -> list[int]:
        return [self._handshakes[place] for place in range(BOUNDS)]

    def copy(self) -> Totals:
        """Return another one with the same numbers."""
        cdef Totals other = Totals.__new__(Totals)
        other._sent, other._received = self._sent, self._received
        other._dropped = self._dropped
        other._max_queued_frames = self._max_queued_frames
        other._max_queued_bytes = self._max_queued_bytes
        other._max_write_buffer = self._max_write_buffer
        other._queued_frames, other._queued_bytes = self._queued_frames, self._queued_bytes
        other._write_buffer = self._write_buffer
        other._handshakes, other.handshake_seconds = self._handshakes, self.handshake_seconds
        other.opening, other.open, other.closing = self.opening, self.open, self.closing
        return other

    def counts(self) -> dict:
        """Return the numbers by the names that they have in ``statistics.Traffic``."""
        return {
            "messages_sent": self._sent.messages,
            "messages_received": self._received.messages,
            "message_bytes_sent": <int64_t>self._sent.payload + self._sent.change,
            "message_bytes_received": <int64_t>self._received.payload + self._received.change,
            "payload_bytes_sent": self._sent.payload,
            "payload_bytes_received": self._received.payload,
            "frames_sent": self._sent.frames,
            "frames_received": self._received.frames,
            "wire_bytes_sent": self._sent.wire,
            "wire_bytes_received": self._received.wire,
            "pings_sent": self._sent.pings,
            "pings_received": self._received.pings,
            "pongs_sent": self._sent.pongs,
            "pongs_received": self._received.pongs,
            "messages_dropped": self._dropped,
            "queued_frames": self._queued_frames,
            "queued_bytes": self._queued_bytes,
            "max_queued_frames": self._max_queued_frames,
            "max_queued_bytes": self._max_queued_bytes,
            "write_buffer_bytes": self._write_buffer,
            "max_write_buffer_bytes": self._max_write_buffer,
        }


cdef int _add_traffic(Traffic* total, const Traffic* one) noexcept:
    total.wire += one.wire
    total.frames += one.frames
    total.messages += one.messages
    total.payload += one.payload
    total.change += one.change
    total.pings += one.pings
    total.pongs += one.pongs
    return 0
