"""What goes on beside a connection on trio: time, the housekeeper, nurseries."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from tests.wsapi.helpers import logged_errors
from tests.wsapi.trio_helpers import (
    connections,
    raw_peer,
    socket_streams,
    trio_test,
    until,
    virtual_time_test,
)
from wsapi.exceptions import ConnectionClosedError, ConnectionClosedOK
from wsapi.trio._housekeeping import ATTENTION_SPAN, Housekeeper
from wsapi.trio.connection import Connection
from wsproto_fast import Protocol, Side, State
from wsproto_fast.drivers.schedule import MAX_OUTDATED


class TestTime:
    @virtual_time_test
    async def test_keepalive(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT), close_timeout=7)
            start = trio.current_time()
            with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
                await connection.recv()
            assert 47 <= trio.current_time() - start < 48
            await connection.wait_closed()
        await other.aclose()

    @virtual_time_test
    async def test_keepalive_is_answered(self) -> None:
        async with connections(trio.testing.memory_stream_pair()) as (client, server):
            await trio.sleep(300)
            assert client.state is server.state is State.OPEN

    @virtual_time_test
    async def test_close_timeout(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.SERVER), ping_interval=None)
            await trio.sleep(100)
            start = trio.current_time()
            await connection.aclose()
            assert 10 <= trio.current_time() - start < 11
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert str(caught.value.__cause__) == "timed out while closing connection"
        await other.aclose()

    @virtual_time_test
    async def test_peer_leaves_and_does_not_read(self) -> None:
        one, other = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.SERVER), close_timeout=3)
            nursery.start_soon(other.send_eof)
            await connection.send("never read")
            start = trio.current_time()
            await connection.wait_closed()
            assert 3 <= trio.current_time() - start < 4
        await other.aclose()


class TestHousekeeper:
    @trio_test
    async def test_alarms_do_not_pile_up(self) -> None:
        housekeeper = Housekeeper.current()
        for _ in range(5 * MAX_OUTDATED):
            async with raw_peer():
                pass
        assert len(housekeeper._alarms) <= 2 * MAX_OUTDATED

    @trio_test
    async def test_fault_of_one_connection(self) -> None:
        class Faulty(Connection):
            def _look(self) -> bool:
                raise ZeroDivisionError

        one, other = socket_streams()
        async with trio.open_nursery() as nursery, connections() as (client, server):
            faulty = Faulty(nursery, one, Protocol(Side.CLIENT))
            await faulty.wait_closed()
            with pytest.raises(ConnectionClosedError) as caught:
                await faulty.recv()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            await (await client.ping()).wait()
            await (await server.ping()).wait()
        await other.aclose()
        logged_errors("housekeeping failed")

    @trio_test
    async def test_idle_connections_have_no_tasks(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery, trio.open_nursery() as receiving, other:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
            receiver = trio.CancelScope()

            @receiving.start_soon
            async def receive() -> None:
                with receiver:
                    await connection.recv()

            await trio.sleep(3 * ATTENTION_SPAN)
            assert not nursery.child_tasks
            receiver.cancel()
            await until(lambda: nursery.child_tasks)
            connection._abort()

    def test_runs_in_several_threads(self) -> None:
        failures: list[BaseException] = []

        async def main() -> None:
            async with connections() as (client, server):
                for i in range(200):
                    message = f"{i} {threading.get_ident()}" * 20
                    await client.send(message)
                    assert await server.recv() == message

        def run() -> None:
            try:
                trio.run(main)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


class TestNursery:
    @trio_test
    async def test_closed_before_the_connection(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery:
            connection = Connection(nursery, one, Protocol(Side.CLIENT))
        await connection.wait_closed()
        with pytest.raises(ConnectionClosedError):
            await connection.send("x")
        await other.aclose()

    @trio_test
    async def test_context_manager(self) -> None:
        one, other = socket_streams()
        async with trio.open_nursery() as nursery:
            server = Connection(nursery, other, Protocol(Side.SERVER))
            with pytest.raises(ZeroDivisionError):
                async with Connection(nursery, one, Protocol(Side.CLIENT)):
                    raise ZeroDivisionError
            with pytest.raises(ConnectionClosedError, match="received 1011"):
                await server.recv()
            await server.wait_closed()

    @trio_test
    async def test_iteration_is_left(self) -> None:
        async with connections() as (client, server):
            for message in ("a", "b"):
                await client.send(message)
            async for message in server:
                assert message == "a"
                break
            assert await server.recv() == "b"
            await client.aclose()
            with pytest.raises(ConnectionClosedOK):
                await server.recv()
