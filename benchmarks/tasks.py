"""Compares front-ends for trio: ``python -m benchmarks.tasks``; see ``front_ends``.

What the others do with WebSocket, the peer ``raw`` does with bare sockets and ``trio.lowlevel``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from .front_ends import BARE, HOST, SIZE, Comparison, measure_round_trips
from .server import release_memory

# ---------------------------------------------------------------------- servers


async def raw_echo(stream: trio.SocketStream) -> None:
    """Echo bytes."""
    fd = stream.socket.fileno()
    while True:
        await trio.lowlevel.wait_readable(fd)
        received = os.read(fd, 65536)
        if not received:
            return
        os.write(fd, received)


async def library_echo(connection: Any) -> None:
    """Echo messages with a library that has the interface of ``websockets``."""
    with contextlib.suppress(Exception):  # the load generator doesn't say good-bye
        async for message in connection:
            await connection.send(message)


async def trio_websocket_echo(request: Any) -> None:
    """Echo messages with ``trio-websocket``."""
    connection = await request.accept()
    with contextlib.suppress(Exception):
        while True:
            await connection.send_message(await connection.get_message())


async def start_server(peer: str, nursery: trio.Nursery) -> int:
    """Start a server, and return its port."""
    if peer == "raw":
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, raw_echo, listeners)
    elif peer == "trio-websocket":
        serve = importlib.import_module("trio_websocket").serve_websocket
        server = await nursery.start(serve, trio_websocket_echo, HOST, 0, None)
        return int(server.port)
    else:
        serve = importlib.import_module(f"{peer}.trio.server").serve
        listeners = (
            await nursery.start(
                functools.partial(serve, library_echo, 0, host=HOST, compression=None)
            )
        ).listeners
    return int(listeners[0].socket.getsockname()[1])


async def serve(peer: str) -> None:
    """Run a server until standard input ends."""
    async with trio.open_nursery() as nursery:
        port = await start_server(peer, nursery)
        print(json.dumps({"port": port}), flush=True)
        while True:
            await trio.lowlevel.wait_readable(0)
            command = os.read(0, 1)
            if command == b"g":
                release_memory()
                print("done", flush=True)
            elif not command:
                os._exit(0)


# ---------------------------------------------------------------------- clients


@asynccontextmanager
async def client(peer: str, port: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Connect, and give a function that sends a message and waits for its echo."""
    text = "x" * SIZE
    if peer == "raw":
        stream = await trio.open_tcp_stream(HOST, port)
        fd = stream.socket.fileno()

        async def round_trip() -> None:
            os.write(fd, BARE)
            await trio.lowlevel.wait_readable(fd)
            os.read(fd, 65536)

        yield round_trip
        await stream.aclose()
    elif peer == "trio-websocket":
        module = importlib.import_module("trio_websocket")
        async with module.open_websocket(HOST, port, "/", use_ssl=False) as connection:

            async def round_trip() -> None:
                await connection.send_message(text)
                await connection.get_message()

            yield round_trip
    else:
        connect = importlib.import_module(f"{peer}.trio.client").connect
        async with connect(f"ws://{HOST}:{port}/", compression=None, proxy=None) as connection:

            async def round_trip() -> None:
                await connection.send(text)
                await connection.recv()

            yield round_trip


async def talk(peer: str, port: int, seconds: float) -> None:
    """Run a client for a while; print the µs per round trip."""
    async with client(peer, port) as round_trip:
        for _ in range(300):
            await round_trip()
        count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(100):
                await round_trip()
            count += 100
        measure_round_trips(count, begin)


comparison = Comparison(
    module="benchmarks.tasks",
    distributions={
        "raw": "trio",
        "wsapi": "wsproto-fast",
        "websockets": "websockets",
        "trio-websocket": "trio-websocket",
    },
    servers=("raw", "wsapi", "websockets", "trio-websocket"),
    serve=lambda peer: trio.run(serve, peer),
    talk=lambda peer, port, seconds: trio.run(talk, peer, port, seconds),
    connections=100,
    idle=500,
)

if __name__ == "__main__":
    comparison.main()
