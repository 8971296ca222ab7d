"""A sample of the matrix, which has each kind of cell; and whether the judge sees what is wrong."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import SUBJECTS, Case, make, number_of
from tests.faults.matrix import Noise
from tests.faults.proxy import HARMLESS, KINDS, AtByte, InFrame, InRecord, Place
from tests.faults.workload import Account, judge
from tests.wsapi.helpers import CLOSE, PING, TEXT, frame

ROOT = Path(__file__).parents[2]
# Kinds of faults, roles, TLS, directions, and phases, each with each.
CELLS = len(KINDS) * 2 * 2 * 2 * 3
pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="select() takes few sockets there, and the proxy many"
)
NEEDS = {"uvloop": "uvloop", "trio": "trio", "uvicorn": "uvicorn"}
EAGER = pytest.param(
    "eager",
    marks=pytest.mark.skipif(
        sys.version_info < (3, 12), reason="there are eager tasks since Python 3.12"
    ),
)


# ---------------------------------------------------------------------- the sample


def sample(*arguments: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start a process for each subject: they wait for the network most of the time."""
    started = {}
    for subject in SUBJECTS if sys.version_info < (3, 12) else (*SUBJECTS, "eager"):
        if importlib.util.find_spec(NEEDS.get(subject, "asyncio")) is not None:
            command = [sys.executable, "-m", "tests.faults", "--subject", subject, "--first", "0"]
            started[subject] = subprocess.Popen(
                [*command, "--minutes", "3", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
    yield started
    for process in started.values():
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen[str]]]:
    yield from sample("--cases", str(CELLS), "--at-once", str(CELLS // 2))


@pytest.fixture(scope="module")
def strict_processes() -> Iterator[dict[str, subprocess.Popen[str]]]:
    yield from sample("--cases", "36", "--at-once", "36", "--flag=-Xdev", "--flag=-Werror")


def check_sample(subject: str, processes: dict[str, Any], count: int) -> None:
    if subject not in processes:
        pytest.skip(f"{NEEDS[subject]} isn't installed")
    process = processes[subject]
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    last = output.splitlines()[-1].split()
    assert last[:2] == ["all", str(count)], output
    assert last[3:] == ["0"] * 5, output
    # Faults happened, rather than that places weren't reached.
    assert int(last[2]) > count / 3, output


@pytest.mark.timeout(240)
@pytest.mark.parametrize("subject", [*SUBJECTS, EAGER])
def test_sample(subject: str, processes: dict[str, Any]) -> None:
    check_sample(subject, processes, CELLS)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("subject", [*SUBJECTS, EAGER])
def test_sample_in_development_mode(subject: str, strict_processes: dict[str, Any]) -> None:
    """Warnings, such as that of something that was never closed, are errors."""
    check_sample(subject, strict_processes, 36)


def test_each_kind_of_cell_is_in_the_sample() -> None:
    cells = {
        (case.kind, case.role, case.tls, case.upward, case.place[:1])
        for seed in range(CELLS)
        for case in [make("asyncio", seed)]
    }
    # All faults, roles, ways to talk, and directions; in the opening handshake, and behind it.
    assert len({cell[:4] for cell in cells}) == len(KINDS) * 8
    assert {cell[4] for cell in cells} == {("byte",), ("frame",), ("record",)}
    assert make("trio", 5) == make("trio", 5)


# ---------------------------------------------------------------------- places

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = frame(TEXT, bytes(70_000), masked=True)
FRAMES = [
    frame(TEXT, b"abcd", masked=True),
    frame(TEXT, bytes(200), masked=True, fin=False),
    frame(PING, masked=True),
    frame(0, b"xy", masked=True),
    LARGE,
    frame(CLOSE, b"\x03\xe8", masked=True),
]
STARTS = [len(HEAD) + sum(map(len, FRAMES[:n])) for n in range(len(FRAMES))]
RECORDS = b"\x16\x03\x03\x00\x04abcd" + b"\x17\x03\x03\x00\x06abcdef" * 2


@pytest.mark.parametrize(
    "stream, make_place, offset",
    [
        (HEAD, lambda: AtByte(3), 3),
        (HEAD, lambda: AtByte(len(HEAD)), len(HEAD)),
        (HEAD, lambda: AtByte(len(HEAD) + 1), None),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 0, "header"), STARTS[0] + 1),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 0, "mask"), STARTS[0] + 4),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 0, "payload"), STARTS[0] + 8),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 1, "length"), STARTS[1] + 3),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 1, "payload"), STARTS[1] + 108),
        (HEAD + b"".join(FRAMES), lambda: InFrame("any", 1, "end"), STARTS[2]),
        (HEAD + b"".join(FRAMES), lambda: InFrame("fragment", 0, "header"), STARTS[1] + 1),
        (HEAD + b"".join(FRAMES), lambda: InFrame("fragment", 1, "header"), STARTS[3] + 1),
        (HEAD + b"".join(FRAMES), lambda: InFrame("ping", 0, "end"), STARTS[3]),
        (HEAD + b"".join(FRAMES), lambda: InFrame("large", 0, "header"), STARTS[4] + 2),
        (HEAD + b"".join(FRAMES), lambda: InFrame("large", 0, "length"), STARTS[4] + 6),
        (HEAD + b"".join(FRAMES), lambda: InFrame("large", 0, "end"), STARTS[5]),
        (HEAD + b"".join(FRAMES), lambda: InFrame("close", 0, "payload"), STARTS[5] + 7),
        (HEAD + b"".join(FRAMES), lambda: InFrame("close", 0, "end"), STARTS[5] + 8),
        (HEAD + b"".join(FRAMES), lambda: InFrame("close", 1, "end"), None),
        (RECORDS, lambda: InRecord(0, "header"), 11),
        (RECORDS, lambda: InRecord(0, "payload"), 17),
        (RECORDS, lambda: InRecord(0, "end"), 20),
        (RECORDS, lambda: InRecord(1, "end"), 31),
        (RECORDS, lambda: InRecord(2, "end"), None),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_places(stream: bytes, make_place: Any, offset: int | None, size: int) -> None:
    place: Place = make_place()
    found = None
    for start in range(0, len(stream), size):
        position = place.find(stream[start : start + size])
        if position is not None:
            found = start + position
            break
    assert found == offset


