"""The interactive client, as a program that has pipes or a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import ServerConnection, serve

import wsapi
from tests.wsapi.cli.helpers import raw_server
from wsapi.cli import _interactive
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
        timeout=3 * TIMEOUT,  # a process that has to start
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

    def test_while_a_line_was_sent(self) -> None:
        """With prompt_toolkit, nobody is asked for another one."""

        async def run() -> list[object]:
            receiver: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            sent: list[object] = []

            async def send(message: object) -> None:
                sent.append(message)
                receiver.set_result(None)

            asked = mock.AsyncMock(side_effect=["first", AssertionError])
            session = mock.Mock(send=send)
            with (
                mock.patch("wsapi.cli._interactive._ask", asked),
                mock.patch("wsapi.cli._interactive._prompt_session"),
            ):
                await _interactive._send_lines(session, Decoder(False, None), receiver, print)
            return sent

        assert asyncio.run(run()) == ["first"]

    def test_signal_that_comes_too_late(self) -> None:
        client = LineClient(mock.Mock(), Decoder(False, None))
        client.reading = True
        with pytest.raises(KeyboardInterrupt):
            client.interrupted(signal.SIGINT, None)
        client.closed = True
        client.interrupted(signal.SIGINT, None)  # for nobody


def test_colours_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has its sign coloured, what is told of it or the connection is all one colour."""
    pytest.importorskip("rich")
    monkeypatch.setattr(_interactive, "colours", lambda stream: True)
    paint = _interactive._painter()
    assert paint("< x\n") == "\x1b[1;36m<\x1b[0m x\n"
    assert paint("Connected.\n") == "\x1b[2mConnected.\x1b[0m\n"
    assert paint("wsapi: no\n") == "\x1b[31mwsapi: no\x1b[0m\n"
    assert paint("> GET / HTTP/1.1\n") == "> GET / HTTP/1.1\n"


