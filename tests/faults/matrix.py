"""Runs cases of one subject, many at a time, and looks what they leave behind."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from tests.faults import runtimes
from tests.faults.cases import LONG, SHORT, SIDES, SLACK, Case, Side, make
from tests.faults.proxy import FaultProxy, Flow
from tests.faults.workload import Account, AppEnd, End, judge, run_client, run_server
from wsapi._shared.connection import BaseConnection
from wsapi.exceptions import InvalidHandshake
from wsproto_fast import Protocol

# What asyncio logs in its debug mode about TLS handshakes that fail.
DEBUGGING = "Error on transport creation for incoming connection"

# Kinds of what can be wrong: the columns of the table.
WRONGS = ("lost", "reordered", "hang", "left over", "wrong")
# Ours isn't the only thing that this process does, so messages of others aren't ours to judge.
LOGGERS = ("wsapi", "asyncio", "uvicorn.error")


@dataclass
class Running:
    """A case that runs."""

    case: Case
    flow: Flow
    accounts: dict[Side, Account]
    client: Future[Any]
    began: float = field(default_factory=time.monotonic)

    def late(self, now: float) -> bool:
        return now - self.began > self.case.limit


@dataclass
class Verdict:
    """What came out of a case.

    Attributes:
        fired: Whether the place of the fault was reached.
        wrong: Kinds and descriptions of what was wrong.
        fatal: The process isn't fit for more.
    """

    case: Case
    fired: bool
    wrong: list[tuple[str, str]]
    fatal: bool = False


class Noise(logging.Handler):
    """What nobody should have to read: errors logged, exceptions that nobody caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def __enter__(self) -> Noise:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        # What the other library says about its own connections isn't looked at.
        logging.getLogger("websockets").addHandler(logging.NullHandler())
        self._hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = self._unraisable
        threading.excepthook = self._uncaught
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        sys.unraisablehook, threading.excepthook = self._hooks

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if (
            "site-packages/websockets" not in text  # of the other library's peers
            and not text.startswith(DEBUGGING)
            and not is_forgotten_by_uvloop(record)
        ):
            self.lines.append(f"{record.name}: {text}")

    def _unraisable(self, unraisable: Any) -> None:
        self.lines.append(f"unraisable in {unraisable.object!r}: {unraisable.exc_value!r}")

    def _uncaught(self, args: Any) -> None:
        self.lines.append(f"uncaught in a thread: {args.exc_value!r}")

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def is_forgotten_by_uvloop(record: logging.LogRecord) -> bool:
    """Tell whether a record is about a future with which uvloop waited for a TLS handshake.

    When ``create_connection()`` is cancelled as soon as the socket is connected, nobody awaits that
    future any more, but it gets the exception that ends the connection: an error of a socket or of
    OpenSSL, of which no frame is ours.
    """
    exc = record.exc_info and record.exc_info[1]
    if not isinstance(exc, OSError) or "uvloop" not in sys.modules:
        return False
    if not record.getMessage().startswith("Future exception was never retrieved"):
        return False
    frames = traceback.extract_tb(exc.__traceback__)
    return not frames or frames[0].filename.startswith("uvloop/")


