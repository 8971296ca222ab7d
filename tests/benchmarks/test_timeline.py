"""The time line of keepalive and deadlines runs, and says in which order things happen."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import plot, timeline


def test_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "timeline.svg"
    assert timeline.main(["--scale", "0.05", "--svg", str(image)]) == 0
    stories = capsys.readouterr().out.strip().split("\n\n")
    titles = [story.splitlines()[0] for story in stories]
    assert titles == list(timeline.STORIES)
    found = {
        title: [line.partition(" s  ")[2] for line in story.splitlines()[1:]]
        for title, story in zip(titles, stories, strict=True)
    }
    assert found["nobody says anything"][:3] == ["connection open", "Ping sent", "Pong received"]
    # When exactly the network is cut doesn't matter.
    assert "network cut" in found["the peer is gone"]
    found["the peer is gone"].remove("network cut")
    assert found["the peer is gone"] == [
        "connection open",
        "Ping sent",
        "no answer: given up",
        "Close frame sent",
        "TCP connection closed",
        "recv() raises ConnectionClosedError",
    ]
    assert found["the peer is gone while closing"][-3:] == [
        "Close frame sent",
        "TCP connection closed",
        "close() returns",
    ]
    assert found["the server doesn't answer the request"] == [
        "connect() called",
        "connect() raises TimeoutError",
    ]
    assert found[titles[-1]][-1] == "send() raises ConnectionClosedError"
    texts = {element.text for element in ElementTree.parse(image).iter()}
    assert {"no answer: given up", "TCP connection closed", *titles} <= texts


def test_labels_dont_overlap() -> None:
    events = [(0.0, "a label that is long"), (0.1, "another one"), (9.0, "the last one")]
    drawing = ElementTree.fromstring(plot.timeline([("title", events)]))
    heights = {element.text: float(element.get("y", 0)) for element in drawing.iter()}
    assert heights["another one"] > heights["a label that is long"] == heights["the last one"]
