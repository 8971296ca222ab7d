"""Values of types on connections, type-checked by ``mypy --strict`` and never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import msgspec
import orjson
import pydantic

import wsapi.asyncio.client
import wsapi.asyncio.server
import wsapi.sync.client
import wsapi.trio.client
from wsapi.asyncio.typed import TypedConnection
from wsapi.codecs import JSON, Codec, DecodeError, codec
from wsapi.sync.typed import TypedConnection as SyncTypedConnection
from wsapi.trio.typed import TypedConnection as TrioTypedConnection


class Command(msgspec.Struct):
    name: str


class Reply(pydantic.BaseModel):
    text: str


@dataclass
class Pair:
    """A codec of one's own."""

    text: bool | None = None

    def encode(self, value: Reply) -> bytes:
        return value.model_dump_json().encode()

    def decode(self, message: bytes) -> Command:
        return Command(message.decode())


commands = codec(msgspec.json.encode, msgspec.json.Decoder(Command).decode, text=True)
binary = codec(msgspec.msgpack.encode, msgspec.msgpack.Decoder(Command).decode)
replies = codec(
    pydantic.TypeAdapter(Reply).dump_json, pydantic.TypeAdapter(Reply).validate_json, text=True
)
anything = codec(orjson.dumps, orjson.loads, text=True)
own: Codec[Reply, Command] = Pair()
assert_type(commands, Codec[Any, Command])
assert_type(binary, Codec[Any, Command])
assert_type(replies, Codec[Reply, Reply])
assert_type(anything, Codec[Any, Any])


async def handler(connection: wsapi.asyncio.server.ServerConnection) -> None:
    typed = TypedConnection(connection, Pair(), on_error="close")
    assert_type(typed, TypedConnection[Reply, Command])
    async for command in typed:
        assert_type(command, Command)
        await typed.send(Reply(text=command.name))
        await typed.send(command)  # type: ignore[arg-type]
    assert_type(await typed.recv(), Command)
    await typed.connection.send("raw")
    wsapi.asyncio.server.broadcast([connection], JSON.encode({"a": 1}), text=JSON.text)


async def client() -> None:
    async with wsapi.asyncio.client.connect("ws://127.0.0.1/") as connection:
        await connection.send_json({"any": "thing"})
        assert_type(await connection.recv_json(), Any)
        assert_type(await connection.recv_json(codec=commands, on_error="raise"), Command)
        await connection.send_json(Reply(text=""), codec=own)
        await connection.send_json(Command(""), codec=own)  # type: ignore[misc]
        await connection.recv_json(on_error="ignore")  # type: ignore[call-overload]
        both: TypedConnection[Any, Reply] = TypedConnection(connection, replies)
        try:
            assert_type(await both.recv(), Reply)
        except DecodeError as exc:
            assert_type(exc.message, str | bytes)
            assert_type(exc.reason, str)


async def trio_client() -> None:
    async with wsapi.trio.client.connect("ws://127.0.0.1/") as connection:
        await connection.send_json([1])
        assert_type(await connection.recv_json(codec=replies), Reply)
        typed = TrioTypedConnection(connection, replies)
        await typed.send(Reply(text=""))
        async for reply in typed:
            assert_type(reply, Reply)


def sync_client() -> None:
    with wsapi.sync.client.connect("ws://127.0.0.1/") as connection:
        connection.send_json([1])
        assert_type(connection.recv_json(), Any)
        assert_type(connection.recv_json(5), Any)
        assert_type(connection.recv_json(5, codec=commands), Command)
        assert_type(connection.recv_json(timeout=5, codec=replies, on_error="close"), Reply)
        typed = SyncTypedConnection(connection, commands)
        assert_type(typed.recv(1), Command)
        for command in typed:
            assert_type(command, Command)
