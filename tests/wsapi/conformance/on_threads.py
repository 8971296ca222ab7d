"""The front-end of threads: a test is a coroutine that never waits, since each call blocks."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from tests.wsapi.conformance import driver as base
from tests.wsapi.helpers import TEST_TIMEOUT, checking_errors
from wsapi.testing.sync import Clock


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in this thread, to its end."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        return exc.value
    coroutine.close()
    raise AssertionError("awaited something that isn't this driver's")


class Thread(base.Task):
    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="task of a test", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.value = drive(self.coroutine)
        except BaseException as exc:
            self.error = exc

    def __await__(self) -> Any:
        self.thread.join(TEST_TIMEOUT)
        assert self.done(), "it took too long"
        if self.error is not None:
            raise self.error
        return self.value
        yield

    def done(self) -> bool:
        return not self.thread.is_alive()

    async def ended(self, timeout: float | None = None) -> bool:
        self.thread.join(timeout)
        return self.done()


class Event:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.set = self.event.set
        self.is_set = self.event.is_set

    async def wait(self) -> None:
        assert self.event.wait(TEST_TIMEOUT), "it took too long"


class ThreadsPong(base.Pong):
    def done(self) -> bool:
        return self.raw.is_set()

    async def wait(self) -> None:
        assert self.raw.wait(TEST_TIMEOUT), "it took too long"


class Iterate:
    """An iterator that blocks, as an asynchronous one."""

    def __init__(self, iterable: Any, wrap: Callable[[Any], Any] = lambda item: item) -> None:
        self.items = iter(iterable)
        self.wrap = wrap

    def __aiter__(self) -> Iterate:
        return self

    async def __anext__(self) -> Any:
        try:
            return self.wrap(next(self.items))
        except StopIteration:
            raise StopAsyncIteration from None


def block(items: Any) -> Iterator[Any]:
    """Make of an asynchronous generator one that blocks."""
    while True:
        try:
            yield drive(anext(items))
        except StopAsyncIteration:
            return


class ThreadsDriver(base.Driver):
    name = package = "sync"
    caller = "thread"
    close_topics = "close"

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        before = set(threading.enumerate())
        with checking_errors():
            with Clock() if self.fake_time else contextlib.nullcontext() as self.clock:
                drive(test)
            deadline = time.monotonic() + 2
            while left := [t for t in threading.enumerate() if t not in before and not ours(t)]:
                assert time.monotonic() < deadline, f"threads were left behind: {left}"
                time.sleep(0.001)
            gc.collect()

    async def advance(self, seconds: float) -> None:
        assert self.clock is not None
        self.clock.advance(seconds)

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    async def awaited(self, result: Any) -> Any:
        return result

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return drive(function(*args, **options))

        return call

    @contextlib.asynccontextmanager
    async def context(self, manager: Any) -> AsyncIterator[Any]:
        with manager as value:
            yield value

    def iterator(self, iterable: Any) -> AsyncIterator[Any]:
        return Iterate(iterable)

    def sendable(self, message: Any) -> Any:
        return block(aiter(message)) if hasattr(message, "__aiter__") else message

    def pong(self, raw: Any) -> base.Pong:
        return ThreadsPong(self, raw)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def event(self) -> Any:
        return Event()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> base.Task:
        return Thread(coroutine)

    async def settle(self) -> None:
        time.sleep(0.02)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def sock_connect(self, address: Any) -> Any:
        return socket.create_connection(address)

    def sock_adopt(self, sock: Any) -> Any:
        return sock

    async def sock_accept(self, sock: Any) -> Any:
        return sock.accept()[0]

    async def sock_recv(self, sock: Any, size: int) -> bytes:
        return sock.recv(size)

    async def sock_sendall(self, sock: Any, data: bytes) -> None:
        sock.sendall(data)

    async def recv(self, raw: Any, decode: bool | None, timeout: float | None) -> Any:
        return raw.recv(timeout, decode)

    def lose(self, raw: Any) -> None:
        def shut_down() -> None:
            # Nobody closes it meanwhile, so that its descriptor isn't another connection's.
            if not raw._driver.lost:
                raw.socket.shutdown(socket.SHUT_RDWR)

        raw._driver.call(shut_down)

    def client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if (local_address := options.pop("local_address", None)) is not None:
            options["source_address"] = local_address
        if (sock := options.pop("ready_made", None)) is not None:
            options["sock"] = sock
        return options

    @property
    def connector_class(self) -> Any:
        return self.client.reconnect

    async def open(self, target: Any, **options: Any) -> base.Ws:
        connect = self.client.connect
        # Without a context manager, on purpose.
        raw = connect(self.uri(target), legacy=True, **self.client_options(options))
        return base.Ws(self, raw)

    @contextlib.asynccontextmanager
    async def reconnecting(self, target: Any, **options: Any) -> AsyncIterator[Any]:
        connections = iter(self.connector(target, **options))
        with contextlib.closing(connections):
            yield Iterate(connections, lambda raw: base.Ws(self, raw))

    @contextlib.asynccontextmanager
    async def listening(
        self, function: Callable[..., Any], *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        server = function(*args, **options)
        thread = threading.Thread(target=server.serve_forever, name="server of a test", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

    def port_of(self, raw: Any) -> int:
        return raw.socket.getsockname()[1]

    async def close_server(self, raw: Any, **options: Any) -> None:
        raw.shutdown(**options)

    def where(self, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if (sock := options.pop("ready_made", None)) is not None:
            return (), {"sock": sock}
        return (options.pop("host", base.HOST), options.pop("port", 0)), {}


def ours(thread: threading.Thread) -> bool:
    """Tell whether it is the front-end's housekeeping, which ends by itself a little later."""
    return thread.daemon and thread.name.startswith("wsapi")
