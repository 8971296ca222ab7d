"""Streams with TLS below connections: what the peer sent arrives, however the stream ends."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.helpers import frame, request
from tests.wsapi.trio_helpers import PlainStream, serving, socket_streams, trio_test, until
from wsapi.frames import Opcode
from wsapi.trio import _transports
from wsapi.trio._transports import (
    MAX_PARTS,
    Carrier,
    SocketTransport,
    StreamTransport,
    start_tls,
    tls_errors,
)
from wsapi.trio.connection import Connection
from wsapi.trio.server import ServerConnection
from wsproto_fast import Protocol, Side

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

NORMAL_CLOSURE = (1000).to_bytes(2, "big")


class Mute(PlainStream):
    """A stream that can't send any more as soon as it is told."""

    mute = False
    refused = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.mute:
            self.refused += 1
            raise trio.BrokenResourceError
        await super().send_all(data)


@trio_test
async def test_close_arrives_after_sending_has_failed(tls: Contexts) -> None:
    one, other = socket_streams()
    mute = Mute(one)
    raw = trio.SSLStream(other, tls[0], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.do_handshake)
        stream = await start_tls(mute, tls[1], "localhost")
        connection = Connection(nursery, stream, Protocol(Side.CLIENT))
        nursery.start_soon(connection.aclose)
        assert await raw.receive_some()
        mute.mute = True
        await raw.send_all(frame(Opcode.PING, b""))
        await until(lambda: mute.refused)
        for opcode, payload in ((Opcode.TEXT, b"more"), (Opcode.CLOSE, NORMAL_CLOSURE)):
            await trio.testing.wait_all_tasks_blocked()
            await raw.send_all(frame(opcode, payload))
        await other.aclose()
    assert connection.close_code == 1000


@trio_test
async def test_sending_fails(tls: Contexts) -> None:
    one, other = socket_streams()
    mute = Mute(one)
    raw = trio.SSLStream(other, tls[0], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.do_handshake)
        stream = await start_tls(mute, tls[1], "localhost")
        connection = Connection(nursery, stream, Protocol(Side.CLIENT))
        mute.mute = True
        await connection.send("lost")
        await connection.wait_closed()
        await other.aclose()
    assert isinstance(connection.protocol.close_exc.__cause__, trio.BrokenResourceError)


@trio_test
async def test_close_arrives_though_the_peer_sends_more(tls: Contexts) -> None:
    made: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        made.append(connection)
        await connection.send(bytes(12_000))
        async for _ in connection:
            pass

    async with serving(handler, ssl=tls[0], compression=None) as (server, _):
        listener = server.listeners[0].socket
        # Room for all that the server sends, while the client has room for little.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(listener.getsockname())
        raw = trio.SSLStream(trio.SocketStream(sock), tls[1], server_hostname="localhost")
        await raw.send_all(request())
        received = bytearray(await raw.receive_some(1))
        await raw.send_all(frame(Opcode.CLOSE, NORMAL_CLOSURE, masked=True))
        await until(lambda: made and made[0]._ended)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await raw.send_all(frame(Opcode.PONG, b"", masked=True))
        while data := await raw.receive_some():
            received += data
        await raw.aclose()
        assert received.endswith(bytes(100) + frame(Opcode.CLOSE, NORMAL_CLOSURE))
        await made[0].wait_closed()


@trio_test
async def test_nothing_is_sent_after_a_failure_that_is_put_up_with() -> None:
    one, other = socket_streams()
    mute = Mute(one)
    carrier = Carrier(mute)
    carrier.lenient = mute.mute = True
    for _ in range(2):
        await carrier.send_all(b"x")
    assert mute.refused == 1
    assert isinstance(carrier.failure, trio.BrokenResourceError)
    await one.aclose()
    await other.aclose()


@trio_test
async def test_waiting_until_tls_can_send(tls: Contexts) -> None:
    one, other = socket_streams()
    raw = trio.SSLStream(other, tls[0], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.do_handshake)
        stream = await start_tls(one, tls[1], "localhost")
    one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with trio.move_on_after(5):
        await stream.wait_send_all_might_not_block()
        with trio.move_on_after(0.05):
            await one.send_all(bytes(10_000_000))
        with trio.move_on_after(0.05) as scope:
            await stream.wait_send_all_might_not_block()
        assert scope.cancelled_caught
    await one.aclose()
    await other.aclose()


def test_errors_without_a_cause() -> None:
    with pytest.raises(ConnectionResetError, match="connection lost") as caught:
        with tls_errors():
            raise trio.BrokenResourceError
    assert isinstance(caught.value, trio.BrokenResourceError)


