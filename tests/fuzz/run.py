"""Runs one target under Atheris: python -m tests.fuzz.run NAME [libFuzzer's options and folders].

With files instead of folders, it runs the target on those inputs, for which no Atheris is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fuzz.corpora import load_target


def main(name: str, arguments: list[str]) -> None:
    if arguments and all(Path(argument).is_file() for argument in arguments):
        target = load_target(name)
        for argument in arguments:
            target.one_input(Path(argument).read_bytes())
        return
    import atheris

    with atheris.instrument_imports(include=["wsproto_fast", "wsapi"]):
        target = load_target(name)
    # libFuzzer starts itself again to merge corpora.
    command = os.environ.get("FUZZ_COMMAND", sys.argv[0])
    atheris.Setup([command, *arguments], target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
