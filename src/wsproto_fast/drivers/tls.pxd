# cython: language_level=3
"""TLS between a connection and its socket; see tls.pyx."""


cdef class TLS:
    cdef object _incoming               # memory that is decrypted from
    cdef object _outgoing               # memory that is encrypted to
    cdef TLS _below
    cdef object _session                # what ``object`` is a wrapper of
    cdef bytes _waiting                 # plaintext that can't be encrypted before something is read
    cdef readonly object object
    cdef readonly bint eof
    cdef readonly bint closed
    cdef readonly bint blocked
    cdef readonly object error

    cpdef bytes decrypt(self, data)
    cdef object _read(self)
    cpdef object encrypt(self, bytes data)
    cpdef object receive_eof(self)
    cpdef object close(self)
    cpdef bytes take_output(self)
