"""An echo server, written anew, that does one thing wrong: what a checker has to find.

Without a fault it does what the standards say.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import zlib
from collections.abc import AsyncIterator

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TAIL = b"\x00\x00\xff\xff"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_SIZE = 4 * 2**20
MAX_FRAGMENTS = 1000
CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}


class Fail(Exception):
    """Ends a connection with a Close frame."""


class Deflate:
    """One connection's compression."""

    def __init__(self, parameters: dict[str, str | None], fault: str) -> None:
        self.bits = int(parameters.get("server_max_window_bits") or 15)
        self.client_bits = int(parameters.get("client_max_window_bits") or 15)
        self.keeps = "server_no_context_takeover" not in parameters
        self.client_keeps = "client_no_context_takeover" not in parameters
        if fault == "window ignored":
            self.bits = 15
        if fault == "takeover kept":
            self.keeps = True
        self.compressor = zlib.compressobj(wbits=-self.bits)
        self.inflater = zlib.decompressobj(-self.client_bits)

    def compress(self, data: bytes) -> bytes:
        if not self.keeps:
            self.compressor = zlib.compressobj(wbits=-self.bits)
        data = self.compressor.compress(data) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL)

    def inflate(self, data: bytes) -> bytes:
        if not self.client_keeps:
            self.inflater = zlib.decompressobj(-self.client_bits)
        try:
            whole = self.inflater.decompress(data + TAIL, MAX_SIZE + 1)
        except zlib.error as exc:
            raise Fail(1007) from exc
        if self.inflater.eof:
            self.inflater = zlib.decompressobj(-self.client_bits)
        if len(whole) > MAX_SIZE:
            raise Fail(1009)
        return whole


