"""Pictures and tables of `growth` and `latency`, for docs/performance.md; `plot` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, Final, TypeAlias

from .plot import NAMES, QUIET, RESULTS, label

GROWTH: Final = RESULTS / "growth.json"
LATENCY: Final = RESULTS / "latency.json"

# A name, and a value for each mark of the axis; None where there is none.
Series: TypeAlias = "tuple[str, Sequence[float | None]]"

WIDTH: Final = 430  # of a panel
HEIGHT: Final = 290
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 52, 44  # margins in a panel
LEGEND: Final = 30
# What is told apart on light and dark; ours has the colour of the other pictures.
HUES: Final = {
    "raw": "#9e9e9e",
    "wsapi_callbacks": "#26a69a",
    "picows": "#ef6c00",
    "picows_websockets": "#c0a000",
    "aiohttp": "#43a047",
    "websockets": "#e53935",
}


def hue(peer: str, colours: dict[str, str]) -> str:
    """Return the colour of a peer."""
    return colours["ours"] if peer == "wsapi" else HUES.get(peer, colours["dim"])


def short(number: float) -> str:
    """Return a number for an axis: bytes and counts as people write them."""
    for size, name in ((1 << 20, " Mi"), (1 << 10, " Ki")):
        if number >= size and number % size == 0:
            return f"{number / size:.0f}{name}"
    return f"{number:,.0f}" if number >= 1 else f"{number:g}"


def ticks(low: float, high: float) -> list[float]:
    """Return where a logarithmic axis has lines: powers of ten, and more if these are few."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1,) if sum(low <= 10.0**decade <= high for decade in decades) > 2 else (1, 2, 5)
    found = [step * 10.0**decade for decade in decades for step in steps]
    return [value for value in found if low <= value <= high]


def panel(
    left: float,
    top: float,
    texts: tuple[str, str, str],
    marks: Sequence[str],
    series: Sequence[Series],
    colours: dict[str, str],
) -> Iterator[str]:
    """Draw lines over marks, on a logarithmic scale.

    Args:
        left: Where it begins.
        top: The same, from above.
        texts: Title, unit, and what the marks are.
        marks: Texts below the axis, in the same distance from each other.
        series: What is drawn.
        colours: ``LIGHT`` or ``DARK`` of `plot`.
    """
    title, unit, grows = texts
    values = [value for _, points in series for value in points if value is not None and value > 0]
    low, high = min(values) / 1.15, max(values) * 1.15
    begin, end = left + LEFT, left + WIDTH - RIGHT
    base, roof = top + HEIGHT - BOTTOM, top + TOP

    def height(value: float) -> float:
        share = (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low))
        return base - (base - roof) * share

    def place(number: int) -> float:
        return begin + (end - begin) * (number + 0.5) / len(marks)

    yield label(left + 4, top + 18, title, colours["ink"], size=14, bold=True)
    yield label(left + 4, top + 36, unit, colours["dim"])
    for value in ticks(low, high):
        y = height(value)
        yield (
            f'<line x1="{begin}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="{colours["dim"]}" '
            'stroke-opacity="0.3"/>'
        )
        yield label(begin - 6, y + 4, f"{value:,g}", colours["dim"], anchor="end", size=11)
    for number, mark in enumerate(marks):
        yield label(place(number), base + 16, mark, colours["dim"], anchor="middle", size=11)
    yield label((begin + end) / 2, base + 34, grows, colours["dim"], anchor="middle")
    for name, points in series:
        there = [
            (place(number), height(value))
            for number, value in enumerate(points)
            if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in there)
        colour, width = hue(name, colours), 3 if name == "wsapi" else 1.8
        yield (
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            'stroke-linejoin="round"/>'
        )
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in there)


def picture(
    title: str,
    panels: Sequence[tuple[tuple[str, str, str], Sequence[str], Sequence[Series]]],
    columns: int,
    colours: dict[str, str],
) -> str:
    """Return a picture of some panels, with one legend for all."""
    rows = ceil(len(panels) / columns)
    width, height = WIDTH * min(columns, len(panels)), HEIGHT * rows + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>{escape(title)}</title>",
    ]
    for number, (texts, marks, series) in enumerate(panels):
        row, column = divmod(number, columns)
        parts += panel(WIDTH * column, HEIGHT * row, texts, marks, series, colours)
    x = 12.0
    for name in dict.fromkeys(name for _, _, series in panels for name, _ in series):
        text = NAMES.get(name, name)
        y = height - 12
        parts.append(
            f'<line x1="{x:.1f}" y1="{y - 4}" x2="{x + 18:.1f}" y2="{y - 4}" '
            f'stroke="{hue(name, colours)}" stroke-width="3"/>'
        )
        parts.append(label(x + 23, y, text, colours["ink"], bold=name.startswith("wsapi")))
        x += 42 + 6.4 * len(text)
    return "\n".join([*parts, "</svg>", ""])


