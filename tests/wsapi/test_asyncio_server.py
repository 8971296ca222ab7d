"""Servers: opening handshakes, outcomes of handlers, closing."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import re
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import (
    CLOSE,
    RawPeer,
    close_payload,
    logged_errors,
    port_of,
    raw_client,
    request,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import connect, unix_connect
from wsapi.asyncio.server import Server, ServerConnection, serve, unix_serve
from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
    NegotiationError,
    ProtocolError,
)
from wsapi.http11 import Request, Response
from wsproto_fast import Headers, State


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer[9:12])


def headers_of(answer: bytes) -> Headers:
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
    return Headers([(name, value) for name, value in pairs])


async def ask(server: Server, data: bytes) -> bytes:
    """Send bytes, return all that comes back until the server closes."""
    async with raw_client(server, b"") as peer:
        peer.writer.write(data)
        return await peer.read_to_end()


async def rejection(server: Server, **options: Any) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        await connect(uri_of(server), **options)
    return caught.value.response


class TestHandler:
    @pytest.mark.parametrize("closes", [True, False])
    async def test_returns(self, closes: bool) -> None:
        async def handler(ws: ServerConnection) -> None:
            if closes:
                await ws.close(4000, "mine")

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await ws.wait_closed()
            expected = (4000, "mine") if closes else (1000, "")
            assert (ws.close_code, ws.close_reason) == expected

    async def test_raises(self) -> None:
        async def handler(_ws: ServerConnection) -> None:
            raise ZeroDivisionError

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1011, "")
        (record,) = logged_errors("connection handler failed")
        assert record.name == "wsapi.server"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)

    @pytest.mark.parametrize("code", [1000, 1011])
    async def test_raises_connection_closed(self, code: int) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.recv()

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await ws.close(code)
        (record,) = logged_errors("connection handler failed")
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ConnectionClosed)

    async def test_is_cancelled(self) -> None:
        tasks = []

        async def handler(_ws: ServerConnection) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await asyncio.sleep(3600)

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await until(lambda: tasks)
            tasks[0].cancel()
            await ws.wait_closed()
            assert ws.close_code == 1011
            await asyncio.wait(tasks)
            assert tasks[0].cancelled()

    async def test_outlives_the_connection(self) -> None:
        left = []

        async def handler(ws: ServerConnection) -> None:
            await ws.wait_closed()
            await asyncio.sleep(0.02)
            left.append(ws.close_code)

        async with serving(handler) as server:
            async with connect(uri_of(server)):
                pass
        assert left == [1000]

    async def test_runs_in_one_task(self) -> None:
        before = len(asyncio.all_tasks())
        async with serving(until_closed) as server:
            async with connect(uri_of(server)), connect(uri_of(server)):
                await until(lambda: len(server.connections) == 2)
                assert len(asyncio.all_tasks()) == before + 2

    async def test_context_variables(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
        seen = []

        async def handler(ws: ServerConnection) -> None:
            seen.append(variable.get())
            variable.set(f"handler {ws.request.path if ws.request else ''}")
            async for message in ws:
                await ws.send(message)
                seen.append(variable.get())
            seen.append(variable.get())

        variable.set("outside")
        async with serving(handler) as server:
            async with connect(uri_of(server, "/1")) as ws1, connect(uri_of(server, "/2")) as ws2:
                for ws in (ws1, ws2, ws1, ws2):
                    await ws.send("x")
                    await ws.recv()
                    assert variable.get() == "outside"
                await ws1.close()
        assert sorted(seen) == sorted(["outside"] * 2 + ["handler /1", "handler /2"] * 3)

    async def test_several_tasks_per_connection(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            async def relay() -> None:
                async for message in ws:
                    queue.put_nowait(message)
                queue.put_nowait(None)

            queue: asyncio.Queue[Any] = asyncio.Queue()
            task = asyncio.create_task(relay())
            while (message := await queue.get()) is not None:
                await asyncio.sleep(0)
                await ws.send(message)
            await task

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            for i in range(100):
                await ws.send(str(i))
            assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]

    async def test_waits_for_other_things_between_messages(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            async for message in ws:
                await asyncio.sleep(0)
                await ws.send(message)
                await asyncio.sleep(0.001)
                await ws.send(message)

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            for i in range(20):
                await ws.send(str(i))
            expected = [str(i) for i in range(20) for _ in range(2)]
            assert [await ws.recv() for _ in range(40)] == expected

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
    async def test_eager_tasks(self) -> None:
        loop = asyncio.get_running_loop()
        factory = asyncio.eager_task_factory  # type: ignore[attr-defined]
        parameters = inspect.signature(factory).parameters
        if (
            type(loop).__module__.startswith("uvloop")
            and sys.version_info >= (3, 13)
            and not {"eager_start", "kwargs"} & set(parameters)
        ):
            pytest.skip("uvloop gives factories an argument that this version's doesn't take")
        loop.set_task_factory(factory)
        try:
            async with serving() as server, connect(uri_of(server)) as ws:
                for i in range(10):
                    await ws.send(str(i))
                assert [await ws.recv() for _ in range(10)] == [str(i) for i in range(10)]
        finally:
            loop.set_task_factory(None)

    async def test_debug_mode_of_the_loop(self) -> None:
        asyncio.get_running_loop().set_debug(True)
        async with serving() as server, connect(uri_of(server)) as ws:
            for i in range(10):
                await ws.send(str(i))
                assert await ws.recv() == str(i)


class TestOpeningHandshake:
    async def test_accepted(self) -> None:
        async with serving(until_closed) as server, raw_client(server, b"") as peer:
            peer.writer.write(request())
            answer = await peer.reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            headers = headers_of(answer)
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
        ],
    )
    async def test_refused(self, data: bytes, status: int) -> None:
        async with serving(until_closed, origins=["http://a"]) as server:
            answer = await ask(server, data)
            assert status_of(answer) == status
            headers = headers_of(answer)
            body = answer.partition(b"\r\n\r\n")[2]
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
    async def test_closed_without_an_answer(self, data: bytes) -> None:
        async with serving(until_closed) as server:
            assert await ask(server, data) == b""

    async def test_end_of_stream_at_any_place(self) -> None:
        async with serving(until_closed) as server:
            for size in range(0, len(request()), 7):
                async with raw_client(server, b"") as peer:
                    peer.writer.write(request()[:size])
                    peer.writer.write_eof()
                    assert await peer.read_to_end() == b""
            await until(lambda: not server._connections)

    @pytest.mark.parametrize("data, answered", [(b"", False), (b"GET / HT", True)])
    async def test_open_timeout(self, data: bytes, answered: bool) -> None:
        async with serving(until_closed, open_timeout=0.03) as server:
            answer = await ask(server, data)
            if answered:
                assert status_of(answer) == 408
            else:
                assert answer == b""
            await until(lambda: not server._connections)

    async def test_open_timeout_does_not_end_open_connections(self) -> None:
        async with serving(open_timeout=0.02) as server, connect(uri_of(server)) as ws:
            await asyncio.sleep(0.05)
            await ws.send("x")
            assert await ws.recv() == "x"

    async def test_client_leaves_while_the_request_is_processed(self) -> None:
        processing, handled = [], []
        gate = asyncio.Event()

        async def process_request(ws: ServerConnection, _request: Request) -> None:
            processing.append(ws)
            await gate.wait()

        async def handler(ws: ServerConnection) -> None:
            handled.append(ws)

        async with serving(handler, process_request=process_request) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                await until(lambda: processing)
            await until(lambda: not server._connections)
            gate.set()
        assert handled == []

    async def test_open_timeout_while_the_request_is_processed(self) -> None:
        handled = []

        async def process_request(_ws: ServerConnection, _request: Request) -> None:
            await asyncio.sleep(0.06)

        async def handler(ws: ServerConnection) -> None:
            handled.append(ws)

        options = {"process_request": process_request, "open_timeout": 0.02}
        async with serving(handler, **options) as server:
            assert b" 101 " not in await ask(server, request())
        assert handled == []

    async def test_handler_cancelled_while_the_request_is_processed(self) -> None:
        tasks = []

        async def process_request(_ws: ServerConnection, _request: Request) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(3600)

        options = {"process_request": process_request, "open_timeout": None}
        async with serving(until_closed, **options) as server:
            async with raw_client(server, b"") as peer:
                peer.writer.write(request())
                await until(lambda: tasks)
                tasks[0].cancel()
                assert b" 101 " not in await peer.read_to_end()
                await until(lambda: not server._connections)

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
    async def test_origins(self, origins: Any, origin: Any, accepted: bool) -> None:
        async with serving(until_closed, origins=origins) as server:
            if accepted:
                async with connect(uri_of(server), origin=origin):
                    pass
            else:
                assert (await rejection(server, origin=origin)).status_code == 403

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
    async def test_subprotocols(self, configured: Any, offered: Any, chosen: Any) -> None:
        async with serving(until_closed, subprotocols=configured) as server:
            if chosen == 400:
                assert (await rejection(server, subprotocols=offered)).status_code == 400
            else:
                async with connect(uri_of(server), subprotocols=offered) as ws:
                    assert ws.subprotocol == chosen
                    await until(lambda: server.connections)
                    assert [ws.subprotocol for ws in server.connections] == [chosen]

    async def test_select_subprotocol(self) -> None:
        calls = []

        def select(ws: ServerConnection, offered: Any) -> Any:
            calls.append((ws, list(offered)))
            return offered[-1] if offered else None

        async with serving(
            until_closed, subprotocols=["a", "b"], select_subprotocol=select
        ) as server:
            async with connect(uri_of(server), subprotocols=["x", "a"]) as ws:
                assert ws.subprotocol == "a"
            async with connect(uri_of(server)) as ws:
                assert ws.subprotocol is None
        assert isinstance(calls[0][0], ServerConnection)
        assert [offered for _, offered in calls] == [["x", "a"], []]

    @pytest.mark.parametrize(
        "error, status, errors",
        [
            (NegotiationError("none of these"), 400, []),
            (ZeroDivisionError(), 500, ["opening handshake failed"]),
        ],
    )
    async def test_select_subprotocol_raises(self, error: Any, status: int, errors: Any) -> None:
        def select(_ws: ServerConnection, _offered: Any) -> Any:
            raise error

        async with serving(until_closed, select_subprotocol=select) as server:
            response = await rejection(server, subprotocols=["a"])
            assert response.status_code == status
            if status == 500:
                assert b"See server log" in response.body
        logged_errors(*errors)

    @pytest.mark.parametrize("header, expected", [("mine", ["mine"]), (None, []), ("", [])])
    async def test_server_header(self, header: Any, expected: Any) -> None:
        def process_request(_ws: ServerConnection, request: Request) -> Response | None:
            if request.path == "/own":
                return Response(418, "", Headers({"Server": "own", "Content-Length": "0"}))
            return None

        async with serving(
            until_closed, server_header=header, process_request=process_request
        ) as server:
            async with connect(uri_of(server)) as ws:
                assert ws.response is not None
                assert ws.response.headers.get_all("Server") == expected
            answer = await ask(server, request("GET / HTTP/1.0"))
            assert headers_of(answer).get_all("Server") == expected
            answer = await ask(server, request("GET /own HTTP/1.1"))
            assert headers_of(answer).get_all("Server") == ["own"]

    async def test_create_connection(self) -> None:
        class Mine(ServerConnection):
            pass

        seen = []

        async def handler(ws: ServerConnection) -> None:
            seen.append(type(ws))

        async with serving(handler, create_connection=Mine) as server:
            async with connect(uri_of(server)):
                pass
        assert seen == [Mine]


class TestProcess:
    @staticmethod
    def sync_or_async(asynchronous: bool, function: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args)

        return called if asynchronous else function

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_request_returns_none(self, asynchronous: bool) -> None:
        calls = []

        def process_request(ws: ServerConnection, request: Request) -> None:
            calls.append((ws.request is request, request.path, request.headers["X-Test"]))

        process = self.sync_or_async(asynchronous, process_request)
        async with serving(until_closed, process_request=process) as server:
            async with connect(uri_of(server, "/p?q"), additional_headers={"X-Test": "1"}):
                pass
        assert calls == [(True, "/p?q", "1")]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_request_returns_a_response(self, asynchronous: bool) -> None:
        def process_request(ws: ServerConnection, _request: Request) -> Response:
            return ws.respond(HTTPStatus.NOT_FOUND, "nothing here €\n")

        process = self.sync_or_async(asynchronous, process_request)
        async with serving(until_closed, process_request=process) as server:
            response = await rejection(server)
            assert response.status_code == 404
            assert response.reason_phrase == "Not Found"
            assert response.body == "nothing here €\n".encode()
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["Connection"] == "close"
            assert "Date" in response.headers
            # Whatever the request looks like.
            for line in ("POST / HTTP/1.1", "GET / HTTP/1.0"):
                assert status_of(await ask(server, request(line))) == 404
            assert status_of(await ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 404

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("wrong", [ZeroDivisionError, "a str", 404])
    async def test_errors(self, name: str, asynchronous: bool, wrong: Any) -> None:
        def process(*_args: Any) -> Any:
            if isinstance(wrong, type):
                raise wrong
            return wrong

        options = {name: self.sync_or_async(asynchronous, process)}
        async with serving(until_closed, **options) as server:
            response = await rejection(server)
            assert response.status_code == 500
            assert response.body == (
                b"Failed to open a WebSocket connection.\nSee server log for more information.\n"
            )
            assert len(response.headers.get_all("Server")) == 1
        (record,) = logged_errors(f"{name} failed")
        assert record.exc_info is not None

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_response_is_changed(self, asynchronous: bool) -> None:
        calls = []

        def process_response(ws: ServerConnection, request: Request, response: Response) -> None:
            calls.append((ws.request is request, response.status_code))
            response.headers["X-Test"] = "changed"

        process = self.sync_or_async(asynchronous, process_response)
        async with serving(until_closed, process_response=process) as server:
            async with connect(uri_of(server)) as ws:
                assert ws.response is not None
                assert ws.response.headers["X-Test"] == "changed"
            assert b"X-Test: changed" in await ask(server, request("GET / HTTP/1.0"))
        assert calls == [(True, 101), (True, 505)]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_response_is_replaced(self, asynchronous: bool) -> None:
        def process_response(
            ws: ServerConnection, _request: Request, response: Response
        ) -> Response:
            if response.status_code == 101:
                return ws.respond(403, "no\n")
            return Response(response.status_code, "Changed", response.headers, b"body")

        process = self.sync_or_async(asynchronous, process_response)
        async with serving(until_closed, process_response=process) as server:
            response = await rejection(server)
            assert (response.status_code, response.body) == (403, b"no\n")
            answer = await ask(server, request("GET / HTTP/1.0"))
            assert answer.startswith(b"HTTP/1.1 505 Changed\r\n")
            assert len(headers_of(answer).get_all("Server")) == 1

    async def test_request_and_response_stay(self) -> None:
        connections = []

        async def handler(ws: ServerConnection) -> None:
            connections.append(ws)

        async with serving(handler) as server, connect(uri_of(server, "/path")):
            await until(lambda: connections)
            (ws,) = connections
            assert ws.request is not None
            assert ws.request.path == "/path"
            assert ws.response is not None
            assert ws.response.status_code == 101


class TestLifeOfAServer:
    async def test_shapes(self) -> None:
        server = serve(until_closed, "127.0.0.1", 0)
        assert isinstance(server, Server)
        assert not server.is_serving()
        assert await server is server
        assert await server is server
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        assert len(server.sockets) == 1
        assert server.connections == set()
        assert server.connections is not server.connections
        server.close()
        assert not server.is_serving()
        server.close()
        await server.wait_closed()
        await server.wait_closed()
        assert not server.is_serving()
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{port_of(server) if server.sockets else 1}/")

    async def test_connections(self) -> None:
        async with serving(until_closed) as server:
            async with raw_client(server, b""), connect(uri_of(server)):
                await until(lambda: server.connections)
                (ws,) = server.connections
                assert ws.state is State.OPEN
                assert ws.server is server
            await until(lambda: not server.connections)

    async def test_start_serving_later(self) -> None:
        async with serving(start_serving=False) as server:
            assert not server.is_serving()
            await server.start_serving()
            assert server.is_serving()
            async with connect(uri_of(server)):
                pass

    async def test_serve_forever(self) -> None:
        server = await serve(until_closed, "127.0.0.1", 0, start_serving=False)
        task = asyncio.create_task(server.serve_forever())
        await until(server.is_serving)
        async with connect(uri_of(server)) as ws:
            server.close()
            await task
            await ws.wait_closed()
            assert ws.close_code == 1001

    async def test_serve_forever_is_cancelled(self) -> None:
        server = await serve(until_closed, "127.0.0.1", 0)
        task = asyncio.create_task(server.serve_forever())
        async with connect(uri_of(server)) as ws:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.is_serving()
            await ws.wait_closed()
            assert ws.close_code == 1001

    async def test_wait_closed_before_close(self) -> None:
        async with serving(until_closed) as server:
            waiting = [asyncio.create_task(server.wait_closed()) for _ in range(3)]
            await turns(3)
            waiting[0].cancel()
            await turns(3)
            assert not waiting[1].done()
            server.close()
            await asyncio.gather(*waiting[1:])

    @pytest.mark.parametrize(
        "arguments, code, reason",
        [({}, 1001, ""), ({"code": 1012}, 1012, ""), ({"code": 4000, "reason": "é"}, 4000, "é")],
    )
    async def test_close_closes_connections(self, arguments: Any, code: int, reason: str) -> None:
        ended = []

        async def handler(ws: ServerConnection) -> None:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            await asyncio.sleep(0.01)
            ended.append(ws)

        async with serving(handler) as server:
            clients = [await connect(uri_of(server)) for _ in range(5)]
            server.close(**arguments)
            server.close(code=1000)
            await server.wait_closed()
            assert len(ended) == 5
            for ws in clients:
                await ws.wait_closed()
                assert (ws.close_code, ws.close_reason) == (code, reason)

    async def test_close_leaves_connections(self) -> None:
        async with serving() as server:
            async with connect(uri_of(server)) as ws:
                server.close(close_connections=False)
                waiting = asyncio.create_task(server.wait_closed())
                await asyncio.sleep(0.02)
                await ws.send("still there")
                assert await ws.recv() == "still there"
                assert not waiting.done()
            await waiting

    @pytest.mark.parametrize("arguments", [{"code": 999}, {"code": 1000, "reason": "x" * 124}])
    async def test_close_with_wrong_arguments(self, arguments: Any) -> None:
        async with serving() as server, connect(uri_of(server)) as ws:
            with pytest.raises(ProtocolError):
                server.close(**arguments)
            assert server.is_serving()
            await ws.send("x")
            assert await ws.recv() == "x"

    async def test_close_answers_connecting_clients(self) -> None:
        async with serving(until_closed, open_timeout=None) as server:
            async with raw_client(server, b"") as silent, raw_client(server, b"") as partial:
                partial.writer.write(request()[:20])
                await until(lambda: len(server._connections) == 2)
                await asyncio.sleep(0.01)
                server.close()
                for peer in (silent, partial):
                    answer = await peer.read_to_end()
                    assert status_of(answer) == 503
                    assert answer.endswith(b"\r\n\r\nServer is shutting down.\n")
                    assert len(headers_of(answer).get_all("Server")) == 1

    @pytest.mark.parametrize("name", ["process_request", "process_response"])
    async def test_close_during_a_handshake(self, name: str) -> None:
        gate = asyncio.Event()
        waiting = []

        async def process(ws: ServerConnection, *_args: Any) -> None:
            waiting.append(ws)
            await gate.wait()

        async with serving(until_closed, **{name: process}) as server:
            client = asyncio.create_task(rejection(server))
            await until(lambda: waiting)
            server.close()
            await turns(5)
            gate.set()
            response = await client
            assert response.status_code == 503
            assert response.body == b"Server is shutting down.\n"
            assert len(response.headers.get_all("Server")) == 1

    async def test_close_after_the_client_left(self) -> None:
        async with serving(until_closed, open_timeout=None) as server:
            async with raw_client(server, b""):
                await until(lambda: server._connections)
            server.close()
            await server.wait_closed()

    async def test_close_when_clients_reset(self) -> None:
        async with serving(until_closed, open_timeout=None) as server:
            peers = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                peers.append(RawPeer(reader, writer, masked=True))
            await until(lambda: len(server._connections) == 5)
            server.close()
            for peer in peers:
                peer.abort()
            await server.wait_closed()
            for peer in peers:
                await peer.close()

    async def test_close_does_not_wait_for_silent_clients(self) -> None:
        async with serving(until_closed, close_timeout=0.03) as server:
            async with raw_client(server) as peer:
                await until(lambda: server.connections)
                server.close()
                await server.wait_closed()
                assert await peer.read_message() == (CLOSE, close_payload(1001))

    async def test_close_waits_for_handlers(self) -> None:
        gate = asyncio.Event()

        async def handler(_ws: ServerConnection) -> None:
            await gate.wait()

        async with serving(handler) as server, connect(uri_of(server)) as ws:
            await until(lambda: server.connections)
            server.close()
            await ws.wait_closed()
            waiting = asyncio.create_task(server.wait_closed())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            gate.set()
            await waiting

    async def test_close_from_a_handler(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.recv()
            ws.server.close()

        server = await serve(handler, "127.0.0.1", 0)
        async with connect(uri_of(server)) as ws:
            await ws.send("stop")
            await server.wait_closed()
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()

    async def test_clients_that_connect_while_it_closes(self) -> None:
        async with serving(until_closed) as server:
            uri = uri_of(server)
            tasks = [asyncio.create_task(self.attempt(uri)) for _ in range(20)]
            await turns(6)
            server.close()
            await server.wait_closed()
            assert set(await asyncio.gather(*tasks)) <= {"refused", 503, 1001}

    @staticmethod
    async def attempt(uri: str) -> Any:
        try:
            async with connect(uri) as ws:
                await ws.wait_closed()
                return ws.close_code
        except InvalidStatus as exc:
            return exc.response.status_code
        except (OSError, InvalidMessage):
            return "refused"

    async def test_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        async with serving(until_closed) as server:
            port = port_of(server)
            async with connect(uri_of(server)):
                pass
            await until(lambda: not server._connections)
            await ask(server, request("GET / HTTP/1.0"))
        assert [record.getMessage() for record in caplog.records] == [
            f"server listening on 127.0.0.1:{port}",
            "connection open",
            "connection closed",
            "connection rejected (505 HTTP Version Not Supported)",
            "server closing",
            "server closed",
        ]
        assert {record.name for record in caplog.records} == {"wsapi.server"}

    async def test_own_logger(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with serving(until_closed, logger=logging.getLogger("mine")) as server:
            async with connect(uri_of(server)):
                pass
        names = {r.name for r in caplog.records if r.name != "asyncio"}
        assert names == {"mine"}

    @pytest.mark.parametrize(
        "options, error",
        [
            ({"subprotocols": "a"}, TypeError),
            ({"subprotocols": 1}, TypeError),
            ({"subprotocols": ["a b"]}, ValueError),
            ({"compression": "zip"}, ValueError),
        ],
    )
    def test_wrong_arguments(self, options: Any, error: Any) -> None:
        with pytest.raises(error):
            serve(until_closed, "127.0.0.1", 0, **options)

    @pytest.mark.parametrize("max_queue", [(1, 2), (4, -1), -1])
    async def test_wrong_max_queue(self, max_queue: Any) -> None:
        with pytest.raises(ValueError, match="max_queue"):
            async with serving(max_queue=max_queue):
                pass

    async def test_ready_made_socket(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        async with serve(until_closed, sock=sock) as server, connect(uri_of(server)):
            assert port_of(server) == sock.getsockname()[1]

    async def test_ipv6(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        try:
            server = await serve(until_closed, "::1", 0)
        except OSError as exc:
            pytest.skip(f"no IPv6 here: {exc}")
        async with server:
            port = port_of(server)
            assert f"server listening on [::1]:{port}" in caplog.text
            async with connect(f"ws://[::1]:{port}/") as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == f"[::1]:{port}"
                assert ws.remote_address[:2] == ("::1", port)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
class TestUnixSockets:
    @pytest.mark.parametrize("kind", [str, Path])
    async def test_path(self, tmp_path: Path, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "wsapi")
        path = tmp_path / "socket"
        async with unix_serve(until_closed, kind(path)) as server:
            assert f"server listening on {path}" in caplog.text
            async with unix_connect(kind(path)) as ws:
                await until(lambda: server.connections)
                assert ws.request is not None
                assert ws.request.headers["Host"] == "localhost"
                assert ws.request.path == "/"
            async with unix_connect(path, "ws://example.com/chat") as ws:
                assert ws.request is not None
                assert ws.request.headers["Host"] == "example.com"
                assert ws.request.path == "/chat"

    async def test_socket(self, tmp_path: Path) -> None:
        path = os.fspath(tmp_path / "socket")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        async with unix_serve(until_closed, sock=sock):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.setblocking(False)
            async with unix_connect(sock=client) as ws:
                await (await ws.ping())

    async def test_nobody_listens(self, tmp_path: Path) -> None:
        with pytest.raises(OSError):
            await unix_connect(tmp_path / "nothing")
