"""What a client raises when a server isn't one: classes, texts, and attributes."""

import asyncio

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

ANSWERS = {
    "http": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nX-Why: none\r\nContent-Length: 0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    "connection": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "accept": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
    "garbage": b"SSH-2.0-OpenSSH\r\n",
    "nothing": b"",
    "half": b"HTTP/1.1 101 Switch",
}


async def main():
    answers = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[-1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name, answer in ANSWERS.items():
        answers.append(answer)
        try:
            await connect(uri)
        except InvalidHandshake as exc:
            response = getattr(exc, "response", None)
            print(name, type(exc).__name__, exc)
            print(response and (response.status_code, response.headers.get("X-Why")))
        except Exception as exc:
            print(name, type(exc).__name__, exc)
    server.close()


asyncio.run(main())
