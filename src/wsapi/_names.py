"""Names that `websockets` resolves besides the documented ones, found when they are asked for.

Two kinds: names it deprecated, which warn, and names that its modules have only because they
import them. Programs use both. Modules here fall back to ``resolve``; nothing is imported before.
"""

from __future__ import annotations

import warnings
from importlib import import_module

from wsproto_fast import environment

__all__ = ["DEPRECATED", "LENT", "resolve"]

_AUTH = ("legacy.auth", ("BasicAuthWebSocketServerProtocol", "basic_auth_protocol_factory"))
_EXCEPTIONS = (
    "legacy.exceptions",
    ("AbortHandshake", "InvalidStatusCode", "RedirectHandshake", "WebSocketProtocolError"),
)

# Module -> home -> names.
DEPRECATED: dict[str, dict[str, tuple[str, ...]]] = {
    "": dict(
        [
            _AUTH,
            _EXCEPTIONS,
            ("legacy.client", ("WebSocketClientProtocol",)),
            ("legacy.protocol", ("WebSocketCommonProtocol",)),
            ("legacy.server", ("WebSocketServer", "WebSocketServerProtocol")),
        ]
    ),
    "client": {"legacy.client": ("WebSocketClientProtocol", "connect", "unix_connect")},
    "exceptions": dict([_EXCEPTIONS]),
    "server": {
        "legacy.server": (
            "WebSocketServer",
            "WebSocketServerProtocol",
            "broadcast",
            "serve",
            "unix_serve",
        )
    },
}

# Changed names: module -> name -> the one that takes its place, and what the warning says.
_RENAMED = {
    "sync.server": {"WebSocketServer": ("Server", "WebSocketServer was renamed to Server")},
}

# Where what modules import comes from; the first one that has a name counts.
_HOMES = (
    "exceptions",
    "frames",
    "protocol",
    "http11",
    "datastructures",
    "headers",
    "typing",
    "uri",
    "utils",
    "proxy",
    "streams",
    "extensions.base",
    "extensions.permessage_deflate",
    "client",
    "server",
    "version",
    "_shared.reconnection",
)

_CONNECTION = (
    "BytesLike CLOSED CloseCode ConcurrencyError ConnectionClosed ConnectionClosedOK "
    "DATA_OPCODES Data DataLike Event Frame LoggerLike OPEN PONG Protocol ProtocolError "
    "Request Response State Subprotocol TooManyFragments"
)
_CLIENT = (
    "BytesLike CONNECTING ClientExtensionFactory ClientProtocol Event Headers HeadersLike "
    "InvalidProxyMessage InvalidProxyStatus InvalidStatus LoggerLike Origin PathLike Proxy "
    "ProxyError Response SecurityError StreamReader Subprotocol USER_AGENT WebSocketURI "
    "backoff enable_client_permessage_deflate get_proxy parse_proxy parse_uri "
    "validate_subprotocols"
)
_SERVER = (
    "CONNECTING CloseCode Event InvalidHeader LoggerLike OPEN Origin PathLike Request "
    "Response SERVER ServerExtensionFactory ServerProtocol StatusLike Subprotocol "
    "build_www_authenticate_basic enable_server_permessage_deflate get_socket_name "
    "parse_authorization_basic validate_subprotocols"
)
_HANDSHAKE = (
    "CONNECTING ConnectionOption Extension ExtensionHeader Headers InvalidHandshake InvalidHeader "
    "InvalidHeaderValue InvalidMessage InvalidUpgrade LoggerLike MultipleValuesError "
    "NegotiationError OPEN Origin Protocol Request Response State Subprotocol UpgradeProtocol "
    "accept_key build_extension parse_connection parse_extension parse_subprotocol parse_upgrade "
)

# Module -> names, separated by spaces.
LENT: dict[str, str] = {
    "asyncio.client": _CLIENT,
    "asyncio.connection": _CONNECTION,
    "asyncio.server": _SERVER,
    "client": _HANDSHAKE
    + "BACKOFF_FACTOR BACKOFF_INITIAL_DELAY BACKOFF_MAX_DELAY BACKOFF_MIN_DELAY CLIENT "
    "ClientExtensionFactory InvalidStatus StatusLineTooLong WebSocketURI build_authorization_basic "
    "build_host build_subprotocol generate_key",
    "datastructures": "InvalidHeaderValue",
    "extensions.base": "ExtensionName ExtensionParameter Frame",
    "extensions.permessage_deflate": "BytesLike CONT CTRL_OPCODES ClientExtensionFactory "
    "DuplicateParameter Extension ExtensionName ExtensionParameter Frame InvalidParameterName "
    "InvalidParameterValue NegotiationError PayloadTooBig ProtocolError ServerExtensionFactory",
    "frames": "BytesLike PayloadTooBig ProtocolError",
    "headers": "ConnectionOption ExtensionHeader ExtensionName ExtensionParameter "
    "InvalidHeaderFormat InvalidHeaderValue Subprotocol UpgradeProtocol",
    "http11": "HeaderLineTooLong Headers RequestLineTooLong SecurityError StatusLineTooLong "
    "TooManyHeaders",
    "protocol": "BINARY BytesLike CLOSE CONT Close CloseCode ConnectionClosed "
    "ConnectionClosedError ConnectionClosedOK Extension Frame InvalidState LoggerLike "
    "OK_CLOSE_CODES Origin PING PONG PayloadTooBig ProtocolError Request Response StreamReader "
    "Subprotocol TEXT",
    "proxy": "Headers InvalidProxy USER_AGENT WebSocketURI build_authorization_basic build_host",
    "server": _HANDSHAKE
    + "HeaderLineTooLong InvalidMethod InvalidOrigin InvalidProtocol RequestLineTooLong SERVER "
    "ServerExtensionFactory StatusLike TooManyHeaders",
    "sync.client": _CLIENT,
    "sync.connection": _CONNECTION,
    "sync.server": _SERVER,
    "trio.client": _CLIENT,
    "trio.connection": _CONNECTION,
    "trio.server": _SERVER,
    "uri": "InvalidURI",
    "utils": "BytesLike",
}


def resolve(module: str, name: str, *, stacklevel: int = 3) -> object:
    """Return what ``name`` is in a module that doesn't have it.

    Args:
        module: Full name of the module.
        name: The name.
        stacklevel: How far up the one is who asks, for warnings.

    Raises:
        AttributeError: If there is no such name.
    """
    package, _, inner = module.partition(".")
    for home, names in DEPRECATED.get(inner, {}).items():
        if name in names:
            shown = ".".join(filter(None, [environment.package, inner, name]))
            warnings.warn(f"{shown} is deprecated", DeprecationWarning, stacklevel=stacklevel)
            with warnings.catch_warnings():
                # That module warns, too, when it is imported.
                warnings.simplefilter("ignore", DeprecationWarning)
                return getattr(import_module(f"{package}.{home}"), name)
    if name in _RENAMED.get(inner, {}):
        present, message = _RENAMED[inner][name]
        warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
        return getattr(import_module(module), present)
    if name in LENT.get(inner, "").split():
        for home in _HOMES:
            if home != inner:
                found = vars(import_module(f"{package}.{home}")).get(name)
                if found is not None:
                    return found
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
