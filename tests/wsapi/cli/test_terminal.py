"""What commands tell: characters that are safe, errors, and streams that aren't there."""

from __future__ import annotations

import io
import multiprocessing
import sys
from typing import Any

import pytest

from tests.wsapi.cli.helpers import Cli
from wsapi import cli as package
from wsapi.cli._terminal import (
    CommandError,
    Status,
    colours,
    complain,
    is_terminal,
    optional,
    printable,
    use_safe_streams,
)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain é € 日本 🙂", "plain é € 日本 🙂"),
        ("\x1b[2J\x07\x7f\x9b", "\\x1b[2J\\x07\\x7f\\x9b"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("\u202e\u2028\ufeff\ue000", "\\u202e\\u2028\\ufeff\\ue000"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_printable_lines() -> None:
    assert printable("a\tb\r\nc\x1b", lines=True) == "a\tb\\r\nc\\x1b"


def test_statuses_are_told_apart() -> None:
    assert len({int(status) for status in Status}) == len(Status)


class TestErrors:
    def test_text(self) -> None:
        assert str(CommandError(Status.FAILURE, "what")) == "what"
        assert str(CommandError(Status.FAILURE, "what", "hint")) == "what (hint)"
        error = CommandError(Status.REFUSED, "what", code=1)
        assert (error.kind, error.details) == ("refused", {"code": 1})

    def test_complaint(self, capsys: pytest.CaptureFixture[str]) -> None:
        complain("a\nb", "\x1b")
        assert capsys.readouterr().err == "wsapi: a\\nb (\\x1b)\n"

    def test_nobody_to_complain_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = io.StringIO()
        closed.close()
        for stream in (None, closed):
            monkeypatch.setattr(sys, "stderr", stream)
            complain("what")


class Stream(io.StringIO):
    def isatty(self) -> bool:
        super().isatty()  # it may be closed
        return True


def test_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Stream()
    assert is_terminal(stream)
    assert colours(stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours(stream)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not colours(stream)
    stream.close()
    assert not is_terminal(stream)
    assert not is_terminal(None)
    assert not is_terminal(io.StringIO())


def test_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optional("json")
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not optional("rich")


def test_streams_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that calls this may have put its own there: they are left as they are."""
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", None)
    use_safe_streams()
    assert sys.stdout is mine
    assert sys.stderr is not None
    sys.stderr.close()


class TestMain:
    def test_output_that_cannot_be_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no descriptor is behind it, there is nothing to be done."""

        class Broken(io.StringIO):
            def flush(self) -> None:
                raise BrokenPipeError

        monkeypatch.setattr(sys, "stdout", Broken())
        assert package.main([]) == 141

    @pytest.mark.parametrize("frozen", [False, True])
    def test_frozen(self, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
        """In a frozen program, this is what ``multiprocessing`` starts in place of Python."""
        called: list[str] = []
        monkeypatch.setattr(multiprocessing, "freeze_support", lambda: called.append("frozen"))
        if frozen:
            monkeypatch.setattr(sys, "frozen", True, raising=False)
        assert package.main(["--version"]) == 0
        assert called == ["frozen"] * frozen

    def test_usage(self, cli: Cli) -> None:
        result = cli()
        assert (result.status, result.err) == (2, "")
        assert result.out == "usage: wsapi [options] URI\n       wsapi COMMAND [options] ...\n"

    def test_help_has_all_commands(self, cli: Cli) -> None:
        result = cli("--help")
        assert result.status == 0
        for name, does in package.COMMANDS.items():
            assert f"\n  {name} " in result.out
            assert does in result.out

    @pytest.mark.parametrize("name", package.COMMANDS)
    def test_help_of_commands(self, cli: Cli, name: str) -> None:
        result = cli(name, "--help")
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith(f"usage: wsapi {name} ")

    @pytest.mark.parametrize("name", package.COMMANDS)
    def test_wrong_arguments_of_commands(self, cli: Cli, name: str) -> None:
        result = cli(name, "--no-such-option")
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)

    def test_bug(self, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
        """It is told in one line, unless somebody looks for it."""

        def fail(arguments: list[str]) -> Any:
            raise ZeroDivisionError("oh\x1b")

        monkeypatch.setattr(package, "_main", fail)
        with pytest.raises(ZeroDivisionError):
            cli("x")
        monkeypatch.delenv("WSAPI_TRACEBACK")
        assert cli("x") == (
            1,
            "",
            "wsapi: unexpected error: ZeroDivisionError: oh\\x1b "
            "(this is a bug; WSAPI_TRACEBACK=1 shows where)\n",
        )

    def test_interrupted(self, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
        def interrupt(arguments: list[str]) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(package, "_main", interrupt)
        assert cli("x") == (130, "", "")
