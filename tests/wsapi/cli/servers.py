"""Servers of ours that echo, for commands to talk to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from wsapi.asyncio.server import serve
from wsapi.sync.server import serve as serve_sync

TIMEOUT = 55


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def echo_on_threads(connection: Any) -> None:
    for message in connection:
        connection.send(message)


@contextlib.asynccontextmanager
async def on_asyncio(**options: Any) -> AsyncIterator[str]:
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        scheme = "wss" if "ssl" in options else "ws"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@contextlib.contextmanager
def on_threads(handler: Callable[[Any], None] = echo_on_threads, **options: Any) -> Iterator[str]:
    """Run a server on threads; give its URI."""
    with serve_sync(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            scheme = "wss" if "ssl" in options else "ws"
            yield f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def on_trio() -> Iterator[str]:
    trio = pytest.importorskip("trio")
    from wsapi.trio.server import serve as serve_trio

    started = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: serve_trio(echo, 0, host="127.0.0.1", task_status=task_status)
            )
            found["port"] = server.listeners[0].socket.getsockname()[1]
            found["stop"] = nursery.cancel_scope.cancel
            found["token"] = trio.lowlevel.current_trio_token()
            started.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        assert started.wait(TIMEOUT)
        yield f"ws://127.0.0.1:{found['port']}/"
    finally:
        found["token"].run_sync_soon(found["stop"])
        thread.join()
