"""Many threads on few connections, which somebody closes, or breaks, now and then.

Nothing is lost, doubled, torn, or stuck. WSAPI_STRESS_SECONDS makes each test last longer.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.wsapi.sync_helpers import PATIENCE, Spawned, serving, uri_of
from wsapi.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedOK
from wsapi.sync.client import ClientConnection, connect
from wsapi.sync.connection import Connection, broadcast
from wsapi.sync.server import ServerConnection

SECONDS = float(os.environ.get("WSAPI_STRESS_SECONDS", "1"))
CONNECTIONS = 8
SENDERS = 3  # and one that receives
PATIENT = {"open_timeout": PATIENCE, "close_timeout": PATIENCE}  # so many threads are a load


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

    def __init__(self, uri: str, options: dict[str, Any], seed: int, deadline: float) -> None:
        self.uri = uri
        self.options = options
        self.random = random.Random(seed)
        self.deadline = deadline
        self.messages = 0
        self.endings: Counter[str] = Counter()

    def run(self) -> None:
        """Use one connection after the other, until there was time for messages."""
        while time.monotonic() < self.deadline or not self.messages:
            how = self.random.choice(["stop", "close", "close by another", "ask to close"])
            with connect(self.uri, **self.options) as ws:
                self.use(ws, how)
            self.endings[how] += 1

    def use(self, ws: ClientConnection, how: str) -> None:
        until = time.monotonic() + self.random.uniform(0.02, 0.4)
        sent = [0] * SENDERS
        received = [0] * SENDERS
        senders = [
            Spawned(self.send, ws, number, sent, until, self.random.random())
            for number in range(SENDERS)
        ]
        receiver = Spawned(self.receive, ws, received)
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
    def receive(ws: ClientConnection, received: list[int]) -> None:
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


@pytest.mark.timeout(SECONDS + 5 * PATIENCE)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_many_threads_on_shared_connections(tls: bool) -> None:
    server_options: dict[str, Any] = {"max_queue": 4, **PATIENT}
    client_options: dict[str, Any] = {"max_queue": 4, "compression": None, **PATIENT}
    if tls:
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        server_options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server_options["ssl"])
        client_options["ssl"] = ssl.create_default_context()
        authority.configure_trust(client_options["ssl"])
    with serving(echo_or_close, **server_options) as server:
        uri = uri_of(server, scheme="wss" if tls else "ws")
        deadline = time.monotonic() + SECONDS
        shared = [Shared(uri, client_options, seed, deadline) for seed in range(CONNECTIONS)]
        threads = [Spawned(each.run) for each in shared]
        for thread in threads:
            thread.thread.join(SECONDS + PATIENCE)
            thread.result()
    endings = sum((each.endings for each in shared), Counter[str]())
    print(sum(each.messages for each in shared), "messages;", dict(endings))


# ---------------------------------------------------------------------- anything, by anybody

# What is done to the socket behind the connection's back.
BREAKS = {"shut": socket.SHUT_RDWR, "no writing": socket.SHUT_WR, "no reading": socket.SHUT_RD}
SIZES = (1, 100, 70_000, 300_000)


class Actor:
    """A thread that does anything with a connection until that ends."""

    def __init__(self, ws: Connection, seed: float, stop: threading.Event) -> None:
        self.ws = ws
        self.dice = random.Random(seed)
        self.stop = stop
        self.thread = Spawned(self.run)

    def run(self) -> None:
        ways = [
            *[self.send] * 10,
            *[self.receive] * 8,
            *[self.ping] * 2,
            self.ws.pong,
            self.send_fragments,
            self.receive_fragments,
            lambda: broadcast([self.ws], bytes(self.dice.choice(SIZES))),
            lambda: self.ws.wait_closed(0.01),
            lambda: time.sleep(0.001),
            self.close_seldom,
        ]
        while not self.stop.is_set():
            try:
                self.dice.choice(ways)()
            except (ConcurrencyError, TimeoutError):
                pass
            except ConnectionClosed:
                return

    def send(self) -> None:
        self.ws.send(bytes(self.dice.choice(SIZES)))

    def receive(self) -> None:
        self.ws.recv(timeout=self.dice.choice([None, 0, 0.001, 0.05]))

    def ping(self) -> None:
        assert self.ws.ping(ack_on_close=True).wait(PATIENCE)

    def send_fragments(self) -> None:
        self.ws.send(["a"] * self.dice.randrange(4))

    def receive_fragments(self) -> None:
        for _ in self.ws.recv_streaming(timeout=0.01):
            pass

    def close_seldom(self) -> None:
        if self.dice.random() < 0.1:
            self.ws.close()


def abuse(ws: Connection, dice: random.Random, actors: int) -> None:
    """Have threads do anything; break the connection; see all of them end."""
    stop = threading.Event()
    crowd = [Actor(ws, dice.random(), stop) for _ in range(actors)]
    time.sleep(dice.random() * 0.2)
    how = dice.choice(["close", "leave", *BREAKS])
    if how == "leave":
        stop.set()
    elif how in BREAKS:
        try:
            with socket.socket(fileno=os.dup(ws._driver.socket.fileno())) as same:
                same.shutdown(BREAKS[how])
        except OSError:
            pass  # it is closed already
        time.sleep(dice.random() * 0.1)
    ws.close()
    assert ws.wait_closed(PATIENCE)
    stop.set()
    for actor in crowd:
        actor.thread.result()


@pytest.mark.skipif(os.name == "nt", reason="a socket can't be duplicated by its descriptor")
@pytest.mark.timeout(SECONDS + 5 * PATIENCE)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_everybody_ends(request: pytest.FixtureRequest, scheme: str) -> None:
    """Whatever threads do when a connection ends, and whoever ends it, none of them hangs."""
    context = request.getfixturevalue("tls") if scheme == "wss" else (None, None)

    def handler(ws: ServerConnection) -> None:
        dice = random.Random(str(ws.id))
        if dice.random() < 0.5:
            abuse(ws, dice, 3)
        elif dice.random() < 0.8:
            echo_or_close(ws)
        else:
            time.sleep(dice.random() * 0.5)  # it doesn't read

    def use(seed: int) -> None:
        dice = random.Random(seed)
        while True:
            ws = connect(
                uri_of(server, scheme=scheme),
                ssl=context[1],
                legacy=True,
                open_timeout=PATIENCE,
                close_timeout=0.5,
                ping_interval=dice.choice([0.02, 20]),
                max_queue=dice.choice([4, 16, (2, 1)]),
            )
            abuse(ws, dice, 5)
            if time.monotonic() >= deadline:
                return

    options: dict[str, Any] = {
        "open_timeout": PATIENCE,
        "close_timeout": 0.5,
        "max_queue": 4,
        "ssl": context[0],
    }
    with serving(handler, **options) as server:
        deadline = time.monotonic() + SECONDS
        users = [Spawned(use, seed) for seed in range(2)]
        for user in users:
            user.thread.join(SECONDS + PATIENCE)
            user.result()
