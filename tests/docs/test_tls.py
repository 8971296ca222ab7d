"""docs/guides/tls.md: its programs, over TLS, and the errors that it lists."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import TLS, echo_server, free_port, program
from tests.docs.deployment import EXAMPLES, MARKS, TIMEOUT, changed, running, talk, until
from wsapi.exceptions import InvalidMessage
from wsapi.sync.client import connect

PAGE = "guides/tls.md"
pytestmark = MARKS

trustme = pytest.importorskip("trustme", reason="trustme isn't installed")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with certificates, as the page says."""
    subprocess.run(
        [sys.executable, "-m", "trustme", "--quiet"], cwd=tmp_path, check=True, timeout=TIMEOUT
    )
    assert {path.name for path in tmp_path.iterdir()} == {"server.pem", "server.key", "client.pem"}
    return tmp_path


def written(directory: Path, name: str, text: str, port: int) -> str:
    (directory / name).write_text(changed(text, {"8765": str(port)}), encoding="utf-8")
    return name


def client_context(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=directory / "client.pem")


def programs() -> dict[str, tuple[str, str]]:
    """Server and client of each front-end."""
    return {
        "asyncio": (_example("tls_server.py"), _example("tls_client.py")),
        "threads": (program(PAGE, "server_threads.py"), program(PAGE, "client_threads.py")),
        "trio": (program(PAGE, "server_trio.py"), program(PAGE, "client_trio.py")),
    }


def _example(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("front_end", ["asyncio", "threads", "trio"])
def test_echo(front_end: str, directory: Path) -> None:
    """A server of each kind, and clients of all."""
    port = free_port()
    server, _ = programs()[front_end]
    arguments = ["server.pem", "server.key"] if front_end == "asyncio" else []
    name = written(directory, "server.py", server, port)
    with running([name, *arguments], directory, port):
        for kind, (_, text) in programs().items():
            client = written(directory, "client.py", text, port)
            output = subprocess.run(
                [sys.executable, client, *(["client.pem"] if kind == "asyncio" else [])],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            assert output.stderr == ""
            assert output.stdout.startswith("Hello!\n('TLS_")


def test_uvloop(directory: Path) -> None:
    pytest.importorskip("uvloop", reason="uvloop isn't installed")
    port = free_port()
    text = changed(programs()["asyncio"][0], {"asyncio.run(": "__import__('uvloop').run("})
    name = written(directory, "server.py", text, port)
    with running([name, "server.pem", "server.key"], directory, port):
        url = f"wss://localhost:{port}"
        assert talk(url, "Hello!", ssl=client_context(directory)) == ["Hello!"]


def test_client_certificates(directory: Path) -> None:
    port = free_port()
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(directory / "client.pem")
    for name, ca, whom in (
        ("server", authority, "localhost"),
        ("alice", authority, "alice@example.com"),
        ("mallory", other, "alice@example.com"),
    ):
        issued = ca.issue_cert(whom)
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
    server = written(directory, "server.py", program(PAGE, "client_certificates.py"), port)
    client_text = program(PAGE, "with_certificate.py")
    without = client_text.replace('context.load_cert_chain("alice.pem", "alice.key")\n', "")
    assert without != client_text

    def ask(text: str) -> subprocess.CompletedProcess[str]:
        client = written(directory, "client.py", text, port)
        command = [sys.executable, client]
        return subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT
        )

    with running([server], directory, port):
        assert ask(client_text).stdout == "Welcome, alice@example.com!\n"
        refused = ask(without)
        assert refused.returncode == 1
        assert "InvalidMessage: did not receive a valid HTTP response" in refused.stderr
        refused = ask(client_text.replace("alice.", "mallory."))
        assert refused.returncode == 1
        assert "InvalidMessage: did not receive a valid HTTP response" in refused.stderr


def serial_number(port: int, directory: Path) -> str:
    context = client_context(directory)
    with (
        socket.create_connection(("localhost", port), TIMEOUT) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate is not None
        number = certificate["serialNumber"]
        assert isinstance(number, str)
        return number


def test_renewal(directory: Path) -> None:
    port = free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "client.pem")

    def issue() -> None:
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(directory / "server.pem")
        issued.private_key_pem.write_to_path(directory / "server.key")

    issue()
    name = written(directory, "server.py", program(PAGE, "renewal.py"), port)
    with running([name], directory, port) as server:
        first = serial_number(port, directory)
        with connect(f"wss://localhost:{port}", ssl=client_context(directory)) as connection:
            issue()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: serial_number(port, directory) != first)
            second = serial_number(port, directory)
            connection.send("still here")
            assert connection.recv(TIMEOUT) == "still here"
        (directory / "server.pem").write_text("no certificate", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("^keeping the old certificate: ")
        assert serial_number(port, directory) == second


def test_tests(tmp_path: Path) -> None:
    (tmp_path / "test_server.py").write_text(program(PAGE, "test_server.py"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_server.py"]
    output = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=2 * TIMEOUT
    )
    assert "2 passed" in output.stdout, output.stdout + output.stderr


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, TLS]]:
    tls = TLS(tmp_path)
    with echo_server(0, tls.server) as url:
        yield url, tls


class TestErrors:
    def test_unknown_authority(self, tls_server: tuple[str, TLS]) -> None:
        url, _ = tls_server
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            connect(url)

    def test_wrong_name(self, tls_server: tuple[str, TLS]) -> None:
        url, tls = tls_server
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            connect(url, ssl=tls.client, server_hostname="example.com")

    def test_tls_to_a_plain_port(self) -> None:
        with echo_server() as uri, pytest.raises((ssl.SSLError, ConnectionResetError)):
            connect(uri.replace("ws:", "wss:"))

    def test_plain_to_a_tls_port(self, tls_server: tuple[str, TLS]) -> None:
        url, _ = tls_server
        with pytest.raises((InvalidMessage, ConnectionResetError)):
            connect(url.replace("wss:", "ws:"))

    def test_wrong_key(self, tls_server: tuple[str, TLS]) -> None:
        _, tls = tls_server
        authority = tls.authority
        other = tls.key.parent / "other.key"
        authority.issue_cert("localhost").private_key_pem.write_to_path(other)
        with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, other)

    def test_scheme_and_option(self, tls_server: tuple[str, TLS]) -> None:
        url, tls = tls_server
        with pytest.raises(ValueError, match="ssl argument is incompatible with a ws:// URI"):
            connect(url.replace("wss:", "ws:"), ssl=tls.client)
