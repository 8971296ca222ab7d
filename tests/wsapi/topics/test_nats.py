"""The bus on NATS, with real servers: messages, positions, and histories."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")


from tests.wsapi.helpers import serving, until, uri_of
from tests.wsapi.topics.nats_broker import NatsServer, Start, nats, start_nats
from tests.wsapi.topics.nats_helpers import admin, api, chained, held, opened, own, stream_config
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
from wsapi.topics import Topics
from wsapi.topics._nats_options import is_address
from wsapi.topics._nats_stream import StreamSettings, encode, new_epoch, parse_stream
from wsapi.topics.bus import TRANSIENT, Message, Notice
from wsapi.topics.nats import NatsBus
from wsapi.topics.positions import Position

__all__ = ["nats", "start_nats"]

NAMES = [
    "room",
    "room.1",
    "*",
    ">",
    ".",
    "a.>",
    "with space\u00a0and tab\t",
    "$JS.API.>",
    "é\u4e2d\U0001f600",
    "=2E",
    "~",
    "x" * 255,
    "\U0001f600" * 63,
    ">" * 255,
]


# ---------------------------------------------------------------------- with a history


@pytest.mark.parametrize("name", NAMES)
async def test_messages_of_a_topic(nats: NatsServer, name: str) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        start = await bus.follow(name)
        assert start is not None
        await bus.follow("another")
        first = await bus.publish(name, "text \u4e2d")
        await bus.publish("another", "x")
        second = await bus.publish(name, b"\0\xff")
        assert first is not None
        assert second is not None
        await until(lambda: len(receiver.notices) == 3)
        ours = [notice for notice in receiver.notices if notice.topic == name]
        assert [(n.message, n.position) for n in ours] == [
            ("text \u4e2d", first),
            (b"\0\xff", second),
        ]
        assert chained(ours, start.offset)
        assert await bus.position(name) == second
        page = await bus.read(name, start, 10)
        assert page == (ours, True, second)
        assert await bus.read(name, first, 10) == ([ours[1]], True, second)


def test_no_two_names_have_one_subject() -> None:
    names = [*NAMES, "a", "A", "=2e", "=", "==", "room=2E1", "e\u0301", "\u00e9", "\0", "-", "_"]
    subjects = {encode(name) for name in names}
    assert len(subjects) == len(set(names))
    for subject in subjects:
        assert subject.isascii()
        assert not set(subject) & set(" .*>\t\r\n")


async def test_order_of_what_is_published_at_once(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        start = await bus.follow("a")
        positions = await asyncio.gather(*[bus.publish("a", str(i)) for i in range(300)])
        assert positions == sorted(positions)
        await until(lambda: len(receiver.notices) == 300)
        assert receiver.messages() == [str(i) for i in range(300)]
        assert chained(receiver.notices, start.offset)


async def test_unfollow(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        await bus.follow("a")
        await bus.follow("b")
        await bus.unfollow("a")
        await bus.unfollow("a")
        await bus.publish("a", "1")
        await bus.publish("b", "2")
        await until(lambda: receiver.notices)
        assert receiver.messages() == ["2"]
        await bus.follow("a")
        await bus.publish("a", "3")
        await until(lambda: len(receiver.notices) == 2)
        assert receiver.messages() == ["2", "3"]


async def test_positions_of_topics_without_messages(nats: NatsServer) -> None:
    """What one process calls the beginning, another one can go on from."""
    options = own()
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, _):
        first = await bus.follow("silent")
        await bus.publish("busy", "x")
        later = await other.follow("silent")
        assert first.epoch == later.epoch
        assert await bus.position("silent") == first
        assert await bus.read("silent", later, 10) == ([], True, first)
        assert await other.read("silent", first, 10) == ([], True, later)
        await other.publish("busy", "y")
        third = await bus.position("never")
        newest = await other.position("never")
        assert newest.offset > max(first.offset, later.offset, third.offset)
        assert await bus.read("silent", newest, 10) == ([], True, first)
        assert await other.read("silent", newest, 10) == ([], True, later)
        assert await bus.publish("silent", "1")
        await until(lambda: receiver.notices)
        assert chained(receiver.notices, first.offset)
        for one, since in ((bus, later), (other, first)):
            assert [n.message for n in (await one.read("silent", since, 10)).notices] == ["1"]


async def test_pages(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, _):
        start = await bus.position("a")
        positions = [await bus.publish("a", str(i)) for i in range(20)]
        messages: list[Message] = []
        since = start
        while True:
            page = await bus.read("a", since, 7)
            assert page.reaches
            assert page.latest == positions[-1]
            if not page.notices:
                break
            assert chained(page.notices, since.offset)
            messages += [notice.message for notice in page.notices]
            since = page.notices[-1].position
        assert messages == [str(i) for i in range(20)]


async def test_pages_of_large_messages(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, _):
        since = await bus.position("a")
        for number in range(12):
            await bus.publish("a", f"{number:02}" * 400_000)
        messages: list[Message] = []
        while (page := await bus.read("a", since, 100)).notices:
            assert sum(len(notice.message) for notice in page.notices) < 6 * 2**20
            messages += [notice.message[:2] for notice in page.notices]
            since = page.notices[-1].position
        assert messages == [f"{number:02}" for number in range(12)]
        assert page == ([], True, since)


async def test_positions_that_are_none(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, _):
        last = await bus.publish("a", "1")
        for since in (
            Position("foreign", 0),
            Position("0" * 16 + "n1", last.offset),
            Position(last.epoch, last.offset + 1),
            Position(last.epoch, 2**53 - 1),
        ):
            assert await bus.read("a", since, 10) == ([], False, last)


async def test_messages_that_made_room_for_others(nats: NatsServer) -> None:
    async with opened(nats, history=3, **own()) as (bus, _):
        positions = [await bus.publish("a", str(i)) for i in range(10)]
        last = positions[-1]
        for since in positions[:6]:
            assert await bus.read("a", since, 10) == ([], False, last)
        for number, since in enumerate(positions[6:], 7):
            page = await bus.read("a", since, 10)
            assert page.reaches
            assert [n.message for n in page.notices] == [str(i) for i in range(number, 10)]


async def test_topic_that_is_silent_for_longer_than_its_history(nats: NatsServer) -> None:
    """Its subscribers miss nothing, and aren't told that they do."""
    options = {**own(), "history_seconds": 1}
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, _):
        await bus.follow("silent")
        cursor = await bus.publish("silent", "1")
        lost = await bus.publish("noisy", "gone")

        async def expired(topic: str, since: Position) -> bool:
            await other.publish("busy", "x")
            return not (await other.read(topic, since, 10)).reaches

        while not await expired("silent", cursor):
            await asyncio.sleep(0.1)
        # Who follows it knows that nothing was missed, as long as it is connected or is again soon.
        assert await bus.position("silent") == cursor
        assert await bus.read("silent", cursor, 10) == ([], True, cursor)
        await bus.publish("silent", "2")
        await until(lambda: receiver.messages("silent") == ["1", "2"])
        assert receiver.notices[-1].previous == cursor.offset
        cursor = receiver.notices[-1].position
        while not await expired("silent", cursor):
            await asyncio.sleep(0.1)
        bus.reconnect()
        await until(lambda: receiver.resumptions)
        assert await bus.read("silent", cursor, 10) == ([], True, cursor)
        # Who doesn't follow it can't know.
        assert not (await other.read("silent", cursor, 10)).reaches
        # It makes no difference what comes first.
        bus.reconnect()
        await until(lambda: receiver.resumptions == 2)
        third = await other.publish("silent", "3")
        await until(lambda: receiver.messages("silent")[-1] == "3")
        page = await bus.read("silent", cursor, 10)
        assert page.reaches
        assert [notice.position for notice in page.notices] == [third]
        assert not (await bus.read("noisy", lost, 10)).reaches


