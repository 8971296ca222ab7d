"""Payloads and their wire bytes: seeded, built once, outside any measured window.

Knows the frame format of RFC 6455 §5.2 only as far as unfragmented frames need it, and of RFC 7692
what a client needs that compresses all it sends. Uses no WebSocket library, so that it can judge
all of them, and no DEFLATE but that of the standard library.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import random
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
COMPRESSED: Final = 0x40  # RSV1, beside the opcode in the first byte (RFC 7692 §6)

# The end of what a flush makes: cut off before sending, put back before inflating (RFC 7692 §7.2).
TAIL: Final = b"\x00\x00\xff\xff"
MAX_WINDOW_BITS: Final = 15
# An offer that leaves all to the server: its window, and whether contexts are kept.
OFFER: Final = b"permessage-deflate; client_max_window_bits"

SEED: Final = 6455
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def payloads(count: int, size: int, *, seed: int = SEED) -> list[bytes]:
    """Return `count` different payloads of `size` bytes, printable ASCII (valid as text)."""
    generator = random.Random(f"{seed}/{size}")
    alphabet = string.ascii_letters + string.digits
    return ["".join(generator.choices(alphabet, k=size)).encode() for _ in range(count)]


NAMES: Final = (
    *("Adeyemi", "Alvarez", "Andersson", "Banerjee", "Bianchi", "Castillo", "Chen", "Dubois"),
    *("Eriksen", "Fischer", "Garcia", "Haddad", "Ivanova", "Jensen", "Kowalski", "Larsen"),
    *("Mbeki", "Nakamura", "Novak", "Okafor", "Oliveira", "Petrov", "Quispe", "Rossi"),
    *("Silva", "Tanaka", "Ueda", "Vargas", "Weber", "Yilmaz", "Zhang"),
)
SENTENCES: Final = (
    "Events of the last minute, oldest first.",
    "Amounts are in the currency of the order.",
    "Assigned automatically; the customer has been told by mail.",
    "Older events can be asked for with the number of the first one.",
)
KINDS: Final = ("created", "updated", "assigned", "commented", "closed", "reopened")
TAGS: Final = ("billing", "urgent", "shipping", "mobile", "vip", "refund", "b2b", "returning")


def record(generator: random.Random, number: int) -> dict[str, Any]:
    """Return a record such as programs send to each other: an event of a help desk."""
    name = generator.choice(NAMES)
    return {
        "id": 4_100_000 + number,
        "event": generator.choice(KINDS),
        "time": f"2025-03-{number // 40_000 % 28 + 1:02}T{number // 1_700 % 24:02}:"
        f"{number // 28 % 60:02}:{generator.randrange(60):02}Z",
        "user": {
            "id": generator.randrange(10_000),
            "name": name,
            "email": f"{name.lower()}{generator.randrange(100)}@example.com",
            "active": generator.random() < 0.9,
        },
        "amount": round(generator.lognormvariate(3.5, 1), 2),
        "currency": generator.choice(("EUR", "EUR", "EUR", "USD")),
        "tags": generator.sample(TAGS, generator.randrange(3)),
        "parent": None,
    }


def json_payloads(count: int, size: int, *, seed: int | str = SEED) -> list[bytes]:
    """Return `count` different JSON texts of exactly `size` bytes each, in ASCII.

    Each is an object with as many records as fit, and a note that fills it up.
    """
    generator = random.Random(f"{seed}/{size}/json")
    number = generator.randrange(100_000)
    texts = []
    for sequence in range(count):
        records: list[str] = []
        head = f'{{"seq":{sequence + 1},"records":['
        left = size - len(head) - len('],"note":""}')
        while True:
            fields = record(generator, number)
            text = json.dumps(fields, separators=(",", ":"))
            number += generator.randrange(1, 4)
            if not records and len(text) > left:
                del fields["user"]  # too much for a short message
                text = json.dumps(fields, separators=(",", ":"))
            if len(text) + 1 > left:
                break
            records.append(text)
            left -= len(text) + (len(records) > 1)
        note = " ".join(generator.sample(SENTENCES, len(SENTENCES))) * (left // 100 + 1)
        texts.append(f'{head}{",".join(records)}],"note":"{note[:left]}"}}'.encode())
    return texts


def binary_payloads(count: int, size: int, random_share: float) -> list[bytes]:
    """Return `count` binary payloads, of which `random_share` can't be compressed, the rest can."""
    generator = random.Random(f"{SEED}/{size}/{random_share}/binary")
    noise = round(size * random_share)
    row = generator.randbytes(16)
    rows = (row * (size // len(row) + 1))[: size - noise]
    return [generator.randbytes(noise) + rows for _ in range(count)]


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
    """Return the one frame of an unfragmented message; with `key`, masked as a client does.

    `opcode` may have the bit `COMPRESSED` added.
    """
    size = len(payload)
    mask_bit = 0 if key is None else 0x80
    if size < 126:
        head = bytes([0x80 | opcode, mask_bit | size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, mask_bit | 127]) + size.to_bytes(8, "big")
    return head + payload if key is None else head + key + mask(payload, key)


def upgrade_request(port: int, nonce: bytes, offer: bytes = b"") -> bytes:
    """Return an opening handshake that offers `offer`, or else no extension."""
    extensions = b"Sec-WebSocket-Extensions: %s\r\n" % offer if offer else b""
    return (
        b"GET /benchmark HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %s\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"User-Agent: wsproto-fast-benchmark\r\n"
        b"%s"
        b"\r\n"
    ) % (port, base64.b64encode(nonce), extensions)


def accept_key(nonce: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept value that answers `nonce` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(base64.b64encode(nonce) + GUID).digest())


@dataclass(frozen=True)
class Deflate:
    """What client and server have agreed on (RFC 7692 §7.1)."""

    server_bits: int = MAX_WINDOW_BITS
    client_bits: int = MAX_WINDOW_BITS
    server_takeover: bool = True
    client_takeover: bool = True

    @classmethod
    def parse(cls, answer: bytes) -> Deflate:
        """Read the server's answer to `OFFER`.

        Raises:
            ValueError: it isn't one that fits.

        """
        name, *rest = (part.strip() for part in answer.decode().split(";"))
        params = dict(part.partition("=")[::2] for part in rest)
        if name != "permessage-deflate" or len(params) != len(rest):
            raise ValueError(f"not an answer to the offer: {answer!r}")
        takeover = {
            side: params.pop(f"{side}_no_context_takeover", None) is None
            for side in ("server", "client")
        }
        bits = {
            side: int(params.pop(f"{side}_max_window_bits", str(MAX_WINDOW_BITS)).strip('"'))
            for side in ("server", "client")
        }
        if params or not all(9 <= value <= MAX_WINDOW_BITS for value in bits.values()):
            raise ValueError(f"not an answer to the offer: {answer!r}")
        return cls(bits["server"], bits["client"], takeover["server"], takeover["client"])


def new_compressor(bits: int) -> Any:
    """Return a compressor as clients commonly have it: zlib's level 6, memLevel 5."""
    return zlib.compressobj(level=6, wbits=-bits, memLevel=5)


def compress(compressor: Any, payload: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692 §7.2.1)."""
    data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(TAIL)


@dataclass(frozen=True)
class Stream:
    """Messages that are sent round and round on one connection, and what they look like compressed.

    The first round is compressed from nothing, the second with the first one before it. A round is
    longer than any window, so the second one is as valid after itself as after the first.
    """

    payloads: list[bytes]
    first: list[bytes]  # compressed, without frame
    again: list[bytes]

    @classmethod
    def of(cls, payloads: list[bytes], deflate: Deflate) -> Stream:
        """Compress `payloads` as the client."""
        if sum(map(len, payloads)) < 1 << deflate.client_bits:
            raise ValueError("a round has to be as long as the window")
        squeeze: Callable[[bytes], bytes]
        if deflate.client_takeover:
            squeeze = functools.partial(compress, new_compressor(deflate.client_bits))
        else:

            def squeeze(payload: bytes) -> bytes:
                return compress(new_compressor(deflate.client_bits), payload)

        return cls(payloads, list(map(squeeze, payloads)), list(map(squeeze, payloads)))

    def before(self, number: int, size: int) -> bytes:
        """Return up to `size` bytes of the text before message `number`, counted from 0."""
        pieces: list[bytes] = []
        while number > 0 and size > 0:
            number -= 1
            piece = self.payloads[number % len(self.payloads)][-size:]
            pieces.append(piece)
            size -= len(piece)
        return b"".join(reversed(pieces))
