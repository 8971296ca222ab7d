"""How values become messages, and messages values: JSON, or what a library makes of them.

Owns what a codec is, the one of the standard library's ``json``, and the error for messages that
can't be decoded. Knows nothing of connections, which have ``send_json`` and ``recv_json``; those
with types are ``TypedConnection`` in ``wsapi.asyncio.typed``, ``wsapi.sync.typed``, and
``wsapi.trio.typed``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar

from wsproto_fast.exceptions import WebSocketException
from wsproto_fast.typing import Data

__all__ = ["JSON", "Codec", "DecodeError", "OnError", "codec"]

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")
SentT_contra = TypeVar("SentT_contra", contravariant=True)
ReceivedT_co = TypeVar("ReceivedT_co", covariant=True)

OnError: TypeAlias = Literal["raise", "close"]
"""What follows a message that can't be decoded: ``"raise"`` a ``DecodeError``, and the connection
stays open; or ``"close"`` it with 1007 (RFC 6455 section 7.4.1)."""

CLOSE_CODE: Final = 1007
CLOSE_REASON: Final = "message can't be decoded"
# Characters of what a library says is wrong; some show the message itself, in more lines.
MAX_REASON: Final = 200


class Codec(Protocol[SentT_contra, ReceivedT_co]):
    """What makes messages of values, and values of messages: anything with these members.

    ``codec`` makes one of two functions.
    """

    @property
    def text(self) -> bool | None:
        """True to send text messages, False to send binary ones, None for those that ``encode``
        returns: text of a str, binary of bytes."""

    def encode(self, value: SentT_contra, /) -> Data:
        """Return the message for a value.

        Args:
            value: What to send.
        """

    def decode(self, message: Any, /) -> ReceivedT_co:
        """Return the value of a message. Any exception says that there is none.

        Args:
            message: str of a text message, bytes of a binary one.
        """


class _Functions(Generic[SentT, ReceivedT]):
    __slots__ = ("decode", "encode", "text")

    def __init__(
        self,
        encode: Callable[[SentT], Data],
        decode: Callable[[Any], ReceivedT],
        text: bool | None,
    ) -> None:
        self.encode = encode
        self.decode = decode
        self.text = text


def codec(
    encode: Callable[[SentT], Data],
    decode: Callable[[Any], ReceivedT],
    *,
    text: bool | None = None,
) -> Codec[SentT, ReceivedT]:
    """Return a codec made of two functions.

    Args:
        encode: Returns the message for a value, str or bytes.
        decode: Returns the value of a message, which is a str if it is a text message and bytes if
            it is a binary one. Any exception says that there is none.
        text: True to send text messages, such as JSON for browsers, False to send binary ones, None
            for text of a str and binary of bytes.

    Raises:
        TypeError: If an argument is of another type.
    """
    for name, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
    if text is not None and not isinstance(text, bool):
        raise TypeError(f"text must be a bool or None, not {type(text).__name__}")
    return _Functions(encode, decode, text)


class _Json:
    """The standard library's ``json``, by the letter of RFC 8259: UTF-8, and no NaN."""

    text = True

    # Programs that don't use it needn't wait for the import.

    @cached_property
    def encode(self) -> Callable[[Any], str]:
        from json import JSONEncoder

        return JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

    @cached_property
    def decode(self) -> Callable[[Data], Any]:
        from json import JSONDecoder

        decode = JSONDecoder(parse_constant=_refuse_constant).decode
        return lambda message: decode(message if isinstance(message, str) else message.decode())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON (RFC 8259 section 6)")


JSON: Codec[Any, Any] = _Json()
"""JSON by the standard library, in text messages. Values that JSON doesn't have, NaN and infinities
among them, raise TypeError or ValueError when they are sent, and those that are nested too deeply
RecursionError. Binary messages are taken as UTF-8."""


class DecodeError(WebSocketException, ValueError):
    """Raised when a message was received that can't be decoded. Its cause says why.

    Args:
        message: The message, str or bytes.
        reason: What is wrong with it.

    Attributes:
        message: The message.
        reason: What is wrong with it.
    """

    def __init__(self, message: Data, reason: str) -> None:
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        # Not the message: it may be long, and what is in it isn't for logs.
        if isinstance(self.message, str):
            what = f"text message of {len(self.message)} characters"
        else:
            what = f"binary message of {len(self.message)} bytes"
        return f"can't decode {what}: {self.reason}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


def check_on_error(on_error: OnError) -> None:
    """Check a choice of what follows a message that can't be decoded.

    Raises:
        ValueError: If it is none.
    """
    if on_error not in ("raise", "close"):
        raise ValueError(f"on_error must be 'raise' or 'close', not {on_error!r}")


def not_a_message(encoded: object) -> TypeError:
    """Return the error for what ``encode`` of a codec returned if that is no message."""
    return TypeError(f"codec must encode to str or bytes, not {type(encoded).__name__}")


def decode_error(message: Data, exc: Exception) -> DecodeError:
    """Return the error for a message whose decoding has raised ``exc``."""
    reason = type(exc).__name__
    try:
        reason = f"{reason}: {exc}".partition("\n")[0]
    except Exception:
        pass  # it can't be shown, such as an int of the message that has too many digits for a str
    if len(reason) > MAX_REASON:
        reason = f"{reason[:MAX_REASON]}..."
    error = DecodeError(message, reason)
    error.__cause__ = exc
    return error
