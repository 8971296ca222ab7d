"""A connection after its opening handshake, its roles and states."""

from ._connection import Connection
from ._types import DEFAULT_MAX_SIZE, ConnectionState, ConnectionType

__all__ = [
    "CLIENT",
    "DEFAULT_MAX_SIZE",
    "SERVER",
    "Connection",
    "ConnectionState",
    "ConnectionType",
]

CLIENT = ConnectionType.CLIENT
SERVER = ConnectionType.SERVER
