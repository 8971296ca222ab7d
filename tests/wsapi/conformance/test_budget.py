"""Connections that hold too much in memory: which are closed, how, and that others aren't."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws, echo, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.conformance.test_tls import Contexts
from tests.wsapi.helpers import BINARY, CLOSE, close_payload, frame
from tests.wsapi.helpers import request as handshake_request
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.limits import BufferBudget, Slow
from wsapi.protocol import State

SIZE = 2**18
INTERVAL = 0.01
EARLY = 2**14


def held(served: Served) -> int:
    return sum(connection._buffered_bytes() for connection in list(served.raw._connections))


def given_up(served: Served) -> int:
    number: int = served.raw.stats().given_up.get("buffer_budget", 0)
    return number


def assert_told_why(exc: ConnectionClosed) -> None:
    assert isinstance(exc, ConnectionClosedError)
    assert isinstance(exc.__cause__, ConnectionAbortedError)
    assert str(exc.__cause__).startswith("too much waits: ")


@contextlib.asynccontextmanager
async def sending(driver: Driver, peer: RawPeer) -> AsyncIterator[None]:
    """Have a peer send large messages, and never read, until that fails or the block ends."""

    async def send() -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                await peer.write(BINARY, bytes(SIZE))

    task = driver.spawn(send())
    try:
        yield
    finally:
        peer.reset()
        await task.ended()


async def test_peers_that_never_read(driver: Driver) -> None:
    """They send, and don't read the echoes; those of another client arrive."""
    budget = BufferBudget(4 * SIZE, interval=INTERVAL)
    failures: list[ConnectionClosed] = []

    async def handler(ws: Ws) -> None:
        try:
            while True:
                await ws.send(await ws.recv())
        except ConnectionClosed as exc:
            failures.append(exc)

    async with driver.serve(handler, buffer_budget=budget, max_queue=64) as served:
        async with driver.connect(served) as honest, contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                peer = await stack.enter_async_context(driver.raw_client(served))
                await stack.enter_async_context(sending(driver, peer))
            await driver.until(lambda: given_up(served))
            await driver.until(lambda: len(failures) >= 1)
            for _ in range(20):
                await honest.send("still here")
                assert await honest.recv() == "still here"
            await driver.until(lambda: given_up(served) == 3 or held(served) <= budget.max_bytes)
            for failure in list(failures):
                assert_told_why(failure)
            assert honest.state is State.OPEN
    assert budget.buffered_bytes == 0
    assert not budget._seen


async def test_messages_that_nobody_receives(driver: Driver) -> None:
    budget = BufferBudget(3 * SIZE, interval=INTERVAL)
    over = driver.event()
    failures: list[ConnectionClosed] = []

    async def handler(ws: Ws) -> None:
        await over.wait()
        try:
            while True:
                await ws.recv()
        except ConnectionClosed as exc:
            failures.append(exc)

    async with driver.serve(handler, buffer_budget=budget) as served:
        async with driver.raw_client(served) as modest:
            (first,) = await connections(driver, served, 1)
            await modest.write(BINARY, bytes(SIZE))
            await driver.until(lambda: first.raw._buffered_bytes() > SIZE)
            async with driver.raw_client(served) as peer:
                await connections(driver, served, 2)
                for _ in range(4):
                    await peer.write(BINARY, bytes(SIZE))
                opcode, payload = await peer.read_message()
                assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
                await driver.until(lambda: held(served) < 2 * SIZE)
                assert given_up(served) == 1
                assert first.state is State.OPEN
                await peer.write(CLOSE, payload)
                assert await peer.read_to_end() == b""
            await modest.write(CLOSE, close_payload(1000))
            modest.write_eof()
            over.set()
            await driver.until(lambda: len(failures) == 2)
            (told,) = [exc for exc in failures if isinstance(exc, ConnectionClosedError)]
            assert_told_why(told)
            assert told.sent is not None
            assert told.sent.code == 1013


async def connections(driver: Driver, served: Served, number: int) -> set[Ws]:
    await driver.until(lambda: len(served.connections) == number)
    return served.connections


async def test_a_part_of_a_frame(driver: Driver) -> None:
    budget = BufferBudget(SIZE, interval=INTERVAL)
    async with driver.serve(until_closed, buffer_budget=budget) as served:
        async with driver.raw_client(served) as peer:
            await peer.send(frame(BINARY, bytes(2 * SIZE), masked=True)[:-1])
            opcode, payload = await peer.read_message()
            assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
            await peer.write(CLOSE, payload)
            assert await peer.read_to_end() == b""
        assert given_up(served) == 1


@pytest.mark.parametrize("slow", [Slow.WAIT, Slow.DROP_OLDEST], ids=lambda slow: slow.name)
async def test_broadcasts_that_are_not_read(driver: Driver, slow: Slow) -> None:
    budget = BufferBudget(8 * SIZE, interval=INTERVAL)
    options: Any = {"buffer_budget": budget, "slow": slow, "close_timeout": None}
    async with driver.serve(until_closed, **options) as served:
        async with driver.raw_client(served):
            ws = await served.connection()
            while ws.state is State.OPEN:
                await driver.broadcast([ws], bytes(SIZE), max_backlog=None)
                await driver.sleep(0)
            await ws.wait_closed()
            assert ws.close_code == 1006
            assert_told_why(ws.close_exc)
        assert given_up(served) == 1
        await driver.until(lambda: held(served) == 0)


