"""What slow clients cost the others: ``python -m benchmarks.slow_clients``; see README.md.

A server broadcasts messages that carry the time, at a rate, to clients that read what comes and,
in every second phase, also to slow ones: they read nothing, or a byte per second. The quick ones'
delays with and without the slow ones are from the same run, in turns, on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from . import data, load, process

FRONT_ENDS: Final = ("asyncio", "uvloop", "threads", "trio")
STAMP: Final = struct.Struct("!d")
# Small enough that a client which reads nothing is slow after a second.
BUFFER: Final = 16384
# What transports hold of each connection before writing is paused.
WRITE_LIMIT: Final = 32768
PERCENTILES: Final = (50, 99)


# ---------------------------------------------------------------------- the server's process


class Service:
    """What a server of any front-end does here: it broadcasts, and tells about itself.

    Args:
        options: Those of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from wsapi.limits import Slow

        self.interval = 1 / options.rate
        self.padding: bytes = b"x" * (options.size - STAMP.size)
        self.terms: dict[str, Any] = {
            "slow": Slow[options.slow],
            "max_backlog": options.max_backlog,
        }
        self.connections: set[Any] = set()
        self.next_time = time.monotonic()
        self.sent = 0

    def message(self) -> bytes:
        """Return the next message, with the time in it."""
        self.sent += 1
        stamp: bytes = STAMP.pack(time.monotonic())
        return stamp + self.padding

    def pause(self) -> float:
        """Return the seconds until the next message is due."""
        now = time.monotonic()
        self.next_time = max(self.next_time + self.interval, now - self.interval)
        return max(0.0, self.next_time - now)

    def tell(self, port: int) -> None:
        """Answer each line of the standard input; end with it."""
        from wsapi import limits

        print(json.dumps({"port": port}), flush=True)
        for _ in sys.stdin:
            connections = list(self.connections)
            figures = {
                "sent": self.sent,
                "connections": len(connections),
                "backlog": sum(ws.protocol.backlog_size for ws in connections),
                "dropped": limits.messages_dropped(),
                "given up": limits.connections_given_up(),
            }
            print(json.dumps(figures), flush=True)
        os._exit(0)

    def start(self, port: int) -> None:
        """Begin to answer, in a thread."""
        threading.Thread(target=self.tell, args=(port,), daemon=True).start()


def listener() -> socket.socket:
    """Return a socket that listens, whose connections have small buffers to send from."""
    sock = socket.create_server((load.HOST, 0), backlog=1024)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return sock


CONNECTION_OPTIONS: Final[dict[str, Any]] = {"compression": None, "ping_interval": None}


async def serve_asyncio(service: Service) -> None:
    """Serve on asyncio."""
    from wsapi.asyncio.server import broadcast, serve

    async def handler(connection: Any) -> None:
        service.connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            service.connections.discard(connection)

    with listener() as sock:
        async with serve(handler, sock=sock, **CONNECTION_OPTIONS):
            service.start(sock.getsockname()[1])
            while True:
                await asyncio.sleep(service.pause())
                broadcast(service.connections, service.message(), **service.terms)


async def serve_trio(service: Service) -> None:
    """Serve on trio."""
    import trio

    from wsapi.trio.server import broadcast, serve

    async def handler(connection: Any) -> None:
        service.connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            service.connections.discard(connection)

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener()))]
    async with trio.open_nursery() as nursery:
        listening = functools.partial(serve, listeners=listeners, **CONNECTION_OPTIONS)
        await nursery.start(listening, handler)
        service.start(listeners[0].socket.getsockname()[1])
        while True:
            await trio.sleep(service.pause())
            await broadcast(list(service.connections), service.message(), **service.terms)


