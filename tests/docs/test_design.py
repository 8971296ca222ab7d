"""docs/design.md: its picture and table are what the engine does."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from tests.docs import blocks
from wsproto_fast import Side, State

pytestmark = pytest.mark.skipif(not blocks.pages(), reason="the documents are not beside the tests")


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(blocks.DOCS))
    monkeypatch.delitem(sys.modules, "states", raising=False)
    import states

    return states


def test_files_are_up_to_date(states: object) -> None:
    """``make plots`` writes them."""
    for path, text in states.files().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_changes_of_state(states: object) -> None:
    """The rules of RFC 6455 section 7: nothing leads back, and all leads to the end."""
    changes = states.edges(states.table())
    assert all(before < after for before, after in changes)
    assert {before for before, after in changes if after is State.CLOSED} == set(State) - {
        State.CLOSED
    }
    assert states.outcome(Side.SERVER, State.OPEN, "Close frame is received") == (
        State.CLOSING,
        "Close 1000",
        "end of stream",
    )


def test_pictures_are_pictures(states: object) -> None:
    for path in states.ASSETS.rglob("*.svg"):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
