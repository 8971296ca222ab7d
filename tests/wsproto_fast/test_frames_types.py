"""Opcodes, close codes, close payloads, and the text of frames."""

import importlib.util

import pytest

from wsproto_fast import frames
from wsproto_fast.exceptions import ProtocolError
from wsproto_fast.frames import (
    EXTERNAL_CLOSE_CODES,
    OK_CLOSE_CODES,
    Close,
    CloseCode,
    Opcode,
    Side,
    State,
    describe_frame,
)


def test_values():
    assert list(Opcode) == [0, 1, 2, 8, 9, 10]
    assert [opcode.name for opcode in Opcode] == ["CONT", "TEXT", "BINARY", "CLOSE", "PING", "PONG"]
    assert (Side.SERVER, Side.CLIENT) == (0, 1)
    assert [state.name for state in State] == ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]
    assert sorted(OK_CLOSE_CODES) == [1000, 1001, 1005]
    assert sorted(EXTERNAL_CLOSE_CODES) == [1000, 1001, 1002, 1003, *range(1007, 1015)]


CLOSE_TEXTS = {
    1000: "OK",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1004: "unknown",
    1005: "no status received [internal]",
    1006: "abnormal closure [internal]",
    1007: "invalid frame payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake failure [internal]",
    1016: "unknown",
    2999: "unknown",
    3000: "registered",
    3999: "registered",
    4000: "private use",
    4999: "private use",
    5000: "unknown",
    0: "unknown",
}


@pytest.mark.parametrize(("code", "text"), CLOSE_TEXTS.items())
def test_close_text(code, text):
    assert str(Close(code, "")) == f"{code} ({text})"
    assert str(Close(code, "reason")) == f"{code} ({text}) reason"
    if code in list(CloseCode):
        assert str(Close(CloseCode(code), "")) == f"{code} ({text})"


def test_reasons_in_one_line():
    reason = "a\r\n\x1b[2J\x9b\u2028\u202eé\\"
    assert str(Close(1000, reason)) == r"1000 (OK) a\r\n\x1b[2J\x9b\u2028\u202eé" + "\\"
    assert Close(1000, reason).reason == reason


@pytest.mark.parametrize("code", [*range(990, 1020), 2999, 3000, 3999, 4000, 4999, 5000, 65535])
def test_codes_allowed_in_frames(code):
    close = Close(code, "é")
    payload = code.to_bytes(2, "big") + "é".encode()
    if 3000 <= code < 5000 or (code in list(CloseCode) and code not in (1005, 1006, 1015)):
        close.check()
        assert close.serialize() == payload
        assert Close.parse(payload) == close
    else:
        for call in (close.check, close.serialize, lambda: Close.parse(payload)):
            with pytest.raises(ProtocolError, match=r"^invalid status code$"):
                call()


@pytest.mark.parametrize("code", [3000.0, 3000.5, float("nan"), "3000", b"", None, [1000]])
def test_codes_that_are_not_integers(code):
    name = type(code).__name__
    for call in (Close(code, "").check, Close(code, "").serialize):
        with pytest.raises(TypeError, match=f"^close code must be int, not {name}$"):
            call()


@pytest.mark.parametrize("reason", [None, b"bye", 5])
def test_reasons_that_are_not_text(reason):
    name = type(reason).__name__
    with pytest.raises(TypeError, match=f"^close reason must be str, not {name}$"):
        Close(1000, reason).serialize()


def test_codes_that_are_integers_of_another_type():
    class Integer:  # as numpy has them
        def __index__(self) -> int:
            return 3000

    assert Close(Integer(), "").serialize() == (3000).to_bytes(2, "big")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_parse_close(kind):
    assert Close.parse(kind(b"")) == Close(1005, "")
    assert Close.parse(kind(b"\x03\xe8")) == Close(1000, "")
    assert Close.parse(kind(b"\x03\xe9bye")) == Close(1001, "bye")
    with pytest.raises(ProtocolError, match=r"^close frame too short$"):
        Close.parse(kind(b"\x03"))
    with pytest.raises(UnicodeDecodeError):
        Close.parse(kind(b"\x03\xe8\xff"))


