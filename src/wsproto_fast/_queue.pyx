"""Received messages waiting for the application.

A ring of frames with two marks: above the high one reading pauses, at or below the low one it resumes.
Reading never pauses while somebody waits for a message, since the rest of that message may be what is
still to be read; what can queue up meanwhile is bounded by the limits on a message's size and fragments.

What is compressed isn't inflated above the high mark, nor while all connections of the process together
hold too much that was: a read of 256 KiB can hold 256 MiB. It waits as it was received.
"""

import codecs

cimport cython

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.stdint cimport UINT32_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ._flag cimport unlikely
from ._frames cimport OP_TEXT


cdef extern from *:
    """
    #ifdef _MSC_VER
        #include <intrin.h>
        static volatile __int64 inflated_size;
        #define add_inflated(size) (_InterlockedExchangeAdd64(&inflated_size, (size)) + (size))
    #else
        static long long inflated_size;
        #define add_inflated(size) __atomic_add_fetch(&inflated_size, (long long)(size), __ATOMIC_RELAXED)
    #endif
    """
    # Changes what all queues of the process hold of inflated frames, in bytes, and returns it.
    int64_t add_inflated(int64_t size) noexcept


# Bytes that all connections of the process together inflate before somebody asks for them. What is above this is
# inflated, message by message, for who waits for it.
cdef int64_t MAX_INFLATED = 1 << 26

# What a queued frame costs besides its payload: the object's header and its place in the ring.
cdef uint64_t OVERHEAD = 72
cdef uint32_t MIN_CAPACITY = 4
# A ring that grew beyond this is released when it becomes empty.
cdef uint32_t MAX_IDLE_CAPACITY = 32


