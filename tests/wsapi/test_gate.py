"""One connection at a time in its opening handshake, per address (RFC 6455 section 4.1)."""

import asyncio
import threading

from wsapi._shared.gate import Gate


def test_turns_are_taken_in_order() -> None:
    gate, came = Gate(), []
    assert gate.enter("a", lambda: came.append(0))
    assert gate.enter("b", lambda: came.append(9))
    for number in (1, 2):
        assert not gate.enter("a", lambda number=number: came.append(number))  # type: ignore[misc] # mypy can't infer it
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


def test_who_cannot_come_any_more_is_passed_over() -> None:
    gate, came = Gate(), []
    loop = asyncio.new_event_loop()
    loop.close()
    assert gate.enter("a", lambda: None)
    for _ in range(2):
        assert not gate.enter("a", lambda: loop.call_soon_threadsafe(came.append, 2) and None)
    assert not gate.enter("a", lambda: came.append(3))
    assert not gate.enter("a", lambda: loop.call_soon_threadsafe(came.append, 4) and None)
    gate.leave("a")
    assert came == [3]
    gate.leave("a")
    assert gate.enter("a", lambda: None)


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
