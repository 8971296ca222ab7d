"""Plots as SVG, which needs no library.

``python -m benchmarks.plot`` makes the pictures and tables of docs/performance.md, and the picture
of README.md, of what ``benchmarks.compare --json`` has written to benchmarks/results/compare.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from math import log10
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
PICTURES: Final = ROOT / "docs" / "assets" / "benchmarks"

WIDTH: Final = 900
HEIGHT: Final = 340
TOP: Final = 60
BOTTOM: Final = 290
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")


def crowd(title: str, results: Sequence[dict[str, Any]]) -> str:
    """Return a plot of what ``benchmarks.crowd`` has found.

    Args:
        title: What was done.
        results: Figures of each peer.

    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 20, title, anchor="middle", size=15),
    ]
    for number, row in enumerate(results):
        x = 30 + 170 * number
        parts.append(
            f'<rect x="{x}" y="{HEIGHT - 22}" width="12" height="12" fill="{_colour(number)}"/>'
        )
        parts.append(_text(x + 18, HEIGHT - 12, str(row["peer"])))
    parts += _bars(30, "KiB per connection", [row["memory_kib"] for row in results])
    parts += _bars(240, "µs of processor time per echo", [row["cpu_us"] for row in results])
    parts += _lines(480, "latency in ms, by per cent", [row["latency_ms"] for row in results])
    return "\n".join([*parts, "</svg>", ""])


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _bars(left: float, title: str, values: Sequence[float]) -> list[str]:
    """Draw a bar for each peer, from zero."""
    parts = [_text(left, TOP - 15, title)]
    most = max(*values, 1e-9)
    step = 180 / len(values)
    for number, value in enumerate(values):
        height = (BOTTOM - TOP - 15) * max(0.0, value) / most
        x = left + step * number
        parts.append(
            f'<rect x="{x:.1f}" y="{BOTTOM - height:.1f}" width="{step * 0.7:.1f}" '
            f'height="{height:.1f}" fill="{_colour(number)}"/>'
        )
        parts.append(
            _text(x + step * 0.35, BOTTOM - height - 4, f"{value:.1f}", anchor="middle", size=11)
        )
    return parts