def test_without_readline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Python has none, lines can be typed all the same, and leave no history."""
    path = tmp_path / "history"
    path.write_text("")
    monkeypatch.setenv("WSAPI_HISTORY", str(path))
    monkeypatch.setitem(sys.modules, "readline", None)
    with mock.patch("atexit.register", side_effect=AssertionError):
        _interactive._load_readline()


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


class Tmux:
    """A terminal in which a command runs, and what it shows.

    Args:
        name: Name of the server, which is this test's alone.
        command: Command for a shell; its exit status is shown at the end.
        environment: Additions to the environment.
    """

    def __init__(self, name: str, command: str, **environment: str) -> None:
        self.name = name
        variables = [f"{key}={value}" for key, value in environment.items()]
        start = ["new-session", "-d", "-x", "100", "-y", "40"]
        # The shell must not end before what it shows was seen. Commands are jobs.
        shown = f"set -m; trap : INT; env {' '.join(variables)} {command}; echo status=$?; sleep 60"
        self.call("-f", os.devnull, *start, "sh", "-c", shown)

    def call(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self.name, *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        ).stdout

    def type(self, text: str, *keys: str) -> None:
        if text:
            self.call("send-keys", "-l", text)
        if keys:
            self.call("send-keys", *keys)

    def screen(self, *options: str) -> str:
        return self.call("capture-pane", "-p", *options).rstrip("\n")

    def end(self) -> None:
        """Leave the client, as people do, at its prompt."""
        self.until("\n>")
        self.type("", "C-d")
        self.until("Connection closed: 1000 (OK).\nstatus=0")

    def until(self, text: str) -> str:
        end = time.monotonic() + TIMEOUT
        while text not in (screen := self.screen()):
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen


WITHOUT = (
    "import sys; sys.modules['prompt_toolkit'] = sys.modules['rich'] = None; "
    "from wsapi.cli import main; sys.exit(main())"
)


both = pytest.mark.parametrize("libraries", ["with prompt_toolkit", "without"])


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux isn't installed")
class TestTmux:
    """The client as people have it, with the libraries of the extra, and without them."""

    @pytest.fixture
    def libraries(self) -> str:
        """Whether the libraries of the extra are there, unless a test has both."""
        return "without"

    @pytest.fixture
    def client(self, libraries: str) -> Iterator[Callable[..., Tmux]]:
        """Start the client in a terminal."""
        if libraries == "without":
            program = f'{sys.executable} -c "{WITHOUT}"'
        else:
            pytest.importorskip("prompt_toolkit")
            program = f"{sys.executable} -m wsapi"
        name = f"wsapi-test-{os.getpid()}-{time.monotonic_ns()}"

        def start(arguments: str, **environment: str) -> Tmux:
            return Tmux(name, f"{program} {arguments}", **environment)

        yield start
        subprocess.run(["tmux", "-L", name, "kill-server"], capture_output=True, timeout=TIMEOUT)

    @both
    def test_conversation(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri)
        terminal.until(f"Connected to {uri}.\n>")
        terminal.type("héllo", "Enter")
        terminal.until("> héllo\n< héllo\n>")
        terminal.type("escape", "Enter")
        terminal.until("< \\x1b[2J\\x07\\u202e\\r\\n\n>")
        terminal.type("binary", "Enter")
        terminal.until("< (binary) 00ff\n>")
        terminal.type("", "C-d")
        screen = terminal.until("status=")
        assert screen.endswith("Connection closed: 1000 (OK).\nstatus=0")

    @both
    def test_line_being_typed(self, client: Callable[..., Tmux], uri: str) -> None:
        """What comes is shown above it, and leaves it as it is."""
        terminal = client(uri)
        terminal.until(">")
        terminal.type("later", "Enter")
        terminal.type("half a ")
        terminal.until("< news\n> half a")
        terminal.type("line", "Enter")
        screen = terminal.until("< half a line")
        assert screen.count("news") == 1
        assert "> half a line\n< half a line\n>" in screen
        terminal.end()

    @both
    def test_history_and_editing(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri)
        terminal.until(">")
        terminal.type("first", "Enter")
        terminal.until("< first")
        terminal.type("", "Up", "Left", "BSpace")
        terminal.type("z", "Enter")
        terminal.until("< firzt")
        terminal.end()

    @both
    def test_ctrl_c(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri)
        terminal.until(">")
        terminal.type("half", "C-c")
        screen = terminal.until("status=")
        assert "Connection closed: 1000 (OK).\nstatus=0" in screen
        assert "Traceback" not in screen

    @both
    def test_ctrl_z(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"{uri}; echo stopped; fg")
        terminal.until(">")
        terminal.type("half", "C-z")
        terminal.until("stopped\n")
        terminal.type("", "C-u")
        terminal.type("again", "Enter")
        terminal.until("< again")
        terminal.end()

    def test_ctrl_c_while_connecting(self, client: Callable[..., Tmux]) -> None:
        with raw_server(None) as port:
            terminal = client(f"-v ws://127.0.0.1:{port}/")
            time.sleep(1)  # there is nothing to see; a signal before that ends it, too
            terminal.type("", "C-c")
            screen = terminal.until("status=")
            with socket.create_connection(("127.0.0.1", port)):
                pass
        assert "status=130" in screen
        assert "Traceback" not in screen or "KeyboardInterrupt" in screen

    def test_closed_by_the_server(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"-v {uri}")
        terminal.until(">")
        terminal.type("bye", "Enter")
        screen = terminal.until("status=")
        assert "> GET / HTTP/1.1\n" in screen
        assert "Connection closed: 4001 (private use) so long.\nstatus=8" in screen

    @both
    def test_closed_while_typing(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri)
        terminal.until(">")
        # At once, so that it is there when the server closes.
        terminal.call("send-keys", "bye", "Enter", "half a line")
        terminal.until("Connection closed: 4001 (private use) so long.\nstatus=0")

    @both
    def test_lines_that_are_wrong(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"--hex {uri}")
        terminal.until(">")
        terminal.type("0g", "Enter")
        terminal.until("wsapi: the line isn't hex\n>")
        terminal.type("00 ff", "Enter")
        terminal.until("< (binary) 00ff\n>")
        terminal.end()

    @both
    def test_count(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"-n 1 {uri}")
        terminal.until(">")
        terminal.type("x", "Enter")
        terminal.until("< x\nConnection closed: 1000 (OK).\nstatus=0")

    @both
    def test_waiting_at_the_end(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"-w 20 -n 1 {uri}")
        terminal.until(">")
        terminal.type("later", "Enter", "C-d")
        terminal.until("< news\nConnection closed: 1000 (OK).\nstatus=0")

    @both
    def test_history_that_cannot_be_kept(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri, WSAPI_HISTORY="/no/such/file")
        terminal.until(">")
        terminal.type("x", "Enter")
        terminal.until("< x")
        terminal.end()

    def test_refused(self, client: Callable[..., Tmux], free_port: int) -> None:
        terminal = client(f"-v ws://127.0.0.1:{free_port}/")
        terminal.until("status=3")

    @both
    def test_colours(self, client: Callable[..., Tmux], uri: str) -> None:
        """Only where rich is, and nobody minds."""
        terminal = client(uri)
        terminal.until(">")
        terminal.type("x", "Enter")
        terminal.until("< x")
        coloured = "\x1b[1m\x1b[36m<" in terminal.screen("-e")
        has_rich = "sys.modules" not in terminal.call("list-panes", "-F", "#{pane_start_command}")
        assert coloured == has_rich
        terminal.end()

    def test_no_colours(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(uri, NO_COLOR="1")
        terminal.until(">")
        terminal.type("x", "Enter")
        terminal.until("< x")
        assert "\x1b[36m" not in terminal.screen("-e")
        terminal.end()

    @both
    def test_history_in_a_file(self, client: Callable[..., Tmux], uri: str, tmp_path: Path) -> None:
        path = tmp_path / "history"
        terminal = client(uri, WSAPI_HISTORY=str(path))
        terminal.until(">")
        terminal.type("remember", "Enter")
        terminal.until("< remember")
        terminal.type("", "C-d")
        terminal.until("status=0")
        assert "remember" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_payloads(self, client: Callable[..., Tmux], uri: str) -> None:
        """They can't control the terminal either, when nothing else is shown."""
        terminal = client(f"-q -m escape -m x -n 2 {uri}")
        screen = terminal.until("status=0")
        assert screen.startswith("\\x1b[2J\\x07\\u202e\\r\n\nx\n")

    def test_password(self, client: Callable[..., Tmux], uri: str) -> None:
        terminal = client(f"-v -q --auth me -m x -n 1 {uri}")
        terminal.until("Password of me:")
        terminal.type("s3cret", "Enter")
        screen = terminal.until("status=0")
        assert "> Authorization: Basic ***\n" in screen
        assert "s3cret" not in screen
