"""Topics for browsers: a small JSON protocol over one WebSocket connection.

``Gateway.handle`` is a handler for ``serve()``, and works on the WebSocket objects of FastAPI and
Starlette. ``docs/topics-protocol.md`` describes the protocol, and ``browser_client()`` returns the
other side of it, a module for browsers and Node. What a client may do is the application's to say.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable
from importlib import resources
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, TypeAlias

from wsproto_fast import Slow

from .._shared.checks import check_callable
from .._shared.leaving import check_seconds
from ..exceptions import ConnectionClosed
from ..frames import CloseCode
from ..protocol import State
from ._base import Action, Authorize, Subscription
from ._coroutines import recipient_of
from ._names import check_name
from .bus import Message
from .exceptions import (
    BusUnavailable,
    NotAuthorized,
    PublishUncertain,
    TopicLimitExceeded,
    TopicsError,
)
from .positions import MAX_OFFSET, Position

if TYPE_CHECKING:
    from ._asyncio import Topics

__all__ = ["MAX_DEPTH", "PROTOCOL", "Gateway", "RequestRefused", "browser_client", "envelope"]

PROTOCOL: Final = 1
"""Version of the protocol."""

MAX_DEPTH: Final = 64
"""How deep a client's message may be nested."""

UNREAD_FACTOR: Final = 4
"""How many times larger than the limit a message is that isn't even read to tell its id."""

OnPublish: TypeAlias = Callable[[Any, str, Any], Position | Awaitable[Position | None] | None]
"""Hook in the place of publishing: connection, topic, data; returns the message's position."""

Member: TypeAlias = Callable[[Any, str], str | None]
"""Hook: the name under which a connection is present on a topic."""

_logger = logging.getLogger("wsapi.topics")

# Strings, in which brackets mean nothing, and what opens and closes.
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


class RequestRefused(TopicsError):
    """Raised by hooks: the client gets the error ``refused``, with this text."""


class _Failure(Exception):
    """What a client is told about a request.

    Args:
        code: One of the protocol's error codes.
        message: For people.
        retry: Whether the same request may succeed later, and was not carried out.

    Attributes:
        number: The request's id, as far as it was understood.
        topic: Its topic.
    """

    number: int | None = None
    topic: str | None = None

    def __init__(self, code: str, message: str, retry: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


_decode: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse_constant).decode
_encode_as_is: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode
_encode_escaped: Callable[[object], str] = json.JSONEncoder(
    allow_nan=False, separators=(",", ":")
).encode


