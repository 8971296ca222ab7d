"""Count instructions per message and per connection: ``python -m benchmarks.instructions``.

Each server runs under ``valgrind --tool=callgrind``, which writes down what was executed each time
that the server calls ``getpgrp()``: before and after each of some windows with the same load. The
figure is the least one, without what the call itself takes, divided by the messages, or
connections, of a window. It counts the instructions of the process alone, without the kernel's, and
hardly depends on the machine or on what else that does. README.md says more.

``engine`` is no front-end: its loads are in `engine_loads`, without sockets. Those of clients, on
event loops, are in `client_loads`. ``--functions 20`` prints which functions took the most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Final, TypeAlias

from . import by_function, certificate, client_loads, data, engine_loads, load, peers, process

SIZE: Final = 64
PAYLOAD: Final = b"x" * SIZE
SLOW_CLOCK: Final = Path(__file__).with_name("slow_clock.c")
KEY: Final = b"\x12\x34\x56\x78"
CONNECTIONS: Final = 10
IN_FLIGHT: Final = 64
WINDOWS: Final = 7  # that count; one before doesn't
PATIENCE: Final = 120  # seconds for any answer of a server, which valgrind makes 50 times as slow
WHOLE_PATIENCE: Final = 900  # seconds for a process from its beginning to its end
FAILURES: Final = (load.WrongEcho, OSError, PackageNotFoundError, subprocess.SubprocessError)

Window: TypeAlias = "Callable[[], object]"
Pause: TypeAlias = "Callable[[], object]"
Figures: TypeAlias = "dict[str, list[float]]"  # by load, for each window
Profiles: TypeAlias = "dict[str, str]"  # by load, what callgrind wrote about the least window
Begin: TypeAlias = "Callable[[load.Target, int, Pause], Window]"


def exchange(
    target: load.Target, sockets: list[socket.socket], in_flight: int, rounds: int
) -> None:
    """Send the same frames on all connections, await all echoes, and so on."""
    sent = target.request_frame(data.BINARY, PAYLOAD, KEY) * in_flight
    echo = target.reply_frame(data.BINARY, PAYLOAD, KEY) * in_flight
    for _ in range(rounds):
        for sock in sockets:
            sock.sendall(sent)
        for sock in sockets:
            received = b""
            while received != echo:
                piece = sock.recv(len(echo))
                received += piece
                if not piece or not echo.startswith(received):
                    raise load.mismatch(received if piece else b"", echo)


def connect(target: load.Target, pause: Pause) -> socket.socket:
    """Open a connection."""
    sock = load.connect(target, bytes(16))
    sock.settimeout(PATIENCE)
    pause()
    return sock


def one_outstanding(connections: int) -> Begin:
    """Echo messages, one at a time on each connection."""

    def begin(target: load.Target, count: int, pause: Pause) -> Window:
        sockets = [connect(target, pause) for _ in range(connections)]
        return partial(exchange, target, sockets, 1, count // connections)

    return begin


def many_outstanding(target: load.Target, count: int, pause: Pause) -> Window:
    """Echo messages that arrive together on one connection."""
    return partial(exchange, target, [connect(target, pause)], IN_FLIGHT, count // IN_FLIGHT)


def opening(target: load.Target, count: int, pause: Pause) -> Window:
    """Open connections, one after the other, that stay open."""

    def window() -> None:
        for _ in range(count):
            connect(target, pause)

    return window


def closing(target: load.Target, count: int, pause: Pause) -> Window:
    """Open connections, one after the other, and close each."""

    def window() -> None:
        for _ in range(count):
            sock = connect(target, pause)
            sock.sendall(data.frame(data.CLOSE, load.CLOSE_FRAME, KEY))
            while sock.recv(4096):
                pass
            target.close(sock)
            pause()

    return window


def resetting(target: load.Target, count: int, pause: Pause) -> Window:
    """Open connections, one after the other, and reset each, without a Close frame."""

    def window() -> None:
        for _ in range(count):
            sock = connect(target, pause)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, load.LINGER_RESET)
            target.close(sock)
            pause()

    return window


# For each load what it is, and the messages or connections of a window.
LOADS: Final[dict[str, tuple[Begin, int]]] = {
    f"echo-1x{SIZE}": (one_outstanding(1), 100),
    f"echo-{CONNECTIONS}x{SIZE}": (one_outstanding(CONNECTIONS), 300),
    f"in-flight-{IN_FLIGHT}": (many_outstanding, 640),
    f"tls-echo-{CONNECTIONS}x{SIZE}": (one_outstanding(CONNECTIONS), 300),
    "opening": (opening, 20),
    "opening-and-closing": (closing, 20),
    "opening-and-reset": (resetting, 20),
}
TLS: Final = tuple(name for name in LOADS if name.startswith("tls-"))


class Counter:
    """A process under callgrind.

    Args:
        popen: The process.
        folder: Where it writes what it has counted.
    """

    def __init__(self, popen: subprocess.Popen[bytes], folder: Path) -> None:
        self._popen = popen
        self._folder = folder
        self._parts = 0

    def line(self) -> bytes:
        """Return the next line that it prints."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise load.WrongEcho("the server process did not start, or ended early")
        return line

    def settle(self) -> None:
        """Wait until all its threads wait."""
        tasks = Path(f"/proc/{self._popen.pid}/task")
        end, looks = time.monotonic() + PATIENCE, 0
        while looks < 3 and time.monotonic() < end:
            time.sleep(0.003)
            looks = 0 if any(_runs(task / "stat") for task in tasks.iterdir()) else looks + 1

    def count(self) -> int:
        """Return how many instructions it has executed since the last call."""
        self.settle()
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"c")
        self._popen.stdin.flush()
        self.line()
        return self.next_part()

    def next_part(self) -> int:
        """Return the total of the next profile that it has written."""
        self._parts += 1
        return _total(self.profile(self._parts))

    def profile(self, number: int) -> str:
        """Return the profile of that number, from 1 on."""
        return (self._folder / f"profile.{number}").read_text()

    def least(self, count: int) -> str:
        """Return the one with the least total among the last profiles."""
        numbers = range(self._parts - count + 1, self._parts + 1)
        return min(map(self.profile, numbers), key=_total)


