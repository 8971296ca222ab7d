"""One connection of the client: opened, read from and written to, closed, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wsproto_fast.exceptions import ConnectionClosed

from ..asyncio.client import ClientConnection, connect
from ._failures import explain, status_of_close
from ._heads import lines_of_heads, mask_head, masked_uri
from ._output import Format, LineFormat
from ._terminal import CommandError, Status, complain, printable

if TYPE_CHECKING:
    from wsproto_fast.frames import Close

__all__ = ["Ending", "Observer", "Session", "quiet_logging", "reach"]

PATIENCE = 2
"""Seconds that closing may last for a user who wants to be rid of it."""


class Observer(Protocol):
    """Told of what passes, such as what records it."""

    def opened(self, connection: ClientConnection) -> None:
        """The connection is open."""

    def sent(self, message: str | bytes) -> None:
        """A message is about to be sent."""

    def received(self, message: str | bytes) -> None:
        """A message has come."""

    def closed(self, close: Close | None, by: str) -> None:
        """The connection is closed, by ``client``, ``server``, or ``nobody``."""


@dataclass(frozen=True)
class Ending:
    """How the client ends a connection.

    Args:
        close: Code and reason.
        wait: Seconds to wait for messages after the last one was sent.
        count: Number of messages after which to end; None for no such number.
    """

    close: tuple[int, str] = (1000, "")
    wait: float = 0
    count: int | None = None


def quiet_logging(debug: bool = False) -> logging.Logger:
    """Return a logger that doesn't print what becomes an error of a command, with its traceback.

    Args:
        debug: Print everything that passes, to stderr.
    """
    logger = logging.getLogger("wsapi.cli.client")
    if debug:
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handler.addFilter(mask_head)
        logger.setLevel(logging.DEBUG)
    else:
        handler = logging.NullHandler()
    logger.handlers = [handler]
    logger.propagate = False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return logger


async def reach(uri: str, arguments: Mapping[str, Any], **others: Any) -> ClientConnection:
    """Connect.

    Args:
        uri: WebSocket URI.
        arguments: Keyword arguments of ``connect``.
        **others: More of them.

    Raises:
        CommandError: If that fails.
    """
    target = uri
    try:
        connecting = connect(uri, **arguments, **others)
        try:
            return await connecting
        finally:
            target = connecting.uri
    except Exception as exc:
        raise explain(exc, uri, arguments, target) from exc


class Session:
    """A connection, and what a user sees of it.

    Args:
        uri: WebSocket URI.
        arguments: Keyword arguments of ``connect``.
        format: What is written for each event.
        write: Writes it.
        ending: How the client ends the connection.
        verbose: Show requests and responses on stderr.
        observer: Told of what passes.
        compatible: End as ``python -m websockets`` does: with status 0, however the connection
            was closed.
    """

    def __init__(
        self,
        uri: str,
        arguments: Mapping[str, Any],
        format: Format,
        write: Callable[[str | bytes], Awaitable[None]],
        ending: Ending,
        *,
        verbose: bool = False,
        observer: Observer | None = None,
        compatible: bool = False,
    ) -> None:
        self.uri = uri
        self.arguments = arguments
        self.format = format
        self.write = write
        self.ending = ending
        self.verbose = verbose
        self.observer = observer
        self.compatible = compatible
        self.connection: ClientConnection | None = None
        self._attempts: list[ClientConnection] = []
        self._received = 0
        self._closing = False
        self._showing = False

    # ------------------------------------------------------------------ steps

    async def open(self) -> None:
        """Connect.

        Raises:
            CommandError: If that fails.
        """

        def new(*args: Any, **kwargs: Any) -> ClientConnection:
            connection = ClientConnection(*args, **kwargs)
            self._attempts.append(connection)
            return connection

        try:
            self.connection = await reach(self.uri, self.arguments, create_connection=new)
        except CommandError as error:
            await self.write(self.format.failed(error))
            raise
        finally:
            if self.verbose:
                self._show_heads()
            self._attempts.clear()
        if self.observer is not None:
            try:
                self.observer.opened(self.connection)
            except BaseException:
                self.connection.transport.abort()
                await self.connection.wait_closed()
                raise

    async def announce(self) -> None:
        """Tell that the connection is open."""
        await self.write(self.format.opened(self.uri, self.connection))

    def _show_heads(self) -> None:
        for attempt in self._attempts:
            for line in lines_of_heads(attempt):
                print(printable(line), file=sys.stderr)
        sys.stderr.flush()

    async def send(self, message: str | bytes) -> None:
        """Send a message.

        Raises:
            ConnectionClosed: When the connection is closed.
        """
        assert self.connection is not None
        if self.observer is not None:
            self.observer.sent(message)
        await self.connection.send(message)

    async def receive(self) -> None:
        """Show what is received, until the connection is closed or there was enough of it."""
        assert self.connection is not None
        count = self.ending.count
        self._showing = True
        try:
            while count is None or self._received < count:
                message = await self.connection.recv()
                self._received += 1
                if self.observer is not None:
                    self.observer.received(message)
                await self.write(self.format.received(message))
            if self._closing:
                await self._discard()
        except ConnectionClosed:
            pass
        finally:
            self._showing = False

    async def close(self) -> None:
        """Close the connection, unless it is closed.

        When messages aren't shown any more, they are discarded: the server's Close frame may wait
        behind them.
        """
        assert self.connection is not None
        self._closing = True
        discarding = None if self._showing else asyncio.ensure_future(self._discard())
        await self.connection.close(*self.ending.close)
        if discarding is not None:
            await discarding

    async def _discard(self) -> None:
        assert self.connection is not None
        try:
            while True:
                await self.connection.recv()
        except ConnectionClosed:
            pass

    async def finish(self) -> Status:
        """Tell how the connection was closed, and return the exit status."""
        assert self.connection is not None
        exc = self.connection.protocol.close_exc
        close, by = _closing(exc)
        if self.observer is not None:
            self.observer.closed(close, by)
        await self.write(self.format.closed(close, by))
        if self.compatible:
            return Status.OK
        error = self._error(exc)
        if error is None:
            return Status.OK
        await self.write(self.format.failed(error))
        if error.status is not Status.CLOSED or not isinstance(self.format, LineFormat):
            complain(error.message, error.hint)
        return error.status

    def _error(self, exc: ConnectionClosed) -> CommandError | None:
        where = masked_uri(self.uri)
        rcvd, sent = exc.rcvd, exc.sent
        if rcvd is not None and (sent is None or exc.rcvd_then_sent):
            status = status_of_close(rcvd.code)
            if status is Status.OK:
                return None
            return CommandError(
                status, f"{where} closed the connection: {rcvd}", None, code=rcvd.code
            )
        planned = self._closing and sent is not None and sent.code == self.ending.close[0]
        if planned and rcvd is not None:
            return None
        if sent is not None and sent.code == 1011 and "ping timeout" in sent.reason:
            return CommandError(
                Status.TIMEOUT, f"{where} doesn't answer pings", "--ping-timeout gives it longer"
            )
        if sent is None:
            message, hint = f"the connection to {where} was lost", None
        elif planned:
            message, hint = f"{where} didn't answer the closing handshake", None
        else:
            message = f"the connection to {where} was ended: {sent}"
            hint = "--max-size allows more" if sent.code == 1009 else None
        return CommandError(Status.PROTOCOL, message, hint)

    # ------------------------------------------------------------------ all of them

    async def run(self, messages: AsyncIterable[str | bytes]) -> Status:
        """Connect, send messages while others are shown, and end.

        Args:
            messages: What to send.

        Returns:
            Exit status.

        Raises:
            CommandError: If connecting or what there is to send fails.
            OSError: If what there is to show can't be written.
        """
        await self.open()
        receiver = asyncio.ensure_future(self._show_all())
        sender = asyncio.ensure_future(self._send_all(messages))
        error: CommandError | None = None
        status = Status.OK
        interrupted = False
        try:
            error = await self._talk(sender, receiver)
        except asyncio.CancelledError:
            # Ctrl-C: the connection is closed, and what became of it is told.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            interrupted = True
            status = Status.OK if self.compatible else Status.INTERRUPTED
        finally:
            await self._end_tasks(sender, receiver, hurry=interrupted)
        ended = await self.finish()
        if error is not None:
            await self.write(self.format.failed(error))
            raise error
        return status or ended

    async def _show_all(self) -> None:
        self._showing = True  # close() leaves reading to this from now on
        try:
            await self.announce()
            await self.receive()
        finally:
            self._showing = False

    async def _send_all(self, messages: AsyncIterable[str | bytes]) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in messages:
                await self.send(message)

    async def _talk(
        self, sender: asyncio.Future[None], receiver: asyncio.Future[None]
    ) -> CommandError | None:
        await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        if sender.done():
            try:
                sender.result()
            except CommandError as exc:
                return exc
        if not receiver.done():
            wait = self.ending.wait
            await asyncio.wait({receiver}, timeout=None if wait == math.inf else wait)
        if receiver.done():
            receiver.result()
        elif self.ending.count is not None:
            return CommandError(
                Status.TIMEOUT,
                f"{self._received} of {self.ending.count} messages came in time",
                "--wait waits longer",
            )
        return None

    async def _end_tasks(
        self, sender: asyncio.Future[None], receiver: asyncio.Future[None], *, hurry: bool
    ) -> None:
        sender.cancel()
        failed = receiver.done() and receiver.exception() is not None
        if failed or hurry:
            receiver.cancel()
            await asyncio.wait({receiver})
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.close()
            except TimeoutError:
                assert self.connection is not None
                self.connection.transport.abort()
                await self.connection.wait_closed()
        else:
            await self.close()
        await asyncio.wait({sender, receiver}, timeout=PATIENCE)


def _closing(exc: ConnectionClosed) -> tuple[Close | None, str]:
    """Return the Close frame that counts, and who closed."""
    if exc.rcvd is None and exc.sent is None:
        return None, "nobody"
    by_server = exc.sent is None or bool(exc.rcvd_then_sent)
    return exc.rcvd or exc.sent, "server" if by_server else "client"
