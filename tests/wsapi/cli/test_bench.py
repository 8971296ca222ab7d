"""wsapi bench: what it sends, and what it tells. Nothing here is about speed."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import ssl
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.wsapi.cli.bench_helpers import SHORT, TIMEOUT, bench, command, parse
from tests.wsapi.cli.servers import on_threads
from wsapi.cli import _bench, main
from wsapi.cli._bench_load import Result
from wsapi.cli._terminal import Status


@pytest.mark.parametrize("options", [(), ("--text",), ("--binary", "--size", "0")])
def test_messages(
    echo_uri: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = bench(
        *(echo_uri, "-c", "3", "-w", "2", "-n", "500", "--warmup", "0", *options), capsys=capsys
    )
    assert status == 0
    assert (told["connections"], told["messages"]) == (3, 500)
    assert (told["unsent"], told["unanswered"], told["wrong"]) == (0, 0, None)
    assert sum(row["count"] for row in told["histogram"]) == 500
    latency = told["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]
    assert latency["p99.9"] <= latency["max"] < TIMEOUT


def test_messages_after_a_warmup(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = bench(echo_uri, "-n", "500", "--warmup", "0.1", capsys=capsys)
    assert (status, told["messages"]) == (0, 500)


def test_duration(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = bench(echo_uri, *SHORT, capsys=capsys)
    assert status == 0
    assert told["seconds"] >= 0.19  # clocks of event loops count milliseconds
    assert told["messages"] > 0
    assert told["messages_per_second"] == told["messages"] / told["seconds"]
    assert told["bytes_per_second"] == pytest.approx(64 * told["messages_per_second"])


def test_sizes_in_a_range(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--size", "10-200k", "--text", "-c", "2", "-n", "50", "--warmup", "0")
    status, told = bench(echo_uri, *options, capsys=capsys)
    assert (status, told["messages"], told["settings"]["size"]) == (0, 50, [10, 200 * 1024])


def test_more_than_the_default_limit(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    # What comes back isn't refused by this side; the server refuses what it is sent.
    with on_threads(max_size=None) as uri:
        options = ("--size", "1200k", "-c", "1", "-n", "3", "--warmup", "0")
        status, told = bench(uri, *options, capsys=capsys)
    assert (status, told["messages"]) == (0, 3)
    status, told = bench(echo_uri, *options, capsys=capsys)
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


def test_processes(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--processes", "2", "-c", "3", "-n", "101", "--warmup", "0")
    status, told = bench(echo_uri, *options, capsys=capsys)
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
def test_processor_time_of_the_server(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The server is in this process. Another one, beside it, does nothing.
    pids = ("--pid", str(os.getpid()), "--pid", "1")
    status, told = bench(echo_uri, "-n", "1000", "--warmup", "0", *pids, capsys=capsys)
    assert status == 0
    assert told["server_cpu_seconds_per_message"] > 0
    assert told["server_cpu_share"] == pytest.approx(
        told["server_cpu_seconds_per_message"] * told["messages_per_second"]
    )
    assert main(["bench", echo_uri, "-n", "100", "--warmup", "0", *pids]) == 0
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


def test_report(echo_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", echo_uri, "-c", "2", "-w", "3", "-n", "2000", "--warmup", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no terminal, no progress
    lines = captured.out.splitlines()
    assert lines[0] == f"{echo_uri}: 2 connections"
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


def test_ascii_output(echo_uri: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        command(echo_uri, "-n", "100", "--warmup", "0"),
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
def test_progress(echo_uri: str, rich: bool, quiet: bool) -> None:
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
        command(echo_uri, "-d", "0.5", "--warmup", "0", *(["-q"] if quiet else [])),
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
