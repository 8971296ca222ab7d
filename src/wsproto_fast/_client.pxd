# cython: language_level=3
"""A client's side of the opening handshake; see _client.pyx."""

from ._handshake cimport HandshakeProtocol


cdef class ClientProtocol(HandshakeProtocol):
    cdef public object uri
    cdef public str key
    cdef double _body_deadline      # for the whole body of a response; 0 until it begins
