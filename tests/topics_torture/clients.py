"""WebSocket clients of the torture run, which come and go, on any server, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.topics_torture.judge import Account, read_payload
from tests.topics_torture.server import FLOOD, NAMES
from wsapi.asyncio.client import connect
from wsapi.exceptions import ConnectionClosed, InvalidHandshake
from wsapi.topics.positions import Position

__all__ = ["Client", "Crowd"]

ANNOUNCED = 25.0
"""Seconds in which who subscribes must hear of it, or be closed."""

MOST_TOPICS = 3

FLOODED = 5
"""One of so many clients subscribes to the topic that is flooded, too."""

# Code 1012 says that messages may be missing, 1013 that the client, or the server, is too slow,
# 1001 that a server ends; 1006 is no Close frame at all.
CODES = (1000, 1001, 1006, 1012, 1013)

HOSTILE_EPOCH = "torture"


class Client:
    """A client, which has accounts of its topics over all its connections."""

    def __init__(self, crowd: Crowd, number: int, seed: str) -> None:
        self.crowd = crowd
        self.name = f"c{number}"
        self.floods = number % FLOODED == 0
        self.random = random.Random(seed)
        self.accounts: dict[int, Account] = {}
        self.subscribed: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.choose()

    def choose(self) -> None:
        """Choose topics, of which accounts are kept."""
        chosen = self.random.sample(range(NAMES.index(FLOOD)), self.random.randint(1, MOST_TOPICS))
        if self.floods:
            chosen = [*chosen, NAMES.index(FLOOD)]
        for number in self.accounts:
            if number not in chosen:
                self.accounts[number].begin_anew()
        self.chosen = sorted(chosen)
        for number in chosen:
            if number not in self.accounts:
                self.accounts[number] = Account(self.name, str(number))

    def positions(self) -> dict[int, Position | None]:
        """Return where it is in each topic that it is subscribed to now."""
        return {number: self.accounts[number].position for number in self.subscribed}

    async def run(self) -> None:
        """Connect, again and again."""
        chance = self.random
        while True:
            if self.crowd.churning and chance.random() < 0.1:
                self.choose()
            await self.session()
            longest = 5.0 if self.crowd.churning and chance.random() < 0.05 else 0.5
            await asyncio.sleep(chance.uniform(0, longest))

    def since(self, number: int) -> Position | None:
        """Choose the position to come back with, most often the last one."""
        account, chance = self.accounts[number], self.random
        if account.position is not None and self.crowd.churning:
            what = chance.random()
            if what < 0.04:
                account.begin_anew()
            elif what < 0.07:
                return Position(HOSTILE_EPOCH, account.position.offset)
            elif what < 0.10:
                # One that never was, or not yet.
                return Position(account.position.epoch, account.position.offset + 10**6)
            elif what < 0.2 and account.stretches and account.stretches[-1].offsets:
                stretch = account.stretches[-1]
                return Position(stretch.start.epoch, chance.choice(stretch.offsets[-30:]))
        return account.position

    async def session(self) -> None:
        """Have one connection."""
        chance = self.random
        wanted: dict[int, Position | None] = {}
        for number in self.chosen:
            wanted[number] = self.since(number)
        query = "".join(
            f"&topic={number}" + (f"@{quote(str(since))}" if since else "")
            for number, since in wanted.items()
        )
        notices = "&gap=1" if chance.random() < 0.7 else ""
        port = chance.choice(self.crowd.ports)
        uri = f"ws://127.0.0.1:{port}/?{notices}{query}"
        try:
            connection = await connect(
                uri, open_timeout=5, close_timeout=1, max_queue=64, compression=None, proxy=None
            )
        except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError):
            self.counts["unconnected"] += 1
            return
        self.counts["connections"] += 1
        waiting = dict(wanted)
        lifetime = chance.expovariate(1 / self.crowd.lifetime)
        leave = asyncio.get_running_loop().create_task(self.leave(connection, lifetime))
        try:
            async with asyncio.timeout(ANNOUNCED) as deadline:
                while True:
                    message = await connection.recv()
                    self.take(message, waiting)
                    if not waiting and deadline.when() is not None:
                        deadline.reschedule(None)
        except ConnectionClosed:
            code = connection.close_code
            self.counts[f"code {code}"] += 1
            if code not in CODES:
                self.failures.append(f"{self.name}: closed with {code} {connection.close_reason!r}")
        except TimeoutError:
            self.failures.append(
                f"{self.name}: subscribing to {sorted(waiting)} on {port}: no answer within "
                f"{ANNOUNCED:g} seconds, and no end"
            )
        finally:
            for number in wanted:
                self.accounts[number].ended()
            self.subscribed.clear()
            leave.cancel()
            connection.transport.abort()
            with contextlib.suppress(ConnectionClosed, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(2):
                    await connection.wait_closed()

    async def leave(self, connection: Any, lifetime: float) -> None:
        """End a connection some day, in one way or another, but not when it is quiet."""
        await asyncio.sleep(lifetime)
        while not self.crowd.churning:
            await asyncio.sleep(0.1)
        if self.random.random() < 0.5:
            connection.transport.abort()
        else:
            await connection.close()

    def take(self, message: str | bytes, waiting: dict[int, Position | None]) -> None:
        """Note a message."""
        now = time.monotonic()
        binary = isinstance(message, bytes)
        text = message.decode("ascii", "replace") if isinstance(message, bytes) else message
        kind, number, rest = text.split(" ", 2)
        account = self.accounts[int(number)]
        if kind == "M":
            where, _, payload = rest.partition(" ")
            name = read_payload(payload)
            if name is None or binary is not (int(name.rpartition(".")[2]) % 2 == 0):
                self.failures.append(f"{self.name}: message {text[:80]!r} isn't what was published")
            else:
                account.message(Position.parse(where), name, now)
        elif kind == "G":
            account.gap(Position.parse(rest), now)
        else:
            told, _, where = rest.partition(" ")
            since = waiting.pop(int(number))
            recovered = {"True": True, "False": False, "None": None}[told]
            hostile = since is not None and since != account.position
            if since is not None and since.epoch == HOSTILE_EPOCH and recovered:
                self.failures.append(f"{self.name}: {since} never was, and was recovered")
            account.announced(since, recovered, Position.parse(where), now, hostile=hostile)
            self.subscribed.add(int(number))


class Crowd:
    """All clients.

    Attributes:
        churning: Whether they come and go; otherwise they come, and stay.
        lifetime: Seconds of a connection, on average.
    """

    def __init__(
        self, ports: list[int], clients: int, seed: str, got: Callable[[BaseException], None]
    ) -> None:
        self.ports = ports
        self.churning = True
        self.lifetime = 3.0
        self.clients = [Client(self, n, f"{seed}/{n}") for n in range(clients)]
        self._got = got
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Have all of them come."""
        self._tasks = [asyncio.create_task(client.run()) for client in self.clients]
        for task in self._tasks:
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._got(exc)

    async def stop(self) -> None:
        """Have all of them go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def behind(self, targets: dict[int, Position]) -> list[str]:
        """Return who isn't where its topics are, and how."""
        found = []
        for client in self.clients:
            positions = client.positions()
            for number in client.chosen:
                position, target = positions.get(number), targets[number]
                if number not in positions:
                    found.append(f"{client.name} isn't subscribed to {number}")
                elif (
                    position is None
                    or position.epoch != target.epoch
                    or position.offset < target.offset
                ):
                    found.append(f"{client.name} is at {position} of {number}, not at {target}")
        return found
