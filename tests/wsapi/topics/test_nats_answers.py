"""What the bus on NATS makes of answers that servers rarely give, without a server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")


from nats import errors

from tests.wsapi.helpers import turns, until
from tests.wsapi.topics.nats_helpers import Receiver
from wsapi.topics._nats_connection import Connection, NoResponders
from wsapi.topics._nats_history import History
from wsapi.topics._nats_jetstream import JetStream, Refused, StreamAway, refusal
from wsapi.topics._nats_keeper import Keeper
from wsapi.topics._nats_stream import StreamSettings
from wsapi.topics.exceptions import BusUnavailable
from wsapi.topics.nats import NatsBus
from wsapi.topics.positions import Position

EPOCH, OTHER = "0123456789abcdefn11", "fedcba9876543210n11"
SETTINGS = NatsBus("nats://127.0.0.1", stream="S", prefix="p", history=10)._settings
INFO = "$JS.API.STREAM.INFO.S"
NO_STREAM = (b'{"error": {"err_code": 10059, "description": "stream not found"}}', None)
NO_MESSAGE = (b'{"error": {"err_code": 10037, "description": "no message found"}}', None)
DENIED = (b'{"error": {"err_code": 1, "description": "denied"}}', None)
NOTHING = (b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
END = (b"", b"NATS/1.0 204 EOB\r\n\r\n")


class Answers:
    """Stands for a connection, whose answers are known before.

    Args:
        answers: What is answered, or raised, or called for that, in this order.
    """

    server_version = (2, 10, 0)
    server_name = "here"
    alive = True
    max_payload = 2**20

    def __init__(self, *answers: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []
        self.listened: list[str] = []
        self.unlistened: list[int] = []
        self.reasons: list[Exception] = []

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout: float,
        *,
        publishes: bool = False,
        parts: bool = False,
    ) -> Any:
        request = json.loads(payload) if payload and not publishes else None
        self.asked.append((subject, request))
        answer = self.answers.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def listen(self, subject: str, handler: object) -> int:
        self.listened.append(subject)
        return len(self.listened)

    async def unlisten(self, sid: int) -> None:
        self.unlistened.append(sid)

    async def echo(self, timeout: float) -> None:
        pass

    def check(self, verb: str, subject: str) -> None:
        pass

    def abandon(self, reason: Exception) -> None:
        self.reasons.append(reason)


def info(last: int = 0, first: int = 1, epoch: str = EPOCH, there: int = 0) -> tuple[bytes, None]:
    """Return what a server says of the stream."""
    answer = {
        "config": SETTINGS.config(epoch),
        "state": {"first_seq": first, "last_seq": last, "subjects": {"x": there} if there else {}},
        "cluster": {"leader": "here"},
    }
    return json.dumps(answer).encode(), None


def stored(sequence: int, data: bytes = b"tx", more: int | None = None) -> tuple[bytes, bytes]:
    """Return a message, as any server with the stream tells of it."""
    pending = "" if more is None else f"Nats-Num-Pending: {more}\r\n"
    headers = (
        f"NATS/1.0\r\nNats-Subject: p.p.{EPOCH}.a\r\nNats-Sequence: {sequence}\r\n"
        f"Nats-Time-Stamp: t{sequence}\r\n{pending}\r\n"
    )
    return data, headers.encode()


def of_leader(sequence: int, data: bytes = b"tx") -> tuple[bytes, None]:
    """Return a message, as the leader tells of it."""
    message = {"subject": f"p.p.{EPOCH}.a", "seq": sequence, "time": f"t{sequence}"}
    message["data"] = base64.b64encode(data).decode()
    return json.dumps({"message": message}).encode(), None


# ---------------------------------------------------------------------- JetStream


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b'{"error": {"err_code": 10076, "description": "no"}}', 10076, "JetStream isn't enabled"),
        (b'{"error": {"err_code": 10039, "description": "no"}}', 10039, "JetStream isn't enabled"),
        (b'{"error": {"err_code": 5, "description": "no"}}', 5, "refuses: no (error 5)"),
        (b'{"error": 5}', 0, "answers b'{"),
        (b'{"error": {"err_code": "x"}}', 0, "answers b'{"),
        (b"{}", 0, "answers b'{}'"),
        (b"[]", 0, "answers b'[]'"),
        (b"\xff", 0, "answers b'"),
    ],
)
def test_refusals(answer: bytes, code: int, text: str) -> None:
    refused = refusal(answer)
    assert refused.code == code
    assert text in str(refused)


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (DENIED, Refused, r"denied \(error 1\)"),
        ((b"no JSON", None), BusUnavailable, "answers b'no JSON'"),
        ((b"[1]", None), Refused, r"answers b'\[1\]'"),
        ((b'{"config": {}}', None), BusUnavailable, "answers {'config': {}}"),
        ((b'{"config": {"subjects": 5}, "state": {}}', None), BusUnavailable, "answers {'config'"),
        (NoResponders(), StreamAway, "JetStream isn't enabled"),
    ],
)
async def test_what_is_no_stream(answer: Any, error: type[Exception], match: str) -> None:
    connection: Any = Answers(answer)
    with pytest.raises(error, match=match):
        await JetStream(SETTINGS, 1).stream(connection)
    assert connection.asked == [(INFO, None)]


async def test_stream_that_another_process_makes() -> None:
    taken = (b'{"error": {"err_code": 10058, "description": "taken"}}', None)
    connection: Any = Answers(taken, info(5))
    stream = await JetStream(SETTINGS, 1).make(connection)
    assert (stream.epoch, stream.last) == (EPOCH, 5)
    assert [subject for subject, _ in connection.asked] == ["$JS.API.STREAM.CREATE.S", INFO]


async def test_stream_that_is_deleted_at_once() -> None:
    connection: Any = Answers((b"{}", None), NO_STREAM)
    with pytest.raises(StreamAway, match="'S' is gone right after it was made"):
        await JetStream(SETTINGS, 1).make(connection)


async def test_stream_that_cannot_be_made() -> None:
    connection: Any = Answers(DENIED)
    with pytest.raises(BusUnavailable, match=r"can't make stream 'S': .* denied"):
        await JetStream(SETTINGS, 1).make(connection)


@pytest.mark.parametrize(
    ("answers", "error", "match"),
    [
        ([DENIED], BusUnavailable, r"can't change max_age, max_bytes of stream 'S': .* denied"),
        ([(b"{}", None), NO_STREAM], StreamAway, "max_age, max_bytes .* can't be changed: it is"),
    ],
)
async def test_stream_that_cannot_be_changed(
    answers: list[Any], error: type[Exception], match: str
) -> None:
    connection: Any = Answers(info(), *answers)
    jetstream = JetStream(SETTINGS, 1)
    stream = await jetstream.stream(connection)
    assert stream is not None
    with pytest.raises(error, match=match):
        await jetstream.change(connection, stream, {"max_bytes": 1, "max_age": 2})
    changed = connection.asked[1][1]
    assert changed == {**SETTINGS.config(EPOCH), "max_bytes": 1, "max_age": 2}


async def test_messages_that_only_the_leader_has() -> None:
    connection: Any = Answers(
        [stored(3, more=0), END], of_leader(5, b"t5"), of_leader(6, b"t6"), NO_MESSAGE
    )
    jetstream = JetStream(SETTINGS, 1)
    found = await jetstream.fetch(connection, "p.p.e.a", 3, 9, leader=True)
    assert [message.sequence for message, _ in found.messages] == [3, 5, 6]
    assert [data for _, data in found.messages] == [b"tx", b"t5", b"t6"]
    assert not found.more
    assert [request["seq"] for _, request in connection.asked] == [3, 4, 6, 7]
    # As many as were asked for: that there are more is all that counts.
    connection.answers = [[stored(3, more=0), END], of_leader(5), of_leader(6)]
    found = await jetstream.fetch(connection, "p.p.e.a", 3, 2, leader=True)
    assert [message.sequence for message, _ in found.messages] == [3, 5]
    assert found.more
    assert connection.answers == []


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (DENIED, Refused, "denied"),
        ((b"{}", None), BusUnavailable, "answers {}"),
        ((b'{"message": {"subject": 5}}', None), BusUnavailable, "answers {'message'"),
        (
            (b'{"message": {"subject": "a", "seq": 1, "time": "t", "data": "?"}}', None),
            BusUnavailable,
            "answers {'message'",
        ),
    ],
)
async def test_what_is_no_message_of_the_leader(
    answer: Any, error: type[Exception], match: str
) -> None:
    connection: Any = Answers(answer)
    with pytest.raises(error, match=match):
        await JetStream(SETTINGS, 1).last(connection, "p.p.e.a", leader=True)
    assert connection.asked == [("$JS.API.STREAM.MSG.GET.S", {"last_by_subj": "p.p.e.a"})]


@pytest.mark.parametrize(
    "headers", [None, b"NATS/1.0 408 Bad Request\r\n\r\n", b"NATS/1.0\r\n\r\n"]
)
async def test_what_is_no_message(headers: bytes | None) -> None:
    connection: Any = Answers((b"", headers))
    with pytest.raises(BusUnavailable, match=r"the NATS server answers (None|b'NATS/1\.0)"):
        await JetStream(SETTINGS, 1).time_of(connection, 5)


async def test_stream_that_nobody_leads() -> None:
    connection: Any = Answers(NoResponders(), NOTHING)
    with pytest.raises(StreamAway, match="no NATS server answers for stream 'S'"):
        await JetStream(SETTINGS, 1).time_of(connection, 5)
    assert await JetStream(SETTINGS, 1).time_of(connection, 5) is None


async def test_what_the_leader_has() -> None:
    jetstream = JetStream(SETTINGS, 1)
    connection: Any = Answers(of_leader(5), NO_MESSAGE, of_leader(5), NO_MESSAGE)
    assert await jetstream.last(connection, "p.p.e.a", leader=True) == 5
    assert await jetstream.last(connection, "p.p.e.a", leader=True) is None
    assert await jetstream.has(connection, 5, leader=True)
    assert not await jetstream.has(connection, 5, leader=True)
    assert {subject for subject, _ in connection.asked} == {"$JS.API.STREAM.MSG.GET.S"}


# ---------------------------------------------------------------------- the stream and its history


def keeper(connection: Any = None, settings: StreamSettings = SETTINGS) -> Keeper:
    """Return what keeps a connection that stands for one; nothing is known of the stream yet."""
    kept = Keeper(["nats://127.0.0.1"], settings, 5, 10**6, {})
    kept.connection = connection
    return kept


async def keeping(*answers: Any) -> tuple[Keeper, Any]:
    """Return it, and the connection, when the stream was found."""
    connection: Any = Answers(info(5), *answers)
    kept = keeper(connection)
    await kept.refresh()
    assert kept.known.epoch == EPOCH
    del connection.asked[:]
    return kept, connection


def begin_anew(kept: Keeper) -> None:
    """Note that there is another stream, as a task that looks at it meanwhile."""
    kept.known.epoch = OTHER


BEGAN_ANEW = r"stream 'S' of the NATS server began anew"


async def test_server_without_what_a_history_needs() -> None:
    connection: Any = Answers()
    connection.server_version = (2, 9, 25)
    with pytest.raises(BusUnavailable, match=r"of version 2\.10 or later; this one has 2\.9\.25"):
        await keeper(connection).refresh()
    assert connection.asked == []


async def test_stream_that_begins_anew_while_it_is_read() -> None:
    kept, connection = await keeping([NOTHING], info(9, epoch=OTHER), info(9, epoch=OTHER))
    with pytest.raises(BusUnavailable, match=BEGAN_ANEW):
        await History(kept).read(connection, "a", Position(EPOCH, 3), 5)
    # It is looked for at once.
    await until(lambda: kept.known.epoch == OTHER)
    assert connection.answers == []


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
async def test_positions_while_the_stream_begins_anew(in_order: bool, there: bool) -> None:
    kept, connection = await keeping()
    topic = kept.known.topic("a", plain=False)
    topic.know(4, 5, kept.known.generation if in_order else -1)

    def change() -> tuple[bytes, bytes]:
        kept.known.epoch = OTHER  # as a task that looks at the stream meanwhile
        return stored(7) if there else NOTHING

    connection.answers = [change, info(0, epoch=OTHER)]
    with pytest.raises(BusUnavailable, match=BEGAN_ANEW):
        await History(kept).position(connection, "a", topic)
    assert topic.last == 4


@pytest.mark.parametrize(("first", "last"), [(6, 4), (7, 5)])
async def test_position_of_what_was_dropped(first: int, last: int) -> None:
    """Nothing came after it, as far as is known, unless that may have been dropped as well."""
    kept, connection = await keeping(NOTHING, info(9, first=first))
    topic = kept.known.topic("a", plain=False)
    topic.know(4, 5, -1)
    assert await History(kept).position(connection, "a", topic) == Position(EPOCH, last)


async def test_position_that_is_known() -> None:
    """It is known from now on that nothing was after it, up to what was seen before."""
    kept, connection = await keeping(stored(4))
    topic = kept.known.topic("a", plain=False)
    topic.know(4, 4, -1)
    assert await History(kept).position(connection, "a", topic) == Position(EPOCH, 4)
    assert (topic.last, topic.upto) == (4, 5)


async def test_position_that_was_not_seen() -> None:
    kept, connection = await keeping(stored(8))
    assert kept.known.seen == 5
    assert await History(kept).position(connection, "a", None) == Position(EPOCH, 8)
    assert kept.known.seen == 8


async def test_messages_before_what_is_known() -> None:
    """A server that lags behind tells of less than has been noticed."""
    kept, connection = await keeping([stored(2, more=1), stored(3, more=0), END], stored(2))
    topic = kept.known.topics["a"] = kept.known.topic("a", plain=False)
    topic.know(4, 5, kept.known.generation)
    page = await History(kept).read(connection, "a", Position(EPOCH, 2), 5)
    assert (page.reaches, page.latest) == (True, Position(EPOCH, 3))
    assert [notice.position.offset for notice in page.notices if notice.position] == [3]
    assert topic.last == 4


async def test_stream_that_is_away() -> None:
    """It is looked for, and who asked is told."""
    kept, connection = await keeping(info(6))
    with pytest.raises(StreamAway, match="away"):
        async with kept.deadline():
            raise StreamAway("away")
    await until(lambda: kept.known.seen == 6)
    assert [subject for subject, _ in connection.asked] == [INFO]


async def test_doubts_while_nothing_answers(caplog: pytest.LogCaptureFixture) -> None:
    kept, connection = await keeping(BusUnavailable("no answer"))
    with caplog.at_level(logging.DEBUG, "wsapi.topics"):
        kept.doubt_stream()
        await until(lambda: "can't look at the stream" in caplog.text)
    assert kept.known.epoch == EPOCH
    assert connection.answers == []


async def test_close_while_the_stream_is_looked_for() -> None:
    kept, connection = await keeping()
    asked = asyncio.Event()

    async def ask(*arguments: object, **options: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    connection.ask = ask
    connection.end = lambda timeout: asyncio.sleep(0)
    refreshing = asyncio.create_task(kept.refresh())
    await asked.wait()
    await kept.close()
    with pytest.raises(asyncio.CancelledError):
        await refreshing
    assert kept._refreshing is None


async def test_topic_that_is_left_while_it_is_followed_again() -> None:
    """A new connection follows what the last one did, and nothing that was left meanwhile."""
    kept = keeper(settings=SETTINGS._replace(history=0))
    for name in ("a", "b"):
        kept.known.topics[name] = kept.known.topic(name, plain=True)

    class Leaving(Answers):
        async def listen(self, subject: str, handler: object) -> int:
            sid = await super().listen(subject, handler)
            if subject == "p.l.a":
                del kept.known.topics["a"]
            return sid

    connection: Any = Leaving()
    await kept._prepare(connection)
    assert connection.listened == ["p.l.a", "p.l.b"]
    assert connection.unlistened == [1]
    assert kept.known.topics["b"].sid == 2


async def test_topic_that_is_left_right_after_it_was_followed_again() -> None:
    """There is no connection yet, but the one that will be brings no message of it."""
    bus = NatsBus("nats://127.0.0.1", prefix="p", history=None)
    known = bus._known
    known.topics["a"] = known.topic("a", plain=True)

    class Leaving(Answers):
        async def echo(self, timeout: float) -> None:
            await bus.unfollow("a")

    connection: Any = Leaving()
    await bus._keeper._prepare(connection)
    assert connection.listened == ["p.l.a"]
    assert connection.unlistened == [1]


async def test_stream_that_takes_no_messages() -> None:
    """It is there, but nobody would hear of what is published."""
    connection: Any = Answers(info(5), NoResponders())
    with pytest.raises(BusUnavailable, match="stream 'S' takes no messages"):
        await keeper()._prepare(connection)
    assert connection.listened[0].startswith("p.l.~")


async def test_messages_after_the_end() -> None:
    kept, _ = await keeping()
    topic = kept.known.topic("a", plain=True)
    receiver = Receiver()
    kept._take(topic, b"tx", None)  # nobody is there
    kept.receiver = receiver
    kept._take(topic, b"ty", None)
    assert receiver.messages() == ["y"]


def beat(kept: Keeper, sequence: int, subject: str = "") -> bytes:
    """Return the headers of what a process publishes to itself."""
    subject = subject or kept.known.beats(kept._identity)[1]
    return (
        f"NATS/1.0\r\nNats-Subject: {subject}\r\nNats-Sequence: {sequence}\r\n"
        f"Nats-Time-Stamp: t\r\nNats-Last-Sequence: 0\r\n\r\n"
    ).encode()


async def test_beats() -> None:
    """They are one's own, of this epoch, and one is enough."""
    kept, connection = await keeping()
    kept._take_beat(b"", beat(kept, 6))  # of somebody who doesn't wait any more
    assert kept.known.seen == 6

    def come() -> tuple[bytes, None]:
        kept._take_beat(b"", None)
        kept._take_beat(b"", beat(kept, 7, "p.p.other.~x"))
        assert kept.known.seen == 6
        assert kept._beat is not None
        assert not kept._beat.done()
        for sequence in (8, 9):
            kept._take_beat(b"", beat(kept, sequence))
        return b"{}", None

    connection.answers = [come]
    await kept._send_beat(connection)
    assert kept.known.seen == 9


