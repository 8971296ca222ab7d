"""Pictures and tables of what the benchmarks have found."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot
from benchmarks.scenarios import SCENARIOS

RESULTS = plot.RESULTS / "compare.json"


def row(peer: str, best: float, queued: float = 0.0) -> dict[str, Any]:
    return {
        "scenario": "echo-100x64",
        "front_end": "uvloop",
        "peer": peer,
        "best": best,
        "rounds": [{"value": best, "queued": queued}],
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "machine": {
            "time": "2026-01-02T03:04:05Z",
            "processor": "P & Co",
            "cores": 2,
            "system": "S",
            "implementation": "CPython",
            "python": "3.13.0",
            "versions": {"websockets": "17.4"},
        },
        "settings": {"rounds": 5, "seconds": 1.0},
        "scenarios": {"echo-100x64": {"title": "echo", "unit": "µs"}},
        "results": [row("websockets", 20.0), row("wsapi", 8.0), row("wsapi_aiofastnet", 7.0)],
    }


def test_bars_are_sorted_without_variants(document: dict[str, Any]) -> None:
    assert plot.bars_of(document, "uvloop", "echo-100x64") == [("wsapi", 8.0), ("websockets", 20.0)]


def test_picture(document: dict[str, Any]) -> None:
    root = ElementTree.fromstring(plot.comparison(document, "uvloop", plot.LIGHT))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["Echo, 100 connections, 64 B", "µs", "wsapi", "8", "websockets", "20"]
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] / widths[1] == pytest.approx(8 / 20, rel=0.01)


def test_table(document: dict[str, Any]) -> None:
    text = plot.tables(document)
    assert "| echo-100x64 | **wsapi** | 8 | µs | 1.00 |" in text
    assert "| echo-100x64 | websockets | 20 | µs | 2.50 |" in text


def test_origin(document: dict[str, Any]) -> None:
    text = plot.origin(document)
    assert "Measured 2026-01-02 on P & Co, 2 cores, S, CPython 3.13.0; websockets 17.4." in text
    assert "the best of 5 rounds of 1 s" in text
    assert "wasn't quiet" not in text
    document["results"].append(row("raw", 6.0, queued=0.5))
    assert "up to 50% of a window: the machine wasn't quiet" in plot.origin(document)


def test_panels_are_scenarios() -> None:
    for front_end, panels in plot.PANELS.items():
        for name in panels:
            assert SCENARIOS[name].names(front_end), (front_end, name)
            assert name in plot.TITLES


@pytest.mark.skipif(not RESULTS.exists(), reason="there are no results")
def test_files_are_up_to_date() -> None:
    """``make plots`` writes them."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    for path, text in plot.files(document).items():
        if path.parent.parent.exists():
            assert path.read_text(encoding="utf-8") == text, path


def test_makefile_measures_what_is_drawn() -> None:
    makefile = plot.ROOT / "Makefile"
    if not makefile.exists():
        pytest.skip("the Makefile is not beside the tests")
    _, _, rest = makefile.read_text(encoding="utf-8").partition("PLOTTED := ")
    scenarios = rest.replace("\\\n", " ").partition("\n")[0].split()
    assert set(scenarios) == {name for panels in plot.PANELS.values() for name in panels}
