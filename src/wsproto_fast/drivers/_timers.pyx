# cython: binding=False
"""What the connections of an event loop share: one timer for all of them, and the memory that they read into.

A timer of its own would cost each connection more than half a KiB on uvloop, while most are set once in 20 seconds.
"""

import contextvars
import weakref

cimport cython

from wsproto_fast._free_threading cimport FREE_THREADED


cdef object _Context = contextvars.Context


# What is in it matters only until buffer_updated() returns: an idle connection has no buffer of its own.
cdef Py_ssize_t READ_BUFFER_SIZE = 256 * 1024


cdef class Timed:
    """Something that is called at a time."""

    cdef int timer_expired(self) except -1:
        """Do what was to be done then."""
        raise NotImplementedError


@cython.no_gc_clear  # what it refers to refers to it
cdef class Timers:
    """What is to be called when, on an event loop: a heap.

    Whatever is in it stays alive.

    Args:
        loop: Event loop.
    """

    def __cinit__(self, loop):
        self.loop = loop
        self._heap = [None]

    cdef int set_timer(self, Timed timed, double delay) except -1:
        """Have something called after ``delay`` seconds; an earlier time that it had set is forgotten."""
        if timed._place == 0:
            self._heap.append(timed)
            timed._place = <int>len(self._heap) - 1
        timed._due = <double>self.loop.time() + delay
        self._move(timed, timed._place)
        self._arm()

    cdef int stop_timer(self, Timed timed) except -1:
        """Don't call it. The loop's timer stays, and serves the next one where connections come one at a time."""
        if timed._place:
            self._remove(timed)

    cdef int _remove(self, Timed timed) except -1:
        cdef Timed last = self._heap.pop()
        if last is not timed:
            self._move(last, timed._place)
        timed._place = 0

    cdef int _move(self, Timed timed, int place) except -1:
        """Put something in a place, or where it belongs instead."""
        cdef list heap = self._heap
        cdef int size = <int>len(heap)
        cdef int other
        cdef Timed neighbour
        while place > 1:
            neighbour = heap[place // 2]
            if neighbour._due <= timed._due:
                break
            heap[place] = neighbour
            neighbour._place = place
            place //= 2
        while True:
            other = 2 * place
            if other >= size:
                break
            if other + 1 < size and (<Timed>heap[other + 1])._due < (<Timed>heap[other])._due:
                other += 1
            neighbour = heap[other]
            if neighbour._due >= timed._due:
                break
            heap[place] = neighbour
            neighbour._place = place
            place = other
        heap[place] = timed
        timed._place = place

    cdef int _arm(self) except -1:
        """Have the event loop call in time for the first one; a call that comes too early does no harm."""
        cdef double due = (<Timed>self._heap[1])._due
        if self._handle is not None:
            if self._handle_due <= due:
                return 0
            self._handle.cancel()
        self._handle_due = due
        # Not in the context of whoever happens to set it: the variables of one connection's program aren't another's.
        self._handle = self.loop.call_at(due, self._expired, context=_Context())

    def _expired(self):
        cdef double now = self.loop.time()
        # Each once at most: others have their turn, however often something is to be called.
        cdef Py_ssize_t left = len(self._heap) - 1
        cdef Timed timed
        self._handle = None
        try:
            while left and len(self._heap) > 1:
                timed = self._heap[1]
                if timed._due > now:
                    break
                left -= 1
                self._remove(timed)
                timed.timer_expired()
        finally:
            if len(self._heap) > 1:
                self._arm()


cdef class LoopParts:
    """What belongs to an event loop, and doesn't keep it alive."""

    cdef Timers timers(self, loop):
        """Return its timers, which live as long as somebody has them."""
        cdef Timers timers = None if self._timers is None else self._timers()
        if timers is None:
            timers = Timers(loop)
            self._timers = weakref.ref(timers)
        return timers


cdef object _parts = weakref.WeakKeyDictionary()

# Those that were asked for last: most processes have one event loop. Not used where threads would change it
# at the same time.
cdef LoopParts _last = None


cdef LoopParts parts_of(loop):
    """Return what belongs to an event loop."""
    global _last
    cdef LoopParts parts
    if not FREE_THREADED:
        parts = _last
        if parts is not None and parts._loop() is loop:
            return parts
    parts = _parts.get(loop)
    if parts is None:
        parts = LoopParts.__new__(LoopParts)
        parts._loop = weakref.ref(loop, _forget)
        parts.read_buffer = memoryview(bytearray(READ_BUFFER_SIZE))
        _parts[loop] = parts
    if not FREE_THREADED:
        _last = parts
    return parts


def _forget(_):
    """Forget the parts that were asked for last when an event loop is gone: their buffer is large."""
    global _last
    if not FREE_THREADED:
        _last = None
