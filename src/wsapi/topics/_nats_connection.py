"""One connection to a NATS server, from its beginning to its end: it never comes back.

``nats-py`` brings what precedes messages (servers, TLS, credentials) and the parser. What it does
after a connection is lost stays unused: it would give up for good after some errors of the server,
wait without end for what a stopped server doesn't read, reconnect all at once, and send what has
been told to be unsent. Messages go from its parser to whoever they are for, without a queue and
a task for each subscription: nothing can be dropped on the way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from .exceptions import BusError, BusUnavailable, PublishUncertain

__all__ = ["Answer", "Connection", "Handler", "NoResponders"]

Handler: TypeAlias = Callable[[bytes, bytes | None], None]
"""What takes the data and the headers of a message."""

Answer: TypeAlias = tuple[bytes, bytes | None]
"""Data and headers of an answer."""

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')
_MAX_DENIED: Final = 1000
_STATUS: Final = b"NATS/1.0 "


class NoResponders(Exception):
    """Raised when nobody is there for a request, which therefore has had no effect."""


class _Call:
    """A request that waits for its answer, or for all parts of it."""

    __slots__ = ("deadline", "future", "parts", "publishes", "size", "subject")

    def __init__(
        self,
        subject: str,
        size: int,
        deadline: float,
        future: asyncio.Future[Any],
        *,
        publishes: bool,
        parts: list[Answer] | None,
    ) -> None:
        self.subject = subject
        self.size = size
        self.deadline = deadline
        self.future = future
        self.publishes = publishes
        self.parts = parts

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Connection(Client):
    """A connection to a NATS server.

    Args:
        inbox: Subject, with a dot at its end, under which answers to this process come.
        max_pending_bytes: Bytes of messages that may wait for an answer.
        lost: Called once, with the connection and the reason, if it ends before ``end()``.
    """

    def __init__(
        self, inbox: str, max_pending_bytes: int, lost: Callable[[Connection, Exception], None]
    ) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.denied: set[tuple[str, str]] = set()
        self._inbox = inbox
        self._inbox_length = len(inbox)
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._lost = lost
        self._reason: Exception | None = None
        self._opened = False
        self._requires_tls = False
        self._handlers: dict[int, Handler] = {}
        self._inbox_sid = 0
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._echo: asyncio.Future[Any] | None = None  # which is under way
        self._next_echo: tuple[asyncio.Future[Any], float] | None = None  # with its deadline
        self._echoing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # Beginning and end

    async def open(self, server: str, timeout: float, options: dict[str, Any]) -> None:
        """Connect, and have answers come.

        Raises:
            Exception: Whatever went wrong; call ``end()`` then, too.
        """
        self._requires_tls = server.startswith("tls://") or options.get("tls") is not None
        async with asyncio.timeout(timeout):
            await self.connect(
                servers=[server],
                allow_reconnect=False,
                connect_timeout=timeout,  # type: ignore[arg-type] # seconds, fractions too
                max_reconnect_attempts=1,
                error_cb=self._note_error,
                closed_cb=self._note_end,
                pending_size=0,
                flusher_queue_size=0,
                **options,
            )
        assert self._reading_task is not None
        # Some errors end it without a word.
        self._reading_task.add_done_callback(self._note_silence)
        self._inbox_sid = await self._subscribe(self._inbox + "*")
        self._opened = True
        await self.echo(timeout)

    def abandon(self, reason: Exception) -> None:
        """Take the connection for lost: whoever waits for an answer is told."""
        if self._reason is None:
            self._reason = reason
            calls = list(self._calls.values())
            self._calls.clear()
            self._pending_bytes = 0
            self._handlers.clear()
            if self._timer is not None:
                self._timer.cancel()
            for call in calls:
                call.fail(_unanswered(call, str(reason)))
            if self._opened:
                self._lost(self, reason)

    async def end(self, timeout: float) -> None:
        """End it, in so many seconds at most: the server may be stopped, and take nothing."""
        self._opened = False
        self.abandon(BusUnavailable("the bus is closed"))
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()  # or close() would wait until all is written
        try:
            async with asyncio.timeout(timeout):
                await self.close()
        except Exception:
            pass  # whatever is wrong with what is over

    @property
    def server_name(self) -> str:
        """Name of the server, as it says itself."""
        return str(self._server_info.get("server_name", ""))

    @property
    def server_version(self) -> tuple[int, ...]:
        """Version of the server, as far as it consists of numbers."""
        version = str(self._server_info.get("version", ""))
        return tuple(int(part) for part in re.findall(r"\d+", version)[:3])

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._opened and self._reason is None

    # Messages

    async def listen(self, subject: str, handler: Handler) -> int:
        """Have a handler take the messages of a subject; return what names it for ``unlisten()``.

        Whether the server permits it is known after the next answer: see ``denied``.
        """
        self._usable()
        sid = await self._subscribe(subject)
        self._handlers[sid] = handler
        return sid

    async def unlisten(self, sid: int) -> None:
        """Have them taken no more."""
        self._handlers.pop(sid, None)
        subscription: Subscription | None = self._subs.get(sid)
        if subscription is not None and self.alive:
            try:
                await subscription.unsubscribe()
            except errors.Error:
                pass  # it ends right now
            except Exception as error:
                self.abandon(error)

    async def send(self, subject: str, payload: bytes) -> None:
        """Publish without an answer: ``echo()`` tells whether the server has got it."""
        self._usable()
        if self.pending_data_size + len(payload) > self._max_pending_bytes:
            raise BusUnavailable(self._full(self.pending_data_size))
        await self._write(subject, payload, None)

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout: float,
        *,
        publishes: bool = False,
        parts: bool = False,
    ) -> Any:
        """Send a request; return its ``Answer``, or a list of them.

        Args:
            subject: Where to.
            payload: What.
            timeout: How long to wait for the answer, in seconds.
            publishes: Whether it publishes a message, so that without an answer it isn't known
                whether that was done.
            parts: Whether there may be several answers, one after the other.

        Raises:
            NoResponders: If nobody is there to answer.
            BusUnavailable, PublishUncertain: If there was no answer.
        """
        self._usable()
        size = len(payload)
        if publishes and self._pending_bytes + size > self._max_pending_bytes and self._calls:
            raise BusUnavailable(self._full(self._pending_bytes))
        future: asyncio.Future[Any] = self.loop.create_future()
        number = self._expect(subject, size, timeout, future, publishes=publishes, parts=parts)
        try:
            await self._write(subject, payload, number)
        except BaseException:
            future.add_done_callback(_retrieve)  # nobody waits for it
            raise
        return await future

    async def echo(self, timeout: float) -> None:
        """Wait until the server has taken all that was sent so far.

        Those who ask while an answer is under way share the next one.

        Raises:
            BusUnavailable: If that isn't known in time.
        """
        self._usable()
        if self._echo is None:
            self._echo = echo = self.loop.create_future()
            await self._send_echo(echo, timeout)
            await echo
            return
        if self._next_echo is None:
            self._next_echo = self.loop.create_future(), self.loop.time() + timeout
            self._next_echo[0].add_done_callback(_retrieve)  # whoever waits may be gone
        await asyncio.shield(self._next_echo[0])

    async def _send_echo(self, echo: asyncio.Future[Any], timeout: float) -> None:
        subject = f"{self._inbox}{self._number + 1}"
        echo.add_done_callback(self._take_echo)
        self._expect(subject, 0, timeout, echo, publishes=False, parts=False)
        try:
            await self._write(subject, b"", None)
        except BusUnavailable as error:
            if not echo.done():
                echo.set_exception(error)

    def _take_echo(self, echo: asyncio.Future[Any]) -> None:
        self._echo = None
        if self._next_echo is None:
            return
        following, deadline = self._next_echo
        self._next_echo = None
        if not self.alive:
            following.set_exception(BusUnavailable(self._why()))
            return
        self._echo = following
        left = max(deadline - self.loop.time(), 0)
        self._echoing = self.loop.create_task(self._send_echo(following, left))

    async def _write(self, subject: str, payload: bytes, number: int | None) -> None:
        try:
            await self.publish(subject, payload, "" if number is None else f"{self._inbox}{number}")
        except errors.Error as error:
            if number is not None:
                self._forget(number)
            raise BusUnavailable(f"{self._why()}: {error}") from error
        except Exception as error:
            # Errors of the transport: it may have been written, which its caller is told.
            self.abandon(error)

    def _expect(
        self,
        subject: str,
        size: int,
        timeout: float,
        future: asyncio.Future[Any],
        *,
        publishes: bool,
        parts: bool,
    ) -> int:
        self._number = number = self._number + 1
        deadline = self.loop.time() + timeout
        self._calls[number] = _Call(
            subject, size, deadline, future, publishes=publishes, parts=[] if parts else None
        )
        self._pending_bytes += size
        # The timer of a request that was answered stays: there is one every few seconds.
        if self._timer is None:
            self._timer = self.loop.call_at(deadline, self._expire)
        elif deadline < self._timer.when():
            self._timer.cancel()
            self._timer = self.loop.call_at(deadline, self._expire)
        return number

    def _forget(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            self._pending_bytes -= call.size

    def _full(self, size: int) -> str:
        return f"{size} bytes wait for the NATS server, as many as max_pending_bytes allows"

    def _why(self) -> str:
        return f"no connection to a NATS server: {self._reason or 'it is lost'}"

    def _usable(self) -> None:
        if not self.alive or not self.is_connected:
            raise BusUnavailable(self._why())

    def check(self, verb: str, subject: str) -> None:
        """Raise BusUnavailable if the server has forbidden to publish or subscribe to a subject."""
        if self.denied and (verb, subject.lower()) in self.denied:
            raise BusUnavailable(_forbidden(verb, subject))

    async def _subscribe(self, subject: str) -> int:
        # Without a callback there is no task; what comes doesn't go through its queue.
        try:
            return (await self.subscribe(subject))._id
        except Exception as error:
            if not isinstance(error, errors.Error):
                self.abandon(error)
            raise BusUnavailable(f"{self._why()}: {error}") from error

    def _expire(self) -> None:
        self._timer = None
        now = self.loop.time()
        late = [number for number, call in self._calls.items() if call.deadline <= now]
        for number in late:
            call = self._calls.pop(number)
            self._pending_bytes -= call.size
            call.fail(_unanswered(call, "it didn't answer in time"))
        if self._calls:
            self._timer = self.loop.call_at(
                min(call.deadline for call in self._calls.values()), self._expire
            )

    def _answered(self, subject: bytes, data: bytes, headers: bytes | None) -> None:
        digits = subject[self._inbox_length :]
        call = self._calls.get(int(digits)) if digits.isdigit() else None
        if call is None:
            return  # too late
        if call.parts is not None and not _is_last(data, headers):
            call.parts.append((data, headers))
            return
        del self._calls[int(digits)]
        self._pending_bytes -= call.size
        if call.future.done():
            return
        if headers is not None and headers.startswith(b"NATS/1.0 503"):
            call.future.set_exception(NoResponders())
        elif call.parts is None:
            call.future.set_result((data, headers))
        else:
            call.parts.append((data, headers))
            call.future.set_result(call.parts)

    # What nats-py tells. These names of it are private: the first echo of each connection shows
    # whether messages still come this way.

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        handler = self._handlers.get(sid)
        if handler is not None:
            handler(data, headers)
        elif sid == self._inbox_sid:
            self._answered(subject, data, headers)

    async def _process_err(self, err_msg: str) -> None:
        denied = _DENIED.search(err_msg)
        if denied is None:
            self.abandon(BusError(f"the NATS server says {err_msg}"))
            return
        verb, subject = denied.groups()
        if len(self.denied) >= _MAX_DENIED:
            self.denied.clear()
        self.denied.add((verb, subject))
        if verb == "subscription" and subject == f"{self._inbox}*".lower():
            self.abandon(BusUnavailable(_forbidden(verb, subject)))
        elif verb == "publish":
            for number, call in list(self._calls.items()):
                if call.subject.lower() == subject:
                    del self._calls[number]
                    self._pending_bytes -= call.size
                    call.fail(BusUnavailable(_forbidden(verb, call.subject)))

    async def _process_op_err(self, e: Exception) -> None:
        self.abandon(e)

    async def _note_error(self, error: Exception) -> None:
        if not self._opened:
            raise error  # the first failure to connect ends the attempt

    async def _note_end(self) -> None:
        self.abandon(BusError("the connection to the NATS server is closed"))

    def _note_silence(self, task: asyncio.Task[None]) -> None:
        self.abandon(BusError("nothing is read from the NATS server any more"))

    def _connect_command(self) -> bytes:
        # The last moment before credentials are sent.
        tls = self._server_info.get("tls_required") or self.options["tls_handshake_first"]
        if self._requires_tls and not tls:
            raise errors.SecureConnWantedError
        return super()._connect_command()


def _retrieve(future: asyncio.Future[Any]) -> None:
    future.exception()


def _unanswered(call: _Call, why: str) -> BusError:
    if call.publishes:
        return PublishUncertain(f"the NATS server may have published the message, or not: {why}")
    return BusUnavailable(f"no answer from the NATS server: {why}")


def _forbidden(verb: str, subject: str) -> str:
    return f"the NATS server doesn't permit {verb} on {subject}"


def _is_last(data: bytes, headers: bytes | None) -> bool:
    """Tell whether an answer ends those to one request.

    Those with a status end it: 204 after the last message, 404 instead of one. A server that knows
    no requests for several messages sends one, without the count of those that come after it.
    """
    return headers is None or headers.startswith(_STATUS) or b"Nats-Num-Pending: " not in headers
