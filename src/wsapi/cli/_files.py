"""Files of a directory over HTTP, for pages that use WebSocket: small, and nothing but reading.

What isn't below the directory isn't there, whatever a path or a symbolic link says; names that
begin with a dot aren't either, but for ``.well-known``.
"""

from __future__ import annotations

import mimetypes
import os
import stat
import urllib.parse
from pathlib import Path
from typing import NamedTuple

__all__ = ["MAX_FILE", "Answer", "Files"]

MAX_FILE = 2**24
"""Bytes of the largest file that is served."""

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".htm": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
# Those of Python alone: what the system adds to it differs.
_others = mimetypes.MimeTypes()


class Answer(NamedTuple):
    """What a request for a path is answered with.

    Args:
        status: HTTP status code.
        body: Content of a file; a text for other answers.
        content_type: Its type.
        location: Where to go instead, with status 308.
    """

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    location: str | None = None


NOT_FOUND = Answer(404, b"not found\n")


class Files:
    """Files below a directory.

    Args:
        directory: The directory.

    Raises:
        OSError: If there is no such directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.root = Path(directory).resolve(strict=True)
        if not self.root.is_dir():
            raise NotADirectoryError(20, "not a directory", str(directory))

    def answer(self, target: str) -> Answer:
        """Return what a request for a path is answered with.

        Args:
            target: Path and query, as on the request line.
        """
        path = target.partition("?")[0].partition("#")[0]
        try:
            names = urllib.parse.unquote(path, errors="strict").split("/")
        except UnicodeDecodeError:
            return NOT_FOUND
        if names[0] or len(names) < 2 or not all(map(_is_safe, names[1:-1])):
            return NOT_FOUND
        if names[-1] and not _is_safe(names[-1]):
            return NOT_FOUND
        try:
            place = self.root.joinpath(*names[1:]).resolve(strict=True)
            if not place.is_relative_to(self.root):
                return NOT_FOUND
            if place.is_dir():
                if names[-1]:
                    # Without the host, and never with two slashes at the beginning.
                    return Answer(308, b"", location=urllib.parse.quote(names[-1]) + "/")
                place = (place / "index.html").resolve(strict=True)
                if not place.is_relative_to(self.root):
                    return NOT_FOUND
            elif not names[-1]:
                return NOT_FOUND
            return _read(place)
        except (OSError, RuntimeError, ValueError):  # RuntimeError: links that go round
            return NOT_FOUND


def _is_safe(name: str) -> bool:
    if name.startswith(".") and name != ".well-known":
        return False
    # A backslash separates names on Windows, and a colon drives and streams.
    return bool(name) and not any(character in name for character in "/\\:\0")


def _read(path: Path) -> Answer:
    # A pipe would wait for somebody to write, and a link may be new since it was looked at.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return NOT_FOUND
        if status.st_size > MAX_FILE:
            return Answer(413, b"this file is larger than what is served\n")
        body = file.read(MAX_FILE)
    return Answer(200, body, content_type(path.name))


def content_type(name: str) -> str:
    """Return the type of what is in a file.

    Args:
        name: Name of the file.
    """
    suffix = os.path.splitext(name)[1].lower()
    found = _TYPES.get(suffix)
    if found is None:
        guessed, encoding = _others.guess_type(name)
        found = guessed if guessed is not None and encoding is None else "application/octet-stream"
    is_text = found.startswith("text/") or found == "application/json"
    return f"{found}; charset=utf-8" if is_text else found
