"""Cancellation at any point loses, doubles and tears nothing; tasks wake as with futures."""

from __future__ import annotations

import asyncio
import contextvars
import random
from typing import Any

import pytest

from tests.wsapi.helpers import (
    BINARY,
    CONT,
    TEXT,
    RawPeer,
    close_payload,
    frame,
    pair,
    raw_client,
    raw_server,
    serving,
    turns,
    until,
    until_closed,
    uri_of,
)
from wsapi.asyncio.client import connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK


async def cancel_after(task: asyncio.Task[Any], steps: int) -> Any:
    """Let the loop turn, cancel, return the result or None."""
    await turns(steps)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


def receive(deliver: Any, ws: Connection, nbytes: bytes) -> None:
    """Do what a transport does when something was received."""
    buffer = ws.get_buffer(-1)
    buffer[: len(nbytes)] = nbytes
    deliver(len(nbytes))


class TestRecv:
    @pytest.mark.parametrize("message", ["text", ["a", "b", "c"], b"x" * 300_000])
    @pytest.mark.parametrize("steps", range(8))
    async def test_cancelled_while_the_message_comes(self, message: Any, steps: int) -> None:
        expected = "abc" if isinstance(message, list) else message
        async with pair(max_queue=2) as (client, server):
            for _ in range(3):
                sending = asyncio.create_task(client.send(message))
                got = await cancel_after(asyncio.create_task(server.recv()), steps)
                if got is None:
                    got = await server.recv()
                assert got == expected
                await sending
            await client.send("end")
            assert await server.recv() == "end"

    async def test_cancelled_again_and_again(self) -> None:
        async def send() -> None:
            for i in range(300):
                await client.send(str(i) if i % 3 else [str(i), ""])
                if i % 7 == 0:
                    await asyncio.sleep(0)

        generator = random.Random(0)
        async with pair(max_queue=(4, 1)) as (client, server):
            sending = asyncio.create_task(send())
            received: list[Any] = []
            while len(received) < 300:
                task = asyncio.create_task(server.recv())
                if (message := await cancel_after(task, generator.randrange(5))) is not None:
                    received.append(message)
            assert received == [str(i) for i in range(300)]
            await sending

    @pytest.mark.parametrize("delay", [0.0001, 0.001])
    async def test_wait_for(self, delay: float) -> None:
        async def send() -> None:
            for i in range(200):
                await client.send(str(i))
                if i % 10 == 0:
                    await asyncio.sleep(0.0005)

        async with pair() as (client, server):
            sending = asyncio.create_task(send())
            received: list[Any] = []
            while len(received) < 200:
                try:
                    received.append(await asyncio.wait_for(server.recv(), delay))
                except TimeoutError:
                    await asyncio.sleep(0)
            assert received == [str(i) for i in range(200)]
            await sending

    async def test_cancelled_before_it_runs(self) -> None:
        async with pair() as (client, server):
            task = asyncio.create_task(server.recv())
            task.cancel()
            await asyncio.wait([task])
            await client.send("x")
            assert await server.recv() == "x"

    async def test_message_after_the_cancellation_was_requested(self) -> None:
        async with pair() as (_client, server):
            task = asyncio.create_task(server.recv())
            await turns(2)
            task.cancel()
            # Before the task could run, the message comes.
            receive(server.buffer_updated, server, frame(TEXT, b"late", masked=True))
            await asyncio.wait([task])
            assert task.cancelled()
            assert await server.recv() == "late"

    async def test_cancelled_twice_and_shielded(self) -> None:
        async with pair() as (client, server):
            inner = asyncio.create_task(server.recv())
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(inner), 0.001)
            with pytest.raises(ConcurrencyError):
                await server.recv()
            await client.send("x")
            assert await inner == "x"
            task = asyncio.create_task(server.recv())
            await turns(2)
            task.cancel()
            task.cancel()
            await asyncio.wait([task])
            await client.send("y")
            assert await server.recv() == "y"

    async def test_uncancelled(self) -> None:
        """A task that survives its cancellation goes on receiving."""

        async def stubborn() -> list[Any]:
            received: list[Any] = []
            while len(received) < 2:
                try:
                    received.append(await server.recv())
                except asyncio.CancelledError:
                    received.append("cancelled")
            return received

        async with pair() as (client, server):
            task = asyncio.create_task(stubborn())
            await turns(2)
            task.cancel()
            await turns(2)
            await client.send("x")
            assert await task == ["cancelled", "x"]

    async def test_connection_closed_after_the_cancellation_was_requested(self) -> None:
        async with pair() as (_client, server):
            task = asyncio.create_task(server.recv())
            await turns(2)
            task.cancel()
            server.transport.abort()
            await asyncio.wait([task])
            assert task.cancelled()
            with pytest.raises(ConnectionClosedError):
                await server.recv()

    async def test_task_group(self) -> None:
        async with pair() as (client, server):
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(server.recv())
                    group.create_task(server.wait_closed())
                    await turns(2)
                    raise ZeroDivisionError
            await client.send("x")
            assert await server.recv() == "x"


