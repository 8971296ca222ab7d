"""wsapi bench: what it sends, what it tells, and how it ends. Nothing here is about speed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.cli.servers import on_threads
from wsapi.asyncio.client import connect
from wsapi.cli import Parser, _bench, main
from wsapi.cli._bench_figures import FINE, FINE_BITS, Histogram, duration, number
from wsapi.cli._bench_load import (
    Load,
    Plan,
    Result,
    _Dues,
    difference,
    new_loop,
    payloads,
)
from wsapi.cli._bench_processes import Remote, _work
from wsapi.cli._terminal import CommandError, Status
from wsapi.exceptions import ConnectionClosed, ConnectionClosedOK

TIMEOUT = 50
SHORT = ("--duration", "0.2", "--warmup", "0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with on_threads() as uri:
        yield uri


def parse(*arguments: str) -> Any:
    parser = Parser(prog="wsapi bench")
    _bench.add_arguments(parser)
    return parser.parse_args(arguments)


def bench(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run the command in this process; return its status, and what it tells."""
    status = main(["bench", *arguments, "--json"])
    output = capsys.readouterr().out
    return status, json.loads(output) if output else {}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsapi", "bench", *arguments]


# ---------------------------------------------------------------------- what it measures


@pytest.mark.parametrize("options", [(), ("--text",), ("--binary", "--size", "0")])
def test_messages(
    server: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = bench(
        *(server, "-c", "3", "-w", "2", "-n", "500", "--warmup", "0", *options), capsys=capsys
    )
    assert status == 0
    assert (told["connections"], told["messages"]) == (3, 500)
    assert (told["unsent"], told["unanswered"], told["wrong"]) == (0, 0, None)
    assert sum(row["count"] for row in told["histogram"]) == 500
    latency = told["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]
    assert latency["p99.9"] <= latency["max"] < TIMEOUT


def test_messages_after_a_warmup(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = bench(server, "-n", "500", "--warmup", "0.1", capsys=capsys)
    assert (status, told["messages"]) == (0, 500)


def test_duration(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = bench(server, *SHORT, capsys=capsys)
    assert status == 0
    assert told["seconds"] >= 0.19  # clocks of event loops count milliseconds
    assert told["messages"] > 0
    assert told["messages_per_second"] == told["messages"] / told["seconds"]
    assert told["bytes_per_second"] == pytest.approx(64 * told["messages_per_second"])


def test_sizes_in_a_range(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--size", "10-200k", "--text", "-c", "2", "-n", "50", "--warmup", "0")
    status, told = bench(server, *options, capsys=capsys)
    assert (status, told["messages"], told["settings"]["size"]) == (0, 50, [10, 200 * 1024])


def test_more_than_the_default_limit(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    # What comes back isn't refused by this side; the server refuses what it is sent.
    with on_threads(max_size=None) as uri:
        options = ("--size", "1200k", "-c", "1", "-n", "3", "--warmup", "0")
        status, told = bench(uri, *options, capsys=capsys)
    assert (status, told["messages"]) == (0, 3)
    status, told = bench(server, *options, capsys=capsys)
    assert (status, told["messages"]) == (Status.FAILURE, 0)
    [error] = told["errors"]["lost"]
    assert "1009 (message too big)" in error


@pytest.mark.parametrize("limit, used", [("none", None), ("1M", 2**20), ("10", 64)])
def test_limit_of_messages(limit: str, used: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of this size come back, whatever it is set to; no limit stays none."""
    found = []

    async def bench(
        options: object, arguments: dict[str, Any], planned: object
    ) -> tuple[_bench.Openings, Result]:
        found.append(arguments["max_size"])
        return _bench.Openings(opened=1), Result()

    monkeypatch.setattr(_bench, "bench", bench)
    assert main(["bench", "ws://localhost/", "--max-size", limit, "--json"]) == 0
    assert found == [used]


@pytest.mark.parametrize("compress", [True, False])
def test_compression(compress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    seen = set()

    def handler(connection: Any) -> None:
        seen.add(bool(connection.protocol.extensions))
        for message in connection:
            connection.send(message)

    options = ["--compress"] if compress else []
    with on_threads(handler) as uri:
        status, told = bench(uri, "-n", "50", "--warmup", "0", *options, capsys=capsys)
    assert (status, told["messages"], seen) == (0, 50, {compress})


def test_processes(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--processes", "2", "-c", "3", "-n", "101", "--warmup", "0")
    status, told = bench(server, *options, capsys=capsys)
    assert (status, told["connections"], told["messages"]) == (0, 3, 101)
    assert told["settings"]["processes"] == 2


def test_processes_with_tls(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], capsys: pytest.CaptureFixture[str]
) -> None:
    with on_threads(ssl=tls[0]) as uri:
        options = ("--processes", "2", "-c", "2", "-n", "20", "--warmup", "0")
        status, _ = bench(uri, *options, capsys=capsys)
        assert status == Status.TLS
        status, told = bench(uri, *options, "--insecure", capsys=capsys)
    assert (status, told["messages"]) == (0, 20)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clocks")
def test_processor_time_of_the_server(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The server is in this process. Another one, beside it, does nothing.
    pids = ("--pid", str(os.getpid()), "--pid", "1")
    status, told = bench(server, "-n", "1000", "--warmup", "0", *pids, capsys=capsys)
    assert status == 0
    assert told["server_cpu_seconds_per_message"] > 0
    assert told["server_cpu_share"] == pytest.approx(
        told["server_cpu_seconds_per_message"] * told["messages_per_second"]
    )
    assert main(["bench", server, "-n", "100", "--warmup", "0", *pids]) == 0
    assert " per message\n" in capsys.readouterr().out


def test_windows_are_filled(capsys: pytest.CaptureFixture[str]) -> None:
    # No answer but the first one before all are there that may be.
    def handler(connection: Any) -> None:
        connection.send(connection.recv())
        while True:
            for message in [connection.recv() for _ in range(5)]:
                connection.send(message)

    with on_threads(handler) as uri:
        status, told = bench(uri, "-c", "2", "-w", "5", *SHORT, capsys=capsys)
    assert status == 0
    assert told["messages"] > 2


class TestRate:
    @pytest.mark.parametrize("rate", ["200", "10k"])
    def test_what_is_due(self, server: str, rate: str, capsys: pytest.CaptureFixture[str]) -> None:
        status, told = bench(server, "--rate", rate, "-d", "0.5", "--warmup", "0.1", capsys=capsys)
        assert status == 0
        # As many as there should be: the schedule doesn't depend on how fast anything is.
        per_second = told["settings"]["rate"]
        assert told["due"] == pytest.approx(per_second * told["seconds"], rel=0.02, abs=3)
        assert told["messages"] + told["unsent"] + told["unanswered"] == told["due"]
        assert sum(row["count"] for row in told["histogram"]) == told["due"]

    def test_a_number_of_messages(self) -> None:
        [plan] = _bench.plans(parse("ws://localhost/", "--rate", "100", "--messages", "250"))
        assert (plan.seconds, plan.messages) == (2.5, None)

    def test_a_server_that_stands_still(self, capsys: pytest.CaptureFixture[str]) -> None:
        # For the last part of the time it answers nothing. Each message that was due meanwhile has
        # waited, and the later it was due the shorter.
        still = 0.5

        def handler(connection: Any) -> None:
            connection.send(connection.recv())
            time.sleep(still)
            for message in connection:
                connection.send(message)

        with on_threads(handler) as uri:
            options = ("-c", "1", "--rate", "200", "-d", "0.4", "--warmup", "0")
            status, told = bench(uri, *options, capsys=capsys)
        assert status == 0
        waited = [row["to"] for row in told["histogram"] for _ in range(row["count"])]
        assert len(waited) == told["due"]
        # Nearly all of those 80 were due in the first 0.4 s of 0.5 s.
        late = [seconds for seconds in waited if seconds > 0.1]
        assert len(late) >= told["due"] - 3
        assert max(late) >= still - 0.1

    def test_dues(self) -> None:
        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(3, rate=10.0))
            load.lanes = [object()] * 3  # type: ignore[list-item] # only their number matters
            for rate, together in ((10.0, 1), (4000.0, 1), (4001.0, 2), (1e6, 250)):
                dues = _Dues(load, rate)
                assert dues.together == together
                assert dues.step == pytest.approx(together / rate * 1e9)

        asyncio.run(run())

    def test_times_that_are_far_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever keeps time looks now and then whether it is over, and has nothing sent early."""
        monkeypatch.setattr("wsapi.cli._bench_load.TICK", 0.001)

        async def run() -> None:
            dues = _Dues(Load("ws://localhost/", {}, Plan(1, rate=4.0)), 4.0)
            asked: list[int] = []

            def call(callback: object) -> None:
                asked.append(time.perf_counter_ns())
                dues.stop()

            dues._loop = SimpleNamespace(call_soon_threadsafe=call)  # type: ignore[assignment]
            dues.start()
            dues._thread.join()
            assert len(asked) == 1
            assert asked[0] - dues.begun >= 0.25e9

        asyncio.run(run())

    def test_event_loop_that_is_closed(self) -> None:
        async def make() -> _Dues:
            return _Dues(Load("ws://localhost/", {}, Plan(1, rate=1000.0)), 1000.0)

        dues = asyncio.run(make())
        dues.begun = time.perf_counter_ns()
        dues._keep_time()  # it returns

    def test_what_was_due_before_an_answer(self) -> None:
        """It is sent when the answer makes room for it, and no more than that."""
        sent: list[Any] = []

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0, warmup=0))
            lane = SimpleNamespace(number=0, sent=2, received=0, open=True)
            lane.to_come, lane.to_send = iter([b"one", b"two"]), iter([b"three", b"four"])
            lane.connection = SimpleNamespace(send_nowait=sent.append)
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            dues.next = 3
            on_message = load._in_time(dues, lane)  # type: ignore[arg-type]
            on_message(b"one")
            assert (sent, lane.sent) == ([b"three"], 3)
            on_message(b"two")
            assert (sent, lane.sent) == ([b"three"], 3)

        asyncio.run(run())

    def test_wrong_answers(self, capsys: pytest.CaptureFixture[str]) -> None:
        def handler(connection: Any) -> None:
            for place, message in enumerate(connection):
                connection.send(message if place < 5 else message[:-1] + b"?")

        with on_threads(handler) as uri:
            options = ("-c", "1", "--rate", "500", "-d", "40", "--warmup", "0")
            status, told = bench(uri, *options, capsys=capsys)
        assert status == Status.FAILURE
        assert "an answer on connection 1 differs at 63" in told["wrong"]
        assert told["seconds"] < 40

    @pytest.mark.parametrize("verify", [True, False])
    def test_answers_that_differ(self, verify: bool) -> None:
        """The first one ends it, if they are compared; others are none of its messages."""

        async def run() -> Load:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0, verify=verify, warmup=0))
            lane = SimpleNamespace(number=0, sent=2, received=0, open=True)
            lane.to_come = iter([b"one", b"two"])
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            on_message = load._in_time(dues, lane)  # type: ignore[arg-type]
            on_message(b"one")
            assert (lane.received, load.result.wrong) == (1, None)
            on_message(b"2")
            assert lane.received == (1 if verify else 2)
            return load

        load = asyncio.run(run())
        assert load.result.wrong == (
            "an answer on connection 1 differs at 0 of 3: b'2' instead of b'two'"
            if verify
            else None
        )
        assert load._end.is_set() is verify

    def test_what_is_not_sent(self) -> None:
        """Neither when it is over, nor more than may be out, nor on connections that end."""
        sent: list[Any] = []

        def closing(message: Any) -> None:
            raise ConnectionClosedOK(None, None)

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0))
            lane = SimpleNamespace(
                number=0,
                sent=0,
                open=True,
                to_send=itertools.count(),
                connection=SimpleNamespace(send_nowait=sent.append),
            )
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            load.outstanding = load.most_outstanding
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent) == ([], 0)
            load.outstanding -= 1
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent, load.outstanding) == ([0], 1, load.most_outstanding)
            load.outstanding = 0
            lane.open = False
            dues.send(lane)  # type: ignore[arg-type]
            lane.open = True
            lane.connection.send_nowait = closing
            dues.send(lane)  # type: ignore[arg-type]
            lane.connection.send_nowait = sent.append
            load.stop()
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent, load.outstanding) == ([0], 1, 0)

        asyncio.run(run())

    def test_what_a_busy_process_did_not_look_at(self) -> None:
        """Messages that were due while the event loop was busy count as unsent."""

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(3, rate=1000.0, warmup=0))
            lane = SimpleNamespace(number=0, sent=0, received=0, open=True)
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 1000.0)
            dues.begun = time.perf_counter_ns() - 10**9
            dues.begin()
            dues.end()
            result = Result()
            dues.account(result)
            assert result.due == result.unsent >= 1000

        asyncio.run(run())


