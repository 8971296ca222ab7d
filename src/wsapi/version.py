"""Version of the package."""

from wsproto_fast import __version__ as version

__all__ = ["version"]
