"""What connections of all front-ends have in common, without I/O.

Owns the attributes of connections, the frames of a message given as an iterable, what a broadcast
does with a connection that it skips, and who is told of messages that were dropped. Front-ends own
how bytes are moved, and how one waits.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast, overload

from wsproto_fast import Backpressure, Protocol, Slow
from wsproto_fast.exceptions import ConcurrencyError, ConnectionClosed
from wsproto_fast.frames import MAX_FRAGMENTS, CloseCode, State
from wsproto_fast.http11 import Request, Response
from wsproto_fast.statistics import ConnectionStats
from wsproto_fast.typing import DataLike, LoggerLike, Subprotocol

from .. import limits
from .checks import check_overrides
from .options import CONNECTION_OPTIONS, Limits, OnDrop

if TYPE_CHECKING:
    import uuid

__all__ = [
    "FAILURE",
    "BaseConnection",
    "FragmentedMessage",
    "SkippedBroadcasts",
    "closing",
    "concurrent_receiver",
    "forget_frames",
]


def concurrent_receiver(name: str, running: str, kind: str) -> ConcurrencyError:
    """Return the exception for whoever receives while somebody else does.

    Args:
        name: Method that was called.
        running: Method that is running.
        kind: What runs it: "coroutine" or "thread".
    """
    return ConcurrencyError(f"cannot call {name} while another {kind} is already running {running}")


# To look a member up in its class takes longer.
_WAIT: Final = Slow.WAIT

FAILURE: Final = CloseCode.INTERNAL_ERROR
"""Close code where whoever uses a connection fails, an unexpected condition (RFC 6455 §7.4.1)."""


def closing(exc: BaseException | None) -> tuple[()] | tuple[CloseCode]:
    """Return the arguments of ``close`` at the end of whatever uses a connection.

    Args:
        exc: What ended it; None if that is its proper end.

    Returns:
        A code, or nothing for 1000, since an override of ``close`` may have no parameters.
    """
    return () if exc is None else (FAILURE,)


def forget_frames(exc: BaseException | None) -> None:
    """Remove the traceback of an exception that is kept, and what was being handled meanwhile.

    Frames hold what keeps it, and none of these is of interest: they belong to who moves bytes.
    """
    while exc is not None:
        exc.__traceback__ = exc.__context__ = None
        if isinstance(exc, BaseExceptionGroup):
            for member in exc.exceptions:
                forget_frames(member)
        exc = exc.__cause__


class _Timeout:
    """A duration of a connection, of which the engine is told when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.place = f"_{name}"

    @overload
    def __get__(self, connection: None, owner: type) -> Self: ...
    @overload
    def __get__(self, connection: BaseConnection, owner: type) -> float | None: ...

    def __get__(self, connection: BaseConnection | None, owner: type) -> Self | float | None:
        if connection is None:
            return self
        value: float | None = getattr(connection, self.place)
        return value

    def __set__(self, connection: BaseConnection, value: float | None) -> None:
        before = getattr(connection, self.place)
        setattr(connection, self.place, value)
        try:
            connection._change(connection._tell_timeouts)
        except BaseException:
            setattr(connection, self.place, before)
            raise


