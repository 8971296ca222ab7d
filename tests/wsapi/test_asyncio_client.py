"""Clients: arguments, opening handshakes and what goes wrong in them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import (
    TEXT,
    RawPeer,
    answer_handshake,
    close_payload,
    frame,
    port_of,
    raw_server,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import ClientConnection, connect, unix_connect
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import (
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
)
from wsapi.http11 import USER_AGENT
from wsproto_fast import State


@contextlib.contextmanager
def unused_port() -> Iterator[int]:
    """Give a port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class TestArguments:
    @pytest.mark.parametrize(
        "arguments, options, error, text",
        [
            (("http://localhost/",), {}, InvalidURI, "scheme isn't ws or wss"),
            (("ws:///path",), {}, InvalidURI, "hostname isn't provided"),
            (("ws://localhost/#f",), {}, InvalidURI, "fragment identifier is meaningless"),
            (("ws://user@localhost/",), {}, InvalidURI, "without password"),
            (("ws://localhost:port/",), {}, ValueError, "port"),
            (("ws://localhost/",), {"ssl": True}, ValueError, "ssl argument is incompatible"),
            (("ws://localhost/",), {"subprotocols": 1}, TypeError, "subprotocols must be a list"),
            (("ws://localhost/",), {"subprotocols": "chat"}, TypeError, "not a str"),
            (("ws://localhost/",), {"subprotocols": ["a b"]}, ValueError, "invalid subprotocol"),
            (("ws://localhost/",), {"compression": "zip"}, ValueError, "unsupported compression"),
            ((), {}, TypeError, "uri"),
        ],
    )
    def test_wrong_ones(self, arguments: Any, options: Any, error: Any, text: str) -> None:
        with pytest.raises(error, match=text):
            connect(*arguments, **options)

    def test_no_loop_is_needed(self) -> None:
        connect("ws://localhost/")

    async def test_no_tls_for_wss(self) -> None:
        with pytest.raises(ValueError, match="ssl=None is incompatible with a wss:// URI"):
            await connect("wss://localhost/", ssl=None)

    @pytest.mark.parametrize("max_queue", [(1, 2), (4, -1), -1])
    async def test_wrong_max_queue(self, max_queue: Any) -> None:
        connections = []

        async def behave(peer: RawPeer) -> None:
            connections.append(peer)

        async with raw_server(behave, handshake=False) as server:
            with pytest.raises(ValueError, match="max_queue"):
                await connect(uri_of(server), max_queue=max_queue)
            await turns(5)
        assert connections == []


class TestShapes:
    async def test_await(self) -> None:
        async with serving() as server:
            connecting = connect(uri_of(server))
            first = await connecting
            second = await connecting
            assert first is not second
            await first.close()
            await second.close()

    async def test_context(self) -> None:
        async with serving() as server:
            connecting = connect(uri_of(server))
            for _ in range(2):
                async with connecting as ws:
                    assert ws.state is State.OPEN
                    with pytest.raises(RuntimeError):
                        async with connecting:
                            pass
                assert ws.state is State.CLOSED

    async def test_create_connection(self) -> None:
        class Mine(ClientConnection):
            pass

        async with serving() as server:
            async with connect(uri_of(server), create_connection=Mine) as ws:
                assert type(ws) is Mine

    async def test_many_at_once(self) -> None:
        async def talk(i: int) -> None:
            async with connect(uri_of(server, f"/{i}")) as ws:
                await ws.send(str(i))
                assert await ws.recv() == str(i)

        async with serving() as server:
            await asyncio.gather(*(talk(i) for i in range(50)))

    async def test_address_instead_of_the_uri_s(self) -> None:
        async with serving(until_closed) as server:
            port = port_of(server)
            uri = "ws://example.com:8080/chat"
            async with connect(uri, host="127.0.0.1", port=port) as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == "example.com:8080"
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            async with connect(uri, sock=sock) as ws:
                assert ws.local_address == sock.getsockname() or ws.local_address is not None


