"""docs/guides/nginx.md: nginx in front of two processes on Unix sockets."""

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
    talk_on,
    talk_unix,
    tool,
    until,
)
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/nginx.md"
pytestmark = MARKS


@dataclass(frozen=True)
class Site:
    """nginx and what is behind it."""

    directory: Path
    plain: int
    tls: int
    files: TLS
    processes: tuple[Running, Running]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.plain}"


@contextlib.contextmanager
def nginx(directory: Path, changes: Mapping[str, str]) -> Iterator[Running]:
    """Run nginx in the foreground, with all its files in one directory."""
    program = tool("nginx")
    temporary = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = changed(block(PAGE, "nginx.conf"), changes)
    text = changed(
        text,
        {
            "user www-data;": "daemon off;\nmaster_process off;\nerror_log stderr info;\n"
            f"pid {directory}/nginx.pid;",
            "worker_rlimit_nofile 65536;": "",
            "worker_connections 32768;": "worker_connections 64;",
            "http {\n": f"http {{\n    access_log {directory}/access.log;\n{temporary}",
        },
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(text, encoding="utf-8")
    command = [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=TIMEOUT)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    with running(command, directory, r"start worker|using the \"epoll\"|built by") as server:
        yield server


@contextlib.contextmanager
def site(directory: Path, changes: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Run two processes, and nginx in front of them."""
    plain, tls = free_port(), free_port()
    files = TLS(directory)
    sockets = [directory / "1.sock", directory / "2.sock"]
    server = directory / "server.py"
    text = program(PAGE, "server.py")
    server.write_text(changed(text, {"spread=5": "spread=1"}), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(running([server, "--unix", path], directory, path))
            for path in sockets
        ]
        stack.enter_context(
            nginx(
                directory,
                {
                    "/run/websocket/": f"{directory}/",
                    "listen 80;": f"listen 127.0.0.1:{plain};",
                    "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
                    "/etc/letsencrypt/live/example.com/fullchain.pem": str(files.certificate),
                    "/etc/letsencrypt/live/example.com/privkey.pem": str(files.key),
                    **(changes or {}),
                },
            )
        )
        yield Site(directory, plain, tls, files, (processes[0], processes[1]))


@pytest.fixture(scope="module")
def running_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("nginx")) as running_site:
        yield running_site


def test_ws(running_site: Site) -> None:
    long = "x" * 100_000
    assert talk(running_site.url, "hello", long) == ["127.0.0.1: hello", f"127.0.0.1: {long}"]


def test_wss(running_site: Site) -> None:
    url = f"wss://localhost:{running_site.tls}"
    context = running_site.files.client
    assert talk(url, "hello", ssl=context) == ["127.0.0.1: hello"]


def test_made_up_address(running_site: Site) -> None:
    headers = {"X-Forwarded-For": "192.0.2.1"}
    source = ("127.0.0.2", 0)
    answers = talk(running_site.url, "hello", source_address=source, additional_headers=headers)
    assert answers == ["127.0.0.2: hello"]
    # Who can connect to the process itself can claim any.
    path = running_site.directory / "1.sock"
    assert talk_unix(path, "hello", additional_headers=headers) == ["192.0.2.1: hello"]


def test_group_may_use_the_sockets(running_site: Site) -> None:
    for path in running_site.directory.glob("*.sock"):
        assert path.stat().st_mode & 0o777 == 0o660


def test_health(running_site: Site) -> None:
    assert get(running_site.plain, "/healthz") == (200, b"ready\n")
    assert get(running_site.plain, "/")[0] == 426


def test_logs(running_site: Site) -> None:
    with connect(f"{running_site.url}/logged", proxy=None) as connection:
        talk_on(connection, "hello")
    until(
        lambda: any(
            "127.0.0.1" in line and "/logged" in line and "1000" in line
            for process in running_site.processes
            for line in process.text().splitlines()
        )
    )
    access = running_site.directory / "access.log"
    until(lambda: '"GET /logged HTTP/1.1" 101 ' in access.read_text(encoding="utf-8"))


def test_restart(tmp_path: Path) -> None:
    """While a process drains, others are asked; then nobody is left."""
    with site(tmp_path) as behind:
        one, two = behind.processes
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connect(behind.url, proxy=None)) for _ in range(2)]
            one.process.send_signal(signal.SIGTERM)
            # With least_conn, each process has one of them.
            until(lambda: [c for c in held if c.close_code is not None or _closed(c)])
            assert one.ends() == 0
            for _ in range(4):
                assert talk(behind.url, "hello") == ["127.0.0.1: hello"]
            two.process.send_signal(signal.SIGTERM)
            until(lambda: get(behind.plain, "/healthz")[0] in (502, 503))
            with pytest.raises(InvalidStatus) as raised:
                connect(behind.url, proxy=None)
            if (status := raised.value.response.status_code) == 503:
                assert raised.value.response.headers["Retry-After"] == "1"
            else:
                assert status == 502
            assert two.ends() == 0
            with pytest.raises(InvalidStatus) as raised:
                connect(behind.url, proxy=None)
            assert raised.value.response.status_code == 502


def _closed(connection: object) -> bool:
    try:
        connection.recv(0.01)  # type: ignore[attr-defined]
    except TimeoutError:
        return False
    except Exception:
        return True
    return False


def test_time_out_below_the_ping_interval(tmp_path: Path) -> None:
    with site(tmp_path, {"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}) as behind:
        with connect(behind.url, proxy=None) as connection:
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1006


def test_headers_that_are_missing(tmp_path: Path) -> None:
    changes = {
        "proxy_set_header Upgrade $http_upgrade;": "",
        "proxy_set_header Connection $connection_upgrade;": "",
    }
    with site(tmp_path, changes) as behind, pytest.raises(InvalidStatus) as raised:
        connect(behind.url, proxy=None)
    assert raised.value.response.status_code == 426
