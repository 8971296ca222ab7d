"""In which order processes of pytest-xdist run files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import LONG_FILES, longest_first


def test_long_files_exist() -> None:
    root = Path(__file__).parents[1]
    assert [name for name in LONG_FILES if not (root / name).is_file()] == []
    assert len(set(LONG_FILES)) == len(LONG_FILES)


def test_what_takes_longest_comes_first() -> None:
    names = ["tests/a.py::one", "tests/b.py::one", "tests/b.py::T::two", f"{LONG_FILES[1]}::one"]
    names += [f"{LONG_FILES[0]}::two", f"{LONG_FILES[0]}::one", "tests/c.py::one"]
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in names]
    assert [item.nodeid for item in longest_first(items)] == [
        f"{LONG_FILES[0]}::two",
        f"{LONG_FILES[0]}::one",
        f"{LONG_FILES[1]}::one",
        "tests/b.py::one",
        "tests/b.py::T::two",
        "tests/a.py::one",
        "tests/c.py::one",
    ]
