"""What an idle connection of our asyncio server consists of: ``python -m benchmarks.anatomy``.

Connections are opened in lots, by a process of their own. What the garbage collector knows after
the last one and didn't know before is theirs, and so is what only that refers to, such as strings.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import peers, process

CLIENT: Final = """
import sys
from benchmarks import data, load

class Clock:
    pass

target = load.Target(int(sys.argv[1]), True, Clock())
payload, key = data.payloads(1, 64)[0], data.masking_keys(1)[0]
for line in sys.stdin:
    for sock in load.connect_many(target, int(line)):
        load.exchange_once(target, sock, payload, key)
    print("open", flush=True)
"""


@dataclass(frozen=True)
class Part:
    """Objects of one class: how many of them a connection has, and their bytes."""

    name: str
    tracked: bool  # by the garbage collector
    number: float
    size: float


@dataclass(frozen=True)
class Anatomy:
    """The parts of a connection, the largest first, and the bytes of memory that it takes."""

    parts: list[Part]
    memory: float


def known() -> dict[int, Any]:
    """Return what the garbage collector knows, and what that refers to."""
    gc.collect()
    found = {id(thing): thing for thing in gc.get_objects()}
    for thing in list(found.values()):
        found.update((id(part), part) for part in gc.get_referents(thing))
    # Tuples of strings aren't known to it for long, but may be all that refers to these.
    for thing in [thing for thing in found.values() if type(thing) is tuple]:
        found.update((id(part), part) for part in thing)
    return found


def anonymous() -> int:
    """Return the bytes of memory that this process has written to."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("Anonymous:")]
    return int(line.split()[1]) * 1024


async def measure(connections: int) -> Anatomy:
    """Open connections that echo one message each, and take them apart."""
    from wsapi.asyncio.server import ServerConnection, serve

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(handler, peers.HOST, 0, compression=None) as server:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, str(server.sockets[0].getsockname()[1])),
            cwd=process.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert client.stdin is not None
        assert client.stdout is not None

        async def more() -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"%d\n" % connections)
            if await client.stdout.readline() != b"open\n":
                raise OSError("the client failed")
            await asyncio.sleep(0)

        try:
            await more()
            first = anonymous()
            await more()
            memory = (anonymous() - first) / connections
            before = known()
            await more()
            new = {key: thing for key, thing in known().items() if key not in before}
            # Integers are keys of these dictionaries.
            parts = count([thing for thing in new.values() if type(thing) is not int], connections)
        finally:
            client.stdin.close()
            await client.wait()
    return Anatomy(parts, memory)


def count(things: list[Any], connections: int) -> list[Part]:
    """Put objects together by their classes, if each connection has some."""
    numbers: Counter[tuple[str, bool]] = Counter()
    sizes: Counter[tuple[str, bool]] = Counter()
    for thing in things:
        key = type(thing).__name__, gc.is_tracked(thing)
        numbers[key] += 1
        sizes[key] += sys.getsizeof(thing)
    found = [
        Part(*key, number / connections, sizes[key] / connections)
        for key, number in numbers.items()
        if number >= 0.5 * connections
    ]
    return sorted(found, key=lambda part: part.size, reverse=True)


def show(anatomy: Anatomy) -> None:
    """Print a table."""
    print(f"{'class':28}{'objects':>8}{'bytes':>8}")
    for part in anatomy.parts:
        mark = "" if part.tracked else " *"
        print(f"{part.name + mark:28}{part.number:8.1f}{part.size:8.0f}")
    tracked = sum(part.number for part in anatomy.parts if part.tracked)
    size = sum(part.size for part in anatomy.parts)
    print(f"{'together':28}{sum(part.number for part in anatomy.parts):8.1f}{size:8.0f}")
    print(f"{'known to the collector':28}{tracked:8.1f}")
    print(f"{'memory of the process':36}{anatomy.memory:8.0f}")
    print("\n* not known to the garbage collector")


def main() -> None:
    parser = argparse.ArgumentParser(description="Take an idle connection apart.")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    parser.add_argument("--connections", type=int, default=300, help="in each of three lots")
    options = parser.parse_args()
    if options.loop == "uvloop":
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    else:
        runner = asyncio.Runner()
    with runner:
        show(runner.run(measure(options.connections)))


if __name__ == "__main__":
    main()
