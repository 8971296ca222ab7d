"""Clients and servers for tests of threads, without a network.

A connection is a pair of connected sockets, which the operating system has in memory: no port, no
address, nothing that listens. Time is real: threads wait in the operating system.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ..sync.client import ClientConnection, connect
from ..sync.server import Handler, Server, ServerConnection, TransportOptions, serve

__all__ = ["Serving", "pair", "serving"]

URI = "ws://localhost/"

# Seconds that connections and handlers may take to end properly.
GRACE = 1.0


class Serving:
    """A server without a network. Made by ``serving``.

    Attributes:
        server: The server, as ``wsapi.sync.server.serve`` returns it.
    """

    def __init__(self, make: Callable[[socket.socket], Server]) -> None:
        # It listens on nothing: connections are handed to it.
        sock, other = socket.socketpair()
        other.close()
        try:
            self.server = make(sock)
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server = self.server

        def abort() -> None:
            for connection in list(server._connections):
                connection._driver.abort()

        timer = threading.Timer(GRACE, abort)
        timer.start()
        try:
            server.shutdown()
        finally:
            timer.cancel()
            timer.join()

    def connect(self, uri: str = URI, **options: Any) -> ClientConnection:
        """Connect a client, as ``wsapi.sync.client.connect`` does: ``with place.connect() as ...``.

        Args:
            uri: URI of the request; whatever its host, there is no other server.
            **options: Those of ``wsapi.sync.client.connect``, but for those of sockets.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
            InvalidHandshake: If the opening handshake fails.
            ConnectionRefusedError: If the server is closed.
        """
        if "sock" in options:
            raise ValueError("without a network there is no use for sock")
        if self.server.draining.is_set():
            raise ConnectionRefusedError("the server is closed")
        left, right = socket.socketpair()
        try:
            self.server._start(right, "")
        except BaseException:
            left.close()
            right.close()
            raise
        try:
            connection: ClientConnection = connect(uri, sock=left, **options)
        except BaseException:
            left.close()
            raise
        return connection


def serving(handler: Handler, **options: Any) -> Serving:
    """Serve without a network: ``with serving(handler) as place:``.

    ``place.connect(...)`` connects clients: real connections, with their opening handshake. At the
    end of the block they are closed with 1001; what hasn't ended a second later is aborted. A
    handler that doesn't end then keeps the block from ending.

    Args:
        handler: Handler of a server; each connection has a thread.
        **options: Those of ``wsapi.sync.server.serve``, but for those of sockets and TLS.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    useless = {"host", "port", "sock", "ssl", "path", *TransportOptions.__annotations__}
    if useless := useless & options.keys():
        raise ValueError(f"without a network there is no use for {', '.join(sorted(useless))}")
    return Serving(lambda sock: serve(handler, sock=sock, **options))


@contextmanager
def pair(
    uri: str = URI,
    *,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[tuple[ClientConnection, ServerConnection]]:
    """Connect a client and a server: ``with pair() as (client, server):``.

    Both are real connections, after their opening handshake. At the end of the block they are
    closed.

    Args:
        uri: URI of the request.
        client: Options of ``wsapi.sync.client.connect``.
        server: Options of ``wsapi.sync.server.serve``.
        **options: Options of both.

    Raises:
        TypeError, ValueError: If an option isn't acceptable.
        InvalidHandshake: If the opening handshake fails.
    """
    arrived: list[ServerConnection] = []
    ready, left = threading.Event(), threading.Event()

    def handler(connection: ServerConnection) -> None:
        arrived.append(connection)
        ready.set()
        left.wait()

    with serving(handler, **{**options, **(server or {})}) as place:
        try:
            with place.connect(uri, **{**options, **(client or {})}) as connection:
                ready.wait()
                yield connection, arrived[0]
        finally:
            left.set()
