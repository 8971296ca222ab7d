"""TLS as ``ssl`` has it, without what makes one connection end another.

OpenSSL keeps a queue of errors for each thread. If a peer answers close_notify by a fatal alert,
SSL_shutdown() finds it, succeeds, and leaves it there; ``ssl`` doesn't look, and raises it from the
next read, of whatever connection of that thread, that has to wait. In an event loop, all
connections have one thread: any client of a server could end the others.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

__all__ = ["keep_errors_apart"]


class _SSLObject(ssl.SSLObject):
    def unwrap(self) -> None:
        super().unwrap()
        # This fails, since the end was announced, and raising the error empties the queue.
        with suppress(ssl.SSLError):
            self.write(b"\0")


def keep_errors_apart(context: ssl.SSLContext) -> None:
    """Have the connections of an event loop that use a context leave no error for each other.

    Args:
        context: Configuration; left as it is if it has a class of its own for such objects.
    """
    if context.sslobject_class is ssl.SSLObject:
        context.sslobject_class = _SSLObject
