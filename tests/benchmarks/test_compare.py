"""The benchmark runner runs, checks echoes, and writes its results; no figure is looked at."""

from __future__ import annotations

import itertools
import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compare, data, load, peers, process
from benchmarks.scenarios import SCENARIOS, Figure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads clocks of other processes")

FRONT_ENDS = ("asyncio", "threads", "trio")  # uvloop has the peers of asyncio
Converse = Callable[[socket.socket, list[tuple[bytes, bytes]]], load.Conversation]


def test_frames_as_in_rfc_6455_section_5_7() -> None:
    key = bytes.fromhex("37fa213d")
    assert data.frame(data.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert data.frame(data.TEXT, b"Hello", key) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert data.frame(data.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert data.frame(data.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


def test_accept_key_as_in_rfc_6455_section_1_3() -> None:
    assert data.accept_key(b"the sample nonce") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_payloads_are_the_same_each_time() -> None:
    assert data.payloads(3, 10) == data.payloads(3, 10)
    assert len(set(data.payloads(3, 10))) == 3


def run(*arguments: str, front_end: str = "asyncio") -> int:
    return compare.main(["--quick", "--front-end", front_end, *arguments])


CASES = [
    (front_end, name)
    for name, scenario in SCENARIOS.items()
    for front_end in scenario.front_ends
    if front_end != "uvloop"  # differs in nothing that the runner knows of
]


@pytest.mark.parametrize("front_end, scenario", CASES)
def test_scenario(
    front_end: str, scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = {"accept": "raw", "uvicorn": "uvicorn_wsapi"}.get(SCENARIOS[scenario].kind, "websockets")
    file = tmp_path / "results.json"
    arguments = ["--scenario", scenario, "--peer", peer, "--json", str(file)]
    assert run(*arguments, front_end=front_end) == 0
    assert scenario in capsys.readouterr().out
    results = json.loads(file.read_text())
    assert results["machine"]["python"]
    (row,) = results["results"]
    assert (row["scenario"], row["front_end"], row["peer"]) == (scenario, front_end, peer)
    assert len(row["rounds"]) == 1
    assert row["best"] == row["rounds"][0]["value"]


@pytest.mark.parametrize(
    "front_end, peer",
    [
        (front_end, peer)
        for front_end in FRONT_ENDS
        for peer, spec in peers.PEERS[front_end].items()
        if spec.takes != ("raw",)  # see test_large.py
    ],
)
def test_peer(
    front_end: str, peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = peers.PEERS[front_end][peer]
    if spec.missing:
        pytest.skip(spec.missing)
    kind = spec.takes[-1]
    scenario = {"deflate": "deflate-1k", "uvicorn": "uvicorn-64", "client": "client-1x64"}.get(
        kind, "pipeline-64"
    )
    file = tmp_path / "results.json"
    arguments = ["--scenario", scenario, "--peer", peer, "--json", str(file)]
    assert run(*arguments, front_end=front_end) == 0, capsys.readouterr().err
    (row,) = json.loads(file.read_text())["results"]
    assert row["version"]
    assert (kind == "deflate") == (row["rounds"][0]["wire"] is not None)


def test_ours_differ_in_what_they_are_called_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    assert run("--scenario", "deflate-1k", "--peer", "wsapi_zlib", "--json", str(file)) == 0
    (row,) = json.loads(file.read_text())["results"]
    assert "zlib" in row["version"]


def test_table_has_bytes_on_the_wire() -> None:
    figure = Figure(1.0, 1.0, 0.0, 0.0, wire=0.1234)
    rows = [compare.Row("deflate-1k", "asyncio", "wsapi", "1.0", [figure])]
    (line,) = (
        line for line in compare.table(rows, "asyncio").splitlines() if line.startswith("  wsapi")
    )
    assert line.split()[-2:] == ["0.123", "1.0"]


def test_a_server_that_declines_compression_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "OFFER", b"x-something-else")
    assert run("--scenario", "deflate-1k", "--peer", "websockets") == 1
    assert "unexpected response to the opening handshake" in capsys.readouterr().err


def test_table_has_ratios_to_ours_and_to_the_cheaper_raw_peer() -> None:
    values = {"raw": 4.0, "raw_buffered": 2.0, "wsapi": 8.0}
    rows = [
        compare.Row(
            "echo-100x64",
            "asyncio",
            peer,
            rounds=[Figure(value, 1.0, 0.0, 0.0)],
        )
        for peer, value in values.items()
    ]
    lines = {
        line.split()[0]: line.split()[1:5]
        for line in compare.table(rows, "asyncio").splitlines()
        if line.startswith(("  raw", "  wsapi"))
    }
    assert lines["raw"] == ["4.00", "4.00", "0.50", "2.00"]
    assert lines["raw_buffered"] == ["2.00", "2.00", "0.25", "1.00"]
    assert lines["wsapi"] == ["8.00", "8.00", "1.00", "4.00"]


@pytest.mark.parametrize("converse", [load.one_outstanding, load.many_outstanding])
@pytest.mark.parametrize("wrong", [b"abcx", b"abcdX", b""])
def test_wrong_echo_is_an_error(converse: Converse, wrong: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conversation = converse(ours, [(b"ABCD", b"abcd")])
        next(conversation)
        assert theirs.recv(100) == b"ABCD"
        if wrong:
            theirs.sendall(wrong)
        else:
            theirs.close()
        with pytest.raises(load.WrongEcho):
            list(itertools.islice(conversation, 2))  # surplus may be seen one turn later


@pytest.mark.parametrize("converse", [load.one_outstanding, load.many_outstanding])
def test_echo_in_pieces_is_accepted(converse: Converse) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conversation = converse(ours, [(b"ABCD", b"abcd"), (b"EFGH", b"efgh")])
        next(conversation)
        finished = 0
        for byte in itertools.islice(itertools.cycle(b"abcdefgh"), 12):
            theirs.sendall(bytes([byte]))
            finished += next(conversation)
        assert finished == 3


PING = data.frame(data.PING, b"why?")


@pytest.mark.parametrize("size", [5, 126, 65536])
@pytest.mark.parametrize("websocket", [True, False])
@pytest.mark.parametrize("pings", [0, 1, 2])
def test_pings_before_the_first_echo_are_answered(pings: int, websocket: bool, size: int) -> None:
    """As they come after some time on a busy machine; what follows the echo isn't touched."""
    ours, theirs = socket.socketpair()
    target = load.Target(0, websocket, None)  # type: ignore[arg-type] # no clock is read
    pong = data.frame(data.PONG, b"why?", bytes(4))
    sent = target.request_frame(data.BINARY, bytes(size), bytes(4))
    answers: list[bytes] = []

    def serve() -> None:
        theirs.recv(len(sent), socket.MSG_WAITALL)
        theirs.sendall(PING * pings + target.reply_frame(data.BINARY, bytes(size), bytes(4)) + PING)
        answers.append(theirs.recv(len(pong) * pings, socket.MSG_WAITALL) if pings else b"")

    with ours, theirs:
        thread = threading.Thread(target=serve)
        thread.start()
        load.exchange_once(target, ours, bytes(size), bytes(4))
        thread.join(10)
        assert answers == [pong * pings]
        assert ours.recv(100) == PING


@pytest.mark.parametrize("size", [0, 1, len(PING) - 1, len(PING), len(PING) * 2 + 1])
def test_pings_that_come_with_the_head_are_answered(size: int) -> None:
    """As they do on a busy machine, in whole or in part."""
    ours, theirs = socket.socketpair()
    pings = PING * -(-size // len(PING))
    pong = data.frame(data.PONG, b"why?", bytes(4))
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    with ours, theirs:
        ours.settimeout(10)
        theirs.sendall(head + pings[:size])
        sending = threading.Timer(0.05, theirs.sendall, (pings[size:] + b"next",))
        sending.start()
        assert load.receive_head(ours) == head
        sending.join()
        theirs.setblocking(False)
        if pings:
            assert theirs.recv(100) == pong * (len(pings) // len(PING))
        assert ours.recv(100) == b"next"


def test_something_else_that_comes_with_the_head() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + data.frame(data.TEXT, b"?"))
        with pytest.raises(load.WrongEcho, match="before the first message"):
            load.receive_head(ours)


def test_the_end_instead_of_an_echo() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(load.WrongEcho, match="closed"):
            load.receive_frame(ours)


@pytest.mark.parametrize("scenario", ["idle-1000", "idle-plain", "idle-deflate"])
def test_idle_connections_of_servers_that_ping_often(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(peers.PING_INTERVAL, "0.01")
    assert run("--scenario", scenario, "--peer", "websockets") == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "front_end, scenario, peer",
    [
        ("asyncio", "echo-100x64", "raw_buffered"),
        ("asyncio", "tls-100x64", "raw_buffered"),
        ("asyncio", "uvicorn-64", "uvicorn_wsapi"),
        ("threads", "pipeline-64", "wsapi"),
    ],
)
def test_a_server_that_echoes_wrongly_ends_the_run(
    front_end: str,
    scenario: str,
    peer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(load.Target, "reply_frame", lambda *_: b"something else")
    assert run("--scenario", scenario, "--peer", peer, front_end=front_end) == 1
    assert f"benchmark aborted: {scenario}, {peer}, {front_end}" in capsys.readouterr().err


def test_a_client_that_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_server = process.command

    def of_client(front_end: str, peer: str, service: str, cpu: int) -> list[str]:
        if service.startswith("client:"):
            return [sys.executable, "-c", "raise SystemExit(1)"]
        return of_server(front_end, peer, service, cpu)

    monkeypatch.setattr(process, "command", of_client)
    assert run("--scenario", "client-1x64", "--peer", "raw", front_end="threads") == 1
    assert "benchmark aborted: client-1x64, raw, threads: the client failed" in (
        capsys.readouterr().err
    )


def test_pauses_of_the_garbage_collector() -> None:
    with process.server("asyncio", "websockets", "echo", -1) as server:
        assert server.pauses() == []  # it watches from now on
        server.release_memory()
        (pause,) = (pause for pause in server.pauses() if pause[0] == 2)
        assert pause[1] > 0
        assert [pause for pause in server.pauses() if pause[0] == 2] == []


def test_scenario_without_a_peer_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--scenario", "accept", "--peer", "websockets") == 0
    assert "accept" not in capsys.readouterr().out


def test_unknown_peer() -> None:
    with pytest.raises(SystemExit):
        run("--peer", "nobody")
