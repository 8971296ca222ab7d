"""When keepalive and deadlines act: ``python -m benchmarks.timeline``.

Connections with the default settings go through a network that is cut, meet peers that say nothing,
and peers that don't read. All run at once; what each logs and raises is told with its time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import ServerConnection, serve

from . import plot

# Defaults of connect() and serve(), in seconds.
PING_INTERVAL: Final = 20.0
PING_TIMEOUT: Final = 20.0
CLOSE_TIMEOUT: Final = 10.0
OPEN_TIMEOUT: Final = 10.0
# There is none by default.
WRITE_DEADLINE: Final = 15.0

CUT: Final = 5.0
"""When a network is cut, or a peer stops reading."""

# Beginnings of lines of level DEBUG, and what they are called here.
_LINES: Final = {
    "% sent keepalive ping": "Ping sent",
    "% received keepalive pong": "Pong received",
    "- timed out waiting for keepalive pong": "no answer: given up",
    "> CLOSE": "Close frame sent",
    "= connection is CLOSED": "TCP connection closed",
}


@dataclass
class Story:
    """What happened to one connection.

    Args:
        title: What it is about.
        scale: Factor of all durations.
    """

    title: str
    scale: float
    events: list[tuple[float, str]] = field(default_factory=list)
    start: float = 0.0

    def begin(self) -> None:
        """Count time from here."""
        self.start = monotonic()

    def tell(self, text: str) -> None:
        """Add an event, of now."""
        self.events.append(((monotonic() - self.start) / self.scale, text))

    def logger(self) -> logging.Logger:
        """Return a logger whose lines become events."""
        logger = logging.Logger("story", logging.DEBUG)
        logger.addHandler(_Listener(self))
        return logger

    async def until(self, seconds: float) -> None:
        """Wait until so many seconds of the story have passed."""
        await asyncio.sleep(self.start + seconds * self.scale - monotonic())


class _Listener(logging.Handler):
    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        for beginning, text in _LINES.items():
            if line.startswith(beginning) and self.story.start:
                self.story.tell(text)


class Network:
    """Passes on what a client and a server send, until it is cut; it doesn't tell them."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.whole = asyncio.Event()
        self.whole.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        there = await asyncio.open_connection("127.0.0.1", self.target)
        pumps = (self._pump(reader, there[1]), self._pump(there[0], writer))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*pumps)
        for end in (writer, there[1]):
            end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.whole.wait()
            writer.write(data)


async def _idle(connection: ServerConnection) -> None:
    await connection.wait_closed()


@contextlib.asynccontextmanager
async def through_network(story: Story) -> AsyncIterator[tuple[ClientConnection, Network]]:
    """Connect a client, whose story it is, to a server through a network."""
    scale = story.scale
    async with serve(_idle, "127.0.0.1", 0, ping_interval=None) as server:
        network = Network(server.sockets[0].getsockname()[1])
        middle = await asyncio.start_server(network.carry, "127.0.0.1", 0)
        connection = await connect(
            f"ws://127.0.0.1:{middle.sockets[0].getsockname()[1]}/",
            proxy=None,
            logger=story.logger(),
            ping_interval=PING_INTERVAL * scale,
            ping_timeout=PING_TIMEOUT * scale,
            close_timeout=CLOSE_TIMEOUT * scale,
        )
        story.begin()
        story.tell("connection open")
        try:
            yield connection, network
        finally:
            story.start = 0.0  # what follows isn't part of it
            network.whole.set()
            connection.transport.abort()
            middle.close()


async def alive(story: Story) -> None:
    """Nothing is sent but Pings and Pongs."""
    async with through_network(story):
        await story.until(2.5 * PING_INTERVAL)


async def gone(story: Story) -> None:
    """The network is cut while the connection is idle."""
    async with through_network(story) as (connection, network):
        await story.until(CUT)
        network.whole.clear()
        story.tell("network cut")
        try:
            await connection.recv()
        except Exception as exc:
            story.tell(f"recv() raises {type(exc).__name__}")


async def unanswered_close(story: Story) -> None:
    """The network is cut, then the connection is closed."""
    async with through_network(story) as (connection, network):
        await story.until(CUT)
        network.whole.clear()
        story.tell("network cut, close() called")
        await connection.close()
        story.tell("close() returns")


async def silent_server(story: Story) -> None:
    """A server accepts the TCP connection, and doesn't answer the request."""

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    story.begin()
    story.tell("connect() called")
    try:
        await connect(url, proxy=None, open_timeout=OPEN_TIMEOUT * story.scale)
    except TimeoutError as exc:
        story.tell(f"connect() raises {type(exc).__name__}")
    server.close()


async def slow_reader(story: Story) -> None:
    """A client stops reading; the server has a write deadline."""

    async def handler(connection: ServerConnection) -> None:
        await story.until(CUT)
        story.tell("send() of more than the network takes")
        try:
            await connection.send(bytes(2**24))
        except Exception as exc:
            story.tell(f"send() raises {type(exc).__name__}")

    async with serve(
        handler,
        "127.0.0.1",
        0,
        compression=None,
        logger=story.logger(),
        ping_interval=PING_INTERVAL * story.scale,
        ping_timeout=PING_TIMEOUT * story.scale,
        write_deadline=WRITE_DEADLINE * story.scale,
    ) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        story.begin()
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined] # it reads
        story.tell("connection open")
        while server.connections:
            await asyncio.sleep(0.1 * story.scale)
        writer.transport.abort()


STORIES: Final[dict[str, Callable[[Story], Coroutine[Any, Any, None]]]] = {
    "nobody says anything": alive,
    "the peer is gone": gone,
    "the peer is gone while closing": unanswered_close,
    "the server doesn't answer the request": silent_server,
    f"the peer doesn't read, write_deadline={WRITE_DEADLINE:g}": slow_reader,
}


async def _tell_all(scale: float) -> list[Story]:
    stories = [Story(title, scale) for title in STORIES]
    async with asyncio.TaskGroup() as group:
        for story, run in zip(stories, STORIES.values(), strict=True):
            group.create_task(run(story))
    return stories


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those of the command line by default.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all durations")
    parser.add_argument("--svg", type=Path, help="file for the picture")
    options = parser.parse_args(arguments)
    stories = asyncio.run(_tell_all(options.scale))
    for story in stories:
        print(story.title)
        for at, text in story.events:
            print(f"{at:7.1f} s  {text}")
        print()
    if options.svg is not None:
        options.svg.write_text(plot.timeline([(story.title, story.events) for story in stories]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
