"""The gateway: the protocol, trouble with a bus, and what comes with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import random
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.gateway_helpers import ALL, client_of, gateway_of
from tests.wsapi.topics.memory_bus import MemoryBroker
from wsapi.asyncio.client import connect
from wsapi.topics import History, Position
from wsapi.topics import gateway as gateway_module
from wsapi.topics.gateway import browser_client, envelope
from wsproto_fast import PreparedMessage


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
