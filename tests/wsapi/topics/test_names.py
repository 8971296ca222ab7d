"""Names of topics."""

import pytest

from wsapi.topics._names import MAX_NAME_SIZE, check_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "room.1",
        "a b",
        "*",
        ">",
        "a:{b}",
        "ä" * 127,
        "\N{SNOWMAN}" * 85,
        "x" * 255,
        " ",
        "\xa0",
    ],
)
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        (b"room", TypeError, "must be str; got bytes"),
        (None, TypeError, "must be str; got NoneType"),
        ("", ValueError, "must not be empty"),
        ("\0alive.1", ValueError, "control characters"),
        ("a\nb", ValueError, "control characters"),
        ("a\x7f", ValueError, "control characters"),
        ("\x85", ValueError, "control characters"),
        ("a\ud800", ValueError, "surrogates"),
        ("x" * 256, ValueError, f"{MAX_NAME_SIZE} bytes"),
        ("ä" * 128, ValueError, f"{MAX_NAME_SIZE} bytes"),
        ("x" * 10**7, ValueError, f"{MAX_NAME_SIZE} bytes"),
    ],
)
def test_what_is_no_name(name: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        check_name(name)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()  # it can be logged
