"""Events behave like frozen dataclasses, whether they are compiled or not."""

import copy
import dataclasses
import pickle
from typing import Any, get_origin

import pytest
import wsproto.events as reference

from wsproto_fast.wsproto import events

# Name, arguments of the shortest form, arguments of the longest one.
EVENTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "Request",
        {"host": "h", "target": "/"},
        {"extensions": ["x"], "extra_headers": [(b"a", b"b")], "subprotocols": ["chat"]},
    ),
    ("AcceptConnection", {}, {"subprotocol": "chat", "extensions": [], "extra_headers": []}),
    ("RejectConnection", {}, {"status_code": 403, "headers": [(b"a", b"b")], "has_body": True}),
    ("RejectData", {"data": b"no"}, {"body_finished": False}),
    ("CloseConnection", {"code": 1000}, {"reason": "bye"}),
    ("Message", {"data": "x"}, {"frame_finished": False, "message_finished": False}),
    ("TextMessage", {"data": "x"}, {"frame_finished": False, "message_finished": False}),
    ("BytesMessage", {"data": b"x"}, {"frame_finished": False, "message_finished": False}),
    ("Ping", {}, {"payload": b"x"}),
    ("Pong", {}, {"payload": b"x"}),
]
each_event = pytest.mark.parametrize("name, required, more", EVENTS, ids=[e[0] for e in EVENTS])


@each_event
def test_like_a_frozen_dataclass(name: str, required: dict[str, Any], more: dict[str, Any]) -> None:
    cls, theirs = getattr(events, name), getattr(reference, name)
    assert issubclass(cls, events.Event)
    assert [f.name for f in dataclasses.fields(cls)] == [f.name for f in dataclasses.fields(theirs)]
    assert cls.__match_args__ == theirs.__match_args__
    for arguments in (required, required | more):
        event, twin = cls(**arguments), theirs(**arguments)
        assert repr(event) == repr(twin)
        assert dataclasses.asdict(event) == dataclasses.asdict(twin)
        assert event == cls(*arguments.values()) == copy.copy(event)
        assert event == pickle.loads(pickle.dumps(event))
        assert event != twin
        assert event != object()
        assert dataclasses.is_dataclass(event)
    short, long = cls(**required), cls(**required | more)
    assert short != long
    assert dataclasses.replace(short, **more) == long
    if hasattr(copy, "replace"):
        assert copy.replace(short, **more) == long


@each_event
def test_frozen(name: str, required: dict[str, Any], more: dict[str, Any]) -> None:
    event = getattr(events, name)(**required)
    unchanged = repr(event)
    for field in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError, match=field.name):
            setattr(event, field.name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=field.name):
            delattr(event, field.name)
    assert repr(event) == unchanged


@each_event
def test_wrong_arguments(name: str, required: dict[str, Any], more: dict[str, Any]) -> None:
    cls = getattr(events, name)
    with pytest.raises(TypeError):
        cls(**required, unknown=1)
    if required:
        with pytest.raises(TypeError):
            cls()


@pytest.mark.parametrize(
    "name", ["CloseConnection", "Message", "TextMessage", "BytesMessage", "Ping", "Pong"]
)
def test_hash(name: str) -> None:
    required = {e[0]: e[1] for e in EVENTS}[name]
    event = getattr(events, name)(**required)
    assert hash(event) == hash(getattr(reference, name)(**required))
    assert len({event, getattr(events, name)(**required)}) == 1


def test_same_values_of_another_class_differ() -> None:
    assert events.Ping(b"x") != events.Pong(b"x")
    assert events.TextMessage("x") != events.Message("x")


def test_classes() -> None:
    assert issubclass(events.TextMessage, events.Message)
    assert issubclass(events.BytesMessage, events.Message)
    assert not issubclass(events.Ping, events.Message)
    assert get_origin(events.Message[str]) is events.Message


def test_responses() -> None:
    assert events.Ping(b"x").response() == events.Pong(b"x")
    assert events.CloseConnection(1001, "bye").response() == events.CloseConnection(1001, "bye")


def test_matching() -> None:
    match events.CloseConnection(1000, "bye"):
        case events.CloseConnection(code, reason):
            assert (code, reason) == (1000, "bye")
        case _:
            pytest.fail("no match")


def test_subclass_with_attributes() -> None:
    class Stamped(events.TextMessage):
        time = 0.0

    event = Stamped("x")
    event.time = 1.0
    assert event.time == 1.0
    assert repr(event).endswith(".Stamped(data='x', frame_finished=True, message_finished=True)")
    del event.time
    assert event.time == 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.data = "y"  # type: ignore[misc] # it is frozen
