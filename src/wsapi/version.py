"""Version of the interface, for programs that compare it."""

__all__ = ["commit", "released", "tag", "version"]

version = "17.4"
"""Version of the interface of ``websockets`` that this package offers.

The package's own version is ``wsapi.__version__``.
"""

tag = version
"""The same, as programs ask that want to know what exactly was released."""

released = True
"""Whether it is the interface of a release."""

commit: str | None = None
"""Revision of the interface, if it isn't that of a release."""
