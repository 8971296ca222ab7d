"""The gateway with clients that are broken or hostile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wsapi.topics.gateway_helpers import ALL, Client, client_of, gateway_of
from wsapi.asyncio.client import connect
from wsapi.exceptions import ConnectionClosed
from wsapi.topics import Position
from wsapi.topics.gateway import _encode, _Failure, _understand, envelope

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
