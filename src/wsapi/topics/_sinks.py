"""Subscribers that are no connections of ours: objects with coroutine methods that send.

WebSockets of Starlette and FastAPI, on whatever server, and others alike. They have no policies for
who doesn't read: messages wait in a queue here, with a limit and the same policies, for a task that
sends them one after the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wsproto_fast import Backpressure, PreparedMessage, Slow
from wsproto_fast.exceptions import ConnectionClosedError
from wsproto_fast.frames import CloseCode

from .. import limits
from .._shared.connection import SkippedBroadcasts
from ._coroutines import WaitingRecipient
from ._history import ENTRY_OVERHEAD
from .bus import Message

if TYPE_CHECKING:
    from ._asyncio import Topics

__all__ = ["QueueRecipient", "senders"]

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that closing such an object may last."""

MAX_BURST_SIZE: Final = 2**22
"""Bytes that may wait, if ``max_backlog`` is less, until sending them has begun."""

Sender = Callable[[Any], Awaitable[object]]


def senders(connection: Any) -> tuple[Sender, Sender]:
    """Return the methods of an object that send text and binary messages.

    Raises:
        TypeError: If it has none.
    """
    binary = getattr(connection, "send_bytes", None)
    text = getattr(connection, "send_text", None) or getattr(connection, "send_str", None)
    if callable(binary) and callable(text):
        return text, binary
    send = getattr(connection, "send", None)
    if callable(send):
        return send, send
    raise TypeError(
        f"connection must be a connection of wsapi.asyncio, or an object with send_text() and "
        f"send_bytes(), or with send(); got {type(connection).__name__}"
    )


class _Waiting:
    """A message that waits."""

    __slots__ = ("droppable", "key", "payload", "sent", "size")

    def __init__(self, payload: Message, size: int, key: object, droppable: bool) -> None:
        self.payload = payload
        self.size = size
        self.key = key  # with Slow.LATEST; otherwise the message itself, which nothing equals
        self.droppable = droppable
        self.sent: asyncio.Future[bool] | None = None  # whoever waits until it is sent

    def tell(self, *, sent: bool) -> None:
        """Let who waits for it go on: it is sent, or won't be."""
        if self.sent is not None and not self.sent.done():
            self.sent.set_result(sent)


