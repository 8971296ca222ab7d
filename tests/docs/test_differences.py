"""docs/differences.md: what it says of both libraries, tried on both, row by row."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import logging
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from werkzeug.routing import Map, Rule

from tests.docs import blocks

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")

Row = Callable[["Library"], Any]


@dataclasses.dataclass
class Library:
    """One of the two."""

    name: str

    def module(self, name: str) -> Any:
        return importlib.import_module(f"{self.name}.{name}")

    def has(self, name: str) -> bool:
        try:
            self.module(name)
        except ImportError:
            return False
        return True

    def connect(self, *args: Any, **options: Any) -> Any:
        return self.module("asyncio.client").connect(*args, proxy=None, **options)

    @contextlib.asynccontextmanager
    async def echo(self) -> AsyncIterator[str]:
        async def handler(connection: Any) -> None:
            while True:
                await connection.send(await connection.recv())

        async with self.module("asyncio.server").serve(handler, "127.0.0.1", 0) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    async def failure(self, answer: bytes) -> Any:
        """Connect to a server that gives this answer; return what is raised."""
        async with answering(answer) as uri:
            try:
                await self.connect(uri)
            except Exception as exc:
                return exc
        raise AssertionError("no exception")


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Answer a request, with the accept value of its key in place of ACCEPT."""

    tasks = []

    async def answer_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        request = await reader.readuntil(b"\r\n\r\n")
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        with contextlib.suppress(ConnectionError):
            writer.write(answer.replace(b"ACCEPT", base64.b64encode(digest)))
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer_request, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        await asyncio.gather(*filter(None, tasks))


SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ACCEPT\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi"


async def machinery(library: Library) -> bool:
    names = ("asyncio.messages", "imports", "sync.utils", "trio.utils", "speedups")
    found = {library.has(name) for name in names}
    assert len(found) == 1
    return found.pop()


async def parts_of_the_parser(library: Library) -> bool:
    module = library.module("protocol")
    protocol = module.Protocol(module.Side.CLIENT)
    found = {hasattr(protocol, name) for name in ("reader", "parser", "writes", "eof_sent")}
    assert len(found) == 1
    return found.pop()


async def set_insecure(library: Library) -> bool:
    return hasattr(library.module("datastructures").Headers, "set_insecure")


async def names_of_headers(library: Library) -> str:
    headers = library.module("datastructures").Headers()
    try:
        headers["bad name"] = "x"
    except Exception as exc:
        return type(exc).__name__
    return "anything"


async def values_of_headers(library: Library) -> object:
    headers = library.module("datastructures").Headers()
    headers["Number"] = 3
    return headers["Number"]


async def wrong_argument(library: Library) -> str:
    try:
        library.connect("ws://localhost/", max_size="large")
    except Exception as exc:
        return type(exc).__name__
    return "later"


async def unknown_option(library: Library) -> str:
    try:
        library.connect("ws://localhost/", nothing=1)
    except Exception as exc:
        return type(exc).__name__
    return "later"


async def closed_socket(library: Library) -> str:
    sock = socket.socket()
    sock.close()
    try:
        await library.connect("ws://localhost/", sock=sock)
    except Exception as exc:
        return type(exc).__name__
    raise AssertionError


async def code_of_close(library: Library) -> str:
    async with library.module("asyncio.server").serve(print, "127.0.0.1", 0) as server:
        try:
            server.close(code=1005)
        except Exception as exc:
            return type(exc).__name__
    return "later"


async def spaces(library: Library) -> str:
    try:
        library.connect("ws://local host/")
    except Exception as exc:
        return type(exc).__name__
    return "later"


async def garbage(library: Library) -> str:
    return type(await library.failure(b"x" * 20_000)).__name__


async def body(library: Library) -> str:
    return type((await library.failure(NOT_FOUND)).response.body).__name__


async def interim_response(library: Library) -> int:
    failure = await library.failure(b"HTTP/1.1 103 Early Hints\r\n\r\n" + NOT_FOUND)
    status: int = failure.response.status_code
    return status


async def continued_line(library: Library) -> str:
    answer = NOT_FOUND.replace(b"\r\n\r\n", b"\r\nX: a\r\n b\r\n\r\n")
    return type(await library.failure(answer)).__name__


async def close_in_message(library: Library) -> tuple[str, int]:
    async with answering(SWITCHING + b"\x01\x01a\x88\x02\x03\xe8") as uri:
        async with library.connect(uri) as connection:
            try:
                await connection.recv()
            except Exception as exc:
                return type(exc).__name__, exc.sent.code  # type: ignore[attr-defined] # it has it
    raise AssertionError


