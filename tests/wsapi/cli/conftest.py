"""The command line in this process, servers, and certificates."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.wsapi.cli.helpers import Certificates, Cli, Result, serving
from tests.wsapi.cli.servers import on_threads
from wsapi.cli import main


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run the command line in this process, with what is to be stdin."""
    monkeypatch.setenv("WSAPI_TRACEBACK", "1")  # a bug is an exception here
    level = logging.getLogger("asyncio").level

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            with open(file.fileno(), closefd=False) as text:
                monkeypatch.setattr(sys, "stdin", text)
                capfd.readouterr()
                status = main(arguments)
        return Result(status, *capfd.readouterr())

    yield run
    logging.getLogger("asyncio").setLevel(level)


@pytest.fixture(scope="package")
def port() -> Iterator[int]:
    """Give the port of a server that does what messages say."""
    with serving() as port:
        yield port


@pytest.fixture(scope="module")
def echo_uri() -> Iterator[str]:
    """Give the URI of a server on threads, which sends what it receives."""
    with on_threads() as uri:
        yield uri


@pytest.fixture
def uri(port: int) -> str:
    """Give the URI of a server that does what messages say."""
    return f"ws://127.0.0.1:{port}/"


@pytest.fixture
def secure_port(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[int]:
    """Give the port of the same server with TLS, whose certificate nobody knows."""
    with serving(ssl=tls[0]) as port:
        yield port


@pytest.fixture
def free_port() -> Iterator[int]:
    """Give a port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Give an authority, and a certificate for localhost and 127.0.0.1 by it."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    found = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(found.ca)
    certificate.cert_chain_pems[0].write_to_path(found.cert)
    certificate.private_key_pem.write_to_path(found.key)
    return found
