"""Lists the Cython extensions and their directives. Everything else is in pyproject.toml.

Environment variables, for development:

WSPROTO_FAST_COVERAGE=1                     trace lines, for coverage's Cython plugin
WSPROTO_FAST_SANITIZE=address,undefined     compile with these sanitizers and debug information
WSPROTO_FAST_FORCE=1                        compile all again, whatever the timestamps say
WSPROTO_FAST_SKIP_EXTENSIONS=1              leave the extensions out
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = Path("src")
KERNELS = SOURCES / "wsproto_fast"


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


COVERAGE = switched_on("WSPROTO_FAST_COVERAGE")
SANITIZE = os.environ.get("WSPROTO_FAST_SANITIZE", "")
# Timestamps don't tell how a file was compiled.
FORCE = switched_on("WSPROTO_FAST_FORCE") or COVERAGE or bool(SANITIZE)

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "auto_pickle": False,
    "annotation_typing": False,  # annotations are for readers and stubs; subclasses of str pass
    "binding": True,
    "freethreading_compatible": True,
    "linetrace": COVERAGE,
}


def extension(source: Path) -> Extension:
    macros: list[tuple[str, str | None]] = []
    if COVERAGE:
        macros.append(("CYTHON_TRACE_NOGIL", "1"))
        if sys.version_info >= (3, 13):
            macros.append(("CYTHON_USE_SYS_MONITORING", "0"))
    compile_args = ["/O2"] if os.name == "nt" else ["-O3", "-g0"]
    link_args: list[str] = []
    if COVERAGE and os.name != "nt":
        compile_args = ["-O1", "-g0"]  # traced code is slow anyhow, and large
    if SANITIZE:
        compile_args = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
        link_args = [f"-fsanitize={SANITIZE}"]
    return Extension(
        ".".join(source.relative_to(SOURCES).with_suffix("").parts),
        [source.as_posix()],
        depends=[path.as_posix() for path in sorted(KERNELS.glob("*.h"))],
        include_dirs=[KERNELS.as_posix()],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


if switched_on("WSPROTO_FAST_SKIP_EXTENSIONS"):
    setup()
else:
    setup(
        ext_modules=cythonize(
            [extension(source) for source in sorted(SOURCES.rglob("*.pyx"))],
            # The coverage plugin looks for the C files beside their sources.
            build_dir=None if COVERAGE else f"build/cython-{sys.implementation.cache_tag}",
            compiler_directives=DIRECTIVES,
            force=FORCE,
        ),
        options={"build_ext": {"force": True}} if FORCE else {},
    )
