# cython: language_level=3
"""Callbacks for what arrives; see _listener.pyx. Stable: what is declared here may be relied on."""


cdef class Listener:
    # Whether received_frame() is called, instead of received_message().
    cdef bint wants_frames

    cdef int received_message(self, object message) except -1
    cdef int received_frame(
        self, int opcode, bint fin, const unsigned char* payload, Py_ssize_t size, object owner
    ) except -1


cdef class Callbacks(Listener):
    cdef object _on_message
    cdef object _on_frame
