"""Headers of the PROXY protocol, as proxies send them and as they shouldn't."""

import socket
import struct

import pytest

from wsproto_fast.exceptions import InvalidMessage
from wsproto_fast.proxy_protocol import MAX_HEADER_SIZE, ProxyHeader, ProxyHeaderParser

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def version_2(command, family, payload, version=2):
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(payload)) + payload


INET = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 1234, 443)
INET6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 65535, 80)
)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")

HEADERS = {
    "tcp4": (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n",
        ProxyHeader(1, ("192.0.2.1", 1234), ("192.0.2.2", 443)),
    ),
    "tcp6": (
        b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 0 65535\r\n",
        ProxyHeader(1, ("2001:db8::1", 0), ("2001:db8::2", 65535)),
    ),
    "longest line": (
        b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
        ProxyHeader(1, None, None),
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", ProxyHeader(1, None, None)),
    "v2 inet": (
        version_2(1, 0x11, INET),
        ProxyHeader(2, ("192.0.2.1", 1234), ("192.0.2.2", 443)),
    ),
    "v2 inet with extensions": (
        version_2(1, 0x11, INET + b"\x04\x00\x03abc"),
        ProxyHeader(2, ("192.0.2.1", 1234), ("192.0.2.2", 443)),
    ),
    "v2 inet6": (
        version_2(1, 0x21, INET6),
        ProxyHeader(2, ("2001:db8::1", 65535), ("2001:db8::2", 80)),
    ),
    "v2 unix": (version_2(1, 0x31, UNIX), ProxyHeader(2, "/run/client", "/run/server")),
    "v2 local": (version_2(0, 0x00, b""), ProxyHeader(2, None, None)),
    "v2 local with addresses": (version_2(0, 0x11, INET), ProxyHeader(2, None, None)),
    "v2 unspecified": (version_2(1, 0x00, b"whatever"), ProxyHeader(2, None, None)),
    "v2 datagrams": (version_2(1, 0x12, INET), ProxyHeader(2, None, None)),
    "v2 unknown family": (version_2(1, 0x41, b""), ProxyHeader(2, None, None)),
    "v2 largest": (
        version_2(1, 0x00, bytes(MAX_HEADER_SIZE - 16)),
        ProxyHeader(2, None, None),
    ),
}

INVALID = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing": b"",
    "cut": b"PROXY TCP4 192.0.2.1 ",
    "cut v2": version_2(1, 0x11, INET)[:-1],
    "cut signature": SIGNATURE[:5],
    "line too long": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "LF alone": b"PROXY UNKNOWN\n" + b" " * 20,
    "CR alone": b"PROXY UNKNOWN\r " + b" " * 20,
    "no protocol": b"PROXY \r\n" + b" " * 20,
    "other protocol": b"PROXY UDP4 192.0.2.1 192.0.2.2 1234 443\r\n",
    "lower case": b"proxy TCP4 192.0.2.1 192.0.2.2 1234 443\r\n",
    "family of other addresses": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "too few fields": b"PROXY TCP4 192.0.2.1 192.0.2.2 1234\r\n",
    "too many fields": b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443 1\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.1 192.0.2.2 1234 443\r\n",
    "port too large": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
    "port with sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
    "port with leading zero": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 443\r\n",
    "empty port": b"PROXY TCP4 192.0.2.1 192.0.2.2  443\r\n",
    "not ASCII": "PROXY TCP4 192.0.2.1 192.0.2.2 ١ 443\r\n".encode(),
    "v2 of version 1": version_2(1, 0x11, INET, version=1),
    "v2 unknown command": version_2(2, 0x11, INET),
    "v2 addresses too short": version_2(1, 0x11, INET[:-1]),
    "v2 too large": version_2(1, 0x00, bytes(MAX_HEADER_SIZE - 15)),
}


def parse(data, size):
    """Return the header and what is left over, reading at most ``size`` bytes at once."""
    parser = ProxyHeaderParser()
    while parser.wanted:
        piece, data = data[: min(size, parser.wanted)], data[min(size, parser.wanted) :]
        parser.receive(piece)
    return parser.header, data


@pytest.mark.parametrize("size", [1, 2, 7, 13, 10_000])
@pytest.mark.parametrize("name", HEADERS)
def test_headers(name, size):
    data, header = HEADERS[name]
    assert parse(data + b"rest", size) == (header, b"rest")


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_headers(name, size):
    parser = ProxyHeaderParser()
    data = INVALID[name]
    with pytest.raises(InvalidMessage, match="valid PROXY protocol header") as raised:
        while parser.wanted:
            piece, data = data[: min(size, parser.wanted)], data[min(size, parser.wanted) :]
            parser.receive(piece)
    assert raised.value.__cause__ is not None
    assert parser.wanted == 0
    assert parser.header is None


def test_no_more_than_wanted():
    parser = ProxyHeaderParser()
    with pytest.raises(ValueError, match="13 bytes, but only 12 were wanted"):
        parser.receive(bytes(13))
    parser.receive(b"PROXY UNKNOW")
    assert parser.wanted == 1
