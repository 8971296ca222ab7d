"""Break rules one by one, and see that tests fail: ``make mutants``.

Each mistake goes into a copy of the tree in ``build/mutants``, of which only what changed is
compiled again, without optimisation. Then its tests run: they must fail. Before that, they must
pass as long as there is no mistake.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from . import ROOT, Mutant, mutants

COPIED = ("src", "tests", "docs", "examples", "benchmarks", "demo", ".ci", ".github")
IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "*.c", ".cache", "*.egg-info")
BUILD_TIMEOUT = 600.0
# A mistake may have a test wait for ever.
TEST_TIMEOUT = 300.0


class Tree:
    """A copy of the repository that mistakes are made in.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(path / "src"),
            "WSPROTO_FAST_QUICK": "1",
            "CI": "1",  # the same examples every time
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # which takes longer than most tests
        }
        # Bytecode is good as long as times of files differ in seconds.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def update(self) -> None:
        """Have it be what the repository is; what hasn't changed isn't compiled again."""
        self.path.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for name in COPIED:
            shutil.copytree(ROOT / name, fresh / name, ignore=IGNORED)
        for path in ROOT.iterdir():
            if path.is_file() and path.name != ".coverage":
                shutil.copy2(path, fresh / path.name)
        wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
        for name in COPIED:
            for path in sorted((self.path / name).rglob("*")):
                kept = path.suffix in (".so", ".pyc") or path.relative_to(self.path) in wanted
                if path.is_file() and not kept:
                    path.unlink()
        for relative in sorted(wanted):
            target = self.path / relative
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(fresh / relative, target)
            elif not filecmp.cmp(fresh / relative, target, shallow=False):
                # With the time of now: a mistake may have been compiled, and left there.
                shutil.copyfile(fresh / relative, target)
        shutil.rmtree(fresh)
        if not (self.path / "build").exists():
            for generated in (ROOT / "build").glob("cython-*"):
                shutil.copytree(generated, self.path / "build" / generated.name)

    def borrow(self) -> None:
        """Take what is compiled from the repository."""
        for path in (ROOT / "src").rglob("_compiled.*"):
            shutil.copy2(path, self.path / path.relative_to(ROOT))

    def build(self) -> str:
        """Compile what changed; return what went wrong, nothing if nothing did."""
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_TIMEOUT,
            check=False,
            text=True,
        )
        return done.stdout if done.returncode else ""

    def test(self, tests: Iterable[str], *options: str) -> tuple[int | None, str]:
        """Run tests; return pytest's exit status, and what it says; None if it takes too long."""
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "--no-header"]
        command += [
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            "-p",
            "_hypothesis_pytestplugin",
            "-W",
            "ignore::pytest.PytestUnraisableExceptionWarning",
        ]
        command += [*options, *(f"tests/{test}" for test in tests)]
        try:
            done = subprocess.run(
                command,
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TEST_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout.decode(errors="replace")

    @contextmanager
    def mistake(self, mutant: Mutant) -> Iterator[str]:
        """Have a mistake in the tree; give what is wrong with it, nothing if nothing is."""
        path = self.path / "src" / mutant.file
        text = path.read_text(encoding="utf-8")
        path.write_text(mutant.apply(text), encoding="utf-8")
        try:
            yield self.build() if mutant.compiled else ""
        finally:
            # It has the time of now, so that the next build compiles it again.
            path.write_text(text, encoding="utf-8")


def judge(tree: Tree, mutant: Mutant, *, search: bool) -> tuple[str, str]:
    """Return what becomes of a mutant, ``caught`` or something else, and details."""
    with tree.mistake(mutant) as wrong:
        if wrong:
            return "isn't compiled", wrong
        for test in mutant.tests:
            status, said = tree.test([test], "-x")
            if status == 0:
                if search:
                    _, said = tree.test([test.partition("::")[0]], "-rf", "--maxfail=10")
                return "NOT CAUGHT", f"by {test}\n{said}"
            # It may fail, crash, or take too long.
            if status is not None and status > 1:
                return "has no tests", said
    return "caught", ""


def main() -> int:
    """Make the mistakes, and print what comes of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in file or rule")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree, side by side")
    parser.add_argument(
        "--search", action="store_true", help="say which other tests of the files would do"
    )
    options = parser.parse_args()
    chosen = [
        mutant
        for mutant in mutants()
        if not options.words
        or any(word in f"{mutant.place}: {mutant.file}: {mutant.rule}" for word in options.words)
    ]
    began = time.monotonic()
    trees: queue.Queue[Tree] = queue.Queue()
    for number in range(options.jobs):
        tree = Tree(ROOT / "build" / "mutants" / str(number))
        tree.update()
        if not any(mutant.compiled for mutant in chosen):
            tree.borrow()
        elif wrong := tree.build():
            print(wrong)
            return 1
        trees.put(tree)
    tree = trees.get()
    print(f"{len(chosen)} mutants; compiled in {time.monotonic() - began:.0f} s", flush=True)
    status, said = tree.test(sorted({test for mutant in chosen for test in mutant.tests}))
    trees.put(tree)
    if status != 0:
        print(said, "Tests fail without any mistake.", sep="\n")
        return 1
    print(f"their tests pass; {time.monotonic() - began:.0f} s", flush=True)
    results: dict[str, int] = {}
    lock = threading.Lock()

    def run(mutant: Mutant) -> None:
        tree = trees.get()
        since = time.monotonic()
        try:
            result, said = judge(tree, mutant, search=options.search)
        except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
            result, said = "failed", str(exc)
        finally:
            trees.put(tree)
        with lock:
            results[result] = results.get(result, 0) + 1
            seconds = time.monotonic() - since
            print(f"{result}: {mutant.place} {mutant.file}: {mutant.rule} ({seconds:.0f} s)")
            if result != "caught":
                print(*said.splitlines()[-30:], sep="\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, chosen))
    counts = ", ".join(f"{number} {result}" for result, number in sorted(results.items()))
    print(f"{len(chosen)} mutants: {counts}; {time.monotonic() - began:.0f} s")
    return 0 if results.keys() <= {"caught"} else 1


if __name__ == "__main__":
    sys.exit(main())
