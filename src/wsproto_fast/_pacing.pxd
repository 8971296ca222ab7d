# cython: language_level=3
"""What waits while the peer doesn't read; see _pacing.pyx."""

from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from ._backlog cimport WAIT, Backlog, Backpressure
from ._flag cimport flag
from ._keepalive cimport Keepalive
from ._sender cimport FRAGMENTS, PreparedMessage


# What only connections have that the network has once taken no more of.
cdef class Congestion:
    cdef Backlog backlog            # None if nothing waits
    cdef bytes waiting_close        # payload of the Close frame that leaves behind it
    cdef uint64_t numbered          # messages that have waited so far
    cdef dict dropped               # member of Slow -> number of messages
    cdef dict unreported            # the same, since the last time that this was asked
    cdef double stalled_since       # NAN before the driver was asked what the network has taken
    cdef object progress
    cdef flag excused               # the last look was late, and it wasn't held against the peer


cdef class Pacing(Keepalive):
    cdef Backpressure _backpressure  # None: who sends waits
    cdef Congestion _congestion     # None before there was any

    # --- time, in seconds ---
    cdef double _write_deadline
    cdef double _look_time          # when the driver is asked what the network has taken
    cdef double _close_timeout
    cdef double _close_deadline

    cdef inline Backlog _backlog(self):
        """Return what waits, None if nothing does."""
        return None if self._congestion is None else self._congestion.backlog

    cdef Congestion _congested(self)

    # --- for compiled drivers; see __init__.pxd ---
    cdef int offer_message(
        self, PreparedMessage message, compress, Backpressure terms, Py_ssize_t unsent, double now
    ) except -1

    cdef inline bint sender_waits(self) noexcept:
        """Tell whether who sends waits for the network while that takes no more."""
        return self._backpressure is None

    cdef inline bint has_to_wait(self, Backpressure terms) noexcept:
        """Tell whether ``offer_message`` would look at ``unsent``: what finds no room ends the connection."""
        return terms.policy == WAIT or (terms.policy < 0 and self._backpressure is None)

    cdef inline uint64_t last_in_backlog(self) noexcept:
        """Return the number of the message that has begun to wait last."""
        return 0 if self._congestion is None else self._congestion.numbered

    cdef inline bint backlog_holds(self, uint64_t number) except -1:
        """Tell whether a message with this number, or an earlier one, still waits for the network.

        Those that wait for the end of a message in fragments don't count: who sends that would wait for itself.
        """
        cdef Backlog backlog = self._backlog()
        return backlog is not None and not self._obstacles & FRAGMENTS and backlog.holds(number)

    cdef inline bint has_dropped(self) noexcept:
        """Tell whether ``dropped_messages`` would return something."""
        return self._congestion is not None and self._congestion.unreported is not None

    cdef inline bint wants_progress(self) noexcept:
        """Tell whether ``handle_timeout`` would look at its third argument."""
        return self._look_time != INFINITY

    cdef Py_ssize_t _note_waiting(self, Py_ssize_t unsent) except -1
    cdef int _keep_waiting(
        self, message, int opcode, compress, int policy, key, Py_ssize_t size, Py_ssize_t limit
    ) except -1
    cdef int _forget_backlog(self) except -1
    cdef int _count_dropped(self, int policy, Py_ssize_t number) except -1
    cdef int _close_slow(self, Py_ssize_t limit) except -1
    cdef int _write_close(self, bytes payload) except -1
    cdef int _drop_backlog(self) except -1
    cdef int _handle_pacing(self, double now, object progress) except -1
