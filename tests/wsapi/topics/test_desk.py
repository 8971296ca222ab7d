"""Functions that threads have called one after the other."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.wsapi.helpers import checking_errors, logged_errors
from tests.wsapi.sync_helpers import PATIENCE, Spawned, eventually
from wsapi.topics._desk import Desk, Flag, Helper, Outcome, _begin_anew

NAME = "a desk of a test"


@pytest.fixture
def desk() -> Desk:
    return Desk(NAME, logging.getLogger("wsapi.topics"))


@pytest.fixture
def helper() -> Helper:
    return Helper(NAME, logging.getLogger("wsapi.topics"))


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_the_main_thread_has_another_one_do_it(desk: Desk) -> None:
    assert desk.call(threading.get_ident) != threading.get_ident()
    assert not desk.mine
    spawned = Spawned(lambda: (desk.call(threading.get_ident), threading.get_ident()))
    there, own = spawned.result()
    assert there == own


def fail() -> None:
    raise ZeroDivisionError


def test_what_a_function_raises(desk: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        desk.call(fail)
    with pytest.raises(ZeroDivisionError):
        Spawned(desk.call, fail).result()
    assert desk.call(len, "abc") == 3


def test_a_function_that_calls(desk: Desk) -> None:
    """What it calls is done at once; what it posts, when it has ended."""
    done: list[Any] = []

    def function() -> None:
        assert desk.mine
        desk.post(done.append, "posted")
        desk.call(done.append, "called")
        done.append("end")

    for call in (desk.call, lambda *args: Spawned(desk.call, *args).result()):
        call(function)
        assert done == ["called", "end", "posted"]
        done.clear()


def test_posting_waits_for_nobody(desk: Desk) -> None:
    entered, leave = threading.Event(), threading.Event()
    done: list[str] = []

    def function() -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        done.append("first")

    first = Spawned(desk.call, function)
    assert entered.wait(PATIENCE)
    desk.post(done.append, "by the main thread")
    Spawned(desk.post, done.append, "by another one").result()
    desk.post_to_helper(done.append, "by the helper")
    waiting = Spawned(desk.call, done.append, "in its turn")
    assert done == []
    leave.set()
    first.result()
    waiting.result()
    eventually(lambda: len(done) == 5)
    assert done[0] == "first"
    posted = [text for text in done if text.startswith("by")]
    assert posted == ["by the main thread", "by another one", "by the helper"]


def test_what_comes_meanwhile_is_left_to_the_helper(desk: Desk) -> None:
    """Whoever posts goes on after what was there then, whatever is posted meanwhile."""
    done: list[tuple[str, int]] = []

    def function() -> None:
        done.append(("first", threading.get_ident()))
        desk.post(lambda: done.append(("second", threading.get_ident())))

    def work() -> int:
        desk.post(function)
        return threading.get_ident()

    own = Spawned(work).result()
    eventually(lambda: len(done) == 2)
    (_, first), (_, second) = done
    assert first == own
    assert second != own


def test_what_was_posted_fails(desk: Desk) -> None:
    with checking_errors():
        desk.post(fail)
        assert desk.call(len, "abc") == 3
        Spawned(desk.post, fail).result()
        eventually(lambda: not len(desk))
        desk.call(len, "")
        logged_errors("topics failed", "topics failed")


def test_one_at_a_time_and_all_of_them(desk: Desk) -> None:
    inside = 0
    calls = 0

    def function() -> None:
        nonlocal inside, calls
        inside += 1
        assert inside == 1
        calls += 1
        inside -= 1

    def work() -> None:
        for _ in range(500):
            desk.call(function)
            desk.post(function)

    threads = [Spawned(work) for _ in range(4)]
    work()
    for thread in threads:
        thread.result()
    eventually(lambda: calls == 5 * 1000)
    assert not len(desk)


def test_a_helper_is_there_while_there_is_something_to_do(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    for round_ in range(3):
        for number in range(100):
            helper.post(done.append, number)
        eventually(lambda: len(done) == 100)
        assert done == list(range(100))
        done.clear()
        if round_:
            eventually(lambda: not helpers())
    assert not len(helper)


def test_a_helper_from_many_threads(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind by one that ends just now."""
    monkeypatch.setattr("wsapi.topics._desk.LINGER", 0.0)
    done: list[int] = []

    def work() -> None:
        for number in range(200):
            helper.post(done.append, number)
            if number % 20 == 0:
                eventually(lambda: not len(helper))

    threads = [Spawned(work) for _ in range(3)]
    for thread in threads:
        thread.result()
    eventually(lambda: len(done) == 600)
    eventually(lambda: not helpers())


def test_a_helper_that_fails(helper: Helper) -> None:
    done = threading.Event()
    with checking_errors():
        helper.post(fail)
        helper.post(done.set)
        assert done.wait(PATIENCE)
        logged_errors("topics failed")


def test_no_more_threads(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever posts does it, then: at the end of the interpreter, say."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    helper.post(done.append, 1)
    helper.post(done.append, 2)
    assert done == [1, 2]
    desk = Desk(NAME, logging.getLogger("wsapi.topics"))
    assert desk.call(len, "abc") == 3


def test_flags() -> None:
    flag = Flag()
    assert not flag.wait(0)
    flag.set()
    flag.set()
    assert flag.wait()
    assert not flag.wait(0.001)


def test_outcomes() -> None:
    outcome: Outcome[int] = Outcome()
    with pytest.raises(TimeoutError):
        outcome.wait(0.001)
    outcome.take(len, "abc")
    assert outcome.wait() == 3


async def test_outcomes_of_coroutines() -> None:
    async def square(number: int) -> int:
        return number * number // number

    outcome: Outcome[int] = Outcome()
    await outcome.take_later(square(3))
    assert outcome.wait() == 3
    outcome = Outcome()
    await outcome.take_later(square(0))
    with pytest.raises(ZeroDivisionError):
        outcome.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_process() -> None:
    """Neither threads nor locks of the other one are waited for, nor is their work done again."""
    source = """
import logging, os, threading, warnings
from wsapi.topics._desk import Desk

warnings.simplefilter("ignore", DeprecationWarning)
desk = Desk("a desk of a test", logging.getLogger("wsapi.topics"))
entered, leave = threading.Event(), threading.Event()

def function():
    entered.set()
    leave.wait()

holder = threading.Thread(target=desk.call, args=(function,))
holder.start()
entered.wait()
done = []
desk.post(done.append, "of the parent")
pid = os.fork()
leave.set()
print(desk.call(lambda: done), flush=True)
if pid:
    print(os.waitpid(pid, 0)[1])
"""
    process = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=PATIENCE
    )
    assert sorted(process.stdout.splitlines()) == ["0", "['of the parent']", "[]"]
    assert process.stderr == ""


def test_what_a_forked_process_forgets(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that aren't there have the lock, and seem to work."""
    monkeypatch.setattr("wsapi.topics._desk._begun", {desk, desk._helper})
    done: list[str] = []
    desk._lock.acquire()
    desk._helper._awake = True
    desk.post(done.append, "of the parent")
    _begin_anew()
    assert desk.call(lambda: list(done)) == []
