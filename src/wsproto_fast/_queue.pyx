"""Received messages waiting for the application.

A ring of frames with two marks: above the high one reading pauses, at or below the low one it resumes.
Reading never pauses while somebody waits for a message, since the rest of that message may be what is
still to be read; what can queue up meanwhile is bounded by the limits on a message's size and fragments.
"""

import codecs

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ._frames cimport OP_TEXT


# What a queued frame costs besides its payload: the object's header and its place in the ring.
cdef uint64_t OVERHEAD = 72
cdef uint32_t MIN_CAPACITY = 4
# A ring that grew beyond this is released when it becomes empty.
cdef uint32_t MAX_IDLE_CAPACITY = 32


cdef class MessageQueue:
    """Ring of received frames.

    Args:
        high: Number of frames above which reading pauses; None for no limit.
        low: Number of frames at or below which reading resumes; None for no limit.
        max_bytes: Number of bytes above which reading pauses; None for no limit.
    """

    def __init__(self, high, low, max_bytes):
        self.high = UINT32_MAX if high is None else high
        self.low = UINT32_MAX if low is None else low
        self.max_bytes = UINT64_MAX if max_bytes is None else max_bytes
        self.reading_wanted = True

    def __dealloc__(self):
        while self.frames:
            Py_XDECREF(self._front().payload)
            self._head = (self._head + 1) % self._capacity
            self.frames -= 1
        free(self._items)

    cdef Item* _front(self) noexcept:
        return &self._items[self._head]

    cdef int put(self, object payload, int opcode, bint fin) except -1:
        """Append a frame; return the activity bits."""
        cdef Item* items
        cdef Item* item
        cdef uint32_t capacity, i
        cdef int activity = FRAGMENT
        if self._skipping:
            if fin:
                self._skipping = False
            return 0
        if self._closing and (self._dropping or self.frames > self.high or self.size > self.max_bytes):
            # Once one frame was dropped, so is every later one: what was read remains a prefix.
            self._dropping = True
            return 0
        if self.frames == self._capacity:
            capacity = MIN_CAPACITY if self._capacity == 0 else 2 * self._capacity
            items = <Item*>malloc(capacity * sizeof(Item))
            if items == NULL:
                raise MemoryError
            for i in range(self.frames):
                items[i] = self._items[(self._head + i) % self._capacity]
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
        self.frames += 1
        self.size += _size(payload)
        if fin:
            self.messages += 1
            self.reader_waiting = False
            activity = MESSAGE | FRAGMENT
        if self.reading_wanted and not self.reader_waiting and not self._closing and (
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
        Py_XDECREF(item.payload)
        self._head += 1
        if self._head == self._capacity:
            self._head = 0
        if self.frames == 0 and self._capacity > MAX_IDLE_CAPACITY:
            free(self._items)
            self._items = NULL
            self._capacity = 0
            self._head = 0
        return payload

    cdef int _clear(self) except -1:
        while self.frames:
            self._pop()

    cdef int _resume(self) noexcept:
        if not self.reading_wanted and self.frames <= self.low and self.size <= self.max_bytes:
            self.reading_wanted = True

    cdef int _skip_streamed(self) except -1:
        """Drop what is left of a message whose first fragments were taken one by one."""
        cdef bint fin = False
        self._streaming = False
        self._decoder = None
        while self.frames and not fin:
            fin = self._front().fin
            self._pop()
        self._skipping = not fin

    cdef object next_message(self, object decode):
        """Return the next message, or None when there isn't a whole one."""
        cdef object payload
        cdef list payloads
        cdef int opcode
        cdef bint fin
        if self._streaming:
            self._skip_streamed()
        if self.messages == 0:
            self.reader_waiting = True
            self.reading_wanted = True
            return None
        opcode = self._front().opcode
        fin = self._front().fin
        payload = self._pop()
        if not fin:
            payloads = [payload]
            while not fin:
                fin = self._front().fin
                payloads.append(self._pop())
            payload = b"".join(payloads)
        if not self.reading_wanted:
            self._resume()
        if decode is None:
            if opcode == OP_TEXT and not PyUnicode_Check(payload):
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

    cdef int set_closing(self) except -1:
        """From now on read whatever comes and drop what is above the high mark."""
        self._closing = True
        self.reading_wanted = True


cdef inline uint64_t _size(object payload) noexcept:
    if PyUnicode_Check(payload):
        return OVERHEAD + <uint64_t>PyUnicode_GET_LENGTH(payload) * PyUnicode_KIND(payload)
    return OVERHEAD + <uint64_t>PyBytes_GET_SIZE(payload)
