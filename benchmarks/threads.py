"""Compares front-ends for threads: ``python -m benchmarks.threads``.

Servers are loaded as in ``benchmarks.compare``; clients talk to our server, or to a bare echo. Each
peer runs in a fresh process pinned to one core, all else on another; rounds are interleaved, and
the best counts. Figures are µs of processor time of that process per message, or KiB per
connection. ``raw`` does with bare sockets what the others do with WebSocket.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

from . import load
from .compare import ROOT, Process, cores
from .server import release_memory

HOST = "127.0.0.1"
SIZE = 64
DISTRIBUTIONS = {
    "raw": None,
    "wsapi": "wsproto-fast",
    "websockets": "websockets",
    "websocket-client": "websocket-client",
}
SERVERS = ("raw", "wsapi", "websockets")
CLIENTS = ("raw", "wsapi", "websockets", "websocket-client")
BARE = b"x" * (SIZE + 6)  # as long as a masked frame
SERVER_CPU, LOAD_CPU = cores()  # before this process is pinned


# ---------------------------------------------------------------------- servers


def raw_server() -> tuple[int, Callable[[], None]]:
    """Echo bytes, with a thread per connection."""
    listening = socket.create_server((HOST, 0), backlog=1000)

    def echo(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        try:
            while received := sock.recv(65536):
                sock.sendall(received)
        except ConnectionError:
            pass

    def serve() -> None:
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=echo, args=(sock,)).start()

    return listening.getsockname()[1], serve


def library_server(package: str) -> tuple[int, Callable[[], None]]:
    """Echo messages with a library that has the interface of ``websockets``."""

    def echo(connection: Any) -> None:
        try:
            for message in connection:
                connection.send(message)
        except Exception:
            pass  # the load generator doesn't say good-bye

    module = importlib.import_module(f"{package}.sync.server")
    server = module.serve(echo, HOST, 0, compression=None)
    return server.socket.getsockname()[1], server.serve_forever


def serve(peer: str) -> None:
    """Run a server until standard input ends."""
    port, serve_forever = raw_server() if peer == "raw" else library_server(peer)
    print(json.dumps({"port": port}), flush=True)
    threading.Thread(target=serve_forever, daemon=True).start()
    while command := os.read(0, 1):
        if command == b"g":
            release_memory()
            print("done", flush=True)
    os._exit(0)


# ---------------------------------------------------------------------- clients


def raw_client(port: int) -> Callable[[], object]:
    """Send and receive bytes."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def round_trip() -> None:
        sock.sendall(BARE)
        sock.recv(65536)

    return round_trip


def library_client(peer: str, port: int) -> Callable[[], object]:
    """Send and receive messages."""
    uri = f"ws://{HOST}:{port}/"
    if peer == "websocket-client":
        module = importlib.import_module("websocket")
        connection = module.create_connection(uri)
    else:
        module = importlib.import_module(f"{peer}.sync.client")
        options = {"legacy": True} if hasattr(module, "reconnect") else {}
        connection = module.connect(uri, compression=None, **options)
    text = "x" * SIZE

    def round_trip() -> None:
        connection.send(text)
        connection.recv()

    return round_trip


def talk(peer: str, port: int, seconds: float) -> None:
    """Run a client for a while; print the µs per round trip."""
    round_trip = raw_client(port) if peer == "raw" else library_client(peer, port)
    for _ in range(300):
        round_trip()
    count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            round_trip()
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
            window = load.echo(server.target, connections, in_flight, SIZE, 0.3, seconds)
        return window.cpu_us

    return run


def round_trips(peer: str, seconds: float) -> float:
    """Measure a client that sends a message and waits for its echo, again and again."""
    # The client takes the place of the server.
    with process("raw" if peer == "raw" else "wsapi", LOAD_CPU) as server:
        command = [sys.executable, "-m", __spec__.name, "--talk", peer, "--cpu", str(SERVER_CPU)]
        command += ["--port", str(server.hello["port"]), "--seconds", str(seconds)]
        return float(subprocess.check_output(command, cwd=ROOT, timeout=seconds + 30))


def idle(peer: str, seconds: float) -> float:
    """Measure the memory of a connection on which nothing happens, its thread included."""
    with process(peer, SERVER_CPU) as server:
        load.connect_many(server.target, 20)
        time.sleep(seconds)
        server.release_memory()
        before = server.memory()
        load.connect_many(server.target, 300)
        time.sleep(seconds)
        server.release_memory()
        return (server.memory() - before) / 300


SCENARIOS: dict[str, tuple[str, tuple[str, ...], Callable[[str, float], float]]] = {
    "client-1x64": ("client: one round trip of 64 B, µs", CLIENTS, round_trips),
    "server-50x64": ("server: 50 connections, one message of 64 B each, µs", SERVERS, echo(50, 1)),
    "server-64-in-flight": ("server: 64 messages of 64 B in flight, µs", SERVERS, echo(1, 64)),
    "server-idle": ("server: an idle connection and its thread, KiB", SERVERS, idle),
}


def version(peer: str) -> str | None:
    """Return the version of a peer, None if it isn't installed."""
    name = DISTRIBUTIONS[peer]
    if name is None:
        return "-"
    try:
        return distribution_version(name)
    except PackageNotFoundError:
        return None


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table per scenario."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--peer", action="append", choices=DISTRIBUTIONS, help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    for name in ("--serve", "--talk"):
        parser.add_argument(name, choices=DISTRIBUTIONS, help=argparse.SUPPRESS)
    for name in ("--port", "--cpu"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cpu is not None and options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    if options.serve is not None:
        return serve(options.serve)
    if options.talk is not None:
        return talk(options.talk, options.port, options.seconds)

    before = os.sched_getaffinity(0)
    if LOAD_CPU >= 0:
        os.sched_setaffinity(0, {LOAD_CPU})
    try:
        results = compare(options)
    finally:
        os.sched_setaffinity(0, before)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def compare(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure; print a table per scenario, return all rounds."""
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.scenario or SCENARIOS:
        title, peers, run = SCENARIOS[name]
        chosen = [peer for peer in peers if peer in (options.peer or peers) and version(peer)]
        rows = results[name] = {peer: [] for peer in chosen}
        for _ in range(options.rounds):
            for peer in chosen:
                rows[peer].append(run(peer, options.seconds))
        print(f"\n{title}")
        base = min(rows.get("raw") or [float("nan")])
        for peer, values in rows.items():
            best = min(values)
            print(f"  {peer:18}{version(peer):12}{best:9.2f}{best / base:8.2f} x raw")
    return results


if __name__ == "__main__":
    main()
