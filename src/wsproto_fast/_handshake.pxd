# cython: language_level=3
"""Both sides of the opening handshake; see _handshake.pyx."""

from ._http11 cimport HeadParser, RequestParser, ResponseParser
from ._protocol cimport Protocol


cdef class HandshakeProtocol(Protocol):
    cdef HeadParser _parser             # None when the handshake message is complete
    cdef public object origin
    cdef public object available_extensions
    cdef public object available_subprotocols

    cdef int _received_message(self) except -1
    cdef int _received_garbage(self, exc) except -1


cdef class ClientProtocol(HandshakeProtocol):
    cdef public object uri
    cdef public str key


cdef class ServerProtocol(HandshakeProtocol):
    cdef public object origins
    cdef public bint check_host
    cdef public object server_header
    cdef object _select_subprotocol

    cdef object _error_response(self, status, str text, list extra)
