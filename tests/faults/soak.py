"""Many connections and messages in one process, and whether its memory stays flat.

Usage: python -m tests.faults.soak [--connections 50000] [--messages 1000000] [--subject NAME]
       [--end NAME | --each-end]

A front-end's server and client share a process. Connections are plain, encrypted, or compressed;
they end in one of the ways in ENDS, or in all of them by turns. At intervals nothing is
going on, and the memory and the objects are counted. It is flat if from a fifth of the run on

- no connection, engine, task, thread, or descriptor is left from one interval to the next;
- the objects that Python's collector knows grow by less than MAX_OBJECTS per connection;
- the resident memory grows by less than MAX_BYTES per connection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.faults.cases import SUBJECTS

MAX_OBJECTS = 0.01
MAX_BYTES = 100
INTERVALS = 20
AT_ONCE = 16
KINDS = ("plain", "tls", "deflate")
# Who closes, or what else ends a connection. Those of RAW are written byte by byte.
ENDS = {
    "client": "the client closes",
    "server": "the server closes",
    "both": "both close at once",
    "reset": "it is reset",
    "eof": "the stream ends without a Close frame",
    "cancelled": "the server's handler is cancelled, where there is such a thing",
    "handshake": "the client goes away in the opening handshake",
    "fault": "the client sends what is no frame",
    "timeout": "the client doesn't answer the server's Close frame",
    "late": "the client doesn't complete its request",
    "refused": "the server refuses the request",
}
RAW = {
    "fault": (b"\x81\x05hello", True),
    "timeout": (b"\x81\x83\0\0\0\0bye", True),
    "late": (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
    "refused": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False),
}
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A server that doesn't wait long, for RAW.
HASTY = {"open_timeout": 0.05, "close_timeout": 0.02}
# Where uvicorn reads the request, and answers it; and it cancels no application.
UVICORNS = ("cancelled", "handshake", "late", "refused")
GAP = "{:>12}"
COLUMNS = ("connections", "messages", "RSS (KiB)", "objects", "left", "seconds")


@dataclass
class Sample:
    """What was counted when nothing was going on."""

    connections: int
    messages: int
    rss: int
    objects: int
    left: dict[str, int]
    seconds: float

    def row(self, left: int) -> str:
        values = self.connections, self.messages, self.rss // 1024, self.objects, left
        return "".join(GAP.format(value) for value in (*values, round(self.seconds)))


def what_grows(samples: list[Sample]) -> list[str]:
    """Return what isn't flat."""
    first, last = samples[len(samples) // 5], samples[-1]
    connections = last.connections - first.connections
    wrong = [
        f"{count} {name}, not {first.left.get(name, 0)}"
        for name, count in last.left.items()
        if count > first.left.get(name, 0)
    ]
    if (objects := (last.objects - first.objects) / connections) >= MAX_OBJECTS:
        wrong.append(f"{objects:.2f} objects per connection")
    if (size := (last.rss - first.rss) / connections) >= MAX_BYTES:
        wrong.append(f"{size:.0f} bytes per connection")
    return wrong


# ---------------------------------------------------------------------- the load


async def echo(ws: Any) -> None:
    from wsapi.exceptions import ConnectionClosed

    try:
        async for message in ws:
            if message == "bye":
                return
            if message == "cancel":
                await cancelled(ws)
            await ws.send(message)
    except ConnectionClosed:
        pass


async def cancelled(ws: Any) -> None:
    """Have this handler be cancelled while it receives; threads can't be."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_task():
            with trio.move_on_after(0):
                await ws.recv()
    else:
        if task is not None:
            task.cancel()
            await ws.recv()


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "bye":
            return
        try:
            await send({**event, "type": "websocket.send"})
        except OSError:
            return


def resetting(driver: Any, raw: Any) -> None:
    """Have a connection reset when it is lost."""
    if driver.package == "sync":
        sock = getattr(raw.socket, "sock", raw.socket)
    elif driver.package == "trio":
        from wsapi.trio._transports import find_socket

        sock = find_socket(raw.stream)
    else:
        sock = raw.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def talking(ends: list[str]) -> list[str]:
    """Return those of the ways before which messages are exchanged."""
    return [end for end in ends if end not in RAW and end != "handshake"]


class Load:
    """What connects: a front-end's client."""

    def __init__(
        self, driver: Any, ports: dict[str, int], tls: Any, messages: int, ends: list[str]
    ) -> None:
        self.driver, self.ports, self.tls = driver, ports, tls
        self.ends = ends
        self.messages = messages  # per connection, both ways
        self.exchanged = 0
        self.lock = threading.Lock()

    async def run(self, first: int, last: int) -> None:
        for number in range(first, last, AT_ONCE):
            kind = KINDS[number % 3]
            end = self.ends[number // AT_ONCE % len(self.ends)]
            if end == "handshake":
                await self.begin(self.ports[kind], number, kind)
            elif end in RAW:
                await self.write(end)
            else:
                await self.use(self.ports[kind], number, kind, end)

    async def begin(self, port: int, number: int, kind: str) -> None:
        """Go away in the opening handshake."""
        sock = await self.driver.sock_connect(("127.0.0.1", port))
        try:
            data = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            if kind == "tls":
                data = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
            await self.driver.sock_sendall(sock, data[: number % len(data)])
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            sock.close()

    async def write(self, end: str) -> None:
        """Write what a client shouldn't, and read until the server has had enough."""
        data, opens = RAW[end]
        sock = await self.driver.sock_connect(("127.0.0.1", self.ports["hasty"]))
        try:
            await self.driver.sock_sendall(sock, REQUEST + data if opens else data)
            while await self.driver.sock_recv(sock, 65536):
                pass
        except OSError:
            pass
        finally:
            sock.close()

    async def use(self, port: int, number: int, kind: str, end: str) -> None:
        from wsapi.exceptions import ConnectionClosed, ConnectionClosedOK

        options: dict[str, Any] = {"proxy": None, "open_timeout": 60, "ping_timeout": 60}
        options["compression"] = "deflate" if kind == "deflate" else None
        if kind == "tls":
            options["ssl"] = self.tls
        uri = f"ws{'s' * (kind == 'tls')}://127.0.0.1:{port}/"
        pairs = self.messages // 2
        text = f"{number} " + "message " * (number % 50)
        async with self.driver.connect(uri, **options) as ws:
            for start in range(0, pairs, 8):
                burst = range(start, min(start + 8, pairs))
                for one in burst:
                    await ws.send(f"{text}{one}")
                for one in burst:
                    assert await ws.recv() == f"{text}{one}"
            if end == "server":
                await ws.send("bye")
                try:
                    raise AssertionError(await ws.recv())
                except ConnectionClosedOK:
                    pass
            elif end == "both":
                await ws.send("bye")
            elif end == "cancelled":
                await ws.send("cancel")
                try:
                    await ws.recv()
                except ConnectionClosed:
                    pass
            elif end in ("reset", "eof"):
                if end == "reset":
                    resetting(self.driver, ws.raw)
                ws.lose()
                try:
                    await ws.recv()
                except ConnectionClosed:
                    pass
        with self.lock:
            self.exchanged += 2 * pairs


def work(subject: str, connections: int, messages: int, minutes: float, ends: list[str]) -> None:
    """Put one subject under load; print a line of JSON for each sample."""
    from tests.faults import matrix, runtimes

    opened = connections * len(talking(ends)) // len(ends)
    per_connection = 2 * -(-messages // (2 * opened)) if opened else 0
    server_tls, client_tls = runtimes.tls_contexts()
    options: dict[str, dict[str, Any]] = {
        kind: {
            "compression": "deflate" if kind == "deflate" else None,
            "ssl": server_tls if kind == "tls" else None,
            "ping_interval": 20,
            "ping_timeout": 60,
            "close_timeout": 10,
            "max_queue": 16,
        }
        for kind in KINDS
    }
    options["hasty"] = options["plain"] | HASTY
    runtime = runtimes.runtime(subject)
    with matrix.Noise() as noise, runtime:
        kind = runtimes.UvicornServers if subject == "uvicorn" else runtimes.Servers
        handler: Any = echo_app if subject == "uvicorn" else echo
        servers = kind(runtime.driver, handler, options)
        holding = runtime.submit(servers.run)
        servers.ready.wait(30)
        load = Load(runtime.driver, servers.ports, client_tls, per_connection, ends)
        started = time.monotonic()
        step = -(-connections // INTERVALS)
        for done in range(0, connections, step):
            if time.monotonic() > started + minutes * 60:
                break
            last = min(done + step, connections)
            for worker in [runtime.submit(load.run, done + n, last) for n in range(AT_ONCE)]:
                worker.result()
            left = settled(lambda: matrix.leftovers(runtime, servers))
            del worker
            gc.collect()
            sample = Sample(
                last, load.exchanged, rss(), len(gc.get_objects()), left, time.monotonic() - started
            )
            print(json.dumps([vars(sample), noise.take()]), flush=True)
        servers.stopped = True
        holding.result(30)


def settled(count: Any) -> dict[str, int]:
    """Wait until what is counted doesn't get less any more."""
    counts: dict[str, int] = {}
    same = 0
    for _ in range(50):
        before, counts = counts, count()
        same = same + 1 if counts == before else 0
        if same == 3:
            break
        time.sleep(0.1)
    return counts


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------------- all subjects


def run(subject: str, options: argparse.Namespace, end: str | None) -> str:
    """Run one subject in a process of its own; return its table, and what it comes to."""
    command = [sys.executable, "-m", "tests.faults.soak", "--work", "--subject", subject]
    if end is not None:
        command += ["--end", end]
    for name in ("connections", "messages", "minutes"):
        command += [f"--{name}", str(getattr(options, name))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
    samples = [Sample(**sample) for sample, _ in lines]
    noise = Counter(text.strip().splitlines()[-1] for _, texts in lines for text in texts)
    wrong = [f"{count} times {text}" for text, count in noise.items()]
    if process.returncode:
        wrong.append(f"ended with status {process.returncode}")
    elif len(samples) < 2 or samples[-1].connections < options.connections:
        wrong.append("out of time")
    else:
        wrong += what_grows(samples)
    if end is not None:
        subject = f"{subject}, {ENDS[end]}"
    table = [subject, "".join(GAP.format(title) for title in COLUMNS)]
    for sample in samples:
        base = samples[0].left
        left = sum(max(count - base.get(name, 0), 0) for name, count in sample.left.items())
        table.append(sample.row(left))
    table.append(f"{subject}: " + ("NOT FLAT: " + "; ".join(wrong) if wrong else "flat"))
    return "\n".join(table)


def main(arguments: list[str] | None = None) -> int:
    get = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--connections", type=int, default=int(get("SOAK_CONNECTIONS", "50000")))
    parser.add_argument("--messages", type=int, default=int(get("SOAK_MESSAGES", "1000000")))
    parser.add_argument("--minutes", type=float, default=float(get("SOAK_MINUTES", "15")))
    parser.add_argument("--subject", action="append", help="one of " + ", ".join(SUBJECTS))
    parser.add_argument("--end", choices=ENDS, help="the only way in which connections end")
    parser.add_argument("--each-end", action="store_true", help="one way after the other")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    subjects = options.subject or list(SUBJECTS)
    if options.work:
        ends = [options.end] if options.end else list(ENDS)
        if subjects[0] == "uvicorn" and options.end is None:
            ends = [end for end in ends if end == "handshake" or end not in UVICORNS]
        work(subjects[0], options.connections, options.messages, options.minutes, ends)
        return 0
    failed = False
    ends = list(ENDS) if options.each_end else [options.end]
    if options.each_end:
        # Messages are those of all ways together; those of RAW exchange none.
        options.messages = -(-options.messages // len(talking(ends)))
    runs = [
        (subject, options, end)
        for subject in subjects
        for end in ends
        if subject != "uvicorn" or end not in UVICORNS
    ]
    with ThreadPoolExecutor(options.processes) as pool:
        for table in pool.map(lambda one: run(*one), runs):
            print(table, flush=True)
            failed = failed or not table.endswith(": flat")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
