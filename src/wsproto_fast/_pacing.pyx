"""What waits while the peer doesn't read, for how long, and what becomes of it; and how fast the peer may send.

Messages that may be dropped wait in a backlog, unframed, from the moment in which the driver tells that writing is
paused; when it tells that writing resumes, or a fragmented message is complete, they leave in order, and what is sent
meanwhile waits behind them. Pings and Pongs pass them. A Close frame of the application's follows them; any other end
takes their place.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport INFINITY, NAN, isnan

from ._backlog cimport CLOSE_SLOW, NO_ROOM, WAIT, Backlog, Backpressure, Waiting
from ._endpoint cimport CLOSED, to_bytes
from ._frames cimport OP_BINARY, OP_CLOSE, OP_PONG, OP_TEXT
from ._keepalive cimport Keepalive
from ._queue cimport ATTENTION, OUTPUT
from ._rates cimport RateLimiter
from ._sender cimport BACKLOG, FRAGMENTS, PAUSED, PreparedMessage
from ._settings cimport write_deadline_of

from .exceptions import ConcurrencyError
from .frames import CloseCode
from .rates import Rate
from .slow import Slow


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX


# What leaves of the backlog together, in bytes.
cdef Py_ssize_t BURST = 1 << 15

# How often the driver is asked what the network has taken, within the time in which that must be something.
cdef double LOOKS = 4.0

cdef list _slow = list(Slow)


@cython.final
cdef class Congestion:
    """What is known of a connection whose peer doesn't read, or didn't."""

    def __cinit__(self):
        self.stalled_since = NAN


cdef class Pacing(Keepalive):
    """A connection that knows what to do while its peer doesn't read."""

    def __cinit__(self):
        self._write_deadline = self._look_time = INFINITY
        self._close_timeout = self._close_deadline = INFINITY

    cdef Congestion _congested(self):
        """Return what is known of the peer's not reading, which is made when it is first needed."""
        if self._congestion is None:
            with cython.critical_section(self):  # statistics are read by any thread
                self._congestion = Congestion.__new__(Congestion)
        return self._congestion

    # ------------------------------------------------------------------ settings

    def set_backpressure(
        self, Backpressure backpressure=None, *, write_deadline: float | None = None
    ) -> None:
        """Set what becomes of messages while writing is paused.

        Args:
            backpressure: Policy and limit for ``send`` and its kin, and for messages to many connections that have
                no policy of their own; None or ``Slow.WAIT`` if who sends waits. What waits already stays.
            write_deadline: Seconds for which the network may take nothing while writing is paused; None for no
                limit. The driver is asked for its ``progress`` four times in this time, and what is found late
                isn't held against the peer, unless that is so twice running: it is aborted after at most half as long
                again if the driver is in time.

        Raises:
            ValueError: If one isn't acceptable.
        """
        cdef double deadline = write_deadline_of(write_deadline)
        if backpressure is not None and backpressure.policy < 0:
            raise ValueError("a connection needs a policy: slow mustn't be None")
        self._write_deadline = deadline
        self._backpressure = None if backpressure is None or backpressure.policy == WAIT else backpressure
        self._look_time = INFINITY
        if self._writing_paused and deadline != INFINITY and self._state != CLOSED:
            self._look_time = self._now
        if self._congestion is not None:
            self._congestion.stalled_since = NAN

    def limit_rates(self, messages=None, size=None, *, now: float | None = None) -> None:
        """Limit what the peer may send in a given time, from now on.

        While it has to wait, ``reading_wanted`` is false, and ``next_timeout()`` tells until when.

        Args:
            messages: Limit on messages, Pings, and Pongs beyond the answers to our Pings: a ``Rate``, a number per
                second, or None for no limit.
            size: Limit on the bytes of their payloads, as they are received.
            now: Current time.

        Raises:
            TypeError, ValueError: If a limit isn't acceptable.
        """
        messages, size = Rate.of("messages", messages), Rate.of("size", size)
        self._now = self._time(now)
        self._rates = None if messages is None and size is None else RateLimiter(messages, size, self._now)
        if self._rates is not None and self._received.pongs > self._sent.pings:
            self._rates.pongs = self._received.pongs - self._sent.pings

    # ------------------------------------------------------------------ the network

    def pause_writing(self, Py_ssize_t unsent = 0) -> None:
        """Tell that the network doesn't take what is sent.

        Pings aren't answered one by one any more, and messages that may be dropped wait.

        Args:
            unsent: Number of bytes that were taken from the output, and wait; for ``stats``.
        """
        self._writing_paused = True
        self._note_waiting(unsent)
        self._obstacles |= PAUSED
        if self._write_deadline != INFINITY and self._state != CLOSED:
            # The time isn't told. What the driver finds is the beginning.
            self._look_time = self._now
            self._congested().stalled_since = NAN

    def resume_writing(self) -> None:
        """Tell that the network takes what is sent again."""
        self._writing_paused = False
        self._obstacles &= ~PAUSED
        self._look_time = INFINITY
        if self._delayed_pong is not None:
            payload, self._delayed_pong = self._delayed_pong, None
            if not self._discarding:
                self._write_control(OP_PONG, payload)
        if self._obstacles == BACKLOG:
            self._refill(False)

    @property
    def progress_wanted(self) -> bool:
        """Whether ``progress`` would matter to ``handle_timeout``: writing is paused, and that has a limit."""
        return self.wants_progress()

    cdef int _handle_pacing(self, double now, object progress) except -1:
        """Do what is due at ``now``, as ``handle_timeout`` does."""
        cdef double late = now - self._look_time
        cdef bint excused = False
        cdef Congestion congestion
        if self._close_deadline_due:
            self._close_deadline_due = False
            self._close_deadline = now + min(self._close_timeout, self._write_deadline)
        if self._look_time > now:
            return 0
        if not self._writing_paused or self._state == CLOSED:
            self._look_time = INFINITY
            return 0
        congestion = self._congested()
        if isnan(congestion.stalled_since) or progress != congestion.progress:
            congestion.stalled_since = now
            congestion.progress = progress
        elif late > self._write_deadline / LOOKS and not congestion.excused:
            # The caller comes late: it may not have had time to write either. If it comes late each time, which is so
            # where that is less than its clock tells, it has had some.
            congestion.stalled_since += late
            excused = True
        elif now >= congestion.stalled_since + self._write_deadline:  # the sum below: it may be rounded
            self._look_time = INFINITY
            self.give_up(
                TimeoutError(f"peer doesn't read: nothing was taken for {self._write_deadline:g} seconds")
            )
            return 0
        congestion.excused = excused
        self._look_time = min(now + self._write_deadline / LOOKS, congestion.stalled_since + self._write_deadline)

    cdef Py_ssize_t _note_waiting(self, Py_ssize_t unsent) except -1:
        """Return how many bytes wait for the network, and remember the most.

        Args:
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
        """
        cdef Py_ssize_t waiting = unsent + self._output.size
        with cython.critical_section(self):  # statistics are read by any thread
            if self._backlog() is not None:
                waiting += self._backlog().size
        self._output.most = max(self._output.most, waiting)
        return waiting

    # ------------------------------------------------------------------ what waits

    @property
    def backlog_size(self) -> int:
        """Bytes of messages that wait for the network, 160 for each besides its payload."""
        cdef Backlog backlog
        with cython.critical_section(self):  # statistics are read by any thread
            backlog = self._backlog()
        return 0 if backlog is None else backlog.size

    @property
    def backlog_messages(self) -> int:
        """Number of messages that wait for the network."""
        cdef Backlog backlog
        with cython.critical_section(self):  # statistics are read by any thread
            backlog = self._backlog()
        return 0 if backlog is None else backlog.count()

    @property
    def backlog_mark(self) -> int:
        """Number of the message that has begun to wait last, for ``is_waiting``."""
        return self.last_in_backlog()

    def is_waiting(self, mark: int) -> bool:
        """Tell whether messages still wait for the network that did when ``backlog_mark`` was read.

        Those that wait for the end of a message in fragments don't count: who sends that would wait for itself.

        Args:
            mark: ``backlog_mark`` at that time.
        """
        return self.backlog_holds(mark)

    @property
    def dropped(self) -> dict:
        """Number of messages dropped so far, by policy."""
        cdef dict dropped = None
        with cython.critical_section(self):  # statistics are read by any thread
            if self._congestion is not None:
                dropped = self._congestion.dropped
        return {} if dropped is None else dropped.copy()

    def dropped_messages(self) -> dict:
        """Return and forget the number of messages dropped since the last call, by policy."""
        if not self.has_dropped():
            return {}
        dropped, self._congestion.unreported = self._congestion.unreported, None
        return dropped

    @property
    def waits_to_send(self) -> bool:
        """Whether who sends is to wait while writing is paused: there is no other policy."""
        return self.sender_waits()

    cdef int _send_later(self, message, text, compress) except -1:
        cdef Backpressure terms = self._backpressure
        cdef bytes payload
        cdef int opcode
        if terms is None:
            if self._obstacles & FRAGMENTS:
                raise ConcurrencyError("a fragmented message is being sent")
            if not self._obstacles & BACKLOG:
                return 0
        if text is None:
            opcode = OP_TEXT if PyUnicode_Check(message) else OP_BINARY
        else:
            opcode = OP_TEXT if text else OP_BINARY
            if text and self.validate_text and not PyUnicode_Check(message) and not self._obstacles & FRAGMENTS:
                self._sending_utf8.missing = self._sending_utf8.seen = 0
                self._check_sent_text(message, True)
        payload = to_bytes("message", message)
        if opcode == OP_TEXT and self._obstacles & FRAGMENTS and self.validate_text:
            payload.decode()  # the check above is in the middle of another message
        if terms is None:
            return self._keep_waiting(payload, opcode, compress, WAIT, None, PyBytes_GET_SIZE(payload), PY_SSIZE_T_MAX)
        return self._keep_waiting(
            payload, opcode, compress, terms.policy, terms.key, PyBytes_GET_SIZE(payload), terms.limit
        )

    cdef int _send_prepared_later(self, PreparedMessage message, compress) except -1:
        cdef Backpressure terms = self._backpressure
        if terms is None:
            if self._obstacles & FRAGMENTS:
                raise ConcurrencyError("a fragmented message is being sent")
            if not self._obstacles & BACKLOG:
                return 0
            return self._keep_waiting(
                message, 0, compress, WAIT, None, PyBytes_GET_SIZE(message._payload), PY_SSIZE_T_MAX
            )
        return self._keep_waiting(
            message, 0, compress, terms.policy, terms.key, PyBytes_GET_SIZE(message._payload), terms.limit
        )

    def offer(
        self,
        PreparedMessage message not None,
        Backpressure terms not None,
        *,
        unsent: int = 0,
        compress: bool | None = None,
        now: float | None = None,
    ) -> int:
        """Send a message that goes to many connections, for none of which anybody waits.

        Args:
            message: Message.
            terms: What becomes of it, and at whose expense, while the network takes no more. With
                ``Slow.WAIT``, the connection is given up if more bytes wait already than its limit, ``unsent`` and
                the output among them.
            unsent: Number of bytes that were taken from the output, and the network hasn't taken yet.
            compress: As in ``send``.
            now: Current time.

        Returns:
            Activity bits, with ``ATTENTION`` if messages were dropped (``dropped_messages``) or the connection was
            closed or given up.

        Raises:
            InvalidState: If the connection isn't open.
            ConcurrencyError: With ``Slow.WAIT``, if a fragmented message is being sent.
        """
        return self.offer_message(message, compress, terms, unsent, self._time(now))

    cdef int offer_message(
        self, PreparedMessage message, compress, Backpressure terms, Py_ssize_t unsent, double now
    ) except -1:
        cdef int policy = terms.policy
        cdef Py_ssize_t limit = terms.limit
        self._require_state(False)
        self._now = now
        if policy < 0:
            policy = WAIT
            if self._backpressure is not None:
                policy, limit = self._backpressure.policy, self._backpressure.limit
        if policy == WAIT:
            if self._obstacles & FRAGMENTS:
                raise ConcurrencyError("a fragmented message is being sent")
            if self._obstacles and self._note_waiting(unsent) > limit:
                self._give_up_backlog(limit)
                return OUTPUT | ATTENTION
            if self._obstacles & BACKLOG:
                return self._keep_waiting(
                    message, 0, compress, WAIT, None, PyBytes_GET_SIZE(message._payload), PY_SSIZE_T_MAX
                )
        elif self._obstacles:
            return self._keep_waiting(
                message, 0, compress, policy, terms.key, PyBytes_GET_SIZE(message._payload), limit
            )
        self._write_prepared(message, compress)
        return self._pending()

    def _give_up_backlog(self, limit):
        self.give_up(
            ConnectionAbortedError(f"peer doesn't read: more than {limit} bytes wait to be sent")
        )

    cdef int _keep_waiting(
        self, message, int opcode, compress, int policy, key, Py_ssize_t size, Py_ssize_t limit
    ) except -1:
        """Have a message wait, or drop it, or others; return the activity bits."""
        cdef Waiting waiting = Waiting.__new__(Waiting)
        cdef Congestion congestion = self._congested()
        cdef Backlog backlog = congestion.backlog
        cdef int dropped
        if backlog is None:
            backlog = Backlog.__new__(Backlog)
            with cython.critical_section(self):  # statistics are read by any thread
                congestion.backlog = backlog
        congestion.numbered += 1
        waiting.message, waiting.opcode, waiting.compress = message, opcode, compress
        waiting.policy, waiting.key, waiting.number = policy, key, congestion.numbered
        dropped = backlog.add(waiting, size, limit)
        if dropped == NO_ROOM:
            self._close_slow(limit)
            return OUTPUT | ATTENTION
        if backlog.count():
            self._obstacles |= BACKLOG
        else:
            self._forget_backlog()
        if dropped:
            self._count_dropped(policy, dropped)
            return OUTPUT | ATTENTION
        return OUTPUT

    cdef int _count_dropped(self, int policy, Py_ssize_t number) except -1:
        cdef Congestion congestion = self._congested()
        slow = _slow[policy]
        if congestion.dropped is None:
            with cython.critical_section(self):  # statistics are read by any thread
                congestion.dropped = {}
        congestion.dropped[slow] = congestion.dropped.get(slow, 0) + number
        if congestion.unreported is None:
            congestion.unreported = {}
        congestion.unreported[slow] = congestion.unreported.get(slow, 0) + number

    cdef int _close_slow(self, Py_ssize_t limit) except -1:
        """Close the connection because of a message that finds no room."""
        # RFC 6455 section 7.4, and the registry that it founds: 1013 is "try again later".
        self._count_dropped(CLOSE_SLOW, self._backlog().count() + 1)
        if self.parser_exc is None:
            self.parser_exc = ConnectionAbortedError(
                f"peer doesn't read: more than {limit} bytes wait to be sent"
            )
        self._drop_backlog()
        self.send_close(CloseCode.TRY_AGAIN_LATER, "too far behind with reading")
        # Who sends doesn't tell the time: it is due at once to be told, and the end begins then.
        self._close_deadline_due = True
        self._close_deadline = self._now
        self._activity |= ATTENTION

    cdef int _refill(self, bint all) except -1:
        cdef Backlog backlog = self._backlog()
        cdef Waiting waiting
        while backlog is not None and backlog.count() and (all or self._output.size < BURST):
            waiting = backlog.take()
            try:
                if waiting.opcode:
                    self._write_data(waiting.opcode, waiting.message, True, waiting.compress)
                else:
                    self._write_prepared(waiting.message, waiting.compress)
            except Exception as exc:
                # Only an extension of the program does that. Nobody is there to be told.
                if self.parser_exc is None:
                    self.parser_exc = exc
                self._fail(CloseCode.INTERNAL_ERROR, "")
                return 0
            backlog = self._backlog()
        if backlog is not None and not backlog.count():
            self._drop_backlog()

    cdef int _write_close(self, bytes payload) except -1:
        """Write the Close frame of the application, behind what waits."""
        if self._obstacles & FRAGMENTS:
            # That message has no end any more: what waits for it never leaves.
            self._drop_backlog()
        if not self._obstacles & BACKLOG:
            return self._write_control(OP_CLOSE, payload)
        self._congestion.waiting_close = payload

    cdef int _forget_backlog(self) except -1:
        if self._congestion is not None:
            with cython.critical_section(self):
                self._congestion.backlog = None

    cdef int _drop_backlog(self) except -1:
        """Forget what waits, but for a Close frame, which leaves."""
        cdef Congestion congestion = self._congestion
        cdef bytes payload
        if congestion is None:
            return 0
        payload = congestion.waiting_close
        self._forget_backlog()
        self._obstacles &= ~BACKLOG
        if payload is not None:
            congestion.waiting_close = None
            self._write_control(OP_CLOSE, payload)
