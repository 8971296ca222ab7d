# cython: binding=False
"""What the threads of a program leave for the housekeeper.

No signal handler comes between the steps of what is done here with the mutex held.
"""

from time import monotonic

cimport cython
from libc.math cimport INFINITY


@cython.final
cdef class Inbox:
    """What threads leave for the housekeeper: which connections to tend, and when.

    Args:
        start: Called to start the housekeeper's thread.
        clock: What tells the time, by ``time()``, and makes what threads wait with, by ``waiter()``; None for what
            the operating system has. A waiter has a method ``wait``, which takes a time and returns whether ``release``
            was called before it.

    Attributes:
        clock: As above.
        live: Number of connections.
        gone: Number of connections that were closed since ``forget``.
        wake: Called to end the housekeeper's sleep; set by its thread.
    """

    def __init__(self, start, clock=None):
        self._start = start
        self.clock = clock
        self._posts = []
        self._until = -INFINITY

    cdef double now(self) except? -1.0:
        """Return the time for its connections."""
        return <double>monotonic() if self.clock is None else <double>self.clock.time()

    cdef int attach(self) except -1:
        """Count a connection; start the thread for the first one."""
        cdef bint start
        self._mutex.acquire()
        self.live += 1
        start = not self._running
        self._running = True
        self._mutex.release()
        if start:
            try:
                self._start()
            except BaseException as exc:
                self._mutex.acquire()
                self.live -= 1
                # An exception of a signal handler comes when the thread has started.
                self._running = not isinstance(exc, Exception)
                self._mutex.release()
                raise

    def abandon(self) -> None:
        """Tell that this is the child of a fork: the mutex may be held by a thread that isn't here."""
        self._abandoned = True

    cdef int detach(self) except -1:
        cdef bint last
        if self._abandoned:
            return 0
        self._mutex.acquire()
        self.live -= 1
        self.gone += 1
        last = self.live == 0
        self._ringing += last
        self._mutex.release()
        if last:
            self._ring()

    cdef int post(self, object driver, double when) except -1:
        """Have a connection tended at a time."""
        # Nothing is allocated with the mutex held: finalizers might run, and come here.
        cdef tuple entry = (when, driver)
        cdef bint wake
        self._mutex.acquire()
        self._posts.append(entry)
        wake = when < self._until
        if wake:
            self._until = -INFINITY
            self._ringing += 1
        self._mutex.release()
        if wake:
            self._ring()

    cdef int _ring(self) except -1:
        try:
            if self.wake is not None:
                self.wake(b"\0")
        except OSError:
            pass  # it was rung often enough, or the thread has ended
        finally:
            self._mutex.acquire()
            self._ringing -= 1
            self._mutex.release()

    def take(self) -> list:
        """Return and forget pairs of a time and a connection."""
        cdef list empty = []
        self._mutex.acquire()
        posts, self._posts = self._posts, empty
        self._mutex.release()
        return posts

    def sleep(self, double until) -> bool:
        """Tell that the housekeeper sleeps; return False if there is something for it."""
        cdef bint idle
        self._mutex.acquire()
        idle = not self._posts
        if idle:
            self._until = until
        self._mutex.release()
        return idle

    def awake(self) -> None:
        """Tell that the housekeeper is awake."""
        self._mutex.acquire()
        self._until = -INFINITY
        self._mutex.release()

    def forget(self) -> None:
        """Count closed connections anew."""
        self._mutex.acquire()
        self.gone = 0
        self._mutex.release()

    def finish(self) -> bool:
        """Tell that the thread ends; return False if it mustn't."""
        cdef bint end
        self._mutex.acquire()
        # A descriptor that is closed too early may be a connection's when a thread writes to it.
        end = self.live == 0 and not self._posts and self._ringing == 0
        if end:
            self._running = False
            self._until = -INFINITY
        self._mutex.release()
        return end


cdef class Endpoint:
    """What stands for a socket below a connection, for tests: it has the methods of one, and those that raise here.

    Its ``fileno`` returns -1.

    Args:
        inbox: Where threads leave what is to be done with the connection; it has a clock.

    Attributes:
        inbox: As above.
    """

    def __init__(self, Inbox inbox not None):
        self.inbox = inbox

    def receive(self, buffer, double deadline):
        """Receive into a buffer; block until the deadline.

        Args:
            buffer: Writable buffer.
            deadline: When to return at the latest, by the clock of the inbox; may be infinite.

        Returns:
            Number of bytes, 0 at the end of the stream, None if there are none in time.

        Raises:
            OSError: If the connection is broken.
        """
        raise NotImplementedError

    def send_now(self, data):
        """Send as much as possible without waiting; return the size of that.

        Args:
            data: Bytes-like object.

        Raises:
            OSError: If the connection is broken.
        """
        raise NotImplementedError

    def wait_writable(self):
        """Wait until something can be sent, or sending fails."""
        raise NotImplementedError


cdef Inbox _inbox = None


cdef Inbox current_inbox():
    """Return the inbox of this process's housekeeper."""
    return _inbox


def set_inbox(Inbox inbox not None) -> None:
    """Have connections use an inbox; after a fork, also those that had another one."""
    global _inbox
    _inbox = inbox
