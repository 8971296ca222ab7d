"""wsapi-topics.js with servers that do what a test says, in Node and in Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import NPM
from tests.wsapi.helpers import port_of, raw_server, uri_of
from tests.wsapi.topics.scripts import (
    CLIENT,
    JavaScript,
    once,
    running_node,
    running_pages,
    until,
)
from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.exceptions import ConnectionClosed

LONG = 3_600_000
"""An hour: what has to wait for it isn't seen by any test."""


class Visitor:
    """A client's connection, as the server sees it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def tell(self, **message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def hello(self, **members: object) -> None:
        await self.tell(**{"type": "hello", "protocol": 1, "max_message_size": 65536} | members)

    async def expect(self, kind: str, **members: object) -> int:
        """Take the next message, which must be this; return its id."""
        message = json.loads(await self.connection.recv())
        number = message.pop("id", None)
        assert message == {"type": kind} | members
        return number or 0

    async def subscribed(
        self, topic: str, position: object, recovered: bool | None = None, **since: object
    ) -> None:
        """Expect a subscription; answer it."""
        number = await self.expect("subscribe", topic=topic, **since)
        await self.tell(
            type="subscribed", id=number, topic=topic, recovered=recovered, position=position
        )

    async def message(self, topic: str, position: object, data: object) -> None:
        await self.tell(type="message", topic=topic, position=position, data=data)

    async def gone(self) -> None:
        """Wait for the end of the connection; nothing else may come."""
        with pytest.raises(ConnectionClosed):
            raise AssertionError(await self.connection.recv())


class Stub:
    """A server whose connections are handled by the test."""

    def __init__(self) -> None:
        self.visitors: asyncio.Queue[Visitor] = asyncio.Queue()
        self.paths: list[str] = []
        self.server: Server

    @property
    def uri(self) -> str:
        return uri_of(self.server)

    async def handler(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.paths.append(connection.request.path)
        self.visitors.put_nowait(Visitor(connection))
        await connection.wait_closed()

    async def visitor(self) -> Visitor:
        """Wait for the next connection that stays, as some don't on slow machines; say hello."""
        while True:
            visitor = await self.visitors.get()
            with contextlib.suppress(ConnectionClosed):
                await visitor.hello()
                return visitor


@contextlib.asynccontextmanager
async def stub(port: int = 0) -> AsyncIterator[Stub]:
    server = Stub()
    async with serve(server.handler, "127.0.0.1", port, close_timeout=1) as server.server:
        yield server


def quoted(*values: object) -> str:
    return ", ".join(map(json.dumps, values))


async def start(js: JavaScript, uri: str, options: str = "{}") -> None:
    await js.evaluate(f"start({quoted(uri)}, {options}); 0")


async def follow(js: JavaScript, topic: str, options: str = "{}") -> None:
    await js.evaluate(f"follow({quoted(topic)}, {options}); 0")


async def logged(js: JavaScript, number: int) -> list[Any]:
    """Wait for so many entries in the log; take them."""
    await until(js, f"log.length >= {number}")
    entries: list[Any] = await js.evaluate("log.splice(0)")
    assert len(entries) == number, entries
    return entries


# ---------------------------------------------------------------------- topics


