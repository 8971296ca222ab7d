"""The targets of `make fuzz` on what is known, and on some hundred mutations of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import corpora, ledger

MUTATIONS = 300
SECONDS = 10  # of mutations at most: a machine may be slow
PARTS = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x81", b"\xc1", b"\x88", b"\xfe", b"\r\n", b"\n"]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 5)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:start] + rng.randbytes(rng.randrange(4)) + data[start:]
        elif kind == 1:
            data = data[:start] + data[end:]
        elif kind == 2:
            data = data[:start] + rng.choice(PARTS) + data[start + 1 :]
        elif kind == 3 and data:
            start = min(start, len(data) - 1)
            changed = data[start] ^ 1 << rng.randrange(8)
            data = data[:start] + bytes([changed]) + data[start + 1 :]
        elif kind == 4:
            data = data[:start] + rng.choice(others)[start:]
        else:
            data = data[:end] + data[start:]
    return data[:5000]


def load(name: str) -> Callable[[bytes], None]:
    try:
        one_input: Callable[[bytes], None] = corpora.load_target(name).one_input
    except ModuleNotFoundError as exc:
        if exc.name in ("hypercorn", "trio", "uvicorn"):
            pytest.skip(f"it needs {exc.name}, which isn't installed")
        raise
    return one_input


@pytest.mark.parametrize("name", corpora.target_names())
def test_corpus(name: str) -> None:
    one_input = load(name)
    for data in [b"", *corpora.inputs(name)]:
        one_input(data)


@pytest.mark.parametrize("name", corpora.target_names())
def test_mutations(name: str) -> None:
    one_input = load(name)
    known = corpora.inputs(name) or [b""]
    rng = random.Random(1)
    end = time.monotonic() + SECONDS
    for _ in range(MUTATIONS):
        data = mutated(rng.choice(known), known, rng)
        try:
            one_input(data)
        except Exception as exc:
            exc.add_note(f"input: {data!r}")
            raise
        if time.monotonic() > end:
            break


def test_size_of_corpora() -> None:
    sizes = [path.stat().st_size for path in corpora.HERE.glob("corpus/*.zip")]
    assert sum(sizes) < 1_000_000


LOG = """
#2\tINITED cov: 100 ft: 200 corp: 3/12b exec/s: 0 rss: 50Mb
#900\tNEW    cov: 105 ft: 201 corp: 4/16b lim: 4 exec/s: 9 rss: 50Mb L: 4/4 MS: 1 ChangeBit-
#950\tNEW    cov: 105 ft: 203 corp: 5/16b lim: 4 exec/s: 9 rss: 50Mb L: 4/4 MS: 1 ChangeBit-
"""


def test_counts_in_a_log() -> None:
    assert command.counted(LOG) == (950, 105, 203)
    assert command.counted(LOG + "stat::number_of_executed_units: 999\n") == (999, 105, 203)
    assert command.counted("Traceback ...") == (0, 0, 0)
    line = "artifact_prefix='/x/frames-'; Test unit written to /x/findings/frames-crash-abc\n"
    assert command.FOUND.findall(LOG + line) == ["frames-crash-abc"]


def entry(target: str, cpu: float, edges: int, *findings: str) -> ledger.Entry:
    return ledger.Entry(target, "abc", ledger.now(), 1000, 2 * cpu, cpu, edges, 7, [*findings], 0)


def test_slow_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was slow on a busy machine is no finding."""
    monkeypatch.setattr(command, "environment", lambda: None)  # not what was compiled for fuzzing
    slow, crash = tmp_path / "headers-slow-unit-abc", tmp_path / "headers-crash-abc"
    for path in (slow, crash):
        path.write_bytes(b"\0keep-alive")
        assert command.only_busy("headers", path) is (path is slow)
    assert "headers-slow-unit-abc: " in capsys.readouterr().out
    assert not slow.exists()
    assert crash.exists()


def test_revision(tmp_path: Path) -> None:
    assert ledger.revision(tmp_path / "revision") == "unknown"
    (tmp_path / "revision").write_text("abc-dirty\n")
    assert ledger.revision(tmp_path / "revision") == "abc-dirty"


def test_report(tmp_path: Path) -> None:
    """What was done in several runs is added up; a finding that comes again is still one."""
    path = tmp_path / "ledger.jsonl"
    assert ledger.read(path) == []
    entries = [
        entry("frames", 1800, 100, "frames-crash-a"),
        entry("calls", 360, 50),
        entry("frames", 3600, 90, "frames-crash-a", "frames-crash-b"),
    ]
    for one in entries:
        ledger.append(path, one)
    assert ledger.read(path) == entries
    assert ledger.report(ledger.read(path)).splitlines()[2:] == [
        "| calls | 0.20 | 0.10 | 1,000 | 50 | 0 |",
        "| frames | 3.00 | 1.50 | 2,000 | 100 | 2 |",
        "| all | 3.20 | 1.60 | 3,000 | 2 targets | 2 |",
        "",
        "Revisions: abc",
    ]
    with open(path, "a") as file:
        file.write('{"target": "frames"}\n')
    with pytest.raises(ValueError, match=r"ledger\.jsonl, line 4: "):
        ledger.read(path)


def test_keep(tmp_path: Path) -> None:
    """Sums for each target and revision stay, and nothing counts twice."""
    path, kept = tmp_path / "ledger.jsonl", tmp_path / "fuzzed.jsonl"
    first, second = entry("frames", 60, 100, "frames-crash-a"), entry("frames", 30, 90)
    other = replace(entry("frames", 15, 120), revision="def")
    for one in (first, second, other):
        ledger.append(path, one)
    ledger.keep(path, kept)
    frames = replace(first, inputs=2000, cpu=90, wall=180)
    assert ledger.read(kept) == [frames, other]
    assert not path.exists()
    ledger.keep(path, kept)
    assert ledger.read(kept) == [frames, other]
    ledger.append(path, entry("calls", 6, 5))
    ledger.append(path, replace(second, status=77))
    ledger.keep(path, kept)
    assert [(one.target, one.cpu, one.status) for one in ledger.read(kept)] == [
        ("calls", 6, 0),
        ("frames", 120, 77),
        ("frames", 15, 0),
    ]


def test_what_is_kept() -> None:
    """The repository's sums are of its targets."""
    kept = ledger.read(ledger.KEPT)
    assert {one.target for one in kept} <= set(corpora.target_names())
    assert kept == ledger.sums(kept)
