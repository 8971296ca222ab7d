"""ASGI applications in memory, by the testing kit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.wsapi.helpers import on_asyncio
from wsapi.exceptions import InvalidStatus
from wsapi.testing import Clock, link, serving_asgi
from wsproto_fast.frames import State


class Application:
    """An echo, with a lifespan."""

    def __init__(self, failure: str | None = None) -> None:
        self.events: list[str] = []
        self.failure = failure

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        self.events.append(f"{scope['root_path']} {scope['path']} {scope['state']}")
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        self.events.append(f"disconnect {event['code']}")
        if scope["path"].endswith("/stuck"):
            await asyncio.sleep(3600)

    async def lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        for what in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{what}"
            self.events.append(what)
            scope["state"][what] = True
            failed = self.failure == what
            await send(
                {"type": f"lifespan.{what}.failed", "message": "why"}
                if failed
                else {"type": f"lifespan.{what}.complete"}
            )
            if failed:
                return


@on_asyncio
async def test_an_asgi_application() -> None:
    app = Application()
    async with serving_asgi(app, root_path="/api") as place:
        async with place.connect("ws://localhost/echo") as connection:
            await connection.send("message")
            assert await connection.recv() == "message"
        left = await place.connect("ws://localhost/left")
    assert left.close_code == 1012
    assert app.events == [
        "startup",
        "/api /api/echo {'startup': True}",
        "disconnect 1000",
        "/api /api/left {'startup': True}",
        "disconnect 1012",
        "shutdown",
    ]
    with pytest.raises(ConnectionRefusedError):
        await place.connect()


@on_asyncio
async def test_an_asgi_application_in_fake_time() -> None:
    async with Clock() as clock, serving_asgi(Application(), ping_interval=5) as place:
        connection = await place.connect("ws://localhost/stuck", ping_interval=None)
        await clock.advance(5.1)
        assert connection.stats().pings_received == 1
    assert connection.state is State.CLOSED


@on_asyncio
async def test_an_asgi_application_whose_client_is_cut_off() -> None:
    app = Application()
    async with Clock(), serving_asgi(app) as place:
        connection = await place.connect("ws://localhost/")
        await connection.send("message")
        assert await connection.recv() == "message"
        link(connection).cut()
    assert app.events[-1] == "shutdown"
    assert app.events[-2].startswith("disconnect")


@on_asyncio
async def test_an_asgi_application_that_ends_with_its_connections() -> None:
    """It doesn't heed that the server leaves, but that its connections are cut off then."""
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while scope["extensions"]["wsapi"]["connection"]().state is not State.CLOSED:
                await asyncio.sleep(0)
            ends.append("by itself")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with Clock(), serving_asgi(app) as place:
        connection = await place.connect()
        link(connection).outgoing.hold = True
    assert ends == ["by itself"]


@pytest.mark.parametrize("what", ["startup", "shutdown"])
def test_a_lifespan_that_fails(what: str) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=f"{what} of the application failed: why"):
            async with serving_asgi(Application(what)):
                assert what == "shutdown"

    asyncio.run(main())


@pytest.mark.parametrize("place", ["startup", "connection", "shutdown"])
def test_a_test_that_is_cancelled_while_its_application_hangs(place: str) -> None:
    async def hang() -> None:
        hanging.set()
        await asyncio.sleep(3600)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await hang()
        for what in ("startup", "shutdown"):
            await receive()
            if what == place:
                await hang()
            await send({"type": f"lifespan.{what}.complete"})
            log.append(what)

    async def test() -> None:
        async with serving_asgi(app) as server:
            if place == "connection":
                await server.connect()

    async def main() -> None:
        task = asyncio.create_task(test())
        await hanging.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    log: list[str] = []
    hanging = asyncio.Event()
    asyncio.run(main())
    assert log == {"startup": [], "connection": ["startup", "shutdown"]}.get(place, ["startup"])


@on_asyncio
async def test_an_application_without_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.close"})

    async with serving_asgi(app) as place:
        with pytest.raises(InvalidStatus, match="403"):
            await place.connect()
