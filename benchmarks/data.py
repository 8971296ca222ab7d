"""Payloads and their wire bytes: seeded, built once, outside any measured window.

Knows the frame format of RFC 6455 §5.2 only as far as unfragmented frames need it, and uses no
WebSocket library, so that it can judge all of them.
"""

from __future__ import annotations

import base64
import hashlib
import random
import string
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8

SEED: Final = 6455
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def payloads(count: int, size: int, *, seed: int = SEED) -> list[bytes]:
    """Return `count` different payloads of `size` bytes, printable ASCII (valid as text)."""
    generator = random.Random(f"{seed}/{size}")
    alphabet = string.ascii_letters + string.digits
    return ["".join(generator.choices(alphabet, k=size)).encode() for _ in range(count)]


def masking_keys(count: int, *, seed: int = SEED) -> list[bytes]:
    """Return `count` masking keys; predictable on purpose, these frames never leave the machine."""
    generator = random.Random(seed)
    return [generator.randbytes(4) for _ in range(count)]


def mask(payload: bytes, key: bytes) -> bytes:
    """Return `payload` masked with the four bytes of `key` (RFC 6455 §5.3)."""
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def frame(opcode: int, payload: bytes, key: bytes | None = None) -> bytes:
    """Return the one frame of an unfragmented message; with `key`, masked as a client does."""
    size = len(payload)
    mask_bit = 0 if key is None else 0x80
    if size < 126:
        head = bytes([0x80 | opcode, mask_bit | size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, mask_bit | 127]) + size.to_bytes(8, "big")
    return head + payload if key is None else head + key + mask(payload, key)


def upgrade_request(port: int, nonce: bytes) -> bytes:
    """Return an opening handshake that offers no extension, so that nothing is compressed."""
    return (
        b"GET /benchmark HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %s\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"User-Agent: wsproto-fast-benchmark\r\n"
        b"\r\n"
    ) % (port, base64.b64encode(nonce))


def accept_key(nonce: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept value that answers `nonce` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(base64.b64encode(nonce) + GUID).digest())
