# cython: language_level=3
"""What moves bytes between a socket and the engine; see _wire.pyx."""

from libc.stdint cimport uint64_t

from ._sharing cimport Shared
from .tls cimport TLS


cdef class Wire(Shared):
    cdef TLS _tls
    cdef object _memory                 # what is received into, unless it is a message's own memory
    cdef bytes _early                   # received before there was this object

    cdef unsigned long _reader          # the last thread that was blocked in reading
    cdef uint64_t _reads                # how often that happened
    cdef bint _limited                  # blocked in reading from the socket, a thread is now and then woken

    cdef bytes _piece                   # what is being written, or None; empty if TLS has to read first
    cdef Py_ssize_t _piece_sent
    cdef uint64_t _taken                # bytes taken from the engine
    cdef uint64_t _sent                 # of these, written; counted in pieces
    cdef bint _held                     # output waits for what the same thread sends next
    cdef object _failure                # why writing failed
    cdef bint _half_closed
    cdef uint64_t _list_reads
    cdef bint _nobody_reads             # to watch at once

    cdef bint _read(self, double deadline) except -1
    cdef bint _read_ready(self) except -1
    cdef bint _reading_wanted(self) noexcept
    cdef int _end_reading(self) except -1
    cdef int _received(self, Py_ssize_t size, failure) except -1
    cdef int _received_encrypted(self, Py_ssize_t size, double now) except -1
    cdef int _take_early(self) except -1
    cdef int _decrypted(self, bytes data, double now) except -1
    cdef int _note_dropped(self) except -1
    cdef int _act(self) except -1
    cdef int _lose(self, exc) except -1
    cdef int _end(self) except -1
    cdef int _send_close_notify(self) except -1
    cdef int _close_when_unused(self) except -1
    cdef int _flush(self, bint waiting) except -1
    cdef int _set_piece(self, bytes piece) except -1
    cdef int _keep_piece(self, bytes data) except -1
    cdef int _keep_writing(self) except -1
    cdef int _hold(self) except -1
    cdef bint _blocked(self) noexcept
    cdef bytes _next_piece(self)
    cdef bytes _send_parts(self)
    cdef bytes _left_of(self, list parts, Py_ssize_t sent)
    cdef int _writing_failed(self, exc) except -1
    cdef int _drop_output(self) except -1
    cdef int _wait_sent(self) except -1
    cdef bint _wait_writable(self) except -1
    cdef int _raise_if_lost(self) except -1
    cdef int _list(self, double now) except -1
