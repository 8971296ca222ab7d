"""How much a peer may send in a given time, and what happens when it sends more."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Rate", "RateLike"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on a rate: a bucket of tokens that fills steadily.

    What is received takes its tokens out; the bucket may be overdrawn by one message, or by the
    bytes of one frame, and nothing more is accepted before it holds a token again.

    Args:
        per_second: Messages or bytes per second, in the long run.
        burst: Messages or bytes at once, at least 1; by default as many as in a second, at least 1.
        exceeded: "wait" to read no more until there are tokens, which in the end makes the peer
            wait, too; "close" to fail the connection with 1008.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    per_second: float
    burst: float | None = None
    exceeded: Literal["wait", "close"] = "wait"

    def __post_init__(self) -> None:
        _check_number("per_second", self.per_second)
        if not self.per_second > 0:
            raise ValueError(f"per_second must be more than 0; got {self.per_second}")
        if self.burst is None:
            object.__setattr__(self, "burst", max(1, self.per_second))
        else:
            _check_number("burst", self.burst)
            if not self.burst >= 1:
                raise ValueError(f"burst must be 1 or more; got {self.burst}")
        if self.exceeded not in ("wait", "close"):
            raise ValueError(f"exceeded must be 'wait' or 'close'; got {self.exceeded!r}")

    @classmethod
    def of(cls, name: str, value: RateLike) -> Rate | None:
        """Return what was given as a rate.

        Args:
            name: Name of the argument, for errors.
            value: A rate, or just the number per second, or None.

        Raises:
            TypeError, ValueError: If it isn't acceptable.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a Rate, a number, or None, not {type(value).__name__}")
        if not 0 < value <= sys.float_info.max:
            raise ValueError(f"{name} must be more than 0 per second, and finite; got {value}")
        return cls(value)


RateLike: TypeAlias = Rate | float | None


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not abs(value) <= sys.float_info.max:  # there are larger ints, too
        raise ValueError(f"{name} must be finite; got {value}")