def serve_threads(service: Service) -> None:
    """Serve with threads."""
    from wsapi.sync.server import broadcast, serve

    lock = threading.Lock()

    def handler(connection: Any) -> None:
        with lock:
            service.connections.add(connection)
        try:
            connection.wait_closed()
        finally:
            with lock:
                service.connections.discard(connection)

    with serve(handler, sock=listener(), **CONNECTION_OPTIONS) as server:
        service.start(server.socket.getsockname()[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            time.sleep(service.pause())
            with lock:
                connections = list(service.connections)
            broadcast(connections, service.message(), **service.terms)


def run_server(options: argparse.Namespace) -> None:
    """Serve until the standard input ends."""
    logging.getLogger("wsapi").setLevel(logging.ERROR)  # it tells of each second
    service = Service(options)
    if options.front_end == "threads":
        serve_threads(service)
    elif options.front_end == "trio":
        import trio

        trio.run(serve_trio, service)
    elif options.front_end == "uvloop":
        import uvloop

        uvloop.run(serve_asyncio(service))
    else:
        asyncio.run(serve_asyncio(service))


# ---------------------------------------------------------------------- the clients' process


class Server:
    """A server's process, seen from outside."""

    def __init__(self, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "benchmarks.slow_clients", "--serve"]
        for name in ("front_end", "rate", "size", "slow", "max_backlog"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        self.popen = subprocess.Popen(
            command, cwd=process.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.target = load.Target(self.line()["port"], True, load.Clock(self.popen.pid))

    def line(self) -> dict[str, Any]:
        """Return what it tells next."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise load.WrongEcho("the server process ended early")
        told: dict[str, Any] = json.loads(line)
        return told

    def figures(self) -> dict[str, Any]:
        """Ask it for its figures; add its memory, in MiB."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(b"\n")
        self.popen.stdin.flush()
        with open(f"/proc/{self.popen.pid}/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        return {**self.line(), "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}

    def close(self) -> None:
        """End it, and the connections to it."""
        self.target.close_all()
        self.popen.kill()
        self.popen.communicate()


def connect(target: load.Target, number: int, buffer: int | None = None) -> socket.socket:
    """Open a connection; what is broadcast right behind the handshake isn't read yet."""
    sock = target.new_socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(load.TIMEOUT)
    nonce = number.to_bytes(16, "big")
    sock.connect((load.HOST, target.port))
    sock.sendall(data.upgrade_request(target.port, nonce))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    load.check_head(head, nonce)
    sock.setblocking(False)
    return sock


class QuickClients:
    """Clients that read what comes, and note how old it is.

    Args:
        target: Server.
        count: How many clients.
        size: Size of the messages.
    """

    def __init__(self, target: load.Target, count: int, size: int) -> None:
        header = len(data.frame(data.BINARY, bytes(size))) - size
        self.stamp = header, header + STAMP.size
        self.frame_size = header + size
        self.poll = select.epoll()
        self.buffers: dict[int, bytearray] = {}
        self.sockets = {}
        for number in range(count):
            sock = connect(target, number)
            self.sockets[sock.fileno()] = sock
            self.buffers[sock.fileno()] = bytearray()
            self.poll.register(sock, select.EPOLLIN)

    def read(self, seconds: float) -> list[float]:
        """Read for so long; return the ages of the messages when they came, in seconds."""
        ages = []
        size, (begin, end) = self.frame_size, self.stamp
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in self.poll.poll(left):
                buffer = self.buffers[descriptor]
                piece = self.sockets[descriptor].recv(262144)
                if not piece:
                    raise load.WrongEcho("a quick client was closed")
                buffer += piece
                now = time.monotonic()
                position = 0
                while len(buffer) - position >= size:
                    (sent,) = STAMP.unpack(buffer[position + begin : position + end])
                    ages.append(now - sent)
                    position += size
                del buffer[:position]
        return ages

    def settle(self, seconds: float) -> None:
        """Read for so long, and again while what comes is what has waited for that."""
        for _ in range(10):
            ages = self.read(seconds)
            if not ages or max(ages) < seconds:
                return


@contextlib.contextmanager
def slow_clients(target: load.Target, count: int, sip: bool) -> Iterator[None]:
    """Have clients that read nothing, or a byte per second."""
    ended = threading.Event()
    sockets = [connect(target, number, BUFFER // 2) for number in range(count)]

    def read() -> None:
        while sip and not ended.wait(1):
            for sock in sockets:
                with contextlib.suppress(OSError):
                    sock.recv(1)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for sock in sockets:
            target.close(sock)


def percentile(ages: list[float], per_cent: int) -> float:
    """Return a percentile in milliseconds."""
    return sorted(ages)[min(len(ages) - 1, len(ages) * per_cent // 100)] * 1000


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the phases; return figures."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(Server(options)))
        quick = QuickClients(server.target, options.clients, options.size)
        stack.callback(quick.poll.close)
        without: list[float] = []
        beside: list[float] = []
        figures: dict[str, Any] = {}
        quick.settle(options.warmup)
        before = server.figures()
        for _ in range(options.rounds):
            without += quick.read(options.seconds)
            with slow_clients(server.target, options.slow_clients, options.sip):
                quick.settle(options.warmup)
                beside += quick.read(options.seconds)
                figures = server.figures()
            quick.settle(options.warmup)
        return {
            "front end": options.front_end,
            "policy": options.slow,
            "quick": options.clients,
            "slow": options.slow_clients,
            "messages without": len(without),
            "messages beside": len(beside),
            **{f"p{n} without": percentile(without, n) for n in PERCENTILES},
            **{f"p{n} beside": percentile(beside, n) for n in PERCENTILES},
            "memory before": before["memory"],
            "memory": figures["memory"],
            "budget": options.slow_clients * (options.max_backlog + WRITE_LIMIT) / 2**20,
            "backlog": figures["backlog"] / 2**20,
            "dropped": figures["dropped"],
            "given up": figures["given up"],
        }


def table(found: dict[str, Any]) -> str:
    """Return the figures of a front-end as text."""
    ratio = found["p99 beside"] / found["p99 without"]
    return (
        f"{found['front end']:<8} {found['policy']:<11} "
        f"p50 {found['p50 without']:7.2f} -> {found['p50 beside']:7.2f} ms  "
        f"p99 {found['p99 without']:7.2f} -> {found['p99 beside']:7.2f} ms ({ratio:.2f})  "
        f"memory {found['memory before']:.0f} -> {found['memory']:.0f} MiB "
        f"of {found['budget']:.0f} more, {found['backlog']:.1f} in backlogs  "
        f"dropped {found['dropped']:,}  given up {found['given up']}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a line for each front-end."""
    parser = argparse.ArgumentParser(description="Measure what slow clients cost the others.")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--front-end", choices=FRONT_ENDS, default="asyncio")
    parser.add_argument("--clients", type=int, default=450, help="clients that read")
    parser.add_argument("--slow-clients", type=int, default=50, help="clients that don't")
    parser.add_argument("--sip", action="store_true", help="slow clients read a byte per second")
    parser.add_argument("--rate", type=float, default=50, help="messages per second")
    parser.add_argument("--size", type=int, default=2048, help="bytes of each message")
    parser.add_argument("--slow", default="DROP_OLDEST", help="policy: a member of Slow")
    parser.add_argument("--max-backlog", type=int, default=2**18, help="bytes per client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each phase")
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each phase")
    parser.add_argument("--json", action="store_true", help="print the figures, too")
    options = parser.parse_args(arguments)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if options.serve:
        run_server(options)
        return 0
    found = measure(options)
    print(table(found))
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
