"""Serve the compiled echo on port 8765; see echo.pyx."""

import asyncio
import contextlib
import sys

from wsapi.asyncio.server import ServerConnection, serve


async def handler(connection: ServerConnection) -> None:
    from echo import Echo  # type: ignore[import-not-found] # it is compiled where it is used

    echo = Echo(connection.protocol)
    connection.listen(listener=echo)
    await connection.wait_closed()
    print(f"{echo.messages} messages, {echo.size} bytes", flush=True)


async def main(port: int) -> None:
    async with serve(handler, "localhost", port) as server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
