# cython: language_level=3
"""Messages that wait for the network; see _backlog.pyx."""

from libc.stdint cimport uint64_t


# What becomes of a message; the members of slow.Slow in their order.
cdef enum:
    WAIT = 0
    DROP_NEWEST = 1
    DROP_OLDEST = 2
    LATEST = 3
    CLOSE_SLOW = 4
    POLICIES = 5

# What add() returns besides the number of dropped messages.
cdef enum:
    NO_ROOM = -2


cdef class Backpressure:
    cdef readonly object slow
    cdef readonly object max_backlog
    cdef readonly object key
    cdef int policy                 # -1 for that of the connection
    cdef Py_ssize_t limit


cdef class Waiting:
    cdef object message             # PreparedMessage, or the payload of a message
    cdef int opcode                 # of a payload
    cdef object compress
    cdef int policy
    cdef object key
    cdef Py_ssize_t size
    cdef uint64_t number
    cdef bint gone                  # it was dropped


cdef class Backlog:
    cdef object _queue              # a deque, whose first one isn't gone
    cdef Py_ssize_t _gone           # of these
    cdef object _drops              # a deque of those that may be dropped
    cdef dict _latest               # key -> what waits with it
    cdef Py_ssize_t size            # in bytes, overhead included
    cdef Py_ssize_t _droppable      # of these

    cdef Py_ssize_t count(self) except -1
    cdef int add(self, Waiting new, Py_ssize_t size, Py_ssize_t limit) except -1
    cdef Waiting take(self)
    cdef bint holds(self, uint64_t number) except -1
    cdef int _make_room(self, Py_ssize_t size, Py_ssize_t limit, Waiting spared) except -1
