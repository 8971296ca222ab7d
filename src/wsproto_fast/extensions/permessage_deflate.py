"""Negotiation of permessage-deflate (RFC 7692 section 7.1), both sides.

Owns what is offered, answered, and agreed. Compression itself is in the compiled
``PerMessageDeflate``, which is told the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from .. import PerMessageDeflate
from ..exceptions import (
    DuplicateParameter,
    InvalidParameterName,
    InvalidParameterValue,
    NegotiationError,
)
from ..typing import ExtensionName, ExtensionParameter
from .base import ClientExtensionFactory, Extension, ServerExtensionFactory

__all__ = [
    "ClientPerMessageDeflateFactory",
    "PerMessageDeflate",
    "ServerPerMessageDeflateFactory",
    "enable_client_permessage_deflate",
    "enable_server_permessage_deflate",
]

_NAME = ExtensionName("permessage-deflate")

# Without a limit, a sender uses the largest window (RFC 7692 section 7.1.2).
_MAX_BITS = 15
# Decimal numbers without leading zeros.
_BITS = {str(bits): bits for bits in range(8, _MAX_BITS + 1)}


class DeflateParameters(NamedTuple):
    """Parameters of an offer or an answer, in their order on the wire; None for a missing limit."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None
    client_max_window_bits: int | Literal[True] | None  # True: without a value, offers only

    @classmethod
    def parse(cls, params: Sequence[ExtensionParameter], *, offer: bool) -> DeflateParameters:
        """Check what was received.

        Args:
            params: Pairs of name and value or None.
            offer: Whether this is an offer, else an answer.

        Raises:
            NegotiationError: If the peer must not send this.
        """
        flags: set[str] = set()
        limits: dict[str, int | Literal[True]] = {}
        for name, value in params:
            if name not in cls._fields:
                raise InvalidParameterName(name)
            if name in flags or name in limits:
                raise DuplicateParameter(name)
            if name.endswith("_no_context_takeover"):
                if value is not None:
                    raise InvalidParameterValue(name, value)
                flags.add(name)
            elif value is None and offer and name == "client_max_window_bits":
                limits[name] = True
            elif value in _BITS:
                limits[name] = _BITS[value]
            else:
                raise InvalidParameterValue(name, value)
        return cls(
            "server_no_context_takeover" in flags,
            "client_no_context_takeover" in flags,
            limits.get("server_max_window_bits"),
            limits.get("client_max_window_bits"),
        )

    def build(self) -> list[ExtensionParameter]:
        """Return pairs of name and value or None."""
        return [
            (name, None if value is True else str(value))
            for name, value in zip(self._fields, self, strict=True)
            if value is not None and value is not False
        ]


def _check_bits(name: str, bits: object, lowest: int) -> None:
    if bits is None:
        return
    if not (isinstance(bits, int) and lowest <= bits <= _MAX_BITS):
        raise ValueError(f"{name} must be between {lowest} and {_MAX_BITS}")


def _check_settings(settings: dict[str, Any] | None, backend: str | None) -> None:
    """Try what would otherwise fail in the middle of a connection."""
    deflate = PerMessageDeflate(False, False, _MAX_BITS, _MAX_BITS, settings, backend=backend)
    if settings:
        deflate.backend.new_compressor(_MAX_BITS, deflate.compress_settings)


def _is_accepted(extensions: Sequence[Extension]) -> bool:
    """Tell whether permessage-deflate is among the extensions accepted so far."""
    return any(extension.name == _NAME for extension in extensions)


