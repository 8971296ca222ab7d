"""What is raised when the API is misused: classes that programs catch."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConcurrencyError, InvalidURI


async def handler(websocket):
    await websocket.wait_closed()


async def attempt(name, call):
    try:
        await call()
    except Exception as exc:
        print(name, type(exc).__name__)
    else:
        print(name, "passes")


async def main():
    for uri in ("", "ws://", "http://a", "ws://a:port", "ws://a/#f", "localhost:80"):
        try:
            await connect(uri)
        except InvalidURI as exc:
            print(repr(uri), exc.uri == uri)
        except Exception as exc:
            print(repr(uri), type(exc).__name__)
    async with serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            first = asyncio.create_task(websocket.recv())
            await asyncio.sleep(0.01)
            try:
                await websocket.recv()
            except ConcurrencyError as exc:
                print(str(exc).startswith("cannot call recv while"), isinstance(exc, RuntimeError))
            first.cancel()
            await asyncio.wait([first])
            for name, value in {
                "int": 1,
                "None": None,
                "dict": {"a": 1},
                "empty list": [],
                "bytearray": bytearray(b"x"),
                "memoryview": memoryview(b"x"),
            }.items():
                await attempt(name, lambda value=value: websocket.send(value))
        async with connect(uri) as websocket:
            for code, reason in ((1005, ""), (999, ""), (1000, "x" * 124), (2000, ""), (4000, "")):
                await attempt(f"close {code}", lambda c=code, r=reason: websocket.close(c, r))
            await attempt("send after close", lambda: websocket.send("x"))
            await attempt("ping after close", websocket.ping)
            await attempt("close again", websocket.close)
        await attempt("long ping", lambda: websocket.ping(b"x" * 126))
    await attempt("nobody listens", lambda: connect(uri))
    await attempt("no such host", lambda: connect("ws://host.invalid"))
    await attempt("ssl for ws", lambda: connect(uri, ssl=True))
    await attempt("unknown option", lambda: connect(uri, unknown=True))


asyncio.run(main())
