"""HTTP/1.1 messages: every input whole, byte by byte, and cut at random places."""

import importlib.util
import itertools
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_fast import __version__, http11
from wsproto_fast._http11 import RequestParser
from wsproto_fast._http11_response import ResponseParser
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


@pytest.mark.parametrize(("data", "request_"), REQUESTS)
@pytest.mark.parametrize("rest", [b"", b"\r\n", b"\x81\x80\0\0\0\0"])
def test_requests(data, request_, rest):
    check(RequestParser, data + rest, request_, taken=len(data))
    parser = RequestParser()
    parser.feed_data(data)
    assert parser.feed_data(b"more") == 0
    parser.feed_eof()
    for (_, value), (_, original) in zip(
        parser.message.headers.raw_items(), request_.headers.raw_items(), strict=True
    ):
        assert value == original


@given(st.sampled_from(REQUESTS[:7]), st.lists(st.integers(0, 200), max_size=6))
def test_requests_cut_anywhere(case, positions):
    data, request = case
    assert run(RequestParser(), cut(data + b"rest", positions)) == (request, len(data))


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
]


@pytest.mark.parametrize(("data", "error"), BAD_REQUESTS)
def test_bad_requests(data, error):
    check(RequestParser, data, error)


@given(st.sampled_from(BAD_REQUESTS[:37]), st.lists(st.integers(0, 100), max_size=6))
def test_bad_requests_cut_anywhere(case, positions):
    data, error = case
    outcome = run(RequestParser(), [data])
    assert outcome[0][0] is error
    assert same(run(RequestParser(), cut(data, positions)), outcome)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"G" * (LINE + 1), "read 8193 bytes, expected no more than 8192 bytes"),
        (GET + b"a" * (LINE + 100), "read 8193 bytes, expected no more than 8192 bytes"),
        (GET + b"a: b\r\n" * 129, "expected no more than 128 headers"),
        (b"GET / HTTP/1.1\nA: b\n\n", r"invalid HTTP request line: GET / HTTP/1.1\n"),
        (b"\x16\x03\x01\\\xe9", r"invalid HTTP request line: \x16\x03\x01\\\xe9"),
        (b"GET / x HTTP/1.1\r\nA: b\r\n", "invalid HTTP request line: GET / x HTTP/1.1"),
        (
            b"PRI * HTTP/2.0\r\n\r\n",
            "unsupported protocol; expected HTTP/1.1 or HTTP/1.0: PRI * HTTP/2.0",
        ),
        (GET + b"a b: c\r\n\r\n", "invalid HTTP header line: a b: c"),
        (GET + b"a: b\r\n c\r\n\r\n", "invalid HTTP header line:  c"),
        (
            GET + b"a: \0" + b"x" * 300 + b"\r\n",
            r"invalid HTTP header line: a: \x00" + "x" * (http11.MAX_QUOTED - 4) + "...",
        ),
    ],
)
def test_texts_of_errors(data, text):
    assert run(RequestParser(), [data])[0][1] == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"garbage\r\n\r\n", "invalid HTTP status line: garbage"),
        (b"SSH-2.0-OpenSSH\r\n", "invalid HTTP status line: SSH-2.0-OpenSSH"),
        (b"\x15\x03\x03\0", r"invalid HTTP status line: \x15\x03\x03\x00"),
        (b"HTTP/x", "invalid HTTP status line: HTTP/x"),
        (b"HTTP/1.1 200\r\n", "invalid HTTP status line: HTTP/1.1 200"),
        (b"HTTP/1.1 999 ?\r\n", "invalid HTTP status line: HTTP/1.1 999 ?"),
        (b"HTTP/1.1 200 a\0b\r\n", r"invalid HTTP status line: HTTP/1.1 200 a\x00b"),
        (
            b"HTTP/1.0 400 Bad Request\r\n\r\n",
            "unsupported protocol; expected HTTP/1.1: HTTP/1.0 400 Bad Request",
        ),
        (b"HTTP/2 200\r\n\r\n", "unsupported protocol; expected HTTP/1.1: HTTP/2 200"),
        (b"HTTP/1.2 200 OK\r\n", "unsupported protocol; expected HTTP/1.1: HTTP/1.2 200 OK"),
        (b"HTTP/1.1 200 OK\r\na b\r\n", "invalid HTTP header line: a b"),
    ],
)
def test_texts_of_errors_in_responses(data, text):
    check(ResponseParser, data, ValueError)
    assert run(ResponseParser(), [data])[0][1] == text


