"""Bytes that arrive piecemeal, for ``Request.parse``, ``Response.parse`` and ``Frame.parse``.

Nothing else here uses it: parsers of connections read where the bytes are.
"""

from __future__ import annotations

from collections.abc import Generator

__all__ = ["StreamReader"]


class StreamReader:
    """Buffer whose reading methods are generators: they yield when they need more data.

    The data is fed between two steps of a generator, whose return value is what was read.
    """

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.eof = False

    def _take(self, size: int) -> bytearray:
        taken = self.buffer[:size]
        del self.buffer[:size]
        return taken

    def read_line(
        self, m: int, too_long_exc_type: type[Exception] = RuntimeError
    ) -> Generator[None, None, bytearray]:
        """Read a line with its LF.

        Args:
            m: Limit on its size, in bytes.
            too_long_exc_type: What to raise beyond that limit.

        Raises:
            EOFError: If the stream ends before.
        """
        searched = 0
        while not (size := self.buffer.find(b"\n", searched) + 1):
            searched = len(self.buffer)
            if searched > m:
                break
            if self.eof:
                raise EOFError(f"stream ends after {searched} bytes, before end of line")
            yield
        size = size or searched
        if size > m:
            raise too_long_exc_type(f"read {size} bytes, expected no more than {m} bytes")
        return self._take(size)

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """Read a number of bytes.

        Args:
            n: How many.

        Raises:
            EOFError: If the stream ends before.
        """
        while len(self.buffer) < n:
            if self.eof:
                raise EOFError(f"stream ends after {len(self.buffer)} bytes, expected {n} bytes")
            yield
        return self._take(n)

    def read_to_eof(
        self, m: int, too_long_exc_type: type[Exception] = RuntimeError
    ) -> Generator[None, None, bytearray]:
        """Read all up to the end of the stream.

        Args:
            m: Limit on the size, in bytes.
            too_long_exc_type: What to raise beyond that limit.
        """
        while True:
            if len(self.buffer) > m:
                raise too_long_exc_type(
                    f"read {len(self.buffer)} bytes, expected no more than {m} bytes"
                )
            if self.eof:
                return self._take(m)
            yield

    def at_eof(self) -> Generator[None, None, bool]:
        """Tell whether the stream ends here."""
        while not self.buffer:
            if self.eof:
                return True
            yield
        return False

    def feed_data(self, data: bytes | bytearray) -> None:
        """Add data.

        Args:
            data: What was received.

        Raises:
            EOFError: If the stream has ended.
        """
        if self.eof:
            raise EOFError("stream ended")
        self.buffer += data

    def feed_eof(self) -> None:
        """End the stream.

        Raises:
            EOFError: If it has ended.
        """
        if self.eof:
            raise EOFError("stream ended")
        self.eof = True

    def discard(self) -> None:
        """Forget what wasn't read."""
        self.buffer.clear()
