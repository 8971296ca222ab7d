# cython: language_level=3
"""How to write past transports of event loops; see _transports.pyx."""


cdef extern from *:
    """
    #ifdef _WIN32
        /* Transports there write by requests that the operating system completes later. */
        #define send_now(fd, data, size) (-1)
    #else
        #include <sys/socket.h>
        #ifdef MSG_NOSIGNAL
            #define send_now(fd, data, size) send((fd), (data), (size_t)(size), MSG_DONTWAIT | MSG_NOSIGNAL)
        #else /* Python ignores SIGPIPE. */
            #define send_now(fd, data, size) send((fd), (data), (size_t)(size), MSG_DONTWAIT)
        #endif
    #endif
    """
    # Returns the number of bytes that were sent, or -1.
    Py_ssize_t send_now(int fd, const void* data, Py_ssize_t size)


cdef int writable_descriptor(transport) except -2
