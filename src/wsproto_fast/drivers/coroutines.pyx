# cython: binding=False
"""Coroutines of connections on an event loop: receiving and sending a message, and what servers run.

They are what calling an ``async def`` would give, but compiled: nothing happens before they are awaited, once;
tasks accept them; and who forgets to await one is warned. Coroutines of Python cost a frame each, and an
asynchronous generator for ``async for`` several objects for each message.
"""

cimport cython

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF

from libc.stdint cimport uint8_t

from wsproto_fast cimport flag
from wsproto_fast._flag cimport unlikely
from wsproto_fast._free_threading cimport FREE_THREADED

from .asyncio cimport NOTHING, TransportDriver

from wsproto_fast.exceptions import ConnectionClosedOK

from ._stand_ins import ANEXT, HANDLE, RECV, SEND


cdef extern from *:
    """
    /* Cython knows no name for am_send. Without it, and without these for tp_iternext, each result would be an
       exception with a traceback. */
    static void wsproto_fast_set_slots(PyTypeObject *type, void *next, void *send) {
        type->tp_iternext = (iternextfunc)next;
        type->tp_iter = PyObject_SelfIter;  /* for `yield from` what __await__() returns */
        type->tp_as_async->am_send = (PySendResult(*)(PyObject *, PyObject *, PyObject **))send;
        PyType_Modified(type);
    }

    /* Whether an object has so many references: those that are known. */
    #ifdef Py_GIL_DISABLED
    #define wsproto_fast_has_references(object, count) 0
    #else
    #define wsproto_fast_has_references(object, count) (Py_REFCNT(object) == (count))
    #endif

    /* The exception that was raised, which isn't any more. */
    static PyObject *wsproto_fast_take_error(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(value, traceback);
            Py_DECREF(traceback);
        }
        Py_DECREF(type);
        return value;
    #endif
    }

    /* A hook may keep what is said to have failed, so it is told the name: the coroutine is being deallocated. */
    static void wsproto_fast_warn_unawaited(PyObject *name) {
        if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%U' was never awaited", name) < 0) {
            PyErr_WriteUnraisable(name);
        }
    }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    void set_slots "wsproto_fast_set_slots"(PyTypeObject* type, void* next, void* send)
    bint has_references "wsproto_fast_has_references"(PyObject* object, Py_ssize_t count)
    void warn_unawaited "wsproto_fast_warn_unawaited"(PyObject* name)
    PySendResult PyIter_Send(object iterator, PyObject* value, PyObject** result) except PYGEN_ERROR
    PySendResult try_send "PyIter_Send"(object iterator, PyObject* value, PyObject** result) noexcept
    object take_error "wsproto_fast_take_error"()
    bint PyCoro_CheckExact(object object)
    PyObject* Py_None
    void PyErr_SetObject(PyObject* type, PyObject* value)
    PyObject* PyExc_StopIteration
    void Py_DECREF(PyObject*)


# How far a coroutine is. One that a program makes of its type, with no connection, has ended.
cdef enum:
    ENDED = 0
    CREATED = 1
    RUNNING = 2
    SUSPENDED = 3


cdef object _go_on(object coroutine, object value):
    """Do what ``send(value)`` of coroutines does, by what tasks call in its place."""
    cdef PyObject* result = NULL
    cdef int sent = PyIter_Send(coroutine, <PyObject*>value, &result)
    taken = <object>result
    Py_DECREF(result)
    if sent == PYGEN_RETURN:
        raise StopIteration(taken)
    return taken


@cython.final
@cython.no_gc_clear  # it has to tell the driver that it doesn't wait any more; cycles end elsewhere
@cython.freelist(16)
cdef class Receiving:
    """The coroutine that receives a message.

    Attributes:
        cr_running: Whether it is running, which nobody sees: it doesn't run other code.
        cr_suspended: Whether it waits.
        cr_await: What it waits for; None if it doesn't.
        cr_frame: A frame that stands for it; None if it has ended.
    """

    cdef TransportDriver _driver
    cdef Messages _messages             # what is iterated; None for recv()
    cdef object _decode
    cdef int _stage

    # How asyncio and warnings name it.
    @property
    def __name__(self) -> str:
        return "recv" if self._messages is None else "__anext__"

    @property
    def __qualname__(self) -> str:
        return "Connection.recv" if self._messages is None else "Connection.__aiter__"

    @property
    def cr_running(self) -> bool:
        return False

    @property
    def cr_suspended(self) -> bool:
        return self._stage == SUSPENDED

    @property
    def cr_frame(self):
        if self._stage == ENDED:
            return None
        return RECV if self._messages is None else ANEXT

    @property
    def cr_await(self):
        return self._driver._future if self._stage == SUSPENDED else None

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on, as ``send`` of coroutines does."""
        return _go_on(self, value)

    def throw(self, typ, value=None, traceback=None):
        """Go on with an exception, as ``throw`` of coroutines does."""
        self.close()
        raise typ if value is None else value

    def close(self) -> None:
        """End, as ``close`` of coroutines does."""
        if self._stage == SUSPENDED:
            self._driver.stop_waiting()
        self._stage = ENDED
        self._messages = None

    def __dealloc__(self):
        if self._stage == SUSPENDED and self._driver is not None:
            self._driver.was_abandoned()
        elif self._stage == CREATED and self._driver is not None:
            warn_unawaited(<PyObject*>self.__qualname__)


