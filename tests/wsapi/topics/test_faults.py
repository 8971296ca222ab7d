"""Several processes, and a broker with which everything goes wrong, by chance.

Whatever happens, a client that comes and goes has all messages of its topic in order, each once,
or was told of the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from typing import Any

import pytest

from tests.wsapi.helpers import until
from tests.wsapi.topics.clock import fake_time
from tests.wsapi.topics.memory_bus import MemoryBroker
from tests.wsapi.topics.processes import Process, Reader
from wsapi.topics import _runner
from wsapi.topics._history import History
from wsapi.topics.bus import Message, is_transient
from wsapi.topics.exceptions import BusError
from wsapi.topics.positions import Position

TOPICS = "ab"


class Broker(MemoryBroker):
    """Remembers which message follows which one."""

    def __init__(self, history: int, step: int) -> None:
        super().__init__(history, step=step)
        self.before: dict[Message, Message | None] = {}
        self.last: dict[str, Message | None] = dict.fromkeys(TOPICS)

    def publish(self, topic: str, message: Message) -> Position | None:
        if not is_transient(topic):
            self.before[message] = self.last[topic]
            self.last[topic] = message
        return super().publish(topic, message)


class Client:
    """Somebody who subscribes to a topic, now in this process, now in that one.

    Attributes:
        got: Messages, and ``...`` in the place of those that it was told are missing.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.got: list[Any] = []
        self.since: Position | None = None
        self.reader: Reader | None = None

    async def come(self, process: Process) -> None:
        reader = process.read(self.topic, self.since)
        await reader.known.wait()
        if reader.error is not None:
            assert isinstance(reader.error, BusError)
            assert not reader.got
            return
        if reader.subscriber.recovered is not True and self.got:
            self.got.append(...)
        self.reader = reader

    def go(self) -> None:
        assert self.reader is not None
        self.reader.leave()
        self.got += self.reader.got
        self.since = self.reader.subscriber.position
        self.reader = None

    def check(self, broker: Broker) -> None:
        messages = [message for message in self.got if message is not ...]
        assert len(messages) == len(set(messages)), "one came twice"
        for before, message in zip(self.got, self.got[1:], strict=False):
            if before is not ... and message is not ...:
                assert broker.before[message] == before, "one is missing"
        assert not self.got or self.got[-1] in (broker.last[self.topic], ...)


class Later:
    """Calls into a core that lives in another thread, which is busy now and then."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.calls: deque[tuple[Any, ...]] = deque()

    def __call__(self, *call: Any) -> None:
        if not self.calls:
            delay = self.chance.choice([0, 0, 0, 0.5])
            asyncio.get_running_loop().call_later(delay, self.catch_up)
        self.calls.append(call)

    def catch_up(self) -> None:
        calls, self.calls = self.calls, deque()
        for function, *args in calls:
            function(*args)


async def chaos(chance: random.Random, broker: Broker, processes: list[Process]) -> None:
    """Let something go wrong."""
    process = chance.choice(processes)
    match chance.randrange(9):
        case 0:
            process.bus.lose(ConnectionResetError("killed"))
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random())
            if broker.available:
                process.bus.regain()
        case 1:
            process.bus.deaf = True
        case 2:
            share = chance.random()
            broker.drops = lambda notice: chance.random() < share
            await asyncio.sleep(chance.random())
            broker.drops = lambda notice: False
        case 3:
            broker.holding = True
            await asyncio.sleep(chance.random())
            broker.release()
        case 4:
            broker.trim(chance.choice(TOPICS), chance.randrange(5))
        case 5:
            broker.answers = False
            await asyncio.sleep(chance.choice([0.1, 3, 8]))
            broker.answers = True
        case 6:
            broker.go_away()
            await asyncio.sleep(chance.random())
            broker.come_back()
        case 7:
            broker.lost_answers = 3
        case 8:
            state, last = broker.state(), dict(broker.last)
            await asyncio.sleep(chance.random())
            broker.go_away()
            broker.held.clear()
            broker.last = last
            broker.come_back(state, new_epochs=True)


@pytest.mark.parametrize("seed", range(20))
def test_chaos(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "MAX_NOTICES_AHEAD", 20)
    chance = random.Random(seed)
    broker = Broker(chance.choice([0, 5, 1000]), chance.choice([1, 3]))
    options = {"history": History(messages=chance.choice([0, 3, 100]))}

    @fake_time
    async def test() -> None:
        processes = [
            Process(
                broker,
                core_options={"unfollow_delay": chance.choice([0, 3]), **options},
                heartbeat=2,
                publish_queue=chance.choice([0, 20]),
                call=chance.choice([None, Later(chance)]),
            )
            for _ in range(3)
        ]
        async with contextlib.AsyncExitStack() as stack:
            for process in processes:
                await stack.enter_async_context(process)
            clients = [Client(chance.choice(TOPICS)) for _ in range(10)]
            numbers = iter(range(10**6))
            over = False

            async def publish() -> None:
                while not over:
                    with contextlib.suppress(BusError):
                        process = chance.choice(processes)
                        message = f"{next(numbers)}"
                        await process.runner.publish(chance.choice(TOPICS), message)
                    if chance.random() < 0.3:
                        await asyncio.sleep(chance.random() * 0.1)

            async def move() -> None:
                while not over:
                    client = chance.choice(clients)
                    if client.reader is not None:
                        client.go()
                    else:
                        await client.come(chance.choice(processes))
                    await asyncio.sleep(chance.random() * 0.2)

            async def harm() -> None:
                while not over:
                    await asyncio.sleep(chance.random())
                    await chaos(chance, broker, processes)

            tasks = [asyncio.ensure_future(play()) for play in (publish, publish, move, harm)]
            await asyncio.sleep(30)
            over = True
            await asyncio.gather(*tasks)
            await until(lambda: all(process.runner.healthy for process in processes))
            # The last messages are lost on their way, in silence.
            broker.lost_answers = 0
            broker.drops = lambda notice: not is_transient(notice.topic)
            for topic in TOPICS:
                await processes[0].runner.publish(topic, f"{next(numbers)}")
            broker.drops = lambda notice: False
            await asyncio.sleep(20)
            for client in clients:
                if client.reader is None:
                    await client.come(chance.choice(processes))
                    await asyncio.sleep(1)
                client.go()
                client.check(broker)
            assert max(len(client.got) for client in clients) > 20

    test()