async def test_history_that_expired_while_the_connection_was_lost(start_nats: Start) -> None:
    server = start_nats()
    options = {**own(), "history_seconds": 1}
    async with (
        opened(server, **options) as (bus, receiver),
        opened(server, **options) as (other, _),
    ):
        cursor = await bus.follow("a")
        async with held(bus):
            bus.reconnect()
            await other.publish("a", "lost")
            missed = await other.position("a")
            while (await other.read("a", cursor, 10)).reaches:
                await other.publish("busy", "x")
                await asyncio.sleep(0.1)
            assert missed.offset > cursor.offset
        await until(lambda: receiver.resumptions)
        page = await bus.read("a", cursor, 10)
        assert not page.reaches
        assert page.latest.offset > cursor.offset
        # From there on nothing is missing.
        await bus.publish("a", "2")
        await until(lambda: receiver.notices)
        assert chained(receiver.notices, page.latest.offset)


async def trim(client: Any, stream: str) -> None:
    """Have the stream drop all but its last message."""
    config = await stream_config(client, stream)
    for most in (1, -1):
        answer = await api(client, f"STREAM.UPDATE.{stream}", {**config, "max_msgs": most})
        assert "error" not in answer


async def test_messages_that_are_dropped_before_they_are_noticed(nats: NatsServer) -> None:
    """They are on their way when the connection is lost."""
    options = own()
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        await bus.follow("a")
        cursor = await bus.publish("a", "1")
        await until(lambda: receiver.notices)
        bus._keeper.connection._handlers[bus._known.topics["a"].sid] = lambda data, headers: None
        await bus.publish("a", "2")
        await bus.publish("b", "3")
        await trim(client, options["stream"])
        assert await bus.position("a") == cursor
        bus.reconnect()
        await until(lambda: receiver.resumptions)
        page = await bus.read("a", cursor, 10)
        assert not page.reaches
        assert page.latest.offset > cursor.offset


