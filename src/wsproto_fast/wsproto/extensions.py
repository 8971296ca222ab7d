"""Extensions: what programs may write themselves, and permessage-deflate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from .. import PerMessageDeflate as _Deflate
from ..exceptions import InvalidHeader, NegotiationError, PayloadTooBig, ProtocolError
from ..extensions.permessage_deflate import DeflateParameters
from ..headers import parse_extension
from ._frame_events import FrameEvents, deflate, inflate
from ._types import CloseReason, Opcode, RsvBits

if TYPE_CHECKING:
    from .frame_protocol import FrameDecoder, FrameProtocol

__all__ = ["SUPPORTED_EXTENSIONS", "Extension", "PerMessageDeflate"]


class Extension(ABC):
    """Base class of extensions (RFC 6455 §9).

    One object serves one connection. The methods whose names begin with ``frame_`` are called for
    an enabled extension only; ``proto``, among their arguments, has an attribute ``client``.

    Attributes:
        name: Token that names the extension in the opening handshake.
    """

    name: str

    def enabled(self) -> bool:
        """Tell whether the peers agreed on this extension."""
        return False

    @abstractmethod
    def offer(self) -> bool | str:
        """Return what a client offers: parameters, True for none, False for no offer."""

    def accept(self, offer: str) -> bool | str | None:
        """Decide about an offer, on a server.

        Args:
            offer: Name and parameters.

        Returns:
            Parameters of the answer, True or an empty string for none; None or False to decline.
        """
        return None

    def finalize(self, offer: str) -> None:
        """Take notice of what the server accepted, on a client.

        Args:
            offer: Name and parameters.

        Raises:
            ValueError: If the server must not answer that.
        """
        return None

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol | FrameEvents,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """Look at the header of a received frame.

        Args:
            proto: Connection.
            opcode: Opcode.
            rsv: Reserved bits.
            payload_length: Size of the payload in bytes.

        Returns:
            Reserved bits that this extension may set, or a close code to fail the connection.
        """
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol | FrameEvents, data: bytes
    ) -> bytes | CloseReason:
        """Transform a piece of the payload of a received frame.

        Args:
            proto: Connection.
            data: Piece.

        Returns:
            What becomes of it, or a close code to fail the connection.
        """
        return data

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol | FrameEvents, fin: bool
    ) -> bytes | CloseReason | None:
        """Take notice of the end of a received frame.

        Args:
            proto: Connection.
            fin: Whether it is the last frame of a message.

        Returns:
            What to append to the payload, or a close code to fail the connection.
        """
        return None

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol | FrameEvents,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        """Transform a frame that is sent.

        Args:
            proto: Connection.
            opcode: Opcode.
            rsv: Reserved bits, as the extensions before this one left them.
            data: Payload.
            fin: Whether it is the last frame of a message.

        Returns:
            Reserved bits and payload.
        """
        return rsv, data


def _parameters(header: str, *, offer: bool) -> DeflateParameters:
    """Read the parameters of permessage-deflate in a header; none in what has another form.

    The opening handshake has refused that. Who calls these methods otherwise is used to it.

    Args:
        header: Name and parameters.
        offer: Whether this is an offer, else an answer.

    Raises:
        ValueError: If the peer must not send them (RFC 7692 §7.1).
    """
    try:
        ((_, parameters),) = parse_extension(header)
    except (InvalidHeader, ValueError):
        parameters = []
    try:
        return DeflateParameters.parse(parameters, offer=offer)
    except NegotiationError as exc:
        raise ValueError(f"{exc} in {header}") from exc


def _check_window_bits(value: int) -> int:
    if not 9 <= value <= 15:
        raise ValueError(f"Window size must be between 9 and 15 inclusive; got {value}")
    return value


class PerMessageDeflate(Extension):
    """Compression (RFC 7692).

    Args:
        client_no_context_takeover: Whether the client compresses each message on its own.
        client_max_window_bits: Window of the client's compressor as a power of two, 9 to 15.
        server_no_context_takeover: Whether the server compresses each message on its own.
        server_max_window_bits: Window of the server's compressor as a power of two, 9 to 15.

    Raises:
        ValueError: If a window is outside that range.

    Small messages, and those that compression would make larger, are sent as they are.
    """

    name = "permessage-deflate"

    DEFAULT_CLIENT_MAX_WINDOW_BITS = 15
    DEFAULT_SERVER_MAX_WINDOW_BITS = 15

    def __init__(
        self,
        client_no_context_takeover: bool = False,
        client_max_window_bits: int | None = None,
        server_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
    ) -> None:
        self.client_no_context_takeover = client_no_context_takeover
        self.server_no_context_takeover = server_no_context_takeover
        self.client_max_window_bits = (
            self.DEFAULT_CLIENT_MAX_WINDOW_BITS
            if client_max_window_bits is None
            else client_max_window_bits
        )
        self.server_max_window_bits = (
            self.DEFAULT_SERVER_MAX_WINDOW_BITS
            if server_max_window_bits is None
            else server_max_window_bits
        )
        self._enabled = False
        # For the methods that see single frames.
        self._deflate: _Deflate | None = None
        self._is_data = False
        self._receiving: bool | None = None  # inside a message: whether it is compressed

    @property
    def client_max_window_bits(self) -> int:
        """Window of the client's compressor as a power of two, 9 to 15."""
        return self._client_max_window_bits

    @client_max_window_bits.setter
    def client_max_window_bits(self, value: int) -> None:
        self._client_max_window_bits = _check_window_bits(value)

    @property
    def server_max_window_bits(self) -> int:
        """Window of the server's compressor as a power of two, 9 to 15."""
        return self._server_max_window_bits

    @server_max_window_bits.setter
    def server_max_window_bits(self, value: int) -> None:
        self._server_max_window_bits = _check_window_bits(value)

    # Opening handshake

    def _takeover_flags(self) -> list[str]:
        flags = ("client_no_context_takeover", "server_no_context_takeover")
        return [flag for flag in flags if getattr(self, flag)]

    def enabled(self) -> bool:
        return self._enabled

    def offer(self) -> bool | str:
        windows = [
            f"client_max_window_bits={self.client_max_window_bits}",
            f"server_max_window_bits={self.server_max_window_bits}",
        ]
        return "; ".join(windows + self._takeover_flags())

    def accept(self, offer: str) -> bool | str | None:
        try:
            asked = _parameters(offer, offer=True)
            if asked.client_max_window_bits is True:
                asked = asked._replace(client_max_window_bits=self.client_max_window_bits)
            self._agree(asked)
        except ValueError:
            return None
        answer = self._takeover_flags()
        if asked.client_max_window_bits is not None:
            answer.append(f"client_max_window_bits={asked.client_max_window_bits}")
        if asked.server_max_window_bits is not None:
            answer.append(f"server_max_window_bits={asked.server_max_window_bits}")
        return "; ".join(answer)

    def finalize(self, offer: str) -> None:
        self._agree(_parameters(offer, offer=False))

    def _agree(self, parameters: DeflateParameters) -> None:
        """Keep what was agreed upon, after all of it was checked."""
        client_bits, server_bits = (
            parameters.client_max_window_bits,
            parameters.server_max_window_bits,
        )
        for bits in (client_bits, server_bits):
            if bits is not None:
                _check_window_bits(bits)
        self.client_no_context_takeover |= parameters.client_no_context_takeover
        self.server_no_context_takeover |= parameters.server_no_context_takeover
        if client_bits is not None:
            self.client_max_window_bits = client_bits
        if server_bits is not None:
            self.server_max_window_bits = server_bits
        self._enabled = True

    def _negotiated(self, client: bool) -> _Deflate:
        """Return the engine's extension for one end.

        Args:
            client: Whether that is the client's end.
        """
        ours = (self.client_no_context_takeover, self.client_max_window_bits)
        theirs = (self.server_no_context_takeover, self.server_max_window_bits)
        if not client:
            ours, theirs = theirs, ours
        return _Deflate(theirs[0], ours[0], theirs[1], ours[1])

    # Frames, where the engine doesn't do it: among other extensions, or in a subclass

    def _for(self, proto: FrameDecoder | FrameProtocol | FrameEvents) -> _Deflate:
        if self._deflate is None:
            self._deflate = self._negotiated(proto.client)
        return self._deflate

    def _inflate(
        self, proto: FrameDecoder | FrameProtocol | FrameEvents, data: bytes, fin: bool
    ) -> bytes | CloseReason:
        limit: int | None = getattr(proto, "remaining_size", None)
        try:
            return inflate(self._for(proto), data, fin, limit)
        except ProtocolError:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        except PayloadTooBig:
            return CloseReason.MESSAGE_TOO_BIG

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol | FrameEvents,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        # RFC 7692 §6: RSV1 is for the first frame of a message.
        if rsv.rsv1 and (opcode.iscontrol() or opcode is Opcode.CONTINUATION):
            return CloseReason.PROTOCOL_ERROR
        self._is_data = not opcode.iscontrol()
        if self._is_data and self._receiving is None:
            self._receiving = rsv.rsv1
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol | FrameEvents, data: bytes
    ) -> bytes | CloseReason:
        if not (self._is_data and self._receiving and data):
            return data
        return self._inflate(proto, bytes(data), False)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol | FrameEvents, fin: bool
    ) -> bytes | CloseReason | None:
        if not (self._is_data and fin):
            return None
        compressed, self._receiving = self._receiving, None
        return self._inflate(proto, b"", True) if compressed else None

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol | FrameEvents,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        if opcode.iscontrol():
            return rsv, data
        if opcode is not Opcode.CONTINUATION:
            rsv = rsv._replace(rsv1=True)
        return rsv, deflate(self._for(proto), bytes(data), fin)

    def __repr__(self) -> str:
        shown: list[str] = []
        for side in ("client", "server"):
            shown.append(f"{side}_max_window_bits={getattr(self, f'{side}_max_window_bits')}")
            if getattr(self, f"{side}_no_context_takeover"):
                shown.append(f"{side}_no_context_takeover")
        return f"<{type(self).__name__} {'; '.join(shown)}>"


SUPPORTED_EXTENSIONS: dict[str, type[Any]] = {PerMessageDeflate.name: PerMessageDeflate}
"""Extensions of this package by their names."""
