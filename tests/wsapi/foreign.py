"""Programs that nobody here wrote: Node with ``ws``, and a browser."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from wsapi.asyncio.client import ClientConnection, connect

# ---------------------------------------------------------------------- Node

NODE, NPM = shutil.which("node"), shutil.which("npm")
CACHE = Path(__file__).parents[1] / ".cache" / "node"


def node_with_ws() -> Path:
    """Return a directory where Node finds ``ws``; install it there once."""
    if NODE is None or NPM is None:
        pytest.skip("node and npm aren't installed")
    if not (CACHE / "node_modules" / "ws").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [NPM, "install", "--prefix", os.fspath(CACHE), "--no-audit", "--no-fund", "ws@8"]
        try:
            subprocess.run(command, cwd=CACHE, check=True, capture_output=True, timeout=40)
        except (subprocess.SubprocessError, OSError) as exc:
            pytest.skip(f"npm can't install ws: {exc}")
    return CACHE


async def start_node(directory: Path, program: str, *arguments: str) -> asyncio.subprocess.Process:
    assert NODE is not None
    return await asyncio.create_subprocess_exec(
        *(NODE, "-e", program, "--", *arguments),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


# ---------------------------------------------------------------------- Chromium

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]


@contextlib.asynccontextmanager
async def running_chromium(directory: Path) -> AsyncIterator[Browser]:
    """Run a browser."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium isn't installed")
    environment = os.environ | {"HOME": str(directory)}
    process = await asyncio.create_subprocess_exec(
        *(program, *FLAGS, f"--user-data-dir={directory}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert process.stderr is not None
        while not (line := await process.stderr.readline()).startswith(b"DevTools listening on "):
            assert line, "chromium didn't start"
        uri = line.decode().split()[-1]
        async with connect(uri, max_size=None, compression=None) as connection:
            browser = Browser(connection)
            yield browser
            await browser.call("Browser.close")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


class Browser:
    """A browser, driven by its DevTools, which are a WebSocket server."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.numbers = itertools.count(1)

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        await self.connection.send(json.dumps(command))
        while True:
            answer = json.loads(await self.connection.recv())
            if answer.get("id") == number:
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self, url: str = "about:blank") -> Page:
        target = (await self.call("Target.createTarget", url=url))["targetId"]
        attached = await self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self, attached["sessionId"])


class Page:
    """What the browser shows."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self.session = session

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise was resolved with."""
        answer = await self.browser.call(
            "Runtime.evaluate",
            self.session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")
