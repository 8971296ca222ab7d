"""The lists of `make downstream`, which itself isn't run here, but for a few of its programs."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from tests.downstream.__main__ import HERE, PROGRAMS, Project, compare, programs_of


def test_lists_are_well_formed() -> None:
    projects = [
        Project(**item) for item in tomllib.loads((HERE / "projects.toml").read_text())["project"]
    ]
    names = [project.name for project in projects]
    assert len(set(names)) == len(names)
    assert all(project.tests or project.programs for project in projects)
    programs = [path for project in projects for path in programs_of(project)]
    assert sorted(programs) == sorted(PROGRAMS.rglob("*.py"))
    for reason in tomllib.loads((HERE / "reasons.toml").read_text())["reason"]:
        assert reason.keys() == {"project", "tests", "reason"}
        assert reason["project"] in names


@pytest.mark.parametrize("name", ["chat", "legacy_protocol", "mocks", "sans_io_sockets"])
def test_program_does_the_same(name: str) -> None:
    assert compare(Path(sys.executable), PROGRAMS / f"{name}.py") == ("passed", "passed", "")


def test_programs_that_differ_are_told(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import websockets; print('same'); print(websockets.connect.__module__)")
    theirs, ours, difference = compare(Path(sys.executable), program)
    assert (theirs, ours) == ("passed", "failed")
    assert difference.splitlines()[-2:] == ["-websockets.asyncio.client", "+wsapi.asyncio.client"]
    program.write_text("raise SystemExit(3)")
    assert compare(Path(sys.executable), program)[:2] == ("failed", "passed")
