# cython: language_level=3
"""A client's side of the opening handshake; see _client.pyx."""

from ._handshake cimport HandshakeProtocol


cdef class ClientProtocol(HandshakeProtocol):
    cdef public object uri
    cdef public str key
