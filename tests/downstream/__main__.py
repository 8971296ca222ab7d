"""Run tests of programs that others wrote, with the packages they use and with ours instead.

    python -m tests.downstream [--only NAME ...] [--directory DIRECTORY]

For each project in ``projects.toml`` this makes an environment, takes the tests from its source
distribution, and runs them twice: with ``websockets`` and ``wsproto``, and with ours under their
names. Programs of our own that use a project's API, in ``programs/``, are run the same way; one
passes if it prints the same with both. A table tells how many pass; what fails with ours only has
to have a reason in ``reasons.toml``. Nothing of others is kept but in the directory,
``build/downstream`` by default.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
SRC = HERE.parents[1] / "src"
# What each run may take, in seconds.
INSTALLING = 900
TESTING = 900
PROGRAM = 60
# Of the tests that pass with the others' packages, so many must pass with ours.
WANTED = 0.998
# How a program is run with ours.
ALIAS = ["-m", "wsapi", "run", "--as", "websockets,wsproto", "--"]


@dataclass
class Project:
    """A project whose tests are run.

    Args:
        name: Name in this list.
        version: Version of the project.
        tests: Files or directories with the tests, in its source distribution.
        programs: Programs of our own that use it: patterns of names in ``programs/``.
        distribution: Name of the project, if it is another one.
        requires: What its tests need besides.
        options: Options of pytest.
        edit: For the run with ours: file, text, and text to replace it with.
        environment: Environment variables.
        counts: Whether its tests count among those of which nearly all must pass.
    """

    name: str
    version: str
    tests: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    distribution: str = ""
    requires: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    edit: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    counts: bool = True

    def __post_init__(self) -> None:
        self.distribution = self.distribution or self.name


def call(command: list[str], seconds: float, **options: Any) -> tuple[bool, str]:
    """Run a command for a limited time; return whether it succeeded, and its output."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **{"stderr": subprocess.STDOUT, **options},
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return False, output + f"\nstopped after {seconds} s"
    except BaseException:  # this process is to end
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode == 0, output


