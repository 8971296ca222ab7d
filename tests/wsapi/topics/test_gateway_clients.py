"""wsapi-topics.js and the gateway, with connections that are cut, and brokers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import port_of, serving, until, uri_of
from tests.wsapi.topics import scripts
from tests.wsapi.topics.scripts import OBSERVER, JavaScript, once, running_node, running_pages
from wsapi.topics import BusUnavailable, History, PublishUncertain, Topics
from wsapi.topics.gateway import Gateway, envelope


def everything(connection: Any, topic: str, action: str) -> bool:
    return True


class Proxy:
    """Passes bytes on to a server, until it cuts all of its connections, anywhere in a frame."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: asyncio.Server

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        self.cut()
        if self.tasks:
            await asyncio.wait(self.tasks)

    @property
    def uri(self) -> str:
        return uri_of(self.server)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, back}
        await asyncio.gather(self.pass_on(reader, back), self.pass_on(there, writer))
        self.writers -= {writer, back}

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(random.randint(1, 2000)):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


async def check_cuts(observers: list[JavaScript], number: int, rounds: int) -> None:
    """Whoever is cut off again and again gets all messages, each once, in order."""
    async with Topics(history=History(messages=1000), envelope=envelope) as topics:
        gateway = Gateway(topics, authorize=everything)
        async with serving(gateway.handle) as server, Proxy(port_of(server)) as proxy:
            for js in observers:
                await js.evaluate(
                    OBSERVER.format(topic="room", number=number, uri=json.dumps(proxy.uri))
                )
            published = itertools.count()
            for _ in range(rounds):
                for _ in range(20):
                    await gateway.publish("room", next(published))
                    await asyncio.sleep(random.random() / 200)
                proxy.cut()
                for _ in range(5):
                    await gateway.publish("room", next(published))
                await until(lambda: topics.subscribers("room") == number * len(observers))
            total = next(published)
            for js in observers:
                done = f"seen.every(({{ data }}) => data.at(-1) === {total - 1})"
                await scripts.until(js, done)
                for seen in await js.evaluate("seen"):
                    assert seen["data"] == list(range(total))
                    assert seen["recoveries"] >= 1
                await js.evaluate("all.forEach((topics) => topics.close()); 0")


@once
async def test_lost_connections_of_node(node: Path) -> None:
    async with running_node(node) as js:
        await check_cuts([js], number=5, rounds=10)


@once
async def test_lost_connections_of_tabs(tmp_path: Path) -> None:
    async with running_pages(tmp_path, 2) as pages:
        await check_cuts(pages, number=2, rounds=4)


def judge(seen: list[Any], sure: list[int], unsure: set[int]) -> None:
    """Check that a client has got all messages in order, each once, or was told what it hasn't."""
    missing = list(sure)
    last = -1
    told = False
    for item in seen:
        if item == "reload":
            told = True
            continue
        assert item > last, f"{item} after {last}"
        last = item
        lost = [number for number in missing if number < item]
        assert told or not lost, f"{lost} are missing before {item}"
        assert item in unsure or item in missing
        missing = [number for number in missing if number > item]
        told = False
    assert told or not missing, f"{missing} are missing at the end"


async def check_trouble(
    js: JavaScript,
    make_bus: Callable[[], Any],
    *,
    disturb: Callable[[], object],
    restart: Callable[[], object],
    loses: bool,
) -> None:
    """Two processes, clients of both that are cut off, and a broker that fails, too."""
    sure, unsure = [], set()
    async with contextlib.AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                Topics(make_bus(), envelope=envelope, heartbeat=0.5, spread=0.5)
            )
            for _ in range(2)
        ]
        proxies = []
        for number, topics in enumerate(processes, 1):
            gateway = Gateway(topics, authorize=everything)
            server = await stack.enter_async_context(serving(gateway.handle))
            proxy = await stack.enter_async_context(Proxy(port_of(server)))
            proxies.append(proxy)
            clients = f"{number - 1} * 4 + i"
            script = OBSERVER.replace("seen[i]", f"seen[{clients}]").replace(
                "all[i]", f"all[{clients}]"
            )
            uri = json.dumps(proxy.uri)
            await js.evaluate(script.format(topic="room", number=4, uri=uri))
        numbers = itertools.count()

        async def publish(count: int) -> None:
            for _ in range(count):
                number = next(numbers)
                try:
                    await processes[number % 2].publish("room", str(number))
                except BusUnavailable:
                    await asyncio.sleep(0.02)
                except PublishUncertain:
                    unsure.add(number)
                else:
                    sure.append(number)
                await asyncio.sleep(random.random() / 100)

        for round_ in range(8):
            await publish(25)
            await asyncio.to_thread(disturb)
            await publish(5)
            random.choice(proxies).cut()
            if round_ == 4:
                restarting = asyncio.create_task(asyncio.to_thread(restart))
                await publish(10)
                await restarting
        for topics in processes:
            await topics.wait_healthy(10)
        await until(lambda: all(topics.subscribers("room") == 4 for topics in processes))
        await publish(10)
        await scripts.until(js, f"seen.every(({{ data }}) => data.at(-1) === {sure[-1]})")
        assert len(sure) > 100
        for seen in await js.evaluate("seen"):
            judge(seen["data"], sure, unsure)
            if loses:
                assert "reload" in seen["data"]
        await js.evaluate("all.forEach((topics) => topics.close()); 0")


@pytest.mark.parametrize(
    "seen, right",
    [
        ([0, 1, 2, 3], True),
        ([0, 1, 3], True),  # 2 is unsure
        ([0, "reload", 3], True),
        (["reload", 3], True),
        ([0, 1, "reload"], True),
        ([0, "reload", 1, 3], True),
        ([0, 3], False),
        ([1, 2, 3], False),
        ([0, 1, 2], False),
        ([0, 1, 1, 3], False),
        ([1, 0, 3], False),
        (["reload", 0, 3], False),
        ([0, 1, 3, 4], False),
    ],
)
def test_judge(seen: list[Any], right: bool) -> None:
    with contextlib.nullcontext() if right else pytest.raises(AssertionError):
        judge(seen, [0, 1, 3], {2})


@once
async def test_trouble_on_all_sides_with_valkey(node: Path, tmp_path: Path) -> None:
    redis = pytest.importorskip("wsapi.topics.redis", reason="redis isn't installed")
    from tests.wsapi.topics.valkey_broker import Broker, binaries

    if "valkey" not in binaries():
        pytest.skip("there is no server of valkey")
    broker = Broker(tmp_path / "broker", binaries()["valkey"]).start()

    def restart() -> None:
        broker.kill()
        broker.start()

    try:
        async with running_node(node) as js:
            await check_trouble(
                js,
                lambda: redis.RedisBus(broker.url),
                disturb=lambda: broker.kill_clients("pubsub"),
                restart=restart,
                loses=True,
            )
    finally:
        broker.stop()


@once
async def test_trouble_on_all_sides_with_nats(node: Path, tmp_path: Path) -> None:
    nats = pytest.importorskip("wsapi.topics.nats", reason="nats-py isn't installed")
    from tests.wsapi.topics.nats_broker import NatsServer

    server = NatsServer(tmp_path / "broker")
    server.start()
    try:
        async with running_node(node) as js:
            await check_trouble(
                js,
                lambda: nats.NatsBus(server.uri, history=1000),
                disturb=lambda: None,
                restart=server.restart,
                loses=False,
            )
    finally:
        server.stop()