async def test_beats_that_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """So are messages of publishers, who are told; the connection is as good as another."""
    kept, connection = await keeping(DENIED)
    with pytest.raises(Refused, match="denied"):
        await kept._send_beat(connection)
    connection.answers = [DENIED] * 3 + [OSError("away")]
    kept._interval = 0
    with caplog.at_level(logging.DEBUG, "wsapi.topics"):
        task = asyncio.create_task(kept._look_after())
        await until(lambda: connection.reasons)
        task.cancel()
    assert caplog.text.count("JetStream takes no message") == 3
    assert "away" in str(connection.reasons[0])


# ---------------------------------------------------------------------- the connection, and the bus


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Give a connection without a server, whose bytes go nowhere."""
    reasons: list[Exception] = []
    connection: Any = Connection("p.r.x.", 100, lambda one, reason: reasons.append(reason))
    connection._opened = True
    connection._status = Connection.CONNECTED
    connection.reasons = reasons
    yield connection
    connection.abandon(OSError("end"))


def failing(connection: Any, error: Exception, *, lost: bool = False) -> Any:
    """Return what raises an error, perhaps when the connection was lost at the same time."""

    async def fail(*arguments: object) -> None:
        if lost:
            connection.abandon(OSError("lost"))
        raise error

    return fail


async def test_more_than_may_wait() -> None:
    with connected() as connection:
        sent: list[bytes] = []

        async def publish(subject: str, payload: bytes, reply: str) -> None:
            sent.append(payload)

        connection.publish = publish
        with pytest.raises(BusUnavailable, match="as many as max_pending_bytes allows"):
            await connection.send("a", b"x" * 101)
        await connection.send("a", b"x" * 100)
        assert sent == [b"x" * 100]


@pytest.mark.parametrize("lost", [False, True])
async def test_what_cannot_be_sent(lost: bool) -> None:
    """Nothing of it is waited for, and it is certain that it wasn't published."""
    with connected() as connection:
        connection.publish = failing(connection, errors.MaxPayloadError(), lost=lost)
        with pytest.raises(
            BusUnavailable, match=r"no connection to a NATS server: .*maximum payload"
        ):
            await connection.ask("a", b"x" * 60, 5, publishes=True)
        assert (connection._calls, connection._pending_bytes) == ({}, 0)
        assert connection.alive is not lost
        if not lost:
            with pytest.raises(BusUnavailable, match="maximum payload"):
                await connection.send("a", b"x")


