"""The opening handshake as ASGI events: scope, acceptance, denial."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.wsapi.helpers import (
    CLOSE,
    TEXT,
    accept_key,
    close_payload,
    logged_errors,
    raw_client,
    request,
    until,
)
from tests.wsapi.uvicorn_helpers import (
    DEFAULT_HEADERS,
    HTTP,
    accepted,
    answer,
    client,
    echo_app,
    lines,
    recording,
    serving_app,
)
from wsapi.asgi import ClientDisconnected
from wsapi.exceptions import InvalidHeaderValue
from wsapi.uvicorn import WebSocketProtocol


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
        # What knows us finds the connection there, while there is one.
        assert scope["extensions"].pop("wsapi")["connection"]() is None
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

    @pytest.mark.parametrize("status", ["404", 404.0, None])
    async def test_status_that_is_no_int_changes_nothing(self, status: Any) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            with pytest.raises(TypeError, match="HTTP status code must be int, not "):
                await send({"type": "websocket.http.response.start", "status": status})
            await send({"type": "websocket.close"})

        head, _ = await answer(app)
        assert head.status == 403

    @pytest.mark.parametrize("body", ["no", 5, None])
    async def test_body_that_is_not_bytes_changes_nothing(self, body: Any) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": 400})
            with pytest.raises(TypeError, match="body' must have bytes, not "):
                await send({"type": "websocket.http.response.body", "body": body})
            await send({"type": "websocket.http.response.body", "body": bytearray(b"no")})

        head, data = await answer(app)
        assert (head.status, data) == (400, b"no")

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


class TestLogs:
    async def test_secrets_are_masked(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "uvicorn.error")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert (b"authorization", b"Bearer hunter2") in scope["headers"]
            headers = [(b"set-cookie", b"session=hunter2")]
            await accepted(receive, send, headers=headers)

        handshake = request(Authorization="Bearer hunter2", Cookie="a=hunter2")
        async with serving_app(app) as running:
            async with client(running, handshake) as (_, head):
                assert head.get("set-cookie") == ["session=hunter2"]
        assert "hunter2" not in caplog.text
        shown = [line.lower() for line in caplog.messages]
        for line in ("< authorization: bearer ***", "< cookie: ***", "> set-cookie: ***"):
            assert line in shown

    @pytest.mark.parametrize("asked", [True, False])
    async def test_line_at_the_end(self, asked: bool, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "uvicorn.error")
        ws = type("Logging", (WebSocketProtocol,), {"log_connections": asked})
        async with serving_app(echo_app, ws) as running:
            async with client(running, request("GET /chat?token=x HTTP/1.1")) as (peer, _):
                host, port = peer.writer.get_extra_info("sockname")
                peer.write(TEXT, b"abc")
                await peer.read()
                peer.write(CLOSE, close_payload(4000, "over"))
                await peer.read_to_end()
        ended = [line for line in caplog.messages if line.startswith("connection ended: ")]
        assert len(ended) == asked
        for line in ended:
            assert line.startswith(
                f"connection ended: address={host}:{port} path='/chat' code=4000 reason='over' "
            )
            assert line.endswith(
                "messages_received=1 bytes_received=3 messages_sent=1 bytes_sent=3"
            )
