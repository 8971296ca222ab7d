# cython: language_level=3
"""A server's side of the opening handshake; see _server.pyx."""

from ._handshake cimport HandshakeProtocol


cdef class ServerProtocol(HandshakeProtocol):
    cdef public object origins
    cdef public bint check_host
    cdef public object server_header
    cdef readonly int response_status
    cdef object _select_subprotocol

    cdef object _error_response(self, status, str text, list extra)
