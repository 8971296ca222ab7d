"""A connection to one of several NATS servers, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final
from urllib.parse import urlsplit

from ._nats_connection import Connection
from ._nats_options import discovered, is_address, shown
from .bus import BusReceiver
from .exceptions import BusUnavailable

__all__ = ["Link"]

FIRST_DELAY: Final = 0.1
"""Seconds before the first attempt to connect again, at most: any time up to that (full jitter)."""

MAX_DELAY: Final = 5.0
"""Seconds before any further attempt, at most."""

MAX_DISCOVERED: Final = 64
"""Servers of a cluster that are remembered besides those that were named."""

logger = logging.getLogger("wsapi.topics")


class Link(ABC):
    """Keeps a connection, to whichever server answers.

    Args:
        servers: Their URIs.
        prefix: What all subjects begin with.
        timeout: How long each call waits for the server, in seconds.
        max_pending_bytes: Bytes of messages that may wait for answers.
        options: How to connect: arguments of nats-py, None for those that aren't given.

    Attributes:
        servers: As above.
        timeout: As above.
        receiver: Whom to tell what happens; None while this isn't open.
        connection: The connection; None while there is none.
    """

    def __init__(
        self,
        servers: list[str],
        prefix: str,
        timeout: float,
        max_pending_bytes: int,
        options: dict[str, Any],
    ) -> None:
        self.servers = servers
        self.timeout = timeout
        self.receiver: BusReceiver | None = None
        self.connection: Connection | None = None
        self._prefix = prefix
        self._max_pending_bytes = max_pending_bytes
        self._options = options
        self._reason: Exception = BusUnavailable("the bus isn't open")
        self._discovered: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------------------- what Keeper does

    @abstractmethod
    async def _prepare(self, connection: Connection) -> None:
        """Do with a new connection what has to be done before it is used."""

    @abstractmethod
    def _note_loss(self) -> None:
        """Note that the connection was lost."""

    @abstractmethod
    async def _look_after(self) -> None:
        """See again and again whether all is well, until this is cancelled."""

    # ------------------------------------------------------------------------------- open and close

    async def open(self, receiver: BusReceiver) -> None:
        """Connect.

        Args:
            receiver: Whom to tell what happens.

        Raises:
            BusUnavailable: If that isn't possible.
            RuntimeError: If this is open.
        """
        if self.receiver is not None:
            raise RuntimeError("the bus is open")
        self.receiver = receiver
        try:
            async with asyncio.timeout(self.timeout):
                await self.establish()
        except BaseException as exc:
            self.receiver = None
            await self._cancel_tasks()
            if isinstance(exc, BusUnavailable) or not isinstance(exc, Exception):
                raise
            raise BusUnavailable(
                f"can't connect to {', '.join(map(shown, self.servers))}: {exc!r}"
            ) from exc
        self.start(self._look_after())

    async def close(self) -> None:
        """End the connection and all tasks, whatever the server does."""
        self.receiver = None
        connection, self.connection = self.connection, None
        self._reason = BusUnavailable("the bus is closed")
        await self._cancel_tasks()
        if connection is not None:
            await connection.end(self.timeout)

    def reconnect(self) -> None:
        """Give up the connection, and make another one."""
        if self.connection is not None:
            self.connection.abandon(BusUnavailable("another connection was asked for"))

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task that ends with this."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self.timeout)

    def current(self) -> Connection:
        """Return the connection.

        Raises:
            BusUnavailable: If there is none.
        """
        if self.connection is None:
            raise BusUnavailable(f"no connection to a NATS server: {self._reason}")
        return self.connection

    def check_current(self, connection: Connection) -> None:
        """Raise if a connection isn't the one that there is now.

        Raises:
            BusUnavailable: If it was lost.
        """
        if self.connection is not connection:
            raise BusUnavailable(f"the connection was lost: {self._reason}")

    # ----------------------------------------------------------------------------------- connecting

    async def establish(self) -> None:
        """Connect to the first server that answers, follow what was followed, find the stream."""
        servers = [*self.servers, *self._discovered]
        random.shuffle(servers)
        error: Exception = BusUnavailable("no server")
        for server in servers:
            connection = Connection(
                f"{self._prefix}.r.{secrets.token_hex(8)}.",
                self._max_pending_bytes,
                self._lost,
            )
            try:
                await connection.open(server, self.timeout / len(servers), self._options_of(server))
                await self._take_over(connection)
                return
            except BaseException as exc:
                await connection.end(1)
                if not isinstance(exc, Exception):
                    raise
                error = exc
        if isinstance(error, BusUnavailable):
            raise error
        raise BusUnavailable(
            f"can't connect to {', '.join(map(shown, self.servers))}: {error!r}"
        ) from error

    async def _take_over(self, connection: Connection) -> None:
        await self._prepare(connection)
        if not connection.alive:
            raise BusUnavailable("the connection was lost at its beginning")
        self._remember_servers(connection)
        self.connection = connection

    def _lost(self, connection: Connection, reason: Exception) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        self._reason = reason
        self._note_loss()
        if self.receiver is not None:
            self.start(connection.end(self.timeout))
            self.start(self._come_back())
            self.receiver.interrupted(reason)

    async def _come_back(self) -> None:
        attempt = 0
        while True:
            limit = min(MAX_DELAY, FIRST_DELAY * 2 ** min(attempt, 16))
            await asyncio.sleep(random.random() * limit)
            attempt += 1
            try:
                async with asyncio.timeout(2 * self.timeout):
                    await self.establish()
            except Exception as exc:
                self._reason = exc
                logger.debug("no connection to NATS", exc_info=exc)
                continue
            if self.receiver is not None:
                self.receiver.resumed()
            return

    def _options_of(self, server: str) -> dict[str, Any]:
        options = self._options
        if server in self._discovered and options["tls_hostname"] is None:
            # Servers of a cluster tell addresses; their certificates have names.
            host = urlsplit(server).hostname
            if host is not None and is_address(host):
                options = {**options, "tls_hostname": urlsplit(self.servers[0]).hostname}
        return {key: value for key, value in options.items() if value is not None}

    def _remember_servers(self, connection: Connection) -> None:
        addresses = [server.netloc for server in connection.discovered_servers]
        found = dict.fromkeys(discovered(self.servers[0], addresses))
        self._discovered = [server for server in found if server not in self.servers][
            :MAX_DISCOVERED
        ]
