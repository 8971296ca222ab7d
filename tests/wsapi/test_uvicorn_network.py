"""Our class in uvicorn: flow control, limits, keepalive, hostile clients, ends of streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import ssl
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import starlette.websockets
import trustme

from tests.wsapi.foreign import running_chromium
from tests.wsapi.helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawPeer,
    close_payload,
    frame,
    logged_errors,
    raw_client,
    request,
    turns,
    until,
)
from tests.wsapi.uvicorn_helpers import (
    Running,
    accepted,
    client,
    echo_app,
    recording,
    serving_app,
)
from wsapi.asgi import ClientDisconnected
from wsapi.uvicorn import WebSocketProtocol, stats

CHUNK = bytes(range(256)) * 256  # 64 KiB


class Impatient(WebSocketProtocol):
    """Closing lasts at most a moment."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.close_timeout = 0.1
        super().connection_made(transport)


def connected(running: Running) -> Any:
    return raw_client(running)


def is_reading(running: Running) -> bool:
    return running.connection.transport.is_reading()


async def stalled(peer: RawPeer) -> int:
    """Write messages until nobody reads them; return how many."""
    for number in itertools.count(1):
        peer.write(BINARY, struct.pack("!I", number) + CHUNK)
        try:
            await asyncio.wait_for(peer.writer.drain(), 0.3)
        except TimeoutError:
            return number
    raise AssertionError


class TestReading:
    async def test_pauses_while_the_application_is_slow(self) -> None:
        go_on = asyncio.Event()
        numbers: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await go_on.wait()
            while (event := await receive())["type"] == "websocket.receive":
                numbers.append(int.from_bytes(event["bytes"][:4], "big"))

        async with serving_app(app, ws_max_queue=4) as running:
            async with connected(running) as peer:
                count = await stalled(peer)
                assert not is_reading(running)
                go_on.set()
                await peer.writer.drain()
                peer.write(CLOSE, close_payload(1000))
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))
        assert numbers == list(range(1, count + 1))

    async def test_does_not_pause_for_messages_that_fit(self) -> None:
        end = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await end.wait()

        async with serving_app(app, ws_max_queue=4) as running:
            async with connected(running) as peer:
                for _ in range(4):
                    peer.write(TEXT, b"waits")
                # It is read although nobody takes the messages before it.
                peer.write(PING, b"there?")
                assert await peer.read() == (0x80 | PONG, b"there?")
                assert is_reading(running)
                peer.write(TEXT, b"one too many")
                await until(lambda: not is_reading(running))
                end.set()
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))

    async def test_closing_by_the_application_while_paused(self) -> None:
        """The client's Close frame is behind messages that nobody wants."""
        close = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await close.wait()
            await send({"type": "websocket.close", "code": 4000})

        async with serving_app(app, ws_max_queue=2) as running:
            async with connected(running) as peer:
                await stalled(peer)
                close.set()
                assert await peer.read() == (0x80 | CLOSE, close_payload(4000))
                peer.write(CLOSE, close_payload(4000))
                await peer.writer.drain()
                assert await peer.read_to_end() == b""

    async def test_resumes_what_the_http_side_had_paused(self) -> None:
        class Paused(WebSocketProtocol):
            def connection_made(self, transport: Any) -> None:
                transport.pause_reading()
                super().connection_made(transport)

        async with serving_app(echo_app, Paused) as running:
            async with connected(running) as peer:
                peer.write(TEXT, b"hello")
                assert await peer.read() == (0x80 | TEXT, b"hello")


