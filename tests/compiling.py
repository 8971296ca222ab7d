"""Compile modules in tests, as users of the package do."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import wsproto_fast

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension({name!r}, ["{name}.pyx"], include_dirs=[{include!r}])
setup(name={name!r}, ext_modules=cythonize([extension], language_level=3))
"""


def what_is_missing() -> str | None:
    """Return the reason why nothing can be compiled here, None if something can."""
    if sys.platform == "win32":
        return "only setuptools knows where the compiler is"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C compiler: {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no headers of Python"
    return None


def compiled(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Compile a module as its users do, against what is installed, and import it."""
    pytest.importorskip("Cython")
    if (reason := what_is_missing()) is not None:
        pytest.skip(reason)
    include = str(Path(wsproto_fast.__file__).parent)
    shutil.copy(source, tmp_path)
    setup = SETUP.format(name=source.stem, include=include)
    (tmp_path / "setup.py").write_text(setup, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(source.stem)
