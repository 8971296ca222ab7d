"""Where in the history of a topic a message stands."""

from __future__ import annotations

from typing import Final, NamedTuple, Self

__all__ = ["MAX_EPOCH_SIZE", "MAX_OFFSET", "Position"]

MAX_EPOCH_SIZE: Final = 64
"""Characters of an epoch, at most."""

MAX_OFFSET: Final = 2**53 - 1
"""The last offset: JavaScript's numbers are exact up to here (RFC 8259 section 6)."""


class Position(NamedTuple):
    """Where in the history of a topic a message stands.

    Positions of one epoch are in order; positions of different epochs have nothing to do with each
    other: the history of the topic has been lost, or begun anew, in between.

    Args:
        epoch: Which history: a random name that it got at its beginning.
        offset: Number of the message in it; 0 is before the first one. Numbers grow, not always by
            one: that is the bus's business.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the position that a client names, who may be anybody.

        Args:
            value: A position, a pair of an epoch and an offset, or text as ``str()`` makes it.

        Raises:
            TypeError, ValueError: If it is none. A position that never was, or is no longer known,
                is one: whoever subscribes with it isn't recovered.
        """
        if isinstance(value, str):
            epoch, colon, digits = value.rpartition(":")
            # int() takes signs, spaces and digits of all scripts, too.
            if not (colon and digits.isascii() and digits.isdigit() and len(digits) <= 16):
                raise ValueError(
                    f"a position is an epoch, a colon, and an offset; got {value[:100]!r}"
                )
            return cls._checked(epoch, int(digits))
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return cls._checked(*value)
        raise TypeError(
            f"a position is a pair of an epoch and an offset; got {type(value).__name__}"
        )

    @classmethod
    def _checked(cls, epoch: object, offset: object) -> Self:
        if not isinstance(epoch, str):
            raise TypeError(f"the epoch of a position is a str; got {type(epoch).__name__}")
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise TypeError(f"the offset of a position is an int; got {type(offset).__name__}")
        if not (0 < len(epoch) <= MAX_EPOCH_SIZE and epoch.isascii() and epoch.isalnum()):
            raise ValueError(
                f"an epoch has 1 to {MAX_EPOCH_SIZE} ASCII letters or digits; got {epoch[:100]!r}"
            )
        if not 0 <= offset <= MAX_OFFSET:
            # An int has any number of digits: neither its text nor a float need be possible.
            shown = str(offset) if offset.bit_length() <= 64 else f"{offset.bit_length()} bits"
            raise ValueError(f"an offset is between 0 and {MAX_OFFSET}; got {shown}")
        return cls(epoch, offset)
