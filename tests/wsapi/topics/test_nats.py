"""The bus on NATS, with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")

import nats as nats_py

from tests.wsapi.helpers import serving, until, uri_of
from tests.wsapi.topics.nats_broker import NatsServer, Start, nats, start_nats
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
from wsapi.topics import Topics
from wsapi.topics._nats_stream import encode
from wsapi.topics.bus import TRANSIENT, Message, Notice
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
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


class Receiver:
    """What a bus has told."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.reasons: list[Exception] = []
        self.resumptions = 0
        self.suspects: list[str] = []

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    def interrupted(self, reason: Exception) -> None:
        self.reasons.append(reason)

    def resumed(self) -> None:
        self.resumptions += 1
        assert self.resumptions == len(self.reasons)

    def suspect(self, topic: str) -> None:
        self.suspects.append(topic)

    def messages(self, topic: str | None = None) -> list[Message]:
        return [notice.message for notice in self.notices if topic in (None, notice.topic)]


def own() -> dict[str, Any]:
    """Return options that no other test has."""
    unique = uuid4().hex
    return {"prefix": f"t{unique}", "stream": f"S{unique}"}


@contextlib.asynccontextmanager
async def opened(
    server: NatsServer | str | list[str], **options: Any
) -> AsyncIterator[tuple[NatsBus, Receiver]]:
    bus = NatsBus(server.uri if isinstance(server, NatsServer) else server, **options)
    receiver = Receiver()
    await bus.open(receiver)
    try:
        yield bus, receiver
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def admin(server: NatsServer) -> AsyncIterator[Any]:
    """Give a client of NATS that knows nothing of us."""
    client = await nats_py.connect(server.uri)
    try:
        yield client
    finally:
        await client.close()


async def stream_config(client: Any, stream: str) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
    return json.loads(answer.data)["config"]


async def api(client: Any, what: str, request: object) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{what}", json.dumps(request).encode(), timeout=5)
    return json.loads(answer.data)


async def publish_until(bus: NatsBus, topic: str, message: Message) -> Position | None:
    """Publish as soon as the bus is there again."""
    while True:
        try:
            return await bus.publish(topic, message)
        except BusUnavailable:
            await asyncio.sleep(0.01)


def chained(notices: Sequence[Notice], first: int) -> bool:
    """Tell whether each notice follows the one before it."""
    for notice in notices:
        assert notice.position is not None
        if notice.previous != first:
            return False
        first = notice.position.offset
    return True


@contextlib.asynccontextmanager
async def held(bus: NatsBus) -> AsyncIterator[None]:
    """Have all attempts of a bus to connect fail for a while."""
    connect = bus._establish

    async def refuse() -> None:
        raise OSError

    bus._establish = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        bus._establish = connect  # type: ignore[method-assign]


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
        bus._connection._handlers[bus._topics["a"].sid] = lambda data, headers: None
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
        fetch = bus._jetstream.fetch

        async def disturbed(*args: Any, **options_: Any) -> Any:
            found = await fetch(*args, **options_)
            del found.messages[3:6]
            await trim(client, options["stream"])
            return found

        bus._jetstream.fetch = disturbed
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
            ("PURGE", {"filter": bus._kept("a")}),
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


# ---------------------------------------------------------------------- lost connections


async def all_messages(
    bus: NatsBus, receiver: Receiver, topic: str, since: Position
) -> list[Message]:
    """Return what was noticed and what can be read, as a reader puts it together."""
    found: dict[int, Message] = {}
    while True:
        try:
            page = await bus.read(topic, since, 50)
        except BusUnavailable:
            await asyncio.sleep(0.01)
            continue
        assert page.reaches
        found.update({notice.position.offset: notice.message for notice in page.notices})
        if not page.notices:
            break
        since = page.notices[-1].position
    for notice in receiver.notices:
        if notice.topic == topic:
            assert found[notice.position.offset] == notice.message
    return [found[offset] for offset in sorted(found)]


