"""Clients on event loops, and ``raw``, which does the same with bare streams of bytes.

Each sends a number of messages, one after the other, awaits as many, and so on. All else is left at
the defaults, but for compression, which is off.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from . import HOST, KEEPALIVE

Exchange = Callable[[], Awaitable[object]]


async def raw(port: int, text: str, count: int) -> Exchange:
    """Send as many bytes as masked frames have, and receive them."""
    sent = b"x" * (len(text) + 6) * count
    loop = asyncio.get_running_loop()

    class Bytes(asyncio.Protocol):
        left = 0
        finished: asyncio.Future[None]

        def data_received(self, data: bytes) -> None:
            self.left -= len(data)
            if self.left == 0:
                self.finished.set_result(None)

    transport, protocol = await loop.create_connection(Bytes, HOST, port)
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    async def exchange() -> None:
        protocol.left, protocol.finished = len(sent), loop.create_future()
        transport.write(sent)
        await protocol.finished

    return exchange


async def drop_in(port: int, text: str, count: int, package: str) -> Exchange:
    """Use ``websockets``, or what has its interface."""
    module = importlib.import_module(f"{package}.asyncio.client")
    connection = await module.connect(f"ws://{HOST}:{port}/", compression=None, **KEEPALIVE)
    send, recv, times = connection.send, connection.recv, range(count)

    async def exchange() -> None:
        for _ in times:
            await send(text)
        for _ in times:
            await recv()

    return exchange


async def picows(port: int, text: str, count: int) -> Exchange:
    """Use callbacks of picows."""
    module = importlib.import_module("picows")
    kind, payload, times = module.WSMsgType.TEXT, text.encode(), range(count)
    loop = asyncio.get_running_loop()

    class Listener(module.WSListener):  # type: ignore[name-defined,misc]
        left = 0
        finished: asyncio.Future[None]

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            frame.get_payload_as_utf8_text()
            self.left -= 1
            if self.left == 0:
                self.finished.set_result(None)

    transport, listener = await module.ws_connect(Listener, f"ws://{HOST}:{port}/")

    async def exchange() -> None:
        listener.left, listener.finished = count, loop.create_future()
        for _ in times:
            transport.send(kind, payload)
        await listener.finished

    return exchange


async def aiohttp(port: int, text: str, count: int) -> Exchange:
    """Use the client of aiohttp."""
    session = importlib.import_module("aiohttp").ClientSession()
    connection = await session.ws_connect(f"http://{HOST}:{port}/")
    send, receive, times = connection.send_str, connection.receive, range(count)

    async def exchange() -> None:
        for _ in times:
            await send(text)
        for _ in times:
            await receive()

    return exchange


async def begin(peer: str, port: int, size: int, count: int) -> Exchange:
    """Open a client's connection; return what sends so many messages and awaits their echoes."""
    packages = {"picows_websockets": "picows.websockets"}
    text = "x" * size
    if peer in ("raw", "picows", "aiohttp"):
        return await {"raw": raw, "picows": picows, "aiohttp": aiohttp}[peer](port, text, count)
    return await drop_in(port, text, count, packages.get(peer, peer))


async def talk(peer: str, port: int, size: int, seconds: float, count: int) -> float:
    """Run a client for a while; return the µs of processor time per message and its echo."""
    exchange = await begin(peer, port, size, count)
    for _ in range(300 // count):
        await exchange()
    done, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100 // count):
            await exchange()
        done += 100 // count * count
    return (time.process_time() - start) / done * 1e6


async def windows(peer: str, port: int, size: int, count: int, times: int, windows: int) -> None:
    """Run a client in windows of so many exchanges, between which it calls ``getpgrp()``.

    There callgrind writes down what was executed. The first one is there to warm up; after it comes
    one in which nothing is done.
    """
    exchange = await begin(peer, port, size, count)
    gc.collect()
    gc.disable()
    for window in range(windows + 2):
        if window != 1:
            for _ in range(times):
                await exchange()
        os.getpgrp()
