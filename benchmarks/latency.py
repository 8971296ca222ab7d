"""How long echoes take at a given share of what a peer can do: ``python -m benchmarks.latency``.

README.md says what the figures mean. First it is measured how many messages per second a peer
echoes at most. Then messages are sent at 30 %, 60 %, and 90 % of that, at random times that are
fixed beforehand and wait for nobody: each latency begins when its message was due, so that a pause
counts for all messages that fell into it. In the end the peer has many idle connections, and it is
seen how long its garbage collector pauses it.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from . import command_line, crowd, data, load, peers, process
from .crowd import percentile
from .plot import QUIET

DEFAULT_PEERS: Final = (
    *("raw", "wsapi", "wsapi_callbacks", "picows", "picows_websockets", "aiohttp"),
    "websockets",
)
SHARES: Final = (30, 60, 90)  # per cent of what a peer can do
PERCENTILES: Final = (50.0, 99.0, 99.9)
CONNECTIONS: Final = 100
SIZE: Final = 64  # bytes of a message


@dataclass(frozen=True)
class Settings:
    """What is done.

    Args:
        rounds: How often a peer has its turn.
        seconds: Duration of each load.
        idle: Idle connections while the garbage collector is watched; 0 leaves that out.
    """

    rounds: int
    seconds: float
    idle: int


def arrivals(rate: float, seconds: float, seed: int) -> array[float]:
    """Return the times at which messages are due, in seconds from the beginning.

    They come independently of each other (a Poisson process), the same times for each seed.
    """
    draw = random.Random(seed).expovariate
    times, at = array("d"), draw(rate)
    while at < seconds:
        times.append(at)
        at += draw(rate)
    return times


class Lane:
    """A connection with any number of messages under way."""

    __slots__ = ("_echo_size", "_echoes", "_next", "_position", "due", "frames", "sock")

    def __init__(self, sock: socket.socket, pairs: list[tuple[bytes, bytes]]) -> None:
        self.sock = sock
        self.frames = [frame for frame, _ in pairs]
        self.due: deque[float] = deque()  # when those were due that are under way
        self._echoes = b"".join(echo for _, echo in pairs) * 2
        self._echo_size = len(pairs[0][1])
        self._next = self._position = 0

    def send(self, due: float) -> None:
        """Send the next message."""
        frame = self.frames[self._next]
        self._next = (self._next + 1) % len(self.frames)
        self.due.append(due)
        if self.sock.send(frame) != len(frame):
            raise OSError("the send buffer is smaller than what is under way")

    def receive(self) -> int:
        """Receive what is there; return how many echoes are complete by that."""
        turn = len(self._echoes) // 2
        received = self.sock.recv(turn)
        if not received or not self._echoes.startswith(received, self._position):
            raise load.mismatch(received, self._echoes[self._position : self._position + turn])
        first = self._position // self._echo_size
        self._position += len(received)
        finished = self._position // self._echo_size - first
        self._position %= turn
        return finished


@dataclass
class Load:
    """What was seen at one share of what a peer can do.

    Attributes:
        latencies: Seconds from when messages were due to their echoes.
        late: Seconds from then to when they were sent, which is this process's fault.
        wall: Seconds.
        busy: Share of the time that the server spent on the processor.
        queued: Share for which it was ready while others had its core.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    late: array[float] = field(default_factory=lambda: array("d"))
    wall: float = 0.0
    busy: float = 0.0
    queued: float = 0.0


def open_loop(lanes: list[Lane], times: Sequence[float], found: Load) -> None:
    """Send messages when they are due, on one connection after the other, and await all echoes.

    It never sleeps: whoever sleeps wakes up late.
    """
    now, epoll = time.perf_counter, select.epoll()
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    for fd in by_fd:
        epoll.register(fd, select.EPOLLIN)
    sent, pending, count = 0, 0, len(times)
    latencies, late = found.latencies, found.late
    begin = heard = now()
    while sent < count or pending:
        at = now()
        while sent < count and begin + times[sent] <= at:
            due = begin + times[sent]
            lanes[sent % len(lanes)].send(due)
            late.append(at - due)
            sent += 1
            pending += 1
            at = now()
        events = epoll.poll(0)
        at = now()
        for fd, _ in events:
            lane = by_fd[fd]
            for _ in range(lane.receive()):
                latencies.append(at - lane.due.popleft())
                pending -= 1
            heard = at
        if not pending:
            heard = at
        elif at - heard > load.TIMEOUT:
            raise load.WrongEcho(f"no answer within {load.TIMEOUT:g} s")
    found.wall += now() - begin
    epoll.close()


