"""Engines that ask a clock for the time, whatever their drivers tell: for tests in which no time passes.

A driver that reads the clock of the operating system, such as that for asyncio, needs no other code for them, and
no look at who it tells the time to: C methods of the engine are virtual.
"""

from wsproto_fast cimport Backpressure, ClientProtocol, PreparedMessage, ServerProtocol


cdef class ClockedClientProtocol(ClientProtocol):
    """A client's engine on a clock of its own.

    Parameters are those of ``ClientProtocol``.

    Attributes:
        clock: Callable that returns the time, in seconds; None for what callers tell.
    """

    cdef public object clock

    cdef double _time(self, now) except? -1.0:
        return ClientProtocol._time(self, now) if self.clock is None else <double>self.clock()

    cdef double actual_time(self, double now) except? -1.0:
        return self._time(now)

    cdef int process_buffer(self, Py_ssize_t size, double now) except -1:
        return ClientProtocol.process_buffer(self, size, self._time(now))

    cdef object pop_message(self, object decode, double now):
        return ClientProtocol.pop_message(self, decode, self._time(now))

    cdef object pop_fragment(self, object decode, double now):
        return ClientProtocol.pop_fragment(self, decode, self._time(now))

    cdef object take_message(self, object decode, double now, int* activity):
        return ClientProtocol.take_message(self, decode, self._time(now), activity)

    cdef object take_fragment(self, object decode, double now, int* activity):
        return ClientProtocol.take_fragment(self, decode, self._time(now), activity)

    cdef int process_kept(self, double now) except -1:
        return ClientProtocol.process_kept(self, self._time(now))

    cdef int offer_message(
        self, PreparedMessage message, compress, Backpressure terms, Py_ssize_t unsent, double now
    ) except -1:
        return ClientProtocol.offer_message(self, message, compress, terms, unsent, self._time(now))


cdef class ClockedServerProtocol(ServerProtocol):
    """A server's engine on a clock of its own.

    Parameters are those of ``ServerProtocol``.

    Attributes:
        clock: Callable that returns the time, in seconds; None for what callers tell.
    """

    cdef public object clock

    cdef double _time(self, now) except? -1.0:
        return ServerProtocol._time(self, now) if self.clock is None else <double>self.clock()

    cdef double actual_time(self, double now) except? -1.0:
        return self._time(now)

    cdef int process_buffer(self, Py_ssize_t size, double now) except -1:
        return ServerProtocol.process_buffer(self, size, self._time(now))

    cdef object pop_message(self, object decode, double now):
        return ServerProtocol.pop_message(self, decode, self._time(now))

    cdef object pop_fragment(self, object decode, double now):
        return ServerProtocol.pop_fragment(self, decode, self._time(now))

    cdef object take_message(self, object decode, double now, int* activity):
        return ServerProtocol.take_message(self, decode, self._time(now), activity)

    cdef object take_fragment(self, object decode, double now, int* activity):
        return ServerProtocol.take_fragment(self, decode, self._time(now), activity)

    cdef int process_kept(self, double now) except -1:
        return ServerProtocol.process_kept(self, self._time(now))

    cdef int offer_message(
        self, PreparedMessage message, compress, Backpressure terms, Py_ssize_t unsent, double now
    ) except -1:
        return ServerProtocol.offer_message(self, message, compress, terms, unsent, self._time(now))
