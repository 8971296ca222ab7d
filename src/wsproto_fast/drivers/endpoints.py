"""What connections of threads need in place of sockets of the operating system, for tests.

An ``Endpoint`` stands for a socket below a ``SocketDriver``; threads leave in its ``Inbox`` what is
to be done with the connection, and a thread that owns a ``Round`` does it.
"""

from ._housekeeper import Round
from ._inbox import Endpoint, Inbox

__all__ = ["Endpoint", "Inbox", "Round"]
