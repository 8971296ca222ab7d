"""picows at its lowest level: callbacks. It never compresses by itself.

It takes the transports of aiofastnet when that is installed, which is its default.
"""

from __future__ import annotations

import ssl
from importlib.metadata import PackageNotFoundError
from typing import Any, ClassVar

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from . import HOST, Running, version_of


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class Broadcast(WSListener):
    transports: ClassVar[set[WSTransport]] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transports.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transports.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            message = frame.get_payload_as_bytes()
            for receiver in self.transports:
                receiver.send(frame.msg_type, message)


async def serve(listener: type[WSListener], **options: Any) -> Running:
    def accept(request: WSUpgradeRequest) -> WSListener:
        return listener()

    return await ws_create_server(accept, HOST, 0, **options)


class Peer:
    def version(self) -> str:
        try:
            return f"{version_of('picows')} + aiofastnet {version_of('aiofastnet')}"
        except PackageNotFoundError:
            return version_of("picows")

    async def echo(
        self, deflate: bool, *, tls: ssl.SSLContext | None = None, max_size: int | None = None
    ) -> Running:
        options = {} if max_size is None else {"max_frame_size": max_size}
        return await serve(Echo, ssl=tls, **options)

    async def broadcast(self, deflate: bool) -> Running:
        return await serve(Broadcast)
