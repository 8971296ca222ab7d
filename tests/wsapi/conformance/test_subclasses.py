"""Connections of a program's own classes: what they override is called, as `websockets` does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, echo
from tests.wsapi.helpers import logged_errors
from wsapi.exceptions import ConnectionClosedError


def recording(base: Any, calls: list[Any]) -> Any:
    """Make a class of connections that tells how their contexts are entered and left."""
    if hasattr(base, "__enter__"):

        class OfThreads(base):  # type: ignore[misc] # of the front-end at hand
            def __enter__(self) -> Any:
                calls.append("enter")
                return super().__enter__()

            def __exit__(self, *exc_info: Any) -> Any:
                calls.append(exc_info[0])
                return super().__exit__(*exc_info)

            def close(self, *args: Any) -> None:
                calls.append(("close", *args))
                super().close(*args)

        return OfThreads

    async def close(self: Any, *args: Any) -> None:
        calls.append(("close", *args))
        await getattr(super(OfTasks, self), name)(*args)

    class OfTasks(base):  # type: ignore[misc] # of the front-end at hand
        async def __aenter__(self) -> Any:
            calls.append("enter")
            return await super().__aenter__()

        async def __aexit__(self, *exc_info: Any) -> Any:
            calls.append(exc_info[0])
            return await super().__aexit__(*exc_info)

    name = "close" if hasattr(base, "close") else "aclose"
    setattr(OfTasks, name, close)
    return OfTasks


class TestContexts:
    async def test_of_clients(self, driver: Driver) -> None:
        calls: list[Any] = []
        mine = recording(driver.client.ClientConnection, calls)
        async with driver.serve(echo) as server:
            async with driver.connect(server, create_connection=mine):
                assert calls == ["enter"]
            assert calls == ["enter", None, ("close",)]
            calls.clear()
            with pytest.raises(KeyError):
                async with driver.connect(server, create_connection=mine):
                    raise KeyError
            assert calls == ["enter", KeyError, ("close", 1011)]

    async def test_of_clients_that_connect_again_and_again(self, driver: Driver) -> None:
        calls: list[Any] = []
        base = recording(driver.client.ClientConnection, calls)

        class Mine(base):  # type: ignore[misc] # of the front-end at hand
            failed = False

            def begin(self) -> None:
                if not Mine.failed:
                    Mine.failed = True
                    raise OSError("not the first time")

            def __enter__(self) -> Any:
                self.begin()
                return super().__enter__()

            async def __aenter__(self) -> Any:
                self.begin()
                return await super().__aenter__()

        async def handler(ws: Ws) -> None:
            await ws.send("ready")

        async with driver.serve(handler) as server:
            number = 0
            async with driver.reconnecting(
                server, create_connection=Mine, reconnect_delays=lambda: itertools.repeat(0)
            ) as connections:
                async for ws in connections:
                    number += 1
                    assert await ws.recv() == "ready"
                    assert calls[-1] == "enter"
                    if number == 2:
                        break
        end = [None, ("close",)]
        assert calls == [("close", 1011), "enter", *end, "enter", *end]

    async def test_of_servers(self, driver: Driver) -> None:
        """They are left when the peer was the first to close, too."""
        calls: list[Any] = []
        mine = recording(driver.server.ServerConnection, calls)
        async with driver.serve(echo, create_connection=mine) as server:
            async with driver.connect(server) as ws:
                await ws.send("x")
                await ws.recv()
                assert calls == ["enter"]
            await driver.until(lambda: len(calls) >= 3)
            assert calls == ["enter", None, ("close",)]

    async def test_of_servers_whose_handler_fails(self, driver: Driver) -> None:
        async def handler(_ws: Ws) -> None:
            raise KeyError

        calls: list[Any] = []
        mine = recording(driver.server.ServerConnection, calls)
        async with driver.serve(handler, create_connection=mine) as server:
            async with driver.connect(server) as ws:
                await ws.wait_closed()
                assert ws.close_code == 1011
        assert calls == ["enter", KeyError, ("close", 1011)]
        logged_errors("connection handler failed")

    async def test_that_fail(self, driver: Driver) -> None:
        """The failure of a cleanup is logged, like that of a handler."""
        calls: list[Any] = []

        class Mine(recording(driver.server.ServerConnection, calls)):  # type: ignore[misc] # of the front-end at hand
            def __exit__(self, *exc_info: Any) -> Any:
                super().__exit__(*exc_info)
                raise KeyError

            async def __aexit__(self, *exc_info: Any) -> Any:
                await super().__aexit__(*exc_info)
                raise KeyError

        async with driver.serve(echo, create_connection=Mine) as server:
            await driver.attempt(server)
        logged_errors("connection handler failed")

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_that_cannot_be_entered(self, driver: Driver, side: str) -> None:
        """The connection is closed all the same."""
        if (side, driver.name) == ("client", "sync"):
            pytest.skip("it is the program that enters what connect() returns")
        calls: list[Any] = []
        module, name = (
            (driver.client, "ClientConnection")
            if side == "client"
            else (driver.server, "ServerConnection")
        )

        class Mine(recording(getattr(module, name), calls)):  # type: ignore[misc] # of the front-end at hand
            def __enter__(self) -> Any:
                raise KeyError

            async def __aenter__(self) -> Any:
                raise KeyError

        if side == "client":
            codes: list[Any] = []

            async def handler(ws: Ws) -> None:
                await ws.wait_closed()
                codes.append(ws.close_code)

            async with driver.serve(handler) as server:
                with pytest.raises(KeyError):
                    async with driver.connect(server, create_connection=Mine):
                        raise AssertionError("it was entered")
                await driver.until(lambda: codes == [1011])
        else:
            async with driver.serve(echo, create_connection=Mine) as server:
                async with driver.connect(server) as ws:
                    await ws.wait_closed()
                    assert ws.close_code == 1011
            logged_errors("connection handler failed")


def loud(recv: Any, is_async: bool) -> Any:
    """Make a function that calls ``recv``, and changes what it returns."""

    async def of_tasks(*args: Any) -> Any:
        return (await recv(*args)).upper()

    return of_tasks if is_async else lambda *args: recv(*args).upper()


class TestIterating:
    async def test_calls_what_overrides_recv(self, driver: Driver) -> None:
        base = driver.client.ClientConnection
        is_async = hasattr(base, "__aenter__")
        mine = type("Mine", (base,), {"recv": loud(base.recv, is_async)})

        async def handler(ws: Ws) -> None:
            await ws.send("a")
            await ws.send("b")
            if ws.request.path == "/fails":
                await ws.close(1011)

        async with driver.serve(handler) as server:
            async with driver.connect(server, create_connection=mine) as ws:
                assert [message async for message in ws] == ["A", "B"]
            seen = []
            async with driver.connect(server.uri("/fails"), create_connection=mine) as ws:
                with pytest.raises(ConnectionClosedError):
                    async for message in ws:
                        seen.append(message)
            assert seen == ["A", "B"]

    async def test_calls_what_replaces_recv(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await ws.send("a")

        async with driver.serve(handler) as server:
            async with driver.connect(server) as ws:
                ws.recv = loud(ws.raw.recv, hasattr(ws.raw, "__aenter__"))  # type: ignore[method-assign]
                assert [message async for message in ws] == ["A"]


class TestAttributes:
    async def test_a_class_that_says_what_they_are_at_the_beginning(self, driver: Driver) -> None:
        class Mine(driver.server.ServerConnection):  # type: ignore[name-defined,misc]
            request = response = None
            user = None

        async def handler(ws: Ws) -> None:
            seen.append((ws.request.path, ws.response.status_code, ws.user))  # type: ignore[attr-defined]
            await ws.send("seen")

        seen: list[Any] = []
        async with driver.serve(handler, create_connection=Mine) as server:
            async with driver.connect(server) as ws:
                assert await ws.recv() == "seen"
        assert seen == [("/", 101, None)]
