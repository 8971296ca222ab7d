"""Enumerations of the protocol, the payload of close frames, and the text of frames in debug logs.

Owns what is looked at seldom: opcodes, close codes, states, sides, the rules of RFC 6455 §7.4 for
close codes. Reading and writing frames is compiled code elsewhere.
"""

from __future__ import annotations

import codecs
import enum
import re
from dataclasses import dataclass
from operator import index
from typing import TypeAlias

from . import environment
from .exceptions import ProtocolError
from .redaction import escape

__all__ = [
    "CLOSE_CODE_EXPLANATIONS",
    "EXTERNAL_CLOSE_CODES",
    "MAX_FRAGMENTS",
    "MAX_LOG_SIZE",
    "OK_CLOSE_CODES",
    "Close",
    "CloseCode",
    "Opcode",
    "Side",
    "State",
    "describe_frame",
    "format_payload",
]

_BytesLike: TypeAlias = bytes | bytearray | memoryview


class Opcode(enum.IntEnum):
    """Opcodes of frames (RFC 6455 §5.2)."""

    CONT, TEXT, BINARY = 0x00, 0x01, 0x02
    CLOSE, PING, PONG = 0x08, 0x09, 0x0A


class CloseCode(enum.IntEnum):
    """Close codes below 3000 (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    # 1004 is reserved.
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class Side(enum.IntEnum):
    """Role of an endpoint."""

    SERVER, CLIENT = range(2)


class State(enum.IntEnum):
    """State of a connection."""

    CONNECTING, OPEN, CLOSING, CLOSED = range(4)


CLOSE_CODE_EXPLANATIONS: dict[int, str] = {
    CloseCode.NORMAL_CLOSURE: "OK",
    CloseCode.GOING_AWAY: "going away",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.UNSUPPORTED_DATA: "unsupported data",
    CloseCode.NO_STATUS_RCVD: "no status received [internal]",
    CloseCode.ABNORMAL_CLOSURE: "abnormal closure [internal]",
    CloseCode.INVALID_DATA: "invalid frame payload data",
    CloseCode.POLICY_VIOLATION: "policy violation",
    CloseCode.MESSAGE_TOO_BIG: "message too big",
    CloseCode.MANDATORY_EXTENSION: "mandatory extension",
    CloseCode.INTERNAL_ERROR: "internal error",
    CloseCode.SERVICE_RESTART: "service restart",
    CloseCode.TRY_AGAIN_LATER: "try again later",
    CloseCode.BAD_GATEWAY: "bad gateway",
    CloseCode.TLS_HANDSHAKE: "TLS handshake failure [internal]",
}

# RFC 6455 §7.4.1: these three stand for what happened locally and never travel in a frame.
EXTERNAL_CLOSE_CODES: frozenset[int] = frozenset(CloseCode) - {
    CloseCode.NO_STATUS_RCVD,
    CloseCode.ABNORMAL_CLOSURE,
    CloseCode.TLS_HANDSHAKE,
}

OK_CLOSE_CODES: frozenset[int] = frozenset(
    {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD}
)


@dataclass
class Close:
    """Payload of a close frame (RFC 6455 §5.5.1).

    Args:
        code: Close code.
        reason: Close reason.
    """

    code: int
    reason: str

    def __str__(self) -> str:
        if 3000 <= self.code < 4000:
            text = "registered"
        elif 4000 <= self.code < 5000:
            text = "private use"
        else:
            text = CLOSE_CODE_EXPLANATIONS.get(self.code, "unknown")
        # The peer chose the reason, and this ends up in logs.
        reason = f" {escape(self.reason)}" if self.reason else ""
        return f"{self.code:d} ({text}){reason}"

    @classmethod
    def parse(cls, data: _BytesLike) -> Close:
        """Read the payload of a close frame.

        Args:
            data: Payload; an empty one means code 1005.

        Raises:
            ProtocolError: If the payload is too short or the code isn't allowed.
            UnicodeDecodeError: If the reason isn't UTF-8.
        """
        if not data:
            return cls(CloseCode.NO_STATUS_RCVD, "")
        if len(data) < 2:
            raise ProtocolError("close frame too short")
        close = cls(int.from_bytes(data[:2], "big"), str(data[2:], "utf-8"))
        close.check()
        return close

    def serialize(self) -> bytes:
        """Return the payload of the close frame.

        Raises:
            ProtocolError: If the code isn't allowed in a frame.
            TypeError: If the code or the reason is of a wrong type.
        """
        self.check()
        if not isinstance(self.reason, str):
            raise TypeError(f"close reason must be str, not {type(self.reason).__name__}")
        return index(self.code).to_bytes(2, "big") + self.reason.encode()

    def check(self) -> None:
        """Check that the code may travel in a frame (RFC 6455 §7.4.2).

        Raises:
            ProtocolError: If it may not.
            TypeError: If it isn't an integer.
        """
        try:
            code = index(self.code)  # what isn't int may be an integer all the same, as numpy's are
        except TypeError:
            name = type(self.code).__name__
            raise TypeError(f"close code must be int, not {name}") from None
        if not (code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000):
            raise ProtocolError("invalid status code")


MAX_LOG_SIZE: int
"""About how many characters of a payload logs show."""

MAX_FRAGMENTS: int
"""Default limit on the number of fragments in a message."""


def _read_settings() -> None:
    global MAX_LOG_SIZE, MAX_FRAGMENTS
    MAX_LOG_SIZE = environment.getenv_int("MAX_LOG_SIZE", 75)
    MAX_FRAGMENTS = environment.getenv_int("MAX_FRAGMENTS", 4096)


environment.follow(_read_settings)

# What a terminal shouldn't be sent: C0 without tab, line feed and carriage return, DEL, C1.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _ends(data: _BytesLike) -> tuple[bytes, bool]:
    """Return the payload, or both ends of a long one without the characters that the cut splits."""
    limit = 4 * MAX_LOG_SIZE
    if len(data) <= 2 * limit:
        return bytes(data), False
    head_end = limit
    while head_end > limit - 3 and data[head_end] & 0xC0 == 0x80:
        head_end -= 1
    tail_start = len(data) - limit
    while tail_start < len(data) - limit + 3 and data[tail_start] & 0xC0 == 0x80:
        tail_start += 1
    return bytes(data[:head_end]) + bytes(data[tail_start:]), True


def _hex(ends: bytes, shortened: bool) -> str:
    """Return pairs of hexadecimal digits, shortened to about ``MAX_LOG_SIZE`` characters."""
    if shortened or 3 * len(ends) - 1 > MAX_LOG_SIZE:
        head = max(2 * (MAX_LOG_SIZE // 3) // 3, 1)
        tail = max(MAX_LOG_SIZE // 9, 1)
        return f"{ends[:head].hex(' ')} ... {ends[-tail:].hex(' ')}"
    return ends.hex(" ")


def _text(data: bytes, cut_start: bool, cut_end: bool) -> str:
    """Decode text of which the first and the last character may be cut by fragmentation.

    Raises:
        UnicodeDecodeError: If it isn't such a text.
    """
    start = 0
    if cut_start:
        while start < min(len(data), 3) and data[start] & 0xC0 == 0x80:
            start += 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = "\ufffd" * start + decoder.decode(data[start:], final=not cut_end)
    return text + "\ufffd" if decoder.getstate()[0] else text


def format_payload(
    data: _BytesLike, *, ascii_only: bool = False, cut_start: bool = False, cut_end: bool = False
) -> tuple[str, bool | None]:
    """Render a payload for a log, the middle left out beyond ``MAX_LOG_SIZE`` characters.

    Args:
        data: Payload.
        ascii_only: Take anything but ASCII for binary data.
        cut_start: Whether the beginning may be in the middle of a character.
        cut_end: Whether the end may be so.

    Returns:
        The text, and whether the payload looks like text; None when it is empty.
    """
    if not len(data):
        return "''", None
    ends, shortened = _ends(data)
    text: str | None
    try:
        text = ends.decode("ascii") if ascii_only else _text(ends, cut_start, cut_end)
    except UnicodeDecodeError:
        text = None
    if text is not None and _CONTROL_CHARACTERS.search(text) is None:
        shown = repr(text)
        if shortened or len(shown) > MAX_LOG_SIZE:
            head = max(2 * MAX_LOG_SIZE // 3 - 2, 1)
            tail = max(MAX_LOG_SIZE // 3 - 1, 1)
            shown = f"{shown[:head]}...{shown[-tail:]}"
        return shown, True
    return _hex(ends, shortened), False


def describe_frame(
    opcode: int,
    data: _BytesLike,
    fin: bool = True,
    rsv1: bool = False,
    rsv2: bool = False,
    rsv3: bool = False,
) -> str:
    """Return the text of a frame in debug logs, for instance ``TEXT 'hello' [5 bytes]``.

    Args:
        opcode: Opcode; unknown ones appear as a number.
        data: Payload.
        fin: FIN bit.
        rsv1: RSV1 bit. The reserved bits aren't shown.
        rsv2: RSV2 bit.
        rsv3: RSV3 bit.
    """
    try:
        name = Opcode(opcode).name
    except ValueError:
        name = f"0x{opcode:X}"
    shown: str | None = None
    tags: list[str] = []
    if opcode == Opcode.CLOSE:
        try:
            shown = str(Close.parse(data)) if 2 <= len(data) <= 125 else None
        except (ProtocolError, UnicodeDecodeError):
            shown = None
        if shown is None and len(data):
            shown = _hex(*_ends(data))
            tags.append("binary")
    if shown is None:
        shown, is_text = format_payload(
            data,
            ascii_only=opcode in (Opcode.PING, Opcode.PONG),
            cut_start=opcode == Opcode.CONT,
            cut_end=not fin,
        )
        if is_text and opcode != Opcode.TEXT:
            tags.append("text")
        elif is_text is False and opcode != Opcode.BINARY:
            tags.append("binary")
    tags.append(f"{len(data)} byte{'' if len(data) == 1 else 's'}")
    if not fin:
        tags.append("continued")
    return f"{name} {shown} [{', '.join(tags)}]"
