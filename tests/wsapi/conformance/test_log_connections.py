"""What the log tells of connections: a line at the end, and no traceback for what a peer did."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws, echo
from tests.wsapi.conformance.raw import RawPeer
from tests.wsapi.helpers import BINARY, CLOSE, CONT, TEXT, close_payload, frame, request
from wsapi.exceptions import ConnectionClosed
from wsapi.limits import Door

LINE = re.compile(
    r"connection ended: address=(\S+) path=('.*') code=(\d+) reason=('.*') seconds=\d+\.\d{3} "
    r"messages_received=(\d+) bytes_received=(\d+) messages_sent=(\d+) bytes_sent=(\d+)"
)


def ends(caplog: pytest.LogCaptureFixture) -> list[tuple[str, ...]]:
    """Return the parts of the lines about connections."""
    lines = [r for r in caplog.records if r.getMessage().startswith("connection ended: ")]
    assert all((line.levelname, line.name) == ("INFO", "wsapi.server") for line in lines)
    found = [LINE.fullmatch(line.getMessage()) for line in lines]
    return [match.groups() for match in found if match is not None]


class TestLine:
    @pytest.fixture(autouse=True)
    def _level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")

    async def test_proper_end(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        async with driver.serve(echo, log_connections=True) as server:
            async with driver.connect(server.uri("/chat?token=secret")) as ws:
                host, port = ws.local_address[:2]
                await ws.send("ä")
                await ws.recv()
                await ws.close(4000, "over\nand out")
        assert ends(caplog) == [
            (f"{host}:{port}", "'/chat'", "4000", r"'over\nand out'", "1", "2", "1", "2")
        ]
        assert "secret" not in caplog.text

    async def test_lost(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        async with driver.serve(echo, log_connections=True) as server:
            ws = await driver.open(server)
            ws.lose()
            await driver.until(lambda: server.raw.stats().closed)
            await ws.wait_closed()
        ((_, path, code, _, *_),) = ends(caplog)
        assert (path, code) == ("'/'", "1006")

    async def test_failed(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        """Without a Close frame from the peer, it says what was wrong."""
        async with driver.serve(echo, log_connections=True) as server:
            async with driver.raw_client(server) as peer:
                await peer.send(frame(TEXT, b"\xff", masked=True))
                await peer.read_to_end()
        ((_, _, code, reason, received, *_),) = ends(caplog)
        assert (code, reason, received) == ("1007", "'invalid start byte at position 0'", "1")

    async def test_not_for_those_that_were_refused(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with driver.serve(echo, log_connections=True, origins=["nobody"]) as server:
            await driver.rejection(server)
        assert ends(caplog) == []

    async def test_not_unless_asked_for(
        self, driver: Driver, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with driver.serve(echo) as server:
            await driver.attempt(server)
        assert ends(caplog) == []

    async def test_unix_socket(
        self, driver: Driver, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "socket")
        async with driver.unix_serve(echo, path, log_connections=True):
            async with driver.unix_connect(path):
                pass
        ((address, *_),) = ends(caplog)
        assert address == "unix"

    async def test_behind_a_proxy(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        """The client's address is told, in whatever form a header may have it."""
        addresses = iter(["2001:db8::1", "\x1b[2J"])
        door = Door(client_address=lambda connection, request: next(addresses))
        async with driver.serve(echo, log_connections=True, door=door) as server:
            for _ in range(2):
                await driver.attempt(server)
        assert sorted(address for address, *_ in ends(caplog)) == ["2001:db8::1", "\\x1b[2J"]

    async def test_own_logger(self, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("tests.own")
        async with driver.serve(echo, log_connections=True, logger=logger) as server:
            await driver.attempt(server)
        (line,) = [r for r in caplog.records if r.getMessage().startswith("connection ended: ")]
        assert line.name == "tests.own"


def control(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, masked=True)


HOSTILE = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "half a request": b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    "no upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bad key": request(Sec_WebSocket_Key="bad"),
    "bad extensions": request(Sec_WebSocket_Extensions=";;"),
    "huge header": request(Cookie="x" * 100_000),
    "leaves": request(),
    "half a frame": request() + control(BINARY, b"half")[:-2],
    "unmasked": request() + frame(TEXT, b"abc"),
    "bad text": request() + control(TEXT, b"\xff"),
    "bad opcode": request() + control(3),
    "no beginning": request() + control(CONT),
    "too big": request() + control(BINARY, bytes(2000)),
    "bad close": request() + control(CLOSE, b"\x00"),
    "bad close code": request() + control(CLOSE, close_payload(1005)),
    "closes with an error": request() + control(CLOSE, close_payload(1011, "mine")),
    "closes inside a message": request()
    + control(TEXT, b"a", fin=False)
    + control(CLOSE, close_payload(1000)),
}


async def receives(ws: Ws) -> None:
    while True:
        await ws.recv()


async def sends(ws: Ws) -> None:
    while True:
        await ws.send(bytes(1000))
        await ws.driver.sleep(0.001)


async def fragments(ws: Ws) -> None:
    async for _ in ws.recv_streaming():
        pass
    await ws.recv()


async def pings(ws: Ws) -> None:
    while True:
        await ws.ping()
        await ws.recv()


async def wraps(ws: Ws) -> None:
    try:
        await ws.recv()
    except ConnectionClosed as exc:
        raise ExceptionGroup("tasks", [exc]) from exc


@pytest.mark.parametrize("handler", [receives, sends, fragments, pings, wraps])
@pytest.mark.parametrize("aborts", [False, True], ids=["leaves", "resets"])
async def test_no_traceback_for_what_a_peer_does(
    driver: Driver, caplog: pytest.LogCaptureFixture, handler: Any, aborts: bool
) -> None:
    caplog.set_level("INFO")
    opened = 0
    async with driver.serve(
        handler, max_size=1000, close_timeout=1, log_connections=True
    ) as server:
        for data in HOSTILE.values():
            async with driver.raw_client(server, b"") as peer:
                await hostile(peer, data)
                if aborts:
                    peer.reset()
            await driver.until(lambda: not server.accepted)
        opened = sum(server.raw.stats().closed.values())
    bad = [r for r in caplog.records if r.levelno > logging.INFO or r.exc_info]
    assert not bad
    ended = [r for r in caplog.records if r.getMessage().startswith("connection ended its handler")]
    # One line for each handler, whatever ended it.
    assert len(ended) == opened == len(ends(caplog)) > 5


async def test_what_the_peer_chose(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """It begins no line of its own, and controls no terminal."""
    caplog.set_level("INFO")
    async with driver.serve(receives, log_connections=True) as server:
        async with driver.connect(server.uri("/a")) as ws:
            await ws.close(4000, "\x1b[2J\nconnection ended: \x9b\u2028\u202e")
    messages = [record.getMessage() for record in caplog.records]
    assert any("connection ended its handler: received 4000" in message for message in messages)
    assert all(message.isprintable() for message in messages)
    assert len(ends(caplog)) == 1


async def hostile(peer: RawPeer, data: bytes) -> None:
    await peer.send(data)
    if data.startswith(request()):
        assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
