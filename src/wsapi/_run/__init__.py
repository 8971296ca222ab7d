"""``python -m wsapi run``: programs that can't be edited, on the packages of this distribution.

The program and the Python processes that it starts must have the aliases before their first import.
So they find a module of ours that Python imports when it starts, ``sitecustomize`` in ``startup/``,
and the names of the aliases in the environment. The program itself isn't touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

__all__ = ["ALIASES", "VARIABLE", "install_aliases", "run"]

VARIABLE = "WSAPI_RUN_AS"
"""Environment variable with the names of the aliases, separated by commas."""

STARTUP = Path(__file__).parent / "startup"

ALIASES: Mapping[str, tuple[str, str]] = {
    "websockets": ("wsapi", "install_as_websockets"),
    "wsproto": ("wsproto_fast", "install_as_wsproto"),
}
"""Packages to replace, each with the module and the function that do it."""


def parse_aliases(names: str) -> list[str]:
    """Return the names in a list separated by commas.

    Raises:
        ValueError: If one isn't a package that can be replaced, or if there are none.
    """
    aliases = [name for name in map(str.strip, names.split(",")) if name]
    for name in aliases:
        if name not in ALIASES:
            raise ValueError(f"can't stand in for {name!r}: choose from {', '.join(ALIASES)}")
    if not aliases:
        raise ValueError("no packages given: choose from " + ", ".join(ALIASES))
    return aliases


def install_aliases(names: str) -> None:
    """Install aliases.

    Args:
        names: Packages to replace, separated by commas.

    Raises:
        ValueError: If one of them can't be replaced.
        RuntimeError: If one of them was imported before.
    """
    for name in parse_aliases(names):
        module, function = ALIASES[name]
        getattr(import_module(module), function)()


def find_command(command: Sequence[str]) -> list[str]:
    """Return the arguments of the process that runs a command.

    Args:
        command: ``-m module``, a Python file, or a program, and its arguments.

    Raises:
        FileNotFoundError: If there is no such program.
    """
    program, *arguments = command
    if program == "-m" or program.endswith(".py"):
        return [sys.executable, *command]
    # Programs installed beside this interpreter are the ones that it can import, too.
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise FileNotFoundError(f"no such program: {program}")
    if _is_python(Path(found)):
        return [sys.executable, found, *arguments]
    return [found, *arguments]


def _is_python(program: Path) -> bool:
    """Tell whether a program is a script for Python: this one runs it, which has the packages."""
    with program.open("rb") as file:
        # Behind a long path there is a line for the shell, which starts Python.
        return file.read(2) == b"#!" and b"python" in file.readline(512) + file.readline(512)


def run(aliases: Sequence[str], command: Sequence[str]) -> int:
    """Run a command with aliases in place of this process, or as a child of it where it has to be.

    Args:
        aliases: Packages to replace.
        command: ``-m module``, a Python file, or a program, and its arguments.

    Returns:
        The command's exit status.

    Raises:
        FileNotFoundError: If there is no such program.
    """
    arguments = find_command(command)
    environment = os.environ.copy()
    environment[VARIABLE] = ",".join(aliases)
    paths = [str(STARTUP), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":  # pragma: no branch: on Windows
        os.execve(arguments[0], arguments, environment)
    # There, a process that replaces itself leaves its parent without a child to wait for.
    return subprocess.call(arguments, env=environment)  # pragma: no cover: on Windows
