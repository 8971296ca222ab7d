"""A page that shows what a server counts, as it changes.

The page is served on the same port, at /statistics, as are the numbers, at /statistics.json; both
are answered before there is a WebSocket connection. The server itself echoes.

Usage: server_statistics.py [PORT], then open the URL in a browser
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import sys
from typing import Any

from wsapi.asyncio.server import Server, ServerConnection, serve
from wsapi.exceptions import ConnectionClosed
from wsapi.http11 import Request, Response

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Statistics of a server</title>
<style>
  body { font: 1rem system-ui; margin: 2rem; }
  td { padding: 0.1rem 1rem; } td + td { text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1>Statistics</h1>
<table id="table"></table>
<script>
  let before = {};
  async function show() {
    const stats = await (await fetch("/statistics.json")).json();
    const table = document.getElementById("table");
    table.replaceChildren();
    for (const [name, value] of Object.entries(stats)) {
      const row = table.insertRow();
      const text = typeof value === "object" ? JSON.stringify(value) : value.toLocaleString();
      const change = typeof value === "number" ? value - (before[name] ?? value) : 0;
      row.insertCell().textContent = name.replaceAll("_", " ");
      row.insertCell().textContent = text;
      row.insertCell().textContent = change ? `${change > 0 ? "+" : ""}${change}/s` : "";
    }
    before = stats;
  }
  show();
  setInterval(show, 1000);
</script>
"""


def numbers(server: Server) -> str:
    """Return what the server has counted as JSON."""
    stats: dict[str, Any] = dataclasses.asdict(server.stats())
    handshakes = stats.pop("handshakes")
    # JSON knows no infinity.
    buckets = {("inf" if b == math.inf else str(b)): n for b, n in handshakes["buckets"]}
    return json.dumps(stats | {"handshakes": buckets, "handshake_seconds": handshakes["sum"]})


def pages(connection: ServerConnection, request: Request) -> Response | None:
    """Answer ordinary requests; let others become WebSocket connections."""
    if request.path == "/statistics":
        content, kind = PAGE, "text/html; charset=utf-8"
    elif request.path == "/statistics.json":
        content, kind = numbers(connection.server), "application/json"
    else:
        return None
    response = connection.respond(200, content)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    response.headers["Cache-Control"] = "no-store"
    return response


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def main(port: int = 8765) -> None:
    async with serve(echo, "127.0.0.1", port, process_request=pages) as server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/statistics", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
