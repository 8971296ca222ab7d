"""Grammar of the handshake headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast import headers as h
from wsproto_fast.exceptions import InvalidHeaderFormat, InvalidHeaderValue


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("Upgrade", ["Upgrade"]),
        ("keep-alive, Upgrade", ["keep-alive", "Upgrade"]),
        ("a\t ,\t b", ["a", "b"]),
        (",a", ["a"]),
        ("a,", ["a"]),
        (",, a,,b ,,", ["a", "b"]),
    ],
)
def test_parse_connection(header, options):
    assert h.parse_connection(header) == options
    assert h.parse_subprotocol(header) == options
    assert h.parse_upgrade(header) == options


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("", "expected token at 0"),
        (",", "expected token at 1"),
        ("???", "expected token at 0"),
        (" a", "expected token at 0"),
        ('"a"', "expected token at 0"),
        ("é", "expected token at 0"),
        ("a b", "expected comma at 2"),
        ('a "b"', "expected comma at 2"),
        ("a;b", "expected comma at 1"),
        ("a, b c", "expected comma at 5"),
        ("a, (", "expected token at 3"),
    ],
)
@pytest.mark.parametrize("parse", [h.parse_connection, h.parse_subprotocol])
def test_malformed_lists_of_tokens(header, error, parse):
    with pytest.raises(InvalidHeaderFormat) as caught:
        parse(header)
    assert caught.value.value == f"{error} in {header}"


def test_parse_upgrade():
    assert h.parse_upgrade("a/1, websocket") == ["a/1", "websocket"]
    for header, error in [
        ("", "expected protocol at 0"),
        ("/", "expected protocol at 0"),
        ("a/", "expected comma at 1"),
        ("a /b", "expected comma at 2"),
    ]:
        with pytest.raises(InvalidHeaderFormat) as caught:
            h.parse_upgrade(header)
        assert caught.value.name == "Upgrade"
        assert caught.value.value == f"{error} in {header}"


@pytest.mark.parametrize(
    ("header", "extensions"),
    [
        ("foo", [("foo", [])]),
        ("foo, bar", [("foo", []), ("bar", [])]),
        ("foo; name; token=token", [("foo", [("name", None), ("token", "token")])]),
        ('foo; a="token"; b', [("foo", [("a", "token"), ("b", None)])]),
        ('foo; a="\\t\\ok"', [("foo", [("a", "tok")])]),
        ("foo ; a = b ; c , bar;d", [("foo", [("a", "b"), ("c", None)]), ("bar", [("d", None)])]),
        ("a,b;c,,", [("a", []), ("b", [("c", None)])]),
    ],
)
def test_parse_extension(header, extensions):
    assert h.parse_extension(header) == extensions
    assert h.parse_extension(h.build_extension(extensions)) == extensions


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("", "expected token at 0"),
        (";a", "expected token at 0"),
        ("a;", "expected token at 2"),
        ("a;b=", "expected token at 4"),
        ('a;b="c', "expected quoted string at 4"),
        ('a;b=""', "invalid quoted header content at 4"),
        ('a;b="c d"', "invalid quoted header content at 4"),
        ("a;b c", "expected comma at 4"),
    ],
)
def test_malformed_extensions(header, error):
    with pytest.raises(InvalidHeaderFormat) as caught:
        h.parse_extension(header)
    assert caught.value.name == "Sec-WebSocket-Extensions"
    assert caught.value.value == f"{error} in {header}"


def test_build():
    assert h.build_extension([("a", [("b", None), ("c", "1")]), ("d", [])]) == "a; b; c=1, d"
    assert h.build_subprotocol(["a", "b"]) == "a, b"


@pytest.mark.parametrize(
    "name, parameters",
    [("a b", []), ("", []), ("a", [("b;c", None)]), ("a", [("b", "1, d")]), ("a", [("b", "")])],
)
def test_extension_that_would_be_read_as_another(name, parameters):
    with pytest.raises(ValueError) as caught:
        h.build_extension([("fine", []), (name, parameters)])
    assert str(caught.value) == f"invalid extension: {name!r} with parameters {parameters!r}"


@pytest.mark.parametrize(
    ("subprotocols", "error", "text"),
    [
        (None, TypeError, "subprotocols must be a list"),
        ({"a"}, TypeError, "subprotocols must be a list"),
        ("a", TypeError, "subprotocols must be a list, not a str"),
        ([1], TypeError, ""),
        ([""], ValueError, "invalid subprotocol: "),
        (["a b"], ValueError, "invalid subprotocol: a b"),
        (["é"], ValueError, "invalid subprotocol: é"),
    ],
)
def test_invalid_subprotocols(subprotocols, error, text):
    with pytest.raises(error) as caught:
        h.validate_subprotocols(subprotocols)
    assert not text or str(caught.value) == text


def test_valid_subprotocols():
    for subprotocols in [[], ["a"], ("a", "b")]:
        h.validate_subprotocols(subprotocols)


@pytest.mark.parametrize(
    ("args", "host"),
    [
        (("h", 80, False), "h"),
        (("h", 443, True), "h"),
        (("h", 80, True), "h:80"),
        (("h", 443, False), "h:443"),
        (("127.0.0.1", 80, False), "127.0.0.1"),
        (("::1", 80, False), "[::1]"),
        (("::1", 81, False), "[::1]:81"),
        (("a:b", 80, False), "a:b"),
    ],
)
def test_build_host(args, host):
    assert h.build_host(*args) == host


def test_build_host_with_default_port():
    assert h.build_host("h", 80, False, always_include_port=True) == "h:80"


@pytest.mark.parametrize(
    "header", ["h", "H.example:80", "h:", "127.0.0.1", "[::1]", "[::1]:81", "a_b", "%41"]
)
def test_valid_hosts(header):
    assert h.is_valid_host(header)


@pytest.mark.parametrize(
    "header", ["", ":80", "a b", "a/b", "a@b", "é", "[::1", "a:b", "a:80:80", "a,b?", "%4", "a\n"]
)
def test_invalid_hosts(header):
    assert not h.is_valid_host(header)


@pytest.mark.parametrize(
    ("username", "password", "header"),
    [
        ("a", "b", "Basic YTpi"),
        ("é", "b:", "Basic w6k6Yjo="),
        ("", "", "Basic Og=="),
        ("\udcff", "", "Basic /zo="),
    ],
)
def test_basic_credentials(username, password, header):
    assert h.build_authorization_basic(username, password) == header
    assert h.parse_authorization_basic(header) == (username, password)
    assert h.parse_authorization_basic(header.replace("Basic", "bASIC")) == (username, password)


def test_username_with_colon():
    with pytest.raises(ValueError, match="colon"):
        h.build_authorization_basic("a:", "b")


@pytest.mark.parametrize(
    ("header", "error", "value"),
    [
        ("", InvalidHeaderFormat, "expected token at 0 in "),
        ("Basic", InvalidHeaderFormat, "expected space after scheme at 5 in Basic"),
        ("Basic ", InvalidHeaderFormat, "expected token68 at 6 in Basic ***"),
        ("Basic ???", InvalidHeaderFormat, "expected token68 at 6 in Basic ***"),
        ("Basic YTpi x", InvalidHeaderFormat, "trailing data at 10 in Basic ***"),
        ("Bearer YTpi", InvalidHeaderValue, "unsupported scheme: Bearer"),
        ("AWS4 YTpi", InvalidHeaderValue, "unsupported scheme: ***"),
        ("Basic YTp", InvalidHeaderValue, "expected base64-encoded credentials"),
        ("Basic Y.pi", InvalidHeaderValue, "expected base64-encoded credentials"),
        ("Basic YQ==", InvalidHeaderValue, "expected username:password credentials"),
    ],
)
def test_bad_credentials(header, error, value):
    with pytest.raises(error) as caught:
        h.parse_authorization_basic(header)
    assert caught.value.name == "Authorization"
    assert caught.value.value == value


def test_build_www_authenticate():
    assert h.build_www_authenticate_basic("") == 'Basic realm="", charset="UTF-8"'
    assert h.build_www_authenticate_basic('a"\\é') == 'Basic realm="a\\"\\\\é", charset="UTF-8"'
    with pytest.raises(ValueError, match="invalid characters"):
        h.build_www_authenticate_basic("a\n")


@given(st.text(st.sampled_from('ab,;="\\ \t/é\x01'), max_size=12))
def test_only_format_errors(header):
    for parse in (h.parse_connection, h.parse_upgrade, h.parse_extension, h.parse_subprotocol):
        try:
            items = parse(header)
        except InvalidHeaderFormat as exc:
            value = exc.value
        else:
            assert items
            continue
        assert value.endswith(f" in {header}")
