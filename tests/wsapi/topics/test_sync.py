"""What topics do for threads alone: signals, callbacks that take their time, locks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import checking_errors, logged_errors
from tests.wsapi.sync_helpers import PATIENCE, RawPeer, Spawned, eventually, pair, serving, uri_of
from tests.wsapi.topics.memory_bus import MemoryBroker
from wsapi.exceptions import ConnectionClosed
from wsapi.limits import Slow
from wsapi.sync.client import connect
from wsapi.sync.connection import Connection
from wsapi.sync.server import ServerConnection
from wsapi.topics import (
    BusError,
    BusUnavailable,
    History,
    Message,
    Position,
    PublishUncertain,
    TopicLimitExceeded,
    sync,
)
from wsapi.topics._coroutines import drive
from wsapi.topics._thread import LoopThread
from wsapi.topics.sync import Topics

# Messages by whoever is interrupted, and by whoever interrupts.
ROUNDS = 300


@pytest.fixture(autouse=True)
def _no_errors() -> Iterator[None]:
    with checking_errors():
        yield


@contextlib.contextmanager
def topics_on(bus: str, **options: Any) -> Iterator[Topics]:
    broker = MemoryBroker(100_000)
    with Topics(broker.bus() if bus == "bus" else None, **options) as topics:
        yield topics


@contextlib.contextmanager
def handling(number: int, handler: Callable[[], object]) -> Iterator[None]:
    previous = signal.signal(number, lambda *args: handler())
    try:
        yield
    finally:
        signal.signal(number, previous)


def offsets(topic: str, position: Position | None, message: Message) -> Message:
    assert position is not None
    return str(position.offset)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal interrupts anything")
@pytest.mark.parametrize("bus", ["embedded", "bus"])
class TestSignals:
    def test_a_handler_that_publishes(self, bus: str) -> None:
        """Whatever it interrupts: the main thread publishes, too."""
        main = threading.get_ident()
        published: list[Position | None] = []
        with topics_on(bus, history=History(5000), envelope=offsets) as topics, pair() as ends:
            client, server = ends
            with topics.subscribe(server, "a"):
                with handling(signal.SIGINT, lambda: published.append(topics.publish("a", "x"))):

                    def interrupt() -> None:
                        for number in range(ROUNDS):
                            signal.pthread_kill(main, signal.SIGINT)
                            eventually(lambda number=number: len(published) > number)

                    thread = Spawned(interrupt)
                    mine = []
                    while thread.running:
                        mine.append(topics.publish("a", "y"))
                    thread.result()
                total = len(published) + len(mine)
                assert len(set(published + mine)) == total
                received = [client.recv(PATIENCE) for _ in range(total)]
                assert received == [str(number) for number in range(1, total + 1)]

    def test_a_handler_that_raises(self, bus: str) -> None:
        """Ctrl+C leaves nothing half done, wherever it comes while a thread waits."""
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            # Then it comes anywhere, also between the return of subscribe() and `with`, where
            # nobody can end what has begun, as for each context manager.
            pytest.skip("signals come where no code can clean up")
        main = threading.get_ident()
        number = itertools.count()
        came: list[None] = []

        def fail() -> None:
            # A signal may come late, where nobody would take the exception.
            nonlocal armed
            was, armed = armed, False
            came.append(None)
            if was:
                raise KeyboardInterrupt

        armed = False
        with topics_on(bus, history=History(100_000), envelope=offsets) as topics, pair() as ends:
            client, server = ends
            subscription = topics.subscribe(server, "a")

            def interrupt() -> None:
                for number in range(ROUNDS):
                    eventually(lambda: armed)
                    signal.pthread_kill(main, signal.SIGINT)
                    eventually(lambda number=number: len(came) > number)

            with handling(signal.SIGINT, fail):
                thread = Spawned(interrupt)
                while thread.running:
                    with contextlib.suppress(KeyboardInterrupt):
                        armed = True
                        topics.publish("a", str(next(number)))
                        with topics.subscribe(server, "b"):
                            pass
                        armed = False
                thread.result()
            topics.publish("a", "last")
            eventually(lambda: topics.subscribers("b") == 0)
            assert topics.stats().subscriptions == 1
            received: list[Any] = []
            last = subscription.position
            assert last is not None
            eventually(lambda: subscription.position == topics._core.position("a"))
            assert subscription.position is not None
            for _ in range(subscription.position.offset):
                received.append(client.recv(PATIENCE))
            assert received == [str(number) for number in range(1, len(received) + 1)]


class TestCallbacks:
    def test_on_drop_that_takes_its_time(self) -> None:
        """Nobody waits for it: neither who publishes, nor other subscribers."""
        called, release = threading.Event(), threading.Event()
        numbers: list[int] = []

        def on_drop(connection: Any, number: int) -> None:
            numbers.append(number)
            called.set()
            assert release.wait(PATIENCE)

        topics = Topics(slow=Slow.DROP_NEWEST, max_backlog=65536)

        live: list[ServerConnection] = []

        def handler(ws: ServerConnection) -> None:
            with topics.subscribe(ws, "a"):
                live.append(ws)
                ws.wait_closed()

        with serving(handler, on_drop=on_drop, close_timeout=0.1) as server:
            with connect(uri_of(server), compression=None) as fast:
                eventually(lambda: len(live) == 1)
                with connect(uri_of(server), max_queue=1, close_timeout=0.1) as slow:
                    eventually(lambda: len(live) == 2)
                    for number in range(10_000):
                        topics.publish("a", str(number).ljust(10_000))
                        assert str(fast.recv(PATIENCE)).strip() == str(number)
                        if called.is_set():
                            break
                    before = live[1].stats().messages_dropped
                    for number in range(10_000):
                        topics.publish("a", str(number).ljust(10_000))
                        assert str(fast.recv(PATIENCE)).strip() == str(number)
                        if live[1].stats().messages_dropped >= before + 20:
                            break
                    assert len(numbers) == 1
                    topics.subscribe(slow, "b").unsubscribe()
                    release.set()
                    # What was dropped meanwhile is told together.
                    eventually(lambda: sum(numbers) == live[1].stats().messages_dropped)
                    assert len(numbers) < 20
                    slow.socket.shutdown(2)

    def test_an_envelope_that_publishes(self) -> None:
        """It would wait for itself."""
        futures: list[Any] = []

        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            if message == "now":
                topics.publish("a", "never")
            if message == "later":
                futures.append(topics.publish_threadsafe("a", "2"))
            return message

        topics = Topics(envelope=envelope)
        with pair() as (client, server), topics.subscribe(server, "a"):
            with pytest.raises(RuntimeError, match="an envelope must not publish"):
                topics.publish("a", "now")
            topics.publish("a", "later")
            futures[0].result(PATIENCE)
            assert [client.recv(PATIENCE) for _ in range(2)] == ["later", "2"]

    def test_an_envelope_that_publishes_on_the_bus(self) -> None:
        """The thread that it is called in would have to bring the answer."""
        errors: list[Exception] = []

        def envelope(topic: str, position: Position | None, message: Message) -> Message:
            try:
                topics.publish("a", "never")
            except Exception as exc:
                errors.append(exc)
            return message

        with topics_on("bus", envelope=envelope) as topics, pair() as (client, server):
            topics.subscribe(server, "a")
            topics.publish_threadsafe("a", "1")
            assert client.recv(PATIENCE) == "1"
            assert [str(exc) for exc in errors] == ["an envelope must not publish"]

    def test_authorize_that_is_a_coroutine_function(self) -> None:
        async def authorize(connection: Any, topic: str, action: str) -> bool:
            return True

        topics = Topics(authorize=authorize)
        with pair() as (_, server):
            with pytest.raises(TypeError, match="must not be a coroutine function"):
                topics.subscribe(server, "a")
            with pytest.raises(TypeError, match="must not be a coroutine function"):
                topics.publish("a", "x", connection=server)

    def test_authorize_that_returns_something_to_be_awaited(self) -> None:
        class Answer:
            def __await__(self) -> Iterator[None]:
                raise AssertionError("nobody waits for it")

        topics = Topics(authorize=lambda connection, topic, action: Answer())  # type: ignore[arg-type, return-value] # wrong on purpose
        with pair() as (_, server):
            with pytest.raises(TypeError, match="these are topics for threads"):
                topics.subscribe(server, "a")

    def test_a_callback_for_presence_uses_the_topics(self) -> None:
        topics = Topics()

        def watch(event: Any) -> None:
            assert topics.presence("a").members == event.present
            topics.publish("a", f"{event.member} came" if event.present else "went")

        topics.watch_presence("a", watch)
        with pair() as (client, server), pair() as (_, other), topics.subscribe(server, "a"):
            with topics.subscribe(other, "a", member="ann"):
                assert client.recv(PATIENCE) == "ann came"
            assert client.recv(PATIENCE) == "went"

    def test_callbacks_for_presence_that_take_too_long(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sync, "MAX_WAITING", 3)
        topics = Topics()
        entered, release = threading.Event(), threading.Event()
        events: list[Any] = []

        def watch(event: Any) -> None:
            entered.set()
            assert release.wait(PATIENCE)
            events.append(event)

        topics.watch_presence("a", watch)
        with pair() as (_, server):
            topics.subscribe(server, "a", member="x").unsubscribe()
            assert entered.wait(PATIENCE)
            for _ in range(5):
                topics.subscribe(server, "a", member="x").unsubscribe()
            release.set()
            eventually(lambda: len(events) == 4)
            logged_errors("callbacks for presence take too long: some are left out")
            topics.subscribe(server, "a", member="x").unsubscribe()
            eventually(lambda: len(events) == 6)

    def test_a_handler_of_logging_that_publishes(self) -> None:
        """Connections log while others wait for them: it mustn't wait for these."""
        topics = Topics()

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "a line" not in record.getMessage():  # which comes of what follows
                    topics.publish_threadsafe("log", "a line")

        logger = logging.getLogger("of a test with topics")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(Handler())
        with pair(server={"logger": logger}) as (client, server):
            with topics.subscribe(server, "log"), topics.subscribe(server, "a"):
                threads = [
                    Spawned(lambda: [topics.publish("a", "x") for _ in range(50)]),
                    Spawned(lambda: [client.send("x") for _ in range(50)]),
                    Spawned(lambda: [server.recv(PATIENCE) for _ in range(50)]),
                ]
                got = 0
                while got < 50:
                    got += client.recv(PATIENCE) == "x"
                for thread in threads:
                    thread.result()
                logger.setLevel(logging.CRITICAL)
        eventually(lambda: not len(topics._desk))

    def test_too_many_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync, "MAX_WAITING", 3)
        topics = Topics()
        entered, release = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            assert release.wait(PATIENCE)

        holding = Spawned(topics._desk.call, hold)
        assert entered.wait(PATIENCE)
        futures = [topics.publish_threadsafe("a", "x") for _ in range(3)]
        assert futures[1].cancel()
        with pytest.raises(TopicLimitExceeded, match="3 messages wait"):
            topics.publish_threadsafe("a", "x")
        release.set()
        holding.result()
        assert [futures[0].result(PATIENCE), futures[2].result(PATIENCE)] == [None, None]


