# cython: language_level=3
"""Frames into messages, events, or callbacks; see _receiver.pyx."""

from ._listener cimport Listener
from ._parser cimport Parser
from ._queue cimport MessageQueue


cdef class Receiver(Parser):
    # --- sinks: a list of events, a queue of messages, or callbacks ---
    cdef list _events               # None before there are any
    cdef MessageQueue _queue
    cdef Listener _listener         # with one the queue holds unfinished messages only

    # --- for compiled drivers; see __init__.pxd ---
    cdef bint wants_reading(self) noexcept
    cdef object pop_message(self, object decode, double now)
    cdef object pop_fragment(self, object decode, double now)
    # The same; then, if there is room for what was kept, process that, with what these bits tell, and look again.
    cdef object take_message(self, object decode, double now, int* activity)
    cdef object take_fragment(self, object decode, double now, int* activity)
    cdef int process_kept(self, double now) except -1

    cdef int _add_event(self, event) except -1
    cdef int _require_queue(self) except -1
    cdef bint _gives_frames(self) noexcept
    cdef bint _is_unwanted(self) noexcept
    cdef int _deliver_queued(self) except -1
    cdef int _deliver(self, object payload, int opcode, bint fin) except -1
    cdef int _whole_frame_in_place(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _call_back(
        self, object message, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1
    cdef int _call_listener(
        self, object message, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1
    cdef Py_ssize_t _remaining_limit(self) noexcept
    cdef bytes _decompress(self, bytes payload, bint fin)
