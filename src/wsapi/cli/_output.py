"""What a user sees of a connection: lines for people, payloads alone, or JSON for programs."""

from __future__ import annotations

import base64
import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from ._failures import describe_close
from ._heads import masked_headers, masked_uri
from ._terminal import CommandError, is_terminal, printable
from ._worker import Worker

if TYPE_CHECKING:
    from wsproto_fast.frames import Close

__all__ = ["Format", "JsonFormat", "LineFormat", "Output", "PayloadFormat"]


class Format(Protocol):
    """What is written for each event: text, bytes as they are, or nothing."""

    def opened(self, uri: str, connection: Any) -> str | bytes:
        """The connection is open."""

    def received(self, message: str | bytes) -> str | bytes:
        """A message has come."""

    def closed(self, close: Close | None, by: str) -> str | bytes:
        """The connection is closed.

        Args:
            close: Close frame that counts; None for an abnormal closure.
            by: Who has sent one first: ``client``, ``server``, or ``nobody``.
        """

    def failed(self, error: CommandError) -> str | bytes:
        """There is an error, which is told on stderr, too."""


def _binary(data: bytes, encoding: str | None) -> str:
    return base64.b64encode(data).decode() if encoding == "base64" else data.hex()


class LineFormat:
    """Lines for people, as those of ``python -m websockets``.

    Args:
        encoding: ``base64`` or ``hex``, of binary messages; None is the latter.
    """

    def __init__(self, encoding: str | None = None) -> None:
        self.encoding = encoding

    def opened(self, uri: str, connection: Any) -> str:
        return f"Connected to {printable(masked_uri(uri))}.\n"

    def received(self, message: str | bytes) -> str:
        if isinstance(message, str):
            return f"< {printable(message)}\n"
        return f"< (binary) {_binary(message, self.encoding)}\n"

    def closed(self, close: Close | None, by: str) -> str:
        return f"Connection closed: {printable(describe_close(close))}.\n"

    def failed(self, error: CommandError) -> str:
        return ""


class PayloadFormat:
    """Payloads alone: each on a line, or as they are.

    Args:
        encoding: ``base64`` or ``hex``, of binary messages; None is the latter.
        raw: Add nothing, and change nothing.
        terminal: Escape what could control a terminal.
    """

    def __init__(self, encoding: str | None = None, *, raw: bool, terminal: bool) -> None:
        self.encoding = encoding
        self.raw = raw
        self.terminal = terminal

    def opened(self, uri: str, connection: Any) -> str:
        return ""

    def received(self, message: str | bytes) -> str | bytes:
        if self.raw:
            return message.encode() if isinstance(message, str) else message
        if isinstance(message, bytes):
            return f"{_binary(message, self.encoding)}\n"
        return f"{printable(message, lines=True) if self.terminal else message}\n"

    def closed(self, close: Close | None, by: str) -> str:
        return ""

    def failed(self, error: CommandError) -> str:
        return ""


class JsonFormat:
    """A line of JSON for each event."""

    def _line(self, event: str, **members: Any) -> str:
        return json.dumps({"event": event, "time": round(time.time(), 6), **members}) + "\n"

    def opened(self, uri: str, connection: Any) -> str:
        response = connection.response
        return self._line(
            "open",
            uri=masked_uri(uri),
            status=response.status_code,
            headers=masked_headers(response.headers),
            subprotocol=connection.subprotocol,
        )

    def received(self, message: str | bytes) -> str:
        if isinstance(message, str):
            return self._line("message", type="text", size=len(message.encode()), data=message)
        encoded = base64.b64encode(message).decode()
        return self._line("message", type="binary", size=len(message), base64=encoded)

    def closed(self, close: Close | None, by: str) -> str:
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        return self._line("close", code=code, reason=reason, by=by)

    def failed(self, error: CommandError) -> str:
        return self._line(
            "error",
            error=error.kind,
            message=error.message,
            hint=error.hint,
            exit=int(error.status),
            **error.details,
        )


class Output:
    """Writes to stdout, in a thread, so that a pipe that nobody empties doesn't stop the rest."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._encoding = sys.stdout.encoding or "utf-8"
        self._descriptor = sys.stdout.fileno()
        # At a terminal nothing else is waited for, and lines come in the order of those on stderr.
        self._direct = is_terminal(sys.stdout)

    async def write(self, text: str | bytes) -> None:
        """Write text, or bytes as they are.

        Raises:
            BrokenPipeError: If nobody reads it.
            OSError: If it can't be written otherwise.
        """
        data = text.encode(self._encoding, "backslashreplace") if isinstance(text, str) else text
        if not data:
            return
        if self._direct:
            self._write(data)
            return
        if self._worker is None:
            self._worker = Worker("wsapi-output")
        await self._worker.call(self._write, data)

    def close(self) -> None:
        """Write nothing any more."""
        if self._worker is not None:
            self._worker.stop()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process of this terminal or pipe wants it so
                select.select([], [self._descriptor], [])
