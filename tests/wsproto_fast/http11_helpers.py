"""What tests of HTTP/1.1 have in common."""

import itertools

from wsproto_fast import http11
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import (
    HeaderLineTooLong,
    RequestLineTooLong,
    SecurityError,
    StatusLineTooLong,
    TooManyHeaders,
)
from wsproto_fast.http11 import Request, Response

LINE = http11.MAX_LINE_LENGTH

BODY = http11.MAX_BODY_SIZE

MANY = 5000  # inputs beyond this size aren't cut into single bytes


def run(parser, chunks, eof=False):
    """Feed a parser; return what it gives, and how many bytes it took."""
    taken = 0
    try:
        for chunk in chunks:
            used = parser.feed_data(chunk)
            taken += used
            assert used == len(chunk) or parser.complete
            if parser.complete:
                break
        if eof:
            parser.feed_eof()
    except Exception as exc:
        assert not parser.complete
        assert parser.message is None or parser.message.body == b""
        return (type(exc), str(exc)), None
    return (parser.message if parser.complete else None), taken


def cut(data, positions):
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def same(outcome, whole):
    """Tell whether an outcome is that of the whole input; errors quote what there is of a line."""
    (result, taken), (whole_result, whole_taken) = outcome, whole
    if isinstance(result, tuple) and isinstance(whole_result, tuple):
        return result[0] is whole_result[0] and whole_result[1].startswith(result[1])
    return (result, taken) == (whole_result, whole_taken)


