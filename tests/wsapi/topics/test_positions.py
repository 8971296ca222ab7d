"""Positions, as clients name them."""

from __future__ import annotations

import sys

import pytest

from wsapi.topics.positions import MAX_OFFSET, Position


@pytest.mark.parametrize(
    "value",
    [Position("e1", 7), ("e1", 7), ["e1", 7], "e1:7", str(Position("e1", 7)), "e1:0000000007"],
)
def test_forms(value: object) -> None:
    assert Position.parse(value) == ("e1", 7)


def test_limits() -> None:
    assert Position.parse(("e" * 64, MAX_OFFSET)) == ("e" * 64, MAX_OFFSET)
    assert Position.parse(f"e:{MAX_OFFSET}").offset == MAX_OFFSET
    assert Position.parse(["e", 0]).offset == 0


def test_largest_offset_is_what_numbers_of_javascript_tell_apart() -> None:
    assert MAX_OFFSET == 9007199254740991


@pytest.mark.parametrize(
    "value, error, named",
    [
        (None, TypeError, "NoneType"),
        (7, TypeError, "int"),
        ({"e": 7}, TypeError, "dict"),
        (["e"], TypeError, "list"),
        (["e", 7, 8], TypeError, "list"),
        ([b"e", 7], TypeError, "bytes"),
        (["e", "7"], TypeError, "str"),
        (["e", 7.0], TypeError, "float"),
        (["e", True], TypeError, "bool"),
        (["", 7], ValueError, "epoch"),
        (["e" * 65, 7], ValueError, "epoch"),
        (["é", 7], ValueError, "epoch"),
        (["{t}:meta", 7], ValueError, "epoch"),
        (["e\r\n", 7], ValueError, "epoch"),
        (["e", -1], ValueError, "-1"),
        (["e", MAX_OFFSET + 1], ValueError, "offset"),
        # Neither a float nor text can be made of these.
        (["e", 10**400], ValueError, "offset"),
        (["e", -(10**400)], ValueError, "offset"),
        (["e", 2 ** (sys.get_int_max_str_digits() * 4)], ValueError, "offset"),
        ("e", ValueError, "colon"),
        ("e:", ValueError, "colon"),
        (":7", ValueError, "epoch"),
        ("e:-7", ValueError, "colon"),
        ("e:٧", ValueError, "colon"),
        ("e: 7", ValueError, "colon"),
        ("e:1_0", ValueError, "colon"),
        ("e:" + "9" * 17, ValueError, "colon"),
        ("e:" + "9" * 16, ValueError, "offset"),
        ("e:f:7", ValueError, "epoch"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_what_is_none(value: object, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named) as raised:
        Position.parse(value)
    assert len(str(raised.value)) < 300