async def test_answers_that_nobody_waits_for() -> None:
    """Neither of a call that was given up, nor of one that there never was."""
    with connected() as connection:
        replies: list[str] = []

        async def publish(subject: str, payload: bytes, reply: str) -> None:
            replies.append(reply)

        connection.publish = publish
        calls = [asyncio.create_task(connection.ask("a", b"x", 5)) for _ in range(2)]
        await turns(1)
        calls[0].cancel()
        await turns(1)
        for subject in (*replies, "p.r.x.99", "p.r.x.~"):
            connection._answered(subject.encode(), b"y", None)
        assert await calls[1] == (b"y", None)
        assert calls[0].cancelled()
        assert (connection._calls, connection._pending_bytes) == ({}, 0)


async def test_echoes_of_a_connection_that_is_lost() -> None:
    """Those who wait for the next one are told why there won't be one."""
    with connected() as connection:

        async def publish(subject: str, payload: bytes, reply: str) -> None:
            pass

        connection.publish = publish
        echoes = [asyncio.create_task(connection.echo(5)) for _ in range(3)]
        await turns(1)
        connection.abandon(OSError("lost"))
        for echo in echoes:
            with pytest.raises(BusUnavailable, match="lost"):
                await echo


async def test_call_that_is_cancelled_while_it_is_sent() -> None:
    """That the connection is lost later is no error that nobody has heard of."""
    with connected() as connection:
        sending = asyncio.Event()

        async def publish(*arguments: object) -> None:
            sending.set()
            await asyncio.Event().wait()

        connection.publish = publish
        call = asyncio.create_task(connection.ask("a", b"x", 5, publishes=True))
        await sending.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        connection.abandon(OSError("lost"))
    await asyncio.sleep(0)


