"""Types of the public interface."""

from wsproto_fast.typing import (
    BytesLike,
    ConnectionOption,
    Data,
    DataLike,
    ExtensionHeader,
    ExtensionName,
    ExtensionParameter,
    LoggerLike,
    Origin,
    PathLike,
    StatusLike,
    Subprotocol,
    UpgradeProtocol,
)

__all__ = [
    "BytesLike",
    "ConnectionOption",
    "Data",
    "DataLike",
    "ExtensionHeader",
    "ExtensionName",
    "ExtensionParameter",
    "LoggerLike",
    "Origin",
    "PathLike",
    "StatusLike",
    "Subprotocol",
    "UpgradeProtocol",
]
