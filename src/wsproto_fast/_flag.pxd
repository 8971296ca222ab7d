# cython: language_level=3
"""A truth value in one byte, where bint takes four: there are many in each connection.

And what tells compilers that something is rare: they put it where it isn't between what each message passes through, so
that this takes less of the processor's cache for instructions. Whatever a system call does takes all of that.
"""


cdef extern from *:
    ctypedef bint flag "_Bool"
    bint unlikely(bint condition) noexcept nogil