async def test_connection_that_is_lost_again_and_again(nats: NatsServer) -> None:
    options = {**own(), "history": 100_000}
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, _):
        for number in range(50):
            await bus.follow(f"other {number}")
        start = await bus.follow("a")
        published: list[str] = []
        done = asyncio.Event()

        async def publish() -> None:
            while not done.is_set():
                await other.publish("a", str(len(published)))
                published.append(str(len(published)))
                await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        for number in range(1, 31):
            bus._connection._transport._io_writer.transport.abort()
            await until(lambda: receiver.resumptions == number)  # noqa: B023
            count = len(receiver.notices)
            await until(lambda: len(receiver.notices) > count + 5)  # noqa: B023
        done.set()
        await publishing
        await until(lambda: receiver.notices[-1].message == published[-1])
        assert await all_messages(bus, receiver, "a", start) == published
        assert len(receiver.reasons) == 30


async def test_client_that_reads_no_more(nats: NatsServer) -> None:
    """nats-py stops so after some errors, and says nothing."""
    async with opened(nats, **own()) as (bus, receiver):
        await bus.follow("a")
        bus._connection._reading_task.cancel()
        await until(lambda: receiver.resumptions)
        await bus.publish("a", "1")
        await until(lambda: receiver.notices)


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("closed")])
@pytest.mark.parametrize("history", [10, None])
async def test_transport_that_fails(
    nats: NatsServer, history: int | None, error: Exception
) -> None:
    """What was being published may be: the error comes after a part was written."""
    async with opened(nats, **own(), history=history) as (bus, receiver):
        await bus.follow("a")

        async def fail(*args: object, **options: object) -> None:
            raise error

        for number, call in enumerate((bus.publish, bus.follow), 1):
            bus._connection._send_command = fail
            with pytest.raises(PublishUncertain if call == bus.publish else BusUnavailable):
                await call(*("b", "x")[: 3 - number])
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        bus._connection._send_command = fail
        await bus.unfollow("a")
        await until(lambda: receiver.resumptions == 3)


async def test_process_that_does_not_keep_up(start_nats: Start) -> None:
    """The server ends its connection: it is told, and reads what it missed."""
    server = start_nats(settings="max_pending: 2000000")
    log = server.directory / "log"
    async with opened(server, history=1000) as (bus, receiver), opened(server) as (other, _):
        start = await bus.follow("a")
        transport = bus._connection._transport._io_writer.transport
        transport.pause_reading()
        published: list[str] = []
        while "Slow Consumer" not in log.read_text():
            message = f"{len(published):09}" * 9000  # bytes: 81,000
            await other.publish("a", message)
            published.append(message)
        transport.resume_reading()
        await until(lambda: receiver.resumptions)
        assert await all_messages(bus, receiver, "a", start) == published
        assert len(receiver.notices) < len(published)


async def test_publisher_whose_connection_is_lost(nats: NatsServer) -> None:
    """What raised nothing was published once, what raised PublishUncertain once at most."""
    options = {**own(), "history": 100_000}
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, got):
        start = await other.follow("a")
        sure: set[str] = set()
        unsure: set[str] = set()
        refused: set[str] = set()

        async def publish(message: str) -> None:
            try:
                await bus.publish("a", message)
                sure.add(message)
            except PublishUncertain:
                unsure.add(message)
            except BusUnavailable:
                refused.add(message)

        for number in range(1, 21):
            publishing = [asyncio.create_task(publish(f"{number} {i}")) for i in range(20 * number)]
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            bus._connection._transport._io_writer.transport.abort()
            await asyncio.gather(*publishing)
            await publish(f"{number} again")
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        await bus.publish("a", "end")
        await until(lambda: got.notices and got.notices[-1].message == "end")
        messages = await all_messages(other, got, "a", start)
        assert len(set(messages)) == len(messages)
        assert sure <= set(messages)
        assert not refused & set(messages)
        assert set(messages) <= sure | unsure | {"end"}
        assert sure
        assert unsure