def _encode(value: object) -> str:
    """Return a value as JSON, with escapes only where UTF-8 needs them.

    Raises:
        TypeError, ValueError, RecursionError: If JSON can't express it.
    """
    text = _encode_as_is(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate, which JavaScript's strings may have
        return _encode_escaped(value)
    return text


def _position(position: Position | None) -> str:
    # The characters of an epoch need no escapes.
    return "null" if position is None else f'["{position[0]}",{position[1]}]'


def envelope(topic: str, position: Position | None, message: Message) -> str:
    """Return what subscribers of a gateway get: ``Topics(envelope=envelope)`` calls it.

    It is called once per message and process, however many subscribe.

    Args:
        topic: Name of the topic.
        position: Position of the message; None without history.
        message: What was published. A JSON text is passed on as ``data``, any other text as
            ``text``, bytes as ``base64``.
    """
    head = f'{{"type":"message","topic":{_encode_as_is(topic)},"position":{_position(position)}'
    if not isinstance(message, str):
        return f'{head},"base64":"{base64.b64encode(message).decode()}"}}'
    try:
        _decode(message)
    except (ValueError, RecursionError):
        return f'{head},"text":{_encode(message)}}}'
    return f'{head},"data":{message}}}'


@functools.cache
def browser_client() -> str:
    """Return ``wsapi-topics.js``, a JavaScript module, for serving it as ``text/javascript``."""
    return _browser_files().joinpath("wsapi-topics.js").read_text("utf-8")


def _browser_files() -> resources.abc.Traversable:
    return resources.files(__package__).joinpath("browser")


# ---------------------------------------------------------------------- connections


class _Gone(Exception):
    """The connection has ended."""


class _Peer(Protocol):
    """What a gateway needs of a connection."""

    async def receive(self) -> str | bytes: ...

    async def send(self, text: str) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...

    def says_gone(self, exc: Exception) -> bool:
        """Tell whether an exception is the end of the connection."""
        ...


class _Connection:
    """A connection of ``wsapi.asyncio``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        try:
            message: str | bytes = await self._connection.recv()
        except ConnectionClosed as exc:
            raise _Gone from exc
        return message

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as exc:
            raise _Gone from exc

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def says_gone(self, exc: Exception) -> bool:
        # A hook may have to do with other connections, too.
        return isinstance(exc, ConnectionClosed) and self._connection.state is not State.OPEN


class _ASGIWebSocket:
    """A ``WebSocket`` of Starlette, which FastAPI has, too."""

    __slots__ = ("_websocket",)

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket

    async def accept(self) -> None:
        if self._websocket.client_state.name == "CONNECTING":
            await self._websocket.accept()

    async def receive(self) -> str | bytes:
        try:
            event = await self._websocket.receive()
        except RuntimeError as exc:
            self._reraise(exc)
        if event["type"] != "websocket.receive":
            raise _Gone
        text = event.get("text")
        message: str | bytes = event["bytes"] if text is None else text
        return message

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except Exception as exc:
            self._reraise(exc)

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._websocket.close(code, reason)
        except Exception as exc:
            self._reraise(exc)

    def _reraise(self, exc: Exception) -> NoReturn:
        if self.says_gone(exc):
            raise _Gone from exc
        raise exc

    def says_gone(self, exc: Exception) -> bool:
        # It has many names.
        websocket = self._websocket
        states = {websocket.client_state.name, websocket.application_state.name}
        return "DISCONNECTED" in states and (
            isinstance(exc, (OSError, RuntimeError)) or type(exc).__module__.startswith("starlette")
        )


# ---------------------------------------------------------------------- the gateway


class Gateway:
    """Lets clients subscribe to topics, and publish, as ``docs/topics-protocol.md`` describes it.

    ::

        topics = Topics("redis://127.0.0.1:6379", envelope=envelope)
        gateway = Gateway(topics, authorize=may)
        async with topics, serve(gateway.handle, "localhost", 8765) as server:
            ...

    Each message is framed, and compressed, once per process for all subscribers of its topic, as
    ``Topics`` does it: nothing is encoded for each of them.

    Args:
        topics: Where messages are published; made with ``envelope=wsapi.topics.gateway.envelope``.
        authorize: Called with the connection, the topic, and ``"subscribe"`` or ``"publish"``;
            returns whether that is allowed, or an awaitable of it. It is called for each
            subscription and each message. The ``authorize`` of the topics, if they have one, is
            asked, too; None for that one alone.
        on_publish: Called with the connection, the topic, and the data of each message that a
            client publishes, in the place of publishing it; it calls ``gateway.publish()`` itself,
            with what it makes of the data, and returns the position, or an awaitable of it. The
            default publishes the data as it is.
        member: Called with the connection and the topic of a subscription; returns the name under
            which ``topics.presence()`` knows the client, or None for nobody.
        slow: As for ``Topics.subscribe()``.
        max_backlog: As for ``Topics.subscribe()``.
        compress: As for ``Topics.subscribe()``.
        max_message_size: Bytes of a client's message, in UTF-8; larger ones are an error.
        max_pending: Requests of a connection that are being answered; meanwhile no more is read
            from it. Those for the same topic are carried out one after the other.
        hook_timeout: Seconds that an awaitable of a hook may take, and that publishing may go on
            after the end of the connection; None for no limit.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        authorize: Authorize | None,
        on_publish: OnPublish | None = None,
        member: Member | None = None,
        slow: Slow | None = None,
        max_backlog: int | None = None,
        compress: bool | None = None,
        max_message_size: int = 2**16,
        max_pending: int = 64,
        hook_timeout: float | None = 30.0,
    ) -> None:
        if topics._core._wrap is None:
            raise ValueError("topics must be made with envelope=wsapi.topics.gateway.envelope")
        check_callable("authorize", authorize)
        if authorize is None and topics._authorize is None:
            raise ValueError("without authorize, all clients could do all: say so by a function")
        check_callable("on_publish", on_publish)
        check_callable("member", member)
        for name, limit in {
            "max_message_size": max_message_size,
            "max_pending": max_pending,
        }.items():
            if isinstance(limit, bool) or not isinstance(limit, int):
                raise TypeError(f"{name} must be int; got {type(limit).__name__}")
            if limit < 1:
                raise ValueError(f"{name} must be 1 or more; got {limit}")
        if hook_timeout is not None:
            check_seconds("hook_timeout", hook_timeout)
        self.topics = topics
        self._authorize = authorize
        self._on_publish = on_publish
        self._member = member
        self._slow = slow
        self._max_backlog = max_backlog
        self._compress = compress
        self._max_message_size = max_message_size
        self._max_pending = max_pending
        self._hook_timeout = hook_timeout

    async def publish(self, topic: str, data: object) -> Position | None:
        """Publish data for clients: ``topics.publish()`` of its JSON text.

        Args:
            topic: Name of the topic.
            data: What JSON can express.

        Returns:
            Position of the message; None without history.

        Raises:
            TypeError, ValueError: If JSON can't express the data, or something isn't acceptable.
            BusUnavailable, PublishUncertain: As ``Topics.publish()``.
        """
        return await self.topics.publish(topic, _encode(data))

    async def handle(self, connection: Any) -> None:
        """Serve a connection until it ends: a handler for ``serve()``.

        It returns when the connection has ended, however that was.

        Args:
            connection: A connection of ``wsapi.asyncio``, or a ``WebSocket`` of Starlette or
                FastAPI, accepted or not.

        Raises:
            TypeError: If it is something else.
        """
        peer: _Peer
        if hasattr(connection, "application_state"):
            peer = _ASGIWebSocket(connection)
            await peer.accept()
        elif hasattr(connection, "recv"):
            peer = _Connection(connection)
        else:
            raise TypeError(
                "connection must be one of wsapi.asyncio, or a WebSocket of Starlette or FastAPI; "
                f"got {type(connection).__name__}"
            )
        await _Session(self, connection, peer).run()


