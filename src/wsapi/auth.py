"""Deprecated alias of ``wsapi.legacy.auth``."""

import warnings

from wsproto_fast import environment

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # one is enough
    from .legacy.auth import BasicAuthWebSocketServerProtocol, basic_auth_protocol_factory

__all__ = ["BasicAuthWebSocketServerProtocol", "basic_auth_protocol_factory"]

warnings.warn(
    f"{environment.package}.auth, an alias for {environment.package}.legacy.auth, is deprecated; "
    "see https://websockets.readthedocs.io/en/stable/howto/upgrade.html "
    "for upgrade instructions",
    DeprecationWarning,
    stacklevel=2,
)
