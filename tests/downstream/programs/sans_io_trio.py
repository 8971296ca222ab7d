"""The protocol without I/O on streams of trio."""

import trio
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import parse_uri


class Channel:
    def __init__(self, stream, protocol):
        self.stream, self.protocol = stream, protocol

    async def flush(self):
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send_all(data)
            else:
                await self.stream.aclose()

    async def events(self):
        while True:
            data = await self.stream.receive_some(4096)
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            for event in self.protocol.events_received():
                yield event
            await self.flush()
            if not data:
                return


async def serve(stream):
    channel = Channel(stream, ServerProtocol())
    async for event in channel.events():
        if isinstance(event, Request):
            channel.protocol.send_response(channel.protocol.accept(event))
        elif event.opcode is Opcode.BINARY:
            channel.protocol.send_binary(bytes(event.data)[::-1])
        elif event.opcode is Opcode.CLOSE:
            break
        await channel.flush()
    await channel.flush()


async def main():
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        channel = Channel(ours, ClientProtocol(parse_uri("ws://example.com:8080/")))
        channel.protocol.send_request(channel.protocol.connect())
        await channel.flush()
        async for event in channel.events():
            if not hasattr(event, "opcode"):
                print(event.status_code, event.reason_phrase)
                channel.protocol.send_binary(b"abc")
            else:
                print(event.opcode.name, bytes(event.data))
                channel.protocol.send_close(1001, "away")
                await channel.flush()
                break
            await channel.flush()
    print(channel.protocol.state.name, channel.protocol.close_sent)


import trio.testing  # noqa: E402

trio.run(main)
