"""Headers."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_fast._http11 import RequestParser
from wsproto_fast.datastructures import Headers, MultipleValuesError
from wsproto_fast.exceptions import InvalidHeader, InvalidHeaderValue


class Keyed:
    """Neither a mapping nor iterable."""

    def keys(self):
        return ["A"]

    def __getitem__(self, key):
        return key.lower()


@pytest.mark.parametrize(
    ("args", "kwargs", "items"),
    [
        ((), {}, []),
        (([("A", "1"), ("a", "2")],), {}, [("A", "1"), ("a", "2")]),
        (((pair for pair in [("A", "1")]),), {}, [("A", "1")]),
        (({"A": "1"},), {"B": "2"}, [("A", "1"), ("B", "2")]),
        ((Keyed(),), {}, [("A", "a")]),
        ((Headers([("A", "1"), ("A", "2")]),), {"a": "3"}, [("A", "1"), ("A", "2"), ("a", "3")]),
        ((), {"Upgrade": "x"}, [("Upgrade", "x")]),
    ],
)
def test_construction(args, kwargs, items):
    headers = Headers(*args, **kwargs)
    assert list(headers.raw_items()) == items


def test_bad_construction():
    for args in [(1,), (None,), ([("a",)],), ({"a": "b"}, {"c": "d"})]:
        with pytest.raises((TypeError, ValueError)):
            Headers(*args)


def test_keys_are_case_insensitive():
    headers = Headers([("Content-Type", "text/html"), ("Server", "x")])
    assert headers["content-TYPE"] == "text/html"
    assert "CONTENT-type" in headers
    assert "Content" not in headers
    assert 3 not in headers
    assert list(headers) == ["content-type", "server"]
    assert len(headers) == 2
    assert dict(headers) == {"content-type": "text/html", "server": "x"}


def test_missing_and_repeated():
    headers = Headers([("A", "1"), ("a", "2"), ("B", "3")])
    with pytest.raises(KeyError, match="'C'"):
        headers["C"]
    with pytest.raises(MultipleValuesError) as caught:
        headers["A"]
    assert not isinstance(caught.value, KeyError)
    assert str(caught.value) == "'A'"
    for call in (lambda: headers.get("A"), lambda: dict(headers), lambda: list(headers.items())):
        with pytest.raises(MultipleValuesError):
            call()
    assert headers.get("C") is None
    assert headers.get("C", "x") == "x"
    assert headers.get_all("a") == ["1", "2"]
    assert headers.get_all("C") == []
    headers.get_all("a").append("3")
    assert headers.get_all("a") == ["1", "2"]
    assert len(headers) == 2


@pytest.mark.parametrize("looked_at", [False, True])
def test_assignment_appends(looked_at):
    headers = Headers(A="1")
    if looked_at:
        assert "a" in headers
    headers["a"] = "2"
    headers["B"] = "3"
    assert headers.get_all("A") == ["1", "2"]
    assert headers["b"] == "3"
    assert list(headers.raw_items()) == [("A", "1"), ("a", "2"), ("B", "3")]


@pytest.mark.parametrize("value", ["", "a", " a\tb ", "é", "\x80", "ÿ"])
def test_acceptable_values(value):
    headers = Headers()
    headers["Name"] = value
    assert headers["Name"] == value
    assert headers.serialize() == f"Name: {value}\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize("value", ["\n", "a\r\nB: c", "\0", "\x7f", "\x1f", "€"])
def test_unacceptable_values(value):
    headers = Headers(A="1")
    with pytest.raises(InvalidHeaderValue) as caught:
        headers["Name"] = value
    assert (caught.value.name, caught.value.value) == ("Name", value)
    with pytest.raises(InvalidHeaderValue):
        Headers([("Name", value)])
    with pytest.raises(InvalidHeaderValue):
        headers.update(Name=value)
    assert list(headers.raw_items()) == [("A", "1")]


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", "a\r\nB", "a\n", "a\0", " a", "é", "a\t", "a(b)"]
)
def test_unacceptable_names(name):
    headers = Headers(A="1")
    with pytest.raises(InvalidHeader) as caught:
        headers[name] = "x"
    assert caught.value.name == name
    with pytest.raises(InvalidHeader):
        Headers([(name, "x")])
    with pytest.raises(InvalidHeader):
        headers.update({name: "x"})
    assert list(headers.raw_items()) == [("A", "1")]


@pytest.mark.parametrize("name", [5, b"A", None])
def test_names_of_other_types(name):
    with pytest.raises(TypeError):
        Headers()[name] = "x"


class Text:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


@pytest.mark.parametrize(
    ("value", "text"),
    [(42, "42"), (1.5, "1.5"), (True, "True"), (None, "None"), (b"x", "b'x'"), (Text("t"), "t")],
)
def test_values_of_other_types(value, text):
    headers = Headers({"A": value})
    headers["B"] = value
    assert headers.serialize() == f"A: {text}\r\nB: {text}\r\n\r\n".encode()
    assert headers["A"] == text
    with pytest.raises(InvalidHeaderValue):
        headers["C"] = Text("a\r\nB: c")
    assert "C" not in headers


def test_deletion():
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    with pytest.raises(KeyError):
        del headers["C"]
    del headers["a"]
    assert list(headers.raw_items()) == [("B", "2")]
    assert "A" not in headers
    headers.clear()
    assert list(headers.raw_items()) == []
    assert not headers


def test_mutable_mapping():
    headers = Headers(A="1")
    assert headers.setdefault("a", "2") == "1"
    assert headers.setdefault("B", "2") == "2"
    assert headers.pop("b") == "2"
    assert headers.popitem() == ("a", "1")
    assert len(headers) == 0


def test_update_appends():
    headers = Headers(A="1")
    headers.update(Headers([("A", "2"), ("a", "3")]))
    headers.update([("A", "4")], b="5")
    headers.update({"b": "6"})
    assert headers.get_all("a") == ["1", "2", "3", "4"]
    assert headers.get_all("b") == ["5", "6"]
    headers.update(headers)
    assert headers.get_all("b") == ["5", "6", "5", "6"]


def test_equality():
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    assert headers == Headers([("b", "2"), ("a", "1"), ("A", "3")])
    assert headers != Headers([("b", "2"), ("a", "3"), ("A", "1")])
    assert headers != [("A", "1"), ("B", "2"), ("a", "3")]
    assert headers != {"a": "1"}
    with pytest.raises(TypeError):
        hash(headers)


def test_texts():
    headers = Headers([("A", "1"), ("b", "é")])
    assert repr(headers) == "Headers([('A', '1'), ('b', 'é')])"
    assert str(headers) == "A: 1\r\nb: é\r\n\r\n"
    assert headers.serialize() == b"A: 1\r\nb: \xe9\r\n\r\n"
    assert Headers().serialize() == b"\r\n"


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, Headers.copy, lambda headers: pickle.loads(pickle.dumps(headers))],
)
def test_copies_are_independent(duplicate):
    headers = Headers([("A", "1"), ("a", "2")])
    copied = duplicate(headers)
    assert copied == headers
    copied["B"] = "3"
    del copied["A"]
    assert list(headers.raw_items()) == [("A", "1"), ("a", "2")]


def received():
    """Return headers as a parser makes them: nobody has looked at them yet."""
    parser = RequestParser()
    parser.feed_data(b"GET / HTTP/1.1\r\nA: 1\r\na:2 \r\nB:\r\nC: \xe9: x\x85\r\n\r\n")
    return parser.message.headers


RECEIVED = [("A", "1"), ("a", "2"), ("B", ""), ("C", "é: x\x85")]


@pytest.mark.parametrize(
    "look",
    [
        lambda headers: list(headers.raw_items()),
        lambda headers: list(headers.copy().raw_items()),
        lambda headers: list(copy.deepcopy(headers).raw_items()),
        lambda headers: list(pickle.loads(pickle.dumps(headers)).raw_items()),
        lambda headers: list(Headers(headers).raw_items()),
        lambda headers: [tuple(line.split(": ", 1)) for line in str(headers).split("\r\n")[:-2]],
    ],
)
def test_received_headers(look):
    assert look(received()) == RECEIVED
    headers = received()
    assert headers.serialize() == b"A: 1\r\na: 2\r\nB: \r\nC: \xe9: x\x85\r\n\r\n"
    assert look(headers) == RECEIVED
    assert headers.serialize() == b"A: 1\r\na: 2\r\nB: \r\nC: \xe9: x\x85\r\n\r\n"


def test_received_headers_are_changed():
    headers = received()
    headers["D"] = "3"
    assert list(headers.raw_items()) == [*RECEIVED, ("D", "3")]
    assert str(headers).endswith("D: 3\r\n\r\n")
    headers = received()
    del headers["a"]
    assert list(headers.raw_items()) == RECEIVED[2:]
    assert headers.serialize().startswith(b"B: ")
    headers = received()
    headers.clear()
    assert list(headers.raw_items()) == []
    assert headers.serialize() == b"\r\n"
    headers = received()
    headers.update(D="3")
    assert list(headers.raw_items()) == [*RECEIVED, ("D", "3")]


def test_received_headers_are_as_others():
    assert received() == Headers(RECEIVED)
    assert repr(received()) == repr(Headers(RECEIVED))
    assert len(received()) == 3
    assert "c" in received()
    assert received()["C"] == "é: x\x85"
    assert received().get_all("a") == ["1", "2"]
    with pytest.raises(AttributeError, match="'Headers' object has no attribute 'other'"):
        received().other  # noqa: B018


NAMES = st.sampled_from(["A", "a", "B", "b", "Name"])
VALUES = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=3)


@given(st.lists(st.tuples(NAMES, VALUES)), st.lists(st.tuples(st.booleans(), NAMES, VALUES)))
def test_agrees_with_a_list_of_pairs(items, operations):
    headers = Headers(items)
    for delete, name, value in operations:
        if not delete:
            headers[name] = value
            items.append((name, value))
        elif name in headers:
            del headers[name]
            items = [item for item in items if item[0].lower() != name.lower()]
    assert list(headers.raw_items()) == items
    for name in {name for name, _ in items}:
        same = [value for other, value in items if other.lower() == name.lower()]
        assert headers.get_all(name) == same
