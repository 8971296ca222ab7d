"""What the engine leaves for its driver to do.

Plain integers rather than an enumeration: drivers test them on every read.
"""

from typing import Final

__all__ = [
    "ABORT",
    "ATTENTION",
    "CLOSE",
    "FLUSH",
    "FRAGMENT",
    "HALF_CLOSE",
    "KEEP",
    "MESSAGE",
    "OUTPUT",
]

# Activity bits, which receive_data() and its kin return.

MESSAGE: Final = 1
"""A whole message can be taken with ``next_message()``."""
FRAGMENT: Final = 2
"""A fragment can be taken with ``next_fragment()``."""
OUTPUT: Final = 4
"""There are bytes to send."""
ATTENTION: Final = 8
"""State, events, pings, flow control, transport action or deadlines may have changed."""
FLUSH: Final = 16
"""There are so many bytes to send that they shouldn't wait for the end of the turn."""

# Transport actions, each more drastic than the one before.

KEEP: Final = 0
"""Keep the TCP connection."""
HALF_CLOSE: Final = 1
"""Send what there is to send, then the end of the stream; go on reading."""
CLOSE: Final = 2
"""Send what there is to send, then close."""
ABORT: Final = 3
"""Close at once; what wasn't sent is lost."""