class Matrix:
    """The subject, its peers, and the proxy between them; a context manager."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.runtime = runtimes.runtime("asyncio" if subject == "uvicorn" else subject)
        self.peers = runtimes.AsyncioRuntime("asyncio")
        self.proxy = FaultProxy()
        self.noise = Noise()
        self.running: dict[int, Running] = {}
        self.drivers: dict[str, Any] = {
            "subject": self.runtime.driver,
            "ours": self.peers.driver,
            "websockets": runtimes.ReferenceDriver(),
        }
        for driver in self.drivers.values():
            driver.opening_errors = InvalidHandshake
        self.servers: dict[str, runtimes.Servers] = {}
        self.holding: list[Future[Any]] = []
        self.clean: dict[str, int] = {}

    def __enter__(self) -> Matrix:
        self.noise.__enter__()
        self.proxy.__enter__()
        self.runtime.__enter__()
        self.peers.__enter__()
        for name, driver in self.drivers.items():
            runtime = self.runtime if name == "subject" else self.peers
            if name == "subject" and self.subject == "uvicorn":
                servers: Any = runtimes.UvicornServers(driver, self._app, _server_options())
            else:
                kind = runtimes.ReferenceServers if name == "websockets" else runtimes.Servers
                servers = kind(driver, self._handler(driver), _server_options())
            self.servers[name] = servers
            self.holding.append(runtime.submit(servers.run))
            servers.ready.wait(30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for servers in self.servers.values():
            servers.stopped = True
        for future in self.holding:
            future.result(30)
        self.runtime.__exit__()
        self.peers.__exit__()
        self.proxy.__exit__()
        self.noise.__exit__()

    # ------------------------------------------------------------------ the sides

    def _handler(self, driver: Any) -> Callable[..., Any]:
        async def handler(ws: Any) -> None:
            running = self.running.get(int(ws.request.path[1:]))
            if running is not None:
                await run_server(driver, End(ws), running.case, running.accounts["server"])

        return handler

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        running = self.running[int(scope["path"][1:])]
        assert (await receive())["type"] == "websocket.connect"
        try:
            await send({"type": "websocket.accept"})
        except OSError:
            return
        driver = self.drivers["subject"]
        end = AppEnd(receive, send)
        await run_server(driver, end, running.case, running.accounts["server"])

    def start(self, case: Case) -> Running:
        """Start a case."""
        subject_is_client = case.role == "client"
        servers = self.servers[case.peer if subject_is_client else "subject"]
        client = self.drivers["subject" if subject_is_client else case.peer]
        kind = case.tls, case.compressed, case.harmful
        flow = self.proxy.open(servers.ports[_name(*kind)], case.fault())
        accounts: dict[Side, Account] = {side: Account() for side in SIDES}
        options = _options(*kind, client=True)
        runtime = self.runtime if subject_is_client else self.peers
        if case.tls and isinstance(runtime, runtimes.AsyncioRuntime):
            # uvloop keeps what belongs to a handshake that was given up until this is over.
            options["ssl_handshake_timeout"] = SLACK - 2
        running = Running(case, flow, accounts, Future())
        self.running[case.seed] = running
        running.client = runtime.submit(
            run_client, client, flow.port, case, accounts["client"], options
        )
        return running

    # ------------------------------------------------------------------ batches

    def run(self, cases: Iterable[Case]) -> list[Verdict]:
        """Run some cases at a time; return what came out of them."""
        batch = [self.start(case) for case in cases]
        verdicts = [Verdict(running.case, False, []) for running in batch]
        for running, verdict in zip(batch, verdicts, strict=True):
            limit = running.began + running.case.limit
            while not self._through(running) and time.monotonic() < limit:
                time.sleep(0.01)
            for side, account in running.accounts.items():
                if not account.done and (side == "client" or account.opened):
                    where = f"{side} hangs: {account.doing}; receiving ended by {account.codes!r}"
                    # The other library's endings aren't ours to judge.
                    if running.case.peer == "ours" or running.case.role == side:
                        verdict.wrong.append(("hang", where))
                    verdict.fatal = True
        # Servers must have noticed by themselves that the connections are gone.
        left = "" if any(v.fatal for v in verdicts) else self._wait(self._connections)
        for running, verdict in zip(batch, verdicts, strict=True):
            verdict.fired = running.flow.fault.fired
            if not verdict.fatal:
                verdict.wrong += judge(running.case, running.accounts, verdict.fired)
            running.flow.forget()
        batch.clear()
        self.running.clear()
        if self.clean and not any(v.fatal for v in verdicts):
            left = left or self._wait(self._left_over)
        if left:
            verdicts[-1].wrong.append(("left over", left))
        for line in self.noise.take():
            verdicts[-1].wrong.append(("wrong", line))
        return verdicts

    def _through(self, running: Running) -> bool:
        server = running.accounts["server"]
        return running.client.done() and (server.done or not server.opened)

    def _wait(self, left: Callable[[], str]) -> str:
        """Wait until nothing is left; return what is after some time."""
        limit = time.monotonic() + SLACK
        while (what := left()) and time.monotonic() < limit:
            time.sleep(0.02)
        return what

    def _connections(self) -> str:
        """Tell whether connections are left that a server should know to be gone."""
        for running in self.running.values():
            if not self._through(running):
                return f"a handler that runs since lately: {running.case}"
        if self.subject == "uvicorn":
            return ""  # its HTTP connections have no deadlines
        accepted = {name: servers.accepted() for name, servers in self.servers.items()}
        return f"connections of servers: {accepted}" if any(accepted.values()) else ""

    def settle(self) -> None:
        """Take what is there now as what should be there without cases."""
        previous: dict[str, int] = {}
        limit = time.monotonic() + SLACK
        while time.monotonic() < limit:
            time.sleep(0.3)
            self.clean = self._counts()
            if self.clean == previous:
                return
            previous = self.clean

    def _counts(self) -> dict[str, int]:
        counts = leftovers(self.runtime, *self.servers.values())
        for name, count in self.peers.submit(counted, self.peers).result(30).items():
            if name != "timers":  # some are those of the other library
                counts[f"peers' {name}"] = count
        return counts

    def _left_over(self) -> str:
        counts = self._counts()
        more = {key: value for key, value in counts.items() if value > self.clean.get(key, 0)}
        text = ", ".join(
            f"{key}: {value}, not {self.clean.get(key)}" for key, value in more.items()
        )
        if "timers" in more and isinstance(self.runtime, runtimes.AsyncioRuntime):
            text += f" {self.runtime.timers()}"
        return text


def leftovers(runtime: runtimes.Runtime, *servers: runtimes.Servers) -> dict[str, int]:
    """Count what should be there no longer when nothing is going on, among other things."""
    gc.collect()
    counts = {
        "descriptors": runtimes.descriptors(),
        "threads": threading.active_count(),
        "connections": 0,
        "engines": 0,
        "accepted": sum(each.accepted() for each in servers),
    }
    for something in gc.get_objects():
        kind = type(something)
        if issubclass(kind, BaseConnection):
            counts["connections"] += 1
        elif issubclass(kind, Protocol):
            counts["engines"] += 1
    return counts | runtime.submit(counted, runtime).result(30)


async def counted(runtime: runtimes.Runtime) -> dict[str, int]:
    return runtime.count()


def _name(tls: bool, compressed: bool, harmful: bool) -> str:
    return f"{'tls' if tls else 'plain'} {'deflate' if compressed else 'none'} {harmful}"


def _options(tls: bool, compressed: bool, harmful: bool, *, client: bool) -> dict[str, Any]:
    options = dict(SHORT if harmful else LONG)
    options["compression"] = "deflate" if compressed else None
    options["max_queue"] = 4
    if tls:
        options["ssl"] = runtimes.tls_contexts()[client]
    if client:
        options["proxy"] = None
    return options


def _server_options() -> dict[str, dict[str, Any]]:
    return {
        _name(tls, compressed, harmful): _options(tls, compressed, harmful, client=False)
        for tls in (False, True)
        for compressed in (False, True)
        for harmful in (False, True)
    }


def run(
    subject: str,
    seeds: Iterable[int],
    *,
    at_once: int,
    until: float,
    report: Callable[[Verdict], None],
) -> None:
    """Run cases until there are no more, the time is over, or one can't be ended."""
    with Matrix(subject) as matrix:
        # What is made once and stays is made now.
        matrix.run([make(subject, seed) for seed in range(0, 216, 9)])
        matrix.settle()
        seeds = iter(seeds)
        while time.monotonic() < until:
            batch = [make(subject, seed) for _, seed in zip(range(at_once), seeds, strict=False)]
            if not batch:
                return
            verdicts = matrix.run(batch)
            for verdict in verdicts:
                report(verdict)
            if any(verdict.fatal or ("left over" in dict(verdict.wrong)) for verdict in verdicts):
                return
