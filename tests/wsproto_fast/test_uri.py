"""WebSocket URIs."""

import pytest

from wsproto_fast.exceptions import InvalidURI
from wsproto_fast.uri import WebSocketURI, parse_uri


@pytest.mark.parametrize(
    ("uri", "parsed", "resource_name", "user_info"),
    [
        ("ws://localhost/", (False, "localhost", 80, "/", "", None, None), "/", None),
        ("wss://LocalHost", (True, "localhost", 443, "", "", None, None), "/", None),
        ("ws://h?a", (False, "h", 80, "", "a", None, None), "/?a", None),
        ("ws://h:8/a?b=c", (False, "h", 8, "/a", "b=c", None, None), "/a?b=c", None),
        ("ws://h/a;b;c", (False, "h", 80, "/a;b;c", "", None, None), "/a;b;c", None),
        ("ws://[::1]:8/", (False, "::1", 8, "/", "", None, None), "/", None),
        ("ws://u:p@h/", (False, "h", 80, "/", "", "u", "p"), "/", ("u", "p")),
        ("ws://u:@h/", (False, "h", 80, "/", "", "u", ""), "/", ("u", "")),
        (
            "ws://%C3%A9%40:%3A@h/",
            (False, "h", 80, "/", "", "é@", ":"),
            "/",
            ("é@", ":"),
        ),
        (
            "wss://é.example/é%C3%A9?€=%20&[]",
            (True, "xn--9ca.example", 443, "/%C3%A9%C3%A9", "%E2%82%AC=%20&[]", None, None),
            "/%C3%A9%C3%A9?%E2%82%AC=%20&[]",
            None,
        ),
        (
            "ws://h/é b?c d",
            (False, "h", 80, "/%C3%A9%20b", "c%20d", None, None),
            "/%C3%A9%20b?c%20d",
            None,
        ),
        ("ws://é:ü@h/", (False, "h", 80, "/", "", "é", "ü"), "/", ("é", "ü")),
    ],
)
def test_valid(uri, parsed, resource_name, user_info):
    result = parse_uri(uri)
    assert result == WebSocketURI(*parsed)
    assert result.resource_name == resource_name
    assert result.user_info == user_info


@pytest.mark.parametrize(
    ("uri", "msg"),
    [
        ("http://h/", "scheme isn't ws or wss"),
        ("h", "scheme isn't ws or wss"),
        ("", "scheme isn't ws or wss"),
        ("ws://", "hostname isn't provided"),
        ("ws:///path", "hostname isn't provided"),
        ("ws://h/#fragment", "fragment identifier is meaningless"),
        ("ws://user@h/", "username provided without password"),
        ("ws://h/a\r\nb", "control characters aren't allowed"),
        ("ws://h\n/", "control characters aren't allowed"),
        ("ws://h/\n", "control characters aren't allowed"),
        ("\tws://h/", "control characters aren't allowed"),
        ("ws://h/\0", "control characters aren't allowed"),
        ("ws://h/?\x7f", "control characters aren't allowed"),
        ("ws://h/é\n", "control characters aren't allowed"),
        ("ws://h/a b", "spaces aren't allowed"),
        ("ws://h/?a b", "spaces aren't allowed"),
        ("ws://h h/", "spaces aren't allowed"),
        (" ws://h/", "spaces aren't allowed"),
        ("ws://h/ ", "spaces aren't allowed"),
        ("ws://h/é ", "spaces aren't allowed"),
        ("ws://h é/", "invalid hostname"),
        ("ws://h<x>/", "invalid hostname"),
        ('ws://h"/', "invalid hostname"),
        ("ws://h^/", "invalid hostname"),
    ],
)
def test_invalid(uri, msg):
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert caught.value.uri == uri
    assert caught.value.msg == msg


@pytest.mark.parametrize("uri", ["ws://h:x/", "ws://h:99999/", "ws://u:%FF@h/"])
def test_other_errors_pass(uri):
    with pytest.raises(ValueError):
        parse_uri(uri)


@pytest.mark.parametrize("uri", ["wss://[::0]:0]@[2s:/", "ws://[::1]:b@[c:/"])
def test_brackets_that_enclose_no_address(uri: str) -> None:
    """They are counted in user and password, too, by urllib, which takes "c:" for a name then."""
    with pytest.raises((InvalidURI, ValueError)):
        parse_uri(uri)


def test_error_without_a_part_of_the_password() -> None:
    """A "/" in a password that isn't escaped ends what a port is looked for in."""
    with pytest.raises(ValueError) as caught:
        parse_uri("ws://user:sec/ret@h/")
    assert str(caught.value).startswith("invalid host or port in ws://user")
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
