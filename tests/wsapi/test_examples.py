"""The programs in examples/, each run as users run them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.foreign import running_chromium
from tests.wsapi.helpers import echo, run, serving, uri_of
from wsapi.asyncio.client import ClientConnection, connect
from wsapi.asyncio.server import ServerConnection, serve
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.http11 import Response

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(sys.platform == "win32", reason="programs are ended by signals"),
]


class Program:
    """An example that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError((await self.process.stderr.read()).decode())
        return line.decode().rstrip("\n")

    async def end(self, number: int = signal.SIGINT) -> str:
        """Send it a signal, wait until it ends well; return what else it prints."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self, *, quiet: bool = True) -> str:
        output, errors = await self.process.communicate()
        assert self.process.returncode == 0, errors.decode()
        if quiet:
            assert errors == b"", errors.decode()
        return output.decode()


@contextlib.asynccontextmanager
async def running(name: str, *arguments: str, **environment: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-W", "error", str(EXAMPLES / name), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        # Reads the pipes to their ends, so that their transports are closed.
        await process.communicate()


async def messages(connection: ClientConnection, number: int) -> list[str | bytes]:
    return [await connection.recv() for _ in range(number)]


# ---------------------------------------------------------------------- one by one


async def test_echo() -> None:
    async with running("echo_server.py", "0") as server:
        url = await server.line()
        async with running("echo_client.py", url) as client:
            first, second = (await client.wait()).splitlines()
            assert first == "Hello!"
            assert re.fullmatch(r"ping: \d+\.\d\d ms", second)
        async with connect(url) as connection:
            await connection.send("still open")
            assert await connection.recv() == "still open"
            assert await server.end() == ""
            await connection.wait_closed()
            assert connection.close_code == 1001


async def test_sans_io() -> None:
    async with serving(echo) as server:
        async with running("sans_io.py", uri_of(server)) as client:
            output = await client.wait()
    assert output == "Hello!\nsent 1000 (OK); then received 1000 (OK)\n"


async def test_over_http2() -> None:
    # The long one needs updates of the window of the stream.
    long = "long " * 20_000
    async with running("over_http2.py", "Hello!", long) as example:
        output = await example.wait()
    assert output == f"Hello!\n{long}\nsent 1000 (OK); then received 1000 (OK)\n"


async def test_broadcast() -> None:
    async with running("broadcast.py", "0") as server:
        url = await server.line()
        async with connect(url) as one:
            assert await one.recv() == "there are 1 of us"
            async with connect(url) as two:
                assert await messages(two, 1) == await messages(one, 1) == ["there are 2 of us"]
                await two.send("hello")
                assert await messages(one, 1) == await messages(two, 1) == ["hello"]
        await server.end()


async def test_basic_auth() -> None:
    async with running("basic_auth.py", "0") as server:
        url = await server.line()
        async with connect(url.replace("://", "://alice:wonderland@")) as connection:
            assert await connection.recv() == "Welcome, alice!"
        for user in ("", "alice:looking-glass@", "bob:wonderland@"):
            with pytest.raises(InvalidStatus) as raised:
                await connect(url.replace("://", f"://{user}"))
            assert raised.value.response.status_code == 401
        await server.end()


async def test_token_auth() -> None:
    async with running("token_auth.py", "0") as server:
        url = await server.line()
        async with connect(url) as connection:
            await connection.send("alice 0f3c7a")
            assert await connection.recv() == "Welcome, alice!"
        for message in ("alice 9d41be", "carol 0f3c7a", ""):
            async with connect(url) as connection:
                await connection.send(message)
                with pytest.raises(ConnectionClosedError, match="authentication failed"):
                    await connection.recv()
                assert connection.close_code == 1008
        await server.end()


async def test_routing() -> None:
    pytest.importorskip("werkzeug", reason="werkzeug isn't installed")
    async with running("routing.py", "0") as server:
        url = await server.line()
        async with connect(url) as connection:
            assert await connection.recv() == "try /echo or /add/1/2"
        async with connect(f"{url}/add/20/22") as connection:
            assert await connection.recv() == "42"
        async with connect(f"{url}/echo") as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"
        with pytest.raises(InvalidStatus) as raised:
            await connect(f"{url}/add/20/x")
        assert raised.value.response.status_code == 404
        await server.end()


async def test_both_ways() -> None:
    async with running("both_ways.py", "0") as server:
        url = await server.line()
        async with connect(url) as connection:
            assert await connection.recv() == "10"
            await connection.send("2")
            rest = [message async for message in connection]
            # The next number may be on its way already.
            assert rest[-2:] == ["2", "1"]
            assert connection.close_reason == "lift-off"
        async with connect(url) as connection:
            await connection.send("two")
            with contextlib.suppress(ConnectionClosedError):
                await messages(connection, 10)
            assert connection.close_code == 1007
        async with connect(url) as connection:
            pass
        await server.end()


async def test_reconnecting_client() -> None:
    numbers = itertools.count(1)

    async def handler(ws: ServerConnection) -> None:
        await ws.send(f"connection {next(numbers)}")
        await ws.wait_closed()

    async def last(ws: ServerConnection) -> None:
        await ws.send("bye")
        await ws.wait_closed()

    delays = {"WSAPI_BACKOFF_INITIAL_DELAY": "0.05", "WSAPI_BACKOFF_MIN_DELAY": "0.05"}
    async with serve(handler, "127.0.0.1", 0) as first:
        port = first.sockets[0].getsockname()[1]
        async with running("reconnecting_client.py", uri_of(first), **delays) as client:
            assert await client.line() == "connection 1"
            (connection,) = first.connections
            await connection.close()
            assert await client.line() == "connection 2"
            (connection,) = first.connections
            connection.transport.abort()
            assert await client.line() == "connection lost"
            assert await client.line() == "connection 3"
            first.close()
            await first.wait_closed()
            # Nobody listens for a moment.
            assert client.process.stderr is not None
            line = (await client.process.stderr.readline()).decode()
            assert re.search(r"connect failed; reconnecting in \d+\.\d seconds: ", line)
            async with serve(last, "127.0.0.1", port):
                assert await client.line() == "bye"
                assert await client.wait(quiet=False) == ""


async def test_tls(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme isn't installed")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    paths = [str(tmp_path / name) for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    certificate.cert_chain_pems[0].write_to_path(paths[1])
    certificate.private_key_pem.write_to_path(paths[2])
    async with running("tls_server.py", *paths[1:], "0") as server:
        url = await server.line()
        assert url.startswith("wss://localhost:")
        async with running("tls_client.py", paths[0], url) as client:
            first, second = (await client.wait()).splitlines()
            assert first == "Hello!"
            assert "TLS" in second
        await server.end()


async def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with running("unix_socket.py", "server", path) as server:
        assert await server.line() == path
        assert os.stat(path).st_mode & 0o777 == 0o600
        async with running("unix_socket.py", "client", path) as client:
            assert await client.wait() == f"process {server.process.pid} received 'Hello!'\n"
        await server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_graceful_shutdown(number: int) -> None:
    async with running("graceful_shutdown.py", "0") as server:
        url = await server.line()
        with pytest.raises(InvalidStatus) as raised:
            await connect(f"{url}/healthz")
        assert raised.value.response.status_code == 200
        async with connect(url) as idle, connect(url) as busy:
            await busy.send("it")
            assert await busy.recv() == "working on 'it'"
            assert await server.end(number) == "finished 'it'\nclosed\n"
            for connection in (idle, busy):
                await connection.wait_closed()
                assert connection.close_code == 1012
        with pytest.raises(OSError):
            await connect(url)


@pytest.mark.parametrize("signals", [1, 2])
async def test_graceful_shutdown_under_load(signals: int) -> None:
    """What was acknowledged is finished, whoever goes on sending, also after a second signal."""
    acknowledged: list[str] = []
    codes = []

    async def client(url: str, name: int) -> None:
        try:
            async with connect(url) as connection:
                for number in itertools.count():
                    message = f"{name}-{number}"
                    await connection.send(message)
                    assert await connection.recv() == f"working on {message!r}"
                    acknowledged.append(message)
        except ConnectionClosedError as exc:
            codes.append(exc.rcvd and exc.rcvd.code)

    async with running("graceful_shutdown.py", "0") as server:
        url = await server.line()
        async with asyncio.TaskGroup() as clients:
            for name in range(30):
                clients.create_task(client(url, name))
            while len(acknowledged) < 60:
                await asyncio.sleep(0.01)
            if signals == 2:
                server.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(InvalidStatus):
                    while True:
                        async with connect(url):
                            pass
                server.process.send_signal(signal.SIGTERM)
                output = await server.wait()
            else:
                output = await server.end(signal.SIGTERM)
    finished = re.findall(r"finished '([\d-]+)'", output)
    assert len(set(finished)) == len(finished)
    assert set(acknowledged) <= set(finished)
    assert output.endswith("\nclosed\n")
    assert codes == [1012] * 30


OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@contextlib.contextmanager
def deaf_client(port: int, data: bytes, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Send something to a server, and read nothing but what is asked for."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.bind((address, 0))
        sock.connect(("127.0.0.1", port))
        sock.sendall(data)
        yield sock


def text(payload: bytes) -> bytes:
    """Return a frame as clients send it, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


