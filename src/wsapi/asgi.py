"""ASGI applications on WebSocket connections, for servers that have their own HTTP.

The server reads the request of the opening handshake and passes it on; from there an
``ASGIConnection`` is the transport's protocol. It turns what the engine reports into events for the
application, and the application's events into calls of the engine, as the ASGI specification says
(WebSocket, version 2.4). To which settings and lists of a server it belongs is a subclass's
business, see ``wsapi.uvicorn``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import urllib.parse
import weakref
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from time import monotonic
from typing import Any, TypeAlias, cast

from wsproto_fast import ServerProtocol, Slow, check_settings
from wsproto_fast.datastructures import Headers
from wsproto_fast.drivers.asyncio import DRAIN, SLOW_PATH, YIELD
from wsproto_fast.exceptions import ConcurrencyError, ConnectionClosed
from wsproto_fast.frames import CloseCode, State
from wsproto_fast.headers import parse_subprotocol
from wsproto_fast.http11 import Request, Response
from wsproto_fast.rates import RateLike
from wsproto_fast.typing import Subprotocol

from ._shared import checks
from ._shared.budget import BufferBudget
from ._shared.connection import FAILURE
from ._shared.door import Door, Refusal
from ._shared.leaving import check_seconds, departure_time, spread_within
from ._shared.options import CONNECTION_OPTIONS, OnDrop
from ._shared.statistics import ServerStats, Statistics, log_end, remember_peer
from .asyncio._partial_transport import PartialTransport
from .asyncio._timer import forget, keep
from .asyncio.server import AcceptedConnection
from .limits import MAX_BACKLOG

__all__ = ["ASGIApplication", "ASGIConnection", "ClientDisconnected", "Event", "Scope", "stats"]

Event: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
ASGIApplication: TypeAlias = Callable[
    [Scope, Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[object]
]

HeaderPairs: TypeAlias = Iterable[tuple[bytes, bytes]]

# Seconds that a client has to answer the Close frame of a server that stops: who is silent must not
# keep it from stopping. Closing at once could lose that frame to a reset (RFC 6455 section 7.1.1).
SHUTDOWN_TIMEOUT = 0.05

# Why connections aren't opened any more when the server stops.
_REFUSAL = Refusal(
    "draining", HTTPStatus.SERVICE_UNAVAILABLE, "Server is shutting down.\n", retry_after=1
)

CLOSED = "Unexpected ASGI message '{}', after sending 'websocket.close' or a complete response."


# Of all connections of this process: most often, they are of one server.
_statistics: Statistics[Any] = Statistics(set())


def stats() -> ServerStats:
    """Return what the connections of ASGI servers in this process have counted so far.

    It can be called at any time, from any thread.
    """
    return _statistics.read()


class ClientDisconnected(OSError):
    """Raised by the application's ``send`` when there is nobody to send to any more."""


