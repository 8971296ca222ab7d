"""What is done to peers: one figure each. README.md says what they mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from . import compressed, data, load, peers, process
from .process import Probe, Process

IDLE_BEFORE: Final = 100  # connections open before the memory of the others is counted


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    rounds: int
    seconds: float
    warmup: float
    patience: float  # seconds to wait, before each case, for the machine to be at its best
    scale: float = 1.0  # of the number of connections, for quick runs
    idle: float = 7.0  # seconds for a server to free what it keeps for connections in use


@dataclass(frozen=True)
class Figure:
    """One measurement: the figure itself and what helps to judge it."""

    value: float
    busy: float | None = None  # share of the time that the server had its core
    queued: float | None = None  # share of the time that others had it, though the server was ready
    sleeps: float | None = None  # of the server, per message
    wire: float | None = None  # bytes sent by the server per byte of text, where compressed
    noise_adds: bool = True  # so that the lowest round is the best one; else the middle one
    probe: float = 0.0  # ms for a fixed piece of work on the server's core, just before


@dataclass(frozen=True)
class Case:
    """A peer, and where it runs.

    Args:
        front_end: Name of the front-end.
        peer: Name of the peer.
        probe: Tells how fast the machine is; its core is that of the process that is measured.
        load_cpu: Core of the others; -1 for any.

    """

    front_end: str
    peer: str
    probe: Probe
    load_cpu: int = -1


Run: TypeAlias = Callable[[Process, Settings], Figure]
Measured: TypeAlias = tuple[Figure, str]  # and the version of the peer


def of_server(service: str, run: Run) -> Callable[[Case, Settings], Measured]:
    """Make the function of a scenario, from what is done to a server once it runs."""

    def measured(case: Case, settings: Settings) -> Measured:
        with process.server(case.front_end, case.peer, service, case.probe.cpu) as server:
            speed = case.probe.quiet()
            return replace(run(server, settings), probe=speed), server.hello["version"]

    return measured


def of_client(size: int, in_flight: int = 1) -> Callable[[Case, Settings], Measured]:
    """Make the function of a scenario: a client that sends messages and awaits their echoes."""

    def measured(case: Case, settings: Settings) -> Measured:
        server = "raw" if case.peer == "raw" else peers.OURS[0]
        with process.server(case.front_end, server, "echo", case.load_cpu) as running:
            speed, cpu = case.probe.quiet(), case.probe.cpu
            said = process.client(
                case.front_end,
                case.peer,
                running.target.port,
                f"{size}:{settings.seconds}:{in_flight}",
                settings.seconds,
                cpu,
            )
        return Figure(said["value"], probe=speed), said["version"]

    return measured


@dataclass(frozen=True)
class Scenario:
    """What is measured.

    Args:
        title: What is done.
        unit: Unit of the figure.
        run: Measures one round.
        kind: Kind of peers that take part.
        front_ends: Front-ends on which they do.

    """

    title: str
    unit: str
    run: Callable[[Case, Settings], Measured]
    kind: str = "plain"
    front_ends: tuple[str, ...] = peers.FRONT_ENDS

    def names(self, front_end: str) -> list[str]:
        """Return the peers that take part."""
        if front_end not in self.front_ends:
            return []
        return [name for name, spec in peers.PEERS[front_end].items() if self.kind in spec.takes]


def scaled(count: int, settings: Settings) -> int:
    """Return how many connections to use instead of `count`."""
    return max(2, round(count * settings.scale))


def figure(window: load.Window) -> Figure:
    """Turn a window into a figure."""
    return Figure(
        window.cpu_us,
        window.busy,
        window.queued / window.wall,
        window.sleeps / window.messages,
        window.wire,
    )


def run_echo(connections: int, in_flight: int, size: int) -> Run:
    """Make an echo scenario."""

    def run(process: Process, settings: Settings) -> Figure:
        count = connections if connections == 1 else scaled(connections, settings)
        return figure(
            load.echo(process.target, count, in_flight, size, settings.warmup, settings.seconds)
        )

    return run


def run_echo_large(size: int, opcode: int) -> Run:
    """Make a scenario of echoes of a large message."""

    def run(process: Process, settings: Settings) -> Figure:
        return figure(
            load.echo_large(process.target, size, settings.warmup, settings.seconds, opcode)
        )

    return run


def run_echo_compressed(size: int) -> Run:
    """Make a scenario of compressed echoes on 50 connections."""

    def run(process: Process, settings: Settings) -> Figure:
        return figure(
            compressed.echo(
                process.target, scaled(50, settings), size, settings.warmup, settings.seconds
            )
        )

    return run


def run_broadcast(messages: Callable[[], list[bytes]]) -> Run:
    """Make a scenario of broadcasts to 500 connections."""

    def run(process: Process, settings: Settings) -> Figure:
        return figure(
            load.broadcast(
                process.target,
                scaled(500, settings),
                messages(),
                settings.warmup,
                settings.seconds,
            )
        )

    return run


def run_broadcast_compressed(process: Process, settings: Settings) -> Figure:
    """Broadcast 1 KiB of compressed JSON to 500 connections."""
    count = scaled(500, settings)
    return figure(
        compressed.broadcast(process.target, count, 1024, settings.warmup, settings.seconds)
    )


def run_handshake(process: Process, settings: Settings) -> Figure:
    """Open and close connections, 8 at a time."""
    return figure(load.handshakes(process.target, 8, True, settings.warmup, settings.seconds))


def run_opening(process: Process, settings: Settings) -> Figure:
    """Open connections that stay open, 8 at a time."""
    return figure(load.openings(process.target, 8, scaled(300, settings)))


def run_reset(process: Process, settings: Settings) -> Figure:
    """Open connections and reset them, 8 at a time."""
    return figure(load.resets(process.target, 8, settings.warmup, settings.seconds))


def run_accept(process: Process, settings: Settings) -> Figure:
    """Open and close TCP connections without a byte, 8 at a time."""
    return figure(load.handshakes(process.target, 8, False, settings.warmup, settings.seconds))


def growth(
    process: Process,
    settings: Settings,
    use: Callable[[int], None],
    idle: float,
    connections: int = 1000,
) -> Figure:
    """Divide the growth of memory over more connections, that are opened and used by `use`."""
    more = scaled(connections, settings)

    def settled(count: int) -> float:
        use(count)
        time.sleep(idle)
        process.release_memory()
        return process.memory()

    before = settled(scaled(IDLE_BEFORE, settings))
    return Figure((settled(more) - before) / more, noise_adds=False)


def run_idle(connections: int) -> Run:
    """Make a scenario of connections that idle after one echo of 64 bytes."""
    payload, key = data.payloads(1, 64)[0], data.masking_keys(1)[0]

    def run(process: Process, settings: Settings) -> Figure:
        def use(count: int) -> None:
            for sock in load.connect_many(process.target, count):
                load.exchange_once(process.target, sock, payload, key)

        return growth(process, settings, use, load.SETTLE, connections)

    return run


def run_idle_plain(process: Process, settings: Settings) -> Figure:
    """Measure connections that idle for a while after one echo of 1 KiB of JSON."""
    payload, key = compressed.texts(1, 1024)[0][0], data.masking_keys(1)[0]

    def use(count: int) -> None:
        for sock in load.connect_many(process.target, count):
            load.exchange_once(process.target, sock, payload, key, data.TEXT)

    return growth(process, settings, use, settings.idle)


def run_idle_compressed(process: Process, settings: Settings) -> Figure:
    """Measure the same, compressed both ways."""

    def use(count: int) -> None:
        sockets, deflate = compressed.connect(process.target, count)
        (stream,) = compressed.streams(1, 1024, deflate)
        judge = compressed.Judge(stream, deflate)
        for sock in sockets:
            compressed.exchange_once(sock, stream, judge)

    return growth(process, settings, use, settings.idle)


MESSAGE: Final = "CPU µs per message"
RECEIVER: Final = "CPU µs per receiver"
CONNECTION: Final = "CPU µs per connection"
MEMORY: Final = "KiB per connection"
LOOPS: Final = peers.LOOPS


def echo(
    connections: int,
    in_flight: int,
    size: int,
    kind: str = "plain",
    front_ends: tuple[str, ...] = peers.FRONT_ENDS,
) -> Scenario:
    """Describe echoes that aren't compressed."""
    messages = f"{in_flight} message{'s' * (in_flight > 1)} of {size:,} B in flight"
    title = f"echo, {connections} connection{'s' * (connections > 1)}, {messages} on each"
    run = of_server("echo", run_echo(connections, in_flight, size))
    return Scenario(title, MESSAGE, run, kind, front_ends)


