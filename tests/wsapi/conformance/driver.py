"""What the tests of all front-ends are written against: one facade, a driver for each front-end.

A test is a coroutine function with an argument ``driver``. It awaits methods of the driver and of
what the driver gives: servers, connections, tasks, events, raw peers. The drivers of asyncio and
trio run it as a task there. The driver of threads runs it in a thread that blocks in each call,
so that a "task" is a thread. Tests never name a runtime; what a front-end can't do is said by a
mark: ``@pytest.mark.not_on("sync", reason="threads can't be cancelled")``.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import inspect
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from tests.wsapi.conformance.raw import RawPeer, RawServer, SecurePeer, parsed
from tests.wsapi.helpers import request as handshake_request
from wsapi.exceptions import ConnectionClosed, InvalidStatus
from wsapi.http11 import Response

HOST = "127.0.0.1"


class Cancelled(Exception):
    """Raised where a task is awaited that was cancelled."""


class Ws:
    """A connection of any front-end. Attributes are those of the connection itself."""

    raw: Any

    def __init__(self, driver: Driver, raw: Any) -> None:
        self.__dict__.update(driver=driver, raw=raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.raw, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ws) and self.raw is other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    async def __aenter__(self) -> Ws:
        context = self.driver.context(self.raw)
        self.__dict__["context"] = context
        assert await context.__aenter__() is self.raw
        return self

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        return await self.context.__aexit__(*exc_info)

    async def send(self, message: Any, **options: Any) -> None:
        await self.driver.call(self.raw.send, self.driver.sendable(message), **options)

    async def recv(self, decode: bool | None = None, *, timeout: float | None = None) -> Any:
        return await self.driver.recv(self.raw, decode, timeout)

    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Any]:
        return self.driver.iterator(self.raw.recv_streaming(decode))

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.driver.iterator(self.raw)

    async def close(self, *args: Any, **options: Any) -> None:
        await self.driver.call(getattr(self.raw, self.driver.close_method), *args, **options)

    async def wait_closed(self) -> None:
        await self.driver.call(self.raw.wait_closed)

    async def ping(self, *args: Any, **options: Any) -> Pong:
        return self.driver.pong(await self.driver.call(self.raw.ping, *args, **options))

    async def pong(self, *args: Any) -> None:
        await self.driver.call(self.raw.pong, *args)

    def lose(self) -> None:
        """End the TCP connection without a word."""
        self.driver.lose(self.raw)

    @property
    def paused(self) -> bool:
        """Whether flow control has stopped the reading."""
        return not self.raw.protocol.reading_wanted

    @property
    def unsent(self) -> int:
        """Bytes that wait for being written."""
        return self.raw.protocol.output_size + self.driver.unwritten(self.raw)


class Pong(abc.ABC):
    """What ``ping()`` gives to wait for the answer."""

    def __init__(self, driver: Driver, raw: Any) -> None:
        self.driver = driver
        self.raw = raw

    @abc.abstractmethod
    def done(self) -> bool:
        """Tell whether the answer came."""

    @abc.abstractmethod
    async def wait(self) -> None:
        """Wait for the answer."""


class Task(abc.ABC):
    """Something that runs beside the test; awaiting it gives its result or raises its error."""

    @abc.abstractmethod
    def __await__(self) -> Any: ...

    @abc.abstractmethod
    def done(self) -> bool: ...

    @abc.abstractmethod
    async def ended(self, timeout: float | None = None) -> bool:
        """Wait for the end, however it ends; tell whether it came in time."""

    def cancel(self) -> None:
        raise AssertionError("tasks of this driver can't be cancelled")

    async def cancelled(self) -> bool:
        """Cancel, wait for the end, tell whether it ended by that."""
        self.cancel()
        try:
            await self
        except Cancelled:
            return True
        return False


class Served:
    """A server of any front-end."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.raw: Any = None
        self.place: Any = None  # of one in memory
        self._handling: list[Any] = []
        self._lock = threading.Lock()

    def wrap(self, handler: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        """Make the handler of a server out of a test's."""

        async def handle(raw: Any, **kwargs: Any) -> None:
            with self._lock:
                self._handling.append(raw)
            try:
                await handler(Ws(self.driver, raw), **kwargs)
            finally:
                with self._lock:
                    self._handling.remove(raw)

        return self.driver.function(handle)

    @property
    def handling(self) -> set[Ws]:
        """Connections whose handlers are running."""
        with self._lock:
            return {Ws(self.driver, raw) for raw in self._handling}

    @property
    def connections(self) -> set[Ws]:
        return {Ws(self.driver, raw) for raw in self.raw.connections}

    async def connection(self) -> Ws:
        """Wait until one client is connected; give the server's end."""
        await self.driver.until(lambda: self.connections)
        (ws,) = self.connections
        return ws

    @property
    def port(self) -> int:
        return self.driver.port_of(self.raw)

    def uri(self, path: str = "/", *, host: str = HOST, user: str = "", tls: bool = False) -> str:
        return f"ws{'s' * tls}://{user}{host}:{self.port}{path}"

    async def close(self, **options: Any) -> None:
        """Close; return when nothing of the server is left."""
        await self.driver.close_server(self.raw, **options)

    @property
    def accepted(self) -> int:
        """Number of connections, those in their opening handshakes included."""
        return len(self.raw._connections)

    async def ask(self, data: bytes) -> Response:
        """Send bytes; return the answer, after which the server closes."""
        return parsed(await self.ask_bytes(data))

    async def ask_bytes(self, data: bytes) -> bytes:
        """Send bytes; return all that comes back until the server closes."""
        async with self.driver.raw_client(self, b"") as peer:
            await peer.send(data)
            return await peer.read_to_end()


async def echo(ws: Ws) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    except ConnectionClosed:
        pass


async def until_closed(ws: Ws) -> None:
    await ws.wait_closed()


CALLBACKS = "process_request", "process_response", "select_subprotocol"


class Driver(abc.ABC):
    """A front-end, its runtime, and how the one is used in the other.

    Attributes:
        name: Name of the driver in the names of tests.
        package: Part of ``wsapi`` that it drives.
        close_method: Name of the method that closes a connection.
        caller: What error texts call two who use a connection at the same time.
        fake_time: Whether time stands still but for ``advance``; for connections in memory.
    """

    name: str
    package: str
    close_method = "close"
    close_topics = "aclose"
    caller = "coroutine"
    fake_time = False  # of this test

    def __init__(self) -> None:
        self.client: Any = importlib.import_module(f"wsapi.{self.package}.client")
        self.server: Any = importlib.import_module(f"wsapi.{self.package}.server")
        self.connection: Any = importlib.import_module(f"wsapi.{self.package}.connection")

    @property
    def router(self) -> Any:
        return importlib.import_module(f"wsapi.{self.package}.router")

    @property
    def topics(self) -> Any:
        """The class of topics."""
        part = "" if self.package == "asyncio" else f".{self.package}"
        return importlib.import_module(f"wsapi.topics{part}").Topics

    # ------------------------------------------------------------------ runtime

    @abc.abstractmethod
    def run(self, test: Coroutine[Any, Any, None]) -> None:
        """Run a test; fail it if it leaves something behind or logs errors."""

    @abc.abstractmethod
    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the front-end, and wait for it."""

    async def awaited(self, result: Any) -> Any:
        """Wait for what a function has returned, where that has to be awaited."""
        return await result

    @abc.abstractmethod
    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make of a test's coroutine function what the front-end takes as a callback."""

    @abc.abstractmethod
    def context(self, manager: Any) -> Any:
        """Make an asynchronous context manager of a front-end's."""

    @abc.abstractmethod
    def iterator(self, iterable: Any) -> AsyncIterator[Any]:
        """Make an asynchronous iterator of a front-end's."""

    @abc.abstractmethod
    def sendable(self, message: Any) -> Any:
        """Make of what a test sends what the front-end takes."""

    @abc.abstractmethod
    def pong(self, raw: Any) -> Pong: ...

    @abc.abstractmethod
    async def sleep(self, seconds: float) -> None: ...

    @abc.abstractmethod
    def event(self) -> Any:
        """Make an event with ``set()``, ``is_set()`` and ``await wait()``."""

    @abc.abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        """Start a task."""

    @abc.abstractmethod
    async def settle(self) -> None:
        """Let tasks go on until they wait for something that takes time."""

    @abc.abstractmethod
    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that blocks and knows nothing of the runtime."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something has become true."""
        while not condition():
            await self.sleep(0.001)

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        tasks = [self.spawn(coroutine) for coroutine in coroutines]
        for task in tasks:
            await task.ended()
        return [await task for task in tasks]

    # ------------------------------------------------------------------ sockets

    @abc.abstractmethod
    async def sock_connect(self, address: Any) -> Any: ...

    @abc.abstractmethod
    def sock_adopt(self, sock: Any) -> Any:
        """Make of a socket what the other methods take."""

    @abc.abstractmethod
    async def sock_accept(self, sock: Any) -> Any: ...

    @abc.abstractmethod
    async def sock_recv(self, sock: Any, size: int) -> bytes: ...

    @abc.abstractmethod
    async def sock_sendall(self, sock: Any, data: bytes) -> None: ...

    # ------------------------------------------------------------------ connections

    @abc.abstractmethod
    async def recv(self, raw: Any, decode: bool | None, timeout: float | None) -> Any: ...

    @abc.abstractmethod
    def lose(self, raw: Any) -> None: ...

    def unwritten(self, raw: Any) -> int:
        """Tell how many bytes the runtime keeps of what the engine has given out."""
        return 0

    @abc.abstractmethod
    def client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Translate ``address``, ``local_address`` and ``ready_made`` (a socket)."""

    def uri(self, target: Any) -> str:
        return target if isinstance(target, (str, bytes)) else target.uri()

    def connect(self, target: Served | RawServer | str, **options: Any) -> Any:
        """Return a context manager that gives an open connection."""
        return self._connected("connect", self.uri(target), **options)

    def unix_connect(self, *args: Any, **options: Any) -> Any:
        return self._connected("unix_connect", *args, **options)

    @contextlib.asynccontextmanager
    async def _connected(self, function: str, *args: Any, **options: Any) -> AsyncIterator[Ws]:
        connecting = getattr(self.client, function)(*args, **self.client_options(options))
        async with self.context(connecting) as raw:
            yield Ws(self, raw)

    async def attempt(self, target: Any, **options: Any) -> None:
        """Connect, and close at once."""
        async with self.connect(target, **options):
            pass

    @property
    def connector_class(self) -> Any:
        """What makes an object that connects each time its context is entered."""
        return self.client.connect

    def connector(self, target: Any, **options: Any) -> Any:
        """Return an object of the front-end that connects each time its context is entered."""
        return self.connector_class(self.uri(target), **self.client_options(options))

    @contextlib.asynccontextmanager
    async def connected_by(self, connector: Any) -> AsyncIterator[Ws]:
        async with self.context(connector) as raw:
            yield Ws(self, raw)

    @abc.abstractmethod
    async def open(self, target: Any, **options: Any) -> Ws:
        """Return an open connection, which the test closes."""

    @abc.abstractmethod
    def reconnecting(self, target: Any, **options: Any) -> Any:
        """Return a context manager that gives an asynchronous iterator of connections."""

    async def rejection(self, target: Any, **options: Any) -> Response:
        """Connect to a server that refuses; return its answer."""
        try:
            await self.attempt(target, **options)
        except InvalidStatus as exc:
            return exc.response
        raise AssertionError("the server didn't refuse")

    async def broadcast(self, connections: Any, message: Any, **options: Any) -> None:
        raws = [ws.raw for ws in connections]
        result = self.server.broadcast(raws, message, **options)
        if inspect.isawaitable(result):
            await result

    # ------------------------------------------------------------------ servers

    @abc.abstractmethod
    def listening(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return a context manager that gives a server of the front-end, serving."""

    @abc.abstractmethod
    def port_of(self, raw: Any) -> int: ...

    @abc.abstractmethod
    async def close_server(self, raw: Any, **options: Any) -> None: ...

    @abc.abstractmethod
    def where(self, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take ``host``, ``port``, ``ready_made`` (a socket) out; return what ``serve()`` takes."""

    def callback(self, function: Any) -> Any:
        """Make of a test's callback what the front-end takes."""
        if not callable(function) or getattr(function, "__module__", "").startswith("wsapi."):
            return function

        def plain(raw: Any, *args: Any) -> Any:
            return function(Ws(self, raw), *args)

        async def waiting(raw: Any, *args: Any) -> Any:
            return await function(Ws(self, raw), *args)

        return self.function(waiting) if inspect.iscoroutinefunction(function) else plain

    def server_options(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in CALLBACKS:
            if name in options:
                options[name] = self.callback(options[name])
        # What fills a buffer must not depend on how well it compresses.
        options.setdefault("compression", None)
        return options

    @contextlib.asynccontextmanager
    async def serve(
        self, handler: Callable[[Ws], Awaitable[None]] = echo, **options: Any
    ) -> AsyncIterator[Served]:
        served = Served(self)
        args, where = self.where(options)
        options = where | self.server_options(options)
        async with self.listening(self.server.serve, served.wrap(handler), *args, **options) as raw:
            served.raw = raw
            yield served

    @contextlib.asynccontextmanager
    async def unix_serve(self, handler: Any, path: Any, **options: Any) -> AsyncIterator[Served]:
        served = Served(self)
        where = self.where(options)[1] if path is None else {}
        options = where | self.server_options(options)
        function = self.server.unix_serve
        async with self.listening(function, served.wrap(handler), path, **options) as raw:
            served.raw = raw
            yield served

    def endpoint(self, handler: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        """Make the handler of a route out of a test's."""
        return Served(self).wrap(handler)

    @contextlib.asynccontextmanager
    async def route(
        self, url_map: Any, *, path: Any = None, **options: Any
    ) -> AsyncIterator[Served]:
        """Serve with `route()`, or with `unix_route()` if there is a path."""
        served = Served(self)
        args, where = self.where(options) if path is None else ((path,), {})
        function = self.router.route if path is None else self.router.unix_route
        options = where | self.server_options(options)
        async with self.listening(function, url_map, *args, **options) as raw:
            served.raw = raw
            yield served

    @contextlib.asynccontextmanager
    async def pair(
        self,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **both: Any,
    ) -> AsyncIterator[tuple[Ws, Ws]]:
        """Connect a client and a server; both are used by the test."""
        accepted: list[Ws] = []
        came = self.event()

        async def handler(ws: Ws) -> None:
            accepted.append(ws)
            came.set()
            await ws.wait_closed()

        async with self.serve(handler, **both | (server or {})) as served:
            async with self.connect(served, **both | (client or {})) as ws:
                await came.wait()
                yield ws, accepted[0]

    # ------------------------------------------------------------------ in memory

    @property
    def kit(self) -> Any:
        """The testing kit for this front-end."""
        part = "" if self.package == "asyncio" else f".{self.package}"
        return importlib.import_module(f"wsapi.testing{part}")

    @abc.abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let time pass, in a test with the mark ``fake_time``; all that is due is done then."""

    @contextlib.asynccontextmanager
    async def serve_in_memory(
        self, handler: Callable[[Ws], Awaitable[None]] = echo, **options: Any
    ) -> AsyncIterator[Served]:
        served = Served(self)
        options = self.server_options(options)
        async with self.context(self.kit.serving(served.wrap(handler), **options)) as place:
            served.raw, served.place = place.server, place
            yield served

    @contextlib.asynccontextmanager
    async def connect_in_memory(self, served: Served, **options: Any) -> AsyncIterator[Ws]:
        async with self.context(served.place.connect(**options)) as raw:
            yield Ws(self, raw)

    @contextlib.asynccontextmanager
    async def pair_in_memory(self, **options: Any) -> AsyncIterator[tuple[Ws, Ws]]:
        """Connect a client and a server in memory, which don't have to be closed."""
        options.setdefault("compression", None)
        async with self.context(self.kit.pair(**options)) as (client, server):
            yield Ws(self, client), Ws(self, server)

    def link(self, ws: Ws) -> Any:
        """Return the network of a connection in memory."""
        return self.kit.link(ws.raw)

    # ------------------------------------------------------------------ raw peers

    @contextlib.asynccontextmanager
    async def raw_client(
        self,
        served: Served,
        handshake: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[RawPeer]:
        """Connect to a server; after the opening handshake, unless ``handshake`` is ``b""``."""
        sock = await self.sock_connect((HOST, served.port))
        peer = (
            RawPeer(self, sock, masked=True)
            if tls is None
            else SecurePeer(self, sock, masked=True, tls=tls)
        )
        try:
            if isinstance(peer, SecurePeer):
                await peer.start_tls()
            if handshake is None:
                handshake = handshake_request()
            if handshake:
                await peer.send(handshake)
                assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
            yield peer
        finally:
            peer.close()

    @contextlib.asynccontextmanager
    async def raw_server(
        self,
        behave: Callable[[RawPeer], Awaitable[None]],
        *,
        handshake: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[RawServer]:
        """Listen; hand each connection to ``behave``, after the opening handshake if wanted."""
        server = RawServer(self, behave, handshake, tls)
        accepting = self.spawn(server.accept())
        try:
            yield server
        finally:
            await server.stop()
            await accepting