def test_texts_about_proxies():
    parser = ResponseParser(allow_http10=True, read_body=False)
    with pytest.raises(ValueError, match=r"expected HTTP/1.1 or HTTP/1.0: HTTP/2 200$"):
        parser.feed_data(b"HTTP/2 200\r\n")


@pytest.mark.parametrize("size", [LINE, LINE + 1])
def test_limit_of_unfinished_lines(size):
    for start in (b"", GET):
        parser = RequestParser()
        parser.feed_data(start)
        parser.feed_data(b"a" * LINE)
        assert not parser.complete
        with pytest.raises(SecurityError):
            parser.feed_data(b"a")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "connection closed while reading HTTP request line"),
        (b"GET / HTTP/1.1\r", "connection closed while reading HTTP request line"),
        (GET, "connection closed while reading HTTP headers"),
        (GET + b"A: b\r\n\r", "connection closed while reading HTTP headers"),
    ],
)
def test_requests_that_end_too_early(data, text):
    for chunks in ([data], cut(data, range(len(data)))):
        assert run(RequestParser(), chunks, eof=True)[0] == (EOFError, text)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4), st.booleans())
@example(b"", [], False)
def test_any_bytes_any_cut(data, positions, after_start):
    if after_start:
        data = GET + data
    assert same(run(RequestParser(), cut(data, positions)), run(RequestParser(), [data]))


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


@pytest.mark.parametrize(("data", "rest", "expected"), RESPONSES + LONGER_RESPONSES)
def test_responses(data, rest, expected):
    check(ResponseParser, data, expected)
    check(ResponseParser, data + rest, expected, taken=len(data))


@given(
    st.sampled_from(RESPONSES[:14] + LONGER_RESPONSES), st.lists(st.integers(0, 200), max_size=6)
)
def test_responses_cut_anywhere(case, positions):
    data, rest, expected = case
    assert run(ResponseParser(), cut(data + rest, positions)) == (expected, len(data))


@pytest.mark.parametrize("body", [b"", b"abc\r\n\r\n", b"x" * BODY])
def test_body_up_to_eof(body):
    data = OK + b"\r\n" + body
    assert run(ResponseParser(), [data]) == (None, len(data))
    check(ResponseParser, data, ok(body=body), eof=True)


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


@pytest.mark.parametrize(("data", "error"), BAD_RESPONSES + BAD_LONGER_RESPONSES)
def test_bad_responses(data, error):
    outcome = run(ResponseParser(), [data])[0]
    assert outcome[0] is error
    for chunks in (cut(data, range(min(len(data), MANY))), cut(data, range(0, len(data), 1021))):
        assert same(run(ResponseParser(), chunks), (outcome, None))


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "status line"),
        (b"HTTP/1.1", "status line"),
        (OK, "headers"),
        (OK + b"Content-Length: 3\r\n\r\nab", "body"),
        (OK + CHUNKED + b"\r\n", "body"),
        (OK + CHUNKED + b"\r\n3\r\nab", "body"),
        (OK + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n", "body"),
    ],
)
def test_responses_that_end_too_early(data, part):
    outcome = (EOFError, f"connection closed while reading HTTP {part}")
    assert run(ResponseParser(), [data], eof=True)[0] == outcome


