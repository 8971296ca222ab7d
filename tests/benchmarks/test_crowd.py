"""The benchmark of many connections runs, notices what goes wrong, and writes its files."""

from __future__ import annotations

import json
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import crowd, data, load, plot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")

SMALL = ["--idle", "20", "--active", "5", "--minutes", "0.005", "--rate", "50", "--rounds", "1"]


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, image = tmp_path / "results.json", tmp_path / "plot.svg"
    files = ["--json", str(results), "--svg", str(image)]
    assert crowd.main([*SMALL, "--loop", "asyncio", "--rounds", "2", *files]) == 0
    table = capsys.readouterr().out
    found = json.loads(results.read_text())
    assert found["settings"]["idle"] == 20
    assert [row["peer"] for row in found["results"]] == ["wsapi", "websockets"]
    for row in found["results"]:
        assert row["peer"] in table
        assert row["lost"] == 0
        assert row["messages"] == sum(turn["messages"] for turn in row["turns"]) > 0
        assert len(row["turns"]) == 2
        assert row["cpu_us"] > 0
        latencies = list(row["latency_ms"].values())
        assert latencies[0] > 0
        assert latencies == sorted(latencies)
    names = {element.text for element in ElementTree.parse(image).iter()}
    assert {"wsapi", "websockets"} <= names


@pytest.mark.parametrize(
    "arguments",
    [
        ["--active", "0"],
        ["--idle", "-1"],
        ["--minutes", "0"],
        ["--rounds", "0"],
        ["--rate", "-1"],
        ["--size", "0"],
        ["--peer", "nobody"],
    ],
)
def test_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        crowd.main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_peer_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        crowd.main(["--peer", "websockets"])
    assert "not installed" in capsys.readouterr().err


def test_too_many_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 1000))
    assert crowd.main(["--idle", "1000"]) == 1
    assert "1300 open files are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((100, 1000), (500, 1000)),
        ((100, 400), (500, 500)),
        ((100, resource.RLIM_INFINITY), (500, resource.RLIM_INFINITY)),
        ((500, 500), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_descriptors(
    limits: tuple[int, int], raised: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: set_to.append(values))
    crowd.raise_descriptors(500)
    assert set_to == ([] if raised is None else [raised])


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile(percent: float, value: float) -> None:
    assert crowd.percentile(list(range(1, 101)), percent) == value


def test_percentile_of_nothing() -> None:
    assert crowd.percentile([], 50) == 0


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames(size: int) -> None:
    wire = data.frame(data.BINARY, bytes(size))
    assert crowd.split_frame(wire + b"rest") == (0x82, bytes(size), len(wire))
    for end in {0, 1, 3, len(wire) - 1}:
        assert crowd.split_frame(wire[: min(end, len(wire) - 1)]) is None


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[Any, Any, Any]]]:
    """Make connections of a crowd, and the server's ends of them."""
    others: list[socket.socket] = []
    settings = crowd.Settings(0, 1, 0.1, 1, 10.0, 5)
    target = load.Target(0, True, None)  # type: ignore[arg-type] # no clock is read

    def connect(target: load.Target, nonce: bytes) -> socket.socket:
        here, there = socket.socketpair()
        here.setblocking(False)
        there.settimeout(10)
        others.append(there)
        target.sockets.add(here)
        return here

    def new() -> tuple[Any, Any, Any]:
        connection = many.open([(b"sent", data.frame(data.TEXT, b"hello"))])
        return many, connection, others[-1]

    monkeypatch.setattr(load, "connect", connect)
    many = crowd.Crowd(target, settings)
    yield new
    many.epoll.close()
    target.close_all()
    for other in others:
        other.close()


ECHO = data.frame(data.TEXT, b"hello")
PING = data.frame(data.PING, b"?")
PONG = data.frame(data.PONG, b"?", bytes(4))


@pytest.mark.parametrize(
    "pieces", [[ECHO], [ECHO[:1], ECHO[1:]], [PING + ECHO], [PING, ECHO], [ECHO + PING]]
)
def test_echoes_and_pings(ends: Any, pieces: list[bytes]) -> None:
    many, connection, other = ends()
    many.send(connection, 0.0)
    assert other.recv(100) == b"sent"
    for piece in pieces:
        other.send(piece)
        many.turn(10)
    assert len(many.latencies) == 1
    assert connection.begin is None
    if any(PING in piece for piece in pieces):
        assert other.recv(100) == PONG


@pytest.mark.parametrize(
    "wire", [data.frame(data.TEXT, b"hallo"), ECHO + ECHO, data.frame(data.PONG, b"")]
)
def test_a_wrong_echo(ends: Any, wire: bytes) -> None:
    many, connection, other = ends()
    many.send(connection, 0.0)
    other.send(wire)
    with pytest.raises(load.WrongEcho):
        many.turn(10)


@pytest.mark.parametrize("wire", [b"", data.frame(data.CLOSE, load.CLOSE_FRAME)])
def test_lost(ends: Any, wire: bytes) -> None:
    many, connection, other = ends()
    other.send(wire)
    other.close()
    many.write(connection, b"x")  # fails, or not yet
    many.turn(10)
    assert many.lost == 1
    assert not many.connections
    many.talk([connection], 0.05)
    assert many.lost == 1


def test_an_echo_that_is_missing(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT", 0.05)
    many, connection, other = ends()
    many.talk([connection], 0.05)
    assert many.lost == 1
    assert other.recv(100) == b"sent"


def test_messages_that_wait_for_an_echo(ends: Any) -> None:
    """Their time runs since they were due."""
    many, connection, other = ends()
    many.send(connection, 1.0)
    connection.due.append(2.0)
    other.send(ECHO)
    many.turn(10)
    assert connection.begin == 2.0
    assert other.recv(100) == b"sentsent"


def test_a_plot_of_nothing() -> None:
    latencies = {"50": 0.0, "99": 0.0}
    row = {"peer": "a<b", "memory_kib": 0.0, "cpu_us": 0.0, "latency_ms": latencies}
    ElementTree.fromstring(plot.crowd("nothing & more", [row]))
