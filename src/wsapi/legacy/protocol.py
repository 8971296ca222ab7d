"""What clients and servers of this interface have in common."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

from wsproto_fast import Protocol
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import InvalidState
from wsproto_fast.frames import CloseCode, Side, State
from wsproto_fast.typing import LoggerLike

from ..asyncio.connection import Connection
from ..asyncio.server import broadcast

__all__ = ["WebSocketCommonProtocol", "broadcast"]

MessageT = TypeVar("MessageT")


def renamed(options: dict[str, Any], old: str, new: str, value: Any, default: Any = None) -> Any:
    """Return an option that may have been given under an older name, which is removed.

    Args:
        options: Where the older name may be.
        old: The older name.
        new: The name.
        value: What was given under the name, None for nothing.
        default: What it is if it was given under none.
    """
    before = options.pop(old, None)
    if before is not None:
        warnings.warn(f"rename {old} to {new}", DeprecationWarning, stacklevel=3)
    if value is not None:
        return value
    return default if before is None else before


def without_loop(options: dict[str, Any]) -> None:
    """Remove options that have no meaning any more.

    Args:
        options: Options.

    Raises:
        TypeError: If one asks for what there isn't.
    """
    if options.pop("loop", None) is not None:
        warnings.warn("remove loop argument", DeprecationWarning, stacklevel=3)
    if options.pop("legacy_recv", False):
        raise TypeError("legacy_recv isn't supported: catch ConnectionClosed")


def _existing(name: str, message: MessageT | None) -> MessageT:
    if message is None:
        raise AttributeError(f"there is no {name} before the opening handshake")
    return message


class WebSocketCommonProtocol(Connection):
    """A connection; its methods are those of ``wsapi.asyncio.connection.Connection``.

    Args:
        logger: Logger.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received.
        close_timeout: Seconds that closing may last; 10 by default.
        max_size: Limit on incoming messages in bytes; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses.
        read_limit: Without effect: what is read is bounded by other limits.
        write_limit: Size of the write buffer in bytes above which ``send`` waits.
        host: Host, for the attribute.
        port: Port, for the attribute.
        secure: Whether TLS is used, for the attribute.
        legacy_recv: Not supported.
        loop: Without effect.
        timeout: Deprecated name of ``close_timeout``.
    """

    _foreign_methods = Connection._foreign_methods | {
        "close_connection",
        "close_transport",
        "connection_open",
        "drain",
        "keepalive_ping",
        "process_extensions",
        "process_origin",
        "read_data_frame",
        "read_frame",
        "read_http_request",
        "read_http_response",
        "read_message",
        "transfer_data",
        "write_close_frame",
        "write_frame",
        "write_http_request",
        "write_http_response",
    }

    # In spec= of mocks, too, these are attributes of the class.
    is_client: bool
    side: Side
    legacy_recv = False
    _host: str | None
    _port: int | None
    _secure: bool | None

    def __init__(
        self,
        *,
        logger: LoggerLike | None = None,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = None,
        max_size: int | None = 2**20,
        max_queue: int | None = 2**5,
        read_limit: int = 2**16,
        write_limit: int = 2**16,
        host: str | None = None,
        port: int | None = None,
        secure: bool | None = None,
        legacy_recv: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        timeout: float | None = None,
    ) -> None:
        options: dict[str, Any] = {"timeout": timeout, "loop": loop, "legacy_recv": legacy_recv}
        close_timeout = renamed(options, "timeout", "close_timeout", close_timeout, 10)
        without_loop(options)
        super().__init__(
            self._new_engine(max_size, logger),
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            write_limit=write_limit,
        )
        self.max_size = max_size
        self.max_queue = max_queue
        self.read_limit = read_limit
        self._host = host
        self._port = port
        self._secure = secure

    def _new_engine(self, max_size: int | None, logger: LoggerLike | None) -> Protocol:
        """Return the engine of the connection."""
        return Protocol(self.side, max_size=max_size, logger=logger)

    # ------------------------------------------------------------------ attributes

    @property
    def transport(self) -> asyncio.Transport:
        """Transport. When the application closes or aborts it, nothing is sent any more."""
        self._driver.expose()
        return self._transport

    @transport.setter
    def transport(self, transport: asyncio.Transport) -> None:
        # Subclasses set it before there is anything else.
        self._transport = transport

    @property
    def host(self) -> str | None:
        """Deprecated: part of an address."""
        place = "remote_address" if self.is_client else "local_address"
        warnings.warn(f"use {place}[0] instead of host", DeprecationWarning, stacklevel=2)
        return self._host

    @property
    def port(self) -> int | None:
        """Deprecated: part of an address."""
        place = "remote_address" if self.is_client else "local_address"
        warnings.warn(f"use {place}[1] instead of port", DeprecationWarning, stacklevel=2)
        return self._port

    @property
    def secure(self) -> bool | None:
        """Deprecated: whether TLS is used."""
        warnings.warn("don't use secure", DeprecationWarning, stacklevel=2)
        return self._secure

    @property
    def open(self) -> bool:
        """Whether the connection is open."""
        return self.state is State.OPEN

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self.state is State.CLOSED

    @property
    def path(self) -> str:
        """Target of the request: path and query."""
        return _existing("request", self.request).path

    @property
    def request_headers(self) -> Headers:
        """Headers of the request."""
        return _existing("request", self.request).headers

    @property
    def response_headers(self) -> Headers:
        """Headers of the response."""
        return _existing("response", self.response).headers

    @property
    def extensions(self) -> list[Any]:
        """Extensions negotiated in the opening handshake."""
        return self.protocol.extensions

    @property
    def close_rcvd(self) -> Any:
        """Close frame received; None without one."""
        return self.protocol.close_rcvd

    @property
    def close_sent(self) -> Any:
        """Close frame sent; None without one."""
        return self.protocol.close_sent

    # ------------------------------------------------------------------ methods

    async def ensure_open(self) -> None:
        """Check that the connection is open.

        Raises:
            ConnectionClosed: If it isn't any more.
            InvalidState: If it isn't yet.
        """
        if self.state is State.CONNECTING:
            raise InvalidState("WebSocket connection isn't established yet")
        if self.state is not State.OPEN:
            await self._raise_closed()

    def fail_connection(self, code: int = CloseCode.ABNORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection without waiting for it.

        Args:
            code: Close code; 1006 for no Close frame.
            reason: Close reason.
        """
        if not self._lost:
            if code == CloseCode.ABNORMAL_CLOSURE:
                self.protocol.give_up(abort=False, now=monotonic())
            else:
                self.protocol.fail(code, reason, now=monotonic())
            self._driver.update()

    def data_received(self, data: bytes) -> None:
        """Process what somebody else received for this connection.

        Args:
            data: What was received, beginning with the first byte.
        """
        self.protocol.receive_data(data, monotonic())
        self._driver.update()
        self._driver.wake()


def completed(headers: Any, others: Mapping[str, str]) -> Headers:
    """Return headers with others added whose names aren't there.

    Args:
        headers: Headers of the application.
        others: Headers that there must be.
    """
    result = Headers(headers)
    for name, value in others.items():
        if name not in result:
            result[name] = value
    return result
