"""The exception tree of the engine and its front-ends.

Owns the classes, their attributes and the texts that programs and logs can observe. Knows nothing
of sockets, parsers or the state machine; ``MultipleValuesError`` lives beside ``Headers`` in
``datastructures``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from .redaction import escape, redact_url

if TYPE_CHECKING:
    from .frames import Close
    from .http11 import Response

__all__ = [
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DuplicateParameter",
    "HeaderLineTooLong",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidHeaderFormat",
    "InvalidHeaderValue",
    "InvalidMessage",
    "InvalidMethod",
    "InvalidOrigin",
    "InvalidParameterName",
    "InvalidParameterValue",
    "InvalidProtocol",
    "InvalidProxy",
    "InvalidProxyMessage",
    "InvalidProxyStatus",
    "InvalidState",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "NegotiationError",
    "PayloadTooBig",
    "ProtocolError",
    "ProxyError",
    "RateExceeded",
    "RequestLineTooLong",
    "SecurityError",
    "StatusLineTooLong",
    "TooManyFragments",
    "TooManyHeaders",
    "WebSocketException",
]


class WebSocketException(Exception):
    """Base class of every exception defined here."""


class ConnectionClosed(WebSocketException):
    """Raised when using a connection that is closed.

    Args:
        rcvd: Close frame received from the peer, or None.
        sent: Close frame sent to the peer, or None.
        rcvd_then_sent: Whether the peer closed first; None unless both frames exist.
    """

    def __init__(
        self,
        rcvd: Close | None,
        sent: Close | None,
        rcvd_then_sent: bool | None = None,
    ) -> None:
        self.rcvd = rcvd
        self.sent = sent
        self.rcvd_then_sent = rcvd_then_sent
        assert (self.rcvd_then_sent is None) == (self.rcvd is None or self.sent is None)

    def __str__(self) -> str:
        if self.rcvd is None:
            if self.sent is None:
                return "no close frame received or sent"
            return f"sent {self.sent}; no close frame received"
        if self.sent is None:
            return f"received {self.rcvd}; no close frame sent"
        if self.rcvd_then_sent:
            return f"received {self.rcvd}; then sent {self.sent}"
        return f"sent {self.sent}; then received {self.rcvd}"

    # Arguments by name aren't in `args`. The attributes may have notes, and what programs add.
    def __reduce__(
        self,
    ) -> tuple[
        type[ConnectionClosed],
        tuple[Close | None, Close | None, bool | None],
        dict[str, Any],
    ]:
        return type(self), (self.rcvd, self.sent, self.rcvd_then_sent), self.__dict__

    @property
    def code(self) -> int:
        """Return the received close code, 1006 without one (deprecated)."""
        warnings.warn(
            "ConnectionClosed.code is deprecated; "
            "use Protocol.close_code or ConnectionClosed.rcvd.code",
            DeprecationWarning,
            stacklevel=2,
        )
        return 1006 if self.rcvd is None else self.rcvd.code

    @property
    def reason(self) -> str:
        """Return the received close reason, empty without one (deprecated)."""
        warnings.warn(
            "ConnectionClosed.reason is deprecated; "
            "use Protocol.close_reason or ConnectionClosed.rcvd.reason",
            DeprecationWarning,
            stacklevel=2,
        )
        return "" if self.rcvd is None else self.rcvd.reason


class ConnectionClosedOK(ConnectionClosed):
    """Raised when the connection ended properly: 1000, 1001 or no code, in both directions."""


class ConnectionClosedError(ConnectionClosed):
    """Raised when the connection ended with an error code or without a closing handshake."""


class InvalidURI(WebSocketException):
    """Raised when a URI isn't a WebSocket URI. Its text doesn't show a password.

    Args:
        uri: The URI as given.
        msg: What is wrong with it.
    """

    def __init__(self, uri: str, msg: str) -> None:
        super().__init__(uri, msg)
        self.uri = uri
        self.msg = msg

    def __str__(self) -> str:
        return f"{redact_url(self.uri)} isn't a valid URI: {self.msg}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact_url(self.uri)!r}, {self.msg!r})"


class InvalidProxy(WebSocketException):
    """Raised when the address of a proxy can't be used. Its text doesn't show a password.

    Args:
        proxy: The address as given.
        msg: What is wrong with it.
    """

    def __init__(self, proxy: str, msg: str) -> None:
        super().__init__(proxy, msg)
        self.proxy = proxy
        self.msg = msg

    def __str__(self) -> str:
        return f"{redact_url(self.proxy)} isn't a valid proxy: {self.msg}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact_url(self.proxy)!r}, {self.msg!r})"


class InvalidHandshake(WebSocketException):
    """Base class of errors in the opening handshake."""


class SecurityError(InvalidHandshake):
    """Raised when a message or a redirect of the opening handshake breaks a security rule."""


class RequestLineTooLong(SecurityError):
    """Raised when a request line is over the limit."""


class StatusLineTooLong(SecurityError):
    """Raised when a status line is over the limit."""


class HeaderLineTooLong(SecurityError):
    """Raised when a header line is over the limit."""


class TooManyHeaders(SecurityError):
    """Raised when a message has more header lines than allowed."""


class ProxyError(InvalidHandshake):
    """Raised when connecting through a proxy fails."""


class InvalidProxyMessage(ProxyError):
    """Raised when the answer of an HTTP proxy can't be parsed."""


