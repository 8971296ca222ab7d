"""Messages that are received: whole, as fragments, in iterations; limits; who may receive."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.helpers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    close_payload,
    frame,
    request,
)
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK
from wsapi.protocol import State


async def stream(ws: Ws) -> list[Any]:
    return [fragment async for fragment in ws.recv_streaming()]


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
    async def test_decode(
        self, driver: Driver, sent: Any, decode: bool | None, received: Any
    ) -> None:
        async with driver.pair() as (client, server):
            await client.send(sent)
            got = await server.recv(decode=decode)
            assert got == received
            assert type(got) is type(received)

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_binary_that_is_not_text(
        self, driver: Driver, side: str, streaming: bool
    ) -> None:
        # Close timeouts longer than the test: the closing handshake must work.
        async with driver.pair(close_timeout=3600) as connections:
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

    async def test_text_that_is_not_utf8(self, driver: Driver) -> None:
        results = []

        async def handler(ws: Ws) -> None:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            results.append(caught.value)

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"\xff")
            assert await peer.read_message() == (
                CLOSE,
                close_payload(1007, "invalid start byte at position 0"),
            )
            assert await peer.read_to_end() == b""
        assert isinstance(results[0].__cause__, UnicodeDecodeError)

    async def test_too_many_fragments(self, driver: Driver) -> None:
        async with driver.serve() as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"a", fin=False)
            for _ in range(4096):
                await peer.write(CONT, b"a", fin=False)
            opcode, payload = await peer.read_message()
            assert (opcode, payload) == (CLOSE, close_payload(1009, "too many fragments"))

    async def test_too_big(self, driver: Driver) -> None:
        async with driver.pair(server={"max_size": 10}) as (client, server):
            await client.send("x" * 10)
            await client.send("x" * 11)
            assert await server.recv() == "x" * 10
            with pytest.raises(ConnectionClosedError):
                await server.recv()
            await client.wait_closed()
            assert client.close_code == 1009

    @pytest.mark.parametrize(
        "max_size, message, fits",
        [
            ((10, None), ["x" * 5, "x" * 5], True),
            ((10, None), ["x" * 5, "x" * 6], False),
            ((None, 5), ["x" * 5] * 10, True),
            ((None, 5), "x" * 6, False),
            ((10, 5), ["x" * 5, "x" * 5], True),
            ((10, 5), ["x" * 6, "x"], False),
            ((10, 5), ["x" * 4] * 3, False),
            (None, "x" * 2**21, True),
            ((None, None), "x" * 2**21, True),
        ],
    )
    async def test_limits_of_messages_and_fragments(
        self, driver: Driver, max_size: Any, message: Any, fits: bool
    ) -> None:
        async with driver.pair(server={"max_size": max_size}) as (client, server):
            sending = driver.spawn(client.send(message))
            if fits:
                assert await server.recv() == "".join(message)
                await sending
            else:
                with pytest.raises(ConnectionClosedError):
                    await server.recv()
                await client.wait_closed()
                assert client.close_code == 1009
                await sending.ended()

    async def test_one_byte_at_a_time(self, driver: Driver) -> None:
        async with driver.serve() as server, driver.raw_client(server) as peer:
            data = (
                frame(TEXT, "é€".encode(), masked=True)
                + frame(BINARY, b"ab", fin=False, masked=True)
                + frame(PING, b"p", masked=True)
                + frame(CONT, b"c" * 130, masked=True)
            )
            for i in range(len(data)):
                await peer.send(data[i : i + 1])
                await driver.sleep(0)
            received = [await peer.read_message() for _ in range(3)]
            # The Pong doesn't wait for who answers messages.
            assert (PONG, b"p") in received[:2]
            received.remove((PONG, b"p"))
            assert received == [(TEXT, "é€".encode()), (BINARY, b"ab" + b"c" * 130)]

    async def test_handshake_one_byte_at_a_time(self, driver: Driver) -> None:
        async with driver.serve() as server, driver.raw_client(server, b"") as peer:
            for byte in request():
                await peer.send(bytes([byte]))
                await driver.sleep(0)
            head = await peer.read_head()
            assert head.startswith("HTTP/1.1 101 ")

    async def test_messages_sent_with_the_request(self, driver: Driver) -> None:
        async def process_request(_ws: Ws, _request: object) -> None:
            await driver.sleep(0.01)

        for options in ({}, {"process_request": process_request}):
            async with driver.serve(**options) as server, driver.raw_client(server, b"") as peer:
                await peer.send(request() + frame(TEXT, b"early", masked=True))
                await peer.read_head()
                assert await peer.read_message() == (TEXT, b"early")

    async def test_messages_received_before_the_end_stay(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for i in range(5):
                await server.send(str(i))
            await server.close(1001, "bye")
            await client.wait_closed()
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

    async def test_only_one_receiver(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            first = driver.spawn(server.recv())
            await driver.settle()
            for _ in range(2):
                with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                    await server.recv()
                with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                    await stream(server)
                with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                    async for _ in server:
                        pass
            await client.send("message")
            assert await first == "message"
            await client.send("next")
            assert await server.recv() == "next"

    async def test_message_before_eof_without_close_frame(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"last")
            ws = await server.connection()
            peer.close()
            assert await ws.recv() == "last"
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert str(caught.value) == "no close frame received or sent"
            assert (ws.close_code, ws.close_reason) == (1006, "")

    @pytest.mark.parametrize("number", [1, 4, 30])
    async def test_after_the_connection_was_lost_while_reading_was_paused(
        self, driver: Driver, number: int
    ) -> None:
        async with driver.pair(server={"max_queue": 4}) as (client, server):
            for i in range(number):
                await client.send(str(i))
            if number <= 4:
                await (await client.ping()).wait()
            else:
                await driver.until(lambda: server.paused)
            server.lose()
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


class TestGivingUp:
    """Who stops waiting for a message loses nothing."""

    @pytest.mark.parametrize("timeout", [0.0001, 0.0005, 0.005])
    async def test_timeouts(self, driver: Driver, timeout: float) -> None:
        async def send() -> None:
            for i in range(100):
                await client.send(str(i) if i % 3 else [str(i), ""])
                if i % 10 == 0:
                    await driver.sleep(0.001)

        async with driver.pair(max_queue=4) as (client, server):
            sending = driver.spawn(send())
            received: list[Any] = []
            while len(received) < 100:
                try:
                    received.append(await server.recv(timeout=timeout))
                except TimeoutError:
                    await driver.sleep(0)
            assert received == [str(i) for i in range(100)]
            await sending

    async def test_timeout_in_the_middle_of_a_message(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            ws = await server.connection()
            for timeout in (0.01, 0.02):
                await peer.write(TEXT, b"a", fin=False)
                with pytest.raises(TimeoutError):
                    await ws.recv(timeout=timeout)
                await peer.write(CONT, b"b")
                assert await ws.recv() == "ab"

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    @pytest.mark.parametrize("message", ["text", ["a", "b", "c"], b"x" * 300_000])
    async def test_cancelled(self, driver: Driver, message: Any) -> None:
        expected = "abc" if isinstance(message, list) else message
        async with driver.pair(max_queue=2) as (client, server):
            for delay in (0, 0, 0.0002, 0.001, 0.002):
                sending = driver.spawn(client.send(message))
                receiving = driver.spawn(server.recv())
                await driver.sleep(delay)
                got = await server.recv() if await receiving.cancelled() else await receiving
                assert got == expected
                await sending
            await client.send("end")
            assert await server.recv() == "end"

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_iteration(self, driver: Driver) -> None:
        async def iterate() -> None:
            async for message in server:
                received.append(message)

        received: list[Any] = []
        async with driver.pair() as (client, server):
            for i in range(20):
                task = driver.spawn(iterate())
                await client.send(str(i))
                await driver.sleep(0.0001 * (i % 5))
                await task.cancelled()
            await client.close()
            received.extend([message async for message in server])
            assert received == [str(i) for i in range(20)]

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_streaming_cancelled_half_way(self, driver: Driver) -> None:
        """The rest of the message is skipped; what follows isn't."""
        fragments: list[Any] = []

        async def consume() -> None:
            async for fragment in ws.recv_streaming():
                fragments.append(fragment)

        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            ws = await server.connection()
            task = driver.spawn(consume())
            await peer.write(TEXT, b"a", fin=False)
            await driver.until(lambda: fragments)
            await driver.settle()
            assert await task.cancelled()
            await peer.write(CONT, b"skipped")
            await peer.write(TEXT, b"next")
            assert await ws.recv() == "next"
            assert fragments == ["a"]


