"""Callbacks in place of coroutines: `listen`, `send_nowait`, `drain`."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest

from tests.wsapi.helpers import (
    BINARY,
    CLOSE,
    TEXT,
    frame,
    logged_errors,
    pair,
    raw_client,
    request,
    serving,
    until,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedError, InvalidState


async def echo(ws: ServerConnection) -> None:
    ws.listen(ws.send_nowait)
    await ws.wait_closed()


async def test_echo() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:
        for message in ("text", b"binary", "", "x" * 100_000):
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send(["frag", "ments"])
        assert await ws.recv() == "fragments"
        await (await ws.ping())


async def test_client() -> None:
    async def handler(ws: ServerConnection) -> None:
        for message in ("one", b"two", "three"):
            await ws.send(message)

    messages: list[Any] = []
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        ws.listen(messages.append)
        await ws.wait_closed()
    assert messages == ["one", b"two", "three"]
    assert ws.close_code == 1000


async def test_frames() -> None:
    frames: list[Any] = []
    last: list[bool] = []

    async def handler(ws: ServerConnection) -> None:
        def on_frame(opcode: int, payload: memoryview, fin: bool) -> None:
            frames.append((opcode, bytes(payload), fin))
            last.append(ws.last_in_buffer)

        ws.listen(on_frame=on_frame)
        await ws.wait_closed()

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.send("a")
        await ws.send([b"b", b"c"])
    assert frames == [(1, b"a", True), (2, b"b", False), (0, b"c", False), (0, b"", True)]
    assert last[-1]


async def test_answers_to_one_read_leave_in_one_write() -> None:
    writes: list[bytes] = []

    class Transport:
        def __init__(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def write(self, data: bytes) -> None:
            writes.append(data)
            self.transport.write(data)

    async def handler(ws: ServerConnection) -> None:
        # Not ws.transport: where the application has that, nothing waits.
        ws._driver.connection_made(Transport(ws._transport))  # type: ignore[arg-type] # it acts for one
        await echo(ws)

    async with serving(handler) as server, raw_client(server) as peer:
        peer.writer.write(b"".join(frame(TEXT, b"%d" % n, masked=True) for n in range(50)))
        for n in range(50):
            assert await peer.read_message() == (TEXT, b"%d" % n)
    # The last one is the answer to the end of the stream.
    assert len(writes) <= 2


@pytest.mark.parametrize("closing", [False, True])
async def test_answers_to_compressed_messages_are_bounded(closing: bool) -> None:
    """One read is worth 100 MiB of answers; the peer doesn't read them, then it does."""
    served: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def handler(ws: ServerConnection) -> None:
        ws.listen(lambda message: ws.send_nowait(message, compress=False))
        served.set_result(ws)
        await ws.wait_closed()

    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = bytearray(frame(BINARY, data[:-4], masked=True))
    bomb[0] |= 0x40
    async with serving(handler, compression="deflate") as server, raw_client(server, b"") as peer:
        offer = "permessage-deflate; client_no_context_takeover"
        peer.writer.write(request(more=f"Sec-WebSocket-Extensions: {offer}\r\n"))
        await peer.reader.readuntil(b"\r\n\r\n")
        ws = await served
        peer.writer.write(bytes(bomb) * 100)
        if closing:
            peer.write(CLOSE, b"\x03\xe8")
        while ws.protocol.reading_wanted:
            await asyncio.sleep(0.001)
        for _ in range(10):
            await asyncio.sleep(0.001)
            unsent = ws.protocol.output_size + ws.transport.get_write_buffer_size()
            assert unsent < 4 * 2**20
        for _ in range(100):
            opcode, payload = await peer.read_message()
            assert (opcode, len(payload)) == (BINARY, 2**20)
        if closing:
            assert await peer.read_message() == (CLOSE, b"\x03\xe8")
        else:
            peer.write(BINARY, b"last")
            assert await peer.read_message() == (BINARY, b"last")