def test_connections_of_other_kinds(both_ends: tuple[Connection, RawPeer]) -> None:
    with pytest.raises(TypeError, match="must be one of wsapi"):
        Topics().subscribe(both_ends[1], "a")


def test_a_connection_that_ends_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may end it between the question whether it is open and the subscription."""
    check_open = sync._ConnectionRecipient.check_open

    async def check_and_lose(recipient: Any) -> None:
        await check_open(recipient)
        client.close()
        recipient.connection.wait_closed()

    monkeypatch.setattr(sync._ConnectionRecipient, "check_open", check_and_lose)
    topics = Topics()
    with pair() as (client, server):
        with pytest.raises(ConnectionClosed):
            topics.subscribe(server, "a")
    stats = topics.stats()
    assert (stats.topics, stats.connections, stats.subscriptions) == (0, 0, 0)


def test_nothing_suspends_without_an_event_loop() -> None:
    left: list[bool] = []

    async def suspend() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            left.append(True)

    with pytest.raises(AssertionError, match="something suspends"):
        drive(suspend())
    assert left


@pytest.mark.parametrize("bus", ["embedded", "bus"])
def test_many_threads(bus: str) -> None:
    """Publishing, subscribing, and connections that end, all at once: nobody misses anything."""
    history = History(100_000, bytes=2**28)
    with topics_on(bus, history=history, envelope=offsets) as topics:
        stop = threading.Event()
        problems: list[str] = []

        def handler(ws: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosed):
                since = ws.recv(PATIENCE)
                with topics.subscribe(ws, "a", since=str(since)) as subscription:
                    assert subscription.recovered
                    ws.wait_closed()

        def publish() -> int:
            number = 0
            while not stop.is_set():
                topics.publish("a", "x")
                number += 1
                time.sleep(0.0005)
            return number

        def come_and_go(server: Any) -> int:
            epoch, last, rounds = first.epoch, first.offset, 0
            while not stop.is_set():
                with connect(uri_of(server), compression=None) as ws:
                    ws.send(f"{epoch}:{last}")
                    for _ in range(20):
                        offset = int(ws.recv(PATIENCE))
                        if offset != last + 1:
                            problems.append(f"{offset} after {last}")
                        last = offset
                    if rounds % 2:
                        ws.socket.shutdown(2)
                rounds += 1
            return rounds

        first = topics.publish("a", "first")
        assert first is not None
        with serving(handler) as server:
            readers = [Spawned(come_and_go, server) for _ in range(4)]
            writers = [Spawned(publish) for _ in range(2)]
            stop.wait(1.0)
            stop.set()
            assert sum(writer.result() for writer in writers) > 0
            stop_writing = [topics.publish("a", "more") for _ in range(100)]
            assert stop_writing[-1] is not None
            assert all(reader.result() for reader in readers)
        assert not problems
        eventually(lambda: topics.stats().subscriptions == 0)


def test_closed_by_one_thread_while_others_publish() -> None:
    broker = MemoryBroker()
    topics = Topics(broker.bus())
    topics.open()

    def publish() -> None:
        try:
            while True:
                topics.publish("a", "x")
        except (BusError, RuntimeError):
            pass

    threads = [Spawned(publish) for _ in range(3)]
    eventually(lambda: topics.stats().counters.published > 10)
    closing = [Spawned(topics.close) for _ in range(2)]
    for thread in [*threads, *closing]:
        thread.result()
    assert not broker.buses
    with pytest.raises(RuntimeError, match="closed"):
        topics.open()


class TestTheThreadOfTheBus:
    def test_a_callback_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        broker = MemoryBroker()

        def fail(good: bool, reason: str) -> None:
            raise ZeroDivisionError

        with Topics(broker.bus(), on_health=fail) as topics:
            broker.go_away()
            eventually(lambda: not topics.healthy)
            broker.come_back()
            topics.wait_healthy(PATIENCE)
            topics.publish("a", "1")
            # It was there, went, and came back.
            eventually(lambda: caplog.messages.count("on_health failed") == 3)
        logged_errors(*["on_health failed"] * 3)

    def test_closed_by_another_thread_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its thread stops between the question whether it is open and the call there."""
        stopped = LoopThread()
        stopped.stop()
        with Topics(MemoryBroker().bus()) as topics:
            with monkeypatch.context() as patch:
                patch.setattr(topics, "_thread", stopped)
                for publish in (topics.publish, topics.publish_threadsafe):
                    with pytest.raises(BusUnavailable, match="topics are closed"):
                        publish("a", "1")
        with pytest.raises(BusUnavailable, match="topics are closed"):
            topics.wait_healthy()

    def test_closing_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever waits for the broker's answer is told that it isn't known."""
        broker = MemoryBroker()
        topics = Topics(broker.bus(timeout=None)).__enter__()
        assert topics._runner is not None

        async def close() -> None:
            await asyncio.get_running_loop().create_future()

        broker.answers = False
        future = topics.publish_threadsafe("a", "1")
        eventually(lambda: ("publish", "a") in broker.calls)
        monkeypatch.setattr(sync, "CLOSING_LIMIT", 0.01)
        monkeypatch.setattr(topics._runner, "close", close)
        with pytest.raises(TimeoutError):
            topics.close()
        with pytest.raises(PublishUncertain, match="closed before the broker answered"):
            future.result(PATIENCE)

    def test_closing_in_a_forked_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The thread is the parent's; nothing is begun that nobody ends."""
        topics = Topics(MemoryBroker().bus()).__enter__()
        thread, process = topics._thread, os.getpid()
        assert thread is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process + 1)
            with pytest.raises(BusUnavailable, match="fork"):
                topics.close()
        gc.collect()  # a coroutine that nobody awaits is a warning here
        thread.stop()

    @pytest.mark.parametrize("gone", [False, True])
    def test_closed_before_the_time_has_come(self, gone: bool) -> None:
        """What was to be closed in the course of an hour is closed with the topics."""
        broker = MemoryBroker()
        with (
            Topics(broker.bus(), on_gap="close", spread=3600) as topics,
            pair() as (client, server),
        ):
            topics.subscribe(server, "a")
            broker.go_away()
            eventually(lambda: not topics.healthy)
            broker.come_back()
            eventually(lambda: topics._departing)
            (recipient,) = topics._departing
            if gone:
                client.close(4000)
                server.wait_closed()
            topics.close()
            with pytest.raises(ConnectionClosed):
                client.recv(PATIENCE)
            assert client.close_code == (4000 if gone else 1012)
            topics._depart(recipient)  # its time has come just then

    def test_lost_messages_are_found(self) -> None:
        broker = MemoryBroker()
        with Topics(broker.bus(), heartbeat=0.05) as topics, pair() as (client, server):
            with topics.subscribe(server, "a"):
                broker.drops = lambda notice: notice.topic == "a"
                topics.publish("a", "1")
                assert client.recv(PATIENCE) == "1"

    def test_publishing_that_is_given_up(self) -> None:
        """Whoever cancels it isn't told anything, and nobody else is concerned."""
        broker = MemoryBroker()
        with Topics(broker.bus(timeout=None)) as topics:
            broker.answers = False
            future = topics.publish_threadsafe("a", "1")
            eventually(lambda: ("publish", "a") in broker.calls)
            assert future.cancel()
            broker.answers = True
            assert topics.publish("a", "2") == Position("e1", 1)
            assert topics.stats().counters.published == 1
