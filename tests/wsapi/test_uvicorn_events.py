"""Our class in uvicorn: what applications are told and what they may do."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.wsapi.helpers import (
    CLOSE,
    PONG,
    TEXT,
    accept_key,
    close_payload,
    frame,
    logged_errors,
    raw_client,
    request,
    until,
)
from tests.wsapi.uvicorn_helpers import (
    DEFAULT_HEADERS,
    Head,
    accepted,
    client,
    echo_app,
    lines,
    recording,
    serving_app,
)
from wsapi.asgi import ASGIConnection, ClientDisconnected
from wsapi.asyncio.server import broadcast
from wsapi.exceptions import ConcurrencyError, InvalidHeaderValue, ProtocolError
from wsapi.uvicorn import WebSocketProtocol
from wsproto_fast import ServerProtocol, State

# uvicorn puts a request together again from what each of its two parsers gives.
HTTP = ["h11", "httptools"]


class Patient(WebSocketProtocol):
    """Closing may last for ever."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.close_timeout = None
        super().connection_made(transport)


async def answer(app: Any, handshake: bytes | None = None, **options: Any) -> tuple[Head, bytes]:
    """Return what an application answers to an opening handshake, up to the end of the stream."""
    async with serving_app(app, **options) as running:
        async with client(running, handshake or request()) as (peer, head):
            return head, await peer.read_to_end()