class ReceivedFrames:
    """How much waits to be received on a connection; its length is the number of frames.

    Args:
        protocol: Engine of the connection.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def __len__(self) -> int:
        return self._protocol.queued_frames

    @property
    def frames(self) -> Self:
        """The same: something that has a length."""
        return self

    @property
    def paused(self) -> bool:
        """Whether reading is paused because too much waits."""
        return not self._protocol.reading_wanted

    @property
    def high(self) -> int | None:
        """Number of frames above which reading pauses; None for no limit."""
        return self._protocol.queue_marks[0]

    @property
    def low(self) -> int | None:
        """Number of frames at which it resumes; None for no limit."""
        return self._protocol.queue_marks[1]


# What `websockets` has inside its connections of every kind, and programs override.
_FOREIGN_METHODS = frozenset(
    {
        "acknowledge_pings",
        "keepalive",
        "process_event",
        "send_context",
        "send_data",
        "set_connection_exc",
        "start_keepalive",
    }
)


class BaseConnection:
    """A WebSocket connection, whatever one waits by.

    Args:
        protocol: Protocol of the connection.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
    """

    # What most connections never change is kept on the class: an idle connection stays small.
    protocol: Protocol
    request: Request | None = None
    response: Response | None = None
    ping_interval = _Timeout()
    ping_timeout = _Timeout()
    close_timeout = _Timeout()
    _ping_interval: float | None = CONNECTION_OPTIONS["ping_interval"].default
    _ping_timeout: float | None = CONNECTION_OPTIONS["ping_timeout"].default
    _close_timeout: float | None = CONNECTION_OPTIONS["close_timeout"].default

    _held = False  # something else keeps it alive until the engine is told of its end
    on_drop: OnDrop | None = None
    _reporting = False  # on_drop is running
    _untold = 0  # messages that were dropped meanwhile

    # What it has besides inside those of one front-end; in another one, these names are free.
    _foreign_methods: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_overrides(cls, _FOREIGN_METHODS | cls._foreign_methods)

    def __init__(
        self,
        protocol: Protocol,
        ping_interval: float | None = CONNECTION_OPTIONS["ping_interval"].default,
        ping_timeout: float | None = CONNECTION_OPTIONS["ping_timeout"].default,
        close_timeout: float | None = CONNECTION_OPTIONS["close_timeout"].default,
        max_queue: Limits = CONNECTION_OPTIONS["max_queue"].default,
        slow: Slow = CONNECTION_OPTIONS["slow"].default,
        max_backlog: int | None = CONNECTION_OPTIONS["max_backlog"].default,
        write_deadline: float | None = CONNECTION_OPTIONS["write_deadline"].default,
        on_drop: OnDrop | None = CONNECTION_OPTIONS["on_drop"].default,
    ) -> None:
        high, low = max_queue if isinstance(max_queue, tuple) else (max_queue, None)
        protocol.queue_messages(high, low, max_fragments=MAX_FRAGMENTS)
        self.protocol = protocol
        if ping_interval is not self._ping_interval:
            self._ping_interval = ping_interval
        if ping_timeout is not self._ping_timeout:
            self._ping_timeout = ping_timeout
        if close_timeout is not self._close_timeout:
            self._close_timeout = close_timeout
        if slow is not _WAIT or write_deadline is not None:
            protocol.set_backpressure(
                Backpressure(slow, max_backlog), write_deadline=write_deadline
            )
        if on_drop is not None:
            self.on_drop = on_drop
        protocol.attach_to(self, self._held)

    @property
    def logger(self) -> LoggerLike:
        """Logger whose records have the connection as their attribute ``websocket``."""
        return self.protocol.logger

    @logger.setter
    def logger(self, logger: LoggerLike) -> None:
        self.protocol.logger = logger

    @property
    def id(self) -> uuid.UUID:
        """Unique identifier of the connection, for logs."""
        return self.protocol.id

    @id.setter
    def id(self, id: uuid.UUID) -> None:
        self.protocol.id = id

    @property
    def latency(self) -> float:
        """Round-trip time of the last answered ping, in seconds; 0 before the first one."""
        return self.protocol.latency

    @latency.setter
    def latency(self, latency: float) -> None:
        self.protocol.latency = latency

    @property
    def state(self) -> State:
        """State of the connection."""
        return self.protocol.state

    @property
    def subprotocol(self) -> Subprotocol | None:
        """Subprotocol negotiated in the opening handshake."""
        return self.protocol.subprotocol

    @property
    def close_code(self) -> int | None:
        """Close code received, 1006 without a Close frame; None before the connection is closed."""
        return self.protocol.close_code

    @property
    def close_reason(self) -> str | None:
        """Close reason received; None before the connection is closed."""
        return self.protocol.close_reason

    @property
    def close_exc(self) -> ConnectionClosed:
        """Exception that tells how the connection was closed.

        Raises:
            AssertionError: Before it is.
        """
        return self.protocol.close_exc

    @property
    def recv_messages(self) -> ReceivedFrames:
        """What waits to be received, for programs that watch it."""
        return ReceivedFrames(self.protocol)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.state.name} id={self.id}>"

    def stats(self) -> ConnectionStats:
        """Return what was counted and measured so far.

        It can be called at any time, from any thread, and also when the connection is closed.
        """
        try:
            now = self._now()
        except RuntimeError:
            now = None  # there is no clock of trio's in other threads
        return self.protocol.stats(unsent=self._waiting_bytes(), now=now)

    def _waiting_bytes(self) -> int:
        """Return how much of what was taken from the engine the network hasn't taken."""
        try:
            return self._unsent()
        except (AttributeError, RuntimeError):
            return 0  # what moves bytes is gone, or changes in another thread

    def _buffered_bytes(self) -> int:
        """Return how much waits on this connection, in either direction."""
        return self.protocol.buffered_bytes(self._waiting_bytes())

    def _unsent(self) -> int:
        """Ask what moves bytes for that; each front-end overrides it."""
        raise NotImplementedError

    def _now(self) -> float:
        """Return the current time, in seconds."""
        return monotonic()

    def _change(self, function: Callable[[], None]) -> None:
        """Call what uses the engine, and do what follows from it; threads and tasks override it."""
        raise NotImplementedError

    def _take_dropped(self) -> dict[Slow, int]:
        """Return how many messages were dropped since the last call, by policy."""
        return self.protocol.dropped_messages()

    def _count_dropped(self, slow: Slow, number: int) -> None:
        """Count messages that a policy has dropped where connections are counted."""

    def _report_drops(self) -> None:
        """Tell of the messages that were dropped by the calls of this connection."""
        drops = Drops()
        if drops.note(self):
            limits.given_up.add(1, self.logger)
        drops.tell()

    def _call_on_drop(self, number: int) -> None:
        """Call back with a number of messages that were dropped."""
        if self.on_drop is None:
            return
        if self._reporting:
            # What it does may have more of them dropped.
            self._untold += number
            return
        self._reporting = True
        number, self._untold = number + self._untold, 0
        try:
            self.on_drop(self, number)
        except Exception:
            self.logger.error("on_drop failed", exc_info=True)
        finally:
            self._reporting = False

    def _set_timeouts(self, now: float, open_timeout: float | None = None) -> None:
        """Tell the engine how long things may last."""
        self.protocol.set_timeouts(
            open_timeout=open_timeout,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            close_timeout=self._close_timeout,
            now=now,
        )

    def _tell_timeouts(self) -> None:
        """Tell the engine how long things may last from now on."""
        self.protocol.set_timeouts(
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            close_timeout=self._close_timeout,
            now=self._now(),
        )


