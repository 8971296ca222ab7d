"""What connections have in common where coroutines wait: those of asyncio and of trio.

Owns nothing that waits by itself; front-ends say how one waits for one's turn and for the network.
"""

from __future__ import annotations

import inspect
import sys
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, overload

from wsproto_fast.exceptions import InvalidState
from wsproto_fast.frames import State
from wsproto_fast.typing import Data, DataLike

from ..codecs import (
    CLOSE_CODE,
    CLOSE_REASON,
    JSON,
    Codec,
    DecodeError,
    OnError,
    check_on_error,
    decode_error,
    not_a_message,
)
from .connection import BaseConnection, FragmentedMessage, concurrent_receiver

__all__ = ["AsyncConnection", "AsyncFragments", "coroutine_function"]


CoroutineFunction = TypeVar("CoroutineFunction", bound=Callable[..., Coroutine[Any, Any, Any]])


def coroutine_function(function: CoroutineFunction) -> CoroutineFunction:
    """Mark a function that returns a coroutine of compiled code as what it is for its callers.

    Mocks, among others, ask ``inspect.iscoroutinefunction``.

    Args:
        function: The function.
    """
    if sys.version_info >= (3, 12):  # pragma: no cover: since that version
        return inspect.markcoroutinefunction(function)
    # Only that and asyncio's function of the same name look at the flag, none that calls it.
    code = function.__code__
    try:
        function.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    except RuntimeError:  # pragma: no cover: compiled by Nuitka
        pass  # such functions have no code to mark; only who inspects them sees it
    return function


T = TypeVar("T")