class TestScope:
    @pytest.mark.parametrize("http", HTTP)
    async def test_contents(self, http: str) -> None:
        scopes = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await echo_app(scope, receive, send)

        async with serving_app(app, http=http, root_path="/mounted") as running:
            handshake = request(
                "GET /a%20b/%C3%A9?x=1&y=%20 HTTP/1.1",
                Sec_WebSocket_Protocol="one, two",
                more="Sec-WebSocket-Protocol: three\r\nX-Twice: 1\r\nX-Twice: \xe9\r\n",
            )
            async with client(running, handshake) as (peer, head):
                assert head.status == 101
                here = peer.writer.get_extra_info("sockname")
                there = peer.writer.get_extra_info("peername")
        (scope,) = scopes
        headers = scope.pop("headers")
        assert scope.pop("state") == running.app_state
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "server": there,
            "client": here,
            "root_path": "/mounted",
            "path": "/mounted/a b/é",
            "raw_path": b"/mounted/a%20b/%C3%A9",
            "query_string": b"x=1&y=%20",
            "subprotocols": ["one", "two", "three"],
            "extensions": {"websocket.http.response": {}},
        }
        assert [value for name, value in headers if name == b"x-twice"] == [b"1", b"\xe9"]
        assert (b"host", b"localhost") in headers
        assert all(name == name.lower() for name, _ in headers)

    async def test_state_is_a_copy(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["state"]["own"] = 1
            await accepted(receive, send)

        async with serving_app(app) as running:
            async with client(running, request()):
                pass
            assert list(running.app_state) == ["pool"]

    async def test_behind_a_proxy(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "uvicorn.error")
        scopes = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await accepted(receive, send)

        handshake = request(X_Forwarded_For="203.0.113.7", X_Forwarded_Proto="https")
        async with serving_app(app, proxy_headers=True, forwarded_allow_ips="*") as running:
            async with client(running, handshake):
                pass
        assert scopes[0]["client"] == ("203.0.113.7", 0)
        assert scopes[0]["scheme"] == "wss"
        assert '203.0.113.7:0 - "WebSocket /" [accepted]' in caplog.messages


class TestAccept:
    @pytest.mark.parametrize("http", HTTP)
    async def test_response(self, http: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "uvicorn.error")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(
                receive,
                send,
                subprotocol="two",
                headers=[(b"X-Own", b"\xe9"), (b"x-own", b"2"), (b"server", b"mine")],
            )
            await receive()

        async with serving_app(app, http=http) as running:
            handshake = request("GET /a%20b?c=d HTTP/1.1", Sec_WebSocket_Protocol="one, two")
            async with client(running, handshake) as (_, head):
                assert running.connection.subprotocol == "two"
        assert (head.status, head.phrase) == (101, "Switching Protocols")
        assert head.get("Sec-WebSocket-Accept") == [accept_key("dGhlIHNhbXBsZSBub25jZQ==")]
        assert head.get("Sec-WebSocket-Protocol") == ["two"]
        assert head.get("X-Own") == ["\xe9", "2"]
        assert head.get("Server") == ["mine"]
        assert head.get("Date") == ["Mon, 23 Nov 2026 04:00:00 GMT"]
        assert lines(caplog) == [
            '"WebSocket /a%20b?c=d" [accepted]',
            "connection open",
            "connection closed",
        ]

    @pytest.mark.parametrize("outcome", ["accepts", "refuses", "denies", "fails"])
    async def test_default_headers(self, outcome: str) -> None:
        """They stay, however many have the same name, unless the application sets the same ones."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"X-OWN", b"mine")]
            if outcome == "accepts":
                await send({"type": "websocket.accept", "headers": headers})
            elif outcome == "refuses":
                await send({"type": "websocket.close"})
            elif outcome == "denies":
                event: Any = {"type": "websocket.http.response.start", "status": 401}
                await send({**event, "headers": headers})
                await send({"type": "websocket.http.response.body"})
            else:
                raise ValueError("broken")

        async with serving_app(app) as running:
            more = [(b"link", b"</a>"), (b"link", b"</b>"), (b"x-own", b"1"), (b"x-own", b"2")]
            running.state.default_headers = DEFAULT_HEADERS + more
            async with client(running, request()) as (_, head):
                assert head.get("Link") == ["</a>", "</b>"]
                assert head.get("Server") == ["uvicorn"]
                assert head.get("Date") == ["Mon, 23 Nov 2026 04:00:00 GMT"]
                own = ["mine"] if outcome in ("accepts", "denies") else ["1", "2"]
                assert head.get("X-Own") == own
        if outcome == "fails":
            logged_errors("Exception in ASGI application\n")

    async def test_default_headers_of_bad_requests(self) -> None:
        async with serving_app(echo_app) as running:
            async with client(running, request(Sec_WebSocket_Version="12")) as (_, head):
                assert head.status == 400
                assert head.get("Server") == ["uvicorn"]

    async def test_no_header_that_the_server_does_not_want(self) -> None:
        async with serving_app(echo_app) as running:
            running.state.default_headers = []
            async with client(running, request()) as (_, head):
                assert head.get("Server") == head.get("Date") == []

    async def test_bad_header_changes_nothing(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            with pytest.raises(InvalidHeaderValue, match="X-Bad"):
                await send({"type": "websocket.accept", "headers": [(b"X-Bad", b"a\r\nb: c")]})
            await send({"type": "websocket.accept", "headers": [(b"X-Good", b"a")]})

        async with serving_app(app) as running:
            async with client(running, request()) as (_, head):
                assert (head.status, head.get("X-Good"), head.get("b")) == (101, ["a"], [])

    async def test_messages_that_came_before(self) -> None:
        """Also to who waits for them already."""
        events: list[Any] = []
        sent = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            early = asyncio.create_task(receive())
            await sent.wait()
            await asyncio.sleep(0.01)
            assert not early.done()
            await send({"type": "websocket.accept"})
            events.append(await early)
            events.append(await receive())

        async with serving_app(app) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                await until(lambda: running.state.tasks)
                peer.write(TEXT, b"one")
                peer.write(TEXT, b"two")
                await peer.writer.drain()
                sent.set()
                await peer.reader.readuntil(b"\r\n\r\n")
                await until(lambda: len(events) == 2)
        assert [event["text"] for event in events] == ["one", "two"]

    async def test_client_that_left(self) -> None:
        connected = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            connected.set()
            await receive()
            await send({"type": "websocket.accept"})

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                await connected.wait()
                peer.abort()
        assert seen[1] == {"type": "websocket.disconnect", "code": 1006}
        assert isinstance(seen[2], ClientDisconnected)
        assert isinstance(seen[2], OSError)


class TestDenial:
    async def test_close(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "uvicorn.error")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.close", "code": 4000})
            assert await receive() == {"type": "websocket.disconnect", "code": 1006}
            for event in ("websocket.accept", "websocket.send", "websocket.close"):
                with pytest.raises(RuntimeError, match=f"Unexpected ASGI message '{event}'"):
                    await send({"type": event, "text": "late"})

        head, body = await answer(app)
        assert (head.status, head.phrase, body) == (403, "Forbidden", b"")
        for name, value in [
            ("Content-Length", "0"),
            ("Connection", "close"),
            ("Server", "uvicorn"),
        ]:
            assert head.get(name) == [value]
        assert len(head.get("Date")) == 1
        assert lines(caplog)[0] == '"WebSocket /" 403'

    async def test_response(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "uvicorn.error")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(
                {
                    "type": "websocket.http.response.start",
                    "status": 418,
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"set-cookie", b"a=1"),
                        (b"set-cookie", b"b=2"),
                        (b"content-length", b"7"),
                        (b"date", b"today"),
                        (b"server", b"mine"),
                    ],
                }
            )
            for part in (b"a", b"b"):
                await send(
                    {"type": "websocket.http.response.body", "body": part, "more_body": True}
                )
            await send({"type": "websocket.http.response.body", "body": b"c"})
            assert await receive() == {"type": "websocket.disconnect", "code": 1006}
            with pytest.raises(RuntimeError, match=r"'websocket\.http\.response\.body'"):
                await send({"type": "websocket.http.response.body", "body": b"d"})

        head, body = await answer(app)
        assert (head.status, head.phrase, body) == (418, "I'm a Teapot", b"abc")
        names = [name.lower() for name, _ in head.headers]
        assert sorted(names) == [
            *("connection", "content-length", "content-type", "date", "server"),
            *("set-cookie", "set-cookie"),
        ]
        assert head.get("set-cookie") == ["a=1", "b=2"]
        assert head.get("content-length") == ["3"]
        assert head.get("date") == ["today"]
        assert head.get("server") == ["mine"]
        assert lines(caplog)[0] == '"WebSocket /" 418'

    @pytest.mark.parametrize(
        "status, phrase, length", [(204, "No Content", []), (599, "", ["0"]), (200, "OK", ["0"])]
    )
    async def test_without_headers_and_body(
        self, status: int, phrase: str, length: list[str]
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": status})
            await send({"type": "websocket.http.response.body"})

        head, body = await answer(app)
        assert (head.status, head.phrase, body) == (status, phrase, b"")
        assert head.get("Content-Length") == length

    @pytest.mark.parametrize("status", [99, 101, 600])
    async def test_bad_status_changes_nothing(self, status: int) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            with pytest.raises(RuntimeError, match=f"Invalid HTTP status code '{status}'"):
                await send({"type": "websocket.http.response.start", "status": status})
            await send({"type": "websocket.close"})

        head, _ = await answer(app)
        assert head.status == 403

    async def test_bad_header_changes_nothing(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            start: Any = {"type": "websocket.http.response.start", "status": 400}
            with pytest.raises(InvalidHeaderValue):
                await send({**start, "headers": [(b"x-bad", b"\r\n")]})
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b"no"})

        head, body = await answer(app)
        assert (head.status, body) == (400, b"no")


ACCEPT = "Expected ASGI message 'websocket.accept', 'websocket.close' or 'websocket.http.response.s"
BODY = "Expected ASGI message 'websocket.http.response.body'"
OPEN = "Expected ASGI message 'websocket.send' or 'websocket.close'"


@pytest.mark.parametrize(
    "before, event, message",
    [
        ([], "websocket.send", ACCEPT),
        ([], "websocket.http.response.body", ACCEPT),
        ([], "http.response.start", ACCEPT),
        (["websocket.http.response.start"], "websocket.accept", BODY),
        (["websocket.http.response.start"], "websocket.close", BODY),
        (["websocket.http.response.start"], "websocket.http.response.start", BODY),
        (["websocket.accept"], "websocket.accept", OPEN),
        (["websocket.accept"], "websocket.http.response.start", OPEN),
        (["websocket.accept", "websocket.close"], "websocket.accept", "Unexpected ASGI message"),
        (["websocket.accept", "websocket.close"], "websocket.close", "Unexpected ASGI message"),
        (["websocket.accept", "websocket.close"], "websocket.send", "Unexpected ASGI message"),
    ],
)
async def test_events_out_of_order(before: list[str], event: str, message: str) -> None:
    """They raise, and the application can go on as if they hadn't been sent."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for earlier in before:
            await send({"type": earlier, "status": 400})
        with pytest.raises(RuntimeError) as raised:
            await send({"type": event, "status": 400, "text": "x"})
        assert str(raised.value).startswith(message)
        assert repr(event) in str(raised.value)
        if not before:
            await send({"type": "websocket.accept"})
        elif before[-1] == "websocket.http.response.start":
            await send({"type": "websocket.http.response.body", "body": b"end"})
        elif before[-1] == "websocket.accept":
            await send({"type": "websocket.send", "text": "end"})

    async with serving_app(app) as running:
        async with client(running, request()) as (peer, head):
            if before == ["websocket.http.response.start"]:
                assert head.status == 400
                assert await peer.read_to_end() == b"end"
                return
            assert head.status == 101
            if before == ["websocket.accept"]:
                assert await peer.read() == (0x80 | TEXT, b"end")
            assert await peer.read() == (0x80 | CLOSE, close_payload(1000))


class TestMessages:
    async def test_echo(self) -> None:
        async with serving_app(echo_app) as running:
            async with raw_client(running) as peer:
                for opcode, payload in [(1, "é".encode()), (2, b"\xff"), (1, b""), (2, b"")]:
                    peer.write(opcode, payload)
                    assert await peer.read() == (0x80 | opcode, payload)

    @pytest.mark.parametrize(
        "event, sent",
        [
            ({"text": "a", "bytes": None}, (0x81, b"a")),
            ({"bytes": b"a", "text": None}, (0x82, b"a")),
            ({"bytes": bytearray(b"a")}, (0x82, b"a")),
            ({"bytes": memoryview(b"abc")[::2]}, (0x82, b"ac")),
        ],
    )
    async def test_forms(self, event: dict[str, Any], sent: tuple[int, bytes]) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.send", **event})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == sent

    @pytest.mark.parametrize(
        "event, exception, message",
        [
            ({}, RuntimeError, "neither 'text' nor 'bytes'"),
            ({"text": None, "bytes": None}, RuntimeError, "neither 'text' nor 'bytes'"),
            ({"text": 7}, TypeError, "str or bytes, not int"),
            ({"bytes": ["a"]}, TypeError, "str or bytes, not list"),
            ({"text": "\ud800"}, UnicodeEncodeError, "surrogates not allowed"),
        ],
    )
    async def test_what_is_no_message_changes_nothing(
        self, event: dict[str, Any], exception: type[Exception], message: str
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            with pytest.raises(exception, match=message):
                await send({"type": "websocket.send", **event})
            await send({"type": "websocket.send", "text": "next"})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | TEXT, b"next")

    async def test_cancelled_receive_loses_nothing(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(receive(), 0.001)
            await send({"type": "websocket.send", "text": "go"})
            event = await receive()
            await send({"type": "websocket.send", "text": event["text"]})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                await peer.read()
                peer.write(TEXT, b"kept")
                assert await peer.read() == (0x80 | TEXT, b"kept")

    async def test_two_receivers(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            first = asyncio.create_task(receive())
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError):
                await receive()
            await send({"type": "websocket.send", "text": (await first)["text"]})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                peer.write(TEXT, b"for the first one")
                assert await peer.read() == (0x80 | TEXT, b"for the first one")


class TestEndOfTheApplication:
    async def test_fails_before_accepting(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("broken")

        head, body = await answer(app)
        (record,) = logged_errors("Exception in ASGI application\n")
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)
        assert (head.status, body) == (500, b"Internal Server Error")
        assert head.get("Server") == ["uvicorn"]

    async def test_returns_before_accepting(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()

        head, _ = await answer(app)
        assert head.status == 500
        logged_errors("ASGI callable returned without completing handshake.")

    @pytest.mark.parametrize("ws", [WebSocketProtocol, "websockets-sansio"])
    @pytest.mark.parametrize("body", [False, True])
    @pytest.mark.parametrize("fails", [False, True])
    async def test_leaves_a_denial_unfinished(self, ws: Any, body: bool, fails: bool) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": 404})
            if body:
                await send(
                    {"type": "websocket.http.response.body", "body": b"half", "more_body": True}
                )
            if fails:
                raise ValueError("broken")

        async with serving_app(app, ws) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                assert await peer.read_to_end() == b""
        logged_errors(
            "Exception in ASGI application\n"
            if fails
            else "ASGI callable returned without completing handshake."
        )

    async def test_fails_after_a_denial(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.close"})
            raise ValueError("broken")

        head, body = await answer(app)
        assert (head.status, body) == (403, b"")
        logged_errors("Exception in ASGI application\n")

    @pytest.mark.parametrize("fails, code", [(True, 1011), (False, 1000)])
    async def test_after_accepting(self, fails: bool, code: int) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.send", "text": "last"})
            if fails:
                raise ValueError("broken")

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | TEXT, b"last")
                assert await peer.read() == (0x80 | CLOSE, close_payload(code))
                peer.write(CLOSE, close_payload(code))
                assert await peer.read_to_end() == b""
        logged_errors(*(["Exception in ASGI application\n"] if fails else []))

    async def test_returns_something(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> Any:
            await accepted(receive, send)
            return 7

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | CLOSE, close_payload(1011))
        logged_errors("ASGI callable should return None, but returned '7'.")


class TestClosingByTheApplication:
    async def test_code_and_reason(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.send", "text": "last"})
            await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
            for _ in range(2):
                assert await receive() == {
                    "type": "websocket.disconnect",
                    "code": 4001,
                    "reason": "enough",
                }

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | TEXT, b"last")
                assert await peer.read() == (0x80 | CLOSE, close_payload(4001, "enough"))
                # What the client had sent meanwhile is read, and nobody is told.
                peer.write(TEXT, b"on its way")
                peer.write(CLOSE, close_payload(4001))
                assert await peer.read_to_end() == b""

    async def test_without_a_reason(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.close", "reason": None})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))

    @pytest.mark.parametrize("code, reason", [(999, ""), (1006, ""), (1000, "x" * 124)])
    async def test_what_is_not_allowed_changes_nothing(self, code: int, reason: str) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            with pytest.raises(ProtocolError):
                await send({"type": "websocket.close", "code": code, "reason": reason})
            await send({"type": "websocket.send", "text": "still open"})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | TEXT, b"still open")

    async def test_messages_received_before_are_delivered(self) -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            seen.append((await receive())["text"])
            await send({"type": "websocket.close"})
            while (event := await receive())["type"] == "websocket.receive":
                seen.append(event["text"])

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                peer.writer.write(b"".join(_masked(text) for text in (b"1", b"2", b"3")))
                await peer.read()
                peer.write(CLOSE, close_payload(1000))
                assert await peer.read_to_end() == b""
        assert seen == ["1", "2", "3"]


def _masked(payload: bytes) -> bytes:
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


class TestClosingByTheClient:
    @pytest.mark.parametrize(
        "payload, event",
        [
            (close_payload(1000), {"code": 1000, "reason": ""}),
            (close_payload(4002, "bye é"), {"code": 4002, "reason": "bye é"}),
            (b"", {"code": 1005, "reason": ""}),
        ],
    )
    async def test_code_and_reason(self, payload: bytes, event: dict[str, Any]) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                peer.write(CLOSE, payload)
                assert await peer.read() == (0x80 | CLOSE, payload)
                assert await peer.read_to_end() == b""
                # The application is told before the client has closed its side.
                await until(lambda: len(seen) == 2)
        assert seen[1] == {"type": "websocket.disconnect", **event}

    async def test_sending_afterwards(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            event = await receive()
            assert event["type"] == "websocket.disconnect"
            for _ in range(2):
                with pytest.raises(ClientDisconnected):
                    await send({"type": "websocket.send", "text": "x"})
                await send({"type": "websocket.close", "code": 4000})
            await send({"type": "websocket.send", "text": "x"})

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                peer.write(CLOSE, close_payload(1000))
                await peer.read()
                await until(lambda: len(seen) == 3)
        # Not logged as a failure of the application.
        assert isinstance(seen[2], ClientDisconnected)

    async def test_lost_connection(self) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                peer.abort()
                await until(lambda: len(seen) == 2)
        assert seen[1] == {"type": "websocket.disconnect", "code": 1006}


class TestShutdown:
    async def test_open_connection(self) -> None:
        app, seen = recording(echo_app)
        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                running.connection.shutdown()
                running.connection.shutdown()
                assert await peer.read() == (0x80 | CLOSE, close_payload(1012))
                peer.write(CLOSE, close_payload(1012))
                assert await peer.read_to_end() == b""
        assert seen[1] == {"type": "websocket.disconnect", "code": 1012}

    async def test_before_accepting(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await receive()
            await send({"type": "websocket.accept"})

        app, seen = recording(app)
        async with serving_app(app) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                await until(lambda: seen)
                running.connection.shutdown()
                running.connection.shutdown()
                head = Head(await peer.reader.readuntil(b"\r\n\r\n"))
                assert head.status == 503
                assert await peer.read_to_end() == b"Server is shutting down.\n"
        assert seen[1] == {"type": "websocket.disconnect", "code": 1006}
        assert isinstance(seen[2], ClientDisconnected)

    @pytest.mark.parametrize("ws", [Patient, "websockets-sansio", "wsproto"])
    @pytest.mark.parametrize("when", ["connecting", "open", "closing"])
    async def test_silent_client(self, ws: Any, when: str) -> None:
        """It doesn't keep a server from stopping; uvicorn's classes close without a deadline."""
        started = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if when == "connecting":
                await receive()
            else:
                await accepted(receive, send)
                if when == "closing":
                    await send({"type": "websocket.close"})
            started.set()
            while (await receive())["type"] != "websocket.disconnect":
                pass

        async with serving_app(app, ws) as running:
            async with raw_client(running, b"") as peer:
                peer.writer.write(request())
                await started.wait()
                for connection in list(running.state.connections):
                    connection.shutdown()
                await until(lambda: not running.state.connections and not running.state.tasks)

    async def test_while_closing(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.close", "code": 4000})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                assert await peer.read() == (0x80 | CLOSE, close_payload(4000))
                running.connection.shutdown()
                peer.write(CLOSE, close_payload(4000))
                assert await peer.read_to_end() == b""


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize(
    "handshake, status",
    [
        (request(without="Sec-WebSocket-Key"), 400),
        (request(Sec_WebSocket_Key="short"), 400),
        (request(Sec_WebSocket_Version="12"), 400),
        (request(Sec_WebSocket_Protocol="a b"), 400),
        (request("POST / HTTP/1.1"), 405),
    ],
)
async def test_bad_handshakes(http: str, handshake: bytes, status: int) -> None:
    """The application isn't asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    head, body = await answer(app, handshake, http=http)
    assert head.status == status
    assert body.startswith(b"Failed to open a WebSocket connection: ")


async def test_configuration_is_loaded_when_it_is_needed() -> None:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from wsapi.uvicorn import WebSocketProtocol

    config = Config(echo_app, log_config=None)
    connection = WebSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    assert config.loaded
    assert connection.app is config.loaded_app


class SimpleTransport:
    """A transport that has only what HTTP needs, as those of other people's tests have."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.address if name == "sockname" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def test_transport_that_has_only_what_http_needs() -> None:
    app, seen = recording(echo_app)
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    connection = WebSocketProtocol(config, ServerState(), {})
    transport: Any = SimpleTransport()
    connection.connection_made(transport)
    connection.data_received(request())
    await until(lambda: b"\r\n\r\n" in transport.written)
    transport.written = b""
    connection.data_received(frame(TEXT, b"abc", masked=True))
    await until(lambda: transport.written)
    assert transport.written == frame(TEXT, b"abc")
    connection.data_received(frame(CLOSE, close_payload(1001), masked=True))
    await until(lambda: transport.closed)
    connection.data_received(frame(PONG, b"", masked=True))  # what was read before the end
    connection.connection_lost(None)
    connection.shutdown()  # has nothing to do any more
    await until(lambda: len(seen) == 3)
    assert seen[2] == {"type": "websocket.disconnect", "code": 1001, "reason": ""}
    await until(lambda: not connection.server_state.tasks)


def simple_connection(app: Any, **options: Any) -> tuple[ASGIConnection, SimpleTransport]:
    """Return a connection of a server that isn't uvicorn."""
    log = logging.getLogger("server")
    connection = ASGIConnection(app, ServerProtocol(), log=log, **options)
    transport: Any = SimpleTransport("/run/socket")
    connection.connection_made(transport)
    return connection, transport


async def test_other_servers() -> None:
    """They needn't add headers, and listen where they want."""
    app, seen = recording(echo_app)
    connection, transport = simple_connection(app)
    connection.data_received(request())
    await until(lambda: b"\r\n\r\n" in transport.written)
    head = Head(transport.written)
    assert head.status == 101
    assert head.get("Server") == head.get("Date") == []
    assert connection.scope["server"] == ("/run/socket", None)
    assert connection.scope["client"] is None
    assert connection.scope["state"] == {}
    connection.connection_lost(None)
    await until(lambda: len(seen) == 2)


async def test_broadcast_where_it_is_not_known_what_waits() -> None:
    connection, transport = simple_connection(echo_app)
    connection.data_received(request())
    await until(lambda: transport.written)
    transport.written = b""
    connection.pause_writing()
    broadcast([connection], "abc", max_backlog=0)
    assert connection.state is State.OPEN
    assert transport.written == frame(TEXT, b"abc")
    connection.connection_lost(None)


async def test_shutdown_before_the_request() -> None:
    connection, transport = simple_connection(echo_app)
    connection.data_received(request()[:10])
    connection.shutdown()
    assert transport.closed
    connection.connection_lost(None)


async def test_client_that_does_not_close() -> None:
    connection, transport = simple_connection(echo_app, close_timeout=0.01)
    connection.data_received(request())
    await until(lambda: transport.written)
    connection.shutdown()
    await until(lambda: transport.closed)
    connection.connection_lost(None)
