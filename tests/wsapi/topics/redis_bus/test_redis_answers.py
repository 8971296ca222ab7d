"""What the bus on Redis and Valkey makes of answers that brokers rarely give, without a broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.helpers import logged_errors, turns, until
from tests.wsapi.topics.redis_bus.helpers import Receiver
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.positions import Position

pytest.importorskip("hiredis", reason="the extra redis isn't installed")

import hiredis

from wsapi.topics._redis_server import Server, _keep_alive
from wsapi.topics._redis_wires import Call, Ear, Link, Script, Topic, Wire
from wsapi.topics.redis import RedisBus

PUBLISHING = Script("return 1")
NOSCRIPT = b"-NOSCRIPT No matching script\r\n"


class Transport:
    """Keeps what is written, and loses the connection when it is told to."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.written: list[bytes] = []
        self.aborted = False
        wire.connection_made(self)  # type: ignore[arg-type] # as far as it is used

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.wire.loop.call_soon(self.wire.connection_lost, None)


def link(max_bytes: int = 10**6) -> tuple[Link, Transport]:
    """Return a connection for commands that takes them, and what stands for its transport."""
    made = Link(asyncio.get_running_loop(), PUBLISHING, b"t", itertools.count(), 60, max_bytes)
    transport = Transport(made)
    made.start()
    return made, transport


def ear(moved: Any = None) -> tuple[Ear, Transport, list[tuple[bytes, bytes]]]:
    """Return a connection for what is published, its transport, and what it has heard."""
    heard: list[tuple[bytes, bytes]] = []
    made = Ear(asyncio.get_running_loop(), lambda *message: heard.append(message), sharded=False)
    made.moved = moved
    transport = Transport(made)
    made.start()
    return made, transport, heard


def bulk(*words: bytes) -> bytes:
    """Return an array of words, as a broker sends it."""
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%s" % (len(words), b"".join(parts))


@contextlib.contextmanager
def giving_up(wire: Wire, transport: Transport, match: str) -> Iterator[None]:
    """Expect that a connection is given up, and that the log tells why."""
    assert not transport.aborted
    yield
    assert transport.aborted
    assert match in wire.lost.result()
    (record,) = logged_errors("giving up a connection to the broker")
    assert record.exc_info is not None


# ---------------------------------------------------------------------- connections


async def test_what_isn_t_of_the_protocol() -> None:
    wire = Wire(asyncio.get_running_loop())
    transport = Transport(wire)
    asking = asyncio.ensure_future(wire.ask([("PING",)]))
    await turns(1)
    with giving_up(wire, transport, "ProtocolError"):
        wire.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(BusUnavailable, match="ProtocolError"):
        await asking
    with pytest.raises(BusUnavailable, match="ProtocolError"):
        await wire.ask([("PING",)])
    assert len(transport.written) == 1


@pytest.mark.parametrize("of_commands", [False, True])
async def test_replies_that_nobody_asked_for(of_commands: bool) -> None:
    """What brokers push is none; anything else shows that replies belong to others."""
    if of_commands:
        wire: Wire
        wire, transport = link()
    else:
        wire = Wire(asyncio.get_running_loop())
        transport = Transport(wire)
    wire.data_received(b">2\r\n+invalidate\r\n*0\r\n")
    with giving_up(wire, transport, "a reply that nobody asked for: b'OK'"):
        wire.data_received(b"+OK\r\n")
    await wire.ended.wait()


async def test_what_brokers_push_between_answers() -> None:
    pushed = b">2\r\n+invalidate\r\n*0\r\n"
    wire = Wire(asyncio.get_running_loop())
    transport = Transport(wire)
    asking = asyncio.ensure_future(wire.ask([("PING",), ("PING",)]))
    await turns(1)
    wire.data_received(pushed + b"+1\r\n" + pushed + b"+2\r\n")
    assert await asking == [b"1", b"2"]
    link_, others = link()
    future: asyncio.Future[Any] = link_.loop.create_future()
    link_.call(Call(future, (b"PING",)))
    await turns(1)
    link_.data_received(pushed)
    assert not future.done()
    link_.data_received(b"+3\r\n")
    assert await future == b"3"
    for each in (wire, link_):
        each.abort("end")
        await each.ended.wait()
    assert transport.aborted
    assert others.aborted


