"""Documentation of what means the same in every front-end, and a decorator that puts it in place.

A line ``{name}`` in a docstring stands for the section of that name; ``{options}`` for the
documentation of the options that the function takes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["document", "expand"]

T = TypeVar("T")

_MARKER = re.compile(r"^([ \t]*)\{(\w+)\}[ \t]*$", re.MULTILINE)


def _whole(name: str, *, returns: bool = False) -> str:
    """Return a section that has all of a method's."""
    parts = [f"Args:\n    {{{name}_args}}"]
    if returns:
        parts.append(f"Returns:\n    {{{name}_returns}}")
    parts.append(f"Raises:\n    {{{name}_raises}}")
    return "\n\n".join(parts)


SECTIONS = {
    "connection_args": """
        protocol: Engine of the connection.
        {options}
    """,
    # ------------------------------------------------------------------ receiving
    "recv": _whole("recv"),
    "recv_args": """
        decode: None for str from text and bytes from binary messages; True for str, False for
            bytes.
    """,
    "recv_raises": """
        ConnectionClosed: When the connection is closed and every message was received.
        ConcurrencyError: If the connection is being received from already.
    """,
    "recv_streaming": _whole("recv_streaming"),
    "recv_streaming_args": """
        decode: As in ``recv``; characters cut by fragmentation come with the later fragment.
    """,
    "recv_streaming_raises": """
        ConnectionClosed: When the connection is closed.
        ConcurrencyError: If the connection is being received from already.
    """,
    "iteration": """
        Raises:
            ConnectionClosedError: If it didn't end properly.
    """,
    # ------------------------------------------------------------------ sending
    "send": _whole("send"),
    "send_args": """
        message: str for a text message or bytes-like object for a binary one; an iterable of either
            for a message in fragments.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, if permessage-deflate was negotiated; None if it pays.
    """,
    "send_raises": """
        ConnectionClosed: When the connection is closed.
        TypeError: If ``message`` isn't of one of these types.
        UnicodeError: If a text message given as bytes isn't UTF-8.
    """,
    "broadcast": """
        Connections that aren't open are skipped, as are those that are sending a fragmented message
        or can't be written to; the latter two with a warning in the log.

        Args:
            {broadcast_args}

        Raises:
            {broadcast_raises}
    """,
    "broadcast_args": """
        connections: Connections, clients or servers.
        message: str or bytes-like object.
        text: Force a text (True) or binary (False) message, whatever the type of ``message``.
        compress: Whether to compress it, once for all, where permessage-deflate was negotiated;
            None if it pays.
        raise_exceptions: Raise an ``ExceptionGroup`` at the end instead of logging warnings.
    """,
    "backlog": """
        A connection whose peer doesn't read is given up, with a warning, if more than
        ``max_backlog`` bytes wait for it already: its end is a ``ConnectionClosedError``.
        ``wsapi.limits`` counts them.
    """,
    "backlog_args": """
        max_backlog: Bytes that may wait for being sent on a connection before this message; None
            for no limit.
    """,
    "broadcast_raises": """
        TypeError: If ``message`` isn't str or bytes-like.
        ExceptionGroup: With ``raise_exceptions``, what kept connections from getting the message.
    """,
    "ping": _whole("ping", returns=True),
    "ping_args": """
        data: Payload of at most 125 bytes; None for a random one.
    """,
    # Where it isn't a future for the latency.
    "ping_event_args": """
        {ping_args}
        ack_on_close: Set the event also when the connection is closed before the answer comes.
    """,
    "ping_event": """
        Args:
            {ping_event_args}

        Returns:
            An event that is set when the answer comes.

        Raises:
            {ping_raises}
    """,
    "ping_returns": """
        A future for the latency in seconds; it raises ``ConnectionClosed`` if no answer comes.
    """,
    "ping_raises": """
        ConnectionClosed: When the connection is closed.
        ConcurrencyError: If a ping with the same payload waits for its answer.
        ProtocolError: If the payload is too long.
    """,
    "pong": _whole("pong"),
    "pong_args": """
        data: Payload of at most 125 bytes.
    """,
    "pong_raises": """
        ConnectionClosed: When the connection is closed.
        ProtocolError: If the payload is too long.
    """,
    # ------------------------------------------------------------------ closing
    "close": _whole("close"),
    "close_args": """
        code: Close code.
        reason: Close reason, at most 123 bytes of UTF-8.
    """,
    "close_raises": """
        ProtocolError: If the code or the reason isn't allowed; the connection stays open.
    """,
    "close_server": """
        Stops listening, refuses connections that are in their opening handshake with 503, closes
        the open ones, and waits for their handlers.

        Args:
            close_connections: Whether to close open connections.
            code: Close code for them.
            reason: Close reason for them.

        Raises:
            ProtocolError: If the code or the reason isn't allowed.
    """,
    # ------------------------------------------------------------------ clients
    "connect_args": """
        uri: WebSocket URI. Its credentials go to its origin only: in a Basic authorization, and in
            a Digest one (RFC 7616) if the server then asks for that.
        {options}
    """,
    "connect_raises": """
        InvalidURI: If the URI isn't valid.
        InvalidProxy: If the URL of the proxy isn't valid.
        TypeError, ValueError: If another argument isn't acceptable.
        OSError: If the TCP connection or TLS fails.
        ProxyError: If the proxy fails or refuses.
        InvalidHandshake: If the opening handshake fails.
        TimeoutError: If opening takes longer than ``open_timeout``.
    """,
    "handshake": _whole("handshake"),
    "handshake_args": """
        additional_headers: Headers to add to the request.
        user_agent_header: Value of the User-Agent header, unless it is among the additional ones;
            None for none.
    """,
    "handshake_raises": """
        InvalidHandshake: If the server doesn't accept it.
    """,
    "unix_connect": _whole("unix_connect"),
    "unix_connect_args": """
        path: Path of the socket.
        uri: WebSocket URI for the handshake; ``ws://localhost/`` by default, ``wss://localhost/``
            with ``ssl``.
        **kwargs: As for ``connect``.
    """,
    "unix_connect_raises": """
        ValueError: Unless there is either a path or a connection that is there already.
    """,
    # ------------------------------------------------------------------ servers
    "serve_args": """
        handler: Called with each open connection; when it returns, the connection is closed with
            1000, when it raises, with 1011.
        {options}
    """,
    "basic_auth": """
        It sets the attribute ``username`` of connections. Exactly one of ``credentials`` and
        ``check_credentials`` must be given.

        Args:
            realm: Name of the protection space, shown by some clients.
            credentials: Pair of user name and password, or iterable of such pairs. They are
                compared in a time that tells nothing about them.
            check_credentials: Called with a user name and a password; tells whether they are right.

        Raises:
            TypeError: If an argument isn't of these types.
            ValueError: If both or none are given, a user name has a colon, or the realm has
                characters that a header can't have.
    """,
    "router": """
        Args:
            url_map: Map of URLs, whose endpoints are handlers.
            server_name: Name that URLs are built and hosts are matched with; None for what the
                ``Host`` header says.
            url_scheme: Scheme of URLs, "ws" or "wss".

        Raises:
            ImportError: If werkzeug isn't installed.
            TypeError: If ``url_map`` isn't a map.
    """,
    "route": """
        {route_intro}

        Args:
            {route_args}

        Raises:
            {route_raises}
    """,
    "route_args": """
        url_map: Map of URLs.
        *args: As for ``serve``.
        server_name: Name of the server, as clients see it; None for what the ``Host`` header says.
        ssl: TLS configuration; True when TLS ends elsewhere, so that URLs begin with ``wss://``.
        create_router: Class of routers, or factory called like it.
        **kwargs: As for ``serve``. A response of ``process_request`` prevails over the routing.
    """,
    "route_raises": """
        ImportError: If werkzeug isn't installed.
        TypeError, ValueError: If an argument isn't acceptable.
    """,
    "route_intro": """
        The endpoints of ``url_map`` are handlers, as for ``serve``; parts of the URL that vary are
        passed to them as keyword arguments. All rules become rules for WebSockets. What matches no
        rule is answered with 404, a redirection with 302.
    """,
}


def expand(text: str, sections: Mapping[str, str]) -> str:
    """Replace the markers of a docstring.

    Args:
        text: The docstring.
        sections: What they stand for, by name.

    Raises:
        KeyError: If there is no such section.
    """

    def section(marker: re.Match[str]) -> str:
        indent, name = marker.groups()
        body = textwrap.dedent(sections[name]).strip()
        return textwrap.indent(expand(body, sections), indent)

    return _MARKER.sub(section, text)


def document(thing: T, options: str = "") -> T:
    """Replace the markers in the docstrings of a function, or of a class and its methods.

    Args:
        thing: Function or class.
        options: Documentation of its options.
    """
    sections = {**SECTIONS, "options": options}
    objects: list[Any] = [thing]
    if isinstance(thing, type):
        objects += filter(inspect.isfunction, vars(thing).values())
    for documented in objects:
        if documented.__doc__ is not None:  # it is with -OO
            documented.__doc__ = expand(documented.__doc__, sections)
    return thing
