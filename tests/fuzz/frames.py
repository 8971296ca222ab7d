"""What targets do with frames that callbacks are given."""

from __future__ import annotations

from collections.abc import Callable

TEXT = 1


class Joining:
    """Joins what ``listen(on_frame=)`` gives to messages.

    Args:
        on_message: Callable that is given each message.
    """

    def __init__(self, on_message: Callable[[str | bytes], None]) -> None:
        self.on_message = on_message
        self.kind = 0
        self.payload = b""

    def __call__(self, opcode: int, payload: memoryview, fin: bool) -> None:
        if opcode:
            self.kind, self.payload = opcode, b""
        self.payload += payload
        if fin:
            self.on_message(self.payload.decode() if self.kind == TEXT else self.payload)
