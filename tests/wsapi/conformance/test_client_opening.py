"""Opening handshakes as clients see them: where they connect, what they ask, what goes wrong."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RESET, RawPeer
from tests.wsapi.helpers import CLOSE, TEXT, close_payload, frame
from wsapi.exceptions import (
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    SecurityError,
)
from wsapi.http11 import USER_AGENT
from wsapi.protocol import State


@contextlib.contextmanager
def unused_port() -> Iterator[int]:
    """Give a port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def unix_connect(driver: Driver) -> Any:
    """Return what makes an object that doesn't connect yet."""
    return driver.client.unix_reconnect if driver.package == "sync" else driver.client.unix_connect


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
            ((b"ws://h/",), {}, TypeError, "uri must be a str, not bytes"),
            (
                ("ws://h/",),
                {"server_hostname": "h"},
                ValueError,
                "server_hostname argument",
            ),
            (("ws://h/",), {"extensions": [object()]}, TypeError, "extensions must contain"),
            (("ws://h/",), {"origin": 1}, TypeError, "origin must be a str or None"),
            (
                ("ws://h/",),
                {"origin": "a\nb"},
                ValueError,
                "origin must have no control characters",
            ),
            (
                ("ws://h/",),
                {"user_agent_header": 1},
                TypeError,
                "user_agent_header must be a str or None",
            ),
            (
                ("ws://h/",),
                {"additional_headers": 1},
                TypeError,
                "additional_headers must be Headers",
            ),
            (("ws://h/",), {"additional_headers": {1: "b"}}, TypeError, "names of headers must be"),
            (("ws://h/",), {"additional_headers": {"a b": "c"}}, InvalidHeader, "isn't a token"),
            (("ws://h/",), {"additional_headers": [("a:", "c")]}, InvalidHeader, "isn't a token"),
            (("ws://h/a b",), {}, InvalidURI, "spaces aren't allowed"),
            (("ws://h/a\nb",), {}, InvalidURI, "control characters aren't allowed"),
            (
                ("ws://h/",),
                {"process_exception": None},
                TypeError,
                "process_exception must be",
            ),
            (
                ("ws://h/",),
                {"reconnect_delays": 1},
                TypeError,
                "reconnect_delays must be a callable",
            ),
            (
                ("ws://h/",),
                {"create_connection": 1},
                TypeError,
                "create_connection must be a callable",
            ),
            (("ws://h/",), {"logger": "x"}, TypeError, "logger must be a Logger"),
            (
                ("ws://h/",),
                {"max_size": (1, 2, 3)},
                ValueError,
                "max_size must be",
            ),
        ],
    )
    def test_wrong_ones(
        self, driver: Driver, arguments: Any, options: Any, error: Any, text: str
    ) -> None:
        with pytest.raises(error, match=text):
            driver.connector_class(*arguments, **options)
        if driver.package == "sync":
            with pytest.raises(error, match=text):
                driver.client.connect(*arguments, **options)

    def test_nothing_happens_before_it_is_wanted(self, driver: Driver) -> None:
        """There is neither a server nor a loop."""
        driver.connector_class("wss://user:pass@h.test/", proxy="socks5h://p.test")
        unix_connect(driver)("path")

    def test_unix_socket_without_path(self, driver: Driver) -> None:
        with pytest.raises(ValueError, match="missing path argument"):
            unix_connect(driver)()

    @pytest.mark.parametrize("max_queue", [(1, 2), (4, -1), -1])
    async def test_wrong_max_queue(self, driver: Driver, max_queue: Any) -> None:
        connections = []

        async def behave(peer: RawPeer) -> None:
            connections.append(peer)

        async with driver.raw_server(behave, handshake=False) as server:
            with pytest.raises(ValueError, match="max_queue"):
                await driver.attempt(server, max_queue=max_queue)
            await driver.settle()
        assert connections == []


