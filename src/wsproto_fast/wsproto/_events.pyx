"""Events that belong to frames; they behave like frozen dataclasses.

Compiled, because a connection makes one of them for every piece that it receives.
"""

import dataclasses
from types import GenericAlias

cimport cython

from cpython.ref cimport PyObject


cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object obj, object name, PyObject* value) except -1


def _fields(name, *fields):
    """Make what the functions of dataclasses look for in a class."""
    return {
        field.name: field
        for field in dataclasses.fields(dataclasses.make_dataclass(name, fields, frozen=True))
    }


cdef class Event:
    """Event()

    Base class of all events.
    """


cdef class _Record(Event):
    """Base of compiled events: they behave like frozen dataclasses."""

    cdef tuple _values(self):
        """Return the values of the fields; each event overrides it."""
        raise NotImplementedError

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == (<_Record>other)._values()

    def __hash__(self):
        return hash(self._values())

    def __repr__(self) -> str:
        pairs = zip(self.__dataclass_fields__, self._values(), strict=True)
        return f"{type(self).__qualname__}({', '.join([f'{name}={value!r}' for name, value in pairs])})"

    def __setattr__(self, name, value):
        if name in self.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        if name in self.__dataclass_fields__:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        PyObject_GenericSetAttr(self, name, NULL)

    def __reduce__(self):
        return type(self), self._values()

    def __replace__(self, /, **changes):
        return dataclasses.replace(self, **changes)


cdef class Message(_Record):
    """Message(data, frame_finished=True, message_finished=True)

    A message, or a piece of one.

    Args:
        data: Contents: str for text, bytes-like for binary messages.
        frame_finished: Whether this is the end of a frame. What is sent always is.
        message_finished: Whether this is the end of the message.
    """

    def __init__(self, data, frame_finished: bool = True, message_finished: bool = True):
        self.data = data
        self.frame_finished = frame_finished
        self.message_finished = message_finished

    cdef tuple _values(self):
        return (self.data, self.frame_finished, self.message_finished)

    __class_getitem__ = classmethod(GenericAlias)
    __match_args__ = ("data", "frame_finished", "message_finished")
    __dataclass_fields__ = _fields(
        "Message", ("data", object), ("frame_finished", bool, True), ("message_finished", bool, True)
    )


@cython.freelist(16)
cdef class TextMessage(Message):
    """TextMessage(data, frame_finished=True, message_finished=True)

    A text message, or a piece of one: whole characters, perhaps none.
    """


@cython.freelist(16)
cdef class BytesMessage(Message):
    """BytesMessage(data, frame_finished=True, message_finished=True)

    A binary message, or a piece of one.
    """


cdef class Ping(_Record):
    """Ping(payload=b"")

    A Ping frame. One that is received should be answered with its ``response()``.

    Args:
        payload: At most 125 bytes.
    """

    def __init__(self, payload: bytes = b""):
        self.payload = payload

    def response(self) -> Pong:
        """Return the Pong that answers this Ping (RFC 6455 section 5.5.3)."""
        return Pong(self.payload)

    cdef tuple _values(self):
        return (self.payload,)

    __match_args__ = ("payload",)
    __dataclass_fields__ = _fields("Ping", ("payload", bytes, b""))


cdef class Pong(_Record):
    """Pong(payload=b"")

    A Pong frame.

    Args:
        payload: At most 125 bytes.
    """

    def __init__(self, payload: bytes = b""):
        self.payload = payload

    cdef tuple _values(self):
        return (self.payload,)

    __match_args__ = ("payload",)
    __dataclass_fields__ = _fields("Pong", ("payload", bytes, b""))


cdef class CloseConnection(_Record):
    """CloseConnection(code, reason=None)

    A Close frame, or the end of the connection without one.

    Received in state OPEN, it should be answered with its ``response()``, also where it stands for a fault
    in what the peer sent.

    Args:
        code: Close code (RFC 6455 section 7.4).
        reason: Close reason; cut to 123 bytes of UTF-8 when it is sent.
    """

    def __init__(self, code: int, reason: str | None = None):
        self.code = code
        self.reason = reason

    def response(self) -> CloseConnection:
        """Return the event that answers this one: the same code and reason."""
        return CloseConnection(self.code, self.reason)

    cdef tuple _values(self):
        return (self.code, self.reason)

    __match_args__ = ("code", "reason")
    __dataclass_fields__ = _fields("CloseConnection", ("code", int), ("reason", "str | None", None))
