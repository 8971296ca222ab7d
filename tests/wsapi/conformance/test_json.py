"""Values instead of messages: ``send_json`` and ``recv_json``, and connections with types."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws
from tests.wsapi.helpers import BINARY, CONT, TEXT, frame, request
from wsapi.codecs import JSON, DecodeError, codec
from wsapi.exceptions import (
    ConcurrencyError,
    ConnectionClosedError,
    ConnectionClosedOK,
    PayloadTooBig,
)

VALUES = [
    None,
    True,
    0,
    -1.5,
    2**70,
    "",
    "é\u2028😀",
    'say "hi"\n',
    [],
    {},
    {"a": [1, {"b": None}], "": "x" * 5000},
]


async def send_json(ws: Ws, value: Any, **options: Any) -> None:
    await ws.driver.call(ws.raw.send_json, value, **options)


async def recv_json(ws: Ws, *args: Any, **options: Any) -> Any:
    return await ws.driver.call(ws.raw.recv_json, *args, **options)


class Typed:
    """A connection with types of any front-end."""

    def __init__(self, ws: Ws, *args: Any, **options: Any) -> None:
        module = importlib.import_module(f"{ws.driver.client.__package__}.typed")
        self.driver = ws.driver
        self.raw = module.TypedConnection(ws.raw, *args, **options)

    async def send(self, value: Any) -> None:
        await self.driver.call(self.raw.send, value)

    async def recv(self, *args: Any) -> Any:
        return await self.driver.call(self.raw.recv, *args)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.driver.iterator(self.raw)


class TestJson:
    async def test_values(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for value in VALUES:
                await send_json(client, value)
                assert await recv_json(server) == value
                await send_json(server, value)
                assert await recv_json(client) == value

    async def test_what_is_sent(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await send_json(client, {"a": [1, 2], "b": "é"})
            assert await server.recv() == '{"a":[1,2],"b":"é"}'

    async def test_binary_messages_and_blanks(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for message in ('{"a": "é"}'.encode(), ' {"a" : "é"}\n'):
                await client.send(message)
                assert await recv_json(server) == {"a": "é"}

    @pytest.mark.parametrize(
        "value", [object(), {1, 2}, b"bytes", float("nan"), [float("-inf")], {(): 1}, "\ud800"]
    )
    async def test_what_cannot_be_sent(self, driver: Driver, value: Any) -> None:
        async with driver.pair() as (client, server):
            with pytest.raises((TypeError, ValueError)):
                await send_json(client, value)
            await send_json(client, "after")
            assert await recv_json(server) == "after"

    @pytest.mark.parametrize(
        "message",
        [
            "",
            "{",
            "nothing",
            "[1, NaN]",
            "-Infinity",
            "1 2",
            "{'a': 1}",
            b"\xff\xfe1\x00",
            b"\xff",
            "\ufeff1",
            "[" * 200_000,
            "1" * 10_000,
        ],
        ids=lambda message: repr(message)[:12],
    )
    async def test_bad_data_raises(self, driver: Driver, message: str | bytes) -> None:
        async with driver.pair() as (client, server):
            await client.send(message)
            await send_json(client, "after")
            with pytest.raises(DecodeError) as caught:
                await recv_json(server)
            assert caught.value.message == message
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value.__cause__, Exception)
            assert await recv_json(server) == "after"

    async def test_what_is_said_of_bad_data(self, driver: Driver) -> None:
        """One line that isn't long, whatever a library writes about the message."""

        def refuse(message: str) -> Any:
            raise LookupError(f"1 error\n{message}" if message else "x" * 1000)

        async with driver.pair() as (client, server):
            for message, reason in [
                ("secret", "LookupError: 1 error"),
                ("", "LookupError: " + "x" * 187 + "..."),
            ]:
                await client.send(message)
                with pytest.raises(DecodeError) as caught:
                    await recv_json(server, codec=codec(str, refuse))
                assert caught.value.reason == reason
                assert str(caught.value).endswith(f": {reason}")

    async def test_reasons_that_cannot_be_shown(self, driver: Driver) -> None:
        """Of what a peer has a codec raise, too."""
        numbers = codec(str, lambda message: {}[int.from_bytes(message)])
        async with driver.pair() as (client, server):
            for _ in range(2):
                await client.send(b"\xff" * 2000)  # more digits than Python makes a str of
            with pytest.raises(DecodeError, match=r"2000 bytes: KeyError$"):
                await recv_json(server, codec=numbers)
            closing = driver.spawn(recv_json(server, codec=numbers, on_error="close"))
            with pytest.raises(ConnectionClosedError) as seen:
                await client.recv()
            assert seen.value.rcvd is not None
            assert seen.value.rcvd.code == 1007
            with pytest.raises(ConnectionClosedError):
                await closing

    @pytest.mark.parametrize("encoded", [["a", "b"], ["a", b"b"], iter("ab"), None, {}, 1])
    async def test_codec_that_returns_no_message(self, driver: Driver, encoded: Any) -> None:
        """An iterable isn't sent in fragments, which might fail half-way."""
        async with driver.pair() as (client, server):
            kind = type(encoded).__name__
            with pytest.raises(TypeError, match=f"must encode to str or bytes, not {kind}$"):
                await send_json(client, 1, codec=codec(lambda _: encoded, str))
            for message in (b"a", bytearray(b"b"), memoryview(b"c")):
                await send_json(client, message, codec=codec(lambda value: value, str))
            assert [await server.recv() for _ in range(3)] == [b"a", b"b", b"c"]

    async def test_bad_data_closes(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send("nothing")
            closing = driver.spawn(recv_json(server, on_error="close"))
            with pytest.raises(ConnectionClosedError) as seen:
                await client.recv()
            with pytest.raises(ConnectionClosedError) as caught:
                await closing
            assert isinstance(caught.value.__cause__, DecodeError)
            assert caught.value.__cause__.message == "nothing"
            assert str(seen.value) == (
                "received 1007 (invalid frame payload data) message can't be decoded; "
                "then sent 1007 (invalid frame payload data) message can't be decoded"
            )
            with pytest.raises(ConnectionClosedError):
                await recv_json(server)

    async def test_a_peer_that_does_not_answer_the_close(self, driver: Driver) -> None:
        """It takes no longer than ``close_timeout``."""
        outcome: list[BaseException] = []

        async def handler(ws: Ws) -> None:
            try:
                await recv_json(ws, on_error="close")
            except ConnectionClosedError as exc:
                outcome.append(exc)

        async with driver.serve(handler, close_timeout=0.1) as server:
            async with driver.raw_client(server) as peer:
                await peer.send(frame(TEXT, b"nothing", masked=True))
                await driver.until(lambda: outcome)
        (closed,) = outcome
        assert isinstance(closed, ConnectionClosedError)
        assert closed.rcvd is None
        assert closed.sent is not None
        assert closed.sent.code == 1007
        assert isinstance(closed.__cause__, DecodeError)

    async def test_closed_by_the_peer_before(self, driver: Driver) -> None:
        """A proper end doesn't hide that the last message was bad."""
        async with driver.pair() as (client, server):
            await client.send("nothing")
            await client.close()
            await server.wait_closed()
            with pytest.raises(DecodeError):
                await recv_json(server, on_error="close")
            with pytest.raises(ConnectionClosedOK):
                await recv_json(server, on_error="close")

    async def test_fragments_and_limits(self, driver: Driver) -> None:
        async def handler(ws: Ws) -> None:
            await send_json(ws, await recv_json(ws))
            with pytest.raises(ConnectionClosedError) as caught:
                await recv_json(ws)
            assert isinstance(caught.value.__cause__, PayloadTooBig)
            done.set()

        done = driver.event()
        data = '["é"]'.encode()
        async with driver.serve(handler, max_size=100, close_timeout=0.1) as server:
            async with driver.raw_client(server) as peer:
                # The message is cut inside of a character.
                await peer.send(frame(TEXT, data[:3], fin=False, masked=True))
                await peer.send(frame(CONT, data[3:], masked=True))
                assert (await peer.read())[1] == data
                await peer.send(frame(TEXT, b'"' + b"a" * 101, masked=True))
                await done.wait()

    async def test_only_one_receiver(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            first = driver.spawn(recv_json(server))
            await driver.settle()
            with pytest.raises(ConcurrencyError, match=f"another {driver.caller}"):
                await recv_json(server)
            await send_json(client, 1)
            assert await first == 1

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for number in range(20):
                receiving = driver.spawn(recv_json(server))
                if number % 2:
                    await driver.settle()
                await send_json(client, number)
                if await receiving.cancelled():
                    assert await recv_json(server) == number
                else:
                    assert await receiving == number

    @pytest.mark.not_on("sync", reason="threads can't be cancelled")
    async def test_cancelled_while_it_closes(self, driver: Driver) -> None:
        """The closing handshake goes on without whoever has begun it."""
        gone = driver.event()

        async def handler(ws: Ws) -> None:
            receiving = driver.spawn(recv_json(ws, on_error="close"))
            await driver.until(lambda: ws.close_code is not None or ws.protocol.close_sent)
            assert await receiving.cancelled()
            await ws.wait_closed()
            gone.set()

        async with driver.serve(handler, close_timeout=0.2) as server:
            async with driver.raw_client(server) as peer:
                await peer.send(frame(TEXT, b"nothing", masked=True))
                await gone.wait()

    @pytest.mark.not_on("asyncio", "uvloop", "trio", reason="they are cancelled from outside")
    async def test_timeout(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            for timeout in (0, 0.01):
                with pytest.raises(TimeoutError):
                    await recv_json(server, timeout)
            await send_json(client, 1)
            assert await recv_json(server, 10) == 1

    async def test_bad_choice(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await send_json(client, 1)
            with pytest.raises(ValueError, match="on_error must be 'raise' or 'close', not 'no'"):
                await recv_json(server, on_error="no")
            with pytest.raises(ValueError, match="on_error must be 'raise' or 'close', not 'no'"):
                Typed(server, JSON, on_error="no")
            assert await recv_json(server) == 1

    async def test_handler_that_is_told(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a peer sends makes no line with level ERROR if it closes the connection."""
        caplog.set_level(logging.INFO)

        async def handler(ws: Ws) -> None:
            while True:
                await recv_json(ws, on_error="close")

        async with driver.serve(handler) as server:
            async with driver.connect(server) as ws:
                await ws.send("nothing")
                with pytest.raises(ConnectionClosedError):
                    await ws.recv()
            await driver.until(lambda: not server.accepted)
        assert not [r for r in caplog.records if r.levelno > logging.INFO]

    async def test_nothing_waits_for_the_garbage_collector(self, driver: Driver) -> None:
        import gc
        import weakref

        class Kept(str):
            __slots__ = ("__weakref__",)

        async with driver.pair() as (client, server):
            await client.send("nothing")
            kept: list[weakref.ref[Any]] = []

            def refuse(message: str) -> Any:
                own = Kept(message)
                kept.append(weakref.ref(own))
                raise ValueError(own)

            gc.disable()
            try:
                try:
                    await recv_json(server, codec=codec(str, refuse))
                except DecodeError:
                    pass
                await driver.settle()
                assert [ref() for ref in kept] == [None]
            finally:
                gc.enable()


@dataclasses.dataclass
class Point:
    x: int
    y: int


POINTS = codec(
    lambda point: json.dumps(dataclasses.astuple(point)).encode(),
    lambda message: Point(*json.loads(message)),
    text=True,
)


class TestCodecs:
    async def test_arguments_of_the_methods(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await send_json(client, Point(1, 2), codec=POINTS)
            assert await recv_json(server, codec=POINTS) == Point(1, 2)
            await send_json(client, Point(1, 2), codec=POINTS)
            assert await server.recv() == "[1, 2]"

    @pytest.mark.parametrize(
        "encode, text, opcode",
        [
            (str, None, TEXT),
            (str, False, BINARY),
            (str.encode, None, BINARY),
            (str.encode, True, TEXT),
        ],
    )
    async def test_text_or_binary(
        self, driver: Driver, encode: Any, text: bool | None, opcode: int
    ) -> None:
        async def handler(ws: Ws) -> None:
            await send_json(ws, "é", codec=codec(encode, str, text=text))

        async with driver.serve(handler) as server:
            async with driver.raw_client(server, request()) as peer:
                assert await peer.read_message() == (opcode, "é".encode())

    async def test_typed(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            sender, receiver = Typed(client, POINTS), Typed(server, POINTS)
            assert sender.raw.connection is client.raw
            assert sender.raw.codec is POINTS
            assert sender.raw.on_error == "raise"
            assert repr(client.raw) in repr(sender.raw)
            await sender.send(Point(1, 2))
            assert await receiver.recv() == Point(1, 2)
            await sender.send(Point(3, 4))
            assert await server.recv() == "[3, 4]"
            for number in range(3):
                await sender.send(Point(number, 0))
            await client.close()
            assert [point async for point in receiver] == [Point(n, 0) for n in range(3)]

    async def test_iteration_goes_on_behind_bad_data(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            receiver = Typed(server, POINTS)
            for message in ("[1, 2]", "[3]", "[5, 6]"):
                await client.send(message)
            await client.close()
            seen = []
            with pytest.raises(DecodeError, match="can't decode text message of 3 characters"):
                async for point in receiver:
                    seen.append(point)
            async for point in receiver:
                seen.append(point)
            assert seen == [Point(1, 2), Point(5, 6)]

    async def test_iteration_ends_with_the_connection(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            await client.send("[1, 2]")
            await client.send("nothing")
            receiving = driver.spawn(collected(Typed(server, POINTS, on_error="close")))
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            with pytest.raises(ConnectionClosedError):
                await receiving

    async def test_lost(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            client.lose()
            with pytest.raises(ConnectionClosedError):
                await collected(Typed(server, POINTS))
            with pytest.raises(ConnectionClosedError):
                await Typed(server, POINTS).send(Point(1, 2))

    @pytest.mark.not_on("asyncio", "uvloop", "trio", reason="they are cancelled from outside")
    async def test_timeout(self, driver: Driver) -> None:
        async with driver.pair() as (client, server):
            with pytest.raises(TimeoutError):
                await Typed(server, POINTS).recv(0.01)
            await Typed(client, POINTS).send(Point(1, 2))
            assert await Typed(server, POINTS).recv(10) == Point(1, 2)


async def collected(typed: Typed) -> list[Any]:
    return [value async for value in typed]
