"""Options of ``connect``, ``serve`` and connections: names, types, defaults, documentation, once.

An option is an entry of a ``TypedDict`` whose annotation has an `Option`. Functions take them as
``**kwargs: Unpack[...]``, which type checkers follow; `takes` tells ``inspect.signature`` and
``help`` the same. Front-ends add their own. Entries without `Option` are passed on to what makes
sockets, if they are given.
"""

from __future__ import annotations

import functools
import inspect
import re
import ssl as ssl_module
import textwrap
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    get_origin,
    get_type_hints,
)

from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.http11 import SERVER, USER_AGENT, Request, Response
from wsproto_fast.typing import LoggerLike, Origin, Subprotocol

from ._documentation import document
from ._reconnection import backoff, process_exception

__all__ = [
    "ClientOptions",
    "ConnectionOptions",
    "Option",
    "ServerOptions",
    "TLSOptions",
    "complete",
    "documented",
    "other_options",
]

T = TypeVar("T")
ConnectionT = TypeVar("ConnectionT")
ResultT = TypeVar("ResultT")

OptionsType: TypeAlias = Any  # the class of a TypedDict, for which there is no type

Limits: TypeAlias = int | tuple[int | None, int | None] | None

AnswerLater: TypeAlias = Awaitable[Response | None] | Response | None
"""What ``process_request`` and ``process_response`` may return where coroutines are awaited."""


class Option(NamedTuple):
    """What an option is by default, and what it means."""

    default: Any
    doc: str


class ConnectionOptions(TypedDict, total=False):
    """Options of a connection."""

    ping_interval: Annotated[
        float | None, Option(20, "Seconds between keepalive pings; None for none.")
    ]
    ping_timeout: Annotated[
        float | None,
        Option(
            20,
            "Seconds after a keepalive ping in which something must be received, and in four times "
            "as many its answer, unless it is all one frame; None for no limit. While reading is "
            "paused, it is enough that the peer's host acknowledges what is sent, which Linux "
            "tells; elsewhere nothing is expected then.",
        ),
    ]
    close_timeout: Annotated[
        float | None, Option(10, "Seconds that closing may last; None for no limit.")
    ]
    max_queue: Annotated[
        Limits,
        Option(
            16,
            "Number of received frames in the queue above which reading pauses, or a pair of this "
            "and of the number at which it resumes; None for no limit.",
        ),
    ]


class _CommonOptions(TypedDict, Generic[ConnectionT], total=False):
    """Options that clients and servers have in common."""

    extensions: Annotated[
        Sequence[Any] | None, Option(None, "Extension factories, in order of preference.")
    ]
    subprotocols: Annotated[
        Sequence[Subprotocol] | None, Option(None, "Subprotocols, in order of preference.")
    ]
    compression: Annotated[str | None, Option("deflate", '"deflate" or None.')]
    max_size: Annotated[
        Limits,
        Option(
            2**20,
            "Limit on incoming messages in bytes, or a pair of limits on messages and on "
            "fragments; None for no limit.",
        ),
    ]
    create_connection: Annotated[
        Callable[..., ConnectionT] | None,
        Option(None, "Class of connections, or factory called like it."),
    ]


class ClientOptions(
    _CommonOptions[ConnectionT], ConnectionOptions, Generic[ConnectionT], total=False
):
    """Options of a client."""

    origin: Annotated[Origin | None, Option(None, "Value of the Origin header.")]
    additional_headers: Annotated[
        HeadersLike | None,
        Option(
            None,
            "Headers to add to the opening handshake. A redirect to another origin drops those "
            "that hold credentials, for good.",
        ),
    ]
    user_agent_header: Annotated[
        str | None, Option(USER_AGENT, "Value of the User-Agent header; None for none.")
    ]
    proxy: Annotated[
        str | bool | None,
        Option(
            True,
            "URL of an HTTP or SOCKS proxy; True for the one that environment or system have for "
            "this URI; None for none. A connection that is there already, and a Unix socket, are "
            "used without proxy.",
        ),
    ]
    open_timeout: Annotated[
        float | None,
        Option(10, "Seconds that opening the connection may last in all; None for no limit."),
    ]
    process_exception: Annotated[
        Callable[[Exception], Exception | None],
        Option(
            process_exception,
            "Policy of the reconnecting iterator: takes what connecting raised, returns None to "
            "try again or else what to raise.",
        ),
    ]
    reconnect_delays: Annotated[
        Callable[[], Iterator[float]],
        Option(
            backoff,
            "Callable that returns a generator of the seconds to wait after failures; called anew "
            "after each success. When it ends, the last failure is raised.",
        ),
    ]
    logger: Annotated[LoggerLike | None, Option(None, "Logger; ``wsapi.client`` by default.")]
    one_connecting: Annotated[
        bool,
        Option(
            False,
            "Wait while another connection of this process, made with this option too, is in its "
            "opening handshake with the same IP address (RFC 6455 section 4.1).",
        ),
    ]


