"""The trio front-end."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing

from tests.wsapi.conformance import driver as base
from tests.wsapi.conformance.on_asyncio import Connections
from tests.wsapi.helpers import TEST_TIMEOUT, checking_errors
from wsapi.testing.trio import advance

# Of a test, as opposed to cancellations.
FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)


class TrioTask(base.Task):
    def __init__(self, nursery: trio.Nursery, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.scope = trio.CancelScope()
        self.finished = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        nursery.start_soon(self._run, coroutine)

    async def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            with self.scope:
                try:
                    self.value = await coroutine
                except FAILURES as exc:
                    self.error = exc
        finally:
            self.finished.set()

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        await self.finished.wait()
        if self.error is not None:
            raise self.error
        if self.scope.cancelled_caught:
            raise base.Cancelled
        return self.value

    def done(self) -> bool:
        return self.finished.is_set()

    async def ended(self, timeout: float | None = None) -> bool:
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            await self.finished.wait()
        return self.done()

    def cancel(self) -> None:
        self.scope.cancel()


class TrioPong(base.Pong):
    def done(self) -> bool:
        return self.raw.is_set()

    async def wait(self) -> None:
        await self.raw.wait()


class TrioDriver(base.Driver):
    name = package = "trio"
    close_method = "aclose"
    nursery: trio.Nursery

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        with checking_errors():
            clock = trio.testing.MockClock() if self.fake_time else None
            trio.run(self._main, test, clock=clock, strict_exception_groups=True)
            gc.collect()

    async def _main(self, test: Coroutine[Any, Any, None]) -> None:
        failure: BaseException | None = None
        async with trio.open_nursery() as self.nursery:
            try:
                if self.fake_time:
                    await test
                    await trio.testing.wait_all_tasks_blocked()
                    assert not self.nursery.child_tasks
                    return
                with trio.fail_after(TEST_TIMEOUT):
                    await test
                    while self.nursery.child_tasks:
                        await trio.sleep(0.001)
            except FAILURES as exc:
                failure = exc  # without the group that the nursery would make of it
            self.nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def advance(self, seconds: float) -> None:
        await advance(seconds)

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await function(*args, **options)

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def context(self, manager: Any) -> Any:
        return manager

    def iterator(self, iterable: Any) -> AsyncIterator[Any]:
        return aiter(iterable)

    def sendable(self, message: Any) -> Any:
        return message

    def pong(self, raw: Any) -> base.Pong:
        return TrioPong(self, raw)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def event(self) -> Any:
        return trio.Event()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> base.Task:
        return TrioTask(self.nursery, coroutine)

    async def settle(self) -> None:
        # Sockets take their time, though no task says so.
        await trio.testing.wait_all_tasks_blocked(0.002)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await trio.to_thread.run_sync(function, *args)

    async def sock_connect(self, address: Any) -> Any:
        sock = trio.socket.socket()
        try:
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def sock_adopt(self, sock: Any) -> Any:
        return trio.socket.from_stdlib_socket(sock)

    async def sock_accept(self, sock: Any) -> Any:
        return (await sock.accept())[0]

    async def sock_recv(self, sock: Any, size: int) -> bytes:
        return await sock.recv(size)

    async def sock_sendall(self, sock: Any, data: bytes) -> None:
        with memoryview(data) as rest:
            sent = 0
            while sent < len(rest):
                sent += await sock.send(rest[sent:])

    async def recv(self, raw: Any, decode: bool | None, timeout: float | None) -> Any:
        try:
            with trio.fail_after(float("inf") if timeout is None else timeout):
                return await raw.recv(decode)
        except trio.TooSlowError:
            raise TimeoutError from None

    def lose(self, raw: Any) -> None:
        raw._abort()

    def unwritten(self, raw: Any) -> int:
        unsent: int = raw._transport.unsent
        return unsent

    def client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if (address := options.pop("address", None)) is not None:
            options["host"], options["port"] = address
        if (local_address := options.pop("local_address", None)) is not None:
            options["local_address"] = local_address[0]
        if (sock := options.pop("ready_made", None)) is not None:
            options["stream"] = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        return options

    async def open(self, target: Any, **options: Any) -> base.Ws:
        """Have a task hold the context until the test has closed the connection."""
        opened = trio.Event()
        outcome: list[Any] = []

        async def hold() -> None:
            try:
                async with self.connector(target, **options) as ws:
                    outcome.append(ws)
                    opened.set()
                    await ws.wait_closed()
            except Exception as exc:
                if outcome:
                    raise
                outcome.append(exc)
                opened.set()

        self.nursery.start_soon(hold)
        await opened.wait()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return base.Ws(self, outcome[0])

    @contextlib.asynccontextmanager
    async def reconnecting(self, target: Any, **options: Any) -> AsyncIterator[Any]:
        connections = aiter(self.connector(target, **options))
        async with contextlib.aclosing(connections):
            yield Connections(self, connections)

    @contextlib.asynccontextmanager
    async def listening(
        self, function: Callable[..., Any], *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        server = await self.nursery.start(functools.partial(function, *args, **options))
        try:
            yield server
        finally:
            await server.aclose()

    def port_of(self, raw: Any) -> int:
        listener = raw.listeners[0]
        listener = getattr(listener, "transport_listener", listener)
        return listener.socket.getsockname()[1]

    async def close_server(self, raw: Any, **options: Any) -> None:
        await raw.aclose(**options)

    def where(self, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if (sock := options.pop("ready_made", None)) is not None:
            return (), {"listeners": [trio.SocketListener(trio.socket.from_stdlib_socket(sock))]}
        return (options.pop("port", 0),), {"host": options.pop("host", base.HOST)}
