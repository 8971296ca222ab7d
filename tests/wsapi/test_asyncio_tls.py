"""TLS, with a certificate authority that lives as long as the tests."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import (
    RawPeer,
    echo,
    port_of,
    raw_server,
    serving,
    turns,
    until,
    until_closed,
)
from wsapi.asyncio.client import connect, unix_connect
from wsapi.asyncio.server import ServerConnection, broadcast, unix_serve
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidMessage

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl isn't installed")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority and a server's certificate for localhost and 127.0.0.1."""
    assert OPENSSL is not None
    directory = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for arguments in (
        [
            "req",
            "-x509",
            *key,
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=test authority",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-days",
            "2",
        ],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        [
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-days",
            "2",
            "-CAcreateserial",
            "-out",
            "server.pem",
            "-extfile",
            "extensions",
        ],
    ):
        subprocess.run([OPENSSL, *arguments], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture
def server_context(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    return context


@pytest.fixture
def client_context(certificates: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates / "ca.pem")


async def test_messages(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async with serving(ssl=server_context) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        async with connect(uri, ssl=client_context) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == f"localhost:{port_of(server)}"
            assert ws.transport.get_extra_info("peercert")["subject"]
            for message in ("text", b"binary", "", "é" * 100_000, bytes(2**20)):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["fragments ", "", "é"])
            assert await ws.recv() == "fragments é"
            for i in range(500):
                await ws.send(str(i))
            assert [await ws.recv() for _ in range(500)] == [str(i) for i in range(500)]
            assert await (await ws.ping()) > 0
        assert (ws.close_code, ws.close_reason) == (1000, "")


@pytest.mark.parametrize("size", [2**14, 2**18 + 1, 2**22])
async def test_big_messages_both_ways(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, size: int
) -> None:
    async with serving(ssl=server_context, max_size=None) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        async with connect(uri, ssl=client_context, max_size=None) as ws:
            block = bytes(range(256)) * (size // 256) + bytes(size % 256)
            sends = asyncio.gather(*(ws.send(block) for _ in range(3)))
            for _ in range(3):
                assert await ws.recv() == block
            await sends


@pytest.mark.parametrize("side", ["client", "server"])
async def test_close(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, side: str
) -> None:
    connections: list[ServerConnection] = []

    async def handler(ws: ServerConnection) -> None:
        connections.append(ws)
        if side == "server":
            await ws.close(4000, "server's")
        await ws.wait_closed()

    options: dict[str, Any] = {"close_timeout": 3600, "ssl_shutdown_timeout": 5}
    async with serving(handler, ssl=server_context, **options) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        ws = await connect(uri, ssl=client_context, **options)
        if side == "client":
            await ws.close(4001, "client's")
        await ws.wait_closed()
        await connections[0].wait_closed()
        expected = (4001, "client's") if side == "client" else (4000, "server's")
        for each in (ws, connections[0]):
            assert (each.close_code, each.close_reason) == expected


async def test_last_message_is_not_lost(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(ws: ServerConnection) -> None:
        for _ in range(30):
            await ws.send(bytes(100_000))
        await ws.send("last")

    async with serving(handler, ssl=server_context) as server:
        async with connect(f"wss://localhost:{port_of(server)}/", ssl=client_context) as ws:
            messages = [message async for message in ws]
            assert len(messages) == 31
            assert messages[-1] == "last"


async def test_flow_control(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    gate = asyncio.Event()
    received = []

    async def handler(ws: ServerConnection) -> None:
        await gate.wait()
        async for message in ws:
            received.append(message)

    async def send_all() -> None:
        for i in range(300):
            await ws.send(bytes([i % 256]) * 100_000)

    async with serving(handler, ssl=server_context, max_queue=2) as server:
        async with connect(f"wss://localhost:{port_of(server)}/", ssl=client_context) as ws:
            send = asyncio.create_task(send_all())
            await asyncio.wait([send], timeout=0.1)
            assert not send.done()
            gate.set()
            await send
    assert [message[0] for message in received] == [i % 256 for i in range(300)]
    assert {len(message) for message in received} == {100_000}


async def test_untrusted_certificate(server_context: ssl.SSLContext) -> None:
    async with serving(until_closed, ssl=server_context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(f"wss://localhost:{port_of(server)}/")
        await until(lambda: not server._connections)


async def test_wrong_name(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    async with serving(until_closed, ssl=server_context) as server:
        options = {"host": "127.0.0.1", "port": port_of(server), "ssl": client_context}
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect("wss://example.com/", **options)
        async with connect("wss://example.com/", server_hostname="localhost", **options) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "example.com"
        async with connect(f"wss://127.0.0.1:{port_of(server)}/", ssl=client_context):
            pass


async def test_plain_client_at_a_tls_server(server_context: ssl.SSLContext) -> None:
    async with serving(until_closed, ssl=server_context) as server:
        with pytest.raises((InvalidMessage, OSError)):
            await connect(f"ws://localhost:{port_of(server)}/")


async def test_tls_client_at_a_plain_server(client_context: ssl.SSLContext) -> None:
    async with serving(until_closed) as server:
        with pytest.raises((ssl.SSLError, OSError)):
            await connect(f"wss://localhost:{port_of(server)}/", ssl=client_context)
        await until(lambda: not server._connections)


async def test_tls_handshake_of_a_silent_server(client_context: ssl.SSLContext) -> None:
    async def behave(peer: RawPeer) -> None:
        await peer.read_to_end()

    async with raw_server(behave, handshake=False) as server:
        with pytest.raises(TimeoutError, match="timed out during opening handshake"):
            await connect(
                f"wss://localhost:{port_of(server)}/", ssl=client_context, open_timeout=0.05
            )


async def test_peer_disappears(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        ws.transport.abort()
        await ws.wait_closed()

    async with serving(handler, ssl=server_context) as server:
        ws = await connect(f"wss://localhost:{port_of(server)}/", ssl=client_context)
        await ws.send("x")
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == 1006


async def test_server_closes(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, ssl=server_context) as server:
        uri = f"wss://localhost:{port_of(server)}/"
        clients = [await connect(uri, ssl=client_context) for _ in range(3)]
        await until(lambda: len(server.connections) == 3)
        broadcast(server.connections, "bye")
        server.close()
        for ws in clients:
            assert await ws.recv() == "bye"
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()
            assert ws.close_code == 1001
        await server.wait_closed()


async def test_server_closes_during_a_tls_handshake(server_context: ssl.SSLContext) -> None:
    async with serving(until_closed, ssl=server_context, open_timeout=0.1) as server:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await turns(5)
        server.close()
        await server.wait_closed()
        writer.close()
        await writer.wait_closed()


async def test_cancelled_receiver(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(ssl=server_context) as server:
        async with connect(f"wss://localhost:{port_of(server)}/", ssl=client_context) as ws:
            received: list[Any] = []
            sends = asyncio.gather(*(ws.send(str(i)) for i in range(100)))
            while len(received) < 100:
                try:
                    received.append(await asyncio.wait_for(ws.recv(), 0.0001))
                except TimeoutError:
                    pass
            await sends
            assert received == [str(i) for i in range(100)]


async def test_unix_socket(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with unix_serve(echo, path, ssl=server_context):
        async with unix_connect(path, ssl=client_context) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == "localhost"
            await ws.send("x")
            assert await ws.recv() == "x"