@pytest.mark.parametrize("lost", [False, True])
async def test_echoes_that_cannot_be_asked_for(lost: bool) -> None:
    """Those who wait for the next one are told as well."""
    with connected() as connection:
        connection.publish = failing(connection, errors.ConnectionClosedError(), lost=lost)
        first, second = await asyncio.gather(
            connection.echo(5), connection.echo(5), return_exceptions=True
        )
        assert isinstance(first, BusUnavailable)
        assert isinstance(second, BusUnavailable)
        assert (connection._echo, connection._next_echo) == (None, None)


@pytest.mark.parametrize(
    ("error", "alive"), [(errors.BadSubjectError(), True), (OSError("reset"), False)]
)
async def test_subjects_that_cannot_be_followed(error: Exception, alive: bool) -> None:
    """Only errors of the transport say something of the connection."""
    with connected() as connection:
        connection.subscribe = failing(connection, error)
        with pytest.raises(BusUnavailable, match=re.escape(str(error))):
            await connection.listen("a", print)
        assert connection.alive is alive
        assert connection.reasons == ([] if alive else [error])
        assert connection._handlers == {}


@pytest.mark.parametrize(
    ("error", "alive"), [(errors.ConnectionClosedError(), True), (OSError("reset"), False)]
)
async def test_subjects_that_cannot_be_left(error: Exception, alive: bool) -> None:
    with connected() as connection:
        connection._subs[1] = SimpleNamespace(unsubscribe=failing(connection, error))
        connection._handlers[1] = print
        await connection.unlisten(1)
        assert connection._handlers == {}
        assert connection.alive is alive
        assert connection.reasons == ([] if alive else [error])


