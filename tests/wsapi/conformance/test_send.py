"""Messages that are sent: types, fragments, order, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import BINARY, CLOSE, CONT, TEXT
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ProtocolError,
)
from wsapi.frames import CloseCode
from wsapi.protocol import State


class agenerate:
    """An asynchronous iterator; unlike a generator, it needn't be closed."""

    def __init__(self, *items: Any) -> None:
        self.items = iter(items)

    def __aiter__(self) -> agenerate:
        return self

    async def __anext__(self) -> Any:
        for item in self.items:
            return item
        raise StopAsyncIteration


class Slow:
    """A message whose second fragment comes when the test wants it."""

    def __init__(self, driver: Driver) -> None:
        self.started, self.gate = driver.event(), driver.event()
        self.items = self.generate()

    async def generate(self) -> AsyncIterator[str]:
        yield "a"
        self.started.set()
        await self.gate.wait()
        yield "b"

    def __aiter__(self) -> AsyncIterator[str]:
        return self.items


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
    async def test_types(
        self, driver: Driver, message: Any, text: bool | None, received: Any
    ) -> None:
        async with driver.pair() as (client, server):
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
    async def test_fragments(
        self, driver: Driver, items: Any, text: bool | None, received: Any, kind: Any
    ) -> None:
        async with driver.pair() as (client, server):
            await client.send(agenerate(*items) if kind is agenerate else kind(items), text=text)
            assert await server.recv() == received

    async def test_each_item_is_a_frame(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await ws.send(["a", "b"])
            await ws.send(agenerate(b"c"))

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            frames = [await peer.read() for _ in range(5)]
            assert frames == [
                (TEXT, b"a"),
                (CONT, b"b"),
                (0x80 | CONT, b""),
                (BINARY, b"c"),
                (0x80 | CONT, b""),
            ]
            assert (await peer.read_message())[0] == CLOSE

    @pytest.mark.parametrize("nothing", [[], (), iter([]), "agenerate"])
    async def test_empty_iterable_sends_nothing(self, driver: Driver, nothing: Any) -> None:
        async with driver.pair() as (client, server):
            await client.send(agenerate() if nothing == "agenerate" else nothing)
            await client.send("next")
            assert await server.recv() == "next"

    @pytest.mark.parametrize(
        "message, error",
        [
            ({}, "data is a dict-like object"),
            ({"a": 1}, "data is a dict-like object"),
            (MappingProxyType({}), "data is a dict-like object"),
            (None, "data must be str, bytes,"),
            (1, "data must be str, bytes,"),
            (object(), "data must be str, bytes,"),
        ],
    )
    async def test_wrong_types(self, driver: Driver, message: Any, error: str) -> None:
        async with driver.pair() as (client, server):
            with pytest.raises(TypeError, match=error):
                await client.send(message)
            assert client.state is State.OPEN
            await client.send("next")
            assert await server.recv() == "next"

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    @pytest.mark.parametrize("wrong", [1, None, [b"nested"], {}])
    async def test_wrong_first_item(self, driver: Driver, kind: str, wrong: Any) -> None:
        async with driver.pair() as (client, _server):
            with pytest.raises(TypeError, match=r"^(async )?iterable must contain bytes or str$"):
                await client.send([wrong] if kind == "iterable" else agenerate(wrong))

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    @pytest.mark.parametrize("items", [("a", b"b"), (b"a", "b"), ("a", 1), (b"a", None)])
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_items_of_different_types_fail_the_connection(
        self, driver: Driver, kind: str, items: Any, side: str
    ) -> None:
        async with driver.pair() as connections:
            sender, receiver = connections if side == "client" else reversed(connections)
            error = r"^(async )?iterable must contain uniform types$"
            with pytest.raises(TypeError, match=error):
                await sender.send(list(items) if kind == "iterable" else agenerate(*items))
            with pytest.raises(ConnectionClosedError) as caught:
                await receiver.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == CloseCode.INTERNAL_ERROR
            assert caught.value.rcvd.reason == "error in fragmented message"
            with pytest.raises(ConnectionClosedError):
                await sender.send("late")

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    async def test_exception_of_the_iterator(self, driver: Driver, kind: str) -> None:
        def generate() -> Iterator[str]:
            yield "a"
            raise ZeroDivisionError

        async def generate_slowly() -> AsyncIterator[str]:
            for item in generate():
                yield item

        async with driver.pair() as (client, server):
            with pytest.raises(ZeroDivisionError):
                await client.send(generate() if kind == "iterable" else generate_slowly())
            await server.wait_closed()
            assert (server.close_code, server.close_reason) == (1011, "error in fragmented message")

    @pytest.mark.not_on("sync", reason="another thread's send() raises ConcurrencyError there")
    async def test_other_messages_wait_for_a_fragmented_one(self, driver: Driver) -> None:
        slow = Slow(driver)
        async with driver.pair() as (client, server):
            sends = [driver.spawn(client.send(slow))]
            await slow.started.wait()
            sends.append(driver.spawn(client.send("second")))
            await driver.settle()
            sends.append(driver.spawn(client.send(["th", "ird"])))
            await driver.settle()
            cancelled = driver.spawn(client.send("cancelled"))
            await driver.settle()
            # Control frames aren't held up.
            await (await client.ping()).wait()
            await client.pong()
            assert not any(task.done() for task in [*sends, cancelled])
            assert await cancelled.cancelled()
            slow.gate.set()
            for send in sends:
                await send
            await client.send("last")
            assert [await server.recv() for _ in range(4)] == ["ab", "second", "third", "last"]

    @pytest.mark.not_on("sync", reason="another thread's send() raises ConcurrencyError there")
    @pytest.mark.parametrize("message", ["x", ["a", "b"]])
    async def test_behind_a_message_that_is_never_complete(
        self, driver: Driver, message: Any
    ) -> None:
        """The end of the connection is told to those who wait for their turn, too."""
        never = driver.event()

        async def fragments() -> AsyncIterator[str]:
            yield "a"
            await never.wait()
            yield "b"

        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            await driver.until(lambda: server.connections)
            (ws,) = server.connections
            first = driver.spawn(ws.send(fragments()))
            await peer.read()
            second, third = driver.spawn(ws.send(message)), driver.spawn(ws.send(message))
            await driver.settle()
            peer.reset()
            for waiting in (second, third):
                with pytest.raises(ConnectionClosedError):
                    await waiting
            with pytest.raises(ConnectionClosedError):
                await ws.send(message)
            never.set()
            with pytest.raises(ConnectionClosedError):
                await first

    @pytest.mark.not_on("sync", reason="another thread's send() raises ConcurrencyError there")
    async def test_first_fragment_comes_while_another_message_is_sent(self, driver: Driver) -> None:
        gate = driver.event()

        async def late() -> AsyncIterator[str]:
            await gate.wait()
            yield "late"

        slow = Slow(driver)
        async with driver.pair() as (client, server):
            second = driver.spawn(client.send(late()))
            await driver.settle()
            first = driver.spawn(client.send(slow))
            await slow.started.wait()
            gate.set()
            await driver.settle()
            assert not second.done()
            slow.gate.set()
            await first
            await second
            assert [await server.recv() for _ in range(2)] == ["ab", "late"]

    @pytest.mark.not_on("asyncio", "trio", reason="send() waits its turn there")
    async def test_other_threads_are_refused_during_a_fragmented_message(
        self, driver: Driver
    ) -> None:
        slow = Slow(driver)
        async with driver.pair() as (client, server):
            send = driver.spawn(client.send(slow))
            await slow.started.wait()
            for message in ("second", b"second", ["se", "cond"]):
                with pytest.raises(
                    ConcurrencyError, match="another thread is already running send"
                ):
                    await client.send(message)
            await (await client.ping()).wait()
            await client.pong()
            slow.gate.set()
            await send
            await client.send("last")
            assert [await server.recv() for _ in range(2)] == ["ab", "last"]

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_while_waiting_for_a_fragmented_message(self, driver: Driver) -> None:
        slow = Slow(driver)
        async with driver.pair() as (client, server):
            sending = driver.spawn(client.send(slow))
            await slow.started.wait()
            for message in ("never", ["never"]):
                for _ in range(3):
                    task = driver.spawn(client.send(message))
                    await driver.settle()
                    assert await task.cancelled()
            slow.gate.set()
            await sending
            await client.send("next")
            assert [await server.recv(), await server.recv()] == ["ab", "next"]

    async def test_close_during_a_fragmented_message(self, driver: Driver) -> None:
        slow = Slow(driver)
        async with driver.pair() as (client, server):
            send = driver.spawn(client.send(slow))
            await slow.started.wait()
            with pytest.raises(ProtocolError):
                await client.close(999)
            assert client.state is State.OPEN
            await client.close()
            await server.wait_closed()
            assert server.close_code == 1011
            assert server.close_reason == "close during fragmented message"
            slow.gate.set()
            with pytest.raises(ConnectionClosed):
                await send

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_fragmented_message_fails_the_connection(self, driver: Driver) -> None:
        slow = Slow(driver)
        async with driver.pair() as (client, server):
            send = driver.spawn(client.send(slow))
            await slow.started.wait()
            waiting = driver.spawn(client.send("next"))
            await driver.settle()
            assert await send.cancelled()
            with pytest.raises(ConnectionClosedError):
                await server.recv()
            assert server.close_code == 1011
            with pytest.raises(ConnectionClosed):
                await waiting

    @pytest.mark.parametrize("message", ["text", b"binary", ["a", "b"], "agenerate"])
    async def test_after_close(self, driver: Driver, message: Any) -> None:
        async with driver.pair() as (client, server):
            await client.close(1001, "bye")
            for ws in (client, server):
                with pytest.raises(ConnectionClosedOK, match="bye"):
                    await ws.send(agenerate("a") if message == "agenerate" else message)

    async def test_while_closing_waits_for_the_end(self, driver: Driver) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read_to_end()

        async with driver.raw_server(silent) as server:
            async with driver.connect(server, close_timeout=0.1) as ws:
                closing = driver.spawn(ws.close())
                await driver.until(lambda: ws.state is State.CLOSING)
                with pytest.raises(ConnectionClosedError) as caught:
                    await ws.send("late")
                assert isinstance(caught.value.__cause__, TimeoutError)
                await closing

    async def test_bytes_are_taken_when_send_returns(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            data = bytearray(b"before")
            await client.send(data)
            data[:] = b"after!"
            assert await server.recv() == b"before"

    @pytest.mark.parametrize("size", [2**20, 2**23, 2**25])
    async def test_big_messages(self, driver: Driver, size: int) -> None:
        async with driver.pair(max_size=None) as (client, server):
            block = bytes(range(256)) * (size // 256)
            for sender, receiver in [(client, server), (server, client)]:
                send = driver.spawn(sender.send(block))
                assert await receiver.recv() == block
                await send
            text = "é" * (size // 2)
            send = driver.spawn(client.send(text))
            assert await server.recv() == text
            await send

    async def test_several_senders(self, driver: Driver) -> None:
        """Each one's messages stay in order, whatever others send meanwhile."""

        async def send(name: int) -> None:
            for i in range(50):
                if i % 5 == 0 and driver.package != "sync":
                    await client.send([f"{name} ", str(i)])
                elif i % 5 == 1:
                    await client.send(f"{name} {i}".encode() + bytes(20_000))
                else:
                    await client.send(f"{name} {i}")

        async with driver.pair(max_queue=4) as (client, server):
            tasks = [driver.spawn(send(name)) for name in range(5)]
            last = [-1] * 5
            for _ in range(250):
                message = await server.recv()
                if isinstance(message, bytes):
                    message = message.rstrip(b"\0").decode()
                name, number = map(int, message.split(" "))
                assert number == last[name] + 1
                last[name] = number
            assert last == [49] * 5
            for task in tasks:
                await task

    async def test_echo_of_many_sizes(self, driver: Driver) -> None:
        sizes = [0, 1, 125, 126, 127, 65535, 65536, 262143, 262144, 262145, 700_000]
        async with driver.serve() as server, driver.connect(server) as ws:
            for size in sizes:
                await ws.send(b"x" * size)
                assert await ws.recv() == b"x" * size
            for size in sizes:
                await ws.send("y" * size)
                assert await ws.recv() == "y" * size