async def test_server_that_starts_again_with_its_files(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server) as (bus, receiver):
        await bus.follow("a")
        first = await bus.publish("a", "1")
        for how in (signal.SIGKILL, signal.SIGTERM):
            count = receiver.resumptions
            await asyncio.to_thread(server.restart, how)
            await until(lambda: receiver.resumptions > count)  # noqa: B023
        assert (await bus.read("a", first, 10)).reaches
        second = await bus.publish("a", "2")
        assert second.epoch == first.epoch
        await until(lambda: len(receiver.notices) == 2)
        assert chained(receiver.notices, receiver.notices[0].previous)


async def test_server_that_starts_again_without_what_it_had(start_nats: Start) -> None:
    """The stream is made again by whoever comes first."""
    server = start_nats()
    async with contextlib.AsyncExitStack() as stack:
        opening = [stack.enter_async_context(opened(server, storage="memory")) for _ in range(8)]
        buses = [await one for one in opening]
        cursors = [await bus.follow("a") for bus, _ in buses]
        first = await buses[0][0].publish("a", "1")
        await asyncio.to_thread(server.restart)
        for _, receiver in buses:
            await until(lambda: receiver.resumptions)  # noqa: B023
        second = await buses[1][0].publish("a", "2")
        assert second.epoch != first.epoch
        for (bus, receiver), cursor in zip(buses, cursors, strict=True):
            await until(lambda: receiver.messages()[-1:] == ["2"])  # noqa: B023
            assert receiver.notices[-1].position == second
            assert await bus.read("a", cursor, 10) == ([], False, second)


@pytest.mark.parametrize("others", [0, 1, 5])
async def test_server_that_has_forgotten_the_last_messages(start_nats: Start, others: int) -> None:
    """Numbers that were given twice are never mixed: a new epoch begins."""
    server = start_nats()
    backup = server.directory / "backup"
    async with opened(server) as (bus, receiver), opened(server) as (other, _):
        await bus.follow("a")
        first = await bus.publish("a", "1")
        await asyncio.to_thread(server.stop, signal.SIGTERM)
        shutil.copytree(server.directory / "store", backup)
        await asyncio.to_thread(server.start)
        for number in range(3):
            await publish_until(bus, "a", f"lost {number}")
        cursor = receiver.notices[-1].position
        async with held(bus):
            await asyncio.to_thread(server.stop)
            shutil.rmtree(server.directory / "store")
            shutil.copytree(backup, server.directory / "store")
            await asyncio.to_thread(server.start)
            for number in range(others):
                await publish_until(other, "a", f"other {number}")
        latest = await publish_until(bus, "a", "2")
        await until(lambda: receiver.messages()[-1:] == ["2"])
        assert latest.epoch != cursor.epoch == first.epoch
        page = await bus.read("a", cursor, 10)
        assert not page.reaches
        assert page.latest == latest
        assert (await publish_until(other, "a", "3")).epoch == latest.epoch


async def test_server_that_stops_for_a_while(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server, timeout=0.3) as (bus, receiver):
        start = await bus.follow("a")
        server.pause()
        try:
            calls = [bus.publish("a", "1"), bus.follow("b"), bus.position("a"), bus.unfollow("x")]
            uncertain, *others, done = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(uncertain, PublishUncertain)
            assert all(isinstance(error, BusUnavailable) for error in others)
            assert done is None
            bus.reconnect()
            with pytest.raises(BusUnavailable):
                await bus.publish("a", "2")
        finally:
            server.go_on()
        await until(lambda: receiver.resumptions)
        await publish_until(bus, "a", "3")
        await until(lambda: receiver.messages()[-1:] == ["3"])
        messages = await all_messages(bus, receiver, "a", start)
        assert messages in (["1", "3"], ["3"])


