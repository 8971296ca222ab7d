"""TLS with a certificate of one's own authority, on asyncio and in threads; an untrusted one."""

import asyncio
import ssl
import threading

import trustme
import websockets.sync.client
import websockets.sync.server
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

AUTHORITY = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("localhost").configure_cert(SERVER)
CLIENT = ssl.create_default_context()
AUTHORITY.configure_trust(CLIENT)


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


def echo_in_thread(websocket):
    for message in websocket:
        websocket.send(message)


async def main():
    async with serve(echo, "localhost", 0, ssl=SERVER) as server:
        uri = f"wss://localhost:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, ssl=CLIENT) as websocket:
            await websocket.send("x" * 100_000)
            print(len(await websocket.recv()))
            print(websocket.transport.get_extra_info("ssl_object").version()[:3])
        try:
            await connect(uri)
        except ssl.SSLCertVerificationError as exc:
            print(type(exc).__name__, exc.verify_message)
        try:
            await connect(uri, ssl=CLIENT, server_hostname="other.example")
        except ssl.SSLCertVerificationError as exc:
            print(exc.verify_message)
        try:
            await connect(uri, ssl=None)
        except ValueError as exc:
            print(type(exc).__name__)


asyncio.run(main())
with websockets.sync.server.serve(echo_in_thread, "localhost", 0, ssl=SERVER) as server:
    threading.Thread(target=server.serve_forever).start()
    uri = f"wss://localhost:{server.socket.getsockname()[1]}"
    with websockets.sync.client.connect(uri, ssl=CLIENT) as websocket:
        websocket.send(b"bytes")
        print(websocket.recv(), websocket.socket.server_side)
    server.shutdown()