# Not a method: a table of methods would make each of these larger.
cdef int _receive(Receiving self, PyObject** result) except PYGEN_ERROR:
    cdef TransportDriver driver = self._driver
    cdef int sent = PYGEN_RETURN
    if unlikely(self._stage == ENDED):
        raise RuntimeError("cannot reuse already awaited coroutine")
    cdef Messages messages = self._messages
    if self._stage == SUSPENDED:
        driver.receiver = None
    self._stage = ENDED
    self._messages = None  # which may keep this object
    if unlikely(messages is not None and not messages._going):
        raise StopAsyncIteration
    message = driver.take(self._decode)
    if message is None:
        if unlikely(driver._lost):
            exc = driver._protocol.close_exc
            if messages is not None:
                messages._going = False
                if isinstance(exc, ConnectionClosedOK):
                    raise StopAsyncIteration
            raise exc
        message = driver.begin_waiting("recv")
        self._messages = messages
        self._stage = SUSPENDED
        sent = PYGEN_NEXT
    elif messages is not None:
        messages._last = self
    Py_INCREF(message)
    result[0] = <PyObject*>message
    return sent


cdef PySendResult _receiving_send(PyObject* coroutine, PyObject* value, PyObject** result) except PYGEN_ERROR:
    result[0] = NULL
    return <PySendResult>_receive(<Receiving>coroutine, result)


cdef PyObject* _receiving_next(PyObject* coroutine) except? NULL:
    cdef PyObject* result = NULL
    if _receive(<Receiving>coroutine, &result) == PYGEN_RETURN:
        PyErr_SetObject(PyExc_StopIteration, result)
        Py_DECREF(result)
        return NULL
    return result


@cython.final
cdef class Messages:
    """Asynchronous iterator over the messages of a connection, until that is closed."""

    cdef TransportDriver _driver
    cdef Receiving _last                # a coroutine that has ended, to be used again when nobody else has it
    cdef bint _going                    # more may come

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef Receiving last = self._last
        if last is None:
            return _receiving(self._driver, self, None)
        # Nothing keeps one that nobody awaits: its end tells that.
        self._last = None
        if not has_references(<PyObject*>last, 1):
            return _receiving(self._driver, self, None)
        last._messages = self
        last._stage = CREATED
        return last

    async def aclose(self) -> None:
        """End the iteration."""
        self._going = False

    # An asynchronous generator has these, too.

    def asend(self, value):
        """Return what ``anext`` does; nobody sees the value."""
        return self.__anext__()

    async def athrow(self, typ, value=None, traceback=None):
        """End the iteration, and raise an exception."""
        self._going = False
        raise typ if value is None else value