class Refusing:
    """A system call that wouldn't be done at once, for the first times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
        self.original = getattr(os, name)
        self.times = times
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any) -> Any:
        if self.times:
            self.times -= 1
            raise BlockingIOError
        return self.original(*args)


@pytest.mark.skipif(not SocketTransport.available, reason="there is no os.readv")
@pytest.mark.parametrize("name, times", [("readv", 2), ("write", 1), ("write", 3)])
@trio_test
async def test_sockets_that_are_not_ready_after_all(
    name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = socket_streams()
    async with trio.open_nursery() as nursery:
        client = Connection(nursery, one, Protocol(Side.CLIENT))
        server = Connection(nursery, other, Protocol(Side.SERVER))
        refusing = Refusing(monkeypatch, name, times)
        for message in ("a", "b"):
            await client.send(message)
        assert [await server.recv(), await server.recv()] == ["a", "b"]
        assert not refusing.times
        nursery.start_soon(client.aclose)
        await server.aclose()


PARTS = [b"ab", memoryview(b"cde"), b"", b"f"]


@pytest.mark.skipif(not SocketTransport.available, reason="there is no os.readv")
@pytest.mark.parametrize("taken", range(7))
@trio_test
async def test_parts_that_are_taken_in_part(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev

    def taking(fd: int, parts: list[bytes]) -> int:
        monkeypatch.setattr(os, "writev", writev)
        if not taken:
            raise BlockingIOError
        return os.write(fd, b"".join(parts)[:taken])

    one, other = socket_streams()
    async with one, other:
        transport = SocketTransport(one, Protocol(Side.SERVER))
        monkeypatch.setattr(os, "writev", taking)
        transport.write_parts(PARTS)
        assert transport.unsent == 6 - taken
        assert transport.blocked == (taken < 6)
        transport.write_parts([b"g", b"h"])
        await transport.write_pending()
        assert await other.receive_some() == b"abcdefgh"
        assert not transport.blocked
        assert transport.unsent == 0


@pytest.mark.skipif(not SocketTransport.available, reason="there is no os.readv")
@trio_test
async def test_more_parts_than_a_system_call_takes() -> None:
    one, other = socket_streams()
    async with one, other:
        transport = SocketTransport(one, Protocol(Side.SERVER))
        parts = [b"%d," % i for i in range(MAX_PARTS + 10)]
        transport.write_parts([*parts])
        await transport.write_pending()
        assert await other.receive_some() == b"".join(parts)


@pytest.mark.skipif(not SocketTransport.available, reason="there is no os.readv")
@trio_test
async def test_more_bytes_of_parts_than_a_system_call_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(fd: int, parts: list[bytes]) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(_transports, "MAX_WRITTEN", 5)
    one, other = socket_streams()
    async with one, other:
        transport = SocketTransport(one, Protocol(Side.SERVER))
        transport.write_parts([b"ab", b"cde"])
        monkeypatch.setattr(os, "writev", refusing)
        transport.write_parts(PARTS)
        assert await other.receive_some() == b"abcdeabcdef"


class Recording(PlainStream):
    """A stream that keeps what it is given, as it is."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.pieces: list[bytes | bytearray | memoryview] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.pieces.append(data)


@trio_test
async def test_pieces_for_streams() -> None:
    stream = Recording(trio.testing.memory_stream_pair()[0])
    transport = StreamTransport(stream, Protocol(Side.SERVER))
    large = bytes(range(256)) * 800  # 204,800 bytes
    parts = [b"a", b"bc", large, b"d", memoryview(large), b"e", b"f"]
    transport.write_parts(parts)
    assert transport.unsent == sum(map(len, parts))
    assert transport.blocked
    await transport.write_pending()
    assert transport.unsent == 0
    assert not transport.blocked
    pieces = stream.pieces
    assert b"".join(pieces) == b"".join(parts)
    # What is small leaves with what comes next to it, and nothing else is copied.
    assert [len(piece) for piece in pieces] == [
        *(65536, 65536, 65536, 204800 + 3 - 3 * 65536),
        *(65536, 65536, 65536, 204800 + 1 - 3 * 65536),
        2,
    ]
    assert [isinstance(piece, memoryview) and piece.obj is large for piece in pieces] == [
        *(False, True, True, True) * 2,
        False,
    ]


@pytest.mark.skipif(not SocketTransport.available, reason="there is no os.readv")
@trio_test
async def test_what_is_pending_is_discarded_meanwhile() -> None:
    one, other = socket_streams()
    transport = SocketTransport(one, Protocol(Side.CLIENT))
    transport.write(bytes(10_000_000))
    assert transport.blocked
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            await transport.write_pending()
            nursery.cancel_scope.cancel()

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        transport.discard()
        while await other.receive_some():
            pass
    assert not transport.blocked
    await one.aclose()
    await other.aclose()
