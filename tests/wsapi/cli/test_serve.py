"""``wsapi serve``: a process that is asked by HTTP and WebSocket, and by a browser."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.wsapi.cli.helpers import PATIENCE, Certificates, Cli, run, start
from tests.wsapi.foreign import running_chromium
from wsapi.cli import _serve
from wsapi.exceptions import ConnectionClosed, InvalidStatus
from wsapi.sync.client import connect, unix_connect

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends by signals")


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Run a server; give its process, URI, and port."""
    with start("serve", "-p", "0", *arguments) as process:
        try:
            assert process.stdout is not None
            uri = process.stdout.readline().strip()
            yield process, uri, int(uri.rpartition(":")[2].strip("/"))
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


class TestHandlers:
    def test_echo(self) -> None:
        with serving() as (_, uri, _), connect(uri) as connection:
            for message in ("hello", b"\x00\xff", ""):
                connection.send(message)
                assert connection.recv(PATIENCE) == message

    def test_broadcast(self) -> None:
        with serving("broadcast") as (_, uri, _), connect(uri) as one, connect(uri) as two:
            one.send("x")  # who is there has an answer
            assert one.recv(PATIENCE) == "x"
            two.send("y")
            assert one.recv(PATIENCE) == "y"
            assert "y" in (two.recv(PATIENCE), two.recv(PATIENCE))

    def test_options(self) -> None:
        options = ("--origin", "http://localhost", "--subprotocol", "a", "--max-size", "10")
        with serving(*options, "--max-connections", "1", "--no-compression") as (_, uri, _):
            with pytest.raises(InvalidStatus, match="HTTP 403"):
                connect(uri, origin="http://elsewhere")
            with connect(uri, origin="http://localhost", subprotocols=["b", "a"]) as connection:
                assert connection.subprotocol == "a"  # others may have none
                assert connection.protocol.extensions == []
                with pytest.raises(InvalidStatus, match="HTTP 503"):
                    connect(uri)
                connection.send("x" * 11)
                with pytest.raises(ConnectionClosed, match="1009"):
                    connection.recv(PATIENCE)

    def test_other_subprotocols(self) -> None:
        with serving("--subprotocol", "a") as (_, uri, _):
            for offered in (None, ["b"]):
                with connect(uri, subprotocols=offered) as connection:
                    assert connection.subprotocol is None

    def test_unix_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with start("serve", "--unix", str(path)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"ws://localhost/ on {path}\n"
            with unix_connect(str(path)) as connection:
                connection.send("x")
                assert connection.recv(PATIENCE) == "x"
            result = run("--unix", str(path), "-q", "-m", "y", "-n", "1")
            assert (result.returncode, result.stdout) == (0, "y\n")
            process.terminate()
            assert process.wait(PATIENCE) == 0

    def test_tls(self, cli: Cli, certificates: Certificates) -> None:
        options = ("--cert", str(certificates.cert), "--key", str(certificates.key))
        with serving(*options) as (_, uri, _):
            assert uri.startswith("wss://")
            result = cli("--ca", str(certificates.ca), "-q", "-m", "x", "-n", "1", uri)
            assert result == (0, "x\n", "")


class TestPages:
    def test_page(self) -> None:
        with serving() as (_, _, port):
            for path in ("/", "/_wsapi"):
                status, headers, body = ask(port, path)
                assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
                assert body.startswith(b"<!DOCTYPE html>")
                assert "connect-src ws: wss:" in headers["Content-Security-Policy"]
            status, headers, body = ask(port, "/", "HEAD")
            assert (status, body) == (200, b"")
            assert int(headers["Content-Length"]) > 1000
            assert ask(port, "/x")[0] == 404
            status, headers, _ = ask(port, "/", "POST")
            assert (status, headers["Allow"]) == (405, "GET, HEAD")

    def test_directory(self, tmp_path: Path) -> None:
        (tmp_path / "index.html").write_text("<p>hello")
        (tmp_path / "app.js").write_text("1")
        with serving(str(tmp_path)) as (_, uri, port):
            assert ask(port, "/?x")[2] == b"<p>hello"
            status, headers, body = ask(port, "/app.js")
            assert (status, body) == (200, b"1")
            assert headers["Content-Type"] == "text/javascript; charset=utf-8"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert b"WebSocket client" in ask(port, "/_wsapi")[2]
            assert ask(port, "/../pyproject.toml")[0] == 404
            (tmp_path / "sub").mkdir()
            status, headers, _ = ask(port, "/sub?x")
            assert (status, headers["Location"]) == (308, "sub/")
            with connect(f"{uri}app.js") as connection:
                connection.send("x")
                assert connection.recv(PATIENCE) == "x"

    def test_directory_without_a_page(self, tmp_path: Path) -> None:
        with serving(str(tmp_path), "broadcast") as (_, _, port):
            assert b"WebSocket client" in ask(port, "/")[2]

    def test_too_much_on_its_way(self, tmp_path: Path) -> None:
        """Who asks for much and reads nothing can't have the server keep all of it."""
        with open(tmp_path / "large", "wb") as file:
            file.truncate(2**24)
        request = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with serving(str(tmp_path)) as (_, _, port), contextlib.ExitStack() as stack:
            for _ in range(2**28 // 2**24):
                sock = socket.create_connection(("127.0.0.1", port))
                stack.callback(sock.close)
                sock.sendall(request)
                assert sock.recv(12) == b"HTTP/1.1 200"
            assert ask(port, "/large")[0] == 503
            assert ask(port, "/_wsapi")[0] == 200

    def test_in_a_browser(self) -> None:
        """A page that connects, sends, shows what comes as text, and closes."""

        async def play() -> None:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                with serving() as (_, uri, port):
                    async with running_chromium(Path(folder)) as browser:
                        page = await browser.open()
                        address = f"http://127.0.0.1:{port}/"
                        await browser.call("Page.navigate", page.session, url=address)
                        log = json.loads(await page.evaluate(SCRIPT))
            assert log[0] == ["=", f"{uri}"]
            assert log[1:5] == [
                [">", "<b>x</b>"],
                ["<", "<b>x</b>"],
                [">", "(binary) 00 ff"],
                ["<", "(binary) 00 ff"],
            ]
            assert log[5] == ["!", "The message isn't in hex."]
            assert log[6] == ["=", "3001 (registered) bye"]

        asyncio.run(asyncio.wait_for(play(), 50))


SCRIPT = """
(async () => {
  const $ = (id) => document.getElementById(id);
  const rows = () => document.querySelectorAll("#log li");
  while (document.readyState !== "complete" || !$("connect"))
    await new Promise((resolve) => setTimeout(resolve, 20));
  const until = async (count) => {
    while (rows().length < count) await new Promise((resolve) => setTimeout(resolve, 20));
  };
  $("connect").click();
  await until(1);
  $("message").value = "<b>x</b>";
  $("send").click();
  await until(3);
  $("kind").value = "hex";
  $("message").value = "00 ff";
  $("send").click();
  await until(5);
  $("message").value = "0";
  $("send").click();
  await until(6);
  $("code").value = "3001";
  $("reason").value = "bye";
  $("close").click();
  await until(7);
  const text = (row, name) => row.querySelector(name).textContent.split(" · ")[0];
  return JSON.stringify([...rows()].map((row) => [text(row, ".sign"), text(row, ".body")]));
})()
"""


@pytest.mark.parametrize(
    "address, shown",
    [
        (("127.0.0.1", 9), "ws://127.0.0.1:9/"),
        (("::1", 9, 0, 0), "ws://[::1]:9/"),
        (("0.0.0.0", 9), "ws://localhost:9/"),
        (("::", 9, 0, 0), "ws://localhost:9/"),
    ],
)
def test_addresses(
    address: tuple[object, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = mock.Mock()
    server.sockets = [mock.Mock(getsockname=lambda: address)]
    _serve._announce(server, argparse.Namespace(unix=None, quiet=True), False)
    assert capsys.readouterr().out == f"{shown}\n"


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_drains(self, number: signal.Signals) -> None:
        with start("serve", "-p", "0") as process:
            assert process.stdout is not None
            uri = process.stdout.readline().strip()
            with connect(uri) as connection:
                connection.send("x")
                assert connection.recv(PATIENCE) == "x"
                process.send_signal(number)
                with pytest.raises(ConnectionClosed, match="1012"):
                    connection.recv(PATIENCE)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert "1 connections in " in out
        assert "closed: 1 with 1012\n" in out
        assert "received 1 messages, 1 bytes; sent 1 messages, 1 bytes\n" in out

    def test_quiet(self) -> None:
        with start("serve", "-p", "0", "-q") as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ws://127.0.0.1:")
            process.terminate()
            assert process.communicate(timeout=PATIENCE) == ("", "")
            assert process.returncode == 0

    def test_client_that_does_not_answer(self) -> None:
        with start("serve", "-p", "0", "--drain", "0.2") as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip("/\n").rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(
                    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                assert sock.recv(12) == b"HTTP/1.1 101"
                process.terminate()
                assert process.wait(PATIENCE) == 0
            process.communicate()

    def test_verbose(self) -> None:
        """What clients bring into a line can't control the terminal."""
        with start("serve", "-p", "0", "-v") as process:
            assert process.stdout is not None
            uri = process.stdout.readline().strip()
            with connect(f"{uri}path") as connection:
                connection.close(4000, "\x1b[2J")
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE)
        assert "path='/path' code=4000" in err
        assert "\x1b" not in err

    def test_very_verbose(self) -> None:
        with start("serve", "-p", "0", "-vv") as process:
            assert process.stdout is not None
            uri = process.stdout.readline().strip()
            headers = {"X-Api-Key": "t0ken"}
            with connect(f"{uri}?token=t0ken", additional_headers=headers) as connection:
                connection.send("\x1b[2J")
                connection.recv(PATIENCE)
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE)
        assert "< TEXT 1b 5b 32 4a [binary, 4 bytes]" in err
        assert "< X-Api-Key: ***" in err
        assert "t0ken" not in err
        assert "\x1b" not in err


class TestWrongArguments:
    @pytest.mark.parametrize(
        "arguments, status, message",
        [
            (["no-such"], 2, "can't serve no-such: no such file or directory (echo, broadcast, "),
            (["/etc/hostname"], 2, "can't serve /etc/hostname: not a directory"),
            (["echo", "broadcast"], 2, "serve takes echo or broadcast, and a directory"),
            (["/tmp", "/usr"], 2, "serve takes echo or broadcast, and a directory"),
            (["--key", "x"], 2, "--key needs --cert"),
            (["--cert", "/no/such"], 2, "--cert: can't read /no/such: No such file"),
            (["--cert", "/a", "--key", "/b"], 2, "--cert: can't read /a or /b: No such file"),
            (["--cert", "/etc/hostname"], 2, "--cert: /etc/hostname isn't what it should be"),
            (["--port", "65536"], 2, "argument -p/--port: '65536' isn't a port"),
            (["--max-connections", "0"], 2, "argument --max-connections: '0' isn't a number"),
            (["--host", "192.0.2.1"], 1, "can't listen on 192.0.2.1:8765: "),
            (["--unix", "/no/such/socket"], 1, "can't listen on /no/such/socket: no such file"),
        ],
    )
    def test_error(self, cli: Cli, arguments: list[str], status: int, message: str) -> None:
        result = cli("serve", *arguments)
        assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
        assert result.err.startswith(f"wsapi: {message}")

    def test_port_in_use(self, cli: Cli, port: int) -> None:
        result = cli("serve", "--port", str(port))
        assert result.status == 1
        assert result.err == (
            f"wsapi: can't listen on 127.0.0.1:{port}: address already in use "
            "(port 0 takes one that is free)\n"
        )