class TestRequest:
    async def heads(self, count: int = 1, **options: Any) -> str:
        heads = []

        async def behave(peer: RawPeer) -> None:
            heads.append(await answer_handshake(peer))
            await peer.read()

        async with raw_server(behave, handshake=False) as server:
            uri = uri_of(server, options.pop("path", "/")).replace("//", options.pop("auth", "//"))
            async with connect(uri, close_timeout=0.01, **options) as ws:
                assert ws.request is not None
                assert ws.request.serialize().decode() == heads[0]
        return heads[0]

    async def test_default(self) -> None:
        lines = (await self.heads(path="/p?q")).split("\r\n")
        assert lines[0] == "GET /p?q HTTP/1.1"
        names = [line.split(": ")[0] for line in lines[1:-2]]
        assert [name for name in names if name != "Sec-WebSocket-Extensions"] == [
            "Host",
            "Upgrade",
            "Connection",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "User-Agent",
        ]
        assert f"User-Agent: {USER_AGENT}" in lines

    async def test_everything(self) -> None:
        head = await self.heads(
            auth="//user:p%40ss@",
            origin="http://origin",
            subprotocols=["a", "b"],
            additional_headers={"X-Test": "1"},
            user_agent_header="mine",
        )
        names = [line.split(": ")[0] for line in head.split("\r\n")[1:-2]]
        assert [name for name in names if name != "Sec-WebSocket-Extensions"] == [
            "Host",
            "Authorization",
            "Origin",
            "Upgrade",
            "Connection",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Protocol",
            "X-Test",
            "User-Agent",
        ]
        assert "Authorization: Basic dXNlcjpwQHNz\r\n" in head
        assert "Origin: http://origin\r\n" in head
        assert "Sec-WebSocket-Protocol: a, b\r\n" in head
        assert "User-Agent: mine\r\n" in head

    async def test_no_user_agent(self) -> None:
        assert "User-Agent" not in await self.heads(user_agent_header=None)

    async def test_own_user_agent(self) -> None:
        head = await self.heads(additional_headers=[("User-Agent", "x"), ("A", "1"), ("A", "2")])
        assert head.count("User-Agent") == 1
        assert "A: 1\r\nA: 2\r\n" in head