def _lines(left: float, title: str, latencies: Sequence[dict[str, float]]) -> list[str]:
    """Draw a line for each peer, over percentiles; milliseconds on a logarithmic scale."""
    parts = [_text(left, TOP - 15, title)]
    floor = 1e-3
    values = [max(floor, value) for row in latencies for value in row.values()]
    low, high = log10(min(values)), log10(max(values))
    span = max(high - low, 0.1)

    def height(value: float) -> float:
        return BOTTOM - 15 - (BOTTOM - TOP - 25) * (log10(max(floor, value)) - low) / span

    names = list(latencies[0])
    places = [left + 50 + 340 * number / max(1, len(names) - 1) for number in range(len(names))]
    for exponent in (low, (low + high) / 2, high):
        y = height(10**exponent)
        parts.append(
            f'<line x1="{left + 45}" y1="{y:.1f}" x2="{left + 395}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(left + 40, y + 4, f"{10**exponent:.3g}", anchor="end", size=11))
    for name, x in zip(names, places, strict=True):
        parts.append(_text(x, BOTTOM + 5, name, anchor="middle", size=11))
    for number, row in enumerate(latencies):
        points = " ".join(
            f"{x:.1f},{height(row[name]):.1f}" for name, x in zip(names, places, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_colour(number)}" stroke-width="2"/>'
        )
    return parts


def timeline(stories: Sequence[tuple[str, Sequence[tuple[float, str]]]]) -> str:
    """Return a picture of what happened when, one row for each story.

    Args:
        stories: Title and events of each; an event is its time in seconds and what happened.
    """
    left, right, row = 40, WIDTH - 150, 104
    end = max(at for _, events in stories for at, _ in events)
    seconds = range(0, int(end) + 6, 5)
    height = 50 + row * len(stories)

    def place(at: float) -> float:
        return left + (right - left) * at / seconds[-1]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for second in seconds:
        x = place(second)
        parts.append(f'<line x1="{x:.1f}" y1="25" x2="{x:.1f}" y2="{height - 20}" stroke="#eee"/>')
        parts.append(_text(x, 18, f"{second} s", anchor="middle", size=11))
    for number, (title, events) in enumerate(stories):
        top = 42 + row * number
        y = top + 18
        parts.append(_text(left, top, title, size=13))
        ends = place(events[-1][0])
        parts.append(
            f'<line x1="{left}" y1="{y}" x2="{ends:.1f}" y2="{y}" '
            f'stroke="{_colour(number)}" stroke-width="3"/>'
        )
        ends_of_lines = [0.0] * len(events)
        for at, text in events:
            x = place(at)
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{_colour(number)}"/>')
            line = next(line for line, taken in enumerate(ends_of_lines) if taken < x)
            # What comes later stands lower where there is no room beside it, never higher.
            for above in range(line + 1):
                ends_of_lines[above] = max(ends_of_lines[above], x + 6.2 * len(text))
            parts.append(_text(x - 3, y + 18 + 14 * line, text, size=11))
    return "\n".join([*parts, "</svg>", ""])


# ---------------------------------------------------------------------- comparison

# What is drawn of each front-end, if there are results.
PANELS: Final = {
    "uvloop": (
        *("echo-100x64", "pipeline-16x4k", "broadcast-500"),
        *("idle-1000", "handshake", "deflate-1k"),
    ),
    "asyncio": (
        *("echo-100x64", "pipeline-16x4k", "broadcast-500"),
        *("uvicorn-100x64", "handshake", "deflate-1k"),
    ),
    "threads": ("echo-50x64", "client-1x64", "idle-300"),
    "trio": ("echo-100x64", "client-1x64", "idle-1000"),
}
TITLES: Final = {
    "echo-100x64": "Echo, 100 connections, 64 B",
    "echo-50x64": "Echo, 50 connections, 64 B",
    "pipeline-16x4k": "Echo, 16 messages of 4 KiB in flight",
    "broadcast-500": "Broadcast to 500 connections",
    "idle-1000": "Memory of an idle connection",
    "idle-300": "Memory of an idle connection",
    "handshake": "Opening and closing a connection",
    "deflate-1k": "Echo of 1 KiB of JSON, compressed",
    "client-1x64": "Client: a message and its echo",
    "uvicorn-100x64": "Starlette under uvicorn, echo",
}
NAMES: Final = {
    "raw": "no WebSocket at all",
    "picows": "picows (callbacks)",
    "picows_websockets": "picows.websockets",
    "wsapi_callbacks": "wsapi (callbacks)",
    "uvicorn_wsapi": "wsapi",
    "uvicorn_websockets": "websockets",
    "uvicorn_wsproto": "wsproto",
    "websocket_client": "websocket-client",
    "trio_websocket": "trio-websocket",
}
# Peers that show what a variant of ours costs, or of asyncio: not for a picture.
VARIANTS: Final = ("raw_buffered", "uvicorn_alias_", "wsapi_")
LIGHT: Final = {"ink": "#263238", "dim": "#607d8b", "ours": "#3f51b5", "other": "#b0bec5"}
DARK: Final = {"ink": "#eceff1", "dim": "#90a4ae", "ours": "#8c9eff", "other": "#546e7a"}
PANEL_WIDTH: Final = 350
ROW_HEIGHT: Final = 26
QUIET: Final = 0.05  # share of a window that others may have the server's core


def bars_of(document: dict[str, Any], front_end: str, scenario: str) -> list[tuple[str, float]]:
    """Return names and figures of the peers in a scenario, the lowest first.

    Args:
        document: What ``benchmarks.compare`` has written.
        front_end: Name of a front-end.
        scenario: Name of a scenario.
    """
    found = [
        (NAMES.get(row["peer"], row["peer"]), row["best"])
        for row in document["results"]
        if row["front_end"] == front_end
        and row["scenario"] == scenario
        and row["best"] is not None
        and (row["peer"] in NAMES or not row["peer"].startswith(VARIANTS))
    ]
    return sorted(found, key=lambda bar: bar[1])


def comparison(document: dict[str, Any], front_end: str, colours: dict[str, str]) -> str:
    """Return a picture of a comparison: a panel of bars for each scenario.

    Args:
        document: What ``benchmarks.compare`` has written.
        front_end: Name of a front-end.
        colours: ``LIGHT`` or ``DARK``.
    """
    panels = [(name, bars_of(document, front_end, name)) for name in PANELS[front_end]]
    panels = [(name, bars) for name, bars in panels if bars]
    rows = [panels[start : start + 3] for start in range(0, len(panels), 3)]
    heights = [66 + ROW_HEIGHT * max(len(bars) for _, bars in row) for row in rows]
    width, height = PANEL_WIDTH * min(3, max(map(len, rows))), sum(heights)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>Comparison on {escape(front_end)}: less is better</title>",
    ]
    top = 0
    for row, row_height in zip(rows, heights, strict=True):
        for column, (name, bars) in enumerate(row):
            unit = document["scenarios"][name]["unit"]
            parts += _panel(PANEL_WIDTH * column, top, TITLES[name], unit, bars, colours)
        top += row_height
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    left: float,
    top: float,
    title: str,
    unit: str,
    bars: Sequence[tuple[str, float]],
    colours: dict[str, str],
) -> Iterator[str]:
    most = max(value for _, value in bars)
    start, room = left + 128, PANEL_WIDTH - 128 - 64
    yield label(left + 4, top + 20, title, colours["ink"], size=14, bold=True)
    yield label(left + 4, top + 37, unit, colours["dim"])
    for number, (name, value) in enumerate(bars):
        y = top + 50 + ROW_HEIGHT * number
        ours = name.startswith("wsapi")
        fill = colours["ours" if ours else "other"]
        length = max(1.0, room * value / most)
        yield label(start - 6, y + 14, name, colours["ink"], anchor="end", bold=ours)
        yield (
            f'<rect x="{start:.1f}" y="{y:.1f}" width="{length:.1f}" height="18" rx="2" '
            f'fill="{fill}"/>'
        )
        yield label(start + length + 5, y + 14, f"{value:.3g}", colours["ink"], bold=ours)


