# cython: language_level=3
"""An echo whose path of a message is compiled from the socket's callback to the answer.

Build it with ``cythonize -i echo.pyx``, beside an installed wsproto-fast, and run ``server.py``.
"""

from wsproto_fast cimport OP_CONT, Listener, Protocol


cdef class Echo(Listener):
    """Send each message back, in one frame.

    Args:
        protocol: Engine of the connection: ``connection.protocol``.
    """

    cdef Protocol protocol
    cdef int opcode
    cdef bytearray fragments
    cdef readonly long messages
    cdef readonly long long size

    def __init__(self, Protocol protocol not None):
        self.protocol = protocol
        self.fragments = bytearray()
        self.wants_frames = True

    cdef int received_frame(
        self, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1:
        self.size += size
        if opcode != OP_CONT:
            self.opcode = opcode
        if fin and opcode != OP_CONT:
            # The payload lies in the buffer that the transport read into; it is copied once, behind what
            # is going to be written at the end of this turn.
            self.protocol.send_memory(opcode, payload, size)
        else:
            self.fragments += payload[:size]
            if not fin:
                return 0
            self.protocol.send_memory(self.opcode, <const char*>self.fragments, len(self.fragments))
            self.fragments.clear()
        self.messages += 1
