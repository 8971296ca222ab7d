"""Codecs: what they are made of, the one for JSON, and those of other libraries."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from wsapi.codecs import (
    JSON,
    MAX_REASON,
    Codec,
    DecodeError,
    check_on_error,
    codec,
    decode_error,
    not_a_message,
)
from wsapi.exceptions import WebSocketException


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"encode": None, "decode": str}, "encode must be callable, not NoneType"),
        ({"encode": str, "decode": 1}, "decode must be callable, not int"),
        (
            {"encode": str, "decode": str, "text": 1},
            "text must be a bool or None, not int",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        codec(**arguments)


def test_functions() -> None:
    made = codec(repr, eval)
    assert (made.encode([1]), made.decode("[1]"), made.text) == ("[1]", [1], None)
    assert codec(repr, eval, text=False).text is False


class TestJson:
    def test_short_utf8(self) -> None:
        assert JSON.encode({"a": [1, "é"], 2: None}) == '{"a":[1,"é"],"2":null}'
        assert JSON.text is True

    @pytest.mark.parametrize("message", ['{"a": 1.5}', b'{"a": 1.5}', ' {"a":1.5}\r\n'])
    def test_decode(self, message: str | bytes) -> None:
        assert JSON.decode(message) == {"a": 1.5}

    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
    def test_no_constants(self, constant: str) -> None:
        with pytest.raises(ValueError, match=f"{constant} isn't JSON"):
            JSON.decode(f"[{constant}]")
        with pytest.raises(ValueError, match="not JSON compliant"):
            JSON.encode([float(constant)])

    def test_only_utf8(self) -> None:
        """RFC 8259 section 8.1."""
        for encoding in ("utf-16", "utf-32-le"):
            with pytest.raises(ValueError, match=r"decode|Expecting"):
                JSON.decode('{"a": 1}'.encode(encoding))

    def test_imported_when_it_is_used(self) -> None:
        code = (
            "import sys; before = set(sys.modules); import wsapi.codecs as c; "
            "print('json' in set(sys.modules) - before); c.JSON.encode(1); "
            "print('json' in sys.modules)"
        )
        shown = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert shown.split() == ["False", "True"]


class TestDecodeError:
    @pytest.mark.parametrize(
        "message, text",
        [
            ("secret", "can't decode text message of 6 characters: no"),
            (b"secret", "can't decode binary message of 6 bytes: no"),
        ],
    )
    def test_text(self, message: str | bytes, text: str) -> None:
        error = DecodeError(message, "no")
        assert str(error) == text
        assert repr(error) == f"<DecodeError: {text}>"
        assert (error.message, error.reason) == (message, "no")
        assert isinstance(error, (WebSocketException, ValueError))

    def test_pickle(self) -> None:
        error = pickle.loads(pickle.dumps(DecodeError("m", "no")))
        assert (error.message, error.reason) == ("m", "no")


def test_exception_that_cannot_be_shown() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise LookupError

    for exc in (KeyError(10**5000), Odd()):
        error = decode_error(b"m", exc)
        assert error.reason == type(exc).__name__
        assert error.__cause__ is exc


def test_not_a_message() -> None:
    assert str(not_a_message(["a"])) == "codec must encode to str or bytes, not list"


def orjson_codec() -> Codec[Any, Any]:
    orjson = pytest.importorskip("orjson", reason="orjson isn't installed")
    return codec(orjson.dumps, orjson.loads, text=True)


def msgspec_codec() -> Codec[Any, Any]:
    msgspec = pytest.importorskip("msgspec", reason="msgspec isn't installed")
    event = msgspec.defstruct("Event", [("name", str), ("number", int)])
    json = msgspec.json
    made: Codec[Any, Any] = codec(json.encode, json.Decoder(event).decode, text=True)
    return made


def msgspec_msgpack_codec() -> Codec[Any, Any]:
    msgspec = pytest.importorskip("msgspec", reason="msgspec isn't installed")
    event = msgspec.defstruct("Event", [("name", str), ("number", int)])
    return codec(msgspec.msgpack.encode, msgspec.msgpack.Decoder(event).decode)


def pydantic_codec() -> Codec[Any, Any]:
    pydantic = pytest.importorskip("pydantic", reason="pydantic isn't installed")
    event = pydantic.create_model("Event", name=(str, ...), number=(int, ...))
    adapter = pydantic.TypeAdapter(event)
    return codec(adapter.dump_json, adapter.validate_json, text=True)


@pytest.mark.parametrize(
    "make, text",
    [
        (orjson_codec, True),
        (msgspec_codec, True),
        (msgspec_msgpack_codec, None),
        (pydantic_codec, True),
    ],
)
class TestLibraries:
    def test_there_and_back(self, make: Any, text: bool | None) -> None:
        made = make()
        assert made.text is text
        fields = {"name": "é", "number": 1}
        message = JSON.encode(fields) if text else b"\x82\xa4name\xa2\xc3\xa9\xa6number\x01"
        value = made.decode(message)
        encoded = made.encode(value)
        assert isinstance(encoded, bytes)
        assert made.decode(encoded) == value
        assert JSON.decode(encoded) == fields if text else encoded == message

    def test_bad_data(self, make: Any, text: bool | None) -> None:
        made = make()
        for message in ("{", b"\xff", "", '{"name": 1'):
            with pytest.raises((ValueError, TypeError)):
                made.decode(message)


@pytest.mark.parametrize("on_error", ["raise", "close"])
def test_what_follows_an_error(on_error: Any) -> None:
    check_on_error(on_error)


@pytest.mark.parametrize("on_error", ["ignore", "", None, True])
def test_what_cannot_follow_an_error(on_error: Any) -> None:
    with pytest.raises(ValueError) as caught:
        check_on_error(on_error)
    assert str(caught.value) == f"on_error must be 'raise' or 'close', not {on_error!r}"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("no number", "ValueError: no number"),
        ("first line\nsecond line", "ValueError: first line"),
        (MAX_REASON * "x", "ValueError: " + (MAX_REASON - 12) * "x" + "..."),
        ((MAX_REASON - 12) * "x", "ValueError: " + (MAX_REASON - 12) * "x"),
    ],
)
def test_error_of_a_decoder(text: str, reason: str) -> None:
    cause = ValueError(text)
    error = decode_error("message", cause)
    assert (error.message, error.reason, error.__cause__) == ("message", reason, cause)
