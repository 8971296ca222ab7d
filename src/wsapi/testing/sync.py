"""Clients and servers for tests of threads, connected in memory.

Time is that of the operating system or, in a block of ``with Clock() as clock:``, passes when a
test says so.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import TracebackType
from typing import Any, Self

from wsproto_fast import ClientProtocol, ServerProtocol
from wsproto_fast.drivers.clocked import ClockedClientProtocol, ClockedServerProtocol
from wsproto_fast.uri import WebSocketURI

from .._shared import checks
from .._shared.connection import closing
from ..sync._channel import Channel, Deadline
from ..sync._opening import warn_unentered
from ..sync.client import ClientConnection, reconnect
from ..sync.connection import Connection
from ..sync.server import Handler, Server, ServerConnection, TransportOptions, serve
from . import _common
from ._common import URI, MemoryClient, prepared, refuse
from ._sockets import Listener, Network
from ._time import Clock, Expelled, Time, current_clock
from ._wires import Link, Wire, link

__all__ = ["Clock", "Link", "MemoryConnect", "Serving", "Wire", "link", "pair", "serving"]


class MemoryConnect(MemoryClient, reconnect):
    """What connects to a server in memory, once or again and again; ``Serving.reconnect`` makes it.

    It is used as ``wsapi.sync.client.reconnect`` is: ``with`` or ``for``.
    """

    _place: Serving

    def _engine_class(self, uri: WebSocketURI, **options: Any) -> ClientProtocol:
        clock = self._place._clock
        if clock is None:
            return ClientProtocol(uri, **options)
        protocol = ClockedClientProtocol(uri, **options)
        protocol.clock = clock.time
        return protocol

    def _new_connection(self, uri: WebSocketURI, *carrier: object) -> ClientConnection:
        connection = super()._new_connection(uri, *carrier)
        self._place._keep(connection)
        return connection

    def _open_channel(self, uri: WebSocketURI, deadline: Deadline) -> Channel:
        return Channel(self._place._arrive(*self._take_wires()), deadline)

    def _sleep(self, seconds: float) -> None:
        time = self._place._time
        time.waiter().wait(time.time() + seconds)


class Serving:
    """A server in memory. Made by ``serving``.

    Attributes:
        server: The server, as ``wsapi.sync.server.serve`` returns it.
    """

    def __init__(self, make: Callable[[Listener], Server]) -> None:
        self._clock = current_clock()
        self._time = self._clock or Time()
        self._network = Network(self._time)
        self._connections: list[ClientConnection] = []
        self.server = make(Listener())
        if self._clock is not None:
            settings = self.server._settings
            settings.engine_class = partial(_new_server_engine, self._clock)
            create = settings.create_connection or ServerConnection

            def create_connection(*args: Any, **options: Any) -> ServerConnection:
                connection: ServerConnection = create(*args, **options)
                self._follow_clock(connection)
                return connection

            settings.create_connection = create_connection

    def _follow_clock(self, connection: Connection) -> None:
        if self._clock is not None:
            connection._now = self._clock.time  # type: ignore[method-assign] # of this one

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._hurried():
            self.server.shutdown()
            for connection in self._connections:
                connection._driver.wait_closed(None)
        self._abort()
        self._network.join(_common.GRACE)

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        """Abort all connections if what the block does with them takes too long."""
        ended = threading.Event()
        caller = threading.get_ident()
        hurrying = threading.Thread(
            target=self._hurry, args=(ended, caller), name="wsapi-testing-end", daemon=True
        )
        hurrying.start()
        try:
            yield
        finally:
            ended.set()
            hurrying.join()

    def _hurry(self, ended: threading.Event, caller: int) -> None:
        """Abort what hasn't ended after a while; or, in fake time, when all threads are at rest."""
        clock = self._clock
        if clock is None or not clock._in_use:
            if not ended.wait(_common.GRACE):
                self._abort()
            return
        while not ended.is_set():
            clock._settle(ended.is_set, also=[caller])
            if not ended.is_set():
                self._abort()
                clock._expel(self.server._handlers.waiting())

    def _abort(self) -> None:
        for connection in [*self.server._connections, *self._connections]:
            connection._driver.abort()

    # ------------------------------------------------------------------ connections

    def connect(
        self,
        uri: str = URI,
        *,
        legacy: bool | None = None,
        outgoing: Wire | None = None,
        incoming: Wire | None = None,
        **options: Any,
    ) -> ClientConnection:
        """Connect a client, as ``wsapi.sync.client.connect`` does: ``with place.connect() as ...``.

        Args:
            uri: URI of the request; whatever its host, there is no other server. TLS is left out
                of ``wss://``.
            legacy: True if the connection isn't going to be used as a context manager.
            outgoing: Wire from the client to the server; a new one by default.
            incoming: Wire from the server to the client.
            **options: Those of ``wsapi.sync.client.connect``, but for those of sockets and TLS.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
            InvalidHandshake: If the opening handshake fails.
            TimeoutError: If it takes longer than ``open_timeout``.
            ConnectionRefusedError: If the server is closed.
        """
        connection = self.reconnect(uri, outgoing=outgoing, incoming=incoming, **options)._connect()
        if legacy is None:
            connection._driver.before_use = warn_unentered
        return connection

    def reconnect(
        self,
        uri: str = URI,
        *,
        outgoing: Wire | None = None,
        incoming: Wire | None = None,
        **options: Any,
    ) -> MemoryConnect:
        """Return what connects a client, once or again and again: ``with`` or ``for``.

        Args:
            uri: As for ``connect``.
            outgoing: Wire from the client to the server; that of the first connection.
            incoming: Wire from the server to the client.
            **options: Those of ``wsapi.sync.client.reconnect``, but for those of sockets and TLS.

        Raises:
            TypeError, ValueError: If an option isn't acceptable.
        """
        connecting = prepared(MemoryConnect(uri, **options), outgoing, incoming)
        connecting._place = self
        return connecting

    def _arrive(self, outgoing: Wire, incoming: Wire) -> Any:
        """Begin a connection; return the client's end."""
        if self.server.draining.is_set():
            raise ConnectionRefusedError("the server is closed")
        left, right = self._network.connected(outgoing, incoming)
        self.server._start(right, right.getpeername())  # type: ignore[arg-type] # stands for one
        return left

    def _keep(self, connection: ClientConnection) -> None:
        """Remember a connection, to see it ended."""
        self._follow_clock(connection)
        self._connections = [each for each in self._connections if not each._driver.closed]
        self._connections.append(connection)