async def test_what_is_forbidden_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as connection:
        monkeypatch.setattr("wsapi.topics._nats_connection._MAX_DENIED", 3)
        for number in range(5):
            await connection._process_err(f'permissions violation for publish to "a.{number}"')
            assert len(connection.denied) <= 3
            with pytest.raises(BusUnavailable, match=rf"doesn't permit publish on a\.{number}"):
                connection.check("publish", f"a.{number}")
        assert connection.denied == {("publish", "a.3"), ("publish", "a.4")}
        assert connection.alive


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (TimeoutError(), r"can't connect to nats://127\.0\.0\.1.*: TimeoutError\(\)"),
        (BusUnavailable("as it is"), "^as it is$"),
    ],
)
async def test_open_that_fails(error: Exception, match: str) -> None:
    """It may be tried again, and nothing of it is left."""
    kept = keeper()

    async def establish() -> None:
        kept.start(asyncio.sleep(60))
        raise error

    kept.establish = establish  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(BusUnavailable, match=match):
            await kept.open(Receiver())
        assert kept.receiver is None
        assert kept._tasks == set()


async def test_open_that_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other server is tried, and the connection that was being made ends."""
    asked: list[str] = []
    ended: list[object] = []

    async def open_one(self: object, server: str, timeout: float, options: object) -> None:
        asked.append(server)
        await asyncio.Event().wait()

    async def end(self: object, timeout: float) -> None:
        ended.append(self)

    monkeypatch.setattr(Connection, "open", open_one)
    monkeypatch.setattr(Connection, "end", end)
    kept = Keeper(["nats://a", "nats://b"], SETTINGS, 60, 10**6, {"tls_hostname": None})
    opening = asyncio.create_task(kept.open(Receiver()))
    await until(lambda: asked)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert len(asked) == len(ended) == 1
    assert kept.receiver is None


async def test_nothing_to_reconnect() -> None:
    kept = keeper()
    kept.reconnect()
    with pytest.raises(BusUnavailable, match="the bus isn't open"):
        kept.current()


async def test_another_connection_than_was_asked() -> None:
    kept, connection = await keeping()
    kept.check_current(connection)
    kept.connection = None
    with pytest.raises(BusUnavailable, match="the connection was lost: the bus isn't open"):
        kept.check_current(connection)


async def test_connection_that_is_lost_at_its_beginning() -> None:
    kept = keeper(settings=SETTINGS._replace(history=0))
    connection: Any = Answers()
    connection.alive = False
    with pytest.raises(BusUnavailable, match="lost at its beginning"):
        await kept._take_over(connection)
    assert kept.connection is None


async def test_connection_that_is_lost_before_there_is_a_receiver() -> None:
    """Nobody is told, and nothing is tried again."""
    kept, connection = await keeping()
    kept._lost(connection, OSError("reset"))
    assert kept.connection is None
    assert kept._tasks == set()
    with pytest.raises(BusUnavailable, match="reset"):
        kept.current()


async def test_close_when_the_connection_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that it is."""
    monkeypatch.setattr("wsapi.topics._nats_link.FIRST_DELAY", 0)
    kept = keeper()
    receiver = kept.receiver = Receiver()

    async def establish() -> None:
        kept.receiver = None

    kept.establish = establish  # type: ignore[method-assign]
    await kept._come_back()
    assert receiver.resumptions == 0


