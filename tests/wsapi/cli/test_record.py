"""``wsapi record``, and the file that it writes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.cli.helpers import Cli
from wsapi.cli._recording import Recording, Step, read_recording
from wsapi.cli._terminal import CommandError


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_recording(cli: Cli, port: int, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    uri = f"ws://user:secret@127.0.0.1:{port}/?token=t0ken"
    options = ("-H", "Cookie: c00kie", "-m", "é", "-m", "binary", "-n", "2", "--close", "4000:x")
    result = cli("record", "-o", str(path), *options, uri)
    assert result.status == 0
    assert result.out.splitlines()[1:3] == ["< é", "< (binary) 00ff"]
    first, opened, *messages, closed = events(path)
    assert first["wsapi_recording"] == 1
    assert first["uri"] == f"ws://user:***@127.0.0.1:{port}/?token=***"
    assert opened["event"] == "open"
    assert opened["request"]["path"] == "/?token=***"
    assert ["Cookie", "***"] in opened["request"]["headers"]
    assert opened["response"]["status"] == 101
    sent = [event for event in messages if event["event"] == "sent"]
    received = [event for event in messages if event["event"] == "received"]
    assert [event["text"] for event in sent] == ["é", "binary"]
    assert received[0]["text"] == "é"
    assert received[1]["base64"] == "AP8="
    assert (closed["event"], closed["by"], closed["code"]) == ("closed", "client", 4000)
    times = [event["at"] for event in events(path)[1:]]
    assert times == sorted(times)
    for secret in ("secret", "t0ken", "c00kie"):
        assert secret not in path.read_text("utf-8")
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_is_there(cli: Cli, uri: str, tmp_path: Path) -> None:
    """It keeps what it has until the connection is open."""
    path = tmp_path / "recording"
    path.write_text("x" * 10_000)
    assert cli("record", "-o", str(path), "-q", f"{uri}403").status == 5
    assert path.read_text() == "x" * 10_000
    assert cli("record", "-o", str(path), "-q", "-w", "0", uri).status == 0
    assert len(events(path)) == 3


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "the following arguments are required: "),
        (["-o", "/no/such/file", "ws://localhost"], 1, "can't write /no/such/file: No such file"),
        (["-o", "/", "ws://localhost"], 1, "can't write /: Is a directory"),
        (["-o", "/no/such/file", "http://localhost"], 2, "http://localhost isn't a WebSocket URI"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: list[str], status: int, message: str) -> None:
    result = cli("record", *arguments)
    assert (result.status, result.err.count("\n")) == (status, 1)
    assert result.err.startswith(f"wsapi: {message}")


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/full")
def test_full_disk(cli: Cli, uri: str) -> None:
    result = cli("record", "-o", "/dev/full", "-q", "-m", "x", uri)
    assert (result.status, result.err) == (1, "wsapi: No space left on device\n")


HEAD = '{"wsapi_recording": 1, "uri": "ws://localhost/"}'


def test_reading() -> None:
    lines = [
        HEAD,
        '{"at": 0, "event": "open", "subprotocol": "chat"}',
        "",
        '{"at": 1, "event": "sent", "text": "é"}',
        '{"at": 1.5, "event": "received", "base64": "AP8="}',
        '{"at": 2, "event": "closed", "by": "server", "code": 1001, "reason": "bye"}',
    ]
    assert read_recording("file", lines) == Recording(
        "ws://localhost/",
        "chat",
        (Step(1, True, "é"), Step(1.5, False, b"\x00\xff")),
        2,
        "server",
        1001,
        "bye",
    )


def test_reading_what_was_cut_off() -> None:
    recording = read_recording("file", [HEAD, '{"at": 1, "event": "sent", "text": ""}'])
    assert (recording.closed_at, recording.closed_by, recording.code) == (1, "client", 1000)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "line 0: it is empty"),
        (["{}"], "line 1: not a recording of version 1"),
        (['{"wsapi_recording": 2}'], "line 1: not a recording of version 1"),
        (["[]"], "line 1: not an object"),
        (["[" * 100_000], "line 1: "),
        (["x"], "line 1: Expecting value"),
        ([HEAD, "{}"], "line 2: at is missing"),
        ([HEAD, '{"at": true}'], "line 2: at isn't a number"),
        ([HEAD, '{"at": NaN}'], "line 2: at isn't a number"),
        ([HEAD, '{"at": "1"}'], "line 2: at isn't a number"),
        ([HEAD, '{"at": -1}'], "line 2: at is less than before"),
        ([HEAD, '{"at": 1}'], "line 2: event is missing"),
        ([HEAD, '{"at": 1, "event": "ping"}'], "line 2: unknown event 'ping'"),
        ([HEAD, '{"at": 1, "event": "sent"}'], "either text or base64"),
        ([HEAD, '{"at": 1, "event": "sent", "text": "", "base64": ""}'], "either text or base64"),
        ([HEAD, '{"at": 1, "event": "sent", "text": 1}'], "text isn't a string"),
        ([HEAD, '{"at": 1, "event": "sent", "text": "\\ud800"}'], "surrogates not allowed"),
        ([HEAD, '{"at": 1, "event": "sent", "base64": null}'], "either text or base64"),
        ([HEAD, '{"at": 1, "event": "sent", "base64": "a"}'], "base64 isn't Base64"),
        ([HEAD, '{"at": 1, "event": "closed"}'], "by is missing"),
        ([HEAD, '{"at": 1, "event": "closed", "by": "x", "code": 1}'], "by isn't client"),
        ([HEAD, '{"at": 1, "event": "closed", "by": "client", "code": 1}'], "isn't a close code"),
        (
            [
                HEAD,
                '{"at": 1, "event": "closed", "by": "client", "code": 1000}',
                '{"at": 1, "event": "open"}',
            ],
            "line 3: an event after the end",
        ),
    ],
)
def test_reading_what_is_no_recording(lines: list[str], message: str) -> None:
    with pytest.raises(CommandError) as raised:
        read_recording("file", lines)
    assert raised.value.message.startswith("file, line ")
    assert message in raised.value.message
