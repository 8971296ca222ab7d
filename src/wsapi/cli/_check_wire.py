"""Connections on which a checker sends what it wants, and looks at every byte that comes.

Frames are written and read here, not by the engine, which neither sends what is wrong nor lets
through what is. What a server may never send, whatever was asked, is noted in `Observations`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from wsproto_fast import apply_mask
from wsproto_fast.datastructures import Headers, HeadersLike
from wsproto_fast.frames import CLOSE_CODE_EXPLANATIONS, Close, Opcode
from wsproto_fast.headers import build_host
from wsproto_fast.http11 import USER_AGENT
from wsproto_fast.uri import WebSocketURI

from ..asyncio.client import ClientConnection, connect

__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "PING",
    "PONG",
    "TEXT",
    "Deflate",
    "Ended",
    "Event",
    "Failure",
    "Head",
    "Observations",
    "Piece",
    "Place",
    "Silence",
    "Wire",
    "accept_key",
    "close_frame",
    "frame",
    "new_key",
    "quoted",
    "raw",
]

CONT, TEXT, BINARY = int(Opcode.CONT), int(Opcode.TEXT), int(Opcode.BINARY)
CLOSE, PING, PONG = int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# The end of what a flush makes: cut off before sending, put back before inflating (RFC 7692 §7.2).
TAIL: Final = b"\x00\x00\xff\xff"
MAX_HEAD: Final = 64 * 1024
"""Bytes of a response's head above which it isn't read any more."""
MAX_FRAME: Final = 64 * 2**20
"""Bytes of a frame's payload above which it isn't read any more."""
MAX_BUFFERED: Final = 2**20
"""Bytes that wait here, in front of the frame that is being read, when reading pauses."""
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER without time: closing sends RST


class Failure(Exception):
    """The server does something else than it has to; the message says what came."""


class Silence(Failure):
    """Nothing came in time."""


def quoted(data: bytes, most: int = 24) -> str:
    """Return bytes for a report, without what a terminal could obey, and not too long."""
    shown = repr(data[:most])[1:]
    return shown if len(data) <= most else f"{shown}..."


def new_key() -> str:
    """Return a value of Sec-WebSocket-Key (RFC 6455 §4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept value that answers a key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


# ---------------------------------------------------------------------- what is sent


@dataclass(frozen=True)
class Piece:
    """Bytes, and how a report calls them."""

    data: bytes
    text: str


def raw(data: bytes, text: str | None = None) -> Piece:
    """Return bytes as they are."""
    return Piece(data, quoted(data, 60) if text is None else text)


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"opcode {opcode}"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    key: bytes | None = None,
    length: int | None = None,
    form: int | None = None,
    text: str | None = None,
) -> Piece:
    """Return a frame, which needn't be a right one.

    Args:
        opcode: Opcode, 0 to 15.
        payload: Payload, not masked.
        fin: FIN bit.
        rsv: Reserved bits: 4 for RSV1, 2 for RSV2, 1 for RSV3.
        masked: Whether it is masked.
        key: Masking key; a random one by default.
        length: Length in the header; that of the payload by default.
        form: Bits of the length in the header: 7, 16 or 64; as few as there can be by default.
        text: What a report calls it; by default what it is.
    """
    size = len(payload) if length is None else length
    if form is None:
        form = 7 if size < 126 else 16 if size < 1 << 16 else 64
    mark = {7: size, 16: 126, 64: 127}[form]
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | mark])
    if form > 7:
        head += size.to_bytes(form // 8, "big")
    data = payload
    if masked:
        key = os.urandom(4) if key is None else key
        head += key
        data = apply_mask(payload, key)
    if text is None:
        words = [_name(opcode)]
        words += [f"RSV{number}" for number, bit in ((1, 4), (2, 2), (3, 1)) if rsv & bit]
        words += [] if fin else ["without FIN"]
        words += [] if masked else ["not masked"]
        text = f"{' '.join(words)} {_payload(opcode, payload)}"
        if length is not None:
            text += f", length {length:,} in the header"
        elif (form > 7 and size < 126) or (form == 64 and size < 1 << 16):
            text += f", length in {form} bits"
    return Piece(head + data, text)


def close_frame(code: int | None = 1000, reason: bytes = b"", **options: Any) -> Piece:
    """Return a Close frame with any code; None for no payload."""
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return frame(CLOSE, payload, **options)


def _payload(opcode: int, payload: bytes) -> str:
    if opcode == CLOSE and len(payload) >= 2:
        reason = f" {quoted(payload[2:], 40)}" if payload[2:] else ""
        return f"{int.from_bytes(payload[:2], 'big')}{reason}"
    if not payload:
        return "empty"
    if len(payload) <= 24:
        return quoted(payload)
    return f"[{len(payload):,} bytes]"


# ---------------------------------------------------------------------- what is noted


@dataclass
class Observations:
    """What a server sent that it never may, by the name of the check that tells it."""

    faults: dict[str, str] = field(default_factory=dict)
    frames: int = 0  # that were looked at
    texts: int = 0
    closes: int = 0
    responses: int = 0  # with status 101

    def note(self, name: str, what: str) -> None:
        """Keep the first fault of each kind."""
        self.faults.setdefault(name, what)


# ---------------------------------------------------------------------- what comes


@dataclass(frozen=True)
class Head:
    """The head of a response, and where it isn't one, what came instead."""

    status: int | None
    reason: str
    headers: Headers
    data: bytes

    def __str__(self) -> str:
        if self.status is None:
            return quoted(self.data) if self.data else "nothing"
        return f"{self.status} {self.reason}".rstrip()

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Read a head as far as it can be read: the checks are about what it says."""
        lines = data.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        status, _, reason = rest.partition(" ")
        headers = Headers()
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                with contextlib.suppress(Exception):  # a name or a value that isn't one
                    headers[name] = value.strip()
        good = version.startswith("HTTP/1.") and len(status) == 3 and status.isdecimal()
        return cls(
            int(status) if good else None,
            "".join(c for c in reason if c.isprintable()),
            headers,
            data,
        )


@dataclass(frozen=True)
class Event:
    """A message, or a control frame."""

    opcode: int
    payload: bytes
    compressed: bool = False

    def __str__(self) -> str:
        if self.opcode == CLOSE and len(self.payload) >= 2:
            code = int.from_bytes(self.payload[:2], "big")
            name = CLOSE_CODE_EXPLANATIONS.get(code)
            reason = f" {quoted(self.payload[2:], 40)}" if self.payload[2:] else ""
            return f"Close {code}{f' ({name})' if name else ''}{reason}"
        if self.opcode == CLOSE:
            return "Close without a code"
        return f"{_name(self.opcode)} {_payload(self.opcode, self.payload)}"

    @property
    def code(self) -> int | None:
        """Code of a Close frame; None for none."""
        return int.from_bytes(self.payload[:2], "big") if len(self.payload) >= 2 else None


@dataclass(frozen=True)
class Ended:
    """The end of the TCP connection."""

    reset: bool

    def __str__(self) -> str:
        return "the connection was reset" if self.reset else "the end of the connection"


class Deflate:
    """What was agreed on by an answer to an offer of permessage-deflate (RFC 7692 §7.1).

    Args:
        answer: Value of Sec-WebSocket-Extensions in the response.

    Raises:
        ValueError: If it isn't an answer to any offer; the message says why.
    """

    def __init__(self, answer: str) -> None:
        name, *rest = (part.strip() for part in answer.split(";"))
        if name != "permessage-deflate" or "," in answer:
            raise ValueError(f"{answer!r} isn't permessage-deflate alone")
        self.parameters: dict[str, str | None] = {}
        for part in rest:
            key, equals, value = (word.strip() for word in part.partition("="))
            if key in self.parameters:
                raise ValueError(f"{key} twice")
            self.parameters[key] = value.strip('"') if equals else None
        for key, given in self.parameters.items():
            if key.endswith("_no_context_takeover") and key[:6] in ("server", "client"):
                if given is not None:
                    raise ValueError(f"{key} with a value")
            elif key in ("server_max_window_bits", "client_max_window_bits"):
                bits = given or ""
                if not (bits.isdecimal() and 8 <= int(bits) <= 15 and bits[0] != "0"):
                    raise ValueError(f"{key}={given}")
            else:
                raise ValueError(f"unknown parameter {key!r}")
        self.client_bits = int(self.parameters.get("client_max_window_bits") or 15)
        self.keeps = "server_no_context_takeover" not in self.parameters
        self._compressor: Any = None
        self._inflater = zlib.decompressobj(-15)

    def narrow(self, bits: int) -> None:
        """Inflate with a window of 2 ** ``bits`` bytes, whatever the server may use."""
        self._inflater = zlib.decompressobj(-bits)

    def compress(self, data: bytes) -> bytes:
        """Return the payload of a compressed message (RFC 7692 §7.2.1)."""
        if self._compressor is None or "client_no_context_takeover" in self.parameters:
            # zlib has no raw window of 256 bytes. Without compression there is no distance at all.
            bits, level = (self.client_bits, 6) if self.client_bits > 8 else (9, 0)
            self._compressor = zlib.compressobj(level, wbits=-bits)
        data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL)

    def inflate(self, data: bytes) -> bytes:
        """Return the message.

        Raises:
            zlib.error: If it can't be inflated.
        """
        if not self.keeps:
            self._inflater = zlib.decompressobj(-15)
        whole = self._inflater.decompress(data + TAIL, MAX_FRAME)
        if self._inflater.eof:  # RFC 7692 §7.2.3.4: a final block, after which all begins anew
            self._inflater = zlib.decompressobj(-15)
        return whole


class _Opening(ClientConnection):
    """Opens the transport, and hands it on without an opening handshake."""

    wire: Wire

    async def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
    ) -> None:
        transport = self.transport
        self.wire = Wire(transport)
        transport.set_protocol(self.wire)
        # What the driver has begun ends here: it forgets the transport.
        self.connection_lost(None)


class Place:
    """Where connections are opened, and what the requests there have in common.

    Args:
        uri: URI of the server.
        headers: Headers to add to requests.
        options: Other arguments of ``connect``.
    """

    def __init__(self, uri: WebSocketURI, headers: Headers, options: dict[str, Any]) -> None:
        self.uri = uri
        self.headers = headers
        self.options = options

    @property
    def host(self) -> str:
        """Value of the Host header."""
        return build_host(self.uri.host, self.uri.port, self.uri.secure)

    def request(
        self,
        *,
        key: str | None = None,
        method: str = "GET",
        version: str = "HTTP/1.1",
        replaced: Mapping[str, str | None] | None = None,
        more: Sequence[tuple[str, str]] = (),
    ) -> Piece:
        """Return a request.

        Args:
            key: Value of Sec-WebSocket-Key; a random one by default.
            method: Method.
            version: Version of HTTP.
            replaced: Headers that are other than they should be, by name; None for such that are
                left out.
            more: Headers to add.
        """
        headers: dict[str, str | None] = {
            "Host": self.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key or new_key(),
            "Sec-WebSocket-Version": "13",
        }
        told = ""
        for name, value in (replaced or {}).items():
            del headers[name]
            told += f", without {name}" if value is None else f", {name}: {value}"
        pairs = [(name, value) for name, value in headers.items() if value is not None]
        pairs += [(name, value) for name, value in (replaced or {}).items() if value is not None]
        pairs += [*self.headers.raw_items(), *more]
        told += "".join(f", {name}: {value}" for name, value in more)
        lines = [f"{method} {self.uri.resource_name} {version}"]
        lines += [f"{name}: {value}" for name, value in pairs]
        head = "\r\n".join([*lines, "", ""])
        return Piece(head.encode("latin-1"), f"{method} {version}{told}")

    async def open(self) -> Wire:
        """Open a TCP connection, with TLS where the URI wants it, through a proxy or not.

        Raises:
            OSError, InvalidHandshake, TimeoutError: As ``connect`` does.
        """
        scheme = "wss" if self.uri.secure else "ws"
        uri = f"{scheme}://{self.host}/"
        opening = cast(_Opening, await connect(uri, create_connection=_Opening, **self.options))
        return opening.wire


class Wire(asyncio.Protocol):
    """One connection of the checker.

    Args:
        transport: Transport, open.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.buffer = bytearray()
        self.ended: Ended | None = None
        self.sent: list[str] = []  # for the report
        self.deadline = asyncio.get_running_loop().time() + 10
        self.observed = Observations()
        self.deflate: Deflate | None = None
        self.head: Head | None = None
        self.upgraded = False  # it was answered with 101
        self.finished = False  # nothing can be sent any more
        self.close: Event | None = None  # that was received
        self.lenient = False  # whoever answers with anything counts as well
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = MAX_BUFFERED
        self._paused = False
        self._opcode: int | None = None  # of the message that is being received
        self._parts: list[bytes] = []
        self._compressed = False

    # ------------------------------------------------------------------ of the transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > self._wanted and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool | None:
        self.ended = self.ended or Ended(False)
        self._wake()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.ended or Ended(exc is not None)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self, until: float | None = None) -> bool:
        """Wait for more bytes; return False at the end of the connection.

        Args:
            until: Time of the event loop, if it is before the deadline of the check.

        Raises:
            Silence: If there are none in time.
        """
        if self.ended is not None:
            return False
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        loop = asyncio.get_running_loop()
        limit = self.deadline if until is None else min(until, self.deadline)
        self._waiter = loop.create_future()
        size = len(self.buffer)
        try:
            async with asyncio.timeout_at(limit):
                await self._waiter
        except TimeoutError:
            raise Silence("nothing") from None
        finally:
            self._waiter = None
        return len(self.buffer) > size or self.ended is None

    async def arrived(self) -> None:
        """Wait for the first byte of what comes next, or for the end.

        Raises:
            Silence: If there is nothing in time.
        """
        while not self.buffer and await self.more():
            pass

    # ------------------------------------------------------------------ sending

    def write(self, *pieces: Piece) -> None:
        """Send everything in one write."""
        self.sent += [piece.text for piece in pieces]
        if not self.transport.is_closing():
            self.transport.write(b"".join(piece.data for piece in pieces))

    async def trickle(self, *pieces: Piece, size: int = 1) -> None:
        """Send everything in writes of ``size`` bytes, each of which is a TCP segment."""
        whole = b"".join(piece.data for piece in pieces)
        unit = "byte" if size == 1 else "bytes"
        self.sent += [f"{piece.text}, {size} {unit} at a time" for piece in pieces]
        for start in range(0, len(whole), size):
            if self.transport.is_closing():
                return
            self.transport.write(whole[start : start + size])
            await asyncio.sleep(0)

    def finish(self) -> None:
        """End this direction of the TCP connection.

        Raises:
            NotImplementedError: If that would end the other one, as it does with TLS.
        """
        if not self.transport.can_write_eof():
            raise NotImplementedError
        self.sent.append("FIN of TCP")
        self.finished = True
        if not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self) -> None:
        """End the TCP connection with RST, where there is no TLS in between."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    # ------------------------------------------------------------------ the opening handshake

    async def read_head(self) -> Head:
        """Read the head of a response, and of an error its body as far as it says how long it is.

        Raises:
            Silence: If it isn't there in time.
        """
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Failure(f"a response whose head is longer than {MAX_HEAD:,} bytes")
            if not await self.more():
                self.head = Head.parse(bytes(self.buffer))
                return self.head
        self.head = Head.parse(bytes(self.buffer[: end + 2]))
        del self.buffer[: end + 4]
        return self.head

    # ------------------------------------------------------------------ frames

    async def _exactly(self, size: int, until: float | None) -> bool:
        self._wanted = max(size, MAX_BUFFERED)
        while len(self.buffer) < size:
            if not await self.more(until):
                return False
        return True

    async def _frame(self, until: float | None) -> tuple[bool, int, int, bytes] | None:
        """Return FIN, reserved bits, opcode and payload; None at the end of the connection."""
        if not await self._exactly(2, until):
            self._torn()
            return None
        first, second = self.buffer[:2]
        size, start = second & 0x7F, 2
        if size > 125:
            start += 2 if size == 126 else 8
            if not await self._exactly(start, until):
                self._torn()
                return None
            form, size = size, int.from_bytes(self.buffer[2:start], "big")
            if size < (126 if form == 126 else 1 << 16):
                self.observed.note("length-minimal", f"length {size} in {8 * (start - 2)} bits")
        if size > MAX_FRAME:
            raise Failure(f"a frame of {size:,} bytes")
        key = b""
        if second & 0x80:
            self.observed.note("server-unmasked", f"{_name(first & 0x0F)} frame that is masked")
            if not await self._exactly(start + 4, until):
                self._torn()
                return None
            key = bytes(self.buffer[start : start + 4])
            start += 4
        if not await self._exactly(start + size, until):
            self._torn()
            return None
        payload = bytes(self.buffer[start : start + size])
        del self.buffer[: start + size]
        if key:
            payload = apply_mask(payload, key)
        self.observed.frames += 1
        return bool(first & 0x80), first >> 4 & 7, first & 0x0F, payload

    def _torn(self) -> None:
        if self.buffer and self.close is None and not self.lenient:
            data = bytes(self.buffer)
            self.observed.note("frames-whole", f"the end of the connection after {quoted(data)}")

    async def event(self, until: float | None = None) -> Event | Ended:
        """Return the next message or control frame, or the end of the connection.

        Args:
            until: Time of the event loop, if it is before the deadline of the check.

        Raises:
            Silence: If there is none in time.
        """
        while True:
            received = await self._frame(until)
            if received is None:
                assert self.ended is not None
                return self.ended
            if (event := self._assembled(*received)) is None:
                continue
            if event.opcode == PING:
                # The server's own keepalive.
                self.transport.write(frame(PONG, event.payload).data)
                continue
            return event

    def _assembled(self, fin: bool, rsv: int, opcode: int, payload: bytes) -> Event | None:
        note = self.observed.note
        name = _name(opcode)
        if self.close is not None:
            note("nothing-after-close", f"{name} after the Close frame")
        allowed = 4 if self.deflate is not None and opcode in (TEXT, BINARY) else 0
        if rsv & ~allowed:
            note("reserved-unset", f"{name} with reserved bits {rsv:03b}")
        if opcode >= CLOSE:
            if not fin or len(payload) > 125:
                note("control-whole", f"{name} of {len(payload)} bytes, FIN {fin:d}")
            if opcode not in (CLOSE, PING, PONG):
                note("opcodes-known", name)
            event = Event(opcode, payload)
            if opcode == CLOSE:
                self._look_at_close(event)
            return event
        if opcode not in (CONT, TEXT, BINARY):
            note("opcodes-known", name)
        if (opcode == CONT) is (self._opcode is None):
            note("fragments-legal", f"{name} {'in' if opcode else 'outside'} a message")
        if opcode != CONT or self._opcode is None:
            self._opcode, self._parts = opcode, []
            self._compressed = bool(rsv & allowed)
        self._parts.append(payload)
        if sum(map(len, self._parts)) > MAX_FRAME:
            raise Failure(f"a message of more than {MAX_FRAME:,} bytes")
        if not fin:
            return None
        opcode, data, self._opcode = self._opcode, b"".join(self._parts), None
        if self._compressed:
            assert self.deflate is not None
            try:
                data = self.deflate.inflate(data)
            except zlib.error as exc:
                note("inflates", f"a message of {len(data)} bytes: {exc}")
                raise Failure("a compressed message that isn't DEFLATE") from exc
        if opcode == TEXT:
            self.observed.texts += 1
            try:
                data.decode()
            except UnicodeDecodeError:
                note("text-is-utf8", quoted(data))
        return Event(opcode, data, self._compressed)

    def _look_at_close(self, event: Event) -> None:
        if self.close is None:
            self.close = event
        self.observed.closes += 1
        try:
            Close.parse(event.payload)
        except Exception:
            self.observed.note("close-valid", str(event))
