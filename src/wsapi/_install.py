"""This package in the place of ``websockets``, for programs whose imports can't be edited."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import wsapi
from wsproto_fast import environment
from wsproto_fast.aliases import install

from ._names import resolve
from .version import version

__all__ = ["install_as_websockets"]

_NAME = "websockets"


class _Root(ModuleType):
    """What ``import websockets`` gives: this package, with the version that programs compare."""

    def __init__(self) -> None:
        super().__init__(_NAME, wsapi.__doc__)
        self.__version__ = version
        self.__all__ = wsapi.__all__
        self.__file__ = wsapi.__file__
        self.__path__ = wsapi.__path__
        # The loader has nothing to do: it is in sys.modules.
        self.__spec__ = ModuleSpec(_NAME, None, origin=wsapi.__file__, is_package=True)
        self.__spec__.submodule_search_locations = list(wsapi.__path__)

    def __getattr__(self, name: str) -> object:
        try:
            if name in vars(wsapi) or name in dir(wsapi):
                return getattr(wsapi, name)
            return resolve(wsapi.__name__, name)
        except AttributeError:
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return dir(wsapi)


def install_as_websockets() -> None:
    """Make imports of ``websockets``, from now on, imports of this package.

    So are imports of its submodules: both names give the same modules, and what isn't here
    can't be imported, even if ``websockets`` is installed. ``websockets.__version__`` is the
    version of the interface, not of this package. Loggers are ``websockets.client`` and
    ``websockets.server``, which such programs silence or capture. Calling this again changes
    nothing.

    Raises:
        RuntimeError: If ``websockets`` itself was imported before.
    """
    if not isinstance(sys.modules.get(_NAME), _Root):
        install(_NAME, "wsapi")
        sys.modules[_NAME] = _Root()
        environment.identify(wsapi.__name__, imported_as=_NAME)
