# cython: language_level=3
"""When the connections of an event loop are called; see _timers.pyx."""


cdef class Timed:
    cdef double _due                    # of the event loop's clock
    cdef int _place                     # where it is in the heap; 0 if it isn't

    cdef int timer_expired(self) except -1


cdef class Timers:
    cdef object __weakref__
    cdef readonly object loop
    cdef list _heap                     # begins at 1
    cdef object _handle                 # timer of the event loop
    cdef double _handle_due

    cdef int set_timer(self, Timed timed, double delay) except -1
    cdef int stop_timer(self, Timed timed) except -1
    cdef int _move(self, Timed timed, int place) except -1
    cdef int _remove(self, Timed timed) except -1
    cdef int _arm(self) except -1


cdef class LoopParts:
    cdef object _loop                   # weak reference
    cdef object read_buffer
    cdef object _timers                 # weak reference

    cdef Timers timers(self, loop)


cdef LoopParts parts_of(loop)
