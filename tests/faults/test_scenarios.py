"""What happens to whole servers and processes: closing, killing, signals, forks, no descriptors.

FAULTS_ROUNDS makes each of them last longer.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.faults import matrix, runtimes
from tests.wsapi.conformance.on_threads import ours
from wsapi.exceptions import ConnectionClosed, InvalidHandshake

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))
PATIENCE = 30
HERE = ["asyncio", *(["uvloop"] if "uvloop" in runtimes.LOOPS else []), "threads", "trio"]
FRONT_ENDS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason="uvloop isn't installed"))
    for name in ("asyncio", "uvloop", "threads", "trio")
]
SERVERS = [*FRONT_ENDS, pytest.param("uvicorn")]

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs signals, fork, and limits"),
    pytest.mark.timeout(60 + 30 * ROUNDS),
]


@contextlib.contextmanager
def program(subject: str, port: int = 0, descriptors: int = 0) -> Iterator[tuple[Any, int]]:
    """Run a server in a process of its own; give the process and the port."""
    command = [sys.executable, "-m", "tests.faults.program", subject, str(port), str(descriptors)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        line = process.stdout.readline()
        assert line.strip().isdigit(), line + process.stderr.read()
        yield process, int(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def all_runtimes() -> Iterator[dict[str, runtimes.Runtime]]:
    """Give a runtime for each front-end."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(runtimes.runtime(name)) for name in HERE}


async def echoes(ws: Any, mark: str, count: int | None) -> int:
    """Send numbered messages, check that they come back in order; return how many did."""
    for number in itertools.count() if count is None else range(count):
        text = f"{mark} {number} " + "x" * (number % 7) * 300
        await ws.send(text)
        assert await ws.recv() == text
    return -1 if count is None else count


# ---------------------------------------------------------------------- closing


async def talk(driver: Any, port: int, mark: str, began: threading.Event) -> str:
    """Talk until the server ends it; return how it did."""
    try:
        async with driver.connect(f"ws://127.0.0.1:{port}/", proxy=None, open_timeout=10) as ws:
            await echoes(ws, mark, 1)
            began.set()
            await echoes(ws, mark, None)
    except (OSError, InvalidHandshake) as exc:
        return type(exc).__name__
    except ConnectionClosed as exc:
        return str(exc.rcvd and exc.rcvd.code)
    raise AssertionError("it can't end otherwise")


async def echo(ws: Any) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    except ConnectionClosed:
        pass


async def serve_and_close(driver: Any, seconds: float, port: Future[int]) -> None:
    async with driver.serve(echo, close_timeout=0.3, open_timeout=10) as served:
        port.set_result(served.port)
        await driver.sleep(seconds)
        await served.close()


@pytest.mark.parametrize("subject", FRONT_ENDS)
def test_closing_a_server_in_traffic(subject: str, all_runtimes: Any) -> None:
    dice = random.Random(SEED)
    runtime, others = all_runtimes[subject], list(all_runtimes.values())
    for _ in range(ROUNDS):
        before = runtime.submit(matrix.counted, runtime).result(PATIENCE)
        port: Future[int] = Future()
        server = runtime.submit(serve_and_close, runtime.driver, dice.uniform(0, 0.5), port)
        peers, talks = [], []
        for number in range(25):
            try:
                peers.append(socket.create_connection(("127.0.0.1", port.result(PATIENCE))))
                peers[-1].send(b"GET / HTTP/1.1\r\nHost: x\r\n"[: dice.randrange(25)])
            except OSError:
                pass  # it is closed already
            other = dice.choice(others)
            talks.append(
                other.submit(talk, other.driver, port.result(), f"{number}", threading.Event())
            )
        server.result(PATIENCE)
        for peer in peers:
            peer.close()
        ends = {each.result(PATIENCE) for each in talks}
        # A connection that is reset is one which was accepted by nobody but the system.
        assert ends <= {
            "1001", "ConnectionRefusedError", "ConnectionResetError", "InvalidStatus",
            "InvalidMessage", "OSError", "BrokenPipeError", "ConnectionAbortedError",
        }  # fmt: skip
        eventually(before.__eq__, lambda: runtime.submit(matrix.counted, runtime).result(PATIENCE))


def eventually(condition: Any, get: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(get()):
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.05)


# ---------------------------------------------------------------------- killing


async def reconnecting(driver: Any, port: int, mark: str, stop: threading.Event) -> int:
    """Connect again and again; after the event, once more for some messages; return how often."""
    connections = 0
    uri = f"ws://127.0.0.1:{port}/"
    options = {"proxy": None, "reconnect_delays": lambda: itertools.repeat(0.05)}
    async with driver.reconnecting(uri, **options) as iterator:
        async for ws in iterator:
            connections += 1
            last = stop.is_set()
            try:
                await echoes(ws, f"{mark} {connections}", 20 if last else 500)
            except ConnectionClosed:
                continue
            if last:
                return connections
    raise AssertionError("the iterator doesn't end")