def _total(profile: str) -> int:
    found = by_function.total(profile)
    if found is None:
        raise load.WrongEcho("valgrind wrote no total")
    return found


def _runs(stat: Path) -> bool:
    with contextlib.suppress(OSError):  # it has ended
        return stat.read_text().rpartition(")")[2].split()[0] not in "SI"
    return False


@dataclass(frozen=True)
class Counting:
    """How each load is counted, and what came of it.

    Args:
        windows: How often each is counted.
        scale: Factor for the size of a window.
        source: Folder of the packages; None for those that are installed.
        profiles: Is given callgrind's profile of the least window of each.
    """

    windows: int
    scale: float
    source: Path | None
    profiles: Profiles

    def times(self, full: int) -> int:
        """Return how often a window does what a whole one does that often."""
        return max(1, round(full * self.scale))

    def keep(
        self, name: str, totals: Iterable[int], alone: int, count: int, counted: Counter
    ) -> list[float]:
        """Return the instructions of each window by what was done in it; keep the profile.

        Args:
            name: Name of the load.
            totals: Instructions of each window.
            alone: How many of these it takes to count.
            count: How many messages or connections a window has.
            counted: What counts.
        """
        figures = [(total - alone) / count for total in totals]
        self.profiles[name] = counted.least(self.windows)
        return figures


