# cython: language_level=3
"""The state machine of one connection; see _protocol.pyx."""

from ._endpoint cimport OPEN
from ._statistics cimport Statistics


cdef class Protocol(Statistics):
    # --- what programs read ---
    cdef public object handshake_exc
    cdef public object parser_exc
    cdef public object close_rcvd_then_sent
    cdef public object subprotocol

    # --- time, in seconds ---
    cdef double _open_deadline

    # --- for compiled drivers and programs; see __init__.pxd ---
    cdef double next_deadline(self) noexcept

    # What only looks costs a compiled driver no call.

    cdef inline double last_time(self) noexcept:
        """Return the time that was told last, in seconds."""
        return self._now

    cdef inline bint is_open(self) noexcept:
        """Tell whether messages can be sent: the state is OPEN."""
        return self._state == OPEN

    cdef inline bint has_ended(self) noexcept:
        """Tell whether nothing more is to be read: the end of the stream was received."""
        return self._eof_received

    cdef inline bint is_sending_fragments(self) noexcept:
        """Tell whether a fragmented message was begun, and no other message can be sent before its end."""
        return self._sending_opcode != 0

    cdef inline bint has_fragment(self) noexcept:
        """Tell whether ``pop_fragment`` would return something."""
        return self._queue is not None and self._queue.frames != 0

    cdef inline bint has_kept(self) noexcept:
        """Tell whether something was kept, compressed: ``take_message`` and ``take_fragment`` need the time then."""
        return self._kept is not None

    cdef inline bint can_process_kept(self) noexcept:
        """Tell whether something was kept, compressed, and there is room for it: time for ``process_kept``."""
        return self._kept is not None and self._has_room()

    # --- for the opening handshake, which subclasses add ---
    cdef int _set_up(self, side, state, max_size, logger) except -1
    cdef int _receive_handshake_eof(self) except -1
    cdef int _opening_timed_out(self) except -1
    cdef int _set_open(self) except -1
    cdef int _set_handshake_failed(self, exc) except -1

    cdef int _handle_timeout(self, double now, double silence, progress) except -1
    cdef int _received_close(self, bytes payload) except -1
    cdef int _forget_early(self) except -1
    cdef int _start_closing(self) except -1
    cdef int _set_closed(self) except -1
    cdef int _deliver_kept(self, bint lost) except -1
    cdef int _drop_kept(self) except -1