def pairs_of(target: load.Target, number: int) -> list[tuple[bytes, bytes]]:
    """Return wire bytes of messages and of their echoes, for a connection."""
    payloads = data.payloads(load.VARIETY, SIZE, seed=data.SEED + number)
    return [
        (
            target.request_frame(data.BINARY, payload, key),
            target.reply_frame(data.BINARY, payload, key),
        )
        for payload, key in zip(payloads, data.masking_keys(len(payloads)), strict=True)
    ]


def new_lanes(target: load.Target) -> list[Lane]:
    """Open connections that send."""
    return [
        Lane(load.connect(target, number.to_bytes(16, "big")), pairs_of(target, number))
        for number in range(CONNECTIONS)
    ]


def at_rate(target: load.Target, lanes: list[Lane], rate: float, seconds: float, seed: int) -> Load:
    """Send at a rate for some seconds, after a tenth of that which doesn't count."""
    open_loop(lanes, arrivals(rate, seconds / 10, seed + 1), Load())
    found, clock = Load(), target.clock
    cpu, queued = clock.cpu(), clock.queued()
    open_loop(lanes, arrivals(rate, seconds, seed), found)
    found.busy = (clock.cpu() - cpu) / found.wall
    found.queued = (clock.queued() - queued) / found.wall
    return found


@dataclass
class Pauses:
    """What the garbage collector did with many connections; all in ms.

    Attributes:
        full: How long a whole collection takes.
        opening: The longest pause while they were opened.
        echoing: The longest pause while others echoed.
        share: Share of that time that pauses took.
    """

    full: float
    opening: float
    echoing: float
    share: float


@dataclass
class Result:
    """All rounds of a peer."""

    peer: str
    version: str = ""
    most: list[float] = field(default_factory=list)  # messages per second
    loads: dict[int, list[Load]] = field(default_factory=dict)
    crowded: list[Load] = field(default_factory=list)
    pauses: list[Pauses] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures: of latencies the round that has the least p99, for each share."""
        return {
            "peer": self.peer,
            "version": self.version,
            "most": round(max(self.most)),
            "loads": {share: summary_of(loads) for share, loads in self.loads.items()},
            "crowded": summary_of(self.crowded) if self.crowded else None,
            "pauses": vars(min(self.pauses, key=lambda found: found.full)) if self.pauses else None,
        }


def in_us(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles, in µs."""
    ordered = sorted(seconds)
    return {f"{percent:g}": round(percentile(ordered, percent) * 1e6, 1) for percent in PERCENTILES}


def summary_of(loads: list[Load]) -> dict[str, Any]:
    """Return the figures of the round that was disturbed least."""
    best = min(loads, key=lambda found: percentile(sorted(found.latencies), 99))
    return {
        "rate": round(len(best.latencies) / best.wall),
        "latency_us": in_us(best.latencies),
        "late_us": in_us(best.late),
        "busy": round(best.busy, 3),
        "queued": round(best.queued, 4),
        "rounds": [in_us(found.latencies) for found in loads],
    }


def longest(pauses: list[tuple[int, float]]) -> float:
    """Return the longest pause, in ms."""
    return round(max((seconds for _, seconds in pauses), default=0.0) * 1e3, 3)


