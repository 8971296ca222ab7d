"""The benchmark of latency: what it computes, and that it runs; no figure is looked at."""

from __future__ import annotations

import itertools
import json
import socket
import statistics
import sys
import threading
from array import array
from pathlib import Path

import pytest

from benchmarks import crowd, data, latency, load, process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latency.json"
    arguments = ["--quick", "--loop", "asyncio", "--peer", "raw", "--peer", "wsapi"]
    assert latency.main([*arguments, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert [row["peer"] for row in document["results"]] == ["raw", "wsapi"]
    for row in document["results"]:
        assert row["most"] > 0
        assert list(row["loads"]) == ["30", "60", "90"]
        for found in [*row["loads"].values(), row["crowded"]]:
            figures = list(found["latency_us"].values())
            assert 0 < figures[0] <= figures[1] <= figures[2]
            assert found["rate"] > 0
        assert row["pauses"]["full"] > 0
        assert row["peer"] in printed
    assert "garbage collection with 50 idle connections" in printed


def test_without_idle_connections(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--loop", "asyncio", "--peer", "raw", "--idle", "0"]
    assert latency.main(arguments) == 0
    assert "garbage" not in capsys.readouterr().out


def test_wrong_echoes_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    assert latency.main(["--quick", "--loop", "asyncio", "--peer", "raw"]) == 1
    assert "benchmark aborted" in capsys.readouterr().err


def test_arrivals() -> None:
    """Poisson: as many as the rate says, gaps as irregular as their mean is long."""
    times = latency.arrivals(1000, 20, 1)
    assert times == latency.arrivals(1000, 20, 1) != latency.arrivals(1000, 20, 2)
    assert list(times) == sorted(times)
    assert 0 < times[0] < times[-1] < 20
    assert len(times) == pytest.approx(20_000, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


PAIRS = [(b"ask1", b"echo1"), (b"ask2", b"echo2")]


def test_a_lane_has_many_messages_under_way() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lane = latency.Lane(ours, PAIRS)
        for due in (1.0, 2.0, 3.0):
            lane.send(due)
        assert theirs.recv(100) == b"ask1ask2ask1"
        assert list(lane.due) == [1.0, 2.0, 3.0]
        finished = []
        for piece in (b"ech", b"o1echo", b"2e", b"cho1"):
            theirs.sendall(piece)
            finished.append(lane.receive())
        assert finished == [0, 1, 1, 1]
        theirs.sendall(b"echo1")  # it is the other one's turn
        with pytest.raises(load.WrongEcho):
            lane.receive()


def test_pauses_count_for_all_that_was_due_in_them() -> None:
    """Also those that one who waits for echoes would have sent after it."""
    ours, theirs = socket.socketpair()
    times = array("d", [0.0, 0.1])

    def serve() -> None:
        received = b""
        while len(received) < 8:
            received += theirs.recv(100)
        theirs.sendall(b"echo1echo2")

    found = latency.Load()
    with ours, theirs:
        ours.setblocking(False)
        thread = threading.Thread(target=serve)
        thread.start()
        latency.open_loop([latency.Lane(ours, PAIRS)], times, found)
        thread.join(10)
    first, second = found.latencies
    # Whatever the machine does, the echoes came at one time: what was due before took longer.
    assert first - second == pytest.approx(0.1, abs=1e-6)
    assert len(found.late) == 2
    assert min(found.late) >= 0
    assert found.wall >= 0.1


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(load.WrongEcho, match="no answer"):
            latency.open_loop([latency.Lane(ours, PAIRS)], array("d", [0.0]), latency.Load())


def test_percentiles_in_us() -> None:
    seconds = [number / 1e6 for number in range(1000, 0, -1)]
    assert latency.in_us(seconds) == {"50": 500.0, "99": 990.0, "99.9": 999.0}
    assert latency.in_us([]) == {"50": 0.0, "99": 0.0, "99.9": 0.0}


def loads(*latencies: list[float]) -> list[latency.Load]:
    return [latency.Load(array("d", each), array("d", [0.0]), 2.0) for each in latencies]


def test_summary_is_the_round_that_was_disturbed_least() -> None:
    found = latency.summary_of(loads([1.0, 5.0], [2.0, 3.0], [1.0, 4.0]))
    assert found["latency_us"]["99"] == 3e6
    assert found["rate"] == 1
    assert [each["99"] for each in found["rounds"]] == [5e6, 3e6, 4e6]


def test_summary_of_a_peer() -> None:
    result = latency.Result("raw", most=[1.0, 3.0], loads={30: loads([1.0])})
    assert result.summary()["most"] == 3
    assert result.summary()["pauses"] is result.summary()["crowded"] is None
    result.pauses = [latency.Pauses(3.0, 1.0, 1.0, 0.1), latency.Pauses(2.0, 5.0, 1.0, 0.1)]
    assert result.summary()["pauses"]["full"] == 2.0


def test_longest() -> None:
    assert latency.longest([(0, 0.001), (2, 0.005), (1, 0.002)]) == 5.0
    assert latency.longest([]) == 0.0


def test_messages_of_connections_differ() -> None:
    target = load.Target(0, True, None)  # type: ignore[arg-type] # no clock is read
    first, second = latency.pairs_of(target, 0), latency.pairs_of(target, 1)
    assert not set(first) & set(second)
    assert len({(len(frame), len(echo)) for frame, echo in first + second}) == 1
    assert first[0][1][:2] == data.frame(data.BINARY, bytes(latency.SIZE))[:2]


def test_too_many_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(needed: int) -> None:
        raise OSError(f"{needed} open files are needed")

    monkeypatch.setattr(crowd, "raise_descriptors", refuse)
    before = process.cores()
    assert latency.main(["--peer", "raw", "--idle", "1000"]) == 1
    assert "1300 open files are needed" in capsys.readouterr().err
    assert process.cores() == before


@pytest.mark.parametrize("arguments", [["--peer", "nobody"], ["--seconds", "x"]])
def test_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        latency.main(arguments)


def test_a_peer_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        latency.main(["--peer", "websockets"])
    assert "not installed" in capsys.readouterr().err