async def test_an_answer_is_waited_for_from_its_own_question_on() -> None:
    """There is one timer, which was set for an earlier one."""
    wire, transport = link()
    for answered in (True, False):
        future: asyncio.Future[Any] = wire.loop.create_future()
        wire.call(Call(future, (b"PING",)))
        await turns(1)
        if answered:
            wire.data_received(b"+1\r\n")
    wire._watch()
    assert not transport.aborted
    wire._timeout, wire._deadline = 7, wire.loop.time()
    wire._watch()
    assert transport.aborted
    with pytest.raises(BusUnavailable, match="the broker didn't answer within 7 seconds"):
        await future
    await wire.ended.wait()


async def test_greeting_that_is_given_up() -> None:
    """Its reply is taken, and given to nobody else."""
    wire = Wire(asyncio.get_running_loop())
    transport = Transport(wire)
    first = asyncio.ensure_future(wire.ask([("PING",)]))
    await turns(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(wire.ask([("PING",)]))
    await turns(1)
    wire.data_received(b"+1\r\n+2\r\n")
    assert await second == [b"2"]
    wire.abort("end")
    await wire.ended.wait()
    assert transport.aborted


async def test_calls_that_are_cancelled() -> None:
    """Before it is sent, nothing is sent; after that, its reply is nobody's."""
    wire, transport = link()
    futures = [wire.loop.create_future() for _ in range(4)]
    calls = [Call(future, (b"GET", b"%d" % number)) for number, future in enumerate(futures)]
    wire.call(calls[0])
    futures[0].cancel()
    await turns(1)
    assert transport.written == []
    wire.call(calls[1])
    wire.call(calls[2])
    await turns(1)
    assert transport.written == [bulk(b"GET", b"1") + bulk(b"GET", b"2")]
    futures[1].cancel()
    wire.call(calls[3])
    wire.data_received(b"+one\r\n+two\r\n")
    assert await futures[2] == b"two"
    futures[3].cancel()
    wire.abort("end")
    await wire.ended.wait()
    assert all(future.cancelled() for future in (futures[0], futures[1], futures[3]))
    assert wire._bytes == 0


async def test_messages_that_are_cancelled_when_they_were_sent() -> None:
    """Those beside them are published all the same, and have the positions that they have."""
    wire, transport = link()
    topic = Topic("a", "p")
    refused = [wire.publish(topic, b"t", b"%d" % number) for number in range(2)]
    await turns(1)
    refused[0].cancel()
    wire.data_received(b"-OOM command not allowed\r\n")
    with pytest.raises(BusUnavailable, match="the broker refuses: OOM"):
        await refused[1]
    published = [wire.publish(topic, b"t", b"%d" % number) for number in range(3)]
    await turns(1)
    published[1].cancel()
    wire.data_received(b"*2\r\n$1\r\ne\r\n:7\r\n")
    assert [await published[0], await published[2]] == [Position("e", 5), Position("e", 7)]
    assert topic.offset == 7
    lost = [wire.publish(topic, b"t", b"%d" % number) for number in range(2)]
    await turns(1)
    lost[0].cancel()
    wire.abort("end")
    with pytest.raises(PublishUncertain, match="end"):
        await lost[1]
    assert len(transport.written) == 3
    assert topic.flying is None


async def test_topics_that_move_while_messages_are_under_way() -> None:
    """Their new node doesn't wait for the old one, which may never answer."""
    (old, _), (new, transport) = link(), link()
    topic = Topic("a", "p")
    before = [old.publish(topic, b"t", b"sent")]
    await turns(1)
    before.append(old.publish(topic, b"t", b"waiting"))
    after = new.publish(topic, b"t", b"moved")
    await turns(1)
    assert len(transport.written) == 1
    # Meanwhile, the old one's answers say nothing of what the new one does.
    for _ in before:
        old.data_received(b"-MOVED 1 h:1\r\n")
    for future in before:
        with pytest.raises(BusUnavailable, match="MOVED"):
            await future
    last = new.publish(topic, b"t", b"last")
    await turns(1)
    assert len(transport.written) == 1
    for offset in (6, 7):
        new.data_received(b"*2\r\n$1\r\ne\r\n:%d\r\n" % offset)
    assert [await after, await last] == [Position("e", 6), Position("e", 7)]
    assert old._bytes == new._bytes == 0
    # Nor does its end.
    left = old.publish(topic, b"t", b"sent")
    await turns(1)
    moved = new.publish(topic, b"t", b"moved")
    await turns(1)
    old.abort("end")
    with pytest.raises(PublishUncertain, match="end"):
        await left
    assert topic.flying is new
    new.data_received(b"*2\r\n$1\r\ne\r\n:8\r\n")
    assert await moved == Position("e", 8)
    new.abort("end")
    await new.ended.wait()


async def test_what_a_lost_connection_tells_of_calls() -> None:
    """Only what was sent, and isn't done twice in vain, may have been done."""
    wire, _ = link()
    futures = [wire.loop.create_future() for _ in range(4)]
    wire.call(Call(futures[0], (b"PUBLISH", b"c", b"m"), uncertain=True))
    wire.call(Call(futures[1], (b"GET", b"a")))
    await turns(1)
    wire.call(Call(futures[2], (b"PUBLISH", b"c", b"m"), uncertain=True))
    wire.call(Call(futures[3], (b"GET", b"b")))
    wire.abort("end")
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(error) for error in found] == [
        PublishUncertain,
        BusUnavailable,
        BusUnavailable,
        BusUnavailable,
    ]
    assert {str(error) for error in found} == {"end"}


