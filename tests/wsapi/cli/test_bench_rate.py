"""wsapi bench at a rate: what is sent when, and what is late."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.cli.bench_helpers import bench, parse
from tests.wsapi.cli.servers import on_threads
from wsapi.cli import _bench
from wsapi.cli._bench_load import Load, Plan, Result, _Dues
from wsapi.cli._terminal import Status
from wsapi.exceptions import ConnectionClosedOK


class TestRate:
    @pytest.mark.parametrize("rate", ["200", "10k"])
    def test_what_is_due(
        self, echo_uri: str, rate: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, told = bench(
            echo_uri, "--rate", rate, "-d", "0.5", "--warmup", "0.1", capsys=capsys
        )
        assert status == 0
        # As many as there should be: the schedule doesn't depend on how fast anything is.
        per_second = told["settings"]["rate"]
        assert told["due"] == pytest.approx(per_second * told["seconds"], rel=0.02, abs=3)
        assert told["messages"] + told["unsent"] + told["unanswered"] == told["due"]
        assert sum(row["count"] for row in told["histogram"]) == told["due"]

    def test_a_number_of_messages(self) -> None:
        [plan] = _bench.plans(parse("ws://localhost/", "--rate", "100", "--messages", "250"))
        assert (plan.seconds, plan.messages) == (2.5, None)

    def test_a_server_that_stands_still(self, capsys: pytest.CaptureFixture[str]) -> None:
        # For the last part of the time it answers nothing. Each message that was due meanwhile has
        # waited, and the later it was due the shorter.
        still = 0.5

        def handler(connection: Any) -> None:
            connection.send(connection.recv())
            time.sleep(still)
            for message in connection:
                connection.send(message)

        with on_threads(handler) as uri:
            options = ("-c", "1", "--rate", "200", "-d", "0.4", "--warmup", "0")
            status, told = bench(uri, *options, capsys=capsys)
        assert status == 0
        waited = [row["to"] for row in told["histogram"] for _ in range(row["count"])]
        assert len(waited) == told["due"]
        # Nearly all of those 80 were due in the first 0.4 s of 0.5 s.
        late = [seconds for seconds in waited if seconds > 0.1]
        assert len(late) >= told["due"] - 3
        assert max(late) >= still - 0.1

    def test_dues(self) -> None:
        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(3, rate=10.0))
            load.lanes = [object()] * 3  # type: ignore[list-item] # only their number matters
            for rate, together in ((10.0, 1), (4000.0, 1), (4001.0, 2), (1e6, 250)):
                dues = _Dues(load, rate)
                assert dues.together == together
                assert dues.step == pytest.approx(together / rate * 1e9)

        asyncio.run(run())

    def test_times_that_are_far_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever keeps time looks now and then whether it is over, and has nothing sent early."""
        monkeypatch.setattr("wsapi.cli._bench_load.TICK", 0.001)

        async def run() -> None:
            dues = _Dues(Load("ws://localhost/", {}, Plan(1, rate=4.0)), 4.0)
            asked: list[int] = []

            def call(callback: object) -> None:
                asked.append(time.perf_counter_ns())
                dues.stop()

            dues._loop = SimpleNamespace(call_soon_threadsafe=call)  # type: ignore[assignment]
            dues.start()
            dues._thread.join()
            assert len(asked) == 1
            assert asked[0] - dues.begun >= 0.25e9

        asyncio.run(run())

    def test_event_loop_that_is_closed(self) -> None:
        async def make() -> _Dues:
            return _Dues(Load("ws://localhost/", {}, Plan(1, rate=1000.0)), 1000.0)

        dues = asyncio.run(make())
        dues.begun = time.perf_counter_ns()
        dues._keep_time()  # it returns

    def test_what_was_due_before_an_answer(self) -> None:
        """It is sent when the answer makes room for it, and no more than that."""
        sent: list[Any] = []

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0, warmup=0))
            lane = SimpleNamespace(number=0, sent=2, received=0, open=True)
            lane.to_come, lane.to_send = iter([b"one", b"two"]), iter([b"three", b"four"])
            lane.connection = SimpleNamespace(send_nowait=sent.append)
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            dues.next = 3
            on_message = load._in_time(dues, lane)  # type: ignore[arg-type]
            on_message(b"one")
            assert (sent, lane.sent) == ([b"three"], 3)
            on_message(b"two")
            assert (sent, lane.sent) == ([b"three"], 3)

        asyncio.run(run())

    def test_wrong_answers(self, capsys: pytest.CaptureFixture[str]) -> None:
        def handler(connection: Any) -> None:
            for place, message in enumerate(connection):
                connection.send(message if place < 5 else message[:-1] + b"?")

        with on_threads(handler) as uri:
            options = ("-c", "1", "--rate", "500", "-d", "40", "--warmup", "0")
            status, told = bench(uri, *options, capsys=capsys)
        assert status == Status.FAILURE
        assert "an answer on connection 1 differs at 63" in told["wrong"]
        assert told["seconds"] < 40

    @pytest.mark.parametrize("verify", [True, False])
    def test_answers_that_differ(self, verify: bool) -> None:
        """The first one ends it, if they are compared; others are none of its messages."""

        async def run() -> Load:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0, verify=verify, warmup=0))
            lane = SimpleNamespace(number=0, sent=2, received=0, open=True)
            lane.to_come = iter([b"one", b"two"])
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            on_message = load._in_time(dues, lane)  # type: ignore[arg-type]
            on_message(b"one")
            assert (lane.received, load.result.wrong) == (1, None)
            on_message(b"2")
            assert lane.received == (1 if verify else 2)
            return load

        load = asyncio.run(run())
        assert load.result.wrong == (
            "an answer on connection 1 differs at 0 of 3: b'2' instead of b'two'"
            if verify
            else None
        )
        assert load._end.is_set() is verify

    def test_what_is_not_sent(self) -> None:
        """Neither when it is over, nor more than may be out, nor on connections that end."""
        sent: list[Any] = []

        def closing(message: Any) -> None:
            raise ConnectionClosedOK(None, None)

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(1, rate=10.0))
            lane = SimpleNamespace(
                number=0,
                sent=0,
                open=True,
                to_send=itertools.count(),
                connection=SimpleNamespace(send_nowait=sent.append),
            )
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 10.0)
            load.outstanding = load.most_outstanding
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent) == ([], 0)
            load.outstanding -= 1
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent, load.outstanding) == ([0], 1, load.most_outstanding)
            load.outstanding = 0
            lane.open = False
            dues.send(lane)  # type: ignore[arg-type]
            lane.open = True
            lane.connection.send_nowait = closing
            dues.send(lane)  # type: ignore[arg-type]
            lane.connection.send_nowait = sent.append
            load.stop()
            dues.send(lane)  # type: ignore[arg-type]
            assert (sent, lane.sent, load.outstanding) == ([0], 1, 0)

        asyncio.run(run())

    def test_what_a_busy_process_did_not_look_at(self) -> None:
        """Messages that were due while the event loop was busy count as unsent."""

        async def run() -> None:
            load = Load("ws://localhost/", {}, Plan(3, rate=1000.0, warmup=0))
            lane = SimpleNamespace(number=0, sent=0, received=0, open=True)
            load.lanes = [lane]  # type: ignore[list-item] # as far as they are looked at
            dues = _Dues(load, 1000.0)
            dues.begun = time.perf_counter_ns() - 10**9
            dues.begin()
            dues.end()
            result = Result()
            dues.account(result)
            assert result.due == result.unsent >= 1000

        asyncio.run(run())