async def test_graceful_shutdown_of_those_that_do_not_answer() -> None:
    """It ends, whoever is there, and handlers of those that are silent finish their work."""
    async with running("graceful_shutdown.py", "0", "1") as server:
        port = int((await server.line()).rpartition(":")[2])
        large = text(bytes(60_000)) * 60
        with contextlib.ExitStack() as stack:
            for data in (b"", OPENING[:30], OPENING, OPENING + text(b"it")):
                stack.enter_context(deaf_client(port, data))
            deaf = stack.enter_context(deaf_client(port, OPENING))
            # Much data before the response would be refused.
            assert deaf.recv(12) == b"HTTP/1.1 101"
            deaf.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                deaf.sendall(large * 3)
            async with connect(f"ws://127.0.0.1:{port}") as connection:
                await connection.send("mine")
                assert await connection.recv() == "working on 'mine'"
                server.process.send_signal(signal.SIGTERM)
                # Others than this one are told of in the log.
                output = await server.wait(quiet=False)
    assert "finished 'it'\n" in output
    assert "finished 'mine'\n" in output
    assert output.endswith("closed\n")


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
async def test_rolling_restart() -> None:
    async with running("rolling_restart.py", "20", "0.2") as example:
        output = await example.wait()
    numbers = dict(re.findall(r"(?m)^([a-z ]+): +(\d+)", output))
    assert int(numbers["acknowledged"]) > 0
    assert numbers["lost"] == "0"
    # Who is still waiting when the second restart begins comes back once.
    returns = int(numbers["connected again"])
    assert 20 <= returns <= 40
    assert sum(map(int, re.findall(r"(?m)^ *[\d.]+ s +(\d+) #", output))) == returns


