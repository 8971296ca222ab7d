# cython: binding=False
"""What threads ask of a socket: system calls without the lock of the interpreter.

They are made here, not by Python's sockets: those run signal handlers when one interrupts them, at a time when this
thread may have a role that a handler must not find taken.
"""

import errno
import os
import select
from threading import main_thread
from time import monotonic

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR
from libc.math cimport INFINITY, ceil
from libc.stdlib cimport free, malloc

from ._inbox cimport Endpoint
from ._transports cimport MAX_PARTS, iovec, point_at


# Results are negated error numbers.
cdef extern from *:
    """
    #ifdef _WIN32
        static Py_ssize_t receive_now(int fd, void* data, Py_ssize_t size, int wait) { return -1; }
        static Py_ssize_t send_piece(int fd, const void* data, Py_ssize_t size) { return -1; }
        #define send_gathered(fd, parts, count) (-1)
        static int wait_ready(int fd, int writing, int timeout) { return -1; }
        static void limit_receiving(int fd, int timeout) {}
    #else
        #include <errno.h>
        #include <poll.h>
        #include <sys/socket.h>
        #include <sys/time.h>
        #ifndef MSG_NOSIGNAL /* Python ignores SIGPIPE. */
            #define MSG_NOSIGNAL 0
        #endif
        static int result_of(int error) { return -(error == EWOULDBLOCK ? EAGAIN : error); }
        static Py_ssize_t receive_now(int fd, void* data, Py_ssize_t size, int wait)
        {
            ssize_t received = recv(fd, data, (size_t)size, wait ? 0 : MSG_DONTWAIT);
            return received < 0 ? result_of(errno) : received;
        }
        static Py_ssize_t send_piece(int fd, const void* data, Py_ssize_t size)
        {
            ssize_t sent = send(fd, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
            return sent < 0 ? result_of(errno) : sent;
        }
        static Py_ssize_t send_gathered(int fd, struct iovec *parts, int count)
        {
            Py_ssize_t sent = send_parts_now(fd, parts, count);
            return sent < 0 ? result_of(errno) : sent;
        }
        static int wait_ready(int fd, int writing, int timeout)
        {
            struct pollfd item = {fd, writing ? POLLOUT : POLLIN, 0};
            int ready = poll(&item, 1, timeout);
            return ready < 0 ? result_of(errno) : ready;
        }
        static void limit_receiving(int fd, int timeout)
        {
            struct timeval limit = {timeout / 1000, timeout % 1000 * 1000};
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        }
    #endif

    /* Give memory that can be written to. What Cython has put in the view's place for an owner is released first. */
    static int wsproto_fast_show_memory(Py_buffer *view, PyObject *owner, void *data, Py_ssize_t size, int flags) {
        Py_CLEAR(view->obj);
        return PyBuffer_FillInfo(view, owner, data, size, 0, flags);
    }
    """
    int show_memory "wsproto_fast_show_memory"(
        Py_buffer* view, object owner, void* data, Py_ssize_t size, int flags
    ) except -1
    Py_ssize_t receive_now(int fd, void* data, Py_ssize_t size, bint wait) nogil
    Py_ssize_t send_piece(int fd, const void* data, Py_ssize_t size) nogil
    Py_ssize_t send_gathered(int fd, iovec* parts, int count) nogil
    int wait_ready(int fd, bint writing, int timeout) nogil
    void limit_receiving(int fd, int timeout)


# How long the main thread waits at most before it runs signal handlers, in milliseconds. A signal that
# comes right before a system call doesn't interrupt it; nor does one that another thread takes.
cdef int SIGNAL_INTERVAL = 500


