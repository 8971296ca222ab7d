"""Loggers: levels and filters set on ``websockets``, adapters, and what is logged."""

import asyncio
import logging
import re

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

RECORDS = []


class Keep(logging.Handler):
    def emit(self, record):
        failed = record.exc_info[0].__name__ if record.exc_info else ""
        RECORDS.append(f"{record.name} {record.levelname} {record.getMessage()} {failed}")


class Adapter(logging.LoggerAdapter):
    def process(self, msg, kwargs):
        websocket = kwargs.get("extra", {}).get("websocket")
        return f"{websocket.request.path if websocket and websocket.request else '-'} {msg}", kwargs


async def handler(websocket):
    message = await websocket.recv()
    if message == "fail":
        raise ValueError("failed")
    websocket.logger.info("handled %s", message)


async def talk(uri, message):
    async with connect(uri) as websocket:
        await websocket.send(message)
        try:
            await websocket.recv()
        except ConnectionClosed as exc:
            print(exc)


async def main():
    logging.getLogger("websockets").addHandler(Keep())
    logging.getLogger("websockets").setLevel(logging.INFO)
    async with serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await talk(uri, "one")
        await talk(uri, "fail")
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GARBAGE\r\n\r\n")
        await reader.read()
        writer.close()
        logging.getLogger("websockets.server").setLevel(logging.ERROR)
        await talk(uri, "two")
        await talk(uri, "fail")
    own = logging.getLogger("app.ws")
    own.addHandler(Keep())
    own.setLevel(logging.INFO)
    async with serve(handler, "127.0.0.1", 0, logger=Adapter(own, None)) as server:
        await talk(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/path", "three")
    await asyncio.sleep(0)
    for record in sorted(re.sub(r":\d+", ":PORT", record) for record in RECORDS):
        print(record)


asyncio.run(main())
