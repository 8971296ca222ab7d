"""Servers and clients made for wsproto, on ours by alias, with peers made by others."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from wsproto_fast import Side

from .helpers import TEXT, frame, header, run_apart

# Where wheels are tested there is less.
aiohttp = pytest.importorskip("aiohttp")
websocket = pytest.importorskip("websocket")

PROGRAMS = Path(__file__).with_name("wsproto_programs.py")
NEEDS = {
    "hypercorn": "hypercorn",
    "uvicorn": "uvicorn",
    "trio_websocket": "trio_websocket",
    "simple_websocket": "simple_websocket",
    "trio_websocket_client": "trio_websocket",
    "httpx_ws_client": "httpx_ws",
    "simple_websocket_client": "simple_websocket",
}


# --- the alias


def test_alias() -> None:
    run_apart(
        """
        import sys
        import wsproto_fast
        wsproto_fast.install_as_wsproto()
        wsproto_fast.install_as_wsproto()
        import wsproto
        import wsproto.connection, wsproto.events, wsproto.extensions, wsproto.frame_protocol
        import wsproto.handshake, wsproto.typing, wsproto.utilities
        from wsproto.handshake import H11Handshake
        assert wsproto is wsproto_fast.wsproto
        assert wsproto.__version__ == "1.3.2"
        assert sys.modules["wsproto.events"] is wsproto_fast.wsproto.events
        try:
            import wsproto.compat
        except ModuleNotFoundError as exc:
            assert exc.name == "wsproto.compat"
        else:
            assert False
        try:
            from wsproto.frame_protocol import XorMaskerSimple
        except ImportError as exc:
            assert "XorMaskerSimple" in str(exc)
        else:
            assert False
        assert "h11" not in sys.modules
        """
    )


@pytest.mark.parametrize("module", ["wsproto", "wsproto.events"])
def test_alias_too_late(module: str) -> None:
    run_apart(
        f"""
        import {module}
        import wsproto_fast
        try:
            wsproto_fast.install_as_wsproto()
        except RuntimeError as exc:
            assert "wsproto was imported before" in str(exc)
        else:
            assert False
        import wsproto.connection
        assert not wsproto.connection.Connection.__module__.startswith("wsproto_fast")
        """
    )


# --- servers


def start(*arguments: str) -> "subprocess.Popen[str]":
    program = arguments[0]
    pytest.importorskip(NEEDS[program])
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )


def stop(process: "subprocess.Popen[str]") -> str:
    process.kill()
    return process.communicate(timeout=10)[1]


@pytest.fixture(
    scope="module", params=["hypercorn", "uvicorn", "trio_websocket", "simple_websocket"]
)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    process = start(request.param)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(stop(process))
    try:
        yield request.param, int(line)
    finally:
        errors = stop(process)
    assert "Traceback" not in errors, errors


def uri(server: tuple[str, int], path: str = "/") -> str:
    return f"ws://127.0.0.1:{server[1]}{path}"


def test_echo(server: tuple[str, int]) -> None:
    with connect(uri(server), subprotocols=["chat"], proxy=None) as client:  # type: ignore[list-item] # a str for a Subprotocol
        assert client.subprotocol == "chat"
        deflates = server[0] != "trio_websocket"
        assert [e.name for e in client.protocol.extensions] == ["permessage-deflate"] * deflates
        messages: list[str | bytes] = [
            "",
            "h€llo",
            b"",
            b"\x00\xff",
            "x" * 90000,
            os.urandom(90000),
        ]
        for message in messages:
            client.send(message)
            assert client.recv(timeout=10) == message
        for message in messages:
            client.send(message)
        for message in messages:
            assert client.recv(timeout=10) == message
        client.send(["frag", "", "ments", "€"])
        assert client.recv(timeout=10) == "fragments€"
        assert client.ping(b"ping").wait(10)
        client.close(3000, "done")
    assert client.protocol.close_rcvd is not None
    # Not all servers answer with the same code.
    assert client.protocol.close_rcvd_then_sent is False


def test_without_compression(server: tuple[str, int]) -> None:
    with connect(uri(server), compression=None, proxy=None) as client:
        assert client.protocol.extensions == []
        client.send("x" * 1000)
        assert client.recv(timeout=10) == "x" * 1000


def test_server_closes(server: tuple[str, int]) -> None:
    with connect(uri(server, "/close"), proxy=None) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)
        assert (client.close_code, client.close_reason) == (3001, "bye")


def test_deny(server: tuple[str, int]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(uri(server, "/deny"), proxy=None)
    assert caught.value.response.status_code == 403


def test_websocket_client(server: tuple[str, int]) -> None:
    client = websocket.create_connection(uri(server), timeout=10, http_no_proxy=["*"])
    client.send("h€llo")
    assert client.recv() == "h€llo"
    client.send_binary(b"\xff")
    assert client.recv() == b"\xff"
    client.close()


def test_aiohttp(server: tuple[str, int]) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(uri(server), compress=15) as client:
                for text in ("h€llo", "x" * 5000):
                    await client.send_str(text)
                    assert await client.receive_str(timeout=10) == text
                await client.close(code=3000)

    asyncio.run(asyncio.wait_for(main(), 30))


HOSTILE = {
    "not masked": header(TEXT, 5) + b"hello",
    "bad text": frame(Side.SERVER, TEXT, b"\xff"),
    "bad opcode": frame(Side.SERVER, 3, b""),
    "reserved bits": frame(Side.SERVER, TEXT, b"", rsv=2),
    "too big": header(TEXT, 2**62, key=b"abcd") + bytes(200_000),
    "garbage": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes(server: tuple[str, int], case: str) -> None:
    with socket.create_connection(("127.0.0.1", server[1]), timeout=10) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101")
        rest = answer.partition(b"\r\n\r\n")[2]
        try:
            client.sendall(HOSTILE[case])
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(4096):
                rest += data
        except OSError:
            pass  # the server is done with us
    # Whether they answer is up to these programs; if so, it is a Close frame, with the right code.
    if rest:
        assert rest[0] == 0x88
        code = int.from_bytes(rest[2:4], "big")
        assert code in {"bad text": [1007], "too big": [1009]}.get(case, [1002]), code
    # They go on.
    test_without_compression(server)


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"]
)
def test_hostile_requests(server: tuple[str, int], request_: bytes) -> None:
    if server[0] == "simple_websocket":
        return  # the request is read by our own dozen lines there
    with socket.create_connection(("127.0.0.1", server[1]), timeout=10) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    test_without_compression(server)


# --- clients


@pytest.fixture
def peer() -> Iterator[str]:
    """Start a server of websockets; return its URI."""

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            if message == "close":
                connection.close(3001, "bye")
            elif isinstance(message, str):
                # In fragments: those of a client have to be put together.
                half = len(message) // 2
                connection.send([message[:half], message[half:]] if half else message)
            else:
                connection.send(message)

    def deny(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(403, "no") if request.path == "/deny" else None

    with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=["chat"],
        process_request=deny,
        select_subprotocol=lambda connection, offered: (offered or [None])[0],
    ) as server:  # type: ignore[arg-type] # a str for a Subprotocol
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize(
    "client", ["trio_websocket_client", "httpx_ws_client", "simple_websocket_client"]
)
def test_client(client: str, peer: str) -> None:
    process = start(client, peer)
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    chat, *echoes, closed, denied = output.splitlines()
    assert chat == "chat"
    assert echoes == ["str 0", "str 5", "bytes 2", "str 70000"]
    assert closed.endswith("3001 bye")
    assert denied == "403 b'no'"
