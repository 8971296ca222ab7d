"""One shared object has all compiled modules; what is said if it isn't there."""

import importlib
import shutil
import subprocess
import sys
from importlib import machinery, util
from pathlib import Path

import pytest

import wsproto_fast
from wsproto_fast import _loading

INSTALLED = Path(wsproto_fast.__file__).parent
SOURCES = Path(__file__).parents[2] / "src"
COMPILED = f"_compiled{machinery.EXTENSION_SUFFIXES[0]}"


@pytest.mark.parametrize("name", sorted(_loading.MODULES))
def test_all_are_in_one_file(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__name__ == name
    assert module.__spec__ is not None
    assert module.__spec__.has_location
    assert module.__file__ == util.find_spec(_loading.COMPILED).origin  # type: ignore[union-attr]


def test_the_list_is_complete() -> None:
    if not SOURCES.is_dir():
        pytest.skip("there are no sources beside the tests")
    found = {
        ".".join(path.relative_to(SOURCES).with_suffix("").parts) for path in SOURCES.rglob("*.pyx")
    }
    assert {*found, "wsproto_fast._shared"} == _loading.MODULES


def test_other_names_are_not_found() -> None:
    assert util.find_spec("wsproto_fast._none") is None
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'wsproto_fast\._none'"):
        importlib.import_module("wsproto_fast._none")


def message(folder: Path, before: str = "") -> str:
    """Import a copy without its compiled part; return the last line of the traceback."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {before}\nimport wsproto_fast"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with the package, but with nothing that is compiled."""
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.pyx", "*.c", "__pycache__")
    shutil.copytree(INSTALLED, tmp_path / "wsproto_fast", ignore=ignored)
    return tmp_path


def test_incomplete_installation(copy: Path) -> None:
    assert message(copy) == (
        "ImportError: the compiled part of wsproto_fast is missing: "
        f"no {copy / 'wsproto_fast' / COMPILED}. Install the package by '{sys.executable} -m pip "
        "install --force-reinstall wsproto-fast', which chooses the wheel for this Python"
    )


def test_compiled_for_another_python(copy: Path) -> None:
    other = "_compiled.cpython-310-mips-linux-gnu.so"
    (copy / "wsproto_fast" / other).touch()
    text = message(copy)
    assert f"no {copy / 'wsproto_fast' / COMPILED}, but {other}, for another Python" in text
    assert "pip install --force-reinstall" in text


def test_source_tree_that_is_not_compiled(copy: Path) -> None:
    (copy / "wsproto_fast" / "_protocol.pyx").touch()
    assert message(copy).endswith(
        ". This is a source tree: compile it by 'make', or 'pip install .'"
    )


def test_frozen_program_without_it(copy: Path) -> None:
    assert message(copy, "sys.frozen = True").endswith(
        ". Freeze the program with the hidden import wsproto_fast._compiled"
    )


def test_nothing_there_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_loading, "find_spec", lambda name: None)
    monkeypatch.setattr(_loading, "__file__", str(tmp_path / "_loading.py"))
    finder = _loading.Finder()
    assert finder.find_spec("wsproto_fast.frames") is None
    with pytest.raises(ImportError, match="chooses the wheel for this Python"):
        finder.find_spec("wsproto_fast._frames")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "hidden import" in _loading.what_is_missing()
    (tmp_path / "_compiled.other.so").touch()
    assert "but _compiled.other.so, for another Python" in _loading.what_is_missing()
    (tmp_path / "_protocol.pyx").touch()
    assert "source tree" in _loading.what_is_missing()


def test_what_is_missing_elsewhere_is_told_as_ever() -> None:
    code = "import sys; sys.modules['logging'] = None; import wsproto_fast"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].startswith("ModuleNotFoundError: import of logging")


SUBINTERPRETER = """
try:
    import _interpreters as interpreters  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters
import sys

ATTEMPT = '''
try:
    import wsproto_fast
except ImportError as exc:
    print(exc)
'''
import wsproto_fast

other = interpreters.create()
interpreters.run_string(other, ATTEMPT)
interpreters.destroy(other)
from wsproto_fast.drivers import asyncio  # as if nothing had happened
protocol = wsproto_fast.ServerProtocol()
print(protocol.state.name)
"""


def test_subinterpreter() -> None:
    """It gets an exception that says so, and the interpreter that has the modules keeps them."""
    # What is printed by two interpreters goes through two buffers.
    result = subprocess.run(
        [sys.executable, "-u", "-c", SUBINTERPRETER], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "the compiled part of wsproto_fast works in one interpreter of a process, which is to be "
        "the main one: use threads or processes instead of subinterpreters",
        "CONNECTING",
    ]


@pytest.mark.parametrize(
    "refusal",
    [
        "module wsproto_fast._frames does not support loading in subinterpreters",
        "Interpreter change detected - this module can only be loaded into one interpreter per "
        "process.",
    ],
)
def test_loading_in_another_interpreter(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    """Whoever refuses it, Python or the module, the exception says what to do."""

    def refuse(loader: machinery.ExtensionFileLoader, spec: machinery.ModuleSpec) -> None:
        raise ImportError(refusal)

    monkeypatch.setattr(machinery.ExtensionFileLoader, "create_module", refuse)
    name = "wsproto_fast._frames"
    loader = _loading.Loader(name, COMPILED)
    with pytest.raises(ImportError, match="instead of subinterpreters") as caught:
        loader.create_module(machinery.ModuleSpec(name, loader, origin=COMPILED))
    assert (caught.value.name, caught.value.path) == (name, COMPILED)


def test_other_failures_of_loading(tmp_path: Path) -> None:
    (tmp_path / COMPILED).write_bytes(b"\x7fELF, they say")
    name, file = "wsproto_fast._frames", str(tmp_path / COMPILED)
    loader = _loading.Loader(name, file)
    with pytest.raises(ImportError) as caught:
        loader.create_module(machinery.ModuleSpec(name, loader, origin=file))
    assert "subinterpreters" not in str(caught.value)