def label(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    anchor: str = "start",
    size: int = 12,
    bold: bool = False,
) -> str:
    """Return a text at a place."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}"{weight}>{escape(text)}</text>'
    )


def origin(document: dict[str, Any]) -> str:
    """Return a paragraph that says where the figures come from.

    Args:
        document: What ``benchmarks.compare`` has written.
    """
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rounds, seconds = document["settings"]["rounds"], document["settings"]["seconds"]
    how = f"the best of {rounds} rounds" if rounds > 1 else "one round"
    lines = [
        f"Measured {machine['time'][:10]} on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, {machine['implementation']} {machine['python']}; {versions}. "
        f"Each figure is {how} of {seconds:g} s.",
        "",
    ]
    shares = [
        figure["queued"]
        for row in document["results"]
        for figure in row["rounds"]
        if figure["value"] == row["best"] and figure["queued"] is not None
    ]
    if shares and max(shares) > QUIET:
        lines += [
            f"**Others had the server's core for up to {max(shares):.0%} of a window: the machine "
            "wasn't quiet, and figures are too high.**",
            "",
        ]
    return "\n".join(lines)


def tables(document: dict[str, Any]) -> str:
    """Return a comparison as Markdown, a table per front-end.

    Args:
        document: What ``benchmarks.compare`` has written.
    """
    lines: list[str] = []
    for front_end in PANELS:
        rows = []
        for scenario, about in document["scenarios"].items():
            found = {
                row["peer"]: row["best"]
                for row in document["results"]
                if row["front_end"] == front_end
                and row["scenario"] == scenario
                and row["best"] is not None
            }
            ours = next((found[peer] for peer in ("wsapi", "uvicorn_wsapi") if peer in found), None)
            for peer, value in sorted(found.items(), key=lambda item: item[1]):
                times = f"{value / ours:.2f}" if ours else ""
                unit = about["unit"]
                name = f"**{peer}**" if value == ours else peer
                rows.append(f"| {scenario} | {name} | {value:.4g} | {unit} | {times} |")
        if rows:
            lines += [f"### On {front_end}", "", "| scenario | peer | best | unit | x ours |"]
            lines += ["|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def sections(measured: Iterable[str]) -> str:
    """Return sections for docs/performance.md, each with a picture.

    Args:
        measured: Front-ends of which there are results.
    """
    parts = []
    for front_end in measured:
        start = f"![Comparison on {front_end}](assets/benchmarks/{front_end}"
        pictures = f"{start}.svg#only-light){start}-dark.svg#only-dark)"
        parts.append(f"## On {front_end}\n\n{pictures}\n")
    return "\n".join(parts)


def files(document: dict[str, Any]) -> dict[Path, str]:
    """Return what belongs into the files that documents show.

    Args:
        document: What ``benchmarks.compare`` has written.
    """
    there = {row["front_end"] for row in document["results"]}
    measured = [front_end for front_end in PANELS if front_end in there]
    found = {
        RESULTS / "compare.md": tables(document),
        RESULTS / "pictures.md": origin(document) + "\n" + sections(measured),
    }
    for front_end in measured:
        found[PICTURES / f"{front_end}.svg"] = comparison(document, front_end, LIGHT)
        found[PICTURES / f"{front_end}-dark.svg"] = comparison(document, front_end, DARK)
    return found


def more_files() -> dict[Path, str]:
    """Return the same of what ``benchmarks.growth`` and ``benchmarks.latency`` have written."""
    from . import curves  # which draws with this

    found = {}
    for name, path, draw, page in (
        ("growth", curves.GROWTH, curves.growth, curves.growth_page),
        ("latency", curves.LATENCY, curves.latency, curves.latency_page),
    ):
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            found[RESULTS / f"{name}.md"] = page(document)
            found[PICTURES / f"{name}.svg"] = draw(document, LIGHT)
            found[PICTURES / f"{name}-dark.svg"] = draw(document, DARK)
    return found


def main() -> None:
    """Write the pictures and the tables."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    document = json.loads((RESULTS / "compare.json").read_text(encoding="utf-8"))
    for path, text in {**files(document), **more_files()}.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
