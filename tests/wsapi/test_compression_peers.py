"""permessage-deflate with implementations that nobody here wrote, as clients and as servers.

With context takeover and without, with all sizes of windows, in fragments, and with messages that
were compressed once for many connections between those that refer to what came before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import running_chromium, start_node
from tests.wsapi.helpers import serving, uri_of
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import ServerConnection, broadcast
from wsapi.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

# Each refers to the one before where that is allowed; the large ones exceed the smaller windows.
LARGE = "".join(f"{i:x} " for i in range(15_000))
MESSAGES = [
    *(f'{{"type": "update", "id": {i}, "name": "user é {i * i}"}}' for i in range(10)),
    "a",
    bytes(range(256)) * 3,
    "x" * 70_000,
    LARGE,
    LARGE[-300:],
    LARGE,
]
FRAGMENTS = ['{"type": "update", ', '"id": 1, "name": ', '"user é"}']

TAKEOVER = pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no_takeover"])
BITS = pytest.mark.parametrize("bits", range(9, 16))
SOME_BITS = pytest.mark.parametrize("bits", [9, 12, 15])


def deflate_of(connection: ClientConnection | ServerConnection) -> PerMessageDeflate:
    (extension,) = connection.protocol.extensions
    assert isinstance(extension, PerMessageDeflate)
    return extension


def agreed(connection: ClientConnection | ServerConnection) -> tuple[bool, int, bool, int]:
    """Return what was negotiated: takeover and window bits, the peer's and ours."""
    deflate = deflate_of(connection)
    return (
        not deflate.remote_no_context_takeover,
        deflate.remote_max_window_bits,
        not deflate.local_no_context_takeover,
        deflate.local_max_window_bits,
    )


class Talk:
    """A server of ours: echoes, compressed; "fragments" and "broadcast" give more than that."""

    def __init__(self) -> None:
        self.agreed: list[tuple[bool, int, bool, int]] = []

    async def handler(self, ws: ServerConnection) -> None:
        self.agreed.append(agreed(ws))
        async for message in ws:
            if message == "fragments":
                await ws.send(FRAGMENTS, compress=True)
            elif message == "broadcast":
                for text in (*MESSAGES[:3], MESSAGES[-1]):
                    broadcast([ws], text, compress=True)
                    await ws.send(text, compress=True)
                    await ws.send(text, compress=False)
            else:
                await ws.send(message, compress=True)


BROADCAST = [message for message in (*MESSAGES[:3], MESSAGES[-1]) for _ in range(3)]


@contextlib.asynccontextmanager
async def talking(takeover: bool, bits: int) -> AsyncIterator[tuple[str, Talk]]:
    """Serve with these settings; check what was negotiated, on one connection at least."""
    talk = Talk()
    factory = ServerPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits, context_takeover=takeover
    )
    async with serving(talk.handler, extensions=[factory]) as server:
        yield uri_of(server), talk
    assert talk.agreed
    assert set(talk.agreed) == {(takeover, bits, takeover, bits)}


def offer(takeover: bool, bits: int) -> list[ClientPerMessageDeflateFactory]:
    return [
        ClientPerMessageDeflateFactory(
            server_max_window_bits=bits, client_max_window_bits=bits, context_takeover=takeover
        )
    ]


async def converse(
    uri: str, takeover: bool, bits: int, *, offered: Any = None, expected: Any = None
) -> None:
    """As a client of ours, talk to an echo server."""
    extensions = offer(takeover, bits) if offered is None else offered
    async with connect(uri, extensions=extensions) as ws:
        assert agreed(ws) == (expected or (takeover, bits, takeover, bits))
        for message in MESSAGES:
            await ws.send(message, compress=True)
            assert await ws.recv() == message
        await ws.send(FRAGMENTS, compress=True)
        assert await ws.recv() == "".join(FRAGMENTS)
        for text in (*MESSAGES[:3], MESSAGES[-1]):
            broadcast([ws], text, compress=True)
            await ws.send(text, compress=True)
            await ws.send(text, compress=False)
        for text in BROADCAST:
            assert await ws.recv() == text


