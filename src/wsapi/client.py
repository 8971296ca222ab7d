"""The state machine of a client, without I/O; when and how long after a failure to try again."""

from wsproto_fast import ClientProtocol

from ._reconnection import backoff, process_exception

__all__ = [
    "ClientProtocol",
    "backoff",
    "process_exception",
]
