"""Names of topics, and of their members."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_NAME_SIZE", "check_name"]

MAX_NAME_SIZE: Final = 255
"""Bytes of a name in UTF-8, at most."""

# C0, DEL and C1 (Unicode's category Cc); a surrogate is half a character, which UTF-8 can't say.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_name(name: object, what: str = "a topic") -> str:
    """Return the name of a topic, or of something else, which may come from anybody.

    What separates keys and subjects of brokers is no matter here: buses encode names.

    Args:
        name: 1 to 255 bytes of text in UTF-8, without control characters.
        what: What it is the name of.

    Raises:
        TypeError, ValueError: If it is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of {what} must be str; got {type(name).__name__}")
    if not name:
        raise ValueError(f"the name of {what} must not be empty")
    if found := _UNFIT.search(name):
        kind = "surrogates" if found[0] >= "\ud800" else "control characters"
        raise ValueError(f"the name of {what} must not have {kind}; got {name[:100]!a}")
    # A character has one byte at least.
    if len(name) > MAX_NAME_SIZE or len(name.encode()) > MAX_NAME_SIZE:
        raise ValueError(
            f"the name of {what} has {MAX_NAME_SIZE} bytes of UTF-8 at most; got {name[:100]!r}..."
        )
    return name
