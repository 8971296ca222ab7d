"""Arguments that are refused before any I/O: what is acceptable, and what is said otherwise."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from wsapi._shared import checks
from wsapi._shared.options import CLIENT_OPTIONS, CONNECTION_OPTIONS, defaults
from wsapi.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from wsapi.limits import Rate, Slow


def check_callables(value: object) -> None:
    checks.check_callable("handler", value)


def check_client_extensions(value: object) -> None:
    checks.check_extensions(value, ["get_request_params"])


def check_user_agents(value: object) -> None:
    checks.check_header("user_agent_header", value)


def check_slow(value: object) -> None:
    checks.check_slow(value, 1000, None)


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


GOOD: list[tuple[Callable[[Any], object], list[object]]] = [
    (checks.check_address, [None, ("a", 1), ["::1", 65535], ("a", None), (None, 1)]),
    (check_callables, [None, print, str]),
    (check_client_extensions, [None, [], (ClientPerMessageDeflateFactory(),)]),
    (check_user_agents, [None, "", "é; x"]),
    (
        checks.check_logger,
        [None, logging.getLogger("x"), logging.LoggerAdapter(logging.getLogger("x"), {})],
    ),
    (checks.check_origins, [None, [], ["http://a", None], (re.compile("http://.*"),)]),
    (checks.check_port, [None, 0, 65535]),
    (check_slow, list(Slow)),
    (checks.check_subprotocols, [None, [], ("chat", "superchat")]),
    (checks.check_write_limit, [None, 0, 5, (5, 0), (5, 5), (5, None), (None, 5), (None, None)]),
]


@pytest.mark.parametrize(
    ("check", "value"),
    [(check, value) for check, values in GOOD for value in values],
    ids=name_of,
)
def test_acceptable(check: Callable[[object], object], value: object) -> None:
    check(value)


BAD: list[tuple[Callable[[Any], object], list[tuple[object, type[Exception], str]]]] = [
    (
        checks.check_address,
        [
            ("a:1", TypeError, "address must be a pair of host and port, or None; got 'a:1'"),
            (("a",), TypeError, "address must be a pair"),
            ((b"a", 1), TypeError, "host must be a str or None, not bytes"),
            (("a", "1"), TypeError, "port must be an int or None, not str"),
            (("a", 65536), ValueError, "port must be 0 to 65535; got 65536"),
        ],
    ),
    (check_callables, [("f", TypeError, "handler must be a callable or None, not str")]),
    (
        check_client_extensions,
        [
            ("x", TypeError, "extensions must be a list or None, not a str"),
            (iter([]), TypeError, "extensions must be a list or None, not list_iterator"),
            ([ClientPerMessageDeflateFactory], TypeError, "have name, get_request_params; got <cl"),
            (
                [ServerPerMessageDeflateFactory()],
                TypeError,
                "have name, get_request_params; got <w",
            ),
            ([PerMessageDeflate(False, False, 15, 15)], TypeError, "extension factories"),
        ],
    ),
    (
        check_user_agents,
        [
            (b"x", TypeError, "user_agent_header must be a str or None, not bytes"),
            ("a\r\nb", ValueError, "user_agent_header must have no control characters"),
            ("☃", ValueError, "none outside ISO-8859-1; got '☃'"),
        ],
    ),
    (checks.check_logger, [("x", TypeError, "logger must be a Logger, a LoggerAdapter or None")]),
    (
        checks.check_origins,
        [
            ("http://a", TypeError, "origins must be a list or None, not a str"),
            ([b"http://a"], TypeError, "origins must contain str, .* or None, not bytes"),
            ([re.compile(b"a")], TypeError, "origins must contain str, .* or None, not Pattern"),
        ],
    ),
    (
        checks.check_port,
        [
            (True, TypeError, "port must be an int or None, not bool"),
            ("80", TypeError, "port must be an int or None, not str"),
            (-1, ValueError, "port must be 0 to 65535; got -1"),
        ],
    ),
    (check_slow, [("wait", TypeError, "slow must be a member of Slow, not 'wait'")]),
    (
        checks.check_subprotocols,
        [
            ("chat", TypeError, "subprotocols must be a list"),
            ([1], TypeError, "subprotocols must contain str, not int"),
            (["a b"], ValueError, "subprotocol"),
        ],
    ),
    (
        checks.check_write_limit,
        [
            ((1, 2, 3), ValueError, "one number or a pair of two; got \\(1, 2, 3\\)"),
            (True, TypeError, "write_limit must be int, a pair of int, or None; got bool"),
            ((5, "1"), TypeError, "write_limit must be int, a pair of int, or None; got str"),
            (-1, ValueError, "high >= low >= 0; got \\(-1, None\\)"),
            ((5, 6), ValueError, "high >= low >= 0; got \\(5, 6\\)"),
            ((None, -1), ValueError, "high >= low >= 0; got \\(None, -1\\)"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("check", "value", "error", "text"),
    [(check, *bad) for check, bads in BAD for bad in bads],
    ids=name_of,
)
def test_not_acceptable(
    check: Callable[[object], object], value: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        check(value)


def test_a_callable_that_has_to_be_there() -> None:
    checks.check_callable("handler", print, optional=False)
    with pytest.raises(TypeError, match="handler must be a callable, not NoneType"):
        checks.check_callable("handler", None, optional=False)


def test_names() -> None:
    options = {"a": 1}
    assert checks.check_names("serve", options, ["a", "b"]) == options
    assert checks.check_names("serve", options, ["a", "b"]) is not options
    expected = r"serve\(\) got an unexpected keyword argument 'a', 'c'"
    with pytest.raises(TypeError, match=expected):
        checks.check_names("serve", {"c": 1, "a": 2, "b": 3}, ["b"])


def test_compression() -> None:
    assert checks.check_compression("deflate")
    assert not checks.check_compression(None)
    with pytest.raises(ValueError, match="unsupported compression: gzip"):
        checks.check_compression("gzip")


def test_ports_by_digits() -> None:
    assert checks.port_number("80") == 80
    for other in (80, None, "http", "-1"):
        assert checks.port_number(other) == other


def test_rates() -> None:
    assert checks.check_rates({"message_rate": None, "byte_rate": None}) is None
    given = {"message_rate": 10, "byte_rate": Rate(1000, 5)}
    messages, size = checks.check_rates(given) or (None, None)
    assert messages == Rate.of("message_rate", 10)
    assert size == Rate(1000, 5)
    with pytest.raises(TypeError, match="byte_rate"):
        checks.check_rates({"message_rate": None, "byte_rate": "1"})


def test_what_becomes_of_messages() -> None:
    with pytest.raises(ValueError, match="max_backlog"):
        checks.check_slow(Slow.WAIT, -1, None)
    with pytest.raises(TypeError, match="on_drop must be a callable or None, not int"):
        checks.check_slow(Slow.WAIT, None, 1)


def test_options_of_connections() -> None:
    """Those that are new are given only where they say something: older classes lack them."""
    options = defaults(CLIENT_OPTIONS)
    new = {"slow", "max_backlog", "write_deadline", "on_drop"}
    chosen = checks.check_connection_options(options)
    assert set(chosen) == set(CONNECTION_OPTIONS) - new
    given: dict[str, Any] = {"slow": Slow.CLOSE, "write_deadline": 5, "on_drop": print}
    more = checks.check_connection_options(options | given)
    assert more == chosen | given | {"max_backlog": options["max_backlog"]}
    with pytest.raises(ValueError, match="ping_interval"):
        checks.check_connection_options(options | {"ping_interval": -1})


class Base:
    def ours(self) -> None:
        """It is called."""


def test_overrides() -> None:
    """Of what there isn't here; what a base has is called by that."""
    mine = type("Mine", (Base,), {"theirs": print, "ours": print, "mine": print})
    checks.check_overrides(mine, frozenset({"ours"}))
    with pytest.raises(TypeError, match=r"Mine\.theirs\(\) isn't called by anything in wsapi"):
        checks.check_overrides(mine, frozenset({"theirs"}))
    own = type("Own", (Base,), {"theirs": print, "__module__": "wsapi.own"})
    checks.check_overrides(own, frozenset({"theirs"}))