class TestWebsockets:
    @TAKEOVER
    @BITS
    async def test_our_server(self, takeover: bool, bits: int) -> None:
        client = pytest.importorskip("websockets.asyncio.client")
        async with talking(takeover, bits) as (uri, _), client.connect(uri) as ws:
            await converse_as_websockets(ws)
            await ws.send(FRAGMENTS)
            assert await ws.recv() == "".join(FRAGMENTS)

    @TAKEOVER
    @BITS
    async def test_our_client(self, takeover: bool, bits: int) -> None:
        peer = pytest.importorskip("websockets.asyncio.server")

        async def handler(ws: Any) -> None:
            async for message in ws:
                # In fragments, which it compresses each, too.
                half = len(message) // 2
                await ws.send([message[:half], message[half:]])

        async with peer.serve(handler, "127.0.0.1", 0) as server:
            await converse(
                uri_of(server),
                takeover,
                bits,
                # Its limit of 12 for both stands beside the offer's.
                expected=(takeover, min(bits, 12), takeover, min(bits, 12)),
            )


async def converse_as_websockets(ws: Any) -> None:
    """Talk to `Talk` with the interface of websockets."""
    for message in MESSAGES:
        await ws.send(message)
        assert await ws.recv() == message
    await ws.send("fragments")
    assert await ws.recv() == "".join(FRAGMENTS)
    await ws.send("broadcast")
    for text in BROADCAST:
        assert await ws.recv() == text
    for message in MESSAGES:
        await ws.send(message)
        assert await ws.recv() == message


class TestAiohttp:
    @TAKEOVER
    @BITS
    async def test_our_server(self, takeover: bool, bits: int) -> None:
        aiohttp = pytest.importorskip("aiohttp")
        async with (
            talking(takeover, bits) as (uri, _),
            aiohttp.ClientSession() as session,
            session.ws_connect(uri, compress=15) as ws,
        ):

            async def echo(message: str | bytes) -> None:
                if isinstance(message, str):
                    await ws.send_str(message)
                else:
                    await ws.send_bytes(message)
                assert (await ws.receive()).data == message

            for message in MESSAGES:
                await echo(message)
            await ws.send_str("fragments")
            assert await ws.receive_str() == "".join(FRAGMENTS)
            await ws.send_str("broadcast")
            for text in BROADCAST:
                assert (await ws.receive()).data == text
            for message in MESSAGES:
                await echo(message)

    # It doesn't answer client_max_window_bits, nor a window of the server that is the largest.
    @pytest.mark.parametrize("bits", [9, 12, 14])
    async def test_our_client(self, bits: int) -> None:
        web = pytest.importorskip("aiohttp.web")

        async def handler(request: Any) -> Any:
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                if isinstance(message.data, str):
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
            uri = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
            await converse(uri, True, bits)
            factory = ClientPerMessageDeflateFactory(
                server_no_context_takeover=True, server_max_window_bits=bits
            )
            await converse(uri, False, bits, offered=[factory], expected=(False, bits, True, 15))
        finally:
            await runner.cleanup()


class TestPicows:
    @TAKEOVER
    @BITS
    async def test_our_server(self, takeover: bool, bits: int) -> None:
        client = pytest.importorskip("picows.websockets.asyncio.client")
        async with talking(takeover, bits) as (uri, _), client.connect(uri) as ws:
            await converse_as_websockets(ws)

    @TAKEOVER
    @BITS
    async def test_our_client(self, takeover: bool, bits: int) -> None:
        peer = pytest.importorskip("picows.websockets.asyncio.server")

        async def handler(ws: Any) -> None:
            async for message in ws:
                await ws.send(message)

        async with peer.serve(handler, "127.0.0.1", 0) as server:
            # It answers without parameters, so that only what a client may do by itself holds.
            factory = ClientPerMessageDeflateFactory(
                client_no_context_takeover=not takeover, client_max_window_bits=bits
            )
            await converse(
                uri_of(server),
                takeover,
                bits,
                offered=[factory],
                expected=(True, 15, takeover, bits),
            )


# ---------------------------------------------------------------------- Node

CLIENT = """
const WebSocket = require("ws");
const {uri, messages, fragments, broadcast} = JSON.parse(require("fs").readFileSync(0));
const ws = new WebSocket(uri, {perMessageDeflate: {threshold: 0}});
const wanted = [];
const send = message => { wanted.push(message); ws.send(message, {compress: true}); };
ws.on("open", () => {
  messages.forEach(send);
  fragments.forEach((part, i) =>
    ws.send(part, {fin: i === fragments.length - 1, compress: true}));
  wanted.push(fragments.join(""), fragments.join(""), ...broadcast);
  ws.send("fragments");
  ws.send("broadcast");
  messages.forEach(send);
});
ws.on("message", data => {
  const expected = wanted.shift();
  if (data.toString() !== expected) { console.error(data.toString()); process.exit(1); }
  if (!wanted.length) ws.close();
});
ws.on("close", () => process.exit(wanted.length ? 1 : 0));
"""

