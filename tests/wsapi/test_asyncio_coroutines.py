"""Coroutines that are compiled: `recv`, `send`, iteration; what programs do with them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import io
import logging
import sys
import threading
import types
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.wsapi.helpers import (
    BINARY,
    echo,
    frame,
    logged_errors,
    pair,
    port_of,
    request,
    serving,
    turns,
    until,
    uri_of,
)
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.connection import Connection
from wsapi.asyncio.server import ServerConnection
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK
from wsproto_fast.drivers.asyncio import TransportDriver
from wsproto_fast.drivers.coroutines import handling, receiving

CALLS: list[Callable[[Any], Coroutine[Any, Any, Any]]] = [
    lambda ws: ws.recv(),  # type: ignore[no-any-return]
    lambda ws: ws.send("message"),  # type: ignore[no-any-return]
    lambda ws: anext(aiter(ws)),  # type: ignore[no-any-return]
]
calls = pytest.mark.parametrize("call", CALLS, ids=["recv", "send", "anext"])


@calls
async def test_nothing_happens_before_the_first_step(call: Any) -> None:
    async with pair() as (client, server):
        await server.send("message")
        await until(lambda: client.stats().messages_received)
        coroutine = call(client)
        coroutine.close()
        assert client.stats().messages_sent == 0
        assert await client.recv() == "message"
        with pytest.raises(RuntimeError, match="already awaited"):
            await coroutine


@calls
async def test_what_is_asked_of_coroutines(call: Any) -> None:
    async with pair() as (client, server):
        await server.send("message")
        coroutine = call(client)
        assert inspect.isawaitable(coroutine)
        assert asyncio.iscoroutine(coroutine)
        assert isinstance(coroutine, Coroutine)
        assert coroutine.cr_running is False
        assert coroutine.cr_await is None
        await coroutine


@calls
async def test_states(call: Any) -> None:
    async with pair() as (client, server):
        await server.send("message")
        coroutine = call(client)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        task = asyncio.create_task(coroutine)
        assert len(task.get_stack()) == 1
        await task
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        assert not task.get_stack()


async def test_states_of_what_waits() -> None:
    async with pair() as (client, server):
        coroutine = client.recv()
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        assert len(task.get_stack()) == 1
        await server.send("message")
        await task


def stack_of(task: asyncio.Task[Any]) -> str:
    """Return what the task prints for those who look for what hangs."""
    file = io.StringIO()
    task.print_stack(file=file)
    return file.getvalue()


def awaited(task: asyncio.Task[Any]) -> list[Any]:
    """Return what debuggers find when they follow ``cr_await`` from a task's coroutine."""
    chain: list[Any] = [task.get_coro()]
    while (following := getattr(chain[-1], "cr_await", None)) is not None:
        chain.append(following)
    return chain


async def test_what_debuggers_look_at() -> None:
    async def inner(ws: Any) -> None:
        async for _ in ws:
            pass

    async def handler(ws: ServerConnection) -> None:
        await inner(ws)

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await until(lambda: server.connections)
        await turns(5)
        [connection] = server.connections
        receiving = asyncio.create_task(ws.recv())
        created = asyncio.create_task(ws.ping())
        stuck = asyncio.create_task(ws.send(_never()))
        assert "in send" in stack_of(stuck)
        assert "in recv" in stack_of(receiving)
        await turns(5)
        assert "in recv" in stack_of(receiving)
        assert "in send" in stack_of(stuck)
        assert "in handler" in stack_of(connection.task)
        names = [getattr(each, "__name__", "") for each in awaited(connection.task)]
        assert names[:4] == ["_handle", "handler", "inner", "__anext__"]
        assert awaited(connection.task)[3].cr_frame.f_code.co_name == "__anext__"
        assert isinstance(awaited(receiving)[-1], asyncio.Future)
        assert awaited(stuck)[1].cr_code.co_name == "_send_slowly"
        for task, text in (
            (connection.task, "coro=<Server._handle()"),
            (receiving, "coro=<Connection.recv()"),
            (stuck, "coro=<Connection.send()"),
        ):
            assert task in asyncio.all_tasks()
            assert text in repr(task)
        for task in (receiving, created, stuck):
            task.cancel()
        await asyncio.gather(receiving, created, stuck, return_exceptions=True)
        assert "in " not in stack_of(receiving) + stack_of(stuck)


