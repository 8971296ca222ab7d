"""What the two sides of a connection do, and what they tell about it afterwards.

Both sides send numbered messages, check those that they receive, and end the connection as the
case says. `judge` compares what they tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cases import Case, Side, number_of
from tests.wsapi.conformance.driver import Cancelled
from wsapi.exceptions import ConnectionClosed

CLOSED = ("ConnectionClosedOK", "ConnectionClosedError")
# How long an impatient side waits at most.
IMPATIENCE = 0.02


@dataclass
class Account:
    """What one side tells, without a reference to what it has used.

    Attributes:
        sent: Messages that were sent: ``send`` has returned.
        unsure: Messages whose sending was given up or failed.
        received: Numbers in the order in which they came.
        end: How receiving ended: the class of the exception; "" if it hasn't.
        failure: What shouldn't happen at all.
        closed: It closed the connection before it knew that the other did.
        opened: The opening handshake was done.
        opening: Why it wasn't.
        done: The side is through.
    """

    sent: list[int] = field(default_factory=list)
    unsure: set[int] = field(default_factory=set)
    received: list[int] = field(default_factory=list)
    end: str = ""
    codes: str = ""
    failure: str = ""
    closed: bool = False
    opened: bool = False
    opening: str = ""
    done: bool = False
    doing: str = ""


def describe(exc: BaseException) -> str:
    cause = f" from {exc.__cause__!r}" if exc.__cause__ is not None else ""
    return f"{type(exc).__module__}.{type(exc).__name__}: {exc}{cause}"


def is_closed(exc: BaseException) -> bool:
    return type(exc).__name__ in CLOSED


class Party:
    """One side of a connection.

    Args:
        driver: Driver of the runtime that it runs in.
        ws: Its connection.
        case: The case.
        side: Which side it is.
        account: What it tells.
    """

    def __init__(self, driver: Any, ws: Any, case: Case, side: Side, account: Account) -> None:
        self.driver, self.ws, self.case, self.account = driver, ws, case, account
        self.side: Side = side
        self.other: Side = "server" if side == "client" else "client"
        self.impatient = side in case.impatient
        self.dice = random.Random(f"{case.seed} {side} party")
        self.expected = case.messages[self.other]
        self.all_received = driver.event()

    async def run(self) -> None:
        account, case = self.account, self.case
        account.opened = True
        receiver = self.driver.spawn(self.receive())
        account.doing = "sending"
        await self.send_all()
        if case.ending == f"{self.side} abandons" and not account.end:
            with contextlib.suppress(OSError):  # it is lost already
                self.ws.lose()
        elif case.ending in (self.side, f"{self.side} early", "both", "client cancelled"):
            if not case.ending.endswith("early"):
                account.doing = "waiting for messages"
                await self.all_received.wait()
            account.doing = "closing"
            account.closed = not account.end
            await self.ws.close()
        account.doing = "waiting for the end"
        await self.wait_for(receiver)
        account.doing = "closing at the end"
        await self.ws.close()
        account.doing = ""

    async def wait_for(self, task: Any) -> None:
        # A driver's timeout for this is shorter than some of the limits here.
        while not await task.ended(5):
            pass
        await task

    # ------------------------------------------------------------------ sending

    async def send_all(self) -> None:
        account = self.account
        for number in range(self.case.messages[self.side]):
            if self.side in self.case.slow:
                await self.driver.sleep(self.dice.random() * 0.05)
            account.unsure.add(number)
            try:
                if self.dice.random() < 0.2:
                    await self.ping()
                if await self.send(number):
                    account.unsure.remove(number)
                    account.sent.append(number)
            except Exception as exc:
                if not is_closed(exc):
                    raise
                return

    async def send(self, number: int) -> bool:
        message = self.case.message(self.side, number)
        if message.fragments is not None and self.ws.fragments:
            await self.ws.send(message.fragments)
            return True
        if self.impatient and self.driver.package != "sync":
            async with impatience(self.driver, self.dice) as scope:
                await self.ws.send(message.data)
            return not scope.given_up
        await self.ws.send(message.data)
        return True

    async def ping(self) -> None:
        pong = await self.ws.ping()
        if pong is not None and self.driver.package != "sync" and self.dice.random() < 0.5:
            # On trio nobody sets the event of a Ping that isn't answered.
            async with impatience(self.driver, self.dice):
                await pong.wait()

    # ------------------------------------------------------------------ receiving

    async def receive(self) -> None:
        account = self.account
        try:
            while True:
                try:
                    timeout = self.dice.random() * IMPATIENCE if self.impatient else None
                    self.check(await self.ws.recv(timeout=timeout))
                except TimeoutError:
                    continue
                if self.side in self.case.slow:
                    await self.driver.sleep(self.dice.random() * 0.05)
        except Exception as exc:
            account.end = type(exc).__name__
            account.codes = describe(exc)
            if not is_closed(exc):
                account.failure = account.failure or f"receiving raised {describe(exc)}"
            elif wrong := self.ws.wrong_codes(exc):
                account.failure = wrong
        finally:
            self.all_received.set()

    def check(self, data: Any) -> None:
        number = number_of(data, self.other)
        if number < 0 or self.case.message(self.other, number).data != data:
            self.account.failure = f"received something that wasn't sent: {data[:40]!r}"
        self.account.received.append(number)
        if len(self.account.received) == self.expected:
            self.all_received.set()


class Scope:
    given_up = False


@contextlib.asynccontextmanager
async def impatience(driver: Any, dice: random.Random) -> AsyncIterator[Scope]:
    """Cancel what is inside after a moment."""
    scope = Scope()
    seconds = dice.random() * IMPATIENCE
    if driver.package == "trio":
        import trio

        with trio.move_on_after(seconds) as limit:
            yield scope
        scope.given_up = limit.cancelled_caught
    else:
        try:
            async with asyncio.timeout(seconds):
                yield scope
        except TimeoutError:
            scope.given_up = True


# ---------------------------------------------------------------------- connections


class End:
    """A connection of any library, as parties use it."""

    fragments = True

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.send, self.recv, self.close = ws.send, ws.recv, ws.close
        self.ping, self.lose = ws.ping, ws.lose

    def wrong_codes(self, exc: Any) -> str:
        """Tell what is wrong about the codes that an exception and the connection report."""
        codes = [close and close.code for close in (exc.rcvd, exc.sent)]
        clean = all(code in (1000, 1001, 1005) for code in codes)
        if clean is not (type(exc).__name__ == "ConnectionClosedOK"):
            return f"wrong exception for {codes}: {describe(exc)}"
        if self.ws.close_code != (codes[0] or 1006):
            return f"close_code is {self.ws.close_code}, the Close frame said {codes[0]}"
        return ""


class AppEnd:
    """A connection of an ASGI application."""

    fragments = False
    driver: Any

    def __init__(self, receive: Any, send: Any) -> None:
        self.asgi_receive, self.asgi_send = receive, send
        self.finished = False

    async def send(self, data: Any) -> None:
        key = "text" if isinstance(data, str) else "bytes"
        try:
            await self.asgi_send({"type": "websocket.send", key: data})
        except OSError as exc:
            raise ConnectionClosedError from exc
        except RuntimeError as exc:
            if self.finished:
                raise ConnectionClosedError from exc
            raise

    async def recv(self, timeout: float | None) -> Any:
        async with asyncio.timeout(timeout):
            try:
                event = await self.asgi_receive()
            except ConnectionClosed as exc:
                raise AssertionError(f"an exception out of receive(): {describe(exc)}") from exc
        if event["type"] == "websocket.disconnect":
            code = event["code"]
            raise (ConnectionClosedOK if code in (1000, 1001) else ConnectionClosedError)(code)
        assert event["type"] == "websocket.receive"
        data = event.get("bytes")
        return event["text"] if data is None else data

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        if not self.finished:
            self.finished = True
            with contextlib.suppress(OSError):
                await self.asgi_send({"type": "websocket.close", "code": 1000})

    def wrong_codes(self, exc: Any) -> str:
        return ""


class ConnectionClosedOK(Exception):
    """What an application makes of a disconnect event."""


class ConnectionClosedError(Exception):
    """What an application makes of a disconnect event."""


# ---------------------------------------------------------------------- sides


async def run_server(driver: Any, end: Any, case: Case, account: Account) -> None:
    """Serve a connection."""
    try:
        await Party(driver, end, case, "server", account).run()
    except Exception as exc:
        account.failure = account.failure or f"the handler failed: {describe(exc)}"
    finally:
        account.done = True


async def run_client(
    driver: Any, port: int, case: Case, account: Account, options: dict[str, Any]
) -> None:
    """Connect, and use the connection."""
    task = driver.spawn(_client(driver, port, case, account, options))
    try:
        if case.ending == "client cancelled" and driver.package != "sync":
            await driver.sleep(random.Random(case.seed).random() * 0.6)
            task.cancel()
        while not await task.ended(5):
            pass
        await task
    except Cancelled:
        account.closed = True
        account.unsure |= set(range(case.messages["client"])) - set(account.sent)
        account.end = account.end or "cancelled"
    finally:
        account.done = True


async def _client(
    driver: Any, port: int, case: Case, account: Account, options: dict[str, Any]
) -> None:
    from tests.wsapi.conformance.driver import Ws

    uri = f"ws{'s' * case.tls}://127.0.0.1:{port}/{case.seed}"
    account.doing = "connecting"
    try:
        async with driver.connect(uri, **options) as ws:
            assert isinstance(ws, Ws)
            await Party(driver, End(ws), case, "client", account).run()
    except Exception as exc:
        if account.opened:
            account.failure = account.failure or f"the client failed: {describe(exc)}"
        else:
            account.opening = describe(exc)
            if not isinstance(exc, (OSError, driver.opening_errors)):
                account.failure = f"connecting raised {describe(exc)}"


# ---------------------------------------------------------------------- the judge


def judge(case: Case, accounts: dict[Side, Account], fired: bool) -> list[tuple[str, str]]:
    """Return what was wrong: kinds and descriptions."""
    wrong: list[tuple[str, str]] = []
    ours: list[Side] = ["client", "server"] if case.peer == "ours" else [case.role]
    for side in ours:
        account = accounts[side]
        if account.failure:
            wrong.append(("wrong", f"{side}: {account.failure}"))
        elif account.opened and not account.end:
            wrong.append(("wrong", f"{side}: receiving hasn't ended"))
    for side, other in (("client", "server"), ("server", "client")):
        wrong += _judge_messages(side, accounts[side], accounts[other])
    if (not fired and not case.harmful) or case.kind in ("delay", "bytes", "splits"):
        wrong += _judge_unharmed(case, accounts)
    return wrong


def _judge_messages(side: Any, here: Account, there: Account) -> list[tuple[str, str]]:
    wrong = []
    received = here.received
    if received != sorted(set(received)):
        wrong.append(("reordered", f"{side} received {received}"))
    if received:
        missing = set(range(max(received))) - set(received) - there.unsure
        if missing:
            wrong.append(("lost", f"{side} received {received}, but not {sorted(missing)}"))
    if here.end == "ConnectionClosedOK" and not here.closed:
        missing = set(there.sent) - set(received)
        if missing:
            wrong.append(("lost", f"{side} received {received} and OK, but not {sorted(missing)}"))
    return wrong


def _judge_unharmed(case: Case, accounts: dict[Side, Account]) -> list[tuple[str, str]]:
    """Nothing came in the way: all has arrived, and both sides know that all is well."""
    wrong = []
    if case.ending == "client cancelled" or "abandons" in case.ending:
        return []
    for side, account in accounts.items():
        other: Side = "server" if side == "client" else "client"
        if not account.opened:
            wrong.append(("wrong", f"{side} hasn't opened the connection: {account.opening}"))
        elif account.end != "ConnectionClosedOK":
            wrong.append(("wrong", f"{side} ended by {account.codes}"))
        elif not case.ending.endswith("early"):
            missing = set(accounts[other].sent) - set(account.received)
            if missing and account.closed:
                wrong.append(("lost", f"{side} has not received {sorted(missing)}"))
    return wrong
