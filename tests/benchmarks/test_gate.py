"""Comparing instructions with the file: what is a rise, and what other versions change."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate, instructions

HERE = {"python": "3.11.7", "uvloop": "1", "zlib-ng": "1"}
NAME = "uvloop wsapi in-flight-64"


class Counted:
    """Stands in for valgrind: says what each figure is, at each time that it is counted."""

    def __init__(self) -> None:
        self.now: list[float] = [100.0]
        self.before = 100.0
        self.calls: list[tuple[str, str, tuple[str, ...], Path | None]] = []

    def __call__(
        self, front_end: str, peer: str, names: list[str], windows: int, source: Path | None
    ) -> dict[str, list[float]]:
        self.calls.append((front_end, peer, tuple(names), source))
        if source is not None:
            value = self.before
        else:
            value = self.now.pop(0) if len(self.now) > 1 else self.now[0]
        return {name: [value + 7.0, value, value + 3.0] for name in names}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found = Counted()
    monkeypatch.setattr(instructions, "instructions", found)
    monkeypatch.setattr(gate, "versions", lambda: dict(HERE))
    monkeypatch.setattr("shutil.which", lambda name: name)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps({"versions": HERE, "figures": {NAME: 100}}))
    return path


def other_versions(file: Path, **versions: str) -> None:
    document = json.loads(file.read_text())
    document["versions"].update(versions)
    file.write_text(json.dumps(document))


def run(file: Path, *arguments: str, only: str = NAME) -> int:
    found = ["--file", str(file), "--jobs", "1", *arguments]
    return gate.main([*found, "--only", only] if only else found)


def line(capsys: pytest.CaptureFixture[str], name: str = NAME) -> str:
    lines = capsys.readouterr().out.splitlines()
    return next(text for text in lines if text.startswith(f"{name} "))


@pytest.mark.parametrize(
    ("before", "now", "rises", "falls"),
    [
        (1000, 1000, False, False),
        (1000, 1020, False, False),
        (1000, 1021, True, False),
        (1000, 980, False, False),
        (1000, 979, False, True),
        (None, 1000, False, False),
    ],
)
def test_verdict(before: int | None, now: int, rises: bool, falls: bool) -> None:
    verdict = gate.Verdict(NAME, before, now, True)
    assert (verdict.rises, verdict.falls) == (rises, falls)
    unlike = gate.Verdict(NAME, before, now, False)
    assert not unlike.rises
    assert not unlike.falls


def test_lines() -> None:
    assert str(gate.Verdict("a", 1000, 1100, True)).split() == [
        *("a", "1,000", "1,100", "+10.00%", "RISES", "by", "more", "than", "2%")
    ]
    assert str(gate.Verdict("a", None, 1100, True)).split() == ["a", "-", "1,100", "new"]
    assert str(gate.Verdict("a", 1000, 900, True)).endswith("-10.00%  falls")
    assert str(gate.Verdict("a", 1000, 1100, False)).endswith("not judged")


def test_wider_tolerances_are_of_rows_that_are_counted() -> None:
    assert gate.tolerance(NAME) == gate.TOLERANCE
    names = [f"{front_end} {peer} {load}" for front_end, peer, loads in gate.ROWS for load in loads]
    for begin, share in gate.TOLERANCES.items():
        found = [name for name in names if name.startswith(begin)]
        assert found
        assert all(gate.tolerance(name) == share > gate.TOLERANCE for name in found)


def test_differences() -> None:
    assert gate.differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == {
        "b": ("2", "3"),
        "c": ("-", "4"),
    }


@pytest.mark.parametrize(
    ("differing", "concerned"),
    [
        ([], []),
        (
            ["python"],
            ["uvloop wsapi opening", "trio wsapi opening", "engine wsapi deflate-echo-1k"],
        ),
        (["uvloop"], ["uvloop wsapi opening"]),
        (["trio", "uvloop"], ["uvloop wsapi opening", "trio wsapi opening"]),
        (["isal"], ["engine wsapi deflate-echo-1k"]),
    ],
)
def test_what_versions_concern(differing: list[str], concerned: list[str]) -> None:
    names = ["uvloop wsapi opening", "trio wsapi opening", "engine wsapi deflate-echo-1k"]
    assert [name for name in names if gate.concerned(name, differing)] == concerned


@pytest.mark.parametrize(("now", "status"), [(102.0, 0), (103.0, 1)])
def test_a_rise_fails(
    now: float, status: int, counted: Counted, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted.now = [now]
    assert run(file) == status
    assert ("RISES" in line(capsys)) == bool(status)


def test_a_rise_is_counted_again(counted: Counted, file: Path) -> None:
    counted.now = [110.0, 101.0]
    assert run(file) == 0
    assert len(counted.calls) == 2


def test_a_fall_asks_for_an_update(
    counted: Counted, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted.now = [90.0]
    assert run(file) == 0
    assert "INSTRUCTIONS=--update" in capsys.readouterr().out


def test_other_versions_without_history(
    counted: Counted,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "revision", lambda file: None)
    other_versions(file, python="3.13.0")
    counted.now = [200.0]
    assert run(file) == 0
    printed = capsys.readouterr().out
    assert "other version of python: here 3.11.7; the file's 3.13.0" in printed
    assert "ARE NOT JUDGED" in printed


@pytest.mark.parametrize(("before", "status"), [(199.0, 0), (150.0, 1)])
def test_other_versions_with_history(
    before: float, status: int, counted: Counted, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's revision is counted here, and its figures take the place of the file's."""
    monkeypatch.setattr(gate, "revision", lambda file: "0123456789abcdef")
    monkeypatch.setattr(gate, "compiled", compiled)
    other_versions(file, python="3.13.0")
    counted.now, counted.before = [200.0], before
    assert run(file) == status
    assert ("uvloop", "wsapi", ("in-flight-64",), Path("elsewhere")) in counted.calls


