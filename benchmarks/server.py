"""A peer in a process of its own: ``python -m benchmarks.server FRONT_END PEER SERVICE CPU``.

SERVICE is ``echo``, ``echo-deflate``, ``broadcast`` or ``broadcast-deflate``. Prints one JSON line
when it listens (port, version), then obeys one-letter commands on standard input, and answers each
with a line: ``g`` collects garbage and gives free memory back, ``c`` has callgrind write down what
was counted, if it runs there. Ends at end of file.

Or SERVICE is ``client:PORT:SIZE:SECONDS``: the process sends messages to a server, awaits the echo
of each, and prints one JSON line in the end (µs, version).

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
import os
from collections.abc import Callable
from typing import Any

from . import peers


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
        os.getpgrp()  # what nobody else calls: see `instructions`
        print("done", flush=True)
    return bool(command)


def say(**values: object) -> None:
    """Tell the other process."""
    print(json.dumps(values), flush=True)


async def serve_here(
    peer: peers.Peer, service: str, deflate: bool, listening: Callable[[int], None]
) -> None:
    """Run one service of a peer until commands end."""
    running = await (peer.broadcast if service == "broadcast" else peer.echo)(deflate)
    listening(running.sockets[0].getsockname()[1])
    finished = asyncio.Event()

    def readable() -> None:
        if not obey():
            finished.set()

    asyncio.get_running_loop().add_reader(0, readable)
    await finished.wait()
    os._exit(0)  # without the peer's shutdown: nothing of it is measured


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
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    spec = peers.PEERS[options.front_end][options.peer]
    service, _, deflate = options.service.partition("-")
    if options.front_end in peers.LOOPS:
        peer = spec.load()

        def listening(port: int) -> None:
            say(port=port, version=peer.version())

        run_loop(options.front_end, serve_here(peer, service, deflate == "deflate", listening))
        return
    module = importlib.import_module(f"{peers.__name__}.{spec.module}")
    version = peers.version_of(spec.needs[-1]) if spec.needs else "-"
    if service.startswith("client:"):
        _, port, size, seconds = service.split(":")
        microseconds = module.talk(options.peer, int(port), int(size), float(seconds))
        say(value=microseconds, version=version)
    else:
        module.serve(options.peer, lambda port: say(port=port, version=version), obey)
    os._exit(0)


if __name__ == "__main__":
    main()