def check(make, data, expected, *, eof=False, taken=None):
    outcome = run(make(), [data], eof)
    if isinstance(expected, type):
        assert outcome[0][0] is expected
    else:
        assert outcome == (expected, len(data) if taken is None else taken)
    if len(data) <= MANY:
        assert same(run(make(), cut(data, range(len(data))), eof), outcome)
    for size in (len(data) // 2 + 1, 1021):
        assert same(run(make(), cut(data, range(0, len(data), size)), eof), outcome)
    assert run(make(), [bytearray(data)], eof) == outcome
    assert run(make(), [memoryview(data)], eof) == outcome


GET = b"GET / HTTP/1.1\r\n"

REQUESTS = [
    (GET + b"\r\n", Request("/", Headers())),
    (
        b"GET /a?b=c;d#%20 HTTP/1.0\r\nHost: x\r\n\r\n",
        Request("/a?b=c;d#%20", Headers(Host="x"), "GET", "HTTP/1.0"),
    ),
    (b"M-SEARCH * HTTP/1.1\r\n\r\n", Request("*", Headers(), "M-SEARCH")),
    (
        GET + b"A:\r\nB: \r\nC: c\r\nD:\t d\t \r\nE: e \t e\r\nc: \xe9\xff\r\n\r\n",
        Request(
            "/",
            Headers([("A", ""), ("B", ""), ("C", "c"), ("D", "d"), ("E", "e \t e"), ("c", "éÿ")]),
        ),
    ),
    (
        GET + b"!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n",
        Request("/", Headers([("!#$%&'*+-.^_`|~09azAZ", "x")])),
    ),
    (GET + b"Content-Length: 0\r\n\r\n", Request("/", Headers([("Content-Length", "0")]))),
    (
        GET + b"Content-Length: 0\r\ncontent-length: 0\r\n\r\n",
        Request("/", Headers([("Content-Length", "0"), ("content-length", "0")])),
    ),
    (
        b"GET /" + b"x" * (LINE - len(b"GET / HTTP/1.1\r\n")) + b" HTTP/1.1\r\n\r\n",
        Request("/" + "x" * (LINE - len(b"GET / HTTP/1.1\r\n")), Headers()),
    ),
    (
        GET + b"a:" + b"x" * (LINE - 4) + b"\r\n\r\n",
        Request("/", Headers(a="x" * (LINE - 4))),
    ),
    (GET + b"a: b\r\n" * 128 + b"\r\n", Request("/", Headers([("a", "b")] * 128))),
]


BAD_REQUESTS = [
    (b"\r\n\r\n", ValueError),
    (b"\x16\x03\x01\x02\x00", ValueError),
    (b"\x00", ValueError),
    (b" GET / HTTP/1.1\r\n", ValueError),
    (b"GET\r\n\r\n", ValueError),
    (b"GET /\r\n\r\n", ValueError),
    (b"GET  / HTTP/1.1\r\n\r\n", ValueError),
    (b"GET / HTTP/1.1 \r\n\r\n", ValueError),
    (b"GET / \r\n\r\n", ValueError),
    (b"GET\t/ HTTP/1.1\r\n\r\n", ValueError),
    (b"GET /\xe9 HTTP/1.1\r\n\r\n", ValueError),
    (b"G(T / HTTP/1.1\r\n\r\n", ValueError),
    (b"GET / HTTP/1.1\n\n", ValueError),
    (b"GET / HTTP/1.1\r\r\n", ValueError),
    (b"GET / HTTP/0.9\r\n\r\n", ValueError),
    (b"GET / HTTP/1.2\r\n\r\n", ValueError),
    (b"GET / http/1.1\r\n\r\n", ValueError),
    (b"GET / HTTP/1.11\r\n\r\n", ValueError),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ValueError),
    (GET + b"A: b\n\r\n", ValueError),
    (GET + b"A\r\n\r\n", ValueError),
    (GET + b": b\r\n\r\n", ValueError),
    (GET + b"A : b\r\n\r\n", ValueError),
    (GET + b" A: b\r\n\r\n", ValueError),
    (GET + b"A: b\r\n c\r\n\r\n", ValueError),
    (GET + b"A: b\r\n\tc\r\n\r\n", ValueError),
    (GET + b"A(: b\r\n\r\n", ValueError),
    (GET + b"\xe9: b\r\n\r\n", ValueError),
    (GET + b"A: b\0c\r\n\r\n", ValueError),
    (GET + b"A: b\x7f\r\n\r\n", ValueError),
    (GET + b"A: b\rc\r\n\r\n", ValueError),
    (GET + b"\r\r\n", ValueError),
    (GET + b"Content-Length: 1\r\n\r\n", ValueError),
    (GET + b"Content-Length: x\r\n\r\n", ValueError),
    (GET + b"Content-Length: -0\r\n\r\n", ValueError),
    (GET + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n", ValueError),
    (GET + b"Content-Length: " + b"1" * 19 + b"\r\n\r\n", SecurityError),
    (GET + b"Transfer-Encoding: chunked\r\n\r\n", NotImplementedError),
    (GET + b"transfer-ENCODING: identity\r\n\r\n", NotImplementedError),
    (b"G" * (LINE + 1), RequestLineTooLong),
    (b"GET /" + b"x" * LINE, RequestLineTooLong),
    (b"GET /" + b"x" * (LINE - len(GET) + 1) + b" HTTP/1.1\r\n\r\n", RequestLineTooLong),
    (GET + b"a" * (LINE + 1), HeaderLineTooLong),
    (GET + b"a:" + b"x" * (LINE - 1), HeaderLineTooLong),
    (GET + b"a:" + b"x" * (LINE - 3) + b"\r\n\r\n", HeaderLineTooLong),
    (GET + b"a: b\r\n" * 129, TooManyHeaders),
    (b" / HTTP/1.1\r\n\r\n", ValueError),
    (b"GET  HTTP/1.1\r\n\r\n", ValueError),
    (GET + b"content-LENGTH: 1\r\n\r\n", ValueError),
]


OK = b"HTTP/1.1 200 OK\r\n"

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def response(status, reason="", headers=(), body=b""):
    return Response(status, reason, Headers(list(headers)), body)


def ok(*headers, body=b""):
    return response(200, "OK", headers, body)


TE = ("Transfer-Encoding", "chunked")

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n"

NO_CONTENT = b"HTTP/1.1 204 \r\n"

# Each with what follows the message.
RESPONSES = [
    (b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n", b"\x81\0",
     response(101, "Switching Protocols", [("A", "b")])),
    (b"HTTP/1.1 101 \r\n\r\n", b"x", response(101)),
    (b"HTTP/1.1 101 \xe9\t \x80\r\n\r\n", b"x", response(101, "é\t \x80")),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", b"x",
     response(204, "No Content", [("Content-Length", "3")])),
    (b"HTTP/1.1 304 Not Modified\r\n\r\n", b"x", response(304, "Not Modified")),
    (b"HTTP/1.1 599 ???\r\nContent-Length: 0\r\n\r\n", b"x",
     response(599, "???", [("Content-Length", "0")])),
    (OK + b"Content-Length: 3\r\n\r\nabc", b"x", ok(("Content-Length", "3"), body=b"abc")),
    (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", b"x",
     ok(("Content-Length", "1"), ("Content-Length", "1"), body=b"a")),
    (OK + CHUNKED + b"\r\n0\r\n\r\n", b"x", ok(TE)),
    (OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"x",
     ok(("Transfer-Encoding", "Chunked"), body=b"a")),
    (OK + CHUNKED + b"\r\n3\r\nabc\r\n00B;a=\"b\"\r\n0123456789\xff\r\n000\r\n\r\n", b"x",
     ok(TE, body=b"abc0123456789\xff")),
    (OK + CHUNKED + b"\r\n1 \t;x\r\n\n\r\n0;x\r\nTrailer: x\r\nA: b\r\n\r\n", b"x",
     ok(TE, body=b"\n")),
    (OK + CHUNKED + b"\r\n000000000000001\r\na\r\n0\r\n\r\n", b"x", ok(TE, body=b"a")),
    (OK + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", b"x", ok(TE, ("Content-Length", "5"))),
    (OK + b"Content-Length: %d\r\n\r\n" % BODY + b"x" * BODY, b"x",
     ok(("Content-Length", str(BODY)), body=b"x" * BODY)),
    (OK + CHUNKED + b"\r\n0\r\n" + b"a: b\r\n" * 128 + b"\r\n", b"x", ok(TE)),
]  # fmt: skip

LONGER_RESPONSES = [
    # Interim responses
    (HINTS + b"\r\n" + OK + b"A: b\r\nContent-Length: 0\r\n\r\n", b"x",
     ok(("A", "b"), ("Content-Length", "0"))),
    (b"HTTP/1.1 100 \r\nContent-Length: 5\r\n\r\n" + HINTS + CHUNKED + b"\r\n"
     b"HTTP/1.1 101 \r\nA: b\r\n\r\n", b"x", response(101, "", [("A", "b")])),
    ((HINTS + b"\r\n") * http11.MAX_INTERIM_RESPONSES + b"HTTP/1.1 204 \r\n\r\n", b"x",
     response(204)),
    # Header lines that go on (obs-fold)
    (NO_CONTENT + b"A: b\r\n c\r\n\td \t\r\n \t \r\n  e\r\nF:\r\n g\r\nH:\r\n \r\n\r\n", b"x",
     response(204, "", [("A", "b c d e"), ("F", "g"), ("H", "")])),
    (OK + b"Content-Length:\r\n 3\r\n\r\nabc", b"x", ok(("Content-Length", "3"), body=b"abc")),
    (OK + CHUNKED + b"\r\n0\r\nA: b\r\n c\r\n\r\n", b"x", ok(TE)),
    (NO_CONTENT + b"a: b\r\n" + b" c\r\n" * 127 + b"\r\n", b"x",
     response(204, "", [("a", "b" + " c" * 127)])),
]  # fmt: skip


BAD_RESPONSES = [
    (b"\r\n", ValueError),
    (b"xTTP", ValueError),
    (b"http/1.1 200 OK\r\n", ValueError),
    (b"HTTP/1.0 200 OK\r\n", ValueError),
    (b"HTTP/2.0 200 OK\r\n", ValueError),
    (b"HTTP/1.1 200\r\n\r\n", ValueError),
    (b"HTTP/1.1  200 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 099 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 600 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 2000 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 20 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 2x0 OK\r\n\r\n", ValueError),
    (b"HTTP/1.1 200 O\0K\r\n\r\n", ValueError),
    (b"HTTP/1.1 200 OK\n\n", ValueError),
    (OK + b"A b\r\n\r\n", ValueError),
    (OK + b"Content-Length: x\r\n\r\n", ValueError),
    (OK + b"Content-Length: +1\r\n\r\n", ValueError),
    (OK + b"Content-Length: 1, 1\r\n\r\n", ValueError),
    (OK + b"Content-Length: \r\n\r\n", ValueError),
    (OK + b"Content-Length: \xb2\r\n\r\n", ValueError),
    (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", ValueError),
    (OK + b"Content-Length: " + b"0" * 19 + b"\r\n\r\n", SecurityError),
    (OK + b"Content-Length: %d\r\n\r\n" % (BODY + 1), SecurityError),
    (OK + b"Transfer-Encoding: gzip\r\n\r\n", NotImplementedError),
    (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", NotImplementedError),
    (OK + CHUNKED + CHUNKED + b"\r\n", NotImplementedError),
    (OK + CHUNKED + b"\r\n\r\n", ValueError),
    (OK + CHUNKED + b"\r\nx\r\n", ValueError),
    (OK + CHUNKED + b"\r\n-1\r\n", ValueError),
    (OK + CHUNKED + b"\r\n1\na\r\n", ValueError),
    (OK + CHUNKED + b"\r\n1;\0\r\n", ValueError),
    (OK + CHUNKED + b"\r\n0 1\r\n", ValueError),
    (OK + CHUNKED + b"\r\n1 \t\x94;a\r\n", ValueError),
    (OK + CHUNKED + b"\r\n1\r\nab\r\n", ValueError),
    (OK + CHUNKED + b"\r\n1\r\na\rb", ValueError),
    (OK + CHUNKED + b"\r\n" + b"0" * 16 + b"\r\n", SecurityError),
    (OK + CHUNKED + b"\r\n%x\r\n" % (BODY + 1), SecurityError),
    (OK + CHUNKED + b"\r\n1\r\na\r\n%x\r\n" % BODY, SecurityError),
    (OK + CHUNKED + b"\r\n1;" + b"x" * LINE, SecurityError),
    (OK + CHUNKED + b"\r\n0\r\nA b\r\n", ValueError),
    (OK + CHUNKED + b"\r\n0\r\n" + b"a: b\r\n" * 129, TooManyHeaders),
    (OK + b"\r\n" + b"x" * (BODY + 1), SecurityError),
    (b"HTTP/1.1 200 " + b"x" * LINE, StatusLineTooLong),
    (b"HTTP/1.1 200 " + b"x" * (LINE - 14) + b"\r\n\r\n", StatusLineTooLong),
    (OK + b"a: " + b"x" * LINE, HeaderLineTooLong),
    (OK + b"a: b\r\n" * 129, TooManyHeaders),
]


BAD_LONGER_RESPONSES = [
    # Interim responses
    (HINTS + b"\r\n" + b"\x81\x02hi", ValueError),
    (HINTS + b"\r\n" + b"HTTP/1.0 200 OK\r\n", ValueError),
    (HINTS + b"\r\n" + OK + b"Transfer-Encoding: gzip\r\n\r\n", NotImplementedError),
    ((HINTS + b"\r\n") * (http11.MAX_INTERIM_RESPONSES + 1), SecurityError),
    (HINTS + (b"a: " + b"x" * 4091 + b"\r\n") * 16, SecurityError),
    # Header lines that go on (obs-fold)
    (OK + b" A: b\r\n\r\n", ValueError),
    (OK + b"\tA: b\r\n\r\n", ValueError),
    (HINTS + b"\r\n" + OK + b" b\r\n\r\n", ValueError),
    (OK + CHUNKED + b"\r\n0\r\n A: b\r\n\r\n", ValueError),
    (OK + b"A: b\r\n c\0\r\n\r\n", ValueError),
    (OK + b"A: b\r\n c\n\r\n", ValueError),
    (OK + b"Content-Length: 1\r\n 1\r\n\r\n", ValueError),
    (OK + b"a: b\r\n" + b" \r\n" * 128, TooManyHeaders),
    (OK + b"a: b\r\n" * 100 + b" \r\n" * 10 + b"a: b\r\n" * 19, TooManyHeaders),
    (OK + b"a: b\r\n " + b"x" * 8000 + b"\r\n " + b"x" * 200 + b"\r\n", HeaderLineTooLong),
]