async def test_nothing_with_a_lost_connection() -> None:
    """What isn't written yet never is, and whoever comes then is told at once."""
    wire, transport = link()
    topic = Topic("a", "p")
    message = wire.publish(topic, b"t", b"m")
    wire.abort("end")
    with pytest.raises(BusUnavailable, match="end") as caught:
        await message
    assert type(caught.value) is BusUnavailable
    with pytest.raises(BusUnavailable, match="end"):
        wire.publish(topic, b"t", b"m")
    with pytest.raises(BusUnavailable, match="end"):
        wire.call(Call(wire.loop.create_future(), (b"PING",)))
    assert transport.written == []


async def test_no_subscription_with_a_lost_connection() -> None:
    wire, transport, _ = ear()
    future = wire.want(True, b"a")
    assert future is not None
    wire.abort("end")
    with pytest.raises(BusUnavailable, match="end"):
        await future
    with pytest.raises(BusUnavailable, match="end"):
        wire.want(True, b"b")
    assert transport.written == []


async def test_scripts_that_are_forgotten_again() -> None:
    """What the broker doesn't know by name is sent as a whole; refused then, it is refused."""
    wire, transport = link()
    future: asyncio.Future[Any] = wire.loop.create_future()
    wire.call(Call(future, (b"k", b"c"), script=PUBLISHING))
    await turns(1)
    wire.data_received(NOSCRIPT)
    wire.data_received(NOSCRIPT)
    with pytest.raises(BusUnavailable, match="NOSCRIPT"):
        await future
    assert transport.written == [
        bulk(b"EVALSHA", PUBLISHING.sha, b"2", b"k", b"c"),
        bulk(b"EVAL", PUBLISHING.text, b"2", b"k", b"c"),
    ]
    wire.abort("end")
    await wire.ended.wait()


