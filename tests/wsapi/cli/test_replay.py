"""``wsapi replay``: both sides of a recording."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.cli.helpers import PATIENCE, Cli, start


def recording(tmp_path: Path, *events: tuple[Any, ...], uri: str = "ws://localhost/") -> str:
    """Write a recording of events: a time, ``sent`` or ``received`` and a message, or an end."""
    lines: list[dict[str, Any]] = [{"wsapi_recording": 1, "uri": uri}]
    for at, event, *rest in events:
        if event == "closed":
            by, code = rest
            lines.append({"at": at, "event": event, "by": by, "code": code})
        elif isinstance(rest[0], bytes):
            message = base64.b64encode(rest[0]).decode()
            lines.append({"at": at, "event": event, "base64": message})
        else:
            lines.append({"at": at, "event": event, "text": rest[0]})
    path = tmp_path / "recording"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


ECHO = [
    (0.1, "sent", "one"),
    (0.2, "received", "one"),
    (0.3, "sent", "two"),
    (0.4, "received", "two"),
]


class TestClient:
    def test_same(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, *ECHO, (0.5, "closed", "client", 1000), uri=uri)
        result = cli("replay", path, "--speed", "inf")
        assert result == (0, "sent 2, received 2 as expected, 0 differences\n", "")

    def test_recorded_and_played(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        assert cli("record", "-o", path, "-q", "-m", "x", "-m", "bye", uri).status == 8
        assert cli("replay", "-q", path) == (0, "", "")

    def test_stdin_and_another_uri(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, *ECHO)
        result = cli("replay", "-q", "-", uri, stdin=Path(path).read_bytes())
        assert result == (0, "", "")

    def test_differences(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(
            tmp_path,
            (0, "sent", "a\x1b"),
            (0, "received", "b"),
            (0, "received", "c"),
            (0, "sent", "d"),
            (0, "received", "d"),
            (0, "closed", "server", 1000),
        )
        result = cli("replay", path, uri, "-w", "0.2")
        assert result.status == 1
        assert result.out == (
            "difference: message 2 is 'a\\x1b' instead of 'b'\n"
            "difference: message 3 didn't come: 'c'\n"
            "difference: the connection wasn't closed\n"
            "sent 2, received 1 as expected, 3 differences\n"
        )

    def test_messages_that_are_not_in_it(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "sent", "x"), (0, "closed", "server", 1000))
        result = cli("replay", path, uri, "-w", "0.2")
        assert (result.status, result.out.splitlines()[0]) == (1, "difference: more came: 'x'")

    def test_another_end(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "sent", "bye"), (0, "closed", "server", 1000))
        result = cli("replay", "-q", path, uri)
        assert result == (
            1,
            "difference: the connection was closed with 4001 instead of 1000\n",
            "",
        )

    def test_end_without_a_code(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        """What can't be sent isn't; what still comes is a difference."""
        path = recording(tmp_path, (0, "sent", "x"), (0.5, "closed", "client", 1005))
        result = cli("replay", "-q", path, uri)
        assert result == (1, "difference: more came: 'x'\n", "")

    def test_early_end(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "sent", "bye"), (0, "received", "x"))
        result = cli("replay", "-q", path, uri)
        assert result.status == 1
        assert result.out.startswith("difference: the connection ended early: received 4001")

    def test_many_differences(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        events = [event for _ in range(12) for event in ((0, "sent", "a"), (0, "received", "b"))]
        result = cli("replay", recording(tmp_path, *events), uri)
        assert result.status == 1
        assert result.out.splitlines()[10:] == [
            "... and 2 more differences",
            "sent 12, received 0 as expected, 12 differences",
        ]

    def test_what_is_ignored(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "sent", "id=17 x"), (0, "received", "id=4711 x"))
        assert cli("replay", "-q", path, uri).status == 1
        assert cli("replay", "-q", path, uri, "--ignore", r"id=\d+") == (0, "", "")

    def test_what_is_ignored_is_text(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "sent", "binary"), (0, "received", b"\x01"))
        result = cli("replay", "-q", path, uri, "--ignore", ".*")
        assert result.status == 1
        assert result.out.startswith("difference: message 2 is (binary) 00ff instead")

    def test_gaps(self, cli: Cli, uri: str, tmp_path: Path) -> None:
        """A pause of an hour isn't one."""
        path = recording(tmp_path, (3600, "sent", "x"), (3600, "received", "x"))
        assert cli("replay", "-q", path, uri, "--max-gap", "0.01").status == 0
        assert cli("replay", "-q", path, uri, "--speed", "1e6").status == 0

    @pytest.mark.parametrize(
        "arguments, status, message",
        [
            ([], 2, "the following arguments are required: FILE"),
            (["/no/such"], 1, "can't read /no/such: No such file or directory"),
            (["/"], 1, "can't read /: Is a directory"),
            (["a\0b"], 1, "can't read a\\x00b: embedded null byte"),
            (["{path}", "--serve", "0", "ws://localhost/"], 2, "a URI and --serve exclude"),
            (["{path}", "--speed", "0"], 2, "argument --speed: '0' isn't a number above 0"),
            (["{path}", "--speed", "x"], 2, "argument --speed: 'x' isn't a number above 0"),
            (["{path}", "--speed", "nan"], 2, "argument --speed: 'nan' isn't a number above 0"),
            (["{path}", "--ignore", "("], 2, "argument --ignore: '(' isn't a regular expression"),
            (["{path}", "http://localhost/"], 2, "http://localhost/ isn't a WebSocket URI"),
            (["{path}", "--serve", "x"], 2, "argument --serve: 'x' isn't a port"),
            (["-"], 1, "stdin, line 0: it is empty"),
        ],
    )
    def test_wrong_arguments(
        self, cli: Cli, tmp_path: Path, arguments: list[str], status: int, message: str
    ) -> None:
        path = recording(tmp_path)
        result = cli("replay", *(each.format(path=path) for each in arguments))
        assert (result.status, result.err.count("\n")) == (status, 1)
        assert result.err.startswith(f"wsapi: {message}")

    def test_refused(self, cli: Cli, free_port: int, tmp_path: Path) -> None:
        result = cli("replay", recording(tmp_path), f"ws://127.0.0.1:{free_port}/")
        assert (result.status, result.out) == (3, "")
        assert "refuses connections" in result.err

    def test_binary_file(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        path.write_bytes(b"\xff\x00")
        result = cli("replay", str(path))
        assert (result.status, result.err.count("\n")) == (1, 1)


@pytest.mark.skipif(os.name != "posix", reason="ends by signals")
class TestServer:
    @contextlib.contextmanager
    def serving(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        with start("replay", "--serve", "0", *arguments) as process:
            try:
                assert process.stdout is not None
                yield process, process.stdout.readline().strip()
            finally:
                process.kill()

    def test_same(self, cli: Cli, tmp_path: Path) -> None:
        path = recording(tmp_path, *ECHO, (0.5, "closed", "server", 4000))
        with self.serving(path, "--once", "--speed", "inf") as (process, uri):
            assert cli("replay", "-q", path, uri, "--speed", "inf") == (0, "", "")
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert out == "connection 1: sent 2, received 2 as expected, 0 differences\n"

    def test_difference(self, cli: Cli, tmp_path: Path) -> None:
        path = recording(tmp_path, *ECHO, (0.5, "closed", "client", 1000))
        with self.serving(path, "--once", "--speed", "inf") as (process, uri):
            result = cli("-q", "-m", "one", "-m", "three", "-n", "2", uri)
            assert result == (0, "one\ntwo\n", "")
            out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert out.startswith("difference: message 3 is 'three' instead of 'two'\n")

    def test_connection_that_was_lost(self, cli: Cli, tmp_path: Path) -> None:
        path = recording(tmp_path, (0, "received", "x"), (0, "closed", "nobody", 1006))
        with self.serving(path) as (process, uri):
            for _ in range(2):
                result = cli("-q", "-w", "20", uri)
                assert (result.status, result.out) == (6, "x\n")
            process.terminate()
            assert process.wait(PATIENCE) == 0
            process.communicate()

    def test_subprotocol(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        path.write_text(
            '{"wsapi_recording": 1}\n{"at": 0, "event": "open", "subprotocol": "chat"}\n'
        )
        with self.serving(str(path)) as (process, uri):
            assert cli("replay", "-q", str(path), uri) == (0, "", "")
            result = cli("replay", "-q", str(path), uri, "--subprotocol", "other")
            assert result.out == "difference: the subprotocol is None instead of chat\n"
            assert cli("replay", "-q", str(path)).status == 2  # it has no URI
            process.terminate()
            process.communicate(timeout=PATIENCE)

    def test_port_in_use(self, cli: Cli, port: int, tmp_path: Path) -> None:
        result = cli("replay", recording(tmp_path), "--serve", str(port))
        assert result.status == 1
        assert "address already in use" in result.err