class ASGIConnection(AcceptedConnection):
    """A WebSocket connection that an ASGI application serves.

    Args:
        app: ASGI application, version 3.
        protocol: Engine of the connection, waiting for a request.
        log: Logger for accepted and refused connections and for failures of the application.
        root_path: Path at which the application is mounted.
        asgi_version: Version of ASGI, for the scope.
        lifespan_state: What the application's lifespan left; the scope gets a copy.
        ping_interval: Seconds between keepalive pings; None for none.
        ping_timeout: Seconds after a keepalive ping in which something must be received, and in
            four times as many its answer, unless it is all one frame; None for no limit. While
            reading is paused, it is enough that the peer's host acknowledges what is sent, which
            Linux tells; elsewhere nothing is expected then.
        close_timeout: Seconds that closing may last; None for no limit.
        max_queue: Number of received frames in the queue above which reading pauses.
        write_limit: Size of the write buffer in bytes above which ``send`` waits.
    """

    door: Door | None = None
    """Limits on the number of connections; a subclass may have one, without the PROXY protocol."""

    buffer_budget: BufferBudget | None = None
    """Limit on what connections hold in memory together, above which those with most are closed; a
    subclass may have one, and share it with others."""

    message_rate: RateLike = None
    """Limit on what a client sends, in messages and Pings per second; a subclass may set it."""

    byte_rate: RateLike = None
    """Limit on the bytes of their payloads per second; a subclass may set it."""

    slow: Slow = Slow.WAIT
    """What becomes of messages while the client doesn't read as fast as they come; a subclass may
    set it. By default, the application's ``send`` waits."""

    max_backlog: int | None = MAX_BACKLOG
    """Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None for no limit."""

    write_deadline: float | None = None
    """Seconds for which the client may take nothing of what waits to be sent; None for no limit."""

    on_drop: OnDrop | None = None
    """Called with the connection and a number of messages when ``slow`` has them dropped; a
    subclass may define it as a method."""

    drain_spread: float = 0
    """Seconds in which a server that stops closes its connections, each at a time that chance
    chooses; a subclass may set it. 0 to close all at once."""

    drain_timeout: float | None = None
    """Seconds after which it aborts those that are left; a subclass may set it. ``drain_spread`` is
    at most 80 % of it. None to close them 50 ms after the end of ``drain_spread``."""

    log_connections: bool = False
    """Whether a line with level INFO says at the end of each connection what it was: address, path,
    close code, reason, seconds, messages and bytes in both directions; a subclass may set it."""

    scope: Scope
    _task: asyncio.Task[None] | None = None
    _told = False  # the application knows that the connection has ended
    _receives = False  # it knows about the connection, and not about its end
    _denial: tuple[int, Headers] | None = None  # start of the response that it sends instead
    _denial_body: list[bytes]
    _vacancy: asyncio.Event | None = None  # tasks wait until another one has received
    _finished = False  # it has sent the last event that it may send
    _disconnect: dict[str, Any] | None = None  # what it receives from now on
    _departure: tuple[asyncio.TimerHandle, ...] = ()  # what is to happen since shutdown()

    def __init__(
        self,
        app: ASGIApplication,
        protocol: ServerProtocol,
        *,
        log: logging.Logger,
        root_path: str = "",
        asgi_version: str = "3.0",
        lifespan_state: dict[str, Any] | None = None,
        ping_interval: float | None = CONNECTION_OPTIONS["ping_interval"].default,
        ping_timeout: float | None = CONNECTION_OPTIONS["ping_timeout"].default,
        close_timeout: float | None = CONNECTION_OPTIONS["close_timeout"].default,
        max_queue: int | None = CONNECTION_OPTIONS["max_queue"].default,
        write_limit: int = 2**16,
    ) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            max_queue=max_queue,
            slow=self.slow,
            max_backlog=self.max_backlog,
            write_deadline=self.write_deadline,
            on_drop=type(self).on_drop,
            write_limit=write_limit,
        )
        self.app = app
        self.log = log
        self.root_path = root_path
        self.asgi_version = asgi_version
        self.lifespan_state = lifespan_state

    @property
    def _statistics(self) -> Statistics[Any]:
        return _statistics

    # ------------------------------------------------------------------ for subclasses

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        checks.check_instance("door", cls.door, Door, "a Door")
        checks.check_instance("buffer_budget", cls.buffer_budget, BufferBudget, "a BufferBudget")
        if cls.door is not None and cls.door.proxy_protocol:
            raise ValueError("proxy_protocol isn't possible here: the server has read the request")
        checks.check_rates({"message_rate": cls.message_rate, "byte_rate": cls.byte_rate})
        checks.check_slow(cls.slow, cls.max_backlog, cls.on_drop)
        check_settings(write_deadline=cls.write_deadline)
        check_seconds("drain_spread", cls.drain_spread)
        if cls.drain_timeout is not None:
            check_seconds("drain_timeout", cls.drain_timeout)

    def default_headers(self) -> HeaderPairs:
        """Return headers, such as Server and Date, that the server adds to each response."""
        return ()

    def task_started(self, task: asyncio.Task[None]) -> None:
        """Note that the application runs.

        Args:
            task: The task that it runs in.
        """

    # ------------------------------------------------------------------ from the server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not hasattr(transport, "set_write_buffer_limits"):
            transport = cast(asyncio.Transport, PartialTransport(transport))
        super().connection_made(transport)
        _statistics.accepted(self)
        if self.log_connections:
            remember_peer(self)
        if self.buffer_budget is not None:
            keep(self.buffer_budget, self, _statistics, self.log)
        if self.message_rate is not None or self.byte_rate is not None:
            self.protocol.limit_rates(self.message_rate, self.byte_rate, now=monotonic())
        if self.door is not None:
            visit = self.door.arrive(self.remote_address)
            if isinstance(visit, Refusal):
                _statistics.refused(visit.reason, self)
                self._transport.abort()
                return
            self._visit = visit
        self._tell_timeouts()
        # The HTTP side may have paused it, and isn't asked again.
        if not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Process what the HTTP side had read, beginning with the request.

        Args:
            data: Request in the form of HTTP/1.1, and what came behind it.
        """
        if self._lost or self._transport.is_closing():
            return  # some event loops deliver what they had read before
        self.protocol.receive_data(data, monotonic())
        self._driver.update()
        if not self._opening:
            self._driver.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        # Whoever waits is resumed in there, and must find it.
        self._end()
        for timer in self._departure:
            timer.cancel()
        super().connection_lost(exc)
        code = _statistics.ended(self)
        if code and self.log_connections:
            log_end(self, code)
        if self.buffer_budget is not None:
            forget(self.buffer_budget, self)
        if self._visit is not None:
            self._visit.leave()

    def shutdown(self) -> None:
        """Begin to close the connection because the server stops; safe to be called again."""
        if self._lost or self._departure:
            return
        delay, spread = 0.0, self.drain_spread
        if self.drain_timeout is None:
            timeout, end = spread + SHUTDOWN_TIMEOUT, self._close_transport
        else:
            timeout, end = self.drain_timeout, self._transport.abort
            spread = spread_within(spread, timeout)
        if self.protocol.state is State.OPEN:
            delay = departure_time(0.0, spread, random.random)
        self._departure = (self.loop.call_later(timeout, end),)
        if delay:
            self._departure += (self.loop.call_later(delay, self._depart),)
        else:
            self._depart()

    def _depart(self) -> None:
        if self._disconnect is not None:
            pass  # it is being closed already
        elif self.protocol.state is not State.CONNECTING:
            self._close(CloseCode.SERVICE_RESTART)
        elif self._task is not None:
            self._reject(self._shutting_down())
        else:
            self._close_transport()

    def _leaving(self) -> Refusal:
        return _REFUSAL

    # ------------------------------------------------------------------ opening handshake

    def _start(self) -> None:
        request = self.request
        assert request is not None
        self.response = response = self._refused_at_door(request) or self.protocol.accept(request)
        if response.status_code != 101:
            self._reject(response)
            return
        self.scope = self._make_scope(request)
        self._task = self.loop.create_task(self._run())
        self.task_started(self._task)

    def _make_scope(self, request: Request) -> Scope:
        transport = self._transport
        raw_path, _, query_string = request.path.partition("?")
        subprotocols: list[Subprotocol] = []
        for value in request.headers.get_all("Sec-WebSocket-Protocol"):
            subprotocols += parse_subprotocol(value)
        return {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws" if transport.get_extra_info("sslcontext") is None else "wss",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "root_path": self.root_path,
            "path": self.root_path + urllib.parse.unquote(raw_path),
            "raw_path": (self.root_path + raw_path).encode("ascii"),
            "query_string": query_string.encode("ascii"),
            "headers": [
                (name.lower().encode("ascii"), value.encode("latin-1"))
                for name, value in request.headers.raw_items()
            ],
            "subprotocols": subprotocols,
            "state": {} if self.lifespan_state is None else self.lifespan_state.copy(),
            "extensions": {
                "websocket.http.response": {},
                # For what knows us: from the objects of frameworks to the connection.
                "wsapi": {"connection": weakref.ref(self)},
            },
        }

    def _reject(self, response: Response) -> None:
        """Send a response that the engine has made, with the headers of the server."""
        response.headers = self._completed(Headers(), response.headers)
        self._respond(response)

    def _completed(self, headers: Headers, others: Headers) -> Headers:
        """Add to headers of the application those of the server, then others that there must be."""
        self._add_default_headers(headers)
        missing = [(name, value) for name, value in others.raw_items() if name not in headers]
        for name, value in missing:
            headers[name] = value
        return headers

    def _add_default_headers(self, headers: Headers) -> None:
        """Add what the server adds, unless who made the response has thought of it."""
        decoded = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self.default_headers()]
        # There may be several with the same name.
        missing = [(name, value) for name, value in decoded if name not in headers]
        for name, value in missing:
            headers[name] = value

    # ------------------------------------------------------------------ the application

    async def _run(self) -> None:
        """Run the application; close what it leaves open."""
        code = FAILURE
        if self._task is None:  # pragma: no cover: eager tasks, since Python 3.12
            # Where tasks start eagerly, the transport has the protocol of the HTTP side yet.
            await asyncio.sleep(0)
        try:
            result: object = await self.app(self.scope, self.asgi_receive, self.asgi_send)
        except BaseException as exc:
            if self._is_disconnect(exc):
                self.log.info("connection ended its application: %s", self._end_text())
            else:
                self.log.exception("Exception in ASGI application\n")
        else:
            if self._opening and self._disconnect is None:
                self.log.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                self.log.error("ASGI callable should return None, but returned '%s'.", result)
            else:
                code = CloseCode.NORMAL_CLOSURE
        if self._disconnect is not None:
            return
        if not self._opening:
            self._close(code)
        elif self._denial is not None:
            # Nothing is known of the rest of this response, and there can't be another one.
            self.protocol.give_up(abort=False, now=monotonic())
            self._driver.update()
        else:
            self._reject(self.respond(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error"))

    def _is_disconnect(self, exc: BaseException) -> bool:
        """Tell whether an exception says no more than that this connection has ended."""
        if isinstance(exc, BaseExceptionGroup):
            return all(map(self._is_disconnect, exc.exceptions))
        # Frameworks have exceptions of their own for the event of that name, which applications
        # need not handle: what the client did isn't their fault.
        named = type(exc).__name__ == "WebSocketDisconnect"
        return isinstance(exc, ClientDisconnected) or (named and self._disconnect is not None)

    def _end_text(self) -> str:
        """Return what tells how the connection has ended, or is ending."""
        if self.protocol.state is State.CLOSED:
            return str(self.protocol.close_exc)
        return f"code {(self._disconnect or {}).get('code')}"

    async def asgi_receive(self) -> Event:
        """Return the next event for the application; the last one again if it goes on asking.

        Tasks may wait for it at the same time: each event goes to one of them, the last one to all.
        """
        if not self._receives:
            if self._told:
                assert self._disconnect is not None
                return self._disconnect.copy()
            self._receives = True
            return {"type": "websocket.connect"}
        driver = self._driver
        while True:
            try:
                while (message := driver.take()) is None and self._disconnect is None:
                    await driver.wait("receive")
                break
            except ConcurrencyError:
                # Another task receives, or was cancelled meanwhile and hasn't run since.
                if self._vacancy is None:
                    self._vacancy = asyncio.Event()
                await self._vacancy.wait()
            except BaseException:
                self._vacate()
                raise
        if self._vacancy is not None:
            self._vacate()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        if message is not None:
            return {"type": "websocket.receive", "bytes": message}
        # Messages that the client sends before it closes the connection, too, are too late.
        assert self._disconnect is not None
        self._told, self._receives = True, False
        return self._disconnect.copy()

    def _vacate(self) -> None:
        """Let tasks that wait for their turn to receive try again."""
        if self._vacancy is not None:
            self._vacancy.set()
            self._vacancy = None

    async def asgi_send(self, event: Event) -> None:
        """Do what the application wants.

        Args:
            event: ASGI event.

        Raises:
            ClientDisconnected: If the client is gone.
            RuntimeError: If it isn't the time for such an event; nothing changes.
        """
        if event["type"] == "websocket.send" and not self._opening:
            message = event.get("bytes")
            if message is None:
                message = event.get("text")
                text = isinstance(message, str)
                obstacle = self._driver.send(message, True, None) if text else SLOW_PATH
            elif isinstance(message, str):
                obstacle = SLOW_PATH
            else:
                obstacle = self._driver.send(message, False, None)
            if obstacle == DRAIN:
                await self._drained()
            elif obstacle == YIELD:
                await asyncio.sleep(0)
            elif obstacle == SLOW_PATH:
                self._explain_unsent(event)
        else:
            await self._send_other(event)

    def _explain_unsent(self, event: Event) -> None:
        """Raise what tells why a message wasn't sent."""
        if self._finished and not self._lost:
            raise RuntimeError(CLOSED.format("websocket.send"))
        if self.protocol.state is not State.OPEN:
            raise ClientDisconnected
        for key, kind in ("bytes", "bytes"), ("text", "str"):
            if (message := event.get(key)) is not None:
                name = type(message).__name__
                raise TypeError(f"'{key}' of 'websocket.send' must be {kind}, not {name}")
        raise RuntimeError("ASGI message 'websocket.send' has neither 'text' nor 'bytes'.")

    async def _drained(self) -> None:
        try:
            await self._drain()
        except ConnectionClosed as exc:
            raise ClientDisconnected from exc

    async def _send_other(self, event: Event) -> None:
        """Process an event other than a message to send."""
        kind = event["type"]
        if self._finished and not self._lost:
            raise RuntimeError(CLOSED.format(kind))
        if self._disconnect is not None:
            if kind == "websocket.close":
                return  # that is what it wants
            raise ClientDisconnected
        if not self._opening:
            if kind != "websocket.close":
                raise RuntimeError(
                    "Expected ASGI message 'websocket.send' or 'websocket.close', "
                    f"but got '{kind}'."
                )
            self._close(event.get("code", 1000), event.get("reason") or "")
            self._finished = True
        elif self._denial is not None:
            if kind != "websocket.http.response.body":
                raise RuntimeError(
                    f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'."
                )
            body = event.get("body", b"")
            if not isinstance(body, (bytes, bytearray, memoryview)):
                # Of a number, bytes() makes as many zeros.
                raise TypeError(f"ASGI message '{kind}' must have bytes, not {type(body).__name__}")
            self._denial_body.append(bytes(body))
            if not event.get("more_body", False):
                self._deny(*self._denial, b"".join(self._denial_body))
        elif kind == "websocket.accept":
            self._accept(event)
        elif kind == "websocket.close":
            self._log_outcome("403")
            self._finished = True
            self._reject(self.respond(HTTPStatus.FORBIDDEN, ""))
        elif kind == "websocket.http.response.start":
            self._start_denial(event)
        else:
            raise RuntimeError(
                "Expected ASGI message 'websocket.accept', 'websocket.close' "
                f"or 'websocket.http.response.start' but got '{kind}'."
            )

    def _accept(self, event: Event) -> None:
        response = self.response
        assert response is not None
        headers = response.headers.copy()
        del headers["Date"]  # whether there is one is the server's decision
        for name, value in event.get("headers", ()):
            headers[name.decode("latin-1")] = value.decode("latin-1")
        subprotocol = event.get("subprotocol")
        if subprotocol:
            headers["Sec-WebSocket-Protocol"] = subprotocol
            self.protocol.subprotocol = subprotocol
        self._add_default_headers(headers)
        self._opening = False
        self._log_outcome("[accepted]")
        self._respond(Response(response.status_code, response.reason_phrase, headers))
        # Messages may have come with the request.
        self._driver.wake()

    def _start_denial(self, event: Event) -> None:
        status = event["status"]
        if not isinstance(status, int):
            raise TypeError(f"HTTP status code must be int, not {type(status).__name__}")
        if not 200 <= status < 600:
            raise RuntimeError(f"Invalid HTTP status code '{status}' in response.")
        headers = Headers()
        for name, value in event.get("headers", ()):
            headers[name.decode("latin-1")] = value.decode("latin-1")
        self._log_outcome(str(status))
        self._denial = status, headers
        self._denial_body = []

    def _deny(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the response of the application, whole, as it has to be framed here."""
        for name in ("Connection", "Content-Length", "Transfer-Encoding"):
            if name in headers:
                del headers[name]
        template = self.protocol.reject(HTTPStatus.FORBIDDEN, "").headers
        del template["Content-Length"]
        headers = self._completed(headers, template)
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            body = b""  # RFC 9110 sections 15.3.5 and 15.4.5
        else:
            headers["Content-Length"] = str(len(body))
        self._finished = True
        self._respond(Response(status, _phrase(status), headers, body))

    def _log_outcome(self, outcome: str) -> None:
        scope = self.scope
        path = urllib.parse.quote(scope["path"])
        if scope["query_string"]:
            path += f"?{scope['query_string'].decode('ascii')}"
        client = "{}:{}".format(*scope["client"]) if scope["client"] else ""
        self.log.info('%s - "WebSocket %s" %s', client, path, outcome)

    # ------------------------------------------------------------------ end

    def _close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; the rest of it is the engine's."""
        self.protocol.close(code, reason, now=monotonic())
        self._end()
        self._driver.update()

    def _act(self, action: int) -> None:
        # The engine closes the connection: both have closed it, or it has failed.
        self._end()
        super()._act(action)

    def _end(self) -> None:
        """Have the application told, after all messages, that there won't be more."""
        if self._disconnect is None:
            # The engine answers a Close frame with the same code and reason.
            close = self.protocol.close_sent
            event: dict[str, Any] = {"type": "websocket.disconnect"}
            if close is None:
                event["code"] = CloseCode.ABNORMAL_CLOSURE.value
            else:
                event["code"] = int(close.code)
                if close.reason or self.protocol.close_rcvd is not None:
                    event["reason"] = close.reason
            self._disconnect = event
            self._driver.wake()


def _address(address: object) -> tuple[str, int | None] | None:
    """Return an address of a socket in the form that scopes have."""
    if isinstance(address, (tuple, list)) and len(address) >= 2:
        return str(address[0]), int(address[1])
    if isinstance(address, str) and address:
        return address, None
    return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