class TLSOptions(TypedDict, total=False):
    """Options for TLS of a client where there is a default configuration."""

    ssl: Annotated[
        ssl_module.SSLContext | Literal[True] | None,
        Option(None, "Configuration of TLS, for a ``wss://`` URI; None for a default one."),
    ]
    server_hostname: Annotated[
        str | None,
        Option(None, "Name that the server's certificate must have; None for that in the URI."),
    ]
    proxy_ssl: Annotated[
        ssl_module.SSLContext | Literal[True] | None,
        Option(None, "Configuration of TLS with an ``https://`` proxy; None for a default one."),
    ]
    proxy_server_hostname: Annotated[
        str | None,
        Option(None, "Name that such a proxy's certificate must have; None for that in its URL."),
    ]


class ServerOptions(
    _CommonOptions[ConnectionT], ConnectionOptions, Generic[ConnectionT, ResultT], total=False
):
    """Options of a server."""

    origins: Annotated[
        Sequence[Origin | re.Pattern[str] | None] | None,
        Option(
            None,
            "Acceptable values of the Origin header: strings, compiled regular expressions (full "
            "match), or None for requests without one. None instead of a sequence: don't check.",
        ),
    ]
    select_subprotocol: Annotated[
        Callable[[ConnectionT, Sequence[Subprotocol]], Subprotocol | None] | None,
        Option(
            None,
            "Called with the connection and the offered subprotocols; returns the one to use.",
        ),
    ]
    process_request: Annotated[
        Callable[[ConnectionT, Request], ResultT] | None,
        Option(
            None,
            "Called with the connection and the request; may return a response to be sent instead "
            "of accepting the connection.",
        ),
    ]
    process_response: Annotated[
        Callable[[ConnectionT, Request, Response], ResultT] | None,
        Option(
            None,
            "Called with the connection, the request and the response; may change the response or "
            "return another one.",
        ),
    ]
    server_header: Annotated[
        str | None, Option(SERVER, "Value of the Server header; None for none.")
    ]
    check_host: Annotated[
        bool,
        Option(True, "Refuse requests whose Host header is missing, repeated or malformed."),
    ]
    open_timeout: Annotated[
        float | None,
        Option(10, "Seconds that the opening handshake may last; None for no limit."),
    ]
    logger: Annotated[LoggerLike | None, Option(None, "Logger; ``wsapi.server`` by default.")]


class _Table(NamedTuple):
    """A ``TypedDict`` of options, taken apart."""

    types: dict[str, Any]
    options: dict[str, Option]
    defaults: dict[str, Any]
    others: frozenset[str]


@functools.cache
def _table(kind: OptionsType) -> _Table:
    types: dict[str, Any] = {}
    options: dict[str, Option] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated:
            types[name] = hint.__origin__
            (options[name],) = hint.__metadata__
        else:
            types[name] = hint
    defaults = {name: option.default for name, option in options.items()}
    return _Table(types, options, defaults, frozenset(types.keys() - options.keys()))


def complete(kind: OptionsType, kwargs: T, name: str = "connect") -> T:
    """Return options with the defaults of those that aren't given.

    Args:
        kind: ``TypedDict`` of the options.
        kwargs: Options that are given.
        name: Name of the function that they are given to.

    Raises:
        TypeError: If there is no such option.
    """
    table = _table(kind)
    given = cast(dict[str, Any], kwargs)
    if unknown := given.keys() - table.types.keys():
        raise TypeError(f"{name}() got unexpected keyword arguments: {sorted(unknown)}")
    return cast(T, {**table.defaults, **given})


def other_options(kind: OptionsType, kwargs: object) -> dict[str, Any]:
    """Return what is passed on to what makes sockets.

    Args:
        kind: ``TypedDict`` of the options.
        kwargs: Options that are given.
    """
    given = cast(dict[str, Any], kwargs)
    return {name: value for name, value in given.items() if name in _table(kind).others}


def documented(kind: OptionsType = None) -> Callable[[T], T]:
    """Return a decorator for functions, or classes, that take options as their last parameter.

    It replaces markers in docstrings, see ``_documentation``, and sets ``__signature__``.

    Args:
        kind: ``TypedDict`` of the options; None to do no more than replace markers.
    """
    if kind is None:
        return document

    def decorate(thing: T) -> T:
        table = _table(kind)
        # mypy warns of the __init__ of subclasses, but it is that of this very class.
        function: Any = thing.__init__ if isinstance(thing, type) else thing  # type: ignore[misc] # see above
        signature = inspect.signature(function)
        *parameters, kwargs = signature.parameters.values()
        assert kwargs.kind is kwargs.VAR_KEYWORD
        parameters += (
            inspect.Parameter(
                name, kwargs.KEYWORD_ONLY, default=option.default, annotation=table.types[name]
            )
            for name, option in table.options.items()
            if name not in signature.parameters
        )
        if table.others:
            parameters.append(kwargs.replace(annotation=Any))
        function.__signature__ = signature.replace(parameters=parameters)
        return document(thing, "\n".join(_describe(table.options.items())))

    return decorate


def _describe(options: Iterable[tuple[str, Option]]) -> Iterator[str]:
    """Yield the lines of the documentation of options."""
    for name, option in options:
        # Room for the indentation in docstrings.
        yield from textwrap.wrap(f"{name}: {option.doc}", 84, subsequent_indent="    ")
