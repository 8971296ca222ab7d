"""Conversations with implementations that nobody here wrote, as clients and as servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws
from wsapi.exceptions import ConnectionClosed

MESSAGES = ["text", "", "é€😀", b"binary", b"", "x" * 2**20, bytes(range(256)) * 2**12]
# Payload of the messages' fragments, where a peer lets its user send some.
FRAGMENTS = ["frag", "men", "ts é"]


class Script:
    """A server of ours that echoes, and remembers how the connection ended.

    The message "close" makes it close with 4000 "server's".
    """

    def __init__(self) -> None:
        self.ended: list[tuple[int | None, str | None]] = []

    async def handler(self, ws: Ws) -> None:
        pong = await ws.ping(b"from the server")
        try:
            async for message in ws:
                if message == "close":
                    await pong.wait()
                    await ws.close(4000, "server's")
                elif message == "fragments":
                    await ws.send(FRAGMENTS)
                else:
                    await ws.send(message)
        except ConnectionClosed:
            pass
        self.ended.append((ws.close_code, ws.close_reason))


@contextlib.asynccontextmanager
async def scripted(
    driver: Driver, second_end: tuple[int, str] = (4000, "server's")
) -> AsyncIterator[str]:
    """Serve two connections; peers answer a Close frame with the same code or one of their own."""
    script = Script()
    async with driver.serve(script.handler, compression="deflate", max_size=2**21) as server:
        yield server.uri()
        await driver.until(lambda: len(script.ended) == 2)
    # On threads, handlers may tell of the ends of their connections in another order.
    assert sorted(script.ended) == sorted([(4001, "client's"), second_end])


async def talk(driver: Driver, uri: str, **options: Any) -> None:
    """As a client, talk to another implementation's echo server that obeys as `Script` does."""
    async with driver.connect(uri, max_size=2**21, **options) as ws:
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send(FRAGMENTS)
        assert await ws.recv() == "".join(FRAGMENTS)
        await ws.send([b"a", b"", b"b"])
        assert await ws.recv() == b"ab"
        for i in range(200):
            await ws.send(str(i))
        assert [await ws.recv() for _ in range(200)] == [str(i) for i in range(200)]
        for payload in (b"", b"x" * 125):
            await (await ws.ping(payload)).wait()
        assert ws.latency > 0
        await ws.close(4001, "client's")
        assert (ws.close_code, ws.close_reason) == (4001, "client's")
    async with driver.connect(uri, **options) as ws:
        await ws.send("close")
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert (ws.close_code, ws.close_reason) == (4000, "server's")


@contextlib.asynccontextmanager
async def websockets_server(driver: Driver) -> AsyncIterator[str]:
    """Run a server of `websockets` in threads."""
    peer = pytest.importorskip("websockets.sync.server")

    def handler(ws: Any) -> None:
        with contextlib.suppress(Exception):
            for message in ws:
                if message == "close":
                    ws.close(4000, "server's")
                else:
                    ws.send(message)

    with peer.serve(handler, "127.0.0.1", 0, max_size=2**21) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            await driver.in_thread(server.shutdown)
            await driver.in_thread(thread.join)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_client_and_websockets(driver: Driver, compression: str | None) -> None:
    async with websockets_server(driver) as uri:
        await talk(driver, uri, compression=compression)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_server_and_websockets(driver: Driver, compression: str | None) -> None:
    client = pytest.importorskip("websockets.sync.client")

    def converse(uri: str) -> None:
        options = {"compression": compression}
        with client.connect(uri, max_size=2**21, **options) as ws:
            for message in MESSAGES:
                ws.send(message)
                assert ws.recv() == message
            ws.send(FRAGMENTS)
            assert ws.recv() == "".join(FRAGMENTS)
            ws.send("fragments")
            assert list(ws.recv_streaming()) == [*FRAGMENTS, ""]
            assert ws.ping().wait(5)
            ws.close(4001, "client's")
        with client.connect(uri, **options) as ws:
            ws.send("close")
            with contextlib.suppress(Exception):
                ws.recv()
            assert (ws.close_code, ws.close_reason) == (4000, "server's")

    async with scripted(driver) as uri:
        await driver.in_thread(converse, uri)


async def test_server_and_websocket_client(driver: Driver) -> None:
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    if not hasattr(websocket, "ABNF"):
        pytest.skip("another package is called websocket")

    def converse(uri: str) -> None:
        ws = websocket.create_connection(uri, timeout=10)
        for message in MESSAGES:
            if isinstance(message, str):
                ws.send(message)
            else:
                ws.send_binary(message)
            assert ws.recv() == message
        ws.send_frame(websocket.ABNF.create_frame("héllo ", websocket.ABNF.OPCODE_TEXT, 0))
        ws.ping("between")
        ws.send_frame(websocket.ABNF.create_frame("again", websocket.ABNF.OPCODE_CONT, 1))
        assert ws.recv() == "héllo again"
        ws.send("fragments")
        assert ws.recv() == "".join(FRAGMENTS)
        ws.close(4001, b"client's")
        ws.shutdown()
        ws = websocket.create_connection(uri, timeout=10)
        ws.send("close")
        opcode, data = ws.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert data == b"\x0f\xa0server's"
        ws.shutdown()

    async with scripted(driver, (1000, "")) as uri:
        await driver.in_thread(converse, uri)
