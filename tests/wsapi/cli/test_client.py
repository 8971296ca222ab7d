"""The client without a terminal: what it sends, shows, and returns."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.cli.helpers import (
    PATIENCE,
    Certificates,
    Cli,
    deaf_server,
    raw_server,
    run,
    server_context,
    serving,
    start,
)
from wsapi.cli import _output
from wsapi.cli._output import PayloadFormat

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and descriptors of Unix")


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


class TestSending:
    def test_messages(self, cli: Cli, uri: str) -> None:
        result = cli("-q", "-m", "one", "--message", "two", "-n", "2", uri, stdin=b"not this\n")
        assert result == (0, "one\ntwo\n", "")

    def test_lines(self, cli: Cli, uri: str) -> None:
        result = cli("-q", "-n", "4", uri, stdin="one\n\ndrei é\r\nlast".encode())
        assert result == (0, "one\n\ndrei é\nlast\n", "")

    def test_long_line(self, cli: Cli, uri: str) -> None:
        with serving(max_size=None) as port:
            line = b"x" * 3_000_000
            limit = ("--max-size", "4M", "-q", "-n", "1")
            result = cli(*limit, f"ws://127.0.0.1:{port}", stdin=line + b"\n")
        assert result == (0, f"{line.decode()}\n", "")

    def test_whole(self, cli: Cli, uri: str) -> None:
        result = cli("-q", "--whole", "-n", "1", uri, stdin=b"one\ntwo\n")
        assert result == (0, "one\ntwo\n\n", "")

    def test_nothing(self, cli: Cli, uri: str) -> None:
        assert cli("-q", "-w", "0", uri) == (0, "", "")

    def test_files(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = tmp_path / "message"
        path.write_bytes("fünf\n".encode())
        result = cli("-q", "-f", str(path), "-m", "x", "-f", "-", "-n", "3", uri, stdin=b"in")
        assert result == (0, "fünf\n\nx\nin\n", "")

    @pytest.mark.parametrize(
        "options, given, shown",
        [
            (["--binary"], b"a\xff", "61ff"),
            (["--hex"], b"00 Ff\t10", "00ff10"),
            (["--base64"], b"AP8=", "AP8="),
            (["--hex"], b"", ""),
        ],
    )
    def test_binary(self, cli: Cli, uri: str, options: list[str], given: bytes, shown: str) -> None:
        result = cli("-q", "-n", "1", *options, uri, stdin=given + b"\n")
        assert result == (0, f"{shown}\n", "")

    @pytest.mark.parametrize(
        "options, given, message",
        [
            (
                [],
                b"ok\nba\xff\nnot sent\n",
                "line 2 of stdin isn't UTF-8 (--binary sends any bytes)",
            ),
            (["--whole"], b"ba\xff", "stdin isn't UTF-8 (--binary sends any bytes)"),
            (["--hex"], b"0g", "line 1 of stdin isn't hex"),
            (["--hex"], b"0", "line 1 of stdin isn't hex"),
            (["--hex"], b"\xff", "line 1 of stdin isn't hex"),
            (["--base64"], b"a", "line 1 of stdin isn't base64"),
            (["--base64", "-m", "a?"], b"", "--message isn't base64"),
            (["-f", "/no/such"], b"", "can't read /no/such: No such file or directory"),
            (["-f", "/"], b"", "can't read /: Is a directory"),
            (["-f", "a\0b"], b"", "can't read a\\x00b: embedded null byte"),
            (["-m", "\udcff"], b"", "--message isn't UTF-8 (--binary sends any bytes)"),
        ],
    )
    def test_wrong_input(
        self, cli: Cli, uri: str, options: list[str], given: bytes, message: str
    ) -> None:
        result = cli("-q", "-w", "0", *options, uri, stdin=given)
        assert (result.status, result.err) == (1, f"wsapi: {message}\n")

    @pytest.mark.parametrize(
        "options, message",
        [
            (["-m", "fine", "-f", "/no/such"], "can't read /no/such: No such file or directory"),
            (["-f", "/"], "can't read /: Is a directory"),
            (["--hex", "-m", "0g"], "--message isn't hex"),
        ],
    )
    def test_wrong_arguments_before_there_is_a_connection(
        self, cli: Cli, free_port: int, options: list[str], message: str
    ) -> None:
        result = cli("--json", *options, f"ws://127.0.0.1:{free_port}/")
        assert (result.status, result.err) == (1, f"wsapi: {message}\n")
        assert [(e["event"], e["error"]) for e in events(result.out)] == [("error", "input")]

    @posix
    def test_pipe_is_read_once(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writing = threading.Thread(target=pipe.write_bytes, args=(b"message",))
        writing.start()
        assert cli("-q", "-f", str(pipe), "-n", "1", uri) == (0, "message\n", "")
        writing.join(PATIENCE)

    def test_bytes_of_an_argument(self, cli: Cli, uri: str) -> None:
        assert cli("-q", "--binary", "-m", "\udcff", "-n1", uri) == (0, "ff\n", "")

    def test_close_code(self, cli: Cli, uri: str) -> None:
        result = cli("--json", "--close", "4100:done", "-m", "x", "-n", "1", uri)
        close = events(result.out)[-1]
        assert result.status == 0
        assert (close["code"], close["reason"], close["by"]) == (4100, "done", "client")

    @pytest.mark.parametrize(
        "value", ["", "0", "99", "1005", "1006", "5000", "x", "1000:" + "x" * 124, "١٠٠٠"]
    )
    def test_wrong_close_code(self, cli: Cli, uri: str, value: str) -> None:
        result = cli("--close", value, uri)
        assert result.status == 2
        assert result.err.startswith("wsapi: argument --close: ")


class TestShowing:
    def test_lines(self, cli: Cli, uri: str) -> None:
        result = cli("-m", "a\nb", "-m", "binary", "-m", "escape", "-n", "3", uri)
        assert result.status == 0
        assert result.out == (
            f"Connected to {uri}.\n"
            "< a\\nb\n"
            "< (binary) 00ff\n"
            "< \\x1b[2J\\x07\\u202e\\r\\n\n"
            "Connection closed: 1000 (OK).\n"
        )

    def test_quiet(self, cli: Cli, uri: str) -> None:
        """A pipe is given what came."""
        result = cli("-q", "-m", "escape", "-n", "1", uri)
        assert result.out == "\x1b[2J\x07\u202e\r\n\n"

    def test_payloads_at_a_terminal(self) -> None:
        assert PayloadFormat(raw=False, terminal=True).received("a\x1b\nb") == "a\\x1b\nb\n"
        assert PayloadFormat(raw=False, terminal=False).received("\x1b") == "\x1b\n"

    def test_raw(self, cli: Cli, uri: str) -> None:
        result = run("--raw", "-m", "é", "-m", "binary", "-n", "2", uri, text=False)
        assert (result.returncode, result.stdout) == (0, "é".encode() + b"\x00\xff")

    def test_json(self, cli: Cli, uri: str) -> None:
        result = cli("--json", "-m", "é\x1b", "-m", "binary", "-n", "2", uri)
        opened, text, binary, close = events(result.out)
        assert result.status == 0
        assert result.out.isascii()
        assert opened["event"] == "open"
        assert (opened["status"], opened["uri"], opened["subprotocol"]) == (101, uri, None)
        assert ["Upgrade", "websocket"] in opened["headers"]
        assert opened["time"] <= text["time"] <= close["time"]
        assert (text["type"], text["size"], text["data"]) == ("text", 3, "é\x1b")
        assert (binary["type"], binary["size"]) == ("binary", 2)
        assert base64.b64decode(binary["base64"]) == b"\x00\xff"
        assert (close["event"], close["code"], close["reason"]) == ("close", 1000, "")

    def test_json_of_errors(self, cli: Cli, uri: str) -> None:
        result = cli("--json", f"{uri}403")
        [error] = events(result.out)
        assert result.status == 5
        assert (error["event"], error["error"], error["exit"]) == ("error", "http", 5)
        assert error["http"] == 403
        assert "HTTP 403 Forbidden" in error["message"]
        assert error["hint"]

    def test_json_of_closing(self, cli: Cli, uri: str) -> None:
        result = cli("--json", "-m", "bye", uri)
        close, error = events(result.out)[1:]
        assert result.status == 8
        assert (close["code"], close["reason"], close["by"]) == (4001, "so long", "server")
        assert (error["error"], error["code"]) == ("closed", 4001)

    def test_heads(self, cli: Cli, uri: str) -> None:
        options = ["-H", "Cookie: a=b", "-H", "X-Api-Key: k3y", "--bearer", "t0ken"]
        result = cli("-v", "-q", *options, "-m", "x", "-n", "1", f"{uri}?token=abc&n=1")
        assert (result.status, result.out) == (0, "x\n")
        assert "> GET /?token=***&n=1 HTTP/1.1\n" in result.err
        assert "> Cookie: ***\n> X-Api-Key: ***\n> Authorization: Bearer ***\n" in result.err
        assert "< HTTP/1.1 101 Switching Protocols\n" in result.err
        for secret in ("a=b", "k3y", "t0ken", "abc"):
            assert secret not in result.err

    def test_heads_of_a_refusal(self, cli: Cli, uri: str) -> None:
        result = cli("-v", "-q", f"{uri}403")
        assert "> GET /403 HTTP/1.1\n" in result.err
        assert "< HTTP/1.1 403 Forbidden\n" in result.err
        assert "\nno\\x1b[2J\n" in result.err

    def test_heads_of_a_redirect(self, cli: Cli, uri: str) -> None:
        result = cli("-v", "-q", "-m", "x", "-n", "1", f"{uri}307")
        assert (result.status, result.out) == (0, "x\n")
        assert result.err.count("> GET ") == 2

    def test_frames(self, cli: Cli, uri: str) -> None:
        secrets = ("--bearer", "t0ken", "-H", "X-Api-Key: t0ken")
        result = cli("-vv", "-q", "-m", "x", "-n", "1", *secrets, f"{uri}?token=t0ken&a=b")
        assert "> TEXT 'x' [1 byte]" in result.err
        assert result.err.count("> GET /?token=***&a=b HTTP/1.1\n") == 2
        assert result.err.count("> X-Api-Key: ***\n") == 2
        assert "t0ken" not in result.err


class TestEnding:
    @pytest.mark.parametrize(
        "message, status, text",
        [
            ("vanish", 6, "the connection to {uri} was lost"),
            ("bad opcode", 6, "the connection to {uri} was ended: 1002 (protocol error)"),
            (
                "bad utf-8",
                6,
                "the connection to {uri} was ended: 1007 (invalid frame payload",
            ),
            ("large", 6, "the connection to {uri} was ended: 1009 (message too big)"),
            ("bye", 8, "{uri} closed the connection: 4001 (private use) so long"),
        ],
    )
    def test_of_the_server(self, cli: Cli, uri: str, message: str, status: int, text: str) -> None:
        result = cli("-q", "-m", message, "-w", "20", uri)
        assert (result.status, result.out) == (status, "")
        assert result.err.startswith(f"wsapi: {text.format(uri=uri)}")
        assert result.err.count("\n") == 1

    def test_hint_for_large_messages(self, cli: Cli, uri: str) -> None:
        assert "(--max-size allows more)\n" in cli("-q", "-m", "large", "-w", "20", uri).err
        allowed = ("--max-size", "2M", "-n", "1")
        assert cli("-q", "-m", "large", *allowed, uri).status == 0

    def test_told_once(self, cli: Cli, uri: str) -> None:
        result = cli("-m", "bye", uri)
        assert result.out.endswith("Connection closed: 4001 (private use) so long.\n")
        assert result.err == ""

    def test_too_few_messages(self, cli: Cli, uri: str) -> None:
        result = cli("-q", "-m", "x", "-n", "2", "-w", "0.2", uri)
        assert result == (
            7,
            "x\n",
            "wsapi: 1 of 2 messages came in time (--wait waits longer)\n",
        )

    def test_enough_messages(self, cli: Cli, uri: str) -> None:
        """What else has come doesn't keep the connection from being closed."""
        result = cli("-q", "-m", "flood", "-n", "3", uri)
        assert result == (0, ("x" * 1000 + "\n") * 3, "")

    def test_closing_that_is_not_answered(self, cli: Cli) -> None:
        with deaf_server() as port:
            result = cli("-q", "-w", "0", "--close-timeout", "0.2", f"ws://127.0.0.1:{port}/")
        assert result.status == 6
        assert "didn't answer the closing handshake" in result.err

    def test_pings_that_are_not_answered(self, cli: Cli) -> None:
        options = ("--ping-interval", "0.1", "--ping-timeout", "0.1", "--close-timeout", "0.1")
        with deaf_server() as port:
            result = cli("-q", "-w", "20", *options, f"ws://127.0.0.1:{port}/")
        assert result.status == 7
        assert "doesn't answer pings" in result.err

    @posix
    def test_interrupted(self, uri: str) -> None:
        with start("--json", "-w", "inf", uri) as process:
            assert process.stdout is not None
            assert '"open"' in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "")
        assert json.loads(out)["code"] == 1000

    @posix
    def test_interrupted_with_a_server_that_does_not_answer(self) -> None:
        with deaf_server() as port:
            with start("-w", "inf", f"ws://127.0.0.1:{port}/") as process:
                assert process.stdout is not None
                process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE) == 130

    @posix
    def test_interrupted_while_connecting(self) -> None:
        with raw_server(None) as port, start("-v", f"ws://127.0.0.1:{port}/") as process:
            # It has connected when the kernel tells so; a signal before the handler is one, too.
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
            with socket.create_connection(("127.0.0.1", port)):
                pass
        assert process.returncode in (130, -signal.SIGINT)
        assert process.returncode < 0 or "Traceback" not in err