class FragmentedMessage:
    """The frames of a message that is given as an iterable.

    Args:
        protocol: Protocol of the connection.
        message: Iterable, or asynchronous iterable, of str or of bytes-like objects.
        text: Force a text (True) or binary (False) message, whatever the type of the items.
        compress: Whether to compress it; None if it pays.
        asynchronous: Whether an asynchronous iterable is fine.

    Attributes:
        asynchronous: Whether ``message`` is iterated asynchronously.
        started: Whether there was a frame.

    Raises:
        TypeError: If ``message`` can't be sent.
    """

    def __init__(
        self,
        protocol: Protocol,
        message: object,
        text: bool | None,
        compress: bool | None,
        *,
        asynchronous: bool,
    ) -> None:
        if isinstance(message, Mapping):
            raise TypeError("data is a dict-like object")
        self.asynchronous = asynchronous and isinstance(message, AsyncIterable)
        if not self.asynchronous and not isinstance(message, Iterable):
            raise TypeError(
                "data must be str, bytes, iterable, or async iterable"
                if asynchronous
                else "data must be str, bytes, or iterable"
            )
        self.started = False
        self._protocol = protocol
        self._message: Any = message
        self._text = text
        self._compress = compress
        self._kind = "async iterable" if self.asynchronous else "iterable"
        self._is_str: bool | None = None

    def items(self) -> AsyncIterator[DataLike]:
        """Return an asynchronous iterator over the items of either kind of iterable."""
        return aiter(self._message) if self.asynchronous else _AsyncIterator(self._message)

    def check(self, item: object) -> None:
        """Check the type of an item.

        Raises:
            TypeError: If the item isn't str or bytes-like, or other than those before.
        """
        is_str = isinstance(item, str)
        fine = is_str or isinstance(item, (bytes, bytearray, memoryview))
        if self._is_str is None:
            if not fine:
                raise TypeError(f"{self._kind} must contain bytes or str")
            self._is_str = is_str
        elif not fine or is_str != self._is_str:
            raise TypeError(f"{self._kind} must contain uniform types")

    def send(self, item: DataLike) -> None:
        """Have the engine make a frame of an item.

        Raises:
            InvalidState: If the connection isn't open.
            TypeError: If the item isn't of the right type.
            UnicodeError: If the message is text given as bytes that aren't UTF-8.
        """
        self.check(item)
        if self.started:
            self._protocol.send_continuation(item, fin=False)
        elif self._is_str if self._text is None else self._text:
            self._protocol.send_text(item, fin=False, compress=self._compress)
        else:
            self._protocol.send_binary(item, fin=False, compress=self._compress)
        self.started = True

    def finish(self) -> None:
        """Have the engine make the final frame."""
        if self.started:
            self._protocol.send_continuation(b"", fin=True)

    def abandon(self, exc: BaseException, now: float) -> None:
        """Fail the connection: the message can't be completed, and no other one can start.

        Args:
            exc: Why.
            now: Current time.
        """
        if (
            self.started
            and self._protocol.state is State.OPEN
            and not isinstance(exc, ConnectionClosed)
        ):
            self._protocol.fail(FAILURE, "error in fragmented message", now=now)


