"""The command line, and servers that do what clients must be able to bear."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response
from wsapi.server import ServerProtocol

PATIENCE = 20


class Result(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


Cli = Callable[..., Result]


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "wsapi", *arguments], text=True, **{**pipes, **options}
    )


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "wsapi", *arguments],
        **{
            "capture_output": True,
            "text": True,
            "timeout": PATIENCE,
            "stdin": subprocess.DEVNULL,
            **options,
        },
    )


async def handle(connection: ServerConnection) -> None:
    """Do what messages say."""
    with contextlib.suppress(Exception):
        async for message in connection:
            match message:
                case "binary":
                    await connection.send(b"\x00\xff")
                case "bye":
                    await connection.close(4001, "so long")
                case "vanish":
                    connection.transport.abort()
                case "flood":
                    while True:
                        await connection.send("x" * 1000)
                        await asyncio.sleep(0)
                case "large":
                    await connection.send("x" * (2**20 + 1))
                case "bad opcode":
                    connection.transport.write(b"\x83\x00")
                case "bad utf-8":
                    connection.transport.write(b"\x81\x01\xff")
                case "escape":
                    await connection.send("\x1b[2J\x07\u202e\r\n")
                case "later":
                    await asyncio.sleep(0.5)
                    await connection.send("news")
                case "silence":
                    await asyncio.sleep(PATIENCE)
                case _:
                    await connection.send(message)


def answer(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse with the status that is the path."""
    status = request.path.removeprefix("/").partition("?")[0]
    if not status.isdigit():
        return None
    response = connection.respond(int(status), "no\x1b[2J\n")
    if status == "302":
        response.headers["Location"] = "http://user:secret@localhost/elsewhere"
    if status == "307":
        response.headers["Location"] = "/"
    if status == "429":
        response.headers["Retry-After"] = "7"
    if status == "426":
        response.headers["Upgrade"] = "h2c"
    return response


@contextlib.contextmanager
def serving(handler: Callable[[ServerConnection], Any] = handle, **options: Any) -> Iterator[int]:
    """Run a server in a thread; give its port."""
    ready = threading.Event()
    ports: list[int] = []
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def run() -> None:
        defaults: dict[str, Any] = {"process_request": answer, "close_timeout": 1}
        async with serve(handler, "127.0.0.1", 0, **{**defaults, **options}) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(PATIENCE)
        loop.close()


@contextlib.contextmanager
def raw_server(reply: bytes | None) -> Iterator[int]:
    """Run a server that sends bytes to whoever connects and sends something; give its port.

    Args:
        reply: None to wait, and send nothing.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(PATIENCE)
                with contextlib.suppress(OSError):
                    connection.recv(4096)
                    if reply is not None:
                        connection.sendall(reply)
                        connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE)


class Certificates(NamedTuple):
    """Files for TLS."""

    ca: Path
    cert: Path
    key: Path


@contextlib.contextmanager
def deaf_server() -> Iterator[int]:
    """Run a server that answers the opening handshake, and nothing else; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                protocol = ServerProtocol()
                protocol.receive_data(connection.recv(65536))
                [request] = protocol.events_received()
                assert isinstance(request, Request)
                protocol.send_response(protocol.accept(request))
                for data in protocol.data_to_send():
                    connection.sendall(data)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE)


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """Make the configuration of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context
