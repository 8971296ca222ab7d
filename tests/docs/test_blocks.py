"""All blocks of code in README.md and docs/: snippets are executed, programs have a test each."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import socket
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.blocks import ROOT, Block

PAGES = blocks.pages()
SHELLS = ("sh", "shell", "bash", "console")
TESTS = ROOT / "tests"
EXAMPLES = ROOT / "tests" / "wsapi" / "test_examples.py"

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the documents are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="snippets are ended by signals"),
]


def with_blocks(condition: object) -> list[str]:
    return [page for page in PAGES if any(map(condition, blocks.blocks(page)))]


@pytest.mark.parametrize("page", with_blocks(lambda block: block.is_snippet))
def test_snippets(page: str, tmp_path: Path) -> None:
    assert blocks.execute(page, tmp_path)


# ---------------------------------------------------------------------- programs


def claims() -> Iterator[tuple[str, str]]:
    """Give page and title of each call of program() in the tests."""
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        if "tests.docs" not in text or "program(" not in text:
            continue
        tree = ast.parse(text)
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or len(node.args) != 2:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name != "program":
                continue
            page, title = (
                constants.get(argument.id)
                if isinstance(argument, ast.Name)
                else getattr(argument, "value", None)
                for argument in node.args
            )
            if isinstance(page, str) and isinstance(title, str):
                yield page, title


def is_example(block: Block) -> bool:
    """Whether a block is a program of examples/, which is tested there."""
    return (
        len(block.includes) == 1
        and block.includes[0].startswith("examples/")
        and block.includes[0].removeprefix("examples/") in EXAMPLES.read_text(encoding="utf-8")
    )


def test_programs_have_tests() -> None:
    programs = {
        (page, block.title)
        for page in PAGES
        for block in blocks.blocks(page)
        if block.is_python and block.title is not None and not is_example(block)
    }
    claimed = set(claims())
    assert programs - claimed == set(), "write a test that calls blocks.program()"
    assert claimed - programs == set(), "tests of programs that aren't there"


@pytest.mark.parametrize("page", with_blocks(lambda block: block.is_python and block.title))
def test_programs_compile(page: str) -> None:
    for block in blocks.blocks(page):
        if block.is_python and block.title is not None:
            compile(block.text, block.place, "exec", dont_inherit=True)


# ---------------------------------------------------------------------- shell


def commands(text: str) -> Iterator[list[str]]:
    """Give the words of each simple command; without prompts, output, and assignments."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if re.fullmatch(r"[;&|]+", word):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def shell_commands(page: str) -> list[tuple[str, list[str]]]:
    return [
        (block.place, command)
        for block in blocks.blocks(page)
        if block.language in SHELLS
        for command in commands(block.text)
    ]


def verbs() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def extras() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


def wsapi_arguments(command: list[str]) -> list[str] | None:
    if command[0] == "wsapi":
        return command[1:]
    if command[0].startswith("python") and command[1:3] == ["-m", "wsapi"]:
        return command[3:]
    return None


class ParsedError(BaseException):
    """The command line is right; nothing is run."""


