"""Types of arguments."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Headers"]

Headers: TypeAlias = list[tuple[bytes, bytes]]
