"""Break rules one by one, and see that tests fail: ``make mutants``.

Each mistake goes into a copy of the tree in ``build/mutants``, with what is compiled there. Of
that, only the module that has the mistake is compiled again, without optimisation, and linked to
the others. Then its tests run: they must fail. Before that, they must pass as long as there is no
mistake. Each copy belongs to a process that has Cython and pytest in memory, and forks to use them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from . import ROOT, Mutant, mutants

PROCESSES = multiprocessing.get_context("fork")
COPIED = ("src", "tests", "docs", "examples", "benchmarks", "demo", ".ci", ".github")
IGNORED = shutil.ignore_patterns("__pycache__", ".cache", "*.egg-info")
MADE = ROOT / "build" / "mutants"
BEGAN = int(time.time())
BUILD_TIMEOUT = 600.0
# A mistake may have a test wait for ever.
TEST_TIMEOUT = 300.0
# What most tests import, and takes longer than most tests.
IMPORTED = (
    *("pytest", "pytest_timeout", "_hypothesis_pytestplugin", "hypothesis.stateful"),
    *("asyncio", "ssl", "unittest.mock", "trio", "Cython.Compiler.Main"),
)
FAILED = 70  # exit status of what raises; pytest has others
OPTIONS = (
    *("-q", "--tb=line", "--no-header", "-p", "no:cacheprovider"),
    *("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
    *("-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # of what is imported already
)


def apart(function: Callable[..., int], *arguments: Any, timeout: float) -> tuple[int | None, str]:
    """Call a function in a process of its own; return its result, and what it prints.

    The result is less than 0 if a signal ends the process, and None if it takes too long.

    Args:
        function: What to call.
        arguments: Its arguments.
        timeout: Time that it has, in seconds.
    """
    with tempfile.TemporaryFile() as output:

        def run() -> None:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output.fileno())):
                os.dup2(file, number)
            os.dup2(1, 2)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            status = FAILED
            try:
                status = function(*arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

        process = PROCESSES.Process(target=run)
        process.start()
        assert process.pid is not None
        try:
            process.join(timeout)
            status = process.exitcode
        finally:
            # Programs that a test started and left, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        output.seek(0)
        return status, output.read().decode(errors="replace")


class Tree:
    """A copy of the repository that mistakes are made in, by a process that is for it alone.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes = 0
        self.names: dict[str, Any] = {}
        self.command: Any = None

    def copy(self) -> None:
        """Have it be what the repository is, compiled as that is."""
        self.path.mkdir()
        for path in ROOT.iterdir():
            if path.is_file() and path.name != ".coverage":
                shutil.copy2(path, self.path / path.name)
        for name in COPIED:
            shutil.copytree(ROOT / name, self.path / name, ignore=IGNORED)
        for pattern in ("cython-*", "temp.*"):
            for path in (ROOT / "build").glob(pattern):
                shutil.copytree(path, self.path / "build" / path.name)

    def enter(self) -> None:
        """Have this process be in it, and read what ``setup.py`` says about its modules."""
        os.chdir(self.path)
        os.environ["PYTHONPATH"] = str(self.path / "src")
        os.environ["WSPROTO_FAST_QUICK"] = "1"  # for setup.py
        os.environ["CI"] = "1"  # the same examples every time
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # which takes longer than most tests
        # Bytecode is good as long as times of files differ in seconds.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        if "CC" not in os.environ and shutil.which("ccache"):
            os.environ["CC"] = f"ccache {sysconfig.get_config_var('CC')}"
        sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
        sys.path[:0] = [str(self.path / "src"), str(self.path)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        for name in IMPORTED:
            importlib.import_module(name)

    def read_setup(self) -> None:
        """Read what ``setup.py`` says about the modules; bring up to date what isn't."""
        import setuptools

        given: dict[str, Any] = {}
        original = setuptools.setup
        setuptools.setup = given.update
        sys.argv = ["setup.py"]
        try:
            self.names = runpy.run_path("setup.py")
        finally:
            setuptools.setup = original
        distribution = setuptools.Distribution({**given, "script_name": "setup.py"})
        distribution.parse_config_files()
        self.command = distribution.get_command_obj("build_ext")
        self.command.inplace = True
        self.command.ensure_finalized()

    def parts(self, file: str) -> list[Any]:
        """Return the modules that a file is part of.

        Args:
            file: File under ``src/``.
        """
        name = file.removesuffix(".pyx").replace("/", ".")
        include = f'#include "{Path(file).name}"'
        return [
            part
            for part in self.names["modules"]
            if part.name == name or include in Path(part.sources[0]).read_text(encoding="utf-8")
        ]

    def outputs(self, file: str) -> list[Path]:
        """Return what is made anew if a file changes.

        Args:
            file: File under ``src/``.
        """
        made = [Path(self.command.get_ext_fullpath(self.command.extensions[0].name))]
        for part in self.parts(file):
            made += map(Path, part.sources)
            made.append(Path(self.command.build_temp, part.sources[0]).with_suffix(".o"))
        if file.endswith(".h"):
            made.append(Path(self.names["build_dir"], "src", file))  # Cython's copy
        return made

    def build(self, file: str = "") -> int:
        """Compile what a file is part of, and link it to the rest.

        Args:
            file: File that has changed, under ``src/``.
        """
        for part in self.names["modules"]:
            part.depends = []
        for part in self.parts(file) if file else ():
            if file.endswith(".pyx"):
                self.names["cythonize"](
                    [self.names["module"](part.name, Path("src", file))],
                    build_dir=self.names["build_dir"],
                    compiler_directives=self.names["DIRECTIVES"],
                    shared_utility_qualified_name=self.names["SHARED"],
                    cache=str(MADE / "cythonized"),
                    force=True,
                    quiet=True,
                )
            else:
                copy = shutil.copy2(f"src/{file}", Path(self.names["build_dir"], "src", file))
                part.depends = [str(copy)]
        self.command.run()
        return 0

    def test(self, tests: Iterable[str], *options: str) -> tuple[int | None, str]:
        """Run tests; return pytest's exit status, and what it says; None if it takes too long.

        Args:
            tests: Which ones, under ``tests/``.
            options: Options of pytest.
        """
        import pytest

        arguments = [*OPTIONS, *options, *(f"tests/{test}" for test in tests)]
        return apart(pytest.main, arguments, timeout=TEST_TIMEOUT)

    @contextlib.contextmanager
    def mistake(self, mutant: Mutant) -> Iterator[str]:
        """Have a mistake in the tree; give what is wrong with it, nothing if nothing is.

        Args:
            mutant: Which one.

        Raises:
            ValueError: If the original text isn't in the file exactly once.
        """
        path = Path("src", mutant.file)
        mutated = mutant.apply(path.read_text(encoding="utf-8"))
        changed = [path, *(self.outputs(mutant.file) if mutant.compiled else ())]
        kept = [(each, each.read_bytes(), each.stat()) for each in changed]
        try:
            path.write_text(mutated, encoding="utf-8")
            # Bytecode is good as long as times differ in seconds.
            self.mistakes += 1
            os.utime(path, (BEGAN + self.mistakes,) * 2)
            wrong = ""
            if mutant.compiled:
                status, said = apart(self.build, mutant.file, timeout=BUILD_TIMEOUT)
                wrong = "" if status == 0 else f"{said}\n{status}"
            yield wrong
        finally:
            for each, data, times in kept:
                each.unlink(missing_ok=True)  # it may be mapped
                each.write_bytes(data)
                os.utime(each, ns=(times.st_atime_ns, times.st_mtime_ns))
                each.chmod(times.st_mode)


def judge(tree: Tree, mutant: Mutant, *, search: bool) -> tuple[str, str]:
    """Return what becomes of a mutant, and details.

    Args:
        tree: Where to make it.
        mutant: Which one.
        search: Whether to say which other tests of the file find it if its own doesn't.
    """
    try:
        with tree.mistake(mutant) as wrong:
            if wrong:
                return "failed", f"it isn't compiled\n{wrong}"
            for test in mutant.tests:
                status, said = tree.test([test], "-x")
                if status == 0:
                    if search:
                        _, said = tree.test([test.partition("::")[0]], "-rf", "--maxfail=10")
                    return "survived", f"by {test}\n{said}"
                # It may fail, crash, take too long, or have pytest fail.
                if status == FAILED:
                    return "failed", said
                if not (status is None or status in (1, 3) or status < 0):
                    return "stale", said
    except ValueError as exc:
        return "stale", str(exc)
    return "caught", ""


def work(
    path: Path, chosen: list[Mutant], tests: list[str], search: bool, pipe: Connection
) -> None:
    """Say what is wrong without a mistake, then make those whose numbers come.

    Args:
        path: Where to have a copy of the tree.
        chosen: Mistakes.
        tests: Tests to be run without a mistake.
        search: Whether to say which other tests of the file find a mutant.
        pipe: Where numbers come from, and results go to; None ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever began this ends it
    tree = Tree(path)
    tree.copy()
    tree.enter()
    if any(mutant.compiled for mutant in chosen):
        tree.read_setup()
        status, said = apart(tree.build, timeout=BUILD_TIMEOUT)
        if status != 0:
            pipe.send(f"{said}\nIt isn't compiled without any mistake.")
            return
    status, said = tree.test(tests) if tests else (0, "")
    pipe.send(f"{said}\nTests fail without any mistake." if status != 0 else "")
    while (number := pipe.recv()) is not None:
        began = time.monotonic()
        try:
            name, said = judge(tree, chosen[number], search=search)
        except OSError as exc:
            name, said = "failed", repr(exc)
        pipe.send((number, name, said, time.monotonic() - began))


def run(chosen: list[Mutant], *, jobs: int, search: bool) -> Iterator[tuple[int, str, str, float]]:
    """Make mistakes; give the number of each, what came of it, details, and the seconds it took.

    Args:
        chosen: Mistakes.
        jobs: Copies of the tree, side by side.
        search: Whether to say which other tests of the file find a mutant.

    Raises:
        RuntimeError: If something is wrong without any mistake.
    """
    MADE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=MADE))
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    share = -(-len(tests) // jobs)  # those of a file stay together
    processes: dict[Connection, BaseProcess] = {}
    for job in range(jobs):
        ours, its = PROCESSES.Pipe()
        path = folder / str(job)
        part = tests[job * share : (job + 1) * share]
        process = PROCESSES.Process(target=work, args=(path, chosen, part, search, its))
        process.start()
        its.close()
        processes[ours] = process
    try:
        for pipe in processes:
            if wrong := pipe.recv():
                raise RuntimeError(wrong)
        print(f"{len(tests)} tests pass without a mistake", flush=True)
        numbers = iter(range(len(chosen)))
        waiting = list(processes)
        for pipe in processes:
            pipe.send(next(numbers, None))
        while waiting:
            for ready in wait(waiting):
                assert isinstance(ready, Connection)
                try:
                    yield ready.recv()
                    ready.send(next(numbers, None))
                except EOFError:
                    waiting.remove(ready)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()
        shutil.rmtree(folder)


def main() -> int:
    """Make the mistakes, and print what comes of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in file or rule")
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree, side by side (2)")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them")
    parser.add_argument("--seed", type=int, help="which ones; another one each time by default")
    parser.add_argument(
        "--search", action="store_true", help="say which other tests of the files would do"
    )
    options = parser.parse_args()
    # So that processes and folders are gone then; processes that are begun inherit it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen = [
        mutant
        for mutant in mutants()
        if not options.words
        or any(word in f"{mutant.place}: {mutant.file}: {mutant.rule}" for word in options.words)
    ]
    if options.sample is not None:
        seed = random.randrange(10**6) if options.seed is None else options.seed
        print(f"--sample {options.sample} --seed {seed}")
        chosen = random.Random(seed).sample(chosen, min(options.sample, len(chosen)))
    began = time.monotonic()
    counts: Counter[str] = Counter()
    try:
        for number, name, said, seconds in run(chosen, jobs=options.jobs, search=options.search):
            mutant = chosen[number]
            counts[name] += 1
            print(f"{name}: {mutant.place} {mutant.file}: {mutant.rule} ({seconds:.1f} s)")
            if name != "caught":
                print(*said.splitlines()[-30:], sep="\n")
            sys.stdout.flush()
    except RuntimeError as exc:
        print(exc)
        return 1
    minutes = (time.monotonic() - began) / 60
    names = ("caught", "survived", "stale", "failed")
    print(f"{len(chosen)} mutants", *(f"{counts[name]} {name}" for name in names), sep=", ", end="")
    print(f", {minutes:.1f} minutes")
    return 0 if counts["caught"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
