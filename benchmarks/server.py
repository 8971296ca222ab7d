"""A peer in a process of its own: ``python -m benchmarks.server FRONT_END PEER SERVICE CPU``.

SERVICE is ``echo`` or ``broadcast``, or one of these with ``-deflate``; an echo may have ``-tls``,
for TLS, and ``-large``, for messages of at most 16 MiB, which not all peers take by default. Prints
one JSON line when it listens (port, version), then obeys one-letter commands on standard input, and
answers each with a line: ``g`` collects garbage and gives free memory back, ``c`` has callgrind
write down what was counted, if it runs there, ``p`` tells how long the garbage collector has paused
the process since the last ``p``. Ends at end of file.

Or SERVICE is ``client:PORT:SIZE:SECONDS:COUNT``: the process sends messages to a server, COUNT
together on event loops, awaits their echoes, and prints one JSON line in the end (µs, version).

``client-windows:PORT:SIZE:COUNT:TIMES:WINDOWS``, on event loops, is for `instructions`: messages as
before, but so many times in so many windows, between which callgrind writes down what was counted.

Nothing runs here during a measured window but the peer: processor time and memory of servers are
read from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import importlib
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from . import certificate, peers

MAX_SIZE: Final = 1 << 24  # bytes of a message, where messages are large


class Pauses:
    """How long the garbage collector has taken, each time."""

    def __init__(self) -> None:
        self._watching = False
        self._begin = 0.0
        self._seconds: list[tuple[int, float]] = []

    def _called(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begin = time.perf_counter()
        else:
            self._seconds.append((info["generation"], time.perf_counter() - self._begin))

    def tell(self) -> None:
        """Print generation and seconds of each since the last call, and go on watching."""
        if not self._watching:
            self._watching = True
            gc.callbacks.append(self._called)
        seconds, self._seconds = self._seconds, []
        say(pauses=seconds)


pauses: Final = Pauses()


def obey() -> bool:
    """Wait for a command, and do what it says; return whether there may be others."""
    command = os.read(0, 1)
    if command == b"g":
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # so that resident memory means use
        print("done", flush=True)
    elif command == b"c":
        gc.disable()  # when it comes isn't the same each time, nor what it finds
        os.getpgrp()  # what nobody else calls: see `instructions`
        print("done", flush=True)
    elif command == b"p":
        pauses.tell()
    return bool(command)


def say(**values: object) -> None:
    """Tell the other process."""
    print(json.dumps(values), flush=True)


async def serve_here(
    peer: peers.Peer, service: str, terms: list[str], listening: Callable[[int], None]
) -> None:
    """Run one service of a peer until commands end."""
    deflate = "deflate" in terms
    if service == "broadcast":
        running = await peer.broadcast(deflate)
    else:
        running = await peer.echo(
            deflate,
            tls=certificate.server_context() if "tls" in terms else None,
            max_size=MAX_SIZE if "large" in terms else None,
        )
    listening(running.sockets[0].getsockname()[1])
    finished = asyncio.Event()

    def readable() -> None:
        if not obey():
            finished.set()

    asyncio.get_running_loop().add_reader(0, readable)
    await finished.wait()
    os._exit(0)  # without the peer's shutdown: nothing of it is measured


async def be_client(name: str, peer: peers.Peer, service: str) -> None:
    """Be a client of a server that listens somewhere else."""
    from .peers import clients

    kind, *terms = service.split(":")
    if kind == "client-windows":
        port, size, count, times, windows = map(int, terms)
        await clients.windows(name, port, size, count, times, windows)
    else:
        port, size, count = int(terms[0]), int(terms[1]), int(terms[3])
        value = await clients.talk(name, port, size, float(terms[2]), count)
        say(value=value, version=peer.version())
    os._exit(0)


def run_loop(loop: str, main: Any) -> None:
    """Run the coroutine `main` on the named event loop."""
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        asyncio.run(main)


def main() -> None:
    """Pin this process, then serve, or talk."""
    parser = argparse.ArgumentParser()
    parser.add_argument("front_end", choices=peers.FRONT_ENDS)
    parser.add_argument("peer", choices=peers.NAMES)
    parser.add_argument("service")
    parser.add_argument("cpu", type=int, help="core to run on; -1: any")
    options = parser.parse_args()
    # Where no program configured logging, Python formats what is logged and prints it; some peers
    # log a traceback for each connection that is reset.
    logging.getLogger().addHandler(logging.NullHandler())
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    spec = peers.PEERS[options.front_end][options.peer]
    service, *terms = options.service.split("-")
    if options.front_end in peers.LOOPS:
        peer = spec.load()
        if service.startswith("client"):
            run_loop(options.front_end, be_client(options.peer, peer, options.service))

        def listening(port: int) -> None:
            say(port=port, version=peer.version())

        run_loop(options.front_end, serve_here(peer, service, terms, listening))
        return
    module = importlib.import_module(f"{peers.__name__}.{spec.module}")
    version = peers.version_of(spec.needs[-1]) if spec.needs else "-"
    if service.startswith("client:"):
        _, port, size, seconds, _ = service.split(":")
        microseconds = module.talk(options.peer, int(port), int(size), float(seconds))
        say(value=microseconds, version=version)
    else:
        module.serve(options.peer, lambda port: say(port=port, version=version), obey)
    os._exit(0)


if __name__ == "__main__":
    main()
