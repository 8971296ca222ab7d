# cython: language_level=3
"""What the threads of a program leave for the housekeeper; see _inbox.pyx."""

cimport cython


# What the housekeeper watches a socket for.
cpdef enum:
    NOTHING = 0
    READ = 1
    WRITE = 2


cdef class Inbox:
    cdef cython.pymutex _mutex
    cdef public object wake
    cdef readonly object clock          # what tells the time, and makes what threads wait with; None for the system's
    cdef object _start
    cdef list _posts
    cdef bint _running
    cdef bint _abandoned
    cdef Py_ssize_t _ringing      # threads that call wake, what it uses can't be closed before
    cdef double _until            # when the housekeeper's sleep ends anyway; in the past while it is awake
    cdef readonly Py_ssize_t live       # connections
    cdef readonly Py_ssize_t gone       # connections closed since forget()

    cdef double now(self) except? -1.0
    cdef int attach(self) except -1
    cdef int detach(self) except -1
    cdef int post(self, object driver, double when) except -1
    cdef int _ring(self) except -1


cdef class Endpoint:
    cdef readonly Inbox inbox


cdef Inbox current_inbox()