async def test_server_that_nobody_notices_to_be_dead(
    start_nats: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics.nats.BEAT_INTERVAL", 0.1)
    server = start_nats()
    async with (
        opened(server, timeout=0.3) as (_, receiver),
        opened(server, timeout=0.3, history=None) as (_, core),
    ):
        server.pause()
        try:
            await until(lambda: receiver.reasons and core.reasons)
        finally:
            server.go_on()
        await until(lambda: receiver.resumptions and core.resumptions)


@pytest.mark.parametrize("history", [100, None])
async def test_close_while_the_server_stands(start_nats: Start, history: int | None) -> None:
    server = start_nats()
    bus = NatsBus(server.uri, history=history, timeout=0.5)
    await bus.open(Receiver())
    server.pause()
    try:
        calls = [asyncio.create_task(bus.publish("a", "x" * 500_000)) for _ in range(50)]
        calls.append(asyncio.create_task(bus.follow("a")))
        await asyncio.sleep(0.01)
        await bus.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, (BusUnavailable, PublishUncertain))
        await bus.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await bus.publish("a", "x")
    finally:
        server.go_on()


async def test_cancelled_calls(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        for turns in range(12):
            calls = [
                asyncio.create_task(call)
                for call in (
                    bus.publish("a", "x"),
                    bus.follow("a"),
                    bus.position("a"),
                    bus.read("a", Position(bus._epoch, 0), 5),
                )
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await bus.unfollow("a")
        await bus.follow("a")
        await bus.publish("a", "1")
        await until(lambda: receiver.messages()[-1:] == ["1"])


# ---------------------------------------------------------------------- streams


async def test_stream_that_is_deleted(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.topics.nats.BEAT_INTERVAL", 0.1)
    options = own()
    async with (
        opened(nats, **options) as (bus, receiver),
        opened(nats, **options) as (other, got),
        admin(nats) as client,
    ):
        cursor = await bus.follow("a")
        await other.follow("a")
        assert "error" not in await api(client, f"STREAM.DELETE.{options['stream']}", {})
        again = await asyncio.gather(*[bus.publish("a", str(i)) for i in range(10)])
        assert {position.epoch for position in again} != {cursor.epoch}
        assert len({position.epoch for position in again}) == 1
        # Whoever didn't publish is told, too.
        await until(lambda: receiver.resumptions and got.resumptions)
        for one in (bus, other):
            assert await one.read("a", cursor, 10) == ([], False, again[-1])
        await bus.publish("a", "after")
        for one in (receiver, got):
            await until(lambda: one.messages()[-1:] == ["after"])  # noqa: B023
            assert one.notices[-1].previous == again[-1].offset


async def test_stream_that_is_deleted_while_nobody_publishes(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics.nats.BEAT_INTERVAL", 0.1)
    options = own()
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        cursor = await bus.follow("a")
        await api(client, f"STREAM.DELETE.{options['stream']}", {})
        await until(lambda: receiver.resumptions)
        assert (await bus.position("a")).epoch != cursor.epoch


async def test_stream_that_repeats_nothing_any_more(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that would be deaf notices, and repairs it."""
    monkeypatch.setattr("wsapi.topics.nats.BEAT_INTERVAL", 0.1)
    options = {**own(), "timeout": 0.5}
    async with opened(nats, **options) as (bus, receiver), admin(nats) as client:
        await bus.follow("a")
        config = await stream_config(client, options["stream"])
        del config["republish"]
        assert "error" not in await api(client, f"STREAM.UPDATE.{options['stream']}", config)
        await until(lambda: receiver.resumptions)
        await bus.publish("a", "1")
        await until(lambda: receiver.messages() == ["1"])


async def test_limits_grow_and_never_shrink(nats: NatsServer) -> None:
    options = own()
    async with admin(nats) as client:
        for limits, history, seconds, size in (
            ({"history": 10, "history_seconds": 60, "history_bytes": 2**20}, 10, 60, 2**20),
            ({"history": 20, "history_seconds": 30, "history_bytes": 2**21}, 20, 60, 2**21),
            ({"history": 5, "history_seconds": 90, "history_bytes": 2**19}, 20, 90, 2**21),
        ):
            async with opened(nats, **options, **limits):
                config = await stream_config(client, options["stream"])
                assert config["max_msgs_per_subject"] == history + 1
                assert config["max_age"] == seconds * 10**9
                assert config["max_bytes"] == size


async def test_history_that_has_grown_hides_no_gap(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, history=3, **options) as (bus, _):
        positions = [await bus.publish("a", str(i)) for i in range(10)]
    async with opened(nats, history=100, **options) as (bus, _):
        assert not (await bus.read("a", positions[2], 100)).reaches
        positions.append(await bus.publish("a", "10"))
        assert not (await bus.read("a", positions[2], 100)).reaches
        assert (await bus.read("a", positions[6], 100)).reaches


@pytest.mark.parametrize(
    "config, match",
    [
        ({"subjects": ["theirs"]}, "its subjects are"),
        ({"storage": "memory"}, "storage is 'memory', not 'file'"),
        ({"retention": "workqueue"}, 'retention is "workqueue"'),
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is true"),
    ],
)
async def test_stream_of_somebody_else(
    nats: NatsServer, config: dict[str, Any], match: str
) -> None:
    options = own()
    stream, prefix = options["stream"], options["prefix"]
    subjects = [f"{prefix}.p.{'0' * 16}n101.*"]
    async with admin(nats) as client:
        made = await api(
            client, f"STREAM.CREATE.{stream}", {"name": stream, "subjects": subjects, **config}
        )
        assert "error" not in made
        with pytest.raises(BusUnavailable, match=match) as caught:
            async with opened(nats, **options):
                pass
        assert f"nats stream rm {stream}" in str(caught.value)
        assert (await stream_config(client, stream))["subjects"] == made["config"]["subjects"]
        await api(client, f"STREAM.DELETE.{stream}", {})


async def test_subjects_of_another_stream(nats: NatsServer) -> None:
    options = own()
    async with admin(nats) as client:
        other = f"O{uuid4().hex}"
        await api(
            client,
            f"STREAM.CREATE.{other}",
            {"name": other, "subjects": [options["prefix"] + ".>"]},
        )
        with pytest.raises(BusUnavailable, match=r"can't make stream .*overlap"):
            async with opened(nats, **options):
                pass
        await api(client, f"STREAM.DELETE.{other}", {})


# ---------------------------------------------------------------------- what servers refuse


async def test_no_jetstream(start_nats: Start) -> None:
    server = start_nats(jetstream=False)
    with pytest.raises(BusUnavailable, match=r"JetStream isn't enabled .* history=None"):
        async with opened(server):
            pass


async def test_no_server(start_nats: Start) -> None:
    server = start_nats()
    server.stop()
    bus = NatsBus(f"nats://user:secret@127.0.0.1:{server.port}")
    for _ in range(2):
        with pytest.raises(BusUnavailable, match=f"127.0.0.1:{server.port}") as caught:
            await bus.open(Receiver())
        assert "secret" not in str(caught.value)
    server.start()
    await bus.open(Receiver())
    with pytest.raises(RuntimeError, match="the bus is open"):
        await bus.open(Receiver())
    await bus.close()
    await bus.open(Receiver())
    assert await bus.publish("a", "1")
    await bus.close()


async def test_second_server(start_nats: Start) -> None:
    """Any of those that are named will do, also later."""
    servers = [start_nats(), start_nats()]
    async with opened([server.uri for server in servers]) as (bus, receiver):
        for number in range(1, 5):
            here = bus._connection.connected_url.port
            (server,) = [server for server in servers if server.port == here]
            await asyncio.to_thread(server.stop)
            await until(lambda: receiver.resumptions == number)  # noqa: B023
            assert bus._connection.connected_url.port != here
            await asyncio.to_thread(server.start)


async def test_message_that_is_too_large(start_nats: Start) -> None:
    server = start_nats(settings="max_payload: 1000")
    async with opened(server) as (bus, receiver), opened(server, history=None) as (core, _):
        await bus.follow("a")
        for one in (bus, core):
            with pytest.raises(ValueError, match="has 1000 bytes, and the NATS server takes 999"):
                await one.publish("a", b"x" * 1000)
            await one.publish("a", b"x" * 999)
        assert not receiver.reasons
        assert receiver.messages()[:1] == [b"x" * 999]


async def test_too_much_that_waits(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server, max_pending_bytes=10_000, timeout=1) as (bus, _):
        server.pause()
        try:
            calls = [asyncio.create_task(bus.publish("a", "x" * 999)) for _ in range(11)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.go_on()
        assert [type(result) for result in results] == [PublishUncertain] * 10 + [BusUnavailable]
        assert "max_pending_bytes" in str(results[-1])
        await publish_until(bus, "a", "x" * 100_000)


async def test_stream_that_takes_no_more(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, **options) as (bus, _), admin(nats) as client:
        config = await stream_config(client, options["stream"])
        config["max_msg_size"] = 100
        await api(client, f"STREAM.UPDATE.{options['stream']}", config)
        with pytest.raises(BusUnavailable, match="message size exceeds"):
            await bus.publish("a", "x" * 200)
        assert await bus.publish("a", "x")


PERMISSIONS = """
authorization {{ users: [
  {{ user: all, password: secret }}
  {{ user: some, password: secret, permissions: {{
    publish: {{ allow: ["wsapi.>", "$JS.API.>"], deny: [{publish}] }}
    subscribe: {{ allow: ["wsapi.>"], deny: [{subscribe}] }}
  }} }}
] }}
"""


async def test_permissions(start_nats: Start) -> None:
    server = start_nats(
        settings=PERMISSIONS.format(
            publish='"wsapi.p.*.Secret", "wsapi.l.Secret"', subscribe='"wsapi.l.Secret"'
        )
    )
    access = {"user": "some", "password": "secret"}
    with pytest.raises(BusUnavailable, match=r"(?i)authorization violation"):
        async with opened(server):
            pass
    for history in (10, None):
        async with opened(server, **access, history=history) as (bus, receiver):
            for _ in range(2):
                with pytest.raises(BusUnavailable, match=r"permit publish on wsapi\..*\.Secret"):
                    await bus.publish("Secret", "x")
                with pytest.raises(BusUnavailable, match=r"permit subscription on wsapi\.l\.Sec"):
                    await bus.follow("Secret")
            await bus.follow("a")
            await bus.publish("a", "x")
            await until(lambda: receiver.notices)
            assert not receiver.reasons


@pytest.mark.parametrize(
    "publish, subscribe, match",
    [
        ('"$JS.API.>"', "", r"permit publish on \$JS\.API\.STREAM\.INFO"),
        ("", '"wsapi.r.>"', r"permit subscription on wsapi\.r\."),
        ('"wsapi.r.>"', "", r"permit publish on wsapi\.r\."),
        ("", '"wsapi.l.>"', r"permit subscription on wsapi\.l\."),
    ],
)
async def test_permissions_of_the_bus_itself(
    start_nats: Start, publish: str, subscribe: str, match: str
) -> None:
    server = start_nats(settings=PERMISSIONS.format(publish=publish, subscribe=subscribe))
    with pytest.raises(BusUnavailable, match=match):
        async with opened(server, user="some", password="secret"):
            pass


async def test_permissions_that_are_withdrawn(start_nats: Start) -> None:
    users = 'authorization {{ users: [ {{ user: me, password: "{}" }} ] }}'
    server = start_nats(settings=users.format("first"))
    async with opened(server, user="me", password="first") as (bus, receiver):
        server.reload(users.format("second"))
        await until(lambda: receiver.reasons)
        with pytest.raises(BusUnavailable):
            await bus.publish("a", "x")
        server.reload(users.format("first"))
        await until(lambda: receiver.resumptions)
        assert await bus.publish("a", "x")


async def test_tls(
    start_nats: Start, tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = start_nats(
        settings=f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    )
    uri = server.uri.replace("nats", "tls")
    async with opened(uri, tls=context) as (bus, receiver):
        await bus.follow("a")
        await bus.publish("a", "1")
        bus.reconnect()
        await until(lambda: receiver.resumptions)
        assert await bus.publish("a", "2")
    with pytest.raises(BusUnavailable, match=r"(?i)certificate"):
        async with opened(uri):
            pass


@pytest.mark.filterwarnings("ignore:parameter .timeout. of type:DeprecationWarning")
async def test_websocket(start_nats: Start) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    start_nats(settings=f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}')
    async with opened(f"ws://127.0.0.1:{port}") as (bus, receiver):
        start = await bus.follow("a")
        for number in range(1, 4):
            await bus.publish("a", "x" * 10_000)
            await until(lambda: len(receiver.notices) == number)  # noqa: B023
            bus.reconnect()
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        assert chained(receiver.notices, start.offset)


async def test_no_tls_where_it_is_asked_for(start_nats: Start) -> None:
    """No password leaves in the clear."""
    server = start_nats(settings="authorization { user: me, password: secret }")
    options = {"user": "me", "password": "secret"}
    for uri, tls in (
        (server.uri.replace("nats", "tls"), None),
        (server.uri, ssl.create_default_context()),
    ):
        with pytest.raises(BusUnavailable, match="SecureConn"):
            async with opened(uri, tls=tls, **options):
                pass
    log = (server.directory / "log").read_text()
    assert "authentication error" not in log.lower()
    async with opened(server, **options) as (bus, _):
        assert await bus.publish("a", "x")


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
            await client.request(bus._kept("a"), payload, timeout=5)
        second = await bus.publish("a", "2")
        await client.request(bus._kept("a"), b"x", timeout=5)
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


# ---------------------------------------------------------------------- clusters


CLUSTER = """
server_name: {name}
cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


@pytest.mark.timeout(180)
def test_cluster(start_nats: Start) -> None:
    """A server ends, and nothing that was acknowledged is lost; elections take their time."""
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            ports.append(sock.getsockname()[1])
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [
        start_nats(settings=CLUSTER.format(name=f"n{number}", port=port, routes=routes))
        for number, port in enumerate(ports)
    ]

    async def follow_and_publish() -> None:
        # The others are found.
        bus, receiver = NatsBus(servers[0].uri, replicas=3, history=1000), Receiver()
        while True:
            try:
                await bus.open(receiver)
                break
            except BusUnavailable:
                await asyncio.sleep(0.1)  # the cluster is forming
        try:
            start = await bus.follow("a")
            published: list[str] = []
            for number in range(2):
                for message in range(50):
                    try:
                        await publish_until(bus, "a", f"{number} {message}")
                        published.append(f"{number} {message}")
                    except PublishUncertain:
                        pass
                if number == 0:
                    await asyncio.to_thread(servers[0].stop)
            await until(lambda: receiver.resumptions)
            messages = await all_messages(bus, receiver, "a", start)
            assert set(published) <= set(messages)
            assert len(set(messages)) == len(messages)
            assert len(published) > 80
            assert receiver.notices
        finally:
            await bus.close()

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await follow_and_publish()

    asyncio.run(bounded())


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
    [{"history": 1.5}, {"history": True}, {"timeout": "1"}, {"servers": [1]}, {"replicas": None}],
)
def test_arguments_of_other_types(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        NatsBus(**options)


def test_servers() -> None:
    bus = NatsBus(["nats://user:secret@h1", "h2:1234", "tls://[::1]"])
    assert bus._servers == ["nats://user:secret@h1:4222", "nats://h2:1234", "tls://[::1]:4222"]
    assert "secret" not in repr(bus)
    assert "h1:4222" in repr(bus)
