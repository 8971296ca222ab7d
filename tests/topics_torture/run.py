"""A run with one broker: rounds of chaos, each with a quiet end in which all must be well again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.topics_torture import control
from tests.topics_torture.clients import Crowd
from tests.topics_torture.judge import Judge, Stretch
from tests.topics_torture.parties import Party, make_party
from wsapi.topics.positions import Position

__all__ = ["Options", "Report", "run"]

SERVERS = 4
KILL_INTERVAL = 0.05
READY = 45.0
"""Seconds in which a server process must be there."""

SETTLED = 30.0
"""Seconds after the chaos in which all clients must have all messages: N of the rule."""

ANSWERED = 30.0
"""Seconds in which a server process must do what it is told."""

CONNECTED = 1.0
"""Seconds without kills before a flood, since only who is connected has a buffer."""

FLOODED = 4.0
"""Seconds for which a server is stopped while the others publish as much as they can, at most."""

ENOUGH = 1000
"""Messages of plain Pub/Sub of which some must have been lost."""

ENDED = 90.0
"""Seconds in which what was begun in a round must end: servers start, brokers read their data."""

WARM_UP = 0.3
"""Share of the rounds that memory isn't compared with."""

MOST_GROWTH = 0.08
"""Share by which the memory of a server may differ between the first rounds and the last ones."""

LEAST_GROWTH = 3 * 1024
"""KiB that aren't worth a word."""


# What tasks of nats-py raise when a connection is cut while they close it: nobody awaits them.
CONTROL_COMPLAINTS = re.compile(
    rb"Task exception was never retrieved\nfuture: <Task finished [^\n]*site-packages/nats/[^\n]*\n"
    rb"(?:(?:Traceback|  |During handling|The above|\w+(?:\.\w+)*(?:Error|Exception))[^\n]*\n|\n)*"
)


class Act(NamedTuple):
    """Something that is done to the broker, or to servers."""

    at: float
    kind: str


# How often each comes, relative to the others.
ACTS = {
    "pause": 4,
    "restart": 2,
    "lose": 1,
    "age": 1,
    "trim": 2,
    "forget": 1,
    "overflow": 2,
    "cut all": 2,
    "kill server": 3,
    "stop server": 2,
    "block server": 2,
}

# Those that leave the broker all that it had: then nobody has to be told of a gap.
HARMLESS = ("pause", "restart", "cut all", "kill server", "stop server", "block server")
HARMLESS_ROUNDS = 3
"""Every how many rounds there are none but these."""


def is_harmless(number: int) -> bool:
    """Tell whether the broker loses nothing in a round."""
    return number % HARMLESS_ROUNDS == HARMLESS_ROUNDS - 1


def plan(chance: random.Random, number: int, seconds: float) -> list[Act]:
    """Return what is done in a round, and when."""
    kinds = HARMLESS if is_harmless(number) else tuple(ACTS)
    weights = [ACTS[kind] for kind in kinds]
    acts = []
    at = chance.uniform(0.2, 1.0)
    while at < seconds:
        acts.append(Act(at, chance.choices(kinds, weights)[0]))
        at += chance.uniform(0.3, 3.0)
    return acts


@dataclass(frozen=True)
class Options:
    """What a run is like.

    Attributes:
        seconds: How long it is.
        chaos: Seconds of chaos in each round.
        first_round: Number of the first round, to run that one again.
        rounds: Most rounds.
        plant: Name of a mistake to plant into the servers.
        kinds: What is done, of ``ACTS``; None for all of it.
    """

    broker: str
    seconds: float
    seed: str
    folder: Path
    chaos: float = 15.0
    first_round: int = 0
    rounds: int | None = None
    clients: int = 40
    publishers: int = 3
    rate: float = 20.0
    plant: str | None = None
    kinds: frozenset[str] | None = None
    verbose: bool = False


@dataclass
class Report:
    """What came out of a run."""

    broker: str
    version: str = ""
    seed: str = ""
    rounds: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    longest_settling: float = 0.0

    def fail(self, text: str) -> None:
        self.failures.append(text)


