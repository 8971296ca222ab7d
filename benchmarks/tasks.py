"""Compares front-ends for trio: ``python -m benchmarks.tasks``.

As ``benchmarks.threads``, for tasks in place of threads. The peer ``raw`` does with bare sockets
and ``trio.lowlevel`` what the others do with WebSocket.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Any

import trio

from . import load
from .compare import ROOT, Process, cores
from .server import release_memory

HOST = "127.0.0.1"
SIZE = 64
DISTRIBUTIONS = {
    "raw": "trio",
    "wsapi": "wsproto-fast",
    "websockets": "websockets",
    "trio-websocket": "trio-websocket",
}
BARE = b"x" * (SIZE + 6)  # as long as a masked frame
SERVER_CPU, LOAD_CPU = cores()  # before this process is pinned

# ---------------------------------------------------------------------- servers


async def raw_echo(stream: trio.SocketStream) -> None:
    """Echo bytes."""
    fd = stream.socket.fileno()
    while True:
        await trio.lowlevel.wait_readable(fd)
        received = os.read(fd, 65536)
        if not received:
            return
        os.write(fd, received)


async def library_echo(connection: Any) -> None:
    """Echo messages with a library that has the interface of ``websockets``."""
    with contextlib.suppress(Exception):  # the load generator doesn't say good-bye
        async for message in connection:
            await connection.send(message)


async def trio_websocket_echo(request: Any) -> None:
    """Echo messages with ``trio-websocket``."""
    connection = await request.accept()
    with contextlib.suppress(Exception):
        while True:
            await connection.send_message(await connection.get_message())


async def start_server(peer: str, nursery: trio.Nursery) -> int:
    """Start a server, and return its port."""
    if peer == "raw":
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, raw_echo, listeners)
    elif peer == "trio-websocket":
        serve = importlib.import_module("trio_websocket").serve_websocket
        server = await nursery.start(serve, trio_websocket_echo, HOST, 0, None)
        return int(server.port)
    else:
        serve = importlib.import_module(f"{peer}.trio.server").serve
        listeners = (
            await nursery.start(
                functools.partial(serve, library_echo, 0, host=HOST, compression=None)
            )
        ).listeners
    return int(listeners[0].socket.getsockname()[1])


async def serve(peer: str) -> None:
    """Run a server until standard input ends."""
    async with trio.open_nursery() as nursery:
        port = await start_server(peer, nursery)
        print(json.dumps({"port": port}), flush=True)
        while True:
            await trio.lowlevel.wait_readable(0)
            command = os.read(0, 1)
            if command == b"g":
                release_memory()
                print("done", flush=True)
            elif not command:
                os._exit(0)


# ---------------------------------------------------------------------- clients


@asynccontextmanager
async def client(peer: str, port: int) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Connect, and give a function that sends a message and waits for its echo."""
    text = "x" * SIZE
    if peer == "raw":
        stream = await trio.open_tcp_stream(HOST, port)
        fd = stream.socket.fileno()

        async def round_trip() -> None:
            os.write(fd, BARE)
            await trio.lowlevel.wait_readable(fd)
            os.read(fd, 65536)

        yield round_trip
        await stream.aclose()
    elif peer == "trio-websocket":
        module = importlib.import_module("trio_websocket")
        async with module.open_websocket(HOST, port, "/", use_ssl=False) as connection:

            async def round_trip() -> None:
                await connection.send_message(text)
                await connection.get_message()

            yield round_trip
    else:
        connect = importlib.import_module(f"{peer}.trio.client").connect
        async with connect(f"ws://{HOST}:{port}/", compression=None, proxy=None) as connection:

            async def round_trip() -> None:
                await connection.send(text)
                await connection.recv()

            yield round_trip


async def talk(peer: str, port: int, seconds: float) -> None:
    """Run a client for a while; print the µs per round trip."""
    async with client(peer, port) as round_trip:
        for _ in range(300):
            await round_trip()
        count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(100):
                await round_trip()
            count += 100
        print((time.process_time() - begin) / count * 1e6, flush=True)
        os._exit(0)


