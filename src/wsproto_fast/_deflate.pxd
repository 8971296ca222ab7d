# cython: language_level=3
"""permessage-deflate (RFC 7692); see _deflate.pyx."""


cdef class Extension:
    pass


cdef class CompressorPool:
    cdef object _new_compressor
    cdef int _window_bits
    cdef dict _settings
    cdef list _idle                     # those that nobody uses at the moment

    cdef object take(self)
    cdef int give_back(self, object compressor) except -1
    cdef int _keep(self, object compressor) except -1
    cdef bytes compress(self, bytes payload, bint fin)


cdef class PerMessageDeflate(Extension):
    cdef readonly bint remote_no_context_takeover
    cdef readonly bint local_no_context_takeover
    cdef readonly int remote_max_window_bits
    cdef readonly int local_max_window_bits
    cdef readonly dict compress_settings
    cdef readonly object backend
    cdef object _compressing            # backend that compresses, and its settings
    cdef dict _settings
    cdef public Py_ssize_t min_size     # messages smaller than this go uncompressed, bytes
    cdef Py_ssize_t _bulk_size          # from this size on, the backend for bulk compresses
    cdef object _compressor
    cdef bint _stale                    # it must forget what it has seen before it is used again
    cdef CompressorPool _pool
    cdef CompressorPool _bulk_pool
    cdef object _decompressor
    cdef bint _decoding                 # decode() is inside a compressed message
    cdef bint _encoding                 # encode() is inside a compressed message
    cdef bint _inside                   # inside a compressed message that is being received
    cdef int _ends                      # ends of streams inside that message
    cdef list _recent                   # what was inflated last, at least a window of it
    cdef Py_ssize_t _recent_size

    cdef bytes compress(self, bytes payload, bint fin)
    cdef bytes _compress_bulk(self, bytes payload, bint fin)
    cdef bytes compress_message(self, bytes payload)
    cdef bytes compress_alone(self, bytes payload)
    cdef object _new_compressor(self)
    cdef int _keep_compressor(self, object compressor, bint fin) except -1
    cdef CompressorPool _shared_pool(self, bint bulk)
    cdef int start_afresh(self) except -1
    cdef bytes decompress(self, bytes payload, bint fin, Py_ssize_t limit)
    cdef int _finish_message(self) except -1
    cdef int _finish_alone(self) except -1
    cdef bytes _inflate(self, bytes payload, Py_ssize_t limit)
    cdef int _inflate_bits(self) noexcept
    cdef int _drop_decompressor(self) except -1
    cdef bytes _window(self)
    cdef int _remember(self, bytes data) except -1
    cdef bint holds_state(self) noexcept
    cdef int release(self) except -1


cdef Py_ssize_t NO_LIMIT
cdef bytes _deflated(object compressor, bytes payload, bint fin, int flush)
cdef int _forget(object compressor) except -1