async def test_what_is_no_message() -> None:
    """Other words of the broker, as in answers to a PING, are none, and confirm nothing."""
    wire, transport, heard = ear()
    future = wire.want(True, b"a")
    assert future is not None
    await turns(1)
    for reply in (bulk(b"pong", b""), b"+PONG\r\n"):
        wire.data_received(reply)
    assert not future.done()
    wire.data_received(bulk(b"message", b"a", b"x") + b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
    await future
    assert heard == [(b"a", b"x")]
    assert not transport.aborted
    wire.abort("end")
    await wire.ended.wait()


@pytest.mark.parametrize("clustered", [False, True])
async def test_subscription_that_the_broker_ends(clustered: bool) -> None:
    """In a cluster, another node may have the channel."""
    moved: list[bool] = []
    wire, transport, _ = ear((lambda: moved.append(True)) if clustered else None)
    wire.data_received(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n")
    assert transport.aborted
    assert wire.lost.result() == "the broker ended a subscription: it moved"
    assert moved == [True] * clustered
    await wire.ended.wait()


async def test_subscription_that_nobody_waits_for() -> None:
    wire, _, _ = ear()
    futures = [wire.want(True, channel) for channel in (b"a", b"b")]
    await turns(1)
    assert futures[0] is not None
    assert futures[1] is not None
    futures[0].cancel()
    wire.data_received(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
    assert not futures[1].done()
    wire.data_received(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n")
    await futures[1]
    wire.abort("end")
    await wire.ended.wait()


# ---------------------------------------------------------------------- servers


def seed(url: str = "redis://127.0.0.1:1", **options: Any) -> Server:
    return RedisBus(url, **options)._seed


def test_hosts() -> None:
    assert seed("redis://10.0.0.1:1").host == "10.0.0.1"
    assert seed("unix:///run/redis").host == ""


def test_nothing_without_connections() -> None:
    server = seed()
    for call in (server.listener, server.commands):
        with pytest.raises(BusUnavailable, match="the bus isn't open"):
            call()


class Answering:
    """Stands for a connection for commands that answers each call at once."""

    run = b"r"

    def __init__(self, replies: dict[bytes, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self.loop.create_future()
        self.replies = replies

    def call(self, call: Call) -> None:
        reply = self.replies[call.arguments[1]]
        call.answer(hiredis.ReplyError(reply) if isinstance(reply, str) else reply)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("lost", [False, True])
async def test_topics_that_cannot_be_looked_after(
    clustered: bool, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They don't keep others from it; in a cluster, they may be at another node."""
    server = seed()
    server.clustered = clustered
    topics = [Topic(name, "p") for name in ("a", "b", "c")]
    answer: Any = Answering(
        {
            topics[0].channel: [b"e", 5],
            topics[1].channel: "WRONGTYPE not a stream",
            topics[2].channel: [b"e", 6],
        }
    )
    if lost:
        answer.lost.set_result("lost")
        with pytest.raises(BusUnavailable, match="WRONGTYPE"):
            await server.check(answer, topics)
    else:
        await server.check(answer, topics)
        assert [topic.offset for topic in topics] == [5, 0, 6]
    told = "can't look after topic 'b': the broker refuses: WRONGTYPE"
    assert (told in caplog.text) is not (clustered or lost)


@pytest.mark.parametrize(
    ("protocol", "credentials", "hello"),
    [
        (2, {}, []),
        (2, {"password": "secret"}, [("AUTH", "secret")]),
        (2, {"username": "me", "password": "secret"}, [("AUTH", "me", "secret")]),
        (3, {}, [("HELLO", "3")]),
        (3, {"password": "secret"}, [("HELLO", "3", "AUTH", "default", "secret")]),
        (3, {"username": "me", "password": "s"}, [("HELLO", "3", "AUTH", "me", "s")]),
    ],
)
async def test_greetings(
    protocol: int, credentials: dict[str, str], hello: list[tuple[str, ...]]
) -> None:
    server = seed(protocol=protocol, client_name="us", db=3, socket_keepalive=False, **credentials)
    asked: list[Any] = []

    async def create_connection(make: Any, host: str, port: int, ssl: object) -> None:
        make()

    async def ask(commands: list[Any]) -> list[bytes]:
        asked.extend(commands)
        return [b"OK"] * (len(commands) - 1) + [b"PONG"]

    wire: Any = SimpleNamespace(
        ask=ask,
        loop=SimpleNamespace(create_connection=create_connection),
        transport=SimpleNamespace(get_extra_info=lambda name: None),
    )
    assert await server._connect(wire, [("PING",)]) == [b"PONG"]
    assert asked == [*hello, ("CLIENT", "SETNAME", "us"), ("SELECT", "3"), ("PING",)]


async def test_broker_that_does_not_know_a_command_with_a_password() -> None:
    """It repeats what it was sent, which is for nobody's log."""
    server = seed(protocol=3, username="us", password="secret", socket_keepalive=False)

    async def ask(commands: list[Any]) -> list[Any]:
        words = " ".join(f"'{word}'" for word in commands[0][1:])
        text = f"ERR unknown command 'HELLO', with args beginning with: {words} "
        return [hiredis.ReplyError(text)] * len(commands)

    wire: Any = SimpleNamespace(
        ask=ask,
        loop=SimpleNamespace(create_connection=lambda *arguments, **options: asyncio.sleep(0)),
        transport=SimpleNamespace(get_extra_info=lambda name: None),
    )
    with pytest.raises(BusUnavailable) as caught:
        await server._connect(wire, [])
    assert str(caught.value) == "the broker refuses: ERR unknown command 'HELLO'"


@pytest.mark.parametrize("wanted", [True, False])
def test_keep_alive(wanted: bool) -> None:
    found: list[tuple[int, ...]] = []
    sock = SimpleNamespace(setsockopt=lambda *option: found.append(option))
    transport: Any = SimpleNamespace(get_extra_info=lambda name: sock)
    settings: Any = SimpleNamespace(socket_keepalive=wanted, socket_keepalive_options={4: 60})
    _keep_alive(transport, settings)
    assert [value for *_, value in found] == ([1, 60] if wanted else [])


MASTER = b"role:master\r\n"
REPLICA = b"role:slave\r\nslave_read_only:1\r\n"


async def test_broker_that_does_not_tell_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    server = seed()

    async def connect(wire: Wire, more: object) -> list[Any]:
        Transport(wire)
        return [1, b"redis_mode:standalone\r\n", MASTER, b"sha", b"sha"]

    monkeypatch.setattr(server, "_connect", connect)
    with pytest.raises(BusUnavailable, match="the broker doesn't tell its run_id in INFO"):
        await server.open_link()
    assert server.link is None


LOADING = "LOADING the dataset"
NOPERM = "NOPERM no permission to run 'script|load'"
FACTS = b"run_id:r\r\nredis_mode:standalone\r\n"


@pytest.mark.parametrize(
    ("replies", "match"),
    [
        ([1, FACTS, MASTER, b"sha", b"sha"], None),
        ([1, FACTS, MASTER, NOPERM, NOPERM], None),
        ([1, FACTS, MASTER, b"sha", LOADING], "the broker refuses: LOADING"),
        ([1, LOADING, LOADING, LOADING, LOADING], "the broker refuses: LOADING"),
        ([1, NOPERM, NOPERM, b"sha", b"sha"], "the broker refuses: NOPERM"),
        ([1, FACTS, REPLICA, b"sha", b"sha"], "a replica, and takes no messages"),
        ([1, FACTS.replace(b"standalone", b"cluster"), REPLICA, b"sha", b"sha"], None),
    ],
)
async def test_what_brokers_refuse_at_the_beginning(
    replies: list[Any], match: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not load scripts may run them; anything else has to go well."""
    server = seed()
    made: list[Transport] = []

    async def connect(wire: Wire, more: object) -> list[Any]:
        made.append(Transport(wire))
        return [hiredis.ReplyError(reply) if isinstance(reply, str) else reply for reply in replies]

    monkeypatch.setattr(server, "_connect", connect)
    if match is None:
        assert (await server.open_link()).run == b"r"
        await server.close("end")
    else:
        with pytest.raises(BusUnavailable, match=match):
            await server.open_link()
        assert server.link is None
    assert made[0].aborted


async def test_broker_that_does_not_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't waited for longer than for anything else."""
    server = seed(timeout=0.01)
    server.channels = {b"a": Topic("a", "p"), b"b": Topic("b", "p")}
    made: list[Transport] = []

    async def connect(wire: Wire, more: object) -> list[Any]:
        made.append(Transport(wire))
        return []

    monkeypatch.setattr(server, "_connect", connect)
    monkeypatch.setattr("wsapi.topics._redis_wires.CHUNK", 1)
    with pytest.raises(BusUnavailable, match=r"0\.01 seconds"):
        await server._open_ear()
    assert server.ear is None
    assert made[0].aborted
    assert len(made[0].written) == 2


async def test_what_goes_wrong_in_us() -> None:
    """The log tells all of it, and those who wait a word."""
    bus = RedisBus()
    receiver: Any = Receiver()
    bus._receiver = receiver
    bus._seed._failed("commands", RuntimeError("wrong"))
    (record,) = logged_errors("no connection to 127.0.0.1:6379 for commands")
    assert record.exc_info is not None
    assert [str(error) for error in receiver.interruptions] == ["wrong"]


# ---------------------------------------------------------------------- the bus


class Standing:
    """Stands for a server of a cluster, or the only one.

    Args:
        nodes: What it says of the slots; an error that it raises, or None if it has no connection.
    """

    host = "h"

    def __init__(self, nodes: Any = None) -> None:
        self.nodes = nodes
        self.channels: dict[bytes, Topic] = {}
        self.ear: Any = None
        self.checked: list[list[str]] = []
        self.trouble: Exception | None = None
        self.aborted: list[str] = []
        self.ready = True
        self.closed: list[str] = []
        self.unreachable: Exception | None = None
        self.closing: asyncio.Event | None = None

    async def open_link(self) -> None:
        if self.unreachable is not None:
            raise self.unreachable

    async def command(self, *words: str) -> Any:
        if isinstance(self.nodes, Exception):
            raise self.nodes
        return self.nodes

    def commands(self) -> Any:
        if isinstance(self.trouble, BusUnavailable):
            raise self.trouble
        return None

    async def check(self, link: object, topics: list[Topic]) -> None:
        self.checked.append([topic.name for topic in topics])
        if self.trouble is not None:
            raise self.trouble

    def leave(self, topic: Topic) -> None:
        self.channels.pop(topic.channel, None)

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)

    def start(self) -> None:
        self.closed.clear()

    async def close(self, why: str) -> None:
        self.closed.append(why)
        if self.closing is not None:
            await self.closing.wait()


def opened(**servers: Any) -> tuple[RedisBus, Any]:
    """Return a bus that is open on servers that stand for others, and its receiver."""
    bus: Any = RedisBus()
    receiver = Receiver()
    bus._receiver = receiver
    bus._servers = servers
    bus._seed = next(iter(servers.values()))
    return bus, receiver


def follow(bus: RedisBus, name: str, epoch: bytes = b"e", offset: int = 5) -> Topic:
    topic = bus._remember(name)
    topic.saw(epoch, offset)
    topic.followed = True
    bus._channels[topic.channel] = topic
    return topic


async def test_messages_whose_order_is_doubtful(caplog: pytest.LogCaptureFixture) -> None:
    """What doesn't follow what is known, though it says what it follows, is looked into."""
    server = Standing()
    bus, receiver = opened(only=server)
    topic = follow(bus, "a")
    bus.hear(topic.channel, b"e 7 4 1t\nx")
    assert (receiver.notices[0].position, receiver.notices[0].previous) == (Position("e", 7), 4)
    assert topic.offset == 5
    await until(lambda: server.checked == [["a"]])
    await until(lambda: not bus._side_tasks)
    # Without a connection, that is done when there is one.
    server.trouble = BusUnavailable("none")
    bus.hear(topic.channel, b"e 8 4 1t\nx")
    assert not bus._side_tasks
    # What comes of it is for the log.
    server.trouble = OSError("reset")
    with caplog.at_level(logging.DEBUG, "wsapi.topics"):
        bus.hear(topic.channel, b"e 9 4 1t\nx")
        await until(lambda: "a check of a topic wasn't answered: reset" in caplog.text)
    assert not bus._side_tasks
    # One that is cancelled at the end says nothing.
    bus.hear(topic.channel, b"e 9 4 1t\nx")
    (task,) = bus._side_tasks
    task.cancel()
    await until(lambda: not bus._side_tasks)
    assert len(receiver.notices) == 4


async def test_messages_for_nobody() -> None:
    """They may still come when a topic isn't followed any more, or the bus is closed."""
    bus, receiver = opened(only=Standing())
    topic = follow(bus, "a")
    bus.hear(b"wsapi:{b}", b"e 6 5 1t\nx")
    bus._receiver = None
    bus.hear(topic.channel, b"e 6 5 1t\nx")
    bus._receiver = receiver
    bus.hear(topic.channel, b"e 6 5 1t\ny")
    assert [notice.message for notice in receiver.notices] == ["y"]
    assert bus.ignored == 0


async def test_servers_without_connections_are_looked_after_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsapi.topics.redis.EMPTY_SECONDS", 0)
    first, second = Standing(), Standing()
    first.trouble = BusUnavailable("none")
    bus, _ = opened(first=first, second=second)
    topic = follow(bus, "a")
    second.channels[topic.channel] = topic
    with caplog.at_level(logging.DEBUG, "wsapi.topics"):
        task = asyncio.create_task(bus._keep_topics())
        await until(lambda: len(second.checked) > 2)
        task.cancel()
    assert "topics weren't looked after: none" in caplog.text
    assert second.checked[0] == ["a"]


async def test_deaf_servers_without_connections() -> None:
    first, second = Standing(), Standing()
    second.ear = second
    bus, _ = opened(first=first, second=second)
    bus.reconnect()
    assert (first.aborted, len(second.aborted)) == ([], 1)


async def test_end_while_it_is_connected_again() -> None:
    """Nobody is told that it is."""
    bus, receiver = opened(only=Standing())
    bus.gone(bus._seed, "lost")
    bus._receiver = None
    bus.connected(bus._seed)
    assert (len(receiver.interruptions), receiver.resumptions) == (1, 0)


def slots(*nodes: tuple[int, int, str]) -> list[Any]:
    """Return what a node says of the cluster: first and last slot, host."""
    return [(first, last, (host.encode(), 1, b"id")) for first, last, host in nodes]


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.topics.redis._MAP_DELAY", 0)


async def mapped(bus: RedisBus) -> None:
    """Have a bus ask which node has what, and wait for the end of it."""
    bus.moved()
    await until(lambda: bus._mapping is None)


@pytest.mark.usefixtures("no_delay")
async def test_nodes_that_do_not_know() -> None:
    """Another one is asked; if none knows, all stays as it is."""
    known = slots((0, 16383, "a"))
    first, second, third = Standing(BusUnavailable("none")), Standing(known), Standing(known)
    bus, receiver = opened(**{"a:1": first, "b:1": second, "c:1": third})
    bus._slots = [first] * 16384
    await mapped(bus)
    assert receiver.interruptions == []
    # One that began empty knows of no node, not even itself.
    second.nodes, third.nodes = BusUnavailable("none"), []
    await mapped(bus)
    assert receiver.interruptions == []
    assert bus._slots == [first] * 16384
    # An answer that is none is told of.
    first.nodes = [5]
    await mapped(bus)
    logged_errors("the nodes of the cluster aren't known")


@pytest.mark.usefixtures("no_delay")
async def test_nodes_that_all_have_other_addresses() -> None:
    """The URL still leads to one of them, sooner or later."""
    lost, url = Standing(BusUnavailable("none")), Standing(slots((0, 16383, "b")))
    bus, receiver = opened(**{"a:1": lost})
    bus._seed = url  # type: ignore[assignment] # as far as it is used
    bus._slots = [lost] * 16384  # type: ignore[list-item]
    started: list[str] = []

    def server(**where: Any) -> Any:
        started.append(where["host"])
        return Standing()

    bus._server = server  # type: ignore[method-assign]
    topic = follow(bus, "a")
    for url.unreachable in (OSError("refused"), BusUnavailable("AUTH failed")):
        await mapped(bus)
        assert url.closed.pop() == "the nodes of the cluster are known"
        assert receiver.interruptions == []
    url.unreachable = None
    await mapped(bus)
    assert url.closed == ["the nodes of the cluster are known"]
    assert started == ["b"]
    assert list(bus._servers) == ["b:1"]
    assert bus._responsible(topic).channels == {topic.channel: topic}
    assert lost.closed == ["the node has no slots any more"]
    assert len(receiver.interruptions) == receiver.resumptions == 1


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize("connected", [True, False])
async def test_topics_that_move(connected: bool) -> None:
    """Those that nobody has are left; others are looked after where they are, if possible."""
    first = Standing()
    second = Standing()
    bus, receiver = opened(**{"a:1": first, "b:1": second})
    bus._slots = [first] * 16384
    moving, lost, remembered = follow(bus, "moving"), follow(bus, "lost"), follow(bus, "remembered")
    remembered.followed = False
    for topic in (moving, lost):
        first.channels[topic.channel] = topic
    assert lost.slot not in (moving.slot, remembered.slot)
    first.nodes = slots(
        (0, 0, "a"),
        (moving.slot, moving.slot, "b"),
        (remembered.slot, remembered.slot, "b"),
    )
    second.ear = second if connected else None
    second.trouble = None if connected else BusUnavailable("none")
    await mapped(bus)
    assert first.channels == {}
    assert second.channels == {moving.channel: moving}
    assert second.checked == ([["moving", "remembered"]] if connected else [])
    assert second.aborted == (["topics moved here"] if connected else [])
    assert len(receiver.interruptions) == receiver.resumptions == 1
    with pytest.raises(BusUnavailable, match=f"responsible for slot {lost.slot}"):
        bus._responsible(lost)
    # It is asked again who is.
    first.nodes = slots((0, 16383, "b"))
    await until(lambda: bus._mapping is None)
    assert bus._responsible(lost) is second
    assert second.channels == {moving.channel: moving, lost.channel: lost}
    assert first.closed == ["the node has no slots any more"]


@pytest.mark.usefixtures("no_delay")
async def test_end_while_a_node_is_left() -> None:
    """Its connections are ended all the same."""
    first, second = Standing(), Standing()
    bus, _ = opened(**{"a:1": first, "b:1": second})
    bus._slots = [first, second] * 8192
    first.nodes = slots((0, 16383, "a"))
    second.closing = asyncio.Event()
    bus.moved()
    await until(lambda: second.closed)
    second.closing = None
    await bus.close()
    assert second.closed == ["the node has no slots any more", "the bus is closed"]
