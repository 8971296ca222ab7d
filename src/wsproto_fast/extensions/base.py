"""What the engine asks of an extension, and of the factories that negotiate it.

These classes are for authors of extensions and for ``isinstance``; the engine only calls methods,
so an extension may do without them.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Sequence

from .. import Extension
from ..typing import ExtensionName, ExtensionParameter

__all__ = ["ClientExtensionFactory", "Extension", "ServerExtensionFactory"]


# No method is declared abstract: programs override what is called, and may leave out the rest.


class ClientExtensionFactory(metaclass=ABCMeta):
    """What a client offers of an extension, and how it reads the answer."""

    name: ExtensionName
    """Name in the registry, as in ``Sec-WebSocket-Extensions``."""

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        """Return the parameters of the offer, as pairs of name and value or None."""
        raise NotImplementedError

    def process_response_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> Extension:
        """Read the server's answer to the offer.

        Args:
            params: Parameters of the answer, as pairs of name and value or None.
            accepted_extensions: What came before it in the same answer.

        Returns:
            The extension, set up for this connection.

        Raises:
            NegotiationError: If the answer isn't acceptable; the handshake fails.
        """
        raise NotImplementedError


class ServerExtensionFactory(metaclass=ABCMeta):
    """How a server answers the offers of an extension."""

    name: ExtensionName
    """Name in the registry, as in ``Sec-WebSocket-Extensions``."""

    def process_request_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> tuple[list[ExtensionParameter], Extension]:
        """Answer an offer.

        Args:
            params: Parameters of the offer, as pairs of name and value or None.
            accepted_extensions: What was accepted of the offers before it.

        Returns:
            Parameters of the answer, and the extension, set up for this connection.

        Raises:
            NegotiationError: If the offer isn't acceptable; it is declined.
        """
        raise NotImplementedError
