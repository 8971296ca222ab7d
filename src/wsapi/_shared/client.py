"""What ``connect`` of every front-end has in common, without I/O.

Owns what arguments are acceptable, where to connect and how, the making of connections, and their
opening handshake. Front-ends own the making of sockets and TLS, and how one waits for them.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from wsproto_fast import ClientProtocol
from wsproto_fast.datastructures import HeadersLike
from wsproto_fast.environment import default_logger
from wsproto_fast.extensions.permessage_deflate import enable_client_permessage_deflate
from wsproto_fast.frames import State
from wsproto_fast.http11 import Response
from wsproto_fast.typing import LoggerLike, PathLike
from wsproto_fast.uri import WebSocketURI, parse_uri

from ..proxy import Proxy, parse_proxy, select_proxy
from . import checks
from .connection import BaseConnection
from .options import CLIENT_OPTIONS
from .reconnection import Reconnection, one_line
from .target import Target
from .tls import keep_errors_apart

__all__ = ["BaseConnect", "ClientSide", "TransportNames", "unix_arguments"]

ConnectionT = TypeVar("ConnectionT")


class TransportNames(NamedTuple):
    """What a front-end calls the options that say where to connect and how.

    Args:
        ready: A connection that is there already.
        places: Where to connect instead of where the URI says.
        tls: For TLS with the server; those for TLS with a proxy have the prefix ``proxy_``.
        tcp: For the making of a TCP connection.
    """

    ready: str
    places: tuple[str, ...]
    tls: tuple[str, ...]
    tcp: frozenset[str]

    @property
    def proxy_tls(self) -> tuple[str, ...]:
        """Return the options for TLS with a proxy."""
        return tuple(f"proxy_{name}" for name in self.tls)


class BaseConnect(Generic[ConnectionT]):
    """What makes connections to a server: settings that are checked, and target of the next one.

    Args:
        uri: WebSocket URI.
        options: Options: those of ``CLIENT_OPTIONS``, and others by which connections are made.
        connection_class: Class of connections, unless there is another one in the options.

    Raises:
        InvalidURI: If the URI isn't valid.
        InvalidProxy: If the URL of the proxy isn't valid.
        TypeError, ValueError: If another argument isn't acceptable.
    """

    names: ClassVar[TransportNames]
    # What `websockets` has inside its class of this name, and programs override or change.
    _foreign_methods: ClassVar[frozenset[str]] = frozenset()
    _foreign_settings: ClassVar[frozenset[str]] = frozenset()
    # Whether ssl=None stands for a default context.
    ssl_optional: ClassVar[bool] = True
    # Options that only this front-end has, and that are its business.
    own_options: ClassVar[tuple[str, ...]] = ()
    _connection: Any = None
    # Engine of its connections; those of tests take the time from elsewhere.
    _engine_class: Callable[..., ClientProtocol] = ClientProtocol

    def __init__(
        self,
        uri: str,
        options: Mapping[str, Any],
        connection_class: Callable[..., ConnectionT],
    ) -> None:
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        names = self.names
        transport: set[str] = {names.ready, "path", *names.places, *names.tls, *names.proxy_tls}
        transport |= names.tcp
        checks.check_names("connect", options, {*CLIENT_OPTIONS, *transport, *self.own_options})
        self._options: dict[str, Any] = {
            name: value
            for name, value in options.items()
            if name in transport and (value is not None or name == "path" or not self.ssl_optional)
        }
        self._target = Target(
            uri,
            options["additional_headers"],
            socket=self._options.get(names.ready) is not None,
            fixed=self._fixed(),
        )
        self._check_transport(self._target.parsed.secure)
        origin, extensions = options["origin"], options["extensions"]
        subprotocols, max_size = options["subprotocols"], options["max_size"]
        checks.check_header("origin", origin)
        checks.check_extensions(extensions, ["get_request_params", "process_response_params"])
        checks.check_subprotocols(subprotocols)
        if checks.check_compression(options["compression"]):
            extensions = enable_client_permessage_deflate(extensions)
        self.user_agent_header = options["user_agent_header"]
        checks.check_header("user_agent_header", self.user_agent_header)
        self.proxy = options["proxy"]
        if isinstance(self.proxy, str):
            self._check_proxy(parse_proxy(self.proxy))
        elif self.proxy is not True and self.proxy is not None:
            raise TypeError(f"proxy must be a URL, True or None, not {self.proxy!r}")
        self.process_exception = options["process_exception"]
        checks.check_callable("process_exception", self.process_exception, optional=False)
        self.reconnect_delays = options["reconnect_delays"]
        checks.check_callable("reconnect_delays", self.reconnect_delays, optional=False)
        self.open_timeout = options["open_timeout"]
        self._connection_options = checks.check_connection_options(options)
        self._rates = checks.check_rates(options)
        logger = options["logger"]
        checks.check_logger(logger)
        self.logger: LoggerLike = default_logger("client") if logger is None else logger
        create = checks.checked_factory(
            "create_connection", options["create_connection"], ClientSide, "ClientConnection"
        )
        self._connection_class = create or connection_class
        self.one_connecting = options["one_connecting"]
        if not isinstance(self.one_connecting, bool):
            raise TypeError(
                f"one_connecting must be a bool, not {type(self.one_connecting).__name__}"
            )
        self._engine_options: dict[str, Any] = {
            "origin": origin,
            "extensions": extensions,
            "subprotocols": subprotocols,
            "max_size": max_size,
            "logger": self.logger,
        }
        self._default_context: ssl_module.SSLContext | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        checks.check_overrides(cls, cls._foreign_methods)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._foreign_settings:
            raise AttributeError(f"{name} can't be changed any more; it is an argument")
        super().__setattr__(name, value)

    @property
    def connection(self) -> ConnectionT:
        """Connection of the context that was entered.

        Raises:
            AttributeError: If none was.
        """
        connection: ConnectionT | None = self._connection
        if connection is None:
            raise AttributeError("there is no connection before the context is entered")
        return connection

    # ------------------------------------------------------------------ what next

    @property
    def uri(self) -> str:
        """URI to connect to; redirects change it, and so may a subclass."""
        return self._target.uri

    @uri.setter
    def uri(self, uri: str) -> None:
        self._target.move(parse_uri(uri))
        self._target.uri = uri

    @property
    def ws_uri(self) -> WebSocketURI:
        """The same, parsed."""
        return self._target.parsed

    @ws_uri.setter
    def ws_uri(self, uri: WebSocketURI) -> None:
        self._target.move(uri)

    @property
    def additional_headers(self) -> HeadersLike | None:
        """Headers to add to requests; what credentials they have is left behind by redirects."""
        return self._target.additional_headers

    @additional_headers.setter
    def additional_headers(self, headers: HeadersLike | None) -> None:
        self._target.additional_headers = headers

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Decide where to go when an attempt has failed; subclasses may have rules of their own.

        Args:
            exc: What ended the attempt; `InvalidStatus` for an answer other than 101.

        Returns:
            The URI to connect to next; or what to raise, ``exc`` if it isn't a redirect.
        """
        return self._target.redirect(exc)

    def _goes_on(self, exc: Exception, max_redirects: int) -> bool:
        """Tell whether there is something else to request after a failed attempt.

        Args:
            exc: What ended the attempt.
            max_redirects: Number of requests after which redirects aren't followed any more.

        Raises:
            Exception: What is to be raised instead of ``exc``.
        """
        target = self._target
        if target.answer_challenge(exc):
            return True
        decision: object = None
        try:
            decision = self.process_redirect(exc)
            if isinstance(decision, str):
                try:
                    target.follow(decision, max_redirects)
                except Exception as error:
                    error.__cause__ = exc
                    raise
                return True
            if decision is exc:
                return False
            if isinstance(decision, Exception):
                raise decision from exc
            raise TypeError(
                f"process_redirect must return an exception or a str, not {type(decision).__name__}"
            )
        finally:
            target.stay()
            # Frames that hold the exception whose traceback holds them are freed too late.
            del exc, decision

    def _new_connection(self, uri: WebSocketURI, *carrier: object) -> ConnectionT:
        """Return a connection with its engine.

        Args:
            uri: What to request.
            carrier: What moves bytes for connections of this front-end.
        """
        protocol = self._engine_class(uri, **self._engine_options)
        if self._rates is not None:
            protocol.limit_rates(*self._rates)
        return self._connection_class(*carrier, protocol, **self._connection_options)

    def _reconnection(self) -> Reconnection:
        """Return what decides about the attempts of one iteration."""
        # They are looked up when they are needed: programs change them meanwhile.
        return Reconnection(
            lambda exc: self.process_exception(exc), lambda: self.reconnect_delays()
        )

    def _failed(self, reconnection: Reconnection, exc: Exception) -> float:
        """Return the delay before the next attempt, in seconds; or raise, if there is none."""
        text = one_line(exc)
        try:
            delay = reconnection.failed(exc)
        finally:
            del exc  # it may be raised through this frame
        self.logger.info("connect failed; reconnecting in %.1f seconds: %s", delay, text)
        return delay

    def _ended(self, reconnection: Reconnection, connection: ClientSide) -> float:
        """Return the delay before the next attempt when a connection has ended, in seconds."""
        protocol = connection.protocol
        close = protocol.close_rcvd
        # An answer has the client's code, and says nothing about the server.
        answers = protocol.close_rcvd_then_sent is False and close == protocol.close_sent
        code = None if close is None or answers else close.code
        delay = reconnection.ended(code)
        if delay:
            self.logger.info("connection closed with %d; reconnecting in %.1f seconds", code, delay)
        return delay

    # ------------------------------------------------------------------ where

    def _is_unix(self) -> bool:
        """Tell whether to connect to a Unix socket."""
        return "path" in self._options

    def _is_ready(self) -> bool:
        """Tell whether there is a connection already."""
        return self._options.get(self.names.ready) is not None

    def _fixed(self) -> str | None:
        if self._is_unix():
            return "a Unix socket"
        if any(self._options.get(name) is not None for name in self.names.places):
            return f"an explicit {' or '.join(self.names.places)}"
        return None

    def _address(self, uri: WebSocketURI) -> tuple[str, int]:
        """Return host and port of the server for a TCP connection."""
        options = self._options
        if "address" in options:
            host, port = options["address"]
        else:
            host, port = options.get("host"), options.get("port")
        return uri.host if host is None else host, uri.port if port is None else port

    def _select_proxy(self, uri: WebSocketURI) -> Proxy | None:
        """Return the proxy to use, None for a direct connection.

        Raises:
            InvalidProxy: If the URL of the proxy isn't valid.
            TypeError, ValueError: If the options for TLS don't go with the proxy.
        """
        if self._is_unix() or self._is_ready():
            return None
        proxy = select_proxy(self.proxy, uri)
        if proxy is not None:
            self._check_proxy(proxy)
        return proxy

    def _gate_key(self, uri: WebSocketURI) -> str | None:
        """Return the host to be looked up for its address, if it isn't for us to do so."""
        if self._is_unix() or self._is_ready():
            return uri.host
        places = self.names.places
        if self._options.get(places[0]) is None and select_proxy(self.proxy, uri) is not None:
            return uri.host
        return None

    # ------------------------------------------------------------------ how

    def _tcp(self) -> dict[str, Any]:
        """Return the options for the making of a TCP connection."""
        return {name: value for name, value in self._options.items() if name in self.names.tcp}

    def _tls(self, uri: WebSocketURI) -> dict[str, Any] | None:
        """Return the options for TLS with the server; None for a ``ws://`` URI."""
        return self._tls_options("", uri.host, "a wss:// URI") if uri.secure else None

    def _proxy_tls(self, proxy: Proxy) -> dict[str, Any] | None:
        """Return the options for TLS with a proxy, if it wants that."""
        if proxy.scheme != "https":
            return None
        return self._tls_options("proxy_", proxy.host, "an https:// proxy")

    def _tls_options(self, prefix: str, host: str, what: str) -> dict[str, Any]:
        self._check_tls(f"{prefix}ssl", what)
        options = {
            name: self._options[prefix + name]
            for name in self.names.tls
            if prefix + name in self._options
        }
        if options.get("ssl", True) is True:
            # Loading authorities takes a while.
            if self._default_context is None:
                self._default_context = ssl_module.create_default_context()
            options["ssl"] = self._default_context
        keep_errors_apart(options["ssl"])
        if options.get("server_hostname") is None:
            options["server_hostname"] = host
        return options

    # ------------------------------------------------------------------ checks

    def _check_tls(self, name: str, what: str) -> None:
        """Check one ``ssl`` option of a connection that uses TLS."""
        ssl = self._options.get(name, True)
        if ssl is None:
            raise ValueError(f"{name}=None is incompatible with {what}")
        if ssl is not True and not isinstance(ssl, ssl_module.SSLContext):
            raise TypeError(f"{name} must be an SSLContext or True, not {type(ssl).__name__}")

    def _check_proxy(self, proxy: Proxy) -> None:
        """Check that the options for TLS with a proxy go with its scheme."""
        if proxy.scheme == "https":
            self._check_tls("proxy_ssl", "an https:// proxy")
            return
        for name in self.names.proxy_tls:
            if self._options.get(name) is not None:
                article = "an" if proxy.scheme == "http" else "a"
                raise ValueError(
                    f"{name} argument is incompatible with {article} {proxy.scheme}:// proxy"
                )

    def _check_transport(self, secure: bool) -> None:
        """Check the options that say where to connect and how."""
        options, names = self._options, self.names
        if "address" in names.places:
            checks.check_address(options.get("address"))
        else:
            checks.check_port(options.get("port"))
        elsewhere = (*names.places, "path")
        if self._is_ready() and any(options.get(name) is not None for name in elsewhere):
            raise ValueError(
                f"{names.ready} is incompatible with {', '.join(names.places)} and path"
            )
        if secure:
            self._check_tls("ssl", "a wss:// URI")
        else:
            for name in names.tls:
                if options.get(name) is not None:
                    raise ValueError(f"{name} argument is incompatible with a ws:// URI")
        if options.get("proxy_ssl") is not None:
            self._check_tls("proxy_ssl", "an https:// proxy")
        for name in (*names.tls, *names.proxy_tls):
            value = options.get(name)
            if name.endswith("_hostname"):
                checks.check_instance(name, value, str, "a str")
            elif name.endswith("_timeout"):
                checks.check_instance(name, value, (int, float), "a number of seconds")
                if value is not None and value <= 0:
                    raise ValueError(f"{name} must be positive or None; got {value}")


