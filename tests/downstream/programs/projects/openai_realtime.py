"""openai's realtime clients, on asyncio and in threads, with a local server of its protocol."""

import asyncio
import json

from openai import AsyncOpenAI, OpenAI
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

TOLD = []  # by clients, to the server


async def realtime(websocket):
    headers = websocket.request.headers
    TOLD.append((websocket.request.path, headers["Authorization"]))
    await websocket.send(json.dumps({"type": "session.created", "event_id": "1", "session": {}}))
    async for text in websocket:
        event = json.loads(text)
        if event["type"] == "response.create":
            for number, word in enumerate(("Hello ", "world")):
                delta = {"type": "response.output_text.delta", "event_id": str(number)}
                delta |= {"response_id": "r", "item_id": "i", "output_index": 0}
                await websocket.send(json.dumps({**delta, "content_index": 0, "delta": word}))
            done = {"type": "response.done", "event_id": "9", "response": {"id": "r"}}
            await websocket.send(json.dumps(done))
        elif event["type"] == "conversation.item.create":
            TOLD.append(event["item"]["content"][0]["text"])
        else:
            await websocket.close(4000, event["type"])


ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


async def on_asyncio(url):
    client = AsyncOpenAI(api_key="key", websocket_base_url=url)
    async with client.realtime.connect(model="test") as connection:
        await connection.conversation.item.create(item=ITEM)
        await connection.response.create()
        async for event in connection:
            print(event.type, getattr(event, "delta", ""))
            if event.type == "response.done":
                break
        await connection.input_audio_buffer.clear()
        try:
            await connection.recv()
        except ConnectionClosedError as exc:
            print(exc)


def in_a_thread(url):
    client = OpenAI(api_key="key", websocket_base_url=url)
    with client.realtime.connect(model="test") as connection:
        connection.conversation.item.create(item=ITEM)
        connection.response.create()
        for event in connection:
            print(event.type, getattr(event, "delta", ""))
            if event.type == "response.done":
                break


async def main():
    async with serve(realtime, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await on_asyncio(url)
        await asyncio.to_thread(in_a_thread, url)


asyncio.run(asyncio.wait_for(main(), 40))
print(TOLD)
