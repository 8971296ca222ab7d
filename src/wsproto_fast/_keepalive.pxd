# cython: language_level=3
"""Pings, their answers, and keepalive; see _keepalive.pyx."""

from ._receiver cimport Receiver


cdef class Keepalive(Receiver):
    cdef public double latency

    # --- pings and time, in seconds ---
    cdef dict _pings                # payload -> (time sent, waiter)
    cdef list _acknowledged
    cdef bytes _keepalive_payload
    cdef double _ping_interval
    cdef double _ping_timeout
    cdef double _keepalive_sent     # the last time
    cdef double _answer_deadline    # from then on, only the Pong is a sign of life, or a frame's rest if _answer_spared
    cdef double _ping_time
    cdef double _pong_deadline

    # --- for compiled drivers; see __init__.pxd ---
    cdef bint wants_network_silence(self) noexcept

    cdef inline bint has_acknowledged_pings(self) noexcept:
        """Tell whether ``acknowledged_pings`` would return something."""
        return self._acknowledged is not None

    cdef int _received_pong(self, bytes payload) except -1
    cdef int _handle_keepalive(self, double now, double silence) except -1
    cdef int _send_keepalive(self) except -1
    cdef int _repeat_keepalive(self) except -1
    cdef int _keepalive_began(self) except -1
    cdef int _look_for_life(self) noexcept
    cdef int _fail(self, int code, str reason) except -1
