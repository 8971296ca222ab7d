"""Many threads on few connections, which somebody closes now and then.

Nothing is lost, doubled, torn, or stuck. WSAPI_STRESS_SECONDS makes it last longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

from tests.wsapi.sync_helpers import Spawned, serving, uri_of
from wsapi.exceptions import ConnectionClosed, ConnectionClosedOK
from wsapi.sync.client import ClientConnection, connect
from wsapi.sync.server import ServerConnection

SECONDS = float(os.environ.get("WSAPI_STRESS_SECONDS", "2"))
CONNECTIONS = 8
SENDERS = 3  # and one that receives


def echo_or_close(ws: ServerConnection) -> None:
    """Echo; close when asked to, which may be in the middle of what others send."""
    try:
        for message in ws:
            if message == "close":
                ws.close(4000, "as you wish")
            ws.send(message)
    except ConnectionClosed:
        pass


class Shared:
    """One connection, the threads that use it, and what they said."""

    def __init__(self, uri: str, seed: int, deadline: float) -> None:
        self.uri = uri
        self.random = random.Random(seed)
        self.deadline = deadline
        self.messages = 0
        self.endings: Counter[str] = Counter()

    def run(self) -> None:
        """Use one connection after the other."""
        while time.monotonic() < self.deadline:
            how = self.random.choice(["stop", "close", "close by another", "ask to close"])
            with connect(self.uri, compression=None, max_size=2**20, max_queue=4) as ws:
                self.use(ws, how)
            self.endings[how] += 1

    def use(self, ws: ClientConnection, how: str) -> None:
        until = min(self.deadline, time.monotonic() + self.random.uniform(0.02, 0.4))
        sent = [0] * SENDERS
        received = [0] * SENDERS
        senders = [
            Spawned(self.send, ws, number, sent, until, self.random.random())
            for number in range(SENDERS)
        ]
        stop = threading.Event()
        receiver = Spawned(self.receive, ws, received, stop)
        if how == "close":
            time.sleep(max(until - time.monotonic(), 0) / 2)
            ws.close()
        for sender in senders:
            if how == "close by another" and sender is senders[0]:
                Spawned(ws.close, 1000).result()
            sender.result()
        if how == "ask to close":
            try:
                ws.send("close")
            except ConnectionClosed:
                pass
        if how == "stop":
            # The echo of this is the last message.
            ws.send("stop")
        receiver.result()
        if how == "stop":
            assert received == sent
        else:
            assert all(map(int.__le__, received, sent))
        self.messages += sum(received)

    @staticmethod
    def send(ws: ClientConnection, number: int, sent: list[int], until: float, seed: float) -> None:
        dice = random.Random(seed)
        try:
            while time.monotonic() < until:
                size = dice.choice([0, 10, 100, 3000, 70000])
                sent[number] += 1  # before, since the echo may be faster
                text = f"{number} {sent[number]} {size} " + "x" * size
                ws.send(text if dice.random() < 0.5 else text.encode())
                if dice.random() < 0.1:
                    ws.ping()
        except ConnectionClosed:
            pass

    @staticmethod
    def receive(ws: ClientConnection, received: list[int], stop: threading.Event) -> None:
        dice = random.Random(1)
        try:
            while True:
                try:
                    message = ws.recv(timeout=dice.choice([None, 5, 0.001]), decode=True)
                except TimeoutError:
                    continue
                if message == "stop":
                    return
                if message == "close":
                    continue
                number, count, size, text = message.split(" ", 3)
                assert len(text) == int(size)
                received[int(number)] += 1
                assert received[int(number)] == int(count)
        except ConnectionClosedOK:
            pass
        except ConnectionClosed as exc:
            if exc.rcvd is None or exc.rcvd.code != 4000:
                raise


def test_many_threads_on_shared_connections() -> None:
    deadline = time.monotonic() + SECONDS
    with serving(echo_or_close, max_queue=4) as server:
        shared = [Shared(uri_of(server), seed, deadline) for seed in range(CONNECTIONS)]
        threads = [Spawned(each.run) for each in shared]
        for thread in threads:
            thread.thread.join(SECONDS + 20)
            thread.result()
    assert all(each.messages for each in shared)
    endings = sum((each.endings for each in shared), Counter[str]())
    print(sum(each.messages for each in shared), "messages;", dict(endings))