@cython.final
@cython.no_gc  # what it holds refers to nothing
cdef class MessageQueue:
    """Ring of received frames.

    Args:
        high: Number of frames above which reading pauses; None for no limit.
        low: Number of frames at or below which reading resumes; None for no limit.
        max_bytes: Number of bytes above which reading pauses; None for no limit.
    """

    def __cinit__(self):
        self._reset()

    def __init__(self, high, low, max_bytes):
        self.high = UINT32_MAX if high is None else high
        self.low = UINT32_MAX if low is None else low
        self.max_bytes = UINT64_MAX if max_bytes is None else max_bytes
        self.reading_wanted = True

    def __dealloc__(self):
        cdef Item* item
        while self.frames:
            item = self._front()
            if item.inflated:
                add_inflated(-<int64_t>_size(<object>item.payload))
            Py_XDECREF(item.payload)
            self._head = (self._head + 1) % self._capacity
            self.frames -= 1
        if self._items != &self._first:
            free(self._items)

    cdef int _reset(self) noexcept:
        """Have room for one frame: most connections never need more."""
        self._items = &self._first
        self._capacity = 1
        self._head = 0

    cdef Item* _front(self) noexcept:
        return &self._items[self._head]

    cdef bint is_full(self) noexcept:
        """Tell whether there is no room for compressed frames."""
        return not self.reader_waiting and (
            self.frames > self.high or self.size > self.max_bytes or add_inflated(0) > MAX_INFLATED
        )

    cdef bint has_room(self) noexcept:
        """Tell whether they have waited long enough."""
        return self.reader_waiting or (
            self.frames <= self.low and self.size <= self.max_bytes and add_inflated(0) <= MAX_INFLATED
        )

    cdef bint drops_next(self) noexcept:
        """Tell whether the next frame is dropped: then so is every later one, and what was read remains a prefix."""
        if self._may_drop and self.is_full():
            self._dropping = True
        return self._dropping

    cdef int put(self, object payload, int opcode, bint fin, bint inflated) except -1:
        """Append a frame; return the activity bits."""
        cdef Item* items
        cdef Item* item
        cdef uint32_t capacity, i
        cdef int activity = FRAGMENT
        if unlikely(self.skipping):
            self.skipping = not fin
            return 0
        if unlikely(self.closing and self.drops_next()):
            return 0
        if unlikely(self.frames == self._capacity):
            capacity = max(MIN_CAPACITY, 2 * self._capacity)
            items = <Item*>malloc(capacity * sizeof(Item))
            if items == NULL:
                raise MemoryError
            for i in range(self.frames):
                items[i] = self._items[(self._head + i) % self._capacity]
            if self._items != &self._first:
                free(self._items)
            self._items = items
            self._capacity = capacity
            self._head = 0
        i = self._head + self.frames
        item = &self._items[i if i < self._capacity else i - self._capacity]
        Py_INCREF(payload)
        item.payload = <PyObject*>payload
        item.opcode = opcode
        item.fin = fin
        item.inflated = inflated
        if inflated:
            add_inflated(_size(payload))
        self.frames += 1
        self.size += _size(payload)
        if self.frames > self.most_frames:
            self.most_frames = self.frames
        if self.size > self.most_bytes:
            self.most_bytes = self.size
        if fin:
            self.messages += 1
            self.reader_waiting = False
            activity = MESSAGE | FRAGMENT
        if self.reading_wanted and not self.reader_waiting and not self.closing and (
            self.frames > self.high or self.size > self.max_bytes
        ):
            self.reading_wanted = False
            activity |= ATTENTION
        return activity

    cdef object _pop(self):
        cdef Item* item = self._front()
        cdef object payload = <object>item.payload
        self.frames -= 1
        self.messages -= item.fin
        self.size -= _size(payload)
        if item.inflated:
            add_inflated(-<int64_t>_size(payload))
        Py_XDECREF(item.payload)
        self._head += 1
        if self._head == self._capacity:
            self._head = 0
        if self.frames == 0 and self._capacity > MAX_IDLE_CAPACITY:
            free(self._items)
            self._reset()
        return payload

    cdef int _clear(self) except -1:
        while self.frames:
            self._pop()

    cdef int forget(self) except -1:
        """Forget all frames, and those that may follow: who reads finds no more."""
        self._clear()
        self._streaming = False
        self._decoder = None
        self._resume()
        self.closing = self._may_drop = self._dropping = True

    cdef int _resume(self) noexcept:
        if not self.reading_wanted and self.frames <= self.low and self.size <= self.max_bytes:
            self.reading_wanted = True

    cdef int skip_streamed(self) except -1:
        """Drop what is left of a message whose first fragments were taken one by one, if there is one."""
        cdef bint fin = False
        if not self._streaming:
            return 0
        self._streaming = False
        self._decoder = None
        while self.frames and not fin:
            fin = self._front().fin
            self._pop()
        self.skipping = not fin
        self._resume()

    cdef object next_message(self, object decode):
        """Return the next message, or None when there isn't a whole one."""
        cdef object payload
        cdef list payloads
        cdef int opcode
        cdef bint fin
        if unlikely(self._streaming):
            self.skip_streamed()
        if self.messages == 0:
            self.reader_waiting = True
            self.reading_wanted = True
            return None
        opcode = self._front().opcode
        fin = self._front().fin
        payload = self._pop()
        if unlikely(not fin):
            payloads = [payload]
            while not fin:
                fin = self._front().fin
                payloads.append(self._pop())
            payload = b"".join(payloads)
        if unlikely(not self.reading_wanted):
            self._resume()
        if decode is None:
            if unlikely(opcode == OP_TEXT and not PyUnicode_Check(payload)):
                return (<bytes>payload).decode()
            return payload
        if decode:
            return payload if PyUnicode_Check(payload) else (<bytes>payload).decode()
        return (<str>payload).encode() if PyUnicode_Check(payload) else payload

    cdef object next_fragment(self, object decode):
        """Return the next fragment and whether it is the last of its message, or None."""
        cdef Item* item
        cdef object payload
        cdef bint fin
        if self.frames == 0:
            self.reader_waiting = True
            self.reading_wanted = True
            return None
        item = self._front()
        fin = item.fin
        if decode is None:
            decode = item.opcode == OP_TEXT
        self.reader_waiting = False
        payload = self._pop()
        if decode and not PyUnicode_Check(payload):
            if self._decoder is None:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            payload = self._decoder.decode(payload, fin)
        elif not decode and PyUnicode_Check(payload):
            payload = (<str>payload).encode()
        self._streaming = not fin
        if fin:
            self._decoder = None
        if not self.reading_wanted:
            self._resume()
        return payload, fin

    cdef int drop_rest(self) noexcept:
        """Drop all that follows."""
        self._dropping = True

    cdef int set_closing(self, bint may_drop) except -1:
        """From now on read whatever comes.

        Args:
            may_drop: Whether what is above the high mark then is dropped.
        """
        self.closing = True
        self._may_drop = self._may_drop or may_drop
        self.reading_wanted = True


cdef inline uint64_t _size(object payload) noexcept:
    if PyUnicode_Check(payload):
        return OVERHEAD + <uint64_t>PyUnicode_GET_LENGTH(payload) * PyUnicode_KIND(payload)
    return OVERHEAD + <uint64_t>PyBytes_GET_SIZE(payload)
