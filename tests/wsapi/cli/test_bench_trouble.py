"""wsapi bench: servers that fail, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from tests.wsapi.cli.bench_helpers import TIMEOUT, bench, command, parse
from tests.wsapi.cli.servers import on_threads
from wsapi.asyncio.client import connect
from wsapi.cli import _bench, main
from wsapi.cli._bench_load import Load, Plan, Result, new_loop
from wsapi.cli._terminal import CommandError, Status
from wsapi.exceptions import ConnectionClosed


def test_wrong_answers(capsys: pytest.CaptureFixture[str]) -> None:
    def handler(connection: Any) -> None:
        for place, message in enumerate(connection):
            connection.send(message if place < 5 else message[:-1] + b"?")

    with on_threads(handler) as uri:
        options = ("-c", "1", "-n", "100", "--warmup", "0")
        assert main(["bench", uri, *options]) == Status.FAILURE
        error = capsys.readouterr().err
        assert "didn't send back what it was sent: an answer on connection 1 differs at 63" in error
        assert "--no-verify takes any message for an answer" in error
        status, told = bench(uri, *options, "--no-verify", capsys=capsys)
    assert (status, told["messages"]) == (0, 100)


@pytest.mark.parametrize("options", [(), ("--rate", "100")])
def test_a_greeting(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    def handler(connection: Any) -> None:
        connection.send("welcome")
        for message in connection:
            connection.send(message)

    with on_threads(handler) as uri:
        status, told = bench(uri, "-d", "30", *options, capsys=capsys)
    assert status == Status.FAILURE
    assert "'welcome', when nothing was to come" in told["wrong"] or "is text" in told["wrong"]


def test_no_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("wsapi.cli._bench_load.PATIENCE", 0.3)

    def handler(connection: Any) -> None:
        for _ in connection:
            pass

    with on_threads(handler) as uri:
        assert main(["bench", uri, "-d", "40"]) == Status.TIMEOUT
    assert f"{uri} doesn't answer (it has to send back what it is sent)" in capsys.readouterr().err


@pytest.mark.parametrize("answered, more", [(0, ""), (5, " any more")])
def test_what_is_said_of_no_answers(
    answered: int, more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result(stalled=True)
    result.latencies.record(1000, answered)

    async def bench(*arguments: object) -> tuple[_bench.Openings, Result]:
        return _bench.Openings(opened=1), result

    monkeypatch.setattr(_bench, "bench", bench)
    assert main(["bench", "ws://localhost/", "--json"]) == Status.TIMEOUT
    assert capsys.readouterr().err == (
        f"wsapi: ws://localhost/ doesn't answer{more} (it has to send back what it is sent)\n"
    )


@pytest.mark.parametrize("options", [("-n", "1000"), ("-d", "40"), ("-d", "40", "--rate", "50")])
def test_lost_connections(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    def handler(connection: Any) -> None:
        for _ in range(10):
            connection.send(connection.recv())
        connection.close(1001, "enough")

    with on_threads(handler) as uri:
        status, told = bench(uri, "-c", "3", "--warmup", "0", *options, capsys=capsys)
    assert status == Status.FAILURE
    assert sum(told["errors"]["lost"].values()) == 3
    assert "1001 (going away) enough" in next(iter(told["errors"]["lost"]))
    assert told["messages"] == 30


def test_some_connections_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    accepted = []

    def process_request(connection: Any, request: Any) -> Any:
        accepted.append(connection)
        return connection.respond(503, "full\n") if len(accepted) > 2 else None

    with on_threads(process_request=process_request) as uri:
        status, told = bench(uri, "-c", "5", "-n", "20", "--warmup", "0", capsys=capsys)
    assert status == Status.FAILURE
    assert (told["connections"], told["messages"]) == (2, 20)
    assert sum(told["errors"]["opening"].values()) == 3


@pytest.mark.parametrize("processes", ["1", "2"])
def test_refused(processes: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "ws://127.0.0.1:9/", "--processes", processes]
    assert main(arguments) == Status.UNREACHABLE
    assert "refuses connections" in capsys.readouterr().err


def test_most_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many, no more connections are tried."""
    monkeypatch.setattr("wsapi.cli._bench_load.AT_ONCE", 1)
    monkeypatch.setattr("wsapi.cli._bench_load.MAX_FAILURES", 3)
    openings = asyncio.run(Load("ws://127.0.0.1:9/", {}, Plan(connections=10)).open())
    assert openings.opened == 0
    assert sum(openings.errors.values()) == 3


