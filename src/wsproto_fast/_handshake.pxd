# cython: language_level=3
"""What both sides of the opening handshake share; see _handshake.pyx."""

from ._http11 cimport HeadParser
from ._protocol cimport Protocol


cpdef str accept_key(str key)
cdef list parse_extensions(list values)
cdef list parse_subprotocols(list values)
cdef list get_all_values(headers, str name)
cdef int check_upgrade(headers) except -1
cdef object one_value(headers, str name, str lower)
cdef bint has_value(bytes block, str name, const char* expected, Py_ssize_t size) except -1


cdef class HandshakeProtocol(Protocol):
    cdef HeadParser _parser             # None when the handshake message is complete
    cdef public object origin
    cdef public object available_extensions
    cdef public object available_subprotocols

    cdef int _received_part(self) except -1
    cdef int _received_message(self) except -1
    cdef int _received_garbage(self, exc) except -1
