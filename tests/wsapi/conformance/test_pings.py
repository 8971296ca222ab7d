"""Pings, pongs, latency, and keepalive."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Pong, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import CLOSE, PING, PONG, TEXT, close_payload
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ProtocolError,
)
from wsapi.protocol import State


class TestPings:
    async def test_latency(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            assert client.latency == 0
            await (await client.ping()).wait()
            assert isinstance(client.latency, float)
            assert client.latency > 0
            assert server.latency == 0
            await (await server.ping("payload")).wait()
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
    async def test_payloads(self, driver: Driver, data: Any, payload: bytes) -> None:
        async def handler(ws: Ws) -> None:
            await ws.pong(data)
            await (await ws.ping(data)).wait()
            await (await ws.ping(data)).wait()

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            assert await peer.read_message() == (PONG, payload)
            for _ in range(2):
                assert await peer.read_message() == (PING, payload)
                await peer.write(PONG, payload)
            assert await peer.read_message() == (CLOSE, close_payload(1000))

    async def test_random_payloads_differ(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            for pong in [await ws.ping() for _ in range(10)]:
                await pong.wait()

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            payloads = [await peer.read_message() for _ in range(10)]
            assert {opcode for opcode, _ in payloads} == {PING}
            assert {len(payload) for _, payload in payloads} == {4}
            assert len(set(payloads)) == 10
            await peer.write(PONG, payloads[-1][1])

    async def test_a_later_pong_answers_earlier_pings(self, driver: Driver) -> None:
        answers: list[Pong] = []

        async def handler(ws: Ws) -> None:
            answers.extend([await ws.ping(name) for name in "abc"])
            await answers[0].wait()
            await answers[1].wait()
            assert not answers[2].done()
            await answers[2].wait()

        async with driver.serve(handler) as server, driver.raw_client(server) as peer:
            for _ in range(3):
                await peer.read_message()
            await peer.write(PONG, b"unknown")
            await peer.write(PONG, b"b")
            await peer.write(PONG, b"a")
            await driver.until(lambda: len(answers) == 3 and answers[1].done())
            await driver.settle()
            await peer.write(PONG, b"c")
            assert (await peer.read_message()) == (CLOSE, close_payload(1000))

    @pytest.mark.parametrize("data", [1, None.__class__, ["a"], 1.5])
    async def test_wrong_types(self, driver: Driver, data: Any) -> None:
        async with driver.pair() as (client, _server):
            with pytest.raises(TypeError):
                await client.ping(data)
            with pytest.raises(TypeError):
                await client.pong(data)
            await (await client.ping()).wait()

    async def test_too_long(self, driver: Driver) -> None:
        async with driver.pair() as (client, _server):
            with pytest.raises(ProtocolError):
                await client.ping(b"x" * 126)
            with pytest.raises(ProtocolError):
                await client.pong("é" * 63)
            await (await client.ping()).wait()

    async def test_same_payload_twice(self, driver: Driver) -> None:
        async def silent(peer: RawPeer) -> None:
            await peer.read()
            await peer.read()
            await peer.write(PONG, b"same")
            assert (await peer.read())[0] & 0x7F == PING
            await peer.write(PONG, b"same")
            await peer.read_to_end()

        async with driver.raw_server(silent) as server:
            async with driver.connect(server, close_timeout=0.02) as ws:
                answer = await ws.ping("same")
                with pytest.raises(ConcurrencyError, match="same data"):
                    await ws.ping(b"same")
                await ws.ping("other")
                await answer.wait()
                await (await ws.ping("same")).wait()

    @pytest.mark.parametrize("code", [1000, 1011])
    async def test_abandoned(self, driver: Driver, code: int) -> None:
        async def silent(peer: RawPeer) -> None:
            for _ in range(3):
                await peer.read()
            await peer.write(CLOSE, close_payload(code))
            await peer.read()

        options = {} if driver.package == "asyncio" else {"ack_on_close": True}
        async with driver.raw_server(silent) as server:
            async with driver.connect(server) as ws:
                told = await ws.ping(**options)
                ignored = [await ws.ping(), await ws.ping()]
                if driver.package == "asyncio":
                    with pytest.raises(ConnectionClosed) as caught:
                        await told.wait()
                    assert caught.value.rcvd is not None
                    assert caught.value.rcvd.code == code
                else:
                    await told.wait()
                await ws.wait_closed()
                assert ws.close_code == code
                assert not any(pong.done() for pong in ignored)
                assert ws.latency == 0

    async def test_after_close(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.close()
            for ws in (client, server):
                with pytest.raises(ConnectionClosedOK):
                    await ws.ping()
                with pytest.raises(ConnectionClosedOK):
                    await ws.pong()

    async def test_incoming_pings_need_no_application(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as server, driver.raw_client(server) as peer:
            for payload in (b"", b"a", b"x" * 125):
                await peer.write(PING, payload)
                assert await peer.read_message() == (PONG, payload)

    async def test_control_frames_do_not_count_against_the_size_of_messages(
        self, driver: Driver
    ) -> None:
        async with driver.pair(max_size=10) as (client, server):
            for ws in (client, server):
                await (await ws.ping(b"x" * 125)).wait()
                await ws.pong(b"x" * 125)
            await client.send("x" * 10)
            assert await server.recv() == "x" * 10
            await client.close(4000, "x" * 123)
            await server.wait_closed()
            assert server.close_code == 4000


class TestKeepalive:
    async def test_peer_answers(self, driver: Driver) -> None:
        async def answering(peer: RawPeer) -> None:
            for _ in range(4):
                opcode, payload = await peer.read_message()
                assert opcode == PING
                await peer.write(PONG, payload)
            await peer.write(CLOSE, close_payload(1000))
            await peer.read()

        async with driver.raw_server(answering) as server:
            async with driver.connect(server, ping_interval=0.01, ping_timeout=5) as ws:
                with pytest.raises(ConnectionClosedOK):
                    await ws.recv()
                assert ws.latency > 0

    @pytest.mark.fake_time
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_peer_does_not_answer(self, driver: Driver, side: str) -> None:
        options = {"ping_interval": 20, "ping_timeout": 15, "close_timeout": 10}
        async with driver.pair_in_memory(ping_interval=None, **{side: options}) as ends:
            ws, peer = ends if side == "client" else reversed(ends)
            driver.link(ws).incoming.drop = True
            await driver.advance(34.9)
            assert (ws.stats().pings_sent, ws.state) == (1, State.OPEN)
            await driver.advance(0.2)
            assert ws.state is State.CLOSING
            close = peer.protocol.close_rcvd
            assert (close.code, close.reason) == (1011, "keepalive ping timeout")
            await driver.advance(9.7)
            assert ws.state is State.CLOSING
            await driver.advance(0.4)
            assert ws.state is State.CLOSED
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert str(caught.value) == (
                "sent 1011 (internal error) keepalive ping timeout; no close frame received"
            )

    @pytest.mark.fake_time
    async def test_other_bytes_are_a_sign_of_life(self, driver: Driver) -> None:
        """The answer comes behind a message that takes longer than the peer may be silent."""
        options = {"ping_interval": 20, "ping_timeout": 5}
        async with driver.pair_in_memory(ping_interval=None, client=options) as (client, server):
            driver.link(client).incoming.bandwidth = 1000
            await server.send(bytes(30_000))
            await driver.advance(29)
            assert (client.state, client.latency) == (State.OPEN, 0)
            await driver.advance(2)
            assert await client.recv() == bytes(30_000)
            assert client.latency == pytest.approx(10, abs=0.5)

    async def test_no_timeout(self, driver: Driver) -> None:
        async def silent(peer: RawPeer) -> None:
            for _ in range(5):
                assert (await peer.read_message())[0] == PING
            await peer.write(TEXT, b"still there")
            await peer.read_to_end()

        async with driver.raw_server(silent) as server:
            options = {"ping_interval": 0.01, "ping_timeout": None, "close_timeout": 0.01}
            async with driver.connect(server, **options) as ws:
                assert await ws.recv() == "still there"

    @pytest.mark.fake_time
    async def test_none(self, driver: Driver) -> None:
        async with driver.pair_in_memory(ping_interval=None, ping_timeout=1) as (client, server):
            await driver.advance(3600)
            for ws in (client, server):
                assert (ws.state, ws.latency, ws.stats().pings_sent) == (State.OPEN, 0, 0)

    @pytest.mark.not_on("sync", reason="no thread keeps others from running for so long")
    async def test_blocked_loop_is_not_the_peer_s_fault(self, driver: Driver) -> None:
        async with driver.pair(
            server={"ping_interval": 0.01, "ping_timeout": 0.1}, client={"ping_interval": None}
        ) as (client, _server):
            await driver.sleep(0.015)
            time.sleep(0.25)
            await driver.sleep(0.05)
            assert client.state is State.OPEN


class TestTimeoutsOfAnOpenConnection:
    async def test_ping_interval(self, driver: Driver) -> None:
        async with driver.serve(until_closed, ping_interval=None) as server:
            async with driver.raw_client(server) as peer:
                ws = await server.connection()
                ws.raw.ping_interval = 0.02
                assert ws.ping_interval == 0.02
                opcode, payload = await peer.read_message()
                assert opcode == PING
                await peer.write(PONG, payload)
                assert (await peer.read_message())[0] == PING
                ws.raw.ping_interval = None
                await peer.write(CLOSE, close_payload(1000))
                assert (await peer.read_message())[0] == CLOSE

    @pytest.mark.fake_time
    async def test_ping_timeout(self, driver: Driver) -> None:
        options = {"ping_interval": 20, "ping_timeout": None}
        async with driver.pair_in_memory(ping_interval=None, server=options) as (_, ws):
            driver.link(ws).incoming.drop = True
            await driver.advance(50)
            assert (ws.state, ws.stats().pings_sent) == (State.OPEN, 2)
            ws.raw.ping_timeout = 15
            await driver.advance(30)
            assert ws.protocol.close_sent.reason == "keepalive ping timeout"

    @pytest.mark.fake_time
    async def test_close_timeout(self, driver: Driver) -> None:
        async with driver.pair_in_memory(server={"close_timeout": None}) as (_, ws):
            driver.link(ws).cut()
            ws.raw.close_timeout = 3
            closing = driver.spawn(ws.close())
            await driver.advance(2.9)
            assert not closing.done()
            await driver.advance(0.2)
            await closing
            assert ws.close_code == 1006

    @pytest.mark.parametrize("name", ["ping_interval", "ping_timeout", "close_timeout"])
    async def test_bad_values_change_nothing(self, driver: Driver, name: str) -> None:
        async with driver.pair() as (client, _):
            before = getattr(client, name)
            for value, error in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
                with pytest.raises(error, match=name):
                    setattr(client.raw, name, value)
                assert getattr(client, name) == before

    async def test_after_the_end(self, driver: Driver) -> None:
        async with driver.pair() as (client, _):
            await client.close()
            client.raw.close_timeout = client.raw.ping_interval = 1
            assert client.protocol.next_timeout() is None

    async def test_in_the_opening_handshake(self, driver: Driver) -> None:
        def set_timeouts(ws: Ws, request: Any) -> None:
            ws.raw.ping_interval = 0.02

        async with driver.serve(
            until_closed, process_request=set_timeouts, ping_interval=None
        ) as server:
            async with driver.raw_client(server) as peer:
                assert (await peer.read_message())[0] == PING
