"""Callbacks for what arrives, in place of the queue of messages: no object waits, no task is resumed.

From Cython, derive from `Listener`; from Python, give callables to ``Protocol.listen``, which makes
`Callbacks` of them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact
from cpython.memoryview cimport PyMemoryView_GET_BUFFER


cdef class Listener:
    """Base class of what receives messages, or frames of messages, as they are parsed.

    Compiled code derives from it, overrides one of the two methods, and is given to
    ``Protocol.listen(listener=...)``. Methods may send and close; an exception that they raise is logged and
    fails the connection with 1011.
    """

    cdef int received_message(self, object message) except -1:
        """Take a message: str or bytes."""
        raise NotImplementedError("a Listener overrides received_message() or sets wants_frames")

    cdef int received_frame(
        self, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1:
        """Take a frame of a message: where ``wants_frames`` is set.

        Args:
            opcode: OP_TEXT or OP_BINARY in the first frame of a message, OP_CONT in the others.
            fin: Whether it is the last frame of its message.
            payload: Unmasked, decompressed, and checked; there until the method returns.
            size: Number of bytes.
            owner: bytes or memoryview that ``payload`` lies in.
        """
        raise NotImplementedError("a Listener with wants_frames overrides received_frame()")


@cython.final
cdef class Callbacks(Listener):
    """Python's callables as a listener.

    Args:
        on_message: Called with each message.
        on_frame: Called with the opcode, the payload as a memoryview, and whether the message ends.
    """

    def __cinit__(self, on_message, on_frame):
        self._on_message = on_message
        self._on_frame = on_frame
        self.wants_frames = on_frame is not None

    cdef int received_message(self, object message) except -1:
        self._on_message(message)

    cdef int received_frame(
        self, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1:
        cdef const unsigned char* start
        cdef object view
        # A slice of what owns the memory: who keeps a part of the view reads what lies there later, but
        # never memory that is gone.
        if PyBytes_CheckExact(owner):
            start = <const unsigned char*>PyBytes_AS_STRING(owner)
            owner = memoryview(owner)
        else:
            start = <const unsigned char*>PyMemoryView_GET_BUFFER(owner).buf
        view = owner[payload - start : payload - start + size]
        self._on_frame(opcode, view, fin)
        try:
            view.release()
        except BufferError:
            pass  # something was made of it that keeps it