def growth(document: dict[str, Any], colours: dict[str, str]) -> str:
    """Return a picture of what ``benchmarks.growth`` has found."""
    panels = []
    for name, about in document["sweeps"].items():
        curves = [curve for curve in document["curves"] if curve["sweep"] == name and curve["best"]]
        if not curves:
            continue
        marks = sorted({point for curve in curves for point, _ in curve["best"]})
        series: list[Series] = []
        for curve in curves:
            best = dict(map(tuple, curve["best"]))
            series.append((curve["peer"], [best.get(mark) for mark in marks]))
        texts = (about["title"], f"CPU {about['unit']}", about["grows"])
        panels.append((texts, [short(mark) for mark in marks], series))
    return picture("How cost grows: less is better", panels, 2, colours)


def latency(document: dict[str, Any], colours: dict[str, str]) -> str:
    """Return a picture of what ``benchmarks.latency`` has found."""
    shares = list(dict.fromkeys(share for row in document["results"] for share in row["loads"]))
    panels = []
    for share in shares:
        rows = [row for row in document["results"] if share in row["loads"]]
        marks = list(rows[0]["loads"][share]["latency_us"])
        series: list[Series] = [
            (row["peer"], list(row["loads"][share]["latency_us"].values())) for row in rows
        ]
        texts = (f"Latency at {share} % of what each can do", "µs", "percentile")
        panels.append((texts, marks, series))
    return picture("Latency: less is better", panels, 3, colours)


def _origin(document: dict[str, Any], queued: float, how: str) -> list[str]:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"Measured {machine['time'][:10]} on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['implementation']} {machine['python']}, {settings['loop']}; {versions}. "
        f"{how}, {settings['rounds']} of {settings['seconds']:g} s each.",
        "",
    ]
    if queued > QUIET:
        lines += [
            f"**Others had the server's core for up to {queued:.0%} of a window: the machine "
            "wasn't quiet, and figures are too high.**",
            "",
        ]
    return lines


def growth_page(document: dict[str, Any]) -> str:
    """Return the part of a page that shows it."""
    queued = max((curve["queued"] for curve in document["curves"]), default=0.0)
    start = "![How cost grows](assets/benchmarks/growth"
    lines = [
        f"{start}.svg#only-light){start}-dark.svg#only-dark)",
        "",
        *_origin(document, queued, "Each point is the best of the rounds"),
    ]
    return "\n".join(lines)


def latency_page(document: dict[str, Any]) -> str:
    """Return the part of a page that shows it."""
    loads = [found for row in document["results"] for found in row["loads"].values()]
    start = "![Latency](assets/benchmarks/latency"
    lines = [
        f"{start}.svg#only-light){start}-dark.svg#only-dark)",
        "",
        *_origin(document, max(found["queued"] for found in loads), "The round with the least p99"),
        "| peer | most per second | load | p50 µs | p99 µs | p99.9 µs | load sent late, p99 µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["results"]:
        for share, found in row["loads"].items():
            figures, late = found["latency_us"], found["late_us"]["99"]
            lines.append(
                f"| {row['peer']} | {row['most']:,} | {share} % | {figures['50']:,.0f} | "
                f"{figures['99']:,.0f} | {figures['99.9']:,.0f} | {late:,.0f} |"
            )
    pauses = [row for row in document["results"] if row["pauses"]]
    if pauses:
        lines += [
            "",
            f"With {document['settings']['idle']:,} idle connections beside, at the least load:",
            "",
            "| peer | whole collection ms | longest pause while opening ms | while echoing ms | "
            "p99.9 µs |",
            "|---|---|---|---|---|",
        ]
    for row in pauses:
        found, tail = row["pauses"], row["crowded"]["latency_us"]["99.9"]
        lines.append(
            f"| {row['peer']} | {found['full']:.1f} | {found['opening']:.2f} | "
            f"{found['echoing']:.2f} | {tail:,.0f} |"
        )
    return "\n".join([*lines, ""])
