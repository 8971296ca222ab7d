"""A client and a server of wsapi.trio in memory: what asyncio_ends does, on trio, with its clock.

Cancelling ``aclose()`` closes the stream at once, as trio wants it of resources. Whatever hasn't
ended at the end keeps the run from ending.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import trio
import trio.testing
from trio._core import _run

from tests.fuzz.inputs import Input
from tests.fuzz.memory import COMPLAINTS, WINDOW
from tests.fuzz.targets import asyncio_ends
from wsapi.exceptions import ConnectionClosed, InvalidHandshake
from wsapi.testing import _wires
from wsapi.testing.trio import advance, serving
from wsapi.trio.connection import broadcast

SEEDS = asyncio_ends.SEEDS


class Operation:
    """A call that may take a while, and be cancelled."""

    def __init__(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.function = function
        self.scope = trio.CancelScope()
        self.cancelled = False
        self.done = False
        self.exc: Exception | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                await self.function()
            except Exception as exc:
                self.exc = exc
        self.done = True

    def cancel(self) -> None:
        self.cancelled = True
        self.scope.cancel()

    def over(self) -> bool:
        """Tell whether it has ended; raise what it raised."""
        if self.exc is not None:
            raise self.exc
        assert self.cancelled or not self.scope.cancelled_caught
        return self.done


class Clock:
    """The clock of the run, as sessions use it."""

    async def advance(self, seconds: float) -> None:
        await advance(seconds)

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


class End(asyncio_ends.End):
    """One end of the connection, on trio."""

    transport_keeps = True

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def ping(self) -> None:
        try:
            event = await self.connection.ping(ack_on_close=True)
        except ConnectionClosed:
            return
        await event.wait()

    async def close(self, code: int) -> None:
        self.left = True
        try:
            await self.connection.aclose(code, "why")
        except trio.Cancelled:
            self.session.harmed = True
            raise

    async def close_too(self) -> None:
        await self.connection.aclose()

    def failed(self) -> bool:
        # Whose writing fails reads no more.
        broken = isinstance(self.connection.protocol.parser_exc, trio.BrokenResourceError)
        return super().failed() or (self.session.harmed and broken)


class Session(asyncio_ends.Session):
    """A connection on trio, and its network."""

    end_class = End

    def __init__(self, source: Input, nursery: trio.Nursery) -> None:
        super().__init__(source, Clock())
        self.nursery = nursery
        for options in self.options:
            del options["write_limit"]

    def operation(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        operation = Operation(name, function)
        self.nursery.start_soon(operation.run)
        return operation

    async def turn(self, end: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def broadcast(self, end: Any) -> None:
        message = self.text()
        for each in self.ends:
            each.begin(message)
        connections = [each.connection for each in self.ends]
        self.start("broadcast", lambda: broadcast(connections, message))

    def end_of_stream(self, end: Any) -> None:
        end.outgoing._write_eof()
        end.outgoing._changed()
        self.harmed = True

    def abort(self, end: Any) -> None:
        end.connection._abort()
        end.left = self.harmed = True  # a task that reads may get what nobody takes any more

    async def run(self) -> None:
        client, server = self.ends
        left = trio.Event()

        async def handler(connection: Any) -> None:
            server.connection = connection
            await left.wait()

        async def connect() -> None:
            try:
                async with place.connect(
                    outgoing=client.outgoing, incoming=client.incoming, **self.options[0]
                ) as connection:
                    client.connection = connection
                    await left.wait()
            except (OSError, InvalidHandshake):
                assert any(end.outgoing.delay for end in self.ends)

        self.source.take(2)  # where others do harm to the opening handshake
        async with serving(handler, **self.options[1]) as place:
            connecting = self.operation("connect", connect)
            for _ in range(10):
                await advance(10)
                if connecting.over() or (client.connection and server.connection):
                    break
            if client.connection and server.connection:
                await self.use()
            else:
                assert connecting.over(), "opening doesn't end"
            left.set()
            await advance(100)
            assert connecting.over(), "the client's block doesn't end"


Session.steps = [
    Session.send_text, Session.send_bytes, Session.send_fragments, Session.recv,
    Session.recv_streaming, Session.ping, Session.pong, Session.close, Session.cancel,
    Session.time_passes, Session.settle, Session.turn, Session.split_and_delay, Session.lose_all,
    Session.reset, Session.hold, Session.iterate, Session.turn, Session.wait_closed,
    Session.tamper, Session.garbage, Session.end_of_stream, Session.abort, Session.broadcast,
    Session.leave_streaming,
]  # fmt: skip


async def session(data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        await Session(Input(data), nursery).run()
        await trio.testing.wait_all_tasks_blocked()
        left = [task.name for task in nursery.child_tasks]
        assert not left, f"tasks are left: {left}"


def one_input(data: bytes) -> None:
    COMPLAINTS.lines.clear()
    window, _wires.WINDOW = _wires.WINDOW, WINDOW
    # trio runs tasks that can run in an order that is random; a finding must be one again.
    deterministic = _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(len(data))
    gc.freeze()
    try:
        trio.run(session, data, clock=trio.testing.MockClock())
        gc.collect()
    finally:
        gc.unfreeze()
        _wires.WINDOW = window
        _run._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # type: ignore[misc]
    assert not COMPLAINTS.lines, COMPLAINTS.lines
