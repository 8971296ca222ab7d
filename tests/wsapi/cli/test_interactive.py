"""The interactive client, as a program that has pipes or a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import ServerConnection, serve

import wsapi
from wsapi.cli._input import Decoder
from wsapi.cli._interactive import LineClient

TIMEOUT = 20


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server of somebody else; give its URI."""

    def handler(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosedError):
            for message in connection:
                if message == "binary":
                    connection.send(b"\x00\xff")
                elif message == "bye":
                    connection.close(3001, "so long")
                elif message == "vanish":
                    connection.socket.shutdown(socket.SHUT_RDWR)
                else:
                    connection.send(f"{message}\x1b[2J")

    with serve(handler, "127.0.0.1", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            host, port = listening.socket.getsockname()
            yield f"ws://{host}:{port}/"
        finally:
            listening.shutdown()
            thread.join()


def run_secure(tls: tuple[ssl.SSLContext, ssl.SSLContext], *options: str) -> str:
    """Connect to a server whose certificate nobody knows; return what was printed."""
    with serve(lambda connection: None, "127.0.0.1", 0, ssl=tls[0]) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            host, port = listening.socket.getsockname()
            return run(*options, f"wss://{host}:{port}/").stdout
        finally:
            listening.shutdown()
            thread.join()


def test_insecure(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in run_secure(tls)
    assert "Connection closed: 1000 (OK)." in run_secure(tls, "--insecure")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsapi", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )


class TestArguments:
    def test_version(self) -> None:
        result = run("--version")
        assert (result.returncode, result.stdout) == (0, f"wsapi {wsapi.__version__}\n")

    def test_help(self) -> None:
        result = run("--help")
        assert result.returncode == 0
        assert result.stdout.startswith("usage: wsapi [options] URI\n")

    def test_nothing(self) -> None:
        result = run()
        assert result.returncode == 2
        assert result.stdout.startswith("usage: wsapi ")

    def test_unknown(self) -> None:
        result = run("--no-such-option")
        assert result.returncode == 2
        assert "unrecognized arguments: --no-such-option" in result.stderr

    @pytest.mark.parametrize(
        "uri, reason",
        [("ws://127.0.0.1:9/", "Connect call failed"), ("http://localhost/", "isn't a valid URI")],
    )
    def test_no_server(self, uri: str, reason: str) -> None:
        result = run(uri)
        assert result.returncode == 1
        assert result.stdout.startswith(f"Failed to connect to {uri}: ")
        assert reason in result.stdout
        assert result.stdout.endswith(".\n")


class TestClosedMeanwhile:
    """The thread of the connection says so while the other one does something else."""

    def test_before_a_line_is_read(self) -> None:
        client = LineClient(mock.Mock(), Decoder(False, None))
        client.closed = True
        with mock.patch("builtins.input", side_effect=AssertionError):
            client.send_lines(None)

    def test_signal_that_comes_too_late(self) -> None:
        client = LineClient(mock.Mock(), Decoder(False, None))
        client.reading = True
        with pytest.raises(KeyboardInterrupt):
            client.interrupted(signal.SIGINT, None)
        client.closed = True
        client.interrupted(signal.SIGINT, None)  # for nobody


@contextlib.contextmanager
def piped(uri: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(uri), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


class TestPipes:
    def test_conversation(self) -> None:
        with server() as uri, piped(uri) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == f"Connected to {uri}.\n"
            for line, answer in [
                ("hello", "< hello\\x1b[2J\n"),
                ("é", "< é\\x1b[2J\n"),
                ("binary", "< (binary) 00ff\n"),
            ]:
                process.stdin.write(f"{line}\n")
                assert process.stdout.readline() == answer
            process.stdin.close()
            assert process.stdout.readline() == "Connection closed: 1000 (OK).\n"
            assert process.wait(TIMEOUT) == 0

    @pytest.mark.parametrize(
        "line, close",
        [
            ("bye", "3001 (registered) so long"),
            ("vanish", "1006 (abnormal closure [internal])"),
        ],
    )
    def test_closed_by_the_server(self, line: str, close: str) -> None:
        with server() as uri, piped(uri) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{line}\n")
            assert process.stdout.readline() == f"Connected to {uri}.\n"
            assert process.stdout.readline() == f"Connection closed: {close}.\n"
            # Its input is still open.
            assert process.wait(TIMEOUT) == 0

    @pytest.mark.skipif(os.name != "posix", reason="needs signals")
    def test_closed_by_the_server_in_the_background(self) -> None:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with server() as uri, piped(uri) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("bye\n")
                assert process.stdout.readline() == f"Connected to {uri}.\n"
                assert process.stdout.readline().startswith("Connection closed: 3001")
        finally:
            signal.signal(signal.SIGINT, handler)


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
class TestTerminal:
    @contextlib.contextmanager
    def terminal(self, uri: str) -> Iterator[int]:
        import pty

        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            command(uri),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(terminal)
        try:
            yield controller
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()
            os.close(controller)

    def read_until(self, controller: int, text: str) -> str:
        end = time.monotonic() + TIMEOUT
        output = b""
        while text.encode() not in output:
            assert time.monotonic() < end, output
            if select.select([controller], [], [], 0.1)[0]:
                try:
                    output += os.read(controller, 4096)
                except OSError as exc:  # the process has ended
                    raise AssertionError(output) from exc
        return output.decode()

    def test_prompt_and_line_being_typed(self) -> None:
        with server() as uri, self.terminal(uri) as controller:
            assert f"Connected to {uri}." in self.read_until(controller, "> ")
            os.write(controller, b"first\r")
            self.read_until(controller, "< first\\x1b[2J\r\n> ")
            os.write(controller, b"bye\r")
            output = self.read_until(controller, "Connection closed: ")
            if "so long" not in output:
                self.read_until(controller, "3001 (registered) so long.")

    def test_end_of_file(self) -> None:
        with server() as uri, self.terminal(uri) as controller:
            self.read_until(controller, "> ")
            os.write(controller, b"\x04")
            self.read_until(controller, "Connection closed: 1000 (OK).")