async def _never() -> AsyncIterator[str]:
    await asyncio.get_running_loop().create_future()
    yield ""


async def test_running_coroutines() -> None:
    async with pair() as (client, server):

        async def fragments() -> AsyncIterator[str]:
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_RUNNING
            for step in (coroutine.close, coroutine.__await__().__next__):
                with pytest.raises(ValueError, match="already executing"):
                    step()
            with pytest.raises(ValueError, match="already executing"):
                coroutine.throw(ZeroDivisionError())
            yield "message"

        coroutine = client.send(fragments())
        await coroutine
        assert await server.recv() == "message"


async def test_objects_of_no_connection() -> None:
    async with pair() as (client, _):
        for call in CALLS[:2]:
            coroutine = call(client)
            with pytest.raises(RuntimeError, match="already awaited"):
                type(coroutine)().send(None)  # type: ignore[call-arg]
            coroutine.close()
        assert [message async for message in type(aiter(client))()] == []


async def test_garbage() -> None:
    """The collector takes a connection that is received from, and its event loop, to pieces."""
    async with pair() as (client, _):
        with mock.patch.object(sys, "unraisablehook") as hook:
            for _ in range(3):
                owner = SimpleNamespace()
                driver = TransportDriver(owner, client.protocol, client.loop)  # type: ignore[arg-type]
                owner.coroutine = receiving(driver, None)
                owner.coroutine.send(None)
            del driver, owner
            gc.collect()
        hook.assert_not_called()


async def test_garbage_of_another_thread() -> None:
    """Its collector leaves to the loop what only the thread of the loop may do."""
    async with pair() as (client, server):
        coroutine = client.recv()
        coroutine.send(None)
        cycle: list[Any] = [coroutine]
        cycle.append(cycle)
        del coroutine, cycle
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
        with pytest.raises(ConcurrencyError):
            await client.recv()
        await until(lambda: client._driver.receiver is None)
        await server.send("message")
        assert await client.recv() == "message"


@pytest.mark.parametrize("name", ["recv", "send"])
def test_functions_are_coroutine_functions(name: str) -> None:
    function = getattr(ClientConnection, name)
    assert inspect.iscoroutinefunction(function)
    assert isinstance(getattr(mock.create_autospec(ClientConnection), name), mock.AsyncMock)
    assert isinstance(getattr(mock.MagicMock(spec=ClientConnection), name), mock.AsyncMock)


async def test_ways_of_running() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:
        loop = asyncio.get_running_loop()
        await asyncio.create_task(ws.send("1"))
        await asyncio.gather(ws.send("2"), ws.send("3"))
        await asyncio.wait_for(ws.send("4"), 10)
        await asyncio.shield(ws.send("5"))
        async with asyncio.TaskGroup() as group:
            group.create_task(ws.send("6"))
        thread = threading.Thread(
            target=lambda: asyncio.run_coroutine_threadsafe(ws.send("7"), loop).result()
        )
        thread.start()
        await until(lambda: not thread.is_alive())
        thread.join()
        assert await asyncio.create_task(ws.recv()) == "1"
        assert await asyncio.gather(ws.recv()) == ["2"]
        assert await asyncio.wait_for(ws.recv(), 10) == "3"
        assert await asyncio.shield(ws.recv(decode=False)) == b"4"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ws.recv())
        assert task.result() == "5"
        assert await anext(aiter(ws)) == "6"
        async with asyncio.timeout(10):
            assert await ws.recv() == "7"


@pytest.mark.parametrize("call, name", [(CALLS[0], "recv"), (CALLS[1], "send")])
async def test_who_forgets_to_await_is_warned(call: Any, name: str) -> None:
    async with pair() as (client, _):
        with pytest.warns(RuntimeWarning, match=f"coroutine 'Connection.{name}' was never awaited"):
            call(client)
        with warnings.catch_warnings(), mock.patch.object(sys, "unraisablehook") as hook:
            warnings.simplefilter("error")
            call(client)
        assert isinstance(hook.call_args[0][0].exc_value, RuntimeWarning)
        # The coroutine is gone, even if the hook keeps what it is called with.
        assert hook.call_args[0][0].object == f"Connection.{name}"


