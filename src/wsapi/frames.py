"""Frames, close codes, and opcodes."""

from wsproto_fast import Frame
from wsproto_fast.frames import EXTERNAL_CLOSE_CODES, OK_CLOSE_CODES, Close, CloseCode, Opcode

__all__ = [
    "EXTERNAL_CLOSE_CODES",
    "OK_CLOSE_CODES",
    "Close",
    "CloseCode",
    "Frame",
    "Opcode",
]
