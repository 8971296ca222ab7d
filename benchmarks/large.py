"""What a large message costs beyond the bare loop, step by step: ``python -m benchmarks.large``.

All servers run at once, and are used in turn for a few milliseconds each, so that what else goes on
in the machine hits all of them. The figure is the processor time of a server per echo: the least of
its turns, and the middle one. ``--instructions`` counts instructions instead, by callgrind, which
doesn't see what memory costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from . import certificate, data, instructions, load, peers, process

SIZES: Final = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "16 MiB": 1 << 24}
STEPS: Final = {
    "raw": "the bare loop: writes back what it reads, piece by piece",
    "raw_buffered": "the same with a `BufferedProtocol`",
    "raw_whole": "the bare loop that waits until a message is whole",
    "raw_unmasked": "the same, and unmasks it",
    "wsapi_callbacks": "ours, callbacks",
    "wsapi": "ours, coroutines",
    "wsapi_callbacks_aiofastnet": "ours, callbacks, TLS by aiofastnet",
    "wsapi_aiofastnet": "ours, coroutines, TLS by aiofastnet",
    "picows_websockets": "`picows.websockets`, whose TLS is by aiofastnet",
}
TURN: Final = 0.005  # seconds, and at least one echo

Echo = load.LargeEcho


def conversation(target: load.Target, size: int) -> Echo:
    """Open a connection, and return what echoes messages of `size` bytes on it."""
    payload, (key,) = data.payloads(1, 1024)[0] * (size // 1024), data.masking_keys(1)
    sock = load.connect(target, bytes(16))
    return Echo(
        sock,
        target.request_frame(data.BINARY, payload, key),
        target.reply_frame(data.BINARY, payload, key),
    )


@contextlib.contextmanager
def running(
    names: list[str], loop: str, size: int, tls: bool
) -> Iterator[dict[str, tuple[load.Clock, Echo]]]:
    """Run servers, each with a connection that has been used."""
    cpu, _ = process.cores()
    service = "echo-tls-large" if tls else "echo-large"
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            server = stack.enter_context(process.server(loop, name, service, cpu))
            echo = conversation(server.target, size)
            for _ in range(3):
                echo.turn()
            found[name] = server.target.clock, echo
        yield found


def measure(
    names: list[str], loop: str, size: int, tls: bool, turns: int
) -> dict[str, list[float]]:
    """Return the µs per echo of each turn."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    with running(names, loop, size, tls) as servers:
        for _ in range(turns):
            for name, (clock, echo) in servers.items():
                echo.turn()  # what the others did to its caches doesn't count
                figures[name].append(load.measure_slice(clock, echo.turn, TURN).cpu_us)
    return figures


def count(name: str, loop: str, size: int, tls: bool, windows: int) -> list[float]:
    """Return the instructions per echo in each window."""
    echoes = 4
    command = process.command(loop, name, "echo-tls-large" if tls else "echo-large", -1)
    with instructions.counter(command, None) as (popen, counted):
        context = certificate.client_context() if tls else None
        websocket = "raw" not in peers.PEERS[loop][name].takes
        port = json.loads(counted.line())["port"]
        target = load.Target(port, websocket, load.Clock(popen.pid), tls=context)
        try:
            echo = conversation(target, size)
            echo.turn()
            counted.count()
            alone = counted.count()
            found = []
            for _ in range(windows):
                for _ in range(echoes):
                    echo.turn()
                found.append((counted.count() - alone) / echoes)
        finally:
            target.close_all()
    return found


def table(title: str, unit: str, figures: dict[str, list[float]]) -> str:
    """Format the figures of one size as a table in Markdown."""
    base = min(min(values) for name, values in figures.items() if name in ("raw", "raw_buffered"))
    lines = [
        f"{title}:",
        "",
        f"| step | {unit} | middle | x bare |",
        "|---|--:|--:|--:|",
    ]
    for name, values in figures.items():
        least = min(values)
        middle = statistics.median(values)
        lines.append(f"| {STEPS[name]} | {least:,.0f} | {middle:,.0f} | {least / base:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--loop", choices=peers.LOOPS, default="uvloop")
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--peer", action="append", choices=STEPS)
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, help="default: both")
    parser.add_argument("--turns", type=int, default=300, help="of each server")
    parser.add_argument("--instructions", action="store_true", help="count these instead")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    options = parser.parse_args(arguments)
    if options.instructions and shutil.which("valgrind") is None:
        parser.error("valgrind isn't installed")
    names = []
    for name in options.peer or STEPS:
        missing = peers.PEERS[options.loop][name].missing
        if missing is None:
            names.append(name)
        else:
            print(f"left out: {name} ({missing})", file=sys.stderr)
    if not {"raw", "raw_buffered"} & set(names):
        names.insert(0, "raw")
    os.environ.setdefault(peers.PING_INTERVAL, "3600")  # none comes between
    before = os.sched_getaffinity(0)
    tables = []
    try:
        if not options.instructions and process.cores()[1] >= 0:
            os.sched_setaffinity(0, {process.cores()[1]})
        for tls in (False, True) if options.tls is None else (options.tls,):
            for title in options.size or SIZES:
                size = SIZES[title]
                chosen = [name for name in names if tls or not name.endswith("_aiofastnet")]
                if options.instructions:
                    windows = 1 if options.quick else 3
                    counting = partial(
                        count, loop=options.loop, size=size, tls=tls, windows=windows
                    )
                    figures = {name: counting(name) for name in chosen}
                else:
                    turns = 2 if options.quick else options.turns
                    # So that large ones take no more than three times as long.
                    turns = max(1, turns * 3 // 10) if size > 1 << 20 else turns
                    figures = measure(chosen, options.loop, size, tls, turns)
                unit = "instructions" if options.instructions else "CPU µs"
                tables.append(table(f"{title}{' over TLS' if tls else ''}", unit, figures))
                print(tables[-1], end="\n\n", flush=True)
    except instructions.FAILURES as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    finally:
        os.sched_setaffinity(0, before)
    if options.markdown:
        options.markdown.write_text("\n\n".join(tables) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
