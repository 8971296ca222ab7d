"""The guide to the command line: its examples are run, and it has every option and status."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs import blocks
from wsapi.cli import COMMANDS, Parser
from wsapi.cli._terminal import Status

PAGE = "guides/command-line.md"
# Commands that run until they are told to end: what they print at first is compared.
SERVERS = ("wsapi serve",)
ELSEWHERE = ("bench", "check", "run")

pytestmark = [
    pytest.mark.skipif(PAGE not in blocks.pages(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="examples are for shells of Unix"),
]


def examples() -> Iterator[tuple[str, str]]:
    """Give each command of the page, and what it prints."""
    for block in blocks.blocks(PAGE):
        if block.language == "console":
            for part in re.split(r"(?m)^\$ ", block.text)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """Give an environment in which ``wsapi`` is this one."""
    program = folder / "wsapi"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsapi "$@"\n')
    program.chmod(0o755)
    yield {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with blocks.echo_server() as uri:
        yield int(uri.rpartition(":")[2].rstrip("/"))


@pytest.mark.parametrize("command, output", list(examples()))
def test_examples(command: str, output: str, port: int, folder: Path) -> None:
    number = str(blocks.free_port() if command in SERVERS else port)
    with environment(folder) as variables:
        if command in SERVERS:
            shown = first_lines(f"{command} -p {number}", output.count("\n"), folder, variables)
        else:
            shown = subprocess.run(
                ["sh", "-c", command.replace("8765", number)],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
                check=True,
            ).stdout
    expected = output.replace("8765", number)
    assert doctest.OutputChecker().check_output(expected, shown, doctest.ELLIPSIS), shown


def first_lines(command: str, count: int, folder: Path, variables: dict[str, str]) -> str:
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            return "".join(process.stdout.readline() for _ in range(count))
        finally:
            process.terminate()


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    from wsapi.cli._client import _new_parser

    yield "wsapi", _new_parser()
    for name in COMMANDS:
        if name not in ELSEWHERE:
            parser = Parser(prog=name)
            import_module(f"wsapi.cli._{name}").add_arguments(parser)
            yield name, parser


def test_options() -> None:
    """The page has every option, and no others."""
    text = blocks.path_of(PAGE).read_text(encoding="utf-8")
    shown = set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z0-9-]*", text))
    there = {
        option
        for _, parser in parsers()
        for action in parser._actions
        for option in action.option_strings
    }
    hidden = {"-h", "--help", "--version", "-o", "--output"}
    assert there - shown - hidden == set()
    unknown = {option for option in shown if option.startswith("--")} - there
    assert unknown == set()


def test_commands() -> None:
    text = blocks.path_of(PAGE).read_text(encoding="utf-8")
    for name in COMMANDS:
        if name != "bench":  # it has its own page
            assert f"`wsapi {name}`" in text


def test_statuses() -> None:
    text = blocks.path_of(PAGE).read_text(encoding="utf-8")
    table = text.partition("### Exit status")[2].partition("```")[0]
    assert [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", table)] == sorted(Status)


def test_words_of_errors() -> None:
    """Those of JSON are the ones that errors can have."""
    text = blocks.path_of(PAGE).read_text(encoding="utf-8")
    paragraph = text.partition("The words are ")[2].partition("\n\n")[0]
    words = set(re.findall(r"`([a-z]+)`", paragraph))
    folder = Path(sys.modules["wsapi.cli"].__file__ or "").parent
    sources = "".join(
        (folder / f"_{name}.py").read_text(encoding="utf-8")
        for name in ("failures", "input", "options", "session")
    )
    kinds = {status.name.lower() for status in Status}
    kinds |= set(re.findall(r'"([a-z]+)"', sources))
    assert words <= kinds