class TestWriting:
    async def test_waits_for_a_slow_client(self) -> None:
        sent = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await accepted(receive, send)
            for sent in range(1, 401):
                await send({"type": "websocket.send", "bytes": struct.pack("!I", sent) + CHUNK})

        async with serving_app(app) as running:
            async with connected(running) as peer:
                stopped = -1
                while stopped != sent:
                    stopped = sent
                    await asyncio.sleep(0.2)
                assert 0 < sent < 400
                # What waits in the server is a matter of one message, not of hundreds.
                waiting = running.connection.transport.get_write_buffer_size()
                assert waiting < 4 * len(CHUNK)
                for number in range(1, 401):
                    first, payload = await peer.read()
                    assert first == 0x80 | BINARY
                    assert payload == struct.pack("!I", number) + CHUNK
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))

    async def test_client_that_leaves_meanwhile(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            while True:
                await send({"type": "websocket.send", "bytes": CHUNK})

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with connected(running) as peer:
                await until(lambda: running.connection._driver.writing_paused)
                peer.abort()
                await until(lambda: len(seen) == 2)
        assert isinstance(seen[1], ClientDisconnected)

    async def test_one_write_per_turn(self) -> None:
        writes: list[bytes] = []

        class Counted:
            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def write(self, data: bytes) -> None:
                writes.append(data)
                self.transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.transport, name)

        class Counting(WebSocketProtocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(Counted(transport))  # type: ignore[arg-type] # it acts for one

        async with serving_app(echo_app, Counting, ws_max_queue=1000) as running:
            async with connected(running) as peer:
                await until(lambda: writes)
                del writes[:]
                peer.writer.write(frame(TEXT, b"hello", masked=True) * 500)
                for _ in range(500):
                    assert await peer.read() == (0x80 | TEXT, b"hello")
        # As many as there were reads, or a few more: they are 5,500 bytes.
        assert len(writes) <= 10

    async def test_last_message_to_a_client_that_goes_on_sending(self) -> None:
        """Closing a socket with unread input resets it, and what was sent last may be lost."""
        last = b"last" * 50_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await receive()
            await send({"type": "websocket.send", "bytes": last})
            await send({"type": "websocket.close", "code": 4000})

        async with serving_app(app, ws_max_queue=2) as running:
            async with connected(running) as peer:
                for _ in range(64):
                    peer.write(BINARY, CHUNK)
                await until(lambda: not running.state.tasks)
                await turns(5)
                peer.write(BINARY, CHUNK)
                assert await peer.read() == (0x80 | BINARY, last)
                assert await peer.read() == (0x80 | CLOSE, close_payload(4000))
                peer.write(BINARY, CHUNK)
                peer.write(CLOSE, close_payload(4000))
                assert await peer.read_to_end() == b""

    async def test_denial_to_a_client_that_sends_early(self) -> None:
        body = b"no" * 50_000

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await asyncio.sleep(0.01)
            await send({"type": "websocket.http.response.start", "status": 403})
            await send({"type": "websocket.http.response.body", "body": body})

        async with serving_app(app) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                await until(lambda: running.state.tasks)
                peer.write(TEXT, b"early")
                await until(lambda: not running.state.tasks)
                peer.write(TEXT, b"late")
                head = await peer.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 403 ")
                assert await peer.read_to_end() == body


class TestClosing:
    async def test_client_that_does_not_answer(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.close"})

        async with serving_app(app, Impatient) as running:
            async with connected(running) as peer:
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))
                await until(lambda: not running.state.connections)

    async def test_client_that_answers_and_stays(self) -> None:
        async with serving_app(echo_app, Impatient) as running:
            async with connected(running) as peer:
                peer.write(CLOSE, close_payload(1000))
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))
                assert await peer.read_to_end() == b""
                await until(lambda: not running.state.connections)

    async def test_both_at_once(self) -> None:
        close = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await close.wait()
            await send({"type": "websocket.close", "code": 4000})

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with connected(running) as peer:
                await until(lambda: seen)
                close.set()
                peer.write(CLOSE, close_payload(4001))
                first, payload = await peer.read()
                assert first == 0x80 | CLOSE
                # Whoever was first: one Close frame, and the end of the stream.
                assert payload in (close_payload(4000), close_payload(4001))
                assert await peer.read_to_end() == b""

    async def test_half_closed_by_the_client(self) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app) as running:
            async with connected(running) as peer:
                peer.writer.write_eof()
                assert await peer.read_to_end() == b""
                await until(lambda: len(seen) == 2)
        assert seen[1] == {"type": "websocket.disconnect", "code": 1006}