class TestStreaming:
    async def test_fragments(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
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
    async def test_decode(
        self, driver: Driver, decode: bool | None, kind: bool, expected: Any
    ) -> None:
        async with driver.pair() as (client, server):
            await client.send([b"\xc3", b"\xa9", b"x"], text=kind)
            assert [f async for f in server.recv_streaming(decode)] == expected

    async def test_fragments_come_as_they_arrive(self, driver: Driver) -> None:
        received: list[Any] = []

        async def handler(ws: Ws) -> None:
            async for fragment in ws.recv_streaming():
                received.append(fragment)
            received.append(None)

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"a", fin=False)
            await driver.until(lambda: received == ["a"])
            await peer.write(PING)
            await peer.write(CONT, b"b\xe2\x82", fin=False)
            await driver.until(lambda: received == ["a", "b"])
            await peer.write(CONT, b"\xac", fin=True)
            await driver.until(lambda: received == ["a", "b", "€", None])

    @pytest.mark.parametrize("taken", [1, 2, 3])
    async def test_leaving_skips_the_rest(self, driver: Driver, taken: int) -> None:
        async with driver.pair() as (client, server):
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

    @pytest.mark.parametrize("there", [True, False])
    async def test_leaving_for_the_fragments_of_the_next(self, driver: Driver, there: bool) -> None:
        left = driver.event()
        results: list[Any] = []

        async def handler(ws: Ws) -> None:
            async for fragment in ws.recv_streaming():
                results.append(fragment)
                break
            left.set()
            results.extend([fragment async for fragment in ws.recv_streaming()])

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"a", fin=False)
            if not there:
                await left.wait()
            await peer.write(CONT, b"skipped", fin=False)
            await peer.write(CONT, b"skipped", fin=True)
            await peer.write(TEXT, b"b", fin=False)
            await peer.write(CONT, b"c", fin=True)
            assert (await peer.read_message())[0] == CLOSE
        assert results == ["a", "b", "c"]

    async def test_leaving_before_the_rest_arrives(self, driver: Driver) -> None:
        rest = driver.event()
        results: list[Any] = []

        async def handler(ws: Ws) -> None:
            async for fragment in ws.recv_streaming():
                results.append(fragment)
                break
            rest.set()
            results.append(await ws.recv())
            results.append([fragment async for fragment in ws.recv_streaming()])

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"a", fin=False)
            await rest.wait()
            await peer.write(CONT, b"skipped", fin=False)
            await peer.write(CONT, b"skipped", fin=True)
            await peer.write(TEXT, b"next")
            await peer.write(TEXT, b"last", fin=True)
            assert (await peer.read_message())[0] == CLOSE
        assert results == ["a", "next", ["last"]]

    async def test_leaving_through_an_exception(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send(["a", "b"])
            await client.send("next")
            with pytest.raises(ZeroDivisionError):
                async for _ in server.recv_streaming():
                    1 / 0  # noqa: B018 # it raises
            assert await server.recv() == "next"

    async def test_closing_it(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send(["a", "b"])
            await client.send("next")
            fragments = server.raw.recv_streaming()
            assert await anext(driver.iterator(fragments)) == "a"
            name = "close" if driver.package == "sync" else "aclose"
            await driver.call(getattr(fragments, name))
            assert await server.recv() == "next"  # although there is somebody who holds it
            assert [f async for f in driver.iterator(fragments)] == []

    async def test_never_started(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            server.recv_streaming()
            await client.send(["a", "b"])
            assert await server.recv() == "ab"

    async def test_only_one_receiver(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send(["a", "b"])
            stream = aiter(server.recv_streaming())
            assert await anext(stream) == "a"
            with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                await server.recv()
            with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                await anext(aiter(server.recv_streaming()))
            assert [fragment async for fragment in stream] == ["b", ""]
            await client.send("next")
            assert await server.recv() == "next"

    async def test_only_one_receiver_of_the_same_iterator(self, driver: Driver) -> None:
        """Others are told so; it goes on, and whoever receives after it isn't in its way."""
        async with driver.pair() as (client, server):
            raw = server.raw.recv_streaming()
            fragments = driver.iterator(raw)
            client.protocol.send_text("a", fin=False)
            await client.ping()
            assert await anext(fragments) == "a"
            waiting = driver.spawn(anext(fragments))
            await driver.settle()
            with pytest.raises(
                ConcurrencyError, match=f"recv_streaming while another {driver.caller}"
            ):
                await anext(fragments)
            name = "close" if driver.package == "sync" else "aclose"
            with pytest.raises(ConcurrencyError, match=f"{name} while another {driver.caller}"):
                await driver.call(getattr(raw, name))
            with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                await server.recv()
            client.protocol.send_continuation("b", fin=True)
            await client.send("next")
            assert await waiting == "b"
            assert [fragment async for fragment in fragments] == []
            assert await server.recv() == "next"

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_before_the_first_fragment(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            task = driver.spawn(stream(server))
            await driver.settle()
            assert await task.cancelled()
            await client.send(["a", "b"])
            assert await stream(server) == ["a", "b", ""]

    async def test_connection_closed_half_way(self, driver: Driver) -> None:
        received = []

        async def handler(ws: Ws) -> None:
            stream = aiter(ws.recv_streaming())
            received.append(await anext(stream))
            with pytest.raises(ConnectionClosedError):
                await anext(stream)
            received.append("end")

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(TEXT, b"a", fin=False)
            await driver.until(lambda: received)
            peer.reset()
        assert received == ["a", "end"]

    async def test_after_close(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send(["a", "b"])
            await client.close()
            assert [fragment async for fragment in server.recv_streaming()] == ["a", "b", ""]
            with pytest.raises(ConnectionClosedOK):
                await anext(aiter(server.recv_streaming()))

    async def test_more_fragments_than_the_queue_takes(self, driver: Driver) -> None:
        async with driver.pair(max_queue=2) as (client, server):
            fragments = [str(i) for i in range(200)]
            send = driver.spawn(client.send(fragments))
            await driver.sleep(0.01)
            got = [fragment async for fragment in server.recv_streaming()]
            assert got == [*fragments, ""]
            await send
            send = driver.spawn(client.send(fragments))
            await driver.sleep(0.01)
            assert await server.recv() == "".join(fragments)
            await send


class TestIteration:
    @pytest.mark.parametrize("code", [1000, 1001])
    async def test_stops_when_closed_well(self, driver: Driver, code: int) -> None:
        async with driver.pair() as (client, server):
            await client.send("a")
            await client.send(b"b")
            await client.close(code)
            assert [message async for message in server] == ["a", b"b"]
            assert [message async for message in client] == []

    @pytest.mark.parametrize("code", [1002, 1008, 1011, 3000, 4999])
    async def test_raises_otherwise(self, driver: Driver, code: int) -> None:
        async with driver.pair() as (client, server):
            await client.send("a")
            await client.close(code, "why")
            messages = []
            with pytest.raises(ConnectionClosedError) as caught:
                async for message in server:
                    messages.append(message)
            assert messages == ["a"]
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "why")

    async def test_stops_after_an_empty_close_frame(self, driver: Driver) -> None:
        results: list[Any] = []

        async def handler(ws: Ws) -> None:
            results.extend([message async for message in ws])
            results.append((ws.close_code, ws.close_reason))

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            await peer.write(CLOSE)
            assert await peer.read_message() == (CLOSE, b"")
            assert await peer.read_to_end() == b""
        assert results == [(1005, "")]

    async def test_leaving_and_coming_back(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for letter in "abc":
                await client.send(letter)
            async for message in server:
                assert message == "a"
                break
            assert await server.recv() == "b"
            async for message in server:
                assert message == "c"
                break