@contextlib.contextmanager
def compiled(revision: str) -> Iterator[Path]:
    assert revision == "0123456789abcdef"
    yield Path("elsewhere")


def test_a_revision_to_compare_with(
    counted: Counted, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "compiled", compiled)
    counted.before = 50.0
    assert run(file, "--base", "0123456789abcdef") == 1


def test_versions_that_do_not_matter(
    counted: Counted, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a look at the history: what they concern isn't counted."""
    other_versions(file, trio="0.1")
    counted.now = [110.0]
    assert run(file) == 1
    assert "NOT JUDGED" not in capsys.readouterr().out


def test_update(counted: Counted, file: Path) -> None:
    counted.now = [123.4]
    assert run(file, "--update") == 0
    document = json.loads(file.read_text())
    assert document["versions"] == HERE
    assert document["figures"][NAME] == 123
    assert run(file, "--update", only="trio") == 0
    assert set(document["figures"]) < set(json.loads(file.read_text())["figures"])


def test_update_forgets_figures_of_other_versions(counted: Counted, file: Path) -> None:
    other_versions(file, python="3.13.0")
    assert run(file, "--update", only="trio") == 0
    assert NAME not in json.loads(file.read_text())["figures"]


def test_a_server_that_fails(
    counted: Counted,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError("no")

    monkeypatch.setattr(instructions, "instructions", fail)
    assert run(file) == 1
    assert "benchmark aborted: no" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--jobs", "x"]])
def test_arguments(arguments: list[str], counted: Counted) -> None:
    with pytest.raises(SystemExit):
        gate.main(arguments)


def test_versions_are_told() -> None:
    found = gate.versions()
    assert found["python"]
    assert found["libc"]
    assert found["processor"]
    assert gate.differences(found, gate.versions()) == {}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a file of figures in its first revision, and a second revision."""
    git(tmp_path, "init", "-q")
    (tmp_path / "figures.json").write_text("{}")
    (tmp_path / "setup.py").write_text("open('compiled', 'w').close()")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "second")
    monkeypatch.setattr("benchmarks.process.ROOT", tmp_path)
    return tmp_path


@pytest.mark.skipif(gate.shutil.which("git") is None, reason="git isn't installed")
def test_revision_of_the_file(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD~1").strip()
    assert gate.revision(repository / "figures.json") == first
    assert gate.revision(repository / "unknown.json") is None
    with gate.compiled(first) as source:
        assert (source / "a.py").exists()
        assert (source.parent / "compiled").exists()
    assert not source.exists()
    (repository / ".git" / "shallow").write_text("")
    assert gate.revision(repository / "figures.json") is None


@pytest.mark.skipif(gate.shutil.which("git") is None, reason="git isn't installed")
def test_a_revision_that_is_not_there(repository: Path) -> None:
    with pytest.raises(subprocess.SubprocessError), gate.compiled("no-such-revision"):
        pass


def test_the_file_has_all_figures() -> None:
    document = json.loads(gate.FILE.read_text(encoding="utf-8"))
    names = {f"{front_end} {peer} {load}" for front_end, peer, loads in gate.ROWS for load in loads}
    assert set(document["figures"]) == names
    assert set(document["versions"]) == set(gate.versions())
