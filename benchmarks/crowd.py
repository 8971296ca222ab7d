"""Many idle connections and some active ones, for long: ``python -m benchmarks.crowd``.

README.md says what the figures mean. The peers take turns, each time in a fresh process; the load
generator is this process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import statistics
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Final

from . import command_line, data, load, plot, process
from .plot import QUIET

BEFORE: Final = 100  # connections open before the memory of the others is counted
PER_SOURCE: Final = 10_000  # connections from one address, which has some 28,000 ports
SPARE: Final = 200  # descriptors for all else
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)
DEFAULT_PEERS: Final = ("wsapi", "websockets")


@dataclass(frozen=True)
class Settings:
    """What is done.

    Args:
        idle: Connections that are silent, but for keepalive.
        active: Connections that send messages, one outstanding on each.
        seconds: Duration of all windows of a peer together.
        rounds: Number of windows.
        rate: Messages per second on each active connection.
        size: Bytes of a message.

    """

    idle: int
    active: int
    seconds: float
    rounds: int
    rate: float
    size: int


@dataclass
class Turn:
    """What was seen of a server in one window.

    Attributes:
        messages: Echoes that arrived.
        lost: Connections that the server ended, or on which an echo was missing in the end.
        cpu_us: Processor time of the server per echo, in µs.
        opening_us: The same per opening handshake.
        memory_kib: Growth of its memory per connection, in KiB.
        resident_mib: Its resident memory in the end, in MiB.
        busy: Share of the window that it spent on the processor.
        queued: Share for which it was ready while others had its core.
        latencies: Seconds from a message to its echo.

    """

    messages: int
    lost: int
    cpu_us: float
    opening_us: float
    memory_kib: float
    resident_mib: float
    busy: float
    queued: float
    latencies: array[float] = field(repr=False)


@dataclass
class Result:
    """All turns of a peer."""

    peer: str
    version: str = ""
    turns: list[Turn] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the figures: the least processor time, the middle of memory, all latencies."""
        latencies = sorted(value for turn in self.turns for value in turn.latencies)
        return {
            "peer": self.peer,
            "version": self.version,
            "messages": len(latencies),
            "lost": sum(turn.lost for turn in self.turns),
            "cpu_us": min(turn.cpu_us for turn in self.turns),
            "opening_us": min(turn.opening_us for turn in self.turns),
            "memory_kib": statistics.median_low(turn.memory_kib for turn in self.turns),
            "resident_mib": statistics.median_low(turn.resident_mib for turn in self.turns),
            "queued": max(turn.queued for turn in self.turns),
            "latency_ms": {
                f"{percent:g}": percentile(latencies, percent) * 1e3 for percent in PERCENTILES
            },
            "turns": [
                {name: value for name, value in vars(turn).items() if name != "latencies"}
                for turn in self.turns
            ],
        }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the least of ``ordered`` that so many per cent of them don't exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def split_frame(received: bytes) -> tuple[int, bytes, int] | None:
    """Return opcode and payload of the first frame of a server, and its size; None if it is cut."""
    if len(received) < 2:
        return None
    size, begin = received[1], 2
    if size >= 126:
        begin = 4 if size == 126 else 10
        size = int.from_bytes(received[2:begin], "big")
    if len(received) < begin + size:
        return None
    return received[0], received[begin : begin + size], begin + size


class Connection:
    """A client's end of a connection.

    Args:
        sock: Socket after the opening handshake.
        pairs: Wire bytes of messages and of their echoes; none if it is idle.

    """

    __slots__ = ("begin", "due", "next", "pairs", "received", "sock")

    def __init__(self, sock: Any, pairs: list[tuple[bytes, bytes]]) -> None:
        self.sock = sock
        self.pairs = pairs
        self.next = 0
        self.begin: float | None = None  # when the outstanding message was sent, or was due
        self.due: deque[float] = deque()  # when those were due that wait for its echo
        self.received = b""


