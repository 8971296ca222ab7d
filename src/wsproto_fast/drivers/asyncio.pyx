# cython: binding=False
"""Drives connections with asyncio's transports: what is done for every message.

What is done when something changes is up to an owner, in Python: the ``asyncio.BufferedProtocol`` that the
transport calls, most often, which passes on what it is called with. No protocol rule is in either.

Three things make it fast. A coroutine that waits for a message is resumed at once, inside the transport's
callback: a future would resume it in the loop's next turn, by way of a handle allocated, queued, and run,
although nothing else has to happen first. And what a coroutine sends in that turn leaves in one write, when
it waits again. That write is a system call on the transport's socket, not a call of the transport, as long as
that has nothing to write itself.
"""

import _asyncio
import asyncio
import sys
from asyncio import Future

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.math cimport INFINITY
from libc.string cimport memcpy

from wsproto_fast cimport (
    ATTENTION,
    CLOSE,
    FLUSH,
    FRAGMENT,
    MESSAGE,
    Backpressure,
    PreparedMessage,
    Protocol,
)

from wsproto_fast._flag cimport unlikely

from ._clock cimport monotonic
from ._timers cimport LoopParts, Timed, parts_of
from ._transports cimport (
    MAX_PARTS,
    NO_LINES,
    PLAIN_LINES,
    iovec,
    point_at,
    lines_of,
    send_now,
    send_parts_now,
    writable_descriptor,
)

from wsproto_fast.exceptions import ConcurrencyError

from .liveness import bytes_acknowledged


# What a record of TLS has at most, in bytes (RFC 8446 section 5.1).
cdef Py_ssize_t RECORD_SIZE = 16384
# What is encrypted together, in bytes: memory for so much is used again and again, and stays in the processor's cache.
cdef Py_ssize_t RECORDS = 8 * RECORD_SIZE

cdef object current_task = asyncio.current_task

cdef object _Task = _asyncio.Task

# The tasks that are running, by their event loops, as long as asyncio has them in a dictionary.
cdef object _current_tasks = getattr(asyncio.tasks, "_current_tasks", None) if sys.version_info < (3, 14) else None


# What each message needs of the future that is waited on: not looked up by name, that takes half as long.
cdef object _blocking = Future._asyncio_future_blocking
cdef object _remove_done_callback = Future.remove_done_callback


cdef class _NoLoop:
    """What a future asks of its event loop if nothing ever waits for it."""

    def get_debug(self) -> bool:
        return False


# What a task reads its result from when it is resumed here: it is of no loop, so that it keeps none alive.
cdef object _done = Future(loop=_NoLoop())
_done.set_result(None)


