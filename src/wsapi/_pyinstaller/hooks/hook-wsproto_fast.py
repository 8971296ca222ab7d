"""The compiled modules, and what they import: PyInstaller sees no import in compiled code."""

from PyInstaller import isolated


def imported() -> list[str]:
    """Return what is imported, in a fresh process, by importing all that is compiled."""
    import sys
    from importlib import import_module

    before = set(sys.modules)
    from wsproto_fast import _loading

    for name in _loading.MODULES:
        import_module(name)
    found = {name for name, module in sys.modules.items() if getattr(module, "__spec__", None)}
    return [*sorted(found - before - _loading.MODULES), _loading.COMPILED]


hiddenimports = isolated.call(imported)
