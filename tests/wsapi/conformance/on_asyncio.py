"""The asyncio front-end, on each event loop there is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from tests.wsapi.conformance import driver as base
from tests.wsapi.helpers import LOOPS, run, turns
from wsapi.testing import Clock


class AsyncioTask(base.Task):
    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.task = asyncio.create_task(coroutine)

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        await asyncio.wait([self.task])
        if self.task.cancelled():
            raise base.Cancelled
        return self.task.result()

    def done(self) -> bool:
        return self.task.done()

    async def ended(self, timeout: float | None = None) -> bool:
        await asyncio.wait([self.task], timeout=timeout)
        return self.task.done()

    def cancel(self) -> None:
        self.task.cancel()


class AsyncioPong(base.Pong):
    def done(self) -> bool:
        return self.raw.done() and not self.raw.exception()

    async def wait(self) -> None:
        await self.raw


class AsyncioDriver(base.Driver):
    name = package = "asyncio"

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        if self.fake_time:
            run(self._in_fake_time(test), LOOPS[self.name], timeout=None)
        else:
            run(test, LOOPS[self.name])

    async def _in_fake_time(self, test: Coroutine[Any, Any, None]) -> None:
        async with Clock() as self.clock:
            await test

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)

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
        return AsyncioPong(self, raw)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def event(self) -> Any:
        return asyncio.Event()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> base.Task:
        return AsyncioTask(coroutine)

    async def settle(self) -> None:
        await turns(5)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(function, *args)

    async def sock_connect(self, address: Any) -> Any:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    def sock_adopt(self, sock: Any) -> Any:
        sock.setblocking(False)
        return sock

    async def sock_accept(self, sock: Any) -> Any:
        return (await asyncio.get_running_loop().sock_accept(sock))[0]

    async def sock_recv(self, sock: Any, size: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(sock, size)

    async def sock_sendall(self, sock: Any, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)

    async def recv(self, raw: Any, decode: bool | None, timeout: float | None) -> Any:
        async with asyncio.timeout(timeout):
            return await raw.recv(decode=decode)

    def lose(self, raw: Any) -> None:
        raw.transport.abort()

    def unwritten(self, raw: Any) -> int:
        return raw.transport.get_write_buffer_size()

    def client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if (address := options.pop("address", None)) is not None:
            options["host"], options["port"] = address
        if (local_address := options.pop("local_address", None)) is not None:
            options["local_addr"] = local_address
        if (sock := options.pop("ready_made", None)) is not None:
            sock.setblocking(False)
            options["sock"] = sock
        return options

    async def open(self, target: Any, **options: Any) -> base.Ws:
        return base.Ws(self, await self.connector(target, **options))

    @contextlib.asynccontextmanager
    async def reconnecting(self, target: Any, **options: Any) -> AsyncIterator[Any]:
        connections = aiter(self.connector(target, **options))
        async with contextlib.aclosing(connections):
            yield Connections(self, connections)

    @contextlib.asynccontextmanager
    async def listening(
        self, function: Callable[..., Any], *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        async with function(*args, **options) as server:
            yield server

    def port_of(self, raw: Any) -> int:
        return raw.sockets[0].getsockname()[1]

    async def close_server(self, raw: Any, **options: Any) -> None:
        raw.close(**options)
        await raw.wait_closed()

    def where(self, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if (sock := options.pop("ready_made", None)) is not None:
            return (), {"sock": sock}
        return (options.pop("host", base.HOST), options.pop("port", 0)), {}


class Connections:
    """What a reconnecting iterator gives, as the tests know connections."""

    def __init__(self, driver: base.Driver, connections: Any) -> None:
        self.driver = driver
        self.connections = connections

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> base.Ws:
        return base.Ws(self.driver, await anext(self.connections))


class UvloopDriver(AsyncioDriver):
    name = "uvloop"