async def test_other_receivers_are_refused() -> None:
    async with pair() as (client, server):
        client.listen(print)
        with pytest.raises(ConcurrencyError, match=r"cannot call recv while .* listen"):
            await client.recv()
        with pytest.raises(ConcurrencyError, match="cannot call listen while"):
            client.listen(print)
        with pytest.raises(ConcurrencyError):
            async for _ in client:
                pass
        receiving = asyncio.create_task(server.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError, match=r"cannot call listen while .* recv"):
            server.listen(print)
        await client.send("still works")
        assert await receiving == "still works"


async def test_misuse_changes_nothing() -> None:
    async with pair() as (client, server):
        with pytest.raises(TypeError, match="takes one of"):
            client.listen()
        await server.send("still works")
        assert await client.recv() == "still works"


async def test_exception_in_a_callback() -> None:
    async def handler(ws: ServerConnection) -> None:
        def on_message(message: object) -> None:
            raise LookupError(message)

        ws.listen(on_message)
        await ws.wait_closed()

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.send("x")
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert info.value.rcvd is not None
        assert info.value.rcvd.code == 1011
    (record,) = logged_errors("callback failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
async def test_callback_that_ends_the_loop(end: type[BaseException]) -> None:
    """The loop may be run again: what follows comes then, and what was sent leaves."""
    async with pair() as (client, server):

        def on_message(message: Any) -> None:
            found.append(message)
            server.send_nowait(message)
            if message == "1":
                raise end

        found: list[Any] = []
        server.listen(on_message)
        frames = b"".join(frame(TEXT, b"%d" % number, masked=True) for number in range(5))
        server.get_buffer(-1)[: len(frames)] = frames
        with pytest.raises(end):
            server.buffer_updated(len(frames))
        assert found == ["0", "1"]
        for number in range(5):
            assert await client.recv() == f"{number}"
        await client.send("5")
        assert await client.recv() == "5"
        assert found == [f"{number}" for number in range(6)]


async def test_close_from_a_callback() -> None:
    async def handler(ws: ServerConnection) -> None:
        closing: list[asyncio.Task[None]] = []

        def on_message(message: object) -> None:
            closing.append(asyncio.create_task(ws.close(4000, "enough")))

        ws.listen(on_message)
        await ws.wait_closed()
        await asyncio.gather(*closing)

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.send("x")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4000, "enough")


async def test_reading_pauses_while_the_peer_reads_nothing() -> None:
    """What callbacks send to a client that doesn't read stays within the transport's limits."""
    connections: list[ServerConnection] = []

    async def handler(ws: ServerConnection) -> None:
        connections.append(ws)
        await echo(ws)

    async with serving(handler) as server:
        async with connect(uri_of(server), compression=None, max_queue=1) as ws:
            message = bytes(100_000)

            async def flood() -> None:
                while True:
                    await ws.send(message)

            flooding = asyncio.create_task(flood())
            await until(lambda: not connections[0].transport.is_reading())
            size = connections[0].transport.get_write_buffer_size()
            assert size < 1_000_000  # what one read holds, and the limit
            # It goes on as soon as the client reads.
            for _ in range(20):
                assert await ws.recv() == message
            flooding.cancel()


async def test_send_nowait_and_drain() -> None:
    async with pair() as (client, server):
        assert client.send_nowait("a")
        assert client.send_nowait(b"b", text=True)
        assert [await server.recv(), await server.recv()] == ["a", "b"]
        await client.drain()
        while client.send_nowait(bytes(100_000)):
            await asyncio.sleep(0)
        draining = asyncio.create_task(client.drain())
        await asyncio.wait([draining], timeout=0.05)
        assert not draining.done()

        async def read() -> None:
            async for _ in server:
                pass

        reading = asyncio.create_task(read())
        await draining
    await reading


async def test_send_nowait_refuses() -> None:
    async with pair() as (client, server):
        with pytest.raises(TypeError, match="must be str or bytes-like"):
            client.send_nowait(1)  # type: ignore[arg-type] # wrong on purpose
        with pytest.raises(UnicodeDecodeError):
            client.send_nowait(b"\xff", text=True)
        client.send_nowait("good")
        assert await server.recv() == "good"
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        with pytest.raises((InvalidState, ConnectionClosed)):
            client.send_nowait("late")
        await closing
        with pytest.raises(ConnectionClosed):
            client.send_nowait("later")
