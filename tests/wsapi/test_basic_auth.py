"""HTTP Basic Authentication on servers, without I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wsapi.helpers import request as raw_request
from wsapi.asyncio.server import basic_auth
from wsapi.http11 import Request
from wsapi.server import BasicAuth, ServerProtocol

PAIR = ("alice", "pass:wörd")
PAIRS = [PAIR, ("bob", ""), ("", "nobody")]


def basic(username: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode(encoding)).decode()


def received(*authorizations: str) -> tuple[ServerProtocol, Request]:
    protocol = ServerProtocol()
    more = "".join(f"Authorization: {value}\r\n" for value in authorizations)
    protocol.receive_data(raw_request(more=more))
    (event,) = protocol.events_received()
    assert isinstance(event, Request)
    return protocol, event


# ---------------------------------------------------------------------- without I/O


@pytest.mark.parametrize("pair", PAIRS)
def test_right_credentials(pair: tuple[str, str]) -> None:
    assert BasicAuth(credentials=PAIRS)(*received(basic(*pair))) is None
    assert BasicAuth(credentials=pair)(*received(basic(*pair))) is None
    assert BasicAuth(credentials=iter(PAIRS))(*received(basic(*pair))) is None
    # As read from JSON.
    assert BasicAuth(credentials=list(pair))(*received(basic(*pair))) is None  # type: ignore[arg-type] # lists, not tuples
    assert BasicAuth(credentials=[list(pair)])(*received(basic(*pair))) is None  # type: ignore[list-item] # lists, not tuples


MISSING, UNSUPPORTED, INVALID = (
    f"{word} credentials\n".encode() for word in ("Missing", "Unsupported", "Invalid")
)


@pytest.mark.parametrize(
    "authorizations, body",
    [
        ([], MISSING),
        ([""], UNSUPPORTED),
        (["Basic"], UNSUPPORTED),
        (["Basic "], UNSUPPORTED),
        (["Basic ???"], UNSUPPORTED),
        (["Basic YQ"], UNSUPPORTED),
        (["Basic YWxpY2U="], UNSUPPORTED),  # no colon
        (["Digest username=alice"], UNSUPPORTED),
        (["Bearer YWxpY2U6cGFzcw=="], UNSUPPORTED),
        ([basic(*PAIR), basic(*PAIR)], UNSUPPORTED),
        ([basic("alice", "wrong")], INVALID),
        ([basic("alice", "")], INVALID),
        ([basic("Alice", PAIR[1])], INVALID),
        ([basic(*PAIR)[:-4]], INVALID),
        ([basic("carol", PAIR[1])], INVALID),
        ([basic("bob", PAIR[1])], INVALID),
        ([basic("", "")], INVALID),
        ([basic("alice", "pass:wörd", "latin-1")], INVALID),
    ],
)
def test_refused(authorizations: list[str], body: bytes) -> None:
    response = BasicAuth("a realm", credentials=PAIRS)(*received(*authorizations))
    assert response is not None
    assert (response.status_code, response.reason_phrase) == (401, "Unauthorized")
    assert response.body == body
    assert response.headers["WWW-Authenticate"] == 'Basic realm="a realm", charset="UTF-8"'
    assert response.headers["Connection"] == "close"
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Date" in response.headers


def test_response_is_sent_by_the_protocol() -> None:
    protocol, request = received()
    response = BasicAuth(credentials=PAIR)(protocol, request)
    assert response is not None
    protocol.send_response(response)
    sent = b"".join(protocol.data_to_send())
    assert sent.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b'\r\nWWW-Authenticate: Basic realm="", charset="UTF-8"\r\n' in sent


def test_scheme_in_any_case() -> None:
    header = basic(*PAIR).replace("Basic", "bAsIc")
    assert BasicAuth(credentials=PAIR)(*received(header)) is None


def test_quotes_in_the_realm() -> None:
    response = BasicAuth('"a\\b"', credentials=PAIR)(*received())
    assert response is not None
    challenge = response.headers["WWW-Authenticate"]
    assert challenge == 'Basic realm="\\"a\\\\b\\"", charset="UTF-8"'


def test_credentials_that_are_not_utf8_become_surrogate_escapes() -> None:
    seen: list[tuple[str, str]] = []

    def check(username: str, password: str) -> bool:
        seen.append((username, password))
        return True

    auth = BasicAuth(check_credentials=check)
    assert auth(*received(basic("é", "à:b", "latin-1"))) is None
    assert seen == [("\udce9", "\udce0:b")]
    configured = BasicAuth(credentials=("\udce9", "\udce0:b"))
    assert configured(*received(basic("é", "à:b", "latin-1"))) is None


def test_lookups_compare_keyed_hashes() -> None:
    """What is compared depends on a secret: each instance has other hashes."""
    found: set[bytes] = set()
    for _ in range(2):
        check: Any = BasicAuth(credentials=PAIRS).check_credentials
        for cell in check.__closure__:
            if isinstance(cell.cell_contents, frozenset):
                found |= cell.cell_contents
    assert len(found) == 2 * len(PAIRS)


def test_coroutine_function_without_io() -> None:
    async def check(username: str, password: str) -> bool:
        return True

    with pytest.raises(TypeError, match="check_credentials must return a bool here"):
        BasicAuth(check_credentials=check)(*received(basic(*PAIR)))


def test_other_awaitables_without_io() -> None:
    class Answer:
        def __await__(self) -> Iterator[None]:
            raise AssertionError("nobody waits for it")

    def check(username: str, password: str) -> Any:
        return Answer()

    with pytest.raises(TypeError, match="check_credentials must return a bool here"):
        BasicAuth(check_credentials=check)(*received(basic(*PAIR)))


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize("make", [BasicAuth, basic_auth])
@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({}, ValueError, "exactly one of credentials and check_credentials must be given"),
        (
            {"credentials": PAIR, "check_credentials": print},
            ValueError,
            "exactly one of credentials and check_credentials must be given",
        ),
        ({"credentials": "alice:secret"}, TypeError, "credentials must be a pair"),
        ({"credentials": ["alice", 5]}, TypeError, "credentials must be a pair"),
        ({"credentials": {"alice", "secret"}}, TypeError, "credentials must be a pair"),
        ({"credentials": ("alice", b"secret")}, TypeError, "credentials must be a pair"),
        ({"credentials": ("alice", "secret", "")}, TypeError, "credentials must be a pair"),
        ({"credentials": [("alice",)]}, TypeError, "credentials must be a pair"),
        ({"credentials": {"alice": "secret"}}, TypeError, "credentials must be a pair"),
        ({"credentials": 42}, TypeError, "credentials must be a pair"),
        ({"credentials": ("a:b", "secret")}, ValueError, "no username with a colon"),
        ({"check_credentials": "secret"}, TypeError, "check_credentials must be a callable"),
        ({"realm": 42, "credentials": PAIR}, TypeError, "realm must be a str, not int"),
        ({"realm": "a\nb", "credentials": PAIR}, ValueError, "realm must have no control char"),
        ({"realm": "☃", "credentials": PAIR}, ValueError, "realm must have no control char"),
    ],
)
def test_bad_arguments(make: Any, arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        make(**arguments)
    assert "secret" not in str(raised.value)
