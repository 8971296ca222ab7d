"""Servers of trio that leave: what only they have."""

from __future__ import annotations

import functools

import pytest
import trio

from wsapi.trio.server import Server, ServerConnection, serve


def test_server_that_does_not_run() -> None:
    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server([listener], ServerConnection.wait_closed)
        with pytest.raises(RuntimeError, match="isn't running"):
            await server.drain_on_signal()
        await server.drain()
        assert server.draining.is_set()
        assert listener.socket.fileno() == -1
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    trio.run(main)


def test_server_that_is_closed() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                functools.partial(serve, ServerConnection.wait_closed, 0, host="127.0.0.1")
            )
            await server.aclose()
            await server.drain(timeout=1000, spread=1000)
            with pytest.raises(RuntimeError, match="isn't running"):
                await server.drain_on_signal()
            with pytest.raises(RuntimeError, match="is closed"):
                await server.serve_forever()

    trio.run(main)
