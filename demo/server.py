"""The demo's server: an echo on a free port of 127.0.0.1, steered and watched through pipes.

On stdout, one JSON object per line: the port, then the end of every connection and every error in
the log. A line on stdin is answered with the CPU time used so far; stdin's end ends the server.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time

from wsapi.asyncio.server import ServerConnection, serve
from wsapi.exceptions import ConnectionClosed
from wsapi.http11 import Request, Response


def report(**event: object) -> None:
    print(json.dumps(event), flush=True)


class Report(logging.StreamHandler):  # type: ignore[type-arg] # it takes none at run time
    """Reports errors, and prints them with their tracebacks on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        report(error=record.getMessage())
        super().emit(record)


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    """Answer 404 to one path, before any WebSocket exists."""
    if request.path == "/nothing-here":
        return connection.respond(404, "There is nothing here.\n")
    return None


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def echo_fragments(connection: ServerConnection) -> None:
    """Say in how many fragments a message came, then send it back in the same fragments."""
    while True:
        fragments = [fragment async for fragment in connection.recv_streaming()]
        await connection.send(str(len(fragments)))
        await connection.send(fragments)


async def handler(connection: ServerConnection) -> None:
    assert connection.request is not None
    path = connection.request.path
    try:
        await (echo_fragments if path.endswith("/fragments") else echo)(connection)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    report(path=path, code=connection.close_code, reason=connection.close_reason)


async def main() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def report_times() -> None:
        report(cpu=time.process_time(), clock=time.perf_counter())

    def obey() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(report_times)
        loop.call_soon_threadsafe(ended.set)

    async with serve(handler, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        report(port=port, pid=os.getpid(), loop=type(loop).__module__)
        threading.Thread(target=obey, daemon=True).start()
        await ended.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, handlers=[Report()])
    asyncio.run(main())