@cython.final
@cython.freelist(16)
cdef class Sending:
    """The coroutine that sends a message.

    Attributes:
        cr_running: Whether it is running.
        cr_suspended: Whether it waits.
        cr_await: What it waits for; None if it doesn't.
        cr_frame: A frame that stands for it; None if it has ended.
    """

    cdef TransportDriver _driver
    cdef object _connection
    cdef object _message
    cdef object _text
    cdef object _compress
    cdef object _rest                   # the coroutine that does what can't be done at once
    cdef int _stage

    @property
    def __name__(self) -> str:
        return "send"

    @property
    def __qualname__(self) -> str:
        return "Connection.send"

    @property
    def cr_running(self) -> bool:
        return self._stage == RUNNING

    @property
    def cr_suspended(self) -> bool:
        return self._stage == SUSPENDED

    @property
    def cr_frame(self):
        return None if self._stage == ENDED else SEND

    @property
    def cr_await(self):
        return self._rest if self._stage == SUSPENDED else None

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on, as ``send`` of coroutines does."""
        return _go_on(self, value)

    def throw(self, typ, value=None, traceback=None):
        """Go on with an exception, as ``throw`` of coroutines does."""
        exc = typ if value is None else value
        if self._stage != SUSPENDED:
            self.close()
            raise exc
        self._stage = RUNNING
        try:
            yielded = self._rest.throw(exc)
        except BaseException:
            self._end()
            raise
        self._stage = SUSPENDED
        return yielded

    def close(self) -> None:
        """End, as ``close`` of coroutines does."""
        if self._stage == RUNNING:
            raise ValueError("coroutine already executing")
        rest = self._rest
        self._end()
        if rest is not None:
            rest.close()

    def __dealloc__(self):
        if self._stage == CREATED and self._driver is not None:
            warn_unawaited(<PyObject*>self.__qualname__)

    cdef int _end(self) except -1:
        self._stage = ENDED
        self._driver = None
        self._connection = self._message = self._text = self._compress = self._rest = None

    cdef int _step(self, PyObject* value, PyObject** result) except PYGEN_ERROR:
        global _last_sending
        cdef int obstacle
        cdef TransportDriver driver
        if self._stage == CREATED:
            self._stage = ENDED
            # This object may be kept; see _last_sending.
            driver, connection, message = self._driver, self._connection, self._message
            self._driver = None
            self._connection = self._message = None
            obstacle = driver.send(message, self._text, self._compress)
            if obstacle == NOTHING:
                if not FREE_THREADED:
                    _last_sending = self
                Py_INCREF(None)
                result[0] = Py_None
                return PYGEN_RETURN
            self._rest = connection._send_slowly(obstacle, message, self._text, self._compress)
        elif self._stage == ENDED:
            raise RuntimeError("cannot reuse already awaited coroutine")
        elif self._stage == RUNNING:
            raise ValueError("coroutine already executing")
        self._stage = RUNNING
        cdef int sent = PYGEN_ERROR
        try:
            sent = PyIter_Send(self._rest, value, result)
        finally:
            if sent == PYGEN_NEXT:
                self._stage = SUSPENDED
            else:
                self._end()
        return sent


cdef PySendResult _sending_send(PyObject* coroutine, PyObject* value, PyObject** result) except PYGEN_ERROR:
    result[0] = NULL
    return <PySendResult>(<Sending>coroutine)._step(value, result)


cdef PyObject* _sending_next(PyObject* coroutine) except? NULL:
    cdef PyObject* result = NULL
    if (<Sending>coroutine)._step(Py_None, &result) == PYGEN_RETURN:
        Py_DECREF(result)  # None, which needs no exception
        return NULL
    return result


# A coroutine that has sent, to be used again if nobody else has it: most end in their first step.
cdef Sending _last_sending = None


# What a connection of a server does. One that a program makes of the type, with none, is done.
cdef enum:
    DONE = 0
    NOT_BEGUN = 1
    OPENING = 2
    HANDLING = 3
    FINISHING = 4


@cython.final
@cython.freelist(16)
cdef class Handling:
    """The coroutine that a server runs for a connection: its opening handshake, its handler, and its end.

    It is what this would be, with less memory while the handler waits::

        server, task = connection.server, asyncio.current_task()
        opening = server._begin(connection, task)
        if opening is None or await opening:
            try:
                await server.handler(connection)
            except BaseException as exc:
                await server._finish(connection, task, exc, True)
            else:
                await server._finish(connection, task, None, True)

    Attributes:
        cr_running: Whether it is running.
        cr_suspended: Whether it waits.
        cr_await: What it waits for; None if it doesn't.
        cr_frame: The frame of that; None if it has ended.
    """

    cdef object _connection
    cdef object _server                 # programs may give the connection another attribute of this name
    cdef object _task
    cdef object _rest                   # the coroutine that runs
    cdef uint8_t _stage
    cdef flag _running

    @property
    def __name__(self) -> str:
        return "_handle"

    @property
    def __qualname__(self) -> str:
        return "Server._handle"

    @property
    def cr_running(self) -> bool:
        return self._running

    @property
    def cr_suspended(self) -> bool:
        return not self._running and self._rest is not None

    @property
    def cr_frame(self):
        if self._stage == DONE:
            return None
        return getattr(self._rest, "cr_frame", HANDLE)

    @property
    def cr_await(self):
        return None if self._running else self._rest

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on, as ``send`` of coroutines does."""
        return _go_on(self, value)

    def throw(self, typ, value=None, traceback=None):
        """Go on with an exception, as ``throw`` of coroutines does."""
        exc = typ if value is None else value
        if self._running:
            raise ValueError("coroutine already executing")
        if self._rest is None:
            self._end()
            raise exc
        failure = None
        self._running = True
        try:
            return self._rest.throw(exc)
        except StopIteration as stop:
            returned = stop.value
        except BaseException as raised:
            failure = raised
        finally:
            self._running = False
        if failure is None:
            self._go_on(returned)
        else:
            self._fail(failure)
        if self._rest is None:
            raise StopIteration
        return self.send(None)

    def close(self) -> None:
        """End, as ``close`` of coroutines does."""
        if self._running:
            raise ValueError("coroutine already executing")
        if self._rest is None:
            self._end()
            return
        try:
            self.throw(GeneratorExit())
        except (GeneratorExit, StopIteration):
            return
        raise RuntimeError("coroutine ignored GeneratorExit")

    def __dealloc__(self):
        if self._stage == NOT_BEGUN and self._connection is not None:
            warn_unawaited(<PyObject*>self.__qualname__)

    cdef int _end(self) except -1:
        self._stage = DONE
        self._connection = self._server = self._task = self._rest = None

    cdef int _step(self, PyObject* value, PyObject** result) except PYGEN_ERROR:
        cdef int sent
        if self._running:
            raise ValueError("coroutine already executing")
        if self._rest is None:
            if self._stage == DONE:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self._begin()
        while self._rest is not None:
            self._running = True
            sent = try_send(self._rest, value, result)
            self._running = False
            if sent == PYGEN_NEXT:
                return PYGEN_NEXT
            value = Py_None
            if sent == PYGEN_RETURN:
                returned = <object>result[0]
                Py_DECREF(result[0])
                result[0] = NULL
                self._go_on(returned)
            else:
                self._fail(take_error())
        Py_INCREF(None)
        result[0] = Py_None
        return PYGEN_RETURN

    cdef int _begin(self) except -1:
        self._stage = OPENING
        self._running = True
        try:
            self._server = self._connection.server
            self._task = self._connection._driver.current_task()
            self._rest = self._server._begin(self._connection, self._task)
        finally:
            self._running = False
        if self._rest is None:
            self._handle()

    cdef int _handle(self) except -1:
        self._stage = HANDLING
        self._running = True
        try:
            rest = self._server.handler(self._connection)
        except BaseException as exc:
            self._fail(exc)
        else:
            self._rest = rest if PyCoro_CheckExact(rest) else self._server._run_awaitable(rest)
        finally:
            self._running = False

    cdef int _go_on(self, returned) except -1:
        """Go on after what was awaited has ended."""
        if self._stage == OPENING and returned is True:
            self._handle()
        elif self._stage == HANDLING:
            self._finish(None)
        else:
            self._end()

    cdef int _fail(self, exc) except -1:
        """Go on after what was awaited has failed."""
        if self._stage == HANDLING:
            self._finish(exc)
        else:
            self._end()
            raise exc

    cdef int _finish(self, exc) except -1:
        self._stage = FINISHING
        self._rest = self._server._finish(self._connection, self._task, exc, True)


