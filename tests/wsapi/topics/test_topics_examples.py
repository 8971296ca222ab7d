"""Examples of topics with a page in a browser, in one process and in several, on real brokers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import running_chromium
from tests.wsapi.test_examples import EXAMPLES, accepting, free_port, http_get, running
from tests.wsapi.topics.scripts import OBSERVER, JavaScript, once, running_node, until
from wsapi.topics import Topics

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="programs are ended by signals"),
]

CHAT = "chat/chat.py"
OPEN = "document.getElementById('state')?.dataset.state === 'open'"
LINES = """[...document.querySelectorAll('#messages li:not(.waiting)')].map((line) =>
  line.className || line.querySelector('b').textContent + ': ' + line.lastChild.textContent)"""
NOTES = "[...document.querySelectorAll('.note')].map((line) => line.textContent)"


@pytest.fixture(params=["valkey", "redis", "nats"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Run a broker; give the URL by which the chat finds it."""
    if request.param == "nats":
        pytest.importorskip("nats", reason="nats-py isn't installed")
        from tests.wsapi.topics.nats_broker import NatsServer

        server = NatsServer(tmp_path / "broker")
        server.start()
        yield server.uri
        server.stop()
    else:
        pytest.importorskip("redis", reason="redis isn't installed")
        from tests.wsapi.topics.valkey_broker import Broker, binaries

        if request.param not in binaries():
            pytest.skip(f"there is no server of {request.param}")
        broker = Broker(tmp_path / "broker", binaries()[request.param]).start()
        yield broker.url
        broker.stop()


async def say(page: JavaScript, name: str, text: str) -> None:
    await page.evaluate(
        f"""document.getElementById('name').value = {name!r};
        document.getElementById('text').value = {text!r};
        document.getElementById('form').requestSubmit(); 0"""
    )


async def lines(page: JavaScript, number: int) -> list[Any]:
    """Wait for so many lines that don't wait; return them."""
    await until(page, f"({LINES}).length >= {number}")
    found: list[Any] = await page.evaluate(LINES)
    assert len(found) == number, found
    return found


async def come_back(page: JavaScript) -> None:
    """Wait until a page is connected; the network that seems to be back spares some of that."""
    await page.evaluate("window.dispatchEvent(new Event('online')); 0")
    await until(page, OPEN)


def port_of(url: str) -> str:
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)
    assert found is not None
    return found[1]


@once
async def test_one_process(tmp_path: Path) -> None:
    async with running_chromium(tmp_path) as browser:
        async with running(CHAT, "0") as server:
            url = await server.line()
            assert (await http_get(int(port_of(url)), "/x")).startswith(b"HTTP/1.1 404 ")
            one, other = await browser.open(url), await browser.open(f"{url}#other")
            for page in (one, other):
                await until(page, OPEN)
            await say(one, "alice", "<b>hi</b>")
            await say(other, "bob", "é")
            assert await lines(one, 1) == ["alice: <b>hi</b>"]
            assert await lines(other, 1) == ["bob: é"]
            # What the page doesn't let through, the server doesn't, either.
            await say(one, "alice", " ")
            await until(one, "document.querySelectorAll('.failed').length")
            server.process.kill()
            await until(one, "document.getElementById('state').dataset.state === 'waiting'")
            await say(one, "alice", "later")
        async with running(CHAT, port_of(url)) as server:
            await server.line()
            await come_back(one)
            assert await lines(one, 4) == ["alice: <b>hi</b>", "failed", "note", "alice: later"]
            assert "missing" in (await one.evaluate(NOTES))[0]
            assert await server.end(signal.SIGTERM) == ""


@once
async def test_several_processes(bus: str, tmp_path: Path) -> None:
    async with running_chromium(tmp_path / "chromium") as browser:
        async with running(CHAT, "0", CHAT_BUS=bus) as first:
            url = await first.line()
            async with running(CHAT, "--bus", bus, "0") as second:
                other = await second.line()
                one, two = await browser.open(url), await browser.open(other)
                for page in (one, two):
                    await until(page, OPEN)
                await say(one, "alice", "one")
                await lines(two, 1)
                await say(two, "bob", "two")
                said = ["alice: one", "bob: two"]
                assert await lines(one, 2) == await lines(two, 2) == said
                second.process.kill()
            await until(two, "document.getElementById('state').dataset.state === 'waiting'")
            for text in ("three", "four"):
                await say(one, "alice", text)
            await lines(one, 4)
            await say(two, "bob", "five")  # waits
            async with running(CHAT, "--bus", bus, port_of(other)) as second:
                await second.line()
                await come_back(two)
                missed = ["alice: three", "alice: four"]
                assert await lines(two, 6) == [*said, "note", *missed, "bob: five"]
                assert "follows" in (await two.evaluate(NOTES))[0]
                assert await lines(one, 5) == [*said, *missed, "bob: five"]
                # One that leaves in order tells its page, which comes back to another one.
                assert await second.end(signal.SIGTERM) == ""
            await until(two, "document.getElementById('state').dataset.state === 'waiting'")
            await first.end()


# ---------------------------------------------------------------------- workers of uvicorn


def workers_of(pid: int) -> dict[int, int]:
    """Return how many sockets each child of a process has that serves something."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        links = [os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()]
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found[int(child)] = sum(link.startswith("socket:") for link in links)
    return found


@once
async def test_workers_of_uvicorn(node: Path, tmp_path: Path) -> None:
    """Clients of all workers get all messages in order, each once, also those of a killed one."""
    if sys.platform != "linux":
        pytest.skip("/proc tells which worker has connections")
    pytest.importorskip("fastapi", reason="fastapi isn't installed")
    redis = pytest.importorskip("wsapi.topics.redis", reason="redis isn't installed")
    from tests.wsapi.topics.valkey_broker import Broker, binaries

    if "valkey" not in binaries():
        pytest.skip("there is no server of valkey")
    broker = Broker(tmp_path / "broker", binaries()["valkey"]).start()
    port = free_port()
    command = (
        *("uvicorn", "topics_fastapi:app", "--app-dir", str(EXAMPLES), "--workers", "2"),
        *("--port", str(port), "--ws", "wsapi.uvicorn:WebSocketProtocol", "--log-level", "error"),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, env=os.environ | {"TOPICS_BUS": broker.url}
    )
    try:
        await accepting(port)
        while len(idle := workers_of(process.pid)) < 2:
            await asyncio.sleep(0.05)
        async with running_node(node) as js, Topics(redis.RedisBus(broker.url)) as topics:
            uri = json.dumps(f"ws://127.0.0.1:{port}/topics")
            number = 0
            while True:
                number += 8
                await js.evaluate(OBSERVER.format(topic="orders", uri=uri, number=number))
                busy = workers_of(process.pid)
                if all(busy[pid] >= idle[pid] + 2 for pid in idle):
                    break
                await js.evaluate("all.splice(0).forEach((topics) => topics.close()); seen = []; 0")
            victim = max(busy, key=lambda pid: busy[pid])
            for order in range(100):
                await topics.publish("orders", str(order))
                if order == 30:
                    os.kill(victim, signal.SIGKILL)
                if order == 60:
                    # Once for its clients, which are on the other worker by now.
                    await until(js, "seen.some(({ recoveries }) => recoveries)")
            await until(js, "seen.every(({ data }) => data.at(-1) === 99)")
            for seen in await js.evaluate("seen"):
                assert seen["data"] == list(range(100))
            await js.evaluate("all.forEach((topics) => topics.close()); 0")
    finally:
        process.terminate()
        await process.wait()
        broker.stop()
