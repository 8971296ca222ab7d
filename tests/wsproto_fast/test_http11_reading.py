"""Requests and responses that functions read."""

import pytest

from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import (
    HeaderLineTooLong,
    RequestLineTooLong,
    SecurityError,
    StatusLineTooLong,
)
from wsproto_fast.http11 import Request, Response

from .http11_helpers import (
    BAD_LONGER_RESPONSES,
    BAD_REQUESTS,
    BAD_RESPONSES,
    BODY,
    CHUNKED,
    GET,
    HINTS,
    LINE,
    LONGER_RESPONSES,
    NO_CONTENT,
    OK,
    REQUESTS,
    RESPONSES,
    ok,
)


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