cdef extern from *:
    """
    static PyObject *wsproto_fast_current_context(void) {
        PyObject *context = PyThreadState_Get()->context;
        return Py_NewRef(context == NULL ? Py_None : context);
    }

    /* Set an attribute that the type of an object describes, without looking it up for each message. */
    static int wsproto_fast_set_described(PyObject *object, PyObject *descriptor, PyObject *name, PyObject *value) {
        descrsetfunc set = Py_TYPE(descriptor)->tp_descr_set;
        return set != NULL ? set(descriptor, object, value) : PyObject_SetAttr(object, name, value);
    }

    /* Call back in a context; return 0 without that if it is entered already. */
    static int wsproto_fast_call_in(PyObject *context, PyObject *callback, PyObject *argument) {
        PyObject *result;
        if (PyContext_Enter(context) < 0) {
            if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
                return -1;
            }
            PyErr_Clear();
            return 0;
        }
        result = PyObject_CallOneArg(callback, argument);
        if (PyContext_Exit(context) < 0 || result == NULL) {
            Py_XDECREF(result);
            return -1;
        }
        Py_DECREF(result);
        return 1;
    }

    /* Whether a callback resumes a task of compiled code. */
    static int wsproto_fast_is_wakeup(PyObject *callback, PyObject *task_type) {
        PyObject *task;
        return PyCFunction_CheckExact(callback) && (task = PyCFunction_GET_SELF(callback)) != NULL
            && PyObject_TypeCheck(task, (PyTypeObject *)task_type);
    }

    /* A bound method would be one more object for each connection, as long as it lasts. */
    static void wsproto_fast_set_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    unsigned char* PyUnicode_1BYTE_DATA(object text)
    object current_context "wsproto_fast_current_context"()
    void set_vectorcall "wsproto_fast_set_vectorcall"(PyTypeObject* type, Py_ssize_t offset)
    Py_ssize_t PyVectorcall_NARGS(size_t arguments)
    bint is_wakeup "wsproto_fast_is_wakeup"(object callback, object task_type)
    int set_described "wsproto_fast_set_described"(object, object descriptor, object name, object value) except -1
    int call_in "wsproto_fast_call_in"(object context, object callback, object argument) except -1


@cython.final
@cython.no_gc
@cython.freelist(4)
cdef class _Callback:
    """Equal to the callback of a task, so that `remove_done_callback` of a future tells it which one it had.

    The list that a future gives of its callbacks costs four times as much. Other callbacks stay: they may want
    their own future. Tasks in Python are among them, since programs that put those in place of asyncio's do so to
    run the event loop within a task, and then a turn of the transport needn't end before the task goes on.
    """

    cdef object found

    def __eq__(self, callback):
        if self.found is not None or not is_wakeup(callback, _Task):
            return False
        self.found = callback
        return True


cdef object running_loop = asyncio._get_running_loop


@cython.final
cdef class TransportDriver(Timed):
    """TransportDriver(connection, protocol, loop)\n--\n
    Moves messages between a transport, an engine, and the coroutines that wait.

    One coroutine may receive at a time.

    Args:
        connection: Owner, whose methods are called when there is something for them. Their names begin with an
            underscore since programs see the owner: ``_update_opening()`` while ``opening``;
            ``_acknowledge_pings()`` for ``protocol.acknowledged_pings()``; ``_act(action)`` to obey a new
            ``protocol.transport_action``; ``_update_reading()`` to pause or resume reading as
            ``protocol.reading_wanted`` says, and to tell ``reading_paused``; ``_timer_expired()`` to call
            ``protocol.handle_timeout``, then ``update``; ``_report_drops()`` for ``protocol.dropped_messages()``.
            ``_transport`` is its transport.
        protocol: Engine of the connection; it queues messages, and is given a read buffer.
        loop: Event loop of the connection.

    Attributes:
        descriptor: Descriptor of the socket, to write past the transport; -1 where only that can write.
        receiver: What the coroutine that receives is doing, for error messages; None if none does.
        streaming: Whether it takes single fragments.
        reading_paused: Whether reading from the transport is paused; the owner tells.
        writing_paused: Whether the transport has too much to write; the owner tells.
        sending_fragments: Whether a fragmented message is being sent; the owner tells.
        opening: Whether the opening handshake isn't complete; the owner tells.
        exposed: Whether the application has the transport, and may close it.
        failure: Exception of writing, if that failed.
        given_up: Whether the transport is of no use any more.
        timer_time: When the engine is going to be called, of ``time.monotonic``; infinite if no timer is set.
    """

    # Without these, there is no driver.
    def __cinit__(self, connection, Protocol protocol not None, loop):
        self._connection = connection
        self._protocol = protocol
        cdef LoopParts parts = parts_of(loop)
        protocol.use_read_buffer(parts.read_buffer)
        self._timers = parts.timers(loop)
        self.timer_time = INFINITY
        self.descriptor = -1
        self._vectorcall = <void*>_call_driver

    def connection_made(self, transport) -> None:
        """Start writing to a transport.

        Args:
            transport: What writes.
        """
        self._transport = transport
        if self.exposed:
            self._write = transport.write
        self.descriptor = writable_descriptor(transport)
        self._lines = lines_of(transport)
        # It may have been somebody else's before.
        self._buffering = True

    def connection_lost(self) -> None:
        """Stop writing; let who waits see that the connection is closed."""
        self._lost = True
        self.reading_paused = False
        self.descriptor = -1
        self._timers.stop_timer(self)
        self._connection = self._transport = self._write = None
        if self._waiting:
            self._wake()

    def expose(self) -> None:
        """Take note that the application gets the transport, and may close it.

        What was sent before is written before. From now on nothing waits for the end of a turn.
        """
        if not self.exposed and self._transport is not None:
            self._write = self._transport.write
        self.exposed = True
        if self._protocol.output_left() and not self._lost and running_loop() is self._timers.loop:
            self._flush()

    def update(self) -> None:
        """Do what follows from a change in the engine."""
        if not self._lost:
            self._update()

    cdef int _update(self) except -1:
        cdef Protocol protocol = self._protocol
        cdef object connection = self._connection
        if self.opening:
            connection._update_opening()
        self._flush()
        if protocol.has_acknowledged_pings():
            connection._acknowledge_pings()
        if protocol.transport_action != self._action and not self._handing_over:
            self._action = protocol.transport_action
            connection._act(self._action)
        if self._lost:
            return 0
        if protocol.wants_reading() == self.reading_paused and not self._waking:
            connection._update_reading()
        self._update_timer()

    def update_timer(self) -> None:
        """Take note that the engine may have to be called earlier than before."""
        if not self._lost:
            self._update_timer()

    cdef int _update_timer(self) except -1:
        # A timer that is set for an earlier time stays: it costs less to find that nothing is due than to
        # set another one.
        cdef double deadline = self._protocol.next_deadline()
        if deadline < self.timer_time:
            self._set_timer(deadline)

    def set_timer(self, double deadline) -> None:
        """Have the engine called at a time, if that is earlier than it is going to be called.

        Args:
            deadline: The time, of ``time.monotonic``.
        """
        if deadline < self.timer_time:
            self._set_timer(deadline)

    cdef int _set_timer(self, double deadline) except -1:
        self.timer_time = deadline
        self._timers.set_timer(self, deadline - self._protocol.actual_time(monotonic()))

    cdef int timer_expired(self) except -1:
        self.timer_time = INFINITY
        self._connection._timer_expired()

    def begin_closing(self, code, reason) -> None:
        """Start the closing handshake, as ``Protocol.close`` does; arguments are the same."""
        if self.exposed:
            self.is_gone()
        self._protocol.close(code, reason, now=monotonic())
        self.update()

    # ------------------------------------------------------------------ receiving

    def buffer_updated(self, Py_ssize_t nbytes) -> None:
        """Pass on what the transport received into ``protocol.get_buffer()``.

        Args:
            nbytes: Number of bytes.
        """
        self._received(nbytes)

    def __call__(self, Py_ssize_t nbytes) -> None:
        """Do what ``buffer_updated`` does."""
        self._received(nbytes)

    cdef int _received(self, Py_ssize_t nbytes) except -1:
        self._protocol.begin_turn()
        self._in_turn = self._listening
        try:
            self._buffer_updated(nbytes)
        finally:
            self._in_turn = False
            self._protocol.end_turn()

    cdef int _buffer_updated(self, Py_ssize_t nbytes) except -1:
        cdef int activity = ATTENTION
        cdef bint processed = False
        try:
            activity = self._protocol.process_buffer(nbytes, monotonic())
            processed = True
        finally:
            if unlikely(not processed):
                # A callback ends the event loop, which may be run again, for what follows.
                self._in_turn = False
                self._update()
        self._in_turn = False
        self._wrote = False
        if unlikely(activity & ATTENTION != 0):
            # Who waits takes what may be too much for the queue: whether reading pauses is seen after that.
            self._waking = self._waiting
            try:
                self._update()
            finally:
                self._waking = False
            if self._listening:
                self._go_on_listening()
        self._in_turn = True
        if unlikely(activity & ATTENTION != 0):
            try:
                self._wake_for(activity)
            finally:
                # Also if who was resumed ends the event loop, as sys.exit() does: it may be run again.
                if not self._lost and self._protocol.wants_reading() == self.reading_paused:
                    self._connection._update_reading()
        else:
            self._wake_for(activity)
        if self._protocol.output_left() and not self._flush_scheduled and not self._lost:
            self._flush()

    def go_on_listening(self) -> None:
        """Call back with what waits since the network didn't take the answers."""
        if self._listening:
            self._go_on_listening()

    cdef int _go_on_listening(self) except -1:
        while not self._lost and self._protocol.can_process_kept():
            self._in_turn = True
            try:
                self._protocol.process_kept(monotonic())
            finally:
                self._in_turn = False
            self._update()

    def listen(self, on_message, on_frame, listener) -> None:
        """Have callbacks called with what is received; nobody else receives from now on.

        Args:
            on_message: As for ``Protocol.listen``.
            on_frame: As for ``Protocol.listen``.
            listener: As for ``Protocol.listen``.

        Raises:
            ConcurrencyError: If a coroutine receives.
            TypeError: As for ``Protocol.listen``.
        """
        if self.receiver is not None:
            raise self.concurrent_receiver("listen")
        self._in_turn = True
        try:
            self._protocol.listen(on_message, on_frame=on_frame, listener=listener, now=monotonic())
        finally:
            self._in_turn = False
        self.receiver = "listen"
        self._listening = True
        self.update()

    cpdef object take(self, decode=None):
        """Return the next message, or None if there isn't one; ``wait`` for it then.

        Args:
            decode: As for ``Protocol.next_message``.

        Raises:
            ConcurrencyError: If a coroutine waits.
        """
        if unlikely(self.receiver is not None):
            raise self.concurrent_receiver("recv")
        cdef Protocol protocol = self._protocol
        # Failing to decode fails the connection.
        cdef bint may_fail = decode is not None or not protocol.validate_text
        cdef int activity
        message = protocol.take_message(
            decode,
            monotonic() if may_fail or protocol.has_kept() else protocol.last_time(),
            &activity,
        )
        if unlikely(activity & ATTENTION != 0):
            self._update()
        if unlikely(self.reading_paused and protocol.wants_reading()):
            self._connection._update_reading()
        if unlikely(message is None and may_fail):
            self.update()
        return message

    def begin_streaming(self) -> None:
        """Have single fragments be taken, of the next message.

        Raises:
            ConcurrencyError: If a coroutine receives.
        """
        if self.receiver is not None:
            raise self.concurrent_receiver("recv_streaming")
        self._protocol.skip_fragments()  # of one that others left
        self.streaming = True

    def take_fragment(self, decode):
        """Return the next fragment and whether it is the last one of its message, or None.

        Args:
            decode: As for ``Protocol.next_message``.
        """
        cdef int activity
        fragment = self._protocol.take_fragment(decode, monotonic(), &activity)
        if activity & ATTENTION:
            self._update()
        if self.reading_paused and self._protocol.wants_reading():
            self._connection._update_reading()
        if fragment is None:
            self.update()
        return fragment

    def concurrent_receiver(self, name: str) -> ConcurrencyError:
        """Return the exception for a second receiver.

        Args:
            name: What it called.
        """
        return ConcurrencyError(
            f"cannot call {name} while another coroutine is already running {self.receiver}"
        )

    def wait(self, str name):
        """Return an awaitable for the next time that something was received.

        Args:
            name: What is waiting, for error messages.

        Raises:
            ConnectionClosed: If nothing can be received any more.
            ConcurrencyError: If somebody waits already.
        """
        self.begin_waiting(name)
        return self

    cdef object begin_waiting(self, str name):
        """Return what a task must be given to wait on, once the coroutine that calls this is suspended."""
        if unlikely(self.receiver is not None):
            raise self.concurrent_receiver(name)
        if unlikely(self._lost):
            raise self._protocol.close_exc
        if unlikely(self.reading_paused):
            self._connection._update_reading()
        if not self._in_turn and self._protocol.output_left():
            self._flush()
        self._wrote = False
        if self._future is None:
            self._future = Future(loop=self._timers.loop)
        set_described(self._future, _blocking, "_asyncio_future_blocking", True)
        self.receiver = name
        self._waiting = True
        self._context = current_context()
        return self._future

    # How coroutines in Python wait.

    @property
    def _loop(self) -> "asyncio.AbstractEventLoop":
        return self._timers.loop

    def __await__(self):
        self._suspended = False
        return self

    def __next__(self):
        if self._suspended:
            self.receiver = None
            raise StopIteration
        self._suspended = True
        return self._future

    def throw(self, typ, value=None, traceback=None):
        """End the waiting with an exception, as coroutines do.

        Args:
            typ: The exception, or its class.
            value: The exception, if ``typ`` is its class.
            traceback: Is ignored.
        """
        self.stop_waiting()
        raise typ if value is None else value

    def close(self):
        """End the waiting."""
        self.stop_waiting()

    cpdef int stop_waiting(self) except -1:
        """Let others receive: who waited has given up."""
        self.receiver = None
        self._waiting = False
        self._future = self._context = None
        if self._protocol is not None:  # the garbage collector may have been here
            self._protocol.stop_waiting()

    cdef int was_abandoned(self) except -1:
        """Do the same when what waited was deallocated, which another thread's garbage collector may have done."""
        if self._timers is None:  # it has been here, too
            return 0
        loop = self._timers.loop
        if running_loop() is not loop and loop.is_running():
            try:
                loop.call_soon_threadsafe(self.stop_waiting)
                return 0
            except RuntimeError:
                pass  # closed meanwhile
        self.stop_waiting()

    cdef int _wake_for(self, int activity) except -1:
        if self._waiting and (activity & MESSAGE or (activity & FRAGMENT and self.streaming)):
            self._wake()

    cdef int _wake(self) except -1:
        """Resume the task that waits, if that can be done here, or else in the loop's next turn."""
        cdef _Callback callback
        cdef object context = self._context
        if _current_tasks is None or len(<dict>_current_tasks):
            # Tasks may call transports; two of a loop can't run at once.
            if current_task(self._timers.loop) is not None:
                return self._wake_later()
        if unlikely(context is None):
            return self._wake_later()
        # So the future can be waited on again. A task reads its result fastest from one that is done.
        callback = _Callback.__new__(_Callback)
        _remove_done_callback(self._future, callback)
        if unlikely(callback.found is None):
            return self._wake_later()
        future = self._future
        self._waiting = False
        self._context = None
        if unlikely(not call_in(context, callback.found, _done)):
            # The transport was called in the very context that the task has.
            self._future = None
            future.add_done_callback(callback.found, context=context)
            future.set_result(None)

    def current_task(self):
        """Return the task that is running; the function of asyncio is one in Python up to 3.11."""
        if _current_tasks is None:
            return current_task(self._timers.loop)
        return (<dict>_current_tasks).get(self._timers.loop)

    def wake(self) -> None:
        """Resume the task that waits, in the loop's next turn, to see what else changed."""
        self._wake_later()

    cdef int _wake_later(self) except -1:
        if self._waiting:
            self._waiting = False
            self._context = None
            future, self._future = self._future, None
            if not future.done():
                future.set_result(None)

    # ------------------------------------------------------------------ sending

    cpdef int send(self, message, text, compress) except -1:
        """Send a message; it leaves with what else is sent in this turn of the loop.

        Args:
            message: str or bytes-like object.
            text: As for ``Protocol.send``.
            compress: As for ``Protocol.send``.

        Returns:
            What the caller must do: NOTHING, DRAIN (wait until the network takes more), YIELD (let others
            run, among them what writes), or SLOW_PATH if the message wasn't sent because it isn't str or
            bytes-like, a fragmented one is being sent, or the connection isn't open.
        """
        if not self._protocol.is_open() or self.sending_fragments or not isinstance(
            message, (bytes, str, bytearray, memoryview)
        ):
            return SLOW_PATH
        if unlikely(self.exposed and self.is_gone()):
            return SLOW_PATH
        self._sent(self._protocol.send_message(message, text, compress))
        if self.writing_paused:
            return DRAIN if self._protocol.sender_waits() else YIELD
        return NOTHING

    def send_nowait(self, message, text, compress, /) -> bool:
        """Send a message in the same way; return whether the network takes more.

        Args:
            message: str or bytes-like object.
            text: As for ``Protocol.send``.
            compress: As for ``Protocol.send``.

        Raises:
            ConnectionClosed: If the connection is gone.
            InvalidState, ConcurrencyError: As for ``Protocol.send``.
        """
        if self._lost:
            raise self._protocol.close_exc
        if self.exposed:
            self.is_gone()
        self._sent(self._protocol.send_message(message, text, compress))
        return not self.writing_paused

    cdef int _sent(self, int activity) except -1:
        """Write what was sent: now, soon, or at the end of this turn."""
        if unlikely(activity & ATTENTION != 0):
            connection = self._connection
            self._update()
            if self._protocol.has_dropped():
                connection._report_drops()
        elif activity & FLUSH or self.exposed:
            self._flush()
        elif not self._in_turn and not self._flush_scheduled:
            if self._wrote or activity & MESSAGE:
                # More is likely to follow.
                self._flush_scheduled = True
                self._timers.loop.call_soon(self._end_turn)
            else:
                self._wrote = True
                self._flush()

    def broadcast(self, PreparedMessage message not None, compress, Backpressure terms not None) -> bool:
        """Send a message that goes to many connections at once; skip a connection that isn't open.

        Args:
            message: Message.
            compress: As for ``Protocol.send``.
            terms: What becomes of it while the network takes no more.

        Returns:
            False if the connection was given up, because writing fails, which is in ``failure`` then, or by
            ``terms``, or if ``protocol.dropped_messages()`` has something to tell.

        Raises:
            ConcurrencyError: If a fragmented message is being sent, and it can't wait for its end.
        """
        if self.exposed:
            self.is_gone()
        if self._protocol.is_open() and not self._lost:
            if self._protocol.is_obstructed():
                return self._offer(message, compress, terms)
            if self._protocol.send_prepared_message(message, compress) & ATTENTION:
                self._update()
            else:
                self._flush()
            return self.failure is None
        return True

    cdef bint _offer(self, PreparedMessage message, compress, Backpressure terms) except -1:
        cdef Py_ssize_t unsent = 0
        cdef bint refused
        if self.writing_paused and self._protocol.has_to_wait(terms):
            unsent = self._connection._transport.get_write_buffer_size()
        if self._protocol.offer_message(message, compress, terms, unsent, monotonic()) & ATTENTION:
            refused = not self._protocol.is_open() or self._protocol.has_dropped()
            self._update()
        else:
            refused = False
            self._flush()
        return not refused and self.failure is None

    def progress(self):
        """Return what is another value whenever the network has taken something, for ``Protocol.handle_timeout``."""
        transport = self._connection._transport
        return (
            self._handed_over - transport.get_write_buffer_size(),
            bytes_acknowledged(transport.get_extra_info("socket")),
        )

    def _end_turn(self):
        self._flush_scheduled = False
        self._wrote = False
        if not self._lost:
            self._flush()

    def flush(self) -> None:
        """Hand to the transport what the engine has to send."""
        if not self._lost:
            self._flush()

    cdef int _flush(self) except -1:
        cdef bytes piece
        if unlikely(self._handing_over):
            return 0  # who does goes on with what is there now
        if unlikely(self.exposed and self._protocol.output_left() and self.is_gone()):
            return 0
        while self._protocol.output_left():
            if unlikely(self._protocol.has_parts() and (self.descriptor >= 0 or self._lines)):
                self._flush_parts()
                continue
            piece = self._protocol.pop_output()
            if self.descriptor < 0 or not self._write_past(piece):
                self._hand_over(piece, PyBytes_GET_SIZE(piece))

    cdef bint _write_past(self, bytes piece) except -1:
        """Write past the transport, which gets what that leaves over, be it because of an error; or return False."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        cdef Py_ssize_t sent
        if not self._may_write_past():
            return False
        sent = send_now(self.descriptor, PyBytes_AS_STRING(piece), size)
        if unlikely(sent != size):
            self._buffering = True
            sent = max(sent, 0)
            self._hand_over(memoryview(piece)[sent:] if sent else piece, size - sent)
        return True

    cdef bint _may_write_past(self) except -1:
        if not self._in_turn and running_loop() is not self._timers.loop:
            return False
        if self._buffering:
            if self._connection._transport.get_write_buffer_size():
                return False
            self._buffering = False
        return True

    cdef int _flush_parts(self) except -1:
        """Write what has large payloads in it; whatever a transport calls meanwhile doesn't write between them."""
        self._handing_over = True
        try:
            self._write_parts()
        except Exception as exc:
            # A lack of memory: frames that have begun can't go on.
            if self.failure is None:
                self.failure = exc
        finally:
            self._handing_over = False
        if self._lost:
            return 0
        if self.failure is not None and not self.given_up:
            self._give_up(self.failure, True)
        elif self._protocol.transport_action != self._action:
            self._update()

    cdef int _write_parts(self) except -1:
        """Do it in one system call and without copying them, as far as that is possible."""
        cdef iovec memory[MAX_PARTS]
        cdef list parts = self._protocol.pop_parts()
        cdef Py_ssize_t size = 0, sent = 0, count = len(parts), i
        if self.descriptor < 0:
            return self._hand_over_lines(parts)
        if self._may_write_past():
            for i in range(min(count, MAX_PARTS)):
                size += point_at(&memory[i], parts[i])
            sent = send_parts_now(self.descriptor, memory, <int>min(count, MAX_PARTS))
            if sent == size and count <= MAX_PARTS:
                return 0
            self._buffering = True
        self._hand_over_parts(parts, max(sent, 0))

    cdef int _hand_over_parts(self, list parts, Py_ssize_t sent) except -1:
        """Have the transport write all but the first ``sent`` bytes."""
        cdef Py_ssize_t size
        for part in parts:
            size = len(part)
            if sent >= size:
                sent -= size
                continue
            if not PyBytes_CheckExact(part):
                part = (<char*>PyUnicode_1BYTE_DATA(part) + sent)[: size - sent]
            elif sent:
                part = memoryview(part)[sent:]
            self._hand_over(part, size - sent)
            if self.given_up:
                return 0
            sent = 0

    cdef int _hand_over_lines(self, list parts) except -1:
        """Have the transport write parts together. Under TLS a header shares its record with what follows it."""
        cdef bytes small = b""
        cdef bytes payload, first
        cdef Py_ssize_t position, size
        if self._lines == PLAIN_LINES:
            for position in range(len(parts)):
                if not PyBytes_CheckExact(parts[position]):
                    parts[position] = (<str>parts[position]).encode()
            return self._hand_over(parts, sum(map(len, parts)))
        for part in parts:
            payload = part if PyBytes_CheckExact(part) else (<str>part).encode()
            size = PyBytes_GET_SIZE(payload)
            if size < RECORD_SIZE:
                small += payload
                continue
            position = RECORD_SIZE - PyBytes_GET_SIZE(small) % RECORD_SIZE
            # Joined in one copy.
            first = <bytes>PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(small) + position)
            memcpy(PyBytes_AS_STRING(first), PyBytes_AS_STRING(small), PyBytes_GET_SIZE(small))
            memcpy(PyBytes_AS_STRING(first) + PyBytes_GET_SIZE(small), PyBytes_AS_STRING(payload), position)
            lines = [first]
            small = b""
            view = memoryview(payload)
            while position < size:
                lines.append(view[position : position + RECORDS])
                position += RECORDS
                self._hand_over(lines, sum(map(len, lines)))
                if self.given_up:
                    return 0
                lines = []
            if lines:
                self._hand_over(lines, len(lines[0]))
        if small:
            self._hand_over(small, PyBytes_GET_SIZE(small))

    cdef int _hand_over(self, data, Py_ssize_t size) except -1:
        """Have the transport write bytes, or a list of them; if it can't, as after write_eof(), the connection ends."""
        if self._lost:
            return 0
        self._handed_over += size
        try:
            if type(data) is list:
                self._transport.writelines(data)
            else:
                self._transport.write(data)
        except Exception as exc:
            if self.failure is None:
                self.failure = exc
                self._give_up(exc, True)
        else:
            # What it can't write it drops in silence. Who sends in a loop must be told before the event
            # loop could: it would never get its turn.
            self.is_gone()

    cpdef bint is_gone(self) except -1:
        """Tell whether somebody else has closed the transport; the connection ends with it."""
        if self._lost or self._protocol.transport_action >= CLOSE:
            return False
        if self.exposed and self._transport.write != self._write:
            # Whoever got hold of the transport has put another method there, as tests do.
            self._write = self._transport.write
            self.descriptor = -1
            self._lines = NO_LINES
        if not self._connection._transport.is_closing():
            return False
        self._give_up(None, False)
        return True

    cdef int _give_up(self, exc, bint abort) except -1:
        self.given_up = True
        # Who sends waits until the connection is closed.
        self.writing_paused = True
        self._protocol.give_up(exc, abort=abort, now=monotonic())
        self._update()


cdef PyObject* _call_driver(
    PyObject* driver, PyObject* const* arguments, size_t count, PyObject* names
) except NULL:
    if PyVectorcall_NARGS(count) != 1 or names != NULL:
        raise TypeError("a driver is called with the number of bytes that were received")
    (<TransportDriver>driver)._received(<object>arguments[0])
    Py_INCREF(None)
    return <PyObject*>None


set_vectorcall(<PyTypeObject*>TransportDriver, <Py_ssize_t>&(<TransportDriver><PyObject*>NULL)._vectorcall)
