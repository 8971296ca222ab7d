"""WebSocket over a stream of HTTP/2 (RFC 8441): the engine starts in the state OPEN.

HTTP/2 opens the stream with an extended CONNECT: there is no upgrade, and nothing is negotiated
again on the stream. So whoever has the stream makes a protocol that is open already, and moves
bytes. The same goes for HTTP/3, tunnels, and sockets that were upgraded by another program.

Server and client run in one process and talk over a socket; h2 (from PyPI) does HTTP/2.

Usage: over_http2.py [MESSAGE...]
"""

import asyncio
import sys

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes

from wsproto_fast import Frame, Opcode, Protocol, Side, State


class Stream:
    """The WebSocket on one stream of an HTTP/2 connection."""

    def __init__(self, http: h2.connection.H2Connection, stream_id: int, side: Side) -> None:
        self.http = http
        self.stream_id = stream_id
        self.unsent = bytearray()
        # With extensions that the headers of CONNECT agreed on: protocol.extensions = [...]
        self.protocol = Protocol(side, state=State.OPEN)

    def flush(self) -> None:
        """Put on the stream what the protocol has to send, as far as flow control allows."""
        ends = False
        for data in self.protocol.data_to_send():
            self.unsent += data
            ends = not data
        while self.unsent and (room := self.http.local_flow_control_window(self.stream_id)) > 0:
            size = min(room, self.http.max_outbound_frame_size, len(self.unsent))
            self.http.send_data(self.stream_id, bytes(self.unsent[:size]))
            del self.unsent[:size]
        if ends and not self.unsent:
            self.http.end_stream(self.stream_id)

    def receive(self, data: bytes) -> list[str]:
        """Give received bytes to the protocol; return the messages."""
        self.protocol.receive_data(data)
        return [
            bytes(event.data).decode()
            for event in self.protocol.events_received()
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT
        ]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept extended CONNECTs and echo on their streams."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    http.initiate_connection()
    http.update_settings({SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
    streams: dict[int, Stream] = {}
    writer.write(http.data_to_send())
    while data := await reader.read(65536):
        for event in http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = dict(event.headers)
                if headers.get(b":protocol") == b"websocket":
                    http.send_headers(event.stream_id, [(":status", "200")])
                    streams[event.stream_id] = Stream(http, event.stream_id, Side.SERVER)
                else:
                    http.send_headers(event.stream_id, [(":status", "404")], end_stream=True)
            elif isinstance(event, h2.events.DataReceived):
                http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                stream = streams[event.stream_id]
                for message in stream.receive(event.data):
                    stream.protocol.send(message)
            elif isinstance(event, h2.events.StreamEnded):
                streams.pop(event.stream_id).protocol.receive_eof()
            elif isinstance(event, h2.events.ConnectionTerminated):
                writer.close()
                return
        for stream in streams.values():
            stream.flush()
        writer.write(http.data_to_send())
        await writer.drain()
    writer.close()


async def talk(host: str, port: int, messages: list[str]) -> None:
    """Send messages, print what comes back, close."""
    reader, writer = await asyncio.open_connection(host, port)
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    stream: Stream | None = None
    received = 0
    writer.write(http.data_to_send())
    while data := await reader.read(65536):
        for event in http.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged) and stream is None:
                stream = Stream(http, http.get_next_available_stream_id(), Side.CLIENT)
                request = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
                request += [(":authority", f"{host}:{port}"), (":path", "/")]
                request += [("sec-websocket-version", "13")]
                http.send_headers(stream.stream_id, request)
            elif isinstance(event, h2.events.ResponseReceived):
                assert stream is not None
                for message in messages:
                    stream.protocol.send(message)
            elif isinstance(event, h2.events.DataReceived):
                assert stream is not None
                http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                for message in stream.receive(event.data):
                    print(message)
                    received += 1
                if received == len(messages) and stream.protocol.state is State.OPEN:
                    stream.protocol.close()
            elif isinstance(event, h2.events.StreamEnded):
                assert stream is not None
                stream.protocol.receive_eof()
                stream.protocol.connection_lost(None)
                stream.flush()
                print(stream.protocol.close_exc)
                http.close_connection()
                stream = None
        if stream is not None:
            stream.flush()
        writer.write(http.data_to_send())
    writer.close()


async def main(messages: list[str]) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        await talk(host, port, messages or ["Hello!"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