class QueueRecipient(WaitingRecipient):
    """An object that sends, with a queue in front of it; its own sink.

    Args:
        topics: Topics that it belongs to.
        connection: The object.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_closing",
        "_droppable",
        "_dropped",
        "_latest",
        "_queue",
        "_send_binary",
        "_send_text",
        "_sending",
        "_size",
        "_task",
        "_topics",
        "closed",
    )

    def __init__(self, topics: Topics, connection: Any) -> None:
        super().__init__(connection, self)
        self._send_text, self._send_binary = senders(connection)
        self._topics = topics
        self._queue: deque[_Waiting] = deque()
        self._latest: dict[object, _Waiting] = {}
        self._size = 0
        self._droppable = 0  # how much of that may be dropped
        self._dropped: Counter[Slow] = Counter()
        self._sending = False  # a task does, which may have begun before it is known here
        self._began = False  # this task has had its first turn
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def open(self) -> bool:
        return not self.closed

    @property
    def sending(self) -> bool:
        """Whether there is something to be sent, and it can be."""
        return self._sending and not self.closed

    # ------------------------------------------------------------------ as a sink

    def broadcast(
        self, message: PreparedMessage, compress: bool | None, terms: Backpressure
    ) -> bool:
        """Take the message that is being published."""
        payload = self._topics._core.payload
        assert payload is not None
        return self.tell(payload, compress, terms)

    def tell(self, message: Message, compress: bool | None, terms: Backpressure) -> bool:
        if self.closed:
            return True
        size = _size(message) + ENTRY_OVERHEAD
        limit = terms.max_backlog
        slow = Slow.WAIT if terms.slow is None else terms.slow
        fine = True
        if slow is Slow.LATEST:
            old = self._latest.get(terms.key)
            if old is not None:
                # In its place: what changes often gets its turn nevertheless.
                self._size += size - old.size
                self._droppable += size - old.size
                old.payload, old.size = message, size
                self._dropped[slow] += 1
                self._make_room(0, limit, old, slow)
                return False
        # What finds nothing that waits goes on, whatever its size: the peer reads.
        if limit is not None and self._queue and self._size + size > limit:
            if slow in (Slow.CLOSE, Slow.WAIT):
                if not self._began and self._size + size <= MAX_BURST_SIZE:
                    # All came in one turn of the event loop: that doesn't show how the peer reads.
                    self._put(_Waiting(message, size, None, droppable=False))
                    return True
                # Whoever is told that this returns False has its subscriptions end.
                self._dropped[Slow.CLOSE] += 1
                self._begin_closing(CloseCode.TRY_AGAIN_LATER, "")
                return False
            fine = False
            if slow is Slow.DROP_NEWEST or not self._make_room(size, limit, None, slow):
                self._dropped[slow] += 1
                return False
        waiting = _Waiting(message, size, None, slow not in (Slow.CLOSE, Slow.WAIT))
        if slow is Slow.LATEST:
            waiting.key = terms.key
            self._latest[terms.key] = waiting
        self._put(waiting)
        return fine

    def _make_room(self, size: int, limit: int | None, spared: _Waiting | None, slow: Slow) -> bool:
        """Drop what has waited longest; return whether there is room."""
        if limit is None:
            return True
        kept = self._size - self._droppable + (0 if spared is None else spared.size)
        if kept + size > limit:
            return False
        place = 0
        while self._size + size > limit:
            waiting = self._queue[place]
            if waiting is spared or not waiting.droppable:
                place += 1
                continue
            del self._queue[place]
            self._forget(waiting)
            self._dropped[slow] += 1
        return True

    def _forget(self, waiting: _Waiting) -> None:
        self._size -= waiting.size
        if waiting.droppable:
            self._droppable -= waiting.size
        if self._latest.get(waiting.key) is waiting:
            del self._latest[waiting.key]

    def explain(self, reason: Exception | None, skipped: SkippedBroadcasts) -> None:
        dropped, self._dropped = self._dropped, Counter()
        if dropped.pop(Slow.CLOSE, 0):
            limits.given_up.add(1, self._topics._logger)
        if number := dropped.total():
            limits.dropped.add(number, self._topics._logger)
        if reason is not None:
            self._topics._logger.warning("skipped a subscriber: %r", reason)

    # ------------------------------------------------------------------ sending

    async def send(self, message: Message, compress: bool | None) -> None:
        """Send a message behind those that wait, and wait until it is sent.

        Raises:
            ConnectionClosed: If that isn't possible any more.
        """
        waiting = _Waiting(message, _size(message) + ENTRY_OVERHEAD, None, droppable=False)
        waiting.sent = asyncio.get_running_loop().create_future()
        self._put(waiting)
        if not await waiting.sent:
            await self.raise_closed()

    def _put(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._size += waiting.size
        if waiting.droppable:
            self._droppable += waiting.size
        if not self._sending:
            self._sending = True
            self._began = False
            self._topics._queues[id(self.connection)] = self
            self._task = self._topics._spawn(self._run())

    async def _run(self) -> None:
        """Send what waits."""
        self._began = True
        waiting: _Waiting | None = None
        try:
            while self._queue:
                waiting = self._queue.popleft()
                self._forget(waiting)
                payload = waiting.payload
                await (self._send_text if isinstance(payload, str) else self._send_binary)(payload)
                waiting.tell(sent=True)
        except Exception as exc:
            # Frameworks have exceptions of their own for a client that is gone.
            self._topics._logger.debug("a subscriber is gone: %r", exc)
            self.end()
        finally:
            self._sending = False
            if waiting is not None:
                waiting.tell(sent=False)

    def end(self) -> None:
        """Note that nothing can be sent any more."""
        if not self.closed:
            self._stop()
            self._topics._ended(self)

    def _stop(self) -> None:
        self.closed = True
        queue, self._queue = self._queue, deque()
        self._latest.clear()
        self._size = self._droppable = 0
        for waiting in queue:
            waiting.tell(sent=False)

    # ------------------------------------------------------------------ the end

    async def check_open(self) -> None:
        """Refuse an object that can't send.

        Raises:
            ConnectionClosed: If it is closed.
            RuntimeError: If it isn't open yet.
        """
        states = [
            getattr(getattr(self.connection, name, None), "name", None)
            for name in ("client_state", "application_state")
        ]
        if self.closed or "DISCONNECTED" in states or getattr(self.connection, "closed", 0) is True:
            self._raise_closed()
        if "CONNECTING" in states:
            raise RuntimeError("the WebSocket isn't accepted yet")

    def _raise_closed(self) -> NoReturn:
        raise ConnectionClosedError(None, None)

    def close(self, code: CloseCode, reason: str) -> None:
        self.end()
        self._begin_closing(code, reason)

    def _begin_closing(self, code: CloseCode, reason: str) -> None:
        self._stop()
        if self._closing is None:
            self._closing = self._topics._spawn(self._close(code, reason))

    async def _close(self, code: CloseCode, reason: str) -> None:
        close = getattr(self.connection, "close", None)
        try:
            if callable(close):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await close(code=int(code), reason=reason)
        except Exception as exc:
            self._topics._logger.debug("a subscriber can't be closed: %r", exc)
        finally:
            if self._task is not None:
                self._task.cancel()

    def forget(self) -> None:
        # What was published before is still sent.
        pass

    async def raise_closed(self) -> NoReturn:
        """Wait until the object is closed; raise what says so."""
        if self._closing is not None:
            await asyncio.wait([self._closing])
        self._raise_closed()


def _size(message: Message) -> int:
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())
