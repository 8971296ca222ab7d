"""Options that every front-end has: names, defaults, and what they mean, in one table.

The signatures and docstrings of ``connect``, ``serve`` and their kin repeat it, so that readers and
their tools find everything where the function is; a test says that they agree. What only one
front-end has stands in its own signatures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from wsproto_fast import Slow
from wsproto_fast.http11 import SERVER, USER_AGENT, Response

from ..limits import MAX_BACKLOG
from .reconnection import backoff, process_exception

__all__ = [
    "CLIENT_OPTIONS",
    "CONNECTION_OPTIONS",
    "SERVER_OPTIONS",
    "AnswerLater",
    "Limits",
    "OnDrop",
    "Option",
    "arguments",
    "defaults",
]

Limits: TypeAlias = int | tuple[int | None, int | None] | None

OnDrop: TypeAlias = Callable[[Any, int], object]
"""What is called with a connection and the number of messages that were dropped."""

AnswerLater: TypeAlias = Awaitable[Response | None] | Response | None
"""What ``process_request`` and ``process_response`` may return where coroutines are awaited."""


class Option(NamedTuple):
    """What an option is by default, and what it means."""

    default: Any
    doc: str


CONNECTION_OPTIONS: Final = {
    "ping_interval": Option(20, "Seconds between keepalive pings; None for none."),
    "ping_timeout": Option(
        20,
        "Seconds after a keepalive ping in which something must be received, and in four times "
        "as many its answer, unless it is all one frame; None for no limit. While reading is "
        "paused, it is enough that the peer's host acknowledges what is sent, which Linux "
        "tells; elsewhere nothing is expected then.",
    ),
    "close_timeout": Option(10, "Seconds that closing may last; None for no limit."),
    "max_queue": Option(
        16,
        "Number of received frames in the queue above which reading pauses, or a pair "
        "of this and of the number at which it resumes; None for no limit.",
    ),
    "slow": Option(
        Slow.WAIT,
        "What becomes of messages while the peer doesn't read as fast as they come; by default, "
        "who sends waits.",
    ),
    "max_backlog": Option(
        MAX_BACKLOG,
        "Bytes of messages that may wait then, unless ``slow`` is ``Slow.WAIT``; None for no "
        "limit.",
    ),
    "write_deadline": Option(
        None,
        "Seconds for which the peer may take nothing of what waits to be sent; None for no limit.",
    ),
    "on_drop": Option(
        None,
        "Called with the connection and a number of messages when ``slow`` has them dropped.",
    ),
}

_COMMON_OPTIONS: Final = {
    **CONNECTION_OPTIONS,
    "extensions": Option(None, "Extension factories, in order of preference."),
    "subprotocols": Option(None, "Subprotocols, in order of preference."),
    "compression": Option("deflate", '"deflate" or None.'),
    "max_size": Option(
        2**20,
        "Limit on incoming messages in bytes, or a pair of limits on messages and on "
        "fragments; None for no limit.",
    ),
    "message_rate": Option(
        None,
        "Limit on what the peer sends, in messages and Pings: a ``Rate`` of ``wsapi.limits``, "
        "or a number per second, above which it waits; None for no limit.",
    ),
    "byte_rate": Option(
        None,
        "Limit on the bytes of their payloads, as they are received, in the same form.",
    ),
    "create_connection": Option(None, "Class of connections, or factory called like it."),
}

CLIENT_OPTIONS: Final = {
    **_COMMON_OPTIONS,
    "origin": Option(None, "Value of the Origin header."),
    "additional_headers": Option(
        None,
        "Headers to add to the opening handshake. A redirect to another origin drops "
        "those that hold credentials, for good.",
    ),
    "user_agent_header": Option(USER_AGENT, "Value of the User-Agent header; None for none."),
    "proxy": Option(
        True,
        "URL of an HTTP or SOCKS proxy; True for the one that environment or system "
        "have for this URI; None for none. A connection that is there already, and a "
        "Unix socket, are used without proxy.",
    ),
    "open_timeout": Option(
        10,
        "Seconds that opening the connection may last in all; None for no limit.",
    ),
    "process_exception": Option(
        process_exception,
        "Policy of the reconnecting iterator: takes what connecting raised, returns "
        "None to try again or else what to raise.",
    ),
    "reconnect_delays": Option(
        backoff,
        "Callable that returns a generator of the seconds to wait after failures; "
        "called anew after each success. When it ends, the last failure is raised.",
    ),
    "logger": Option(None, "Logger; ``wsapi.client`` by default."),
    "one_connecting": Option(
        False,
        "Wait while another connection of this process, made with this option too, is "
        "in its opening handshake with the same IP address (RFC 6455 section 4.1).",
    ),
}

SERVER_OPTIONS: Final = {
    **_COMMON_OPTIONS,
    "origins": Option(
        None,
        "Acceptable values of the Origin header: strings, compiled regular expressions "
        "(full match), or None for requests without one. None instead of a sequence: "
        "don't check.",
    ),
    "select_subprotocol": Option(
        None,
        "Called with the connection and the offered subprotocols; returns the one to use.",
    ),
    "process_request": Option(
        None,
        "Called with the connection and the request; may return a response to be sent "
        "instead of accepting the connection.",
    ),
    "process_response": Option(
        None,
        "Called with the connection, the request and the response; may change the "
        "response or return another one.",
    ),
    "server_header": Option(SERVER, "Value of the Server header; None for none."),
    "check_host": Option(
        True,
        "Refuse requests whose Host header is missing, repeated or malformed.",
    ),
    "door": Option(
        None,
        "Limits on the number of connections, and where their clients' addresses come from: a "
        "``Door`` of ``wsapi.limits``; None for none.",
    ),
    "buffer_budget": Option(
        None,
        "Limit on what connections hold in memory together, above which those with most are "
        "closed: a ``BufferBudget`` of ``wsapi.limits``; None for no limit.",
    ),
    "open_timeout": Option(10, "Seconds that the opening handshake may last; None for no limit."),
    "logger": Option(None, "Logger; ``wsapi.server`` by default."),
    "log_connections": Option(
        False,
        "Log a line with level INFO at the end of each connection: address, path, code, reason, "
        "duration, messages and bytes.",
    ),
}


def defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    """Return options as they are by default.

    Args:
        options: Table of the options.
    """
    return {name: option.default for name, option in options.items()}


def arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a function was called with.

    Args:
        scope: What ``locals()`` returns where the function begins: its arguments. Those behind
            ``**kwargs`` are among the options, ``uri`` isn't.
    """
    options = {
        name: value
        for name, value in scope.items()
        if name not in ("self", "__class__", "uri", "kwargs")
    }
    options.update(scope.get("kwargs", {}))
    return options
