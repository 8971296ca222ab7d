# cython: language_level=3
"""Events that belong to frames; see _events.pyx."""


cdef class Event:
    pass


cdef class _Record(Event):
    cdef tuple _values(self)


cdef class Message(_Record):
    cdef readonly object data
    cdef readonly bint frame_finished
    cdef readonly bint message_finished


cdef class TextMessage(Message):
    pass


cdef class BytesMessage(Message):
    pass


cdef class Ping(_Record):
    cdef readonly object payload


cdef class Pong(_Record):
    cdef readonly object payload


cdef class CloseConnection(_Record):
    cdef readonly object code
    cdef readonly object reason
