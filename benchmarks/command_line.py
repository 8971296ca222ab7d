"""What the command lines of measurements on event loops have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from . import peers


def parser(name: str, description: str | None, default: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser for peers, the loop, and the file for the results."""
    made = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    made.add_argument(
        "--peer",
        action="append",
        choices=[name for name, spec in peers.ON_LOOPS.items() if "plain" in spec.takes],
        help=f"default: {', '.join(default)}",
    )
    made.add_argument("--loop", choices=peers.LOOPS, default="uvloop")
    made.add_argument("--json", type=Path, help="write the results to this file")
    return made


def chosen_peers(
    parser: argparse.ArgumentParser, options: argparse.Namespace, default: Iterable[str]
) -> list[str]:
    """Return the names of the peers, all of which are installed; end the program otherwise."""
    names = options.peer or list(default)
    for name in names:
        if missing := peers.ON_LOOPS[name].missing:
            parser.error(f"{name}: {missing}")
    return names


def say(line: str) -> None:
    """Print what goes on, beside the results."""
    print(line, file=sys.stderr, flush=True)
