"""Which redirects are followed, and what is told to whom, without I/O."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from wsapi._shared.target import MAX_REDIRECTS, Target
from wsapi.asyncio.client import connect
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidStatus, InvalidURI, SecurityError
from wsapi.http11 import Response
from wsapi.uri import parse_uri

SECRET = {"Authorization": "Bearer x", "cookie": "a=b", "PROXY-Authorization": "y", "X-Other": "z"}


def refusal(status: int, *locations: str) -> InvalidStatus:
    return InvalidStatus(Response(status, "", Headers([("Location", to) for to in locations])))


def redirect(target: Target, exc: InvalidStatus) -> None:
    """Follow a redirect, or raise why not."""
    decision = target.redirect(exc)
    if not isinstance(decision, str):
        target.stay()
        raise decision
    target.follow(decision, MAX_REDIRECTS)
    target.stay()  # does nothing any more


def names(target: Target) -> list[str]:
    headers = target.request()[1]
    return [] if headers is None else [name for name, _ in Headers(headers).raw_items()]


# ---------------------------------------------------------------------- without I/O


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "uri, location, followed",
    [
        ("ws://h/a/b?c", "/d", "ws://h/d"),
        ("ws://h/a/b?c", "d?e", "ws://h/a/d?e"),
        ("ws://h/a", "//other/d", "ws://other/d"),
        ("ws://h/a", "ws://h:81/", "ws://h:81/"),
        ("ws://h/a", "wss://h/", "wss://h/"),
        ("wss://h/a", "wss://other/", "wss://other/"),
    ],
)
def test_followed(status: int, uri: str, location: str, followed: str) -> None:
    target = Target(uri)
    redirect(target, refusal(status, location))
    assert target.uri == followed


@pytest.mark.parametrize(
    "uri, status, locations, options, exception",
    [
        ("ws://h/", 304, ["/d"], {}, InvalidStatus),
        ("ws://h/", 305, ["/d"], {}, InvalidStatus),
        ("ws://h/", 200, ["/d"], {}, InvalidStatus),
        ("ws://h/", 404, ["/d"], {}, InvalidStatus),
        ("ws://h/", 302, [], {}, InvalidStatus),
        ("ws://h/", 302, ["/d", "/e"], {}, InvalidStatus),
        ("ws://h/", 302, ["http://h/"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://h/#f"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://h:99999/"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://[::1/"], {}, InvalidURI),
        ("wss://h/", 302, ["ws://h/"], {}, SecurityError),
        ("ws://h/", 302, ["/d"], {"socket": True}, ValueError),
        ("ws://h/", 302, ["ws://o/"], {"fixed": "a Unix socket"}, ValueError),
        ("ws://h/", 302, ["ws://h:81/"], {"fixed": "an explicit host or port"}, ValueError),
    ],
)
def test_not_followed(
    uri: str, status: int, locations: list[str], options: Any, exception: type[Exception]
) -> None:
    target = Target(uri, **options)
    exc = refusal(status, *locations)
    with pytest.raises(exception) as info:
        redirect(target, exc)
    assert info.value is exc or exception is not InvalidStatus
    assert target.uri == uri


@pytest.mark.parametrize(
    "location, text",
    [
        # What is wrong with these is told by the standard library, which quotes it.
        ("ws://u:[hunter2]@h/", "ws://u:***@h/ isn't a valid URI: "),
        ("ws://u:[hunter2@h/", "ws://u:***@h/ isn't a valid URI: "),
        ("ws://[::x]/", "ws://[::x]/ isn't a valid URI: "),
    ],
)
def test_password_that_is_not_told(location: str, text: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        redirect(Target("ws://h/"), refusal(302, location))
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)


def test_fixed_place_same_origin() -> None:
    target = Target("ws://h/", fixed="a Unix socket")
    redirect(target, refusal(302, "/d"))
    assert target.uri == "ws://h/d"


def test_number_of_requests() -> None:
    target = Target("ws://h/")
    for _ in range(2):  # each attempt has its own
        target.begin()
        for _ in range(9):
            redirect(target, refusal(302, "/"))
        with pytest.raises(SecurityError, match=r"^more than 10 redirects$"):
            redirect(target, refusal(302, "/"))


@pytest.mark.parametrize("variable", ["WSAPI_MAX_REDIRECTS", "WEBSOCKETS_MAX_REDIRECTS"])
def test_number_of_requests_from_environment(variable: str) -> None:
    code = "from wsapi._shared.target import MAX_REDIRECTS; print(MAX_REDIRECTS)"
    environment = os.environ | {variable: "1_3"}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "13\n"


@pytest.mark.parametrize("headers", [SECRET, Headers(SECRET), list(SECRET.items())])
def test_credentials(headers: Any) -> None:
    target = Target("ws://h/", headers)
    redirect(target, refusal(302, "/d"))
    redirect(target, refusal(302, "ws://H:80/e"))
    assert names(target) == list(SECRET)
    redirect(target, refusal(302, "ws://other/"))
    assert names(target) == ["X-Other"]
    # Nor are they told when it leads back.
    redirect(target, refusal(302, "ws://h/"))
    assert names(target) == ["X-Other"]
    assert len(list(headers)) == 4


def test_credentials_when_not_followed() -> None:
    target = Target("ws://h/", SECRET)
    assert target.redirect(refusal(302, "ws://other/")) == "ws://other/"
    assert names(target) == ["X-Other"]
    target.stay()
    assert names(target) == list(SECRET)
    # What somebody has set stays.
    target.redirect(refusal(302, "ws://other/"))
    target.additional_headers = {"Y": "1"}
    target.stay()
    assert names(target) == ["Y"]


@pytest.mark.parametrize(
    "location, user_info",
    [
        ("/d", ("u", "p")),
        ("ws://h/d", ("u", "p")),
        ("ws://u2:p2@h/d", ("u2", "p2")),
        ("ws://other/", None),
        ("ws://u2:p2@other/", ("u2", "p2")),
        ("wss://h/", None),
    ],
)
def test_user_info(location: str, user_info: tuple[str, str] | None) -> None:
    target = Target("ws://u:p@h/")
    redirect(target, refusal(302, location))
    assert target.request()[0].user_info == user_info


def test_answer_to_a_challenge() -> None:
    """It goes on to the same origin, and to no other one."""
    challenge = Headers({"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    target = Target("ws://u:p@h/")
    assert target.answer_challenge(InvalidStatus(Response(401, "", challenge)))
    assert names(target) == ["Authorization"]
    redirect(target, refusal(302, "/d"))
    assert names(target) == ["Authorization"]
    redirect(target, refusal(302, "ws://other/"))
    assert names(target) == []


@pytest.mark.parametrize("parsed", [False, True])
@pytest.mark.parametrize(
    "uri, expected",
    [
        ("ws://u:p@h/d", ["Authorization"]),
        ("ws://u:p@other/", []),
        ("ws://u:p@h:81/", []),
        ("wss://u:p@h/", []),
        ("ws://u2:p@h/", []),
        ("ws://h/", []),
    ],
)
def test_answer_to_a_challenge_and_another_uri(uri: str, expected: list[str], parsed: bool) -> None:
    """It doesn't go where the program goes next, unless that is the same origin and user."""
    connecting = connect("ws://u:p@h/")
    target = connecting._target
    challenge = Headers({"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    assert target.answer_challenge(InvalidStatus(Response(401, "", challenge)))
    if parsed:
        connecting.ws_uri = parse_uri(uri)
    else:
        connecting.uri = uri
    assert names(target) == expected
    assert connecting.ws_uri == parse_uri(uri)


def test_headers_of_the_caller() -> None:
    headers = Headers({"X": "1"})
    target = Target("ws://h/", headers)
    headers["Y"] = "2"  # for the next connection
    assert names(target) == ["X", "Y"]
    target = Target("ws://h/", iter([("X", "1")]))
    assert names(target) == names(target) == ["X"]
