"""What topics do on trio alone: runs, tokens, Ctrl+C, cancellation."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.conformance.on_trio import TrioDriver
from tests.wsapi.helpers import logged_errors
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.trio_helpers import trio_test
from wsapi.topics import BusUnavailable, History, Message, Position
from wsapi.topics import trio as topics_trio
from wsapi.topics._history import Entry
from wsapi.topics.trio import Topics


def offsets(topic: str, position: Position | None, message: Message) -> Message:
    assert position is not None
    return str(position.offset)


def conformance(test: Any) -> Any:
    """Run a test with pairs of connections."""

    def run() -> None:
        driver = TrioDriver()
        driver.run(test(driver))

    return run


@conformance
async def test_ctrl_c_leaves_nothing_half_done(driver: TrioDriver) -> None:
    def envelope(topic: str, position: Position | None, message: Message) -> Message:
        signal.raise_signal(signal.SIGINT)
        return message

    topics = Topics(history=History(10), envelope=envelope)
    async with driver.pair() as (client, server), topics.subscribe(server.raw, "a"):
        done = False

        # What trio.run() does in its main task, which the driver keeps from being interrupted.
        def publish() -> None:
            nonlocal done
            topics._publish_here("a", "x")
            done = True

        previous = signal.signal(signal.SIGINT, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                publish()
                signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, previous)
        assert done
        assert await client.recv(timeout=10) == "x"


def interrupt(*args: object) -> None:
    """Do what trio's handler does."""
    if not trio.lowlevel.currently_ki_protected():
        raise KeyboardInterrupt


@trio_test
async def test_publishing_lets_others_run() -> None:
    topics = Topics()
    ran = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            ran.set()

        nursery.start_soon(run)
        for _ in range(3):
            await topics.publish("a", "x")
        assert ran.is_set()


@trio_test
async def test_cancelled_before_it_is_published() -> None:
    topics = Topics()
    with trio.CancelScope() as scope:
        scope.cancel()
        await topics.publish("a", "x")
    assert scope.cancelled_caught
    assert topics.stats().counters.published == 0
    async with Topics(MemoryBroker().bus()) as topics:
        with trio.CancelScope() as scope:
            scope.cancel()
            await topics.publish("a", "x")
        assert scope.cancelled_caught
        await topics.publish("a", "y")
        assert topics.stats().counters.published == 1


@trio_test
async def test_closing_in_a_scope_that_is_cancelled() -> None:
    broker = MemoryBroker()
    with trio.CancelScope() as scope:
        async with Topics(broker.bus()) as topics:
            scope.cancel()
    assert scope.cancelled_caught
    assert not broker.buses
    assert not [t for t in threading.enumerate() if t.name == "wsapi-topics"]
    with pytest.raises(RuntimeError, match="closed"):
        await topics.publish("a", "x")


@conformance
async def test_another_run(driver: TrioDriver) -> None:
    topics = Topics()
    async with driver.pair() as (_, server), topics.subscribe(server.raw, "a"):

        def other() -> None:
            with pytest.raises(RuntimeError, match="belong to another run of trio"):
                trio.run(topics.publish, "a", "x")

        await trio.to_thread.run_sync(other)
    await trio.to_thread.run_sync(trio.run, topics.publish, "a", "x")


def test_threads_when_no_run_uses_it() -> None:
    topics = Topics()
    with pytest.raises(RuntimeError, match="no run of trio has used these topics yet"):
        topics.publish_threadsafe("a", "x")
    trio.run(topics.publish, "a", "x")
    with pytest.raises(trio.RunFinishedError):
        topics.publish_threadsafe("a", "x")


@conformance
async def test_a_future_that_is_cancelled(driver: TrioDriver) -> None:
    topics = Topics()
    async with driver.pair() as (client, server), topics.subscribe(server.raw, "a"):
        futures = [topics.publish_threadsafe("a", text) for text in "xyz"]
        assert futures[1].cancel()
        assert [await client.recv(timeout=10) for _ in range(2)] == ["x", "z"]


@conformance
async def test_connections_of_other_kinds(driver: TrioDriver) -> None:
    with pytest.raises(TypeError, match="must be one of wsapi"):
        Topics().subscribe(object(), "a")


@conformance
async def test_what_fails_is_told_to_the_log(driver: TrioDriver) -> None:
    """What runs in a system task of trio must not raise: that would end the program."""
    topics = Topics()
    topics._bind()

    def fail(*args: object) -> None:
        raise ZeroDivisionError

    topics._call(fail)
    await trio.testing.wait_all_tasks_blocked()
    logged_errors("topics failed")


@conformance
async def test_a_subscription_that_fails_is_told_to_the_log(driver: TrioDriver) -> None:
    """It ends; what goes on behind a gap has no caller."""

    async def fail(*args: object) -> None:
        raise ZeroDivisionError

    async with Topics() as topics, driver.pair() as (_, server):
        subscription = await topics.subscribe(server.raw, "a")
        server.raw.send = fail
        await topics._advance_guarded(subscription, [Entry(1, "x", b"", 0.0, 1)])
        assert not subscription.active
    logged_errors("a subscription failed")


def test_an_answer_that_comes_after_the_run() -> None:
    """Nobody waits for it, and nothing fails."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    async def main() -> None:
        with trio.move_on_after(0):
            await topics_trio._ended(future)

    trio.run(main)
    future.set_result(None)
    logged_errors()


@conformance
async def test_a_run_that_ends_before_the_topics(driver: TrioDriver) -> None:
    """What the bus tells afterwards is nobody's business."""
    broker = MemoryBroker()
    topics = Topics(broker.bus(), on_health=lambda good, reason: None)

    await trio.to_thread.run_sync(trio.run, topics.open)
    bus = broker.buses[0]
    bus.lose(ConnectionResetError("gone"))
    with pytest.raises(BusUnavailable):
        await trio.to_thread.run_sync(
            lambda: topics.publish_threadsafe("a", "x").result(10),
        )
    bus.regain()
    await topics.aclose()
    assert not broker.buses
    logged_errors()
