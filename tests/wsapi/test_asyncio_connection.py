"""Connections between open and closed: messages, pings, closing."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from tests.wsapi.helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawPeer,
    close_payload,
    echo,
    frame,
    garbage_collection_off,
    logged_errors,
    pair,
    raw_client,
    raw_server,
    request,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import ServerConnection, broadcast
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ProtocolError,
)
from wsapi.frames import CloseCode
from wsproto_fast import ClientProtocol, Frame, Protocol, ServerProtocol, Side, State
from wsproto_fast.uri import parse_uri


async def agenerate(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


class TestSend:
    @pytest.mark.parametrize(
        "message, text, received",
        [
            ("plain", None, "plain"),
            ("", None, ""),
            ("héllo €😀", None, "héllo €😀"),
            (b"bytes", None, b"bytes"),
            (b"", None, b""),
            (bytearray(b"array"), None, b"array"),
            (memoryview(b"view"), None, b"view"),
            (memoryview(b"s-t-r-i-d-e-s")[::2], None, b"strides"),
            ("text as binary", False, b"text as binary"),
            ("é", False, "é".encode()),
            (b"binary as text", True, "binary as text"),
            (bytearray(b"\xc3\xa9"), True, "é"),
        ],
    )
    async def test_types(self, message: Any, text: bool | None, received: Any) -> None:
        async with pair() as (client, server):
            for sender, receiver in [(client, server), (server, client)]:
                await sender.send(message, text=text)
                got = await receiver.recv()
                assert got == received
                assert type(got) is type(received)

    @pytest.mark.parametrize(
        "items, text, received",
        [
            (["a", "b", "c"], None, "abc"),
            (["only"], None, "only"),
            ([b"a", bytearray(b"b"), memoryview(b"c")], None, b"abc"),
            (["a", "b"], False, b"ab"),
            ([b"a", b"b"], True, "ab"),
            (["", "", ""], None, ""),
            ([b"\xe2", b"\x82", b"\xac"], True, "€"),
        ],
    )
    @pytest.mark.parametrize("kind", [list, tuple, iter, agenerate])
    async def test_fragments(self, items: Any, text: bool | None, received: Any, kind: Any) -> None:
        async with pair() as (client, server):
            await client.send(agenerate(*items) if kind is agenerate else kind(items), text=text)
            assert await server.recv() == received

    async def test_each_item_is_a_frame(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.send(["a", "b"])
            await ws.send(agenerate(b"c"))

        async with serving(handler) as server, raw_client(server) as peer:
            frames = [await peer.read() for _ in range(5)]
            assert frames == [
                (TEXT, b"a"),
                (CONT, b"b"),
                (0x80 | CONT, b""),
                (BINARY, b"c"),
                (0x80 | CONT, b""),
            ]

    @pytest.mark.parametrize("nothing", [[], (), iter([]), "agenerate"])
    async def test_empty_iterable_sends_nothing(self, nothing: Any) -> None:
        async with pair() as (client, server):
            await client.send(agenerate() if nothing == "agenerate" else nothing)
            await client.send("next")
            assert await server.recv() == "next"

    @pytest.mark.parametrize(
        "message, error",
        [
            ({}, "data is a dict-like object"),
            ({"a": 1}, "data is a dict-like object"),
            (MappingProxyType({}), "data is a dict-like object"),
            (None, "data must be str, bytes, iterable, or async iterable"),
            (1, "data must be str, bytes, iterable, or async iterable"),
            (object(), "data must be str, bytes, iterable, or async iterable"),
        ],
    )
    async def test_wrong_types(self, message: Any, error: str) -> None:
        async with pair() as (client, server):
            with pytest.raises(TypeError, match=error):
                await client.send(message)
            assert client.state is State.OPEN
            await client.send("next")
            assert await server.recv() == "next"

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    @pytest.mark.parametrize("wrong", [1, None, [b"nested"], {}])
    async def test_wrong_first_item(self, kind: str, wrong: Any) -> None:
        async with pair() as (client, _server):
            with pytest.raises(TypeError, match=f"^{kind} must contain bytes or str$"):
                await client.send([wrong] if kind == "iterable" else agenerate(wrong))

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    @pytest.mark.parametrize("items", [("a", b"b"), (b"a", "b"), ("a", 1), (b"a", None)])
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_items_of_different_types_fail_the_connection(
        self, kind: str, items: Any, side: str
    ) -> None:
        async with pair() as connections:
            sender, receiver = connections if side == "client" else reversed(connections)
            with pytest.raises(TypeError, match=f"^{kind} must contain uniform types$"):
                await sender.send(list(items) if kind == "iterable" else agenerate(*items))
            with pytest.raises(ConnectionClosedError) as caught:
                await receiver.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == CloseCode.INTERNAL_ERROR
            assert caught.value.rcvd.reason == "error in fragmented message"
            with pytest.raises(ConnectionClosedError):
                await sender.send("late")

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    async def test_exception_of_the_iterator(self, kind: str) -> None:
        def generate() -> Iterator[str]:
            yield "a"
            raise ZeroDivisionError

        async def generate_slowly() -> AsyncIterator[str]:
            for item in generate():
                yield item

        async with pair() as (client, server):
            with pytest.raises(ZeroDivisionError):
                await client.send(generate() if kind == "iterable" else generate_slowly())
            await server.wait_closed()
            assert (server.close_code, server.close_reason) == (1011, "error in fragmented message")

    async def test_other_messages_wait_for_a_fragmented_one(self) -> None:
        gate = asyncio.Event()

        async def slow() -> AsyncIterator[str]:
            yield "a"
            await gate.wait()
            yield "b"

        async with pair() as (client, server):
            sends = [asyncio.create_task(client.send(slow()))]
            await turns(3)
            sends.append(asyncio.create_task(client.send("second")))
            sends.append(asyncio.create_task(client.send(["th", "ird"])))
            cancelled = asyncio.create_task(client.send("cancelled"))
            await turns(3)
            # Control frames aren't held up.
            await asyncio.wait_for(await client.ping(), 5)
            await client.pong()
            assert not any(task.done() for task in [*sends, cancelled])
            cancelled.cancel()
            gate.set()
            await asyncio.gather(*sends)
            await client.send("last")
            assert [await server.recv() for _ in range(4)] == ["ab", "second", "third", "last"]
            assert cancelled.cancelled()

    async def test_close_during_a_fragmented_message(self) -> None:
        async def endless() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(3600)

        async with pair() as (client, server):
            send = asyncio.create_task(client.send(endless()))
            await until(lambda: client._fragmented is not None)
            with pytest.raises(ProtocolError):
                await client.close(999)
            assert client.state is State.OPEN
            await client.close()
            await server.wait_closed()
            assert server.close_code == 1011
            assert server.close_reason == "close during fragmented message"
            send.cancel()
            with pytest.raises(asyncio.CancelledError):
                await send

    async def test_cancelled_fragmented_message_fails_the_connection(self) -> None:
        async def endless() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(3600)

        async with pair() as (client, server):
            send = asyncio.create_task(client.send(endless()))
            await until(lambda: client._fragmented is not None)
            waiting = asyncio.create_task(client.send("next"))
            await turns(2)
            send.cancel()
            with pytest.raises(ConnectionClosedError):
                await server.recv()
            assert server.close_code == 1011
            with pytest.raises(ConnectionClosed):
                await waiting
            assert send.cancelled()

    @pytest.mark.parametrize("message", ["text", b"binary", ["a", "b"], "agenerate"])
    async def test_after_close(self, message: Any) -> None:
        async with pair() as (client, server):
            await client.close(1001, "bye")
            for ws in (client, server):
                with pytest.raises(ConnectionClosedOK, match="bye"):
                    await ws.send(agenerate("a") if message == "agenerate" else message)

    async def test_while_closing_waits_for_the_end(self) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read_to_end()

        async with raw_server(silent) as server:
            async with connect(uri_of(server), close_timeout=0.05) as ws:
                closing = asyncio.create_task(ws.close())
                await turns(1)
                assert ws.state is State.CLOSING
                with pytest.raises(ConnectionClosedError) as caught:
                    await ws.send("late")
                assert isinstance(caught.value.__cause__, TimeoutError)
                await closing

    async def test_bytes_are_taken_when_send_returns(self) -> None:
        async with pair() as (client, server):
            data = bytearray(b"before")
            await client.send(data)
            data[:] = b"after!"
            assert await server.recv() == b"before"

    @pytest.mark.parametrize("size", [2**20, 2**23, 2**25])
    async def test_big_messages(self, size: int) -> None:
        async with pair(max_size=None) as (client, server):
            block = bytes(range(256)) * (size // 256)
            for sender, receiver in [(client, server), (server, client)]:
                send = asyncio.create_task(sender.send(block))
                assert await receiver.recv() == block
                await send
            text = "é" * (size // 2)
            send = asyncio.create_task(client.send(text))
            assert await server.recv() == text
            await send

    async def test_echo_of_many_sizes(self) -> None:
        sizes = [0, 1, 125, 126, 127, 65535, 65536, 262143, 262144, 262145, 700_000]
        async with serving() as server, connect(uri_of(server)) as ws:
            for size in sizes:
                await ws.send(b"x" * size)
                assert await ws.recv() == b"x" * size
            for size in sizes:
                await ws.send("y" * size)
                assert await ws.recv() == "y" * size


class TestReceive:
    @pytest.mark.parametrize(
        "sent, decode, received",
        [
            ("é", None, "é"),
            ("é", False, "é".encode()),
            ("é", True, "é"),
            ("é".encode(), None, "é".encode()),
            ("é".encode(), False, "é".encode()),
            ("é".encode(), True, "é"),
            (["a", "b"], False, b"ab"),
            ([b"a", b"b"], True, "ab"),
            ("", False, b""),
            (b"", True, ""),
        ],
    )
    async def test_decode(self, sent: Any, decode: bool | None, received: Any) -> None:
        async with pair() as (client, server):
            await client.send(sent)
            got = await server.recv(decode=decode)
            assert got == received
            assert type(got) is type(received)

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_binary_that_is_not_text(self, side: str, streaming: bool) -> None:
        # Close timeouts longer than the test: the closing handshake must work.
        async with pair(close_timeout=3600) as connections:
            sender, receiver = connections if side == "server" else reversed(connections)
            await sender.send(b"ab\xff")
            for _ in range(2):
                with pytest.raises(ConnectionClosedError) as caught:
                    if streaming:
                        async for _fragment in receiver.recv_streaming(decode=True):
                            pass
                    else:
                        await receiver.recv(decode=True)
                assert isinstance(caught.value.__cause__, UnicodeDecodeError)
                assert caught.value.sent is not None
                assert caught.value.sent.code == 1007
                assert caught.value.sent.reason == "invalid start byte at position 2"
            await sender.wait_closed()
            assert sender.close_code == 1007

    async def test_text_that_is_not_utf8(self) -> None:
        results = []

        async def handler(ws: ServerConnection) -> None:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            results.append(caught.value)

        async with serving(handler) as server, raw_client(server) as peer:
            peer.write(TEXT, b"\xff")
            assert await peer.read_message() == (
                CLOSE,
                close_payload(1007, "invalid start byte at position 0"),
            )
            assert await peer.read_to_end() == b""
        assert isinstance(results[0].__cause__, UnicodeDecodeError)

    async def test_too_many_fragments(self) -> None:
        async with serving() as server, raw_client(server) as peer:
            peer.write(TEXT, b"a", fin=False)
            for _ in range(4096):
                peer.write(CONT, b"a", fin=False)
            opcode, payload = await peer.read_message()
            assert (opcode, payload) == (CLOSE, close_payload(1009, "too many fragments"))

    async def test_too_big(self) -> None:
        async with pair(server={"max_size": 10}) as (client, server):
            await client.send("x" * 10)
            await client.send("x" * 11)
            assert await server.recv() == "x" * 10
            with pytest.raises(ConnectionClosedError):
                await server.recv()
            await client.wait_closed()
            assert client.close_code == 1009

    async def test_one_byte_at_a_time(self) -> None:
        async with serving() as server, raw_client(server) as peer:
            sock = peer.writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = (
                frame(TEXT, "é€".encode(), masked=True)
                + frame(BINARY, b"ab", fin=False, masked=True)
                + frame(PING, b"p", masked=True)
                + frame(CONT, b"c" * 130, masked=True)
            )
            for i in range(len(data)):
                peer.writer.write(data[i : i + 1])
                await asyncio.sleep(0)
            assert await peer.read_message() == (TEXT, "é€".encode())
            assert await peer.read_message() == (PONG, b"p")
            assert await peer.read_message() == (BINARY, b"ab" + b"c" * 130)

    async def test_handshake_one_byte_at_a_time(self) -> None:
        async with serving() as server, raw_client(server, b"") as peer:
            for byte in request():
                peer.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")

    async def test_messages_sent_with_the_request(self) -> None:
        async def process_request(_ws: ServerConnection, _request: object) -> None:
            await asyncio.sleep(0.01)

        for options in ({}, {"process_request": process_request}):
            async with serving(**options) as server, raw_client(server, b"") as peer:
                peer.writer.write(request() + frame(TEXT, b"early", masked=True))
                await peer.reader.readuntil(b"\r\n\r\n")
                assert await peer.read_message() == (TEXT, b"early")

    async def test_messages_received_before_the_end_stay(self) -> None:
        async with pair() as (client, server):
            for i in range(5):
                await server.send(str(i))
            await server.close(1001, "bye")
            assert client.state is State.CLOSED
            assert [await client.recv() for _ in range(5)] == list("01234")
            for _ in range(3):
                with pytest.raises(ConnectionClosedOK) as caught:
                    await client.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
            assert str(caught.value) == (
                "received 1001 (going away) bye; then sent 1001 (going away) bye"
            )

    async def test_only_one_receiver(self) -> None:
        async def stream(ws: Connection) -> None:
            async for _ in ws.recv_streaming():
                pass

        async with pair() as (client, server):
            first = asyncio.create_task(server.recv())
            await turns(2)
            for _ in range(2):
                with pytest.raises(ConcurrencyError, match="another coroutine"):
                    await server.recv()
                with pytest.raises(ConcurrencyError, match="another coroutine"):
                    await stream(server)
                with pytest.raises(ConcurrencyError, match="another coroutine"):
                    async for _ in server:
                        pass
            await client.send("message")
            assert await first == "message"
            await client.send("next")
            assert await server.recv() == "next"

    async def test_message_before_eof_without_close_frame(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            peer.write(TEXT, b"last")
            await until(lambda: server.connections)
            (ws,) = server.connections
            await peer.close()
            assert await ws.recv() == "last"
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert str(caught.value) == "no close frame received or sent"
            assert (ws.close_code, ws.close_reason) == (1006, "")

    @pytest.mark.parametrize("number", [1, 5, 30])
    async def test_after_the_connection_was_lost_while_reading_was_paused(
        self, number: int
    ) -> None:
        async with pair(server={"max_queue": 4}) as (client, server):
            for i in range(number):
                await client.send(str(i))
            await asyncio.sleep(0.01)
            server.transport.abort()
            await server.wait_closed()
            messages = []
            with pytest.raises(ConnectionClosedError):
                while True:
                    messages.append(await server.recv())
            assert messages == [str(i) for i in range(number)][: len(messages)]
            assert len(messages) >= min(number, 4)
            with pytest.raises(ConnectionClosedError):
                async for _ in server:
                    pass
            with pytest.raises(ConnectionClosedError):
                async for _ in server.recv_streaming():
                    pass


class TestStreaming:
    async def test_fragments(self) -> None:
        async with pair() as (client, server):
            await client.send(["a", "bc", "d"])
            await client.send([b"e", b"f"])
            await client.send("whole")
            assert [f async for f in server.recv_streaming()] == ["a", "bc", "d", ""]
            assert [f async for f in server.recv_streaming()] == [b"e", b"f", b""]
            assert [f async for f in server.recv_streaming()] == ["whole"]

    @pytest.mark.parametrize(
        "decode, kind, expected",
        [
            (None, True, ["", "é", "x", ""]),
            (True, True, ["", "é", "x", ""]),
            (False, True, [b"\xc3", b"\xa9", b"x", b""]),
            (None, False, [b"\xc3", b"\xa9", b"x", b""]),
            (True, False, ["", "é", "x", ""]),
            (False, False, [b"\xc3", b"\xa9", b"x", b""]),
        ],
    )
    async def test_decode(self, decode: bool | None, kind: bool, expected: Any) -> None:
        async with pair() as (client, server):
            await client.send([b"\xc3", b"\xa9", b"x"], text=kind)
            assert [f async for f in server.recv_streaming(decode)] == expected

    async def test_fragments_come_as_they_arrive(self) -> None:
        received: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(ws: ServerConnection) -> None:
            async for fragment in ws.recv_streaming():
                received.put_nowait(fragment)
            received.put_nowait(None)

        async with serving(handler) as server, raw_client(server) as peer:
            peer.write(TEXT, b"a", fin=False)
            assert await received.get() == "a"
            peer.write(PING)
            peer.write(CONT, b"b\xe2\x82", fin=False)
            assert await received.get() == "b"
            peer.write(CONT, b"\xac", fin=True)
            assert await received.get() == "€"
            assert await received.get() is None

    @pytest.mark.parametrize("taken", [1, 2, 3])
    async def test_leaving_skips_the_rest(self, taken: int) -> None:
        async with pair() as (client, server):
            await client.send(["a", "b", "c"])
            await client.send("next")
            await client.send("then")
            count = 0
            async for _ in server.recv_streaming():
                count += 1
                if count == taken:
                    break
            assert await server.recv() == "next"
            assert await anext(aiter(server)) == "then"

    async def test_leaving_before_the_rest_arrives(self) -> None:
        rest = asyncio.Event()
        results: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            async for fragment in ws.recv_streaming():
                results.append(fragment)
                break
            rest.set()
            results.append(await ws.recv())
            results.append([fragment async for fragment in ws.recv_streaming()])

        async with serving(handler) as server, raw_client(server) as peer:
            peer.write(TEXT, b"a", fin=False)
            await rest.wait()
            peer.write(CONT, b"skipped", fin=False)
            peer.write(CONT, b"skipped", fin=True)
            peer.write(TEXT, b"next")
            peer.write(TEXT, b"last", fin=True)
            assert (await peer.read_message())[0] == CLOSE
        assert results == ["a", "next", ["last"]]

    async def test_leaving_through_an_exception(self) -> None:
        async with pair() as (client, server):
            await client.send(["a", "b"])
            await client.send("next")
            with pytest.raises(ZeroDivisionError):
                async for _ in server.recv_streaming():
                    1 / 0  # noqa: B018
            assert await server.recv() == "next"

    async def test_never_started(self) -> None:
        async with pair() as (client, server):
            server.recv_streaming()
            await client.send(["a", "b"])
            assert await server.recv() == "ab"

    async def test_only_one_receiver(self) -> None:
        async with pair() as (client, server):
            await client.send(["a", "b"])
            stream = aiter(server.recv_streaming())
            assert await anext(stream) == "a"
            with pytest.raises(ConcurrencyError, match="another coroutine"):
                await server.recv()
            with pytest.raises(ConcurrencyError, match="another coroutine"):
                await anext(aiter(server.recv_streaming()))
            assert [fragment async for fragment in stream] == ["b", ""]
            await client.send("next")
            assert await server.recv() == "next"

    async def test_cancelled_before_the_first_fragment(self) -> None:
        async def stream(ws: Connection) -> list[Any]:
            return [fragment async for fragment in ws.recv_streaming()]

        async with pair() as (client, server):
            task = asyncio.create_task(stream(server))
            await turns(2)
            task.cancel()
            await asyncio.wait([task])
            await client.send(["a", "b"])
            assert await stream(server) == ["a", "b", ""]

    async def test_connection_closed_half_way(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            stream = aiter(ws.recv_streaming())
            assert await anext(stream) == "a"
            with pytest.raises(ConnectionClosedError):
                await anext(stream)

        async with serving(handler) as server, raw_client(server) as peer:
            peer.write(TEXT, b"a", fin=False)
            await until(lambda: server._handlers)
            peer.abort()
            await until(lambda: not server._handlers)

    async def test_after_close(self) -> None:
        async with pair() as (client, server):
            await client.send(["a", "b"])
            await client.close()
            assert [fragment async for fragment in server.recv_streaming()] == ["a", "b", ""]
            with pytest.raises(ConnectionClosedOK):
                await anext(aiter(server.recv_streaming()))

    async def test_more_fragments_than_the_queue_takes(self) -> None:
        async with pair(max_queue=2) as (client, server):
            fragments = [str(i) for i in range(200)]
            send = asyncio.create_task(client.send(fragments))
            await asyncio.sleep(0.01)
            got = [fragment async for fragment in server.recv_streaming()]
            assert got == [*fragments, ""]
            await send
            send = asyncio.create_task(client.send(fragments))
            await asyncio.sleep(0.01)
            assert await server.recv() == "".join(fragments)
            await send


class TestIteration:
    @pytest.mark.parametrize("code", [1000, 1001])
    async def test_stops_when_closed_well(self, code: int) -> None:
        async with pair() as (client, server):
            await client.send("a")
            await client.send(b"b")
            await client.close(code)
            assert [message async for message in server] == ["a", b"b"]
            assert [message async for message in client] == []

    @pytest.mark.parametrize("code", [1002, 1008, 1011, 3000, 4999])
    async def test_raises_otherwise(self, code: int) -> None:
        async with pair() as (client, server):
            await client.send("a")
            await client.close(code, "why")
            messages = []
            with pytest.raises(ConnectionClosedError) as caught:
                async for message in server:
                    messages.append(message)
            assert messages == ["a"]
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "why")

    async def test_stops_after_an_empty_close_frame(self) -> None:
        results: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            results.extend([message async for message in ws])
            results.append((ws.close_code, ws.close_reason))

        async with serving(handler) as server, raw_client(server) as peer:
            peer.write(CLOSE)
            assert await peer.read_message() == (CLOSE, b"")
            assert await peer.read_to_end() == b""
        assert results == [(1005, "")]

    async def test_leaving_and_coming_back(self) -> None:
        async with pair() as (client, server):
            for letter in "abc":
                await client.send(letter)
            async for message in server:
                assert message == "a"
                break
            assert await server.recv() == "b"
            async for message in server:
                assert message == "c"
                break


class TestPings:
    async def test_latency(self) -> None:
        async with pair() as (client, server):
            assert client.latency == 0
            answer = await client.ping()
            latency = await answer
            assert isinstance(latency, float)
            assert latency > 0
            assert client.latency == latency
            assert server.latency == 0
            await (await server.ping("payload"))
            assert server.latency > 0

    @pytest.mark.parametrize(
        "data, payload",
        [
            ("é", "é".encode()),
            (b"b", b"b"),
            (bytearray(b"c"), b"c"),
            (memoryview(b"d"), b"d"),
            ("", b""),
            (b"x" * 125, b"x" * 125),
        ],
    )
    async def test_payloads(self, data: Any, payload: bytes) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.pong(data)
            await (await ws.ping(data))
            await (await ws.ping(data))

        async with serving(handler) as server, raw_client(server) as peer:
            assert await peer.read_message() == (PONG, payload)
            for _ in range(2):
                assert await peer.read_message() == (PING, payload)
                peer.write(PONG, payload)

    async def test_random_payloads_differ(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await asyncio.gather(*[await ws.ping() for _ in range(10)])

        async with serving(handler) as server, raw_client(server) as peer:
            payloads = [await peer.read_message() for _ in range(10)]
            assert {opcode for opcode, _ in payloads} == {PING}
            assert {len(payload) for _, payload in payloads} == {4}
            assert len(set(payloads)) == 10
            peer.write(PONG, payloads[-1][1])

    async def test_a_later_pong_answers_earlier_pings(self) -> None:
        answers: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            answers.extend([await ws.ping(name) for name in "abc"])
            answers[0].cancel()
            await answers[1]
            assert not answers[2].done()
            await answers[2]

        async with serving(handler) as server, raw_client(server) as peer:
            for _ in range(3):
                await peer.read_message()
            peer.write(PONG, b"unknown")
            peer.write(PONG, b"b")
            peer.write(PONG, b"a")
            await until(lambda: answers[1].done())
            await turns(5)
            peer.write(PONG, b"c")
            assert (await peer.read_message()) == (CLOSE, close_payload(1000))
            assert answers[0].cancelled()

    @pytest.mark.parametrize("data", [1, None.__class__, ["a"], 1.5])
    async def test_wrong_types(self, data: Any) -> None:
        async with pair() as (client, _server):
            with pytest.raises(TypeError):
                await client.ping(data)
            with pytest.raises(TypeError):
                await client.pong(data)
            await (await client.ping())

    async def test_too_long(self) -> None:
        async with pair() as (client, _server):
            with pytest.raises(ProtocolError):
                await client.ping(b"x" * 126)
            with pytest.raises(ProtocolError):
                await client.pong("é" * 63)
            await (await client.ping())

    async def test_same_payload_twice(self) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read()
            await peer.read()
            peer.write(PONG, b"same")
            assert (await peer.read())[0] & 0x7F == PING
            peer.write(PONG, b"same")
            await peer.read_to_end()

        async with raw_server(silent) as server:
            async with connect(uri_of(server), close_timeout=0.02) as ws:
                answer = await ws.ping("same")
                with pytest.raises(ConcurrencyError, match="same data"):
                    await ws.ping(b"same")
                await ws.ping("other")
                await answer
                await (await ws.ping("same"))

    @pytest.mark.parametrize("code", [1000, 1011])
    async def test_abandoned(self, code: int) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read()
            await peer.read()
            peer.write(CLOSE, close_payload(code))
            await peer.read()

        async with raw_server(silent) as server:
            async with connect(uri_of(server)) as ws:
                awaited, _ignored = await ws.ping(), await ws.ping()
                with pytest.raises(ConnectionClosed) as caught:
                    await awaited
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == code

    async def test_after_close(self) -> None:
        async with pair() as (client, server):
            await client.close()
            for ws in (client, server):
                with pytest.raises(ConnectionClosedOK):
                    await ws.ping()
                with pytest.raises(ConnectionClosedOK):
                    await ws.pong()

    async def test_incoming_pings_need_no_application(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            for payload in (b"", b"a", b"x" * 125):
                peer.write(PING, payload)
                assert await peer.read_message() == (PONG, payload)


class TestKeepalive:
    async def test_peer_answers(self) -> None:
        async def answering(peer: RawPeer) -> None:
            for _ in range(4):
                opcode, payload = await peer.read_message()
                assert opcode == PING
                peer.write(PONG, payload)
            peer.write(CLOSE, close_payload(1000))
            await peer.read()

        async with raw_server(answering) as server:
            async with connect(uri_of(server), ping_interval=0.01, ping_timeout=5) as ws:
                with pytest.raises(ConnectionClosedOK):
                    await ws.recv()
                assert ws.latency > 0

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_peer_does_not_answer(self, side: str) -> None:
        async def silent(peer: RawPeer) -> None:
            assert (await peer.read_message())[0] == PING
            assert await peer.read_message() == (
                CLOSE,
                close_payload(1011, "keepalive ping timeout"),
            )
            await peer.read_to_end()

        results = []

        async def expect_timeout(ws: Connection) -> None:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            results.append(str(caught.value))

        options = {"ping_interval": 0.02, "ping_timeout": 0.02, "close_timeout": 0.05}
        if side == "client":
            async with raw_server(silent) as server:
                async with connect(uri_of(server), **options) as ws:
                    await expect_timeout(ws)
        else:
            async with serving(expect_timeout, **options) as server:
                async with raw_client(server) as peer:
                    await silent(peer)
        assert results == [
            "sent 1011 (internal error) keepalive ping timeout; no close frame received"
        ]

    async def test_other_bytes_are_a_sign_of_life(self) -> None:
        async def talkative(peer: RawPeer) -> None:
            for _ in range(30):
                peer.write(TEXT, b"alive")
                await asyncio.sleep(0.02)
            peer.write(CLOSE, close_payload(1000))
            while (await peer.read())[0] & 0x7F != CLOSE:
                pass

        async with raw_server(talkative) as server:
            async with connect(uri_of(server), ping_interval=0.01, ping_timeout=0.2) as ws:
                assert [message async for message in ws] == ["alive"] * 30

    async def test_no_timeout(self) -> None:
        async def silent(peer: RawPeer) -> None:
            for _ in range(5):
                assert (await peer.read_message())[0] == PING
            peer.write(TEXT, b"still there")
            await peer.read_to_end()

        async with raw_server(silent) as server:
            options = {"ping_interval": 0.01, "ping_timeout": None, "close_timeout": 0.01}
            async with connect(uri_of(server), **options) as ws:
                assert await ws.recv() == "still there"

    async def test_none(self) -> None:
        async def silent(peer: RawPeer) -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.read(), 0.05)
            peer.write(CLOSE, close_payload(1000))
            await peer.read()

        async with raw_server(silent) as server:
            async with connect(uri_of(server), ping_interval=None, ping_timeout=0.001) as ws:
                await ws.wait_closed()
                assert ws.close_code == 1000
                assert ws.latency == 0

    async def test_blocked_loop_is_not_the_peer_s_fault(self) -> None:
        async with pair(
            server={"ping_interval": 0.01, "ping_timeout": 0.1}, client={"ping_interval": None}
        ) as (client, _server):
            await asyncio.sleep(0.015)
            time.sleep(0.25)
            await asyncio.sleep(0.05)
            assert client.state is State.OPEN


class TestClose:
    @pytest.mark.parametrize("side", ["client", "server"])
    @pytest.mark.parametrize(
        "code, reason", [(1000, ""), (1001, "bye"), (1011, "é" * 61), (3000, "x" * 123), (4999, "")]
    )
    async def test_codes_and_reasons(self, side: str, code: int, reason: str) -> None:
        async with pair() as connections:
            first, second = connections if side == "client" else reversed(connections)
            assert first.close_code is first.close_reason is None
            await first.close(code, reason)
            await second.wait_closed()
            for ws in (first, second):
                assert ws.state is State.CLOSED
                assert (ws.close_code, ws.close_reason) == (code, reason)
            assert first.protocol.close_rcvd_then_sent is False
            assert second.protocol.close_rcvd_then_sent is True

    async def test_idempotent(self) -> None:
        async with pair() as (client, server):
            await client.close()
            await client.close(1001)
            await client.close(4000, "ignored")
            await server.close()
            await server.wait_closed()
            assert (client.close_code, server.close_code) == (1000, 1000)

    async def test_concurrent_calls(self) -> None:
        async with pair() as (client, server):
            await asyncio.gather(
                *(client.close(1000 + i) for i in range(3)), *(server.close() for _ in range(3))
            )
            await server.wait_closed()
            assert client.state is server.state is State.CLOSED
            assert server.close_code == 1000

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536, -1])
    async def test_invalid_code(self, code: int) -> None:
        async with pair() as (client, server):
            for ws in (client, server):
                with pytest.raises(ProtocolError, match="invalid status code"):
                    await ws.close(code)
                assert ws.state is State.OPEN
            await client.send("still open")
            assert await server.recv() == "still open"

    async def test_invalid_reason(self) -> None:
        async with pair() as (client, server):
            for reason in ("x" * 124, "é" * 62):
                with pytest.raises(ProtocolError, match="control frame too long"):
                    await client.close(1000, reason)
            await client.send("still open")
            assert await server.recv() == "still open"

    @pytest.mark.parametrize("reads", [True, False])
    async def test_timeout(self, reads: bool) -> None:
        done = asyncio.Event()

        async def silent(peer: RawPeer) -> None:
            if reads:
                await peer.read_to_end()
            await done.wait()

        async with raw_server(silent) as server:
            async with connect(uri_of(server), close_timeout=0.03) as ws:
                waiting = asyncio.create_task(ws.recv())
                await ws.close()
                assert (ws.close_code, ws.close_reason) == (1006, "")
                for call in (lambda: waiting, ws.recv, lambda: ws.send("late"), ws.ping):
                    with pytest.raises(ConnectionClosedError) as caught:
                        await call()
                    assert isinstance(caught.value.__cause__, TimeoutError)
                    assert str(caught.value.__cause__) == "timed out while closing connection"
                    assert str(caught.value) == "sent 1000 (OK); no close frame received"
            done.set()

    async def test_timeout_of_tcp(self) -> None:
        """The Close frame came back; TCP isn't closed."""

        async def half(peer: RawPeer) -> None:
            opcode, payload = await peer.read_message()
            assert opcode == CLOSE
            peer.write(CLOSE, payload)
            await peer.read_to_end()

        async with raw_server(half) as server:
            async with connect(uri_of(server), close_timeout=0.03) as ws:
                await ws.close(1001, "bye")
                assert (ws.close_code, ws.close_reason) == (1001, "bye")

    async def test_server_half_closes_first(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await ws.close()

        async with serving(handler) as server, raw_client(server) as peer:
            assert await peer.read_message() == (CLOSE, close_payload(1000))
            peer.write(CLOSE, close_payload(1000))
            assert await peer.read_to_end() == b""

    async def test_with_a_full_queue(self) -> None:
        async with pair(server={"max_queue": 2}, close_timeout=3600) as (client, server):
            for i in range(50):
                await client.send(str(i))
            await until(lambda: not server.protocol.reading_wanted)
            await server.close()
            assert server.close_code == 1000
            # What was received before is a prefix of what was sent.
            messages = [message async for message in server]
            assert messages == [str(i) for i in range(len(messages))]
            assert len(messages) >= 2

    async def test_peer_closes_while_the_queue_is_full(self) -> None:
        async with pair(server={"max_queue": 2}, close_timeout=3600) as (client, server):
            for i in range(50):
                await client.send(str(i))
            closing = asyncio.create_task(client.close())
            assert [message async for message in server] == [str(i) for i in range(50)]
            await closing
            assert client.close_code == 1000

    async def test_while_the_peer_floods(self) -> None:
        async def flood(peer: RawPeer) -> None:
            reading = asyncio.create_task(peer.read_message())
            while not reading.done():
                peer.write(BINARY, bytes(10_000))
                await peer.writer.drain()
            opcode, payload = reading.result()
            assert opcode == CLOSE
            peer.write(CLOSE, payload)

        async with raw_server(flood) as server:
            async with connect(uri_of(server), close_timeout=3600) as ws:
                await ws.recv()
                await asyncio.sleep(0.02)
                await ws.close()
                assert ws.close_code == 1000
                assert ws.protocol.close_rcvd is not None

    async def test_cancelled(self) -> None:
        gate = asyncio.Event()

        async def slow(peer: RawPeer) -> None:
            opcode, payload = await peer.read_message()
            assert opcode == CLOSE
            await gate.wait()
            peer.write(CLOSE, payload)

        async with raw_server(slow) as server:
            async with connect(uri_of(server), close_timeout=3600) as ws:
                for _ in range(3):
                    closing = asyncio.create_task(ws.close())
                    await turns(2)
                    closing.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await closing
                    assert ws.state is State.CLOSING
                gate.set()
                await ws.close()
                assert ws.close_code == 1000

    async def test_from_the_receiving_task_and_another(self) -> None:
        async with pair() as (client, server):
            receiving = asyncio.create_task(client.recv())
            await turns(2)
            await client.close()
            with pytest.raises(ConnectionClosedOK):
                await receiving
            await server.wait_closed()
            assert server.close_code == 1000

    @pytest.mark.parametrize("error, code", [(None, 1000), (ZeroDivisionError, 1011)])
    async def test_context_manager(self, error: Any, code: int) -> None:
        closed = []

        async def handler(ws: ServerConnection) -> None:
            await ws.wait_closed()
            closed.append(ws.close_code)

        async with serving(handler) as server:
            try:
                async with connect(uri_of(server)):
                    if error is not None:
                        raise error
            except ZeroDivisionError:
                pass
            async with await connect(uri_of(server)) as ws:
                pass
            assert ws.state is State.CLOSED
        assert closed == [code, 1000]

    @pytest.mark.parametrize("abrupt", [True, False])
    async def test_peer_disappears(self, abrupt: bool) -> None:
        async def leaving(peer: RawPeer) -> None:
            await peer.read()
            if abrupt:
                sock = peer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                peer.abort()

        async with raw_server(leaving) as server:
            async with connect(uri_of(server)) as ws:
                await ws.send("x")
                with pytest.raises(ConnectionClosedError, match="no close frame received or sent"):
                    await ws.recv()
                assert ws.close_code == 1006
                await ws.close()
                with pytest.raises(ConnectionClosedError):
                    await ws.send("late")

    async def test_peer_resets_while_the_server_closes(self) -> None:
        async with serving(until_closed) as server:
            async with raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                sock = peer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                peer.abort()
                await peer.close()
                await ws.close()
                assert ws.close_code == 1006

    async def test_protocol_error_of_the_peer(self) -> None:
        async with serving(until_closed) as server, raw_client(server) as peer:
            peer.writer.write(b"\xf1\x80\0\0\0\0")
            assert await peer.read_message() == (
                CLOSE,
                close_payload(1002, "reserved bits must be 0"),
            )
            assert await peer.read_to_end() == b""


class TestAttributes:
    async def test_open_and_closed(self) -> None:
        async with pair() as (client, server):
            for ws in (client, server):
                assert isinstance(ws.id, uuid.UUID)
                assert ws.id == ws.id
                assert ws.state is State.OPEN
                assert ws.subprotocol is None
                assert ws.request is not None
                assert ws.request.path == "/"
                assert ws.response is not None
                assert ws.response.status_code == 101
                assert ws.protocol.state.name == "OPEN"
                assert "OPEN" in repr(ws)
                assert hash(ws) == hash(ws)
                assert len({ws, ws}) == 1
            assert client.id != server.id
            assert client.local_address == server.remote_address
            assert client.remote_address == server.local_address
            address = client.remote_address
            await client.close()
            assert client.remote_address == address
            assert "CLOSED" in repr(client)
            assert isinstance(client, ClientConnection)
            assert isinstance(server, ServerConnection)

    async def test_log_records_name_the_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        async with pair() as (client, server):
            client.logger.warning("from the test")
            caplog.clear()
            server.logger.warning("from the server")
            (record,) = caplog.records
            assert record.websocket.id == server.id  # type: ignore[attr-defined]
            assert record.name == "wsapi.server"

    async def test_debug_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with pair() as (client, server):
            await client.send("hello")
            assert await server.recv() == "hello"
            await client.send(["frag", "ments"])
            assert await server.recv() == "fragments"
            await (await client.ping("p"))
        lines = [record.getMessage() for record in caplog.records]
        for line in ("> TEXT 'hello' [5 bytes]", "< TEXT 'hello' [5 bytes]", "> EOF", "< EOF"):
            assert line in lines
        assert lines.count("= connection is OPEN") == 2

    async def test_nothing_waits_for_the_garbage_collector(self) -> None:
        references: list[weakref.ref[Any]] = []

        async def handler(ws: ServerConnection) -> None:
            references.append(weakref.ref(ws))
            async for message in ws:
                await ws.send(message)

        with garbage_collection_off():
            async with serving(handler) as server:
                ws = await connect(uri_of(server))
                references.append(weakref.ref(ws))
                await ws.send("x")
                await ws.recv()
                await ws.close()
                del ws
                await until(lambda: not server._handlers)
                await turns(5)
                assert [reference() for reference in references] == [None, None]


class TestStartOpen:
    """Connections whose opening handshake was done elsewhere."""

    async def make(self, **options: Any) -> tuple[Connection, RawPeer]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, ws = await loop.create_connection(
            lambda: Connection(Protocol(Side.CLIENT, state=State.OPEN), **options), sock=ours
        )
        return ws, RawPeer(*await asyncio.open_connection(sock=theirs), masked=False)

    async def test_messages(self) -> None:
        ws, peer = await self.make()
        assert ws.state is State.OPEN
        await ws.send("out")
        assert await peer.read_message() == (TEXT, b"out")
        peer.write(TEXT, b"in")
        assert await ws.recv() == "in"
        closing = asyncio.create_task(ws.close(1001))
        assert await peer.read_message() == (CLOSE, close_payload(1001))
        peer.write(CLOSE, close_payload(1001))
        await peer.close()
        await closing
        assert ws.close_code == 1001

    async def test_close_timeout(self) -> None:
        ws, peer = await self.make(close_timeout=0.03)
        await ws.close()
        assert ws.close_code == 1006
        await peer.close()

    async def test_keepalive(self) -> None:
        ws, peer = await self.make(ping_interval=0.01, ping_timeout=0.02, close_timeout=0.02)
        assert (await peer.read_message())[0] == PING
        with pytest.raises(ConnectionClosedError, match="keepalive"):
            await ws.recv()
        await peer.close()

    async def test_both_ends_are_ours(self) -> None:
        a, b = socket.socketpair()
        loop = asyncio.get_running_loop()
        uri = parse_uri("ws://localhost/")
        _, client = await loop.create_connection(
            lambda: ClientConnection(ClientProtocol(uri, state=State.OPEN)), sock=a
        )
        _, server = await loop.create_connection(
            lambda: Connection(ServerProtocol(state=State.OPEN)), sock=b
        )
        await client.send(["a", "b"])
        assert await server.recv() == "ab"
        await server.send(b"c" * 100_000)
        assert await client.recv() == b"c" * 100_000
        await (await server.ping())
        await client.close()
        await server.wait_closed()
        assert server.close_code == 1000


class TestBroadcast:
    @pytest.mark.parametrize(
        "message, text, received",
        [
            ("é", None, "é"),
            (b"b", None, b"b"),
            (bytearray(b"c"), None, b"c"),
            (memoryview(b"d"), None, b"d"),
            ("e", False, b"e"),
            (b"f", True, "f"),
            ("g" * 100_000, None, "g" * 100_000),
        ],
    )
    async def test_clients_and_servers(self, message: Any, text: Any, received: Any) -> None:
        async with pair() as (client1, server1), pair() as (client2, server2):
            broadcast([client1, server2], message, text=text)
            assert await server1.recv() == received
            assert await client2.recv() == received

    @pytest.mark.parametrize("message", [1, None, ["a"], {"a": 1}])
    async def test_wrong_types(self, message: Any) -> None:
        async with pair() as (client, _server):
            with pytest.raises(TypeError):
                broadcast([client], message)

    async def test_order_with_other_messages(self) -> None:
        async with pair() as (client, server):
            for i in range(10):
                await server.send(str(3 * i))
                broadcast([server], str(3 * i + 1))
                await server.send(str(3 * i + 2))
            assert [await client.recv() for _ in range(30)] == [str(i) for i in range(30)]

    async def test_closed_ones_are_skipped(self, caplog: pytest.LogCaptureFixture) -> None:
        async with pair() as (client1, server1), pair() as (client2, server2):
            await client1.close()
            broadcast({client1, server1, server2}, "x", raise_exceptions=True)
            broadcast((ws for ws in [client1, server1, server2]), "y")
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_one_that_is_sending_fragments(self, caplog: pytest.LogCaptureFixture) -> None:
        gate = asyncio.Event()

        async def slow() -> AsyncIterator[str]:
            yield "a"
            await gate.wait()
            yield "b"

        async with pair() as (client1, server1), pair() as (client2, server2):
            send = asyncio.create_task(server1.send(slow()))
            await until(lambda: server1._fragmented is not None)
            broadcast([server1, server2], "x")
            (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert record.levelno == logging.WARNING
            assert record.getMessage().startswith("skipped broadcast: ")
            with pytest.raises(ExceptionGroup, match="skipped broadcast") as caught:
                broadcast([server1, server2], "y", raise_exceptions=True)
            (exc,) = caught.value.exceptions
            assert isinstance(exc, ConcurrencyError)
            gate.set()
            await send
            assert await client1.recv() == "ab"
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]

    async def test_write_errors(self, caplog: pytest.LogCaptureFixture) -> None:
        error = ZeroDivisionError()

        class Broken:
            def encode(self, frame: Frame) -> Frame:
                if frame.opcode in (TEXT, BINARY):
                    raise error
                return frame

            def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
                return frame

        async with pair() as (_client1, server1), pair() as (client2, server2):
            server1.protocol.extensions = [Broken()]
            broadcast([server1, server2], "x")
            assert "skipped broadcast: failed to write message" in caplog.text
            with pytest.raises(ExceptionGroup) as caught:
                broadcast([server1, server2], "y", raise_exceptions=True)
            (exc,) = caught.value.exceptions
            assert isinstance(exc, RuntimeError)
            assert exc.__cause__ is error
            assert [await client2.recv(), await client2.recv()] == ["x", "y"]

    async def test_does_not_wait_for_slow_clients(self) -> None:
        async with pair(client={"max_queue": 1}) as (slow, server1):
            async with pair() as (quick, server2):
                for _ in range(20):
                    broadcast([server1, server2], bytes(100_000))
                    assert len(await quick.recv()) == 100_000
                for _ in range(20):
                    assert len(await slow.recv()) == 100_000

    async def test_module(self) -> None:
        from wsapi.asyncio.connection import broadcast as same

        assert same is broadcast


async def test_errors_of_handlers_are_seen_by_these_tests() -> None:
    async def handler(_ws: ServerConnection) -> None:
        raise ZeroDivisionError

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1011
    (record,) = logged_errors("connection handler failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_echo_helper() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"
