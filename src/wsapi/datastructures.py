"""Headers of HTTP messages."""

from typing import TYPE_CHECKING

from wsproto_fast.aliases import fallback
from wsproto_fast.datastructures import (
    Headers,
    HeadersLike,
    MultipleValuesError,
    SupportsKeysAndGetItem,
)

__all__ = [
    "Headers",
    "HeadersLike",
    "MultipleValuesError",
    "SupportsKeysAndGetItem",
]

if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