class Process:
    """A server process, and what it is told."""

    def __init__(self, run: Run, index: int) -> None:
        self.run = run
        self.index = index
        self.incarnation = 0
        self.port = free_port()
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        self._killed = False

    @property
    def name(self) -> str:
        return f"s{self.index}i{self.incarnation}"

    async def start(self) -> None:
        """Start it; it says when it is ready."""
        options = self.run.options
        self.incarnation += 1
        self._killed = False
        self.ready.clear()
        folder = options.folder
        arguments = {
            "name": self.name,
            "seed": f"{options.seed}/{self.name}",
            "log": str(folder / f"published-{self.name}"),
            "url": self.run.party.url,
            "bus": self.run.party.bus,
            "port": self.port,
            # Some differ, since applications do.
            "history": {"messages": 0 if self.index == 1 else 500, "bytes": 2**20},
            "on_gap": "close" if self.index == 3 else "fill",
            "unfollow_delay": 0.5 if self.index == 2 else 5.0,
            "publish_queue": 200 if self.index in (1, 3) else 0,
            "heartbeat": 1.0,
            "publishers": options.publishers,
            "rate": options.rate,
            "plant": options.plant,
        }
        with (folder / f"log-{self.index}").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.topics_torture.server",
                json.dumps(arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=2**24,
            )
        self._task = asyncio.create_task(self._read(self.process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = json.loads(line)
            if answer.get("ready"):
                self.ready.set()
            else:
                future = self._answers.pop(answer["answer"], None)
                if future is not None and not future.done():
                    future.set_result(answer)
        status = await process.wait()
        if process is self.process:
            self.ready.clear()
            if status and not self._killed:
                self.run.report.fail(f"server {self.name} ended with status {status}")
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionError("the process ended"))
        self._answers.clear()

    async def tell(self, do: str, **more: Any) -> dict[str, Any]:
        """Tell it something; return its answer.

        Raises:
            ConnectionError: If it ends instead.
            TimeoutError: If there is none in time.
        """
        process = self.process
        if process is None or process.stdin is None or process.returncode is not None:
            raise ConnectionError("there is no process")
        self._number += 1
        future = asyncio.get_running_loop().create_future()
        self._answers[self._number] = future
        order = {"do": do, "number": self._number, **more}
        process.stdin.write((json.dumps(order) + "\n").encode())
        async with asyncio.timeout(ANSWERED):
            return await future

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ends right now
                os.kill(self.process.pid, number)

    async def stop(self) -> None:
        """End it orderly."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(ANSWERED):
                await self.process.wait()
        except TimeoutError:
            self.run.report.fail(f"server {self.name} doesn't end within {ANSWERED:g} seconds")
            self.kill()
            await self.process.wait()
        if self._task is not None:
            await self._task


def free_port() -> int:
    """Return a port that clients aren't given: it is still free when a server begins again."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


class Run:
    """A run with one broker."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.report = Report(options.broker, seed=options.seed)
        self.party: Party = make_party(options.broker, options.folder / "broker")
        self.judge = Judge()
        self.servers = [Process(self, index) for index in range(SERVERS)]
        self.crowd = Crowd(
            [server.port for server in self.servers],
            options.clients,
            options.seed,
            lambda exc: self.report.fail(f"a client raised {exc!r}"),
        )
        self.broker_lock = asyncio.Lock()
        self.plain: dict[str, set[str]] = defaultdict(set)  # what each control got
        self.plain_published: set[str] = set()
        self.read: dict[Path, int] = {}
        self.events: list[str] = []
        self.flooding = False
        self.flood_lock = asyncio.Lock()
        self.killing = False
        self.began = time.monotonic()

    def note(self, text: str) -> None:
        """Write down what is done."""
        line = f"{time.monotonic() - self.began:8.3f} {text}"
        self.events.append(line)
        if self.options.verbose:
            print(line, file=sys.stderr, flush=True)

    # ------------------------------------------------------------------ chaos

    async def kill_subscribers(self, chance: random.Random) -> None:
        """End connections of Pub/Sub, again and again."""
        # A task that is cancelled may not end: clients of brokers take that for their own timeout.
        while self.killing:
            if not self.flooding:  # who is gone has no buffer that could overflow
                await self.party.cut(chance)
            await asyncio.sleep(KILL_INTERVAL)

    async def act(self, act: Act, chance: random.Random) -> None:
        """Do what is planned."""
        self.report.counts[act.kind] += 1
        party, killable = self.party, self.servers[1:]
        match act.kind:
            case "pause" | "restart" | "lose" | "age" | "trim" | "forget" | "cut all":
                async with self.broker_lock:
                    self.note(act.kind)
                    if act.kind == "pause":
                        await party.pause(chance.uniform(0.1, 3.0))
                    elif act.kind == "age":
                        self.judge.lost(await party.age(chance))
                    else:
                        await getattr(party, act.kind.replace("cut all", "cut_all"))(chance)
                    self.note(f"{act.kind}: done")
            case "kill server":
                server = chance.choice(killable)
                if server.ready.is_set():
                    self.note(f"kill {server.name}")
                    server.kill()
                    assert server._task is not None
                    await server._task
                    await asyncio.sleep(chance.uniform(0, 1))
                    await server.start()
                    await self.turn_on(server)
                    self.note(f"{server.name} is there")
            case "stop server":
                server = chance.choice(self.servers)
                self.note(f"stop {server.name}")
                server.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.5, 3.0))
                server.signal(signal.SIGCONT)
                self.note(f"{server.name} goes on")
            case "block server":
                server = chance.choice(self.servers)
                self.note(f"block {server.name}")
                await self.tell(server, "block", seconds=1.0)
            case "overflow":
                async with self.flood_lock:
                    await self.flood(*chance.sample(self.servers, len(self.servers)))

    async def flood(self, stopped: Process, *others: Process) -> None:
        """Publish more than the broker keeps for a server that doesn't read."""
        self.flooding = True
        await asyncio.sleep(CONNECTED)
        self.note(f"flood, while {stopped.name} is stopped")
        stopped.signal(signal.SIGSTOP)
        try:
            tasks = [
                asyncio.create_task(self.tell(server, "flood", messages=64, size=2**17))
                for server in others
            ]
            await asyncio.wait(tasks, timeout=FLOODED)
        finally:
            stopped.signal(signal.SIGCONT)
            self.flooding = False
        await asyncio.gather(*tasks)
        self.note("flood: done")

    async def tell(self, server: Process, do: str, **more: Any) -> dict[str, Any] | None:
        """Tell a server something; return None if it has ended."""
        try:
            return await server.tell(do, **more)
        except ConnectionError:
            return None
        except TimeoutError:
            self.report.fail(f"server {server.name} hangs: no answer to {do!r}")
            return None

    async def turn_on(self, server: Process) -> None:
        """Wait for a server, and have it publish if that is what all do."""
        try:
            async with asyncio.timeout(READY):
                await server.ready.wait()
        except TimeoutError:
            self.report.fail(f"server {server.name} isn't ready within {READY:g} seconds")
            return
        await self.tell(server, "publish", on=self.publishing)

    async def chaos(self, number: int, chance: random.Random) -> None:
        """Do what is planned for a round."""
        acts = plan(chance, number, self.options.chaos)
        self.note(f"round {number}: " + ", ".join(f"{act.kind} {act.at:.1f}" for act in acts))
        self.killing = True
        tasks = [asyncio.create_task(self.kill_subscribers(chance), name="kill subscribers")]
        began = time.monotonic()
        for index, act in enumerate(acts):
            if self.options.kinds is not None and act.kind not in self.options.kinds:
                continue
            await asyncio.sleep(max(0.0, began + act.at - time.monotonic()))
            own = random.Random(f"{self.options.seed}/{number}/{index}")
            tasks.append(asyncio.create_task(self.act(act, own), name=act.kind))
        await asyncio.sleep(max(0.0, began + self.options.chaos - time.monotonic()))
        self.killing = False
        done, pending = await asyncio.wait(tasks, timeout=ENDED)
        for task in pending:
            self.report.fail(f"the chaos itself hangs: {task!r}")
            task.cancel()
        for task in done:
            if not task.cancelled() and (exc := task.exception()) is not None:
                self.report.fail(f"the chaos itself failed: {task.get_name()}: {exc!r}")
        self.note("quiet")

    # ------------------------------------------------------------------ the quiet end

    async def settle(self) -> dict[int, Position] | None:
        """Wait until all clients have all messages; return where topics are.

        Those who don't are failures.
        """
        began = time.monotonic()
        self.crowd.churning = False
        await asyncio.gather(*(self.turn_on(server) for server in self.servers))
        why = ["nothing was acknowledged"]
        while time.monotonic() < began + SETTLED:
            targets = await self.probe()
            if targets is not None:
                until = time.monotonic() + 2.0
                while time.monotonic() < until:
                    why = self.crowd.behind(targets)
                    if not why:
                        settled = time.monotonic() - began
                        longest = max(self.report.longest_settling, settled)
                        self.report.longest_settling = longest
                        self.note(f"settled after {settled:.1f} s")
                        return targets
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
        for line in why[:10]:
            self.report.fail(f"deaf: {SETTLED:g} seconds after the chaos, {line}")
        return None

    async def probe(self) -> dict[int, Position] | None:
        """Have each server publish to each topic; return where topics are then."""
        answers = await asyncio.gather(*(self.tell(server, "probe") for server in self.servers))
        targets: dict[int, Position] = {}
        for answer in answers:
            if answer is None or answer["positions"] is None or None in answer["positions"]:
                return None
            for number, text in enumerate(answer["positions"]):
                position = Position.parse(text)
                known = targets.setdefault(number, position)
                if known.epoch != position.epoch:
                    return None  # it ended meanwhile: who sees that, says so
                targets[number] = max(known, position)
        return targets

    # ------------------------------------------------------------------ judging

    def read_logs(self) -> None:
        """Read what servers have written down since the last time."""
        lines = []
        for path in sorted(self.options.folder.glob("published-*")):
            with path.open("rb") as file:
                file.seek(self.read.get(path, 0))
                data = file.read()
            end = data.rfind(b"\n") + 1
            self.read[path] = self.read.get(path, 0) + end
            lines += [json.loads(line) for line in data[:end].splitlines()]
        for kind, *rest in lines:
            if kind == "begun":
                self.judge.begun(str(rest[0]), rest[1], rest[2])
        for kind, where, name, *rest in lines:
            if kind == "acknowledged":
                position = Position.parse(rest[0])
                self.judge.acknowledged(str(where), name, position, rest[1])
            elif kind == "uncertain":
                self.judge.uncertain(name)
            elif kind == "refused":
                self.judge.refused(name)
            elif kind == "failed":
                self.judge.fail(name)
            elif kind == "plain":
                self.plain_published.add(name)

    def judge_round(self, targets: dict[int, Position] | None) -> None:
        """Judge what was told in a round."""
        self.read_logs()
        stretches: list[Stretch] = []
        counts = self.report.counts
        for client in self.crowd.clients:
            for account in client.accounts.values():
                stretches += account.take()
                self.judge.failures += account.failures
                account.failures.clear()
                counts += account.counts
                account.counts.clear()
                account.told.clear()
            self.judge.failures += client.failures
            client.failures.clear()
            counts += client.counts
            client.counts.clear()
            # What it isn't subscribed to is behind what is forgotten below.
            for number, account in client.accounts.items():
                if number not in client.subscribed:
                    account.begin_anew()
        self.report.counts = counts
        self.judge.judge(stretches)
        for number, position in (targets or {}).items():
            self.judge.forget(str(number), position)
        self.report.failures += self.judge.failures
        self.judge.failures.clear()
        self.report.counts += self.judge.counts
        self.judge.counts.clear()

    def read_complaints(self) -> None:
        """Find what servers have logged that nobody should have to read."""
        for server in self.servers:
            path = self.options.folder / f"log-{server.index}"
            with path.open("rb") as file:
                file.seek(self.read.get(path, 0))
                data = file.read()
            self.read[path] = self.read.get(path, 0) + len(data)
            data = CONTROL_COMPLAINTS.sub(b"", data)
            for mark in (b"Traceback", b"was never ", b"exception was never"):
                place = data.find(mark)
                if place >= 0:
                    text = data[max(0, place - 300) : place + 2500].decode(errors="replace")
                    self.report.fail(f"server {server.name} logged:\n{text}")
                    break

    async def measure(self, last: dict[str, dict[str, int]]) -> None:
        """Ask servers what they have counted, and how much memory they have."""
        for server in self.servers:
            stats = await self.tell(server, "stats")
            if stats is None:
                continue
            before = last.get(server.name, {})
            for name in ("filled", "gaps", "duplicates", "resumed", "deaf", "caught_up"):
                new = stats["counters"][name] - before.get(name, 0)
                self.report.counts[f"topics: {name}"] += new
            last[server.name] = stats["counters"]
            if server.index == 0:
                self.report.memory.append(stats["memory"])
                self.note(
                    f"server 0: {stats['memory']} KiB, {stats['objects']} objects, "
                    f"{stats['tasks']} tasks, {stats['topics']} topics"
                )
            if not stats["healthy"]:
                self.report.fail(f"server {server.name} isn't healthy, though all is well")

    # ------------------------------------------------------------------ all of it

    async def run(self) -> Report:
        """Run all rounds."""
        options = self.options
        options.folder.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + options.seconds
        self.publishing = True
        await self.party.start()
        controls: list[tuple[control.Control, asyncio.Task[None]]] = []
        last: dict[str, dict[str, int]] = {}
        try:
            self.report.version = self.party.version
            for name in ("control 1", "control 2"):
                client = control.connect(self.party.url)
                listening = asyncio.create_task(client.listen(self.plain[name].add))
                controls.append((client, listening))
            await asyncio.gather(*(server.start() for server in self.servers))
            await asyncio.gather(*(self.turn_on(server) for server in self.servers))
            self.crowd.start()
            number = options.first_round
            while not self.report.failures:
                chance = random.Random(f"{options.seed}/{number}")
                if number == options.first_round:
                    await self.calm(min(3.0, options.chaos / 3))
                self.crowd.churning = True
                self.crowd.lifetime = chance.choice((1.0, 3.0, 10.0))
                self.publishing = True
                await asyncio.gather(*(self.turn_on(server) for server in self.servers))
                await self.chaos(number, chance)
                self.publishing = False
                targets = await self.settle()
                if is_harmless(number):
                    self.complain_of_gaps("though the broker lost nothing")
                self.judge_round(targets)
                self.read_complaints()
                await self.measure(last)
                self.report.rounds += 1
                number += 1
                print(
                    f"{time.strftime('%X')} {self.report.version}, round {number - 1}: "
                    f"{self.report.counts['acknowledged']} messages, "
                    f"{len(self.report.failures)} failures",
                    file=sys.stderr,
                    flush=True,
                )
                if self.report.failures:
                    self.report.fail(f"in round {number - 1}, of:\n  " + "\n  ".join(self.events))
                    break
                self.events.clear()
                if options.rounds is not None and self.report.rounds >= options.rounds:
                    break
                if time.monotonic() + options.chaos + self.report.longest_settling > end:
                    break
        finally:
            await self.crowd.stop()
            await asyncio.gather(*(server.stop() for server in self.servers))
            for client, listening in controls:
                listening.cancel()
                await asyncio.wait({listening}, timeout=5)
                await client.close()
            await self.party.stop()
        self.read_complaints()
        self.conclude()
        return self.report

    async def calm(self, seconds: float) -> None:
        """Have clients come and go without chaos: then nobody may be told of a gap."""
        self.note("calm")
        await asyncio.sleep(seconds)
        self.complain_of_gaps("while all was well")

    def complain_of_gaps(self, why: str) -> None:
        """Note it as failures if anybody was told of a gap."""
        for client in self.crowd.clients:
            for account in client.accounts.values():
                for what in account.told:
                    self.report.fail(f"{client.name}, {account.topic}: told of a gap {why}: {what}")

    def conclude(self) -> None:
        """Take up what is known at the end."""
        report = self.report
        report.seconds = time.monotonic() - self.began
        report.counts += self.party.counts
        report.counts["plain published"] = len(self.plain_published)
        for got in self.plain.values():
            report.counts["plain lost"] += len(self.plain_published - got)
        if growth := what_grows(report.memory):
            report.fail(growth)
        if len(self.plain_published) > ENOUGH and not report.counts["plain lost"]:
            report.fail("plain Pub/Sub lost nothing: this was no torture")


def what_grows(memory: list[int]) -> str:
    """Return how memory grew from one round to the next, in KiB; empty if it is flat."""
    flat = memory[int(len(memory) * WARM_UP) :]
    part = len(flat) // 3
    if part < 2:
        return ""  # too few to tell
    first, last = sorted(flat[:part])[part // 2], sorted(flat[-part:])[part // 2]
    if last - first > max(first * MOST_GROWTH, LEAST_GROWTH):
        return f"memory of server 0 grows, in KiB: {', '.join(map(str, memory))}"
    return ""


def run(options: Options, show: Callable[[str], object] = print) -> Report:
    """Run with one broker."""
    return asyncio.run(Run(options).run())