class TestFailures:
    async def fail(self, answer: bytes, *, eof: bool = True, **options: Any) -> BaseException:
        """Connect to a server that answers so; check that the client drops the TCP connection."""
        closed = asyncio.Event()

        async def behave(peer: RawPeer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.writer.write(answer)
            if eof:
                peer.writer.write_eof()
            await peer.read_to_end()
            closed.set()

        async with raw_server(behave, handshake=False) as server:
            with pytest.raises(Exception) as caught:
                await connect(uri_of(server), **options)
            await asyncio.wait_for(closed.wait(), 2)
        return caught.value

    async def test_refused(self) -> None:
        with unused_port() as port:
            with pytest.raises(ConnectionRefusedError):
                await connect(f"ws://127.0.0.1:{port}/")

    @pytest.mark.parametrize("status", [200, 204, 301, 403, 404, 500, 503])
    async def test_status(self, status: int) -> None:
        body = b"" if status == 204 else b"body"
        head = f"HTTP/1.1 {status} Reason\r\nX-Test: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        exc = await self.fail(head.encode() + body, eof=False)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.status_code == status
        assert exc.response.reason_phrase == "Reason"
        assert exc.response.headers["X-Test"] == "1"
        assert exc.response.body == body

    async def test_body_until_the_end(self) -> None:
        exc = await self.fail(b"HTTP/1.1 404 \r\n\r\nsome body")
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body == b"some body"

    async def test_chunked_body(self) -> None:
        head = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"
        exc = await self.fail(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", eof=False)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body == b"abcde"

    @pytest.mark.parametrize(
        "answer, cause",
        [
            (b"", EOFError),
            (b"HTTP/1.1 10", EOFError),
            (b"HTTP/1.1 101 Switching Protocols\r\nUpgr", EOFError),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nabc", EOFError),
            (b"nonsense\r\n\r\n", ValueError),
            (b"SSH-2.0-OpenSSH\r\n", ValueError),
            (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", ValueError),
        ],
    )
    async def test_no_http_response(self, answer: bytes, cause: Any) -> None:
        exc = await self.fail(answer)
        assert isinstance(exc, InvalidMessage)
        assert isinstance(exc.__cause__, cause)

    async def test_connection_is_reset(self) -> None:
        async def behave(peer: RawPeer) -> None:
            sock = peer.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            peer.abort()

        async with raw_server(behave, handshake=False) as server:
            with pytest.raises((OSError, InvalidMessage)):
                await connect(uri_of(server))

    @pytest.mark.parametrize(
        "headers, error",
        [
            ({}, InvalidUpgrade),
            ({"Upgrade": "websocket"}, InvalidUpgrade),
            ({"Connection": "Upgrade"}, InvalidUpgrade),
            ({"Upgrade": "h2c", "Connection": "Upgrade"}, InvalidUpgrade),
            ({"Upgrade": "websocket", "Connection": "Upgrade"}, InvalidHeader),
            (
                {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "x"},
                InvalidHeaderValue,
            ),
        ],
    )
    async def test_bad_101(self, headers: dict[str, str], error: Any) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        exc = await self.fail(f"HTTP/1.1 101 Switching\r\n{lines}\r\n".encode(), eof=False)
        assert type(exc) in (error, InvalidHeader)
        assert isinstance(exc, error)

    @pytest.mark.parametrize(
        "more, error",
        [
            ("Sec-WebSocket-Protocol: other\r\n", NegotiationError),
            ("Sec-WebSocket-Protocol: a, b\r\n", InvalidHeader),
            ("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n", InvalidHeader),
            ("Sec-WebSocket-Extensions: unknown\r\n", NegotiationError),
        ],
    )
    async def test_bad_negotiation(self, more: str, error: Any) -> None:
        closed = asyncio.Event()

        async def behave(peer: RawPeer) -> None:
            await answer_handshake(peer, more)
            await peer.read_to_end()
            closed.set()

        async with raw_server(behave, handshake=False) as server:
            with pytest.raises(error):
                await connect(uri_of(server), subprotocols=["a", "b"])
            await asyncio.wait_for(closed.wait(), 2)

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 200 OK\r\n\r\nbody"])
    async def test_slow_server(self, answer: bytes) -> None:
        exc = await self.fail(answer, eof=False, open_timeout=0.03)
        assert type(exc) is TimeoutError
        assert str(exc) == "timed out during opening handshake"

    async def test_dripping_server(self) -> None:
        """The open timeout is for everything, however often something comes."""

        async def behave(peer: RawPeer) -> None:
            peer.writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
            left = asyncio.create_task(peer.read_to_end())
            while not left.done():
                peer.writer.write(b"X: x\r\n")
                await asyncio.wait([left], timeout=0.005)

        async with raw_server(behave, handshake=False) as server:
            with pytest.raises(TimeoutError):
                await connect(uri_of(server), open_timeout=0.05)

    async def test_no_open_timeout(self) -> None:
        async def behave(peer: RawPeer) -> None:
            await asyncio.sleep(0.02)
            await answer_handshake(peer)
            peer.write(8, close_payload(1000))
            await peer.read()

        async with raw_server(behave, handshake=False) as server:
            async with connect(uri_of(server), open_timeout=None) as ws:
                await ws.wait_closed()
                assert ws.close_code == 1000

    @pytest.mark.parametrize("steps", range(12))
    async def test_cancelled(self, steps: int) -> None:
        async with serving(until_closed) as server:
            task = asyncio.create_task(connect(uri_of(server))._connect())
            await turns(steps)
            task.cancel()
            try:
                ws = await task
            except asyncio.CancelledError:
                pass
            else:
                await ws.close()
            await until(lambda: not server._connections)

    async def test_cancelled_while_waiting_for_the_answer(self) -> None:
        waiting, closed = asyncio.Event(), asyncio.Event()

        async def behave(peer: RawPeer) -> None:
            waiting.set()
            await peer.read_to_end()
            closed.set()

        async with raw_server(behave, handshake=False) as server:
            task = asyncio.ensure_future(connect(uri_of(server))._connect())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), 2)

    async def test_invalid_additional_headers(self) -> None:
        async with serving(until_closed) as server:
            with pytest.raises(InvalidHeaderValue):
                await connect(uri_of(server), additional_headers={"X": "a\r\nb"})
            await until(lambda: not server._connections)

    async def test_server_rejects(self) -> None:
        async with serving(until_closed, process_request=lambda c, _: c.respond(403, "no\n")) as s:
            with pytest.raises(InvalidStatus) as caught:
                await connect(uri_of(s))
            assert str(caught.value) == "server rejected WebSocket connection: HTTP 403"
            assert caught.value.response.body == b"no\n"

    async def test_missing_path(self) -> None:
        with pytest.raises(ValueError):
            await unix_connect()


class TestFirstFrames:
    async def test_message_with_the_response(self) -> None:
        async def behave(peer: RawPeer) -> None:
            await answer_handshake(peer)
            peer.writer.write(frame(TEXT, b"first") + frame(8, close_payload(1000)))
            await peer.read()

        async with raw_server(behave, handshake=False) as server:
            async with connect(uri_of(server)) as ws:
                assert [message async for message in ws] == ["first"]

    async def test_end_of_stream_with_the_response(self) -> None:
        async def behave(peer: RawPeer) -> None:
            await answer_handshake(peer)

        async with raw_server(behave, handshake=False) as server:
            ws = await connect(uri_of(server))
            await ws.wait_closed()
            assert ws.close_code == 1006

    async def test_handler_that_sends_first(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.send("welcome")
            await ws.close(1001)

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            assert [message async for message in ws] == ["welcome"]
            assert ws.close_code == 1001
