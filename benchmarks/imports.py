"""Cost of imports: ``python -m benchmarks.imports``; see README.md.

Each module is imported in fresh processes: once under ``valgrind --tool=callgrind``, which counts
instructions and hardly depends on what else the machine does, and some times for processor time, of
which the least counts. What an interpreter takes that imports nothing is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from . import process

# Those that are alike stand together.
MODULES: Final = (
    "asyncio",
    "wsapi.asyncio.client",
    "websockets.asyncio.client",
    "wsapi.asyncio.server",
    "websockets.asyncio.server",
    "wsapi.sync.client",
    "websockets.sync.client",
    "wsapi.trio.client",
    "websockets.trio.client",
    "aiohttp",
)
ROUNDS: Final = 10


def run(*command: str) -> str:
    """Run a process to its end, with the same hashes each time; return what it prints."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages have bytecode
    return subprocess.run(
        command, cwd=process.ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def instructions(code: str) -> int:
    """Return the instructions of a process that runs some code, in user space."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder, "callgrind.out")
        tool = ("--tool=callgrind", "-q", f"--callgrind-out-file={profile}")
        run("valgrind", *tool, sys.executable, "-c", code)
        found = re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("valgrind wrote no total")
    return int(found[1])


def milliseconds(module: str, rounds: int) -> float:
    """Return the least processor time of importing a module, the kernel's included."""
    clock = "time.process_time()"
    code = f"import time; begin = {clock}; import {module}; print({clock} - begin)"
    return min(float(run(sys.executable, "-c", code)) for _ in range(rounds)) * 1e3


def main(arguments: list[str] | None = None) -> int:
    """Import, and print a table."""
    parser = argparse.ArgumentParser(description="Tell what imports cost, beside other libraries.")
    parser.add_argument("module", nargs="*", help=f"default: {', '.join(MODULES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="for the time (default: 10)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        parser.error("valgrind isn't installed")
    figures: dict[str, dict[str, float]] = {}
    nothing = instructions("pass")
    for module in options.module or MODULES:
        try:
            run(sys.executable, "-c", f"import {module}")  # so that it is compiled by now
            millions = (instructions(f"import {module}") - nothing) / 1e6
            time = milliseconds(module, options.rounds)
        except (subprocess.CalledProcessError, ValueError) as exc:
            print(f"benchmark aborted: {module}: {exc}", file=sys.stderr)
            return 1
        figures[module] = {"million_instructions": millions, "milliseconds": time}
        print(f"{module:28} {millions:8.1f} million instructions {time:8.1f} ms", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