def test_answers_of_proxies():
    def make():
        return ResponseParser(allow_http10=True, read_body=False)

    for version in (b"1.0", b"1.1"):
        data = b"HTTP/%b 200 OK\r\nContent-Length: 3\r\n\r\n" % version
        check(make, data + b"abc", ok(("Content-Length", "3")), taken=len(data))
    check(make, b"HTTP/1.2 200 OK\r\n\r\n", ValueError)
    check(make, OK + b"Transfer-Encoding: gzip\r\n\r\n", ok(("Transfer-Encoding", "gzip")))


def test_common_strings_are_shared():
    def headers():
        parser = RequestParser()
        parser.feed_data(GET + b"Sec-WebSocket-Version: 13\r\nhost: x\r\n\r\n")
        return list(parser.message.headers.raw_items())

    (name, value), (lower, _) = headers()
    (other_name, other_value), (other_lower, _) = headers()
    assert name is other_name
    assert value is other_value
    assert lower is other_lower


def test_serialize():
    assert Request("/a?b", Headers(A="é")).serialize() == b"GET /a?b HTTP/1.1\r\nA: \xe9\r\n\r\n"
    assert Request("*", Headers(), "OPTIONS", "HTTP/1.0").serialize() == (
        b"OPTIONS * HTTP/1.0\r\n\r\n"
    )
    assert response(404, "é", [("A", "b")], b"c\xff").serialize() == (
        b"HTTP/1.1 404 \xe9\r\nA: b\r\n\r\nc\xff"
    )


BLANKS = ["\r\nB: c", "\r", "\n", "\0", " ", "\t", "\x7f", "é", "€", "\ud800"]


@pytest.mark.parametrize("part", ["path", "method", "protocol"])
@pytest.mark.parametrize("wrong", BLANKS)
def test_request_lines_that_would_be_others(part, wrong):
    for value in (wrong, f"/{wrong}", f"{wrong}/", f"/{wrong}x", ""):
        request = Request("/", Headers())
        setattr(request, part, value)
        with pytest.raises(ValueError):
            request.serialize()


@pytest.mark.parametrize("method", ["G(T", "GET:", "GET "])
def test_methods_that_are_no_tokens(method):
    with pytest.raises(ValueError):
        Request("/", Headers(), method).serialize()


@pytest.mark.parametrize("status", [0, -1, 99, 1000])
def test_status_codes_that_cant_be_sent(status):
    with pytest.raises(ValueError):
        response(status).serialize()


def test_messages_are_plain_mutable_dataclasses():
    request = Request("/", Headers())
    request.path = "/a"
    assert request == Request("/a", Headers(), "GET", "HTTP/1.1")
    assert repr(request) == (
        "Request(path='/a', headers=Headers([]), method='GET', protocol='HTTP/1.1')"
    )
    assert response(200) == Response(200, "", Headers(), b"")


class Source:
    """The three reading functions that Request.parse and Response.parse take, over given bytes."""

    def __init__(self, data):
        self.data = data

    def take(self, size):
        data, self.data = self.data[:size], self.data[size:]
        return data

    def read_line(self, limit):
        yield
        end = self.data.find(b"\n") + 1
        if max(end or len(self.data), 0) > limit:
            raise RuntimeError("line too long")
        if not end:
            raise EOFError("no more lines")
        return self.take(end)

    def read_exact(self, size):
        yield
        if len(self.data) < size:
            raise EOFError("no more data")
        return self.take(size)

    def read_to_eof(self, limit):
        yield
        if len(self.data) > limit:
            raise RuntimeError("too much data")
        return self.take(len(self.data))


def exhaust(generator):
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize(("data", "request_"), REQUESTS)
def test_parse_requests_from_lines(data, request_):
    source = Source(data + b"rest")
    assert exhaust(Request.parse(source.read_line)) == request_
    assert source.data == b"rest"


