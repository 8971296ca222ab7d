"""Peers that don't read as fast as messages come: what they get, and what it costs the others."""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, until_closed
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import CLOSE, TEXT, close_payload, frame, logged_errors
from wsapi import limits
from wsapi.exceptions import ConnectionClosed, ConnectionClosedError
from wsapi.limits import MAX_BACKLOG, Slow, connections_given_up, messages_dropped
from wsapi.protocol import State

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

SIZE = 65536
ROOM = 4 * (SIZE + 160)
DROPPING = [Slow.DROP_NEWEST, Slow.DROP_OLDEST, Slow.LATEST]


def numbered(number: int, size: int = SIZE) -> str:
    """Return a text that begins with a number."""
    return f"{number} ".ljust(size, "x")


async def numbers(peer: RawPeer, until: int | None = None) -> list[int]:
    """Read numbered messages, up to that with a number or to a Close frame."""
    found = []
    while True:
        opcode, payload = await peer.read_message()
        if opcode == CLOSE:
            return found
        assert opcode == TEXT
        found.append(int(payload.split()[0]))
        if found[-1] == until:
            return found


async def fill(driver: Driver, ws: Ws) -> int:
    """Send numbered messages until more wait than the network may still take; return the next."""
    for number in range(2000):
        await driver.broadcast([ws], numbered(number), slow=Slow.DROP_OLDEST)
        if ws.protocol.backlog_messages == 16:
            return number + 1
    raise AssertionError("the network has no bound")


class Dropped:
    """Counts what ``on_drop`` is called with."""

    def __init__(self) -> None:
        self.number = 0
        self.connections: set[Any] = set()

    def __call__(self, connection: Any, number: int) -> None:
        assert number > 0
        self.number += number
        self.connections.add(connection)


