"""Compare WebSocket implementations under one framework: ``python -m benchmarks.frameworks``.

A Starlette application that sends messages back runs on uvicorn, each time with another WebSocket
implementation; the load, the clocks and the rounds are those of `compare`. permessage-deflate is on
in uvicorn, by its default, but the client doesn't offer it. With ``--serve``, this module is the
server process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from . import load
from .compare import ROOT, Figure, Probe, Settings, cores, figure

HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Implementation:
    """A way of uvicorn to speak WebSocket."""

    ws: str  # uvicorn's setting of this name
    aliases: str = ""  # packages that are replaced by ours


IMPLEMENTATIONS: Final = {
    "class": Implementation("wsapi.uvicorn:WebSocketProtocol"),
    "websockets-sansio": Implementation("websockets-sansio"),
    "alias-websockets": Implementation("websockets-sansio", "websockets"),
    "wsproto": Implementation("wsproto"),
    "alias-wsproto": Implementation("wsproto", "wsproto"),
}
OURS: Final = "class"

SCENARIOS: Final = {
    # Connections, messages in flight on each, bytes in a message.
    "echo-100x64": (100, 1, 64),
    "pipeline-64": (1, 64, 64),
    "pipeline-16x4k": (1, 16, 4096),
}


def serve(name: str, loop: str, cpu: int) -> None:
    """Run the server until it is killed; print its port when it listens."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    implementation = IMPLEMENTATIONS[name]
    if implementation.aliases:
        from wsapi._run import install_aliases

        install_aliases(implementation.aliases)

    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(await websocket.receive_bytes())
        except WebSocketDisconnect:
            pass

    app = Starlette(routes=[WebSocketRoute("/benchmark", echo)])
    config = uvicorn.Config(
        app, host=HOST, port=0, loop=loop, ws=implementation.ws, log_level="error"
    )
    sock = config.bind_socket()
    sock.listen(2048)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    uvicorn.Server(config).run(sockets=[sock])


@contextlib.contextmanager
def server(name: str, loop: str, cpu: int) -> Iterator[load.Target]:
    """Run an implementation in a process of its own for as long as the context lasts."""
    command = [sys.executable, "-m", "benchmarks.frameworks", "--serve", name]
    command += ["--loop", loop, "--cpu", str(cpu)]
    popen = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    target = None
    try:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        if not line:
            raise load.WrongEcho(f"{name}: the server process did not start")
        target = load.Target(json.loads(line)["port"], True, load.Clock(popen.pid))
        yield target
    finally:
        popen.kill()
        popen.communicate()
        if target is not None:
            target.close_all()


def installed(name: str) -> str | None:
    """Return why an implementation can't be measured here, or None."""
    needs = ["uvicorn", "starlette"]
    if name in ("websockets-sansio", "wsproto"):
        needs.append(name.partition("-")[0])
    missing = [need for need in needs if importlib.util.find_spec(need) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def measure(
    names: list[str],
    scenarios: list[str],
    loop: str,
    settings: Settings,
    report: Callable[[str], None],
) -> dict[str, dict[str, list[Figure]]]:
    """Measure every case `settings.rounds` times, the implementations taking turns."""
    server_cpu, load_cpu = cores()
    before = os.sched_getaffinity(0)
    if load_cpu >= 0:
        os.sched_setaffinity(0, {load_cpu})
    probe = Probe(server_cpu, settings.patience)
    results: dict[str, dict[str, list[Figure]]] = {}
    try:
        for scenario in scenarios:
            connections, in_flight, size = SCENARIOS[scenario]
            if connections > 1:
                connections = max(2, round(connections * settings.scale))
            rounds = results[scenario] = {name: [] for name in names}
            for number in range(settings.rounds):
                for name in names:
                    with server(name, loop, server_cpu) as target:
                        speed = probe.quiet()
                        window = load.echo(
                            target, connections, in_flight, size, settings.warmup, settings.seconds
                        )
                    rounds[name].append(replace(figure(window), probe=speed))
                done = ", ".join(f"{name} {rounds[name][-1].value:.2f}" for name in names)
                report(f"{loop} {scenario} round {number + 1}: {done}")
    finally:
        os.sched_setaffinity(0, before)
    return results


def table(results: dict[str, dict[str, list[Figure]]]) -> str:
    """Format the results."""
    lines = []
    for scenario, rounds in results.items():
        best = {name: min(figures, key=lambda f: f.value) for name, figures in rounds.items()}
        lines += ["", f"{scenario}: CPU µs per echoed message"]
        lines += [f"{'':20} {'best':>8} {'worst':>8} {'ours x':>7} {'queued':>7}"]
        for name, figures in rounds.items():
            worst = max(figure.value for figure in figures)
            share = f"{best[OURS].value / best[name].value:.2f}" if OURS in best else "-"
            lines.append(
                f"  {name:18} {best[name].value:8.2f} {worst:8.2f} {share:>7} "
                f"{best[name].queued or 0.0:7.0%}"
            )
    return "\n".join(lines[1:])


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the tables, and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frameworks", description=__doc__)
    parser.add_argument("--serve", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--implementation", action="append", choices=IMPLEMENTATIONS)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--quick", action="store_true", help="one short round with few connections: a smoke test"
    )
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.loop, options.cpu)
        return 0
    settings = Settings(options.rounds, options.seconds, options.seconds / 2, 2.0)
    if options.quick:
        settings = Settings(1, min(options.seconds, 0.1), 0.02, 0.0, 0.05)
    names = []
    for name in options.implementation or IMPLEMENTATIONS:
        if reason := installed(name):
            print(f"left out: {name} ({reason})", file=sys.stderr)
        else:
            names.append(name)
    try:
        results = measure(
            names,
            options.scenario or list(SCENARIOS),
            options.loop,
            settings,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
    except load.WrongEcho as exc:
        print(f"benchmark aborted: {exc}", file=sys.stderr)
        return 1
    print(table(results))
    if options.json:
        figures = {
            scenario: {name: [figure.value for figure in found] for name, found in rounds.items()}
            for scenario, rounds in results.items()
        }
        options.json.write_text(json.dumps({"loop": options.loop, "results": figures}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