# ---------------------------------------------------------------------- the judge


def case_of(kind: str, ending: str = "client") -> Case:
    return next(
        case
        for case in (make("asyncio", seed) for seed in range(10_000))
        if (case.kind, case.ending, case.peer) == (kind, ending, "ours")
    )


def told(received: list[int], end: str = "ConnectionClosedOK", **more: Any) -> Account:
    return Account(sent=[0, 1, 2], received=received, end=end, opened=True, done=True, **more)


@pytest.mark.parametrize(
    "kind, client, server, wrong",
    [
        ("reset", told([0, 1, 2]), told([0, 1, 2]), []),
        ("reset", told([0, 1, 2]), told([0, 1], "ConnectionClosedError"), []),
        ("reset", told([0, 1, 2]), told([0, 1]), ["lost"]),
        ("reset", told([0, 1], closed=True), told([0, 1, 2]), []),
        ("none", told([0, 1], closed=True), told([0, 1, 2]), ["lost"]),
        ("reset", told([0, 1, 2]), told([0, 2], "ConnectionClosedError"), ["lost"]),
        ("reset", told([0, 1, 2]), told([1, 0], "ConnectionClosedError"), ["reordered"]),
        ("reset", told([0, 1, 2]), told([0, 0], "ConnectionClosedError"), ["reordered"]),
        ("reset", told([0, 1, 2]), told([0], ""), ["wrong"]),
        ("reset", told([0, 1, 2]), told([0, 1, 2], failure="it failed"), ["wrong"]),
        ("delay", told([0, 1, 2]), told([0, 1, 2], "ConnectionClosedError"), ["wrong"]),
    ],
)
def test_judge(kind: str, client: Account, server: Account, wrong: list[str]) -> None:
    case = case_of(kind)
    verdict = judge(case, {"client": client, "server": server}, fired=kind not in HARMLESS)
    assert [kind for kind, _ in verdict] == wrong


def test_messages_tell_their_numbers() -> None:
    case = make("asyncio", 1)
    for number in range(20):
        message = case.message("client", number)
        assert number_of(message.data, "client") == number
        assert number_of(message.data, "server") == -1
        if message.fragments is not None:
            assert message.data[:0].join(message.fragments) == message.data


# ---------------------------------------------------------------------- what is logged


def forget(exc: BaseException) -> list[str]:
    """Return what is judged after nobody has awaited a future of uvloop that got an exception."""
    uvloop = pytest.importorskip("uvloop", reason="the line is about its futures")

    async def main() -> None:
        asyncio.get_running_loop().create_future().set_exception(exc)
        gc.collect()

    with Noise() as noise:
        uvloop.run(main())
        return noise.take()


@pytest.mark.parametrize("exc", [ConnectionResetError(104, "reset"), ssl.SSLError(1, "failed")])
def test_futures_that_uvloop_forgets(exc: OSError) -> None:
    assert forget(exc) == []


def test_futures_that_we_forget() -> None:
    try:
        raise ConnectionResetError(104, "raised here")
    except ConnectionResetError as exc:
        ours = exc
    for error in (ValueError("no"), ours):
        [line] = forget(error)
        assert line.startswith("asyncio: Future exception was never retrieved")


def test_errors_that_we_log() -> None:
    with Noise() as noise:
        logging.getLogger("wsapi").error("it failed", exc_info=ConnectionResetError())
        [line] = noise.take()
    assert line.startswith("wsapi: it failed")