def blocking_client(port: int, tls: ssl.SSLContext | None, more: bytes) -> socket.socket:
    """Send a request; with ``more``, read the answer and send that, too."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    if tls is not None:
        sock = tls.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(request())
    if more:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        sock.sendall(more)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def on_uvloop() -> bool:
    return type(asyncio.get_running_loop()).__module__.startswith("uvloop")


def end_of_stream(sock: socket.socket) -> None:
    """With TLS, there is no close_notify before."""
    sock.shutdown(socket.SHUT_WR)


def break_tls(sock: socket.socket) -> None:
    """Write what isn't a record of TLS."""
    os.write(sock.fileno(), b"garbage" * 10)


class TestLostConnections:
    """They are an event, never an exception out of receive()."""

    @pytest.mark.parametrize("when", ["waits", "is busy", "sends", "waits before accepting"])
    @pytest.mark.parametrize(
        "secure, lose",
        [
            (False, reset),
            (False, socket.socket.close),
            (False, end_of_stream),
            (True, reset),
            (True, end_of_stream),
            (True, break_tls),
        ],
    )
    async def test_event(
        self, when: str, secure: bool, lose: Any, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        if (when, secure, lose) == ("sends", True, end_of_stream) and on_uvloop():
            pytest.skip("uvloop first writes everything; it is for keepalive to find that out")
        ready, lost = asyncio.Event(), asyncio.Event()
        events: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            if when != "waits before accepting":
                await send({"type": "websocket.accept"})
                assert (await receive())["text"] == "there"
            asyncio.get_running_loop().call_soon(ready.set)
            if when == "is busy":
                await lost.wait()
            elif when == "sends":
                with pytest.raises(ClientDisconnected):
                    while True:
                        await send({"type": "websocket.send", "bytes": CHUNK})
            for _ in range(3):
                events.append(await receive())
            await send({"type": "websocket.close"})
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.send", "text": "x"})

        async with serving_app(app, Impatient, tls=tls[0] if secure else None) as running:
            sock = await asyncio.to_thread(
                blocking_client,
                running.sockets[0].getsockname()[1],
                tls[1] if secure else None,
                b"" if when == "waits before accepting" else frame(TEXT, b"there", masked=True),
            )
            await ready.wait()
            if when == "sends":
                await until(lambda: running.connection._driver.writing_paused)
            with contextlib.closing(sock):
                lose(sock)
                await until(lambda: not running.state.connections)
            lost.set()
            await until(lambda: not running.state.tasks)
        assert events == [{"type": "websocket.disconnect", "code": 1006}] * 3

    async def test_messages_before_it(self) -> None:
        lost = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await lost.wait()
            while (await receive())["type"] == "websocket.receive":
                pass

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with connected(running) as peer:
                for _ in range(3):
                    peer.write(TEXT, b"x")
                await peer.writer.drain()
                peer.write(PING, b"")
                assert await peer.read() == (0x80 | PONG, b"")
                peer.abort()
                await until(lambda: not running.state.connections)
                lost.set()
        assert [event["type"] for event in seen[1:]] == [
            *["websocket.receive"] * 3,
            "websocket.disconnect",
        ]


class TestKeepalive:
    async def test_pong_is_awaited(self) -> None:
        app, seen = recording(echo_app)
        options = {"ws_ping_interval": 0.01, "ws_ping_timeout": 0.1}
        async with serving_app(app, **options) as running:
            async with connected(running) as peer:
                for _ in range(3):
                    first, payload = await peer.read()
                    assert first == 0x80 | PING
                    peer.write(PONG, payload)
                assert (await peer.read())[0] == 0x80 | PING
                expected = close_payload(1011, "keepalive ping timeout")
                assert await peer.read() == (0x80 | CLOSE, expected)
                assert await peer.read_to_end() == b""
        assert seen[1] == {
            "type": "websocket.disconnect",
            "code": 1011,
            "reason": "keepalive ping timeout",
        }

    @pytest.mark.parametrize("interval", [0, None])
    async def test_switched_off(self, interval: float | None) -> None:
        async with serving_app(echo_app, ws_ping_interval=interval) as running:
            async with connected(running):
                assert running.connection.protocol.next_timeout() is None

    async def test_pings_without_limit_for_the_answer(self) -> None:
        options = {"ws_ping_interval": 0.01, "ws_ping_timeout": None}
        async with serving_app(echo_app, **options) as running:
            async with connected(running) as peer:
                for _ in range(3):
                    assert (await peer.read())[0] == 0x80 | PING

    async def test_client_pings(self) -> None:
        async with serving_app(echo_app) as running:
            async with connected(running) as peer:
                peer.write(PING, b"there?")
                assert await peer.read() == (0x80 | PONG, b"there?")


class TestLimits:
    async def test_message_that_fits(self) -> None:
        async with serving_app(echo_app, ws_max_size=1000) as running:
            async with connected(running) as peer:
                peer.write(BINARY, bytes(1000))
                assert await peer.read() == (0x80 | BINARY, bytes(1000))

    @pytest.mark.parametrize("fragments", [[1001], [500, 501], [1, 1000]])
    async def test_message_that_is_too_big(self, fragments: list[int]) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app, ws_max_size=1000) as running:
            async with connected(running) as peer:
                for number, size in enumerate(fragments):
                    opcode = CONT if number else BINARY
                    peer.write(opcode, bytes(size), fin=size == fragments[-1])
                first, payload = await peer.read()
                assert (first, payload[:2]) == (0x80 | CLOSE, close_payload(1009))
                assert await peer.read_to_end() == b""
        assert seen[1]["code"] == 1009
        assert "exceeds limit of 1000 bytes" in seen[1]["reason"]

    async def test_big_message(self) -> None:
        message = CHUNK * 100
        async with serving_app(echo_app) as running:
            async with connected(running) as peer:
                peer.write(BINARY, message)
                assert await peer.read() == (0x80 | BINARY, message)