def test_names_of_certificates() -> None:
    """A server of a cluster that tells its address has the name of the one that was given."""
    options = {"tls_hostname": None, "user": "me", "password": None}
    kept = Keeper(["nats://a.example:1"], SETTINGS, 5, 10**6, options)
    kept._discovered = ["nats://10.0.0.1:1", "nats://b.example:1"]
    assert [kept._options_of(server) for server in (*kept.servers, *kept._discovered)] == [
        {"user": "me"},
        {"user": "me", "tls_hostname": "a.example"},
        {"user": "me"},
    ]


async def test_message_that_nobody_takes() -> None:
    """The stream is looked for once, and the message published once more."""
    bus = NatsBus("nats://127.0.0.1", stream="S", prefix="p", history=10)
    connection: Any = Answers(info(5), NoResponders(), info(5), NoResponders())
    bus._keeper.connection = connection
    await bus._keeper.refresh()
    with pytest.raises(BusUnavailable, match="no NATS server takes messages for stream 'S'"):
        await bus.publish("a", "x")
    assert [subject for subject, _ in connection.asked[1:]] == [
        f"p.p.{EPOCH}.a",
        INFO,
        f"p.p.{EPOCH}.a",
    ]
    connection.answers = [NoResponders(), info(5), (b'{"stream": "S", "seq": 6}', None)]
    assert await bus.publish("a", "x") == Position(EPOCH, 6)


async def test_topic_that_is_followed_already() -> None:
    bus = NatsBus("nats://127.0.0.1", stream="S", prefix="p", history=10)
    connection: Any = Answers(info(5), NOTHING, stored(7))
    bus._keeper.connection = connection
    await bus._keeper.refresh()
    assert await bus.follow("a") == Position(EPOCH, 5)
    assert await bus.follow("a") == Position(EPOCH, 7)
    assert connection.listened == ["p.l.a"]


async def test_page_of_a_stream_that_began_anew() -> None:
    bus = NatsBus("nats://127.0.0.1", stream="S", prefix="p", history=10)
    connection: Any = Answers(info(5))
    bus._keeper.connection = connection
    await bus._keeper.refresh()

    def change() -> list[tuple[bytes, bytes]]:
        bus._known.epoch = OTHER
        return [stored(3, more=1), stored(4, more=0), END]

    connection.answers = [change, stored(3)]
    with pytest.raises(BusUnavailable, match=BEGAN_ANEW):
        await bus.read("a", Position(EPOCH, 3), 5)
