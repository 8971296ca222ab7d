"""What processes do when a real broker doesn't: it stands still, falls silent, is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import pair, until
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.topics.nats_broker import NatsServer
from tests.wsapi.topics.processes import Process
from tests.wsapi.topics.test_presence import Home
from wsapi.exceptions import ConnectionClosed
from wsapi.frames import CloseCode
from wsapi.topics import Topics
from wsapi.topics.exceptions import BusError, BusUnavailable, TopicsError

HEARTBEAT = 0.2

prefixes = (f"brokers{number}" for number in count())


class Server:
    """A broker of either kind.

    Args:
        kind: Which one.
        folder: Where its data are.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.server: Any
        if kind == "nats":
            pytest.importorskip("nats", reason="nats-py isn't installed")
            self.server = NatsServer(folder)
        else:
            pytest.importorskip("redis", reason="redis isn't installed")
            from tests.wsapi.topics.valkey_broker import Broker, binaries

            if kind not in binaries():
                pytest.skip(f"no server of {kind} is installed")
            self.server = Broker(folder, binaries()[kind], appendonly="yes", appendfsync="always")

    @property
    def port(self) -> int:
        port: int = self.server.port
        return port

    def start(self) -> None:
        self.server.start()

    def pause(self) -> None:
        self.server.pause()

    def go_on(self) -> None:
        (self.server.go_on if self.kind == "nats" else self.server.resume)()

    def kill(self) -> None:
        (self.server.stop if self.kind == "nats" else self.server.kill)()

    def process(
        self, prefix: str, *, port: int = 0, of: type[Process] = Process, **options: Any
    ) -> Process:
        """Return a process with topics on this broker."""
        bus: Any
        port = port or self.port
        if self.kind == "nats":
            from wsapi.topics.nats import NatsBus

            bus = NatsBus(f"nats://127.0.0.1:{port}", prefix=prefix, stream=prefix, timeout=2)
        else:
            from wsapi.topics.redis import RedisBus

            bus = RedisBus(f"redis://127.0.0.1:{port}", prefix=prefix, timeout=2)
        options.setdefault("heartbeat", HEARTBEAT)
        return of(MemoryBroker(), bus=bus, **options)


