"""Imported by each Python process that ``python -m wsapi run`` starts, before anything else.

A failure ends the process: without the aliases it would run on other packages than was asked for.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _install() -> None:
    names = os.environ.get("WSAPI_RUN_AS")
    if not names:
        return
    try:
        from wsapi._run import install_aliases
    except ModuleNotFoundError as exc:
        # An interpreter of another environment, started by the program.
        print(f"{sys.executable}: not on {names} of wsapi: {exc}", file=sys.stderr)
        return
    try:
        install_aliases(names)
    except (ImportError, RuntimeError, ValueError) as exc:
        raise SystemExit(f"python -m wsapi run: {exc}") from exc


def _next() -> None:
    """Import the module of this name that would have been imported without this one."""
    here = Path(__file__).parent
    spec = PathFinder.find_spec(
        "sitecustomize", [entry for entry in sys.path if Path(entry or ".") != here]
    )
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_install()
if __name__ == "sitecustomize":
    _next()
