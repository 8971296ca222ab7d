# cython: language_level=3
"""A server's side of the opening handshake; see _server.pyx."""

from libc.stdint cimport uint16_t

from ._flag cimport flag
from ._handshake cimport HandshakeProtocol


cdef class ServerProtocol(HandshakeProtocol):
    cdef public object origins
    cdef public object server_header
    cdef object _select_subprotocol
    cdef public flag check_host
    cdef readonly uint16_t response_status

    cdef object _accepting_headers(self, accept, extensions, subprotocol)
    cdef object _error_response(self, status, str text, list extra)
