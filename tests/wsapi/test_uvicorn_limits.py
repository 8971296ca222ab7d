"""Limits of the class for uvicorn: its door, rates, and what slow clients may cost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.wsapi.helpers import BINARY, CLOSE, TEXT, close_payload, frame, request, until
from tests.wsapi.uvicorn_helpers import accepted, client, echo_app, recording, serving_app
from wsapi._shared import door as door_module
from wsapi.asgi import ClientDisconnected
from wsapi.asyncio import _timer
from wsapi.exceptions import ConnectionClosed
from wsapi.limits import BufferBudget, Door, Rate, Slow, forwarded_for
from wsapi.uvicorn import WebSocketProtocol, stats


def limited(**attributes: Any) -> Any:
    return type("Limited", (WebSocketProtocol,), attributes)


async def refused(running: Any, handshake: bytes) -> Any:
    async with client(running, handshake) as (_, head):
        return head


async def test_max_connections() -> None:
    door = Door(max_connections=1, retry_after=7)
    async with serving_app(echo_app, limited(door=door)) as running:
        async with client(running, request()) as (peer, head):
            assert head.status == 101
            await until(lambda: not door.opening)
            head = await refused(running, request())
            assert head.status == 503
            assert head.get("Retry-After") == ["7"]
            assert head.get("Server") == ["uvicorn"]
            peer.write(TEXT, b"still here")
            assert await peer.read_message() == (TEXT, b"still here")
        await until(lambda: door.connections == 0)


async def test_address_from_a_header() -> None:
    door = Door(max_per_address=1, client_address=forwarded_for())
    async with serving_app(echo_app, limited(door=door)) as running:
        async with client(running, request(X_Forwarded_For="192.0.2.1")) as (_, head):
            assert head.status == 101
            head = await refused(running, request(X_Forwarded_For="192.0.2.1"))
            assert head.status == 429
            head = await refused(running, request(X_Forwarded_For="192.0.2.2"))
            assert head.status == 101
        await until(lambda: door.connections == 0)
        assert not door._per_address


async def test_refused_client_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "REFUSAL_TIMEOUT", 0.05)
    door = Door(max_per_address=0)
    async with serving_app(echo_app, limited(door=door)) as running:
        async with client(running, request()) as (_, head):
            assert head.status == 429
            await until(lambda: door._refusing == 0)
    assert door.connections == door.opening == 0


async def test_too_many_to_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_REFUSALS", 0)
    door = Door(max_connections=0)
    async with serving_app(echo_app, limited(door=door)) as running:
        with pytest.raises((EOFError, ConnectionError)):
            await refused(running, request())


async def test_messages_wait() -> None:
    ws = limited(message_rate=Rate(200, burst=2))
    async with serving_app(echo_app, ws) as running:
        async with client(running, request()) as (peer, _):
            messages = [b"%d" % number for number in range(20)]
            for message in messages:
                peer.write(TEXT, message)
            assert [await peer.read_message() for _ in messages] == [
                (TEXT, message) for message in messages
            ]


async def test_too_many_messages_close() -> None:
    ws = limited(message_rate=Rate(0.001, burst=1, exceeded="close"))
    async with serving_app(echo_app, ws) as running:
        async with client(running, request()) as (peer, _):
            peer.writer.write(2 * frame(TEXT, b"0", masked=True))
            while (message := await peer.read_message())[0] != CLOSE:
                pass
            assert message[1][:2] == close_payload(1008)


async def test_slow_client() -> None:
    """The application's ``send`` doesn't wait for it; others get their turn nevertheless."""
    dropped: list[int] = []

    def on_drop(connection: Any, number: int) -> None:
        assert isinstance(connection, WebSocketProtocol)
        dropped.append(number)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        number = 0
        while len(dropped) < 20:
            await send({"type": "websocket.send", "text": f"{number} ".ljust(65536, "x")})
            number += 1
        await send({"type": "websocket.close", "code": 1000, "reason": str(number)})

    ws = limited(slow=Slow.DROP_OLDEST, max_backlog=2**18, on_drop=on_drop)
    before = stats().dropped.get("drop oldest", 0)
    async with serving_app(app, ws) as running:
        async with client(running, request()) as (peer, _):
            await until(lambda: len(dropped) >= 20)
            received = []
            while (message := await peer.read_message())[0] != CLOSE:
                received.append(int(message[1].split()[0]))
            sent = int(message[1][2:])
            assert received == sorted(set(received))
            assert received[-1] == sent - 1
            assert sent - len(received) == sum(dropped)
            assert stats().dropped["drop oldest"] == before + sum(dropped)


async def test_write_deadline() -> None:
    ended: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
        except OSError as exc:
            ended.append(exc)

    async with serving_app(app, limited(write_deadline=0.1)) as running:
        async with client(running, request()):
            await until(lambda: ended)
            assert isinstance(ended[0].__cause__, ConnectionClosed)
            assert isinstance(ended[0].__cause__.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("attributes", "error", "text"),
    [
        ({"door": 1}, TypeError, "door must be a Door or None, not int"),
        ({"door": Door(proxy_protocol=True)}, ValueError, "proxy_protocol isn't possible here"),
        ({"message_rate": "1"}, TypeError, "message_rate must be a Rate, a number, or None"),
        ({"drain_spread": "5"}, TypeError, "drain_spread must be a number of seconds, not str"),
        ({"drain_spread": -1}, ValueError, "drain_spread must be 0 or more, and finite; got -1"),
        ({"drain_timeout": "5"}, TypeError, "drain_timeout must be a number of seconds, not str"),
        ({"byte_rate": 0}, ValueError, "byte_rate must be more than 0 per second"),
        ({"slow": "wait"}, TypeError, "slow must be a member of Slow"),
        ({"max_backlog": -1}, ValueError, "max_backlog must be 0 or more"),
        ({"write_deadline": 0}, ValueError, "write_deadline must be more than 0"),
        ({"on_drop": 1}, TypeError, "on_drop must be a callable"),
    ],
)
def test_attributes(attributes: dict[str, Any], error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        limited(**attributes)


async def test_buffer_budget() -> None:
    """Messages that the application doesn't take; those of another connection stay."""
    over = asyncio.Event()

    async def never_receives(scope: Any, receive: Any, send: Any) -> None:
        await accepted(receive, send)
        await over.wait()

    budget = BufferBudget(3 * 2**18, interval=0.01)
    before = stats().given_up.get("buffer_budget", 0)
    async with serving_app(never_receives, limited(buffer_budget=budget)) as running:
        async with (
            client(running, request()) as (modest, _),
            client(running, request()) as (peer, _),
        ):
            modest.write(BINARY, bytes(2**18))
            await until(lambda: budget.buffered_bytes > 2**18)
            for _ in range(3):
                peer.write(BINARY, bytes(2**18))
            opcode, payload = await peer.read_message()
            assert (opcode, payload[:2]) == (CLOSE, close_payload(1013))
            peer.write(CLOSE, payload)
            assert stats().given_up["buffer_budget"] == before + 1
            assert budget.buffered_bytes > 2**18
            over.set()
    assert not budget._seen
    await until(lambda: not any(_timer._budgets.values()))


async def test_a_budget_and_echoes_that_are_not_read() -> None:
    budget = BufferBudget(2**20, interval=0.01)
    app, seen = recording(echo_app)
    before = stats().given_up.get("buffer_budget", 0)
    async with serving_app(app, limited(buffer_budget=budget)) as running:
        async with client(running, request()) as (peer, _):
            with contextlib.suppress(RuntimeError):  # uvloop, when the server has closed it
                while stats().given_up.get("buffer_budget", 0) == before:
                    peer.write(BINARY, bytes(2**18))
                    await asyncio.sleep(0)
            await until(lambda: not running.state.tasks)
            assert isinstance(seen[-1], ClientDisconnected) or (
                seen[-1]["type"] == "websocket.disconnect" and seen[-1]["code"] in (1006, 1013)
            )
        assert stats().given_up["buffer_budget"] == before + 1
    assert not budget._seen
    assert not any(_timer._budgets.values())


def test_buffer_budget_is_checked() -> None:
    with pytest.raises(TypeError, match="buffer_budget must be a BufferBudget"):
        limited(buffer_budget=1)
