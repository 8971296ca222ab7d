"""What idle connections leave in memory: how many objects, and how large ours are.

Bytes of the whole process are in the benchmarks, ``python -m benchmarks.anatomy`` among them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import sysconfig
from collections import Counter
from types import CoroutineType

import pytest

from tests.wsapi.helpers import (
    BINARY,
    echo,
    frame,
    port_of,
    request,
    serving,
    turns,
    until,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import ServerConnection
from wsproto_fast.datastructures import Headers
from wsproto_fast.frames import State
from wsproto_fast.http11 import Request, Response

CONNECTIONS = 10

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# Of one connection. All versions of Python and both event loops are within the first limit; most
# of it is theirs: the transport, the task with its coroutines, a future, references, and contexts.
# Without the global lock nobody can tell that a request is only ours: it and the response stay.
MADE = 4 if FREE_THREADED else 0
MAX_TRACKED = 30 + MADE
MAX_OURS = 6 + MADE
MAX_BYTES = 1330


def is_ours(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] in ("wsapi", "wsproto_fast")


def open_some(port: int) -> list[int]:
    """Open connections that have one message echoed; descriptors are no objects."""
    found = []
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port), 10)
        sock.sendall(request())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        sock.sendall(frame(BINARY, bytes(64), masked=True))
        assert sock.recv(4096) == frame(BINARY, bytes(64))
        found.append(sock.detach())
    return found


async def test_objects_of_an_idle_connection() -> None:
    def tracked() -> Counter[type]:
        gc.collect()
        return Counter(type(thing) for thing in gc.get_objects())

    async with serving(echo, compression=None) as server:
        descriptors: list[int] = []

        async def more() -> None:
            number = len(descriptors) + CONNECTIONS
            descriptors.extend(await asyncio.to_thread(open_some, port_of(server)))
            await until(lambda: len(server.connections) == number)
            await turns(5)

        try:
            await more()
            counts = []
            for _ in range(4):  # what is made once, as when a module is imported, is in few of them
                before = tracked()
                await more()
                new = tracked() - before
                counts.append(Counter({kind: n // CONNECTIONS for kind, n in new.items()}))
            new = min(counts, key=Counter.total)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    assert new[ServerConnection] == 1
    assert new.total() <= MAX_TRACKED, new
    mine = {kind: number for kind, number in new.items() if is_ours(kind)}
    assert sum(mine.values()) <= MAX_OURS, mine
    # Nobody has looked at these, and the handler's coroutine is the only one of Python.
    assert sum(mine.get(kind, 0) for kind in (Request, Response, Headers)) == MADE
    assert new[CoroutineType] == 1


async def test_request_and_response_are_there_when_they_are_looked_at() -> None:
    async with serving(echo, compression=None) as server, connect(uri_of(server)) as ws:
        await ws.send("x")
        await ws.recv()
        [connection] = server.connections
        seen = connection.request, connection.response
        assert connection.request is not None
        assert connection.response is not None
        assert connection.request.headers["Sec-WebSocket-Version"] == "13"
        assert ws.response is not None
        assert [*connection.response.headers.raw_items()] == [*ws.response.headers.raw_items()]
        await ws.close()
        await until(lambda: connection.state is State.CLOSED)
        assert connection.request is seen[0]
        assert connection.response is seen[1]


@pytest.mark.skipif(
    sys.maxsize < 2**32 or FREE_THREADED,
    reason="objects have other headers and pointers",
)
async def test_sizes_of_our_objects() -> None:
    async with (
        serving(echo, compression=None) as server,
        connect(uri_of(server), compression=None) as ws,
    ):
        await ws.send("x")
        await ws.recv()
        [connection] = server.connections
        seen: dict[int, object] = {}
        left: list[object] = [connection._driver, connection.protocol]
        while left:
            thing = left.pop()
            shared = type(thing).__name__ in ("Server", "Timers")
            if is_ours(type(thing)) and not shared and id(thing) not in seen:
                seen[id(thing)] = thing
                left += gc.get_referents(thing)
        sizes = {type(thing).__name__: sys.getsizeof(thing) for thing in seen.values()}
    assert sum(sizes.values()) <= MAX_BYTES, sizes
