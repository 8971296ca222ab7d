"""The programs of the tutorial, run as its chapters say, and its pages in a browser."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import blocks, program
from tests.wsapi.foreign import Browser, Page, running_chromium
from tests.wsapi.test_examples import EXAMPLES, Program, free_port, http_get, running
from tests.wsapi.topics.scripts import once, until
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.exceptions import ConnectionClosedError, InvalidStatus

TUTORIAL = EXAMPLES.parent / "docs" / "tutorial"

pytestmark = [
    pytest.mark.skipif(not TUTORIAL.exists(), reason="the documents are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="programs are ended by signals"),
]

SECRET = {"BOARD_SECRET": "for tests"}


def texts(chapter: str, language: str) -> list[str]:
    """Return what stands in a chapter's blocks of a language, but in those with a title."""
    found = blocks(f"tutorial/{chapter}")
    return [each.text for each in found if each.language == language and each.title is None]


# ---------------------------------------------------------------------- 1, 2: messages


@pytest.mark.parametrize("chapter, number", [("1-answers.md", 1), ("2-messages.md", 2)])
@once
async def test_client_prints_what_the_chapter_says(chapter: str, number: int) -> None:
    async with running(f"board/board{number}.py", "0") as server:
        url = await server.line()
        for _ in range(2):
            async with running(f"board/paint{number}.py", url) as client:
                output = await client.wait()
        assert output == texts(chapter, "text")[-1]
        assert await server.end() == ""


@once
async def test_what_isnt_a_number_ends_a_connection() -> None:
    async with running("board/board1.py", "0") as server:
        url = await server.line()
        async with connect(url) as connection:
            await connection.send("red")
            with pytest.raises(ConnectionClosedError):
                await connection.recv()
            assert connection.close_code == 1011
        async with connect(url) as connection:
            await connection.send("1 2")
            assert await connection.recv() == "1 2 0"


WRONG = [
    ("", "JSON"),
    ("[" * 100_000, "too big"),
    ("[" * 1000, "JSON"),
    (b"\xff", "JSON"),
    ("[1]", "object"),
    ("null", "object"),
    ({}, "object"),
    ({"type": "paint"}, "x is"),
    ({"type": "paint", "x": "3", "y": 0, "colour": 0}, "x is"),
    ({"type": "paint", "x": True, "y": 0, "colour": 0}, "x is"),
    ({"type": "paint", "x": 0, "y": 24, "colour": 0}, "y is an integer from 0 to 23"),
    ({"type": "paint", "x": 0, "y": 0.0, "colour": 0}, "y is"),
    ({"type": "paint", "x": 0, "y": 0, "colour": -1}, "colour is"),
    ({"type": "paint", "x": 0, "y": 0, "colour": 10**300}, "colour is"),
]


@pytest.mark.parametrize("number", [2, 3, 4])
@once
async def test_wrong_messages_are_answered(number: int) -> None:
    async with running(f"board/board{number}.py", "0") as server:
        url = (await server.line()).replace("http", "ws").rstrip("/")
        for message, words in WRONG:
            async with connect(f"{url}/board") as connection:
                await connection.send(
                    message if isinstance(message, str | bytes) else dumps(message)
                )
                if words == "too big":
                    with pytest.raises(ConnectionClosedError):
                        await receive(connection, "error")
                    assert connection.close_code == 1009
                    continue
                assert words in (await receive(connection, "error"))["message"]
                await connection.send(dumps({"type": "paint", "x": 0, "y": 0, "colour": 1}))
                painted = {"type": "painted", "x": 0, "y": 0, "colour": 1}
                assert await receive(connection, "painted") == painted
        assert await server.end() == ""


def dumps(value: object) -> str:
    return json.dumps(value)