@pytest.mark.parametrize(
    "data, code",
    [
        (frame(TEXT, b"not masked"), 1002),
        (frame(TEXT | 0x40, b"reserved bit", masked=True), 1002),
        (frame(3, b"unknown opcode", masked=True), 1002),
        (frame(PING, bytes(126), masked=True), 1002),
        (frame(PING, b"fragmented", fin=False, masked=True), 1002),
        (frame(CONT, b"no beginning", masked=True), 1002),
        (frame(TEXT, b"1", fin=False, masked=True) + frame(TEXT, b"2", masked=True), 1002),
        (frame(CLOSE, b"1", masked=True), 1002),
        (frame(CLOSE, close_payload(1005), masked=True), 1002),
        (frame(CLOSE, close_payload(1000) + b"\xff", masked=True), 1007),
        (frame(TEXT, b"\xff", masked=True), 1007),
        (frame(TEXT, b"\xc3", fin=False, masked=True) + frame(CONT, b"\x28", masked=True), 1007),
        (b"\x82\xff" + b"\xff" * 8, 1002),
    ],
    ids=[  # the masks, and so the bytes, are others each time
        "not masked",
        "reserved bit",
        "unknown opcode",
        "long ping",
        "fragmented ping",
        "continuation without beginning",
        "interleaved messages",
        "close of one byte",
        "close with 1005",
        "close reason",
        "text",
        "text over two frames",
        "length",
    ],
)
async def test_hostile_bytes(data: bytes, code: int) -> None:
    app, seen = recording(echo_app)
    async with serving_app(app) as running:
        async with connected(running) as peer:
            peer.write(TEXT, b"good")
            assert await peer.read() == (0x80 | TEXT, b"good")
            peer.writer.write(data)
            first, payload = await peer.read()
            assert (first, payload[:2]) == (0x80 | CLOSE, close_payload(code))
            # What comes afterwards isn't looked at.
            peer.write(TEXT, b"late")
            assert await peer.read_to_end() == b""
            await until(lambda: len(seen) == 3)
    assert seen[1]["text"] == "good"
    assert seen[2] == {
        "type": "websocket.disconnect",
        "code": code,
        "reason": payload[2:].decode(),
    }


async def test_fragments() -> None:
    async with serving_app(echo_app) as running:
        async with connected(running) as peer:
            peer.write(TEXT, b"\xc3", fin=False)
            peer.write(CONT, b"", fin=False)
            peer.write(PING, b"in between")
            peer.write(CONT, b"\xa9")
            assert await peer.read() == (0x80 | PONG, b"in between")
            assert await peer.read() == (0x80 | TEXT, "é".encode())


