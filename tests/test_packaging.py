"""What an installed wheel, or a tree compiled in place, must hold."""

import importlib
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import wsproto_fast

SMOKE = """
cimport wsproto_fast._protocol
from wsproto_fast._frames cimport Header, OP_TEXT, write_header

def header_of_text(size_t length):
    cdef unsigned char out[14]
    return out[:write_header(out, OP_TEXT, True, 0, length, NULL)]
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("smoke", ["smoke.pyx"], include_dirs=[{include!r}])
setup(name="smoke", ext_modules=cythonize([extension], language_level=3))
"""


def test_version_has_one_source() -> None:
    assert metadata.version("wsproto-fast") == wsproto_fast.__version__


def test_no_required_dependency() -> None:
    requirements = metadata.requires("wsproto-fast") or []
    assert [requirement for requirement in requirements if "extra ==" not in requirement] == []


@pytest.mark.parametrize("package", ["wsproto_fast", "wsapi"])
def test_packages_are_typed(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "name", ["__init__.pyi", "__init__.pxd", "_frames.pxd", "_mask.h", "_utf8.h"]
)
def test_files_for_type_checkers_and_cimport(name: str) -> None:
    assert resources.files("wsproto_fast").joinpath(name).is_file()


def test_import_needs_no_optional_dependency() -> None:
    optional = {"trio", "werkzeug", "python_socks", "uvloop", "aiofastnet"}
    code = f"import sys, wsproto_fast, wsapi; print(*({optional} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_missing_compiled_part_says_what_to_do(tmp_path: Path) -> None:
    package = tmp_path / "wsproto_fast"
    package.mkdir()
    for source in Path(wsproto_fast.__file__).parent.glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import wsproto_fast"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "ImportError: the compiled part of wsproto_fast is missing" in result.stderr
    assert "pip install ." in result.stderr


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a C compiler that setuptools finds")
def test_cimport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("Cython")
    root = Path(wsproto_fast.__file__).parent
    (tmp_path / "smoke.pyx").write_text(SMOKE, encoding="utf-8")
    (tmp_path / "setup.py").write_text(SETUP.format(include=str(root)), encoding="utf-8")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    monkeypatch.syspath_prepend(tmp_path)
    smoke = importlib.import_module("smoke")
    assert smoke.header_of_text(5) == b"\x81\x05"
