"""What applications are told of open connections and may do with them, by our class in uvicorn."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import uvicorn

from tests.wsapi.helpers import (
    CLOSE,
    TEXT,
    close_payload,
    logged_errors,
    raw_client,
    request,
    until,
)
from tests.wsapi.uvicorn_helpers import (
    Head,
    accepted,
    answer,
    client,
    echo_app,
    recording,
    serving_app,
)
from wsapi.asgi import ClientDisconnected
from wsapi.asyncio.client import connect
from wsapi.exceptions import ConnectionClosedError, ProtocolError
from wsapi.protocol import State
from wsapi.uvicorn import WebSocketProtocol


class Patient(WebSocketProtocol):
    """Closing may last for ever."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.close_timeout = None
        super().connection_made(transport)


class Leaving(WebSocketProtocol):
    """Connections are closed at times of their own."""

    drain_spread = 1000
    drain_timeout = 1000


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
            ({"text": 7}, TypeError, "'text' of 'websocket.send' must be str, not int"),
            ({"text": b"a"}, TypeError, "'text' of 'websocket.send' must be str, not bytes"),
            ({"bytes": "a"}, TypeError, "'bytes' of 'websocket.send' must be bytes, not str"),
            ({"bytes": ["a"]}, TypeError, "'bytes' of 'websocket.send' must be bytes, not list"),
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
        """Each message goes to one of them; that there are no more is for both."""
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)

            async def read_all() -> None:
                while (event := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": event["text"]})
                seen.append(event["code"])

            await asyncio.gather(read_all(), read_all(), read_all())

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                for text in (b"1", b"2", b"3"):
                    peer.write(TEXT, text)
                    assert await peer.read() == (0x80 | TEXT, text)
                peer.write(CLOSE, close_payload(4001))
                assert await peer.read() == (0x80 | CLOSE, close_payload(4001))
                assert await peer.read_to_end() == b""
                await until(lambda: len(seen) == 3)
        assert seen == [4001, 4001, 4001]

    async def test_receiver_that_comes_later_takes_what_is_left(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            first, second = asyncio.create_task(receive()), asyncio.create_task(receive())
            await send({"type": "websocket.send", "text": "ready"})
            events = [await first, await second]
            await send({"type": "websocket.send", "text": "".join(e["text"] for e in events)})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                await peer.read()
                peer.write(TEXT, b"a")
                peer.write(TEXT, b"b")
                assert await peer.read() == (0x80 | TEXT, b"ab")

    async def test_receiving_right_after_a_receiver_was_cancelled(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            first, second = asyncio.create_task(receive()), asyncio.create_task(receive())
            await asyncio.sleep(0)
            second.cancel()
            first.cancel()
            await send({"type": "websocket.send", "text": "ready"})
            await send({"type": "websocket.send", "text": (await receive())["text"]})

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                await peer.read()
                peer.write(TEXT, b"kept")
                assert await peer.read() == (0x80 | TEXT, b"kept")


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

    @pytest.mark.parametrize(
        "code, reason, exception",
        [
            (999, "", ProtocolError),
            (1006, "", ProtocolError),
            (3000.0, "", TypeError),
            (1000, "x" * 124, ProtocolError),
            (1000, b"x", TypeError),
        ],
    )
    async def test_what_is_not_allowed_changes_nothing(
        self, code: Any, reason: Any, exception: type[Exception]
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            with pytest.raises(exception):
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

    async def test_nothing_follows_the_end(self) -> None:
        """What the client sends before it closes the connection, too, is too late."""
        seen: list[str] = []
        told, written = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await accepted(receive, send)
            await send({"type": "websocket.close"})
            seen.append((await receive())["type"])
            told.set()
            await written.wait()
            await until(lambda: running.connection.protocol.queued_frames)
            seen.append((await receive())["type"])

        async with serving_app(app) as running:
            async with raw_client(running) as peer:
                await peer.read()
                await told.wait()
                peer.write(TEXT, b"late")
                written.set()
                await until(lambda: len(seen) == 2)
        assert seen == ["websocket.disconnect"] * 2


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
                assert head.get("retry-after") == ["1"]
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

    async def test_at_a_time_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = iter([0.5, 0, 0.5])
        monkeypatch.setattr(random, "random", lambda: next(drawn))
        async with serving_app(echo_app, Leaving) as running:
            async with raw_client(running) as one, raw_client(running) as other:
                connections = list(running.state.connections)
                for connection in connections * 2:
                    connection.shutdown()
                closed = [c for c in connections if c.state is not State.OPEN]
                assert len(closed) == 1
                peers = {peer.writer.get_extra_info("sockname"): peer for peer in (one, other)}
                peer = peers.pop(closed[0].remote_address)
                assert await peer.read() == (0x80 | CLOSE, close_payload(1012))
                peer.write(CLOSE, close_payload(1012))
                assert await peer.read_to_end() == b""
                (peer,) = peers.values()
                peer.write(TEXT, b"still there")
                assert await peer.read() == (0x80 | TEXT, b"still there")
                peer.write(CLOSE, close_payload(1000))
                assert await peer.read() == (0x80 | CLOSE, close_payload(1000))

    @pytest.mark.parametrize("timeout", [None, 0.03])
    async def test_silent_client_at_a_time_of_its_own(self, timeout: float | None) -> None:
        class Impatient(Patient):
            drain_spread = 0.01
            drain_timeout = timeout

        async with serving_app(echo_app, Impatient) as running:
            async with raw_client(running) as peer:
                await until(lambda: running.state.tasks)
                running.connection.shutdown()
                assert await peer.read() == (0x80 | CLOSE, close_payload(1012))
                await until(lambda: not running.state.connections and not running.state.tasks)

    async def test_of_the_whole_server(self) -> None:
        class Spread(WebSocketProtocol):
            drain_spread = 0.1
            drain_timeout = 1000

        app, seen = recording(echo_app)
        config = uvicorn.Config(
            app, ws=Spread, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1000
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        uri = f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        clients = [await connect(uri) for _ in range(10)]
        await until(lambda: len(seen) == 10)
        server.should_exit = True
        for ws in clients:
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            assert ws.close_code == 1012
        await serving
        assert seen[10:] == [{"type": "websocket.disconnect", "code": 1012}] * 10

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


async def test_configuration_is_loaded_when_it_is_needed() -> None:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from wsapi.uvicorn import WebSocketProtocol

    config = Config(echo_app, log_config=None)
    connection = WebSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    assert config.loaded
    assert connection.app is config.loaded_app
