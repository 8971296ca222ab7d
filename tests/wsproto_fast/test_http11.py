"""HTTP/1.1 messages: every input whole, byte by byte, and cut at random places."""

import importlib.util
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_fast import __version__, http11
from wsproto_fast._http11 import RequestParser
from wsproto_fast._http11_response import ResponseParser
from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import SecurityError
from wsproto_fast.http11 import Request, Response

from .http11_helpers import (
    BAD_LONGER_RESPONSES,
    BAD_REQUESTS,
    BAD_RESPONSES,
    BODY,
    CHUNKED,
    GET,
    LINE,
    LONGER_RESPONSES,
    MANY,
    OK,
    REQUESTS,
    RESPONSES,
    check,
    cut,
    ok,
    response,
    run,
    same,
)


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


def test_limit_of_lines():
    """Their ends count."""
    for size in (8192, 8193):
        for begin in (b"GET /", b"GET / HTTP/1.1\r\nX:"):
            end = b" HTTP/1.1\r\n" if begin == b"GET /" else b"\r\n"
            line = begin.rpartition(b"\n")[2]
            data = begin + b"a" * (size - len(line) - len(end)) + end
            for pieces in ([data], [data[:5000], data[5000:-1], data[-1:]]):
                parser = RequestParser()
                try:
                    for piece in pieces:
                        parser.feed_data(piece)
                except SecurityError:
                    assert size == 8193
                else:
                    assert size == 8192


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
