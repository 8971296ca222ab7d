# Private: for the modules beside it, which tell where to find the public names.

from collections.abc import Generator

from _typeshed import ReadableBuffer
from typing_extensions import disjoint_base

from ._events import Event
from ._types import ConnectionState, ConnectionType
from .extensions import Extension

@disjoint_base
class Connection:
    def __init__(
        self,
        connection_type: ConnectionType,
        extensions: list[Extension] | None = None,
        trailing_data: bytes = b"",
        *,
        max_size: int | None = 67108864,
    ) -> None: ...
    @property
    def client(self) -> bool: ...
    @property
    def state(self) -> ConnectionState: ...
    @property
    def failed(self) -> bool: ...
    @property
    def max_size(self) -> int | None: ...
    def send(self, event: Event) -> bytes: ...
    def receive_data(self, data: ReadableBuffer | None) -> None: ...
    def events(self) -> Generator[Event]: ...