def echo_tls(connections: int, size: int) -> Scenario:
    """Describe echoes over TLS."""
    return Scenario(
        f"echo over TLS, {connections} connections, one message of {size:,} B outstanding on each",
        MESSAGE,
        of_server("echo-tls", run_echo(connections, 1, size)),
        "tls",
        LOOPS,
    )


def echo_compressed(size: int) -> Scenario:
    """Describe echoes that are compressed."""
    return Scenario(
        f"echo, 50 connections, one compressed message of {size // 1024} KiB of JSON outstanding "
        "on each",
        MESSAGE,
        of_server("echo-deflate", run_echo_compressed(size)),
        "deflate",
        LOOPS,
    )


def echo_large(
    size: int,
    tls: bool = False,
    text: bool = False,
    front_ends: tuple[str, ...] = LOOPS,
) -> Scenario:
    """Describe echoes of a message that is larger than what is read at once."""
    kind, over = "text" if text else "binary", " over TLS" if tls else ""
    return Scenario(
        f"echo{over}, 1 connection, one {kind} message of {size:,} B outstanding",
        MESSAGE,
        of_server(
            "echo-tls-large" if tls else "echo-large",
            run_echo_large(size, data.TEXT if text else data.BINARY),
        ),
        "tls" if tls else "plain",
        front_ends,
    )


