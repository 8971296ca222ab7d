# Private: for the modules beside it, which tell where to find the public names.

from collections.abc import Iterable
from typing import Any

from _typeshed import ReadableBuffer
from typing_extensions import disjoint_base

from .. import PerMessageDeflate, Protocol
from ._events import Event
from ._types import CloseReason, Opcode, RsvBits
from .extensions import Extension

@disjoint_base
class FrameEvents(Protocol):
    def __init__(
        self,
        client: bool,
        extensions: Iterable[Extension] = (),
        *,
        max_size: int | None = None,
        raw: bool = False,
    ) -> None: ...
    @property
    def client(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def frame_opcode(self) -> int: ...
    @property
    def remaining_size(self) -> int | None: ...
    def feed(self, data: ReadableBuffer) -> int: ...
    def next_event(self) -> Event | None: ...
    def peek_header(self) -> tuple[int, bool, int] | None: ...
    def send_data(self, data: str | bytes | bytearray | memoryview, fin: bool) -> bytes: ...
    def send_control(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes: ...
    def close_frame(self, code: int | None, reason: str | None) -> bytes: ...

def refusal(
    extensions: Iterable[Extension],
    proto: Any,
    opcode: Opcode,
    rsv: RsvBits,
    payload_length: int,
) -> CloseReason | None: ...
def inflate(deflate: PerMessageDeflate, data: bytes, fin: bool, limit: int | None) -> bytes: ...
def deflate(deflate: PerMessageDeflate, data: bytes, fin: bool) -> bytes: ...
