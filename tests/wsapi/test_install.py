"""This package under the name ``websockets``: in a process, and in a program that isn't changed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from wsapi import _run


def python(*arguments: str, cwd: Path | None = None, status: int = 0, **variables: str) -> str:
    """Run Python; return what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=cwd,
        env={**os.environ, **variables},
    )
    assert result.returncode == status, result.stderr
    return result.stdout.strip() if status == 0 else result.stderr.strip()


def script(text: str) -> str:
    return python("-W", "error", "-c", textwrap.dedent(text))


class TestInstall:
    def test_every_module_is_ours(self) -> None:
        pytest.importorskip("hiredis")  # one of the modules is for it
        script(
            """
            import importlib, pkgutil, warnings, wsapi
            wsapi.install_as_websockets()
            import websockets
            for module in pkgutil.walk_packages(wsapi.__path__, "wsapi."):
                if not module.name.startswith(("wsapi._", "wsapi.trio")):
                    if module.name.startswith(("wsapi.auth", "wsapi.connection", "wsapi.legacy")):
                        warnings.simplefilter("ignore")
                    ours = importlib.import_module(module.name)
                    alias = "websockets" + module.name.removeprefix("wsapi")
                    assert importlib.import_module(alias) is ours, alias
            assert set(websockets.__all__) == set(wsapi.__all__)
            for name in set(websockets.__all__) - {"__version__"}:
                assert getattr(websockets, name) is getattr(wsapi, name), name
            """
        )

    def test_forms_of_import(self) -> None:
        script(
            """
            import wsapi
            wsapi.install_as_websockets()
            wsapi.install_as_websockets()
            import websockets
            from websockets import ConnectionClosed, asyncio, connect, frames
            from websockets.asyncio.server import serve
            import websockets.extensions.permessage_deflate as deflate
            import websockets.http11
            assert connect is websockets.connect is wsapi.connect
            assert frames is websockets.frames is wsapi.frames
            assert serve is wsapi.serve and asyncio.server.serve is serve
            assert deflate is wsapi.extensions.permessage_deflate
            assert websockets.http11.Request is wsapi.http11.Request
            namespace = {}
            exec("from websockets import *", namespace)
            assert namespace["Headers"] is wsapi.Headers
            assert set(wsapi.__all__) <= set(dir(websockets))
            import importlib.util
            assert importlib.util.find_spec("websockets").name == "websockets"
            assert importlib.util.find_spec("websockets.uri") is not None
            """
        )

    def test_version_is_that_of_the_interface(self) -> None:
        script(
            """
            import wsapi
            own = wsapi.__version__
            wsapi.install_as_websockets()
            from websockets import __version__
            import websockets.version
            assert __version__ == websockets.version.version >= "17.0"
            assert wsapi.__version__ == own
            """
        )

    def test_what_is_not_here(self) -> None:
        """Neither of the real package's modules is found, although it is installed."""
        script(
            """
            import wsapi
            wsapi.install_as_websockets()
            import websockets
            for statement, message in [
                ("import websockets.imports", "No module named 'websockets.imports'"),
                ("import websockets.sync.utils", "No module named 'websockets.sync.utils'"),
                ("from websockets.imports import lazy_import", "No module named 'websockets.imp"),
                ("from websockets import imports", "cannot import name 'imports' from 'websock"),
                ("from websockets import conect", "cannot import name 'conect'"),
                ("import websockets.speedups", "No module named 'websockets.speedups'"),
            ]:
                try:
                    exec(statement)
                except ImportError as exc:
                    assert message in str(exc), (statement, str(exc))
                else:
                    raise AssertionError(statement)
            try:
                websockets.imports
            except AttributeError as exc:
                assert str(exc) == "module 'websockets' has no attribute 'imports'"
            else:
                raise AssertionError
            """
        )

    def test_deprecated_names_warn_under_the_name_that_was_used(self) -> None:
        script(
            """
            import warnings, wsapi
            wsapi.install_as_websockets()
            import websockets, websockets.client, websockets.exceptions
            for statement, name in [
                ("websockets.WebSocketServerProtocol", "websockets.WebSocketServerProtocol"),
                ("websockets.client.connect", "websockets.client.connect"),
                (
                    "websockets.exceptions.InvalidStatusCode",
                    "websockets.exceptions.InvalidStatusCode",
                ),
            ]:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    eval(compile(statement, "program", "eval"))
                (warning,) = caught
                assert str(warning.message) == f"{name} is deprecated", str(warning.message)
                assert warning.filename == "program", warning.filename
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                import websockets.connection
            assert str(caught[0].message).startswith("websockets.connection was renamed to")
            """
        )

    def test_loggers_are_those_that_programs_silence(self) -> None:
        script(
            """
            import logging, wsapi
            from wsproto_fast import Protocol, Side
            assert Protocol(Side.CLIENT).logger.name == "wsapi.client"
            wsapi.install_as_websockets()
            from websockets.asyncio.client import connect
            from websockets.asyncio.server import serve
            from websockets.protocol import SERVER, Protocol
            assert connect("ws://localhost").logger is logging.getLogger("websockets.client")
            assert serve(print).logger is logging.getLogger("websockets.server")
            assert Protocol(SERVER).logger is logging.getLogger("websockets.server")
            """
        )

    @pytest.mark.parametrize("name", ["websockets", "websockets.frames"])
    def test_too_late(self, name: str) -> None:
        script(
            f"""
            import sys, {name}, wsapi
            before = dict(sys.modules), list(sys.meta_path)
            try:
                wsapi.install_as_websockets()
            except RuntimeError as exc:
                assert "websockets was imported before" in str(exc)
            else:
                raise AssertionError
            assert sys.modules["websockets"] is before[0]["websockets"]
            assert sys.meta_path == before[1]
            """
        )


