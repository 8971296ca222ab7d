"""What all layers of a connection share: role, state, time, log, and what is left to do for its driver.

Lowest of the layers of a connection (Endpoint, Sender, Parser, Receiver, Keepalive, Pacing, Statistics, Protocol), each
of which is the base class of the next one. Nothing is decided here.
"""

import logging
import weakref

from cpython.dict cimport PyDict_GetItemWithError
from cpython.ref cimport PyObject

from ._queue cimport ATTENTION

from .exceptions import InvalidState
from .frames import Side, State


cdef object _DEBUG = logging.DEBUG
cdef object _LoggerAdapter = logging.LoggerAdapter
cdef object _reference = weakref.ref
cdef object _FALSE = False
cdef object _CLIENT = Side.CLIENT
cdef object _SERVER = Side.SERVER
cdef list _states = list(State)


cdef bytes to_bytes(str name, data):
    """Return a copy of the bytes-like or str argument ``name``."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"{name} must be str or bytes-like; got {type(data).__name__}")


cdef object state_of(int state):
    """Return the member of ``frames.State``."""
    return _states[state]


cdef class Endpoint:
    """One end of a connection."""

    @property
    def side(self) -> Side:
        """Role of this end."""
        return _CLIENT if self._is_client else _SERVER

    @property
    def id(self) -> "uuid.UUID":
        """Identifier of the connection, for logs."""
        if self._id is None:
            import uuid  # which imports much; most connections are never asked

            self._id = uuid.uuid4()
        return self._id

    @id.setter
    def id(self, id):
        self._id = id

    @property
    def logger(self):
        """Logger or LoggerAdapter for what happens on this connection."""
        if self._adapter_due:
            self._adapter_due = False
            connection = self._attached()
            if connection is not None:
                self._logger = logging.LoggerAdapter(self._logger, {"websocket": weakref.proxy(connection)})
        return self._logger

    @logger.setter
    def logger(self, logger):
        self._set_logger(logger)

    cdef int _set_logger(self, logger) except -1:
        self._logger = logger
        self._adapter_due = False
        while isinstance(logger, _LoggerAdapter):
            logger = logger.logger
        # Loggers keep what isEnabledFor() found in a dict that is emptied whenever a level changes.
        cache = getattr(logger, "_cache", None)
        self._logger_cache = cache if type(cache) is dict else None

    def logs(self, level: int) -> bool:
        """Tell whether the logger wants records of a level; this takes no LoggerAdapter.

        Args:
            level: Level, such as ``logging.INFO``.
        """
        return self._enabled(level)

    def attach_to(self, connection, bint until_lost=False) -> None:
        """Say whose engine this is.

        Log records carry the connection as their attribute ``websocket``, and ``select_subprotocol`` of a server is
        called with it.

        A LoggerAdapter takes the place of the logger when there is something to log: most connections never
        need it.

        Args:
            connection: The connection; it is referenced weakly.
            until_lost: Whether it is referenced strongly until ``connection_lost``, for an owner that something else
                keeps alive until then anyway: a weak reference is an object of its own.
        """
        self._connection = connection if until_lost else weakref.ref(connection)
        self._adapter_due = True

    cdef object _attached(self):
        """Return the connection, None if there is none."""
        return self._connection() if type(self._connection) is _reference else self._connection

    cdef int _let_go(self) except -1:
        """Have only a weak reference to the connection."""
        if self._connection is not None and type(self._connection) is not _reference:
            self._connection = weakref.ref(self._connection)

    cdef object _subject(self):
        """Return what callables of a program are called with: the connection, or else this object."""
        connection = self._attached()
        return self if connection is None else connection

    cdef double _time(self, now) except? -1.0:
        """Return a time that a caller tells; None stands for the last one that was told."""
        return self._now if now is None else <double>now

    cdef double actual_time(self, double now) except? -1.0:
        """Return the time that a driver tells; engines with a clock of their own override it."""
        return now

    cdef int begin_turn(self) except -1:
        """Look once whether there is a log of all that is done until `end_turn`."""
        self._quiet = not self._enabled(_DEBUG)

    cdef int end_turn(self) noexcept:
        self._quiet = False

    cdef bint _debug(self) except -1:
        return not self._quiet and self._enabled(_DEBUG)

    cdef bint _enabled(self, object level) except -1:
        """Tell whether the logger wants records of a level."""
        cdef PyObject* enabled
        if self._logger_cache is not None:
            enabled = PyDict_GetItemWithError(self._logger_cache, level)
            if enabled == <PyObject*>_FALSE:
                return False
        return self._logger.isEnabledFor(level)

    cdef int _send_eof(self) except -1:
        if not self._eof_sent:
            self._eof_sent = True
            self._eof_queued = True
            self.transport_action = max(self.transport_action, HALF_CLOSE)
            self._activity |= ATTENTION
            if self._debug():
                self.logger.debug("> EOF")

    cdef int _require_state(self, bint closing_too) except -1:
        if self._state != OPEN and not (closing_too and self._state == CLOSING and not self._eof_sent):
            raise InvalidState(f"connection is {state_of(self._state).name.lower()}")