SCENARIOS: Final = {
    "echo-100x64": echo(
        100,
        1,
        64,
        front_ends=(*LOOPS, "trio"),
    ),
    "echo-50x64": echo(
        50,
        1,
        64,
        front_ends=("threads",),
    ),
    "pipeline-64": echo(1, 64, 64),
    "pipeline-16x4k": echo(1, 16, 4096),
    "echo-64k": echo_large(1 << 16, front_ends=peers.FRONT_ENDS),
    "echo-1m": echo_large(1 << 20, front_ends=peers.FRONT_ENDS),
    "echo-16m": echo_large(1 << 24),
    "text-1m": echo_large(1 << 20, text=True),
    "tls-64k": echo_large(1 << 16, tls=True),
    "tls-1m": echo_large(1 << 20, tls=True),
    "tls-16m": echo_large(1 << 24, tls=True),
    "broadcast-500": Scenario(
        "broadcast of 64 B of text to 500 connections",
        RECEIVER,
        of_server("broadcast", run_broadcast(lambda: data.payloads(load.VARIETY, 64))),
        front_ends=LOOPS,
    ),
    "idle-1000": Scenario(
        "memory of an idle connection, over 1,000 of them",
        MEMORY,
        of_server("echo", run_idle(1000)),
        front_ends=(*LOOPS, "trio"),
    ),
    "tls-100x64": echo_tls(100, 64),
    "tls-20x16k": echo_tls(20, 1 << 14),
    "idle-tls": Scenario(
        "memory of an idle connection over TLS, over 300 of them",
        MEMORY,
        of_server("echo-tls", run_idle(300)),
        "tls",
        LOOPS,
    ),
    "idle-300": Scenario(
        "memory of an idle connection and its threads, over 300 of them",
        MEMORY,
        of_server("echo", run_idle(300)),
        front_ends=("threads",),
    ),
    "client-1x64": Scenario(
        "client, 1 connection, one message of 64 B outstanding",
        MESSAGE,
        of_client(64),
        "client",
    ),
    "client-32x64": Scenario(
        "client, 1 connection, 32 messages of 64 B sent together, then all echoes awaited",
        MESSAGE,
        of_client(64, 32),
        "client",
        LOOPS,
    ),
    "opening": Scenario(
        "connect, opening handshake (raw: the same request echoed); connections stay open",
        CONNECTION,
        of_server("echo", run_opening),
        front_ends=LOOPS,
    ),
    "handshake": Scenario(
        "connect, opening handshake, closing handshake (raw: the same request echoed)",
        CONNECTION,
        of_server("echo", run_handshake),
        front_ends=LOOPS,
    ),
    "reset": Scenario(
        "connect, opening handshake, reset by the client without a Close frame (raw: the same "
        "request echoed)",
        CONNECTION,
        of_server("echo", run_reset),
        front_ends=LOOPS,
    ),
    "accept": Scenario(
        "connect and close TCP, no bytes: the part of a handshake that is the loop's",
        CONNECTION,
        of_server("echo", run_accept),
        "accept",
        LOOPS,
    ),
    "deflate-1k": echo_compressed(1024),
    "deflate-16k": echo_compressed(16384),
    "broadcast-1k": Scenario(
        "broadcast of 1 KiB of JSON to 500 connections, not compressed",
        RECEIVER,
        of_server("broadcast", run_broadcast(lambda: compressed.texts(1, 1024)[0])),
        front_ends=LOOPS,
    ),
    "broadcast-1k-deflate": Scenario(
        "broadcast of 1 KiB of JSON to 500 connections, compressed",
        RECEIVER,
        of_server("broadcast-deflate", run_broadcast_compressed),
        "deflate",
        LOOPS,
    ),
    "idle-plain": Scenario(
        "memory of a connection that idles for a while after 1 KiB of JSON, not compressed",
        MEMORY,
        of_server("echo", run_idle_plain),
        front_ends=LOOPS,
    ),
    "idle-deflate": Scenario(
        "memory of a connection that idles for a while after 1 KiB of JSON, compressed",
        MEMORY,
        of_server("echo-deflate", run_idle_compressed),
        "deflate",
        LOOPS,
    ),
    "uvicorn-100x64": echo(100, 1, 64, "uvicorn", LOOPS),
    "uvicorn-64": echo(1, 64, 64, "uvicorn", LOOPS),
    "uvicorn-16x4k": echo(1, 16, 4096, "uvicorn", LOOPS),
}
