"""The WebSocket protocol of uvicorn: ``uvicorn --ws wsapi.uvicorn:WebSocketProtocol app:app``.

Its limits, keepalive and compression are uvicorn's settings ``--ws-max-size``, ``--ws-max-queue``,
``--ws-ping-interval``, ``--ws-ping-timeout`` and ``--ws-per-message-deflate``; its log lines go
where those of uvicorn's own classes go. For clients that don't read, uvicorn has no settings: they
are attributes of the class, which a subclass changes::

    class WebSocketProtocol(wsapi.uvicorn.WebSocketProtocol):
        slow = wsapi.limits.Slow.DROP_OLDEST
        max_backlog = 2**20
        write_deadline = 30
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Protocol

from wsproto_fast import ServerProtocol
from wsproto_fast.extensions.permessage_deflate import enable_server_permessage_deflate

from ._shared.tls import keep_errors_apart
from .asgi import ASGIApplication, ASGIConnection, HeaderPairs, stats

__all__ = ["WebSocketProtocol", "stats"]

# Factories hold settings, no state of connections.
_DEFLATE = enable_server_permessage_deflate(None)

_logger = logging.getLogger("uvicorn.error")


class _Config(Protocol):
    """What is used of ``uvicorn.Config``."""

    loaded: bool
    loaded_app: Any
    root_path: str
    ws_max_size: int
    ws_max_queue: int
    ws_ping_interval: float | None
    ws_ping_timeout: float | None
    ws_per_message_deflate: bool
    ssl: ssl.SSLContext | None

    @property
    def asgi_version(self) -> str: ...
    def load(self) -> None: ...


class _ServerState(Protocol):
    """What is used of ``uvicorn.server.ServerState``."""

    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    default_headers: list[tuple[bytes, bytes]]


class WebSocketProtocol(ASGIConnection):
    """A WebSocket connection of uvicorn, with the constructor and methods that uvicorn calls.

    Args:
        config: uvicorn's configuration.
        server_state: What uvicorn's connections have in common.
        app_state: What the application's lifespan left.
    """

    def __init__(
        self,
        config: _Config,
        server_state: _ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        if config.ssl is not None:
            # For those that come after this one.
            keep_errors_apart(config.ssl)
        app: ASGIApplication = config.loaded_app
        super().__init__(
            app,
            ServerProtocol(
                extensions=_DEFLATE if config.ws_per_message_deflate else None,
                max_size=config.ws_max_size,
                logger=_logger,
            ),
            log=_logger,
            root_path=config.root_path,
            asgi_version=config.asgi_version,
            lifespan_state=app_state,
            ping_interval=config.ws_ping_interval or None,  # to uvicorn, 0 is none, too
            ping_timeout=config.ws_ping_timeout,
            max_queue=config.ws_max_queue,
        )
        self.server_state = server_state

    def default_headers(self) -> HeaderPairs:
        return self.server_state.default_headers

    def task_started(self, task: asyncio.Task[None]) -> None:
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.server_state.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        super().connection_lost(exc)
