"""A package of ours under the name of another one."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from wsproto_fast.aliases import fallback

PACKAGES = {
    # What programs import, and what must not be mixed with the other one.
    "famous/__init__.py": "origin = 'famous'\n",
    "famous/old.py": "origin = 'famous.old'\n",
    "ours/__init__.py": "from .part import value\norigin = 'ours'\n",
    "ours/part.py": "value = object()\n",
    "ours/inner/__init__.py": "origin = 'ours.inner'\n",
    "ours/inner/leaf.py": "from ..part import value\nclass Leaf: pass\n",
    "ours/broken.py": "import not_installed_anywhere\n",
    "ours/__main__.py": "from .part import value\nprint(__name__, __spec__.name, bool(value))\n",
}

PRELUDE = "import sys\nfrom wsproto_fast.aliases import install\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], str]:
    for name, text in PACKAGES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(script: str) -> str:
        script = (
            f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{PRELUDE}{textwrap.dedent(script)}"
        )
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout

    return run


CASES = {
    "same_modules": """
        install("famous", "ours")
        import famous
        import famous.inner.leaf
        import ours.inner.leaf
        from famous import part
        from famous.inner import leaf
        assert famous.origin == "ours" and famous is ours
        assert sys.modules["famous.inner.leaf"] is sys.modules["ours.inner.leaf"] is leaf
        assert leaf.value is part.value is famous.value
        assert ours.inner.__spec__.name == ours.inner.__name__ == "ours.inner"
        assert leaf.Leaf.__module__ == "ours.inner.leaf"
    """,
    "imported_first": """
        import ours.inner.leaf
        install("famous", "ours")
        import famous.inner.leaf
        assert famous.inner.leaf.Leaf is ours.inner.leaf.Leaf
    """,
    "what_is_missing": """
        install("famous", "ours")
        try:
            import famous.old
        except ModuleNotFoundError as exc:
            assert exc.name == "famous.old"
            assert str(exc) == (
                "No module named 'famous.old': famous is ours here, which hasn't got it"
            ), exc
        else:
            assert False
        assert "famous.old" not in sys.modules
        try:
            from famous import old
        except ImportError as exc:
            assert "cannot import name 'old' from 'ours'" in str(exc), exc
        else:
            assert False
    """,
    "what_fails": """
        install("famous", "ours")
        for _ in range(2):
            try:
                import famous.broken
            except ModuleNotFoundError as exc:
                assert exc.name == "not_installed_anywhere"
            else:
                assert False
            assert "famous.broken" not in sys.modules
    """,
    "twice": """
        install("famous", "ours")
        install("famous", "ours")
        import famous.part
        assert [getattr(finder, "alias", "") for finder in sys.meta_path].count("famous") == 1
        try:
            install("famous", "ours.inner")
        except RuntimeError as exc:
            assert str(exc) == "famous is ours already: it can't be ours.inner, too"
        else:
            assert False
    """,
    "too_late": """
        import famous.old
        meta_path = list(sys.meta_path)
        try:
            install("famous", "ours")
        except RuntimeError as exc:
            assert str(exc) == (
                "famous was imported before: ours can take the place of famous "
                "only if it is installed before the first import of famous"
            )
        else:
            assert False
        assert sys.modules["famous"].origin == "famous" and sys.meta_path == meta_path
    """,
    "no_such_package": """
        meta_path = list(sys.meta_path)
        try:
            install("famous", "nobody")
        except ImportError as exc:
            assert exc.name == "nobody"
        else:
            assert False
        assert "famous" not in sys.modules and sys.meta_path == meta_path
    """,
    "names_that_begin_alike": """
        install("fam", "ours")
        import famous
        assert famous.origin == "famous"
    """,
    "find_spec": """
        import importlib.util, pkgutil
        install("famous", "ours")
        assert importlib.util.find_spec("famous.part").origin.endswith("part.py")
        assert importlib.util.find_spec("famous.inner").submodule_search_locations
        import famous
        assert {module.name for module in pkgutil.iter_modules(famous.__path__)} > {"inner"}
    """,
    "source": """
        import inspect, pathlib, importlib.util
        install("famous", "ours")
        loader = importlib.util.find_spec("famous.inner.leaf").loader
        import ours.inner.leaf
        assert loader.get_source("famous.inner.leaf") == inspect.getsource(ours.inner.leaf)
    """,
    "pickles": """
        import pickle
        install("famous", "ours")
        from famous.inner.leaf import Leaf
        assert type(pickle.loads(pickle.dumps(Leaf()))) is Leaf
    """,
    "threads": """
        import threading
        install("famous", "ours")
        found = []
        def look():
            import famous.inner.leaf
            found.append(famous.inner.leaf.Leaf)
        threads = [threading.Thread(target=look) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(found) == 8 and len(set(found)) == 1
    """,
}


@pytest.mark.parametrize("script", CASES.values(), ids=CASES)
def test_alias(run: Callable[[str], str], script: str) -> None:
    run(script)


def test_run_as_a_program(run: Callable[[str], str]) -> None:
    script = """
        install("famous", "ours")
        import runpy
        runpy.run_module("famous", run_name="__main__", alter_sys=True)
    """
    assert run(script) == "__main__ famous.__main__ True\n"


INSTALLED = """
from wsproto_fast import install_as_wsproto
install_as_wsproto()
import wsproto.events, wsproto_fast.wsproto
print(wsproto is wsproto_fast.wsproto, wsproto.events is wsproto_fast.wsproto.events)
"""


def test_place_of_wsproto() -> None:
    command = [sys.executable, "-W", "error", "-c", INSTALLED]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    assert shown.split() == ["True", "True"]


def test_names_that_a_module_finds_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "resolver_of_names.py").write_text(
        "def resolve(module, name):\n    return f'{name} of {module}'\n", encoding="utf-8"
    )
    look_up = fallback("ours", "resolver_of_names")
    assert "resolver_of_names" not in sys.modules
    with pytest.raises(AttributeError, match="module 'ours' has no attribute '__path__'"):
        look_up("__path__")
    assert "resolver_of_names" not in sys.modules
    assert look_up("value") == "value of ours"
    monkeypatch.delitem(sys.modules, "resolver_of_names")