DESCRIPTIONS = [
    (Opcode.TEXT, b"hello", True, "TEXT 'hello' [5 bytes]"),
    (Opcode.TEXT, b"a", True, "TEXT 'a' [1 byte]"),
    (Opcode.TEXT, b"", False, "TEXT '' [0 bytes, continued]"),
    (Opcode.TEXT, b"\xff\xfe", True, "TEXT ff fe [binary, 2 bytes]"),
    (Opcode.TEXT, b"\x1b[0m", True, "TEXT 1b 5b 30 6d [binary, 4 bytes]"),
    (Opcode.TEXT, "\x85".encode(), True, "TEXT c2 85 [binary, 2 bytes]"),
    (Opcode.TEXT, b"a\n'\tb", True, 'TEXT "a\\n\'\\tb" [5 bytes]'),
    (Opcode.BINARY, b"\x00\x01\xff", True, "BINARY 00 01 ff [3 bytes]"),
    (Opcode.BINARY, b"hello", True, "BINARY 'hello' [text, 5 bytes]"),
    (Opcode.CONT, b"abc", False, "CONT 'abc' [text, 3 bytes, continued]"),
    (Opcode.CONT, b"\xff", True, "CONT ff [binary, 1 byte]"),
    # Characters that fragmentation cuts.
    (Opcode.TEXT, b"caf\xc3", False, "TEXT 'caf\ufffd' [4 bytes, continued]"),
    (Opcode.TEXT, b"\xf0\x9f\x98", False, "TEXT '\ufffd' [3 bytes, continued]"),
    (Opcode.TEXT, b"caf\xc3", True, "TEXT 63 61 66 c3 [binary, 4 bytes]"),
    (Opcode.TEXT, b"\xa9 noir", False, "TEXT a9 20 6e 6f 69 72 [binary, 6 bytes, continued]"),
    (Opcode.BINARY, b"caf\xc3", False, "BINARY 'caf\ufffd' [text, 4 bytes, continued]"),
    (Opcode.CONT, b"\xa9 noir", True, "CONT '\ufffd noir' [text, 6 bytes]"),
    (Opcode.CONT, b"\x82\xac\xe2", False, "CONT '\ufffd\ufffd\ufffd' [text, 3 bytes, continued]"),
    (Opcode.CONT, b"\xa9\xa9\xa9\xa9x", True, "CONT a9 a9 a9 a9 78 [binary, 5 bytes]"),
    (Opcode.CONT, b"a\xc3", True, "CONT 61 c3 [binary, 2 bytes]"),
    (Opcode.PING, b"", True, "PING '' [0 bytes]"),
    (Opcode.PING, b"abc", True, "PING 'abc' [text, 3 bytes]"),
    (Opcode.PONG, b"\x01\x02\x03\x04", True, "PONG 01 02 03 04 [binary, 4 bytes]"),
    (Opcode.PONG, "é".encode(), True, "PONG c3 a9 [binary, 2 bytes]"),
    (Opcode.CLOSE, b"\x03\xe8bye", True, "CLOSE 1000 (OK) bye [5 bytes]"),
    (Opcode.CLOSE, b"", True, "CLOSE '' [0 bytes]"),
    (Opcode.CLOSE, b"x", True, "CLOSE 78 [binary, 1 byte]"),
    (Opcode.CLOSE, b"\x03\xe8\xff", True, "CLOSE 03 e8 ff [binary, 3 bytes]"),
    (Opcode.CLOSE, b"\x00\x00ab", True, "CLOSE 00 00 61 62 [binary, 4 bytes]"),
    (3, b"a", True, "0x3 'a' [text, 1 byte]"),
    (Opcode.TEXT, b"x" * 73, True, f"TEXT '{'x' * 73}' [73 bytes]"),
    (Opcode.TEXT, b"x" * 74, True, f"TEXT '{'x' * 47}...{'x' * 23}' [74 bytes]"),
    (Opcode.TEXT, b"x" * 10**6, True, f"TEXT '{'x' * 47}...{'x' * 23}' [1000000 bytes]"),
    (Opcode.BINARY, b"\xff" * 25, True, f"BINARY {'ff ' * 24}ff [25 bytes]"),
    (Opcode.BINARY, b"\xff" * 26, True, f"BINARY {'ff ' * 16}...{' ff' * 8} [26 bytes]"),
    (Opcode.BINARY, b"\xff" * 10**6, True, f"BINARY {'ff ' * 16}...{' ff' * 8} [1000000 bytes]"),
    (Opcode.CLOSE, b"\xff" * 126, True, f"CLOSE {'ff ' * 16}...{' ff' * 8} [binary, 126 bytes]"),
]


@pytest.mark.parametrize(("opcode", "data", "fin", "text"), DESCRIPTIONS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_describe_frame(opcode, data, fin, text, kind):
    assert describe_frame(opcode, kind(data), fin) == text


@pytest.mark.parametrize("pad", range(8))
@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_long_text_is_cut_between_characters(pad, character):
    text = "a" * pad + character * 5000 + "b" * pad
    shown = describe_frame(Opcode.TEXT, text.encode())
    assert shown.startswith(f"TEXT {repr(text)[:48]}...")
    assert "binary" not in shown


@pytest.mark.parametrize("name", ["WSPROTO_FAST_MAX_LOG_SIZE", "WEBSOCKETS_MAX_LOG_SIZE"])
def test_log_size_comes_from_the_environment(monkeypatch, name):
    monkeypatch.setenv(name, "3_0")
    spec = importlib.util.find_spec("wsproto_fast.frames")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MAX_LOG_SIZE == 30
    assert frames.MAX_LOG_SIZE == 75
    text, _ = module.format_payload(b"x" * 100)
    assert len(text) == 30
