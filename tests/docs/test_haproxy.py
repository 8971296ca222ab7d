"""docs/guides/haproxy.md: HAProxy in mode http, and in mode tcp with the PROXY protocol."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.blocks import TLS, block, free_port, program
from tests.docs.deployment import (
    MARKS,
    TIMEOUT,
    Running,
    changed,
    get,
    running,
    talk,
    tool,
    until,
)
from wsapi.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/haproxy.md"
pytestmark = MARKS


@dataclass(frozen=True)
class Site:
    """HAProxy and what is behind it."""

    directory: Path
    plain: int
    tls: int
    files: TLS
    processes: tuple[Running, ...]
    ports: tuple[int, ...]
    proxy: Running

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.plain}"

    def context(self) -> dict[str, object]:
        return {"ssl": self.files.client}


@contextlib.contextmanager
def haproxy(directory: Path, name: str, changes: Mapping[str, str]) -> Iterator[Running]:
    """Run HAProxy in the foreground."""
    program = tool("haproxy")
    text = changed(block(PAGE, name), changes)
    text = changed(text, {"maxconn 20000": "maxconn 100"})  # within the limit on descriptors
    configuration = directory / name
    configuration.write_text(text, encoding="utf-8")
    command = [program, "-f", str(configuration)]
    checked = subprocess.run(
        [*command, "-c"], capture_output=True, text=True, timeout=TIMEOUT, cwd=directory
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    with running([*command, "-db"], directory) as server:
        yield server


@contextlib.contextmanager
def site(directory: Path, changes: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Run two processes, one on a port and one on a Unix socket, and HAProxy in mode http."""
    plain, tls, port = free_port(), free_port(), free_port()
    files = TLS(directory)
    both = directory / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    path = directory / "2.sock"
    server = directory / "server.py"
    text = program(PAGE, "server.py")
    server.write_text(changed(text, {"spread=5": "spread=1"}), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        processes = (
            stack.enter_context(running([server, "--port", str(port)], directory, port)),
            stack.enter_context(running([server, "--unix", path], directory, path)),
        )
        settings = {
            "bind :80\n": f"bind 127.0.0.1:{plain}\n",
            "bind :443 ": f"bind 127.0.0.1:{tls} ",
            "/etc/haproxy/example.com.pem": str(both),
            "127.0.0.1:8765": f"127.0.0.1:{port}",
            "unix@/run/websocket/2.sock": f"unix@{path}",
            "inter 2s": "inter 200ms",
        }
        proxy = stack.enter_context(haproxy(directory, "haproxy.cfg", settings | (changes or {})))
        running_site = Site(directory, plain, tls, files, processes, (port,), proxy)
        until(lambda: reachable(plain), proxy)
        yield running_site


@contextlib.contextmanager
def tcp_site(directory: Path, changes: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Run two processes with TLS, and HAProxy in mode tcp."""
    tls, ports = free_port(), (free_port(), free_port())
    files = TLS(directory)
    server = directory / "proxy_protocol.py"
    server.write_text(program(PAGE, "proxy_protocol.py"), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        processes = tuple(
            stack.enter_context(
                running([server, files.certificate, files.key, str(port)], directory, port)
            )
            for port in ports
        )
        settings = {
            "bind :443": f"bind 127.0.0.1:{tls}",
            "127.0.0.1:8765": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:8766": f"127.0.0.1:{ports[1]}",
            "inter 2s": "inter 200ms",
        }
        settings |= changes or {}
        proxy = stack.enter_context(haproxy(directory, "haproxy-tcp.cfg", settings))
        yield Site(directory, 0, tls, files, processes, ports, proxy)


def reachable(port: int) -> bool:
    try:
        return get(port, "/healthz")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def running_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("haproxy")) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def running_tcp_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with tcp_site(tmp_path_factory.mktemp("haproxy")) as running_site:
        until(lambda: answers(running_site), running_site.proxy)
        yield running_site


def answers(running_site: Site) -> bool:
    with contextlib.suppress(OSError, InvalidMessage):
        return bool(talk(f"wss://localhost:{running_site.tls}", "x", **running_site.context()))
    return False


class TestHTTP:
    def test_ws(self, running_site: Site) -> None:
        long = "x" * 100_000
        assert talk(running_site.url, "hello", long) == ["127.0.0.1: hello", f"127.0.0.1: {long}"]

    def test_wss(self, running_site: Site) -> None:
        url = f"wss://localhost:{running_site.tls}"
        for _ in range(2):  # both processes
            assert talk(url, "hello", **running_site.context()) == ["127.0.0.1: hello"]

    def test_made_up_address(self, running_site: Site) -> None:
        answers = talk(
            f"ws://127.0.0.1:{running_site.plain}",
            "hello",
            source_address=("127.0.0.2", 0),
            additional_headers={"X-Forwarded-For": "192.0.2.1"},
        )
        assert answers == ["127.0.0.2: hello"]

    def test_log(self, running_site: Site) -> None:
        talk(f"{running_site.url}/logged", "hello")
        running_site.proxy.wait_for(r'processes/(one|two) .* 101 .*"GET [^ ]*/logged HTTP/1.1"')

    def test_restart(self, tmp_path: Path) -> None:
        """While a process drains, others are asked; then nobody is left."""
        with site(tmp_path) as behind:
            one, two = behind.processes
            until(lambda: all("/healthz" in p.text() or p for p in behind.processes))
            with connect(f"ws://127.0.0.1:{behind.ports[0]}", proxy=None):
                one.process.send_signal(signal.SIGTERM)
                until(lambda: get(behind.ports[0], "/healthz")[0] == 503)
                for _ in range(4):
                    assert talk(behind.url, "hello") == ["127.0.0.1: hello"]
            assert one.ends() == 0
            assert talk(behind.url, "hello") == ["127.0.0.1: hello"]
            two.process.send_signal(signal.SIGTERM)
            assert two.ends() == 0
            with pytest.raises(InvalidStatus) as raised:
                connect(behind.url, proxy=None)
            assert raised.value.response.status_code == 503
            behind.proxy.wait_for(r"processes/<NOSRV>|backend 'processes' has no server available")

    def test_time_out_below_the_ping_interval(self, tmp_path: Path) -> None:
        with site(tmp_path, {"timeout tunnel 60s ": "timeout tunnel 1s "}) as behind:
            with connect(behind.url, proxy=None) as connection:
                with pytest.raises(ConnectionClosedError):
                    connection.recv(TIMEOUT)
                assert connection.close_code == 1006
            behind.proxy.wait_for(r" (sD|cD)-* ")


class TestTCP:
    def test_wss(self, running_tcp_site: Site) -> None:
        url = f"wss://localhost:{running_tcp_site.tls}"
        for _ in range(2):
            answers = talk(url, "hello", **running_tcp_site.context())
            assert answers == ["127.0.0.1: hello"]

    def test_made_up_address(self, running_tcp_site: Site) -> None:
        """Headers of the request aren't asked."""
        url = f"wss://localhost:{running_tcp_site.tls}"
        headers = {"X-Forwarded-For": "192.0.2.1"}
        answers = talk(url, "hello", additional_headers=headers, **running_tcp_site.context())
        assert answers == ["127.0.0.1: hello"]

    def test_address_is_told_by_the_protocol(self, running_tcp_site: Site) -> None:
        """It isn't just the address of the proxy."""
        url = f"wss://127.0.0.1:{running_tcp_site.tls}"
        source = ("127.0.0.2", 0)
        answers = talk(url, "hello", source_address=source, **running_tcp_site.context())
        assert answers == ["127.0.0.2: hello"]

    def test_without_the_protocol(self, running_tcp_site: Site) -> None:
        url = f"wss://127.0.0.1:{running_tcp_site.ports[0]}"
        with pytest.raises((OSError, InvalidMessage)):
            talk(url, "hello", **running_tcp_site.context())

    def test_protocol_that_is_not_expected(self, tmp_path: Path) -> None:
        """Without Door(proxy_protocol=True) the header is no TLS."""
        with tcp_site(tmp_path, {"send-proxy-v2 ": ""}) as behind:
            with pytest.raises((OSError, InvalidMessage)):
                talk(f"wss://localhost:{behind.tls}", "hello", **behind.context())
            behind.proxy.wait_for(r"is DOWN")