class _AsyncIterator:
    """What makes an asynchronous iterator of an iterable; it has nothing to be closed."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterator = iter(iterable)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise StopAsyncIteration from None


class Drops:
    """Messages that were dropped, until the log and those who count them are told."""

    def __init__(self) -> None:
        self._numbers: dict[Slow, int] = {}
        self._logger: LoggerLike | None = None

    def note(self, connection: BaseConnection) -> bool:
        """Note what was dropped on a connection, and call back.

        Args:
            connection: The connection.

        Returns:
            Whether the connection was closed because of that.
        """
        dropped = connection._take_dropped()
        if not dropped:
            return False
        for slow, number in dropped.items():
            self._numbers[slow] = self._numbers.get(slow, 0) + number
            connection._count_dropped(slow, number)
        self._logger = connection.logger
        connection._call_on_drop(sum(dropped.values()))
        return Slow.CLOSE in dropped

    def tell(self) -> None:
        """Tell the log."""
        if self._logger is not None:
            # That there is something newer is what whoever asked for the latest wants.
            level = logging.INFO if self._numbers.keys() == {Slow.LATEST} else logging.WARNING
            limits.dropped.add(sum(self._numbers.values()), self._logger, level)


class SkippedBroadcasts:
    """Connections that a broadcast skips, and those that it gives up, or drops messages of.

    Args:
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.
    """

    def __init__(self, raise_exceptions: bool) -> None:
        self._raise_exceptions = raise_exceptions
        self._given_up: list[BaseConnection] = []
        self._exceptions: list[Exception] = []
        self._drops: Drops | None = None

    def add(self, connection: BaseConnection, exc: Exception) -> None:
        """Skip a connection.

        Args:
            connection: The connection.
            exc: What kept it from getting the message.
        """
        problem = exc
        if not isinstance(exc, ConcurrencyError):
            problem = RuntimeError("failed to write message")
            problem.__cause__ = exc
        if self._raise_exceptions:
            self._exceptions.append(problem)
        else:
            connection.logger.warning("skipped broadcast: %s", problem)

    def refused(self, connection: BaseConnection) -> None:
        """Note a connection for which too much waits: its policy was applied.

        Args:
            connection: The connection.
        """
        if self._drops is None:
            self._drops = Drops()
        closed = self._drops.note(connection)
        if closed or connection.state is not State.OPEN:
            self._given_up.append(connection)
            if self._raise_exceptions:
                self.add(connection, cast(Exception, connection.protocol.parser_exc))

    def finish(self) -> None:
        """End the broadcast.

        Raises:
            ExceptionGroup: If there are exceptions to be raised.
        """
        if self._drops is not None:
            self._drops.tell()
        if self._given_up:
            limits.given_up.add(len(self._given_up), self._given_up[0].logger)
        if self._exceptions:
            raise ExceptionGroup("skipped broadcast", self._exceptions)
