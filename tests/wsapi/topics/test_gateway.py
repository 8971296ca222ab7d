"""The gateway: the protocol, what hooks say, and clients that are broken or hostile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import functools
import inspect
import itertools
import json
import random
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wsapi.helpers import logged_errors, serving, until, uri_of
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.uvicorn_helpers import serving_app
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.topics import History, Position, Topics
from wsapi.topics import gateway as gateway_module
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.gateway import (
    Gateway,
    RequestRefused,
    _encode,
    _Failure,
    _understand,
    browser_client,
    envelope,
)
from wsapi.uvicorn import WebSocketProtocol
from wsproto_fast import PreparedMessage

KEPT = History(messages=1000)


def everything(connection: Any, topic: str, action: str) -> bool:
    return True


class Client:
    """A client of the protocol, as somebody might write one in Python."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)

    async def read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.connection.recv())
        return message

    async def ask(self, kind: str, **members: object) -> int:
        number = next(self.numbers)
        await self.connection.send(json.dumps({"type": kind, "id": number, **members}))
        return number

    async def request(self, kind: str, **members: object) -> dict[str, Any]:
        """Return the answer, which must be the next message."""
        number = await self.ask(kind, **members)
        answer = await self.read()
        assert answer.pop("id") == number, answer
        return answer

    async def subscribe(self, topic: str, since: object = None) -> dict[str, Any]:
        answer = await self.request("subscribe", topic=topic, since=since)
        assert answer.pop("type") == "subscribed", answer
        assert answer.pop("topic") == topic
        return answer

    async def data(self, number: int) -> list[Any]:
        """Return the data of the next messages."""
        messages = [await self.read() for _ in range(number)]
        assert {message["type"] for message in messages} <= {"message"}, messages
        return [message["data"] for message in messages]


@contextlib.asynccontextmanager
async def client_of(uri: str, **options: Any) -> AsyncIterator[Client]:
    async with connect(uri, **options) as connection:
        client = Client(connection)
        hello = await client.read()
        assert hello["type"] == "hello"
        yield client


@contextlib.asynccontextmanager
async def gateway_of(
    topics: dict[str, Any] | None = None, authorize: Any = everything, **options: Any
) -> AsyncIterator[tuple[Gateway, str]]:
    """Run a gateway on a server of ours."""
    settings = {"history": KEPT, "envelope": envelope} | (topics or {})
    async with Topics(**settings) as its:
        gateway = Gateway(its, authorize=authorize, **options)
        async with serving(gateway.handle) as server:
            yield gateway, uri_of(server)


@contextlib.asynccontextmanager
async def gateway_in_fastapi(
    ws: Any = WebSocketProtocol,
    authorize: Any = everything,
    *,
    accepted: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Gateway, str]]:
    """Run a gateway in an application of FastAPI, on uvicorn with our class, or another one."""
    fastapi = pytest.importorskip("fastapi")
    async with Topics(history=KEPT, envelope=envelope) as topics:
        gateway = Gateway(topics, authorize=authorize, **options)
        app = fastapi.FastAPI()
        app.add_api_websocket_route("/", _endpoint(gateway, accepted))
        async with serving_app(app, ws) as server:
            yield gateway, uri_of(server)


def _endpoint(gateway: Gateway, accepted: bool) -> Any:
    from fastapi import WebSocket

    async def endpoint(websocket: WebSocket) -> None:
        if accepted:
            await websocket.accept()
        await gateway.handle(websocket)

    # Annotations of this module are text, which FastAPI looks up in the module.
    endpoint.__annotations__ = {"websocket": WebSocket}
    return endpoint


ALL = pytest.mark.parametrize(
    "running",
    [gateway_of, gateway_in_fastapi, functools.partial(gateway_in_fastapi, "wsproto")],
    ids=["ours", "fastapi", "fastapi-wsproto"],
)


# ---------------------------------------------------------------------- the protocol


