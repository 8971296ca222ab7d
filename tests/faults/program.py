"""A server as a program, which ends by signals as the documents say.

Usage: python -m tests.faults.program SUBJECT PORT [NUMBER OF DESCRIPTORS]

Echoes until SIGTERM closes the server, or SIGINT interrupts it. Prints its port, and "closed" when
nothing is left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import Any

HOST = "127.0.0.1"


def say(what: object) -> None:
    print(what, flush=True)


async def on_asyncio(port: int) -> None:
    from wsapi.asyncio.server import serve
    from wsapi.exceptions import ConnectionClosed

    async def echo(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, HOST, port) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
        say(server.sockets[0].getsockname()[1])
        await server.wait_closed()


def on_threads(port: int) -> None:
    from wsapi.exceptions import ConnectionClosed
    from wsapi.sync.server import serve

    def echo(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                connection.send(message)

    with serve(echo, HOST, port) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
        say(server.socket.getsockname()[1])
        server.serve_forever()


async def on_trio(port: int) -> None:
    import trio

    from wsapi.exceptions import ConnectionClosed
    from wsapi.trio.server import serve

    async def echo(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async def close_on_signal(server: Any, task_status: Any) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                await server.aclose()
                return

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            server = await serving.start(lambda **kw: serve(echo, port, host=HOST, **kw))
            await nursery.start(lambda **kw: close_on_signal(server, **kw))
            say(server.listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def on_uvicorn(port: int) -> None:
    import socket

    import uvicorn

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})

    config = uvicorn.Config(
        echo, ws="wsapi.uvicorn:WebSocketProtocol", lifespan="off", log_level="error"
    )
    with socket.create_server((HOST, port)) as sock:
        say(sock.getsockname()[1])
        uvicorn.Server(config).run(sockets=[sock])


def main(subject: str, port: int, descriptors: int = 0) -> None:
    if descriptors:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    # In the background of a shell script it may be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        match subject:
            case "threads":
                on_threads(port)
            case "uvicorn":
                on_uvicorn(port)
            case "trio":
                import trio

                trio.run(on_trio, port)
            case "uvloop":
                import uvloop

                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(on_asyncio(port))
            case _:
                asyncio.run(on_asyncio(port))
    except* KeyboardInterrupt:
        pass
    say("closed")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