@pytest.mark.parametrize("noticed", ["before it is counted", "before the next one"])
@pytest.mark.parametrize("connections", [1, 2])
def test_lost_while_opening(
    noticed: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and nothing is waited for of the one that was lost."""
    handlers = itertools.count()

    def handler(connection: Any) -> None:
        if next(handlers) == 0:
            return
        for message in connection:
            connection.send(message)

    async def run(uri: str) -> Result:
        load = Load(uri, {}, Plan(connections, messages=10, warmup=0))
        opened: list[Any] = []

        async def connect_and_wait(*arguments: Any, **options: Any) -> Any:
            if opened and noticed == "before the next one":
                await opened[0].wait_closed()
            connection = await connect(*arguments, **options)
            opened.append(connection)
            if len(opened) == 1 and noticed == "before it is counted":
                await connection.wait_closed()
            return connection

        monkeypatch.setattr("wsapi.cli._bench_load.connect", connect_and_wait)
        monkeypatch.setattr("wsapi.cli._bench_load.AT_ONCE", 1)
        assert (await load.open()).opened == connections
        await opened[0].wait_closed()
        result = await load.run(lambda share, count: None)
        assert [lane.open for lane in load.lanes] == [False, True][:connections]
        await load.close()
        return result

    with on_threads(handler) as uri:
        result = asyncio.run(run(uri))
    assert (result.answered, result.unanswered) == (10 * (connections - 1), 0)
    assert [*result.errors.values()] == [1]
    assert not result.stalled


def test_servers_that_do_not_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are waited for together, and not for long; then connections are reset."""
    monkeypatch.setattr("wsapi.cli._bench_load.CLOSING", 0.01)
    ends: list[bool] = []
    ended = threading.Event()

    def handler(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            ended.wait(TIMEOUT)

    async def run(uri: str) -> None:
        load = Load(uri, {"close_timeout": None}, Plan(connections=2))
        assert (await load.open()).opened == 2
        for lane in load.lanes:
            # Nothing that it sends is read, so that the closing handshake has no end.
            lane.connection.transport.pause_reading()
        await load.close()
        ends.extend(lane.connection.transport.is_closing() for lane in load.lanes)

    with on_threads(handler) as uri:
        asyncio.run(run(uri))
        ended.set()
    assert ends == [True, True]


@pytest.mark.parametrize("error", [None, RuntimeError("wrong")])
@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_as_before(collecting: bool, error: Exception | None) -> None:
    seen: list[bool] = []

    async def measure(progress: object) -> None:
        seen.append(gc.isenabled())
        if error is not None:
            raise error

    async def run() -> None:
        load = Load("ws://localhost/", {}, Plan(connections=1, warmup=0))
        load._measure = measure  # type: ignore[method-assign]
        with contextlib.suppress(RuntimeError):
            await load.run(lambda share, count: None)

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        asyncio.run(run())
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False]
    assert after is collecting


def test_loop_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_loop()
    loop.close()
    assert type(loop).__module__.startswith("asyncio.")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("options", [(), ("--processes", "2"), ("--rate", "100")])
def test_interrupted(options: tuple[str, ...]) -> None:
    counts: Counter[int] = Counter()
    running = threading.Event()

    def handler(connection: Any) -> None:
        for message in connection:
            counts[id(connection)] += 1
            if len(counts) == 10 and min(counts.values()) > 2:
                running.set()
            connection.send(message)

    with on_threads(handler) as uri:
        with subprocess.Popen(
            command(uri, "-c", "10", "-d", "600", "--warmup", "0", "--json", *options),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert running.wait(TIMEOUT)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == Status.INTERRUPTED
    told = json.loads(output)
    assert told["messages"] > 0
    assert told["seconds"] < 600


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_interrupted_while_it_opens(options: tuple[str, ...]) -> None:
    """A server that never answers isn't waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        with subprocess.Popen(
            command(uri, "-c", "2", "--open-timeout", "none", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            server.settimeout(TIMEOUT)
            with server.accept()[0], server.accept()[0]:
                process.send_signal(signal.SIGINT)
                output, error = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output, error) == (Status.INTERRUPTED, "", "")


def test_stopped_before_it_opens(echo_uri: str) -> None:
    load = Load(echo_uri, {}, Plan(connections=2))
    load.stop()
    openings = asyncio.run(load.open())
    assert (openings.opened, openings.errors.total()) == (0, 0)


def test_in_a_thread(echo_uri: str) -> None:
    """Where no handler of signals can be set, it does without."""
    handler = signal.getsignal(signal.SIGINT)
    found: list[int] = []
    arguments = ["bench", echo_uri, "-c", "1", "-n", "5", "--warmup", "0", "--json"]
    thread = threading.Thread(target=lambda: found.append(main(arguments)))
    thread.start()
    thread.join()
    assert found == [0]
    assert signal.getsignal(signal.SIGINT) is handler


def test_no_connection_at_all() -> None:
    with pytest.raises(CommandError) as info:
        asyncio.run(
            _bench.bench(parse("ws://127.0.0.1:9/"), {"open_timeout": 5}, [Plan(connections=2)])
        )
    assert info.value.status is Status.UNREACHABLE
