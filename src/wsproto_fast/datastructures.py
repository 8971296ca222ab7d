"""HTTP headers: a case-insensitive multi-dict that keeps order and spelling.

Owns ``Headers`` and the error it raises for repeated headers. Knows nothing of the meaning of
headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

from .exceptions import InvalidHeader, InvalidHeaderValue
from .redaction import redact_header

__all__ = ["Headers", "HeadersLike", "MultipleValuesError", "SupportsKeysAndGetItem"]

# RFC 9110 §5.1 and §5.5: a field name is a token; a value is made of HTAB, SP, VCHAR and obs-text.
_valid_name = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+").fullmatch
_invalid_value = re.compile(r"[^\t\x20-\x7e\x80-\xff]").search

# Strings that nearly every handshake has: sharing them saves memory where headers are looked at.
_names = (
    *("Host", "Connection", "Upgrade", "Origin", "User-Agent", "Accept", "Accept-Encoding"),
    *("Accept-Language", "Authorization", "Cache-Control", "Cookie", "Pragma", "Date", "Server"),
    *("Content-Length", "Content-Type", "Transfer-Encoding", "Location", "Via", "Forwarded"),
    *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions"),
    *("Sec-WebSocket-Protocol", "Sec-WebSocket-Accept"),
    *("Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions"),
    *("Sec-Websocket-Protocol", "Sec-Websocket-Accept"),
    *("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-Storage-Access", "DNT"),
    *("Sec-GPC", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"),
    *("X-Real-IP", "X-Request-ID"),
)
_values = (
    *("13", "websocket", "WebSocket", "keep-alive", "keep-alive, Upgrade", "no-cache", "close"),
    *("http", "https", "empty", "same-origin", "same-site", "cross-site"),
    *("*/*", "gzip", "gzip, deflate", "gzip, deflate, br", "gzip, deflate, br, zstd"),
    *("en-US,en;q=0.9", "en-US,en;q=0.5", "permessage-deflate"),
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
)
_shared = {
    string: string
    # Names arrive in lower case when a proxy translates from HTTP/2.
    for string in (*_names, *(name.lower() for name in _names), *_values)
}


class MultipleValuesError(LookupError):
    """Raised when asking for the one value of a header that is repeated."""

    def __str__(self) -> str:
        # Like KeyError: the text of a lone argument is its repr.
        return repr(self.args[0]) if len(self.args) == 1 else super().__str__()


class SupportsKeysAndGetItem(Protocol):
    """What ``dict`` takes for a mapping: ``keys()`` and ``__getitem__``."""

    def keys(self) -> Iterable[str]:
        """Return the keys."""
        ...

    def __getitem__(self, key: str, /) -> str: ...


class Headers(MutableMapping[str, str]):
    """Headers of an HTTP message.

    Keys are case-insensitive and may have several values. ``headers[name] = value`` adds a value
    to those already there; ``headers[name]`` requires that there is exactly one. ``get_all()`` and
    ``raw_items()`` are the ways to see repeated headers.

    Args:
        args: Other headers, a mapping, or an iterable of pairs.
        kwargs: More headers.

    Raises:
        InvalidHeader: If a name isn't a token (RFC 9110 §5.1).
        InvalidHeaderValue: If a value has control characters or characters outside ISO-8859-1.
            Values that aren't str become their text.
        TypeError: If a name isn't a str.
    """

    __slots__ = ("_block", "_index", "_items")

    # All pairs in order, and the values by lower-cased name, built when first needed. Before the
    # pairs are needed, there may be a block instead: lines as they are sent, without the last one.
    _items: list[tuple[str, str]]
    _index: dict[str, list[str]] | None
    _block: bytes | None

    def __init__(self, *args: HeadersLike, **kwargs: str) -> None:
        self._items = []
        self._index = self._block = None
        if args or kwargs:
            self.update(*args, **kwargs)

    @classmethod
    def _from_raw_items(cls, items: list[tuple[str, str]]) -> Headers:
        """Wrap a list of pairs, which isn't copied and whose values are known to be valid."""
        headers = cls.__new__(cls)
        headers._items = items
        headers._index = headers._block = None
        return headers

    def __getattr__(self, name: str) -> Any:
        # Most headers of connections are never looked at by anybody but the engine.
        if name != "_items":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        assert self._block is not None
        lines = self._block.decode("iso-8859-1").split("\r\n")
        items = []
        for line in lines[:-1]:
            name, _, value = line.partition(": ")
            items.append((_shared.get(name, name), _shared.get(value, value)))
        self._items, self._block = items, None
        return items

    def _by_name(self) -> dict[str, list[str]]:
        index = self._index
        if index is None:
            index = {}
            for name, value in self._items:
                name = name.lower()
                if name in index:
                    index[name].append(value)
                else:
                    index[name] = [value]
            self._index = index
        return index

    def __str__(self) -> str:
        if self._block is not None:
            return self._block.decode("iso-8859-1") + "\r\n"
        return "".join([f"{name}: {value}\r\n" for name, value in self._items]) + "\r\n"

    def __repr__(self) -> str:
        # It ends in logs, also in that of a response, and of an exception that has one.
        shown = [(name, redact_header(name, value)) for name, value in self._items]
        return f"{type(self).__name__}({shown!r})"

    def copy(self) -> Headers:
        """Return an independent copy."""
        return self._from_raw_items(self._items.copy())

    __copy__ = copy

    def __reduce__(self) -> tuple[type[Headers], tuple[list[tuple[str, str]]]]:
        return type(self), (self._items,)

    def serialize(self) -> bytes:
        """Return the header block with its final empty line, in ISO-8859-1."""
        if self._block is not None:
            return self._block + b"\r\n"
        return str(self).encode("iso-8859-1")

    # Collection

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._by_name()

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    # MutableMapping

    def __getitem__(self, key: str) -> str:
        try:
            values = self._by_name()[key.lower()]
        except KeyError:
            raise KeyError(key) from None
        if len(values) != 1:
            raise MultipleValuesError(key)
        return values[0]

    def __setitem__(self, key: str, value: str) -> None:
        if not isinstance(key, str):
            raise TypeError(f"names of headers must be str, not {type(key).__name__}")
        if _valid_name(key) is None:
            raise InvalidHeader(key, "the name isn't a token")
        if type(value) is not str:
            # What typing forbids, programs do all the same.
            value = str(value)
        if _invalid_value(value) is not None:
            # Tokens that were read from a file end with a newline.
            raise InvalidHeaderValue(key, redact_header(key, value))
        name = key.lower()
        if self._index is not None:
            self._index.setdefault(name, []).append(value)
        self._items.append((key, value))

    def __delitem__(self, key: str) -> None:
        name = key.lower()
        if name not in self._by_name():
            raise KeyError(key)
        self._items = [item for item in self._items if item[0].lower() != name]
        self._index = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name() == other._by_name()

    __hash__ = None  # type: ignore[assignment] # object has one, what changes hasn't

    def clear(self) -> None:
        """Remove all headers."""
        self._items = []
        self._index = self._block = None

    def update(self, *args: HeadersLike, **kwargs: str) -> None:
        """Add headers to those already there.

        Args:
            args: Other headers, whose repeated values are all taken, a mapping, or an iterable of
                pairs.
            kwargs: More headers.
        """
        if len(args) == 1 and isinstance(args[0], (Headers, list)):
            other = args[0]
            for name, value in list(other._items) if isinstance(other, Headers) else other:
                self[name] = value
            args = ()
        super().update(*args, **kwargs)

    # Access to repeated headers

    def get_all(self, key: str) -> list[str]:
        """Return all values of a header in a new list, which is empty when there is none.

        Args:
            key: Name of the header.
        """
        values = self._by_name().get(key.lower())
        return [] if values is None else values.copy()

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over all pairs of name and value, in order and as spelt."""
        return iter(self._items)


HeadersLike: TypeAlias = (
    Headers | Mapping[str, str] | Iterable[tuple[str, str]] | SupportsKeysAndGetItem
)
"""What is accepted where headers are expected."""