@ALL
async def test_conversation(running: Any) -> None:
    async with running() as (gateway, uri), client_of(uri) as one, client_of(uri) as two:
        begun = await one.subscribe("room.1")
        assert begun["recovered"] is None
        epoch, offset = begun["position"]
        assert await two.subscribe("room.1") == begun
        # Who is subscribed and then publishes gets its own message, too.
        number = await one.ask("publish", topic="room.1", data={"text": "é"})
        first, second = await one.read(), await one.read()
        message = {
            "type": "message",
            "topic": "room.1",
            "position": [epoch, offset + 1],
            "data": {"text": "é"},
        }
        published = {
            "type": "published",
            "id": number,
            "topic": "room.1",
            "position": [epoch, offset + 1],
        }
        assert message in (first, second)
        assert published in (first, second)
        assert await two.read() == message
        assert await gateway.publish("room.1", [1, None]) == (epoch, offset + 2)
        assert await one.data(1) == await two.data(1) == [[1, None]]
        assert await one.request("unsubscribe", topic="room.1") == {
            "type": "unsubscribed",
            "topic": "room.1",
        }
        await gateway.publish("room.1", "not for one")
        assert await two.data(1) == ["not for one"]
        assert await one.request("ping") == {"type": "pong"}


async def test_hello() -> None:
    async with gateway_of({"max_subscriptions": 7}, max_message_size=500, max_pending=3) as (
        _,
        uri,
    ):
        async with connect(uri) as connection:
            assert json.loads(await connection.recv()) == {
                "type": "hello",
                "protocol": 1,
                "max_message_size": 500,
                "max_pending": 3,
                "max_subscriptions": 7,
            }


@ALL
async def test_recovery(running: Any) -> None:
    async with running() as (gateway, uri):
        async with client_of(uri) as client:
            begun = await client.subscribe("room")
            await gateway.publish("room", "seen")
            position = (await client.read())["position"]
        for number in range(300):
            await gateway.publish("room", number)
        async with client_of(uri) as client:
            answer = await client.subscribe("room", position)
            assert answer == {"recovered": True, "position": position}
            await gateway.publish("room", "live")
            assert await client.data(301) == [*range(300), "live"]
        async with client_of(uri) as client:
            for since in (["another", 3], [position[0], 999]):
                answer = await client.subscribe("room", since)
                assert answer == {"recovered": False, "position": [position[0], 302]}
                await client.request("unsubscribe", topic="room")
            assert await client.subscribe("room", begun["position"]) == {
                "recovered": True,
                "position": begun["position"],
            }
            assert (await client.data(302))[0] == "seen"


async def test_history_that_does_not_reach_back() -> None:
    async with gateway_of({"history": History(messages=2)}) as (gateway, uri):
        async with client_of(uri) as client:
            begun = await client.subscribe("room")
        for number in range(3):
            await gateway.publish("room", number)
        async with client_of(uri) as client:
            answer = await client.subscribe("room", begun["position"])
            assert answer["recovered"] is False
            await gateway.publish("room", "live")
            assert await client.data(1) == ["live"]


async def test_topic_without_history() -> None:
    async with gateway_of({"history": History()}) as (gateway, uri), client_of(uri) as client:
        answer = await client.subscribe("room")
        assert answer == {"recovered": None, "position": None}
        await gateway.publish("room", 1)
        assert (await client.read())["position"] is None


