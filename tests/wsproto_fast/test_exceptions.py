"""Exceptions: bases, attributes and texts."""

import copy
import pickle

import pytest

from wsproto_fast import exceptions as e
from wsproto_fast.datastructures import Headers, MultipleValuesError
from wsproto_fast.frames import Close
from wsproto_fast.http11 import Response

OK = Close(1000, "")
AWAY = Close(1001, "bye")
RESPONSE = Response(503, "Service Unavailable", Headers())

TEXTS = [
    (e.ConnectionClosed(None, None), "no close frame received or sent"),
    (e.ConnectionClosed(None, OK), "sent 1000 (OK); no close frame received"),
    (e.ConnectionClosed(AWAY, None), "received 1001 (going away) bye; no close frame sent"),
    (
        e.ConnectionClosedOK(AWAY, OK, True),
        "received 1001 (going away) bye; then sent 1000 (OK)",
    ),
    (
        e.ConnectionClosedError(AWAY, OK, False),
        "sent 1000 (OK); then received 1001 (going away) bye",
    ),
    (e.InvalidURI("|", "oops"), "| isn't a valid URI: oops"),
    (e.InvalidProxy("|", "oops"), "| isn't a valid proxy: oops"),
    (e.InvalidStatus(RESPONSE), "server rejected WebSocket connection: HTTP 503"),
    (e.InvalidProxyStatus(RESPONSE), "proxy rejected connection: HTTP 503"),
    (e.InvalidMethod("POST"), "unsupported HTTP method: POST"),
    (e.InvalidProtocol("HTTP/1.0"), "unsupported HTTP version: HTTP/1.0"),
    (e.InvalidHeader("Name"), "missing Name header"),
    (e.InvalidHeader("Name", None), "missing Name header"),
    (e.InvalidHeader("Name", ""), "empty Name header"),
    (e.InvalidHeader("Name", "Value"), "invalid Name header: Value"),
    (e.InvalidHeader("Name", "\x9b\n"), "invalid Name header: \\x9b\\n"),
    (
        e.InvalidHeaderFormat("Name", "expected token", "a=|", 2),
        "invalid Name header: expected token at 2 in a=|",
    ),
    (e.InvalidHeaderValue("Name", "Value"), "invalid Name header: Value"),
    (e.InvalidOrigin(None), "missing Origin header"),
    (e.InvalidOrigin("http://x"), "invalid Origin header: http://x"),
    (e.InvalidUpgrade("Upgrade"), "missing Upgrade header"),
    (e.InvalidUpgrade("Connection", "close"), "invalid Connection header: close"),
    (e.NegotiationError("unsupported"), "unsupported"),
    (e.DuplicateParameter("a"), "duplicate parameter: a"),
    (e.InvalidParameterName("a"), "invalid parameter name: a"),
    (e.InvalidParameterValue("a", None), "missing value for parameter a"),
    (e.InvalidParameterValue("a", ""), "empty value for parameter a"),
    (e.InvalidParameterValue("a", "1"), "invalid value for parameter a: 1"),
    (e.ProtocolError("invalid opcode"), "invalid opcode"),
    (e.PayloadTooBig(None, 4), "frame exceeds limit of 4 bytes"),
    (e.PayloadTooBig(5, 4), "frame with 5 bytes exceeds limit of 4 bytes"),
    (e.PayloadTooBig(None, 4, 3), "frame after reading 3 bytes exceeds limit of 7 bytes"),
    (e.PayloadTooBig(5, 4, 3), "frame with 5 bytes after reading 3 bytes exceeds limit of 7 bytes"),
    (e.RateExceeded("bytes", 1e6), "more than 1000000.0 bytes per second"),
    (e.TooManyFragments(3), "fragmented message exceeds limit of 3 frames"),
    (e.InvalidState("connection is closed"), "connection is closed"),
    (e.ConcurrencyError("busy"), "busy"),
    (e.SecurityError("redirect"), "redirect"),
    (MultipleValuesError("a"), "'a'"),
    (MultipleValuesError(), ""),
    (MultipleValuesError("a", "b"), "('a', 'b')"),
]


@pytest.mark.parametrize(("exc", "text"), TEXTS, ids=lambda value: type(value).__name__)
def test_texts(exc, text):
    assert str(exc) == text


@pytest.mark.parametrize("exc", [exc for exc, _ in TEXTS], ids=lambda exc: type(exc).__name__)
def test_copies_keep_text_and_attributes(exc):
    for copied in (copy.copy(exc), pickle.loads(pickle.dumps(exc))):
        assert type(copied) is type(exc)
        assert str(copied) == str(exc)
        assert vars(copied).keys() == vars(exc).keys()


@pytest.mark.parametrize("exc", [exc for exc, _ in TEXTS], ids=lambda exc: type(exc).__name__)
def test_copies_keep_what_programs_add(exc):
    exc = copy.copy(exc)  # others test it, too
    exc.add_note("while testing")
    exc.peer = "a"
    for copied in (copy.copy(exc), copy.deepcopy(exc), pickle.loads(pickle.dumps(exc))):
        assert str(copied) == str(exc)
        assert copied.__notes__ == ["while testing"]
        assert copied.peer == "a"


