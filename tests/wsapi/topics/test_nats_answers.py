"""What the bus on NATS makes of answers that servers rarely give, without a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")
from nats import errors

from wsapi.topics._nats_connection import Connection
from wsapi.topics.exceptions import BusUnavailable


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """Give a connection without a server, whose bytes go nowhere."""
    reasons: list[Exception] = []
    connection: Any = Connection("p.r.x.", 100, lambda one, reason: reasons.append(reason))
    connection._opened = True
    connection._status = Connection.CONNECTED
    connection.reasons = reasons
    yield connection
    connection.abandon(OSError("end"))


def failing(connection: Any, error: Exception, *, lost: bool = False) -> Any:
    """Return what raises an error, perhaps when the connection was lost at the same time."""

    async def fail(*arguments: object) -> None:
        if lost:
            connection.abandon(OSError("lost"))
        raise error

    return fail


@pytest.mark.parametrize("lost", [False, True])
async def test_what_cannot_be_sent(lost: bool) -> None:
    """Nothing of it is waited for, and it is certain that it wasn't published."""
    with connected() as connection:
        connection.publish = failing(connection, errors.MaxPayloadError(), lost=lost)
        with pytest.raises(
            BusUnavailable, match=r"no connection to a NATS server: .*maximum payload"
        ):
            await connection.ask("a", b"x" * 60, 5, publishes=True)
        assert (connection._calls, connection._pending_bytes) == ({}, 0)
        assert connection.alive is not lost
        if not lost:
            with pytest.raises(BusUnavailable, match="maximum payload"):
                await connection.send("a", b"x")


async def test_call_that_is_cancelled_while_it_is_sent() -> None:
    """That the connection is lost later is no error that nobody has heard of."""
    with connected() as connection:
        sending = asyncio.Event()

        async def publish(*arguments: object) -> None:
            sending.set()
            await asyncio.Event().wait()

        connection.publish = publish
        call = asyncio.create_task(connection.ask("a", b"x", 5, publishes=True))
        await sending.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        connection.abandon(OSError("lost"))
    await asyncio.sleep(0)
