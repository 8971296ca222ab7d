"""The gateway: what its hooks say and do, and frameworks that fail."""

from __future__ import annotations

import asyncio
import enum
import json
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, serving, turns, until, uri_of
from tests.wsapi.topics.gateway_helpers import (
    ALL,
    KEPT,
    client_of,
    everything,
    gateway_in_fastapi,
    gateway_of,
)
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.topics import Position, Topics
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.gateway import Gateway, RequestRefused, envelope


async def test_authorize() -> None:
    asked = []

    async def may(connection: Any, topic: str, action: str) -> bool:
        asked.append((topic, action))
        if topic == "broken":
            raise RuntimeError("the hook has failed")
        if topic == "reasons":
            raise RequestRefused("pay first")
        return topic.startswith("public.") and action == "subscribe"

    async with gateway_of(authorize=may) as (_, uri), client_of(uri) as client:
        await client.subscribe("public.1")
        answer = await client.request("publish", topic="public.1", data=1)
        assert (answer["code"], answer["retry"]) == ("forbidden", False)
        answer = await client.request("subscribe", topic="secret")
        assert answer["code"] == "forbidden"
        answer = await client.request("subscribe", topic="reasons")
        assert (answer["code"], answer["message"]) == ("refused", "pay first")
        answer = await client.request("publish", topic="broken", data=1)
        assert answer["code"] == "internal"
        assert "hook" not in answer["message"]
        (record,) = logged_errors("publish to topic 'broken' failed")
        assert record.exc_info is not None
        assert (await client.request("ping"))["type"] == "pong"
    assert asked == [
        *(("public.1", "subscribe"), ("public.1", "publish"), ("secret", "subscribe")),
        *(("reasons", "subscribe"), ("broken", "publish")),
    ]


async def test_on_publish() -> None:
    async def take(connection: Any, topic: str, data: Any) -> Position | None:
        match data:
            case {"text": str(text)}:
                return await gateway.publish(topic, {"text": text, "from": "us"})
            case "swallow":
                return None
            case "unavailable":
                raise BusUnavailable("no broker")
            case "uncertain":
                raise PublishUncertain("who knows")
            case "hang":
                await asyncio.sleep(3600)
        raise RequestRefused("a text is wanted")

    async with gateway_of(on_publish=take, hook_timeout=0.2) as (gateway, uri):
        async with client_of(uri) as client:
            await client.subscribe("room")
            await client.ask("publish", topic="room", data={"text": "hi", "from": "forged"})
            both = [await client.read(), await client.read()]
            assert {"text": "hi", "from": "us"} in [message.get("data") for message in both]
            answer = await client.request("publish", topic="room", data="swallow")
            assert answer == {"type": "published", "topic": "room", "position": None}
            for data, code, retry in [
                (7, "refused", False),
                ("unavailable", "unavailable", True),
                ("uncertain", "uncertain", False),
                ("hang", "internal", False),
            ]:
                answer = await client.request("publish", topic="room", data=data)
                assert (answer["code"], answer["retry"]) == (code, retry)
            logged_errors("publish to topic 'room' failed")


async def test_hook_of_the_topics() -> None:
    """It is asked, too, whatever the gateway's hooks do."""
    asked = []

    def of_topics(connection: Any, topic: str, action: str) -> bool:
        asked.append((topic, action))
        return topic == "open"

    async def publish(connection: Any, topic: str, data: Any) -> Position | None:
        return await gateway.publish(topic, data)

    async with gateway_of({"authorize": of_topics}, None, on_publish=publish) as (gateway, uri):
        async with client_of(uri) as client:
            for topic, kind in [("open", "published"), ("closed", "error")]:
                answer = await client.request("publish", topic=topic, data=1)
                assert answer["type"] == kind
            answer = await client.request("subscribe", topic="closed")
            assert answer["code"] == "forbidden"
    assert asked == [("open", "publish"), ("closed", "publish"), ("closed", "subscribe")]


async def test_members() -> None:
    def name(connection: Any, topic: str) -> str | None:
        return "alice" if topic == "room" else None

    async with gateway_of(member=name) as (gateway, uri), client_of(uri) as client:
        await client.subscribe("room")
        await client.subscribe("elsewhere")
        assert gateway.topics.presence("room", names=True).members == 1
        assert gateway.topics.presence("elsewhere").members == 0


