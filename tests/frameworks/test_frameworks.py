"""Servers and frameworks of others on our engine: by class, and by the names of other packages.

The clients are other people's, too, and know nothing of what they talk to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator

import aiohttp
import httpx
import httpx_ws
import pytest
import websocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests.frameworks.servers import FRAMEWORKS, Server, running

pytestmark = pytest.mark.skipif(os.name != "posix", reason="starts and stops servers by signals")

TIMEOUT = 10


@pytest.fixture(scope="module", params=FRAMEWORKS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(FRAMEWORKS[request.param]) as server:
        yield server


@pytest.fixture
def asgi(server: Server) -> Server:
    if not server.framework.asgi:
        pytest.skip("accepts before the application is asked")
    return server


def ask(server: Server, question: str) -> str:
    """Ask the server about itself."""
    ws = websocket.create_connection(server.uri("/about"), timeout=TIMEOUT)
    try:
        ws.send(question)
        answer = ws.recv()
        assert isinstance(answer, str)
        return answer
    finally:
        ws.close()


def how_it_ended(server: Server, name: str) -> str:
    """Return how the conversation at ``/echo?name`` ended for the application, once it has."""
    end = time.monotonic() + TIMEOUT
    while not (answer := ask(server, name)):
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.02)
    return answer


def raw_connection(server: Server, path: str = "/echo") -> socket.socket:
    """Open a connection by hand."""
    sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, head
        head += piece
    assert head.startswith(b"HTTP/1.1 101 ")
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Read to the end of the stream; a reset is an end, too."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


def skip_ping(data: bytes) -> bytes:
    """Leave out what hypercorn begins each connection with."""
    return data.removeprefix(b"\x89\x00")


def masked(data: bytes) -> bytes:
    """Return a small frame, given without a mask, with a mask that changes nothing."""
    return data[:1] + bytes([data[1] | 0x80]) + bytes(4) + data[2:]


def test_engine(server: Server) -> None:
    assert ask(server, "engine") == server.framework.engine


class TestClients:
    def test_websockets(self, server: Server) -> None:
        async def talk() -> None:
            async with connect(
                server.uri("/echo?websockets"), subprotocols=["other", "echo"]
            ) as ws:  # type: ignore[list-item] # str for Subprotocol
                # Sanic has no subprotocols here, and never extensions.
                assert ws.subprotocol == ("echo" if server.framework.asgi else None)
                assert ws.response is not None
                compressed = "Sec-WebSocket-Extensions" in ws.response.headers
                assert compressed is server.framework.asgi
                for message in ("text é", b"\x00\xff", "", b"", "x" * 100_000, bytes(900_000)):
                    await ws.send(message)
                    assert await ws.recv() == message
                await ws.send(["in ", "frag", "ments"])
                assert await ws.recv() == "in fragments"
                assert await (await ws.ping()) > 0
                for number in range(300):
                    await ws.send(str(number))
                for number in range(300):
                    assert await ws.recv() == str(number)
                await ws.close(3000, "bye")
            assert ws.close_code == 3000

        asyncio.run(asyncio.wait_for(talk(), 3 * TIMEOUT))
        assert how_it_ended(server, "websockets") == (
            "3000 bye" if server.framework.knows_codes else "1006"
        )

    def test_websockets_without_compression(self, server: Server) -> None:
        async def talk() -> None:
            async with connect(
                server.uri("/echo?websockets_without_compression"), compression=None
            ) as ws:
                assert ws.response is not None
                assert "Sec-WebSocket-Extensions" not in ws.response.headers
                for message in ("text é", bytes(900_000)):
                    await ws.send(message)
                    assert await ws.recv() == message

        asyncio.run(asyncio.wait_for(talk(), 3 * TIMEOUT))
        assert how_it_ended(server, "websockets_without_compression") == (
            "1000" if server.framework.knows_codes else "1006"
        )

    def test_aiohttp(self, server: Server) -> None:
        async def talk() -> None:
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(server.uri("/echo?aiohttp"), compress=15) as ws:
                    await ws.send_str("text é" * 100)
                    assert await ws.receive_str() == "text é" * 100
                    await ws.send_bytes(bytes(300_000))
                    assert await ws.receive_bytes() == bytes(300_000)
                    await ws.ping(b"there?")
                    await ws.send_str("close!")
                    message = await ws.receive()
                    assert message.type is aiohttp.WSMsgType.CLOSE
                    assert (message.data, message.extra) == (4001, "enough")

        asyncio.run(asyncio.wait_for(talk(), 3 * TIMEOUT))
        assert how_it_ended(server, "aiohttp") == "closed"

    def test_websocket_client(self, server: Server) -> None:
        ws = websocket.create_connection(server.uri("/echo?websocket_client"), timeout=TIMEOUT)
        ws.send("text é")
        assert ws.recv() == "text é"
        ws.send_binary(bytes(300_000))
        assert ws.recv() == bytes(300_000)
        ws.ping("there?")
        ws.send("close!")
        opcode, payload = ws.recv_data(control_frame=True)
        assert (opcode, payload) == (websocket.ABNF.OPCODE_PONG, b"there?")
        opcode, payload = ws.recv_data(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert payload == (4001).to_bytes(2, "big") + b"enough"
        ws.shutdown()
        assert how_it_ended(server, "websocket_client") == "closed"

    def test_httpx_ws(self, server: Server) -> None:
        uri = server.uri("/echo?httpx_ws").replace("ws:", "http:")
        with httpx.Client() as http_client, httpx_ws.connect_ws(uri, http_client) as ws:
            ws.send_text("text é")
            assert ws.receive_text(TIMEOUT) == "text é"
            ws.send_bytes(bytes(300_000))
            assert ws.receive_bytes(TIMEOUT) == bytes(300_000)
            ws.send_text("close!")
            with pytest.raises(httpx_ws.WebSocketDisconnect) as raised:
                ws.receive_text(TIMEOUT)
            assert (raised.value.code, raised.value.reason) == (4001, "enough")
        assert how_it_ended(server, "httpx_ws") == "closed"


class TestRefusals:
    def test_denied(self, server: Server) -> None:
        async def talk() -> None:
            async with connect(server.uri("/deny")):
                raise AssertionError

        with pytest.raises(InvalidStatus) as raised:
            asyncio.run(asyncio.wait_for(talk(), TIMEOUT))
        assert raised.value.response.status_code == 403

    def test_denial_response(self, asgi: Server) -> None:
        async def talk() -> None:
            async with connect(asgi.uri("/denial")):
                raise AssertionError

        with pytest.raises(InvalidStatus) as raised:
            asyncio.run(asyncio.wait_for(talk(), TIMEOUT))
        response = raised.value.response
        assert response.status_code == 418
        assert json.loads(bytes(response.body or b"")) == {"why": "no"}
        assert response.headers.get_all("X-Why") == ["no"]
        for name in ("Content-Type", "Content-Length", "Date"):
            assert len(response.headers.get_all(name)) <= 1
        assert response.headers["Content-Type"] == "application/json"


class TestFlowControl:
    def test_slow_application(self, server: Server) -> None:
        """Far more is sent than fits into the buffers on the way."""

        async def talk() -> None:
            async with connect(server.uri("/slow"), compression=None) as ws:
                for _ in range(300):
                    await ws.send(bytes(65536))
                await ws.send(b"end")
                assert await ws.recv() == str(300 * 65536)

        asyncio.run(asyncio.wait_for(talk(), 3 * TIMEOUT))

    def test_slow_client(self, server: Server) -> None:
        """Everything arrives, the Close frame included, though the client takes its time."""
        if not server.framework.lets_read:
            pytest.skip("closes the TCP connection before the client could answer")

        async def talk() -> None:
            async with connect(
                server.uri("/flood"), compression=None, max_queue=1, ping_interval=None
            ) as ws:
                await asyncio.sleep(0.5)
                for number in range(200):
                    message = await ws.recv()
                    assert message == number.to_bytes(4, "big") + bytes(65536)
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
            assert (ws.close_code, ws.close_reason) == (4002, "flooded")

        asyncio.run(asyncio.wait_for(talk(), 3 * TIMEOUT))

    def test_client_that_leaves_while_it_is_flooded(self, server: Server) -> None:
        sock = raw_connection(server, "/flood")
        sock.recv(1000)
        sock.close()
        # The server is as well as before.
        assert ask(server, "engine") == server.framework.engine


class TestFailures:
    def test_lost_connection(self, server: Server) -> None:
        sock = raw_connection(server, "/echo?lost_connection")
        sock.sendall(masked(b"\x81\x01a"))
        answer = b""
        while len(skip_ping(answer)) < 3:
            answer += sock.recv(1)
        assert skip_ping(answer) == b"\x81\x01a"
        sock.close()
        # uvicorn's own classes say 1005 where there was no Close frame.
        assert how_it_ended(server, "lost_connection") in ("1005", "1006")

    def test_application_that_fails(self, server: Server) -> None:
        async def talk() -> None:
            async with connect(server.uri("/echo?application_that_fails")) as ws:
                await ws.send("fail!")
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
                if server.framework.engine == "wsapi.uvicorn":
                    assert ws.close_code == 1011

        asyncio.run(asyncio.wait_for(talk(), 2 * TIMEOUT))

    def test_message_that_is_too_big(self, server: Server) -> None:
        if "hypercorn" in server.framework.name:
            pytest.skip("its limit is 16 MiB, and it has no option for it on the command line")

        async def talk() -> None:
            async with connect(server.uri("/echo?message_that_is_too_big"), compression=None) as ws:
                await ws.send(bytes(1_000_001))
                with pytest.raises(ConnectionClosedError):
                    await ws.recv()
                assert ws.close_code == 1009

        asyncio.run(asyncio.wait_for(talk(), 2 * TIMEOUT))

    @pytest.mark.parametrize(
        "data, code",
        [
            (masked(b"\xc1\x01a"), 1002),
            (masked(b"\x83\x01a"), 1002),
            (b"\x81\x01a", 1002),
            (masked(b"\x80\x01a"), 1002),
            (masked(b"\x09\x01a"), 1002),
            (masked(b"\x88\x01a"), 1002),
            (masked(b"\x88\x02\x03\xed"), 1002),
            (masked(b"\x81\x01\xff"), 1007),
            (masked(b"\x01\x01\xc3") + masked(b"\x80\x01\x28"), 1007),
        ],
    )
    def test_hostile_bytes(self, server: Server, data: bytes, code: int) -> None:
        with raw_connection(server, "/echo?hostile_bytes") as sock:
            sock.sendall(data)
            answer = skip_ping(read_all(sock))
        if server.framework.says_why:
            assert answer[:1] == b"\x88"
            assert answer[2:4] == code.to_bytes(2, "big")
            assert len(answer) == 2 + answer[1]
        else:
            assert answer == b""
        if server.framework.engine == "wsapi.uvicorn":
            assert how_it_ended(server, "hostile_bytes").startswith(str(code))
        assert ask(server, "engine") == server.framework.engine


def test_stopping_closes_connections() -> None:
    """uvicorn tells clients to come back, and ends."""
    with running(FRAMEWORKS["uvicorn-class-starlette"]) as server:

        async def talk() -> None:
            async with connect(server.uri("/echo?stopping_closes_connections")) as ws:
                await ws.send("hello")
                await ws.recv()
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
                assert ws.close_code == 1012

        asyncio.run(asyncio.wait_for(talk(), TIMEOUT))
        # Python's own end after a signal, or a regular one.
        assert server.process.wait(TIMEOUT) in (0, -signal.SIGTERM)


def test_keepalive() -> None:
    framework = FRAMEWORKS["uvicorn-class-fastapi"]
    options = ("--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.2")
    with running(framework, *options) as server:
        with raw_connection(server, "/echo?keepalive") as sock:
            answer = read_all(sock)
        assert answer[:2] == b"\x89\x04"
        assert answer[6:] == b"\x88\x18\x03\xf3keepalive ping timeout"
        assert how_it_ended(server, "keepalive") == "1011 keepalive ping timeout"


def test_fastapi_routes_and_dependencies() -> None:
    with running(FRAMEWORKS["uvicorn-class-fastapi"]) as server:
        ws = websocket.create_connection(
            server.uri("/greet/Ada%20L?greeting=hello"), timeout=TIMEOUT
        )
        assert json.loads(ws.recv()) == {"text": "hello Ada L"}
        ws.close()
