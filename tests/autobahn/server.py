"""Echo server for the Autobahn Testsuite in fuzzingclient mode.

Usage: WSAPI_MAX_FRAGMENTS=100000 server.py asyncio|sync|trio PORT [HOST]

Cases 9.3.1 and 9.4.1 send 65,536 fragments.
"""

import sys


def serve_asyncio(host: str, port: int) -> None:
    import asyncio

    from wsapi.asyncio.server import ServerConnection, serve
    from wsapi.exceptions import ConnectionClosed

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass  # most cases are about endings

    async def main() -> None:
        async with serve(echo, host, port, max_size=None) as server:
            print("listening", flush=True)
            await server.serve_forever()

    asyncio.run(main())


def serve_sync(host: str, port: int) -> None:
    from wsapi.exceptions import ConnectionClosed
    from wsapi.sync.server import ServerConnection, serve

    def echo(connection: ServerConnection) -> None:
        try:
            for message in connection:
                connection.send(message)
        except ConnectionClosed:
            pass

    with serve(echo, host, port, max_size=None) as server:
        print("listening", flush=True)
        server.serve_forever()


def serve_trio(host: str, port: int) -> None:
    import trio

    from wsapi.exceptions import ConnectionClosed
    from wsapi.trio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda **start: serve(echo, port, host=host, max_size=None, **start)
            )
            print("listening", flush=True)

    trio.run(main)


if __name__ == "__main__":
    globals()[f"serve_{sys.argv[1]}"]((sys.argv[3:] or ["127.0.0.1"])[0], int(sys.argv[2]))
