"""The timer that frees what compression keeps."""

from time import monotonic
from typing import Any

import pytest

from wsapi.asyncio.client import connect
from wsapi.asyncio.server import broadcast, serve

TEXT = "compressible " * 50


@pytest.mark.parametrize("way", ["send", "fragments", "broadcast"])
async def test_who_only_sends_has_a_timer_to_free_its_context(way: str) -> None:
    async def handler(connection: Any) -> None:
        if way == "send":
            await connection.send(TEXT)
        elif way == "fragments":
            await connection.send([TEXT, TEXT])
        else:
            # It would grow, so that each connection compresses it for itself.
            broadcast([connection], "x", compress=True)
        timers.append(connection.protocol.next_timeout() - monotonic())
        times.append(connection._driver.timer_time - monotonic())
        await connection.wait_closed()

    timers: list[float] = []
    times: list[float] = []
    async with (
        serve(handler, "127.0.0.1", 0, ping_interval=None) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as connection,
    ):
        await connection.recv()
    assert timers[0] < 10
    assert times[0] < 10
