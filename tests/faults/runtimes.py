"""Where the sides of a case run: an event loop, trio, or threads of their own.

Each runtime uses its front-end through the drivers of the conformance tests. What is submitted to
it runs as a task there. It can tell how much is going on in it, so that one can see whether
something was left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import trustme

from tests.wsapi.conformance.driver import Driver
from tests.wsapi.conformance.on_asyncio import AsyncioDriver, UvloopDriver
from tests.wsapi.conformance.on_threads import ThreadsDriver, drive
from tests.wsapi.helpers import LOOPS

Function = Callable[..., Coroutine[Any, Any, Any]]


class TidySSLObject(ssl.SSLObject):
    """Leaves no error of OpenSSL for the next connection in its thread.

    If the answer to close_notify is a fatal alert, ``unwrap`` succeeds, and leaves it in the queue
    of errors; ``ssl`` raises it from the next ``read`` of any connection that has to wait.
    """

    def unwrap(self) -> None:
        super().unwrap()
        # This fails, since the end was announced. What raises the error empties the queue.
        with contextlib.suppress(ssl.SSLError):
            self.write(b"\0")


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server, and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server.sslobject_class = client.sslobject_class = TidySSLObject
    return server, client


class ReferenceDriver(AsyncioDriver):
    """``websockets`` on asyncio."""

    def __init__(self) -> None:
        self.client: Any = importlib.import_module("websockets.asyncio.client")
        self.server: Any = importlib.import_module("websockets.asyncio.server")


class Runtime:
    """A runtime in a thread; a context manager.

    Attributes:
        driver: What runs in it is written against.
    """

    driver: Driver

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, name="runtime", daemon=True)

    def __enter__(self) -> Runtime:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self.thread.join()

    def _run(self) -> None:
        """Run until it is stopped."""

    def stop(self) -> None: ...

    def submit(self, function: Function, *args: Any) -> Future[Any]:
        """Run a coroutine function."""
        raise NotImplementedError

    def count(self) -> dict[str, int]:
        """Count what is going on; called in the runtime."""
        return {}


class AsyncioRuntime(Runtime):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.driver = UvloopDriver() if name == "uvloop" else AsyncioDriver()
        self.factory = LOOPS.get(name, asyncio.new_event_loop)
        self.eager = name == "eager"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self.factory) as runner:
            self.loop: Any = runner.get_loop()
            if self.eager:
                self.loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore] # since Python 3.12
            runner.run(self._main())

    async def _main(self) -> None:
        self.stopped = asyncio.Event()
        self.ready.set()
        await self.stopped.wait()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)

    def submit(self, function: Function, *args: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(function(*args), self.loop)

    def count(self) -> dict[str, int]:
        counts = {"tasks": len(self.tasks())}
        if hasattr(self.loop, "_scheduled"):
            counts["timers"] = len(self.timers())
        return counts

    def timers(self) -> list[str]:
        """Return what the event loop is going to call at some time.

        The timer that connections share isn't among them: it stays until it is due.
        """
        handles = getattr(self.loop, "_scheduled", ())
        shown = [repr(handle) for handle in handles if not handle.cancelled()]
        return [handle for handle in shown if "Timers" not in handle]

    @staticmethod
    def tasks() -> list[str]:
        """Return what tasks do, but for those of the other library."""
        code = (getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks())
        return [
            f"{each.co_qualname} of {each.co_filename}"
            for each in code
            if each is not None and "site-packages/websockets" not in each.co_filename
        ]


class TrioRuntime(Runtime):
    def __init__(self) -> None:
        super().__init__()
        from tests.wsapi.conformance.on_trio import TrioDriver

        self.driver: Any = TrioDriver()

    def _run(self) -> None:
        import trio

        trio.run(self._main)

    async def _main(self) -> None:
        import trio

        self.token = trio.lowlevel.current_trio_token()
        self.stopped = trio.Event()
        async with trio.open_nursery() as self.driver.nursery:
            self.ready.set()
            await self.stopped.wait()

    def stop(self) -> None:
        self.token.run_sync_soon(self.stopped.set)

    def submit(self, function: Function, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        async def run() -> None:
            try:
                future.set_result(await function(*args))
            except Exception as exc:
                future.set_exception(exc)

        def start() -> None:
            self.driver.nursery.start_soon(run)

        self.token.run_sync_soon(start)
        return future

    def count(self) -> dict[str, int]:
        import trio

        from wsapi.trio._housekeeping import Housekeeper

        housekeeper = Housekeeper.current()
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tasks = [root]
        for task in tasks:
            for nursery in task.child_nurseries:
                tasks += nursery.child_tasks
        return {
            "tasks": len(tasks),
            "timers": len(housekeeper._alarms) - housekeeper._outdated,
            "watched": len(housekeeper._watched),
        }


class ThreadsRuntime(Runtime):
    def __init__(self) -> None:
        super().__init__()
        self.driver = ThreadsDriver()

    def _run(self) -> None:
        self.ready.set()

    def submit(self, function: Function, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(drive(function(*args)))
            except Exception as exc:
                future.set_exception(exc)

        threading.Thread(target=run, name=function.__name__, daemon=True).start()
        return future

    def count(self) -> dict[str, int]:
        from wsproto_fast.drivers._housekeeper import housekeeper

        return {"live": housekeeper.inbox.live}


def runtime(subject: str) -> Runtime:
    """Return the runtime of a subject."""
    match subject:
        case "threads":
            return ThreadsRuntime()
        case "trio":
            return TrioRuntime()
        case _:
            return AsyncioRuntime(subject)


# ---------------------------------------------------------------------- servers


class Servers:
    """Servers that stay until they are stopped: plain and with TLS, patient and not.

    Args:
        driver: Driver of their runtime.
        handler: Coroutine function that is called with each open connection.
        options: Options of the servers, by name.
    """

    def __init__(self, driver: Any, handler: Function, options: dict[str, dict[str, Any]]) -> None:
        self.driver = driver
        self.handler = handler
        self.options = options
        self.ports: dict[str, int] = {}
        self.served: dict[str, Any] = {}
        self.ready = threading.Event()
        self.stopped = False

    async def run(self) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name, options in self.options.items():
                    self.served[name] = await stack.enter_async_context(self.serve(**options))
                    self.ports[name] = self.port_of(self.served[name])
                self.ready.set()
                while not self.stopped:
                    await self.driver.sleep(0.05)
        finally:
            self.ready.set()

    def serve(self, **options: Any) -> Any:
        return self.driver.serve(self.handler, **options)

    def port_of(self, served: Any) -> int:
        return served.port

    def accepted(self) -> int:
        """Count the connections, those in their opening handshakes included."""
        return sum(served.accepted for served in self.served.values())


class ReferenceServers(Servers):
    def accepted(self) -> int:
        return 0


class UvicornServers(Servers):
    """uvicorn's connections with our class, in a loop that isn't uvicorn's."""

    @contextlib.asynccontextmanager
    async def serve(self, **options: Any) -> Any:
        from tests.wsapi.uvicorn_helpers import Running
        from wsapi.uvicorn import WebSocketProtocol

        close_timeout, context = options["close_timeout"], options.get("ssl")

        class Quick(WebSocketProtocol):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.close_timeout = close_timeout

        running = Running(
            self.handler,  # type: ignore[arg-type] # an application, by its use
            Quick,
            interface="asgi3",
            ws_ping_interval=options["ping_interval"],
            ws_ping_timeout=options["ping_timeout"],
            ws_per_message_deflate=options["compression"] is not None,
            ws_max_queue=options["max_queue"],
        )
        load = running.config.load

        def load_with_tls() -> None:
            load()
            running.config.ssl = context

        running.config.load = load_with_tls  # type: ignore[method-assign] # uvicorn has no option for it
        async with running:
            yield running

    def port_of(self, served: Any) -> int:
        return served.sockets[0].getsockname()[1]

    def accepted(self) -> int:
        return sum(len(served.state.connections) for served in self.served.values())


def descriptors() -> int:
    """Count the open files of this process, where that is possible."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