def test_killing_a_server_under_reconnecting_clients(all_runtimes: Any) -> None:
    dice = random.Random(SEED)
    stop = threading.Event()
    clients: list[Any] = []
    port = 0
    for round_ in range(2 * ROUNDS + 1):
        with program(dice.choice(["asyncio", "threads", "trio"]), port) as (process, port):
            if not clients:
                clients = [
                    runtime.submit(reconnecting, runtime.driver, port, f"{name} {n}", stop)
                    for name, runtime in all_runtimes.items()
                    for n in range(3)
                ]
            time.sleep(dice.uniform(0.1, 0.6))
            assert not any(client.done() and client.exception() for client in clients)
            if round_ == 2 * ROUNDS:
                stop.set()
                assert all(client.result(PATIENCE) > 1 for client in clients)
            process.kill()
            process.wait()


# ---------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("subject", SERVERS)
def test_signals_end_servers_in_traffic(subject: str, number: int, all_runtimes: Any) -> None:
    for _ in range(ROUNDS):
        with program(subject) as (process, port):
            talks = []
            for name, runtime in 3 * list(all_runtimes.items()):
                began = threading.Event()
                talks.append(runtime.submit(talk, runtime.driver, port, name, began))
                assert began.wait(PATIENCE)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
            ends = {each.result(PATIENCE) for each in talks}
            assert out == "closed\n" or subject == "uvicorn"  # which ends by the signal
            if subject != "threads" or number != signal.SIGINT:
                assert err == ""
            # trio cancels all when it is interrupted: there is no time for a closing handshake.
            code = {"uvicorn": "1012", "trio": "1011" if number == signal.SIGINT else "1001"}
            assert ends == {code.get(subject, "1001")}


# ---------------------------------------------------------------------- fork


async def across_a_fork(driver: Any, port: int, forked: Any, done: Any) -> None:
    async with driver.connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
        await echoes(ws, "before", 20)
        forked.set()
        while not done.is_set():
            await echoes(ws, "meanwhile", 1)
            await driver.sleep(0.005)
        await echoes(ws, "after", 20)


async def in_the_child(driver: Any, port: int) -> None:
    async with driver.connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
        await echoes(ws, "child", 50)


FORKING = """
import os, sys, threading, traceback
from tests.faults import runtimes, test_scenarios as scenarios

subject, port = sys.argv[1], int(sys.argv[2])
forked, done = threading.Event(), threading.Event()
with runtimes.runtime(subject) as runtime:
    parent = runtime.submit(scenarios.across_a_fork, runtime.driver, port, forked, done)
    forked.wait(10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with runtimes.runtime(subject) as child:
                child.submit(scenarios.in_the_child, child.driver, port).result(20)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    done.set()
    parent.result(20)
print("fine")
"""


@pytest.fixture(scope="module")
def port_to_echo() -> Iterator[int]:
    with program("asyncio") as (_, port):
        yield port


@pytest.mark.parametrize("subject", FRONT_ENDS)
def test_forking_with_connections(subject: str, port_to_echo: int) -> None:
    for _ in range(ROUNDS):
        # Threads hold no lock that the child needs, or it would hang. Since Python 3.12 there is a
        # warning that they might.
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKING, subject, str(port_to_echo)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
        )
        assert (result.stdout, result.stderr) == ("fine\n", "")


# ---------------------------------------------------------------------- descriptors


def cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spins(pid: int) -> bool:
    """Tell whether a process uses most of half a second; one that only logs does so once."""
    before = cpu(pid)
    time.sleep(0.5)
    return cpu(pid) - before > 0.3


def accepted(runtime: runtimes.Runtime, port: int) -> bool:
    try:
        runtime.submit(in_the_child, runtime.driver, port).result(PATIENCE)
    except (OSError, InvalidHandshake):
        return False
    return True


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("subject", SERVERS)
def test_descriptors_exhausted(subject: str, all_runtimes: Any) -> None:
    runtime = all_runtimes["asyncio"]
    with program(subject, descriptors=60) as (process, port):
        errors: list[str] = []
        # What is logged must not fill the pipe.
        threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True).start()
        for _ in range(ROUNDS):
            peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(90)]
            eventually(operator.not_, lambda: spins(process.pid))
            for peer in peers:
                peer.close()
            # libuv accepts and closes what it has no descriptors for, until it knows of the others.
            eventually(bool, lambda: accepted(runtime, port))
            assert process.poll() is None


# ---------------------------------------------------------------------- this process


def test_nothing_of_ours_stays_here(all_runtimes: Any) -> None:
    """Threads of the front-ends end by themselves, after all that was done above."""
    eventually(operator.not_, lambda: list(filter(ours, threading.enumerate())))
