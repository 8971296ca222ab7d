"""Start a server in a process of its own, talk to it with three client libraries, measure it.

Prints who did what, what came back, and whether that was right. The exit status is 0 only if
everything was.
"""

import asyncio
import json
import os
import platform
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import websockets.asyncio.client
import websockets.exceptions

import wsapi.asyncio.client
import wsapi.exceptions

BOUND = 60  # seconds for everything
TEXT = "Grüße, κόσμε ∀"
BINARY = bytes(range(256))
FRAGMENTS = ["frag", "ment", "ed"]
LARGE = os.urandom(1 << 10) * (1 << 10)
NOT_UTF8 = b"caf\xe9"
CLOSE = (4001, "that is all, thanks")
REFUSED = "/nothing-here"


class Transcript:
    """Prints one line per step and remembers whether all of them were right."""

    right = True

    def step(self, who: str, what: str, came_back: str, right: bool) -> None:
        self.right = self.right and right
        print(f"{who:<11} {what:<34} {came_back:<44} {'ok' if right else 'WRONG'}", flush=True)


class Server:
    """The server's process, its URL, and what it reports."""

    def __init__(self, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self.process = process
        self.pid: int = hello["pid"]
        self.port: int = hello["port"]
        self.loop: str = hello["loop"]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.endings: list[dict[str, Any]] = []
        self.errors: list[str] = []

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator["Server"]:
        """Start the server; end it however the block is left."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("server.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(process, await cls._read(process))
            assert process.stdin is not None
            process.stdin.close()
            await asyncio.wait_for(process.wait(), 5)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @staticmethod
    async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        if not line:
            raise RuntimeError("the server ended early")
        event: dict[str, Any] = json.loads(line)
        return event

    async def times(self) -> tuple[float, float]:
        """Return the server's CPU time and its clock, in seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"times\n")
        while "cpu" not in (event := await self._read(self.process)):
            self._note(event)
        return event["cpu"], event["clock"]

    async def ending(self, path: str) -> tuple[int, str]:
        """Return the close code and reason that the server saw on the connection to ``path``."""
        while True:
            for event in self.endings:
                if event["path"] == path:
                    return event["code"], event["reason"]
            self._note(await self._read(self.process))

    def _note(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.errors.append(event["error"])
        else:
            self.endings.append(event)


async def talk(library: Any, server: Server, transcript: Transcript) -> None:
    """Take every step with ``wsapi`` or ``websockets``: the interface is the same."""
    who: str = library.__name__
    connect = library.asyncio.client.connect
    step = transcript.step

    async with connect(f"{server.url}/{who}") as connection:
        await connection.send(TEXT)
        answer = await connection.recv()
        step(who, f'text "{TEXT}"', f'"{answer}"', answer == TEXT)

        await connection.send(BINARY)
        answer = await connection.recv()
        step(who, f"{len(BINARY)} bytes", f"{len(answer)} bytes", answer == BINARY)

        await connection.send(LARGE)
        answer = await connection.recv()
        step(who, "1 MiB", f"{len(answer)} bytes, compared", answer == LARGE)

        latency = await asyncio.wait_for(await connection.ping(b"demo"), 5)
        step(who, "ping", f"pong after {latency * 1e3:.2f} ms", latency > 0)

        await connection.close(*CLOSE)
    code, reason = await server.ending(f"/{who}")
    step(
        who,
        f"close {CLOSE[0]} with a reason",
        f'server saw {code} "{reason}"',
        (code, reason) == CLOSE,
    )

    async with connect(f"{server.url}/{who}/fragments") as connection:
        await connection.send(FRAGMENTS)
        count = await connection.recv()
        # An iterable is sent with an empty last frame by those who don't look ahead.
        answers = [fragment async for fragment in connection.recv_streaming() if fragment]
        right = int(count) >= len(FRAGMENTS) and answers == FRAGMENTS
        step(
            who,
            f"a message in {len(FRAGMENTS)} fragments",
            f"server got {count}, sent {answers}",
            right,
        )

    try:
        async with connect(server.url + REFUSED):
            step(who, f"connect to {REFUSED}", "accepted", False)
    except library.exceptions.InvalidStatus as exc:
        status, body = exc.response.status_code, exc.response.body.decode().strip()
        step(who, f"connect to {REFUSED}", f'refused: {status} "{body}"', status == 404)

    async with connect(f"{server.url}/{who}/utf-8") as connection:
        if hasattr(connection.protocol, "validate_text"):
            try:
                await connection.send(NOT_UTF8, text=True)
                step(who, f"send {NOT_UTF8!r} as text", "sent", False)
            except UnicodeDecodeError:
                step(who, f"send {NOT_UTF8!r} as text", "refused before it is sent", True)
            connection.protocol.validate_text = False
        await connection.send(NOT_UTF8, text=True)
        try:
            answer = await connection.recv()
            step(who, f"text that is not UTF-8: {NOT_UTF8!r}", f"{answer!r}", False)
        except library.exceptions.ConnectionClosed as exc:
            received = exc.rcvd
            sent = None if received is None else received.code
            step(who, f"text that is not UTF-8: {NOT_UTF8!r}", f"closed with {sent}", sent == 1007)


async def talk_aiohttp(server: Server, transcript: Transcript) -> None:
    """Take the same steps with aiohttp, which receives fragments but cannot send them."""
    who = "aiohttp"
    step = transcript.step

    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{server.url}/{who}", autoping=False) as ws:
            await ws.send_str(TEXT)
            text = await ws.receive_str()
            step(who, f'text "{TEXT}"', f'"{text}"', text == TEXT)

            await ws.send_bytes(BINARY)
            data = await ws.receive_bytes()
            step(who, f"{len(BINARY)} bytes", f"{len(data)} bytes", data == BINARY)

            await ws.send_bytes(LARGE)
            data = await ws.receive_bytes()
            step(who, "1 MiB", f"{len(data)} bytes, compared", data == LARGE)

            began = time.perf_counter()
            await ws.ping(b"demo")
            message = await ws.receive()
            latency = time.perf_counter() - began
            right = message.type is aiohttp.WSMsgType.PONG and message.data == b"demo"
            step(who, "ping", f"pong after {latency * 1e3:.2f} ms", right)

            await ws.close(code=CLOSE[0], message=CLOSE[1].encode())
        code, reason = await server.ending(f"/{who}")
        step(
            who,
            f"close {CLOSE[0]} with a reason",
            f'server saw {code} "{reason}"',
            (code, reason) == CLOSE,
        )

        try:
            async with session.ws_connect(server.url + REFUSED):
                step(who, f"connect to {REFUSED}", "accepted", False)
        except aiohttp.WSServerHandshakeError as exc:
            step(who, f"connect to {REFUSED}", f"refused: {exc.status}", exc.status == 404)

        async with session.ws_connect(f"{server.url}/{who}/utf-8") as ws:
            await ws.send_frame(NOT_UTF8, aiohttp.WSMsgType.TEXT)
            message = await ws.receive()
            sent = message.data if message.type is aiohttp.WSMsgType.CLOSE else None
            step(who, f"text that is not UTF-8: {NOT_UTF8!r}", f"closed with {sent}", sent == 1007)


IN_FLIGHT = 64
SIZE = 64


def pump(port: int, seconds: float, started: Callable[[], None]) -> tuple[int, bool]:
    """Send bursts of ready-made frames from a plain socket; return the count of echoed messages.

    The second value says whether every byte that came back was as expected.
    """
    payload = bytes(i % 256 for i in range(SIZE))
    key = b"\x12\x34\x56\x78"
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    burst = (b"\x82" + bytes([0x80 | SIZE]) + key + masked) * IN_FLIGHT
    expected = (b"\x82" + bytes([SIZE]) + payload) * IN_FLIGHT
    answer = bytearray(len(expected))
    view = memoryview(answer)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            b"GET /pump HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = sock.recv(4096)
            if not received:
                return 0, False
            head += received
        if not head.startswith(b"HTTP/1.1 101 "):
            return 0, False

        started()
        count = 0
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            sock.sendall(burst)
            filled = 0
            while filled < len(expected):
                n = sock.recv_into(view[filled:])
                if n == 0:
                    return count, False
                filled += n
            if answer != expected:
                return count, False
            count += IN_FLIGHT
    return count, True


async def measure(server: Server, transcript: Transcript) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(pump, server.port, 0.3, lambda: None)  # warm up
    before: list[tuple[float, float]] = []

    def started() -> None:
        before.append(asyncio.run_coroutine_threadsafe(server.times(), loop).result(5))

    count, right = await asyncio.to_thread(pump, server.port, 1.0, started)
    cpu_after, clock_after = await server.times()
    cpu_before, clock_before = before[0] if before else (cpu_after, clock_after - 1.0)
    seconds, cpu = clock_after - clock_before, cpu_after - cpu_before
    result = (
        f"{count / seconds:,.0f} messages/s, {cpu / max(count, 1) * 1e6:.2f} µs of server CPU each"
    )
    transcript.step(
        "measured", f"{SIZE} B echo, {IN_FLIGHT} in flight", result, right and count > 0
    )
    python = f"{platform.python_implementation()} {platform.python_version()}"
    for line in (
        f"One connection, {seconds:.1f} s, {count:,} messages, sent as ready-made frames from a",
        f"plain socket, compared byte by byte. Server on {server.loop}, {python}.",
        "The rate is that of server and sender together; the CPU time is the server's alone.",
    ):
        print(" " * 11, line)


async def main() -> int:
    os.environ["no_proxy"] = "127.0.0.1"
    transcript = Transcript()
    try:
        async with asyncio.timeout(BOUND), Server.running() as server:
            release = version("wsproto-fast")
            print(f"server      wsproto-fast {release}, {server.url}, process {server.pid}\n")
            await talk(wsapi, server, transcript)
            await talk(websockets, server, transcript)
            await talk_aiohttp(server, transcript)
            await measure(server, transcript)
            errors = "; ".join(server.errors) or "no errors"
            transcript.step("server", "log of errors", errors, not server.errors)
    except Exception as exc:
        transcript.step("demo", "went wrong", f"{type(exc).__name__}: {exc}", False)
    print("\neverything was right" if transcript.right else "\nsomething was wrong")
    return 0 if transcript.right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