class Crowd:
    """The connections to one server.

    Args:
        target: The server.
        settings: What is done.

    """

    def __init__(self, target: load.Target, settings: Settings) -> None:
        self.target = target
        self.settings = settings
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.opened = 0
        self.lost = 0
        self.latencies = array("d")

    def open(self, pairs: list[tuple[bytes, bytes]]) -> Connection:
        """Open a connection."""
        sock = load.connect(self.target, self.opened.to_bytes(16, "big"))
        connection = self.connections[sock.fileno()] = Connection(sock, pairs)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.opened += 1
        if not self.opened % 100:
            self.turn(0)  # those before have Pings to answer
        return connection

    def turn(self, timeout: float) -> None:
        """Handle what is there, or comes within ``timeout`` seconds."""
        for fd, _ in self.epoll.poll(timeout, 1024):
            self.read(fd, self.connections[fd])

    def read(self, fd: int, connection: Connection) -> None:
        """Receive something on a connection."""
        try:
            received = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.lose(fd)
            return
        now = time.perf_counter()
        if connection.received or not self.finishes(connection, received, now):
            connection.received += received
            while (split := split_frame(connection.received)) is not None:
                opcode, payload, size = split
                message, connection.received = (
                    connection.received[:size],
                    connection.received[size:],
                )
                if opcode == 0x80 | data.PING:
                    self.write(connection, data.frame(data.PONG, payload, bytes(4)))
                elif opcode == 0x80 | data.CLOSE:
                    self.lose(fd)
                    return
                elif not self.finishes(connection, message, now):
                    raise load.mismatch(message, connection.pairs[connection.next][1])

    def finishes(self, connection: Connection, received: bytes, now: float) -> bool:
        """Take an echo if that is what was received; tell whether it was."""
        if connection.begin is None or received != connection.pairs[connection.next][1]:
            return False
        self.latencies.append(now - connection.begin)
        connection.begin = None
        connection.next = (connection.next + 1) % len(connection.pairs)
        if connection.due:
            self.send(connection, connection.due.popleft())
        return True

    def send(self, connection: Connection, begin: float) -> None:
        """Send the next message."""
        connection.begin = begin
        self.write(connection, connection.pairs[connection.next][0])

    def write(self, connection: Connection, wire: bytes) -> None:
        """Write what is small; a failure shows when the connection is read from."""
        with contextlib.suppress(OSError):
            connection.sock.send(wire)

    def lose(self, fd: int) -> None:
        """Count a connection that the server has ended."""
        self.epoll.unregister(fd)
        self.target.close(self.connections.pop(fd).sock)
        self.lost += 1

    def talk(self, active: list[Connection], seconds: float) -> None:
        """Have connections send messages for some seconds, each at its times; await the echoes."""
        now = time.perf_counter
        begin, period = now(), 1 / self.settings.rate
        schedule = deque(
            (begin + period * number / len(active), connection)
            for number, connection in enumerate(active)
        )
        end = begin + seconds
        while (time_now := now()) < end:
            while schedule and schedule[0][0] <= time_now:
                due, connection = schedule.popleft()
                if connection.sock.fileno() < 0:
                    continue  # it is lost
                schedule.append((due + period, connection))
                if connection.begin is None:
                    # How late this process is, is no matter of the server.
                    self.send(connection, now())
                else:
                    connection.due.append(due)
            until = min(end, schedule[0][0]) if schedule else end
            self.turn(max(0.0, until - now()))
        for connection in active:
            connection.due.clear()
        end = now() + load.TIMEOUT
        while any(c.begin is not None and c.sock.fileno() >= 0 for c in active) and now() < end:
            self.turn(0.1)
        self.lost += sum(c.begin is not None and c.sock.fileno() >= 0 for c in active)