def _new_server_engine(clock: Clock, **options: Any) -> ServerProtocol:
    protocol = ClockedServerProtocol(**options)
    protocol.clock = clock.time
    return protocol


def serving(handler: Handler, **options: Any) -> Serving:
    """Serve in memory, without sockets: ``with serving(handler) as place:``.

    ``place.connect(...)`` connects clients: real connections, with their opening handshake. At the
    end of the block they are closed with 1001; what hasn't ended a second later, or at once if a
    ``Clock`` stands still, is aborted. A handler that doesn't end then keeps the block from ending,
    unless it is in ``clock.sleep``.

    Args:
        handler: Handler of a server; each connection has a thread.
        **options: Those of ``wsapi.sync.server.serve``, but for those of sockets and TLS.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """
    useless = {"host", "port", "sock", "ssl", "path", *TransportOptions.__annotations__}
    refuse(useless & options.keys())
    checks.check_callable("handler", handler, optional=False)  # the server sees another one

    @wraps(handler)
    def handle(connection: ServerConnection) -> None:
        with suppress(Expelled):
            handler(connection)

    return Serving(lambda sock: serve(handle, sock=sock, **options))


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
    closed, or else aborted.

    Args:
        uri: URI of the request.
        client: Options of ``wsapi.sync.client.connect``, and ``outgoing`` and ``incoming`` as for
            ``Serving.connect``.
        server: Options of ``wsapi.sync.server.serve``.
        **options: Options of both.

    Raises:
        TypeError, ValueError: If an option isn't acceptable.
        InvalidHandshake: If the opening handshake fails.
    """
    arrived: list[ServerConnection] = []
    ready = threading.Event()

    def handler(connection: ServerConnection) -> None:
        arrived.append(connection)
        ready.set()
        left.wait(math.inf)

    with serving(handler, **{**options, **(server or {})}) as place:
        left = place._time.waiter()
        try:
            connection = place.connect(uri, legacy=True, **{**options, **(client or {})})
            try:
                ready.wait()
                yield connection, arrived[0]
            except BaseException as exc:
                end = closing(exc)
                raise
            else:
                end = closing(None)
            finally:
                with place._hurried():
                    connection.close(*end)
        finally:
            left.release()  # also if the client doesn't take what the server has accepted
