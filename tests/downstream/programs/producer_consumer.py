"""A handler with two halves: what is received goes to a consumer, what is produced is sent."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def main():
    consumed, ended = [], asyncio.Event()

    async def consumer_handler(websocket):
        async for message in websocket:
            consumed.append(message)

    async def producer_handler(websocket):
        number = 0
        while True:
            try:
                await websocket.send(f"tick {number}")
            except ConnectionClosed as exc:
                print("producer ends:", exc.rcvd.code)
                break
            number += 1
            await asyncio.sleep(0.001)

    async def handler(websocket):
        consumer = asyncio.create_task(consumer_handler(websocket))
        producer = asyncio.create_task(producer_handler(websocket))
        done, pending = await asyncio.wait(
            [consumer, producer], return_when=asyncio.FIRST_COMPLETED
        )
        print("first", consumer in done)
        await asyncio.wait(pending)
        ended.set()

    async with serve(handler, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri) as websocket:
            for number in range(5):
                await websocket.send(str(number))
                print(await websocket.recv())
            await websocket.close(1001, "enough")
            print(websocket.close_code, websocket.close_reason, websocket.state.name)
        await asyncio.wait_for(ended.wait(), 5)
    print(consumed)


asyncio.run(main())
