"""Let a package answer to the name of another one, and modules to names that they don't have.

Knows nothing about the packages: what must have the same names is their business.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

__all__ = ["fallback", "install"]


class _AliasLoader(InspectLoader):
    """Loader that gives a module under a second name."""

    def __init__(self, target: ModuleSpec) -> None:
        self._target = target

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what it finds in sys.modules afterwards: the very same module, so
        # that classes and state exist once. The fresh one that it made for this name is forgotten.
        assert module.__spec__ is not None
        sys.modules[module.__spec__.name] = import_module(self._target.name)

    def is_package(self, fullname: str) -> bool:
        return self._target.submodule_search_locations is not None

    # For python -m ALIAS.

    def get_code(self, fullname: str) -> CodeType | None:
        loader = self._target.loader
        return loader.get_code(self._target.name) if isinstance(loader, InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        loader = self._target.loader
        return loader.get_source(self._target.name) if isinstance(loader, InspectLoader) else None


class _AliasFinder(MetaPathFinder):
    """Finder of ``alias`` and everything below it in ``package``, and nowhere else."""

    def __init__(self, alias: str, package: str) -> None:
        self.alias = alias
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.alias and not fullname.startswith(f"{self.alias}."):
            return None
        found = find_spec(self.package + fullname.removeprefix(self.alias))
        if found is None:
            # Anything else than an error would lead to the real package, half of it.
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: "
                f"{self.alias} is {self.package} here, which hasn't got it",
                name=fullname,
            )
        loader = _AliasLoader(found)
        spec = ModuleSpec(
            fullname, loader, origin=found.origin, is_package=loader.is_package(fullname)
        )
        spec.submodule_search_locations = found.submodule_search_locations
        return spec


def install(alias: str, package: str) -> None:
    """Make imports of ``alias`` and its submodules, from now on, imports of ``package``'s.

    Both names give the same module objects. A submodule that ``package`` doesn't have can't be
    imported, even if a package called ``alias`` is installed. Installing the same alias again
    changes nothing.

    Args:
        alias: Top-level name to answer to.
        package: Importable package that takes its place.

    Raises:
        ImportError: If ``package`` can't be imported.
        RuntimeError: If something else was imported under the name ``alias`` before.
    """
    for finder in sys.meta_path:
        if isinstance(finder, _AliasFinder) and finder.alias == alias:
            if finder.package == package:
                return
            raise RuntimeError(f"{alias} is {finder.package} already: it can't be {package}, too")
    # None stands for a name that mustn't be imported.
    modules: Mapping[str, ModuleType | None] = sys.modules.copy()
    imported = sorted(
        name
        for name, module in modules.items()
        if module is not None and (name == alias or name.startswith(f"{alias}."))
    )
    if imported:
        raise RuntimeError(
            f"{imported[0]} was imported before: {package} can take the place of {alias} "
            f"only if it is installed before the first import of {alias}"
        )
    sys.modules[alias] = import_module(package)
    sys.meta_path.insert(0, _AliasFinder(alias, package))


def fallback(module: str, resolver: str) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a module, which imports nothing before it is needed.

    Args:
        module: Name of the module.
        resolver: Name of a module whose ``resolve(module, name)`` returns what is missing.
    """

    def __getattr__(name: str) -> object:
        if name.startswith("_"):  # importing from a module asks for some of those
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return import_module(resolver).resolve(module, name)

    return __getattr__