def check_wsapi(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command line can be parsed."""
    from wsapi import cli

    def stop(*args: object) -> None:
        raise ParsedError

    def stopping(parse: Callable[..., object]) -> Callable[..., None]:
        return lambda *args, **kwargs: stop(parse(*args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            parse = getattr(argparse.ArgumentParser, name)
            patch.setattr(argparse.ArgumentParser, name, stopping(parse))
        # However arguments are parsed, nothing is run: ``wsapi run`` would take this process.
        for name in cli.COMMANDS:
            patch.setattr(importlib.import_module(f"wsapi.cli._{name}"), "run", stop)
        try:
            status = cli.main(arguments)
        except ParsedError:
            return
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err


def check_program(page: str, name: str) -> None:
    titles = {block.title for block in blocks.blocks(page)}
    assert name in titles or (ROOT / name).exists(), f"no such program: {name}"


@pytest.mark.parametrize("page", with_blocks(lambda block: block.language in SHELLS))
def test_shell_commands(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = shell_commands(page)
    assert found
    for place, command in found:
        try:
            if command[0] == "make":
                words = [word for word in command[1:] if "=" not in word]
                assert set(words) <= verbs()
            elif (arguments := wsapi_arguments(command)) is not None:
                check_wsapi(arguments, capsys)
            elif "pip" in command[:3]:
                for word in command:
                    if named := re.fullmatch(r"(?:\.|wsproto-fast)\[([\w,]+)\]", word):
                        assert set(named[1].split(",")) <= extras()
            elif command[0].startswith("python"):
                for word in command[1:]:
                    if word.endswith(".py"):
                        check_program(page, word)
            for word in command:
                if named := re.fullmatch(r"(wsapi[\w.]*):(\w+)", word):
                    assert hasattr(importlib.import_module(named[1]), named[2])
        except AssertionError as exc:
            raise AssertionError(f"{place}: {shlex.join(command)}: {exc}") from exc


# ---------------------------------------------------------------------- the harness itself


def test_pages_leave_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import REGISTRY, generate_latest

    for run in ("first", "second"):
        folder = tmp_path / run
        folder.mkdir()
        blocks.execute("statistics.md", folder)
        assert b"wsapi_" not in generate_latest(REGISTRY)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_ports_are_free(family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            pytest.skip(f"there is no {address}")
        sock.listen()
        taken = sock.getsockname()[1]
        assert not blocks.is_free(taken)
        free = blocks.free_port()
        monkeypatch.setattr(blocks, "PORTS", [taken, free])
        assert {blocks.free_port() for _ in range(20)} == {free}


def test_ports_are_not_those_of_clients() -> None:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        pytest.skip("only Linux tells")
    assert blocks.free_port() < int(text.split()[0])


def page_of(text: str) -> list[Block]:
    return list(blocks._blocks("a.md", text.splitlines()))


def test_blocks_are_found() -> None:
    found = page_of(
        "# A\n\n<!-- setup:\nx = 1\n-->\n```python\ny = x\n```\n\n- item\n\n"
        '  ```python title="a.py"\n  z = 1\n\n  z\n  ```\n\n````md\n```python\n```\n````\n'
    )
    assert [(block.line, block.language, block.title, block.text) for block in found] == [
        (4, "python", None, "x = 1\n"),
        (7, "python", None, "y = x\n"),
        (13, "python", "a.py", "z = 1\n\nz\n"),
        (19, "md", None, "```python\n```\n"),
    ]
    assert [block.hidden for block in found] == [True, False, False, False]


def test_an_open_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a\.md:1: the fence"):
        page_of("```python\nx = 1\n")


def test_files_are_included() -> None:
    [block] = page_of('```python title="echo.py"\n--8<-- "examples/echo_server.py"\n```\n')
    assert block.text == (ROOT / "examples" / "echo_server.py").read_text(encoding="utf-8")
    assert block.includes == ("examples/echo_server.py",)
    assert is_example(block)
    with pytest.raises(ValueError, match="isn't there"):
        page_of('```python\n--8<-- "examples/nothing.py"\n```\n')


def run_blocks(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.md"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(blocks, "path_of", lambda page: path)
    blocks.execute("a.md", folder)


ECHO = """
<!-- setup:
address = uri
-->
```python
from wsapi.{module} import connect

{prefix}with connect(address) as connection:
    {await_}connection.send("Hello!")
    print({await_}connection.recv())
```
<!-- check:
assert printed() == "Hello!\\n"
-->
"""


@pytest.mark.parametrize("module", ["asyncio.client", "sync.client", "trio.client"])
def test_each_front_end(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = "" if module == "sync.client" else "await "
    prefix = "" if module == "sync.client" else "async "
    text = ECHO.format(module=module, await_=waits, prefix=prefix)
    run_blocks(text, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        run_blocks(text.replace('"Hello!\\n"', '""'), tmp_path, monkeypatch)


def test_companions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
<!-- setup:
import asyncio
seen = []
async def look():
    await until(lambda: "server" in globals())
    seen.append(server)
meanwhile(look(), end=True)
-->
```python
server = 1
await asyncio.Event().wait()
```
<!-- check:
assert seen == [1]
-->
"""
    run_blocks(text, tmp_path, monkeypatch)
    with pytest.raises(BaseExceptionGroup) as info:
        run_blocks(text.replace("append(server)", "nothing()"), tmp_path, monkeypatch)
    assert info.group_contains(AttributeError)


def test_failures_name_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError) as info:
        run_blocks("# A\n\n```python\n\n1 / 0\n```\n", tmp_path, monkeypatch)
    assert info.traceback[-1].lineno == 4  # from 0


def test_shell_words() -> None:
    text = "$ A=1 make test TESTS='-k a' && wsapi ws://x | cat\nout\n$ python a.py \\\n  b &\n"
    assert list(commands(text)) == [
        ["make", "test", "TESTS=-k a"],
        ["wsapi", "ws://x"],
        ["cat"],
        ["python", "a.py", "b"],
    ]


def test_unknown_options_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    check_wsapi(["--insecure", "ws://localhost"], capsys)
    with pytest.raises(AssertionError, match="nothing"):
        check_wsapi(["--nothing", "ws://localhost"], capsys)
