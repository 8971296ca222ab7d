"""Messages that wait for the network to take more, as messages: none is framed or compressed before it leaves.

A message that was compressed with a context can't be dropped any more, since what follows refers to it. Knows which
one gives way to which; nothing of connections.
"""

from collections import deque

cimport cython

from .slow import Slow


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX


# What a message that waits costs besides its payload: objects and places in containers.
cdef Py_ssize_t OVERHEAD = 160

cdef dict _policies = {slow: number for number, slow in enumerate(Slow)}


@cython.final
cdef class Backpressure:
    """Backpressure(slow=None, max_backlog=33554432, *, key=None)\n--\n
    What becomes of messages while a peer doesn't read.

    Args:
        slow: Policy; None for that of the connection, with its limit, in what is sent to many of them.
        max_backlog: Bytes that may wait, with 160 for each message besides its payload; None for no limit.
        key: With ``Slow.LATEST``, what a message is the latest of. None is a key like any other.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """

    def __init__(self, slow: Slow | None = None, max_backlog: int | None = 2**25, *, key=None):
        if slow is not None and not isinstance(slow, Slow):
            raise TypeError(f"slow must be a member of Slow or None; got {slow!r}")
        if max_backlog is not None:
            if isinstance(max_backlog, bool) or not isinstance(max_backlog, int):
                raise TypeError(f"max_backlog must be int or None; got {type(max_backlog).__name__}")
            if max_backlog < 0:
                raise ValueError(f"max_backlog must be 0 or more, or None; got {max_backlog}")
        hash(key)
        self.slow = slow
        self.max_backlog = max_backlog
        self.key = key
        self.policy = -1 if slow is None else _policies[slow]
        self.limit = PY_SSIZE_T_MAX if max_backlog is None else min(max_backlog, PY_SSIZE_T_MAX)


@cython.final
cdef class Waiting:
    """A message that waits."""


@cython.final
cdef class Backlog:
    """What waits, in order."""

    def __cinit__(self):
        self._queue = deque()
        self._drops = deque()
        self._latest = {}

    cdef Py_ssize_t count(self) except -1:
        """Return the number of messages."""
        return len(self._queue) - self._gone

    cdef int add(self, Waiting new, Py_ssize_t size, Py_ssize_t limit) except -1:
        """Add a message if its policy lets it, at the expense of others if that says so.

        Args:
            new: The message.
            size: Size of its payload.
            limit: Limit on the bytes that wait.

        Returns:
            How many messages were dropped, or NO_ROOM if it needs room that can't be made by dropping any.
        """
        cdef Waiting old
        cdef Py_ssize_t kept
        cdef int dropped = 0
        new.size = OVERHEAD + size
        if new.policy == LATEST:
            old = self._latest.get(new.key)
            if old is not None:
                kept = self.size - self._droppable
                if new.size > limit - kept:
                    return 1
                # In its place: what changes often gets its turn nevertheless.
                self.size += new.size - old.size
                self._droppable += new.size - old.size
                old.message, old.opcode, old.compress, old.size = new.message, new.opcode, new.compress, new.size
                return 1 + self._make_room(0, limit, old)
        if new.policy != WAIT and new.size > limit - self.size:
            if new.policy == CLOSE_SLOW:
                return NO_ROOM
            if new.policy == DROP_NEWEST or new.size > limit - (self.size - self._droppable):
                return 1
            dropped = self._make_room(new.size, limit, None)
        self._queue.append(new)
        self.size += new.size
        if new.policy == LATEST:
            self._latest[new.key] = new
        if DROP_NEWEST <= new.policy <= LATEST:
            self._drops.append(new)
            self._droppable += new.size
        return dropped

    cdef int _make_room(self, Py_ssize_t size, Py_ssize_t limit, Waiting spared) except -1:
        """Drop what has waited longest, but for what mustn't be dropped; return the number of messages."""
        cdef int dropped = 0
        cdef Waiting waiting, kept = None
        while self.size > limit - size:
            waiting = self._drops.popleft()
            if waiting is spared:
                kept = waiting
                continue
            self._forget(waiting)
            waiting.gone = True
            waiting.message = waiting.key = None
            self._gone += 1
            dropped += 1
        if kept is not None:
            self._drops.appendleft(kept)
        self._tidy()
        return dropped

    def _forget(self, Waiting waiting):
        self.size -= waiting.size
        if DROP_NEWEST <= waiting.policy <= LATEST:
            self._droppable -= waiting.size
        if waiting.policy == LATEST:
            del self._latest[waiting.key]

    def _tidy(self):
        """Take what was dropped out of the queue: where it is first, and all if it is a quarter.

        To take each out of the middle would take the longer, the more wait.
        """
        while self._gone and (<Waiting>self._queue[0]).gone:
            self._queue.popleft()
            self._gone -= 1
        if 4 * self._gone > len(self._queue):
            self._queue = deque([waiting for waiting in self._queue if not (<Waiting>waiting).gone])
            self._gone = 0

    cdef Waiting take(self):
        """Remove and return what leaves next."""
        cdef Waiting waiting = self._queue.popleft()
        if DROP_NEWEST <= waiting.policy <= LATEST:
            self._drops.popleft()
        self._forget(waiting)
        if self._gone:
            self._tidy()
        return waiting

    cdef bint holds(self, uint64_t number) except -1:
        """Tell whether a message with this number, or an earlier one, waits."""
        return len(self._queue) > 0 and (<Waiting>self._queue[0]).number <= number
