"""The PROXY protocol, by which a proxy in front of a server says who its client is.

The specification is HAProxy's "The PROXY protocol, versions 1 & 2"; sections below are of that.
A header comes once, before everything else on a connection, TLS included. Only a proxy that is
trusted may be able to connect: whoever else can, can say anything.

Sans I/O: whoever reads asks how much to read, so that nothing behind the header is taken.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .exceptions import InvalidMessage

__all__ = ["MAX_HEADER_SIZE", "ProxyHeader", "ProxyHeaderParser"]

MAX_HEADER_SIZE = 4096
"""Bytes that a header may have: extensions of version 2, such as certificates, may be long."""

# Section 2.1: the longest line of version 1, with its end.
_MAX_LINE_SIZE = 107
# Section 2.2: what version 2 begins with.
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_SIZE = 16
# Section 2.2: sizes of a pair of addresses and ports, by address family.
_INET, _INET6, _UNIX = 1, 2, 3
_ADDRESS_SIZES = {_INET: 12, _INET6: 36, _UNIX: 216}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says about a connection.

    Args:
        version: Version of the protocol, 1 or 2.
        source: Address of the client: IP address and port, or the path of a Unix socket; None if
            the proxy doesn't say, or if the connection is its own, such as a health check.
        destination: Address that the client connected to, in the same form.
    """

    version: int
    source: tuple[str, int] | str | None
    destination: tuple[str, int] | str | None


class ProxyHeaderParser:
    """Parser of the header of one connection.

    Attributes:
        wanted: Number of bytes to read at most before the next ``receive``; 0 when the header is
            complete.
        header: The header, when it is complete.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        # The shortest line, "PROXY UNKNOWN" and its end, is longer than what versions differ in.
        self.wanted = len(_SIGNATURE)
        self.header: ProxyHeader | None = None

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Process what was read.

        Args:
            data: At most ``wanted`` bytes; none at the end of the stream.

        Raises:
            InvalidMessage: If this isn't a header; ``wanted`` is 0 then. ``__cause__`` says why:
                EOFError or ValueError.
            ValueError: If there are more bytes than ``wanted``.
        """
        if len(data) > self.wanted:
            raise ValueError(f"received {len(data)} bytes, but only {self.wanted} were wanted")
        self._data += data
        try:
            if not data:
                raise EOFError("stream ends before the end of the PROXY protocol header")
            self._parse()
        except (EOFError, ValueError) as exc:
            self.wanted = 0
            raise InvalidMessage("did not receive a valid PROXY protocol header") from exc

    def _parse(self) -> None:
        data = self._data
        start = bytes(data[: len(_SIGNATURE)])
        if _SIGNATURE.startswith(start):
            self._parse_version_2()
        elif start.startswith(b"PROXY ") or b"PROXY ".startswith(start):
            self._parse_version_1()
        else:
            raise ValueError(f"unexpected start: {start!r}")

    # ------------------------------------------------------------------ version 1

    def _parse_version_1(self) -> None:
        data = self._data
        if not data.endswith(b"\r\n"):
            if b"\n" in data or b"\r" in data[:-1]:
                raise ValueError("line isn't ended by CR LF")
            if len(data) >= _MAX_LINE_SIZE:
                raise ValueError(f"line too long: over {_MAX_LINE_SIZE} bytes")
            # One by one from here on: what is behind the line belongs to somebody else.
            self.wanted = max(len(_SIGNATURE) - len(data), 1)
            return
        self.wanted = 0
        line = data[:-2].decode("ascii")
        _, protocol, *fields = line.split(" ")
        if protocol == "UNKNOWN":
            # Section 2.1: the rest of the line means nothing.
            self.header = ProxyHeader(1, None, None)
            return
        if protocol not in ("TCP4", "TCP6") or len(fields) != 4:
            raise ValueError(f"invalid line: {line}")
        family = ipaddress.IPv4Address if protocol == "TCP4" else ipaddress.IPv6Address
        source, destination = (str(family(field)) for field in fields[:2])
        source_port, destination_port = map(_parse_port, fields[2:])
        self.header = ProxyHeader(1, (source, source_port), (destination, destination_port))

    # ------------------------------------------------------------------ version 2

    def _parse_version_2(self) -> None:
        data = self._data
        if len(data) < _FIXED_SIZE:
            self.wanted = _FIXED_SIZE - len(data)
            return
        version_and_command, family_and_transport = data[12], data[13]
        if version_and_command >> 4 != 2:
            raise ValueError(f"unknown version: {version_and_command >> 4}")
        command = version_and_command & 15
        if command > 1:
            raise ValueError(f"unknown command: {command}")
        size = _FIXED_SIZE + int.from_bytes(data[14:16], "big")
        if size > MAX_HEADER_SIZE:
            raise ValueError(f"header too long: {size} bytes, over {MAX_HEADER_SIZE}")
        self.wanted = size - len(data)
        if self.wanted:
            return
        # Section 2.2: with the command LOCAL, and for what isn't known, addresses don't count.
        family, transport = family_and_transport >> 4, family_and_transport & 15
        if command == 0 or family not in _ADDRESS_SIZES or transport != 1:
            self.header = ProxyHeader(2, None, None)
            return
        addresses = bytes(data[_FIXED_SIZE : _FIXED_SIZE + _ADDRESS_SIZES[family]])
        if len(addresses) < _ADDRESS_SIZES[family]:
            raise ValueError("addresses are incomplete")
        self.header = ProxyHeader(2, *_unpack_addresses(family, addresses))


def _unpack_addresses(
    family: int, data: bytes
) -> tuple[tuple[str, int] | str, tuple[str, int] | str]:
    if family == _UNIX:
        source, destination = (
            path.rstrip(b"\0").decode("utf-8", "surrogateescape")
            for path in (data[:108], data[108:])
        )
        return source, destination
    half = (len(data) - 4) // 2
    ports = data[-4:]
    return (
        (str(ipaddress.ip_address(data[:half])), int.from_bytes(ports[:2], "big")),
        (str(ipaddress.ip_address(data[half : 2 * half])), int.from_bytes(ports[2:], "big")),
    )


def _parse_port(text: str) -> int:
    # Section 2.1: decimal, without leading zeros.
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or (text[0] == "0" and text != "0"):
        raise ValueError(f"invalid port: {text!r}")
    port = int(text)
    if port > 65535:
        raise ValueError(f"invalid port: {text!r}")
    return port
