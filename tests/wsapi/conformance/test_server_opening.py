"""Opening handshakes as servers see them: what is accepted, refused, and asked of callbacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import parsed
from tests.wsapi.helpers import logged_errors, request
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidHandshake, NegotiationError
from wsapi.frames import Frame
from wsapi.http11 import Request, Response


class Shout:
    """An extension: upper case when sent, one mark more when received."""

    name = "x-shout"

    def encode(self, frame: Frame) -> Frame:
        return dataclasses.replace(frame, rsv1=True, data=bytes(frame.data).upper())

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if not frame.rsv1:
            return frame
        return dataclasses.replace(frame, rsv1=False, data=bytes(frame.data) + b"!")


class ClientShoutFactory:
    name = "x-shout"

    def get_request_params(self) -> list[tuple[str, str | None]]:
        return [("loud", None)]

    def process_response_params(self, params: Any, accepted_extensions: Any) -> Shout:
        assert params == [("loud", None)]
        return Shout()


class ServerShoutFactory:
    name = "x-shout"

    def process_request_params(self, params: Any, accepted_extensions: Any) -> Any:
        return params, Shout()


class TestOpeningHandshake:
    async def test_accepted(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server, driver.raw_client(server, b"") as peer:
            await peer.send(request())
            answer = await peer.read_head()
            assert answer.startswith("HTTP/1.1 101 Switching Protocols\r\n")
            headers = parsed(answer.encode()).headers
            assert [name for name, _ in headers.raw_items()] == [
                "Date",
                "Upgrade",
                "Connection",
                "Sec-WebSocket-Accept",
                "Server",
            ]
            assert headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    @pytest.mark.parametrize(
        "data, status",
        [
            (request("POST / HTTP/1.1"), 405),
            (request("GET / HTTP/1.0"), 505),
            (request(without="Connection"), 426),
            (request(without="Upgrade"), 426),
            (request(Connection="keep-alive"), 426),
            (request(Upgrade="h2c"), 426),
            (request(without="Sec-WebSocket-Key"), 400),
            (request(more="Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
            (request(Sec_WebSocket_Key="not base64!"), 400),
            (request(Sec_WebSocket_Key="dG9vIHNob3J0"), 400),
            (request(without="Sec-WebSocket-Version"), 400),
            (request(more="Sec-WebSocket-Version: 13\r\n"), 400),
            (request(Sec_WebSocket_Version="8"), 400),
            (request(more="Origin: http://a\r\nOrigin: http://b\r\n"), 400),
            (request(more="Origin: http://b\r\n"), 403),
            (request(Connection="upgrade, ;"), 400),
            (request(Upgrade="web socket"), 400),
            (request(f"GET /{'x' * 9000} HTTP/1.1"), 414),
            (request(more=f"X: {'x' * 9000}\r\n"), 431),
            (request(more="X: x\r\n" * 200), 431),
            (request(without="Host"), 400),
            (request(more="Host: elsewhere\r\n"), 400),
            (request(Host="a b"), 400),
        ],
    )
    async def test_refused(self, driver: Driver, data: bytes, status: int) -> None:
        async with driver.serve(until_closed, origins=["http://a"]) as server:
            answer = await server.ask(data)
            assert answer.status_code == status
            headers, body = answer.headers, answer.body
            assert headers["Connection"] == "close"
            assert headers["Content-Type"] == "text/plain; charset=utf-8"
            assert int(headers["Content-Length"]) == len(body)
            assert headers["Date"].endswith(" GMT")
            assert body.startswith(b"Failed to open a WebSocket connection")
            if status == 405:
                assert headers["Allow"] == "GET"
            if status == 426:
                assert headers["Upgrade"] == "websocket"

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
            request().replace(b"\r\n", b"\n"),
            request(more="bad name: x\r\n"),
            request(more="X: a\x00b\r\n"),
            request(more="Transfer-Encoding: chunked\r\n"),
            request(more="Content-Length: 5\r\n"),
        ],
    )
    async def test_closed_without_an_answer(self, driver: Driver, data: bytes) -> None:
        async with driver.serve(until_closed) as server:
            assert await server.ask_bytes(data) == b""

    async def test_end_of_stream_at_any_place(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            for size in range(0, len(request()), 7):
                async with driver.raw_client(server, b"") as peer:
                    await peer.send(request()[:size])
                    peer.write_eof()
                    assert await peer.read_to_end() == b""
            await driver.until(lambda: not server.accepted)

    @pytest.mark.parametrize("data, answered", [(b"", False), (b"GET / HT", True)])
    async def test_open_timeout(self, driver: Driver, data: bytes, answered: bool) -> None:
        async with driver.serve(until_closed, open_timeout=0.03) as server:
            answer = await server.ask_bytes(data)
            if answered:
                assert parsed(answer).status_code == 408
            else:
                assert answer == b""
            await driver.until(lambda: not server.accepted)

    @pytest.mark.fake_time
    async def test_open_timeout_does_not_end_open_connections(self, driver: Driver) -> None:
        async with (
            driver.serve_in_memory(open_timeout=5) as server,
            driver.connect_in_memory(server, open_timeout=5) as ws,
        ):
            await driver.advance(30)
            await ws.send("x")
            assert await ws.recv() == "x"

    @pytest.mark.not_on("sync", "trio", reason="nobody reads there while a callback runs")
    async def test_client_leaves_while_the_request_is_processed(self, driver: Driver) -> None:
        processing, handled = [], []
        gate = driver.event()

        async def process_request(ws: Ws, _request: Request) -> None:
            processing.append(ws)
            await gate.wait()

        async def handler(ws: Ws) -> None:
            handled.append(ws)

        options = {"process_request": process_request, "open_timeout": None}
        async with driver.serve(handler, **options) as server:
            async with driver.raw_client(server, b"") as peer:
                await peer.send(request())
                await driver.until(lambda: processing)
            await driver.until(lambda: not server.accepted)
            gate.set()
        assert handled == []

    async def test_open_timeout_while_the_request_is_processed(self, driver: Driver) -> None:
        handled = []

        async def process_request(_ws: Ws, _request: Request) -> None:
            await driver.sleep(0.06)

        async def handler(ws: Ws) -> None:
            handled.append(ws)

        options = {"process_request": process_request, "open_timeout": 0.02}
        async with driver.serve(handler, **options) as server:
            assert b" 101 " not in await server.ask_bytes(request())
        assert handled == []

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    @pytest.mark.parametrize("callback", ["process_request", "process_response"])
    @pytest.mark.parametrize("stays", [True, False])
    async def test_callback_that_never_ends(
        self, driver: Driver, callback: str, stays: bool
    ) -> None:
        """It ends with the time for the opening handshake, and neither stays nor keeps the server.

        So it does if the client has left before.
        """
        called = []

        async def never(*_args: Any) -> None:
            try:
                await driver.event().wait()
            finally:
                called.append(callback)

        async with driver.serve(until_closed, **{callback: never}, open_timeout=0.03) as server:
            async with driver.raw_client(server, b"") as peer:
                await peer.send(request())
                if stays:
                    assert await peer.read_to_end() == b""
            await driver.until(lambda: called and not server.accepted)
            assert server.raw.stats().refused == {"timeout" if stays else "gone": 1}

    @pytest.mark.parametrize(
        "origins, origin, accepted",
        [
            (None, "http://a", True),
            (None, None, True),
            (["http://a"], "http://a", True),
            (["http://a"], "http://ab", False),
            (["http://a"], None, False),
            (["http://a", None], None, True),
            ([None], "http://a", False),
            ([re.compile(r"http://.")], "http://a", True),
            ([re.compile(r"http://.")], "http://ab", False),
            ([], "http://a", False),
        ],
    )
    async def test_origins(self, driver: Driver, origins: Any, origin: Any, accepted: bool) -> None:
        async with driver.serve(until_closed, origins=origins) as server:
            if accepted:
                async with driver.connect(server, origin=origin):
                    pass
            else:
                assert (await driver.rejection(server, origin=origin)).status_code == 403

    @pytest.mark.parametrize(
        "configured, offered, chosen",
        [
            (None, ["a"], None),
            (["a", "b"], ["b", "a"], "a"),
            (["a", "b"], ["b"], "b"),
            (["a"], ["b"], 400),
            (["a"], None, 400),
        ],
    )
    async def test_subprotocols(
        self, driver: Driver, configured: Any, offered: Any, chosen: Any
    ) -> None:
        async with driver.serve(until_closed, subprotocols=configured) as server:
            if chosen == 400:
                assert (await driver.rejection(server, subprotocols=offered)).status_code == 400
            else:
                async with driver.connect(server, subprotocols=offered) as ws:
                    assert ws.subprotocol == chosen
                    await driver.until(lambda: server.connections)
                    assert [ws.subprotocol for ws in server.connections] == [chosen]

    async def test_select_subprotocol(self, driver: Driver) -> None:
        calls = []

        def select(ws: Ws, offered: Any) -> Any:
            calls.append((ws, list(offered)))
            return offered[-1] if offered else None

        async with driver.serve(
            until_closed, subprotocols=["a", "b"], select_subprotocol=select
        ) as server:
            async with driver.connect(server, subprotocols=["x", "a"]) as ws:
                assert ws.subprotocol == "a"
            async with driver.connect(server) as ws:
                assert ws.subprotocol is None
        assert isinstance(calls[0][0].raw, driver.server.ServerConnection)
        assert [offered for _, offered in calls] == [["x", "a"], []]

    @pytest.mark.parametrize(
        "error, status, errors",
        [
            (NegotiationError("none of these"), 400, []),
            (ZeroDivisionError(), 500, ["opening handshake failed"]),
        ],
    )
    async def test_select_subprotocol_raises(
        self, driver: Driver, error: Any, status: int, errors: Any
    ) -> None:
        def select(_ws: Ws, _offered: Any) -> Any:
            raise error

        async with driver.serve(until_closed, select_subprotocol=select) as server:
            response = await driver.rejection(server, subprotocols=["a"])
            assert response.status_code == status
            if status == 500:
                assert b"See server log" in response.body
        logged_errors(*errors)

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    @pytest.mark.parametrize("headers", [None, {"X": "y"}, [("X", "y")]])
    async def test_callbacks_return_what_is_not_a_response(
        self, driver: Driver, name: str, headers: Any
    ) -> None:
        def callback(*_args: object) -> Response:
            return Response(403, "Forbidden", headers)

        options: Any = {name: callback}
        async with driver.serve(until_closed, **options) as server:
            assert (await driver.rejection(server)).status_code == 500
        logged_errors("opening handshake failed" if isinstance(headers, dict) else f"{name} failed")

    @pytest.mark.parametrize("header, expected", [("mine", ["mine"]), (None, []), ("", [])])
    async def test_server_header(self, driver: Driver, header: Any, expected: Any) -> None:
        def process_request(_ws: Ws, request: Request) -> Response | None:
            if request.path == "/own":
                return Response(418, "", Headers({"Server": "own", "Content-Length": "0"}))
            return None

        async with driver.serve(
            until_closed, server_header=header, process_request=process_request
        ) as server:
            async with driver.connect(server) as ws:
                assert ws.response is not None
                assert ws.response.headers.get_all("Server") == expected
            answer = await server.ask(request("GET / HTTP/1.0"))
            assert answer.headers.get_all("Server") == expected
            answer = await server.ask(request("GET /own HTTP/1.1"))
            assert answer.headers.get_all("Server") == ["own"]

    async def test_extensions(self, driver: Driver) -> None:
        """Those of users are objects that work on frames, made by factories."""
        async with driver.serve(extensions=[ServerShoutFactory()]) as server:
            async with driver.connect(server, extensions=[ClientShoutFactory()]) as ws:
                assert [type(extension) for extension in ws.protocol.extensions] == [Shout]
                await ws.send("hello")
                assert await ws.recv() == "HELLO!!"
            async with driver.connect(server) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"

    async def test_create_connection(self, driver: Driver) -> None:
        class Mine(driver.server.ServerConnection):  # type: ignore[misc, name-defined] # of the front-end at hand
            pass

        seen = []

        async def handler(ws: Ws) -> None:
            seen.append(type(ws.raw))

        async with driver.serve(handler, create_connection=Mine) as server:
            async with driver.connect(server):
                pass
        assert seen == [Mine]

    @pytest.mark.parametrize("error", [ZeroDivisionError, ConnectionRefusedError, None])
    @pytest.mark.parametrize("secure", [False, True])
    async def test_create_connection_fails(
        self, driver: Driver, secure: bool, error: type[Exception] | None, tls: Any
    ) -> None:
        """That is the end of this connection, and of no other one; so is what is no connection."""
        failing = True

        def create_connection(*args: Any, **options: Any) -> Any:
            if failing:
                if error is None:
                    return None
                raise error
            return driver.server.ServerConnection(*args, **options)

        contexts = tls if secure else (None, None)
        async with driver.serve(
            until_closed, create_connection=create_connection, ssl=contexts[0]
        ) as server:
            uri = server.uri(host="localhost", tls=secure)
            for _ in range(2):
                with pytest.raises((OSError, InvalidHandshake)):
                    async with driver.connect(uri, ssl=contexts[1]):
                        pass
            await driver.until(lambda: server.raw.stats().refused == {"error": 2})
            failing = False
            async with driver.connect(uri, ssl=contexts[1]):
                pass
            await driver.until(lambda: server.raw.stats().accepted == 3)
        logged_errors("opening handshake failed", "opening handshake failed")


class TestProcess:
    @staticmethod
    def sync_or_async(
        driver: Driver, asynchronous: bool, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        async def called(*args: Any) -> Any:
            await driver.sleep(0)
            return function(*args)

        return called if asynchronous else function

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_request_returns_none(self, driver: Driver, asynchronous: bool) -> None:
        calls = []

        def process_request(ws: Ws, request: Request) -> None:
            calls.append((ws.request is request, request.path, request.headers["X-Test"]))

        process = self.sync_or_async(driver, asynchronous, process_request)
        async with driver.serve(until_closed, process_request=process) as server:
            async with driver.connect(server.uri("/p?q"), additional_headers={"X-Test": "1"}):
                pass
        assert calls == [(True, "/p?q", "1")]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_request_returns_a_response(self, driver: Driver, asynchronous: bool) -> None:
        def process_request(ws: Ws, _request: Request) -> Response:
            return ws.respond(HTTPStatus.NOT_FOUND, "nothing here €\n")

        process = self.sync_or_async(driver, asynchronous, process_request)
        async with driver.serve(until_closed, process_request=process) as server:
            response = await driver.rejection(server)
            assert response.status_code == 404
            assert response.reason_phrase == "Not Found"
            assert response.body == "nothing here €\n".encode()
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["Connection"] == "close"
            assert "Date" in response.headers
            # Whatever the request looks like.
            for line in ("POST / HTTP/1.1", "GET / HTTP/1.0"):
                assert (await server.ask(request(line))).status_code == 404
            assert (await server.ask(b"GET / HTTP/1.1\r\n\r\n")).status_code == 404

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("wrong", [ZeroDivisionError, "a str", 404])
    async def test_errors(self, driver: Driver, name: str, asynchronous: bool, wrong: Any) -> None:
        def process(*_args: Any) -> Any:
            if isinstance(wrong, type):
                raise wrong
            return wrong

        options = {name: self.sync_or_async(driver, asynchronous, process)}
        async with driver.serve(until_closed, **options) as server:
            response = await driver.rejection(server)
            assert response.status_code == 500
            assert response.body == (
                b"Failed to open a WebSocket connection.\nSee server log for more information.\n"
            )
            assert len(response.headers.get_all("Server")) == 1
        (record,) = logged_errors(f"{name} failed")
        assert record.exc_info is not None

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_response_is_changed(self, driver: Driver, asynchronous: bool) -> None:
        calls = []

        def process_response(ws: Ws, request: Request, response: Response) -> None:
            calls.append((ws.request is request, response.status_code))
            response.headers["X-Test"] = "changed"

        process = self.sync_or_async(driver, asynchronous, process_response)
        async with driver.serve(until_closed, process_response=process) as server:
            async with driver.connect(server) as ws:
                assert ws.response is not None
                assert ws.response.headers["X-Test"] == "changed"
            answer = await server.ask(request("GET / HTTP/1.0"))
            assert answer.headers["X-Test"] == "changed"
        assert calls == [(True, 101), (True, 505)]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_response_is_replaced(self, driver: Driver, asynchronous: bool) -> None:
        def process_response(ws: Ws, _request: Request, response: Response) -> Response:
            if response.status_code == 101:
                return ws.respond(403, "no\n")
            return Response(response.status_code, "Changed", response.headers, b"body")

        process = self.sync_or_async(driver, asynchronous, process_response)
        async with driver.serve(until_closed, process_response=process) as server:
            response = await driver.rejection(server)
            assert (response.status_code, response.body) == (403, b"no\n")
            answer = await server.ask(request("GET / HTTP/1.0"))
            assert (answer.status_code, answer.reason_phrase) == (505, "Changed")
            assert len(answer.headers.get_all("Server")) == 1

    async def test_request_and_response_stay(self, driver: Driver) -> None:
        connections = []

        async def handler(ws: Ws) -> None:
            connections.append(ws)

        async with driver.serve(handler) as server, driver.connect(server.uri("/path")):
            await driver.until(lambda: connections)
            (ws,) = connections
            assert ws.request is not None
            assert ws.request.path == "/path"
            assert ws.response is not None
            assert ws.response.status_code == 101