PROGRAM = """
import multiprocessing, sys
import websockets

def tell(place):
    import websockets.frames
    print(place, websockets.connect.__module__, websockets.frames.__name__, flush=True)

if __name__ == "__main__":
    print(sys.argv[1:], flush=True)
    tell("parent")
    child = multiprocessing.get_context("spawn").Process(target=tell, args=("child",))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""

EXPECTED = [
    "['a', '--b']",
    "parent wsapi.asyncio.client wsapi.frames",
    "child wsapi.asyncio.client wsapi.frames",
]


@pytest.mark.skipif(os.name != "posix", reason="a program's file begins with the way to Python")
class TestRun:
    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        (tmp_path / "program.py").write_text(PROGRAM)
        tool = tmp_path / "bin" / "tool"
        tool.parent.mkdir()
        # Of another Python than this one, it seems; what matters is that it has our packages.
        tool.write_text(f"#!/nowhere/python\n{PROGRAM}")
        tool.chmod(0o755)
        return tmp_path

    @pytest.mark.parametrize("command", [["program.py"], ["-m", "program"]])
    def test_program_and_its_children(self, program: Path, command: list[str]) -> None:
        output = python(
            *("-m", "wsapi", "run", "--as", "websockets,wsproto", "--"),
            *command,
            *("a", "--b"),
            cwd=program,
        )
        assert output.splitlines() == EXPECTED

    def test_program_on_the_path(self, program: Path) -> None:
        output = python(
            *("-m", "wsapi", "run", "--as", "websockets", "--", "tool", "a", "--b"),
            PATH=f"{program / 'bin'}{os.pathsep}{os.environ['PATH']}",
        )
        assert output.splitlines() == EXPECTED

    def test_exit_status(self, program: Path) -> None:
        (program / "program.py").write_text("import sys; sys.exit(7)")
        arguments = ["-m", "wsapi", "run", "--as", "websockets", "--", "program.py"]
        python(*arguments, cwd=program, status=7)

    def test_both_packages(self) -> None:
        code = "import websockets, wsproto; print(websockets.__spec__.origin, wsproto.__name__)"
        arguments = ["-m", "wsapi", "run", "--as", "websockets, wsproto", "--"]
        path, name = python(*arguments, sys.executable, "-c", code).split()
        assert Path(path).parts[-2:] == ("wsapi", "__init__.py")
        assert name == "wsproto_fast.wsproto"

    def test_own_sitecustomize(self, program: Path) -> None:
        """The one that the program would have had is imported, too."""
        (program / "sitecustomize.py").write_text("print('customized')")
        (program / "program.py").write_text("import websockets; print(websockets.__spec__.origin)")
        arguments = ["-m", "wsapi", "run", "--as", "websockets", "--", "program.py"]
        customized, *_, origin = python(*arguments, cwd=program, PYTHONPATH=str(program)).split()
        # Once for this Python and once for the program.
        assert customized == "customized"
        assert "wsapi" in Path(origin).parts

    def test_package_that_was_imported_before(self) -> None:
        """Something ran even earlier: the process ends instead of going on with the other one."""
        startup = str(_run.STARTUP / "sitecustomize.py")
        code = f"import websockets, runpy; runpy.run_path({startup!r}); print('went on')"
        error = python("-c", code, status=1, WSAPI_RUN_AS="websockets")
        assert error.splitlines()[-1].startswith("python -m wsapi run: websockets was imported")

    def test_python_without_this_distribution(self) -> None:
        """A program may start an interpreter of another environment, which goes on as it is."""
        startup = str(_run.STARTUP / "sitecustomize.py")
        code = f"import sys, runpy; {{}}; runpy.run_path({startup!r}); print('went on')"
        hidden = code.format("sys.modules['wsapi'] = None; sys.stderr = sys.stdout")
        told, went_on = python("-c", hidden, WSAPI_RUN_AS="websockets").splitlines()
        assert told.startswith(f"{sys.executable}: not on websockets of wsapi: ")
        assert went_on == "went on"
        # Nor does the variable have to be there.
        code = code.format("import websockets")
        assert python("-c", code, WSAPI_RUN_AS="") == "went on"

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ([], "the following arguments are required: --as"),
            (["--as", "websockets"], "run needs a command"),
            (["--as", "websockets", "--"], "run needs a command"),
            (["--as", "websockets", "--", "-m"], "run needs a command"),
            (["--as=websockets"], "run needs a command"),
            (["--as", "aiohttp", "--", "tool"], "can't stand in for 'aiohttp'"),
            (["--as", ",", "--", "tool"], "no packages given"),
            (["--as", "websockets", "--", "no-such-tool"], "no such program: no-such-tool"),
            (["--what", "--as", "websockets", "--", "tool"], "unrecognized arguments: --what"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], message: str) -> None:
        error = python("-m", "wsapi", "run", *arguments, status=2)
        assert message in error
        assert error.startswith("wsapi: ")