async def test_topics_that_are_closed() -> None:
    async with gateway_of() as (gateway, uri), client_of(uri) as one, client_of(uri) as two:
        await one.subscribe("room")
        await gateway.topics.aclose()
        with pytest.raises(ConnectionClosed):
            await one.read()
        assert one.connection.close_code == 1012
        for answer in (
            await two.request("publish", topic="room", data=1),
            await two.request("subscribe", topic="room"),
        ):
            assert (answer["code"], answer["retry"]) == ("unavailable", True)


async def test_arguments() -> None:
    topics = Topics(envelope=envelope)
    for options in (
        {"authorize": 1},
        {"on_publish": 1},
        {"member": 1},
        {"max_message_size": "1"},
        {"max_pending": True},
        {"hook_timeout": "1"},
    ):
        with pytest.raises(TypeError, match=next(iter(options))):
            Gateway(topics, **{"authorize": everything} | options)
    for values in (
        {"authorize": None},
        {"max_message_size": 0},
        {"max_pending": 0},
        {"hook_timeout": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(values))):
            Gateway(topics, **{"authorize": everything} | values)
    with pytest.raises(ValueError, match="envelope"):
        Gateway(Topics(), authorize=everything)
    with pytest.raises(TypeError, match="got object"):
        await Gateway(topics, authorize=everything).handle(object())


@ALL
async def test_hook_that_closes_the_connection(running: Any) -> None:
    """What a policy wants: the client stays away, and nobody is told of a failure."""

    async def take(connection: Any, topic: str, data: Any) -> Position | None:
        await connection.close(4403, "banned")
        return None

    async with running(on_publish=take) as (_, uri), client_of(uri) as client:
        await client.ask("publish", topic="room", data="spam")
        await client.ask("publish", topic="room", data="spam")
        with pytest.raises(ConnectionClosed):
            await client.read()
        assert client.connection.close_code == 4403
        assert client.connection.close_reason == "banned"


@ALL
async def test_hook_that_uses_another_connection(running: Any) -> None:
    """Its end is a failure of the hook, not the end of the client's connection."""

    async def take(connection: Any, topic: str, data: Any) -> Position | None:
        raise ConnectionClosedError(None, None)

    async with running(on_publish=take) as (_, uri), client_of(uri) as client:
        assert (await client.request("publish", topic="room", data=1))["code"] == "internal"
        logged_errors("publish to topic 'room' failed")


@ALL
async def test_hook_that_closes_the_connection_and_fails(running: Any) -> None:
    """Nobody is there whom the failure could be told."""

    async def take(connection: Any, topic: str, data: Any) -> Position | None:
        await connection.close(4403, "banned")
        raise RequestRefused("banned")

    async with running(on_publish=take) as (_, uri), client_of(uri) as client:
        await client.ask("publish", topic="room", data="spam")
        with pytest.raises(ConnectionClosed):
            await client.read()
        assert client.connection.close_code == 4403


@ALL
async def test_hook_that_closes_the_connection_and_agrees(running: Any) -> None:
    """Nobody is there who could subscribe."""

    async def close(connection: Any, topic: str, action: str) -> bool:
        await connection.close(4403, "banned")
        return True

    async with running(authorize=close) as (gateway, uri), client_of(uri) as client:
        await client.ask("subscribe", topic="room")
        with pytest.raises(ConnectionClosed):
            await client.read()
        assert client.connection.close_code == 4403
        assert gateway.topics.subscribers("room") == 0


@ALL
async def test_what_clients_that_are_gone_wanted(running: Any) -> None:
    """What they have published is published; who wants to subscribe wants it no more."""
    began, ended = asyncio.Event(), asyncio.Event()
    cancelled: list[str] = []

    async def wait(connection: Any, topic: str, action: str) -> bool:
        began.set()
        try:
            await ended.wait()
        except asyncio.CancelledError:
            cancelled.append(action)
            raise
        return True

    async with running(authorize=wait) as (gateway, uri):
        async with client_of(uri) as client:
            await client.ask("subscribe", topic="room")
            await client.ask("publish", topic="other", data=1)
            await began.wait()
        await until(lambda: bool(cancelled))
        ended.set()
        await until(lambda: gateway.topics.stats().counters.published == 1)
        assert cancelled == ["subscribe"]


class Framework:
    """A WebSocket as Starlette has it, whose client says this; then it fails."""

    def __init__(self, *messages: str | bytes, error: Exception, gone: bool) -> None:
        self.client_state = self.application_state = State.CONNECTED
        self.messages = list(messages)
        self.error = error
        self.gone = gone

    def fail(self) -> None:
        if self.gone:
            self.client_state = State.DISCONNECTED
        raise self.error

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            self.fail()
        message = self.messages.pop(0)
        name = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", name: message}

    async def send_text(self, text: str) -> None:
        pass

    async def close(self, code: int, reason: str) -> None:
        self.fail()