BASES = {
    "ConcurrencyError": ("WebSocketException", "RuntimeError"),
    "ConnectionClosed": ("WebSocketException",),
    "ConnectionClosedError": ("ConnectionClosed",),
    "ConnectionClosedOK": ("ConnectionClosed",),
    "DuplicateParameter": ("NegotiationError",),
    "HeaderLineTooLong": ("SecurityError",),
    "InvalidHandshake": ("WebSocketException",),
    "InvalidHeader": ("InvalidHandshake",),
    "InvalidHeaderFormat": ("InvalidHeader",),
    "InvalidHeaderValue": ("InvalidHeader",),
    "InvalidMessage": ("InvalidHandshake",),
    "InvalidMethod": ("InvalidHandshake",),
    "InvalidOrigin": ("InvalidHeader",),
    "InvalidParameterName": ("NegotiationError",),
    "InvalidParameterValue": ("NegotiationError",),
    "InvalidProtocol": ("InvalidHandshake",),
    "InvalidProxy": ("WebSocketException",),
    "InvalidProxyMessage": ("ProxyError",),
    "InvalidProxyStatus": ("ProxyError",),
    "InvalidState": ("WebSocketException", "AssertionError"),
    "InvalidStatus": ("InvalidHandshake",),
    "InvalidURI": ("WebSocketException",),
    "InvalidUpgrade": ("InvalidHeader",),
    "NegotiationError": ("InvalidHandshake",),
    "PayloadTooBig": ("WebSocketException",),
    "ProtocolError": ("WebSocketException",),
    "ProxyError": ("InvalidHandshake",),
    "RequestLineTooLong": ("SecurityError",),
    "SecurityError": ("InvalidHandshake",),
    "StatusLineTooLong": ("SecurityError",),
    "RateExceeded": ("WebSocketException",),
    "TooManyFragments": ("WebSocketException",),
    "TooManyHeaders": ("SecurityError",),
    "WebSocketException": ("Exception",),
}


def test_tree():
    tree = {name: tuple(base.__name__ for base in getattr(e, name).__bases__) for name in e.__all__}
    assert tree == BASES


@pytest.mark.parametrize(
    ("exc", "attributes"),
    [
        (e.ConnectionClosed(AWAY, OK, True), {"rcvd": AWAY, "sent": OK, "rcvd_then_sent": True}),
        (e.InvalidURI("u", "m"), {"uri": "u", "msg": "m"}),
        (e.InvalidProxy("p", "m"), {"proxy": "p", "msg": "m"}),
        (e.InvalidStatus(RESPONSE), {"response": RESPONSE}),
        (e.InvalidProxyStatus(RESPONSE), {"response": RESPONSE}),
        (e.InvalidMethod("M"), {"method": "M"}),
        (e.InvalidProtocol("P"), {"protocol": "P"}),
        (e.InvalidHeader("N", "V"), {"name": "N", "value": "V"}),
        (e.InvalidHeaderFormat("N", "E", "H", 1), {"name": "N", "value": "E at 1 in H"}),
        (e.InvalidOrigin("O"), {"name": "Origin", "value": "O"}),
        (e.DuplicateParameter("N"), {"name": "N"}),
        (e.InvalidParameterName("N"), {"name": "N"}),
        (e.InvalidParameterValue("N", "V"), {"name": "N", "value": "V"}),
        (
            e.PayloadTooBig(5, 4, 3),
            {"size": 5, "max_size": 7, "current_size": 3, "message": None},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attributes(exc, attributes):
    for name, value in attributes.items():
        assert getattr(exc, name) == value


@pytest.mark.parametrize("kind", [e.InvalidURI, e.InvalidProxy])
def test_representation_without_password(kind):
    exc = kind("ws://user:secret@host", "oops")
    assert repr(exc).startswith(f"{kind.__name__}('ws://")
    assert repr(exc).endswith("@host', 'oops')")
    assert "secret" not in repr(exc) + str(exc)


@pytest.mark.parametrize("order", [True, False])
def test_order_of_close_frames_needs_both(order):
    with pytest.raises(AssertionError):
        e.ConnectionClosed(OK, None, order)
    with pytest.raises(AssertionError):
        e.ConnectionClosed(OK, AWAY)


def test_deprecated_code_and_reason():
    for exc, code, reason in [
        (e.ConnectionClosed(AWAY, OK, True), 1001, "bye"),
        (e.ConnectionClosed(None, OK), 1006, ""),
    ]:
        with pytest.deprecated_call():
            assert exc.code == code
        with pytest.deprecated_call():
            assert exc.reason == reason


def test_payload_too_big_with_a_message_is_deprecated():
    with pytest.deprecated_call():
        exc = e.PayloadTooBig("too big")
    assert str(exc) == "too big"
    assert exc.message == "too big"
    with pytest.raises(ValueError, match="current_size"):
        exc.set_current_size(1)


def test_payload_too_big_arguments():
    with pytest.raises(TypeError):
        e.PayloadTooBig("too big", 3)
    with pytest.raises(TypeError):
        e.PayloadTooBig(3)
    exc = e.PayloadTooBig(5, 4)
    exc.set_current_size(10)
    assert (exc.max_size, exc.current_size) == (14, 10)
    with pytest.raises(ValueError, match="current_size"):
        exc.set_current_size(1)
