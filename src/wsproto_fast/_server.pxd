# cython: language_level=3
"""A server's side of the opening handshake; see _server.pyx."""

from libc.stdint cimport uint16_t

from ._flag cimport flag
from ._handshake cimport HandshakeProtocol


cdef class ServerProtocol(HandshakeProtocol):
    cdef public object origins
    cdef public object server_header
    cdef object _select_subprotocol
    cdef object _request            # bytes while nobody asks for it; see _fold()
    cdef object _response           # an Acceptance then
    cdef public flag check_host
    cdef readonly uint16_t response_status
    cdef flag _request_folds        # nobody has asked for it

    cdef object _checked(self, request)
    cdef object _accepting_headers(self, accept, extensions, subprotocol)
    cdef object _error_response(self, status, str text, list extra)
    cdef int _send_response(self, response, double now) except -1
    cdef int _opened(self) except -1
    cdef bint _fold(self) except -1
    cdef int _unfold(self) except -1