async def test_who_was_told_and_goes_on(driver: Driver) -> None:
    """A peer that neither answers nor leaves is gone when its time is over; nothing is kept."""
    budget = BufferBudget(SIZE, interval=INTERVAL)
    options: Any = {"buffer_budget": budget, "close_timeout": 0.05}
    async with driver.serve(until_closed, **options) as served:
        async with driver.raw_client(served) as peer:
            ws = await served.connection()
            async with sending(driver, peer):
                await driver.until(lambda: given_up(served))
                await ws.wait_closed()
                assert_told_why(ws.close_exc)
        assert given_up(served) == 1


async def test_servers_that_share_one(driver: Driver) -> None:
    budget = BufferBudget(3 * SIZE, interval=INTERVAL)
    async with driver.serve(until_closed, buffer_budget=budget) as one:
        async with driver.serve(until_closed, buffer_budget=budget) as other:
            async with driver.raw_client(one) as modest, driver.raw_client(other) as peer:
                await modest.write(BINARY, bytes(SIZE))
                await driver.until(lambda: budget.buffered_bytes > SIZE)
                for _ in range(2):
                    await peer.write(BINARY, bytes(SIZE))
                opcode, payload = await peer.read_message()
                assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
                await peer.write(CLOSE, payload)
                assert (given_up(one), given_up(other)) == (0, 1)
                assert len(one.connections) == 1
            await driver.until(lambda: budget.buffered_bytes == 0)
    assert not budget._seen


async def test_nothing_is_left(driver: Driver) -> None:
    budget = BufferBudget(SIZE, interval=INTERVAL)
    async with driver.serve(echo, buffer_budget=budget) as served:
        async with driver.connect(served) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"
            await driver.until(lambda: budget._seen)
        assert given_up(served) == 0
    assert not budget._seen


async def test_no_connections(driver: Driver) -> None:
    budget = BufferBudget(SIZE, interval=INTERVAL)
    async with driver.serve(echo, buffer_budget=budget):
        await driver.until(lambda: budget._seen)
    assert not budget._seen


async def test_closed_at_once(driver: Driver) -> None:
    budget = BufferBudget(SIZE)
    async with driver.serve(echo, buffer_budget=budget):
        pass
    assert not budget._seen


@pytest.mark.parametrize("budget", [1, "1", BufferBudget])
async def test_argument(driver: Driver, budget: Any) -> None:
    with pytest.raises(TypeError, match="buffer_budget must be a BufferBudget"):
        async with driver.serve(echo, buffer_budget=budget):
            pass  # pragma: no cover


@pytest.mark.parametrize("reads", [True, False])
async def test_over_tls(driver: Driver, reads: bool, tls: Contexts) -> None:
    server_context, client_context = tls
    budget = BufferBudget(4 * SIZE, interval=INTERVAL)
    options: Any = {"ssl": server_context, "buffer_budget": budget}
    async with driver.serve(until_closed, **options) as served:
        async with driver.raw_client(served, tls=client_context) as peer:
            ws = await served.connection()
            if reads:
                for _ in range(5):
                    await peer.write(BINARY, bytes(SIZE))
                opcode, payload = await peer.read_message()
                assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
                await peer.write(CLOSE, payload)
                peer.close()
            else:
                while ws.state is State.OPEN:
                    await driver.broadcast([ws], bytes(SIZE), max_backlog=None)
                    await driver.sleep(0)
            await ws.wait_closed()
            assert_told_why(ws.close_exc)
        assert given_up(served) == 1
    assert not budget._seen


async def test_in_the_opening_handshake(driver: Driver) -> None:
    """What came behind the request counts; who holds too much gets no answer."""
    budget = BufferBudget(EARLY // 2, interval=INTERVAL)
    over = driver.event()

    async def process_request(ws: Ws, request: Any) -> None:
        await over.wait()

    options: Any = {"buffer_budget": budget, "process_request": process_request}
    async with driver.serve(until_closed, **options) as served:
        early = frame(BINARY, bytes(EARLY), masked=True)
        async with driver.raw_client(served, b"") as peer:
            await peer.send(handshake_request() + early)
            assert await peer.read_to_end() == b""
            over.set()
            await driver.until(lambda: not served.accepted)
        stats = served.raw.stats()
        assert stats.refused == {"buffer_budget": 1}
        assert stats.given_up == {}


async def test_routes(driver: Driver) -> None:
    budget = BufferBudget(SIZE, interval=INTERVAL)
    routing = pytest.importorskip("werkzeug.routing", reason="werkzeug isn't installed")
    rules = routing.Map([routing.Rule("/", endpoint=driver.endpoint(until_closed))])
    async with driver.route(rules, buffer_budget=budget) as served:
        async with driver.raw_client(served) as peer:
            for _ in range(2):
                await peer.write(BINARY, bytes(SIZE))
            opcode, payload = await peer.read_message()
            assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
            await peer.write(CLOSE, payload)
            assert await peer.read_to_end() == b""
    assert not budget._seen
