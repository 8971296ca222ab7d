"""Servers and clients on trio, and ``raw``: the same with bare sockets and ``trio.lowlevel``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import trio

from . import HOST, KEEPALIVE, STANDSTILL


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
    elif peer == "trio_websocket":
        serve = importlib.import_module("trio_websocket").serve_websocket
        server = await nursery.start(serve, trio_websocket_echo, HOST, 0, None)
        return int(server.port)
    else:
        serve = importlib.import_module(f"{peer}.trio.server").serve
        listeners = (
            await nursery.start(
                functools.partial(serve, library_echo, 0, host=HOST, compression=None, **KEEPALIVE)
            )
        ).listeners
    return int(listeners[0].socket.getsockname()[1])


class Standstill(trio.abc.Clock):
    """Always the same time."""

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return 0.0

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return inf


async def serve_here(peer: str, listening: Callable[[int], None], obey: Callable[[], bool]) -> None:
    async with trio.open_nursery() as nursery:
        listening(await start_server(peer, nursery))
        while True:
            await trio.lowlevel.wait_readable(0)
            if not obey():
                os._exit(0)  # without shutdown: nothing of it is measured


def serve(peer: str, listening: Callable[[int], None], obey: Callable[[], bool]) -> None:
    """Run a server until commands on standard input end."""
    clock = Standstill() if STANDSTILL in os.environ else None
    trio.run(serve_here, peer, listening, obey, clock=clock)


@asynccontextmanager
async def client(peer: str, port: int, size: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Connect, and give a function that sends a message and waits for its echo."""
    text = "x" * size
    if peer == "raw":
        stream = await trio.open_tcp_stream(HOST, port)
        fd = stream.socket.fileno()
        bare = b"x" * (size + 6)  # as long as a masked frame

        async def round_trip() -> None:
            os.write(fd, bare)
            await trio.lowlevel.wait_readable(fd)
            os.read(fd, 65536)

        yield round_trip
        await stream.aclose()
    elif peer == "trio_websocket":
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


async def talk_here(peer: str, port: int, size: int, seconds: float) -> float:
    async with client(peer, port, size) as round_trip:
        for _ in range(300):
            await round_trip()
        count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(100):
                await round_trip()
            count += 100
        return (time.process_time() - begin) / count * 1e6


def talk(peer: str, port: int, size: int, seconds: float) -> float:
    """Run a client for a while; return the µs of processor time per round trip."""
    return trio.run(talk_here, peer, port, size, seconds)
