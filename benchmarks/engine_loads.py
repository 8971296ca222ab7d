"""What the engine alone does, without sockets: loads for `instructions`.

``python -m benchmarks.engine_loads NAME:COUNT:WINDOWS ...`` does each load COUNT times, then
WINDOWS times that again, and calls ``getpgrp()`` between them, where callgrind writes down what was
executed.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import wsproto_fast
from wsapi.extensions.permessage_deflate import enable_server_permessage_deflate

from . import data

SIZE: Final = 64
NONCE: Final = bytes(range(16))
REQUEST: Final = data.upgrade_request(80, NONCE)
OFFER: Final = data.upgrade_request(80, NONCE, data.OFFER)
KEY: Final = b"\x12\x34\x56\x78"
BATCH: Final = 64  # frames that arrive together
NOW: Final = 1.0

Run: TypeAlias = "Callable[[], object]"


def opened(side: wsproto_fast.Side) -> Any:
    """Return an engine after the opening handshake, with the queue that front-ends use."""
    protocol = wsproto_fast.Protocol(side, state=wsproto_fast.State.OPEN)
    protocol.queue_messages(None, max_bytes=None)
    return protocol


def receive(frames: int) -> Run:
    """Receive masked frames of 64 B, so many in one call, and take the messages."""
    protocol = opened(wsproto_fast.Side.SERVER)
    wire = data.frame(data.BINARY, b"x" * SIZE, KEY) * frames

    def run() -> None:
        protocol.receive_data(wire)
        for _ in range(frames):
            if len(protocol.next_message()) != SIZE:
                raise ValueError("not the message")

    return run


def send(side: wsproto_fast.Side) -> Run:
    """Send a binary message of 64 B, and take the bytes to write."""
    protocol = opened(side)
    message = b"x" * SIZE
    size = len(data.frame(data.BINARY, message, KEY if side is wsproto_fast.Side.CLIENT else None))

    def run() -> None:
        protocol.send(message)
        if sum(map(len, protocol.data_to_send())) != size:
            raise ValueError("not the frame")

    return run


def accepted(offer: bytes, extensions: Any = None) -> Any:
    """Return a server's engine that has accepted a request."""
    protocol = wsproto_fast.ServerProtocol(extensions=extensions)
    protocol.receive_data(offer)
    request: Any = protocol.events_received()[0]
    protocol.send_response(protocol.accept(request))
    if not b"".join(protocol.data_to_send()).startswith(b"HTTP/1.1 101 "):
        raise ValueError("the request was refused")
    return protocol


def handshake() -> Run:
    """Accept a request without extensions."""
    return lambda: accepted(REQUEST)


def close() -> Run:
    """Accept a request, then receive Close, and answer it."""
    wire = data.frame(data.CLOSE, b"\x03\xe8", KEY)

    def run() -> None:
        protocol = accepted(REQUEST)
        protocol.receive_data(wire)
        if b"".join(protocol.data_to_send()) != data.frame(data.CLOSE, b"\x03\xe8"):
            raise ValueError("not the answer")

    return run


def deflate() -> Run:
    """Receive a compressed message of 1 KiB of JSON, and send it back, compressed."""
    protocol = accepted(OFFER, enable_server_permessage_deflate(None))
    protocol.queue_messages(None, max_bytes=None)
    texts = data.json_payloads(64, 1024)
    compressor = data.new_compressor(12)
    first = [data.compress(compressor, text) for text in texts]
    again = [data.compress(compressor, text) for text in texts]
    opcode = data.TEXT | data.COMPRESSED
    wires = iter(
        [data.frame(opcode, payload, KEY) for payload in first]
        + [data.frame(opcode, payload, KEY) for payload in again] * 1000
    )

    def run() -> None:
        protocol.receive_data(next(wires))
        protocol.send(protocol.next_message())
        if not protocol.data_to_send():
            raise ValueError("nothing to send")

    return run


@dataclass(frozen=True)
class EngineLoad:
    """A load.

    Args:
        make: Returns what is done.
        times: How often it is done in a window.
        messages: Messages, or connections, each time.
    """

    make: Callable[[], Run]
    times: int
    messages: int = 1


LOADS: Final = {
    "receive-64": EngineLoad(lambda: receive(1), 500),
    f"receive-{BATCH}x64": EngineLoad(lambda: receive(BATCH), 20, BATCH),
    "send-64": EngineLoad(lambda: send(wsproto_fast.Side.SERVER), 500),
    "client-send-64": EngineLoad(lambda: send(wsproto_fast.Side.CLIENT), 500),
    "deflate-echo-1k": EngineLoad(deflate, 64),
    "handshake": EngineLoad(handshake, 100),
    "handshake-and-close": EngineLoad(close, 100),
}


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    for argument in arguments:
        name, count, windows = argument.split(":")
        run = LOADS[name].make()
        gc.collect()
        for window in range(int(windows) + 2):
            if window != 1:  # where nothing is done between two calls
                for _ in range(int(count)):
                    run()
            os.getpgrp()


if __name__ == "__main__":
    main(sys.argv[1:])