class Connection:
    """One connection."""

    def __init__(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.fault = server.fault
        self.reader = reader
        self.writer = writer
        self.deflate: Deflate | None = None

    # ------------------------------------------------------------------ opening handshake

    async def serve(self) -> None:
        try:
            if await self.open():
                await self.talk()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        if self.fault == "never ends":
            await asyncio.Event().wait()
        self.writer.close()

    def answer(self, status: str, *lines: str) -> bool:
        head = [f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *lines, "", ""]
        self.writer.write("\r\n".join(head).encode())
        return False

    async def open(self) -> bool:
        try:
            if self.fault == "reads once":
                head = await self.reader.read(65536)
            else:
                head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return self.answer("431 Request Header Fields Too Large")
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3:
            if self.fault == "dies of garbage":
                self.server.deaf = True
            return self.answer("400 Bad Request")
        headers: dict[str, list[str]] = {}
        for text in lines:
            name, _, value = text.partition(":")
            if " " in name:
                return self.answer("400 Bad Request")
            if self.fault == "case of names" and (name.islower() or name.isupper()):
                return self.answer("400 Bad Request")
            if self.fault == "spaces" and value.removeprefix(" ") != value.strip():
                return self.answer("400 Bad Request")
            headers.setdefault(name.lower(), []).append(value.strip())
        return self.respond(parts[0], parts[2], headers)

    def respond(self, method: str, version: str, headers: dict[str, list[str]]) -> bool:
        fault = self.fault

        def words(name: str) -> list[str]:
            found = [w.strip() for value in headers.get(name, []) for w in value.split(",")]
            exact = {"upgrade": "case of Upgrade", "connection": "Connection exactly"}
            if fault == exact.get(name):
                return headers.get(name, [])
            return [word.lower() for word in found]

        if method != "GET" and fault != "any method":
            return self.answer("405 Method Not Allowed", "Allow: GET")
        if version != "HTTP/1.1" and fault != "any HTTP":
            return self.answer("505 HTTP Version Not Supported")
        if "host" not in headers:
            return self.answer("400 Bad Request")
        connection = [w.lower() for w in words("connection")]
        if fault != "Connection ignored" and "upgrade" not in connection:
            return self.answer("426 Upgrade Required", "Upgrade: websocket")
        if fault != "Upgrade ignored" and "websocket" not in words("upgrade"):
            return self.answer("426 Upgrade Required", "Upgrade: websocket")
        if headers.get("sec-websocket-version") != ["13"] and fault != "any version":
            named = [] if fault == "version not named" else ["Sec-WebSocket-Version: 13"]
            return self.answer("426 Upgrade Required", *named)
        keys = headers.get("sec-websocket-key", [])
        if fault == "no key" and not keys:
            keys = ["AAAAAAAAAAAAAAAAAAAAAA=="]
        if len(keys) != 1 or len(keys[0]) != 24:
            return self.answer("400 Bad Request")
        if fault == "one key" and keys == ["dGhlIHNhbXBsZSBub25jZQ=="]:
            return self.answer("400 Bad Request")
        if fault == "unknown extensions" and "x-" in str(headers.get("sec-websocket-extensions")):
            return self.answer("400 Bad Request")
        if fault == "subprotocols" and "sec-websocket-protocol" in headers:
            return self.answer("500 Internal Server Error")
        guid = GUID.lower() if fault == "accept" else GUID
        accept = base64.b64encode(hashlib.sha1(keys[0].encode() + guid).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            *([] if fault == "no Upgrade" else ["Upgrade: websocket"]),
            "Connection: " + ("close" if fault == "no Connection" else "Upgrade"),
            f"Sec-WebSocket-Accept: {accept}",
        ]
        if fault == "body":
            lines.append("Content-Length: 12")
        if fault == "invented subprotocol":
            lines.append("Sec-WebSocket-Protocol: chat")
        offers = ", ".join(headers.get("sec-websocket-extensions", []))
        extensions = offers if fault == "extensions echoed" else self.negotiate(offers)
        if extensions:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        return True

    def negotiate(self, offers: str) -> str:
        for offer in offers.split(","):
            name, *rest = (part.strip() for part in offer.split(";"))
            pairs = [part.partition("=")[::2] for part in rest]
            given = {key: value.strip('"') if value else None for key, value in pairs}
            if name != "permessage-deflate" or len(given) != len(rest):
                continue
            if any(map(self.wrong, given.items())):
                continue
            answer = {key: value for key, value in given.items() if value is not None}
            answer |= dict.fromkeys(key for key in given if key.endswith("takeover"))
            if self.fault == "unasked client_max_window_bits":
                answer["client_max_window_bits"] = "15"
            if self.fault == "server_max_window_bits ignored":
                answer.pop("server_max_window_bits", None)
            if self.fault == "takeover ignored":
                answer.pop("server_no_context_takeover", None)
            self.deflate = Deflate(answer, self.fault)
            words = [key if value is None else f"{key}={value}" for key, value in answer.items()]
            return "; ".join(["permessage-deflate", *words])
        return ""

    def wrong(self, parameter: tuple[str, str | None]) -> bool:
        name, value = parameter
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            return value is not None
        if name == "client_max_window_bits" and value is None:
            return False
        if name in ("server_max_window_bits", "client_max_window_bits"):
            good = [str(bits) for bits in range(9, 16)]
            return value not in (["16", *good] if self.fault == "16 bits" else good)
        return self.fault != "unknown parameter"

    # ------------------------------------------------------------------ frames

    async def read_frame(self) -> tuple[bool, int, int, bytes]:
        fault = self.fault
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            data = await self.reader.readexactly(2 if size == 126 else 8)
            form, size = size, int.from_bytes(data, "little" if fault == "endian" else "big")
            if size >> 63:
                if fault == "top bit":
                    size &= 2**63 - 1
                    size = min(size, 5)
                else:
                    raise Fail(1002)
            if size < (126 if form == 126 else 2**16) and fault not in ("endian", "top bit"):
                raise Fail(1002)
        if size > (65535 if fault == "64 KiB" else MAX_SIZE):
            raise Fail(1009)
        if not second & 0x80 and fault != "not masked":
            raise Fail(1002)
        key = await self.reader.readexactly(4) if second & 0x80 else bytes(4)
        if fault == "mask of whole words":
            key = key if size % 4 == 0 else key[:3] + b"\0"
        data = await self.reader.readexactly(size)
        keys = (key * (size // 4 + 1))[:size]
        data = (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
        return bool(first & 0x80), first >> 4 & 7, first & 0x0F, data

    def write_frame(self, opcode: int, data: bytes, rsv: int = 0) -> None:
        fault, size = self.fault, len(data)
        if fault == "reserved bit sent":
            rsv |= 1
        masked = 0x80 if fault == "masks" else 0
        if size < 126 and fault != "long length":
            length = bytes([masked | size])
        elif size < 2**16:
            length = bytes([masked | 126]) + size.to_bytes(2, "big")
        else:
            length = bytes([masked | 127]) + size.to_bytes(8, "big")
        head = bytes([0x80 | rsv << 4 | opcode]) + length
        self.writer.write(head + (bytes(4) if masked else b"") + data)

    async def talk(self) -> None:
        self.server.connections.add(self)
        try:
            await self.echo()
        except Fail as exc:
            if self.fault == "fails silently":
                await asyncio.Event().wait()
            code = 1011 if self.fault == "wrong code" else exc.args[0]
            self.write_frame(CLOSE, code.to_bytes(2, "big"))
            if self.fault == "fails all":
                for other in self.server.connections - {self}:
                    other.writer.close()
        finally:
            self.server.connections.discard(self)

    async def echo(self) -> None:
        fault = self.fault
        opcode: int | None = None
        parts: list[bytes] = []
        compressed = False
        while True:
            fin, rsv, code, data = await self.read_frame()
            allowed = 4 if self.deflate is not None and code in (TEXT, BINARY) else 0
            if self.deflate is not None and code == CONT and fault == "RSV1 on continuation":
                allowed = 4
            if rsv & ~allowed and fault != "reserved bits":
                raise Fail(1002)
            if code >= CLOSE:
                if code > PONG:
                    if fault != "opcodes":
                        raise Fail(1002)
                    continue
                if not fin and fault != "fragmented control":
                    raise Fail(1002)
                if len(data) > 125 and fault != "long control":
                    raise Fail(1002)
                if code == PING:
                    self.pong(data)
                elif code == PONG and fault == "pong of pong":
                    self.write_frame(PONG, data)
                elif code == CLOSE and await self.close(data):
                    return
                if fault == "control ends message" and opcode is not None:
                    opcode = None
                continue
            if code > BINARY:
                if fault != "opcodes":
                    raise Fail(1002)
                continue
            if code == CONT and opcode is None:
                if fault != "continuation of nothing":
                    raise Fail(1002)
                opcode = TEXT
            elif code != CONT:
                if opcode is not None and fault != "message in message":
                    raise Fail(1002)
                opcode, parts, compressed = code, [], bool(rsv & allowed)
            parts.append(data)
            if len(parts) > MAX_FRAGMENTS:
                raise Fail(1009)
            if code == TEXT and not compressed:
                self.check_text(data, fin, each=True)
            if not fin:
                continue
            whole, kind, opcode = b"".join(parts), opcode, None
            assert kind is not None
            if compressed:
                assert self.deflate is not None
                try:
                    whole = self.deflate.inflate(whole)
                except Fail:
                    if fault == "DEFLATE ignored":
                        continue
                    raise
            if kind == TEXT and not (compressed and fault == "compressed text"):
                self.check_text(whole, True)
            self.send(kind, whole)
            await self.writer.drain()

    def check_text(self, data: bytes, fin: bool, each: bool = False) -> None:
        if self.fault == "UTF-8":
            return
        if each and not fin and self.fault != "UTF-8 of frames":
            return
        try:
            data.decode("utf-8", "surrogatepass" if self.fault == "surrogates" else "strict")
        except UnicodeDecodeError as exc:
            raise Fail(1007) from exc

    def send(self, opcode: int, data: bytes) -> None:
        if self.fault == "empty messages" and not data:
            return
        if self.fault == "first 1000 bytes":
            data = data[:1000]
        if self.deflate is not None and data:
            self.write_frame(opcode, self.deflate.compress(data), rsv=4)
        else:
            self.write_frame(opcode, data)

    def pong(self, data: bytes) -> None:
        if self.fault == "empty pongs":
            data = b""
        if self.fault == "text pongs":
            data = data.decode("utf-8", "replace").encode()
        self.write_frame(PONG, data)

    async def close(self, data: bytes) -> bool:
        fault = self.fault
        if len(data) == 1:
            if fault != "one byte":
                raise Fail(1002)
            data = b""
        code = int.from_bytes(data[:2], "big") if data else 1000
        known = code in CODES or 3000 <= code < (4000 if fault == "no 4000" else 5000)
        if not known and fault != "codes":
            raise Fail(1002)
        try:
            data[2:].decode()
        except UnicodeDecodeError as exc:
            if fault != "reason":
                raise Fail(1007) from exc
        if fault == "no answer to Close":
            return True
        self.write_frame(CLOSE, data[:2])
        if fault == "twice":
            self.write_frame(CLOSE, data[:2])
        if fault == "goodbye":
            self.write_frame(TEXT, b"goodbye")
        return fault != "goes on after Close"


class Server:
    """The server."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.connections: set[Connection] = set()
        self.deaf = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while self.deaf:
                await asyncio.sleep(3600)
            await Connection(self, reader, writer).serve()
        except asyncio.CancelledError:
            pass  # asyncio 3.11 reports it
        finally:
            writer.transport.abort()
            self.tasks.discard(task)


@contextlib.asynccontextmanager
async def broken_server(fault: str) -> AsyncIterator[str]:
    """Run a server with a fault, "" for none; give its URI."""
    server = Server(fault)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**16)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}/"
    finally:
        listening.close()
        tasks = list(server.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
