"""One connection at a time in its opening handshake, per address (RFC 6455 section 4.1)."""

import asyncio
import threading
from typing import Any

import pytest

from wsapi._gate import Gate
from wsapi.asyncio.client import connect
from wsapi.asyncio.server import serve


def test_turns_are_taken_in_order() -> None:
    gate, came = Gate(), []
    assert gate.enter("a", lambda: came.append(0))
    assert gate.enter("b", lambda: came.append(9))
    for number in (1, 2):
        assert not gate.enter("a", lambda number=number: came.append(number))  # type: ignore[misc]
    assert came == []
    gate.leave("a")
    assert came == [1]
    gate.leave("a")
    assert came == [1, 2]
    gate.leave("a")
    assert gate.enter("a", lambda: came.append(3))
    assert came == [1, 2]


def test_who_gives_up_is_passed_over() -> None:
    gate, came = Gate(), []

    def second() -> None:
        came.append(2)

    assert gate.enter("a", lambda: None)
    assert not gate.enter("a", second)
    assert not gate.enter("a", lambda: came.append(3))
    gate.give_up("a", second)
    gate.leave("a")
    assert came == [3]


def test_who_gives_up_too_late_lets_the_next_one_pass() -> None:
    gate, came = Gate(), []

    def second() -> None:
        came.append(2)

    assert gate.enter("a", lambda: None)
    assert not gate.enter("a", second)
    assert not gate.enter("a", lambda: came.append(3))
    gate.leave("a")
    gate.give_up("a", second)
    assert came == [2, 3]


def test_threads_pass_one_by_one() -> None:
    gate, inside, most = Gate(), 0, 0

    def visit() -> None:
        nonlocal inside, most
        for _ in range(50):
            event = threading.Event()
            if not gate.enter("a", event.set):
                assert event.wait(10)
            inside += 1
            most = max(most, inside)
            inside -= 1
            gate.leave("a")

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


class Counting:
    """A server that counts how many opening handshakes it sees at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def process_request(self, connection: Any, request: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        self.now -= 1
        return connection.respond(403, "no\n") if request.path == "/refused" else None

    def serve(self) -> Any:
        async def handler(connection: Any) -> None:
            await connection.wait_closed()

        return serve(handler, "127.0.0.1", 0, process_request=self.process_request)


@pytest.mark.parametrize(("one", "most"), [(True, 1), (False, 4)])
async def test_handshakes_with_one_address(one: bool, most: int) -> None:
    counting = Counting()
    async with counting.serve() as server:
        port = server.sockets[0].getsockname()[1]
        connections = await asyncio.gather(
            *(connect(f"ws://127.0.0.1:{port}/", one_connecting=one) for _ in range(4))
        )
        for connection in connections:
            await connection.close()
    assert counting.most == most


async def test_failures_and_cancellation_let_others_pass() -> None:
    counting = Counting()
    async with counting.serve() as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def attempt(path: str) -> None:
            async with connect(url + path, one_connecting=True):
                pass

        paths = ["/refused", "/", "/", "/refused", "/"]
        tasks = [asyncio.create_task(attempt(path)) for path in paths]
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["InvalidStatus", "NoneType", "CancelledError", "InvalidStatus", "NoneType"]
    assert counting.most == 1


def test_wrong_type() -> None:
    with pytest.raises(TypeError, match="one_connecting must be a bool"):
        connect("ws://localhost/", one_connecting="yes")  # type: ignore[arg-type]