# ---------------------------------------------------------------------- what goes wrong


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


def test_in_a_thread(server: str) -> None:
    """Where no handler of signals can be set, it does without."""
    handler = signal.getsignal(signal.SIGINT)
    found: list[int] = []
    arguments = ["bench", server, "-c", "1", "-n", "5", "--warmup", "0", "--json"]
    thread = threading.Thread(target=lambda: found.append(main(arguments)))
    thread.start()
    thread.join()
    assert found == [0]
    assert signal.getsignal(signal.SIGINT) is handler


# ---------------------------------------------------------------------- what it tells


def test_report(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", server, "-c", "2", "-w", "3", "-n", "2000", "--warmup", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no terminal, no progress
    lines = captured.out.splitlines()
    assert lines[0] == f"{server}: 2 connections"
    assert lines[1].startswith("binary messages of 64 bytes, 3 in flight on each connection; ")
    begins = [line.split()[0] for line in lines[3:7]]
    assert begins == ["opening", "messages", "data", "latency"]
    assert lines[4].startswith("messages    2,000, ")
    rows = [line.split() for line in lines if " to " in line and "in flight" not in line]
    assert sum(int(row[5].replace(",", "")) for row in rows) == 2000
    assert any(line.startswith("this side") for line in lines)


def test_a_busy_client_and_late_messages(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse("ws://localhost/", "--rate", "10")
    result = _bench.Result(seconds=1.0, cpu=0.95, due=30, unsent=7, unanswered=2)
    result.latencies.record(1_000_000, 30)
    result.late.record(900_000, 30)
    result.errors["\x1b[2J"] = 1
    _bench.report(options, _bench.plans(options), _bench.Openings(opened=1), result)
    output = capsys.readouterr().out
    assert "this side   95% of a core" in output
    assert "--processes 2" in output
    assert re.search(r"it sent messages late: p99 (89|90)\d µs of these latencies", output)
    assert "of 30 messages 7 weren't sent in time, and 2 weren't answered" in output
    assert "lost        1: \\x1b[2J" in output


def test_ascii_output(server: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        command(server, "-n", "100", "--warmup", "0"),
        capture_output=True,
        env=environment,
        timeout=TIMEOUT,
        check=True,
    )
    assert b"#####" in result.stdout
    assert b"\xe2" not in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_progress(server: str, rich: bool, quiet: bool) -> None:
    if rich:
        pytest.importorskip("rich")
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    if not rich:
        environment["NO_COLOR"] = "1"
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                shown.extend(data)

    with subprocess.Popen(
        command(server, "-d", "0.5", "--warmup", "0", *(["-q"] if quiet else [])),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        process.communicate(timeout=TIMEOUT)
        reader.join()
    os.close(ours)
    assert process.returncode == 0
    assert (b" messages" in shown) is not quiet
    assert (b"\x1b[" in shown) is (rich and not quiet)


def test_line_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """It is erased, if it was there."""
    with _bench._line():
        pass
    assert capsys.readouterr().err == ""
    with _bench._line() as show:
        show(0.5, 1234)
    assert capsys.readouterr().err.split("\r") == ["", " 50%  1,234 messages ", " " * 40, ""]


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "there is no URI"),
        (["ws://localhost/", "--rate", "5", "--window", "2"], "--rate and --window exclude"),
        (["ws://localhost/", "--rate", "0"], "isn't a number of messages per second"),
        (["ws://localhost/", "--rate", "many"], "isn't a number of messages per second"),
        (["ws://localhost/", "--rate", "1", "-n", "1", "-d", "1"], "are one too many"),
        (["ws://localhost/", "--size", "big"], "isn't a size"),
        (["ws://localhost/", "--size", "16k-64"], "isn't a size up to 64M, or a range"),
        (["ws://localhost/", "--size", "65M"], "isn't a size up to 64M, or a range"),
        (["ws://localhost/", "--size", "64M", "-c", "20"], "more than 1 GiB in flight"),
        (["ws://localhost/", "--processes", "11"], "--processes 11 is more than there can be"),
        (["ws://localhost/", "--compress", "--no-compression"], "exclude each other"),
        (["ws://localhost/", "--text", "--binary"], "not allowed with argument"),
        (["ws://localhost/", "--pid", "999999999"], "--pid 999999999: "),
        (["http://localhost/"], "isn't a WebSocket URI"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == Status.USAGE
    assert message in capsys.readouterr().err


def test_processes_share_the_work() -> None:
    options = parse("ws://localhost/", "-c", "10", "--processes", "3", "-n", "100")
    plans = _bench.plans(options)
    assert [plan.connections for plan in plans] == [3, 3, 4]
    assert sum(plan.messages or 0 for plan in plans) == 100
    options = parse("ws://localhost/", "-c", "10", "--processes", "4", "--rate", "1k")
    plans = _bench.plans(options)
    assert sum(plan.rate or 0 for plan in plans) == pytest.approx(1000)
    assert all(pickle.loads(pickle.dumps(plan)) == plan for plan in plans)


# ---------------------------------------------------------------------- messages


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("sizes", [(0, 0), (64, 64), (1, 100_000), (2**24, 2**26)])
def test_payloads(sizes: tuple[int, int], words: bool) -> None:
    plan = Plan(1, sizes=sizes, words=words)
    messages = payloads(plan)
    assert 2 <= len(messages) <= 64
    assert all(sizes[0] <= len(message) <= sizes[1] for message in messages)
    assert all(message.isascii() for message in messages)
    if sizes[1] <= 100_000:
        assert messages == payloads(plan)
    if sizes[0] > 10:
        assert len(set(messages)) == len(messages)


@pytest.mark.parametrize(
    "message, expected, text",
    [
        (b"abcd", b"abxd", "differs at 2 of 4: b'cd' instead of b'xd'"),
        (b"ab", b"abcd", "differs at 2 of 4: b'' instead of b'cd'"),
        ("ab", b"ab", "is text, not binary"),
        (b"ab", "", "b'ab', when nothing was to come"),
    ],
)
def test_differences(message: Any, expected: Any, text: str) -> None:
    assert text in difference(0, message, expected)


# ---------------------------------------------------------------------- figures


class TestHistogram:
    @pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 1000, 65_537, 10**9, 2**43])
    def test_buckets(self, value: int) -> None:
        low, high = Histogram.bounds(Histogram.index(value))
        assert low <= value < high
        assert high - low <= max(1, value / 64)

    def test_buckets_follow_each_other(self) -> None:
        bounds = [Histogram.bounds(index) for index in range(1000)]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))

    def test_what_is_too_long(self) -> None:
        histogram = Histogram()
        histogram.record(2**60)
        assert histogram.total == 1

    def test_percentiles(self) -> None:
        histogram = Histogram()
        for value in range(1, 1001):
            histogram.record(value * 10_000_000)
        for percent in (1, 50, 90, 99, 99.9, 100):
            assert histogram.percentile(percent) == pytest.approx(percent / 10, rel=0.02)
        assert histogram.mean() == pytest.approx(5.005, rel=0.02)

    def test_short_ones(self) -> None:
        histogram = Histogram()
        for value in range(0, FINE, 1000):
            histogram.fine[value >> FINE_BITS] += 1
        assert histogram.percentile(50) == pytest.approx(FINE / 2e9, rel=0.02)
        assert histogram.total == len(range(0, FINE, 1000))
        assert sum(row["count"] for row in histogram.as_json()) == histogram.total

    def test_empty(self) -> None:
        histogram = Histogram()
        assert (histogram.percentile(99), histogram.mean(), histogram.rows(5)) == (0, 0, [])

    def test_sums(self) -> None:
        one, other = Histogram(), Histogram()
        one.record(1000, 2)
        other.record(10**9, 3)
        other.fine[5] += 1
        copy = one.copy()
        one.add(other)
        assert (one.total, copy.total, other.total) == (6, 2, 4)
        fine = other.fine
        other.clear()
        assert other.total == 0
        assert other.fine is fine

    @pytest.mark.parametrize("values", [[1000], [1, 10**12], list(range(10**5, 10**6, 1000))])
    def test_rows(self, values: list[int]) -> None:
        histogram = Histogram()
        for value in values:
            histogram.record(value)
        rows = histogram.rows(12)
        assert 1 <= len(rows) <= 12
        assert sum(count for _, _, count in rows) == len(values)
        assert all(low < high for low, high, _ in rows)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.00 µs"),
        (12.3456e-6, "12.3 µs"),
        (0.0012345, "1.23 ms"),
        (0.001, "1.00 ms"),
        (0.25, "250 ms"),
        (1, "1.00 s"),
        (2.5, "2.50 s"),
        (10, "10.0 s"),
        (100, "100 s"),
        (125, "125 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers() -> None:
    assert [number(v) for v in (1234567.8, 99.95, 12.34, 1.234)] == [
        "1,234,568",
        "100.0",
        "12.3",
        "1.23",
    ]


def in_a_process(plan: Plan, use: Callable[[Remote], Awaitable[None]]) -> int | None:
    """Have a load in a process of its own; return its exit status."""
    uri = "ws://127.0.0.1:9/"

    async def run() -> int | None:
        load = Remote(uri, {}, plan, parse(uri))
        try:
            await use(load)
        finally:
            await load.close()
        return load.process.exitcode

    return asyncio.run(run())


def test_process_that_is_killed() -> None:
    """Whoever asks it is told, whether that was before or after."""

    async def use(load: Remote) -> None:
        await load.open()
        os.kill(load.process.pid or 0, signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(ConnectionError, match="a process of the load has ended"):
                await load.run(lambda share, count: None)

    assert in_a_process(Plan(connections=1), use) == -signal.SIGTERM


def test_process_that_ends_right_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are heard of before whoever asked goes on: the next question has an answer, too."""

    class Ended:
        pid = exitcode = 0

        def __init__(self, target: object, args: tuple[Any, ...]) -> None:
            self.pipe = args[0]

        def start(self) -> None:
            self.pipe.send(("openings", _bench.Openings(opened=1)))

        def join(self, timeout: float) -> None:
            pass

        def is_alive(self) -> bool:
            return False

    async def use(load: Remote) -> None:
        load._reader.join()
        assert (await load.open()).opened == 1
        async with asyncio.timeout(TIMEOUT):
            for _ in range(2):
                with pytest.raises(ConnectionError, match="a process of the load has ended"):
                    await load.run(lambda share, count: None)

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Ended)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    assert in_a_process(Plan(connections=1), use) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_process_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.cli._bench_processes.ENDING", 0.1)

    async def use(load: Remote) -> None:
        os.kill(load.process.pid or 0, signal.SIGSTOP)

    assert in_a_process(Plan(connections=1), use) == -signal.SIGKILL


def test_process_that_fails() -> None:
    async def use(load: Remote) -> None:
        await load.open()
        with pytest.raises(RuntimeError, match=r"^ProcessLookupError: "):
            await load.run(lambda share, count: None)

    assert in_a_process(Plan(connections=1, pids=(999_999_999,)), use) == 0


def test_process_without_its_parent() -> None:
    """It ends, too, when nobody is there any more to tell it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, "ws://127.0.0.1:9/", {}, Plan(connections=1), None)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    ours.send("open")
    assert ours.recv()[0] == "openings"
    ours.close()
    process.join(TIMEOUT)
    assert process.exitcode == 0


def test_errors_of_other_processes() -> None:
    from wsapi.cli._bench_processes import _portable

    class Odd(Exception):
        pass

    assert _portable(None) is None
    assert type(_portable(ConnectionRefusedError(111, "refused"))) is ConnectionRefusedError
    assert isinstance(_portable(Odd("local")), OSError)


def test_no_connection_at_all() -> None:
    with pytest.raises(CommandError) as info:
        asyncio.run(
            _bench.bench(parse("ws://127.0.0.1:9/"), {"open_timeout": 5}, [Plan(connections=2)])
        )
    assert info.value.status is Status.UNREACHABLE