@cython.final
cdef class Memory:
    """Memory to receive into. Of a large one, only the pages that were received into are in use."""

    def __cinit__(self, Py_ssize_t size):
        self._data = <char*>malloc(size)
        if self._data == NULL:
            raise MemoryError
        self._size = size

    def __dealloc__(self):
        free(self._data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        show_memory(view, self, self._data, self._size, flags)


cdef unsigned long _main_thread = main_thread().ident  # which runs signal handlers


def _forked():
    global _main_thread
    _main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef int milliseconds(double deadline):
    """Return for how long the calling thread may wait for a deadline in one system call; -1 is for ever."""
    cdef bint main = PyThread_get_thread_ident() == _main_thread
    cdef double limit = SIGNAL_INTERVAL if main else 2147483000.0
    if deadline == INFINITY:
        return SIGNAL_INTERVAL if main else -1
    return <int>min(ceil(max(deadline - <double>monotonic(), 0.0) * 1000), limit)


cdef bint _select(sock, bint writing, double deadline) except -1:
    """Wait until a socket can be read from or written to; return False if it can't."""
    cdef int timeout = milliseconds(deadline)
    return any(
        select.select(
            [] if writing else [sock],
            [sock] if writing else [],
            [sock] if writing else [],
            None if timeout < 0 else timeout / 1000.0,
        )
    )


cdef int _raise_error(int error) except -1:
    raise OSError(error, os.strerror(error))


cdef Py_ssize_t receive(sock, buffer, double deadline, bint* limited) except -1:
    """Receive into a buffer; block until the deadline.

    Args:
        sock: Socket.
        buffer: Writable buffer.
        deadline: When to return at the latest, of ``time.monotonic``.
        limited: Whether this has limited for how long the socket blocks; set to true when it does.

    Returns:
        Number of bytes, 0 at the end of the stream, or why there are none.

    Raises:
        OSError: If the connection is broken.
    """
    cdef Py_buffer view
    cdef Py_ssize_t size = 1
    cdef bint wait = deadline == INFINITY
    cdef int timeout = -1
    cdef int fd
    if not SYSTEM_CALLS and not isinstance(sock, Endpoint):
        if not _select(sock, False, deadline):
            return TIMED_OUT if <double>monotonic() >= deadline else INTERRUPTED
        try:
            return sock.recv_into(buffer)
        except BlockingIOError:
            return NOTHING_THERE
    fd = sock.fileno()
    if fd < 0:
        if isinstance(sock, Endpoint):
            received = sock.receive(buffer, deadline)
            return TIMED_OUT if received is None else received
        _raise_error(errno.EBADF)  # the program has closed it
    if not wait:
        timeout = milliseconds(deadline)
    elif not limited[0] and PyThread_get_thread_ident() == _main_thread:
        # Without one more system call per message.
        limit_receiving(fd, SIGNAL_INTERVAL)
        limited[0] = True
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        with nogil:
            if timeout > 0:
                size = wait_ready(fd, False, timeout)
                if size == 0:
                    size = -EAGAIN
            if size > 0:
                size = receive_now(fd, view.buf, view.len, wait)
    finally:
        PyBuffer_Release(&view)
    if size >= 0:
        return size
    if size == -EINTR:
        return INTERRUPTED
    if size == -EAGAIN:
        if <double>monotonic() >= deadline:
            return TIMED_OUT
        return INTERRUPTED
    _raise_error(-size)


cdef Py_ssize_t send(sock, bytes data, Py_ssize_t start) except -1:
    """Send ``data`` from ``start`` on, as far as the network takes it; return the size of that. Never blocks."""
    cdef const char* memory = PyBytes_AS_STRING(data) + start
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - start
    cdef Py_ssize_t sent = -EINTR
    cdef int fd
    if not SYSTEM_CALLS and not isinstance(sock, Endpoint):
        try:
            return sock.send(memoryview(data)[start:])
        except BlockingIOError:
            return 0
    fd = sock.fileno()
    if fd < 0:
        if isinstance(sock, Endpoint):
            return sock.send_now(memoryview(data)[start:])
        _raise_error(errno.EBADF)
    with nogil:
        while sent == -EINTR:
            sent = send_piece(fd, memory, size)
    if sent >= 0:
        return sent
    if sent == -EAGAIN:
        return 0
    _raise_error(-sent)


cdef bint sends_parts(sock) except -1:
    """Tell whether ``send_parts`` can be used."""
    return SYSTEM_CALLS and not isinstance(sock, Endpoint)


cdef Py_ssize_t send_parts(int fd, list parts) except -1:
    """Send parts of an output, bytes and ASCII str, as ``send`` does, from where they are.

    Args:
        fd: Descriptor of the socket.
        parts: Parts, one after the other.
    """
    cdef iovec memory[MAX_PARTS]
    cdef Py_ssize_t total = 0, first = 0, size, sent
    cdef int count
    if fd < 0:
        _raise_error(errno.EBADF)
    while first < len(parts):
        size = count = 0
        while count < MAX_PARTS and first < len(parts):
            size += point_at(&memory[count], parts[first])
            first += 1
            count += 1
        sent = -EINTR
        with nogil:
            while sent == -EINTR:
                sent = send_gathered(fd, memory, count)
        if sent == -EAGAIN:
            break
        if sent < 0:
            _raise_error(-sent)
        total += sent
        if sent < size:
            break
    return total


cdef bint wait_writable(sock) except -1:
    """Wait until a socket can be written to; return False if signals are to be looked for first."""
    cdef int timeout = milliseconds(INFINITY)
    cdef int ready, fd
    if not SYSTEM_CALLS and not isinstance(sock, Endpoint):
        return _select(sock, True, INFINITY)
    fd = sock.fileno()
    if fd < 0:
        if isinstance(sock, Endpoint):
            sock.wait_writable()
        return True  # writing is going to tell
    with nogil:
        ready = wait_ready(fd, True, timeout)
    return ready > 0
