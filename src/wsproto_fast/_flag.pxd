# cython: language_level=3
"""A truth value in one byte, where bint takes four: there are many in each connection."""


cdef extern from *:
    ctypedef bint flag "_Bool"