@pytest.fixture(params=["valkey", "redis", "nats"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(request.param, tmp_path / "broker")
    made.start()
    yield made
    made.kill()


class Silencer:
    """A proxy on whose connections nothing comes back any more, when it is told; nobody notices.

    Args:
        port: Port of the broker.
        what: Only connections on which this was sent fall silent.
    """

    def __init__(self, port: int, what: bytes) -> None:
        self.behind = port
        self.what = what
        self.port = 0
        self.silenced: set[asyncio.StreamWriter] = set()
        self.subscribers: set[asyncio.StreamWriter] = set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Silencer:
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def silence(self) -> None:
        assert self.subscribers
        self.silenced |= self.subscribers

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.add(writer)
        behind, far = await asyncio.open_connection("127.0.0.1", self.behind)

        async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if self.what in data.upper():
                    self.subscribers.add(writer)
                if sink is not writer or writer not in self.silenced:
                    sink.write(data)

        relays = [asyncio.ensure_future(relay(*pair)) for pair in ((reader, far), (behind, writer))]
        try:
            await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in relays:
                one.cancel()
            await asyncio.gather(*relays, return_exceptions=True)
            for writers in (self.silenced, self.subscribers, self.writers):
                writers.discard(writer)
            self.tasks.discard(task)
            for end in (writer, far):
                end.transport.abort()


@contextlib.asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Fail if something takes longer than it ever should."""
    async with asyncio.timeout(seconds):
        yield


async def test_silent_connection_is_found(server: Server) -> None:
    """It is there, but brings nothing: that of the notices, which on NATS is the only one."""
    prefix = next(prefixes)
    what = b"SUB " if server.kind == "nats" else b"\nSUBSCRIBE\r"
    async with Silencer(server.port, what) as silencer:
        deaf = server.process(prefix, port=silencer.port)
        async with deaf, server.process(prefix) as other:
            reader = await deaf.subscribed("a")
            await other.runner.publish("a", "1")
            await until(lambda: reader.got == ["1"])
            silencer.silence()
            await other.runner.publish("a", "2")
            await until(lambda: not deaf.runner.healthy)
            if server.kind != "nats":
                assert deaf.health[-1][1].startswith("deaf")
                await deaf.runner.publish("a", "3")
            await until(lambda: deaf.runner.healthy)
            await other.runner.publish("a", "4")
            await until(lambda: reader.got[-1] == "4")
            assert reader.got == ["1", "2", *("3" * (server.kind != "nats")), "4"]
            assert other.runner.stats()["trouble"] == 0


async def test_broker_that_stands_still(server: Server) -> None:
    prefix = next(prefixes)
    async with server.process(prefix) as process:
        reader = await process.subscribed("a")
        server.pause()
        await until(lambda: not process.runner.healthy)
        with pytest.raises(BusError):
            async with bounded(15):
                await process.runner.publish("a", "lost")
        server.go_on()
        await process.runner.wait_healthy(15)
        while True:
            with contextlib.suppress(BusError):
                await process.runner.publish("a", "last")
                break
            await asyncio.sleep(0.05)
        await until(lambda: reader.got and reader.got[-1] == "last")


async def test_queue_while_the_broker_stands_still(server: Server) -> None:
    prefix = next(prefixes)
    async with server.process(prefix, publish_queue=100, publish_timeout=20) as process:
        reader = await process.subscribed("a")
        server.pause()
        await until(lambda: not process.runner.healthy)
        tasks = [
            asyncio.ensure_future(process.runner.publish("a", f"{number}")) for number in range(100)
        ]
        await asyncio.sleep(0)
        with pytest.raises(BusUnavailable):
            await process.runner.publish("a", "too many")
        server.go_on()
        await asyncio.gather(*tasks)
        await until(lambda: len(reader.got) == 100)
        assert reader.got == [f"{number}" for number in range(100)]


async def test_closing_while_the_broker_stands_still(server: Server) -> None:
    """It ends, and leaves no task, as the runner of tests sees."""
    prefix = next(prefixes)
    process = server.process(prefix, heartbeat=5)
    await process.runner.open()
    await process.subscribed("a")
    server.pause()
    try:
        readers = [process.read(f"{number}") for number in range(10)]
        publishing = [asyncio.ensure_future(process.runner.publish("a", "1")) for _ in range(10)]
        await asyncio.sleep(0.05)
        async with bounded(10):
            await process.runner.close()
            for reader in readers:
                await reader.known.wait()
                assert isinstance(reader.error, BusError)
            results = await asyncio.gather(*publishing, return_exceptions=True)
        assert all(isinstance(result, BusError) for result in results)
    finally:
        server.go_on()


async def test_connections_are_closed_while_the_broker_stands_still(server: Server) -> None:
    """Clients hear that they are to come again; who waits for the broker hears that, too."""
    bus = server.process(next(prefixes)).bus
    topics = Topics(bus)
    await topics.open()
    async with pair() as (client, connection), pair() as (_, other):
        subscription = await topics.subscribe(connection, "a", member="ann")
        server.pause()
        try:

            async def subscribe() -> None:
                await topics.subscribe(other, "b")

            tasks = [
                asyncio.ensure_future(wait)
                for wait in (subscribe(), topics.publish("a", "1"), topics.publish("a", "2"))
            ]
            await asyncio.sleep(0.05)
            async with bounded(10):
                await topics.aclose()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, (TopicsError, ConnectionClosed)) for result in results)
            assert not subscription.active
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == CloseCode.SERVICE_RESTART
        finally:
            server.go_on()


async def test_broker_that_is_killed(server: Server) -> None:
    prefix = next(prefixes)
    async with server.process(prefix) as process, server.process(prefix) as other:
        reader = await process.subscribed("a")
        await other.runner.publish("a", "1")
        await until(lambda: reader.got == ["1"])
        server.kill()
        await until(lambda: not process.runner.healthy)
        with pytest.raises(BusError):
            await process.runner.publish("a", "lost")
        server.start()
        await process.runner.wait_healthy(15)
        await other.runner.wait_healthy(15)
        while True:
            with contextlib.suppress(BusError):
                await other.runner.publish("a", "2")
                break
            await asyncio.sleep(0.05)
        await until(lambda: reader.got[-1] == "2")
        # What the broker has kept isn't lost in between; what it lost is told.
        assert reader.got in (["1", "2"], ["1", ..., "2"])


async def test_presence(server: Server) -> None:
    prefix = next(prefixes)

    def home() -> Any:
        return server.process(prefix, of=Home)

    async with home() as one, home() as two:
        one.roll.watch("room")
        one.join("room", "a", "b")
        two.join("room", "b", "c")
        await until(lambda: one.names("room") == two.names("room") == "abc")
        async with home() as three:
            await until(lambda: three.names("room") == "abc")
            three.join("room", *"xyz")
            await until(lambda: one.names("room") == "abcxyz")
        await until(lambda: one.names("room") == two.names("room") == "abc")
        assert one.presence("room").subscriptions == 4
        server.kill()
        await until(lambda: not one.runner.healthy)
        two.leave("room", "c")
        two.join("room", "d")
        server.start()
        await until(lambda: one.names("room") == "abd")
        assert [event.member for event in one.told] == [*"abcxyzxyz", *"cd"]