class TestStreams:
    @posix
    def test_reader_that_leaves(self, uri: str) -> None:
        with start("-m", "flood", uri) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            process.stdout = None
            _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (141, "")

    @posix
    def test_reader_that_sleeps(self, uri: str) -> None:
        """Ctrl-C ends it although its output is stuck."""
        with start("-q", "-m", "flood", uri) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130

    @posix
    def test_pipes_that_do_not_block(self, uri: str) -> None:
        """Other processes may have made them so."""
        inputs, outputs = os.pipe(), os.pipe()
        os.set_blocking(inputs[0], False)
        os.set_blocking(outputs[1], False)
        arguments = ("--raw", "-n", "2", "--max-size", "none", uri)
        with start(*arguments, stdin=inputs[0], stdout=outputs[1]) as process:
            os.close(inputs[0])
            os.close(outputs[1])
            with open(inputs[1], "wb") as sending, open(outputs[0], "rb") as receiving:
                sending.write(b"x" * 500_000 + b"\n")
                sending.flush()
                assert receiving.read(1) == b"x"
                sending.write(b"yy\n")
                sending.close()
                assert receiving.read() == b"x" * 499_999 + b"yy"
            assert process.wait(PATIENCE) == 0

    @posix
    def test_pipe_that_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is waited for, where others have made it one that doesn't block."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        waits = []

        def select(read: list[int], write: list[int], others: list[int]) -> None:
            waits.append(write)
            os.read(reading, 2**20)

        with open(reading, "rb", closefd=True), open(writing, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            monkeypatch.setattr(_output.select, "select", select)
            _output.Output()._write(b"x" * 2**20)
            assert waits
            assert waits == [[writing]] * len(waits)

    @posix
    def test_full_disk(self, uri: str) -> None:
        with open("/dev/full", "wb") as full:
            for arguments in (["-m", "x", uri], ["--help"], ["--version"]):
                result = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
                assert result.returncode == 1
                assert result.stderr == "wsapi: No space left on device\n"

    @posix
    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed(self, uri: str, closed: str) -> None:
        command = f"exec {{}} -m wsapi -m x -n 1 {uri} {closed}"
        result = subprocess.run(
            ["sh", "-c", command.format(sys.executable)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (result.returncode, result.stderr) == (0, "")

    @posix
    def test_closed_input(self, uri: str) -> None:
        result = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -m wsapi -q {uri} -w 0 <&-"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    @posix
    def test_output_that_is_kept_until_the_end(self) -> None:
        """Python writes it when the process ends, and isn't to complain then."""
        environment = {name: value for name, value in os.environ.items() if "UNBUF" not in name}
        reading, writing = os.pipe()
        os.close(reading)
        with open("/dev/full", "wb") as full, open(writing, "wb") as pipe:
            for output, status, message in ((full, 1, "No space left on device"), (pipe, 141, "")):
                result = run(
                    "--help",
                    env=environment,
                    capture_output=False,
                    stdout=output,
                    stderr=subprocess.PIPE,
                )
                assert result.returncode == status
                assert result.stderr == (f"wsapi: {message}\n" if message else "")

    @posix
    def test_input_that_cannot_be_read(self, uri: str, tmp_path: Path) -> None:
        with open(tmp_path / "file", "wb") as file:
            result = run("-q", uri, stdin=file)
        assert (result.returncode, result.stderr) == (
            1,
            "wsapi: can't read stdin: Bad file descriptor\n",
        )

    def test_input_that_is_a_directory(self, uri: str) -> None:
        descriptor = os.open("/", os.O_RDONLY)
        try:
            result = run("-q", uri, stdin=descriptor)
        finally:
            os.close(descriptor)
        # Python itself looks at what it is given.
        assert result.returncode == 1
        assert "Traceback" not in result.stderr

    def test_encoding_that_lacks_characters(self, uri: str) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        result = run("-m", "é", "-n", "1", uri, env=environment)
        assert result.stdout.splitlines()[1] == "< \\xe9"


class TestFailures:
    """One line on stderr, with a hint, and a status that tells what happened."""

    @pytest.mark.parametrize(
        "path, hint",
        [
            ("401", "credentials are missing or wrong: --auth, --bearer, or --header"),
            ("403", "the server doesn't let you: perhaps it wants --origin or credentials"),
            ("404", "is the path right?"),
            ("426", "it wants Upgrade: h2c"),
            ("429", "try again later; Retry-After: 7"),
            ("500", "the server has a problem"),
            ("200", "there is a web server, but no WebSocket: is the path right?"),
            ("503", "try again later"),
        ],
    )
    def test_status(self, cli: Cli, uri: str, path: str, hint: str) -> None:
        result = cli("-q", f"{uri}{path}")
        assert (result.status, result.out) == (5, "")
        assert result.err.startswith(f"wsapi: {uri}{path} refuses: HTTP {path} ")
        assert result.err.endswith(f" ({hint})\n")

    def test_redirect(self, cli: Cli, uri: str) -> None:
        result = cli("-q", f"{uri}302")
        assert result.status == 5
        assert "redirects to http://user:***@localhost/elsewhere" in result.err

    def test_target_of_a_redirect(self, cli: Cli, free_port: int) -> None:
        target = f"ws://user:secret@127.0.0.1:{free_port}/?token=secret"
        head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        with raw_server(head.encode()) as port:
            result = cli("-q", f"ws://127.0.0.1:{port}/")
        assert result.status == 3
        assert result.err == (
            f"wsapi: ws://127.0.0.1:{port}/ redirects: "
            f"ws://user:***@127.0.0.1:{free_port}/?token=*** refuses connections "
            "(is the server running, and the port right?)\n"
        )

    def test_refused(self, cli: Cli, free_port: int) -> None:
        result = cli("-q", f"ws://user:secret@127.0.0.1:{free_port}/")
        assert result.status == 3
        assert result.err == (
            f"wsapi: ws://user:***@127.0.0.1:{free_port}/ refuses connections "
            "(is the server running, and the port right?)\n"
        )

    def test_name(self, cli: Cli) -> None:
        result = cli("-q", "--no-proxy", "ws://no-such-host.invalid/")
        assert result.status == 3
        assert "can't find the host of ws://no-such-host.invalid/" in result.err
        assert result.err.endswith("(is the name right?)\n")

    def test_time_out(self, cli: Cli) -> None:
        with raw_server(None) as port:
            result = cli("-q", "--open-timeout", "0.2", f"ws://127.0.0.1:{port}/")
        assert result.status == 7
        assert result.err == (
            f"wsapi: ws://127.0.0.1:{port}/ didn't answer in time "
            "(--open-timeout gives it longer)\n"
        )

    @pytest.mark.parametrize(
        "reply, message",
        [
            (b"220 ready\r\n", "doesn't answer as HTTP does"),
            (b"", "ended the connection without an answer (perhaps it speaks TLS: try wss://)"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "doesn't answer as HTTP does"),
            (
                b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: wrong\r\n\r\n",
                "doesn't answer as a WebSocket server: invalid Sec-WebSocket-Accept header",
            ),
        ],
    )
    def test_other_protocols(self, cli: Cli, reply: bytes, message: str) -> None:
        with raw_server(reply) as port:
            result = cli("-q", f"ws://127.0.0.1:{port}/")
        assert (result.status, result.err.count("\n")) == (6, 1)
        assert message in result.err

    @pytest.mark.parametrize(
        "given, message",
        [
            ("http://localhost/x?y", "scheme isn't ws or wss (try ws://localhost/x?y)"),
            ("HTTPS://u:p@localhost/", "scheme isn't ws or wss (try wss://u:***@localhost/)"),
            ("localhost:8765", "scheme isn't ws or wss (try ws://localhost:8765)"),
            ("sevre", "scheme isn't ws or wss (did you mean wsapi serve?)"),
            ("example", "scheme isn't ws or wss (try ws://example)"),
            ("ws://", "hostname isn't provided (such as ws://localhost:8765/ or wss://"),
            ("ws://localhost:99999/", "such as"),
            ("ws://[::1/", "such as"),
            ("ws://localhost/#fragment", "such as"),
            ("", "such as"),
            ("ftp://localhost/", "scheme isn't ws or wss (such as"),
        ],
    )
    def test_uri(self, cli: Cli, given: str, message: str) -> None:
        result = cli("-q", given)
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
        assert "isn't a WebSocket URI: " in result.err
        assert message in result.err


class TestTls:
    def test_unknown_issuer(self, cli: Cli, secure_port: int) -> None:
        result = cli("-q", f"wss://127.0.0.1:{secure_port}/")
        assert (result.status, result.err.count("\n")) == (4, 1)
        assert "isn't trusted: " in result.err
        assert result.err.endswith("(--ca FILE trusts its issuer, --insecure trusts anybody)\n")

    @pytest.mark.parametrize("option", ["--insecure", "-k"])
    def test_insecure(self, cli: Cli, secure_port: int, option: str) -> None:
        result = cli(option, "-q", "-m", "x", "-n", "1", f"wss://127.0.0.1:{secure_port}/")
        assert result == (0, "x\n", "")

    def test_authority(self, cli: Cli, certificates: Certificates) -> None:
        with serving(ssl=server_context(certificates)) as port:
            trusting = ("--ca", str(certificates.ca), "-q", "-m", "x", "-n", "1")
            assert cli(*trusting, f"wss://127.0.0.1:{port}/") == (0, "x\n", "")
            named = cli(*trusting, "--server-name", "elsewhere", f"wss://127.0.0.1:{port}/")
        assert named.status == 4
        assert "Hostname mismatch" in named.err
        assert "(--server-name NAME expects another name, " in named.err

    def test_certificate_of_the_client(self, cli: Cli, certificates: Certificates) -> None:
        context = server_context(certificates)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
        trusting = ("--ca", str(certificates.ca), "-q", "-m", "x", "-n", "1")
        with serving(ssl=context) as port:
            uri = f"wss://127.0.0.1:{port}/"
            known = ("--cert", str(certificates.cert), "--key", str(certificates.key))
            assert cli(*trusting, *known, uri) == (0, "x\n", "")
            unknown = cli(*trusting, uri)
        assert unknown.status in (4, 6)
        assert unknown.err.count("\n") == 1

    def test_with_a_plain_server(self, cli: Cli, port: int) -> None:
        result = cli("-q", f"wss://127.0.0.1:{port}/")
        assert (result.status, result.err.count("\n")) == (4, 1)
        assert "ws://" in result.err.partition("(")[2]

    def test_with_a_plain_server_that_says_something(self, cli: Cli) -> None:
        with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            result = cli("-q", f"wss://127.0.0.1:{port}/")
        assert result.status == 4
        assert result.err.endswith("(it doesn't seem to speak TLS: try ws://)\n")

    def test_plain_client(self, cli: Cli, secure_port: int) -> None:
        result = cli("-q", f"ws://127.0.0.1:{secure_port}/")
        assert (result.status, result.err.count("\n")) == (6, 1)
        assert "wss://" in result.err


class TestLikeWebsockets:
    """With nothing but a URI, it is ``python -m websockets``."""

    def test_refused(self, cli: Cli, free_port: int) -> None:
        uri = f"ws://127.0.0.1:{free_port}/"
        result = cli(uri)
        assert result.status == 1
        assert result.out.startswith(f"Failed to connect to {uri}: [Errno ")
        assert result.err.endswith("(is the server running, and the port right?)\n")

    @pytest.mark.parametrize("scheme", ["ws", "http"])
    def test_secrets(self, cli: Cli, free_port: int, scheme: str) -> None:
        result = cli(f"{scheme}://user:s3cret@127.0.0.1:{free_port}/?token=t0ken")
        shown = f"{scheme}://user:***@127.0.0.1:{free_port}/?token=***"
        assert result.out.startswith(f"Failed to connect to {shown}: ")
        for secret in ("s3cret", "t0ken"):
            assert secret not in result.out + result.err

    def test_refused_without_more_to_say(self, cli: Cli, uri: str) -> None:
        result = cli(f"{uri}418")
        assert result.status == 1
        assert result.out.startswith(f"Failed to connect to {uri}418: server rejected WebSocket")
        assert result.err == ""

    def test_uri(self, cli: Cli) -> None:
        result = cli("http://localhost/")
        assert result.status == 1
        assert result.out == (
            "Failed to connect to http://localhost/: http://localhost/ isn't a valid URI: "
            "scheme isn't ws or wss.\n"
        )
        assert result.err.endswith("(try ws://localhost/)\n")

    def test_closed(self, cli: Cli, uri: str) -> None:
        result = cli("--insecure", uri, stdin=b"")
        assert result == (0, f"Connected to {uri}.\nConnection closed: 1000 (OK).\n", "")
