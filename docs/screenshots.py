"""Takes pictures of pages of the built site, light and dark: ``make screenshots``.

They are in reports/screenshots/. A page that asks another host for anything is an error.
"""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
PICTURES = ROOT / "reports" / "screenshots"
PAGES = {
    "home": "index.html",
    "tutorial": "tutorial/1-answers.html",
    "keepalive": "guides/keepalive.html",
    "guide": "limits.html",
    "reference": "reference/asyncio/client.html",
    "engine": "reference/engine/protocol.html",
    "design": "design.html",
    "performance": "performance.html",
    "examples": "examples.html",
}
SCHEMES = {"dark": 0, "light": 1}
SIZES = {"": (1400, 1800), "-narrow": (500, 1200)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DEADLINE = 60


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site without a word."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def take(browser: str, url: str, path: Path, size: tuple[int, int], scheme: int) -> None:
    """Have a browser take a picture of a page.

    Args:
        browser: Its program.
        url: URL of the page.
        path: Where the picture goes.
        size: Width and height of the window.
        scheme: Value of Chromium's setting.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                # No other host can be reached.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={folder}",
                f"--window-size={size[0]},{size[1]}",
                f"--blink-settings=preferredColorScheme={scheme}",
                "--virtual-time-budget=5000",
                f"--screenshot={path}",
                url,
            ],
            check=True,
            capture_output=True,
            timeout=DEADLINE,
        )


def main() -> int:
    """Take all pictures, or those of the pages that are named."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium found", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    handler = partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        start = f"http://127.0.0.1:{server.server_address[1]}"
        for name in sys.argv[1:] or PAGES:
            for scheme, number in SCHEMES.items():
                for kind, size in SIZES.items():
                    if kind and scheme == "dark":
                        continue
                    path = PICTURES / f"{name}-{scheme}{kind}.png"
                    take(browser, f"{start}/{PAGES[name]}", path, size, number)
                    print(path.relative_to(ROOT), flush=True)
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
