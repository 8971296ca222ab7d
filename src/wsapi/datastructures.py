"""Headers of HTTP messages."""

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
