"""Where the compiled modules come from: all of them are in one shared object, ``_compiled``.

One file is smaller than many that have much in common, and quicker to load. Python finds a module
in a file of another name only if it is told to, which the finder below does for the modules listed
here, when nobody else has found them. Importing this module installs it.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__all__ = ["COMPILED", "MODULES"]

PACKAGE = __name__.rpartition(".")[0]
COMPILED = f"{PACKAGE}._compiled"
MODULES = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("_backlog", "_client", "_compressor", "_deflate", "_endpoint", "_frames", "_handshake"),
        *("_http11", "_http11_response", "_inflater", "_keepalive", "_listener", "_output"),
        *("_pacing", "_parser", "_protocol", "_queue", "_rates", "_receiver", "_sender", "_server"),
        *("_settings", "_shared", "_statistics"),
        *("drivers._inbox", "drivers._sharing", "drivers._socket_calls", "drivers._timers"),
        *("drivers._transports", "drivers._wire", "drivers.asyncio", "drivers.clocked"),
        *("drivers.coroutines", "drivers.schedule", "drivers.threads", "drivers.tls"),
        *("wsproto._connection", "wsproto._events", "wsproto._frame_events"),
    )
)


class Loader(ExtensionFileLoader):
    """Loads one of the modules, where that can be done."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, not initialized.

        Raises:
            ImportError: If this isn't the interpreter of the process that has the modules; or for
                any other reason.
        """
        try:
            return super().create_module(spec)
        except ImportError as exc:
            # What the modules have of their own in C exists once in a process. What refuses to
            # load them twice is Python, from 3.12 on, or the code that Cython makes.
            if "interpreter" not in str(exc):
                raise
            raise ImportError(
                f"the compiled part of {PACKAGE} works in one interpreter of a process, which is "
                "to be the main one: use threads or processes instead of subinterpreters",
                name=self.name,
                path=self.path,
            ) from exc


class Finder:
    """Finds the modules that are in the shared object."""

    def __init__(self) -> None:
        self._file: str | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a compiled module is; None for any other.

        Raises:
            ImportError: If the shared object isn't there; the text says what is there instead.
        """
        if name not in MODULES:
            return None
        if self._file is None:
            found = find_spec(COMPILED)
            if found is None or found.origin is None:
                raise ImportError(what_is_missing(), name=name)
            self._file = found.origin
        spec = ModuleSpec(name, Loader(name, self._file), origin=self._file)
        spec.has_location = True
        return spec


def what_is_missing() -> str:
    """Return which file isn't there, what is in its place, and what to do."""
    folder = Path(__file__).parent
    missing = f"the compiled part of {PACKAGE} is missing: no {folder / '_compiled'}"
    missing += EXTENSION_SUFFIXES[0]
    others = sorted(
        path.name for path in folder.glob("_compiled.*") if path.suffix in (".so", ".pyd")
    )
    if others:
        # Suffixes have the version, the platform, and the C library.
        missing += f", but {', '.join(others)}, for another Python or platform"
    if (folder / "_protocol.pyx").exists():
        return f"{missing}. This is a source tree: compile it by 'make', or 'pip install .'"
    if hasattr(sys, "frozen"):
        return f"{missing}. Freeze the program with the hidden import {COMPILED}"
    return (
        f"{missing}. Install the package by '{sys.executable} -m pip install --force-reinstall "
        "wsproto-fast', which chooses the wheel for this Python"
    )


sys.meta_path.append(Finder())