# ---------------------------------------------------------------------- the dashboard


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def accepting(port: int) -> None:
    """Wait until somebody listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return


async def http_get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_dashboard() -> None:
    async with running("dashboard.py", "0") as server:
        url = await server.line()
        port = int(url.rstrip("/").rpartition(":")[2])
        response = await http_get(port, "/")
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.count(b"\r\nContent-Type: ") == 1
        assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in response
        assert response.endswith((EXAMPLES / "dashboard.html").read_bytes())
        assert (await http_get(port, "/x")).startswith(b"HTTP/1.1 404 ")
        feed = url.replace("http", "ws") + "feed"
        async with connect(feed) as one, connect(feed) as two:
            await one.send("visitors")
            assert json.loads(await one.recv()) == {"topic": "visitors", "value": 2}
            await two.send("time")
            event = json.loads(await two.recv())
            assert event["topic"] == "time"
            assert re.fullmatch(r"\d\d:\d\d:\d\d", event["value"])
            await two.send("weather")
            with pytest.raises(ConnectionClosedError, match="no such topic"):
                await messages(two, 10)
        await server.end()


def test_dashboard_in_a_browser(tmp_path: Path) -> None:
    run(look_at_the_dashboard(tmp_path), asyncio.new_event_loop)  # once is enough


async def look_at_the_dashboard(directory: Path) -> None:
    async with running("dashboard.py", "0") as server, running_chromium(directory) as browser:
        url = await server.line()
        page = await browser.open(url)

        async def text_of(element: str) -> str:
            return str(await page.evaluate(f"document.getElementById('{element}')?.textContent"))

        while await text_of("visitors") != "1":
            await asyncio.sleep(0.05)
        assert await text_of("state") == "live"
        assert re.fullmatch(r"\d\d:\d\d:\d\d", await text_of("time"))
        async with connect(url.replace("http", "ws") + "feed"):
            while await text_of("visitors") != "2":
                await asyncio.sleep(0.05)
        await server.end()
        while await text_of("state") != "connection lost":
            await asyncio.sleep(0.05)


async def test_statistics_on_a_page() -> None:
    async with running("server_statistics.py", "0") as server:
        url = await server.line()
        port = int(url.removesuffix("/statistics").rpartition(":")[2])
        page = await http_get(port, "/statistics")
        assert page.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in page
        assert b'fetch("/statistics.json")' in page
        async with connect(f"ws://127.0.0.1:{port}/") as connection:
            await connection.send("four")
            assert await connection.recv() == "four"
            response = await http_get(port, "/statistics.json")
        head, _, body = response.partition(b"\r\n\r\n")
        assert b"\r\nContent-Type: application/json\r\n" in head + b"\r\n"
        stats = json.loads(body)
        assert (stats["open"], stats["opening"]) == (1, 1)  # the latter is this very request
        assert (stats["messages_received"], stats["message_bytes_sent"]) == (1, 4)
        assert stats["handshakes"]["inf"] == 1
        await server.end()


async def test_prometheus() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="it isn't installed")
    async with running("prometheus_metrics.py", "0") as server:
        url = await server.line()
        port = int(url.removesuffix("/metrics").rpartition(":")[2])
        async with connect(f"ws://127.0.0.1:{port}/") as connection:
            for message in ("one", "two", b"three"):
                await connection.send(message)
                assert await connection.recv() == message.upper()
            head, _, body = (await http_get(port, "/metrics")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        (kind,) = re.findall(rb"(?i)\r\ncontent-type: ([^\r]*)", head + b"\r")
        assert kind.startswith(b"text/plain; version=")
        found = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in parser.text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        own = ("server", "echo")
        assert found["wsapi_connections", own, ("state", "open")] == 1
        assert found["wsapi_messages_total", ("direction", "received"), own] == 3
        assert found["wsapi_message_bytes_total", ("direction", "sent"), own] == 11
        assert found["wsapi_handshake_seconds_count", own] == 1
        assert found["echo_commands_total", ("command", "shout")] == 2
        assert found["echo_commands_total", ("command", "other")] == 1
        assert found[("echo_seconds_count",)] == 3
        # The scrape before this one was an ordinary request, which made no connection.
        again = (await http_get(port, "/metrics?again")).decode()
        assert 'wsapi_connections_refused_total{reason="200",server="echo"} 1.0' in again
        await server.end()


def summary(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


async def refusal(url: str, **options: Any) -> Response:
    with pytest.raises(InvalidStatus) as raised:
        await connect(url, **options)
    return raised.value.response


async def refused(url: str) -> bool:
    try:
        async with connect(url):
            return False
    except InvalidStatus:
        return True


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2")
async def test_limits_at_the_door() -> None:
    async with running("limits.py", "0") as server:
        url = await server.line()
        port = int(url.rpartition(":")[2])
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(connect(url))
            response = await refusal(url)
            assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
            other: dict[str, Any] = {"local_addr": ("127.0.0.2", 0)}
            await stack.enter_async_context(connect(url, **other))
            response = await refusal(url, **other)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        with contextlib.ExitStack() as clients:
            for _ in range(3):
                clients.enter_context(deaf_client(port, b""))
            # It may be some time until the others are gone.
            while (response := await refusal(url)).status_code == 429:
                await asyncio.sleep(0.01)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        reasons = summary(await server.end())["refused"]
        for reason in ("max_per_address", "max_connections", "max_opening"):
            assert f"'{reason}': " in reasons


async def test_limits_on_what_is_sent() -> None:
    async with running("limits.py", "0") as server:
        url = await server.line()
        for sent, code, reason in [
            (["x" * 20_001], 1009, "frame with 20001 bytes exceeds limit of 20000 bytes"),
            (["x"] * 20, 1008, "more than 5 messages per second"),
            (["x" * 20_000] * 4, 1008, "more than 50000 bytes per second"),
        ]:
            with pytest.raises(ConnectionClosedError) as closed:
                async with connect(url, compression=None) as connection:
                    for message in sent:
                        await connection.send(message)
                    async for _ in connection:
                        pass
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
        assert summary(await server.end())["closed"] == "{1009: 1, 1008: 2}"


async def test_limits_on_time() -> None:
    async with running("limits.py", "0") as server:
        port = int((await server.line()).rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            nothing, half, silent = (
                stack.enter_context(deaf_client(port, data))
                for data in (b"", OPENING[:30], OPENING)
            )
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, nothing.recv, 100) == b""
            assert (await loop.run_in_executor(None, half.recv, 100)).startswith(b"HTTP/1.1 408 ")
            received = b""
            while data := await loop.run_in_executor(None, silent.recv, 1000):
                received += data
            frames = received.partition(b"\r\n\r\n")[2]
            assert frames[:2] == b"\x89\x04"  # a Ping
            assert frames[6] == 0x88  # a Close frame
            assert frames[8:10] == (1011).to_bytes(2, "big")
        numbers = summary(await server.end())
        assert numbers["refused"] in ("{'timeout': 1, '408': 1}", "{'408': 1, 'timeout': 1}")
        assert numbers["closed"] == "{1011: 1}"


async def test_limits_on_what_waits() -> None:
    asks = OPENING + text(b"/history") * 9
    async with running("limits.py", "0") as server:
        port = int((await server.line()).rpartition(":")[2])
        url = f"ws://127.0.0.1:{port}"
        with deaf_client(port, asks) as client:
            assert client.recv(12) == b"HTTP/1.1 101"
            async with contextlib.AsyncExitStack() as others:
                for _ in range(4):
                    await others.enter_async_context(connect(url))
                # It takes nothing for too long, which drops messages before, and leaves its place.
                while await refused(url):
                    await asyncio.sleep(0.05)
        server.process.send_signal(signal.SIGINT)
        numbers = summary(await server.wait(quiet=False))
        assert numbers["closed"] == "{1006: 1, 1000: 5}"
        assert numbers["given up"] == "{}"
        assert int(numbers["dropped"].split()[0]) > 0


async def test_limits_on_what_waits_together() -> None:
    asks = OPENING + text(b"/history") * 9
    async with running("limits.py", "0") as server:
        port = int((await server.line()).rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                client = stack.enter_context(deaf_client(port, asks))
                # A response is there: that was no connection in its opening handshake.
                assert client.recv(12) == b"HTTP/1.1 101"
            assert server.process.stderr is not None
            lines = b""
            while b"too much waits" not in lines:
                lines += await server.process.stderr.readline()
        server.process.send_signal(signal.SIGINT)
        output = await server.wait(quiet=False)
        assert re.fullmatch(r"\{'buffer_budget': [1-4]\}", summary(output)["given up"])


async def test_topics_in_fastapi() -> None:
    pytest.importorskip("fastapi", reason="fastapi isn't installed")
    port = free_port()
    async with running("topics_fastapi.py", str(port)) as server:
        await accepting(port)
        for path, text in [("/", b"Orders"), ("/wsapi-topics.js", b"export class Topics")]:
            response = await http_get(port, path)
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert text in response
        async with connect(f"ws://127.0.0.1:{port}/topics") as connection:
            assert json.loads(await connection.recv())["type"] == "hello"
            await connection.send('{"type": "subscribe", "id": 1, "topic": "orders"}')
            answer = json.loads(await connection.recv())
            assert (answer["type"], answer["recovered"]) == ("subscribed", None)
            await connection.send('{"type": "publish", "id": 2, "topic": "orders", "data": 0}')
            assert json.loads(await connection.recv())["code"] == "forbidden"
            body = b'{"item": "tea"}'
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            response = await reader.read()
            writer.close()
            await writer.wait_closed()
            message = json.loads(await connection.recv())
            assert message["data"] == {"item": "tea"}
            assert json.loads(response.partition(b"\r\n\r\n")[2]) == {
                "position": message["position"]
            }
        await server.end()


def test_each_example_is_run_here() -> None:
    tested = set(re.findall(r'running\(\s*"(\w+\.py)"', Path(__file__).read_text("utf-8")))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}
    assert len(tested) >= 10