def errors_of_reading(data, error):
    """Return what errors there may be: it takes the end of a line, or a limit, to have a fault."""
    whole = data.endswith(b"\n") or issubclass(error, SecurityError)
    return error if whole else (error, EOFError)


@pytest.mark.parametrize(("data", "error"), BAD_REQUESTS)
def test_parse_bad_requests_from_lines(data, error):
    with pytest.raises(errors_of_reading(data, error)):
        exhaust(Request.parse(Source(data).read_line))


@pytest.mark.parametrize(("data", "rest", "expected"), RESPONSES + LONGER_RESPONSES)
def test_parse_responses_from_lines(data, rest, expected):
    source = Source(data + rest)
    parsed = exhaust(Response.parse(source.read_line, source.read_exact, source.read_to_eof))
    assert parsed == expected
    assert source.data == rest


def test_parse_response_to_eof():
    source = Source(OK + b"\r\nabc")
    parsed = exhaust(Response.parse(source.read_line, source.read_exact, source.read_to_eof))
    assert parsed == ok(body=b"abc")


def test_parse_answer_of_proxy():
    source = Source(b"HTTP/1.0 200 OK\r\n\r\nabc")
    reads = (source.read_line, source.read_exact, source.read_to_eof)
    assert exhaust(Response.parse(*reads, proxy=True)) == ok()
    assert source.data == b"abc"


@pytest.mark.parametrize(("data", "error"), BAD_RESPONSES + BAD_LONGER_RESPONSES)
def test_parse_bad_responses_from_lines(data, error):
    source = Source(data)
    with pytest.raises(errors_of_reading(data, error)):
        exhaust(Response.parse(source.read_line, source.read_exact, source.read_to_eof))