class InvalidProxyStatus(ProxyError):
    """Raised when an HTTP proxy refuses the connection.

    Args:
        response: Answer of the proxy.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"proxy rejected connection: HTTP {self.response.status_code:d}"


class InvalidMessage(InvalidHandshake):
    """Raised when a handshake message can't be parsed; ``__cause__`` says why."""


class InvalidMethod(InvalidHandshake):
    """Raised when the method of the handshake request isn't GET.

    Args:
        method: Method of the request.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"unsupported HTTP method: {self.method}"


class InvalidProtocol(InvalidHandshake):
    """Raised when the HTTP version of the handshake request isn't 1.1.

    Args:
        protocol: Version of the request, for instance ``HTTP/1.0``.
    """

    def __init__(self, protocol: str) -> None:
        super().__init__(protocol)
        self.protocol = protocol

    def __str__(self) -> str:
        return f"unsupported HTTP version: {self.protocol}"


class InvalidStatus(InvalidHandshake):
    """Raised when a server answers the handshake with another status than 101.

    Args:
        response: Answer of the server, with its body.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"server rejected WebSocket connection: HTTP {self.response.status_code:d}"


class InvalidHeader(InvalidHandshake):
    """Raised when a header is missing, empty or wrong.

    Args:
        name: Name of the header.
        value: Its value; None when the header is missing.
    """

    def __init__(self, name: str, value: str | None = None) -> None:
        super().__init__(name, value)
        self.name = name
        self.value = value

    def __str__(self) -> str:
        if self.value is None:
            return f"missing {self.name} header"
        if self.value == "":
            return f"empty {self.name} header"
        return f"invalid {self.name} header: {escape(self.value)}"


class InvalidHeaderFormat(InvalidHeader):
    """Raised when a header breaks its grammar.

    Args:
        name: Name of the header.
        error: What was expected.
        header: Whole value of the header.
        pos: Index in ``header`` where parsing stopped.
    """

    def __init__(self, name: str, error: str, header: str, pos: int) -> None:
        super().__init__(name, f"{error} at {pos} in {header}")
        self._arguments = (name, error, header, pos)

    def __reduce__(
        self,
    ) -> tuple[type[InvalidHeaderFormat], tuple[str, str, str, int], dict[str, Any]]:
        return type(self), self._arguments, self.__dict__


class InvalidHeaderValue(InvalidHeader):
    """Raised when a header is well formed but its value isn't acceptable.

    Args:
        name: Name of the header.
        value: Its value.
    """


class InvalidOrigin(InvalidHeader):
    """Raised when the origin of a request isn't allowed.

    Args:
        origin: Value of the ``Origin`` header, None when it is missing.
    """

    def __init__(self, origin: str | None) -> None:
        super().__init__("Origin", origin)

    def __reduce__(self) -> tuple[type[InvalidOrigin], tuple[str | None], dict[str, Any]]:
        return type(self), (self.value,), self.__dict__


class InvalidUpgrade(InvalidHeader):
    """Raised when ``Connection`` or ``Upgrade`` doesn't ask for, or grant, WebSocket.

    Args:
        name: Name of the header.
        value: Its value; None when the header is missing.
    """