async def iterable_of_numbers(library: Library) -> tuple[str, str]:
    async with library.echo() as uri, library.connect(uri) as connection:
        try:
            await connection.send([1])
        except Exception as exc:
            return type(exc).__name__, connection.state.name
    raise AssertionError


@contextlib.contextmanager
def logged(library: Library) -> Iterator[list[tuple[str, str]]]:
    """Collect levels and lines of a server."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelname, record.getMessage()))

    logger = logging.getLogger(f"{library.name}.server")
    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def end_of_a_handler(library: Library) -> set[str]:
    with logged(library) as lines:
        async with library.echo() as uri, library.connect(uri):
            pass
    return {level for level, line in lines if "handler" in line}


async def refused_connection(library: Library) -> bool:
    with logged(library) as lines:
        async with library.echo() as uri:
            assert b"426" in await ask(uri, b"Host: here\r\n")
    return ("INFO", "connection closed") in lines


async def ask(uri: str, headers: bytes) -> bytes:
    """Send a request with these headers; return the first line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urllib.parse.urlsplit(uri).port)
    writer.write(b"GET / HTTP/1.1\r\n" + headers + b"\r\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line.rstrip()


async def missing_host(library: Library) -> bytes:
    headers = (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with library.echo() as uri:
        return await ask(uri, headers)


async def paths_of_route(library: Library) -> list[int]:
    async def handler(connection: Any) -> None:
        pass

    routes = Map([Rule("/a", endpoint=handler)])
    codes = []
    async with library.module("asyncio.router").route(routes, "127.0.0.1", 0) as server:
        for path in ("/a;b", "//b/a"):
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
            try:
                async with library.connect(uri) as connection:
                    codes.append(connection.response.status_code)
            except Exception as exc:
                codes.append(exc.response.status_code)  # type: ignore[attr-defined] # it has it
    return codes


async def streaming_that_was_left(library: Library) -> object:
    frames = b"\x01\x01a\x80\x01b\x81\x04next"
    async with answering(SWITCHING + frames) as uri, library.connect(uri) as connection:
        async for _ in connection.recv_streaming():
            break
        await asyncio.sleep(0)
        try:
            return await connection.recv()
        except Exception as exc:
            return type(exc).__name__


async def inspected(library: Library) -> tuple[bool, bool, bool]:
    async with library.echo() as uri, library.connect(uri) as connection:
        await connection.send("x")
        receiving = connection.recv()
        kinds = inspect.iscoroutine, asyncio.iscoroutine, inspect.isawaitable
        answers = tuple(kind(receiving) for kind in kinds)
        await receiving
    return answers


async def compression(library: Library) -> object:
    module = library.module("extensions.permessage_deflate")
    [factory] = module.enable_client_permessage_deflate(None)
    settings: object = factory.compress_settings
    return settings


ROWS: dict[Row, tuple[object, object]] = {
    machinery: (True, False),
    parts_of_the_parser: (True, False),
    set_insecure: (True, False),
    names_of_headers: ("anything", "InvalidHeader"),
    values_of_headers: (3, "3"),
    wrong_argument: ("later", "TypeError"),
    unknown_option: ("later", "TypeError"),
    closed_socket: ("OSError", "ValueError"),
    code_of_close: ("later", "ProtocolError"),
    spaces: ("later", "InvalidURI"),
    garbage: ("StatusLineTooLong", "InvalidMessage"),
    body: ("bytearray", "bytes"),
    interim_response: (103, 404),
    continued_line: ("InvalidMessage", "InvalidStatus"),
    close_in_message: (("ConnectionClosedError", 1002), ("ConnectionClosedError", 1000)),
    iterable_of_numbers: (("TypeError", "CLOSED"), ("TypeError", "OPEN")),
    end_of_a_handler: ({"ERROR"}, {"INFO"}),
    refused_connection: (True, False),
    missing_host: (b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 400 Bad Request"),
    paths_of_route: ([101, 101], [404, 404]),
    streaming_that_was_left: ("ConcurrencyError", "next"),
    inspected: ((True, True, True), (False, True, True)),
    compression: ({"memLevel": 5}, None),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_row(row: Row) -> None:
    for name, expected in zip(("websockets", "wsapi"), ROWS[row], strict=True):
        assert asyncio.run(asyncio.wait_for(row(Library(name)), 20)) == expected, name
