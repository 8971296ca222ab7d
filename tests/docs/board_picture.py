"""Take the picture of the board that the tutorial shows: ``python -m tests.docs.board_picture``."""

from __future__ import annotations

import asyncio
import base64
import math
import sys
import tempfile
from pathlib import Path

from tests.docs.test_tutorial import SECRET, TUTORIAL, Painter
from tests.wsapi.foreign import running_chromium
from tests.wsapi.test_examples import free_port, running

WHITE, BLACK, RED, ORANGE, YELLOW, GREEN, BLUE, VIOLET = range(8)

SHOWN = [
    "255,255,255",
    "34,34,59",
    "214,40,57",
    "244,162,97",
    "255,209,102",
    "42,157,143",
    "58,134,255",
    "131,56,236",
]


def colour_of(x: int, y: int) -> int:
    """Return the colour of a cell of a landscape: sun, house, hills."""
    if 20 <= x < 27 and 11 <= y < 19:
        if 22 <= x < 24 and y >= 15:
            return BLACK
        return YELLOW if (x, y) in ((25, 13), (25, 14)) else WHITE
    if 6 <= y < 11 and abs(x - 23) <= y - 6:
        return RED
    if math.hypot(x - 6, y - 5) < 3.6:
        return YELLOW
    if math.hypot(x - 6, y - 5) < 4.4:
        return ORANGE
    if y > 18 or y > 17 + 2 * math.sin(x / 4):
        return VIOLET if (7 * x + 11 * y) % 13 == 0 else GREEN
    return BLUE


async def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            running_chromium(Path(directory)) as browser,
            running("board/board6.py", str(free_port()), **SECRET) as server,
        ):
            page = await browser.open(await server.line())
            await browser.call(
                "Emulation.setDeviceMetricsOverride",
                page.session,
                width=880,
                height=830,
                deviceScaleFactor=1,
                mobile=False,
            )
            painter = Painter(page)
            await painter.state("open")
            await painter.people(1)
            for colour in range(1, 8):
                await painter.choose(colour)
                for y in range(24):
                    row = [(x, y) for x in range(32) if colour_of(x, y) == colour]
                    for cell in row:
                        await painter.drag(cell)
                    await painter.shows(*row[-1:], colour=SHOWN[colour])
            picture = await browser.call("Page.captureScreenshot", page.session, format="png")
            file.write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else TUTORIAL / "board.png"))
