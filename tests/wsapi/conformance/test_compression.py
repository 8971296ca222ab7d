"""permessage-deflate through the front-ends: negotiated by default, decided message by message."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, echo, until_closed
from tests.wsapi.helpers import CLOSE, request

TEXT = "compressible " * 100
OFFER = request(more="Sec-WebSocket-Extensions: permessage-deflate\r\n")


@pytest.mark.parametrize("to_all", [False, True])
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
async def test_decided_by_message(
    driver: Driver, message: str, compress: bool | None, expected: bool, to_all: bool
) -> None:
    async def handler(ws: Ws) -> None:
        if to_all:
            await driver.broadcast([ws], message, compress=compress)
        else:
            await ws.send(message, compress=compress)
        await ws.wait_closed()

    async with driver.serve(handler, compression="deflate") as server:
        async with driver.raw_client(server, b"") as peer:
            await peer.send(OFFER)
            assert "permessage-deflate" in await peer.read_head()
            first, payload = await peer.read()
            assert bool(first & 0x40) == expected
            if message == TEXT:
                assert (len(payload) < len(TEXT) // 10) == expected
            await peer.write(CLOSE)
            assert await peer.read_message() == (CLOSE, b"")


async def test_round_trips_with_every_choice(driver: Driver) -> None:
    async with driver.serve(echo, compression="deflate") as server:
        async with driver.connect(server) as ws:
            assert len(ws.protocol.extensions) == 1
            for number in range(20):
                for compress in (None, True, False):
                    message = f"{number} {TEXT}"
                    await ws.send(message, compress=compress)
                    assert await ws.recv() == message
            await ws.send([TEXT, TEXT], compress=True)
            assert await ws.recv() == 2 * TEXT


async def test_broadcast_to_all_kinds(driver: Driver) -> None:
    """Connections with and without compression, and with contexts in use."""
    async with (
        driver.pair(compression="deflate") as (client1, server1),
        driver.pair(compression=None) as (client2, server2),
        driver.pair(compression="deflate") as (client3, server3),
    ):
        await server3.send(TEXT)
        for compress in (None, True, False):
            await driver.broadcast([server1, server2, server3], TEXT, compress=compress)
        await server1.send(TEXT)
        for client in (client1, client2, client3):
            assert [await client.recv() for _ in range(3)] == [TEXT] * 3
        assert await client1.recv() == await client3.recv() == TEXT


@pytest.mark.parametrize("side", ["client", "server"])
async def test_switched_off(driver: Driver, side: str) -> None:
    other = {"compression": "deflate"}
    off: dict[str, Any] = {"compression": None}
    server_options, client_options = (other, off) if side == "client" else (off, other)
    async with driver.serve(until_closed, **server_options) as server:
        async with driver.connect(server, **client_options) as ws:
            assert ws.protocol.extensions == []
