"""wsapi bench in this process."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from wsapi.cli import Parser, _bench, main

TIMEOUT = 50
SHORT = ("--duration", "0.2", "--warmup", "0.1")


def parse(*arguments: str) -> Any:
    parser = Parser(prog="wsapi bench")
    _bench.add_arguments(parser)
    return parser.parse_args(arguments)


def bench(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run the command in this process; return its status, and what it tells."""
    status = main(["bench", *arguments, "--json"])
    output = capsys.readouterr().out
    return status, json.loads(output) if output else {}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsapi", "bench", *arguments]