async def receive(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of this type."""
    while True:
        message: dict[str, Any] = json.loads(await connection.recv())
        if message["type"] == kind:
            return message


# ---------------------------------------------------------------------- 4, 5: people, rooms


@once
async def test_people_hear_of_each_other() -> None:
    async with running("board/board4.py", "0") as server:
        url = (await server.line()).replace("http", "ws") + "board"
        async with connect(url) as one:
            assert (await receive(one, "people"))["number"] == 1
            async with connect(url) as two:
                assert (await receive(one, "people"))["number"] == 2
                await two.send(dumps({"type": "paint", "x": 5, "y": 6, "colour": 7}))
                for connection in (one, two):
                    painted = await receive(connection, "painted")
                    assert (painted["x"], painted["y"], painted["colour"]) == (5, 6, 7)
            assert (await receive(one, "people"))["number"] == 1
        async with connect(url) as three:
            assert (await receive(three, "board"))["cells"] == [[5, 6, 7]]
        assert await server.end() == ""


@once
async def test_rooms_and_tokens() -> None:
    port = free_port()
    async with running("board/board5.py", str(port), **SECRET) as server:
        links = [await server.line() for _ in range(3)]
        tokens = dict(re.fullmatch(r".*/(\w+)#(\w+)", link).groups() for link in links)  # type: ignore[union-attr]
        assert list(tokens) == ["lobby", "kitchen", "garden"]
        assert (await http_get(port, "/lobby")).startswith(b"HTTP/1.1 200 ")
        for path in ("/", "/attic", "/lobby/x", "/attic/board"):
            assert (await http_get(port, path)).startswith(b"HTTP/1.1 404 ")
        url = f"ws://127.0.0.1:{port}"
        stroke = dumps({"type": "paint", "x": 1, "y": 2, "colour": 3})
        for query in ("", "?token=", "?token=%C3%A9", f"?token={tokens['kitchen']}"):
            async with connect(f"{url}/lobby/board{query}") as connection:
                assert not (await receive(connection, "board"))["may_paint"]
                await connection.send(stroke)
                assert "token" in (await receive(connection, "error"))["message"]
        async with (
            connect(f"{url}/lobby/board") as looking,
            connect(f"{url}/kitchen/board") as elsewhere,
            connect(f"{url}/lobby/board?token={tokens['lobby']}") as painting,
        ):
            await painting.send(stroke)
            assert (await receive(looking, "painted"))["colour"] == 3
            assert (await receive(elsewhere, "people"))["number"] == 1
        async with connect(f"{url}/kitchen/board") as connection:
            assert (await receive(connection, "board"))["cells"] == []
        for origin, allowed in ((f"http://localhost:{port}", True), ("http://example.com", False)):
            if allowed:
                async with connect(f"{url}/lobby/board", origin=origin):
                    continue
            with pytest.raises(InvalidStatus, match="403"):
                await connect(f"{url}/lobby/board", origin=origin)
        assert await server.end() == ""


# ---------------------------------------------------------------------- pages


class Painter:
    """A page of the tutorial, which somebody uses."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def state(self, state: str) -> None:
        await until(self.page, f"document.getElementById('state')?.dataset.state === '{state}'")

    async def people(self, number: int) -> None:
        await until(self.page, f"document.getElementById('people').textContent === '{number} here'")

    async def choose(self, colour: int) -> None:
        await self.page.evaluate(f"document.querySelectorAll('#palette button')[{colour}].click()")

    async def drag(self, *cells: tuple[int, int]) -> None:
        """Press the pointer on the first cell, draw it over the others, release it."""
        # Pages that aren't seen take no input for some seconds.
        await self.page.browser.call("Page.bringToFront", self.page.session)
        box = await self.page.evaluate(
            "(({ x, y, width, height }) => [x, y, width / 32, height / 24])"
            "(document.querySelector('canvas').getBoundingClientRect())"
        )
        left, top, width, height = box
        events = ["mousePressed", *["mouseMoved"] * (len(cells) - 1), "mouseReleased"]
        for kind, (x, y) in zip(events, [*cells, cells[-1]], strict=True):
            await self.page.browser.call(
                "Input.dispatchMouseEvent",
                self.page.session,
                type=kind,
                x=left + (x + 0.5) * width,
                y=top + (y + 0.5) * height,
                button="left",
                buttons=0 if kind == "mouseReleased" else 1,
                clickCount=1,
            )

    async def shows(self, *cells: tuple[int, int], colour: str) -> None:
        """Wait until cells have a colour."""
        for x, y in cells:
            pixel = (
                f"document.querySelector('canvas').getContext('2d').getImageData({x}, {y}, 1, 1)"
            )
            await until(self.page, f"[...{pixel}.data].slice(0, 3).join() === '{colour}'")

    async def come_back(self) -> None:
        """Wait until it is connected again; a network that seems to be back makes that sooner."""
        await self.page.evaluate("window.dispatchEvent(new Event('online')); 0")
        await self.state("open")


WHITE, BLUE, RED, YELLOW = "255,255,255", "58,134,255", "214,40,57", "255,209,102"
ROW = [(3, 4), (4, 4), (5, 4)]


async def opened(browser: Browser, url: str) -> Painter:
    painter = Painter(await browser.open(url))
    await painter.state("open")
    return painter


@once
async def test_first_page(tmp_path: Path) -> None:
    async with running_chromium(tmp_path) as browser:
        async with running("board/board3.py", "0") as server:
            url = await server.line()
            one = await opened(browser, url)
            await one.drag(*ROW)
            await one.shows(*ROW, colour=BLUE)
            await one.choose(2)
            await one.drag(ROW[1])
            await one.shows(ROW[1], colour=RED)
            two = await opened(browser, url)
            await two.shows(ROW[0], ROW[2], colour=BLUE)
            await two.shows((0, 0), (31, 23), colour=WHITE)
            await two.drag((0, 0))
            await two.shows((0, 0), colour=BLUE)
            await one.shows((0, 0), colour=WHITE)
            assert await server.end() == ""
            await one.state("closed")


@once
async def test_pages_of_several_people(tmp_path: Path) -> None:
    async with running_chromium(tmp_path) as browser, running("board/board4.py", "0") as server:
        url = await server.line()
        one, two = await opened(browser, url), await opened(browser, url)
        for painter in (one, two):
            await painter.people(2)
        await two.choose(4)
        await two.drag(*ROW)
        for painter in (one, two):
            await painter.shows(*ROW, colour=YELLOW)
        assert await server.end() == ""


@once
async def test_pages_with_and_without_token(tmp_path: Path) -> None:
    async with (
        running_chromium(tmp_path) as browser,
        running("board/board5.py", str(free_port())) as server,
    ):
        link, *_ = [await server.line() for _ in range(3)]
        painting, looking = await opened(browser, link), await opened(browser, link.split("#")[0])
        for painter in (painting, looking):
            await painter.people(2)
        await painting.drag(*ROW)
        await looking.shows(*ROW, colour=BLUE)
        await looking.drag((9, 9))
        await until(looking.page, "document.getElementById('note').textContent.includes('token')")
        hidden = "document.getElementById('palette').hidden"
        assert await looking.page.evaluate(hidden)
        assert not await painting.page.evaluate(hidden)
        assert await server.end() == ""


@once
async def test_page_comes_back(tmp_path: Path) -> None:
    port = free_port()
    async with running_chromium(tmp_path) as browser:
        async with running("board/board6.py", str(port), **SECRET) as server:
            link = await server.line()
            one, two = await opened(browser, link), await opened(browser, link)
            looking = await opened(browser, link.split("#")[0])
            for painter in (one, two, looking):
                await painter.people(3)
            await one.drag(*ROW)
            for painter in (one, two, looking):
                await painter.shows(*ROW, colour=BLUE)
            await looking.drag((9, 9))
            await until(looking.page, "document.getElementById('note').textContent !== ''")
            server.process.kill()
            for painter in (one, two):
                await painter.state("waiting")
        async with running("board/board6.py", str(port), **SECRET) as server:
            assert await server.line() == link
            for painter in (one, two):
                await painter.come_back()
                await painter.shows(*ROW, colour=WHITE)
            await one.choose(2)
            await one.drag((7, 7))
            await two.shows((7, 7), colour=RED)
            three = await opened(browser, link)
            await three.shows((7, 7), colour=RED)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("redis", reason="redis isn't installed")
    from tests.wsapi.topics.valkey_broker import Broker, binaries

    if not binaries():
        pytest.skip("there is no server of Valkey or Redis")
    broker = Broker(tmp_path / "broker", next(iter(binaries().values()))).start()
    yield broker.url
    broker.stop()


@contextlib.asynccontextmanager
async def board(number: int, url: str, port: int) -> AsyncIterator[tuple[Program, str]]:
    """Run a server of the last chapters; yield it and the link to its lobby."""
    arguments = ("--redis", url, str(port))
    async with running(f"board/board{number}.py", *arguments, **SECRET) as program:
        link, *_ = [await program.line() for _ in range(3)]
        yield program, link


@once
async def test_three_processes(redis_url: str, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    async with (
        running_chromium(tmp_path / "chromium") as browser,
        board(7, redis_url, ports[0]) as (first, link),
        board(7, redis_url, ports[1]) as (_, other),
    ):
        one, two = await opened(browser, link), await opened(browser, other)
        async with board(7, redis_url, ports[2]) as (third, third_link):
            three = await opened(browser, third_link)
            for painter in (one, two, three):
                await painter.people(3)
            await three.drag(*ROW)
            for painter in (one, two, three):
                await painter.shows(*ROW, colour=BLUE)
            third.process.kill()
        await three.state("waiting")
        await one.choose(2)
        await one.drag(ROW[0])
        await two.shows(ROW[0], colour=RED)
        await three.drag((9, 9))  # waits
        async with board(7, redis_url, ports[2]):
            await three.come_back()
            await three.shows(ROW[0], colour=RED)
            await three.shows(*ROW[1:], (9, 9), colour=BLUE)
            await one.shows((9, 9), colour=BLUE)
            four = await opened(browser, third_link)
            await four.shows(ROW[0], colour=RED)
            await four.shows(*ROW[1:], (9, 9), colour=BLUE)
        assert await first.end() == ""


@once
async def test_rolling_restart(redis_url: str, tmp_path: Path) -> None:
    port = free_port()
    async with (
        running_chromium(tmp_path / "chromium") as browser,
        board(8, redis_url, port) as (first, link),
    ):
        one = await opened(browser, link)
        await one.drag(*ROW)
        await one.shows(*ROW, colour=BLUE)
        assert (await http_get(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
        async with board(8, redis_url, port) as (_, again):
            assert again == link
            first.process.send_signal(signal.SIGTERM)
            # While it drains, and perhaps without a connection.
            await one.choose(2)
            await one.drag((9, 9))
            assert first.process.stderr is not None
            lines = (await first.process.stderr.read()).decode()
            assert re.search(r"connection ended: .* path='/topics' code=1012 ", lines)
            assert await first.process.wait() == 0
            await one.come_back()
            await one.shows((9, 9), colour=RED)


@once
async def test_secret_is_needed(redis_url: str) -> None:
    async with running("board/board7.py", "--redis", redis_url, BOARD_SECRET="") as program:
        _, errors = await program.process.communicate()
        assert errors == b"BOARD_SECRET must be set\n"
        assert program.process.returncode == 1


# ---------------------------------------------------------------------- what stands twice


def test_chapters_show_all_programs() -> None:
    shown = {
        "board1.py": program("tutorial/1-answers.md", "board1.py"),
        "paint1.py": program("tutorial/1-answers.md", "paint1.py"),
        "board2.py": program("tutorial/2-messages.md", "board2.py"),
        "paint2.py": program("tutorial/2-messages.md", "paint2.py"),
        "board3.py": program("tutorial/3-page.md", "board3.py"),
        "board4.py": program("tutorial/4-people.md", "board4.py"),
        "board5.py": program("tutorial/5-rooms.md", "board5.py"),
        "board6.py": program("tutorial/6-coming-back.md", "board6.py"),
        "board7.py": program("tutorial/7-processes.md", "board7.py"),
        "board8.py": program("tutorial/8-production.md", "board8.py"),
    }
    found = {path.name: path.read_text("utf-8") for path in (EXAMPLES / "board").glob("*.py")}
    assert shown == found


def test_changes_of_pages_lead_to_the_next_page() -> None:
    pages = {n: (EXAMPLES / "board" / f"page{n}.html").read_text("utf-8") for n in (3, 4, 5)}

    page = pages[3]
    css, html, js = (texts("4-people.md", language)[0] for language in ("css", "html", "js"))
    page = page.replace("  #state { font-size: .9rem; }\n", css)
    page = re.sub(r"<header>.*\n", lambda _: html, page)
    page = page.replace('    case "error":\n', f'{js}    case "error":\n')
    assert page == pages[4]

    css, first, second = (*texts("5-rooms.md", "css"), *texts("5-rooms.md", "js"))
    page = page.replace("<h1>Board</h1>", '<h1 id="room"></h1>')
    page = re.sub(r"const socket = new WebSocket.*\n", lambda _: first, page)
    before, case, after = page.partition('    case "board":\n')
    page = before + case + after.replace("      break;\n", f"{second}      break;\n", 1)
    page = page.replace("  #palette button {", f"{css}  #palette button {{", 1)
    assert page == pages[5]