async def test_messages_that_are_dropped_while_they_are_read(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, **options) as (bus, _), admin(nats) as client:
        positions = [await bus.publish("a", str(i)) for i in range(10)]
        fetch = bus._keeper.jetstream.fetch

        async def disturbed(*args: Any, **options_: Any) -> Any:
            found = await fetch(*args, **options_)
            del found.messages[3:6]
            await trim(client, options["stream"])
            return found

        bus._keeper.jetstream.fetch = disturbed
        assert await bus.read("a", positions[0], 100) == ([], False, positions[-1])


async def test_nobody_deletes_single_messages(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, **options) as (bus, _), admin(nats) as client:
        start = await bus.position("a")
        for i in range(3):
            await bus.publish("a", str(i))
        stream = options["stream"]
        for what, request in (
            ("PURGE", {}),
            ("PURGE", {"filter": bus._known.kept("a")}),
            ("MSG.DELETE", {"seq": 2}),
        ):
            assert "error" in await api(client, f"STREAM.{what}.{stream}", request)
        assert len((await bus.read("a", start, 10)).notices) == 3


async def test_subscribers_of_a_silent_topic_change_processes(nats: NatsServer) -> None:
    options = own()
    async with Topics(NatsBus(nats.uri, **options)) as a, Topics(NatsBus(nats.uri, **options)) as b:
        there = {"a": a, "b": b}

        async def handler(ws: ServerConnection) -> None:
            process, _, since = ws.request.path[1:].partition("/")
            async with there[process].subscribe(ws, "silent", since=since or None) as subscription:
                await ws.send(f"{subscription.recovered} {subscription.position}")
                await ws.wait_closed()

        async with serving(handler) as server:

            async def visit(path: str) -> list[str]:
                async with connect(uri_of(server, path)) as ws:
                    return (await ws.recv()).split()

            _, first = await visit("/a/")
            await a.publish("busy", "x")
            await b.publish("busy", "y")
            _, second = await visit("/b/")
            assert first != second
            for since in (first, second):
                assert await visit(f"/a/{since}") == ["True", first]
                assert await visit(f"/b/{since}") == ["True", second]
            async with (
                connect(uri_of(server, f"/a/{second}")) as one,
                connect(uri_of(server, f"/b/{first}")) as two,
            ):
                for ws in (one, two):
                    await ws.recv()
                position = await a.publish("silent", "message")
                for ws in (one, two):
                    assert await ws.recv() == "message"
            for path in (f"/a/{second}", f"/b/{first}"):
                async with connect(uri_of(server, path)) as ws:
                    assert await ws.recv() == "message"
                    assert await ws.recv() == f"True {position}"


# ---------------------------------------------------------------------- without one


async def test_without_history(start_nats: Start) -> None:
    server = start_nats(jetstream=False)
    options = {"prefix": "x", "history": None}
    async with (
        opened(server, **options) as (bus, receiver),
        opened(server, **options) as (other, _),
    ):
        for name in NAMES:
            assert await bus.follow(name) is None
            assert await other.publish(name, name) is None
            assert await bus.position(name) is None
            with pytest.raises(ValueError, match="no history"):
                await bus.read(name, Position("x", 0), 1)
        assert await bus.publish("room", b"\0") is None
        await until(lambda: len(receiver.notices) == len(NAMES) + 1)
        assert receiver.notices == [*[Notice(name, name) for name in NAMES], Notice("room", b"\0")]
        await bus.unfollow("room")
        await asyncio.gather(*[other.publish("room.1", str(i)) for i in range(100)])
        await until(lambda: len(receiver.notices) == len(NAMES) + 101)
        assert receiver.messages()[-100:] == [str(i) for i in range(100)]


