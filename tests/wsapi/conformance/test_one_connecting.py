"""One connection at a time in its opening handshake, per address (RFC 6455 section 4.1)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Cancelled, Driver, Ws, until_closed
from wsapi.exceptions import InvalidStatus
from wsapi.http11 import Request


class Counting:
    """A server's callback that counts how many opening handshakes it sees at the same time."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.now = self.most = 0

    async def process_request(self, ws: Ws, request: Request) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.driver.sleep(0.02)
        self.now -= 1
        return ws.respond(403, "no\n") if request.path == "/refused" else None


@pytest.mark.parametrize("one", [True, False])
async def test_handshakes_with_one_address(driver: Driver, one: bool) -> None:
    counting = Counting(driver)
    async with driver.serve(until_closed, process_request=counting.process_request) as server:
        attempts = [driver.attempt(server, one_connecting=one) for _ in range(4)]
        await driver.gather(*attempts)
    assert counting.most == 1 if one else counting.most > 1


async def test_failures_let_others_pass(driver: Driver) -> None:
    await check_failures(driver, cancelled=False)


@pytest.mark.not_on("sync", reason="threads can't be cancelled")
async def test_cancellations_let_others_pass(driver: Driver) -> None:
    await check_failures(driver, cancelled=True)


async def check_failures(driver: Driver, *, cancelled: bool) -> None:
    counting = Counting(driver)
    async with driver.serve(until_closed, process_request=counting.process_request) as server:
        paths = ["/refused", "/", "/", "/refused", "/"]
        tasks = [
            driver.spawn(driver.attempt(server.uri(path), one_connecting=True)) for path in paths
        ]
        if cancelled:
            await driver.sleep(0.01)
            tasks[2].cancel()
        outcomes = []
        for task in tasks:
            try:
                outcomes.append(await task)
            except (InvalidStatus, Cancelled) as exc:
                outcomes.append(type(exc))
    expected = [InvalidStatus, None, Cancelled if cancelled else None, InvalidStatus, None]
    assert outcomes == expected
    # The server doesn't know that a client gave up while its request was processed.
    assert counting.most <= 1 + cancelled


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
async def test_address_that_is_not_looked_up(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    counting = Counting(driver)
    callbacks = {"process_request": counting.process_request}
    async with driver.unix_serve(until_closed, path, **callbacks):

        async def attempt() -> None:
            async with driver.unix_connect(path, "ws://h.invalid/", one_connecting=True):
                pass

        await driver.gather(*(attempt() for _ in range(4)))
    assert counting.most == 1


async def test_timeout_while_waiting_for_its_turn(driver: Driver) -> None:
    gate, waiting = driver.event(), driver.event()

    async def process_request(_ws: Ws, _request: Request) -> None:
        waiting.set()
        await gate.wait()

    async with driver.serve(until_closed, process_request=process_request) as server:
        first = driver.spawn(driver.attempt(server, one_connecting=True))
        await waiting.wait()
        with pytest.raises(TimeoutError, match="timed out"):
            await driver.attempt(server, one_connecting=True, open_timeout=0.05)
        gate.set()
        await first
        await driver.attempt(server, one_connecting=True)


def test_wrong_type(driver: Driver) -> None:
    with pytest.raises(TypeError, match="one_connecting must be a bool"):
        driver.connector_class("ws://localhost/", one_connecting="yes")
