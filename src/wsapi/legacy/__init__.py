"""Clients and servers with the interface that `websockets` had before its version 14.

Deprecated from the first day: a thin front on ``wsapi.asyncio``, for programs that still use it.
The protocol is the one of all other connections, and so are limits and what happens at the end.
"""

import warnings

from wsproto_fast import environment

warnings.warn(
    f"{environment.package}.legacy is deprecated; "
    "see https://websockets.readthedocs.io/en/stable/howto/upgrade.html "
    "for upgrade instructions",
    DeprecationWarning,
    stacklevel=2,
)