class TestShapes:
    async def test_without_a_context(self, driver: Driver) -> None:
        async with driver.serve() as server:
            ws = await driver.open(server)
            await ws.send("x")
            assert await ws.recv() == "x"
            await ws.close()

    async def test_context(self, driver: Driver) -> None:
        async with driver.serve() as server:
            connector = driver.connector(server)
            for _ in range(2):
                async with driver.connected_by(connector) as ws:
                    assert ws.state is State.OPEN
                    with pytest.raises(RuntimeError, match="isn't reentrant"):
                        async with driver.connected_by(connector):
                            pass
                    await ws.send("x")
                    assert await ws.recv() == "x"
                assert ws.state is State.CLOSED

    async def test_create_connection(self, driver: Driver) -> None:
        class Mine(driver.client.ClientConnection):  # type: ignore[misc, name-defined] # of the front-end at hand
            pass

        async with driver.serve() as server:
            async with driver.connect(server, create_connection=Mine) as ws:
                assert type(ws.raw) is Mine

    async def test_factory_that_fails(self, driver: Driver) -> None:
        def create_connection(*args: Any, **kwargs: Any) -> Any:
            raise KeyError("factory")

        async with driver.serve() as server:
            with pytest.raises(KeyError):
                await driver.attempt(server, create_connection=create_connection)

    async def test_factory_that_returns_something_else(self, driver: Driver) -> None:
        async with driver.serve() as server:
            with pytest.raises(TypeError, match="must return a ClientConnection, not int"):
                await driver.attempt(server, create_connection=lambda *args, **options: 5)

    async def test_many_at_once(self, driver: Driver) -> None:
        async def talk(i: int) -> None:
            async with driver.connect(server.uri(f"/{i}")) as ws:
                await ws.send(str(i))
                assert await ws.recv() == str(i)

        async with driver.serve() as server:
            await driver.gather(*(talk(i) for i in range(50)))

    async def test_address_instead_of_the_uri_s(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            port = server.port
            uri = "ws://example.com:8080/chat"
            async with driver.connect(uri, address=("127.0.0.1", port)) as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == "example.com:8080"
            sock = socket.create_connection(("127.0.0.1", port))
            address = sock.getsockname()
            async with driver.connect(uri, ready_made=sock) as ws:
                assert ws.local_address == address

    async def test_local_address(self, driver: Driver) -> None:
        async with driver.serve() as server:
            async with driver.connect(server, local_address=("127.0.0.1", 0)) as ws:
                assert ws.local_address[0] == "127.0.0.1"


class TestRequest:
    async def head(self, driver: Driver, **options: Any) -> str:
        heads = []

        async def behave(peer: RawPeer) -> None:
            heads.append(await peer.answer_handshake())
            await peer.read()

        async with driver.raw_server(behave, handshake=False) as server:
            uri = server.uri(options.pop("path", "/"), user=options.pop("user", ""))
            async with driver.connect(uri, close_timeout=0.01, **options) as ws:
                assert ws.request is not None
                await driver.until(lambda: heads)
                assert ws.request.serialize().decode() == heads[0]
        return heads[0]

    async def test_default(self, driver: Driver) -> None:
        lines = (await self.head(driver, path="/p?q")).split("\r\n")
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

    async def test_everything(self, driver: Driver) -> None:
        head = await self.head(
            driver,
            user="user:p%40ss@",
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

    async def test_no_user_agent(self, driver: Driver) -> None:
        assert "User-Agent" not in await self.head(driver, user_agent_header=None)

    async def test_own_user_agent(self, driver: Driver) -> None:
        head = await self.head(
            driver, additional_headers=[("User-Agent", "x"), ("A", "1"), ("A", "2")]
        )
        assert head.count("User-Agent") == 1
        assert "A: 1\r\nA: 2\r\n" in head

    @pytest.mark.parametrize(
        "value, text",
        [(42, "42"), (1.5, "1.5"), (True, "True"), (None, "None"), (b"x", "b'x'")],
    )
    async def test_values_of_other_types(self, driver: Driver, value: Any, text: str) -> None:
        def process_response(connection: Any, request: Any, response: Any) -> None:
            response.headers["X-B"] = value

        async with driver.serve(until_closed, process_response=process_response) as server:
            for headers in ({"X-A": value}, [("X-A", value)]):
                async with driver.connect(server, additional_headers=headers) as ws:
                    assert ws.response.headers["X-B"] == text
                    assert (await server.connection()).request.headers["X-A"] == text


class TestFailures:
    async def fail(
        self, driver: Driver, answer: bytes, *, eof: bool = True, **options: Any
    ) -> BaseException:
        """Connect to a server that answers so; check that the client drops the TCP connection."""
        closed = driver.event()

        async def behave(peer: RawPeer) -> None:
            await peer.read_head()
            await peer.send(answer)
            if eof:
                peer.write_eof()
            await peer.read_to_end()
            closed.set()

        async with driver.raw_server(behave, handshake=False) as server:
            with pytest.raises(Exception) as caught:
                await driver.attempt(server, **options)
            await closed.wait()
        return caught.value

    async def test_refused(self, driver: Driver) -> None:
        with unused_port() as port:
            with pytest.raises(OSError) as caught:
                await driver.attempt(f"ws://127.0.0.1:{port}/")
            if driver.package == "trio":  # which tries all addresses and then tells so
                assert isinstance(caught.value.__cause__, ExceptionGroup)
                (exc,) = caught.value.__cause__.exceptions
                assert isinstance(exc, ConnectionRefusedError)
            else:
                assert isinstance(caught.value, ConnectionRefusedError)

    @pytest.mark.parametrize("status", [200, 204, 301, 403, 404, 500, 503])
    async def test_status(self, driver: Driver, status: int) -> None:
        body = b"" if status == 204 else b"body"
        head = f"HTTP/1.1 {status} Reason\r\nX-Test: 1\r\nContent-Length: {len(body)}\r\n\r\n"
        exc = await self.fail(driver, head.encode() + body, eof=False)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.status_code == status
        assert exc.response.reason_phrase == "Reason"
        assert exc.response.headers["X-Test"] == "1"
        assert exc.response.body == body

    async def test_body_until_the_end(self, driver: Driver) -> None:
        exc = await self.fail(driver, b"HTTP/1.1 404 \r\n\r\nsome body")
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body == b"some body"

    @pytest.mark.parametrize(
        "framing, body",
        [
            ("", b"some"),
            ("Content-Length: 9\r\n", b"some"),
            ("Transfer-Encoding: chunked\r\n", b"4\r\nsome\r\n"),
        ],
    )
    async def test_body_without_end(self, driver: Driver, framing: str, body: bytes) -> None:
        head = f"HTTP/1.1 403 Forbidden\r\n{framing}\r\n".encode()
        exc = await self.fail(driver, head + body, eof=False, open_timeout=None)
        assert isinstance(exc, InvalidStatus)
        assert exc.response.body == b"some"

    async def test_interim_responses(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await peer.answer_handshake("X-Folded: a\r\n b\r\n")
            await peer.write(TEXT, b"hi")
            await peer.read_to_end()

        async with driver.raw_server(behave, handshake=False) as server:
            async with driver.connect(server, close_timeout=0.1) as ws:
                assert ws.response.status_code == 101
                assert ws.response.headers["X-Folded"] == "a b"
                assert await ws.recv() == "hi"

    async def test_interim_responses_without_end(self, driver: Driver) -> None:
        exc = await self.fail(driver, b"HTTP/1.1 100 Continue\r\n\r\n" * 100, eof=False)
        assert isinstance(exc, InvalidMessage)
        assert isinstance(exc.__cause__, SecurityError)

    async def test_chunked_body(self, driver: Driver) -> None:
        head = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"
        exc = await self.fail(driver, head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", eof=False)
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
    async def test_no_http_response(self, driver: Driver, answer: bytes, cause: Any) -> None:
        exc = await self.fail(driver, answer)
        assert isinstance(exc, InvalidMessage)
        assert isinstance(exc.__cause__, cause)

    async def test_connection_is_reset(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            peer.reset()

        async with driver.raw_server(behave, handshake=False) as server:
            with pytest.raises((OSError, InvalidMessage)):
                await driver.attempt(server)

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
    async def test_bad_101(self, driver: Driver, headers: dict[str, str], error: Any) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        exc = await self.fail(driver, f"HTTP/1.1 101 Switching\r\n{lines}\r\n".encode(), eof=False)
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
    async def test_bad_negotiation(self, driver: Driver, more: str, error: Any) -> None:
        closed = driver.event()

        async def behave(peer: RawPeer) -> None:
            await peer.answer_handshake(more)
            await peer.read_to_end()
            closed.set()

        async with driver.raw_server(behave, handshake=False) as server:
            with pytest.raises(error):
                await driver.attempt(server, subprotocols=["a", "b"])
            await closed.wait()

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 200 OK\r\n\r\nbody"])
    async def test_slow_server(self, driver: Driver, answer: bytes) -> None:
        """Where the machine is slow, too, the client may give up before the server has answered."""
        answered, dropped = driver.event(), driver.event()

        async def behave(peer: RawPeer) -> None:
            try:
                await peer.read_head()
                await peer.send(answer)
            except (EOFError, OSError):
                return
            answered.set()
            await peer.read_to_end()
            dropped.set()

        for open_timeout in (0.1, 1, 10, 60):
            async with driver.raw_server(behave, handshake=False) as server:
                with pytest.raises(TimeoutError) as caught:
                    await driver.attempt(server, open_timeout=open_timeout)
                assert type(caught.value) is TimeoutError
                assert str(caught.value).startswith("timed out")
                if answered.is_set():
                    await dropped.wait()
                    break
        assert dropped.is_set()

    async def test_dripping_server(self, driver: Driver) -> None:
        """The open timeout is for everything, however often something comes."""

        async def behave(peer: RawPeer) -> None:
            await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
            left = driver.spawn(peer.read_to_end())
            try:
                while not left.done():
                    await peer.send(b"X: x\r\n")
                    await left.ended(0.005)
            finally:
                await left

        async with driver.raw_server(behave, handshake=False) as server:
            with pytest.raises(TimeoutError):
                await driver.attempt(server, open_timeout=0.05)

    async def test_no_open_timeout(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            await driver.sleep(0.02)
            await peer.answer_handshake()
            await peer.write(CLOSE, close_payload(1000))
            await peer.read()

        async with driver.raw_server(behave, handshake=False) as server:
            async with driver.connect(server, open_timeout=None) as ws:
                await ws.wait_closed()
                assert ws.close_code == 1000

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_anywhere(self, driver: Driver) -> None:
        async with driver.serve() as server:
            turns = 1
            while True:
                task = driver.spawn(driver.attempt(server))
                # Turns of the loop, not time: what is hit depends on no machine's speed.
                for _ in range(turns):
                    await driver.sleep(0)
                if not await task.cancelled():
                    break
                turns += 1
            assert turns > 3
            await driver.until(lambda: not server.accepted)

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_while_waiting_for_the_answer(self, driver: Driver) -> None:
        waiting, closed = driver.event(), driver.event()

        async def behave(peer: RawPeer) -> None:
            waiting.set()
            await peer.read_to_end()
            closed.set()

        async with driver.raw_server(behave, handshake=False) as server:
            task = driver.spawn(driver.attempt(server))
            await waiting.wait()
            assert await task.cancelled()
            await closed.wait()

    async def test_peer_is_gone_before_the_request_is_sent(self, driver: Driver) -> None:
        """The request can't be written; that isn't another failure than no answer."""
        with socket.create_server((HOST, 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            peer, _ = listener.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.close()
            with pytest.raises(InvalidMessage) as caught:
                await driver.attempt("ws://h.test/", ready_made=sock)
        assert isinstance(caught.value.__cause__, EOFError)
        assert isinstance(caught.value.__cause__.__cause__, ConnectionError)

    async def test_ready_made_socket_is_closed_after_a_failure(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            await peer.read_head()
            await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            assert await peer.read_to_end() == b""

        async with driver.raw_server(behave, handshake=False) as server:
            sock = socket.create_connection(("127.0.0.1", server.port))
            with pytest.raises(InvalidStatus):
                await driver.attempt("ws://h.test/", ready_made=sock)
            assert sock.fileno() == -1

    async def test_invalid_additional_headers(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            with pytest.raises(InvalidHeaderValue):
                await driver.attempt(server, additional_headers={"X": "a\r\nb"})
            await driver.until(lambda: not server.accepted)

    async def test_server_rejects(self, driver: Driver) -> None:
        async with driver.serve(
            until_closed, process_request=lambda c, _: c.respond(403, "no\n")
        ) as s:
            with pytest.raises(InvalidStatus) as caught:
                await driver.attempt(s)
            assert str(caught.value) == "server rejected WebSocket connection: HTTP 403"
            assert caught.value.response.body == b"no\n"


class TestFirstFrames:
    async def test_message_with_the_response(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            await peer.answer_handshake()
            await peer.send(frame(TEXT, b"first") + frame(8, close_payload(1000)))
            await peer.read()

        async with driver.raw_server(behave, handshake=False) as server:
            async with driver.connect(server) as ws:
                assert [message async for message in ws] == ["first"]

    async def test_end_of_stream_with_the_response(self, driver: Driver) -> None:
        async def behave(peer: RawPeer) -> None:
            await peer.answer_handshake()

        async with driver.raw_server(behave, handshake=False) as server:
            ws = await driver.open(server)
            await ws.wait_closed()
            assert ws.close_code == 1006

    async def test_handler_that_sends_first(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await ws.send("welcome")
            await ws.close(1001)

        async with driver.serve(handler) as server, driver.connect(server) as ws:
            assert [message async for message in ws] == ["welcome"]
            assert ws.close_code == 1001