class NegotiationError(InvalidHandshake):
    """Raised when no agreement on extensions or subprotocols is possible."""


class DuplicateParameter(NegotiationError):
    """Raised when a parameter of an extension is repeated.

    Args:
        name: Name of the parameter.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"duplicate parameter: {self.name}"


class InvalidParameterName(NegotiationError):
    """Raised when the name of an extension's parameter isn't known.

    Args:
        name: Name of the parameter.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"invalid parameter name: {self.name}"


class InvalidParameterValue(NegotiationError):
    """Raised when the value of an extension's parameter isn't acceptable.

    Args:
        name: Name of the parameter.
        value: Its value; None when there is none.
    """

    def __init__(self, name: str, value: str | None) -> None:
        super().__init__(name, value)
        self.name = name
        self.value = value

    def __str__(self) -> str:
        if self.value is None:
            return f"missing value for parameter {self.name}"
        if self.value == "":
            return f"empty value for parameter {self.name}"
        return f"invalid value for parameter {self.name}: {self.value}"


class ProtocolError(WebSocketException):
    """Raised when a frame, sent or received, breaks the protocol."""


class PayloadTooBig(WebSocketException):
    """Raised when a frame or a message is over the size limit.

    Args:
        size_or_message: Size of the frame in bytes, None when unknown. A text is accepted with a
            ``DeprecationWarning``.
        max_size: Limit in bytes for this frame; not optional with a size.
        current_size: Bytes of the message read before this frame; None outside fragmented messages.
            ``max_size`` then is what was left, and the attribute tells the limit for the whole.

    Raises:
        TypeError: If there is neither a text alone nor ``max_size``.
    """

    def __init__(
        self,
        size_or_message: int | str | None,
        max_size: int | None = None,
        current_size: int | None = None,
    ) -> None:
        super().__init__(size_or_message, max_size, current_size)
        self.message: str | None = None
        self.size: int | None = None
        self.max_size: int | None = None
        self.current_size: int | None = None
        if isinstance(size_or_message, str):
            if max_size is not None or current_size is not None:
                raise TypeError("PayloadTooBig takes either a message or sizes")
            warnings.warn(
                "PayloadTooBig(message) is deprecated; change to PayloadTooBig(size, max_size)",
                DeprecationWarning,
                stacklevel=2,
            )
            self.message = size_or_message
            return
        if max_size is None:
            raise TypeError("PayloadTooBig requires max_size")
        self.size = size_or_message
        self.max_size = max_size
        if current_size is not None:
            self.set_current_size(current_size)

    def __str__(self) -> str:
        if self.message is not None:
            return self.message
        text = "frame "
        if self.size is not None:
            text += f"with {self.size} bytes "
        if self.current_size is not None:
            text += f"after reading {self.current_size} bytes "
        return f"{text}exceeds limit of {self.max_size} bytes"

    def set_current_size(self, current_size: int) -> None:
        """Record what was read of the message before this frame, once.

        Args:
            current_size: Bytes read; ``max_size`` grows by as many.

        Raises:
            ValueError: If it is known already, or there is no ``max_size``.
        """
        if self.max_size is None or self.current_size is not None:
            raise ValueError("current_size can be set once, beside max_size")
        self.max_size += current_size
        self.current_size = current_size


class TooManyFragments(WebSocketException):
    """Raised when a message has more fragments than allowed.

    Args:
        max_fragments: Limit in frames.
    """

    def __init__(self, max_fragments: int) -> None:
        super().__init__(max_fragments)

    def __str__(self) -> str:
        return f"fragmented message exceeds limit of {self.args[0]} frames"


class RateExceeded(WebSocketException):
    """Raised when a peer sends more in a time than allowed.

    Args:
        unit: What there is too much of, "messages" or "bytes".
        per_second: Limit on it, per second.
    """

    def __init__(self, unit: str, per_second: float) -> None:
        super().__init__(unit, per_second)
        self.unit = unit
        self.per_second = per_second

    def __str__(self) -> str:
        return f"more than {self.per_second} {self.unit} per second"


class InvalidState(WebSocketException, AssertionError):
    """Raised when an operation isn't possible in the current state of the connection."""


class ConcurrencyError(WebSocketException, RuntimeError):
    """Raised when two operations that exclude each other run at the same time."""
