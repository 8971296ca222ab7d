"""JavaScript that tests of topics run: in Node with ``ws``, and in a browser's page."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, Protocol

from tests.wsapi.foreign import NODE, running_chromium
from tests.wsapi.helpers import run, uri_of
from wsapi.asyncio.server import ServerConnection, serve
from wsapi.http11 import Request, Response

P = ParamSpec("P")

CLIENT = Path(str(resources.files("wsapi.topics"))) / "browser" / "wsapi-topics.js"

# What tests call, the same in both: `start` makes a client, `follow` subscribes, and `log` has what
# the handlers were told since it was taken last.
PRELUDE = """
globalThis.log = [];
globalThis.start = (url, options = {}) => {
  globalThis.topics = new Topics(url, {
    ...(globalThis.NodeWebSocket && { WebSocket: NodeWebSocket }),
    minDelay: 20, maxDelay: 200, restartDelay: 20, laterDelay: 20,
    onstate: (state, { code }) => log.push(code ? [state, code] : [state]),
    onerror: (error) => log.push(["error", error.code ?? String(error)]),
    ...options,
  });
};
globalThis.subscriptions = {};
globalThis.follow = (topic, options = {}) => {
  const told = (name) => ({ position, recovered }) => log.push([name, topic, position, recovered]);
  subscriptions[topic] = topics.subscribe(topic, {
    onmessage: ({ data, position }) => log.push(["message", topic, data, position]),
    onsubscribed: told("subscribed"),
    onrecovered: told("recovered"),
    onreload: told("reload"),
    onerror: (error) => log.push(["failed", topic, error.code, error.retry]),
    ...options,
  });
};
globalThis.outcome = (promise) => promise.then(
  (value) => ["done", value],
  (error) => ["error", error.code ?? error.name, error.uncertain ?? null, error.retry ?? null],
);
"""

# Makes clients that note what they get, to be filled in: topic, uri, number.
OBSERVER = """
Promise.all([...Array({number}).keys()].map(async (i) => {{
  const seen = globalThis.seen ??= [];
  const mine = (seen[i] = {{ data: [], recoveries: 0 }});
  globalThis.all ??= [];
  all[i] = new Topics({uri}, {{
    ...(globalThis.NodeWebSocket && {{ WebSocket: NodeWebSocket }}), minDelay: 50, maxDelay: 100,
  }});
  await new Promise((resolve) => all[i].subscribe("{topic}", {{
    onmessage: ({{ data }}) => mine.data.push(data),
    onsubscribed: resolve,
    onrecovered: () => mine.recoveries++,
    onreload: () => mine.data.push("reload"),
  }}));
}})).then(() => 0)
"""

NODE_PROGRAM = """
import { createInterface } from "node:readline";
import WebSocket from "ws";
const [path, prelude] = process.argv.slice(-2);
Object.assign(globalThis, await import(path), { NodeWebSocket: WebSocket });
(0, eval)(prelude);
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: (await (0, eval)(JSON.parse(line))) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  console.log(JSON.stringify(answer));
}
process.exit(0);
"""

PAGE = f"""<!DOCTYPE html>
<link rel="icon" href="data:,">
<script type="module">
import * as client from "./wsapi-topics.js";
Object.assign(globalThis, client);
{PRELUDE}
globalThis.loaded = true;
</script>
"""


class JavaScript(Protocol):
    """Something that evaluates JavaScript."""

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise was resolved with."""


class Node:
    """A process of Node, with the client as global variables."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def evaluate(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(expression).encode() + b"\n")
        line = await self.process.stdout.readline()
        assert line, "node has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]


@contextlib.asynccontextmanager
async def running_node(directory: Path) -> AsyncIterator[Node]:
    """Run Node where it finds ``ws``; check that nothing was written to its standard error."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        *(NODE, "--input-type=module", "-e", NODE_PROGRAM, "--", CLIENT.as_uri(), PRELUDE),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield Node(process)
        _, errors = await process.communicate(b"")
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def respond(connection: ServerConnection, text: str, media_type: str) -> Response:
    response = connection.respond(200, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = f"{media_type}; charset=utf-8"
    return response


async def _unused(connection: ServerConnection) -> None:
    await connection.close()


@contextlib.asynccontextmanager
async def serving_pages() -> AsyncIterator[str]:
    """Serve the client, and a page that has it as global variables; yield the page's URL."""

    def page(connection: ServerConnection, request: Request) -> Response:
        if request.path == "/wsapi-topics.js":
            return respond(connection, CLIENT.read_text("utf-8"), "text/javascript")
        return respond(connection, PAGE, "text/html")

    async with serve(_unused, "127.0.0.1", 0, process_request=page) as server:
        yield uri_of(server).replace("ws", "http", 1)


async def until(javascript: JavaScript, expression: str) -> Any:
    """Wait until an expression is true; return its value."""
    while not (value := await javascript.evaluate(expression)):
        await asyncio.sleep(0.01)
    return value


@contextlib.asynccontextmanager
async def running_pages(directory: Path, number: int = 1) -> AsyncIterator[list[JavaScript]]:
    """Run a browser with pages that have the client as global variables."""
    async with running_chromium(directory) as chromium, serving_pages() as url:
        pages: list[JavaScript] = [await chromium.open(url) for _ in range(number)]
        for page in pages:
            await until(page, "globalThis.loaded")
        yield pages


def once(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Have a coroutine test run on one event loop: it is the other side that counts."""

    @functools.wraps(test)
    def runner(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs), asyncio.new_event_loop)

    return runner
