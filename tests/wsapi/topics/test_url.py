"""Buses that are named by a URL, and the program of docs/topics.md, with each."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.wsapi.topics import nats_broker, valkey_broker
from wsapi.sync.client import connect
from wsapi.topics import Topics
from wsapi.topics._url import bus_of
from wsapi.topics.nats import NatsBus
from wsapi.topics.redis import RedisBus

PAGE = blocks.DOCS / "topics.md"
LINE = "topics = Topics(history=History(messages=100))"
DEADLINE = 20.0


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://127.0.0.1:1/0", RedisBus),
        ("rediss://user:secret@127.0.0.1:1", RedisBus),
        ("unix:///nowhere", RedisBus),
        ("nats://127.0.0.1:1", NatsBus),
        ("tls://127.0.0.1:1", NatsBus),
    ],
)
def test_url_names_a_bus(url: str, kind: type) -> None:
    assert isinstance(bus_of(url), kind)
    Topics(url)


@pytest.mark.parametrize("url", ["", "127.0.0.1:6379", "http://user:secret@127.0.0.1", "redis:x"])
def test_other_urls_name_none(url: str) -> None:
    with pytest.raises(ValueError, match="begins with one of redis://") as info:
        Topics(url)
    assert "secret" not in str(info.value)


@contextlib.contextmanager
def process(path: Path) -> Iterator[str]:
    """Run the program of the page; give the URL that it prints."""
    port = valkey_broker.free_port()
    with subprocess.Popen(
        [sys.executable, path, str(port)], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip()
        finally:
            running.kill()


def program_and_lines() -> tuple[str, list[str]]:
    """Return the program of the page, and the lines that replace one of its lines."""
    program = blocks.program("topics.md", "board.py")
    texts = [block.text for block in blocks.blocks("topics.md") if block.is_snippet]
    lines = [text.strip() for text in texts if re.match(r'topics = Topics\("', text)]
    assert program.count(LINE) == 1
    assert len(lines) == 2
    return program, lines


def write_and_see(urls: list[str]) -> None:
    """Write on each of the boards; see it on all."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for url in urls]
        # Who has its own message back has subscribed.
        for number, client in enumerate(clients):
            client.send(f"here {number}")
            while client.recv(DEADLINE) != f"here {number}":
                pass
        clients[0].send("end")
        for client in clients:
            while client.recv(DEADLINE) != "end":
                pass


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not beside the tests")
def test_program_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "board.py"
    path.write_text(program_and_lines()[0], encoding="utf-8")
    with process(path) as url:
        write_and_see([url, url])


@pytest.fixture
def broker_urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    valkey = valkey_broker.Broker(tmp_path / "valkey")
    nats = nats_broker.NatsServer(tmp_path / "nats")
    valkey.folder.mkdir()
    try:
        valkey.start()
        nats.start()
        yield {"redis": valkey.url, "nats": nats.uri}
    finally:
        valkey.stop()
        nats.stop()


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not beside the tests")
def test_program_in_three_processes_on_two_brokers(
    tmp_path: Path, broker_urls: dict[str, str]
) -> None:
    """One line is another one, as the page says, but for the broker's port."""
    program, lines = program_and_lines()
    for line in lines:
        scheme, port = re.findall(r'"(\w+)://127\.0\.0\.1:(\d+)"', line)[0]
        here = line.replace(f"{scheme}://127.0.0.1:{port}", broker_urls[scheme])
        path = tmp_path / f"board_{scheme}.py"
        path.write_text(program.replace(LINE, here), encoding="utf-8")
        with contextlib.ExitStack() as stack:
            write_and_see([stack.enter_context(process(path)) for _ in range(3)])