# ---------------------------------------------------------------------- measuring


@contextmanager
def process(peer: str, cpu: int) -> Iterator[Process]:
    """Run a server in a process of its own for as long as the context lasts."""
    command = [sys.executable, "-m", __spec__.name, "--serve", peer, "--cpu", str(cpu)]
    popen = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    target = None
    try:
        assert popen.stdout is not None
        hello = json.loads(popen.stdout.readline())
        target = load.Target(hello["port"], peer != "raw", load.Clock(popen.pid))
        yield Process(popen, hello, target)
    finally:
        popen.kill()
        popen.communicate()
        if target is not None:
            target.close_all()


def echo(connections: int, in_flight: int) -> Callable[[str, float], float]:
    """Make a scenario: a server echoes messages."""

    def run(peer: str, seconds: float) -> float:
        with process(peer, SERVER_CPU) as server:
            return load.echo(server.target, connections, in_flight, SIZE, 0.3, seconds).cpu_us

    return run


def round_trips(peer: str, seconds: float) -> float:
    """Measure a client that sends a message and waits for its echo, again and again."""
    # The client takes the place of the server.
    with process("raw" if peer == "raw" else "wsapi", LOAD_CPU) as server:
        command = [sys.executable, "-m", __spec__.name, "--talk", peer, "--cpu", str(SERVER_CPU)]
        command += ["--port", str(server.hello["port"]), "--seconds", str(seconds)]
        return float(subprocess.check_output(command, cwd=ROOT, timeout=seconds + 30))


def idle(peer: str, seconds: float) -> float:
    """Measure the memory of a connection on which nothing happens, its tasks included."""
    with process(peer, SERVER_CPU) as server:
        memory = []
        for count in (100, 500):
            load.connect_many(server.target, count)
            time.sleep(seconds)
            server.release_memory()
            memory.append(server.memory())
        return (memory[1] - memory[0]) / 500


SCENARIOS: dict[str, tuple[str, Callable[[str, float], float]]] = {
    "client-1x64": ("client: one round trip of 64 B, µs", round_trips),
    "server-100x64": ("server: 100 connections, one message of 64 B each, µs", echo(100, 1)),
    "server-64-in-flight": ("server: 64 messages of 64 B in flight, µs", echo(1, 64)),
    "server-idle": ("server: an idle connection and its tasks, KiB", idle),
}


def version(peer: str) -> str | None:
    """Return the version of a peer, None if it isn't installed."""
    try:
        return distribution_version(DISTRIBUTIONS[peer])
    except PackageNotFoundError:
        return None


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table per scenario."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--peer", action="append", choices=DISTRIBUTIONS, help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    for name in ("--serve", "--talk"):
        parser.add_argument(name, choices=DISTRIBUTIONS, help=argparse.SUPPRESS)
    for name in ("--port", "--cpu"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cpu is not None and options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    if options.serve is not None:
        return trio.run(serve, options.serve)
    if options.talk is not None:
        return trio.run(talk, options.talk, options.port, options.seconds)

    if LOAD_CPU >= 0:
        os.sched_setaffinity(0, {LOAD_CPU})
    peers = [peer for peer in options.peer or DISTRIBUTIONS if version(peer)]
    for name in options.scenario or SCENARIOS:
        title, run = SCENARIOS[name]
        best = dict.fromkeys(peers, float("inf"))
        for _ in range(options.rounds):
            for peer in peers:
                best[peer] = min(best[peer], run(peer, options.seconds))
        print(f"\n{title}")
        for peer, value in best.items():
            ratio = value / best.get("websockets", float("nan"))
            print(f"  {peer:18}{version(peer):12}{value:9.2f}{ratio:8.2f} x websockets", flush=True)


if __name__ == "__main__":
    main()
