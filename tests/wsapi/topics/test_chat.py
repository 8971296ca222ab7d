"""examples/chat: a page in a browser, one process and several, on real brokers."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import running_chromium
from tests.wsapi.test_examples import EXAMPLES, http_get, running
from tests.wsapi.topics.scripts import JavaScript, once, until

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