HALVES = [
    (Request, b"", "request line", RequestLineTooLong),
    (Request, b"GET / HT", "request line", RequestLineTooLong),
    (Request, GET, "headers", HeaderLineTooLong),
    (Response, b"HTTP/1.1", "status line", StatusLineTooLong),
    (Response, HINTS + b"\r\n", "status line", StatusLineTooLong),
    (Response, OK + b"A: b\r\n", "headers", HeaderLineTooLong),
    (Response, OK + b"Content-Length: 3\r\n\r\n", "body", SecurityError),
    (Response, OK + CHUNKED + b"\r\n3", "body", SecurityError),
    (Response, OK + CHUNKED + b"\r\n3\r\n", "body", SecurityError),
    (Response, OK + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n", "body", HeaderLineTooLong),
]


def parse(kind, source):
    if kind is Request:
        return exhaust(Request.parse(source.read_line))
    return exhaust(Response.parse(source.read_line, source.read_exact, source.read_to_eof))


@pytest.mark.parametrize(("kind", "data", "part", "error"), HALVES)
def test_parse_from_functions_that_fail(kind, data, part, error):
    class Failing(Source):
        def take(self, size):
            if len(self.data) < size or not self.data:
                raise self.failure
            return super().take(size)

        def read_line(self, limit):
            yield
            return self.take(self.data.find(b"\n") + 1 or len(self.data) + 1)

        def read_exact(self, size):
            yield
            return self.take(size)

    for failure, expected in ((EOFError("over"), EOFError), (RuntimeError("too much"), error)):
        source = Failing(data)
        source.failure = failure
        with pytest.raises(expected) as info:
            parse(kind, source)
        assert info.value.__cause__ is failure
        if expected is EOFError:
            assert str(info.value) == f"connection closed while reading HTTP {part}"
        else:
            assert str(info.value) == "too much"


@pytest.mark.parametrize(("kind", "data", "part", "error"), HALVES)
def test_parse_from_functions_that_return_nothing_at_the_end(kind, data, part, error):
    class Ending(Source):
        def read_line(self, limit):
            yield
            return self.take(self.data.find(b"\n") + 1 or len(self.data))

        def read_exact(self, size):
            yield
            return self.take(size)

    with pytest.raises(EOFError, match=f"connection closed while reading HTTP {part}$"):
        parse(kind, Ending(data))


def test_parse_asks_for_no_more_than_there_is():
    asked = []

    class Asked(Source):
        def read_line(self, limit):
            asked.append(limit)
            return (yield from super().read_line(limit))

        def read_exact(self, size):
            asked.append(-size)
            return (yield from super().read_exact(size))

        def read_to_eof(self, limit):
            asked.append(limit)
            return (yield from super().read_to_eof(limit))

    for data, expected in [
        (NO_CONTENT + b"\r\n", [LINE] * 2),
        (OK + b"Content-Length: 0\r\n\r\n", [LINE] * 3),
        (OK + b"Content-Length: 3\r\n\r\nabc", [LINE] * 3 + [-3]),
        (OK + b"\r\nabc", [LINE] * 2 + [BODY]),
        (OK + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n", [LINE] * 4 + [-3, -2] + [LINE] * 2),
    ]:
        asked.clear()
        parse(Response, Asked(data))
        assert asked == expected


def test_parse_makes_what_it_is_called_on():
    class OwnRequest(Request):
        pass

    class OwnResponse(Response):
        pass

    source = Source(REQUESTS[1][0])
    assert type(exhaust(OwnRequest.parse(source.read_line))) is OwnRequest
    source = Source(NO_CONTENT + b"A: b\r\n\r\n")
    own = exhaust(OwnResponse.parse(source.read_line, source.read_exact, source.read_to_eof))
    assert own == OwnResponse(204, "", Headers([("A", "b")]))


def reload_with(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.find_spec("wsproto_fast.http11")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wsproto_fast.http11", module)
    spec.loader.exec_module(module)
    return module


def test_defaults(monkeypatch):
    module = reload_with(monkeypatch)
    product = f"Python/{sys.version_info[0]}.{sys.version_info[1]} wsproto_fast/{__version__}"
    assert product == module.SERVER
    assert product == module.USER_AGENT
    assert (module.MAX_LINE_LENGTH, module.MAX_NUM_HEADERS) == (8192, 128)
    assert (LINE, http11.MAX_NUM_HEADERS, BODY) == (8192, 128, 2**20)


@pytest.mark.parametrize("prefix", ["WSPROTO_FAST_", "WEBSOCKETS_"])
def test_environment(monkeypatch, prefix):
    values = {"SERVER": "s", "USER_AGENT": "", "MAX_LINE_LENGTH": "1_000", "MAX_NUM_HEADERS": "5",
              "MAX_BODY_SIZE": "7"}  # fmt: skip
    module = reload_with(monkeypatch, **{prefix + name: value for name, value in values.items()})
    assert (module.SERVER, module.USER_AGENT) == ("s", None)
    assert (module.MAX_LINE_LENGTH, module.MAX_NUM_HEADERS, module.MAX_BODY_SIZE) == (1000, 5, 7)


def test_own_environment_comes_first(monkeypatch):
    module = reload_with(monkeypatch, WSPROTO_FAST_SERVER="a", WEBSOCKETS_SERVER="b")
    assert module.SERVER == "a"


@pytest.mark.parametrize("bad", ["OK\r\nX: y", "a\nb", "\x00", "tab\t", "\x7f"])
def test_serialize_refuses_another_first_line(bad: str) -> None:
    with pytest.raises(ValueError, match="invalid HTTP reason phrase"):
        Response(200, bad, Headers()).serialize()
    with pytest.raises(ValueError, match="invalid HTTP request line"):
        Request("/" + bad, Headers()).serialize()


def test_serialize_leaves_other_characters_alone() -> None:
    assert (
        Response(200, "\xdcber\xa0alles", Headers())
        .serialize()
        .startswith(b"HTTP/1.1 200 \xdcber\xa0alles\r\n")
    )
