"""A WebSocket connection for threads.

Whoever receives reads the socket itself; no other thread takes part in it. Connections that nobody
reads from are looked after by one thread per process. Any number of threads
may use a connection, at once or not; but only one of them can receive at a time.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, overload

from wsproto_fast import Backpressure, PreparedMessage, Protocol
from wsproto_fast.aliases import fallback
from wsproto_fast.drivers.threads import SocketDriver
from wsproto_fast.drivers.tls import SecureSocket
from wsproto_fast.exceptions import ConcurrencyError, ConnectionClosedOK, InvalidState
from wsproto_fast.frames import State
from wsproto_fast.typing import Data, DataLike

from .._shared.checks import check_names
from .._shared.connection import BaseConnection, FragmentedMessage, SkippedBroadcasts, closing
from .._shared.options import Limits, OnDrop
from ..codecs import (
    CLOSE_CODE,
    CLOSE_REASON,
    JSON,
    Codec,
    OnError,
    check_on_error,
    decode_error,
    not_a_message,
)
from ..limits import MAX_BACKLOG, Slow

__all__ = ["Connection"]

# What broadcast() takes for ThreadPoolExecutor. It needs no threads: nothing that it does blocks.
_EXECUTOR_OPTIONS = frozenset({"max_workers", "thread_name_prefix", "initializer", "initargs"})

T = TypeVar("T")


class Connection(BaseConnection):
    """A WebSocket connection, client or server.

    Args:
        sock: Connected TCP or Unix socket; its own timeout doesn't matter.
        protocol: Engine of the connection.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses, or a pair of
            this and of the number at which it resumes; None for no limit.
        slow: What becomes of messages while the peer doesn't read as fast as they come; by default,
            who sends waits.
        max_backlog: Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None
            for no limit.
        write_deadline: Seconds for which the peer may take nothing of what waits to be sent; None
            for no limit.
        on_drop: Called with the connection and a number of messages when ``slow`` has them dropped.
    """

    _foreign_methods = frozenset({"close_socket", "recv_events", "terminate_pending_pings"})

    _opening = False  # connections of this class begin with an opening handshake

    def __init__(
        self,
        sock: socket.socket | SecureSocket,
        protocol: Protocol,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: Limits = 16,
        slow: Slow = Slow.WAIT,
        max_backlog: int | None = MAX_BACKLOG,
        write_deadline: float | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            slow=slow,
            max_backlog=max_backlog,
            write_deadline=write_deadline,
            on_drop=on_drop,
        )
        self.socket = sock
        if isinstance(sock, SecureSocket):
            self._driver = SocketDriver(protocol, sock.sock, sock.tls)
        else:
            self._driver = SocketDriver(protocol, sock, None)
        if slow is not Slow.WAIT:
            self._driver.reporter = weakref.WeakMethod(self._report_drops)
        if not self._opening:
            self._driver.call(self._set_timeouts, monotonic())
            self._driver.watch()

    # ------------------------------------------------------------------ attributes

    @property
    def local_address(self) -> Any:
        """Local address: ``(host, port)``, more for IPv6, or the path of a Unix socket.

        Raises:
            OSError: If the connection is closed.
        """
        return self.socket.getsockname()

    @property
    def remote_address(self) -> Any:
        """Remote address, in the form of ``local_address``.

        Raises:
            OSError: If the connection is closed.
        """
        return self.socket.getpeername()

    # ------------------------------------------------------------------ context manager, iteration

    def __enter__(self) -> Self:
        self._driver.before_use = None
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(*closing(exc_value))

    def __iter__(self) -> Iterator[Data]:
        """Yield messages until the connection is closed.

        Raises:
            ConnectionClosedError: If it didn't end properly.
        """
        try:
            if getattr(self.recv, "__func__", None) is _recv:
                recv = self._driver.recv
                while True:
                    yield recv(None, None)
            # Programs override it in subclasses, or replace it, as in tests.
            while True:
                yield self.recv()
        except ConnectionClosedOK:
            return

    # ------------------------------------------------------------------ receiving

    @overload
    def recv(self, timeout: float | None, decode: Literal[True]) -> str: ...
    @overload
    def recv(self, timeout: float | None = None, *, decode: Literal[True]) -> str: ...
    @overload
    def recv(self, timeout: float | None, decode: Literal[False]) -> bytes: ...
    @overload
    def recv(self, timeout: float | None = None, *, decode: Literal[False]) -> bytes: ...
    @overload
    def recv(self, timeout: float | None = None, decode: bool | None = None) -> Data: ...

    def recv(self, timeout: float | None = None, decode: bool | None = None) -> Data:
        """Receive the next message.

        Args:
            timeout: Seconds to wait, None for no limit; with 0 or less only what has arrived
                already is received.
            decode: None for str from text and bytes from binary messages; True for str, False for
                bytes.

        Raises:
            TimeoutError: If there is no message in time; nothing is lost.
            ConnectionClosed: When the connection is closed and every message was received.
            ConcurrencyError: If the connection is being received from already.
        """
        return self._driver.recv(timeout, decode)

    @overload
    def recv_streaming(
        self, decode: Literal[True], *, timeout: float | None = None
    ) -> Iterator[str]: ...
    @overload
    def recv_streaming(
        self, decode: Literal[False], *, timeout: float | None = None
    ) -> Iterator[bytes]: ...
    @overload
    def recv_streaming(
        self, decode: bool | None = None, *, timeout: float | None = None
    ) -> Iterator[Data]: ...

    def recv_streaming(
        self, decode: bool | None = None, *, timeout: float | None = None
    ) -> Iterator[Data]:
        """Receive the next message fragment by fragment.

        Whoever leaves the iteration before its end skips the rest of the message. After a
        ``TimeoutError``, calling ``next`` once more goes on.

        Args:
            decode: As in ``recv``; characters cut by fragmentation come with the later fragment.
            timeout: Seconds to wait for each fragment, None for no limit.

        Raises:
            TimeoutError: If there is no fragment in time.
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If the connection is being received from already.
        """
        return _Fragments(self._driver, decode, timeout)

    # ------------------------------------------------------------------ sending

    def send(
        self,
        message: DataLike | Iterable[DataLike],
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Send a message; return when the network has taken it.

        A message that a receiving thread sends while it has more messages to receive may leave a
        few milliseconds later, together with the next ones. An exception never tears a frame.

        Args:
            message: str for a text message or bytes-like object for a binary one; an iterable of
                either for a message in fragments.
            text: Force a text (True) or binary (False) message, whatever the type of ``message``.
            compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError: If ``message`` isn't of one of these types.
            UnicodeError: If a text message given as bytes isn't UTF-8.
        """
        if not self._driver.send(message, text, compress):
            self._send_slowly(message, text, compress)

    def send_json(self, value: T, *, codec: Codec[T, Any] = JSON) -> None:
        """Send a value as a message.

        Args:
            value: What to send.
            codec: What makes a message of it, by default the standard library's ``json``.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError, ValueError: If ``json`` can't encode the value; of another codec, what it
                raises, and TypeError if what it returns isn't str or bytes. Nothing is sent.
        """
        message = codec.encode(value)
        if not isinstance(message, (str, bytes, bytearray, memoryview)):
            raise not_a_message(message)  # of iterables, fragments would be sent
        self.send(message, codec.text)

    @overload
    def recv_json(self, timeout: float | None = None, *, on_error: OnError = "raise") -> Any: ...
    @overload
    def recv_json(
        self,
        timeout: float | None = None,
        *,
        codec: Codec[Any, T],
        on_error: OnError = "raise",
    ) -> T: ...

    def recv_json(
        self,
        timeout: float | None = None,
        *,
        codec: Codec[Any, Any] = JSON,
        on_error: OnError = "raise",
    ) -> Any:
        """Receive the next message, and return its value.

        Args:
            timeout: Seconds to wait, None for no limit; with 0 or less only what has arrived
                already is received.
            codec: What makes a value of it, by default the standard library's ``json``.
            on_error: What follows a message that can't be decoded: ``"raise"`` a ``DecodeError``,
                and the connection stays open; or ``"close"`` it with 1007.

        Raises:
            TimeoutError: If there is no message in time; nothing is lost.
            ConnectionClosed: When the connection is closed and every message was received; also
                when a message has closed it that can't be decoded, with the ``DecodeError`` as its
                cause.
            DecodeError: If the message can't be decoded, unless it closes the connection.
            ConcurrencyError: If the connection is being received from already.
        """
        check_on_error(on_error)
        message = self.recv(timeout)
        try:
            return codec.decode(message)
        except Exception as exc:
            error: Exception = decode_error(message, exc)
        try:
            if on_error == "close" and self.protocol.state is State.OPEN:
                self.close(CLOSE_CODE, CLOSE_REASON)
                closed = self.protocol.close_exc
                closed.__cause__, error = error, closed
                del closed
            raise error
        finally:
            del error  # its traceback holds this frame

    def _send_slowly(
        self,
        message: DataLike | Iterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> None:
        """Send what isn't a simple message, or on a connection that isn't open."""
        if isinstance(message, (str, bytes, bytearray, memoryview)):
            self._raise_closed()
        fragments = FragmentedMessage(self.protocol, message, text, compress, asynchronous=False)
        if self.protocol.state is not State.OPEN:
            self._raise_closed()
        driver = self._driver
        items = iter(message)
        try:
            first = next(items)
        except StopIteration:
            return
        fragments.check(first)
        try:
            driver.begin_fragments(fragments.send, first)
            driver.drain()
            for item in items:
                driver.call(fragments.send, item)
                driver.drain()
            driver.call(fragments.finish)
            driver.drain()
        except InvalidState:
            self._raise_closed()
        except BaseException as exc:
            driver.call(fragments.abandon, exc, monotonic())
            raise

    def _raise_closed(self) -> NoReturn:
        """Wait until the connection is closed; raise what tells how that came."""
        if self.protocol.state is State.CONNECTING:
            raise InvalidState("connection is connecting")
        self._driver.finish()
        closed = self.protocol.close_exc
        try:
            # Not the InvalidState that is being handled, but what broke the connection.
            raise closed from closed.__cause__
        finally:
            del closed  # which refers to this frame

    def ping(self, data: DataLike | None = None, *, ack_on_close: bool = False) -> threading.Event:
        """Send a Ping.

        Args:
            data: Payload of at most 125 bytes; None for a random one.
            ack_on_close: Set the event also when the connection is closed before the answer comes.

        Returns:
            An event that is set when the answer comes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If a ping with the same payload waits for its answer.
            ProtocolError: If the payload is too long.
        """
        event = threading.Event()
        try:
            self._driver.ping(data, event, ack_on_close)
        except InvalidState:
            self._raise_closed()
        self._driver.drain()
        return event

    def pong(self, data: DataLike = b"") -> None:
        """Send an unsolicited Pong.

        Args:
            data: Payload of at most 125 bytes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ProtocolError: If the payload is too long.
        """
        try:
            self._driver.call(self._send_pong, data)
        except InvalidState:
            self._raise_closed()
        self._driver.drain()

    def _take_dropped(self) -> dict[Slow, int]:
        return self._driver.dropped_messages()

    def _change(self, function: Callable[[], None]) -> None:
        self._driver.call(function)

    def _unsent(self) -> int:
        return self._driver.unsent

    def _send_pong(self, data: DataLike) -> None:
        if self.protocol.state is not State.OPEN:
            raise InvalidState
        self.protocol.send_pong(data)

    # ------------------------------------------------------------------ closing

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed, at most ``close_timeout``.

        A signal handler may call this, whatever it interrupts.

        Args:
            code: Close code.
            reason: Close reason, at most 123 bytes of UTF-8.

        Raises:
            ProtocolError: If the code or the reason isn't allowed; the connection stays open. They
                don't matter once it isn't.
        """
        if self._driver.close(code, reason):
            self._driver.finish()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the TCP connection is closed.

        Args:
            timeout: Seconds to wait, None for no limit.

        Returns:
            Whether it is closed.
        """
        return self._driver.wait_closed(timeout)


# As it is without programs that replace it.
_recv = Connection.recv


class _Fragments:
    """Iterator over fragments of one message; others can receive as soon as nobody holds it."""

    def __init__(self, driver: SocketDriver, decode: bool | None, timeout: float | None) -> None:
        self.driver = driver
        self.decode = decode
        self.timeout = timeout
        self.started = False
        self.finished = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self.finished:
            raise StopIteration
        try:
            data, self.finished = self.driver.next_fragment(self.timeout, self.decode, self.started)
        except (TimeoutError, ConcurrencyError):
            raise
        except BaseException:
            self.close()
            raise
        self.started = True
        return data

    def close(self) -> None:
        """Skip the rest of the message.

        Raises:
            ConcurrencyError: If another thread waits for a fragment of it.
        """
        if self.started and not self.finished:
            self.driver.stop_streaming()
        self.finished = True

    __del__ = close


def broadcast(
    connections: Iterable[Connection],
    message: DataLike,
    *,
    text: bool | None = None,
    compress: bool | None = None,
    raise_exceptions: bool = False,
    slow: Slow | None = None,
    key: Hashable = None,
    max_backlog: int | None = MAX_BACKLOG,
    **kwargs: Any,
) -> None:
    """Send a message to several connections without waiting for any of them.

    Connections that aren't open are skipped, as are those that are sending a fragmented message or
    can't be written to; the latter two with a warning in the log.

    While a peer doesn't read as fast as messages come, ``slow`` says what becomes of them. Without
    any other policy, a connection is given up, with a warning, if more than ``max_backlog`` bytes
    wait for it already: its end is a ``ConnectionClosedError``. ``wsapi.limits`` counts them, and
    the messages that are dropped.

    Args:
        connections: Connections, clients or servers.
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, once for all, where permessage-deflate was negotiated;
            None if it pays.
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.
        slow: What becomes of the message where the peer doesn't read as fast as they come; None
            for the policy of the connection, with its limit if it isn't ``Slow.WAIT``. With any
            other than that, the message also waits for the end of one in fragments.
        key: With ``Slow.LATEST``, what the message is the latest of; hashable. None is a key like
            any other.
        max_backlog: Bytes that may wait for being sent on a connection; before this message, with
            ``Slow.WAIT``; None for no limit.
        **kwargs: Those of ``ThreadPoolExecutor``; no threads are needed, so they don't matter.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
        ExceptionGroup: With ``raise_exceptions``, what kept connections from getting the message.
    """
    check_names("broadcast", kwargs, _EXECUTOR_OPTIONS)
    prepared = PreparedMessage(message, text)
    terms = Backpressure(slow, max_backlog, key=key)
    skipped = SkippedBroadcasts(raise_exceptions)
    for connection in connections:
        try:
            if not connection._driver.broadcast(prepared, compress, terms):
                skipped.refused(connection)
        except Exception as exc:
            skipped.add(connection, exc)
    skipped.finish()


if not TYPE_CHECKING:
    __getattr__ = fallback(__name__, "wsapi._names")
