"""Limits on what a peer sends in a given time: it waits, or its connection is closed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, echo
from tests.wsapi.helpers import CLOSE, PING, PONG, TEXT, close_payload, frame
from wsapi.exceptions import ConnectionClosedError, RateExceeded
from wsapi.limits import Rate
from wsapi.protocol import State

RATES = [
    pytest.param({"message_rate": Rate(200, burst=2)}, id="messages"),
    pytest.param({"byte_rate": Rate(2000, burst=20)}, id="bytes"),
    pytest.param({"message_rate": 1000, "byte_rate": Rate(2000, burst=20)}, id="both"),
]


@pytest.mark.parametrize("options", RATES)
async def test_messages_wait(driver: Driver, options: dict[str, Any]) -> None:
    messages = [f"{number:010}" for number in range(30)]
    async with driver.serve(echo, **options) as server, driver.raw_client(server) as peer:
        await peer.send(b"".join(frame(TEXT, m.encode(), masked=True) for m in messages))
        assert [await peer.read_message() for _ in messages] == [
            (TEXT, m.encode()) for m in messages
        ]
        await peer.write(CLOSE, close_payload(1000))
        assert await peer.read_message() == (CLOSE, close_payload(1000))


@pytest.mark.parametrize("options", RATES)
async def test_messages_wait_that_come_one_by_one(driver: Driver, options: dict[str, Any]) -> None:
    async with driver.serve(echo, **options) as server, driver.connect(server) as ws:
        for number in range(20):
            await ws.send(f"{number:010}")
        for number in range(20):
            assert await ws.recv() == f"{number:010}"


@pytest.mark.parametrize("listening", [False, True], ids=["recv", "listen"])
@pytest.mark.parametrize("options", RATES)
async def test_large_messages_wait(
    driver: Driver, options: dict[str, Any], listening: bool
) -> None:
    """Messages that come in several reads; nothing else has the connection looked at."""
    messages = [bytes([number]) * 200_000 for number in range(5)]
    options = {name: Rate(20 if name[0] == "m" else 10**7, burst=1) for name in options}
    received: list[Any] = []
    done = driver.event()

    async def handler(ws: Ws) -> None:
        if listening and hasattr(ws.raw, "listen"):
            ws.raw.listen(received.append)
        else:
            while len(received) < 5:
                received.append(await ws.recv())
        await driver.until(lambda: len(received) == 5)
        done.set()

    async with driver.serve(handler, ping_interval=None, **options) as server:
        async with driver.connect(server, compression=None) as ws:
            for message in messages:
                await ws.send(message)
            await done.wait()
    assert received == messages


async def test_reading_pauses(driver: Driver) -> None:
    """What the peer has to wait for isn't in our memory."""
    got = driver.event()

    async def handler(ws: Ws) -> None:
        assert await ws.recv() == b"0" * 65536
        got.set()
        await ws.wait_closed()

    rate = Rate(0.001, burst=1)
    async with driver.serve(handler, message_rate=rate, close_timeout=1) as server:
        async with driver.raw_client(server) as peer:
            await peer.write(2, b"0" * 65536)
            await got.wait()
            connection = await server.connection()
            await driver.until(lambda: connection.paused)
            assert connection.state is State.OPEN


async def test_receiving_while_a_peer_waits(driver: Driver) -> None:
    """Who waits for the next message keeps nobody from anything."""
    received: list[Any] = []

    async def handler(ws: Ws) -> None:
        async for message in ws:
            received.append(message)

    async with driver.serve(handler, message_rate=Rate(0.001, burst=1)) as server:
        async with driver.connect(server) as ws:
            for number in range(3):
                await ws.send(str(number))
            await driver.until(lambda: received)
            await driver.sleep(0.05)
            assert received == ["0"]
            await (await server.connection()).close()
            await ws.wait_closed()
            assert ws.close_code == 1000


async def test_close_while_a_peer_waits(driver: Driver) -> None:
    sent = driver.event()

    async def handler(ws: Ws) -> None:
        assert await ws.recv() == "0"
        await sent.wait()

    async with driver.serve(handler, message_rate=Rate(0.001, burst=1)) as server:
        async with driver.connect(server) as ws:
            await ws.send("0")
            await ws.send("1")
            sent.set()
            await ws.wait_closed()
            assert ws.close_code == 1000


async def test_too_many_messages_close(driver: Driver) -> None:
    received: list[Any] = []

    async def handler(ws: Ws) -> None:
        with pytest.raises(ConnectionClosedError) as raised:
            while True:
                received.append(await ws.recv())
        assert isinstance(raised.value.__cause__, RateExceeded)

    rate = Rate(0.001, burst=3, exceeded="close")
    async with driver.serve(handler, message_rate=rate) as server:
        async with driver.raw_client(server) as peer:
            await peer.send(b"".join(frame(TEXT, b"%d" % i, masked=True) for i in range(10)))
            opcode, payload = await peer.read_message()
            assert (opcode, payload[:2]) == (CLOSE, close_payload(1008))
            assert payload[2:] == b"more than 0.001 messages per second"
    assert received == ["0", "1", "2"]


async def test_too_many_pings_close(driver: Driver) -> None:
    rate = Rate(0.001, burst=3, exceeded="close")
    async with driver.serve(echo, message_rate=rate) as server:
        async with driver.raw_client(server) as peer:
            await peer.send(b"".join(frame(PING, b"%d" % i, masked=True) for i in range(10)))
            opcodes = [(await peer.read_message())[0]]
            while opcodes[-1] != CLOSE:
                opcodes.append((await peer.read_message())[0])
            assert opcodes[:-1] == [PONG] * len(opcodes[:-1])
            assert len(opcodes) <= 4


async def test_clients_have_limits_too(driver: Driver) -> None:
    async def handler(ws: Ws) -> None:
        for number in range(5):
            await ws.send(str(number))
        await ws.wait_closed()

    async with driver.serve(handler) as server:
        rate = Rate(0.001, burst=3, exceeded="close")
        async with driver.connect(server, message_rate=rate) as ws:
            received = []
            with pytest.raises(ConnectionClosedError):
                while True:
                    received.append(await ws.recv())
            assert received == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["message_rate", "byte_rate"])
async def test_arguments(driver: Driver, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a Rate, a number, or None, not str"):
        async with driver.serve(**{name: "1"}):
            pass
    with pytest.raises(ValueError, match=f"{name} must be more than 0 per second"):
        async with driver.connect("ws://localhost/", **{name: 0}):
            pass