async def check_topics(js: JavaScript) -> None:
    """All that a page does with a topic while the connection lasts."""
    async with stub() as server:
        await start(js, server.uri)
        await follow(js, "room")
        visitor = await server.visitor()
        await visitor.subscribed("room", ["e", 7])
        for offset, data in [(8, "é"), (9, {"a": [1, None]}), (9, "again"), (8, "again"), (11, 0)]:
            await visitor.message("room", ["e", offset], data)
        await visitor.message("elsewhere", ["e", 12], "not subscribed")
        await visitor.tell(type="message", topic="room", position=["e", 12], text="not JSON")
        await visitor.tell(type="message", topic="room", position=["e", 13], base64="AP8=")
        await visitor.tell(type="of a later version", topic="room")
        assert await logged(js, 7) == [
            ["open"],
            ["subscribed", "room", ["e", 7], None],
            ["message", "room", "é", ["e", 8]],
            ["message", "room", {"a": [1, None]}, ["e", 9]],
            ["message", "room", 0, ["e", 11]],
            ["message", "room", "not JSON", ["e", 12]],
            ["message", "room", {"0": 0, "1": 255}, ["e", 13]],
        ]
        state = "[subscriptions.room.state, subscriptions.room.position, topics.state]"
        assert await js.evaluate(state) == ["live", ["e", 13], "open"]

        await js.evaluate("globalThis.published = topics.publish('room', {text: 'é'}); 0")
        number = await visitor.expect("publish", topic="room", data={"text": "é"})
        await visitor.tell(type="published", id=number, topic="room", position=["e", 14])
        assert await js.evaluate("published") == ["e", 14]

        # What is lost is told; the same if the server fails to say it.
        await visitor.tell(type="gap", topic="room", position=["f", 3])
        await visitor.message("room", ["f", 4], "after the gap")
        await visitor.message("room", ["g", 1], "of another epoch")
        assert await logged(js, 4) == [
            ["reload", "room", ["f", 3], False],
            ["message", "room", "after the gap", ["f", 4]],
            ["reload", "room", ["g", 1], False],
            ["message", "room", "of another epoch", ["g", 1]],
        ]

        await js.evaluate("globalThis.ended = subscriptions.room.unsubscribe(); 0")
        number = await visitor.expect("unsubscribe", topic="room")
        await visitor.message("room", ["g", 2], "too late")
        await follow(js, "room")  # waits for nothing
        await visitor.message("room", ["g", 3], "of the old one")
        await visitor.tell(type="unsubscribed", id=number, topic="room")
        await visitor.subscribed("room", ["g", 3])
        await visitor.message("room", ["g", 4], "of the new one")
        await js.evaluate("ended")
        assert await logged(js, 2) == [
            ["subscribed", "room", ["g", 3], None],
            ["message", "room", "of the new one", ["g", 4]],
        ]
        await js.evaluate("topics.close(); topics.close(); 0")
        await visitor.gone()
        assert visitor.connection.close_code == 1000
        assert await logged(js, 1) == [["closed"]]
        assert await js.evaluate("[subscriptions.room.state, topics.state]") == ["ended", "closed"]


@once
async def test_topics_in_node(node: Path) -> None:
    async with running_node(node) as js:
        await check_topics(js)


async def check_recovery(js: JavaScript) -> None:
    """Connections that are lost, and what is missed meanwhile."""
    async with stub() as server:
        await start(js, server.uri)
        await follow(js, "kept")
        await follow(js, "short")
        await follow(js, "none")
        visitor = await server.visitor()
        await visitor.subscribed("kept", ["e", 7])
        await visitor.subscribed("short", ["e", 1])
        await visitor.subscribed("none", None)
        await visitor.message("kept", ["e", 8], "before")
        await visitor.message("none", None, "before")
        await logged(js, 6)
        visitor.connection.transport.abort()

        visitor = await server.visitor()
        await visitor.subscribed("kept", ["e", 8], True, since=["e", 8])
        await visitor.subscribed("short", ["f", 5], False, since=["e", 1])
        await visitor.subscribed("none", None)
        await visitor.message("kept", ["e", 8], "again")
        await visitor.message("kept", ["e", 9], "missed")
        await visitor.message("short", ["f", 6], "after")
        await visitor.message("none", None, "after")
        assert await logged(js, 12) == [
            ["waiting", 1006],
            ["connecting"],
            ["open"],
            ["subscribed", "kept", ["e", 8], True],
            ["recovered", "kept", ["e", 8], True],
            ["subscribed", "short", ["f", 5], False],
            ["reload", "short", ["f", 5], False],
            ["subscribed", "none", None, None],
            ["reload", "none", None, None],
            ["message", "kept", "missed", ["e", 9]],
            ["message", "short", "after", ["f", 6]],
            ["message", "none", "after", None],
        ]
        await js.evaluate("topics.close(); 0")
        await visitor.gone()


@once
async def test_recovery_in_node(node: Path) -> None:
    async with running_node(node) as js:
        await check_recovery(js)


@once
async def test_chromium(tmp_path: Path) -> None:
    """The same in a browser; and what only browsers tell."""
    async with running_pages(tmp_path) as (page,):
        await check_topics(page)
        await page.evaluate("log.length = 0")
        await check_recovery(page)
        await page.evaluate("log.length = 0")
        async with stub() as server:
            await start(page, server.uri, f"{{restartDelay: {LONG}}}")
            for event in (
                "window.dispatchEvent(new Event('online'))",
                "document.dispatchEvent(new Event('visibilitychange'))",
            ):
                visitor = await server.visitor()
                await visitor.connection.close(1012)
                await until(page, "topics.state === 'waiting'")
                await page.evaluate(f"{event}; 0")
            visitor = await server.visitor()
            await until(page, "topics.state === 'open'")
            await page.evaluate("window.dispatchEvent(new Event('offline')); 0")
            await visitor.expect("ping")
            await visitor.tell(type="pong", id=None)
            # A relative URL is one of the page's server, which here doesn't have topics.
            await start(page, "/topics?token=1#part")
            assert await page.evaluate("topics.close(); log.some(([name]) => name == 'error')") is (
                False
            )


