"""What ``serve`` of every front-end has in common, without I/O.

Owns what arguments are acceptable, the engine of each connection, and what a server knows of its
connections. Front-ends own listening, and in what handlers run.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl as ssl_module
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from wsproto_fast import ServerProtocol
from wsproto_fast.extensions.permessage_deflate import enable_server_permessage_deflate
from wsproto_fast.frames import State
from wsproto_fast.typing import LoggerLike, Subprotocol

from . import _checks
from ._connection import ServerSide

__all__ = ["BaseServer", "ServerSettings", "check_listening", "format_address"]

ConnectionT = TypeVar("ConnectionT", bound=ServerSide)


class ServerSettings(Generic[ConnectionT]):
    """Settings of a server, checked.

    Args:
        handler: Called with each open connection.
        options: Options, among them all of ``SERVER_OPTIONS``.
        connection_class: Class of connections, unless there is another one in the options.
        awaitables: Whether callbacks may return awaitables.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    def __init__(
        self,
        handler: Callable[[ConnectionT], Any],
        options: Mapping[str, Any],
        connection_class: Callable[..., ConnectionT],
        *,
        awaitables: bool = True,
    ) -> None:
        extensions, subprotocols = options["extensions"], options["subprotocols"]
        _checks.check_callable("handler", handler, optional=False)
        _checks.check_origins(options["origins"])
        _checks.check_extensions(extensions, ["process_request_params"])
        _checks.check_subprotocols(subprotocols)
        if _checks.check_compression(options["compression"]):
            extensions = enable_server_permessage_deflate(extensions)
        for name in (
            "select_subprotocol",
            "process_request",
            "process_response",
            "create_connection",
        ):
            _checks.check_callable(name, options[name])
        self.awaitables = awaitables
        self.select_subprotocol = options["select_subprotocol"]
        self.process_request = options["process_request"]
        self.process_response = options["process_response"]
        _checks.check_header("server_header", options["server_header"])
        self.server_header = options["server_header"] or None
        self.open_timeout = options["open_timeout"]
        self.close_timeout = options["close_timeout"]
        self.connection_options = _checks.check_connection_options(options)
        logger = options["logger"]
        _checks.check_logger(logger)
        self.logger: LoggerLike = logging.getLogger("wsapi.server") if logger is None else logger
        self.connection_class = options["create_connection"] or connection_class
        self._engine_options: dict[str, Any] = {
            "origins": options["origins"],
            "extensions": extensions,
            "subprotocols": subprotocols,
            "max_size": options["max_size"],
            "logger": self.logger,
            "server_header": self.server_header,
            "check_host": options["check_host"],
        }

    def new_connection(self, make: Callable[[ServerProtocol], ConnectionT]) -> ConnectionT:
        """Return a new connection.

        Args:
            make: Makes a connection of its engine.
        """
        select_subprotocol = self.select_subprotocol
        if select_subprotocol is None:
            return make(ServerProtocol(**self._engine_options))

        def select(protocol: ServerProtocol, offered: Any) -> Subprotocol | None:
            # It is called by the engine, on behalf of the connection.
            connection = reference()
            assert connection is not None
            subprotocol: Subprotocol | None = select_subprotocol(connection, offered)
            if subprotocol is not None:
                _checks.check_subprotocols([subprotocol])
            return subprotocol

        connection = make(ServerProtocol(**self._engine_options, select_subprotocol=select))
        reference = weakref.ref(connection)
        return connection


class BaseServer(Generic[ConnectionT]):
    """What servers know of their connections.

    Args:
        handler: Called with each open connection.
        logger: Logger; ``wsapi.server`` by default.
    """

    def __init__(
        self, handler: Callable[[ConnectionT], Any], logger: LoggerLike | None = None
    ) -> None:
        self.handler = handler
        self.logger: LoggerLike = logging.getLogger("wsapi.server") if logger is None else logger
        self._connections: set[ConnectionT] = set()

    @property
    def connections(self) -> set[ConnectionT]:
        """Connections that are open at the moment."""
        return {
            connection
            for connection in self._connections.copy()
            if connection.protocol.state is State.OPEN
        }

    def _log_listening(self, sock: Any) -> None:
        self.logger.info("server listening on %s", format_address(sock))


def format_address(sock: Any) -> str:
    """Return the address of a listening socket, for logs."""
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return str(name)


def check_listening(host: object, port: int | None, options: dict[str, Any]) -> None:
    """Check where a server is to listen; other options are for others to check.

    Args:
        host: Address, or addresses.
        port: TCP port.
        options: Other options: ``sock``, ``path`` and ``ssl`` are checked if they are there; the
            path becomes a str or bytes.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    _checks.check_port(port)
    _checks.check_instance("ssl", options.get("ssl"), ssl_module.SSLContext, "an SSLContext")
    sock = options.get("sock")
    _checks.check_instance("sock", sock, socket.socket, "a socket")
    if (sock is not None or "path" in options) and (host is not None or port is not None):
        raise ValueError("host and port must be None when sock or path says where to listen")
    if "path" in options:
        path = options["path"]
        _checks.check_instance("path", path, (str, bytes, os.PathLike), "a str, bytes, path-like")
        if (path is None) == (sock is None):
            raise ValueError("exactly one of path and sock must be given")
        if path is not None:
            options["path"] = os.fspath(path)