async def test_transient_topics(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        name = f"{TRANSIENT}alive.*"
        assert await bus.follow(name) is None
        assert await bus.publish(name, b"1") is None
        assert await bus.position(name) is None
        await until(lambda: receiver.notices)
        assert receiver.notices == [Notice(name, b"1")]
        await bus.follow("alive.*")
        await bus.publish("alive.*", "2")
        await until(lambda: len(receiver.notices) == 2)
        assert receiver.messages(name) == [b"1"]


# ---------------------------------------------------------------------- what isn't ours


async def test_foreign_messages(nats: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    options = own()
    prefix = options["prefix"]
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        start = await bus.follow("a")
        forged = {
            "Nats-Stream": "x",
            "Nats-Subject": "theirs",
            "Nats-Sequence": "1",
            "Nats-Time-Stamp": "x",
            "Nats-Last-Sequence": "0",
        }
        for payload, headers in (
            (b"t without a position", None),
            (b"", None),
            (b"t", {"Nats-Sequence": "-1"}),
            (b"t", {"Nats-Sequence": "9" * 30}),
            (b"t", forged),
            (b"t", {**forged, "Nats-Subject": f"{prefix}.p.other.a"}),
        ):
            await client.publish(f"{prefix}.l.a", payload, headers=headers)
        await bus.publish("a", "1")
        # In the stream, they are between ours.
        for payload in (b"", b"x", b"t\xff", b"t\xed\xa0\x80"):
            await client.request(bus._known.kept("a"), payload, timeout=5)
        second = await bus.publish("a", "2")
        await client.request(bus._known.kept("a"), b"x", timeout=5)
        await client.flush()
        await until(lambda: bus.ignored >= 10)
        assert receiver.messages() == ["1", "2"]
        assert chained(receiver.notices, start.offset)
        assert await bus.position("a") == second
        page = await bus.read("a", start, 10)
        assert [notice.message for notice in page.notices] == ["1", "2"]
        assert page.latest == second
        assert (await bus.read("a", second, 10)) == ([], True, second)
        third = await bus.publish("a", "3")
        await until(lambda: len(receiver.notices) == 3)
        assert receiver.notices[-1][2:4] == (third, second.offset)
        assert not receiver.reasons
    records = [record for record in caplog.records if record.name == "wsapi.topics"]
    assert len(records) == 1
    assert prefix in records[0].getMessage()


async def test_foreign_messages_without_history(
    nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = own()["prefix"]
    async with (
        opened(nats, prefix=prefix, history=None) as (bus, receiver),
        admin(nats) as client,
    ):
        await bus.follow("a")
        for payload in (b"", b"\0", b"t\xff"):
            await client.publish(f"{prefix}.l.a", payload)
        await client.flush()
        await bus.publish("a", "1")
        await until(lambda: receiver.notices)
        assert receiver.messages() == ["1"]
        assert bus.ignored == 3
    assert len([record for record in caplog.records if record.name == "wsapi.topics"]) == 1


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "options, match",
    [
        ({"servers": []}, "at least one"),
        ({"servers": "http://x"}, "a server is nats://"),
        ({"servers": "nats://"}, "a server is nats://"),
        ({"servers": "nats://h:99999"}, "isn't the URI"),
        ({"servers": ["nats://h", "ws://h"]}, "WebSocket"),
        ({"servers": "ftp://user:secret@h"}, "a server is nats://"),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "a..b"}, "prefix"),
        ({"prefix": "a.*"}, "prefix"),
        ({"prefix": "x" * 129}, "prefix"),
        ({"stream": "a.b"}, "stream"),
        ({"stream": ""}, "stream"),
        ({"history": -1}, "history is between"),
        ({"history_bytes": 0}, "history_bytes is between"),
        ({"history_seconds": 0.5}, "history_seconds is finite"),
        ({"history_seconds": float("inf")}, "history_seconds is finite"),
        ({"replicas": 0}, "replicas is between"),
        ({"storage": "disk"}, "storage is"),
        ({"timeout": 0}, "timeout is finite"),
        ({"timeout": float("nan")}, "timeout is finite"),
        ({"max_pending_bytes": 0}, "max_pending_bytes is at least"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        NatsBus(**options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"history": 1.5}, {"history": True}, {"timeout": "1"}, {"servers": [1]}),
        *({"replicas": None}, {"stream": 1}, {"prefix": b"a"}),
    ],
)
def test_arguments_of_other_types(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        NatsBus(**options)


def test_servers() -> None:
    bus = NatsBus(["nats://user:secret@h1", "h2:1234", "tls://[::1]"])
    assert bus._keeper.servers == [
        "nats://user:secret@h1:4222",
        "nats://h2:1234",
        "tls://[::1]:4222",
    ]
    assert "secret" not in repr(bus)
    assert "h1:4222" in repr(bus)


def test_addresses() -> None:
    assert is_address("127.0.0.1")
    assert is_address("::1")
    assert not is_address("localhost")


def test_more_replicas_than_a_stream_has() -> None:
    """Others may want fewer: they are never taken away."""
    settings = StreamSettings("S", "p", 10, 60.0, 2**20, 3, "file")
    epoch = new_epoch(settings.per_subject)
    state = {"first_seq": 1, "last_seq": 0}
    for replicas, changes in ((1, {"num_replicas": 3}), (3, {}), (5, {})):
        config = settings.config(epoch) | {"num_replicas": replicas}
        stream = parse_stream({"config": config, "state": state}, settings.prefix)
        assert stream.epoch == epoch
        assert settings.changes(stream) == changes
