"""Settings from the environment: ``WSAPI_X`` first, then ``WEBSOCKETS_X``, which others use."""

import os

__all__ = ["getenv", "getenv_int"]


def getenv(name: str) -> str | None:
    """Return the variable ``name``, given without its prefix; None if it isn't set."""
    return os.environ.get(f"WSAPI_{name}", os.environ.get(f"WEBSOCKETS_{name}"))


def getenv_int(name: str, default: int) -> int:
    """Return the variable ``name`` as an integer, or ``default`` if it isn't set or empty."""
    value = getenv(name)
    return int(value) if value else default