class AsyncConnection(BaseConnection):
    """A WebSocket connection that is used by coroutines."""

    @overload
    def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...
    @overload
    def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...
    @overload
    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]: ...

    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Any]:
        """Receive the next message fragment by fragment.

        Whoever leaves the iteration before its end skips the rest of the message.

        Args:
            decode: As in ``recv``; characters cut by fragmentation come with the later fragment.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If the connection is being received from already.
        """
        return self._fragments(decode)

    async def pong(self, data: DataLike = b"") -> None:
        """Send an unsolicited Pong.

        Args:
            data: Payload of at most 125 bytes.

        Raises:
            ConnectionClosed: When the connection is closed.
            ProtocolError: If the payload is too long.
        """
        try:
            if self.protocol.state is not State.OPEN:
                raise InvalidState
            self.protocol.send_pong(data)
        except InvalidState:
            await self._raise_closed()
        await self._flush_and_drain()

    async def send_json(self, value: T, *, codec: Codec[T, Any] = JSON) -> None:
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
        await self.send(message, codec.text)

    @overload
    async def recv_json(self, *, on_error: OnError = "raise") -> Any: ...
    @overload
    async def recv_json(self, *, codec: Codec[Any, T], on_error: OnError = "raise") -> T: ...

    async def recv_json(self, *, codec: Codec[Any, Any] = JSON, on_error: OnError = "raise") -> Any:
        """Receive the next message, and return its value.

        Cancelling this loses nothing.

        Args:
            codec: What makes a value of it, by default the standard library's ``json``.
            on_error: What follows a message that can't be decoded: ``"raise"`` a ``DecodeError``,
                and the connection stays open; or ``"close"`` it with 1007.

        Raises:
            ConnectionClosed: When the connection is closed and every message was received; also
                when a message has closed it that can't be decoded, with the ``DecodeError`` as its
                cause.
            DecodeError: If the message can't be decoded, unless it closes the connection.
            ConcurrencyError: If the connection is being received from already.
        """
        check_on_error(on_error)
        message = await self.recv()
        try:
            return codec.decode(message)
        except Exception as exc:
            error = decode_error(message, exc)
        try:
            if on_error == "close":
                await self._close_undecoded(error)
            raise error
        finally:
            del error  # its traceback holds this frame

    async def _close_undecoded(self, error: DecodeError) -> None:
        """Close the connection because of a message, and raise; return if others have closed it."""
        if self.protocol.state is not State.OPEN:
            return
        self._begin_closing(CLOSE_CODE, CLOSE_REASON)
        await self.wait_closed()
        closed = self.protocol.close_exc
        try:
            raise closed from error
        finally:
            del closed, error

    async def _send_fragments(
        self,
        message: Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> None:
        fragments = FragmentedMessage(self.protocol, message, text, compress, asynchronous=True)
        items = fragments.items()
        try:
            first = await anext(items)
        except StopAsyncIteration:
            return
        fragments.check(first)
        await self._begin_fragments()
        try:
            fragments.send(first)
            await self._flush_and_drain()
            async for item in items:
                fragments.send(item)
                await self._flush_and_drain()
            fragments.finish()
            await self._flush_and_drain()
        except InvalidState:
            await self._raise_closed()
        except BaseException as exc:
            fragments.abandon(exc, self._now())
            self._update()
            raise
        finally:
            self._end_fragments()

    async def _raise_closed(self) -> NoReturn:
        """Wait until the connection is closed; raise what tells how that came."""
        await self.wait_closed()
        closed = self.protocol.close_exc
        try:
            # Not the InvalidState that is being handled, but what broke the connection.
            raise closed from closed.__cause__
        finally:
            del closed  # its traceback holds this frame

    # ------------------------------------------------------------------ a front-end's business

    if TYPE_CHECKING:  # where they stand, there are docstrings and overloads

        @abstractmethod
        async def send(self, message: Data, text: bool | None = None) -> None: ...

        @abstractmethod
        async def recv(self) -> Data: ...

    @abstractmethod
    def _begin_closing(self, code: int, reason: str) -> None:
        """Begin to close the connection."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""

    @abstractmethod
    def _fragments(self, decode: bool | None) -> AsyncFragments:
        """Return an iterator over the fragments of the next message."""

    @abstractmethod
    async def _begin_fragments(self) -> None:
        """Wait until no fragmented message is being sent, and keep others from being sent."""

    @abstractmethod
    def _end_fragments(self) -> None:
        """Let other messages be sent."""

    @abstractmethod
    async def _flush_and_drain(self) -> None:
        """Send what there is to send, and wait until the network takes more."""

    def _change(self, function: Callable[[], None]) -> None:
        function()
        self._update()

    @abstractmethod
    def _update(self) -> None:
        """Do what follows from a change in the engine."""


class AsyncFragments:
    """Iterator over fragments of one message; others can receive as soon as nobody holds it.

    Args:
        decode: As in ``recv_streaming``.
    """

    def __init__(self, decode: bool | None) -> None:
        self.decode = decode
        self.started = False
        self.finished = False
        self.receiving = False  # a coroutine waits for the next fragment

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        if self.finished:
            raise StopAsyncIteration
        if self.receiving:
            raise concurrent_receiver("recv_streaming", "recv_streaming", "coroutine")
        if not self.started:
            self.start()
            self.started = True
        self.receiving = True
        try:
            data, fin = await self.receive()
        except BaseException:
            self.release()
            raise
        finally:
            self.receiving = False
        if fin:
            self.release()
        return data

    async def aclose(self) -> None:
        """Skip the rest of the message.

        Raises:
            ConcurrencyError: If another coroutine waits for a fragment of it.
        """
        if self.receiving:
            raise concurrent_receiver("aclose", "recv_streaming", "coroutine")
        self.release()

    def release(self) -> None:
        """Let others receive."""
        if self.started and not self.finished:
            self.stop()
        self.finished = True

    __del__ = release

    # ------------------------------------------------------------------ a front-end's business

    @abstractmethod
    def start(self) -> None:
        """Keep others from receiving.

        Raises:
            ConcurrencyError: If somebody receives already.
        """

    @abstractmethod
    async def receive(self) -> tuple[Data, bool]:
        """Return the next fragment, and whether it is the last one."""

    @abstractmethod
    def stop(self) -> None:
        """Let others receive, from the next message on."""
