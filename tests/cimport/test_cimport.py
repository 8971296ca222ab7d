"""What an installed package offers to `cimport`."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import wsproto_fast
from wsproto_fast import Protocol, Side

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
extension = Extension("smoke", ["smoke.pyx"], include_dirs=[{include!r}])
setup(name="smoke", ext_modules=cythonize([extension], language_level=3))
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


@pytest.mark.timeout(300)
def test_cimport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("Cython")
    if (reason := what_is_missing()) is not None:
        pytest.skip(reason)
    include = Path(wsproto_fast.__file__).parent
    shutil.copy(Path(__file__).with_name("smoke.pyx"), tmp_path)
    (tmp_path / "setup.py").write_text(SETUP.format(include=str(include)), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    monkeypatch.syspath_prepend(tmp_path)
    smoke = importlib.import_module("smoke")

    protocol = Protocol(Side.CLIENT)
    # A text message, a ping, and the beginning of another text message.
    wire = b"\x81\x02hi\x89\x01x\x81\x05hel"
    assert smoke.texts_received(protocol, wire) == [b"hi"]
    assert smoke.output_size(protocol) == protocol.output_size == 7
    assert smoke.texts_received(protocol, b"lo") == [b"hello"]
    with pytest.raises(TypeError):
        smoke.output_size(object())
