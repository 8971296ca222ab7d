"""What an installed wheel, or a tree compiled in place, must hold."""

import subprocess
import sys
from importlib import metadata, resources

import pytest

import wsproto_fast


def test_version_has_one_source() -> None:
    assert metadata.version("wsproto-fast") == wsproto_fast.__version__


def test_no_required_dependency() -> None:
    requirements = metadata.requires("wsproto-fast") or []
    assert [requirement for requirement in requirements if "extra ==" not in requirement] == []


@pytest.mark.parametrize("package", ["wsproto_fast", "wsapi"])
def test_packages_are_typed(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "name", ["__init__.pyi", "__init__.pxd", "_frames.pxd", "_compressor.h", "_mask.h", "_utf8.h"]
)
def test_files_for_type_checkers_and_cimport(name: str) -> None:
    assert resources.files("wsproto_fast").joinpath(name).is_file()


def test_import_needs_no_optional_dependency() -> None:
    optional = {"trio", "werkzeug", "python_socks", "uvloop", "aiofastnet", "nats"}
    code = f"import sys, wsproto_fast, wsapi; print(*({optional} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