cdef PySendResult _handling_send(PyObject* coroutine, PyObject* value, PyObject** result) except PYGEN_ERROR:
    result[0] = NULL
    return <PySendResult>(<Handling>coroutine)._step(value, result)


cdef PyObject* _handling_next(PyObject* coroutine) except? NULL:
    cdef PyObject* result = NULL
    if (<Handling>coroutine)._step(Py_None, &result) == PYGEN_RETURN:
        Py_DECREF(result)  # None, which needs no exception
        return NULL
    return result


set_slots(<PyTypeObject*>Receiving, <void*>_receiving_next, <void*>_receiving_send)
set_slots(<PyTypeObject*>Sending, <void*>_sending_next, <void*>_sending_send)
set_slots(<PyTypeObject*>Handling, <void*>_handling_next, <void*>_handling_send)


cdef inline Receiving _receiving(TransportDriver driver, Messages messages, decode):
    cdef Receiving coroutine = Receiving.__new__(Receiving)
    coroutine._driver = driver
    coroutine._messages = messages
    coroutine._decode = decode
    coroutine._stage = CREATED
    return coroutine


def receiving(TransportDriver driver not None, decode, /) -> Receiving:
    """Return the coroutine of ``recv(decode)``.

    Args:
        driver: What the connection receives with.
        decode: As for ``Protocol.next_message``.
    """
    return _receiving(driver, None, decode)


