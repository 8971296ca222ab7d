# cython: language_level=3
"""How to write past transports of event loops; see _transports.pyx."""


cdef extern from *:
    """
    #ifdef _WIN32
        /* Transports there write by requests that the operating system completes later. */
        #define send_now(fd, data, size) (-1)
        struct iovec { const void *iov_base; size_t iov_len; };
        #define send_parts_now(fd, parts, count) (-1)
    #else
        #include <sys/socket.h>
        #include <sys/uio.h>
        #ifndef MSG_NOSIGNAL /* Python ignores SIGPIPE. */
            #define MSG_NOSIGNAL 0
        #endif
        #define send_now(fd, data, size) send((fd), (data), (size_t)(size), MSG_DONTWAIT | MSG_NOSIGNAL)
        static inline Py_ssize_t send_parts_now(int fd, struct iovec *parts, int count)
        {
            struct msghdr message = {0};
            message.msg_iov = parts;
            message.msg_iovlen = count;
            return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
    #endif

    /* Have an entry point at a part of an output, bytes or an ASCII str; return its size. */
    static inline Py_ssize_t wsproto_fast_point_at(struct iovec *entry, PyObject *part)
    {
        int binary = PyBytes_CheckExact(part);
        Py_ssize_t size = binary ? PyBytes_GET_SIZE(part) : PyUnicode_GET_LENGTH(part);
        entry->iov_base = binary ? (void *)PyBytes_AS_STRING(part) : (void *)PyUnicode_1BYTE_DATA(part);
        entry->iov_len = (size_t)size;
        return size;
    }
    """
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t point_at "wsproto_fast_point_at"(iovec* entry, object part)
    # These return the number of bytes that were sent, or -1.
    Py_ssize_t send_now(int fd, const void* data, Py_ssize_t size)
    Py_ssize_t send_parts_now(int fd, iovec* parts, int count)


# What send_parts_now() is given at most: less than any system's limit.
cdef enum:
    MAX_PARTS = 64


# What writelines() of a transport is good for.
cdef enum:
    NO_LINES
    ENCRYPTED_LINES
    PLAIN_LINES


cdef int writable_descriptor(transport) except -2
cdef int lines_of(transport) except -1
