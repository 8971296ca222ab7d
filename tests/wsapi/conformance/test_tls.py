"""TLS, with a certificate authority that lives as long as the tests."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Ws, echo, until_closed
from tests.wsapi.conformance.raw import RawPeer, SecurePeer
from tests.wsapi.helpers import untrusted
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidMessage

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_messages(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(ssl=tls[0]) as server:
        uri = server.uri(host="localhost", tls=True)
        async with driver.connect(uri, ssl=tls[1]) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == f"localhost:{server.port}"
            for message in ("text", b"binary", "", "é" * 100_000, bytes(2**20)):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["fragments ", "", "é"])
            assert await ws.recv() == "fragments é"
            for i in range(500):
                await ws.send(str(i))
            assert [await ws.recv() for _ in range(500)] == [str(i) for i in range(500)]
            await (await ws.ping()).wait()
            assert ws.latency > 0
        assert (ws.close_code, ws.close_reason) == (1000, "")


@pytest.mark.parametrize("size", [2**14, 2**18 + 1, 2**22])
async def test_big_messages_both_ways(driver: Driver, tls: Contexts, size: int) -> None:
    async with driver.serve(ssl=tls[0], max_size=None) as server:
        uri = server.uri(host="localhost", tls=True)
        async with driver.connect(uri, ssl=tls[1], max_size=None) as ws:
            block = bytes(range(256)) * (size // 256) + bytes(size % 256)
            sends = [driver.spawn(ws.send(block)) for _ in range(3)]
            for _ in range(3):
                assert await ws.recv() == block
            for send in sends:
                await send


@pytest.mark.parametrize("side", ["client", "server"])
async def test_close(driver: Driver, tls: Contexts, side: str) -> None:
    connections: list[Ws] = []

    async def handler(ws: Ws) -> None:
        connections.append(ws)
        if side == "server":
            await ws.close(4000, "server's")
        await ws.wait_closed()

    options: dict[str, Any] = {"close_timeout": 3600}
    if driver.package == "asyncio":
        options["ssl_shutdown_timeout"] = 5
    async with driver.serve(handler, ssl=tls[0], **options) as server:
        uri = server.uri(host="localhost", tls=True)
        ws = await driver.open(uri, ssl=tls[1], **options)
        if side == "client":
            await ws.close(4001, "client's")
        await ws.wait_closed()
        await connections[0].wait_closed()
        expected = (4001, "client's") if side == "client" else (4000, "server's")
        for each in (ws, connections[0]):
            assert (each.close_code, each.close_reason) == expected


async def test_last_message_is_not_lost(driver: Driver, tls: Contexts) -> None:
    async def handler(ws: Ws) -> None:
        for _ in range(30):
            await ws.send(bytes(100_000))
        await ws.send("last")

    async with driver.serve(handler, ssl=tls[0]) as server:
        async with driver.connect(server.uri(host="localhost", tls=True), ssl=tls[1]) as ws:
            messages = [message async for message in ws]
            assert len(messages) == 31
            assert messages[-1] == "last"


async def test_flow_control(driver: Driver, tls: Contexts) -> None:
    gate = driver.event()
    received = []

    async def handler(ws: Ws) -> None:
        await gate.wait()
        async for message in ws:
            received.append(message)

    async def send_all() -> None:
        for i in range(300):
            await ws.send(bytes([i % 256]) * 100_000)

    async with driver.serve(handler, ssl=tls[0], max_queue=2) as server:
        async with driver.connect(server.uri(host="localhost", tls=True), ssl=tls[1]) as ws:
            send = driver.spawn(send_all())
            assert not await send.ended(0.1)
            gate.set()
            await send
    assert [message[0] for message in received] == [i % 256 for i in range(300)]
    assert {len(message) for message in received} == {100_000}


async def test_untrusted_certificate(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(until_closed, ssl=tls[0]) as server:
        with pytest.raises(Exception) as caught:
            await driver.attempt(server.uri(host="localhost", tls=True))
        assert untrusted(caught.value)
        await driver.until(lambda: not server.accepted)


async def test_wrong_name(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(until_closed, ssl=tls[0]) as server:
        options = {"address": ("127.0.0.1", server.port), "ssl": tls[1]}
        with pytest.raises(Exception) as caught:
            await driver.attempt("wss://example.com/", **options)
        assert untrusted(caught.value)
        async with driver.connect(
            "wss://example.com/", server_hostname="localhost", **options
        ) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "example.com"
        async with driver.connect(server.uri(tls=True), ssl=tls[1]):
            pass


@pytest.mark.not_on("asyncio", reason="that is left to the event loop, and by it to the collector")
async def test_context_for_servers(driver: Driver) -> None:
    """The connection is closed, also while somebody keeps the error."""
    closed = driver.event()

    async def behave(peer: RawPeer) -> None:
        with contextlib.suppress(OSError):
            await peer.read_to_end()
        closed.set()

    async with driver.raw_server(behave, handshake=False) as server:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_TLS_SERVER") as caught:
            await driver.attempt(
                f"wss://{HOST}:{server.port}/", ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            )
        await closed.wait()
        del caught


async def test_plain_client_at_a_tls_server(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(until_closed, ssl=tls[0]) as server:
        with pytest.raises((InvalidMessage, OSError)):
            await driver.attempt(server.uri(host="localhost"))


async def test_tls_client_at_a_plain_server(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(until_closed) as server:
        with pytest.raises((ssl.SSLError, OSError)):
            await driver.attempt(server.uri(host="localhost", tls=True), ssl=tls[1])
        await driver.until(lambda: not server.accepted)


async def test_tls_handshake_of_a_silent_server(driver: Driver, tls: Contexts) -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.read_to_end()

    async with driver.raw_server(behave, handshake=False) as server:
        with pytest.raises(TimeoutError, match="timed out"):
            uri = server.uri(host="localhost", tls=True)
            await driver.attempt(uri, ssl=tls[1], open_timeout=0.05)


async def test_peer_disappears(driver: Driver, tls: Contexts) -> None:
    async def handler(ws: Ws) -> None:
        await ws.recv()
        ws.lose()
        await ws.wait_closed()

    async with driver.serve(handler, ssl=tls[0]) as server:
        ws = await driver.open(server.uri(host="localhost", tls=True), ssl=tls[1])
        await ws.send("x")
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == 1006


async def test_server_closes(driver: Driver, tls: Contexts) -> None:
    async with driver.serve(echo, ssl=tls[0]) as server:
        uri = server.uri(host="localhost", tls=True)
        clients = [await driver.open(uri, ssl=tls[1]) for _ in range(3)]
        await driver.until(lambda: len(server.connections) == 3)
        await driver.broadcast(server.connections, "bye")
        closing = driver.spawn(server.close())
        for ws in clients:
            assert await ws.recv() == "bye"
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()
            assert ws.close_code == 1001
        await closing


async def test_server_closes_during_a_tls_handshake(driver: Driver, tls: Contexts) -> None:
    # asyncio tells nobody about a connection before its TLS handshake has ended.
    open_timeout = 0.1 if driver.package == "asyncio" else None
    async with driver.serve(until_closed, ssl=tls[0], open_timeout=open_timeout) as server:
        async with driver.raw_client(server, b"") as peer:
            await driver.settle()
            await server.close()
            assert await peer.read_to_end() == b""


async def test_receiver_that_gives_up(driver: Driver, tls: Contexts) -> None:
    async def send() -> None:
        for i in range(100):
            await ws.send(str(i))

    async with driver.serve(ssl=tls[0]) as server:
        async with driver.connect(server.uri(host="localhost", tls=True), ssl=tls[1]) as ws:
            received: list[Any] = []
            sending = driver.spawn(send())
            while len(received) < 100:
                try:
                    received.append(await ws.recv(timeout=0.0001))
                except TimeoutError:
                    pass
            await sending
            assert received == [str(i) for i in range(100)]


async def test_unix_socket(driver: Driver, tls: Contexts, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with driver.unix_serve(echo, path, ssl=tls[0]):
        async with driver.unix_connect(path, ssl=tls[1]) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "localhost"
            await ws.send("x")
            assert await ws.recv() == "x"


async def test_errors_of_another_connection(driver: Driver, tls: Contexts) -> None:
    """OpenSSL's errors are a thread's: who answers close_notify by an alert ends nobody else."""
    async with driver.serve(echo, ssl=tls[0]) as server:
        async with driver.connect(server.uri(host="localhost", tls=True), ssl=tls[1]) as ws:
            async with driver.raw_client(server, tls=tls[1]) as peer:
                assert isinstance(peer, SecurePeer)
                await peer.write(0x8, b"\x03\xe8")
                assert await driver.sock_recv(peer.sock, 65536)  # nothing of it is processed
                await driver.settle()
                peer.incoming.write_eof()
                with pytest.raises(ssl.SSLError):
                    peer.tls.read(1)
                assert peer.outgoing.pending  # an alert
                await driver.sock_sendall(peer.sock, peer.outgoing.read())
                await driver.settle()
            for i in range(5):
                await ws.send(str(i))
                assert await ws.recv() == str(i)
