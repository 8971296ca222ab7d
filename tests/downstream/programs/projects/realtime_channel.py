"""realtime's client joins a channel of a Phoenix-like server: heartbeats, broadcasts, presence."""

import asyncio
import json

from realtime import AsyncRealtimeClient
from websockets.asyncio.server import serve

SEEN = []


async def phoenix(websocket):
    print(websocket.request.path.split("?")[0], "apikey=key" in websocket.request.path)
    async for text in websocket:
        message = json.loads(text)
        event, topic, ref = message["event"], message["topic"], message.get("ref")
        SEEN.append(event)
        if event in ("phx_join", "phx_leave", "heartbeat"):
            reply = {"status": "ok", "response": {}}
            await websocket.send(
                json.dumps({"event": "phx_reply", "topic": topic, "payload": reply, "ref": ref})
            )
        if event == "broadcast":
            await websocket.send(
                json.dumps(
                    {"event": event, "topic": topic, "payload": message["payload"], "ref": None}
                )
            )
        if event == "phx_join":
            state = {"ada": {"metas": [{"phx_ref": "1", "name": "Ada"}]}}
            await websocket.send(
                json.dumps(
                    {"event": "presence_state", "topic": topic, "payload": state, "ref": None}
                )
            )


async def main():
    async with serve(phoenix, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncRealtimeClient(f"ws://127.0.0.1:{port}/socket", "key", hb_interval=1)
        await client.connect()
        print(client.is_connected)
        channel = client.channel("room", {"config": {"broadcast": {"self": True}}})
        joined, received = asyncio.Event(), asyncio.Queue()
        channel.on_broadcast("greet", received.put_nowait)
        await channel.subscribe(lambda status, error: (print(status, error), joined.set()))
        await asyncio.wait_for(joined.wait(), 5)
        await channel.send_broadcast("greet", {"hello": "world"})
        print(await asyncio.wait_for(received.get(), 5))
        print(channel.presence_state())
        while "heartbeat" not in SEEN:
            await asyncio.sleep(0.05)
        # The server drops the connection; the client is to come back.
        (connection,) = server.connections
        connection.transport.abort()
        while SEEN.count("phx_join") < 2:
            await asyncio.sleep(0.05)
        print(client.is_connected)
        await channel.unsubscribe()
        await client.close()
        print(client.is_connected, sorted(set(SEEN)))


asyncio.run(asyncio.wait_for(main(), 40))