async def test_who_forgets_to_await_an_iterator_is_warned_at_once() -> None:
    """Also where coroutines of this iterator are used again."""
    async with pair() as (client, server):
        messages = aiter(client)
        for number in range(3):
            with pytest.warns(RuntimeWarning, match=r"'Connection\.__aiter__' was never awaited"):
                messages.__anext__()
            await server.send(str(number))
            first = messages.__anext__()
            assert await first == str(number)
            with pytest.raises(RuntimeError, match="already awaited"):
                await first


async def test_iterators_that_are_not_awaited() -> None:
    async with pair() as (client, server):
        iterator = aiter(client)
        first, second = anext(iterator), anext(iterator)
        await server.send("1")
        await server.send("2")
        assert [await second, await first] == ["1", "2"]
        with pytest.raises(RuntimeError, match="already awaited"):
            await second
        await server.send("3")
        assert await anext(iterator) == "3"


async def test_two_receive() -> None:
    async with pair() as (client, server):
        iterator = aiter(client)
        task = asyncio.create_task(anext(iterator))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert "recv" in repr(task) or "__aiter__" in repr(task)
        with pytest.raises(ConcurrencyError):
            await client.recv()
        with pytest.raises(ConcurrencyError):
            await anext(iterator)
        await server.send("message")
        assert await task == "message"


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("call", [CALLS[0], CALLS[2]], ids=["recv", "anext"])
async def test_cancelling_receiving_loses_nothing(call: Any, turns: int) -> None:
    async with pair() as (client, server):
        for number in range(20):
            task = asyncio.create_task(call(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            server.send_nowait(str(number))
            if number % 2:
                await asyncio.sleep(0)
            task.cancel()
            try:
                received = await task
            except asyncio.CancelledError:
                received = await client.recv()
            assert received == str(number)


async def test_iteration_goes_on_after_a_time_out() -> None:
    async with pair() as (client, server):
        iterator = aiter(client)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(iterator), 0.01)
        await server.send("message")
        assert await anext(iterator) == "message"


async def test_cancelling_what_waits_for_the_network() -> None:
    async with pair(write_limit=1) as (client, server):
        server.transport.pause_reading()
        task = None
        while task is None:
            task = asyncio.create_task(client.send(bytes(100_000)))
            await asyncio.sleep(0)
            if task.done():
                await task
                task = None
        coroutine = task.get_coro()
        assert coroutine.cr_await is not None  # type: ignore[union-attr]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="already awaited"):
            await coroutine  # type: ignore[misc]
        server.transport.resume_reading()
        await client.send("last")
        while await server.recv() != "last":
            pass


async def test_steps_by_hand() -> None:
    async with pair() as (client, server):
        coroutine = client.recv()
        future = coroutine.send(None)
        assert asyncio.isfuture(future)
        assert coroutine.cr_await is future  # type: ignore[attr-defined]
        await server.send("message")
        await until(future.done)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        assert stop.value.value == "message"
        with pytest.raises(RuntimeError, match="already awaited"):
            coroutine.send(None)

        coroutine = client.recv()
        future = coroutine.send(None)
        told: list[Any] = []
        future.add_done_callback(told.append)
        await server.send("message")
        await until(lambda: told)
        assert told == [future]
        with pytest.raises(StopIteration):
            coroutine.send(None)

        sending = client.send("message")
        with pytest.raises(StopIteration) as stop:
            next(sending)  # type: ignore[call-overload]
        assert stop.value.value is None
        with pytest.raises(RuntimeError, match="already awaited"):
            sending.send(None)
        assert await server.recv() == "message"


@calls
async def test_exceptions_that_are_thrown_in(call: Any) -> None:
    async with pair() as (client, server):
        coroutine = call(client)
        with pytest.raises(ZeroDivisionError):
            coroutine.throw(ZeroDivisionError())
        coroutine = client.recv()
        coroutine.send(None)
        with pytest.raises(ZeroDivisionError):
            coroutine.throw(ZeroDivisionError)
        await server.send("message")
        assert await client.recv() == "message"


async def test_coroutines_that_are_dropped_while_they_wait() -> None:
    async with pair() as (client, server):
        coroutine = client.recv()
        coroutine.send(None)
        del coroutine
        coroutine = client.recv()
        coroutine.send(None)
        coroutine.close()
        await server.send("message")
        assert await client.recv() == "message"


async def test_ends_of_iteration() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.send("message")
        if ws.request is not None and ws.request.path == "/abort":
            ws.transport.abort()

    async with serving(handler) as server:
        async with connect(uri_of(server)) as ws:
            iterator = aiter(ws)
            assert [message async for message in iterator] == ["message"]
            assert await anext(iterator, "end") == "end"
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()
        async with connect(uri_of(server, "/abort")) as ws:
            iterator = aiter(ws)
            await anext(iterator, None)
            with pytest.raises(ConnectionClosedError):
                await anext(iterator)
            # As with a generator that has raised an exception.
            assert await anext(iterator, "end") == "end"


async def test_closing_an_iterator() -> None:
    async with pair() as (client, server):
        iterator: Any = aiter(client)
        await iterator.aclose()
        await server.send("message")
        assert await anext(iterator, "end") == "end"
        assert await client.recv() == "message"


async def test_what_asynchronous_generators_have() -> None:
    async with pair() as (client, server):
        iterator: Any = aiter(client)
        assert isinstance(iterator, AsyncGenerator)
        await server.send("1")
        await server.send("2")
        assert await iterator.asend(None) == "1"
        with pytest.raises(ZeroDivisionError):
            await iterator.athrow(ZeroDivisionError)
        assert await anext(iterator, "end") == "end"
        async with aclosing(aiter(client)) as iterator:  # type: ignore[type-var]
            assert await anext(iterator) == "2"
        assert await anext(iterator, "end") == "end"


async def test_context_variables() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def receive(ws: ClientConnection) -> int:
        for number in range(1, 4):
            variable.set(number)
            await ws.recv()
        return variable.get()

    async with pair() as (client, server):
        task = asyncio.create_task(receive(client))
        for _ in range(3):
            await server.send("message")
        assert await task == 3
        assert variable.get() == 0


async def test_subclasses() -> None:
    class Shouting(ClientConnection):
        async def send(self, message: Any, text: bool | None = None, **options: Any) -> None:
            await super().send(message.upper(), text, **options)

        async def recv(self, decode: Any = None) -> Any:
            return await super().recv(decode) + "!"

    async with serving(echo) as server:
        async with connect(uri_of(server), create_connection=Shouting) as ws:
            await ws.send("message")
            assert await ws.recv() == "MESSAGE!"


async def test_switching_debug_on(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (client, server):
        await server.send("1")
        assert await client.recv() == "1"
        with caplog.at_level(logging.DEBUG):
            await server.send("2")
            assert await client.recv() == "2"
        assert [record.message for record in caplog.records if "TEXT" in record.message] == [
            "> TEXT '2' [1 byte]",
            "< TEXT '2' [1 byte]",
        ]


async def test_tasks_in_python() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:

        async def run() -> list[Any]:
            received = []
            for number in range(3):
                await ws.send(str(number))
                received.append(await ws.recv())
            return received

        task = asyncio.tasks._PyTask(run())  # type: ignore[attr-defined]
        assert await task == ["0", "1", "2"]
        task = asyncio.tasks._PyTask(ws.recv())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_tracing() -> None:
    """Interpreters of some versions run coroutines in another way while a function traces them."""

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        return None

    async with serving(echo) as server, connect(uri_of(server)) as ws:
        before = sys.getprofile()
        sys.setprofile(trace)
        try:
            for number in range(3):
                await ws.send(str(number))
                assert await ws.recv() == str(number)
            await ws.send("last")
            async for message in ws:
                assert message == "last"
                break
        finally:
            sys.setprofile(before)


async def test_a_coroutine_that_somebody_has_is_not_used_again() -> None:
    async with pair() as (client, server):
        first = client.send("one")
        await first
        second = client.send("two")
        assert second is not first
        third = client.send("three")
        assert third is not second
        with pytest.raises(RuntimeError, match="already awaited"):
            await first
        await third
        await second
        assert [await server.recv() for _ in range(3)] == ["one", "three", "two"]


async def test_messages_that_could_not_be_sent_are_not_kept() -> None:
    async with pair() as (client, _):
        cases: list[tuple[Any, bool | None, type[Exception]]] = [
            ({}, None, TypeError),
            (bytearray(b"\xff"), True, UnicodeError),
        ]
        for message, text, error in cases:
            before = sys.getrefcount(message)
            with pytest.raises(error):
                await client.send(message, text)
            await client.send("another one")
            await client.send("and one more", None, False)
            assert sys.getrefcount(message) == before


async def test_messages_are_not_kept() -> None:
    async with serving(echo) as server, connect(uri_of(server)) as ws:
        message = bytearray(b"message")
        before = sys.getrefcount(message)
        coroutine = ws.send(message)
        await coroutine
        assert sys.getrefcount(message) == before
        assert await anext(aiter(ws)) == b"message"


# ---------------------------------------------------------------------- what servers run


async def run_by_hand(
    handler: Callable[[ServerConnection], Any], **options: Any
) -> tuple[ServerConnection, Any]:
    """Return a connection that a client has opened, and the coroutine that its server runs."""
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def called(ws: ServerConnection) -> None:
        if not made.done():
            made.set_result((ws, ws.task.get_coro()))
        result = handler(ws)
        return await result if inspect.isawaitable(result) else result

    async with serving(called, **options) as server, connect(uri_of(server)) as ws:
        await ws.wait_closed()
        return await made


async def test_states_of_what_a_server_runs() -> None:
    states = []
    stacks = []

    async def handler(ws: ServerConnection) -> None:
        coroutine: Any = ws.task.get_coro()
        states.append((inspect.getcoroutinestate(coroutine), coroutine.cr_await))
        for step in (coroutine.close, coroutine.__await__().__next__):
            with pytest.raises(ValueError, match="already executing"):
                step()
        with pytest.raises(ValueError, match="already executing"):
            coroutine.throw(ZeroDivisionError())
        await asyncio.sleep(0)

    async def idle(ws: ServerConnection) -> None:
        await ws.recv()

    await run_by_hand(handler)
    assert states == [(inspect.CORO_RUNNING, None)]
    async with serving(idle) as server, connect(uri_of(server)) as ws:
        await until(lambda: server.connections)
        await turns(5)
        [connection] = server.connections
        coroutine: Any = connection.task.get_coro()
        assert asyncio.iscoroutine(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        assert coroutine.cr_await.cr_code is idle.__code__
        stacks = connection.task.get_stack()
        assert [frame.f_code for frame in stacks] == [idle.__code__]
        assert "Server._handle()" in repr(connection.task)
        task = connection.task
        await ws.close()
        await until(task.done)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert coroutine.cr_frame is None
    with pytest.raises(RuntimeError, match="already awaited"):
        coroutine.send(None)
    coroutine.close()
    with pytest.raises(RuntimeError, match="already awaited"):
        type(coroutine)().send(None)


async def test_what_a_server_runs_that_is_never_awaited() -> None:
    coroutine = handling(SimpleNamespace())
    with pytest.warns(RuntimeWarning, match=r"'Server\._handle' was never awaited"):
        del coroutine
    for end in ("close", "throw"):
        coroutine = handling(SimpleNamespace())
        if end == "close":
            coroutine.close()
        else:
            with pytest.raises(ZeroDivisionError):
                coroutine.throw(ZeroDivisionError())
        with pytest.raises(RuntimeError, match="already awaited"):
            coroutine.send(None)


class _Awaitable:
    """What a handler may return instead of a coroutine."""

    def __init__(self, ws: ServerConnection) -> None:
        self.ws = ws

    def __await__(self) -> Any:
        return self.ws.send("sent").__await__()


@types.coroutine
def _generator(ws: ServerConnection) -> Any:
    yield from ws.send("sent").__await__()
    yield from ws.ping().__await__()


@pytest.mark.parametrize(
    "handler",
    [
        _Awaitable,
        _generator,
        lambda ws: ws.send("sent"),
        lambda ws: asyncio.ensure_future(ws.send("sent")),
    ],
)
async def test_handlers_that_are_no_coroutine_functions(handler: Any) -> None:
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        assert await ws.recv() == "sent"
        with pytest.raises(ConnectionClosedOK):
            await ws.recv()


async def _fails(_: ServerConnection) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "handler", [lambda _: None, lambda _: 1 / 0, lambda ws: ws.no_such, _fails], ids=range(4)
)
async def test_handlers_that_fail(handler: Any) -> None:
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1011
        await until(lambda: not server._handlers)
    [record] = logged_errors("connection handler failed")
    assert record.exc_info
    assert isinstance(record.exc_info[1], (TypeError, ZeroDivisionError, AttributeError))


@pytest.mark.parametrize("ignored", [False, True])
async def test_cancellation_of_handlers(ignored: bool) -> None:
    async def handler(ws: ServerConnection) -> None:
        while True:
            try:
                await ws.recv()
            except asyncio.CancelledError:
                if not ignored or cancelled:
                    raise
                cancelled.append(True)
            else:
                await ws.send("still there")

    cancelled: list[bool] = []
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await until(lambda: server.connections)
        await turns(5)
        [connection] = server.connections
        task = connection.task
        task.cancel()
        if ignored:
            await ws.send("are you there?")
            assert await ws.recv() == "still there"
            task.cancel()
        await ws.wait_closed()
        assert ws.close_code == 1011
        await until(task.done)
        assert task.cancelled()
        assert not server._handlers


async def test_cancellation_while_the_connection_is_closed() -> None:
    async def handler(ws: ServerConnection) -> None:
        await ws.recv()

    async with serving(handler, close_timeout=60) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request() + frame(BINARY, b"x", masked=True))
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(100)  # its Close frame, which isn't answered
        [task] = server._handlers
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        writer.close()


async def test_closing_what_a_server_runs() -> None:
    """An event loop that ends does that to coroutines."""

    async def handler(ws: ServerConnection) -> None:
        try:
            await ws.recv()
        finally:
            ended.append(True)

    ended: list[bool] = []
    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await until(lambda: server.connections)
        await turns(5)
        [connection] = server.connections
        coroutine: Any = connection.task.get_coro()
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            coroutine.close()  # it begins to close the connection, and waits for that
        assert ended
        await ws.wait_closed()
        connection.task.cancel()
        await until(lambda: not server._handlers)


async def test_a_program_replaces_the_handshake() -> None:
    """Instrumentation does, of the class; whoever makes connections may do it of one."""
    replaced = []
    original = ServerConnection.handshake

    async def handshake(connection: ServerConnection) -> None:
        replaced.append(connection)
        await original(connection)

    def create_connection(*args: Any, **kwargs: Any) -> ServerConnection:
        connection = ServerConnection(*args, **kwargs)
        connection.handshake = lambda: handshake(connection)  # type: ignore[method-assign]
        return connection

    with mock.patch.object(ServerConnection, "handshake", handshake):
        async with serving(echo) as server, connect(uri_of(server)) as ws:
            assert len(replaced) == 1
            await ws.close()
    async with serving(echo, create_connection=create_connection) as server:
        async with connect(uri_of(server)):
            assert len(replaced) == 2


async def test_a_program_replaces_entering() -> None:
    entered = []

    async def enter(connection: ServerConnection) -> ServerConnection:
        if isinstance(connection, ServerConnection):
            entered.append(connection)
        return connection

    with mock.patch.object(Connection, "__aenter__", enter):
        async with serving(echo) as server, connect(uri_of(server)):
            await until(lambda: entered)


@pytest.mark.parametrize("replaced", ["own", "none"])
async def test_a_program_has_an_attribute_named_task(replaced: str) -> None:
    async def handler(ws: ServerConnection) -> None:
        if replaced == "own":
            ws.task = own
        else:
            del ws.task
        await ws.wait_closed()
        ended.append(ws)

    own = asyncio.create_task(asyncio.sleep(0))
    ended: list[ServerConnection] = []
    async with serving(handler) as server:
        async with connect(uri_of(server)):
            await until(lambda: server.connections)
        await until(lambda: ended)
        await until(lambda: not server._handlers)
        assert getattr(ended[0], "task", None) is (own if replaced == "own" else None)
    await own


async def test_handlers_that_close_what_runs_them() -> None:
    def handler(ws: ServerConnection) -> Any:
        coroutine: Any = ws.task.get_coro()
        with pytest.raises(ValueError, match="already executing"):
            coroutine.close()
        return echo(ws)

    async with serving(handler) as server, connect(uri_of(server)) as ws:
        await ws.send("message")
        assert await ws.recv() == "message"
