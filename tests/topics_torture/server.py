"""A server process of the torture run: WebSocket connections, topics on a bus, publishers.

It obeys lines of JSON on its standard input, answers on its standard output, and writes what it
publishes, before and after, into a file that outlives it, however it ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.topics_torture import control
from tests.topics_torture.judge import make_payload
from wsapi.asyncio.server import ServerConnection, serve
from wsapi.exceptions import ConnectionClosed
from wsapi.topics import (
    BusUnavailable,
    History,
    Position,
    PublishUncertain,
    Subscription,
    Topics,
    TopicsError,
)

HANG = 20.0
"""Seconds after which a publisher that hears nothing is a failure."""

OPENING = 30.0
"""Seconds in which the bus must open, once the broker is there."""

PROBE_TIMEOUT = 8.0

MOST_AT_ONCE = 12
"""Messages that a publisher publishes without waiting for the answers."""

# What the run has its topics called: such as are hard on keys and subjects.
TOPICS = (
    "room.1",
    "room 2",
    "*",
    "room.>",
    "{braces}",
    "}odd{",
    "ключ \N{SNOWMAN}",
    "a/b?c=d&e%20",
    "$JS.API.x",
    "x" * 200,
)
FLOOD = "flood"
NAMES = (*TOPICS, FLOOD)


def make_bus(url: str, options: dict[str, Any]) -> Any:
    """Return the bus for a broker."""
    if url.startswith("nats:"):
        from wsapi.topics.nats import NatsBus

        return NatsBus(url, **options)
    from wsapi.topics.redis import RedisBus

    return RedisBus(url, **options)


def envelope(topic: str, position: Position | None, message: str | bytes) -> str | bytes:
    """Tell subscribers where a message stands."""
    head = f"M {NAMES.index(topic)} {position} "
    return head + message if isinstance(message, str) else head.encode() + message


class Server:
    """The process.

    Args:
        options: From the process that started it.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.name: str = options["name"]
        self.random = random.Random(options["seed"])
        self.log = os.open(options["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.publishing = asyncio.Event()
        self.busy = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.numbers: Counter[str] = Counter()
        self.topics = Topics(
            make_bus(options["url"], options["bus"]),
            history=History(**options["history"]),
            envelope=envelope,
            heartbeat=options["heartbeat"],
            on_gap=options["on_gap"],
            spread=1.0,
            unfollow_delay=options["unfollow_delay"],
            publish_queue=options["publish_queue"],
            publish_timeout=5.0,
        )
        self.control = control.connect(options["url"])
        self.tasks: set[asyncio.Task[Any]] = set()

    def write(self, *words: object) -> None:
        """Write down what happens; it is in the kernel when this returns."""
        os.write(self.log, (json.dumps([*words, time.monotonic()]) + "\n").encode())

    # ------------------------------------------------------------------ subscribers

    async def handler(self, connection: ServerConnection) -> None:
        """Subscribe a connection to what its path names."""
        assert connection.request is not None
        query = parse_qs(urlsplit(connection.request.path).query)
        notices = "gap" in query

        def on_gap(number: int) -> Any:
            return lambda subscription: f"G {number} {subscription.position}"

        def announce(number: int) -> Any:
            def tell(subscription: Subscription) -> str:
                return f"A {number} {subscription.recovered} {subscription.position}"

            return tell

        try:
            for wanted in query["topic"]:
                number, _, since = wanted.partition("@")
                await self.topics.subscribe(
                    connection,
                    NAMES[int(number)],
                    since=since or None,
                    announce=announce(int(number)),
                    on_gap=on_gap(int(number)) if notices else None,
                )
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        except TopicsError as exc:
            await connection.close(1013, type(exc).__name__)

    # ------------------------------------------------------------------ publishers

    async def publish(self, publisher: str, topic: str, size: int) -> Position | None:
        """Publish a message, and write down what came of it."""
        self.numbers[publisher] += 1
        number = self.numbers[publisher]
        name = f"{publisher}.{number}"
        where = NAMES.index(topic)
        payload = make_payload(name, size, binary=number % 2 == 0)
        self.write("begun", where, name)
        try:
            async with asyncio.timeout(HANG):
                position = await self.topics.publish(topic, payload)
        except BusUnavailable:
            self.write("refused", where, name)
        except PublishUncertain:
            self.write("uncertain", where, name)
        except TimeoutError:
            self.write("failed", where, f"publishing {name} hangs")
        except Exception as exc:
            self.write("failed", where, f"publishing {name} raises {exc!r}")
        else:
            self.write("acknowledged", where, name, str(position))
            return position
        return None

    async def publisher(self, name: str) -> None:
        """Publish, as long as the run wants it."""
        chance = self.random
        while True:
            await self.publishing.wait()
            self.busy += 1
            self.idle.clear()
            try:
                topic = chance.choice(TOPICS)
                count = chance.randrange(2, MOST_AT_ONCE) if chance.random() < 0.1 else 1
                size = 1024 if chance.random() < 0.1 else chance.randrange(20, 100)
                results = await asyncio.gather(
                    *(self.publish(name, topic, size) for _ in range(count))
                )
            finally:
                self.busy -= 1
                if not self.busy:
                    self.idle.set()
            if results[-1] is None:
                await asyncio.sleep(chance.uniform(0, 0.1))  # the bus is away
            await asyncio.sleep(chance.expovariate(self.options["rate"]))

    async def control_publisher(self) -> None:
        """Publish to plain Pub/Sub, too."""
        number = 0
        while True:
            await self.publishing.wait()
            number += 1
            name = f"{self.name}.{number}"
            if await self.control.publish(name):
                self.write("plain", 0, name)
            await asyncio.sleep(self.random.expovariate(20))

    async def flood(self, messages: int, size: int) -> None:
        """Publish more than anybody takes at once."""
        self.busy += 1
        self.idle.clear()
        try:
            for _ in range(messages // 8):
                await asyncio.gather(
                    *(self.publish(f"{self.name}flood", FLOOD, size) for _ in range(8))
                )
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()

    # ------------------------------------------------------------------ orders

    async def probe(self) -> dict[str, Any]:
        """Publish a message to each topic; return their positions."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                positions = await asyncio.gather(
                    *(self.publish(f"{self.name}probe", topic, 30) for topic in NAMES)
                )
        except TimeoutError:
            return {"positions": None}
        return {"positions": [None if p is None else str(p) for p in positions]}

    def stats(self) -> dict[str, Any]:
        """Return what was counted, and how much memory is in use."""
        gc.collect()
        with open("/proc/self/smaps_rollup") as file:
            lines = dict(line.split(":", 1) for line in file.readlines()[1:])
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:
            pass
        with open("/proc/self/smaps_rollup") as file:
            lines = dict(line.split(":", 1) for line in file.readlines()[1:])
        stats = self.topics.stats()
        return {
            "counters": asdict(stats.counters),
            "topics": stats.topics,
            "subscriptions": stats.subscriptions,
            "healthy": stats.healthy,
            "memory": int(lines["Anonymous"].split()[0]),
            "objects": len(gc.get_objects()),
            "tasks": len(asyncio.all_tasks()),
        }

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what a line says; return what is answered."""
        match order["do"]:
            case "publish":
                if order["on"]:
                    self.publishing.set()
                else:
                    self.publishing.clear()
                    await self.idle.wait()
            case "probe":
                return await self.probe()
            case "flood":
                await self.flood(order["messages"], order["size"])
            case "block":
                time.sleep(order["seconds"])
            case "stats":
                return self.stats()
        return {}

    async def answer(self, order: dict[str, Any]) -> None:
        answer = await self.obey(order)
        print(json.dumps({"answer": order["number"], **answer}), flush=True)

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def open_topics(self) -> None:
        """Open the bus, however long the broker is away."""
        deadline = time.monotonic() + OPENING
        while True:
            try:
                await self.topics.__aenter__()
                return
            except BusUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def run(self) -> None:
        """Serve until standard input ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await self.open_topics()
        try:
            async with serve(self.handler, "127.0.0.1", self.options["port"], compression=None):
                for index in range(self.options["publishers"]):
                    self.spawn(self.publisher(f"{self.name}p{index}"))
                self.spawn(self.control_publisher())
                print(json.dumps({"ready": True}), flush=True)
                while line := await reader.readline():
                    self.spawn(self.answer(json.loads(line)))
                for task in list(self.tasks):
                    task.cancel()
                if self.tasks:
                    await asyncio.wait(self.tasks, timeout=5)
        finally:
            await self.topics.__aexit__(None, None, None)
            await self.control.close()


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["plant"]:
        from tests.topics_torture import planted

        planted.plant(options["plant"])
    asyncio.run(Server(options).run())


if __name__ == "__main__":
    main()
