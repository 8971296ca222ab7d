"""Who may come in: limits on the number of connections, whatever the front-end.

Owns the counts. Front-ends tell when a connection arrives and when it is gone, ``_shared.server``
when its opening handshake is over; who is refused gets a response from the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsproto_fast import ServerProtocol
from wsproto_fast.http11 import Request, Response
from wsproto_fast.proxy_protocol import ProxyHeader

if TYPE_CHECKING:
    from .server import ServerSide

__all__ = ["MAX_REFUSALS", "REFUSAL_TIMEOUT", "Door", "Refusal", "Visit", "forwarded_for"]

MAX_REFUSALS: Final = 128
"""Connections that may wait at a time for the response that refuses them; others are closed."""

REFUSAL_TIMEOUT: Final = 5.0
"""Seconds in which a client that is refused has to send its request, then to take the response."""


class Refusal(NamedTuple):
    """Why a connection is refused.

    Args:
        reason: Name of the limit.
        status: Status code of the response.
        text: Its body.
        retry_after: Seconds after which the client may try again.
    """

    reason: str
    status: HTTPStatus
    text: str
    retry_after: int

    def response(self, protocol: ServerProtocol) -> Response:
        """Return the response.

        Args:
            protocol: Engine of the connection.
        """
        response = protocol.reject(self.status, self.text)
        # RFC 9110 section 10.2.3; RFC 6585 section 4
        response.headers["Retry-After"] = str(self.retry_after)
        return response


class Door:
    """Limits on the connections of a server, or of several that share this object.

    A connection over a limit is answered, when its request has arrived, with 503 (Service
    Unavailable), or 429 (Too Many Requests) where the limit is on its address, with a
    ``Retry-After`` header, before any callback or handler is called. When too many wait for such
    an answer already, connections are closed as soon as they are accepted.

    Args:
        max_connections: Number of connections at a time, those in their opening handshake included;
            None for no limit.
        max_opening: Number of connections at a time that are in their opening handshake; None for
            no limit. The TLS handshake counts unless the event loop of asyncio does it, which is so
            without ``proxy_protocol``.
        max_per_address: Number of connections at a time from one client address; None for no limit.
        ipv6_prefix: Length in bits of the prefix of IPv6 addresses that stands for one client,
            since a host can have any address in its network.
        client_address: Callable that is given the connection and its request, and returns the
            client's address, a str, or None to leave the connection uncounted; such as
            ``forwarded_for()`` behind a reverse proxy. By default that is what the PROXY protocol
            says, if it is used, or the address of the peer.
        proxy_protocol: Whether each connection begins with a header of the PROXY protocol, version
            1 or 2. Only a trusted proxy may be able to connect then: who isn't one could claim any
            address. Connections without a valid header are closed.
        retry_after: Seconds in ``Retry-After``, at least 0.

    Raises:
        TypeError, ValueError: If an argument isn't acceptable.
    """

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        max_opening: int | None = None,
        max_per_address: int | None = None,
        ipv6_prefix: int = 64,
        client_address: Callable[[Any, Request], str | None] | None = None,
        proxy_protocol: bool = False,
        retry_after: int = 10,
    ) -> None:
        for name, value, least in (
            ("max_connections", max_connections, 0),
            ("max_opening", max_opening, 0),
            ("max_per_address", max_per_address, 0),
        ):
            if value is not None:
                _check_int(name, value, least)
        _check_int("ipv6_prefix", ipv6_prefix, 1, 128)
        _check_int("retry_after", retry_after, 0)
        if not (client_address is None or callable(client_address)):
            raise TypeError(
                f"client_address must be a callable or None, not {type(client_address).__name__}"
            )
        self.max_connections = max_connections
        self.max_opening = max_opening
        self.max_per_address = max_per_address
        self.ipv6_prefix = ipv6_prefix
        self.client_address = client_address
        self.proxy_protocol = bool(proxy_protocol)
        self.retry_after = retry_after
        self.lock = threading.Lock()
        self._connections = 0
        self._opening = 0
        self._refusing = 0
        self._per_address: dict[object, int] = {}

    @property
    def connections(self) -> int:
        """Number of connections that are in, those in their opening handshake included."""
        return self._connections

    @property
    def opening(self) -> int:
        """Number of them that are in their opening handshake."""
        return self._opening

    def arrive(self, address: object) -> Visit | Refusal:
        """Let a connection in, or refuse it.

        Args:
            address: Address of its peer, as a socket gives it.

        Returns:
            Its visit, which says so if it is refused; just the refusal if there are too many of
            them, so that it must be closed at once.
        """
        host = address[0] if isinstance(address, tuple) and address else None
        with self.lock:
            refusal = None
            if self.max_connections is not None and self._connections >= self.max_connections:
                refusal = self._unavailable("max_connections", "Too many connections.\n")
            elif self.max_opening is not None and self._opening >= self.max_opening:
                refusal = self._unavailable("max_opening", "Too many opening handshakes.\n")
            if refusal is None:
                self._connections += 1
                self._opening += 1
            elif self._refusing >= MAX_REFUSALS:
                return refusal
            else:
                self._refusing += 1
        visit = Visit(self, refusal)
        if self.client_address is None and not self.proxy_protocol:
            visit.identify(host)
            if visit.refusal is not None and not visit._refusing:
                visit.leave()
                return visit.refusal
        return visit

    def _unavailable(self, reason: str, text: str) -> Refusal:
        return Refusal(reason, HTTPStatus.SERVICE_UNAVAILABLE, text, self.retry_after)

    def _key(self, address: str) -> object:
        """Return what stands for a client in the counts."""
        if ":" in address:
            import ipaddress  # which most programs never need

            try:
                parsed = ipaddress.IPv6Address(address.partition("%")[0])
            except ValueError:
                return address  # whatever a callback says
            if parsed.ipv4_mapped is not None:
                return str(parsed.ipv4_mapped)
            return int(parsed) >> (128 - self.ipv6_prefix)
        return address


class Visit:
    """A connection at the door, from its arrival until it is gone.

    Args:
        door: Door that it came to.
        refusal: Why it is refused; None if it is in.

    Attributes:
        refusal: The same; it may be refused as late as its request is there.
        client_address: Address of its client, as far as it is known.
    """

    __slots__ = ("_door", "_gone", "_key", "_opening", "_refusing", "client_address", "refusal")

    def __init__(self, door: Door, refusal: Refusal | None) -> None:
        self._door = door
        self._key: object = None
        self._opening = refusal is None
        self._refusing = refusal is not None  # counted among those that are refused
        self._gone = False
        self.refusal = refusal
        self.client_address: str | None = None

    def identify(self, address: str | None) -> None:
        """Count the connection for an address; refuse it if that has too many.

        Args:
            address: Address of its client; None if it has none.
        """
        self.client_address = address
        door = self._door
        if door.max_per_address is None or self.refusal is not None:
            return
        key = None if address is None else door._key(address)
        with door.lock:
            if self._gone:
                return
            self._forget_address()
            count = door._per_address.get(key, 0)
            if key is not None and count >= door.max_per_address:
                if door._refusing < MAX_REFUSALS:
                    self._step_out()
                    self._refusing = True
                    door._refusing += 1
                # Otherwise it keeps its place until it is gone.
                self.refusal = Refusal(
                    "max_per_address",
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "Too many connections from this address.\n",
                    door.retry_after,
                )
            elif key is not None:
                self._key = key
                door._per_address[key] = count + 1

    @property
    def proxied(self) -> bool:
        """Whether a header of the PROXY protocol comes first."""
        return self._door.proxy_protocol

    def identify_header(self, header: ProxyHeader) -> None:
        """Count the connection for the address in a header of the PROXY protocol.

        Args:
            header: The header.
        """
        source = header.source
        address = source[0] if isinstance(source, tuple) else None
        if self._door.client_address is None:
            self.identify(address)
        else:
            self.client_address = address  # until the request says more

    def identify_request(self, connection: ServerSide, request: Request) -> None:
        """Count the connection for the address that the door's callable finds in the request.

        Args:
            connection: The connection.
            request: Its request.

        Raises:
            TypeError: If it returns something else than a str or None.
        """
        client_address = self._door.client_address
        if client_address is not None and self.refusal is None:
            address: object = connection._invoke(client_address, request)
            if not (address is None or isinstance(address, str)):
                if isinstance(address, Coroutine):
                    address.close()  # nobody is going to await it
                raise TypeError(
                    f"client_address must return a str or None, not {type(address).__name__}"
                )
            self.identify(address)

    def bounded(self, timeout: float | None) -> float | None:
        """Return how long the opening handshake, or the closing, may last, in seconds.

        Args:
            timeout: How long it may unless the connection is refused; None for no limit.
        """
        if self.refusal is None:
            return timeout
        return REFUSAL_TIMEOUT if timeout is None else min(timeout, REFUSAL_TIMEOUT)

    def opened(self) -> None:
        """Take note that the opening handshake is over."""
        with self._door.lock:
            self._stop_opening()

    def leave(self) -> None:
        """Take note that the connection is gone; more than once does nothing more."""
        door = self._door
        with door.lock:
            if self._gone:
                return
            self._gone = True
            if self._refusing:
                door._refusing -= 1
            else:
                self._forget_address()
                self._step_out()

    # These are called with the lock held.

    def _stop_opening(self) -> None:
        if self._opening:
            self._opening = False
            self._door._opening -= 1

    def _step_out(self) -> None:
        self._stop_opening()
        self._door._connections -= 1

    def _forget_address(self) -> None:
        key, self._key = self._key, None
        if key is not None:
            counts = self._door._per_address
            counts[key] -= 1
            if not counts[key]:
                del counts[key]


def forwarded_for(proxies: int = 1) -> Callable[[Any, Request], str | None]:
    """Return a callable for ``client_address`` that reads the ``X-Forwarded-For`` header.

    Each proxy adds, at its end, the address that it was called from; what a client wrote itself
    stands before that, and isn't believed. A port behind the address is dropped; where there is no
    IP address, such as "unknown", the connection isn't counted.

    Args:
        proxies: Number of trusted proxies that a request passes through.

    Raises:
        TypeError, ValueError: If it isn't a positive int.
    """
    _check_int("proxies", proxies, 1)

    def client_address(connection: Any, request: Request) -> str | None:
        values = request.headers.get_all("X-Forwarded-For")
        elements = [element for value in values for element in value.split(",")]
        return _address(elements[-proxies]) if len(elements) >= proxies else None

    return client_address


def _address(element: str) -> str | None:
    """Return the IP address in an element of the header; None if there is none in it."""
    import ipaddress  # which most programs never need

    text = element.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]  # some proxies add the port
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {limits}; got {value}")
