"""What is written past the transport: where that is possible, in which order, and when not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import sys
import sysconfig
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.wsapi.helpers import echo, pair, raw_client, serving, until, until_closed, uri_of
from wsapi.asyncio.client import ClientConnection, connect, unix_connect
from wsapi.asyncio.connection import Connection, broadcast
from wsapi.asyncio.server import ServerConnection, unix_serve
from wsapi.exceptions import ConnectionClosed
from wsproto_fast import Protocol, Side

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="transports are the only ones that write there"
)


def descriptor(ws: Connection) -> int:
    return int(ws.transport.get_extra_info("socket").fileno())


class TestWhere:
    async def test_tcp(self) -> None:
        async with pair() as (client, server):
            for ws in (client, server):
                assert ws._driver.descriptor == descriptor(ws) >= 0
            await client.close()
            for ws in (client, server):
                await ws.wait_closed()
                assert ws._driver.descriptor == -1

    async def test_unix(self, tmp_path: Path) -> None:
        accepted: list[ServerConnection] = []

        async def handler(ws: ServerConnection) -> None:
            accepted.append(ws)
            await ws.wait_closed()

        path = str(tmp_path / "socket")
        async with unix_serve(handler, path), unix_connect(path) as client:
            await until(lambda: accepted)
            for ws in (client, accepted[0]):
                assert ws._driver.descriptor == descriptor(ws) >= 0

    async def test_not_with_tls(self, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        async with serving(ssl=tls[0]) as server:
            uri = uri_of(server).replace("ws://", "wss://")
            async with connect(uri, ssl=tls[1]) as client:
                assert client._driver.descriptor == -1
                await client.send("secret")
                assert await client.recv() == "secret"


class TestOrder:
    async def test_network_is_full_now_and_then(self) -> None:
        randomness = random.Random(6455)
        messages = [randomness.randbytes(int(2 ** randomness.uniform(0, 20))) for _ in range(300)]
        async with pair(max_queue=4, max_size=None) as (client, server):

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            sending = asyncio.create_task(send())
            filled = drained = 0
            for message in messages:
                if randomness.random() < 0.05:
                    # The transport takes over what the network doesn't take ...
                    await asyncio.sleep(0.005)
                filled += bool(client.transport.get_write_buffer_size())
                assert await server.recv() == message
                # ... and is written past again when that is gone.
                drained += not client.transport.get_write_buffer_size()
            await sending
            assert filled
            assert drained

    async def test_peer_that_does_not_read(self) -> None:
        accepted: list[ServerConnection] = []

        async def handler(ws: ServerConnection) -> None:
            accepted.append(ws)
            await until_closed(ws)

        async with serving(handler) as server, raw_client(server) as peer:
            await until(lambda: accepted)
            count = 0
            while accepted[0].send_nowait(b"%06d" % count * 10_000):
                count += 1
            for _ in range(3):
                count += 1
                accepted[0].send_nowait(b"%06d" % count * 10_000)
            for number in range(count + 1):
                assert (await peer.read_message())[1] == b"%06d" % number * 10_000
            accepted[0].send_nowait("end")
            assert (await peer.read_message())[1] == b"end"

    async def test_transport_has_something_to_write_already(self) -> None:
        loop = asyncio.get_running_loop()
        sock, peer = socket.socketpair()
        with peer:
            peer.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            before = 0
            while not transport.get_write_buffer_size():
                transport.write(bytes(65536))
                before += 65536
                await asyncio.sleep(0)
            ws = Connection(Protocol(Side.SERVER))
            transport.set_protocol(ws)
            ws.connection_made(transport)
            # Room for what is sent now, before the transport has noticed.
            received = await loop.sock_recv(peer, 65536)
            ws.send_nowait("x")
            while len(received) < before + 3:
                received += await loop.sock_recv(peer, 65536)
            assert received == bytes(before) + b"\x81\x01x"
            transport.abort()
            await ws.wait_closed()

    async def test_peer_is_gone(self) -> None:
        async with pair() as (client, server):
            server.transport.abort()
            await server.wait_closed()
            with contextlib.suppress(Exception):
                for _ in range(10):
                    await client.send("anybody there?")
            await client.wait_closed()
            assert client.close_code == 1006


LARGE = [
    b"x" * 32_767,
    b"y" * 32_768,
    "ascii" * 100_000,
    "€uro" * 100_000,
    bytearray(b"z" * 300_000),
    memoryview(bytes(range(256)) * 5000)[::2],
    bytes(range(256)) * 12_000,
]
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
FAST = pytest.mark.parametrize("fast", [False, True], ids=["own", "aiofastnet"])


@contextlib.asynccontextmanager
async def secured(
    handler: Callable[[ServerConnection], Awaitable[None]],
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None,
    fast: bool = False,
) -> AsyncIterator[ClientConnection]:
    """Connect a client to a server that has this handler, without limits.

    Args:
        handler: Handler.
        tls: Contexts, if TLS is between them.
        fast: Whether the event loop uses transports of aiofastnet.
    """
    if fast:
        pytest.importorskip("aiofastnet").patch_loop(asyncio.get_running_loop())
    async with serving(handler, max_size=None, ssl=tls and tls[0]) as server:
        uri = uri_of(server)
        if tls:
            uri = uri.replace("ws://", "wss://")
        options = {"ssl": tls[1]} if tls else {}
        async with connect(uri, max_size=None, max_queue=None, **options) as client:
            yield client


class TestLarge:
    """Payloads that aren't copied before they are written."""

    @FAST
    @SECURE
    async def test_both_ways(
        self, secure: bool, fast: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async with secured(echo, tls if secure else None, fast) as client:
            for message in LARGE:
                expected = message if isinstance(message, str) else bytes(message)
                await client.send(message)
                assert await client.recv() == expected

    @FAST
    @SECURE
    async def test_among_small_ones(
        self, secure: bool, fast: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        accepted: list[ServerConnection] = []

        async def handler(ws: ServerConnection) -> None:
            accepted.append(ws)
            await ws.wait_closed()

        async with secured(handler, tls if secure else None, fast) as client:
            await until(lambda: accepted)
            (ws,) = accepted
            messages = [
                b"first",
                *(number.to_bytes(2, "big") * 17_000 for number in range(60)),
                "between",
                "a" * 70_000,
                *(b"%d" % number for number in range(10)),
                b"l" * 40_000,
                b"last",
            ]
            for message in messages:
                ws.protocol.send(message)
            ws._driver.flush()  # more than one system call takes
            await ws.send("end")
            for message in messages:
                assert await client.recv() == message
            assert await client.recv() == "end"

    @FAST
    @SECURE
    async def test_memory_is_the_senders_again(
        self, secure: bool, fast: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        release = asyncio.Event()

        async def handler(ws: ServerConnection) -> None:
            await release.wait()  # the network is full meanwhile
            async for message in ws:
                await ws.send(bytes({*message}))

        async with secured(handler, tls if secure else None, fast) as client:
            message = bytearray(16 << 20)
            client.send_nowait(message)
            message[:] = b"\xff" * len(message)
            release.set()
            assert await client.recv() == b"\0"

    @FAST
    @SECURE
    async def test_servers_memory_is_the_senders_again(
        self, secure: bool, fast: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async def handler(ws: ServerConnection) -> None:
            message = bytearray(16 << 20)
            ws.send_nowait(message)
            message[:] = b"\xff" * len(message)
            await ws.wait_closed()

        async with secured(handler, tls if secure else None, fast) as client:
            assert await client.recv() == bytes(16 << 20)

    @FAST
    @SECURE
    @pytest.mark.parametrize("message", [b"x" * (8 << 20), "x" * (8 << 20)], ids=["bytes", "str"])
    async def test_closing_while_it_is_written(
        self,
        secure: bool,
        fast: bool,
        message: bytes | str,
        tls: tuple[ssl.SSLContext, ssl.SSLContext],
    ) -> None:
        async def handler(ws: ServerConnection) -> None:
            ws.send_nowait(message)
            assert ws.transport.get_write_buffer_size()
            await ws.close(4000, "enough")

        async with secured(handler, tls if secure else None, fast) as client:
            assert await client.recv() == message
            await client.wait_closed()
            assert client.close_code == 4000

    @FAST
    @SECURE
    async def test_connection_is_lost_while_it_is_written(
        self, secure: bool, fast: bool, tls: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        lost = asyncio.Event()

        async def handler(ws: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await ws.send(bytes(8 << 20))
            lost.set()

        async with secured(handler, tls if secure else None, fast) as client:
            client.transport.abort()
            await asyncio.wait_for(lost.wait(), 10)

    async def test_transport_resumes_writing_at_once(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # asyncio's does with TLS when it gets rid of what waited for data of the peer.
        transports: list[object] = []

        async def handler(ws: ServerConnection) -> None:
            cls = type(ws.transport)
            if cls.__module__ != "asyncio.sslproto":
                transports.append(None)
                return
            write = cls.writelines

            def writelines(transport: object, lines: list[bytes]) -> None:
                write(transport, lines)
                if transport is ws.transport and not transports:
                    transports.append(transport)
                    ws.protocol.send("between")
                    ws.protocol.close(4000, "enough")
                    ws.pause_writing()
                    ws.resume_writing()
                    ws._driver.update()

            monkeypatch.setattr(cls, "writelines", writelines)
            ws.protocol.send(b"large" * 100_000)
            ws._driver.flush()
            await ws.wait_closed()

        async with secured(handler, tls) as client:
            await until(lambda: transports)
            if transports[0] is None:
                pytest.skip("this event loop's transports can't be changed")
            assert await client.recv() == b"large" * 100_000
            assert await client.recv() == "between"
            await client.wait_closed()
            assert client.close_code == 4000

    async def test_no_memory_for_what_the_network_does_not_take(self) -> None:
        resource = pytest.importorskip("resource")
        if sys.platform != "linux":
            pytest.skip("the limit on memory is Linux's")
        if "libasan" in os.environ.get("LD_PRELOAD", ""):
            pytest.skip("the address sanitizer ends a process that lacks memory")
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            pytest.skip("the allocator without a global lock has address space in reserve")
        message = "x" * (256 << 20)
        failures: list[object] = []

        async def handler(ws: ServerConnection) -> None:
            ws.protocol.send(message)
            before = resource.getrlimit(resource.RLIMIT_AS)
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), before[1]))
            try:
                ws._driver.flush()
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            failures.append(ws._driver.failure)
            with pytest.raises(ConnectionClosed):
                await ws.send("what follows a frame of which only a part was written")
            failures.append(None)

        async with secured(handler, None) as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1006
            await until(lambda: len(failures) == 2)
            assert type(failures[0]) is MemoryError


def test_loop_is_closed() -> None:
    """uvloop may close descriptors then, without a word: who uses them next must get nothing."""
    loop = pytest.importorskip("uvloop").new_event_loop()
    sock, peer = socket.socketpair()

    async def make() -> Connection:
        return Connection(Protocol(Side.CLIENT))

    with peer:
        peer.settimeout(5)
        ws = loop.run_until_complete(make())
        loop.run_until_complete(loop.create_connection(lambda: ws, sock=sock))
        assert ws._driver.descriptor >= 0
        ws.send_nowait("x")
        loop.run_until_complete(asyncio.sleep(0))
        assert len(peer.recv(100)) == 7
        with warnings.catch_warnings():
            # As an exception it would keep the loop from closing for ever.
            warnings.simplefilter("ignore", ResourceWarning)
            loop.close()
        assert peer.recv(100) == b""
    stranger, reader = socket.socketpair()
    with stranger, reader:
        os.dup2(stranger.fileno(), ws._driver.descriptor)
        try:
            broadcast([ws], "not for them")
            reader.setblocking(False)
            with pytest.raises(BlockingIOError):
                reader.recv(100)
        finally:
            os.close(ws._driver.descriptor)
