# cython: language_level=3
"""What threads ask of a socket; see _socket_calls.pyx."""

cdef extern from *:
    """
    #ifdef _WIN32
        /* There are no interrupted system calls; Python's sockets do. */
        #define SYSTEM_CALLS 0
    #else
        #define SYSTEM_CALLS 1
    #endif
    """
    bint SYSTEM_CALLS               # sockets must block; otherwise they mustn't


# Results of receive(), besides the number of bytes.
cdef enum:
    NOTHING_THERE = -2  # there was nothing but a promise of data
    INTERRUPTED = -3    # by a signal, or to see whether there was one
    TIMED_OUT = -4


cdef class Memory:
    cdef char* _data
    cdef Py_ssize_t _size


cdef int milliseconds(double deadline)
cdef Py_ssize_t receive(sock, buffer, double deadline, bint* limited) except -1
cdef Py_ssize_t send(sock, bytes data, Py_ssize_t start) except -1
cdef bint sends_parts(sock) except -1
cdef Py_ssize_t send_parts(int fd, list parts) except -1
cdef bint wait_writable(sock) except -1