def run(result: Result, loop: str, settings: Settings, number: int, cpu: int) -> None:
    """Run a round of a peer."""
    seed = data.SEED + number
    with process.server(loop, result.peer, "echo", cpu) as server:
        result.version = server.hello["version"]
        window = load.echo(
            server.target, CONNECTIONS, 1, SIZE, settings.seconds / 4, settings.seconds / 2
        )
        result.most.append(window.messages / window.wall)
    most = max(result.most)
    with process.server(loop, result.peer, "echo", cpu) as server:
        lanes = new_lanes(server.target)
        for share in SHARES:
            found = at_rate(server.target, lanes, most * share / 100, settings.seconds, seed)
            result.loads.setdefault(share, []).append(found)
    if settings.idle:
        with process.server(loop, result.peer, "echo", cpu) as server:
            sources = tuple(
                f"127.0.0.{2 + n}" for n in range(settings.idle // crowd.PER_SOURCE + 1)
            )
            target = replace(server.target, sources=sources, per_source=crowd.PER_SOURCE)
            server.pauses()
            load.connect_many(target, settings.idle)
            lanes = new_lanes(target)
            opening = server.pauses()
            found = at_rate(target, lanes, most * SHARES[0] / 100, settings.seconds, seed)
            result.crowded.append(found)
            echoing = server.pauses()
            server.release_memory()
            result.pauses.append(
                Pauses(
                    longest(server.pauses()),
                    longest(opening),
                    longest(echoing),
                    round(sum(seconds for _, seconds in echoing) / (found.wall * 1.1), 5),
                )
            )


def latency(
    names: list[str], loop: str, settings: Settings, report: Callable[[str], None]
) -> list[Result]:
    """Run all peers, which take turns.

    Args:
        names: Names of peers.
        loop: Event loop.
        settings: What is done.
        report: Gets lines that tell how far it is.
    """
    crowd.raise_descriptors(settings.idle + CONNECTIONS + crowd.SPARE)
    cpu, load_cpu = process.cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    results = [Result(name) for name in names]
    try:
        for number in range(settings.rounds):
            for result in results:
                gc.collect()
                gc.disable()
                try:
                    run(result, loop, settings, number, cpu)
                finally:
                    gc.enable()
                medians = ", ".join(
                    f"{share} % {in_us(loads[-1].latencies)['99']:.0f} µs"
                    for share, loads in result.loads.items()
                )
                report(
                    f"round {number + 1}, {result.peer}: {result.most[-1]:,.0f}/s; p99 {medians}"
                )
    finally:
        os.sched_setaffinity(0, before)
    return results


def table(document: dict[str, Any]) -> str:
    """Format what was found."""
    lines = [
        f"echoes of {SIZE} B on {CONNECTIONS} connections, {document['settings']['loop']}; µs from "
        "when a message was due",
        f"{'':18} {'most/s':>9} {'load':>5} {'per s':>9} {'p50':>8} {'p99':>9} {'p99.9':>9} "
        f"{'late p99':>9} {'busy':>5} {'queued':>6}",
    ]
    shares: list[float] = []
    for row in document["results"]:
        for share, found in row["loads"].items():
            figures = found["latency_us"]
            shares.append(found["queued"])
            lines.append(
                f"{row['peer']:18} {row['most']:9,} {share:>4}% {found['rate']:9,} "
                f"{figures['50']:8.0f} {figures['99']:9.0f} {figures['99.9']:9.0f} "
                f"{found['late_us']['99']:9.0f} {found['busy']:5.0%} {found['queued']:6.0%}"
            )
    if any(row["pauses"] for row in document["results"]):
        lines += [
            "",
            f"garbage collection with {document['settings']['idle']:,} idle connections, and "
            f"echoes at {SHARES[0]} %; ms",
            f"{'':18} {'whole':>8} {'opening':>8} {'echoing':>8} {'share':>7} {'p99.9':>8}",
        ]
        for row in document["results"]:
            found = row["pauses"]
            lines.append(
                f"{row['peer']:18} {found['full']:8.1f} {found['opening']:8.2f} "
                f"{found['echoing']:8.2f} {found['share']:7.2%} "
                f"{row['crowded']['latency_us']['99.9'] / 1e3:8.2f}"
            )
    if max(shares, default=0.0) > QUIET:
        lines += [
            "",
            f"NOT A QUIET MACHINE: others had the server's core for up to {max(shares):.0%}",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the table, write the file."""
    parser = command_line.parser("benchmarks.latency", __doc__, DEFAULT_PEERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each load")
    parser.add_argument(
        "--idle", type=int, default=10_000, help="idle connections; 0: no such part"
    )
    parser.add_argument("--quick", action="store_true", help="for a moment: shows that it runs")
    options = parser.parse_args(arguments)
    names = command_line.chosen_peers(parser, options, DEFAULT_PEERS)
    settings = Settings(options.rounds, options.seconds, options.idle)
    if options.quick:
        settings = Settings(1, 0.2, min(options.idle, 50))
    # To open 10,000 connections takes longer than until the first Ping.
    os.environ[peers.PING_INTERVAL] = "3600"
    try:
        results = latency(names, options.loop, settings, command_line.say)
    except (load.WrongEcho, OSError) as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    finally:
        del os.environ[peers.PING_INTERVAL]
    document = {
        "machine": process.machine(),
        "settings": {"loop": options.loop, **vars(settings)},
        "results": [result.summary() for result in results],
    }
    print(table(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