def prepare(project: Project, directory: Path) -> tuple[Path, Path]:
    """Make the environment of a project, and unpack it; return Python and the directory.

    Raises:
        RuntimeError: If that fails.
    """
    home = directory / f"{project.distribution}-{project.version}"
    python, source = home / "venv" / "bin" / "python", home / "source"
    requirement = f"{project.distribution}=={project.version}"
    if not (home / "ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        pip = [str(python), "-m", "pip"]
        name = requirement.split("=")[0].split("[")[0]
        download = ["download", "-q", "--no-deps", "--no-binary", name, "-d", str(home)]
        needed = ["pytest", "pytest-timeout", requirement, *project.requires]
        commands = [
            [sys.executable, "-m", "venv", str(home / "venv")],
            [*pip, "install", "-q", *needed],
            [*pip, *download, f"{name}=={project.version}"],
        ]
        for command in commands if project.tests else commands[:2]:
            done, output = call(command, INSTALLING)
            if not done:
                raise RuntimeError(f"{' '.join(command)}:\n{output[-2000:]}")
        if project.tests:
            (archive,) = home.glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(home, filter="data")
            (unpacked,) = [path for path in home.iterdir() if path.is_dir() and path.name != "venv"]
            unpacked.rename(source)
        (home / "ready").touch()
    return python, source


def outcomes(report: Path) -> dict[str, str]:
    """Return what became of each test, as a report of pytest tells."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = (
            "failed"
            if kinds & {"failure", "error"}
            else "skipped"
            if "skipped" in kinds
            else "passed"
        )
    return found


def programs_of(project: Project) -> list[Path]:
    """Return the programs of a project."""
    return sorted(path for pattern in project.programs for path in PROGRAMS.glob(pattern))


def compare(python: Path, program: Path) -> tuple[str, str, str]:
    """Run a program with theirs and with ours; return what became of both, and what differs.

    What it writes on standard error is shown if it fails, and not compared.
    """
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    results, told = [], []
    for alias in ([], ALIAS):
        with tempfile.TemporaryFile("w+") as errors:
            command = [str(python), *alias, str(program)]
            done, output = call(command, PROGRAM, env=environment, stderr=errors)
            errors.seek(0)
            results.append((done, output))
            told.append(output if done else f"{output}\n{errors.read()[-1000:]}")
    theirs = "passed" if results[0][0] else "failed"
    ours = "passed" if results[0] == results[1] else "failed"
    lines = difflib.unified_diff(*(text.splitlines() for text in told), n=0, lineterm="")
    return theirs, ours, "\n".join(lines)


def run(
    project: Project, python: Path, source: Path, *, ours: bool, again: bool = False
) -> tuple[dict[str, str], str]:
    """Run the tests of a project, or those that failed; return their outcomes, and the output."""
    report = source.parent / f"{'ours' if ours else 'theirs'}.xml"
    report.unlink(missing_ok=True)
    alias = ALIAS if ours else []
    options = ["-o", "addopts=", "-q", "--timeout=60", "--rootdir=."]
    options += ["-o", f"cache_dir={source.parent / report.stem}", *(["--lf"] if again else [])]
    command = [str(python), *alias, "-m", "pytest", *options, f"--junitxml={report}"]
    command += [*project.options, *project.tests]
    environment = {**os.environ, "PYTHONPATH": str(SRC), **project.environment}
    before = {}
    try:
        for file, text, replacement in project.edit if ours else ():
            path = source / file
            before.setdefault(path, path.read_text())
            if text not in path.read_text():
                raise RuntimeError(f"{file} has no {text!r}")
            path.write_text(path.read_text().replace(text, replacement))
        _, output = call(command, TESTING, cwd=source, env=environment)
    finally:
        for path, content in before.items():
            path.write_text(content)
    return (outcomes(report) if report.exists() else {}), output


def run_both(
    project: Project, python: Path, source: Path
) -> tuple[dict[str, str], dict[str, str], str]:
    """Run the tests of a project with theirs and with ours; return the outcomes, and the output.

    Raises:
        RuntimeError: If no test runs with theirs.
    """
    if not project.tests:
        return {}, {}, ""
    theirs, output = run(project, python, source, ours=False)
    if not theirs:
        raise RuntimeError(f"no test ran:\n{output[-2000:]}")
    ours, output = run(project, python, source, ours=True)
    if "failed" in ours.values():
        # Some tests of others depend on how busy the machine is.
        again, _ = run(project, python, source, ours=True, again=True)
        ours |= {name: outcome for name, outcome in again.items() if outcome == "passed"}
    return theirs, ours, output


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.downstream", description=__doc__)
    parser.add_argument("--only", action="append", help="run the tests of this project")
    parser.add_argument("--directory", type=Path, default=HERE.parents[1] / "build" / "downstream")
    arguments = parser.parse_args()
    listed = tomllib.loads((HERE / "projects.toml").read_text())["project"]
    reasons = tomllib.loads((HERE / "reasons.toml").read_text()).get("reason", [])
    rows: list[tuple[str, int, int, int]] = []
    apart: list[tuple[str, int, int, int]] = []
    complaints: list[str] = []
    unexplained = 0
    for project in (Project(**item) for item in listed):
        if arguments.only and project.name not in arguments.only:
            continue
        try:
            python, source = prepare(project, arguments.directory.resolve())
            theirs, ours, output = run_both(project, python, source)
        except (RuntimeError, OSError) as exc:
            complaints.append(f"{project.name}: {exc}")
            unexplained += 1
            continue
        for path in programs_of(project):
            name = f"programs::{path.name}"
            theirs[name], ours[name], difference = compare(python, path)
            if "failed" in (theirs[name], ours[name]):
                # Once more, if the machine was busy.
                theirs[name], ours[name], difference = compare(python, path)
            if theirs[name] == "failed":
                complaints.append(f"{project.name}: {name} fails with theirs:\n{difference}")
                unexplained += 1
            elif ours[name] == "failed":
                complaints.append(f"{project.name}: {name} differs:\n{difference}")
        passed = {name for name, outcome in theirs.items() if outcome == "passed"}
        kept = {name for name in passed if ours.get(name) == "passed"}
        row = (f"{project.name} {project.version}", len(theirs), len(passed), len(kept))
        (rows if project.counts else apart).append(row)
        if not ours:
            complaints.append(f"{project.name}: no test ran with ours:\n{output[-2000:]}")
        for name in sorted(passed - kept):
            reason = next(
                (
                    item["reason"]
                    for item in reasons
                    if item["project"] == project.name
                    and any(fnmatch.fnmatchcase(name, pattern) for pattern in item["tests"])
                ),
                None,
            )
            unexplained += reason is None
            complaints.append(
                f"{project.name}: {name}: {ours.get(name, 'missing')}: {reason or 'NO REASON'}"
            )
        print(*row, flush=True)
    print(f"\n{'project':32} {'tests':>7} {'theirs':>7} {'ours':>7}")
    total = ("all", *(sum(row[column] for row in rows) for column in (1, 2, 3)))
    for name, *numbers in (*rows, total, *apart):
        print(f"{name:32} {numbers[0]:7} {numbers[1]:7} {numbers[2]:7}")
    share = total[3] / total[2] if total[2] else 0.0
    print(f"\n{share:.2%} of what passes with theirs passes with ours\n")
    print("\n".join(complaints))
    return 1 if unexplained or share < WANTED else 0


if __name__ == "__main__":
    raise SystemExit(main())
