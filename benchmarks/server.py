"""One peer in a process of its own: ``python -m benchmarks.server PEER SERVICE DEFLATE LOOP CPU``.

Prints one JSON line when it listens (port, versions), then obeys one-letter commands on standard
input: ``g`` collects garbage and gives free memory back, and answers with a line. Ends at end of
file. Nothing runs here during a measured window but the peer: processor time and memory are read
from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
from typing import Any

from . import peers


def run_loop(loop: str, main: Any) -> None:
    """Run the coroutine `main` on the named event loop."""
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        asyncio.run(main)


def release_memory() -> None:
    """Collect garbage and hand unused heap pages back, so that resident memory means use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def serve(name: str, service: str, deflate: bool) -> None:
    """Run one service of one peer until standard input ends."""
    peer = peers.load(name)
    running = await (peer.broadcast if service == "broadcast" else peer.echo)(deflate)
    port = running.sockets[0].getsockname()[1]
    hello = {"port": port, "label": peer.label, "version": peer.version()}
    print(json.dumps(hello), flush=True)

    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def obey() -> None:
        command = os.read(0, 1)
        if command == b"g":
            release_memory()
            print("done", flush=True)
        elif not command:
            finished.set()

    loop.add_reader(0, obey)
    await finished.wait()
    os._exit(0)  # without the peer's shutdown: nothing of it is measured


def main() -> None:
    """Pin this process, then serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=peers.NAMES)
    parser.add_argument("service", choices=("echo", "broadcast"))
    parser.add_argument("deflate", choices=("off", "on"), help="permessage-deflate")
    parser.add_argument("loop", choices=("asyncio", "uvloop"))
    parser.add_argument("cpu", type=int, help="core to run on; -1: any")
    options = parser.parse_args()
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    run_loop(options.loop, serve(options.peer, options.service, options.deflate == "on"))


if __name__ == "__main__":
    main()
