"""Typical programs, type-checked by ``mypy --strict`` and never run."""

import asyncio
from collections.abc import AsyncIterator
from typing import assert_type

import wsproto_fast
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.exceptions import ConnectionClosed, InvalidStatus
from wsapi.http11 import Request, Response


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        assert_type(message, str | bytes)
        await connection.send(message)


def check(connection: ServerConnection, request: Request) -> Response | None:
    if request.headers.get("X-Key") is None:
        return connection.respond(403, "no key\n")
    return None


async def check_later(connection: ServerConnection, request: Request) -> Response | None:
    await asyncio.sleep(0)
    return check(connection, request)


async def server() -> None:
    async with serve(handler, "127.0.0.1", 0, process_request=check, max_size=None) as running:
        assert_type(running, Server)
        await running.serve_forever()
    running = await serve(handler, "127.0.0.1", 0, process_request=check_later)
    running.close(code=1001, reason="bye")
    await running.wait_closed()


async def words() -> AsyncIterator[str]:
    yield "in "
    yield "fragments"


async def client() -> None:
    async with connect("ws://127.0.0.1/", open_timeout=5, additional_headers={"X": "y"}) as ws:
        assert_type(ws, ClientConnection)
        await ws.send("text")
        await ws.send(b"bytes")
        await ws.send(bytearray(b"text"), text=True)
        await ws.send(["in ", "fragments"])
        await ws.send(words())
        assert_type(await ws.recv(), str | bytes)
        assert_type(await ws.recv(decode=True), str)
        assert_type(await ws.recv(decode=False), bytes)
        async for fragment in ws.recv_streaming():
            assert_type(fragment, str | bytes)
        latency = await (await ws.ping())
        assert_type(latency, float)
        await ws.close(1000, "done")

    try:
        await connect("ws://127.0.0.1/")
    except InvalidStatus as exc:
        assert_type(exc.response.status_code, int)
    except ConnectionClosed as exc:
        if exc.rcvd is not None:
            assert_type(exc.rcvd.code, int)


def engine() -> None:
    headers = wsproto_fast.Headers()
    headers["Upgrade"] = "websocket"
    assert_type(headers["upgrade"], str)
    assert_type(wsproto_fast.__version__, str)
