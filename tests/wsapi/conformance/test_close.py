"""Closing: by whom, with what, in which order, in spite of what."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import BINARY, CLOSE, CONT, PING, TEXT, close_payload, frame
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK, ProtocolError
from wsapi.protocol import State


class TestClose:
    @pytest.mark.parametrize("side", ["client", "server"])
    @pytest.mark.parametrize(
        "code, reason", [(1000, ""), (1001, "bye"), (1011, "é" * 61), (3000, "x" * 123), (4999, "")]
    )
    async def test_codes_and_reasons(
        self, driver: Driver, side: str, code: int, reason: str
    ) -> None:
        async with driver.pair() as connections:
            first, second = connections if side == "client" else reversed(connections)
            assert first.close_code is first.close_reason is None
            await first.close(code, reason)
            await second.wait_closed()
            for ws in (first, second):
                assert ws.state is State.CLOSED
                assert (ws.close_code, ws.close_reason) == (code, reason)
            assert first.protocol.close_rcvd_then_sent is False
            assert second.protocol.close_rcvd_then_sent is True

    async def test_idempotent(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.close()
            await client.close(1001)
            await client.close(4000, "ignored")
            await server.close()
            await server.wait_closed()
            assert (client.close_code, server.close_code) == (1000, 1000)

    async def test_concurrent_calls(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await driver.gather(
                *(client.close(1000 + i) for i in range(3)), *(server.close() for _ in range(3))
            )
            await server.wait_closed()
            assert client.state is server.state is State.CLOSED
            assert {client.close_code, server.close_code} <= {1000, 1001, 1002}

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536, -1])
    async def test_invalid_code(self, driver: Driver, code: int) -> None:
        async with driver.pair() as (client, server):
            for ws in (client, server):
                with pytest.raises(ProtocolError, match="invalid status code"):
                    await ws.close(code)
                assert ws.state is State.OPEN
            await client.send("still open")
            assert await server.recv() == "still open"

    async def test_codes_that_do_not_matter_any_more(self, driver: Driver) -> None:
        """A relay closes one connection as the other one has ended, which may be 1006."""
        gate = driver.event()

        async def slow(peer: RawPeer) -> None:
            await peer.read_message()
            await gate.wait()
            peer.reset()

        async with driver.raw_server(slow) as server:
            async with driver.connect(server, close_timeout=3600) as ws:
                closing = driver.spawn(ws.close())
                await driver.until(lambda: ws.state is State.CLOSING)
                others = [driver.spawn(ws.close(code)) for code in (0, 1006, 5000)]
                await driver.settle()
                gate.set()
                for call in (closing, *others):
                    await call
                for code in (0, 1005, 1006, 1015, 5000):
                    await ws.close(code, "x" * 124)
                assert (ws.state, ws.close_code) == (State.CLOSED, 1006)

    async def test_invalid_reason(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for reason in ("x" * 124, "é" * 62):
                with pytest.raises(ProtocolError, match="control frame too long"):
                    await client.close(1000, reason)
            await client.send("still open")
            assert await server.recv() == "still open"

    @pytest.mark.parametrize("reads", [True, False])
    async def test_timeout(self, driver: Driver, reads: bool) -> None:
        async def silent(peer: RawPeer) -> None:
            if reads:
                await peer.read_to_end()
            await peer.over.wait()

        async with driver.raw_server(silent) as server:
            async with driver.connect(server, close_timeout=0.03) as ws:
                waiting = driver.spawn(ws.recv())
                await ws.close()
                assert (ws.close_code, ws.close_reason) == (1006, "")
                for call in (lambda: waiting, ws.recv, lambda: ws.send("late"), ws.ping):
                    with pytest.raises(ConnectionClosedError) as caught:
                        await call()
                    assert isinstance(caught.value.__cause__, TimeoutError)
                    assert str(caught.value.__cause__) == "timed out while closing connection"
                    assert str(caught.value) == "sent 1000 (OK); no close frame received"

    async def test_timeout_of_tcp(self, driver: Driver) -> None:
        """The Close frame came back; TCP isn't closed."""

        async def half(peer: RawPeer) -> None:
            opcode, payload = await peer.read_message()
            assert opcode == CLOSE
            await peer.write(CLOSE, payload)
            await peer.read_to_end()

        async with driver.raw_server(half) as server:
            # Where the machine is busy, the Close frame itself may be late; then wait longer.
            for close_timeout in (0.03, 0.3, 3, 30):
                async with driver.connect(server, close_timeout=close_timeout) as ws:
                    await ws.close(1001, "bye")
                if ws.close_code != 1006:
                    break
            assert (ws.close_code, ws.close_reason) == (1001, "bye")

    async def test_server_half_closes_first(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await ws.close()

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            assert await peer.read_message() == (CLOSE, close_payload(1000))
            await peer.write(CLOSE, close_payload(1000))
            assert await peer.read_to_end() == b""

    async def test_with_a_full_queue(self, driver: Driver) -> None:
        async with driver.pair(server={"max_queue": 2}, close_timeout=3600) as (client, server):
            for i in range(50):
                await client.send(str(i))
            await driver.until(lambda: server.paused)
            await server.close()
            assert server.close_code == 1000
            # What was received before is a prefix of what was sent.
            messages = [message async for message in server]
            assert messages == [str(i) for i in range(len(messages))]
            assert len(messages) >= 2

    async def test_peer_closes_while_the_queue_is_full(self, driver: Driver) -> None:
        async with driver.pair(server={"max_queue": 2}, close_timeout=3600) as (client, server):
            for i in range(50):
                await client.send(str(i))
            closing = driver.spawn(client.close())
            assert [message async for message in server] == [str(i) for i in range(50)]
            await closing
            assert client.close_code == 1000

    async def test_while_the_peer_floods(self, driver: Driver) -> None:
        async def flood(peer: RawPeer) -> None:
            reading = driver.spawn(peer.read_message())
            while not reading.done():
                await peer.write(BINARY, bytes(10_000))
            opcode, payload = await reading
            assert opcode == CLOSE
            await peer.write(CLOSE, payload)

        async with driver.raw_server(flood) as server:
            async with driver.connect(server, close_timeout=3600) as ws:
                await ws.recv()
                await driver.sleep(0.02)
                await ws.close()
                assert ws.close_code == 1000
                assert ws.protocol.close_rcvd is not None

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    @pytest.mark.not_on("trio", reason="a cancelled aclose() closes the stream by force")
    async def test_cancelled(self, driver: Driver) -> None:
        gate = driver.event()

        async def slow(peer: RawPeer) -> None:
            opcode, payload = await peer.read_message()
            assert opcode == CLOSE
            await gate.wait()
            await peer.write(CLOSE, payload)

        async with driver.raw_server(slow) as server:
            async with driver.connect(server, close_timeout=3600) as ws:
                for _ in range(3):
                    closing = driver.spawn(ws.close())
                    await driver.settle()
                    assert await closing.cancelled()
                    assert ws.state is State.CLOSING
                gate.set()
                await ws.close()
                assert ws.close_code == 1000

    async def test_from_the_receiving_task_and_another(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            receiving = driver.spawn(client.recv())
            await driver.settle()
            await client.close()
            with pytest.raises(ConnectionClosedOK):
                await receiving
            await server.wait_closed()
            assert server.close_code == 1000

    @pytest.mark.parametrize("error, code", [(None, 1000), (ZeroDivisionError, 1011)])
    async def test_context_manager(self, driver: Driver, error: Any, code: int) -> None:
        closed = []

        async def handler(ws: Ws) -> None:
            await ws.wait_closed()
            closed.append(ws.close_code)

        async with driver.serve(handler) as server:
            try:
                async with driver.connect(server):
                    if error is not None:
                        raise error
            except ZeroDivisionError:
                pass
            await driver.until(lambda: closed == [code])
            async with await driver.open(server) as ws:
                pass
            assert ws.state is State.CLOSED
        assert closed == [code, 1000]

    @pytest.mark.parametrize("abrupt", [True, False])
    async def test_peer_disappears(self, driver: Driver, abrupt: bool) -> None:
        async def leaving(peer: RawPeer) -> None:
            await peer.read()
            if abrupt:
                peer.reset()

        async with driver.raw_server(leaving) as server:
            async with driver.connect(server) as ws:
                await ws.send("x")
                with pytest.raises(ConnectionClosedError, match="no close frame received or sent"):
                    await ws.recv()
                assert ws.close_code == 1006
                await ws.close()
                with pytest.raises(ConnectionClosedError):
                    await ws.send("late")

    async def test_peer_resets_while_the_server_closes(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server:
            async with driver.raw_client(server) as peer:
                ws = await server.connection()
                peer.reset()
                await ws.close()
                assert ws.close_code == 1006


HOSTILE = {
    "reserved bit": (b"\xf1\x80\0\0\0\0", 1002),
    "unknown opcode": (frame(3, masked=True), 1002),
    "unknown control opcode": (frame(11, masked=True), 1002),
    "not masked": (frame(TEXT, b"x"), 1002),
    "fragmented ping": (frame(PING, fin=False, masked=True), 1002),
    "long ping": (frame(PING, b"x" * 126, masked=True), 1002),
    "length of 2 bytes for 1": (b"\x82\xfe\0\x01" + bytes(5), 1002),
    "length of 8 bytes for 2": (b"\x82\xff" + (1000).to_bytes(8, "big") + bytes(4), 1002),
    "length with its first bit": (b"\x82\xff" + (1 << 63).to_bytes(8, "big") + bytes(4), 1002),
    "nothing to continue": (frame(CONT, b"x", masked=True), 1002),
    "not continued": (frame(TEXT, b"a", fin=False, masked=True) * 2, 1002),
    "close of 1 byte": (frame(CLOSE, b"x", masked=True), 1002),
    "close with a code that isn't sent": (frame(CLOSE, close_payload(1006), masked=True), 1002),
    "close with text that isn't": (frame(CLOSE, b"\x03\xe8\xff", masked=True), 1007),
    "text that isn't": (frame(TEXT, b"\xff", masked=True), 1007),
    "text that isn't, in a fragment": (frame(TEXT, b"a\xff", fin=False, masked=True), 1007),
    "too big": (frame(TEXT, bytes(1001), masked=True), 1009),
    "too big together": (
        frame(TEXT, bytes(600), fin=False, masked=True) + frame(CONT, bytes(600), masked=True),
        1009,
    ),
}


class TestHostilePeers:
    """What a peer must not do has a close code, and the same one on every front-end."""

    @pytest.mark.parametrize("case", HOSTILE)
    @pytest.mark.parametrize("receiving", [False, True])
    async def test_server(self, driver: Driver, case: str, receiving: bool) -> None:
        data, code = HOSTILE[case]
        ended: list[ConnectionClosedError] = []

        async def handler(ws: Ws) -> None:
            if not receiving:
                await ws.wait_closed()
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            ended.append(caught.value)

        async with driver.serve(handler, max_size=1000) as server:
            async with driver.raw_client(server) as peer:
                await peer.send(data)
                opcode, payload = await peer.read_message()
                assert opcode == CLOSE
                assert int.from_bytes(payload[:2], "big") == code
                assert await peer.read_to_end() == b""
        assert ended[0].rcvd is None
        assert ended[0].sent is not None
        assert ended[0].sent.code == code
        assert ended[0].__cause__ is not None

    @pytest.mark.parametrize("data, code", [(b"\xf1\0", 1002), (frame(TEXT, b"\xff"), 1007)])
    async def test_client(self, driver: Driver, data: bytes, code: int) -> None:
        async def hostile(peer: RawPeer) -> None:
            await peer.send(data)
            opcode, payload = await peer.read_message()
            assert opcode == CLOSE
            assert int.from_bytes(payload[:2], "big") == code

        async with driver.raw_server(hostile) as server, driver.connect(server) as ws:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.sent is not None
            assert caught.value.sent.code == code


class TestTexts:
    """What an exception says about who closed, and first."""

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_both_closed(self, driver: Driver, side: str) -> None:
        async with driver.pair() as connections:
            first, second = connections if side == "client" else reversed(connections)
            await first.close(4000, "mine")
            with pytest.raises(ConnectionClosedError) as caught:
                await first.recv()
            assert str(caught.value) == (
                "sent 4000 (private use) mine; then received 4000 (private use) mine"
            )
            assert caught.value.rcvd_then_sent is False
            with pytest.raises(ConnectionClosedError) as caught:
                await second.recv()
            assert str(caught.value) == (
                "received 4000 (private use) mine; then sent 4000 (private use) mine"
            )
            assert caught.value.rcvd_then_sent is True

    async def test_peer_that_leaves_after_its_close_frame(self, driver: Driver) -> None:
        async def leaving(peer: RawPeer) -> None:
            await peer.read_message()
            await peer.write(CLOSE, close_payload(1001))
            peer.write_eof()
            await peer.read_to_end()

        async with driver.raw_server(leaving) as server, driver.connect(server) as ws:
            await ws.send("x")
            with pytest.raises(ConnectionClosedOK) as caught:
                await ws.recv()
            assert str(caught.value) == "received 1001 (going away); then sent 1001 (going away)"
            assert ws.close_code == 1001

    async def test_peer_that_says_nothing(self, driver: Driver) -> None:
        async def leaving(peer: RawPeer) -> None:
            await peer.read_message()

        async with driver.raw_server(leaving) as server, driver.connect(server) as ws:
            await ws.close()
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert str(caught.value) == "sent 1000 (OK); no close frame received"
            assert (ws.close_code, ws.close_reason) == (1006, "")
