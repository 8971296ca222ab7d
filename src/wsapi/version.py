"""Version of the interface, for programs that compare it."""

__all__ = ["version"]

version = "17.4"
"""Version of the interface of ``websockets`` that this package offers.

The package's own version is ``wsapi.__version__``.
"""
