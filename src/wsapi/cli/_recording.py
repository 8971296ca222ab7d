"""Recordings of connections: a file with a line of JSON for each event.

The first line says what the file is. Every other one has an ``event`` and ``at``, the seconds since
the connection was opened::

    {"wsapi_recording": 1, "uri": "ws://localhost/", "date": "2026-11-30T08:00:00+00:00"}
    {"at": 0, "event": "open", "request": {...}, "response": {...}, "subprotocol": null}
    {"at": 0.51, "event": "sent", "text": "hello"}
    {"at": 0.52, "event": "received", "base64": "AP8="}
    {"at": 2.0, "event": "closed", "by": "client", "code": 1000, "reason": ""}

``sent`` and ``received`` are a client's words. A message is ``text``, or ``base64`` if binary.
``closed`` by ``client``, ``server``, or ``nobody`` ends a recording; it is missing when the
recorder was killed. Passwords, tokens, and cookies of requests and responses are masked; messages
aren't.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from ._heads import masked_headers, masked_uri
from ._terminal import CommandError, Status

if TYPE_CHECKING:
    from wsproto_fast.frames import Close

__all__ = ["VERSION", "Recorder", "Recording", "Step", "read_recording"]

VERSION = 1


@dataclass(frozen=True)
class Step:
    """A message of a recording.

    Args:
        at: Seconds since the connection was opened.
        by_client: Whether the client sent it.
        message: The message.
    """

    at: float
    by_client: bool
    message: str | bytes


@dataclass(frozen=True)
class Recording:
    """What a file has.

    Args:
        uri: URI that was connected to; None if the file doesn't say.
        subprotocol: Subprotocol that was agreed on.
        steps: Messages in the order in which they were sent and received.
        closed_at: When the connection was closed, in seconds.
        closed_by: Who closed it: ``client``, ``server``, or ``nobody``.
        code: Close code.
        reason: Close reason.
    """

    uri: str | None
    subprotocol: str | None
    steps: tuple[Step, ...]
    closed_at: float
    closed_by: str
    code: int
    reason: str


def encoded(message: str | bytes) -> dict[str, str]:
    """Return a message as a member of an event."""
    if isinstance(message, str):
        return {"text": message}
    return {"base64": base64.b64encode(message).decode()}


class Recorder:
    """Writes a recording; an observer of a session.

    Args:
        file: File to write to; what it has is lost when the connection is open, and not before.
        uri: URI that is connected to.
    """

    def __init__(self, file: IO[str], uri: str) -> None:
        self._file = file
        self._uri = uri
        self._began = 0.0

    def _write(self, **members: Any) -> None:
        self._file.write(json.dumps(members, ensure_ascii=True) + "\n")
        # What was written is there when the process is killed.
        self._file.flush()

    def _event(self, event: str, **members: Any) -> None:
        self._write(at=round(time.monotonic() - self._began, 6), event=event, **members)

    def opened(self, connection: Any) -> None:
        """Record the opening handshake."""
        with contextlib.suppress(OSError):  # a pipe has no beginning
            self._file.seek(0)
            self._file.truncate()
        now = datetime.datetime.now(datetime.UTC)
        self._write(
            wsapi_recording=VERSION,
            uri=masked_uri(self._uri),
            date=now.isoformat(timespec="seconds"),
        )
        self._began = time.monotonic()
        request, response = connection.request, connection.response
        self._event(
            "open",
            request={
                "path": masked_uri(request.path),
                "headers": masked_headers(request.headers),
            },
            response={
                "status": response.status_code,
                "headers": masked_headers(response.headers),
            },
            subprotocol=connection.subprotocol,
        )

    def sent(self, message: str | bytes) -> None:
        """Record a message of the client."""
        self._event("sent", **encoded(message))

    def received(self, message: str | bytes) -> None:
        """Record a message of the server."""
        self._event("received", **encoded(message))

    def closed(self, close: Close | None, by: str) -> None:
        """Record the end."""
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self._event("closed", by=by, code=int(code), reason=reason)


def read_recording(path: str, lines: Iterable[str]) -> Recording:
    """Read a recording.

    Args:
        path: Path of the file, for errors.
        lines: Its lines.

    Raises:
        CommandError: If it isn't a recording.
    """
    number = 0
    uri: str | None = None
    subprotocol: str | None = None
    steps: list[Step] = []
    last = 0.0
    end: tuple[float, str, int, str] | None = None
    try:
        for line in lines:
            number += 1
            if not line.strip():
                continue
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError("not an object")
            if number == 1:
                if event.get("wsapi_recording") != VERSION:
                    raise ValueError(f"not a recording of version {VERSION}")
                uri = _text(event, "uri", None)
                continue
            if end is not None:
                raise ValueError("an event after the end")
            at = event["at"]
            if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
                raise ValueError("at isn't a number")
            if at < last:
                raise ValueError("at is less than before")
            last = float(at)
            kind = event["event"]
            if kind == "open":
                subprotocol = _text(event, "subprotocol", None)
            elif kind in ("sent", "received"):
                steps.append(Step(last, kind == "sent", _message(event)))
            elif kind == "closed":
                end = (last, *_end(event))
            else:
                raise ValueError(f"unknown event {kind!r}")
        if number == 0:
            raise ValueError("it is empty")
    except KeyError as exc:
        raise _invalid(path, number, f"{exc.args[0]} is missing") from exc
    except (ValueError, RecursionError) as exc:
        raise _invalid(path, number, str(exc)) from exc
    return Recording(uri, subprotocol, tuple(steps), *(end or (last, "client", 1000, "")))


def _invalid(path: str, number: int, reason: str) -> CommandError:
    return CommandError(
        Status.FAILURE,
        f"{path}, line {number}: {reason}",
        "wsapi record writes such files",
        "recording",
    )


def _text(event: dict[str, Any], name: str, default: str | None) -> str | None:
    value = event.get(name, default)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} isn't a string")
    return value


def _message(event: dict[str, Any]) -> str | bytes:
    if ("text" in event) == ("base64" in event):
        raise ValueError("a message has either text or base64")
    text = _text(event, "text", None)
    if text is not None:
        text.encode()  # a lone surrogate can't be sent
        return text
    encoded = _text(event, "base64", None)
    if encoded is None:
        raise ValueError("a message has either text or base64")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as exc:
        raise ValueError("base64 isn't Base64") from exc


def _end(event: dict[str, Any]) -> tuple[str, int, str]:
    by, code = event["by"], event["code"]
    if by not in ("client", "server", "nobody"):
        raise ValueError("by isn't client, server, or nobody")
    if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code < 5000:
        raise ValueError("code isn't a close code")
    return by, code, _text(event, "reason", "") or ""
