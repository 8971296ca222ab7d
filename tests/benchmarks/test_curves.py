"""Pictures and tables of growth and latency."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import curves, plot

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {
    "time": "2026-01-02T03:04:05Z",
    "processor": "P & Co",
    "cores": 2,
    "implementation": "CPython",
    "python": "3.13.0",
    "versions": {"websockets": "17.4"},
}


@pytest.fixture
def growth() -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "settings": {"loop": "uvloop", "rounds": 2, "seconds": 1.0},
        "sweeps": {
            "sizes": {"title": "Echo", "grows": "bytes", "unit": "µs"},
            "receivers": {"title": "Nothing", "grows": "receivers", "unit": "µs"},
        },
        "curves": [
            {"sweep": "sizes", "peer": "raw", "queued": 0.0, "best": [[16, 1.0], [4096, 10.0]]},
            {"sweep": "sizes", "peer": "wsapi", "queued": 0.5, "best": [[16, 10.0], [4096, 100.0]]},
            {"sweep": "sizes", "peer": "picows", "queued": 0.0, "best": [[4096, 10.0]]},
            {"sweep": "receivers", "peer": "raw", "queued": 0.0, "best": []},
        ],
    }


def load(factor: float, queued: float = 0.0) -> dict[str, Any]:
    figures = {"50": 10.0 * factor, "99": 100.0 * factor, "99.9": 1000.0 * factor}
    return {"latency_us": figures, "late_us": {"99": 7.0}, "queued": queued}


@pytest.fixture
def latency() -> dict[str, Any]:
    pauses = {"full": 12.0, "opening": 3.0, "echoing": 0.5, "share": 0.01}
    return {
        "machine": MACHINE,
        "settings": {"loop": "uvloop", "rounds": 2, "seconds": 1.0, "idle": 10_000},
        "results": [
            {
                "peer": "wsapi",
                "most": 100_000,
                "loads": {"30": load(1), "90": load(2)},
                "crowded": load(3),
                "pauses": pauses,
            },
            {
                "peer": "raw",
                "most": 200_000,
                "loads": {"30": load(0.5), "90": load(0.7)},
                "crowded": None,
                "pauses": None,
            },
        ],
    }


def lines_of(text: str) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each line, by its colour."""
    root = ElementTree.fromstring(text)
    return {
        line.attrib["stroke"]: [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in line.attrib["points"].split())
        ]
        for line in root.iter(f"{SVG}polyline")
    }


def texts_of(text: str) -> list[str | None]:
    return [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_growth(growth: dict[str, Any]) -> None:
    text = curves.growth(growth, plot.LIGHT)
    found = lines_of(text)
    raw, ours = found[curves.HUES["raw"]], found[plot.LIGHT["ours"]]
    assert raw[0][0] == ours[0][0] < raw[1][0] == ours[1][0]
    assert raw[1][1] == ours[0][1]  # both are 10
    # A factor of ten has the same height everywhere.
    assert raw[0][1] - raw[1][1] == pytest.approx(ours[0][1] - ours[1][1], abs=0.2)
    assert found[curves.HUES["picows"]] == raw[1:]
    texts = texts_of(text)
    assert {"Echo", "CPU µs", "bytes", "16", "4 Ki", "wsapi"} <= set(texts)
    assert "Nothing" not in texts


def test_latency(latency: dict[str, Any]) -> None:
    texts = texts_of(curves.latency(latency, plot.DARK))
    assert "Latency at 30 % of what each can do" in texts
    assert "Latency at 90 % of what each can do" in texts
    assert texts.count("99.9") == 2
    assert plot.DARK["ours"] in lines_of(curves.latency(latency, plot.DARK))


def test_pages(growth: dict[str, Any], latency: dict[str, Any]) -> None:
    page = curves.growth_page(growth)
    assert "assets/benchmarks/growth.svg" in page
    assert "Measured 2026-01-02 on P & Co, 2 cores, CPython 3.13.0, uvloop" in page
    assert "up to 50% of a window" in page
    page = curves.latency_page(latency)
    assert "wasn't quiet" not in page
    assert "| wsapi | 100,000 | 90 % | 20 | 200 | 2,000 | 7 |" in page
    assert "With 10,000 idle connections" in page
    assert "| wsapi | 12.0 | 3.00 | 0.50 | 3,000 |" in page
    assert "| raw | 12.0" not in page
    latency["results"] = latency["results"][1:]
    assert "idle connections" not in curves.latency_page(latency)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.9, 11000, [1, 10, 100, 1000, 10000]),
        (0.9, 21, [1, 2, 5, 10, 20]),
        (3, 4, []),
    ],
)
def test_ticks(low: float, high: float, found: list[float]) -> None:
    assert curves.ticks(low, high) == found


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1"), (1000, "1,000"), (1024, "1 Ki"), (65536, "64 Ki"), (1 << 24, "16 Mi"), (0.5, "0.5")],
)
def test_short(number: float, text: str) -> None:
    assert curves.short(number) == text


@pytest.mark.parametrize("path", [curves.GROWTH, curves.LATENCY])
def test_results_are_there(path: Any) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["machine"]["python"]


def test_files_are_up_to_date() -> None:
    """``make plots`` writes them."""
    for path, text in plot.more_files().items():
        if path.parent.parent.exists():
            assert path.read_text(encoding="utf-8") == text, path
