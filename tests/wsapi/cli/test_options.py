"""Options to reach a server: what becomes of them, seen from the server, and what is refused."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.wsapi.cli.helpers import Certificates, Cli, serving
from wsapi.asyncio.server import ServerConnection
from wsapi.cli import Parser, _options
from wsapi.cli._options import add_connection_arguments, add_uri_argument, connect_arguments
from wsapi.cli._terminal import CommandError


async def tell(connection: ServerConnection) -> None:
    """Send the headers of the request, and what was agreed on."""
    assert connection.request is not None
    for name, value in connection.request.headers.raw_items():
        await connection.send(f"{name}: {value}")
    await connection.send(f"subprotocol {connection.subprotocol}")


def headers(cli: Cli, *options: str) -> list[str]:
    """Connect with options; return the headers that the server got."""
    with serving(
        tell,
        subprotocols=["chat", "other"],
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    ) as port:
        result = cli("-q", "-w", "20", *options, f"ws://127.0.0.1:{port}/")
    assert (result.status, result.err) == (0, "")
    return result.out.splitlines()


class TestRequest:
    def test_headers(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "headers"
        path.write_text("X-File: one\n\nX-Other:two\n")
        found = headers(
            cli,
            *("-H", "X-A: b: c ", "--header", "X-Empty:", "-H", "X-E: é"),
            *("-H", f"@{path}"),
        )
        assert "X-A: b: c" in found
        assert "X-Empty: " in found
        assert "X-E: é" in found
        assert "X-File: one" in found
        assert "X-Other: two" in found

    def test_characters_beyond_latin_1(self, cli: Cli) -> None:
        """They are sent as bytes of UTF-8, as other clients do."""
        found = headers(cli, "-H", "X-A: €")
        assert f"X-A: {'€'.encode().decode('iso-8859-1')}" in found

    def test_origin_and_subprotocols(self, cli: Cli) -> None:
        subprotocols = ("--subprotocol", "other", "--subprotocol", "chat")
        found = headers(cli, "--origin", "http://localhost", *subprotocols)
        assert "Origin: http://localhost" in found
        assert "subprotocol other" in found

    def test_compression(self, cli: Cli) -> None:
        assert any(line.startswith("Sec-WebSocket-Extensions: ") for line in headers(cli))
        found = headers(cli, "--no-compression")
        assert not any(line.startswith("Sec-WebSocket-Extensions: ") for line in found)


class TestCredentials:
    def basic(self, text: str) -> str:
        return f"Authorization: Basic {base64.b64encode(text.encode()).decode()}"

    def test_auth(self, cli: Cli) -> None:
        assert self.basic("me:pass:word é") in headers(cli, "--auth", "me:pass:word é")
        assert self.basic("me:") in headers(cli, "--auth", "me:")

    def test_places(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Secrets needn't be among the arguments, which others on the machine see."""
        path = tmp_path / "secret"
        path.write_bytes(b"me:file\r\nignored\n")
        monkeypatch.setenv("SECRET", "me:environment")
        assert self.basic("me:file") in headers(cli, "--auth", f"@{path}")
        assert self.basic("me:environment") in headers(cli, "--auth", "env:SECRET")
        path.write_text("t0ken\n")
        assert "Authorization: Bearer t0ken" in headers(cli, "--bearer", f"@{path}")
        monkeypatch.setenv("TOKEN", "other")
        assert "Authorization: Bearer other" in headers(cli, "--bearer", "env:TOKEN")

    def test_password_that_is_asked_for(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_options, "is_terminal", lambda stream: True)
        monkeypatch.setattr(_options.getpass, "getpass", lambda prompt: f"<{prompt}>")
        assert self.basic("me:<Password of me: >") in headers(cli, "--auth", "me")

    def test_no_password(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def end(prompt: str) -> str:
            raise EOFError

        monkeypatch.setattr(_options, "is_terminal", lambda stream: True)
        monkeypatch.setattr(_options.getpass, "getpass", end)
        result = cli("-q", "--auth", "me", "ws://localhost")
        assert (result.status, result.err) == (2, "wsapi: --auth has no password\n")


class TestConnection:
    def test_another_place(self, cli: Cli, port: int) -> None:
        options = ("-v", "-q", "-m", "x", "-n", "1", "--connect", f"127.0.0.1:{port}")
        result = cli(*options, "ws://example.com/")
        assert (result.status, result.out) == (0, "x\n")
        assert "> Host: example.com\n" in result.err

    def test_proxy(self, cli: Cli, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        result = cli("-q", "--proxy", f"http://127.0.0.1:{free_port}", "ws://example.com/")
        assert result.status == 3
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
        assert cli("-q", "--no-proxy", f"ws://127.0.0.1:{free_port}/").status == 3

    @pytest.mark.parametrize(
        "text, size",
        [("0", 0), ("10", 10), ("64k", 65536), ("1M", 2**20), ("2GiB", 2**31), ("none", None)],
    )
    def test_sizes(self, text: str, size: int | None) -> None:
        assert _options.size(text) == size

    def test_hosts(self) -> None:
        assert parse("--connect", "[::1]:8765", "ws://x").connect == ("::1", 8765)
        assert parse("--connect", "localhost:8765", "ws://x").connect == ("localhost", 8765)

    def test_values(self) -> None:
        options = parse(
            *("--open-timeout", "1.5", "--close-timeout", "none", "--ping-interval", "NONE"),
            *("--ping-timeout", "3", "--max-size", "none", "ws://[::1]:9/x"),
        )
        arguments = connect_arguments(options)
        assert arguments["open_timeout"] == 1.5
        assert arguments["close_timeout"] is None
        assert arguments["ping_interval"] is None
        assert arguments["ping_timeout"] == 3
        assert arguments["max_size"] is None
        assert "ssl" not in arguments
        assert "proxy" not in arguments

    def test_names(self, certificates: Certificates) -> None:
        options = parse("--server-name", "x", "--ca", str(certificates.ca), "wss://localhost/")
        arguments = connect_arguments(options)
        assert arguments["server_hostname"] == "x"
        assert len(arguments["ssl"].get_ca_certs()) == 1
        folder = parse("--ca", str(certificates.ca.parent), "wss://localhost/")
        assert connect_arguments(folder)["ssl"].check_hostname


def parse(*arguments: str):  # type: ignore[no-untyped-def]
    parser = Parser(prog="wsapi")
    add_uri_argument(parser)
    add_connection_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--header", "x"], "--header must be like 'Name: value'"),
        (["--header", "a b: c"], "--header must be like 'Name: value'"),
        (["--header", ": secret"], "--header must be like 'Name: value'"),
        (["--header", "a: b\r\nc: d"], "--header a: the value has control characters"),
        (["--header", "@/no/such"], "--header: can't read /no/such: No such file or directory"),
        (["--header", "@/"], "--header: can't read /: Is a directory"),
        (["--auth", "a:b", "--bearer", "c"], "--auth and --bearer exclude each other"),
        (["--auth", "a:b", "-H", "authorization: x"], "there is an Authorization header beside"),
        (["--auth", "a"], "--auth has no password (USER:PASSWORD, @FILE, or env:NAME)"),
        (["--auth", "@/no/such"], "--auth: can't read /no/such: No such file or directory"),
        (["--auth", "env:NO_SUCH_NAME"], "--auth: there is no environment variable NO_SUCH_NAME"),
        (["--auth", "\ud800:x"], "--auth: not a user name and a password"),
        (["--bearer", ""], "--bearer: a token is printable ASCII, not empty"),
        (["--bearer", "a b"], "--bearer: a token is printable ASCII, not empty"),
        (["--bearer", "é"], "--bearer: a token is printable ASCII, not empty"),
        (["--origin", "a\nb"], "argument --origin: 'a\\nb' isn't an origin"),
        (["--subprotocol", "a b"], "argument --subprotocol: 'a b' isn't a name"),
        (["--connect", "localhost"], "argument --connect: 'localhost' isn't HOST:PORT"),
        (["--connect", "localhost:0"], "argument --connect: 'localhost:0' isn't HOST:PORT"),
        (["--connect", "localhost:65536"], "argument --connect: 'localhost:65536' isn't"),
        (["--connect", ":1"], "argument --connect: ':1' isn't HOST:PORT"),
        (["--connect", "a:1", "--unix", "x"], "--unix and --connect exclude each other"),
        (["--proxy", "ftp://u:secret@x"], "--proxy: ftp://u:***@x isn't a proxy: "),
        (["--proxy", "x", "--no-proxy"], "--proxy and --no-proxy exclude each other"),
        (["--max-size", "-1"], "argument --max-size: '-1' isn't a size"),
        (["--max-size", "1T"], "argument --max-size: '1T' isn't a size like 65536"),
        (["--open-timeout", "0"], "argument --open-timeout: '0' isn't a number of seconds"),
        (["--open-timeout", "nan"], "argument --open-timeout: 'nan' isn't a number of seconds"),
        (["--open-timeout", "inf"], "argument --open-timeout: 'inf' isn't a number of seconds"),
        (["--ping-interval", "x"], "argument --ping-interval: 'x' isn't a number of seconds"),
        (["--ca", "/no/such"], "--ca: can't read /no/such: No such file or directory"),
        (["--ca", __file__], f"--ca: {__file__} isn't what it should be: "),
        (["--ca", "x", "--insecure"], "--ca and --insecure exclude each other"),
        (["--key", "x"], "--key needs --cert"),
        (["--cert", "/no/such"], "--cert: can't read /no/such: No such file or directory"),
        (["--cert", __file__], f"--cert: {__file__} isn't what it should be: "),
        (["--count", "0"], "argument -n/--count: '0' isn't a number from 1 to 1000000000"),
        (["--count", "9" * 50], "argument -n/--count: '9999"),
        (["--wait", "-1"], "argument -w/--wait: '-1' isn't a number of seconds"),
        (["--wait", "x"], "argument -w/--wait: 'x' isn't a number of seconds"),
        (["--json", "--quiet"], "--json excludes --quiet and --raw"),
        (["--text", "--binary"], "argument --binary: not allowed with argument --text"),
        (["--verb"], "unrecognized arguments: --verb"),
        (["--no-such\x1b[2J"], "unrecognized arguments: --no-such\\x1b[2J"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments, "wss://localhost:9/")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"wsapi: {message}")
    assert "secret" not in result.err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_file_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0)
    with pytest.raises(CommandError, match="Permission denied"):
        _options.secret(f"@{path}", "--auth")
