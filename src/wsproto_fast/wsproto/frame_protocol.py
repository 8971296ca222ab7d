"""Frames below the level of events, for programs that keep the state of the connection themselves.

Both classes are other views of the sink that a ``Connection`` uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..exceptions import ProtocolError
from ..typing import BytesLike, DataLike
from ._events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from ._frame_events import FrameEvents, refusal
from ._types import (
    DEFAULT_MAX_SIZE,
    LOCAL_ONLY_CLOSE_REASONS,
    CloseReason,
    Opcode,
    RsvBits,
)

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = [
    "LOCAL_ONLY_CLOSE_REASONS",
    "MAX_PAYLOAD_NORMAL",
    "CloseReason",
    "Frame",
    "FrameDecoder",
    "FrameProtocol",
    "Opcode",
    "ParseFailed",
    "RsvBits",
]

MAX_PAYLOAD_NORMAL = 125
"""Largest payload whose length fits into the second byte of a header, and of control frames."""


class ParseFailed(Exception):
    """Raised when what was received isn't valid.

    Args:
        msg: What is wrong.
        code: Close code to fail the connection with.
    """

    def __init__(self, msg: str, code: CloseReason = CloseReason.PROTOCOL_ERROR) -> None:
        super().__init__(msg)
        self.code = code


class Frame(NamedTuple):
    """A frame, or a piece of one.

    Args:
        opcode: Opcode.
        payload: Text of a text message, code and reason of a Close frame, else bytes.
        frame_finished: Whether this is the end of the frame.
        message_finished: Whether this is the end of the message.
    """

    opcode: Opcode
    payload: bytes | str | tuple[int, str]
    frame_finished: bool
    message_finished: bool


def _raise_failure(sink: FrameEvents, event: CloseConnection) -> NoReturn:
    # What stands for a fault has one of the codes that we give.
    raise ParseFailed(event.reason or "", CloseReason(event.code)) from sink.parser_exc


class FrameProtocol:
    """Frames of one connection, both ways.

    Args:
        client: Whether this is the client's end.
        extensions: Extensions, of which those that are enabled take part.
        max_size: Limit on the size of messages in bytes, inflated; None for no limit.
    """

    def __init__(
        self,
        client: bool,
        extensions: Sequence[Extension],
        *,
        max_size: int | None = DEFAULT_MAX_SIZE,
    ) -> None:
        self.client = client
        self.extensions = [extension for extension in extensions if extension.enabled()]
        self._sink = FrameEvents(client, self.extensions, max_size=max_size)

    @property
    def remaining_size(self) -> int | None:
        """Number of bytes that a message may still have, for extensions; None for no limit."""
        return self._sink.remaining_size

    def receive_bytes(self, data: BytesLike) -> None:
        """Take received bytes; ``received_frames()`` tells what they mean.

        Args:
            data: Bytes-like object.
        """
        self._sink.feed(data)

    def received_frames(self) -> Iterator[Frame]:
        """Yield the frames that were received, or the pieces that are there.

        Raises:
            ParseFailed: If what was received isn't valid.
        """
        sink = self._sink
        while (event := sink.next_event()) is not None:
            match event:
                case TextMessage(data, frame_finished, message_finished):
                    yield Frame(Opcode.TEXT, data, frame_finished, message_finished)
                case BytesMessage(data, frame_finished, message_finished):
                    yield Frame(Opcode.BINARY, bytes(data), frame_finished, message_finished)
                case Ping(payload):
                    yield Frame(Opcode.PING, payload, True, True)
                case Pong(payload):
                    yield Frame(Opcode.PONG, payload, True, True)
                case CloseConnection(code, reason):  # pragma: no branch: the last kind there is
                    if sink.failed:
                        _raise_failure(sink, event)
                    yield Frame(Opcode.CLOSE, (code, reason or ""), True, True)

    def close(self, code: int | None = None, reason: str | None = None) -> bytearray:
        """Return a Close frame.

        Args:
            code: Close code; None for none. Codes that never travel become 1000.
            reason: Close reason; cut to 123 bytes.

        Raises:
            TypeError: If there is a reason without a code.
        """
        return bytearray(self._sink.close_frame(code, reason))

    def ping(self, payload: bytes = b"") -> bytearray:
        """Return a Ping frame.

        Args:
            payload: At most 125 bytes.

        Raises:
            ValueError: If it is longer.
        """
        return bytearray(self._sink.send_control(Opcode.PING, payload))

    def pong(self, payload: bytes = b"") -> bytearray:
        """Return a Pong frame; parameters and exceptions as in ``ping``."""
        return bytearray(self._sink.send_control(Opcode.PONG, payload))

    def send_data(self, payload: DataLike = b"", fin: bool = True) -> bytearray:
        """Return a data frame, whose opcode depends on the type of the payload.

        Args:
            payload: str or bytes-like object.
            fin: Whether this ends the message.

        Raises:
            TypeError: If it is of another type, or not of the type of the message's first frame.
        """
        return bytearray(self._sink.send_data(payload, fin))


class FrameDecoder:
    """Received frames with their payloads as they are: unmasked, extensions applied.

    Args:
        client: Whether this is the client's end.
        extensions: Extensions, of which those that are enabled take part.
    """

    def __init__(self, client: bool, extensions: Sequence[Extension] | None = None) -> None:
        self.client = client
        self.extensions = list(extensions or ())
        self._sink = FrameEvents(client, self.extensions, max_size=DEFAULT_MAX_SIZE, raw=True)

    @property
    def remaining_size(self) -> int | None:
        """Number of bytes that a message may still have, for extensions; None for no limit."""
        return self._sink.remaining_size

    def receive_bytes(self, data: BytesLike) -> None:
        """Take received bytes.

        Args:
            data: Bytes-like object.
        """
        self._sink.feed(data)

    def process_buffer(self) -> Frame | None:
        """Return the next frame, or the next piece of one; None if there isn't any.

        Raises:
            ParseFailed: If what was received isn't valid.
        """
        event = self._sink.next_event()
        if event is None:
            return None
        if isinstance(event, CloseConnection):
            _raise_failure(self._sink, event)
        assert isinstance(event, BytesMessage)
        return Frame(
            Opcode(self._sink.frame_opcode),
            bytes(event.data),
            event.frame_finished,
            event.message_finished,
        )

    def _peek(self) -> tuple[int, bool, int] | None:
        try:
            return self._sink.peek_header()
        except ProtocolError as exc:
            raise ParseFailed(str(exc)) from exc

    def parse_header(self) -> bool:
        """Tell whether the header of the frame that comes next is there.

        Raises:
            ParseFailed: If it isn't valid.
        """
        return self._peek() is not None

    def parse_extended_payload_length(self, opcode: Opcode, payload_len: int) -> int | None:
        """Return the length of the payload that comes next; None if it isn't there yet.

        Args:
            opcode: Opcode of the frame.
            payload_len: Length as in the second byte of the header.

        Raises:
            ParseFailed: If it isn't valid.
        """
        if opcode.iscontrol() and payload_len > MAX_PAYLOAD_NORMAL:
            raise ParseFailed("control frame too long")
        if payload_len <= MAX_PAYLOAD_NORMAL:
            return payload_len
        header = self._peek()
        return None if header is None else header[2]

    def extension_processing(self, opcode: Opcode, rsv: RsvBits, payload_len: int) -> None:
        """Let the extensions see a header.

        Args:
            opcode: Opcode of the frame.
            rsv: Its reserved bits.
            payload_len: Length of its payload.

        Raises:
            ParseFailed: If an extension refuses it, or none claims a bit that is set.
        """
        code = refusal(self.extensions, self, opcode, rsv, payload_len)
        if code is not None:
            raise ParseFailed("error in extension", code)
