"""Headers of the PROXY protocol: by any split, and written anew by their specification."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

from tests.fuzz.inputs import Input
from wsproto_fast.exceptions import InvalidMessage
from wsproto_fast.proxy_protocol import MAX_HEADER_SIZE, ProxyHeader, ProxyHeaderParser

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FAMILIES = {12: 1, 36: 2}
SEEDS = [
    b"\0PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\nGET",
    b"\1PROXY TCP6 2001:db8::1 2001:DB8:0::2 0 65535\r\n",
    b"\1PROXY UNKNOWN\r\n",
    b"\2" + SIGNATURE + b"\x21\x11\x00\x0c" + bytes(range(12)) + b"GET",
    b"\2" + SIGNATURE + b"\x21\x21\x00\x27" + bytes(range(36)) + b"\x04\x00\x00",
    b"\2" + SIGNATURE + b"\x21\x31\x00\xd8" + b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0"),
    b"\2" + SIGNATURE + b"\x20\x00\x00\x00",
]


def parse(data: bytes, sizes: Iterator[int]) -> tuple[ProxyHeader | None, str | None, int]:
    """Return the header, or whether it was refused; and how many bytes were taken."""
    parser = ProxyHeaderParser()
    position = 0
    try:
        while parser.wanted:
            assert position < MAX_HEADER_SIZE
            # Never more than the header has.
            size = min(parser.wanted, next(sizes))
            piece = data[position : position + size]
            parser.receive(piece)
            position += len(piece)
    except InvalidMessage as exc:
        assert parser.wanted == 0
        assert parser.header is None
        assert isinstance(exc.__cause__, EOFError | ValueError)
        return None, "refused", 0
    assert parser.header is not None
    return parser.header, None, position


def check(data: bytes, header: ProxyHeader) -> None:
    """Write the header and compare."""
    if header.version == 1:
        line = data.decode("ascii")
        assert line.startswith("PROXY ")
        assert len(data) <= 107
        assert line.endswith("\r\n")
        assert line.count("\n") == 1
        if header.source is not None:
            assert isinstance(header.source, tuple)
            assert isinstance(header.destination, tuple)
            _, family, *rest = line.split()
            addresses = [ipaddress.ip_address(text) for text in rest[:2]]
            version = 4 if family == "TCP4" else 6
            assert [address.version for address in addresses] == [version] * 2
            ports = [int(port) for port in rest[2:]]
            assert header.source == (str(addresses[0]), ports[0])
            assert header.destination == (str(addresses[1]), ports[1])
        return
    assert data.startswith(SIGNATURE)
    assert data[12] in (0x20, 0x21)
    assert len(data) == 16 + int.from_bytes(data[14:16], "big") <= MAX_HEADER_SIZE
    if isinstance(header.source, tuple):
        assert isinstance(header.destination, tuple)
        v6 = ":" in header.source[0]
        family = socket.AF_INET6 if v6 else socket.AF_INET
        payload = b"".join(
            socket.inet_pton(family, address) for address, _ in (header.source, header.destination)
        ) + struct.pack("!HH", header.source[1], header.destination[1])
        assert data[13] == FAMILIES[len(payload)] << 4 | 1
        assert data[16:].startswith(payload)


def one_input(data: bytes) -> None:
    source = Input(data)
    rng = source.random()
    wire = source.rest()
    whole = parse(wire, iter(lambda: MAX_HEADER_SIZE, None))
    assert parse(wire, iter(lambda: 1, None)) == whole
    assert parse(wire, iter(lambda: rng.randrange(1, 20), None)) == whole
    if whole[0] is not None:
        check(wire[: whole[2]], whole[0])
