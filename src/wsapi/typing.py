"""Types of the public interface."""

from wsproto_fast.typing import (
    BytesLike,
    Data,
    DataLike,
    ExtensionName,
    ExtensionParameter,
    LoggerLike,
    Origin,
    PathLike,
    StatusLike,
    Subprotocol,
)

__all__ = [
    "BytesLike",
    "Data",
    "DataLike",
    "ExtensionName",
    "ExtensionParameter",
    "LoggerLike",
    "Origin",
    "PathLike",
    "StatusLike",
    "Subprotocol",
]