@once
async def test_position_from_an_earlier_page(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        await follow(js, "room", "{since: ['e', 3]}")
        visitor = await server.visitor()
        await visitor.subscribed("room", ["e", 3], True, since=["e", 3])
        await visitor.message("room", ["e", 4], "missed")
        assert (await logged(js, 4))[1:] == [
            ["subscribed", "room", ["e", 3], True],
            ["recovered", "room", ["e", 3], True],
            ["message", "room", "missed", ["e", 4]],
        ]


@once
async def test_failed_subscriptions(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        await follow(js, "secret")
        visitor = await server.visitor()
        number = await visitor.expect("subscribe", topic="secret")
        failure: dict[str, Any] = {"type": "error", "topic": "secret", "message": "no"}
        await visitor.tell(id=number, code="forbidden", retry=False, **failure)
        assert (await logged(js, 2))[1:] == [["failed", "secret", "forbidden", False]]
        assert await js.evaluate("subscriptions.secret.state") == "ended"
        await js.evaluate("subscriptions.secret.unsubscribe()")  # sends nothing
        await follow(js, "secret")
        number = await visitor.expect("subscribe", topic="secret")
        await visitor.tell(id=number, code="unavailable", retry=True, **failure)
        # It is tried again by itself.
        await visitor.subscribed("secret", ["e", 1])
        assert await logged(js, 2) == [
            ["failed", "secret", "unavailable", True],
            ["subscribed", "secret", ["e", 1], None],
        ]
        await visitor.tell(**failure | {"topic": None}, id=None, code="invalid_json", retry=False)
        assert await logged(js, 1) == [["error", "invalid_json"]]


# ---------------------------------------------------------------------- publishing


@once
async def test_publishing_waits_for_a_connection(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri, "{maxPending: 3}")
        await js.evaluate(
            "globalThis.outcomes = [1, 2, 3, 4].map(n => outcome(topics.publish('room', n))); 0"
        )
        await follow(js, "room")
        assert await js.evaluate("outcomes[3]") == ["error", "queue_full", False, True]
        visitor = await server.visitor()
        # The subscription comes first, so that it gets what was published.
        await visitor.subscribed("room", None)
        for n in (1, 2, 3):
            number = await visitor.expect("publish", topic="room", data=n)
            if n < 3:
                await visitor.tell(type="published", id=number, topic="room", position=None)
        assert await js.evaluate("Promise.all(outcomes.slice(0, 2))") == [["done", None]] * 2
        # There is room again, but for one that is sent and not answered.
        visitor.connection.transport.abort()
        assert await js.evaluate("outcomes[2]") == ["error", "lost", True, False]
        visitor = await server.visitor()
        await visitor.subscribed("room", None)
        await js.evaluate("globalThis.later = outcome(topics.publish('room', 5)); 0")
        number = await visitor.expect("publish", topic="room", data=5)  # no 3: nothing comes twice
        await visitor.tell(
            type="error", id=number, topic="room", code="refused", message="no", retry=False
        )
        assert await js.evaluate("later") == ["error", "refused", False, False]


@once
async def test_publishing_has_a_deadline(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri, "{publishTimeout: 50}")
        assert await js.evaluate("outcome(topics.publish('room', 1))") == [
            *("error", "timeout", False, True)
        ]
        visitor = await server.visitor()
        await until(js, "topics.state === 'open'")
        assert await js.evaluate("outcome(topics.publish('room', 2, {timeout: 20}))") == [
            *("error", "timeout", True, False)
        ]
        number = await visitor.expect("publish", topic="room", data=2)
        # An answer that comes too late is nobody's.
        await visitor.tell(type="published", id=number, topic="room", position=None)
        await js.evaluate("globalThis.last = outcome(topics.publish('room', 3, {timeout: 1e6})); 0")
        await visitor.expect("publish", topic="room", data=3)
        await js.evaluate("topics.close(); 0")
        assert await js.evaluate("last") == ["error", "closed", True, False]
        assert await js.evaluate("outcome(topics.publish('room', 4))") == [
            *("error", "closed", False, False)
        ]
        await visitor.gone()


@once
async def test_large_messages_stay_here(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        await js.evaluate("globalThis.early = outcome(topics.publish('room', 'é'.repeat(500))); 0")
        visitor = await server.visitors.get()
        await visitor.hello(max_message_size=1000)
        assert await js.evaluate("early") == ["error", "too_large", False, False]
        await js.evaluate("outcome(topics.publish('room', 'é'.repeat(450))); 0")
        await visitor.expect("publish", topic="room", data="é" * 450)


# ---------------------------------------------------------------------- connections


@once
async def test_close_codes(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        for code in (1000, 1003, 1008, 4000, 4403, 4999):
            await start(js, server.uri)
            await follow(js, "room")
            visitor = await server.visitor()
            await visitor.subscribed("room", ["e", 1])
            await logged(js, 2)
            await js.evaluate("globalThis.lost = outcome(topics.publish('room', 1)); 0")
            await visitor.expect("publish", topic="room", data=1)
            await visitor.connection.close(code, "go away")
            assert await logged(js, 3) == [
                ["failed", "room", "closed", False],
                ["error", "closed"],
                ["closed", code],
            ]
            assert await js.evaluate("lost") == ["error", "lost", True, False]
            with pytest.raises(AssertionError, match="closed"):
                await follow(js, "another")
        await start(js, server.uri)
        for code in (1001, 1002, 1009, 1011, 1012, 1013, 3000):
            visitor = await server.visitor()
            await until(js, "topics.state === 'open'")
            await visitor.connection.close(code)
        await server.visitor()
        waits = [["waiting", code] for code in (1001, 1002, 1009, 1011, 1012, 1013, 3000)]
        await until(js, "log.filter(([state]) => state === 'waiting').length === 7")
        assert await js.evaluate("log.filter(([state]) => state === 'waiting')") == waits
        await js.evaluate("topics.close(); 0")


@once
async def test_application_decides_about_close_codes(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        rule = "(code, reason) => ({4001: true, 1012: reason !== 'moved'})[code]"
        await start(js, server.uri, f"{{comeBack: {rule}}}")
        for code in (4001, 1012, 1011):
            await (await server.visitor()).connection.close(code)
        await (await server.visitor()).connection.close(1012, "moved")
        await until(js, "topics.state === 'closed'")


@once
async def test_delays(node: Path) -> None:
    """They are random, grow up to a bound, and begin anew when a connection has lasted."""
    async with running_node(node) as js, stub() as server:
        delays = "onstate: (state, {delay}) => delay === undefined || log.push(delay)"
        await js.evaluate("Math.random = () => 0.5; 0")
        options = f"{{minDelay: 8, maxDelay: 20, restartDelay: 4, laterDelay: 10, {delays}}}"
        await start(js, server.uri, options)
        for code in (1011, 1012, 1013, 1001):
            await (await server.visitor()).connection.close(code)
        # The bounds: 8, then 4 x 2, then 8 x 4 that are 20, after a while that is not random.
        assert await logged(js, 4) == [4, 4, 10 + 10, 10]
        await js.evaluate("topics.close(); 0")
    async with running_node(node) as js, stub() as server:
        await js.evaluate("Math.random = () => 0.25; 0")
        await start(js, server.uri, f"{{stableAfter: 0, minDelay: 8, {delays}}}")
        for _ in range(3):
            await (await server.visitor()).connection.close(1001)
        assert await logged(js, 3) == [2, 2, 2]
        await js.evaluate("topics.close(); 0")


@once
async def test_server_that_is_not_there(node: Path) -> None:
    async with running_node(node) as js:
        async with stub() as server:
            uri, port = server.uri, port_of(server.server)
        await start(js, uri)
        await follow(js, "room")
        await until(js, "log.length >= 6")
        entries = await js.evaluate("log.splice(0)")
        assert entries[:4] == [["waiting", 1006], ["connecting"]] * 2
        async with stub(port) as server:
            visitor = await server.visitor()
            await visitor.subscribed("room", ["e", 1])
            await until(js, "subscriptions.room.state === 'live'")
            await js.evaluate("topics.close(); 0")


@once
async def test_answers_that_never_come(node: Path) -> None:
    async with running_node(node) as js:
        # Neither the opening handshake...
        async with raw_server(lambda peer: _wait(peer.reader), handshake=False) as raw:
            await start(js, uri_of(raw), "{connectTimeout: 20}")
            await until(js, "log.length >= 4")
            await js.evaluate("topics.close(); log.length = 0")
        async with stub() as server:
            # ... nor the first message...
            await start(js, server.uri, "{connectTimeout: 100, requestTimeout: 100}")
            visitor = await server.visitors.get()
            await visitor.gone()
            # ... nor the answer to a subscription...
            await follow(js, "room")
            visitor = await server.visitor()
            await visitor.expect("subscribe", topic="room")
            await visitor.gone()
            await js.evaluate("topics.close(); log.length = 0")
            # ... nor that to a ping.
            await start(js, server.uri, "{pingInterval: 20, pingTimeout: 200}")
            visitor = await server.visitor()
            for _ in range(2):
                await visitor.expect("ping")
                await visitor.tell(type="pong", id=None)
            await visitor.expect("ping")
            await visitor.message("whatever", None, 1)  # shows as well that the server is there
            await visitor.expect("ping")
            await visitor.gone()
            await server.visitor()
            states = ["open", "waiting", "connecting", "open"]
            await until(js, "log.length >= 4")
            assert [entry[0] for entry in await js.evaluate("log")][:4] == states
            await js.evaluate("topics.close(); 0")


@once
async def test_clocks_that_are_coarse(node: Path) -> None:
    """As those of browsers: an answer may come at the time of the question."""
    async with running_node(node) as js, stub() as server:
        await js.evaluate("globalThis.time = 0; performance.now = () => time; 0")
        await start(js, server.uri, "{pingInterval: 20, pingTimeout: 100}")
        await follow(js, "room")
        visitor = await server.visitor()
        await visitor.subscribed("room", None)
        assert (await logged(js, 2))[1] == ["subscribed", "room", None, None]
        for number in range(3):
            await js.evaluate("time += 1000; 0")
            await visitor.expect("ping")
            await visitor.message("room", None, number)
            assert await logged(js, 1) == [["message", "room", number, None]]
        await js.evaluate("topics.close(); 0")


async def _wait(reader: asyncio.StreamReader) -> None:
    await reader.read()


@once
async def test_another_kind_of_server(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        for text in ("welcome", "[]", "null", '{"type": 1}', '{"type": "message"}', b"\0"):
            visitor = await server.visitors.get()
            await visitor.connection.send(text)
            await visitor.gone()
        await until(js, "log.length >= 18")
        entries = await js.evaluate("log.splice(0)")
        assert entries[:3] == [["waiting", 1002], ["error", "protocol"], ["connecting"]]
        await follow(js, "room")
        visitor = await server.visitor()
        await visitor.subscribed("room", ["e", 7])
        await visitor.tell(type="message", topic="room", position=["e", 8], base64="?")
        await visitor.gone()
        # What isn't a message doesn't count as one that came.
        visitor = await server.visitor()
        await visitor.expect("subscribe", topic="room", since=["e", 7])
        await js.evaluate("topics.close(); log.length = 0")
        await visitor.gone()
        await start(js, server.uri)
        visitor = await server.visitors.get()
        await visitor.hello(protocol=2)
        await until(js, "topics.state === 'closed'")
        await visitor.gone()


@once
async def test_url_for_each_attempt(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await js.evaluate("globalThis.attempt = 0")
        uri = server.uri.replace("ws", "http", 1)
        await js.evaluate(
            f"""start(async () => {{
              if (++attempt === 2) throw new RangeError("no token");
              return {quoted(uri)} + "topics?token=" + attempt + "#fragment";
            }}); 0"""
        )
        visitor = await server.visitor()
        await visitor.connection.close(1012)
        await server.visitor()
        assert server.paths == ["/topics?token=1", "/topics?token=3"]
        await until(js, "topics.state === 'open'")
        assert ["error", "RangeError: no token"] in await js.evaluate("log")
        await js.evaluate("topics.close(); 0")


# ---------------------------------------------------------------------- programs


@once
async def test_wrong_arguments(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        await follow(js, "room")
        attempts = [
            "new Topics('ws://localhost/', {WebSocket: undefined})",
            "new Topics('/relative', {WebSocket: NodeWebSocket})",
            "topics.subscribe('')",
            "topics.subscribe(1)",
            "topics.subscribe('other', {since: 'e:1'})",
            "topics.subscribe('other', {since: ['e', 1.5]})",
            "topics.subscribe('room')",
            "topics.publish('', 1)",
            "topics.publish('room', undefined)",
            "topics.publish('room', () => 1)",
            "topics.publish('room', new Uint8Array(2))",
            "topics.publish('room', 10n)",
        ]
        for attempt in attempts:
            code = f"(async () => {attempt})().then(() => null, (error) => error.constructor.name)"
            wanted = "Error" if "subscribe('room')" in attempt else "TypeError"
            assert await js.evaluate(code) == wanted, attempt
        visitor = await server.visitor()
        await visitor.subscribed("room", None)  # all else is as it was
        await js.evaluate("topics.close(); 0")


@once
async def test_handlers_that_throw(node: Path) -> None:
    """Their errors are the program's; the client goes on."""
    async with running_node(node) as js, stub() as server:
        await js.evaluate("process.on('uncaughtException', (e) => log.push(e.message)); 0")
        await start(js, server.uri, "{onstate() { throw new Error('state'); }}")
        await follow(js, "room", "{onmessage({data}) { throw new Error(data); }}")
        visitor = await server.visitor()
        await visitor.subscribed("room", ["e", 0])
        await visitor.message("room", ["e", 1], "one")
        await visitor.message("room", ["e", 2], "two")
        await until(js, "log.length >= 4")
        entries = await js.evaluate("log")
        assert [entry for entry in entries if isinstance(entry, str)] == ["state", "one", "two"]
        await js.evaluate("topics.close(); 0")


@once
async def test_handlers_that_end_the_subscription(node: Path) -> None:
    async with running_node(node) as js, stub() as server:
        await start(js, server.uri)
        await follow(
            js, "room", "{since: ['e', 1], onsubscribed() { subscriptions.room.unsubscribe(); }}"
        )
        await follow(
            js, "other", "{onmessage() { subscriptions.other.unsubscribe(); log.push(1); }}"
        )
        visitor = await server.visitor()
        await visitor.subscribed("room", ["e", 1], True, since=["e", 1])
        await visitor.subscribed("other", None)
        await visitor.expect("unsubscribe", topic="room")
        await visitor.message("other", None, 1)
        await visitor.message("other", None, 2)
        await visitor.expect("unsubscribe", topic="other")
        await js.evaluate("topics.close(); 0")
        await visitor.gone()
        assert await js.evaluate("log") == [
            ["open"],
            ["subscribed", "other", None, None],
            1,
            ["closed"],
        ]


# ---------------------------------------------------------------------- the package


def test_package() -> None:
    package = json.loads((CLIENT.parent / "package.json").read_text("utf-8"))
    assert package["exports"]["."] == {
        "types": "./wsapi-topics.d.ts",
        "default": "./wsapi-topics.js",
    }
    assert "dependencies" not in package
    assert "scripts" not in package  # no build step
    for name in package["files"]:
        assert (CLIENT.parent / name).is_file()


def test_types_tell_the_defaults() -> None:
    code = CLIENT.read_text("utf-8")
    types = CLIENT.with_suffix(".d.ts").read_text("utf-8")
    defaults = re.findall(r"(?m)^  (\w+): ([\d_]+),", code)
    assert len(defaults) == 11
    for name, value in defaults:
        described = re.search(rf"Default (\d+)\. \*/\n  {name}\?: number;", types)
        assert described is not None, name
        assert described[1] == value.replace("_", "")


def test_license_is_that_of_all() -> None:
    license = Path(__file__).parents[3] / "LICENSE"
    if not license.exists():
        pytest.skip("the license is not beside the tests")
    assert (CLIENT.parent / "LICENSE").read_text("utf-8") == license.read_text("utf-8")


def test_package_is_packed_by_npm(tmp_path: Path) -> None:
    if NPM is None:
        pytest.skip("npm isn't installed")
    shutil.copytree(CLIENT.parent, tmp_path / "package")
    command = [NPM, "pack", "--dry-run", "--json", "--offline"]
    result = subprocess.run(
        command, cwd=tmp_path / "package", capture_output=True, check=True, timeout=40
    )
    (packed,) = json.loads(result.stdout)
    assert {file["path"] for file in packed["files"]} == {
        *("LICENSE", "package.json", "wsapi-topics.js", "wsapi-topics.d.ts")
    }