def run(peer: str, loop: str, settings: Settings, cpu: int) -> tuple[Turn, str]:
    """Run one turn of a peer."""
    sources = [
        f"127.0.0.{2 + number}"
        for number in range((settings.idle + settings.active) // PER_SOURCE + 1)
    ]
    payloads = data.payloads(settings.active * load.VARIETY, settings.size)
    keys = data.masking_keys(len(payloads))
    with process.server(loop, peer, "echo", cpu) as server:
        target = replace(server.target, sources=tuple(sources), per_source=PER_SOURCE)
        crowd, clock = Crowd(target, settings), target.clock
        first = min(BEFORE, settings.idle)
        active = []
        cpu_before = clock.cpu()
        for _ in range(first):
            crowd.open([])
        memory_before = _memory(server)
        for number in range(settings.active):
            pairs = [
                (
                    target.request_frame(data.BINARY, payloads[place], keys[place]),
                    target.reply_frame(data.BINARY, payloads[place], keys[place]),
                )
                for place in range(number * load.VARIETY, (number + 1) * load.VARIETY)
            ]
            active.append(crowd.open(pairs))
        for _ in range(settings.idle - first):
            crowd.open([])
        opening = clock.cpu() - cpu_before
        crowd.turn(load.SETTLE)
        crowd.talk(active, min(1.0, settings.seconds / settings.rounds / 4))  # to warm up
        del crowd.latencies[:]
        cpu_before, queued, begin = clock.cpu(), clock.queued(), time.perf_counter()
        crowd.talk(active, settings.seconds / settings.rounds)
        used, queued, wall = (
            clock.cpu() - cpu_before,
            clock.queued() - queued,
            time.perf_counter() - begin,
        )
        messages = len(crowd.latencies)
        if not messages:
            raise load.WrongEcho(f"{peer}: no echo within the window")
        turn = Turn(
            messages=messages,
            lost=crowd.lost,
            cpu_us=used / messages * 1e6,
            opening_us=opening / crowd.opened * 1e6,
            memory_kib=(_memory(server) - memory_before) / max(1, crowd.opened - first),
            resident_mib=server.resident() / 1024,
            busy=used / wall,
            queued=queued / wall,
            latencies=crowd.latencies,
        )
        return turn, server.hello["version"]


def _memory(server: process.Process) -> float:
    server.release_memory()
    return server.memory()


def raise_descriptors(needed: int) -> None:
    """Allow this process, and those that it starts, so many descriptors.

    Raises:
        OSError: That isn't possible.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except ValueError as exc:
            raise OSError(
                f"{needed} open files are needed, and only {hard} allowed (ulimit -n -H)"
            ) from exc
    elif soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def crowd(
    names: list[str], loop: str, settings: Settings, report: Callable[[str], None]
) -> list[Result]:
    """Run all peers, which take turns.

    Args:
        names: Names of peers.
        loop: Event loop.
        settings: What is done.
        report: Gets lines that tell how far it is.

    """
    raise_descriptors(settings.idle + settings.active + SPARE)
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
                    turn, result.version = run(result.peer, loop, settings, cpu)
                finally:
                    gc.enable()
                result.turns.append(turn)
                report(
                    f"round {number + 1}, {result.peer}: {turn.messages} echoes, "
                    f"{turn.cpu_us:.1f} µs each, {turn.memory_kib:.2f} KiB per connection, "
                    f"{turn.lost} lost"
                )
    finally:
        os.sched_setaffinity(0, before)
    return results


def table(summaries: list[dict[str, Any]], loop: str, settings: Settings) -> str:
    """Format the results."""
    lines = [
        f"{settings.idle} idle and {settings.active} active connections on {loop}, "
        f"{settings.rate:g} messages of {settings.size} B per second on each of the latter, "
        f"{settings.seconds:g} s each",
        "",
        f"{'':14} {'KiB/conn':>9} {'RSS MiB':>8} {'µs/echo':>8} {'µs/open':>8} {'p50 ms':>8} "
        f"{'p99 ms':>8} {'p99.9 ms':>9} {'lost':>5} {'echoes':>9} {'queued':>7}  version",
    ]
    for row in summaries:
        latency = row["latency_ms"]
        lines.append(
            f"{row['peer']:14} {row['memory_kib']:9.2f} {row['resident_mib']:8.1f} "
            f"{row['cpu_us']:8.2f} {row['opening_us']:8.1f} {latency['50']:8.3f} "
            f"{latency['99']:8.3f} {latency['99.9']:9.3f} {row['lost']:5} {row['messages']:9} "
            f"{row['queued']:7.0%}  {row['version']}"
        )
    worst = max(row["queued"] for row in summaries)
    if worst > QUIET:
        lines.append(
            f"NOT A QUIET MACHINE: others had the server's core for up to {worst:.0%} of a "
            "window, which makes figures too high"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the table, write the files."""
    parser = command_line.parser("benchmarks.crowd", __doc__, DEFAULT_PEERS)
    parser.add_argument("--idle", type=int, default=1000, help="silent connections")
    parser.add_argument("--active", type=int, default=100, help="connections that send")
    parser.add_argument(
        "--minutes", type=float, default=0.25, help="measured time of each peer, in all rounds"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each has its turn")
    parser.add_argument(
        "--rate", type=float, default=2.0, help="messages per second on an active connection"
    )
    parser.add_argument("--size", type=int, default=64, help="bytes of a message")
    parser.add_argument("--svg", type=Path, help="write a plot to this file")
    options = parser.parse_args(arguments)
    for name, least in (("idle", 0), ("active", 1), ("rounds", 1), ("size", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}")
    for name in ("minutes", "rate"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be more than 0")
    names = command_line.chosen_peers(parser, options, DEFAULT_PEERS)
    settings = Settings(
        options.idle,
        options.active,
        options.minutes * 60,
        options.rounds,
        options.rate,
        options.size,
    )
    try:
        results = crowd(
            names,
            options.loop,
            settings,
            command_line.say,
        )
    except (load.WrongEcho, OSError) as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    summaries = [result.summary() for result in results]
    print(table(summaries, options.loop, settings))
    if options.json:
        everything = {
            "machine": process.machine(),
            "loop": options.loop,
            "settings": asdict(settings),
            "results": summaries,
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if options.svg:
        title = f"{settings.idle} idle, {settings.active} active connections, {options.loop}"
        options.svg.write_text(plot.crowd(title, summaries))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