@pytest.mark.parametrize(
    "message, members",
    [
        ('{"a": [1, "é"]}', {"data": {"a": [1, "é"]}}),
        ("42", {"data": 42}),
        ("null", {"data": None}),
        ("hello", {"text": "hello"}),
        ("", {"text": ""}),
        ("NaN", {"text": "NaN"}),
        ("[" * 100_000, {"text": "[" * 100_000}),
        ("1" * 5000, {"text": "1" * 5000}),
        (b"\0\xff", {"base64": base64.b64encode(b"\0\xff").decode()}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_envelope(message: str | bytes, members: dict[str, Any]) -> None:
    text = envelope('é"\\', Position("e1", 2**53 - 1), message)
    assert (
        json.loads(text)
        == {
            "type": "message",
            "topic": 'é"\\',
            "position": ["e1", 2**53 - 1],
        }
        | members
    )
    assert json.loads(envelope("t", None, message))["position"] is None


async def test_one_envelope_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is made, framed and compressed once, not for each of those who get it."""
    calls = []
    prepared = []

    def prepare(message: str | bytes) -> PreparedMessage:
        prepared.append(message)
        return PreparedMessage(message)

    monkeypatch.setattr("wsapi.topics._core.PreparedMessage", prepare)

    def counted(topic: str, position: Position | None, message: str | bytes) -> str:
        calls.append(message)
        return envelope(topic, position, message)

    async with gateway_of({"envelope": counted}) as (gateway, uri):
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(uri)) for _ in range(20)]
            for client in clients:
                await client.subscribe("room")
            await gateway.publish("room", "é")
            for client in clients:
                assert await client.data(1) == ["é"]
    assert calls == ['"é"']
    assert [json.loads(text)["data"] for text in prepared] == ["é"]


@ALL
async def test_end_of_a_connection(running: Any) -> None:
    """However it ends, its subscriptions end, and what it has published was published."""
    async with running() as (gateway, uri), client_of(uri) as witness:
        await witness.subscribe("room")
        for end in ("close", "abort"):
            async with client_of(uri) as client:
                await client.subscribe("room")
                await client.ask("publish", topic="room", data=end)
                if end == "close":
                    await client.connection.close()
                else:
                    await until(lambda: gateway.topics.subscribers("room") == 2)
                    assert await witness.data(1) == [end]
                    client.connection.transport.abort()
            if end == "close":
                assert await witness.data(1) == [end]
            await until(lambda: gateway.topics.subscribers("room") == 1)


async def test_order_of_requests() -> None:
    """What concerns one topic comes in order, whatever a hook takes its time for."""

    async def slowly(connection: Any, topic: str, action: str) -> bool:
        await asyncio.sleep(random.random() / 200)
        return True

    async with gateway_of(authorize=slowly) as (_, uri), client_of(uri) as client:
        await client.ask("subscribe", topic="room")
        for number in range(50):
            await client.ask("publish", topic="room", data=number)
        await client.ask("unsubscribe", topic="room")
        await client.ask("subscribe", topic="room")
        kinds, data, published = [], [], []
        while len(kinds) < 103:
            message = await client.read()
            kinds.append(message["type"])
            if message["type"] == "message":
                data.append(message["data"])
            if message["type"] == "published":
                published.append(message["id"])
        assert kinds[0] == kinds[-1] == "subscribed"
        assert kinds[-2] == "unsubscribed"
        assert data == list(range(50))
        assert published == sorted(published)


# ---------------------------------------------------------------------- hooks


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


# ---------------------------------------------------------------------- trouble with a bus


async def test_messages_that_are_lost() -> None:
    """Who is subscribed is told of a gap, and where it ends; who comes back, that it is one."""
    broker = MemoryBroker()
    async with gateway_of({"bus": broker.bus()}) as (gateway, uri), client_of(uri) as client:
        begun = await client.subscribe("room")
        epoch, offset = begun["position"]
        assert await gateway.publish("room", "one") == (epoch, offset + 1)
        assert await client.data(1) == ["one"]
        broker.go_away()
        for text in ('"two"', '"three"'):
            broker.publish("room", text)
        broker.trim("room")
        broker.come_back()
        gap = {"type": "gap", "topic": "room", "position": [epoch, offset + 3]}
        assert await client.read() == gap
        await gateway.publish("room", "four")
        assert await client.data(1) == ["four"]
        async with client_of(uri) as another:
            assert (await another.subscribe("room", begun["position"]))["recovered"] is False
            answer = await another.request("unsubscribe", topic="room")
            answer = await another.subscribe("room", gap["position"])
            assert answer == {"recovered": True, "position": gap["position"]}
            assert await another.data(1) == ["four"]


async def test_subscription_that_has_ended_before_its_connection() -> None:
    """Until the connection is closed, which may take its time, the topic isn't the client's."""
    broker = MemoryBroker()
    settings = {"bus": broker.bus(), "on_gap": "close", "spread": 3600.0}
    async with gateway_of(settings) as (gateway, uri), client_of(uri) as client:
        begun = await client.subscribe("room")
        broker.go_away()
        await until(lambda: not gateway.topics.healthy)
        broker.come_back()
        await until(lambda: gateway.topics.subscribers("room") == 0)
        broker.publish("room", '"missed"')
        answer = await client.subscribe("room", begun["position"])
        assert answer == {"recovered": True, "position": begun["position"]}
        assert await client.data(1) == ["missed"]


async def test_broker_that_is_away() -> None:
    broker = MemoryBroker()
    async with gateway_of({"bus": broker.bus()}) as (gateway, uri), client_of(uri) as client:
        await client.subscribe("room")
        broker.go_away()
        await until(lambda: not gateway.topics.healthy)
        for kind, topic in (("publish", "room"), ("subscribe", "elsewhere")):
            answer = await client.request(kind, topic=topic, data=1)
            assert (answer["code"], answer["retry"]) == ("unavailable", True)
        broker.come_back()
        await gateway.topics.wait_healthy(5)
        broker.lost_answers = 100  # processes publish to each other, too
        number = await client.ask("publish", topic="room", data="twice?")
        answers = [await client.read(), await client.read()]
        (failure,) = [answer for answer in answers if answer["type"] == "error"]
        assert (failure["id"], failure["code"], failure["retry"]) == (number, "uncertain", False)
        assert "twice?" in [answer.get("data") for answer in answers]
        broker.lost_answers = 0
        assert (await client.subscribe("elsewhere"))["recovered"] is None


# ---------------------------------------------------------------------- hostile clients

SUBSCRIBE = '{"type": "subscribe", "id": 1, "topic": "t"'
DEEP = "[" * 64 + "]" * 64
HOSTILE = [
    ('{"type": "ping", "id": 1, "x": "' + "x" * 300_000 + '"}', "too_large", "65536", False),
    # what is sent, the error's code, what its text names, whether it is told for which request
    ("not JSON", "invalid_json", "JSON", False),
    ("", "invalid_json", "JSON", False),
    ('{"type": "ping"', "invalid_json", "JSON", False),
    ('{"type": "ping"} {}', "invalid_json", "JSON", False),
    ('{"type": "ping", "x": NaN}', "invalid_json", "NaN", False),
    ('{"type": "ping", "x": ' + "9" * 5000 + "}", "invalid_json", "JSON", False),
    ("[" * 50_000, "invalid_json", "nested", False),
    ('{"a":' * 10_000 + "1" + "}" * 10_000, "invalid_json", "nested", False),
    (f'{{"type": "publish", "id": 1, "topic": "t", "data": {DEEP}}}', "invalid_json", "deep", True),
    ("[]", "invalid_message", "array", False),
    ("null", "invalid_message", "null", False),
    ('"text"', "invalid_message", "text", False),
    ("17", "invalid_message", "number", False),
    ("{}", "unknown_type", "null", False),
    ('{"type": "Subscribe", "id": 1}', "unknown_type", "Subscribe", True),
    ('{"type": {"type": "subscribe"}, "id": 1}', "unknown_type", "object", True),
    ('{"type": ["subscribe"], "id": 1}', "unknown_type", "array", True),
    (f'{{"type": "{"x" * 60_000}", "id": 1}}', "unknown_type", "xxx", True),
    ('{"type": "subscribe", "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": null, "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": "1", "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": 1.0, "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": true, "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": -1, "topic": "t"}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": 9007199254740992}', "invalid_message", "id", False),
    ('{"type": "ping", "id": []}', "invalid_message", "id", False),
    ('{"type": "subscribe", "id": 1}', "invalid_message", "topic", True),
    ('{"type": "unsubscribe", "id": 1, "topic": 1}', "invalid_message", "topic", True),
    ('{"type": "publish", "id": 1, "topic": ["t"], "data": 1}', "invalid_message", "topic", True),
    ('{"type": "subscribe", "id": 1, "topic": ""}', "invalid_topic", "empty", True),
    ('{"type": "subscribe", "id": 1, "topic": "a\\u0000b"}', "invalid_topic", "control", True),
    ('{"type": "subscribe", "id": 1, "topic": "\\ud800"}', "invalid_topic", "surrogates", True),
    (f'{{"type": "subscribe", "id": 1, "topic": "{"t" * 256}"}}', "invalid_topic", "255", True),
    (f'{{"type": "subscribe", "id": 1, "topic": "{"é" * 128}"}}', "invalid_topic", "255", True),
    (f'{{"type": "publish", "id": 1, "topic": "{"t" * 50_000}"}}', "invalid_topic", "255", True),
    (SUBSCRIBE + ', "since": "e:1"}', "invalid_position", "since", True),
    (SUBSCRIBE + ', "since": 1}', "invalid_position", "since", True),
    (SUBSCRIBE + ', "since": {"epoch": "e"}}', "invalid_position", "since", True),
    (SUBSCRIBE + ', "since": ["e"]}', "invalid_position", "position", True),
    (SUBSCRIBE + ', "since": ["e", "1"]}', "invalid_position", "offset", True),
    (SUBSCRIBE + ', "since": ["e", 1.5]}', "invalid_position", "offset", True),
    (SUBSCRIBE + ', "since": ["e", true]}', "invalid_position", "offset", True),
    (SUBSCRIBE + ', "since": ["e", -1]}', "invalid_position", "offset", True),
    (SUBSCRIBE + ', "since": ["e", 1' + "0" * 4000 + "]}", "invalid_position", "offset", True),
    (SUBSCRIBE + ', "since": ["", 1]}', "invalid_position", "epoch", True),
    (SUBSCRIBE + ', "since": ["e\\r\\nDEL x", 1]}', "invalid_position", "epoch", True),
    (SUBSCRIBE + ', "since": ["{t}:meta", 1]}', "invalid_position", "epoch", True),
    (SUBSCRIBE + ', "since": ["' + "e" * 60_000 + '", 1]}', "invalid_position", "epoch", True),
    ('{"type": "publish", "id": 1, "topic": "t"}', "invalid_message", "data", True),
    ('{"type": "publish", "id": 1, "topic": "t", "data": 1e999}', "invalid_message", "data", True),
    ('{"type": "ping", "id": 1e999}', "invalid_message", "got a number", False),
    ('{"type": -1e999, "id": 1}', "unknown_type", "a number", True),
    ('{"type": "subscribe", "id": 1, "topic": 1e999}', "invalid_message", "a number", True),
    (
        '{"type": "subscribe", "id": 1, "topic": "t", "since": 1e999}',
        "invalid_position",
        "a number",
        True,
    ),
    ('{"type": "unsubscribe", "id": 1, "topic": "t"}', "not_subscribed", "", True),
    (
        f'{{"type": "publish", "id": 1, "topic": "t", "data": "{"x" * 65536}"}}',
        "too_large",
        "",
        True,
    ),
    (
        f'{{"type": "publish", "id": 1, "topic": "t", "data": "{"é" * 33000}"}}',
        "too_large",
        "",
        True,
    ),
]


@ALL
async def test_hostile_messages(running: Any) -> None:
    async with running() as (gateway, uri), client_of(uri) as client:
        await client.subscribe("witness")
        for text, code, named, told in HOSTILE:
            await client.connection.send(text)
            answer = await client.read()
            assert (answer["type"], answer["code"], answer["retry"]) == ("error", code, False), text
            assert named in answer["message"]
            assert answer["id"] == (1 if told else None), text
            assert len(json.dumps(answer)) < 1000
        # All else is as it was.
        await gateway.publish("witness", "still here")
        assert await client.data(1) == ["still here"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
REQUESTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["subscribe", "unsubscribe", "publish", "ping"]) | VALUES},
    optional={
        "id": st.integers(-1, 2**54) | VALUES,
        "topic": st.text(min_size=1) | VALUES,
        "since": st.tuples(st.text("abc019", min_size=1), st.integers()) | VALUES,
        "data": VALUES,
    },
)


@given(st.text() | VALUES.map(json.dumps) | REQUESTS.map(json.dumps))
def test_whatever_clients_send(text: str) -> None:
    """It is understood, or an error that can be told; what is understood can be published."""
    failure = None
    try:
        request = _understand(text, 1000)
    except _Failure as exc:
        failure = exc
    if failure is not None:
        assert failure.number is None or 0 <= failure.number < 2**53
        _encode([failure.code, str(failure), failure.topic]).encode()
        return
    sent = json.loads(text)
    assert (request.kind, request.number) == (sent["type"], sent.get("id"))
    if request.kind == "publish":
        text = envelope(request.topic, Position("e", 1), request.message)
        assert json.loads(text)["data"] == sent["data"]
        text.encode()


async def test_what_is_not_deep() -> None:
    async with gateway_of() as (_, uri), client_of(uri) as client:
        await client.subscribe("room")
        deepest = json.loads("[" * 63 + "]" * 63)
        for data in ([[], {}] * 100, "[{" * 100, {'"[\\"': '[\\"[' * 100}, deepest):
            await client.ask("publish", topic="room", data=data)
            messages = [await client.read(), await client.read()]
            assert data in [message.get("data") for message in messages]


async def test_unpaired_surrogates_are_data() -> None:
    """JavaScript's strings may have them; JSON escapes them, UTF-8 can't have them."""
    async with gateway_of() as (_, uri), client_of(uri) as client:
        await client.subscribe("room")
        await client.ask("publish", topic="room", data={"text": "\ud83d", "é": "é"})
        messages = [await client.read(), await client.read()]
        assert {"text": "\ud83d", "é": "é"} in [message.get("data") for message in messages]


@ALL
async def test_binary_messages(running: Any) -> None:
    async with running() as (_, uri), client_of(uri) as client:
        await client.ask("publish", topic="room", data="before")
        await client.connection.send(b'{"type": "ping"}')
        assert (await client.read())["type"] == "published"
        with pytest.raises(ConnectionClosed):
            await client.read()
        assert client.connection.close_code == 1003


async def test_messages_beyond_the_limit_of_the_server() -> None:
    async with gateway_of() as (_, uri), client_of(uri) as client:
        await client.connection.send("x" * 2**21)
        with pytest.raises(ConnectionClosed):
            await client.read()
        assert client.connection.close_code == 1009


async def test_subscriptions_without_end() -> None:
    async with gateway_of({"max_subscriptions": 100}) as (gateway, uri), client_of(uri) as client:

        async def ask() -> None:
            for number in range(10_000):
                await client.ask("subscribe", topic=f"topic.{number}")

        asking = asyncio.create_task(ask())
        answers = [await client.read() for _ in range(10_000)]
        await asking
        kinds = [answer["type"] for answer in answers]
        assert (kinds.count("subscribed"), kinds.count("error")) == (100, 9_900)
        assert {answer.get("code") for answer in answers} == {None, "limit"}
        # The same topic again is one, which it is told.
        answer = await client.request("subscribe", topic="topic.7")
        assert answer["code"] == "already_subscribed"
        await client.request("unsubscribe", topic="topic.7")
        assert (await client.subscribe("topic.9999"))["recovered"] is None
        await gateway.publish("topic.9999", 1)
        assert await client.data(1) == [1]


async def test_publishing_without_end() -> None:
    """No more is under way than `max_pending`; nothing is lost, nothing changes its place."""
    under_way = most = 0

    async def take(connection: Any, topic: str, data: Any) -> Position | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await gateway.publish(topic, data)

    async with gateway_of(on_publish=take, max_pending=8) as (gateway, uri):
        async with client_of(uri) as client, client_of(uri) as reader:
            for topic in range(20):
                await reader.subscribe(f"room.{topic}")

            async def ask() -> None:
                for number in range(3000):
                    await client.ask("publish", topic=f"room.{number % 20}", data=number)

            asking = asyncio.create_task(ask())
            answers = {(await client.read())["type"] for _ in range(3000)}
            await asking
            assert answers == {"published"}
            data = await reader.data(3000)
            for topic in range(20):
                assert [number for number in data if number % 20 == topic] == list(
                    range(topic, 3000, 20)
                )
    assert 1 < most <= 8


async def test_client_that_does_not_read_its_answers() -> None:
    """It waits for itself: nothing is read from it meanwhile, and others are served."""
    async with gateway_of(max_pending=4) as (gateway, uri):
        async with client_of(uri) as other, client_of(uri, max_queue=1) as client:
            sent = 0

            async def ask() -> None:
                nonlocal sent
                while True:
                    await client.connection.send('{"type": "x"}')
                    sent += 1

            asking = asyncio.create_task(ask())
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)
            await other.subscribe("room")
            await gateway.publish("room", 1)
            assert await other.data(1) == [1]
            asking.cancel()
            await asyncio.wait([asking])
            client.connection.transport.abort()


@ALL
async def test_subscriber_that_does_not_read(running: Any) -> None:
    async with running(max_backlog=100_000) as (gateway, uri), client_of(uri) as other:
        await other.subscribe("room")
        async with connect(uri, max_queue=1, compression=None) as connection:
            client = Client(connection)
            assert (await client.read())["type"] == "hello"
            await client.subscribe("room")
            # More than the sockets' buffers take.
            for number in range(2000):
                await gateway.publish("room", str(number) + "x" * 10_000)
                await other.data(1)
                if gateway.topics.subscribers("room") == 1:
                    break
            else:
                raise AssertionError("it was never given up")
            with pytest.raises(ConnectionClosed):
                while True:
                    await client.read()
            assert connection.close_code in (1006, 1013)


# ---------------------------------------------------------------------- documents


def test_errors_are_described() -> None:
    document = Path(__file__).parents[3] / "docs" / "topics-protocol.md"
    if not document.exists():
        pytest.skip("the documents are not beside the tests")
    source = inspect.getsource(gateway_module)
    raised = set(re.findall(r'_Failure\(\s*"(\w+)"', source))
    section = document.read_text("utf-8").split("### error")[1].split("## Limits")[0]
    assert raised == set(re.findall(r"(?m)^\| `(\w+)` \|", section)) - {"code"}
    assert len(raised) > 10


# ---------------------------------------------------------------------- the client


def test_browser_client_is_installed() -> None:
    files = resources.files("wsapi.topics") / "browser"
    assert browser_client() == (files / "wsapi-topics.js").read_text("utf-8")
    assert "export class Topics" in browser_client()
    assert json.loads((files / "package.json").read_text("utf-8"))["name"] == "wsapi-topics"
    assert (files / "wsapi-topics.d.ts").is_file()