class TestWakeUp:
    """A waiting task runs inside the transport's callback, where nothing else is running."""

    async def test_transport_called_from_a_task(self) -> None:
        async with pair() as (_client, server):
            task = asyncio.create_task(server.recv())
            await turns(2)
            for i in range(3):
                data = frame(TEXT, str(i).encode(), masked=True)
                receive(server.buffer_updated, server, data)
            assert not task.done()
            with pytest.raises(ConcurrencyError):
                await server.recv()
            assert await task == "0"
            assert [await server.recv(), await server.recv()] == ["1", "2"]

    async def test_transport_called_from_a_task_then_cancelled(self) -> None:
        async with pair() as (_client, server):
            task = asyncio.create_task(server.recv())
            await turns(2)
            receive(server.buffer_updated, server, frame(TEXT, b"x", masked=True))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert await server.recv() == "x"

    async def test_transport_called_in_the_context_of_the_task(self) -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        async with pair() as (_client, server):
            task = loop.create_task(server.recv(), context=context)
            await turns(2)
            data = frame(TEXT, b"x", masked=True)
            loop.call_soon(receive, server.buffer_updated, server, data, context=context)
            assert await task == "x"

    async def test_context_of_the_task_is_kept(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

        async def receiver(name: str) -> None:
            variable.set(name)
            for _ in range(3):
                await server.recv()
                assert variable.get() == name

        async with pair() as (client, server):
            variable.set("test")
            task = asyncio.create_task(receiver("receiver"))
            for _ in range(3):
                await client.send("x")
                await turns(3)
                assert variable.get() == "test"
            await task

    async def test_current_task(self) -> None:
        async def receiver() -> None:
            for _ in range(3):
                await server.recv()
                assert asyncio.current_task() is task
                async with asyncio.timeout(5):
                    await asyncio.sleep(0)

        async with pair() as (client, server):
            task = asyncio.create_task(receiver())
            for _ in range(3):
                await client.send("x")
            await task

    async def test_task_that_ends_when_woken(self) -> None:
        async with pair() as (client, server):
            for i in range(3):
                task = asyncio.create_task(server.recv())
                await turns(2)
                await client.send(str(i))
                assert await task == str(i)
            task = asyncio.create_task(server.recv(decode=True))
            await turns(2)
            await client.send(b"\xff")
            with pytest.raises(ConnectionClosedError):
                await task

    async def test_woken_task_closes_or_aborts_the_connection(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            message = await ws.recv()
            if message == "close":
                await ws.close()
            elif message == "abort":
                ws.transport.abort()
                await ws.wait_closed()
            elif message == "server":
                ws.server.close()
                await ws.wait_closed()

        async with serving(handler) as server:
            for message, code in [("close", 1000), ("abort", 1006), ("server", 1001)]:
                async with connect(uri_of(server)) as ws:
                    for _ in range(5):
                        await ws.send(message)
                    await ws.wait_closed()
                    assert ws.close_code == code

    async def test_woken_task_uses_other_connections(self) -> None:
        """Two handlers that answer through each other's connection."""
        clients: list[ServerConnection] = []

        async def handler(ws: ServerConnection) -> None:
            clients.append(ws)
            async for message in ws:
                for other in clients:
                    if other is not ws:
                        await other.send(message)

        async with serving(handler) as server:
            async with connect(uri_of(server)) as ws1, connect(uri_of(server)) as ws2:
                await until(lambda: len(clients) == 2)
                for i in range(50):
                    await ws1.send(f"1 {i}")
                    await ws2.send(f"2 {i}")
                assert [await ws2.recv() for _ in range(50)] == [f"1 {i}" for i in range(50)]
                assert [await ws1.recv() for _ in range(50)] == [f"2 {i}" for i in range(50)]

    async def test_tasks_written_in_python(self) -> None:
        """The tasks that debuggers and other libraries put in the place of asyncio's."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **options: PythonTask(coro, loop=loop, **options))
        async with pair() as (client, server):
            task = asyncio.create_task(server.recv())
            assert isinstance(task, PythonTask)
            await turns(2)
            await client.send("x")
            assert await task == "x"
            task = asyncio.create_task(server.recv())
            await turns(2)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await client.send("y")
            assert await server.recv() == "y"

    async def test_gather_and_wait(self) -> None:
        async with pair() as (client1, server1), pair() as (client2, server2):
            both = asyncio.gather(server1.recv(), server2.recv())
            await turns(2)
            await client2.send("2")
            await client1.send("1")
            assert await both == ["1", "2"]
            tasks = {asyncio.create_task(ws.recv()) for ws in (server1, server2)}
            await turns(2)
            await client2.send("only")
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result() for task in done] == ["only"]
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)

    async def test_awaited_coroutine_is_closed(self) -> None:
        """A receiver that is dropped without having been cancelled leaves no trace."""
        async with pair() as (client, server):
            coroutine = server.recv()
            coroutine.send(None)
            coroutine.close()
            await client.send("x")
            assert await server.recv() == "x"

    async def test_fairness(self) -> None:
        """A flood on one connection doesn't keep others waiting."""

        async def flood(peer: RawPeer) -> None:
            while True:
                peer.write(BINARY, bytes(1000))
                await peer.writer.drain()

        async with raw_server(flood) as flooding, serving() as server:
            async with connect(uri_of(flooding), close_timeout=0.01) as ws:
                task = asyncio.create_task(consume(ws))
                async with connect(uri_of(server)) as other:
                    for i in range(20):
                        await other.send(str(i))
                        assert await other.recv() == str(i)
                assert not task.done()
                task.cancel()
                await asyncio.wait([task])


PythonTask: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined] # typeshed hasn't it


async def consume(ws: Connection) -> None:
    async for _ in ws:
        pass


class TestSend:
    @pytest.mark.parametrize("steps", range(6))
    async def test_cancelled_while_draining(self, steps: int) -> None:
        """Frames are whole, whatever was cancelled."""
        payloads: list[bytes] = []
        gate = asyncio.Event()

        async def late(peer: RawPeer) -> None:
            await gate.wait()
            while True:
                opcode, payload = await peer.read_message()
                if opcode != BINARY:
                    peer.write(opcode, payload)
                    return
                payloads.append(payload)

        async with raw_server(late) as server:
            async with connect(uri_of(server)) as ws:
                sent = 0
                cancelled = 0
                while cancelled < 5:
                    task = asyncio.create_task(ws.send(sent.to_bytes(4, "big") * 50_000))
                    sent += 1
                    await turns(steps + 1)
                    task.cancel()
                    await asyncio.wait([task])
                    cancelled += task.cancelled()
                gate.set()
                await ws.send(b"last")
        numbers = [int.from_bytes(payload[:4], "big") for payload in payloads[:-1]]
        assert numbers == list(range(sent))
        assert {len(payload) for payload in payloads[:-1]} == {200_000}
        assert payloads[-1] == b"last"

    async def test_cancelled_before_it_runs(self) -> None:
        async with pair() as (client, server):
            task = asyncio.create_task(client.send("never"))
            task.cancel()
            await asyncio.wait([task])
            await client.send("x")
            assert await server.recv() == "x"

    async def test_senders_are_cancelled_at_random(self) -> None:
        generator = random.Random(1)
        received: list[Any] = []

        async def handler(ws: ServerConnection) -> None:
            async for message in ws:
                received.append(message)

        async with serving(handler, max_queue=2) as server:
            async with connect(uri_of(server), write_limit=1000) as ws:
                finished = set()
                for i in range(200):
                    task = asyncio.create_task(ws.send(f"{i} ".ljust(5000)))
                    await turns(generator.randrange(3))
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        finished.add(i)
        numbers = [int(message) for message in received]
        assert {len(message) for message in received} == {5000}
        assert numbers == sorted(set(numbers))
        assert finished <= set(numbers)


class TestClose:
    @pytest.mark.parametrize("steps", range(8))
    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_cancelled(self, side: str, steps: int) -> None:
        async with pair() as connections:
            first, second = connections if side == "client" else reversed(connections)
            await second.send("before")
            task = asyncio.create_task(first.close(1001, "bye"))
            await cancel_after(task, steps)
            if steps:
                # It goes on by itself.
                await asyncio.gather(first.wait_closed(), second.wait_closed())
                assert (second.close_code, second.close_reason) == (1001, "bye")
            await first.close()
            await second.wait_closed()
            with pytest.raises(ConnectionClosedOK):
                while True:
                    await first.recv()

    async def test_wait_closed_is_cancelled(self) -> None:
        async with pair() as (client, server):
            tasks = [asyncio.create_task(server.wait_closed()) for _ in range(3)]
            await turns(2)
            tasks[1].cancel()
            await turns(2)
            assert [task.done() for task in tasks] == [False, True, False]
            await client.close()
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [False, True, False]

    async def test_cancelled_by_the_end_of_the_program(self) -> None:
        """asyncio.run() cancels what is left: handlers close their connections then."""
        async with serving(until_closed) as server:
            ws = await connect(uri_of(server))
            await until(lambda: server._handlers)
            for task in server._handlers:
                task.cancel()
            await ws.wait_closed()
            assert ws.close_code == 1011


class TestStreaming:
    @pytest.mark.parametrize("steps", range(6))
    async def test_cancelled_half_way(self, steps: int) -> None:
        """The rest of the message is skipped; what follows isn't."""

        async def stream(ws: Connection) -> None:
            async for fragment in ws.recv_streaming():
                fragments.append(fragment)

        async with serving(until_closed) as server, raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            fragments: list[Any] = []
            task = asyncio.create_task(stream(ws))
            peer.write(TEXT, b"a", fin=False)
            await until(lambda: fragments)
            await cancel_after(task, steps)
            peer.write(CONT, b"skipped")
            peer.write(TEXT, b"next")
            assert await ws.recv() == "next"
            assert fragments == ["a"]
            peer.write(8, close_payload(1000))
            await peer.read_message()
