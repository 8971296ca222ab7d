"""Types of the public surface.

Owns aliases and NewTypes only; imports nothing of the package.
"""

from __future__ import annotations

import http
import logging
import os
from typing import Any, NewType, TypeAlias

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

Data: TypeAlias = str | bytes
"""A message: text or binary."""

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""What is accepted for binary data."""

DataLike: TypeAlias = str | bytes | bytearray | memoryview
"""What is accepted for a message."""

StatusLike: TypeAlias = http.HTTPStatus | int
"""A status code of HTTP."""

LoggerLike: TypeAlias = logging.Logger | logging.LoggerAdapter[Any]
"""What is accepted for ``logger`` arguments."""

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path in the file system."""

Origin = NewType("Origin", str)
"""Value of an ``Origin`` header."""

Subprotocol = NewType("Subprotocol", str)
"""Name of a subprotocol."""

ExtensionName = NewType("ExtensionName", str)
"""Name of an extension."""

ExtensionParameter: TypeAlias = tuple[str, str | None]
"""Name and value of an extension's parameter; None when it has no value."""

# Values of handshake headers, as parsed by the headers module.
ConnectionOption = NewType("ConnectionOption", str)
UpgradeProtocol = NewType("UpgradeProtocol", str)
ExtensionHeader: TypeAlias = tuple[ExtensionName, list[ExtensionParameter]]