async def test_byte_by_byte() -> None:
    async with serving_app(echo_app) as running:
        async with connected(running) as peer:
            for byte in frame(TEXT, b"hello", masked=True) + frame(BINARY, CHUNK[:99], masked=True):
                peer.writer.write(bytes([byte]))
                await turns(2)
            assert await peer.read() == (0x80 | TEXT, b"hello")
            assert await peer.read() == (0x80 | BINARY, CHUNK[:99])


class TestCompression:
    OFFER = "permessage-deflate; client_max_window_bits"

    async def test_on(self) -> None:
        async with serving_app(echo_app) as running:
            handshake = request(Sec_WebSocket_Extensions=self.OFFER)
            async with client(running, handshake) as (peer, head):
                (answer,) = head.get("Sec-WebSocket-Extensions")
                assert answer == (
                    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
                )
                deflate = zlib.compressobj(wbits=-12)
                inflate = zlib.decompressobj(wbits=-12)
                for text in (b"once " * 100, b"twice " * 100):
                    data = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
                    peer.write(TEXT | 0x40, data[:-4])
                    first, payload = await peer.read()
                    assert first == 0xC0 | TEXT
                    assert inflate.decompress(payload + b"\x00\x00\xff\xff") == text

    async def test_off(self) -> None:
        async with serving_app(echo_app, ws_per_message_deflate=False) as running:
            handshake = request(Sec_WebSocket_Extensions=self.OFFER)
            async with client(running, handshake) as (peer, head):
                assert head.get("Sec-WebSocket-Extensions") == []
                peer.write(TEXT, b"plain")
                assert await peer.read() == (0x80 | TEXT, b"plain")

    async def test_what_inflates_too_much(self) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app, ws_max_size=1000) as running:
            handshake = request(Sec_WebSocket_Extensions=self.OFFER)
            async with client(running, handshake) as (peer, _):
                deflate = zlib.compressobj(wbits=-12)
                data = deflate.compress(bytes(100_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
                assert len(data) < 1000
                peer.write(BINARY | 0x40, data[:-4])
                first, payload = await peer.read()
                assert (first, payload[:2]) == (0x80 | CLOSE, close_payload(1009))
                assert await peer.read_to_end() == b""
        assert seen[1]["code"] == 1009


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    file = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo_app(scope, receive, send)

    async with serving_app(app, ssl_certfile=file, ssl_keyfile=file) as running:
        port = running.sockets[0].getsockname()[1]
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", port, ssl=context), masked=True)
        try:
            peer.writer.write(request())
            await peer.reader.readuntil(b"\r\n\r\n")
            for message in (b"hello", CHUNK * 20):
                peer.write(BINARY, message)
                assert await peer.read() == (0x80 | BINARY, message)
            peer.write(CLOSE, close_payload(1000))
            assert await peer.read() == (0x80 | CLOSE, close_payload(1000))
            assert await peer.read_to_end() == b""
        finally:
            await peer.close()
    assert scopes[0]["scheme"] == "wss"


# Resolves with the lengths of what came back, one text, what was negotiated, and how it ended.
PAGE = """
new Promise(resolve => {
  const ws = new WebSocket("%s", ["other", "chat"]);
  ws.binaryType = "arraybuffer";
  const messages = ["", "é", "x".repeat(100000), new Uint8Array(70000).fill(7).buffer];
  const got = [];
  ws.onopen = () => messages.forEach(message => ws.send(message));
  ws.onmessage = event => {
    got.push(typeof event.data === "string" ? event.data : new Uint8Array(event.data).join());
    if (got.length === messages.length) ws.close(3000, "done");
  };
  ws.onclose = event => resolve([
    got.map(text => text.length), got[1], ws.protocol, ws.extensions,
    event.code, event.reason, event.wasClean,
  ]);
})
"""


async def test_browser(tmp_path: Path) -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accepted(receive, send, subprotocol=scope["subprotocols"][-1])
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
        events.append(event)

    async with serving_app(app) as running, running_chromium(tmp_path) as browser:
        port = running.sockets[0].getsockname()[1]
        page = await browser.open()
        lengths, text, protocol, extensions, *close = await page.evaluate(
            PAGE % f"ws://127.0.0.1:{port}/"
        )
        assert lengths == [0, 1, 100_000, 2 * 70_000 - 1]
        assert text == "é"
        assert protocol == "chat"
        assert extensions.startswith("permessage-deflate")
        assert close == [3000, "done", True]
        await until(lambda: events)
    assert events == [{"type": "websocket.disconnect", "code": 3000, "reason": "done"}]


# ---------------------------------------------------------------------- statistics


async def test_statistics() -> None:
    """They are those of all connections of the process."""
    before = stats()
    async with serving_app(echo_app) as running:
        async with client(running, request()) as (peer, head):
            assert head.status == 101
            peer.write(TEXT, b"four")
            assert await peer.read() == (TEXT | 0x80, b"four")
            now = stats()
            assert (now.accepted, now.open) == (before.accepted + 1, before.open + 1)
            assert now.messages_received == before.messages_received + 1
            assert now.message_bytes_sent == before.message_bytes_sent + 4
            assert now.handshakes.count == before.handshakes.count + 1
            connection = running.connection.stats()
            assert (connection.messages_sent, connection.frames_received) == (1, 1)
        async with client(running, request(Sec_WebSocket_Version="12")) as (_, head):
            assert head.status == 400
        await until(lambda: stats().closing + stats().opening + stats().open == 0)
    after = stats()
    assert after.message_bytes_sent == now.message_bytes_sent
    assert after.refused.get("400", 0) == before.refused.get("400", 0) + 1
    assert after.closed[1006] == before.closed.get(1006, 0) + 1
    assert after.accepted == before.accepted + 2


# ---------------------------------------------------------------------- the end in the log


async def sends_until_nobody_is_there(scope: Any, receive: Any, send: Any) -> None:
    await accepted(receive, send)
    while True:
        await send({"type": "websocket.send", "text": "x"})
        await asyncio.sleep(0)


async def sends_in_a_task_group(scope: Any, receive: Any, send: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sends_until_nobody_is_there(scope, receive, send))


async def receives_with_starlette(scope: Any, receive: Any, send: Any) -> None:
    websocket = starlette.websockets.WebSocket(scope, receive, send)
    await websocket.accept()
    while True:
        await websocket.receive_text()


async def fails_in_the_end(scope: Any, receive: Any, send: Any) -> None:
    await accepted(receive, send)
    await receive()
    raise ExceptionGroup("more than the end", [ClientDisconnected(), ZeroDivisionError()])


async def pretends(scope: Any, receive: Any, send: Any) -> None:
    await accepted(receive, send)
    raise starlette.websockets.WebSocketDisconnect


@pytest.mark.parametrize("ending", ["closes", "leaves", "resets", "bad frame"])
@pytest.mark.parametrize(
    "app", [sends_until_nobody_is_there, sends_in_a_task_group, receives_with_starlette]
)
async def test_no_traceback_for_what_a_client_does(
    app: Any, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="uvicorn.error")
    async with serving_app(app) as running:
        async with client(running, request()) as (peer, _):
            if ending == "closes":
                peer.write(CLOSE, b"\x03\xe8")
            elif ending == "bad frame":
                peer.write(3)
            elif ending == "resets":
                peer.writer.transport.abort()
        await until(lambda: not running.state.tasks)
    (line,) = [record for record in caplog.records if "application" in record.getMessage()]
    assert line.getMessage().startswith("connection ended its application: ")
    assert (line.levelname, line.exc_info) == ("INFO", None)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("app", [fails_in_the_end, pretends])
async def test_failures_of_applications_have_a_traceback(app: Any) -> None:
    async with serving_app(app) as running:
        async with client(running, request()) as (peer, _):
            if app is fails_in_the_end:
                peer.write(CLOSE, b"\x03\xe8")
            await until(lambda: not running.state.tasks)
    (record,) = logged_errors("Exception in ASGI application\n")
    assert record.exc_info