class _Session:
    """One connection: its subscriptions, and the requests that are being answered.

    Args:
        gateway: What it belongs to.
        connection: The connection, as hooks and ``Topics`` know it.
        peer: The same, as the session uses it.
    """

    __slots__ = ("_connection", "_gateway", "_last", "_peer", "_subscriptions", "_tasks")

    def __init__(self, gateway: Gateway, connection: Any, peer: _Peer) -> None:
        self._gateway = gateway
        self._connection = connection
        self._peer = peer
        self._subscriptions: dict[str, Subscription] = {}
        # Requests under way, and what they want.
        self._tasks: dict[asyncio.Task[None], str] = {}
        # The last request for each topic that has one under way.
        self._last: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve the connection until it ends."""
        gateway = self._gateway
        try:
            await self._tell(
                type="hello",
                protocol=PROTOCOL,
                max_message_size=gateway._max_message_size,
                max_pending=gateway._max_pending,
                max_subscriptions=gateway.topics._max_subscriptions,
            )
            while isinstance(message := await self._peer.receive(), str):
                await self._receive(message)
                if len(self._tasks) >= gateway._max_pending:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._finish()
            await self._peer.close(CloseCode.UNSUPPORTED_DATA, "messages are JSON texts")
        except _Gone:
            # What was published is published, though nobody will hear of it.
            for task, kind in self._tasks.items():
                if kind != "publish":
                    task.cancel()
            await self._finish()
        finally:
            await self._end()

    async def _finish(self) -> None:
        """Let the requests under way come to their ends."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._gateway._hook_timeout)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._subscriptions:
            _, subscription = self._subscriptions.popitem()
            subscription.unsubscribe()

    async def _tell(self, **message: object) -> None:
        await self._peer.send(_encode(message))

    async def _tell_failure(self, failure: _Failure, number: int | None, topic: str | None) -> None:
        await self._tell(
            type="error",
            id=number,
            topic=topic,
            code=failure.code,
            message=str(failure),
            retry=failure.retry,
        )

    # ------------------------------------------------------------------ requests

    async def _receive(self, text: str) -> None:
        """Begin with what a client wants; tell it at once if that can't be understood."""
        try:
            request = _understand(text, self._gateway._max_message_size)
        except _Failure as failure:
            await self._tell_failure(failure, failure.number, failure.topic)
            return
        number, topic = request.number, request.topic
        if request.kind == "ping":
            await self._tell(type="pong", id=number)
            return
        task = asyncio.create_task(self._carry_out(request, self._last.get(topic)))
        self._tasks[task] = request.kind
        self._last[topic] = task
        task.add_done_callback(functools.partial(self._done, topic))

    def _done(self, topic: str, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if self._last.get(topic) is task:
            del self._last[topic]

    async def _carry_out(self, request: _Request, previous: asyncio.Task[None] | None) -> None:
        """Do what a client wants, after what it wanted of the same topic before."""
        if previous is not None:
            await asyncio.wait((previous,))
        try:
            if request.kind == "subscribe":
                await self._subscribe(request)
            elif request.kind == "unsubscribe":
                await self._unsubscribe(request)
            else:
                await self._publish(request)
        except _Gone:
            pass
        except Exception as exc:
            if self._peer.says_gone(exc):
                return
            failure = _failure(exc, request, closed=self._gateway.topics._closed)
            try:
                await self._tell_failure(failure, request.number, request.topic)
            except _Gone:
                pass

    async def _subscribe(self, request: _Request) -> None:
        number, topic = request.number, request.topic
        known = self._subscriptions.get(topic)
        if known is not None and known.active:
            raise _Failure("already_subscribed", "the connection has this topic already")
        await self._ask(topic, "subscribe")

        def announce(subscription: Subscription) -> str:
            return (
                f'{{"type":"subscribed","id":{number},"topic":{_encode(topic)},'
                f'"recovered":{_encode(subscription.recovered)},'
                f'"position":{_position(subscription.position)}}}'
            )

        gateway = self._gateway
        member = None if gateway._member is None else gateway._member(self._connection, topic)
        try:
            self._subscriptions[topic] = await gateway.topics.subscribe(
                self._connection,
                topic,
                since=request.since,
                slow=gateway._slow,
                max_backlog=gateway._max_backlog,
                compress=gateway._compress,
                announce=announce,
                on_gap=_tell_gap,
                member=member,
            )
        except ConnectionClosed as exc:
            raise _Gone from exc

    async def _unsubscribe(self, request: _Request) -> None:
        subscription = self._subscriptions.pop(request.topic, None)
        if subscription is None:
            raise _Failure("not_subscribed", "the connection doesn't have this topic")
        subscription.unsubscribe()
        answer = _encode({"type": "unsubscribed", "id": request.number, "topic": request.topic})
        try:
            # Behind messages of the topic that wait.
            await recipient_of(subscription).send(answer, None)
        except ConnectionClosed as exc:
            raise _Gone from exc

    async def _publish(self, request: _Request) -> None:
        topic = request.topic
        await self._ask(topic, "publish")
        gateway = self._gateway
        if gateway._on_publish is None:
            try:
                position = await gateway.topics.publish(topic, request.message)
            except ValueError as exc:  # it may be longer than what the client has sent
                raise _Failure("too_large", str(exc)) from None
        else:
            outcome = gateway._on_publish(self._connection, topic, request.data)
            position = await self._awaited(outcome)
        await self._tell(type="published", id=request.number, topic=topic, position=position)

    async def _ask(self, topic: str, action: Action) -> None:
        connection, authorize = self._connection, self._gateway._authorize
        if authorize is not None and not await self._awaited(authorize(connection, topic, action)):
            raise _Failure("forbidden", f"not allowed to {action}")
        if action == "publish":  # subscribing asks by itself
            await self._awaited(self._gateway.topics._ask(connection, topic, action))

    async def _awaited(self, outcome: Any) -> Any:
        """Return what a hook returned, or what comes of that in time."""
        if not inspect.isawaitable(outcome):
            return outcome
        async with asyncio.timeout(self._gateway._hook_timeout):
            return await outcome


def _tell_gap(subscription: Subscription) -> str:
    return (
        f'{{"type":"gap","topic":{_encode(subscription.topic)},'
        f'"position":{_position(subscription.position)}}}'
    )


def _failure(exc: Exception, request: _Request, *, closed: bool) -> _Failure:
    """Return what a client is told of what a request has come to.

    Args:
        exc: What was raised.
        request: The request.
        closed: Whether the topics are closed: whatever is raised then has this reason.
    """
    match exc:
        case _Failure():
            return exc
        case RequestRefused():
            return _Failure("refused", str(exc))
        case NotAuthorized():
            return _Failure("forbidden", f"not allowed to {request.kind}")
        case TopicLimitExceeded():
            return _Failure("limit", str(exc))
        case BusUnavailable():
            return _Failure("unavailable", "the broker can't be reached", retry=True)
        case PublishUncertain():
            return _Failure("uncertain", "the broker was lost before it answered")
    if closed:
        return _Failure("unavailable", "the server is leaving", retry=True)
    _logger.error("%s to topic %r failed", request.kind, request.topic, exc_info=exc)
    return _Failure("internal", "the server has failed")


# ---------------------------------------------------------------------- what clients send


class _Request(NamedTuple):
    """What a client wants.

    Args:
        kind: Its type.
        number: Its id; None only for a ping.
        topic: Name of the topic; empty for a ping.
        since: Position to subscribe from.
        data: What to publish.
        message: The same as JSON.
    """

    kind: str
    number: int | None
    topic: str = ""
    since: Position | None = None
    data: Any = None
    message: str = ""


def _understand(text: str, max_size: int) -> _Request:
    """Return what a client wants.

    Args:
        text: What it sent.
        max_size: Bytes that this may have in UTF-8.

    Raises:
        _Failure: If that can't be understood; it names what is wrong.
    """
    number: int | None = None
    topic: str | None = None
    too_large = _Failure("too_large", f"a message has at most {max_size} bytes")
    try:
        if len(text) > UNREAD_FACTOR * max_size:
            raise too_large
        fields = _fields(text)
        number = _number(fields)
        # Only now: who sent too much is told for which request.
        if len(text) > max_size or (not text.isascii() and len(text.encode()) > max_size):
            raise too_large
        if _too_deep(text):
            raise _Failure("invalid_json", f"a message is nested at most {MAX_DEPTH} deep")
        kind = fields.get("type")
        if kind == "ping":
            return _Request(kind, number)
        if kind not in ("subscribe", "unsubscribe", "publish"):
            raise _Failure("unknown_type", f"there is no type {_shown(kind)}")
        if number is None:
            raise _Failure("invalid_message", "id is missing")
        topic = _topic(fields)
        if kind == "publish":
            return _Request(kind, number, topic, None, *_data(fields))
        return _Request(kind, number, topic, _since(fields) if kind == "subscribe" else None)
    except _Failure as failure:
        failure.number = number
        failure.topic = topic
        raise


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = _decode(text)
    except RecursionError:
        raise _Failure("invalid_json", f"a message is nested at most {MAX_DEPTH} deep") from None
    except ValueError as exc:
        raise _Failure("invalid_json", f"the message isn't JSON: {exc}") from None
    if not isinstance(fields, dict):
        raise _Failure("invalid_message", f"a message is an object; got {_shown(fields)}")
    return fields


def _number(fields: dict[str, Any]) -> int | None:
    number = fields.get("id")
    if number is not None and not (type(number) is int and 0 <= number <= MAX_OFFSET):
        raise _Failure(
            "invalid_message", f"id is an integer from 0 to {MAX_OFFSET}; got {_shown(number)}"
        )
    return number


def _topic(fields: dict[str, Any]) -> str:
    if "topic" not in fields:
        raise _Failure("invalid_message", "topic is missing")
    topic = fields["topic"]
    if not isinstance(topic, str):
        raise _Failure("invalid_message", f"topic is a string; got {_shown(topic)}")
    try:
        check_name(topic)
    except ValueError as exc:
        raise _Failure("invalid_topic", str(exc)) from None
    return topic


def _since(fields: dict[str, Any]) -> Position | None:
    since = fields.get("since")
    if since is None:
        return None
    if not isinstance(since, list):  # text is a form for URLs
        raise _Failure("invalid_position", f"since is a position; got {_shown(since)}")
    try:
        return Position.parse(since)
    except (TypeError, ValueError) as exc:
        raise _Failure("invalid_position", str(exc)) from None


def _data(fields: dict[str, Any]) -> tuple[Any, str]:
    if "data" not in fields:
        raise _Failure("invalid_message", "data is missing")
    data = fields["data"]
    try:
        return data, _encode(data)
    except ValueError:  # 1e999 is infinite
        raise _Failure("invalid_message", "numbers of data are finite") from None


def _too_deep(text: str) -> bool:
    """Tell whether a JSON text is nested too deeply."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _STRUCTURE.finditer(text):
        character = found[0]
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _shown(value: object) -> str:
    """Return a short text for what a client has sent."""
    if isinstance(value, str):
        return repr(value[:100])
    if value is None or isinstance(value, bool) or (isinstance(value, float) and isfinite(value)):
        return _encode_escaped(value)
    # 1e999 is infinite, which JSON can't express; an int may have any number of digits.
    names = {dict: "an object", list: "an array", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
