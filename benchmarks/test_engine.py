"""Micro-benchmarks of the engine beside the sans-I/O layers of websockets and wsproto.

``python -m pytest benchmarks/test_engine.py --benchmark-only``. Each benchmark is checked for
correctness once, before anything is timed. ``extra_info`` holds messages/s and payload bytes/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import wsproto
import wsproto.connection
import wsproto.events
import wsproto.frame_protocol
from pytest_benchmark.fixture import BenchmarkFixture
from websockets.frames import Opcode
from websockets.protocol import Protocol as WebsocketsProtocol
from websockets.protocol import Side as WebsocketsSide
from websockets.protocol import State as WebsocketsState
from websockets.server import ServerProtocol as WebsocketsServer
from websockets.speedups import apply_mask as websockets_apply_mask

import wsproto_fast
import wsproto_fast.wsproto

from . import data

SMALL = 16
LARGE = 1 << 16
NONCE = bytes(range(16))
REQUEST = data.upgrade_request(80, NONCE)
COUNTS = {SMALL: 1000, LARGE: 16}  # messages in one call of receive_data, or sent before output

Message = str | bytes
Receive = Callable[[bytes], list[Message]]
Send = Callable[[list[Message]], bytes]


def report(benchmark: BenchmarkFixture, messages: int, size: int) -> None:
    """Add rates to the results, from the median; nothing when timing is disabled."""
    if benchmark.stats is None:
        return
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["messages_per_second"] = round(messages / seconds)
    benchmark.extra_info["bytes_per_second"] = round(messages * size / seconds)


# --- receiving: one call with many masked frames -> all messages


def receive_ours_queue() -> Receive:
    """Our engine as the front-ends use it: a queue of messages."""
    protocol = wsproto_fast.ServerProtocol(state=wsproto_fast.State.OPEN)
    protocol.queue_messages(None, max_bytes=None)

    def receive(wire: bytes) -> list[Message]:
        protocol.receive_data(wire)
        messages = []
        while (message := protocol.next_message()) is not None:
            messages.append(message)
        return messages

    return receive


def receive_ours_events() -> Receive:
    """Our engine in the way of a sans-I/O library: a list of frames."""
    protocol = wsproto_fast.ServerProtocol(state=wsproto_fast.State.OPEN)
    text = wsproto_fast.Opcode.TEXT

    def receive(wire: bytes) -> list[Message]:
        protocol.receive_data(wire)
        frames: list[Any] = protocol.events_received()
        return [bytes(f.data).decode() if f.opcode is text else f.data for f in frames]

    return receive


def receive_websockets() -> Receive:
    """Frames of websockets, which leaves decoding to its front-ends."""
    protocol = WebsocketsServer(state=WebsocketsState.OPEN)

    def receive(wire: bytes) -> list[Message]:
        protocol.receive_data(wire)
        frames: list[Any] = protocol.events_received()
        return [bytes(f.data).decode() if f.opcode is Opcode.TEXT else f.data for f in frames]

    return receive


def receive_as_wsproto(package: Any) -> Receive:
    """Message events of a connection of wsproto, or with its interface, after its handshake."""
    connection = package.WSConnection(package.ConnectionType.SERVER)
    connection.receive_data(REQUEST)
    next(iter(connection.events()))
    connection.send(package.events.AcceptConnection())

    def receive(wire: bytes) -> list[Message]:
        connection.receive_data(wire)
        return [event.data for event in connection.events()]

    return receive


def receive_ours_wsproto() -> Receive:
    """Message events of our engine with the interface of wsproto."""
    return receive_as_wsproto(wsproto_fast.wsproto)


def receive_wsproto() -> Receive:
    """Message events of wsproto."""
    return receive_as_wsproto(wsproto)


RECEIVERS = {
    "ours-queue": receive_ours_queue,
    "ours-events": receive_ours_events,
    "ours-wsproto": receive_ours_wsproto,
    "websockets": receive_websockets,
    "wsproto": receive_wsproto,
}


@pytest.mark.parametrize("engine", RECEIVERS)
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_receive(benchmark: BenchmarkFixture, kind: str, size: int, engine: str) -> None:
    benchmark.group = f"receive {kind} {size}"
    count = COUNTS[size]
    payloads = data.payloads(count, size)
    opcode = data.TEXT if kind == "text" else data.BINARY
    wire = b"".join(
        data.frame(opcode, payload, key)
        for payload, key in zip(payloads, data.masking_keys(count), strict=True)
    )
    receive = RECEIVERS[engine]()
    expected = [payload.decode() if kind == "text" else payload for payload in payloads]
    assert receive(wire) == expected
    benchmark(receive, wire)
    report(benchmark, count, size)


# --- sending: many messages -> the bytes to write


def send_ours(is_client: bool) -> Send:
    """Our engine as the front-ends use it."""
    side = wsproto_fast.Side.CLIENT if is_client else wsproto_fast.Side.SERVER
    protocol = wsproto_fast.Protocol(side, state=wsproto_fast.State.OPEN)

    def send(messages: list[Message]) -> bytes:
        for message in messages:
            protocol.send(message)
        return b"".join(protocol.data_to_send())

    return send


def send_websockets(is_client: bool) -> Send:
    """The protocol of websockets."""
    side = WebsocketsSide.CLIENT if is_client else WebsocketsSide.SERVER
    protocol = WebsocketsProtocol(side, state=WebsocketsState.OPEN)

    def send(messages: list[Message]) -> bytes:
        for message in messages:
            if isinstance(message, str):
                protocol.send_text(message.encode())
            else:
                protocol.send_binary(message)
        return b"".join(protocol.data_to_send())

    return send


def send_as_wsproto(package: Any, is_client: bool) -> Send:
    """The connection of wsproto, or one with its interface."""
    kind = package.connection.ConnectionType
    connection = package.connection.Connection(kind.CLIENT if is_client else kind.SERVER)
    text, binary = package.events.TextMessage, package.events.BytesMessage

    def send(messages: list[Message]) -> bytes:
        return b"".join(
            connection.send(
                text(data=message) if isinstance(message, str) else binary(data=message)
            )
            for message in messages
        )

    return send


def send_ours_wsproto(is_client: bool) -> Send:
    """Our engine with the interface of wsproto."""
    return send_as_wsproto(wsproto_fast.wsproto, is_client)


def send_wsproto(is_client: bool) -> Send:
    """The connection of wsproto."""
    return send_as_wsproto(wsproto, is_client)


SENDERS = {
    "ours": send_ours,
    "ours-wsproto": send_ours_wsproto,
    "websockets": send_websockets,
    "wsproto": send_wsproto,
}


def unmasked(wire: bytes, size: int) -> bytes:
    """Turn frames of a client into the same frames of a server."""
    head = len(data.frame(data.BINARY, bytes(size))) - size
    step = head + 4 + size
    frames = [wire[at : at + step] for at in range(0, len(wire), step)]
    return b"".join(
        frame[:1]
        + bytes([frame[1] & 0x7F])
        + frame[2:head]
        + data.mask(frame[head + 4 :], frame[head : head + 4])
        for frame in frames
    )


@pytest.mark.parametrize("engine", SENDERS)
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_send(benchmark: BenchmarkFixture, side: str, kind: str, size: int, engine: str) -> None:
    benchmark.group = f"send {kind} {size}, {side}"
    count = COUNTS[size]
    payloads = data.payloads(count, size)
    opcode = data.TEXT if kind == "text" else data.BINARY
    messages: list[Message] = [p.decode() if kind == "text" else p for p in payloads]
    send = SENDERS[engine](side == "client")
    wire = send(messages)
    if side == "client":
        wire = unmasked(wire, size)
    assert wire == b"".join(data.frame(opcode, payload) for payload in payloads)
    benchmark(send, messages)
    report(benchmark, count, size)


# --- masking


def mask_wsproto(payload: bytes, key: bytes) -> bytes:
    return bytes(wsproto.frame_protocol.XorMaskerSimple(key).process(bytearray(payload)))


MASKERS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "ours": wsproto_fast.apply_mask,
    "websockets": websockets_apply_mask,
    "wsproto": mask_wsproto,
}


@pytest.mark.parametrize("engine", MASKERS)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_mask(benchmark: BenchmarkFixture, size: int, engine: str) -> None:
    benchmark.group = f"mask {size}"
    payload, key = data.payloads(1, size)[0], data.masking_keys(1)[0]
    apply = MASKERS[engine]
    assert bytes(apply(payload, key)) == data.mask(payload, key)
    benchmark(apply, payload, key)
    report(benchmark, 1, size)


# --- opening handshake of a server: a request -> the response


def handshake_ours() -> bytes:
    """Accept a request with our engine."""
    protocol = wsproto_fast.ServerProtocol()
    protocol.receive_data(REQUEST)
    request: Any = protocol.events_received()[0]
    protocol.send_response(protocol.accept(request))
    return b"".join(protocol.data_to_send())


def handshake_websockets() -> bytes:
    """Accept a request with websockets."""
    protocol = WebsocketsServer()
    protocol.receive_data(REQUEST)
    request: Any = protocol.events_received()[0]
    protocol.send_response(protocol.accept(request))
    return b"".join(protocol.data_to_send())


def handshake_as_wsproto(package: Any) -> bytes:
    """Accept a request with wsproto, or with its interface."""
    connection = package.WSConnection(package.ConnectionType.SERVER)
    connection.receive_data(REQUEST)
    next(iter(connection.events()))
    response: bytes = connection.send(package.events.AcceptConnection())
    return response


def handshake_ours_wsproto() -> bytes:
    """Accept a request with our engine and the interface of wsproto."""
    return handshake_as_wsproto(wsproto_fast.wsproto)


def handshake_wsproto() -> bytes:
    """Accept a request with wsproto."""
    return handshake_as_wsproto(wsproto)


HANDSHAKES = {
    "ours": handshake_ours,
    "ours-wsproto": handshake_ours_wsproto,
    "websockets": handshake_websockets,
    "wsproto": handshake_wsproto,
}


@pytest.mark.parametrize("engine", HANDSHAKES)
def test_handshake(benchmark: BenchmarkFixture, engine: str) -> None:
    benchmark.group = "opening handshake, server"
    handshake = HANDSHAKES[engine]
    response = handshake()
    assert response.startswith(b"HTTP/1.1 101 ")
    assert data.accept_key(NONCE) in response
    benchmark(handshake)
    report(benchmark, 1, len(REQUEST))
