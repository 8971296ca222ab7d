"""The benchmark of growth: its loads, its file, and that it runs; no figure is looked at."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import crowd, data, growth, load, peers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "growth.json"
    names = ("raw", "wsapi", "picows")
    chosen = [argument for name in names for argument in ("--peer", name)]
    if any(peers.ON_LOOPS[name].missing for name in names):
        pytest.skip("picows isn't installed")
    assert growth.main(["--quick", "--loop", "asyncio", *chosen, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text())
    found = {(curve["sweep"], curve["peer"]): curve for curve in document["curves"]}
    assert set(found) == {
        (sweep, peer)
        for sweep in growth.SWEEPS
        for peer in names
        if peer not in growth.SWEEPS[sweep].without
    }
    for (sweep, peer), curve in found.items():
        assert curve["version"]
        points = growth.SWEEPS[sweep].points[:2]
        assert [point for point, _ in curve["best"]] == list(points)
        for point, figure in curve["best"]:
            # A moment may be too short for the server to have used any.
            assert figure == min(curve["rounds"][str(point)]) >= 0
        assert peer in printed
    assert peers.PING_INTERVAL not in os.environ


def test_who_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others have taken their time: their figures aren't thrown away."""
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    file = tmp_path / "growth.json"
    arguments = ["--quick", "--loop", "asyncio", "--peer", "raw", "--json", str(file)]
    assert growth.main([*arguments, "--sweep", "sizes", "--sweep", "fragments"]) == 1
    assert "sizes 16, raw: LEFT OUT" in capsys.readouterr().err
    sizes, fragments = json.loads(file.read_text())["curves"]
    assert sizes["best"] == []
    assert len(fragments["best"]) == 2


def test_best() -> None:
    curve = growth.Curve("sizes", "raw", points={4096: [3.0, 2.0], 16: [1.5, 1.0]})
    assert curve.best() == [(16, 1.0), (4096, 2.0)]


def test_table() -> None:
    document = {
        "sweeps": {"sizes": {"title": "Echo", "unit": "µs", "grows": "bytes"}},
        "curves": [
            {"sweep": "sizes", "peer": "raw", "best": [(16, 1.0), (4096, 12345.0)], "queued": 0.0},
            {"sweep": "sizes", "peer": "wsapi", "best": [(4096, 2.5)], "queued": 0.5},
        ],
    }
    lines = [line.split() for line in growth.table(document).splitlines()]
    assert ["16", "4,096"] in lines
    assert ["raw", "1", "1.234e+04"] in lines
    assert ["wsapi", "-", "2.5"] in lines
    assert "up to 50%" in growth.table(document)


@pytest.mark.parametrize("size", [1, 3, 4, 10, 11])
def test_fragments(size: int) -> None:
    payload, keys = b"0123456789", data.masking_keys(-(-10 // size))
    wire = growth.fragmented(payload, size, keys)
    heads, pieces = [], []
    for key in keys:
        length = wire[1] & 0x7F
        heads.append(wire[0])
        assert wire[2:6] == key
        pieces.append(data.mask(wire[6 : 6 + length], key))
        wire = wire[6 + length :]
    assert wire == b""
    assert b"".join(pieces) == payload
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    opcodes = [data.BINARY, *[0] * (len(keys) - 1)]
    opcodes[-1] |= 0x80
    assert heads == opcodes


def echo_through(sock: socket.socket, change: Callable[[bytes], bytes]) -> threading.Thread:
    def serve() -> None:
        while received := sock.recv(100_000):
            sock.sendall(change(received))
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 1000, 3_000_000])
def test_round_trips(size: int) -> None:
    """Longer messages than fit into the sockets' buffers come back while they are sent."""
    ours, theirs = socket.socketpair()
    thread = echo_through(theirs, lambda received: received)
    with ours:
        message = data.binary_payloads(1, size, 1.0)[0]
        turn = load.LargeEcho(ours, message, message).turn
        assert [turn(), turn()] == [1, 1]
    thread.join(10)


def test_a_wrong_reply() -> None:
    ours, theirs = socket.socketpair()
    thread = echo_through(theirs, bytes.upper)
    with ours:
        with pytest.raises(load.WrongEcho, match="byte 0"):
            load.LargeEcho(ours, b"abc", b"abc").turn()
    thread.join(10)


def test_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT", 0.01)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        turn = load.LargeEcho(ours, b"abc", b"abc").turn
        with pytest.raises(load.WrongEcho, match="no answer"):
            turn()
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(load.WrongEcho, match="closed"):
            turn()


def test_enough_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(crowd, "raise_descriptors", asked.append)
    monkeypatch.setattr(growth, "measure", lambda *arguments: None)
    arguments = (lambda sweep: sweep.points, "asyncio", 1, 1.0, lambda line: None)
    growth.grow([], ["connections"], *arguments)
    growth.grow([], ["sizes"], *arguments)
    assert asked == [10_000 + crowd.SPARE] * 2


@pytest.mark.parametrize("arguments", [["--peer", "nobody"], ["--sweep", "nothing"]])
def test_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(arguments)


def test_a_peer_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        growth.main(["--peer", "websockets"])
    assert "not installed" in capsys.readouterr().err
