"""Runner of coroutine tests, raw peers, and shortcuts for servers and pairs of connections."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gc
import hashlib
import inspect
import logging
import os
import socket
import ssl
import struct
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.exceptions import ConnectionClosed

try:
    import uvloop
except ImportError:
    uvloop = None

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# Longest time that a test may take; one that works needs a small part of it.
TEST_TIMEOUT = float(os.environ.get("WSAPI_TEST_TIMEOUT", "20"))


# ---------------------------------------------------------------------- runner


class _Records(logging.Handler):
    """What was logged as an error and isn't expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


_errors = _Records()


def logged_errors(*messages: str) -> list[logging.LogRecord]:
    """Check that just these errors were logged so far; forget them."""
    records, _errors.records = _errors.records, []
    assert [record.getMessage() for record in records] == list(messages)
    return records


@contextlib.contextmanager
def checking_errors() -> Iterator[None]:
    """Fail if something is logged as an error, or isn't closed when it is collected."""
    _errors.records = []
    logging.getLogger().addHandler(_errors)
    # What is older needn't be looked at by the collector.
    gc.freeze()
    try:
        yield
        # Complaints about unclosed resources come now; the configuration makes errors of them.
        gc.collect()
        logged_errors()
    finally:
        gc.unfreeze()
        logging.getLogger().removeHandler(_errors)


def run(
    test: Coroutine[Any, Any, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    timeout: float | None = TEST_TIMEOUT,
) -> None:
    """Run a test; fail it if it leaves tasks, sockets or transports behind or logs errors."""

    async def checked() -> None:
        async with asyncio.timeout(timeout):
            await test
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        if leaked:
            _, leaked = await asyncio.wait(leaked, timeout=1)
        # Transports that were closed last are gone after a few turns.
        for _ in range(3):
            await asyncio.sleep(0)
        assert not leaked, "tasks were left behind"

    with checking_errors():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(checked())


def on_asyncio(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a coroutine function run as a test on asyncio alone: other loops have no fake time."""

    def test(**fixtures: Any) -> None:
        asyncio.run(function(**fixtures))

    functools.update_wrapper(test, function)
    test.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # for pytest
    return test


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has become true."""
    while not condition():
        await asyncio.sleep(0.001)


async def turns(number: int) -> None:
    """Let the loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------- servers and pairs


async def echo(ws: ServerConnection) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    except ConnectionClosed:
        pass


async def until_closed(ws: ServerConnection) -> None:
    await ws.wait_closed()


class Listening(Protocol):
    """Any kind of server."""

    @property
    def sockets(self) -> Sequence[socket.socket]: ...


def port_of(server: Listening) -> int:
    return server.sockets[0].getsockname()[1]


def uri_of(server: Listening, path: str = "/") -> str:
    return f"ws://127.0.0.1:{port_of(server)}{path}"


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[ServerConnection], Awaitable[None]] = echo, **options: Any
) -> AsyncIterator[Server]:
    # What fills a buffer must not depend on how well it compresses.
    options.setdefault("compression", None)
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield server


@contextlib.asynccontextmanager
async def pair(
    client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **both: Any
) -> AsyncIterator[tuple[ClientConnection, ServerConnection]]:
    """Connect a client and a server; both are used by the test."""
    accepted: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def handler(ws: ServerConnection) -> None:
        accepted.set_result(ws)
        await ws.wait_closed()

    async with serving(handler, **both | (server or {})) as listening:
        async with connect(uri_of(listening), **both | (client or {})) as ws:
            yield ws, await accepted


# ---------------------------------------------------------------------- raw peers


def apply_mask(data: bytes, key: bytes) -> bytes:
    repeated = (key * (len(data) // 4 + 1))[: len(data)]
    number = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return number.to_bytes(len(data), "little")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = False) -> bytes:
    """Return a frame as bytes."""
    mask = 0x80 if masked else 0
    size = len(payload)
    head = bytes([opcode | 0x80 * fin])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65536:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + apply_mask(payload, key)


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


def accept_key(key: str) -> str:
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return base64.b64encode(digest).decode()


HANDSHAKE_HEADERS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request(
    line: str = "GET / HTTP/1.1", *, without: str = "", more: str = "", **replaced: str
) -> bytes:
    """Return a handshake request, changed in some way; ``_`` stands for ``-`` in names."""
    headers = {name: value for name, value in HANDSHAKE_HEADERS.items() if name != without}
    headers |= {name.replace("_", "-"): value for name, value in replaced.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{line}\r\n{lines}{more}\r\n".encode("latin-1")


class RawPeer:
    """The other end of a TCP connection, frame by frame."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, masked: bool
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.masked = masked

    def write(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.writer.write(frame(opcode, payload, fin=fin, masked=self.masked))

    async def read(self) -> tuple[int, bytes]:
        """Return the next frame's opcode (plus 0x80 if it is a final one) and payload."""
        first, second = await self.reader.readexactly(2)
        assert bool(second & 0x80) is not self.masked
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        key = await self.reader.readexactly(4) if second & 0x80 else bytes(4)
        return first, apply_mask(await self.reader.readexactly(size), key)

    async def read_message(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; it must be a final one."""
        first, payload = await self.read()
        assert first & 0x80
        return first & 0x7F, payload

    async def read_to_end(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def abort(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@contextlib.asynccontextmanager
async def raw_client(server: Listening, handshake: bytes | None = None) -> AsyncIterator[RawPeer]:
    """Connect to a server; after the opening handshake, unless ``handshake`` is ``b""``."""
    peer = RawPeer(*await asyncio.open_connection("127.0.0.1", port_of(server)), masked=True)
    try:
        if handshake is None:
            handshake = request()
        if handshake:
            peer.writer.write(handshake)
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
        yield peer
    finally:
        await peer.close()


@contextlib.asynccontextmanager
async def raw_server(
    behave: Callable[[RawPeer], Awaitable[None]], *, handshake: bool = True
) -> AsyncIterator[asyncio.Server]:
    """Listen; hand each connection to ``behave``, after the opening handshake if it is wanted."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer, masked=False)
        try:
            if handshake:
                await answer_handshake(peer)
            await behave(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await peer.close()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve_one(reader, writer)))

    server = await asyncio.start_server(start, "127.0.0.1", 0)
    try:
        yield server
    finally:
        server.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks)


async def answer_handshake(peer: RawPeer, more: str = "") -> str:
    """Read a request, accept it, return it."""
    head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
    (key,) = [
        line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key")
    ]
    peer.writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{more}\r\n".encode()
    )
    return head


def untrusted(exc: BaseException) -> bool:
    """Tell whether an error says that a certificate isn't good; trio's streams wrap it."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return isinstance(exc, ssl.SSLCertVerificationError)


@contextlib.contextmanager
def garbage_collection_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ours(thing: object) -> bool:
    """Tell whether an object is one of this project, or a frame of its code."""
    if type(thing) is types.FrameType:  # isinstance() would ask a weak proxy
        return "/src/w" in thing.f_code.co_filename
    if type(thing).__name__ in ("Carrier", "_SSLObject"):
        # Streams of TLS, trio's and asyncio's, refer to themselves, and to what is below.
        return False
    return type(thing).__module__.partition(".")[0] in ("wsapi", "wsproto_fast")


@contextlib.contextmanager
def collecting() -> Iterator[list[Any]]:
    """Yield a list of our objects that only the cyclic collector frees, complete at the end."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [repr(thing) for thing in gc.garbage if ours(thing)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
