"""Settings and close codes: checked before there is an engine, and by the engine."""

from collections.abc import Callable
from typing import Any

import pytest

from wsproto_fast import Protocol, ProtocolError, Side, check_close, check_settings

INACCEPTABLE = [
    ("max_size", "1", TypeError, "max_size must be int or None; got str"),
    ("max_size", True, TypeError, "max_size must be int or None; got bool"),
    ("max_size", -1, ValueError, "max_size must be 0 or more, or None; got -1"),
    ("max_size", (1, -1), ValueError, "max_size must be 0 or more, or None; got -1"),
    (
        "max_size",
        (1, 2, 3),
        ValueError,
        r"max_size must be one number or a pair of two; got \(1, 2, 3\)",
    ),
    ("max_queue", 1.5, TypeError, "max_queue must be int, a pair of int, or None; got float"),
    ("max_queue", (None, "1"), TypeError, "max_queue must be int, a pair of int, or None; got str"),
    (
        "max_queue",
        (1, 2),
        ValueError,
        r"max_queue must be \(high, low\) with high >= low >= 0; got \(1, 2\)",
    ),
    ("open_timeout", -1, ValueError, "open_timeout must be a number of seconds, 0 or more"),
    ("ping_interval", 0, ValueError, "ping_interval must be more than 0, or None"),
    ("ping_timeout", "1", TypeError, "ping_timeout must be a number of seconds or None, not str"),
    ("open_timeout", True, TypeError, "open_timeout must be a number of seconds or None, not bool"),
    ("close_timeout", float("nan"), ValueError, "close_timeout must be a number of seconds"),
]


def give_to_engine(name: str, value: Any) -> None:
    if name == "max_size":
        Protocol(Side.SERVER, max_size=value)
        return
    protocol = Protocol(Side.SERVER)
    if name == "max_queue":
        protocol.queue_messages(*(value if isinstance(value, tuple) else (value,)))
    else:
        protocol.set_timeouts(**{name: value})


def only_check(name: str, value: Any) -> None:
    check_settings(**{name: value})


@pytest.mark.parametrize("check", [only_check, give_to_engine])
@pytest.mark.parametrize("name, value, error, text", INACCEPTABLE)
def test_settings_that_are_refused(
    check: Callable[[str, Any], None], name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        check(name, value)


def test_settings_that_are_accepted() -> None:
    check_settings()
    check_settings(
        max_size=(None, 2**70),
        max_queue=(None, 4),
        open_timeout=0,
        ping_interval=0.5,
        ping_timeout=None,
        close_timeout=float("inf"),
    )


def test_refused_settings_change_nothing() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.set_timeouts(ping_interval=5, now=0.0)
    with pytest.raises(ValueError, match="close_timeout"):
        protocol.set_timeouts(ping_interval=3, close_timeout=-1, now=1.0)
    assert protocol.next_timeout() == 5


def test_high_mark_follows_from_the_low_one() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.queue_messages(None, 1)
    for number in range(1, 6):
        protocol.receive_data(b"\x81\x80\0\0\0\0")
        assert protocol.reading_wanted is (number <= 4)


@pytest.mark.parametrize(
    "code, reason, text",
    [
        (1006, "", "invalid status code"),
        (1000, "x" * 124, "control frame too long"),
        (None, "reason", "cannot send a reason without a code"),
    ],
)
def test_close_that_is_refused(code: int | None, reason: str, text: str) -> None:
    protocol = Protocol(Side.SERVER)
    with pytest.raises(ProtocolError, match=text):
        check_close(code, reason)
    with pytest.raises(ProtocolError, match=text):
        protocol.send_close(code, reason)
    assert not protocol.output_size


def test_close_that_is_accepted() -> None:
    check_close(None)
    check_close(4999, "x" * 123)
