"""Conversations with implementations that nobody here wrote, as clients and as servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import start_node
from tests.wsapi.helpers import serving, until, uri_of
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
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

    async def handler(self, ws: ServerConnection) -> None:
        latency = await ws.ping(b"from the server")
        try:
            async for message in ws:
                if message == "close":
                    await latency
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
    second_end: tuple[int, str] = (4000, "server's"),
) -> AsyncIterator[tuple[str, Script]]:
    """Serve two connections; peers answer a Close frame with the same code or one of their own."""
    script = Script()
    async with serving(script.handler, max_size=2**21) as server:
        yield uri_of(server), script
        await until(lambda: len(script.ended) == 2)
    assert script.ended == [(4001, "client's"), second_end]


async def talk(
    uri: str, *, close: bool = True, first_end: tuple[int, str] = (4001, "client's")
) -> None:
    """As a client, talk to another implementation's echo server that obeys as `Script` does."""
    async with connect(uri, max_size=2**21, compression=None) as ws:
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
        assert await (await ws.ping()) > 0
        assert await (await ws.ping(b"x" * 125)) > 0
        await ws.close(4001, "client's")
        assert (ws.close_code, ws.close_reason) == first_end
    if close:
        async with connect(uri, compression=None) as ws:
            await ws.send("close")
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert (ws.close_code, ws.close_reason) == (4000, "server's")


class TestWebsockets:
    async def test_our_server(self) -> None:
        client = pytest.importorskip("websockets.asyncio.client")
        async with scripted() as (uri, _):
            async with client.connect(uri, max_size=2**21) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.recv() == message
                await ws.send(FRAGMENTS)
                assert await ws.recv() == "".join(FRAGMENTS)
                await ws.send("fragments")
                assert [f async for f in ws.recv_streaming()] == [*FRAGMENTS, ""]
                assert await (await ws.ping()) >= 0
                await ws.close(4001, "client's")
            async with client.connect(uri) as ws:
                await ws.send("close")
                await ws.wait_closed()
                assert (ws.close_code, ws.close_reason) == (4000, "server's")

    async def test_our_client(self) -> None:
        peer = pytest.importorskip("websockets.asyncio.server")

        async def handler(ws: Any) -> None:
            async for message in ws:
                if message == "close":
                    await ws.close(4000, "server's")
                else:
                    await ws.send(message)

        async with peer.serve(quiet(handler), "127.0.0.1", 0, max_size=2**21) as server:
            await talk(uri_of(server))


