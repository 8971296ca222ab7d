"""Workers of uvicorn on one broker: messages cross them, and clients go from one to another."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import LOOPS
from wsapi import exceptions
from wsapi.asyncio.client import connect
from wsapi.topics import Topics

pytest.importorskip("uvicorn", reason="uvicorn isn't installed")
pytest.importorskip("redis", reason="redis isn't installed")
foreign_exceptions = pytest.importorskip("websockets.exceptions", reason="it isn't installed")
foreign = pytest.importorskip("websockets.asyncio.client", reason="websockets isn't installed")
valkey = pytest.importorskip("tests.wsapi.topics.valkey_broker")

pytestmark = [
    pytest.mark.skipif("valkey" not in valkey.binaries(), reason="there is no server of valkey"),
    pytest.mark.skipif(sys.platform == "win32", reason="workers are ended by signals"),
]

ROOT = Path(__file__).parents[3]
PATIENCE = 30
ENDS = OSError, exceptions.WebSocketException, foreign_exceptions.WebSocketException


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Any]:
    broker = valkey.Broker(tmp_path / "broker").start()
    yield broker
    broker.stop()


class Client:
    """A client that comes back, and what it got.

    Args:
        kind: ``connect`` of the library whose client it is.
        uri: Where the workers are.
    """

    def __init__(self, kind: Any, uri: str) -> None:
        self.kind = kind
        self.uri = uri
        self.worker = 0
        self.last = ""  # position of the last message
        self.got: list[str] = []
        self.workers: list[int] = []
        self.recovered: list[str] = []
        self.lost = 0
        self.socket: Any = None
        self.task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        while True:
            try:
                await self.attend()
            except ENDS:
                # Its worker is killed; or nobody is there yet.
                self.lost += self.worker != 0
                self.worker = 0
                await asyncio.sleep(0.01)

    async def attend(self) -> None:
        query = f"?since={self.last}" if self.last else ""
        async with self.kind(f"{self.uri}{query}") as self.socket:
            # What it missed comes before this.
            while True:
                words = str(await self.socket.recv()).split()
                if len(words) == 2:
                    self.worker = int(words[0])
                    self.workers.append(self.worker)
                    self.recovered.append(words[1])
                else:
                    self.last = words[1]
                    self.got.append(words[2])

    def connected(self) -> bool:
        return self.worker != 0

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.result()


async def until(condition: Any, *clients: Client) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            for client in clients:
                assert not client.task.done(), client.task.result()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ws", ["wsapi.uvicorn:WebSocketProtocol", "websockets"])
def test_a_worker_that_is_killed(ws: str, broker: Any) -> None:
    """Who is connected to it goes on at another one, and misses nothing."""
    with asyncio.Runner(loop_factory=LOOPS["asyncio"]) as runner:
        runner.run(check(ws, broker))


async def check(ws: str, broker: Any) -> None:
    port = valkey.free_port()
    command = (
        *("uvicorn", "tests.wsapi.topics.asgi_application:application", "--workers", "2"),
        *("--port", str(port), "--ws", ws, "--log-level", "error"),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, env=os.environ | {"TOPICS_BUS": broker.url}, cwd=ROOT
    )
    clients: list[Client] = []
    try:
        await until(lambda: is_open(port))
        async with Topics(broker.url) as topics:
            uri = f"ws://127.0.0.1:{port}/"
            while len({client.worker for client in clients}) < 2 or len(clients) < 6:
                clients += [Client(kind, uri) for kind in (connect, foreign.connect)]
                await until(clients[-1].connected, *clients)
                await until(clients[-2].connected, *clients)
                assert len(clients) < 100, "all are at one worker"
            victim = clients[0].worker
            # From outside, and from a client at each worker.
            other = next(client for client in clients if client.worker != victim)
            sent = []
            for number in range(120):
                text = str(number)
                sent.append(text)
                if number == 40:
                    os.kill(victim, signal.SIGKILL)
                if number % 3 == 0:
                    await other.socket.send(text)
                    await until(lambda text=text: text in other.got, *clients)
                else:
                    await topics.publish("room", text)
            await until(lambda: all(client.got[-1:] == sent[-1:] for client in clients), *clients)
            for client in clients:
                assert client.got == sent
                if client.workers[0] == victim:
                    assert client.lost
                    assert client.workers[-1] != victim
                    assert set(client.recovered[1:]) <= {"True", "None"}
                else:
                    assert not client.lost
    finally:
        for client in clients:
            await client.close()
        process.terminate()
        await process.wait()


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
