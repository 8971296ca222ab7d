"""Event loops of several threads, each with its server, its clients, and what they share.

Without the global interpreter lock they run at the same time. Nothing is lost, doubled, or
miscounted. WSAPI_STRESS_SECONDS makes it last longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from typing import Any

import pytest

from tests.wsapi.helpers import LOOPS
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import Server, ServerConnection, broadcast, serve
from wsapi.exceptions import InvalidStatus
from wsapi.limits import BufferBudget, Door, Slow

SECONDS = float(os.environ.get("WSAPI_STRESS_SECONDS", "1"))
THREADS = 4
CLIENTS = 4  # of each thread
PATIENCE = 60.0


class Shared:
    """What the threads have in common."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + SECONDS
        self.door = Door(max_connections=THREADS * CLIENTS - 2)
        self.budget = BufferBudget(1 << 30, interval=0.01)
        self.ready = threading.Barrier(THREADS + 1)
        self.done = threading.Barrier(THREADS)
        self.loops: list[LoopThread] = []
        self.failures: list[BaseException] = []


class LoopThread:
    """A thread with an event loop: a server, and clients of the other threads' servers."""

    def __init__(self, shared: Shared, number: int, factory: Any) -> None:
        self.shared = shared
        self.number = number
        self.factory = factory
        self.random = random.Random(number)
        self.connections: list[ClientConnection] = []
        self.opened = self.refused = 0
        self.sent = self.echoed = self.broadcasts = 0
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self.factory) as runner:
                runner.run(asyncio.wait_for(self.main(), SECONDS + PATIENCE))
        except BaseException as exc:
            self.shared.failures.append(exc)
            self.shared.ready.abort()
            self.shared.done.abort()

    async def main(self) -> None:
        shared = self.shared
        self.loop = asyncio.get_running_loop()
        self.server: Server
        async with serve(
            self.handle,
            "127.0.0.1",
            0,
            door=shared.door,
            buffer_budget=shared.budget,
            ping_interval=0.05,
        ) as self.server:
            self.port = self.server.sockets[0].getsockname()[1]
            await self.wait(shared.ready)
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(self.connect_again_and_again())
                group.create_task(self.announce())
            # The clients of others are still there.
            await self.wait(shared.done)

    async def wait(self, barrier: threading.Barrier) -> None:
        await self.loop.run_in_executor(None, barrier.wait, PATIENCE)

    async def handle(self, ws: ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async def connect_again_and_again(self) -> None:
        shared = self.shared
        while time.monotonic() < shared.deadline or not (self.opened or self.refused):
            other = self.random.choice(shared.loops)
            try:
                async with connect(
                    f"ws://127.0.0.1:{other.port}",
                    compression=self.random.choice(["deflate", None]),
                ) as ws:
                    self.opened += 1
                    self.connections.append(ws)
                    await self.use(ws)
                    self.connections.remove(ws)
            except InvalidStatus as exc:
                if exc.response.status_code != 503:
                    raise
                self.refused += 1
                await asyncio.sleep(0.005)

    async def use(self, ws: ClientConnection) -> None:
        """Send numbered messages, and find all of them among what comes, in order."""
        for number in range(self.random.randrange(1, 30)):
            message = f"{number} " * self.random.choice([1, 40, 4000])
            await ws.send(message)
            self.sent += 1
            while (received := await ws.recv()) != message:
                assert isinstance(received, str)
                assert received.startswith("announced "), received[:100]
                self.broadcasts += 1
            self.echoed += 1

    async def announce(self) -> None:
        """Send to all connections of this thread, and have the other threads send to theirs."""
        number = 0
        while time.monotonic() < self.shared.deadline:
            number += 1
            text = f"announced by {self.number}: {number} " * self.random.choice([1, 100])
            for other in self.shared.loops:
                other.loop.call_soon_threadsafe(other.broadcast, text)
            await asyncio.sleep(0.002)

    def broadcast(self, text: str) -> None:
        slow = self.random.choice([Slow.DROP_OLDEST, Slow.LATEST, None])
        broadcast(self.server.connections, text, slow=slow, raise_exceptions=True)


def watch(shared: Shared) -> int:
    """Read what any thread may read, until all is over; return how often."""
    rounds = 0
    while any(one.thread.is_alive() for one in shared.loops) and not shared.failures:
        rounds += 1
        assert 0 <= shared.door.opening <= shared.door.connections <= THREADS * CLIENTS
        assert 0 <= shared.budget.buffered_bytes < 1 << 30
        for one in shared.loops:
            stats = one.server.stats()
            assert stats.accepted >= stats.opening + stats.open
            assert 0 <= stats.queued_bytes < 1 << 30
            for ws in one.connections.copy():
                seen = ws.stats()
                assert 0 <= seen.queued_bytes < 1 << 30
                assert seen.messages_sent <= 30
                repr(ws)
    return rounds


@pytest.mark.timeout(SECONDS + 2 * PATIENCE)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_per_thread(loop: str) -> None:
    shared = Shared()
    shared.loops = [LoopThread(shared, number, LOOPS[loop]) for number in range(THREADS)]
    for one in shared.loops:
        one.thread.start()
    try:
        shared.ready.wait(PATIENCE)
        assert watch(shared) > 0
    except threading.BrokenBarrierError:
        pass  # whose thread failed, tells
    finally:
        for one in shared.loops:
            one.thread.join(SECONDS + PATIENCE)
    if shared.failures:
        raise shared.failures[0]
    stats = [one.server.stats() for one in shared.loops]
    assert sum(one.opened for one in shared.loops) == sum(s.closed.get(1000, 0) for s in stats)
    assert sum(one.refused for one in shared.loops) == sum(sum(s.refused.values()) for s in stats)
    assert sum(one.sent for one in shared.loops) == sum(one.echoed for one in shared.loops)
    assert sum(s.messages_received for s in stats) == sum(one.sent for one in shared.loops)
    assert sum(s.messages_sent for s in stats) >= sum(
        one.echoed + one.broadcasts for one in shared.loops
    )
    assert sum(one.opened for one in shared.loops) > THREADS
    assert shared.door.connections == shared.door.opening == 0
    assert shared.budget.buffered_bytes == 0
    assert all(s.open == s.opening == 0 for s in stats)
