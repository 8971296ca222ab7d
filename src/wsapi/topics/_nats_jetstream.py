"""What JetStream is asked for: the stream, and the messages in it."""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

from ._nats_connection import Connection, NoResponders
from ._nats_stream import (
    Stored,
    Stream,
    StreamSettings,
    new_epoch,
    parse_stored,
    parse_stream,
)
from .exceptions import BusUnavailable

__all__ = ["Found", "JetStream", "Refused", "StreamAway", "refusal"]

MAX_PAGE_SIZE: Final = 4 * 2**20
"""Bytes of messages that are read before those who want them get them."""

MAX_BATCH_SIZE: Final = 2**19
"""Bytes of messages that the server is asked for at once: it ends connections that can't take them
(its ``max_pending``)."""

# Error codes of JetStream's API.
_NO_STREAM: Final = 10059
_NAME_TAKEN: Final = 10058
_NO_MESSAGE: Final = 10037
_NOT_ENABLED: Final = (10039, 10076)

_NO_JETSTREAM: Final = (
    "JetStream isn't enabled on the NATS server, or not for this account: start it with -js, or"
    " take history=None"
)


class Refused(BusUnavailable):
    """Raised when JetStream answers with an error in place of a result.

    Args:
        code: Its number.
        text: What it says.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamAway(BusUnavailable):
    """Raised when no server answers for the stream: it is gone, or nobody leads it now."""


class Found(NamedTuple):
    """Messages that the stream has on a subject.

    Args:
        messages: What is known of each, and its data.
        more: Whether there are more of them.
    """

    messages: list[tuple[Stored, bytes]]
    more: bool


def refusal(answer: bytes) -> Refused:
    """Return the error that an answer tells of."""
    try:
        error = json.loads(answer)["error"]
        code, text = int(error.get("err_code", 0)), str(error.get("description", ""))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Refused(0, f"the NATS server answers {answer!r:.200}")
    if code in _NOT_ENABLED:
        return Refused(code, f"{_NO_JETSTREAM} ({text})")
    return Refused(code, f"the NATS server refuses: {text} (error {code})")


class JetStream:
    """What one stream is asked for; it keeps nothing.

    Args:
        settings: Which stream, and how it shall be.
        timeout: How long to wait for each answer, in seconds.
    """

    def __init__(self, settings: StreamSettings, timeout: float) -> None:
        self.settings = settings
        self.timeout = timeout

    async def stream(self, connection: Connection, subject: str = "") -> Stream | None:
        """Return what the server says of the stream, and of one subject in it; None without one."""
        request = {"subjects_filter": subject} if subject else None
        try:
            answer = await self._api(connection, "STREAM.INFO", request)
        except Refused as refused:
            if refused.code == _NO_STREAM:
                return None
            raise
        try:
            return parse_stream(answer, self.settings.prefix)
        except (KeyError, TypeError, ValueError) as exc:
            raise BusUnavailable(f"the NATS server answers {answer!r:.200}") from exc

    async def make(self, connection: Connection) -> Stream:
        """Make the stream, unless another process is first, and return it."""
        settings = self.settings
        try:
            config = settings.config(new_epoch(settings.per_subject))
            await self._api(connection, "STREAM.CREATE", config)
        except Refused as refused:
            if refused.code != _NAME_TAKEN:
                raise BusUnavailable(f"can't make stream {settings.name!r}: {refused}") from refused
        stream = await self.stream(connection)
        if stream is None:
            raise StreamAway(f"stream {settings.name!r} is gone right after it was made")
        return stream

    async def change(
        self, connection: Connection, stream: Stream, changes: dict[str, Any]
    ) -> Stream:
        """Change settings of the stream, and return it."""
        what = f"{', '.join(sorted(changes))} of stream {self.settings.name!r}"
        try:
            await self._api(connection, "STREAM.UPDATE", {**stream.config, **changes})
        except Refused as refused:
            raise BusUnavailable(f"can't change {what}: {refused}") from refused
        changed = await self.stream(connection)
        if changed is None:
            raise StreamAway(f"{what} can't be changed: it is gone")
        return changed

    async def last(self, connection: Connection, subject: str, *, leader: bool) -> int | None:
        """Return the number of the last message on a subject.

        Args:
            connection: Whom to ask.
            subject: Where it was published.
            leader: Whether only the server that leads the stream has all messages for sure.
        """
        if leader:
            found = await self._of_leader(connection, {"last_by_subj": subject}, self.timeout)
            return None if found is None else found[0].sequence
        ((_, headers),) = await self._direct(connection, {"last_by_subj": subject}, self.timeout)
        stored = _of_direct(headers)
        return None if stored is None else stored.sequence

    async def time_of(self, connection: Connection, sequence: int) -> bytes | None:
        """Return when a message was stored; None if it isn't there."""
        ((_, headers),) = await self._direct(connection, {"seq": sequence}, self.timeout)
        stored = _of_direct(headers)
        return None if stored is None else stored.time

    async def has(self, connection: Connection, sequence: int, *, leader: bool) -> bool:
        """Tell whether a message is there.

        Args:
            connection: Whom to ask.
            sequence: Its number.
            leader: As for ``last()``.
        """
        if leader:
            return await self._of_leader(connection, {"seq": sequence}, self.timeout) is not None
        return await self.time_of(connection, sequence) is not None

    async def fetch(
        self, connection: Connection, subject: str, start: int, count: int, *, leader: bool
    ) -> Found:
        """Return messages on a subject, from a number on.

        Args:
            connection: Whom to ask.
            subject: Where they were published.
            start: Number of the first one, or where to look for it.
            count: Most messages to return: fewer, if they are large.
            leader: As for ``last()``.
        """
        start = max(start, 1)
        messages: list[tuple[Stored, bytes]] = []
        deadline = connection.loop.time() + self.timeout
        more, size = True, 0
        while more and len(messages) < count and size < MAX_PAGE_SIZE:
            request = {
                "next_by_subj": subject,
                "seq": start,
                "batch": count - len(messages),
                "max_bytes": MAX_BATCH_SIZE,
            }
            left = deadline - connection.loop.time()
            more = False
            for data, headers in await self._direct(connection, request, left, parts=True):
                stored = _of_direct(headers)
                if stored is not None:
                    messages.append((stored, data))
                    start = stored.sequence + 1
                    size += len(data)
                    # A server before 2.11 sends one at a time, and doesn't tell whether it is the
                    # last one.
                    more = stored.pending is None or stored.pending > 0
        while leader and not more:
            # Another server may have answered, which doesn't have the last ones yet.
            left = deadline - connection.loop.time()
            found = await self._of_leader(connection, {"next_by_subj": subject, "seq": start}, left)
            if found is None:
                break
            more = len(messages) >= count
            if not more:
                messages.append(found)
                start = found[0].sequence + 1
        return Found(messages, more)

    async def _direct(
        self,
        connection: Connection,
        request: dict[str, Any],
        timeout: float,
        *,
        parts: bool = False,
    ) -> list[tuple[bytes, bytes | None]]:
        """Ask for messages as they are, without JSON around them."""
        try:
            answer = await connection.ask(
                f"$JS.API.DIRECT.GET.{self.settings.name}",
                json.dumps(request).encode(),
                timeout,
                parts=parts,
            )
        except NoResponders:
            raise self._away() from None
        return answer if parts else [answer]

    async def _of_leader(
        self, connection: Connection, request: dict[str, Any], timeout: float
    ) -> tuple[Stored, bytes] | None:
        """Ask the server that leads the stream for a message."""
        try:
            answer = await self._api(connection, "STREAM.MSG.GET", request, timeout)
        except Refused as refused:
            if refused.code == _NO_MESSAGE:
                return None
            raise
        try:
            message = answer["message"]
            stored = Stored(
                message["subject"].encode(), message["seq"], message["time"].encode(), None, 0
            )
            return stored, base64.b64decode(message.get("data", ""), validate=True)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise BusUnavailable(f"the NATS server answers {answer!r:.200}") from exc

    async def _api(
        self,
        connection: Connection,
        what: str,
        request: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        payload = b"" if request is None else json.dumps(request).encode()
        if timeout is None:
            timeout = self.timeout
        try:
            data, _ = await connection.ask(f"$JS.API.{what}.{self.settings.name}", payload, timeout)
        except NoResponders:
            raise StreamAway(_NO_JETSTREAM) from None
        try:
            answer = json.loads(data)
        except ValueError as exc:
            raise BusUnavailable(f"the NATS server answers {data!r:.200}") from exc
        if not isinstance(answer, dict) or "error" in answer:
            raise refusal(data)
        return answer

    def _away(self) -> StreamAway:
        return StreamAway(f"no NATS server answers for stream {self.settings.name!r}")


def _of_direct(headers: bytes | None) -> Stored | None:
    """Return what an answer to a direct request says of a message; None if there is none."""
    stored = parse_stored(headers)
    if stored is None and (not headers or headers[9:12] not in (b"204", b"404")):
        raise BusUnavailable(f"the NATS server answers {headers!r:.200}")
    return stored