class State(enum.Enum):
    CONNECTED = 1
    DISCONNECTED = 2


@pytest.mark.parametrize("messages", [(), (b"binary",)], ids=["receiving", "closing"])
async def test_frameworks_that_fail(messages: tuple[bytes, ...]) -> None:
    """It is the end of the connection if that is gone, by whatever name; or else a mistake."""
    gateway = Gateway(Topics(envelope=envelope), authorize=everything)
    await gateway.handle(Framework(*messages, error=RuntimeError("not connected"), gone=True))
    with pytest.raises(RuntimeError, match="a mistake"):
        await gateway.handle(Framework(*messages, error=RuntimeError("a mistake"), gone=False))


class Slow(Framework):
    """Its client asks when it is told to, and reads when it is let."""

    def __init__(self) -> None:
        super().__init__(error=RuntimeError("not connected"), gone=True)
        self.requests: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.let = asyncio.Event()
        self.let.set()
        self.sent: list[str] = []

    async def receive(self) -> dict[str, Any]:
        request = await self.requests.get()
        if request is None:
            self.fail()
        return {"type": "websocket.receive", "text": json.dumps(request)}

    async def send_text(self, text: str) -> None:
        await self.let.wait()
        await asyncio.sleep(0)
        if self.client_state is State.DISCONNECTED:
            self.fail()
        self.sent.append(json.loads(text)["type"])

    send_bytes = send_text


@pytest.mark.parametrize("gone", [False, True])
async def test_unsubscribing_while_messages_wait(gone: bool) -> None:
    """There are no messages of the topic behind the answer."""
    topics = Topics(envelope=envelope)
    ws = Slow()
    handling = asyncio.ensure_future(Gateway(topics, authorize=everything).handle(ws))
    ws.requests.put_nowait({"type": "subscribe", "id": 1, "topic": "room"})
    await until(lambda: ws.sent == ["hello", "subscribed"])
    ws.let.clear()
    for number in range(3):
        await topics.publish("room", json.dumps(number))
    ws.requests.put_nowait({"type": "unsubscribe", "id": 2, "topic": "room"})
    await until(lambda: topics.subscribers("room") == 0)
    if gone:
        ws.client_state = State.DISCONNECTED
    ws.let.set()
    if not gone:
        await until(lambda: "unsubscribed" in ws.sent)
    await turns(10)
    ws.requests.put_nowait(None)
    await handling
    assert ws.sent[2:] == ([] if gone else ["message"] * 3 + ["unsubscribed"])


async def test_connection_that_was_accepted_before() -> None:
    async with gateway_in_fastapi(accepted=True) as (_, uri), client_of(uri) as client:
        assert (await client.request("publish", topic="room", data=1))["type"] == "published"


async def test_cancelled_handler() -> None:
    """It waits for nothing, and leaves nothing behind."""
    began = asyncio.Event()

    async def hang(connection: Any, topic: str, data: Any) -> Position | None:
        began.set()
        await asyncio.sleep(3600)
        return None

    handlers = []

    async def handle(connection: Any) -> None:
        handlers.append(asyncio.current_task())
        await gateway.handle(connection)

    async with Topics(history=KEPT, envelope=envelope) as topics:
        gateway = Gateway(topics, authorize=everything, on_publish=hang, hook_timeout=None)
        async with serving(handle) as server, client_of(uri_of(server)) as client:
            await client.subscribe("room")
            await client.ask("publish", topic="room", data=1)
            await began.wait()
            (task,) = handlers
            assert task is not None
            task.cancel()
            await asyncio.wait([task])
            assert topics.subscribers("room") == 0


async def test_limits_of_the_topics() -> None:
    settings = {"max_message_size": 100, "max_topics": 2, "max_subscribers": 1}
    async with gateway_of(settings) as (gateway, uri), client_of(uri) as one, client_of(uri) as two:
        answer = await one.request("publish", topic="a", data="x" * 100)
        assert answer["code"] == "too_large"
        await one.subscribe("a")
        assert (await two.request("subscribe", topic="a"))["code"] == "limit"
        await two.subscribe("b")
        assert (await two.request("subscribe", topic="c"))["code"] == "limit"
        await gateway.publish("a", 1)
        assert await one.data(1) == [1]