@contextlib.contextmanager
def counter(
    command: list[str], source: Path | None
) -> Iterator[tuple[subprocess.Popen[bytes], Counter]]:
    """Run a command under callgrind, with the packages in `source` if that is given."""
    with tempfile.TemporaryDirectory() as folder:
        valgrind = [
            *("valgrind", "--tool=callgrind", "-q", "--fair-sched=yes", "--dump-before=getpgrp"),
            f"--callgrind-out-file={folder}/profile",
        ]
        slow_clock = Path(folder, "slow_clock.so")
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        flags = ["-O2", "-shared", "-fPIC", "-o", str(slow_clock)]
        subprocess.run([*compiler, *flags, str(SLOW_CLOCK), "-ldl"], check=True)
        # The same hashes, and so the same collisions, in every run; no more time for each
        # instruction than without valgrind; and no Ping.
        fixed = {"PYTHONHASHSEED": "0", "LD_PRELOAD": str(slow_clock)}
        options = {peers.PING_INTERVAL: "3600", peers.STANDSTILL: "1"}
        environment = {**os.environ, **fixed, **options}
        if source is not None:
            environment["PYTHONPATH"] = str(source)
        with subprocess.Popen(
            [*valgrind, *command],
            cwd=process.ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as popen:
            try:
                yield popen, Counter(popen, Path(folder))
            finally:
                popen.kill()


def of_server(
    front_end: str,
    peer: str,
    names: list[str],
    counting: Counting,
    tls: bool,
) -> Figures:
    """Return the instructions per message or connection of a server, for some loads."""
    found: Figures = {}
    command = process.command(front_end, peer, "echo-tls" if tls else "echo", -1)
    websocket = "raw" not in peers.PEERS[front_end][peer].takes
    with counter(command, counting.source) as (popen, counted):
        target = load.Target(
            json.loads(counted.line())["port"],
            websocket,
            load.Clock(popen.pid),
            tls=certificate.client_context() if tls else None,
        )
        try:
            for name in names:
                begin, count = LOADS[name]
                least = CONNECTIONS if count % IN_FLIGHT else IN_FLIGHT
                count = max(counting.times(count), least)
                # What several threads do at once isn't the same each time: they take turns.
                pause = counted.settle if front_end == "threads" else int
                window = begin(target, count, pause)
                window()
                counted.count()
                alone = counted.count()  # what it takes to count
                totals = []
                for _ in range(counting.windows):
                    window()
                    totals.append(counted.count())
                found[name] = counting.keep(name, totals, alone, count, counted)
                target.close_all()
        finally:
            target.close_all()
    return found


def of_engine(names: list[str], counting: Counting) -> Figures:
    """Return the same for the engine alone."""
    found: Figures = {}
    times = {name: counting.times(engine_loads.LOADS[name].times) for name in names}
    script = [f"{name}:{count}:{counting.windows}" for name, count in times.items()]
    command = [sys.executable, "-m", engine_loads.__name__, *script]
    with counter(command, counting.source) as (popen, counted):
        finish(popen)
        for name, count in times.items():
            counted.next_part()
            alone = counted.next_part()
            count *= engine_loads.LOADS[name].messages
            totals = [counted.next_part() for _ in range(counting.windows)]
            found[name] = counting.keep(name, totals, alone, count, counted)
    return found


def of_client(front_end: str, peer: str, names: list[str], counting: Counting) -> Figures:
    """Return the instructions of a client per message and its echo, for some loads."""
    found: Figures = {}
    for name in names:
        messages = client_loads.LOADS[name].in_flight
        times = counting.times(client_loads.LOADS[name].times)
        with client_loads.server(messages, WHOLE_PATIENCE) as port:
            load_of_it = f"{client_loads.SIZE}:{messages}:{times}:{counting.windows}"
            service = f"client-windows:{port}:{load_of_it}"
            command = process.command(front_end, peer, service, -1)
            with counter(command, counting.source) as (popen, counted):
                finish(popen)
                counted.next_part()
                alone = counted.next_part()
                totals = [counted.next_part() for _ in range(counting.windows)]
                found[name] = counting.keep(name, totals, alone, messages * times, counted)
    return found


def finish(popen: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended well."""
    try:
        popen.communicate(timeout=WHOLE_PATIENCE)
    except subprocess.TimeoutExpired:
        raise load.WrongEcho("the process takes too long") from None
    if popen.returncode:
        raise load.WrongEcho(f"the process ended with {popen.returncode}")


ENGINE: Final = "engine"  # in the place of a front-end
FRONT_ENDS: Final = (ENGINE, *peers.FRONT_ENDS)
ALL_LOADS: Final = (*LOADS, *client_loads.LOADS, *engine_loads.LOADS)


def loads_of(front_end: str, peer: str) -> list[str]:
    """Return the names of the loads that a peer takes part in."""
    if front_end == ENGINE:
        return list(engine_loads.LOADS)
    if peer not in peers.PEERS[front_end]:
        return []
    takes, on_loop = peers.PEERS[front_end][peer].takes, front_end in peers.LOOPS
    names = [
        name
        for name in LOADS
        if (name not in TLS or (on_loop and "tls" in takes))
        and not (name.startswith("opening") and "raw" in takes)  # without a handshake
    ]
    return [*names, *(client_loads.LOADS if on_loop and "client" in takes else ())]


def instructions(
    front_end: str,
    peer: str,
    names: list[str],
    windows: int = WINDOWS,
    scale: float = 1.0,
    source: Path | None = None,
    profiles: Profiles | None = None,
) -> Figures:
    """Return the instructions per message or connection in each window, for some loads.

    Args:
        front_end: Name of the front-end, or `ENGINE`.
        peer: Name of the peer.
        names: Names of the loads.
        windows: How often each is counted.
        scale: Factor for the size of a window.
        source: Folder of the packages; None for those that are installed.
        profiles: Is given callgrind's profile of the least window of each.

    Raises:
        WrongEcho: The process ended early, or sent something else than it had to.
        OSError: The system didn't do something.
    """
    counting = Counting(windows, scale, source, {} if profiles is None else profiles)
    found: Figures = {}
    if front_end == ENGINE:
        return of_engine(names, counting) if names else found
    if plain := [name for name in names if name in LOADS and name not in TLS]:
        found.update(of_server(front_end, peer, plain, counting, tls=False))
    if encrypted := [name for name in names if name in TLS]:
        found.update(of_server(front_end, peer, encrypted, counting, tls=True))
    if clients := [name for name in names if name in client_loads.LOADS]:
        found.update(of_client(front_end, peer, clients, counting))
    return {name: found[name] for name in names}


def spread(figures: list[float]) -> float:
    """Return how far the middle window is above the least, as a share of that."""
    return statistics.median(figures) / min(figures) - 1


def main(arguments: list[str] | None = None) -> int:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description="Count instructions per message and connection.")
    parser.add_argument("--peer", action="append", help="default: wsapi")
    parser.add_argument("--front-end", action="append", choices=FRONT_ENDS)
    parser.add_argument("--load", action="append", choices=ALL_LOADS)
    parser.add_argument("--windows", type=int, default=WINDOWS, help="how often each is counted")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--functions", type=int, metavar="N", help="show the N that took the most")
    parser.add_argument("--quick", action="store_true", help="shows that it runs")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        parser.error("valgrind isn't installed")
    windows, scale = (2, 0.05) if options.quick else (options.windows, 1.0)
    figures: dict[str, float] = {}
    for front_end in options.front_end or FRONT_ENDS:
        for peer in options.peer or ["wsapi"]:
            loads = loads_of(front_end, peer)
            names = [name for name in loads if name in (options.load or loads)]
            profiles: Profiles = {}
            try:
                found = instructions(front_end, peer, names, windows, scale, profiles=profiles)
            except FAILURES as exc:
                print(f"benchmark aborted: {front_end}, {peer}: {exc}", file=sys.stderr)
                return 1
            for name, values in found.items():
                figures[f"{front_end} {peer} {name}"] = value = round(min(values))
                print(
                    f"{front_end:8}  {peer:18}  {name:20} {value:>12,}   +{spread(values):.2%}",
                    flush=True,
                )
                if options.functions:
                    print(by_function.table(profiles[name], value, options.functions), flush=True)
            if front_end == ENGINE:
                break
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