SERVER = """
const { WebSocketServer } = require("ws");
const settings = {host: "127.0.0.1", port: 0, perMessageDeflate: {threshold: 0}};
const server = new WebSocketServer(settings,
  () => console.log(JSON.stringify(server.address().port)));
server.on("connection", ws => ws.on("message", (data, binary) => {
  const half = data.length >> 1;
  ws.send(data.subarray(0, half), {binary, fin: false, compress: true});
  ws.send(data.subarray(half), {binary, fin: true, compress: true});
}));
"""


class TestNode:
    @TAKEOVER
    @SOME_BITS
    async def test_our_server(self, node: Path, takeover: bool, bits: int) -> None:
        async with talking(takeover, bits) as (uri, _):
            script = {
                "uri": uri,
                "messages": [message for message in MESSAGES if isinstance(message, str)],
                "fragments": FRAGMENTS,
                "broadcast": BROADCAST,
            }
            process = await start_node(node, CLIENT)
            await process.communicate(json.dumps(script).encode())
            assert process.returncode == 0

    @TAKEOVER
    @SOME_BITS
    async def test_our_client(self, node: Path, takeover: bool, bits: int) -> None:
        process = await start_node(node, SERVER)
        try:
            assert process.stdout is not None
            port = json.loads(await process.stdout.readline())
            await converse(f"ws://127.0.0.1:{port}/", takeover, bits)
        finally:
            process.kill()
            await process.communicate()


# ---------------------------------------------------------------------- Chromium

PAGE = """
new Promise((resolve, reject) => {
  const {uri, messages, fragments, broadcast} = %s;
  const ws = new WebSocket(uri);
  const wanted = [...messages, fragments.join(""), ...broadcast, ...messages];
  ws.onopen = () => [...messages, "fragments", "broadcast", ...messages].forEach(m => ws.send(m));
  ws.onmessage = event => {
    if (event.data !== wanted.shift()) reject("not " + event.data);
    if (!wanted.length) { ws.close(); resolve(ws.extensions); }
  };
  ws.onclose = () => reject("closed");
})
"""


async def test_browser(tmp_path: Path) -> None:
    async with running_chromium(tmp_path) as browser:
        page = await browser.open()
        for takeover, bits in itertools.product((True, False), (9, 12, 15)):
            async with talking(takeover, bits) as (uri, _):
                script = {
                    "uri": uri,
                    "messages": [message for message in MESSAGES if isinstance(message, str)],
                    "fragments": FRAGMENTS,
                    "broadcast": BROADCAST,
                }
                extensions = await page.evaluate(PAGE % json.dumps(script))
                assert extensions.startswith("permessage-deflate")
                assert ("server_no_context_takeover" in extensions) is not takeover


async def test_many_kinds_of_clients_get_one_broadcast() -> None:
    """What is compressed once for all of them is followed by what is compressed for each."""
    websockets = pytest.importorskip("websockets.asyncio.client")
    picows = pytest.importorskip("picows.websockets.asyncio.client")
    everybody: set[ServerConnection] = set()

    async def handler(ws: ServerConnection) -> None:
        everybody.add(ws)
        async for message in ws:
            await ws.send(message)

    # Windows of the server's messages differ, as each client has its limit.
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(handler, extensions=[ServerPerMessageDeflateFactory()])
        )
        uri = uri_of(server)
        clients: list[Any] = [
            await stack.enter_async_context(websockets.connect(uri)),
            await stack.enter_async_context(picows.connect(uri)),
        ]
        for takeover, bits in itertools.product((True, False), (9, 12, 15)):
            clients.append(
                await stack.enter_async_context(connect(uri, extensions=offer(takeover, bits)))
            )
        for message in MESSAGES:
            for client in clients:
                await client.send(message)
                assert await client.recv() == message
            broadcast(everybody, message, compress=True)
            for client in clients:
                assert await asyncio.wait_for(client.recv(), 5) == message
                await client.send(message)
                assert await client.recv() == message
