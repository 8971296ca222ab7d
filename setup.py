"""Lists the Cython modules, their directives, and how they become one extension.

Each module is compiled by itself. All of them are linked to one shared object, `_compiled`, from
which `wsproto_fast._loading` takes them: one file is opened instead of 35, what the linker has to
look up is looked up once, and what Cython's modules have in common is there once (`_shared`, which
Cython generates). Everything else is in pyproject.toml.

Environment variables, for development:

WSPROTO_FAST_COVERAGE=1                     trace lines, for coverage's Cython plugin
WSPROTO_FAST_SANITIZE=address,undefined     compile with these sanitizers and debug information
WSPROTO_FAST_FORCE=1                        compile all again, whatever the timestamps say
WSPROTO_FAST_QUICK=1                        compile without optimisation, for `make mutants`
WSPROTO_FAST_SYMBOLS=1                      keep the names of functions, for profiles
WSPROTO_FAST_SKIP_EXTENSIONS=1              leave the extensions out
"""

import gzip
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.modified import newer_group

SOURCES = Path("src")
KERNELS = SOURCES / "wsproto_fast"
SHARED = "wsproto_fast._shared"


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


COVERAGE = switched_on("WSPROTO_FAST_COVERAGE")
SANITIZE = os.environ.get("WSPROTO_FAST_SANITIZE", "")
QUICK = switched_on("WSPROTO_FAST_QUICK")
SYMBOLS = switched_on("WSPROTO_FAST_SYMBOLS")
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

# What each message passes through.
HOT = {
    f"wsproto_fast.{name}"
    for name in (
        *("_compressor", "_inflater", "_output", "_parser", "_protocol", "_queue", "_receiver"),
        "_sender",
        *("drivers._inbox", "drivers._socket_calls", "drivers._transports", "drivers._wire"),
        *("drivers.asyncio", "drivers.coroutines", "drivers.threads"),
    )
}
# What some messages pass through, or what goes with many.
WARM = {
    f"wsproto_fast.{name}"
    for name in (
        *("_backlog", "_deflate", "_endpoint", "_frames", "_handshake", "_http11", "_keepalive"),
        *("_pacing", "_rates", "_server", "_settings"),
        *("drivers._sharing", "drivers.schedule", "drivers.tls", "wsproto._frame_events"),
    )
}


def optimized(name: str) -> list[str]:
    """Return the options for a module; what is in neither set is compiled for size."""
    if os.name == "nt":
        return ["/O2" if name in HOT | WARM else "/O1"]
    if name in HOT:
        return ["-O3"]
    # Of what -O3 adds, most is size; loops over payloads need its vectors.
    return ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"] if name in WARM else ["-Os"]


def module(name: str, source: Path) -> Extension:
    macros: list[tuple[str, str | None]] = []
    if COVERAGE:
        macros.append(("CYTHON_TRACE_NOGIL", "1"))
        if sys.version_info >= (3, 13):
            macros.append(("CYTHON_USE_SYS_MONITORING", "0"))
    if SANITIZE:
        compile_args = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    elif COVERAGE and os.name != "nt":
        compile_args = ["-O1", "-g0"]  # traced code is slow anyhow, and large
    elif QUICK and os.name != "nt":
        compile_args = ["-O0", "-g0"]
    else:
        compile_args = optimized(name)
        if os.name != "nt":
            # No exception of C++ passes here, so that nobody has to unwind these frames.
            compile_args += ["-g0", "-fvisibility=hidden", "-fno-asynchronous-unwind-tables"]
    return Extension(
        name,
        [source.as_posix()],
        depends=[path.as_posix() for path in sorted(KERNELS.glob("*.h"))],
        include_dirs=[KERNELS.as_posix()],
        define_macros=macros,
        extra_compile_args=compile_args,
    )


def link_args() -> list[str]:
    if SANITIZE:
        return [f"-fsanitize={SANITIZE}"]
    if os.name == "nt" or COVERAGE or SYMBOLS:
        return []
    return ["-Wl,-x"] if sys.platform == "darwin" else ["-Wl,-s"]  # no names of local symbols


class OneExtension(build_ext):
    """Compile each module, if it has changed, and link them."""

    def build_extension(self, ext: Extension) -> None:
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
            objects = list(pool.map(self.compile_module, modules))
        path = self.get_ext_fullpath(ext.name)
        if self.force or SYMBOLS or newer_group(objects, path):
            self.compiler.link_shared_object(
                objects,
                path,
                libraries=self.get_libraries(ext),
                extra_postargs=ext.extra_link_args,
                export_symbols=["PyInit_" + part.name.rpartition(".")[2] for part in modules],
                debug=self.debug,
                build_temp=self.build_temp,
                target_lang="c",
            )

    def compile_module(self, part: Extension) -> str:
        [compiled] = self.compiler.object_filenames(part.sources, output_dir=self.build_temp)
        if self.force or newer_group([*part.sources, *part.depends], compiled):
            self.compiler.compile(
                part.sources,
                output_dir=self.build_temp,
                macros=part.define_macros,
                include_dirs=part.include_dirs,
                debug=self.debug,
                extra_postargs=part.extra_compile_args,
                depends=part.depends,
            )
        return compiled


class Sdist(sdist):
    """Write the same archive of the same files, if SOURCE_DATE_EPOCH says which time it has."""

    def make_archive(
        self, base_name: Any, format: str, root_dir: Any = None, base_dir: Any = None, **owner: Any
    ) -> str:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar" or root_dir is not None:
            return super().make_archive(base_name, format, root_dir, base_dir, **owner)
        target = Path(f"{base_name}.tar.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        with gzip.GzipFile(target, "wb", mtime=int(epoch)) as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for path in sorted(Path(base_dir).rglob("*")):
                    archive.add(path, recursive=False, filter=anonymous)
        return str(target)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = int(os.environ["SOURCE_DATE_EPOCH"])
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def shared_module(build_dir: str | None) -> Extension:
    """Generate the module that has what all others would have each for itself.

    cythonize() does so, too, but under a name without a package.
    """
    path = Path(build_dir or "", KERNELS, "_shared.c")
    first_line = f"/* Generated by Cython {Cython.__version__} */\n"
    if FORCE or not path.exists() or not path.read_text("utf-8").startswith(first_line):
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ("-m", "cython", "generate-shared", "--module-name", SHARED, str(path))
        subprocess.run([sys.executable, *command], check=True)
    return module(SHARED, path)


arguments: dict[str, Any] = {"cmdclass": {"sdist": Sdist}}
if not switched_on("WSPROTO_FAST_SKIP_EXTENSIONS"):
    # The coverage plugin looks for the C files beside their sources.
    build_dir = None if COVERAGE else f"build/cython-{sys.implementation.cache_tag}"
    sources = sorted(SOURCES.rglob("*.pyx"))
    modules = cythonize(
        [module(".".join(s.relative_to(SOURCES).with_suffix("").parts), s) for s in sources],
        build_dir=build_dir,
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name=SHARED,
        force=FORCE,
    )
    modules.append(shared_module(build_dir))
    arguments = {
        "ext_modules": [Extension("wsproto_fast._compiled", [], extra_link_args=link_args())],
        "cmdclass": {"build_ext": OneExtension, "sdist": Sdist},
        "options": {"build_ext": {"force": True}} if FORCE else {},
    }
setup(**arguments)
