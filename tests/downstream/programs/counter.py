"""A counter that all clients share: JSON events, broadcast to a set of connections."""

import asyncio
import json

import websockets

USERS = set()
VALUE = 0


async def counter(websocket):
    global VALUE
    try:
        USERS.add(websocket)
        websockets.broadcast(USERS, json.dumps({"type": "users", "count": len(USERS)}))
        await websocket.send(json.dumps({"type": "value", "value": VALUE}))
        async for message in websocket:
            event = json.loads(message)
            if event["action"] == "minus":
                VALUE -= 1
            elif event["action"] == "plus":
                VALUE += 1
            websockets.broadcast(USERS, json.dumps({"type": "value", "value": VALUE}))
    finally:
        USERS.remove(websocket)
        websockets.broadcast(USERS, json.dumps({"type": "users", "count": len(USERS)}))


async def main():
    async with websockets.serve(counter, "localhost", 0) as server:
        uri = f"ws://localhost:{server.sockets[0].getsockname()[1]}"
        async with websockets.connect(uri) as first:
            print(await first.recv(), await first.recv())
            async with websockets.connect(uri) as second:
                print(await second.recv(), await second.recv())
                print(await first.recv())
                for action in ("plus", "plus", "minus"):
                    await second.send(json.dumps({"action": action}))
                print([await first.recv() for _ in range(3)])
                print([await second.recv() for _ in range(3)])
            print(await first.recv())
    print(VALUE, len(USERS))


asyncio.run(main())
