"""permessage-deflate through the front-end: negotiated by default, decided message by message."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from wsapi.asyncio.client import connect
from wsapi.asyncio.server import broadcast, serve

TEXT = "compressible " * 100
REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


async def first_frame(handler: Any) -> tuple[bool, int]:
    """Return RSV1 and the payload's size of the first frame that a handler sends."""
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"permessage-deflate" in head
        first, second = await reader.readexactly(2)
        size = int.from_bytes(await reader.readexactly(2), "big") if second == 126 else second
        writer.close()
        await writer.wait_closed()
        return bool(first & 0x40), size


@pytest.mark.parametrize(
    ("message", "compress", "expected"),
    [
        (TEXT, None, True),
        (TEXT, True, True),
        (TEXT, False, False),
        ("short", None, False),
        ("short", True, True),
    ],
)
@pytest.mark.parametrize("to_all", [False, True])
async def test_compression_is_decided_by_message(
    message: str, compress: bool | None, expected: bool, to_all: bool
) -> None:
    async def handler(connection: Any) -> None:
        if to_all:
            broadcast([connection], message, compress=compress)
        else:
            await connection.send(message, compress=compress)
        await connection.wait_closed()

    compressed, size = await first_frame(handler)
    assert compressed == expected
    if message == TEXT:
        assert (size < len(TEXT) // 10) == expected


async def test_round_trips_with_every_choice() -> None:
    async def handler(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with (
        serve(handler, "127.0.0.1", 0) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as connection,
    ):
        for number in range(20):
            for compress in (None, True, False):
                message = f"{number} {TEXT}"
                await connection.send(message, compress=compress)
                assert await connection.recv() == message
        await connection.send([TEXT, TEXT], compress=True)
        assert await connection.recv() == 2 * TEXT


async def test_it_can_be_switched_off() -> None:
    async def handler(connection: Any) -> None:
        await connection.wait_closed()

    async with (
        serve(handler, "127.0.0.1", 0, compression=None) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as connection,
    ):
        assert connection.protocol.extensions == []
    with pytest.raises(ValueError, match="unsupported compression: lzma"):
        connect("ws://localhost/", compression="lzma")


@pytest.mark.parametrize("way", ["send", "fragments", "broadcast"])
async def test_who_only_sends_has_a_timer_to_free_its_context(way: str) -> None:
    async def handler(connection: Any) -> None:
        if way == "send":
            await connection.send(TEXT)
        elif way == "fragments":
            await connection.send([TEXT, TEXT])
        else:
            # It would grow, so that each connection compresses it for itself.
            broadcast([connection], "x", compress=True)
        timers.append(connection.protocol.next_timeout() - monotonic())
        times.append(connection._pump.timer_time - monotonic())
        await connection.wait_closed()

    timers: list[float] = []
    times: list[float] = []
    async with (
        serve(handler, "127.0.0.1", 0, ping_interval=None) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as connection,
    ):
        await connection.recv()
    assert timers[0] < 10
    assert times[0] < 10