def _smaller(first: int | None, second: int | None) -> int | None:
    """Return the smaller of two limits, None for none."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


class ClientPerMessageDeflateFactory(ClientExtensionFactory):
    """Offers permessage-deflate to a server.

    Args:
        server_no_context_takeover: Ask the server to compress each message by itself, so that
            receiving needs no memory between messages.
        client_no_context_takeover: Compress each message by itself, and say so.
        server_max_window_bits: Limit on the server's window, 8 to 15 (logarithm of its size in
            bytes); None for none.
        client_max_window_bits: Limit on the client's window, 9 to 15; True to let the server set
            one, None to refuse that, too.
        compress_settings: Other keyword arguments of ``zlib.compressobj`` than ``wbits``.
        backend: Implementation of DEFLATE, see ``backends``; None for the default one.
        min_size: Size in bytes below which messages go uncompressed unless compression is asked
            for.
        context_takeover: False for no context takeover either way, whatever the other arguments
            say: no connection keeps anything between messages. What compresses them is shared by
            the process.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If the backend doesn't know a setting.
        ImportError: If the backend isn't installed.

    zlib can't compress with a window of 8 bits, so the client can't be limited to that.
    """

    name = _NAME

    def __init__(
        self,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | Literal[True] | None = True,
        compress_settings: dict[str, Any] | None = None,
        *,
        backend: str | None = None,
        min_size: int = 32,
        context_takeover: bool = True,
    ) -> None:
        _check_bits("server_max_window_bits", server_max_window_bits, 8)
        if client_max_window_bits is not True:
            _check_bits("client_max_window_bits", client_max_window_bits, 9)
        _check_settings(compress_settings, backend)
        self.server_no_context_takeover = server_no_context_takeover or not context_takeover
        self.client_no_context_takeover = client_no_context_takeover or not context_takeover
        self.server_max_window_bits = server_max_window_bits
        self.client_max_window_bits = client_max_window_bits
        self.compress_settings = compress_settings
        self.backend = backend
        self.min_size = min_size

    def get_request_params(self) -> list[ExtensionParameter]:
        """Return the parameters of the offer."""
        return DeflateParameters(
            bool(self.server_no_context_takeover),
            bool(self.client_no_context_takeover),
            self.server_max_window_bits,
            self.client_max_window_bits,
        ).build()

    def process_response_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> PerMessageDeflate:
        """Read the server's answer to the offer.

        Args:
            params: Parameters of the answer.
            accepted_extensions: What came before it in the same answer.

        Raises:
            NegotiationError: If the answer doesn't fit the offer.
        """
        if _is_accepted(accepted_extensions):
            raise NegotiationError(f"received duplicate {self.name}")
        answer = DeflateParameters.parse(params, offer=False)

        # RFC 7692 section 7.1.1.1: granted, or the offer is declined.
        if self.server_no_context_takeover and not answer.server_no_context_takeover:
            raise NegotiationError("expected server_no_context_takeover")

        # Section 7.1.2.1: likewise. Not asked for, a limit is welcome.
        if self.server_max_window_bits is not None:
            if answer.server_max_window_bits is None:
                raise NegotiationError("expected server_max_window_bits")
            if answer.server_max_window_bits > self.server_max_window_bits:
                raise NegotiationError("unsupported server_max_window_bits")

        # Section 7.1.2.2: a limit needs an offer; an offered one holds even if it isn't repeated.
        client_bits = answer.client_max_window_bits
        if client_bits is None:
            if self.client_max_window_bits is not True:
                client_bits = self.client_max_window_bits
        elif self.client_max_window_bits is None:
            raise NegotiationError("unexpected client_max_window_bits")
        elif self.client_max_window_bits is not True and client_bits > self.client_max_window_bits:
            raise NegotiationError("unsupported client_max_window_bits")

        return PerMessageDeflate(
            remote_no_context_takeover=answer.server_no_context_takeover,
            # Section 7.1.1.2: announced by the client, it needs no consent.
            local_no_context_takeover=(
                answer.client_no_context_takeover or bool(self.client_no_context_takeover)
            ),
            remote_max_window_bits=answer.server_max_window_bits or _MAX_BITS,
            local_max_window_bits=client_bits or _MAX_BITS,
            compress_settings=self.compress_settings,
            backend=self.backend,
            min_size=self.min_size,
        )


class ServerPerMessageDeflateFactory(ServerExtensionFactory):
    """Answers the offers of permessage-deflate from a client.

    Args:
        server_no_context_takeover: Compress each message by itself, even if the client doesn't ask
            for it.
        client_no_context_takeover: Make the client compress each message by itself, so that
            receiving needs no memory between messages.
        server_max_window_bits: Limit on the server's window, 9 to 15 (logarithm of its size in
            bytes); None for that of the client, if it gives one.
        client_max_window_bits: Limit on the client's window, 8 to 15, where the client lets the
            server set one; None for none.
        compress_settings: Other keyword arguments of ``zlib.compressobj`` than ``wbits``.
        require_client_max_window_bits: Decline offers of clients whose window can't be limited.
        backend: Implementation of DEFLATE, see ``backends``; None for the default one.
        min_size: Size in bytes below which messages go uncompressed unless compression is asked
            for.
        context_takeover: False for no context takeover either way, whatever the other arguments
            say: no connection keeps anything between messages. What compresses them is shared by
            the process.

    Raises:
        ValueError: If an argument is out of range, or a limit is required but not given.
        TypeError: If the backend doesn't know a setting.
        ImportError: If the backend isn't installed.

    zlib can't compress with a window of 8 bits: offers that ask the server for it are declined.
    """

    name = _NAME

    def __init__(
        self,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | None = None,
        compress_settings: dict[str, Any] | None = None,
        require_client_max_window_bits: bool = False,
        *,
        backend: str | None = None,
        min_size: int = 32,
        context_takeover: bool = True,
    ) -> None:
        _check_bits("server_max_window_bits", server_max_window_bits, 9)
        _check_bits("client_max_window_bits", client_max_window_bits, 8)
        _check_settings(compress_settings, backend)
        if require_client_max_window_bits and client_max_window_bits is None:
            raise ValueError("require_client_max_window_bits needs client_max_window_bits")
        self.server_no_context_takeover = server_no_context_takeover or not context_takeover
        self.client_no_context_takeover = client_no_context_takeover or not context_takeover
        self.server_max_window_bits = server_max_window_bits
        self.client_max_window_bits = client_max_window_bits
        self.compress_settings = compress_settings
        self.require_client_max_window_bits = require_client_max_window_bits
        self.backend = backend
        self.min_size = min_size

    def process_request_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Answer an offer.

        Args:
            params: Parameters of the offer.
            accepted_extensions: What was accepted of the offers before it.

        Returns:
            Parameters of the answer, and the extension for this connection.

        Raises:
            NegotiationError: If the offer isn't acceptable.
        """
        if _is_accepted(accepted_extensions):
            raise NegotiationError(f"skipped duplicate {self.name}")
        offer = DeflateParameters.parse(params, offer=True)

        # RFC 7692 section 7.1.2.1: the client's limit must be kept, a lower one may be set.
        server_bits = _smaller(self.server_max_window_bits, offer.server_max_window_bits)
        if server_bits == 8:
            raise NegotiationError("unsupported server_max_window_bits")

        # Section 7.1.2.2: only what was offered may be answered.
        if offer.client_max_window_bits is None:
            if self.require_client_max_window_bits:
                raise NegotiationError("required client_max_window_bits")
            client_bits = None
        elif offer.client_max_window_bits is True:
            client_bits = self.client_max_window_bits
        else:
            client_bits = _smaller(self.client_max_window_bits, offer.client_max_window_bits)

        # Section 7.1.1: whatever either side asks for; neither parameter needs to be offered.
        answer = DeflateParameters(
            bool(self.server_no_context_takeover) or offer.server_no_context_takeover,
            bool(self.client_no_context_takeover) or offer.client_no_context_takeover,
            server_bits,
            client_bits,
        )
        return answer.build(), PerMessageDeflate(
            remote_no_context_takeover=answer.client_no_context_takeover,
            local_no_context_takeover=answer.server_no_context_takeover,
            remote_max_window_bits=client_bits or _MAX_BITS,
            local_max_window_bits=server_bits or _MAX_BITS,
            compress_settings=self.compress_settings,
            backend=self.backend,
            min_size=self.min_size,
        )


def enable_client_permessage_deflate(
    extensions: Sequence[ClientExtensionFactory] | None,
) -> Sequence[ClientExtensionFactory]:
    """Add the default offer of permessage-deflate, unless there is one already.

    Args:
        extensions: Factories; they aren't changed.
    """
    if extensions is None:
        extensions = []
    if any(factory.name == _NAME for factory in extensions):
        return extensions
    return [*extensions, ClientPerMessageDeflateFactory()]


def enable_server_permessage_deflate(
    extensions: Sequence[ServerExtensionFactory] | None,
) -> Sequence[ServerExtensionFactory]:
    """Add a factory of permessage-deflate with the default limits, unless there is one already.

    Args:
        extensions: Factories; they aren't changed.
    """
    if extensions is None:
        extensions = []
    if any(factory.name == _NAME for factory in extensions):
        return extensions
    factory = ServerPerMessageDeflateFactory(
        server_max_window_bits=12,
        client_max_window_bits=12,
    )
    return [*extensions, factory]