def messages(TransportDriver driver not None) -> Messages:
    """Return an asynchronous iterator over messages.

    Args:
        driver: What the connection receives with.
    """
    cdef Messages iterator = Messages.__new__(Messages)
    iterator._driver = driver
    iterator._going = True
    return iterator


def sending(TransportDriver driver not None, connection, message, text, compress, /) -> Sending:
    """Return the coroutine of ``send(message, text, compress=compress)``.

    Args:
        driver: What the connection sends with.
        connection: The connection; its ``_send_slowly`` does what the driver can't do at once.
        message: What is to be sent.
        text: As for ``Protocol.send``.
        compress: As for ``Protocol.send``.
    """
    global _last_sending
    cdef Sending coroutine = None
    if not FREE_THREADED:
        coroutine = _last_sending
        _last_sending = None
    if coroutine is None or not has_references(<PyObject*>coroutine, 1):
        coroutine = Sending.__new__(Sending)
    coroutine._driver = driver
    coroutine._connection = connection
    coroutine._message = message
    coroutine._text = text
    coroutine._compress = compress
    coroutine._stage = CREATED
    return coroutine


def handling(connection not None) -> Handling:
    """Return the coroutine that opens a connection of a server, calls its handler, and closes it.

    Args:
        connection: The connection. Its ``_driver`` knows the current task, its ``server`` has four methods.
            ``_begin(connection, task)`` opens it, and returns None; or a coroutine that does, or goes on, and returns
            whether it was opened. ``handler(connection)`` returns an awaitable, of which ``_run_awaitable(awaitable)``
            makes a coroutine. ``_finish(connection, task, exc, True)`` returns a coroutine that closes it, and raises
            what is to be raised; ``exc`` is how the handler failed, None if it didn't.
    """
    cdef Handling coroutine = Handling.__new__(Handling)
    coroutine._connection = connection
    coroutine._stage = NOT_BEGUN
    return coroutine