class TestPolicies:
    @pytest.mark.parametrize("whole", ["send", "broadcast"])
    @pytest.mark.parametrize("slow", DROPPING, ids=lambda slow: slow.name)
    async def test_of_the_connection(
        self,
        driver: Driver,
        slow: Slow,
        whole: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is sent never waits; what arrives is in order; what doesn't is counted."""
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(limits.dropped, "next_line", 0.0)
        monkeypatch.setattr(limits.dropped, "unlogged", 0)
        dropped, before = Dropped(), messages_dropped()
        options: Any = {"slow": slow, "max_backlog": ROOM, "on_drop": dropped}
        async with driver.serve(until_closed, **options) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = 0
                while dropped.number < 20:
                    if whole == "send":
                        await ws.send(numbered(count))
                    else:
                        await driver.broadcast([ws], numbered(count))
                    assert ws.protocol.backlog_size <= ROOM
                    count += 1
                left = count - dropped.number
                got = [int((await peer.read_message())[1].split()[0]) for _ in range(left)]
                assert got == sorted(set(got))
                assert got[0] == 0
                if slow is not Slow.DROP_NEWEST:
                    assert got[-1] == count - 1
                assert ws.protocol.dropped == {slow: dropped.number}
                assert dropped.connections == {ws.raw}
                assert messages_dropped() == before + dropped.number
                assert served.raw.stats().dropped == {slow.value: dropped.number}
                assert served.raw.stats().messages_dropped == dropped.number
                assert ws.stats().messages_dropped == dropped.number
                records = [r for r in caplog.records if r.getMessage().startswith("dropped ")]
                level = logging.INFO if slow is Slow.LATEST else logging.WARNING
                assert [record.levelno for record in records] == [level]

    async def test_latest_by_key(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                first = await fill(driver, ws)
                for number in range(first, first + 100):
                    key = ("key", number % 3)
                    await driver.broadcast([ws], numbered(number), slow=Slow.LATEST, key=key)
                assert ws.protocol.backlog_messages <= 16 + 3
                got = [int((await peer.read_message())[1].split()[0]) for _ in range(first + 3)]
                # Each in the place of the first one with its key.
                assert got == [*range(first), first + 99, first + 97, first + 98]

    @pytest.mark.parametrize("how", ["send", "broadcast", "policy of the broadcast"])
    async def test_close(self, driver: Driver, how: str, caplog: pytest.LogCaptureFixture) -> None:
        failures: list[ConnectionClosed] = []

        async def receive(ws: Ws) -> None:
            try:
                await ws.recv()
            except ConnectionClosed as exc:
                failures.append(exc)

        before = connections_given_up()
        options: Any = {"slow": Slow.CLOSE, "max_backlog": ROOM}
        terms, options = (options, {}) if how[0] == "p" else ({}, options)
        async with driver.serve(receive, **options) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                for number in range(2000):
                    if how == "send":
                        await ws.send(numbered(number))
                    else:
                        await driver.broadcast([ws], numbered(number), **terms)
                    if ws.state is not State.OPEN:
                        break
                assert connections_given_up() == before + 1
                left = number + 1 - ws.protocol.dropped[Slow.CLOSE]
                for number in range(left):
                    assert await peer.read_message() == (TEXT, numbered(number).encode())
                opcode, payload = await peer.read_message()
                assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
                await peer.write(CLOSE, payload)
                peer.write_eof()
                await ws.wait_closed()
        (failure,) = failures
        assert failure.sent is not None
        assert failure.sent.code == 1013
        assert isinstance(failure, ConnectionClosedError)
        assert isinstance(failure.__cause__, ConnectionAbortedError)

    async def test_close_and_abort(self, driver: Driver) -> None:
        """A peer that doesn't even read the Close frame has no more than the write deadline."""
        options: Any = {"close_timeout": None, "write_deadline": 0.05}
        async with driver.serve(until_closed, **options) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                for number in range(2000):
                    await driver.broadcast([ws], numbered(number), slow=Slow.CLOSE, max_backlog=0)
                    if ws.state is not State.OPEN:
                        break
                await ws.wait_closed()
                assert ws.close_code == 1006

    async def test_exceptions_of_broadcasts(self, driver: Driver) -> None:
        """That a message is dropped is what was asked for; that a connection is closed isn't."""
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                await fill(driver, ws)
                terms: dict[str, Any] = {"max_backlog": 0, "raise_exceptions": True}
                await driver.broadcast([ws], "x", slow=Slow.DROP_NEWEST, **terms)
                with pytest.raises(ExceptionGroup) as caught:
                    await driver.broadcast([ws], "x", slow=Slow.CLOSE, **terms)
                (exc,) = caught.value.exceptions
                assert isinstance(exc.__cause__, ConnectionAbortedError)
                ws.lose()

    async def test_a_callback_that_fails(self, driver: Driver) -> None:
        calls = []

        def on_drop(connection: Any, number: int) -> None:
            calls.append(number)
            raise ZeroDivisionError

        options: Any = {"slow": Slow.DROP_NEWEST, "max_backlog": 0, "on_drop": on_drop}
        async with driver.serve(until_closed, **options) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                while not calls:
                    await ws.send(bytes(SIZE))
                await driver.broadcast([ws], bytes(SIZE))
                assert calls == [1, 1]
                logged_errors("on_drop failed", "on_drop failed")
                ws.lose()

    @pytest.mark.not_on("trio", reason="broadcast() is a coroutine function there")
    async def test_a_callback_that_sends(self, driver: Driver) -> None:
        """It isn't called for what it does itself before it has returned."""
        calls = []

        def on_drop(connection: Any, number: int) -> None:
            calls.append(number)
            driver.server.broadcast([connection], bytes(SIZE))

        options: Any = {"slow": Slow.DROP_NEWEST, "max_backlog": 0, "on_drop": on_drop}
        async with driver.serve(until_closed, **options) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                while not calls:
                    await ws.send(bytes(SIZE))
                await ws.send(bytes(SIZE))
                assert calls == [1, 2]
                assert ws.protocol.dropped == {Slow.DROP_NEWEST: 4}
                ws.lose()

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"slow": "wait"}, TypeError),
            ({"slow": None}, TypeError),
            ({"max_backlog": -1}, ValueError),
            ({"max_backlog": 1.5}, TypeError),
            ({"write_deadline": 0}, ValueError),
            ({"write_deadline": "1"}, TypeError),
            ({"on_drop": 1}, TypeError),
        ],
    )
    async def test_wrong_options(
        self, driver: Driver, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            async with driver.serve(until_closed, **options):
                pass
        with pytest.raises(error):
            await driver.attempt("ws://127.0.0.1:1/", **options)

    @pytest.mark.parametrize(
        ("options", "error"), [({"slow": "latest"}, TypeError), ({"key": []}, TypeError)]
    )
    async def test_wrong_terms(
        self, driver: Driver, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await driver.broadcast([], "x", **options)

    async def test_defaults(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for ws in (client, server):
                assert ws.protocol.waits_to_send
                assert ws.on_drop is None
        async with driver.pair(slow=Slow.LATEST, write_deadline=5) as (client, server):
            for ws in (client, server):
                assert not ws.protocol.waits_to_send
        assert MAX_BACKLOG == 2**25


class TestWriteDeadline:
    async def test_a_peer_that_takes_nothing(self, driver: Driver) -> None:
        async with driver.serve(until_closed, write_deadline=0.1) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                with pytest.raises(ConnectionClosedError) as caught:
                    while True:
                        await ws.send(bytes(SIZE))
                assert isinstance(caught.value.__cause__, TimeoutError)
                assert "0.1 seconds" in str(caught.value.__cause__)

    async def test_over_tls(self, driver: Driver, tls: Contexts) -> None:
        server_context, client_context = tls
        options: Any = {"ssl": server_context, "write_deadline": 0.1}
        async with driver.serve(until_closed, **options) as served:
            async with driver.raw_client(served, tls=client_context):
                ws = await served.connection()
                with pytest.raises(ConnectionClosedError) as caught:
                    while True:
                        await ws.send(bytes(SIZE))
                assert isinstance(caught.value.__cause__, TimeoutError)

    async def test_a_peer_that_takes_little(self, driver: Driver) -> None:
        """It is slow, but there."""
        async with driver.serve(until_closed, write_deadline=1) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                total = 2**24
                send = driver.spawn(ws.send(bytes(total)))
                left = total + 10
                while left:
                    for _ in range(16):
                        if left:
                            left -= len(await peer.read_exactly(min(left, SIZE)))
                    await driver.sleep(0.1)
                await send
                assert ws.state is State.OPEN


class TestOrder:
    async def test_close_follows_what_waits(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                for number in range(count, count + 5):
                    await driver.broadcast([ws], numbered(number), slow=Slow.DROP_OLDEST)
                closing = driver.spawn(ws.close(1001, "bye"))
                await driver.until(lambda: ws.state is not State.OPEN)
                assert await numbers(peer) == list(range(count + 5))
                await peer.write(CLOSE, close_payload(1001))
                peer.write_eof()
                await closing
                assert ws.close_code == 1001

    async def test_close_that_nobody_reads(self, driver: Driver) -> None:
        async with driver.serve(until_closed, close_timeout=0.1) as served:
            async with driver.raw_client(served):
                ws = await served.connection()
                await fill(driver, ws)
                await ws.close()
                assert ws.close_code == 1006

    async def test_peer_closes_meanwhile(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                await peer.write(CLOSE, close_payload(1000))
                await driver.until(lambda: ws.state is not State.OPEN)
                assert ws.protocol.backlog_messages == 0
                got = await numbers(peer)
                assert got == list(range(len(got)))
                assert len(got) < count
                peer.write_eof()
                await ws.wait_closed()
                assert ws.close_code == 1000

    async def test_who_waits_comes_behind_what_waits(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                mark = ws.protocol.backlog_mark
                send = driver.spawn(ws.send(numbered(count)))
                await driver.until(lambda: ws.protocol.backlog_mark > mark)
                await driver.broadcast([ws], numbered(count + 1), slow=Slow.DROP_OLDEST)
                assert not send.done()
                assert await numbers(peer, count + 1) == list(range(count + 2))
                await send
                await ws.send(numbered(count + 2))
                assert await numbers(peer, count + 2) == [count + 2]

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_sends(self, driver: Driver) -> None:
        """They wait for nothing any more; what they sent leaves nevertheless."""
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                for number in range(count, count + 5):
                    mark = ws.protocol.backlog_mark
                    send = driver.spawn(ws.send(numbered(number)))
                    await driver.until(lambda: ws.protocol.backlog_mark > mark)  # noqa: B023
                    assert await send.cancelled()
                await driver.broadcast([ws], numbered(count + 5), slow=Slow.DROP_OLDEST)
                assert await numbers(peer, count + 5) == list(range(count + 6))

    async def test_broadcasts_during_a_message_in_fragments(self, driver: Driver) -> None:
        started, gate = driver.event(), driver.event()

        async def fragments() -> AsyncIterator[str]:
            yield "a"
            started.set()
            await gate.wait()
            yield "b"

        async with driver.pair() as (client, server):
            send = driver.spawn(server.send(fragments()))
            await started.wait()
            for text in ("x", "y", "z"):
                terms: Any = {"slow": Slow.DROP_OLDEST, "max_backlog": 330}
                await driver.broadcast([server], text, raise_exceptions=True, **terms)
            gate.set()
            await send
            await server.send("last")
            assert [await client.recv() for _ in range(4)] == ["ab", "y", "z", "last"]

    async def test_a_large_message_in_fragments_ahead_of_what_waits(self, driver: Driver) -> None:
        started, gate = driver.event(), driver.event()
        large = "b" * 2**25

        async def fragments() -> AsyncIterator[str]:
            yield "a"
            started.set()
            await gate.wait()
            yield large
            yield "c"

        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                send = driver.spawn(ws.send(fragments()))
                await started.wait()
                await driver.broadcast([ws], "x", slow=Slow.DROP_OLDEST)
                gate.set()
                frames = [await peer.read() for _ in range(4)]
                assert [payload for _, payload in frames] == [b"a", large.encode(), b"c", b""]
                assert await peer.read_message() == (TEXT, b"x")
                await send

    async def test_a_message_in_fragments_behind_what_waits(self, driver: Driver) -> None:
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                send = driver.spawn(ws.send([numbered(count), "end"]))
                await driver.until(lambda: ws.protocol.backlog_messages == 0)
                for number in range(count):
                    assert await peer.read_message() == (TEXT, numbered(number).encode())
                assert await peer.read() == (TEXT, numbered(count).encode())
                await peer.read()
                assert await peer.read() == (0x80, b"")
                await send

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    async def test_compressed_with_contexts(
        self, driver: Driver, secure: bool, tls: Contexts
    ) -> None:
        """The peer inflates all that arrives, whatever was dropped between."""
        numbers = random.Random(4)
        options: dict[str, Any] = {"slow": Slow.DROP_OLDEST, "max_backlog": ROOM}
        both: dict[str, Any] = {"compression": "deflate"}
        server: dict[str, Any] = options | ({"ssl": tls[0]} if secure else {})
        accepted: list[Ws] = []

        async def handler(ws: Ws) -> None:
            accepted.append(ws)
            await ws.wait_closed()

        async with driver.serve(handler, **both | server) as served:
            client: dict[str, Any] = {"max_queue": 1} | ({"ssl": tls[1]} if secure else {})
            uri = served.uri(host="localhost", tls=secure)
            async with driver.connect(uri, **both | client) as ws:
                await driver.until(lambda: accepted)
                (sender,) = accepted
                sent: list[str] = []
                number = 0
                while sum(sender.protocol.dropped.values()) < 40:
                    # Half of it doesn't compress.
                    text = f"{number} " + numbers.randbytes(SIZE // 4).hex()
                    sent.append(text)
                    if number % 3:
                        await sender.send(text)
                    else:
                        await driver.broadcast([sender], text)
                    number += 1
                dropped = sum(sender.protocol.dropped.values())
                received = [await ws.recv() for _ in range(len(sent) - dropped)]
                positions = [sent.index(text) for text in received]
                assert positions == sorted(set(positions))
                assert received[-1] == sent[-1]


class TestMany:
    async def test_the_quick_get_everything(self, driver: Driver) -> None:
        """Whatever becomes of the others: some vanish, some read a byte now and then."""
        rounds = 150
        async with driver.serve(until_closed) as served:
            async with (
                driver.raw_client(served) as sipping,
                driver.raw_client(served) as stuck,
                driver.raw_client(served) as vanishing,
                driver.connect(served, max_queue=None) as one,
                driver.connect(served, max_queue=None) as other,
            ):
                await driver.until(lambda: len(served.connections) == 5)
                # What is written there goes on after the peer is gone.
                connections = list(served.connections)
                for number in range(rounds):
                    text = numbered(number)
                    terms: Any = {"slow": Slow.DROP_OLDEST, "max_backlog": ROOM}
                    await driver.broadcast(connections, text, **terms)
                    assert await one.recv() == text
                    assert await other.recv() == text
                    if number == rounds // 2:
                        vanishing.reset()
                    if number % 10 == 0:
                        assert await sipping.read_exactly(1)
                waiting = [ws.protocol.backlog_size for ws in connections]
                assert max(waiting) <= ROOM
                assert await stuck.read_message() == (TEXT, numbered(0).encode())

    async def test_peers_that_vanish(self, driver: Driver) -> None:
        """Nothing is kept for them, and whoever waits is told."""
        async with driver.serve(until_closed) as served:
            async with driver.raw_client(served) as peer:
                ws = await served.connection()
                count = await fill(driver, ws)
                mark = ws.protocol.backlog_mark
                send = driver.spawn(ws.send(numbered(count)))
                await driver.until(lambda: ws.protocol.backlog_mark > mark)
                peer.reset()
                with pytest.raises(ConnectionClosed):
                    await send
                await ws.wait_closed()
                assert ws.protocol.backlog_messages == 0
                await driver.broadcast([ws], "x", slow=Slow.DROP_OLDEST)


async def test_pings_go_on(driver: Driver) -> None:
    """They pass what waits, so that keepalive finds a peer that is gone."""
    async with driver.serve(until_closed) as served:
        async with driver.raw_client(served) as peer:
            ws = await served.connection()
            count = await fill(driver, ws)
            await driver.broadcast([ws], numbered(count), slow=Slow.DROP_OLDEST)
            ping = driver.spawn(ws.ping(b"x"))
            await driver.until(lambda: ws.protocol.output_size or ws.unsent)
            opcodes = []
            while len(opcodes) < count + 2:
                opcode, payload = await peer.read_message()
                opcodes.append(opcode)
                if opcode == 9:
                    await peer.send(frame(10, payload, masked=True))
            assert opcodes.index(9) < count
            await (await ping).wait()
