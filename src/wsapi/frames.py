"""Frames, close codes, and opcodes."""

from typing import TYPE_CHECKING

from wsproto_fast import Frame
from wsproto_fast.aliases import fallback
from wsproto_fast.frames import (
    CLOSE_CODE_EXPLANATIONS,
    EXTERNAL_CLOSE_CODES,
    OK_CLOSE_CODES,
    Close,
    CloseCode,
    Opcode,
)

__all__ = [
    "BINARY",
    "CLOSE",
    "CLOSE_CODE_EXPLANATIONS",
    "CONT",
    "CTRL_OPCODES",
    "DATA_OPCODES",
    "EXTERNAL_CLOSE_CODES",
    "OK_CLOSE_CODES",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "CloseCode",
    "Frame",
    "Opcode",
]

# Not documented, but programs use them.
CONT, TEXT, BINARY = Opcode.CONT, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
DATA_OPCODES = CONT, TEXT, BINARY
CTRL_OPCODES = CLOSE, PING, PONG

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
