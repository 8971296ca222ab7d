"""An application without a framework, for workers that know of each other by a broker."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs

from wsapi.exceptions import ConnectionClosed
from wsapi.topics import Message, Position, Topics


def envelope(topic: str, position: Position | None, message: Message) -> Message:
    """Tell which worker has sent it, and where it stands."""
    return f"{os.getpid()} {position} {message!s}"


topics = Topics(os.environ["TOPICS_BUS"], envelope=envelope, heartbeat=1.0, unfollow_delay=1.0)


class Socket:
    """What topics need to know of a connection: how one sends, and what it is."""

    def __init__(self, scope: Any, send: Any) -> None:
        self.scope = scope
        self._send = send

    async def send_text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await topics.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await topics.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    since = parse_qs(scope["query_string"].decode()).get("since", [None])[0]
    try:
        async with topics.subscribe(Socket(scope, send), "room", since=since) as subscription:
            await send(
                {"type": "websocket.send", "text": f"{os.getpid()} {subscription.recovered}"}
            )
            while (event := await receive())["type"] == "websocket.receive":
                await topics.publish("room", event["text"])
    except ConnectionClosed:
        pass
