"""A connection with the interface of wsproto: what may be sent when, and what was received. Compiled."""

from .._endpoint cimport CLOSED, CLOSING, OPEN
from .._frames cimport OP_PING, OP_PONG
from ._events cimport CloseConnection, Message, Ping, Pong
from ._frame_events cimport FrameEvents

from ._types import DEFAULT_MAX_SIZE as _DEFAULT_MAX_SIZE
from ._types import CloseReason, ConnectionState, ConnectionType
from .utilities import LocalProtocolError


cdef object _OPEN = ConnectionState.OPEN
cdef object _CLOSED = ConnectionState.CLOSED
cdef object _REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
cdef object _LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING


cdef class Connection:
    """Connection(connection_type, extensions=None, trailing_data=b"", *, max_size=2**26)

    A WebSocket connection after its opening handshake: frames to events, events to frames.

    Args:
        connection_type: Role.
        extensions: Extensions, of which those that are enabled take part.
        trailing_data: Bytes received so far, behind the opening handshake.
        max_size: Limit on the size of messages in bytes, inflated; None for no limit. A larger one is a
            ``CloseConnection`` with code 1009.

    Attributes:
        client: Whether this is the client's side.
    """

    cdef readonly bint client
    cdef FrameEvents _proto
    cdef int _ends                  # ends of the stream that are still to be told

    def __cinit__(self, *args, **kwargs):
        # A subclass may do without __init__.
        self._proto = FrameEvents.__new__(FrameEvents)

    def __init__(
        self,
        connection_type: ConnectionType,
        extensions: list[Extension] | None = None,
        trailing_data: bytes = b"",
        *,
        max_size: int | None = _DEFAULT_MAX_SIZE,
    ):
        self.client = connection_type is ConnectionType.CLIENT
        FrameEvents.__init__(self._proto, self.client, extensions or (), max_size=max_size)
        self._proto.feed(trailing_data)

    @property
    def state(self) -> ConnectionState:
        """State of the connection, as of the events that were taken."""
        if self._proto._state == OPEN:
            return _OPEN
        if self._proto._state == CLOSED:
            return _CLOSED
        return _REMOTE_CLOSING if self._proto.close_sent is None else _LOCAL_CLOSING

    @property
    def failed(self) -> bool:
        """Whether the peer broke the protocol: what it sends after that is ignored."""
        return self._proto.failed

    @property
    def max_size(self) -> int | None:
        """Limit on the size of received messages in bytes; None for no limit."""
        return self._proto.max_size

    def send(self, event: Event) -> bytes:
        """Return the bytes to send for an event.

        In state OPEN, that is a message, Ping, Pong, or CloseConnection; in state REMOTE_CLOSING, only
        CloseConnection.

        Args:
            event: Event.

        Raises:
            LocalProtocolError: If it can't be sent in this state.
            TypeError: If one of its values is of a type that it can't have.
            ValueError: If one of its values can't be sent.
        """
        cdef FrameEvents proto = self._proto
        if proto._state == OPEN:
            if isinstance(event, Message):
                return proto.send_data((<Message>event).data, (<Message>event).message_finished)
            if isinstance(event, Ping):
                return proto.send_control(OP_PING, (<Ping>event).payload)
            if isinstance(event, Pong):
                return proto.send_control(OP_PONG, (<Pong>event).payload)
        if isinstance(event, CloseConnection) and (
            proto._state == OPEN or proto._state == CLOSING and proto.close_sent is None
        ):
            return proto.close_frame((<CloseConnection>event).code, (<CloseConnection>event).reason)
        raise LocalProtocolError(f"Event {event} cannot be sent in state {self.state}.")

    def receive_data(self, data) -> None:
        """Take received bytes; ``events()`` tells what they mean.

        Args:
            data: Bytes-like object; None for the end of the stream.

        Raises:
            LocalProtocolError: If the connection is closed.
            TypeError: If it isn't bytes-like.
        """
        if data is None:
            self._ends += 1
            self._proto._set_ended()
        elif self._proto._state == CLOSED:
            raise LocalProtocolError("Connection already closed.")
        else:
            self._proto.feed(data)

    def events(self):
        """Yield the events that were received, each of them once.

        The state changes as they are taken.
        """
        cdef object event
        while True:
            event = self._proto.next_event()
            if event is None:
                if self._ends == 0:
                    return
                self._ends -= 1
                event = CloseConnection(CloseReason.ABNORMAL_CLOSURE)
            yield event
