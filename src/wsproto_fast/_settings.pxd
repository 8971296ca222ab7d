# cython: language_level=3
"""What settings of a connection may be; see _settings.pyx."""

from libc.stdint cimport uint64_t


cdef double duration(str name, value) except? -1.0
cdef double ping_interval_of(value) except? -1.0
cdef double write_deadline_of(value) except? -1.0
cdef (uint64_t, uint64_t) size_limits(max_size) except *
cpdef tuple queue_marks(max_queue)
cpdef bytes close_payload(code, reason)
