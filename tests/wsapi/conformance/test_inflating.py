"""Compressed messages that come faster than they are taken wait as they were received."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import CLOSE, CONT, PING, PONG, TEXT, frame, request
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK

OFFER = request(more="Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n")
RSV1 = 0x40
OK = b"\x03\xe8"
SIZE = 2**20


def deflated(payload: bytes, opcode: int = TEXT, *, fin: bool = True) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    wire = bytearray(frame(opcode, data[:-4] if fin else data, fin=fin, masked=True))
    wire[0] |= RSV1
    return bytes(wire)


def numbers(first: int, last: int) -> bytes:
    return b"".join(deflated(b"%d" % i) for i in range(first, last))


@contextlib.asynccontextmanager
async def peer_of(driver: Driver, server: Served) -> AsyncIterator[RawPeer]:
    async with driver.raw_client(server, b"") as peer:
        await peer.send(OFFER)
        assert "permessage-deflate" in await peer.read_head()
        yield peer


@contextlib.asynccontextmanager
async def full(driver: Driver, wire: bytes, **options: Any) -> AsyncIterator[tuple[Ws, RawPeer]]:
    """Give a server's connection whose queue is full, and the peer that has sent ``wire``."""
    options = {"compression": "deflate", "max_queue": (4, 1)} | options
    async with driver.serve(until_closed, **options) as server:
        async with peer_of(driver, server) as peer:
            ws = await server.connection()
            await peer.send(wire)
            yield ws, peer


async def test_all_messages_in_order(driver: Driver) -> None:
    async with full(driver, numbers(0, 500)) as (ws, peer):
        await driver.until(lambda: ws.paused)
        assert [await ws.recv() for _ in range(500)] == [str(i) for i in range(500)]
        assert not ws.paused
        await peer.send(numbers(500, 501))
        assert await ws.recv() == "500"


async def test_bombs(driver: Driver) -> None:
    """The messages that are received at once are worth 100 MiB."""
    async with full(driver, deflated(bytes(SIZE)) * 100, max_queue=None) as (ws, _):
        await driver.until(lambda: ws.paused)
        # What can be taken without the front-end: the engine's queue.
        held = list(iter(ws.protocol.next_message, None))
        assert len(held) <= 5
        for _ in range(100 - len(held)):
            assert len(await ws.recv()) == SIZE


async def test_whoever_waits(driver: Driver) -> None:
    async with full(driver, b"") as (ws, peer):
        receiving = driver.spawn(ws.recv())
        await driver.settle()
        await peer.send(numbers(0, 100))
        assert await receiving == "0"
        assert [await ws.recv() for _ in range(99)] == [str(i) for i in range(1, 100)]


async def test_iteration(driver: Driver) -> None:
    received = []
    wire = numbers(0, 100) + frame(CLOSE, OK, masked=True)
    async with full(driver, wire) as (ws, peer):
        assert await peer.read_message() == (CLOSE, OK)
        await peer.read_to_end()
        peer.close()
        async for message in ws:
            received.append(message)
    assert received == [str(i) for i in range(100)]
    assert ws.close_code == 1000


async def test_streaming(driver: Driver) -> None:
    async with full(driver, numbers(0, 50)) as (ws, _):
        await driver.until(lambda: ws.paused)
        for i in range(50):
            assert [piece async for piece in ws.recv_streaming()] == [str(i)]


async def test_ping_is_answered_at_once(driver: Driver) -> None:
    wire = numbers(0, 100) + frame(PING, b"ping", masked=True)
    async with full(driver, wire) as (ws, peer):
        assert await peer.read_message() == (PONG, b"ping")
        assert ws.paused
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]


@pytest.mark.parametrize("ending", ["close", "close and leave", "leave", "reset"])
async def test_messages_before_the_end(driver: Driver, ending: str) -> None:
    wire = numbers(0, 100)
    if "close" in ending:
        wire += frame(CLOSE, OK, masked=True)
    async with full(driver, wire) as (ws, peer):
        if "close" in ending:
            assert await peer.read_message() == (CLOSE, OK)
        else:
            await driver.until(lambda: ws.paused)
        if "leave" in ending:
            peer.close()
        elif ending == "reset":
            peer.reset()
        else:
            await peer.read_to_end()
            peer.close()
        if "close" in ending:
            await driver.until(lambda: ws.close_code is not None)
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
        expected = ConnectionClosedOK if "close" in ending else ConnectionClosedError
        with pytest.raises(expected):
            await ws.recv()
        assert ws.close_code == (1000 if "close" in ending else 1006)


async def test_lost_while_some_waits(driver: Driver) -> None:
    # A thread that doesn't read notices the loss when it sends a Ping frame.
    async with full(driver, numbers(0, 100), ping_interval=0.05) as (ws, _):
        await driver.until(lambda: ws.paused)
        ws.lose()
        await ws.wait_closed()
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
        with pytest.raises(ConnectionClosedError):
            await ws.recv()


async def test_fault_at_its_turn(driver: Driver) -> None:
    """The driver notices it although nothing is received then."""
    async with full(driver, numbers(0, 20) + frame(CONT, b"", masked=True)) as (ws, peer):
        await driver.until(lambda: ws.paused)
        assert [await ws.recv() for _ in range(20)] == [str(i) for i in range(20)]
        opcode, payload = await peer.read_message()
        assert opcode == CLOSE
        assert payload[:2] == b"\x03\xea"
        await peer.read_to_end()
        peer.close()
        with pytest.raises(ConnectionClosedError):
            await ws.recv()


async def test_our_own_close(driver: Driver) -> None:
    async with full(driver, numbers(0, 100)) as (ws, peer):
        await driver.until(lambda: ws.paused)
        closing = driver.spawn(ws.close())
        assert (await peer.read_message())[0] == CLOSE
        await peer.send(numbers(100, 200) + frame(CLOSE, OK, masked=True))
        await peer.read_to_end()
        peer.close()
        await closing
        assert ws.close_code == 1000
        assert await ws.recv() == "0"


async def test_keepalive(driver: Driver) -> None:
    options = {"ping_interval": 0.01, "ping_timeout": 0.03}
    async with full(driver, numbers(0, 100), **options) as (ws, _):
        await driver.until(lambda: ws.paused)
        await driver.sleep(0.1)
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