class ClientSide(BaseConnection):
    """The opening handshake of a client."""

    protocol: ClientProtocol

    def _send_request(
        self, additional_headers: HeadersLike | None, user_agent_header: str | None, now: float
    ) -> None:
        """Have the engine begin the opening handshake."""
        request = self.protocol.connect()
        if additional_headers is not None:
            request.headers.update(additional_headers)
        if user_agent_header and "User-Agent" not in request.headers:
            request.headers["User-Agent"] = user_agent_header
        self.request = request
        self._set_timeouts(now)
        self.protocol.send_request(request)

    def _receive_response(self) -> bool:
        """Take the response if it is there; return whether the opening handshake is over.

        If that failed, the engine's ``handshake_exc`` tells why.
        """
        protocol = self.protocol
        for event in protocol.events_received():
            assert isinstance(event, Response)  # frames go to the queue
            self.response = event
        return protocol.state is not State.CONNECTING or protocol.handshake_exc is not None


def unix_arguments(
    path: PathLike | None, uri: str | None, kwargs: Mapping[str, object], ready: str = "sock"
) -> str:
    """Check the arguments of ``unix_connect``, and return the URI to use.

    Args:
        path: Path of the socket.
        uri: WebSocket URI, None for a default one.
        kwargs: Other arguments.
        ready: What the front-end calls a connection that is there already.

    Raises:
        ValueError: Unless there is either a path or a connection that is there already.
    """
    if path is None and kwargs.get(ready) is None:
        raise ValueError("missing path argument")
    if path is not None and kwargs.get(ready) is not None:
        raise ValueError(f"path and {ready} arguments are incompatible")
    if uri is not None:
        return uri
    return "ws://localhost/" if kwargs.get("ssl") is None else "wss://localhost/"
