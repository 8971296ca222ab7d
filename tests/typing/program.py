"""Typical programs, type-checked by ``mypy --strict`` and never run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import assert_type

import wsapi.sync.client
import wsapi.sync.server
import wsapi.trio.client
import wsapi.trio.server
import wsproto_fast
from wsapi.asyncio.client import ClientConnection, connect, unix_connect
from wsapi.asyncio.server import Server, ServerConnection, serve, unix_serve
from wsapi.exceptions import ConnectionClosed, InvalidStatus, PayloadTooBig
from wsapi.http11 import Request, Response
from wsapi.typing import ExtensionParameter, Origin, Subprotocol
from wsapi.uri import parse_uri
from wsproto_fast import Frame, Opcode, PreparedMessage, Side, State, activity


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        assert_type(message, str | bytes)
        await connection.send(message)


def check(connection: ServerConnection, request: Request) -> Response | None:
    if request.headers.get("X-Key") is None:
        return connection.respond(403, "no key\n")
    return None


async def check_later(connection: ServerConnection, request: Request) -> Response | None:
    await asyncio.sleep(0)
    return check(connection, request)


async def server() -> None:
    async with serve(handler, "127.0.0.1", 0, process_request=check, max_size=None) as running:
        assert_type(running, Server)
        await running.serve_forever()
    running = await serve(handler, "127.0.0.1", 0, process_request=check_later)
    running.drain_on_signal(15, timeout=None, spread=1.5)
    await running.drain(30, 5, code=1012, retry_after=2)
    await running.draining.wait()
    running.close(code=1001, reason="bye")
    await running.wait_closed()


async def words() -> AsyncIterator[str]:
    yield "in "
    yield "fragments"


async def client() -> None:
    async with connect("ws://127.0.0.1/", open_timeout=5, additional_headers={"X": "y"}) as ws:
        assert_type(ws, ClientConnection)
        await ws.send("text")
        await ws.send(b"bytes")
        await ws.send(bytearray(b"text"), text=True)
        await ws.send(["in ", "fragments"])
        await ws.send(words())
        assert_type(await ws.recv(), str | bytes)
        assert_type(await ws.recv(decode=True), str)
        assert_type(await ws.recv(decode=False), bytes)
        async for fragment in ws.recv_streaming():
            assert_type(fragment, str | bytes)
        latency = await (await ws.ping())
        assert_type(latency, float)
        await ws.close(1000, "done")

    try:
        await connect("ws://127.0.0.1/")
    except InvalidStatus as exc:
        assert_type(exc.response.status_code, int)
    except ConnectionClosed as exc:
        if exc.rcvd is not None:
            assert_type(exc.rcvd.code, int)


class Upper:
    """An extension, and the factory of both sides."""

    name = "x-upper"

    def encode(self, frame: Frame) -> Frame:
        return dataclasses.replace(frame, data=bytes(frame.data).upper(), rsv1=True)

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if max_size is not None and len(frame.data) > max_size:
            raise PayloadTooBig(len(frame.data), max_size)
        return dataclasses.replace(frame, rsv1=False)

    def get_request_params(self) -> list[ExtensionParameter]:
        return [("level", "9")]

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Upper]
    ) -> Upper:
        return self

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Upper]
    ) -> tuple[list[ExtensionParameter], Upper]:
        return [], self


class StrictServer(wsproto_fast.ServerProtocol):
    def process_origin(self, headers: wsproto_fast.Headers) -> Origin | None:
        raise NotImplementedError


def engine(data: bytearray, now: float) -> None:
    headers = wsproto_fast.Headers()
    headers["Upgrade"] = "websocket"
    assert_type(headers["upgrade"], str)
    assert_type(wsproto_fast.__version__, str)

    client = wsproto_fast.ClientProtocol(parse_uri("ws://127.0.0.1/"), extensions=[Upper()])
    client.send_request(client.connect())
    server = StrictServer(extensions=[Upper()], subprotocols=[Subprotocol("chat")])
    for event in server.events_received():
        assert_type(event, Frame | Request | Response)
        if isinstance(event, Request):
            server.send_response(server.accept(event), now)
        elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
            assert_type(event.data, bytes | bytearray | memoryview)
    assert_type(server.state, State)
    assert_type(server.close_exc, ConnectionClosed)

    protocol = wsproto_fast.Protocol(Side.SERVER, max_size=(None, 2**16))
    protocol.queue_messages(high=None)
    if protocol.receive_data(data, now) & activity.MESSAGE:
        assert_type(protocol.next_message(), str | bytes | None)
        assert_type(protocol.next_message(True), str | None)
        assert_type(protocol.next_message(decode=False), bytes | None)
        assert_type(protocol.next_fragment(), tuple[str | bytes, bool] | None)
        assert_type(protocol.next_fragment(True), tuple[str, bool] | None)
    protocol.get_buffer()[:2] = b"\x81\x00"
    protocol.send_prepared(PreparedMessage("to many"))
    protocol.ping(waiter=asyncio.Event(), now=now)
    assert_type(protocol.data_to_send(), list[bytes])
    assert_type(wsproto_fast.apply_mask(memoryview(data), b"\x00\x01\x02\x03"), bytes)


async def options() -> None:
    """Options are known at the place of the call, those of sockets, too."""
    await connect("ws://127.0.0.1/", ping_interval=None, happy_eyeballs_delay=0.1)
    await connect("ws://127.0.0.1/", ping_intervall=1)  # type: ignore[call-arg] # mypy must see it
    await connect("ws://127.0.0.1/", max_queue="16")  # type: ignore[arg-type] # mypy must see it
    await unix_connect("/run/socket", additional_headers=[("X", "y")], max_size=(None, 2**16))
    await unix_connect("/run/socket", port="1")  # type: ignore[arg-type] # mypy must see it
    await serve(handler, port=0, reuse_port=True, origins=[Origin("http://a"), None])
    await serve(handler, server_header=1)  # type: ignore[arg-type] # mypy must see it
    await unix_serve(handler, "/run/socket", process_request=check_later, write_limit=(1, None))
    signature = ServerConnection(
        wsproto_fast.ServerProtocol(),
        await serve(handler),
        max_queue=(16, None),
        close_timeout=1.5,
    )
    assert_type(signature.request, Request | None)


def threads() -> None:
    def handler(connection: wsapi.sync.server.ServerConnection) -> None:
        for message in connection:
            assert_type(message, str | bytes)
            connection.send(message)

    with wsapi.sync.client.connect("ws://127.0.0.1/", open_timeout=5) as ws:
        assert_type(ws, wsapi.sync.client.ClientConnection)
        assert_type(ws.recv(timeout=1), str | bytes)
        assert_type(ws.recv(None, True), str)
    wsapi.sync.client.connect("ws://127.0.0.1/", write_limit=1)  # type: ignore[call-overload] # mypy must see it
    with wsapi.sync.server.serve(handler, "127.0.0.1", 0, ssl=None) as running:
        running.serve_forever()


async def tasks() -> None:
    async def handler(connection: wsapi.trio.server.ServerConnection) -> None:
        async for message in connection:
            assert_type(message, str | bytes)
            await connection.send(message)

    async with wsapi.trio.client.connect("ws://127.0.0.1/", ping_timeout=5) as ws:
        assert_type(ws, wsapi.trio.client.ClientConnection)
        assert_type(await ws.recv(decode=False), bytes)
        async for fragment in ws.recv_streaming(True):
            assert_type(fragment, str)
        await ws.aclose()
    wsapi.trio.client.connect("ws://127.0.0.1/", sock=None)  # type: ignore[call-arg] # mypy must see it
    await wsapi.trio.server.serve(handler, 0, host="127.0.0.1", process_request=None)
