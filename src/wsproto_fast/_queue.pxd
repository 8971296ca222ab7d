# cython: language_level=3
"""Received messages waiting for the application; see _queue.pyx."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._flag cimport flag


# Activity bits; the values of activity.py.
cdef enum Activity:
    MESSAGE = 1
    FRAGMENT = 2
    OUTPUT = 4
    ATTENTION = 8
    FLUSH = 16


cdef struct Item:
    PyObject* payload  # str or bytes for a whole message; bytes for a fragment
    uint8_t opcode     # of the message: OP_TEXT or OP_BINARY
    flag inflated      # whether it counts among what is inflated in this process
    flag fin           # last frame of its message


cdef class MessageQueue:
    cdef Item* _items                  # ring; _first while it has room for no more
    cdef Item _first
    cdef uint32_t _capacity
    cdef uint32_t _head
    cdef readonly uint32_t frames      # frames in the queue
    cdef readonly uint32_t messages    # of these, last frames of a message
    cdef readonly uint64_t size        # bytes in the queue, overhead included
    cdef readonly uint32_t high        # frames above which reading pauses
    cdef readonly uint32_t low         # frames at or below which it resumes
    cdef uint64_t most_bytes           # the most that there were
    cdef readonly uint64_t max_bytes   # bytes above which reading pauses
    cdef uint32_t most_frames
    cdef readonly flag reading_wanted
    cdef flag reader_waiting
    cdef flag closing                  # reading doesn't pause any more
    cdef flag _may_drop                # what is above the high mark isn't wanted
    cdef flag _dropping
    cdef flag _streaming               # first frames of the message at the head were taken
    cdef flag skipping                 # so were its last ones: the rest is dropped as it comes
    cdef object _decoder

    cdef int _reset(self) noexcept
    cdef int put(self, object payload, int opcode, bint fin, bint inflated) except -1
    cdef bint is_full(self) noexcept
    cdef bint has_room(self) noexcept
    cdef bint drops_next(self) noexcept
    cdef int drop_rest(self) noexcept
    cdef Item* _front(self) noexcept
    cdef object _pop(self)
    cdef int _clear(self) except -1
    cdef int forget(self) except -1
    cdef int _resume(self) noexcept
    cdef int skip_streamed(self) except -1
    cdef object next_message(self, object decode)
    cdef object next_fragment(self, object decode)
    cdef int set_closing(self, bint may_drop) except -1