def quiet(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keep a peer's handler from logging that its connection was closed."""

    @functools.wraps(handler)
    async def wrapped(ws: Any) -> None:
        with contextlib.suppress(Exception):
            await handler(ws)

    return wrapped


class TestAiohttp:
    async def test_our_server(self) -> None:
        aiohttp = pytest.importorskip("aiohttp")
        async with scripted((1000, "")) as (uri, _), aiohttp.ClientSession() as session:
            options = {"max_msg_size": 2**21}
            async with session.ws_connect(uri, **options) as ws:
                for message in MESSAGES:
                    if isinstance(message, str):
                        await ws.send_str(message)
                        assert await ws.receive_str() == message
                    else:
                        await ws.send_bytes(message)
                        assert await ws.receive_bytes() == message
                await ws.send_str("fragments")
                assert await ws.receive_str() == "".join(FRAGMENTS)
                await ws.ping(b"payload")
                await ws.send_str("after the ping")
                assert await ws.receive_str() == "after the ping"
                await ws.close(code=4001, message=b"client's")
            async with session.ws_connect(uri, **options) as ws:
                await ws.send_str("close")
                received = await ws.receive()
                assert received.type is aiohttp.WSMsgType.CLOSE
                assert (received.data, received.extra) == (4000, "server's")

    async def test_our_client(self) -> None:
        web = pytest.importorskip("aiohttp.web")

        async def handler(request: Any) -> Any:
            ws = web.WebSocketResponse(max_msg_size=2**21)
            await ws.prepare(request)
            async for message in ws:
                if message.data == "close":
                    await ws.close(code=4000, message=b"server's")
                elif isinstance(message.data, str):
                    await ws.send_str(message.data)
                else:
                    await ws.send_bytes(message.data)
            return ws

        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            await talk(f"ws://127.0.0.1:{runner.addresses[0][1]}/", first_end=(1000, ""))
        finally:
            await runner.cleanup()


class TestPicows:
    async def test_our_server(self) -> None:
        picows = pytest.importorskip("picows")
        text, binary = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY
        received: asyncio.Queue[Any] = asyncio.Queue()

        class Listener(picows.WSListener):  # type: ignore[misc] # it has no types
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == text:
                    received.put_nowait(frame.get_payload_as_utf8_text())
                elif frame.msg_type == binary:
                    received.put_nowait(frame.get_payload_as_bytes())
                elif frame.msg_type == picows.WSMsgType.PING:
                    transport.send_pong(frame.get_payload_as_bytes())
                elif frame.msg_type == picows.WSMsgType.CLOSE:
                    received.put_nowait((frame.get_close_code(), frame.get_close_message()))
                    transport.send_close(frame.get_close_code(), frame.get_close_message())
                    transport.disconnect()

        async with scripted() as (uri, _):
            transport, _listener = await picows.ws_connect(Listener, uri)
            for message in MESSAGES:
                if isinstance(message, str):
                    transport.send(text, message.encode())
                else:
                    transport.send(binary, message)
                assert await received.get() == message
            transport.send(text, b"two ", fin=False)
            transport.send_ping(b"between")
            transport.send(picows.WSMsgType.CONTINUATION, b"parts")
            assert await received.get() == "two parts"
            transport.send_close(4001, b"client's")
            await transport.wait_disconnected()
            while not received.empty():
                received.get_nowait()
            transport, _listener = await picows.ws_connect(Listener, uri)
            transport.send(text, b"close")
            code, reason = await received.get()
            assert (int(code), reason) == (4000, b"server's")
            await transport.wait_disconnected()

    async def test_our_client(self) -> None:
        picows = pytest.importorskip("picows")

        class Listener(picows.WSListener):  # type: ignore[misc] # it has no types
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                payload = frame.get_payload_as_bytes()
                if frame.msg_type == picows.WSMsgType.PING:
                    transport.send_pong(payload)
                elif frame.msg_type == picows.WSMsgType.CLOSE:
                    transport.send_close(frame.get_close_code(), frame.get_close_message())
                    transport.disconnect()
                elif payload == b"close":
                    transport.send_close(4000, b"server's")
                else:
                    transport.send(frame.msg_type, payload, frame.fin)

        server = await picows.ws_create_server(lambda _request: Listener(), "127.0.0.1", 0)
        try:
            # It echoes frames, so that fragments come back as fragments.
            await talk(uri_of(server), close=False)
        finally:
            server.close()
            await server.wait_closed()


# ---------------------------------------------------------------------- Node

CLIENT = """
const WebSocket = require("ws");
const [uri, big] = [process.argv[2], "x".repeat(1 << 20)];
const wanted = ["text", "", "é€", Buffer.from("b"), Buffer.alloc(0), big, Buffer.alloc(1 << 20, 7)];
const ws = new WebSocket(uri, {perMessageDeflate: false});
let ponged = false, i = 0;
ws.on("pong", data => { ponged = data.toString() === "payload"; });
function next() {
  if (i < wanted.length) { ws.send(wanted[i]); return; }
  if (i === wanted.length) {
    ws.send("frag", {fin: false});
    ws.ping("payload");
    ws.send("mented", {fin: true});
    return;
  }
  ws.close(4001, "client's");
}
ws.on("open", next);
ws.on("message", (data, isBinary) => {
  const expected = i < wanted.length ? wanted[i] : "fragmented";
  if (isBinary !== (typeof expected !== "string") || !Buffer.from(expected).equals(data)) {
    console.error("message", i); process.exit(1);
  }
  i += 1;
  next();
});
ws.on("close", (code, reason) => {
  if (code !== 4001 || reason.toString() !== "client's" || !ponged) {
    console.error(code, reason.toString(), ponged); process.exit(1);
  }
  const second = new WebSocket(uri, {perMessageDeflate: false});
  second.on("open", () => second.send("close"));
  second.on("close", (code, reason) => {
    process.exit(code === 4000 && reason.toString() === "server's" ? 0 : 1);
  });
});
"""

SERVER = """
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({host: "127.0.0.1", port: 0, maxPayload: 1 << 21},
  () => console.log(JSON.stringify(server.address().port)));
server.on("connection", ws => {
  ws.on("message", (data, isBinary) => {
    if (data.toString() === "close") ws.close(4000, "server's");
    else ws.send(data, {binary: isBinary});
  });
});
"""


class TestNode:
    async def test_our_server(self, node: Path) -> None:
        async with scripted() as (uri, _):
            program = CLIENT.replace("process.argv[2]", json.dumps(uri))
            process = await start_node(node, program)
            await process.communicate()
            assert process.returncode == 0

    async def test_our_client(self, node: Path) -> None:
        process = await start_node(node, SERVER)
        try:
            assert process.stdout is not None
            port = json.loads(await process.stdout.readline())
            await talk(f"ws://127.0.0.1:{port}/")
        finally:
            process.kill()
            await process.communicate()
