# cython: language_level=3
"""Frames as events; see _frame_events.pyx."""

from .._protocol cimport Protocol


cdef class FrameEvents(Protocol):
    cdef readonly bint client
    cdef readonly bint failed           # the peer's fault was an event; what follows is ignored
    cdef readonly int frame_opcode      # of the last event's frame; 0 if it began with an earlier one
    cdef bint _raw
    cdef bint _parsing
    cdef object _input                  # received and not parsed yet: bytes, or bytearray if there is more
    cdef Py_ssize_t _position
    cdef object _event
    cdef bytes _cut                     # beginning of a character that a piece of text ended in
    cdef list _hooks                    # extensions that see each piece; None if there are none

    cpdef int feed(self, data) except -1
    cpdef object next_event(self)
    cpdef bytes send_data(self, data, bint fin)
    cpdef bytes send_control(self, int opcode, payload)
    cdef int _put(self, event, Py_ssize_t offset) except -1
    cdef int _piece(self, const unsigned char* data, Py_ssize_t size, bint frame_finished) except -1
    cdef bytes _unmasked(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset)
    cdef object _unmasked_text(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset, bint finished)
    cdef object _decoded(self, const unsigned char* data, Py_ssize_t size, bint finished)
    cdef int _set_ended(self) except -1
