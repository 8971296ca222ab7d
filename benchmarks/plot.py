"""Plots as SVG, which needs no library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any, Final

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
