"""wsapi check: what it says of servers that do as they should, and of servers that don't."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.cli.broken import broken_server
from tests.wsapi.cli.servers import echo, on_asyncio, on_threads, on_trio
from tests.wsapi.conformance.proxy import proxying
from tests.wsapi.foreign import NODE
from wsapi.asyncio.server import basic_auth, serve, unix_serve
from wsapi.cli import Parser, _check, main
from wsapi.cli._check_base import CHECKS, GROUPS, Known, Outcome, Verdict
from wsapi.cli._check_wire import Deflate, Head, frame
from wsapi.cli._options import connect_arguments
from wsapi.cli._terminal import CommandError, Status
from wsapi.datastructures import Headers
from wsapi.http11 import Request, Response

PATIENT = ("--wait", "20", "--timeout", "50")
TIMEOUT = 55


def check(*arguments: str) -> list[Outcome]:
    """Make checks in this process, and return what they say."""
    return asyncio.run(check_here(*arguments))


async def check_here(*arguments: str) -> list[Outcome]:
    parser = Parser(prog="wsapi check")
    _check.add_arguments(parser)
    options = parser.parse_args(arguments)
    _, outcomes = await _check.examine(
        options, connect_arguments(options), _check.selected(options.only)
    )
    return outcomes


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wsapi", "check", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def told(outcomes: list[Outcome], verdict: Verdict) -> dict[str, str]:
    return {outcome.check.name: outcome.came for outcome in outcomes if outcome.verdict is verdict}


# ---------------------------------------------------------------------- servers that are right


def judged(outcomes: list[Outcome]) -> None:
    """Expect that everything was checked and nothing is wrong."""
    assert told(outcomes, Verdict.FAIL) == {}
    assert told(outcomes, Verdict.SKIPPED) == {}
    assert len(outcomes) == len(CHECKS)


def test_asyncio() -> None:
    async def run() -> list[Outcome]:
        async with on_asyncio() as uri:
            return await check_here(uri, *PATIENT)

    judged(asyncio.run(run()))


@pytest.mark.parametrize("front_end", [on_threads, on_trio])
def test_other_front_ends(front_end: Any) -> None:
    with front_end() as uri:
        judged(check(uri, *PATIENT))


def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def run() -> list[Outcome]:
        async with on_asyncio(ssl=tls[0]) as uri:
            with pytest.raises(CommandError) as info:
                await check_here(uri, *PATIENT)
            assert info.value.status is Status.TLS
            return await check_here(uri, "--insecure", *PATIENT)

    outcomes = asyncio.run(run())
    assert told(outcomes, Verdict.FAIL) == {}
    half = "with TLS there is no end of one direction"
    names = ["robustness/eof", "robustness/eof-in-frame"]
    assert told(outcomes, Verdict.SKIPPED) == dict.fromkeys(names, half)


def test_websockets() -> None:
    from websockets.asyncio.server import serve as serve_theirs

    async def run() -> list[Outcome]:
        async with serve_theirs(echo, "127.0.0.1", 0, close_timeout=0.5) as server:
            port = server.sockets[0].getsockname()[1]
            return await check_here(f"ws://127.0.0.1:{port}/", *PATIENT)

    assert set(told(asyncio.run(run()), Verdict.FAIL)) <= {"opening/version-named"}


def test_aiohttp() -> None:
    web = pytest.importorskip("aiohttp.web")

    async def handler(request: Any) -> Any:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        async for message in connection:
            if message.type.name == "TEXT":
                await connection.send_str(message.data)
            else:
                await connection.send_bytes(message.data)
        return connection

    async def run() -> list[Outcome]:
        application = web.Application()
        application.add_routes([web.get("/", handler)])
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            return await check_here(f"ws://127.0.0.1:{port}/", *PATIENT)
        finally:
            await runner.cleanup()

    failed = told(asyncio.run(run()), Verdict.FAIL)
    # It takes what isn't masked, as versions of it do that are out there.
    assert {name.partition("/")[0] for name in failed} <= {
        *("opening", "close", "masking", "compression")
    }


WS_SERVER = """
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true });
server.on("connection", (socket) => {
  socket.on("message", (message, binary) => socket.send(message, { binary }));
  socket.on("error", () => {});
});
server.on("listening", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
"""


def test_node(node: Path) -> None:
    assert NODE is not None
    with subprocess.Popen(
        [NODE, "-e", WS_SERVER], cwd=node, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            outcomes = check(f"ws://127.0.0.1:{port}/", *PATIENT)
        finally:
            process.kill()
    assert set(told(outcomes, Verdict.FAIL)) <= {
        "opening/http10",
        "compression/offer-fallback",
        "compression/decline-bits-zero",
        "limits/message-1m",
    }


# ---------------------------------------------------------------------- servers that are wrong

# A fault, and patterns: each finds it by at least one check, and no other check fails.
FAULTS = {
    # the opening handshake
    "accept": ["opening/accept"],
    "any HTTP": ["opening/http10"],
    "any method": ["opening/method"],
    "any version": ["opening/version", "opening/version-missing"],
    "body": ["opening/response-no-body"],
    "case of names": ["opening/names-case"],
    "case of Upgrade": ["opening/upgrade-case"],
    "Connection exactly": ["opening/connection-list"],
    "Connection ignored": ["opening/connection-*"],
    "extensions echoed": ["opening/extension-unknown"],
    "invented subprotocol": ["opening/subprotocol-*"],
    "no Connection": ["opening/response-connection"],
    "no key": ["opening/key-missing"],
    "no Upgrade": ["opening/response-upgrade"],
    "one key": ["opening/accept"],
    "reads once": ["opening/split"],
    "spaces": ["opening/spaces"],
    "subprotocols": ["opening/subprotocol-unknown"],
    "unknown extensions": ["opening/extension-unknown"],
    "Upgrade ignored": ["opening/upgrade-*"],
    "version not named": ["opening/version-named"],
    # frames
    "64 KiB": ["frames/text-65536", "frames/binary-65536"],
    "empty messages": ["frames/text-0", "frames/binary-0"],
    "endian": ["frames/text-126", "frames/binary-65536", "frames/*"],
    "fails silently": ["frames/rsv1", "frames/opcode-11", "frames/*"],
    "first 1000 bytes": ["frames/text-6*", "frames/binary-6*"],
    "long length": ["frames/length-minimal"],
    "opcodes": ["frames/opcode-*"],
    "reserved bit sent": ["frames/reserved-unset"],
    "reserved bits": ["frames/rsv*"],
    "top bit": ["frames/length-top-bit"],
    "wrong code": ["frames/rsv1", "frames/opcode-7", "frames/*"],
    # fragmentation
    "continuation of nothing": ["fragmentation/continuation-*"],
    "control ends message": ["fragmentation/ping-between"],
    "message in message": ["fragmentation/text-inside", "fragmentation/binary-inside"],
    # control frames
    "empty pongs": ["control/ping-text", "control/p*", "robustness/neighbour"],
    "fragmented control": ["control/*-fragmented"],
    "long control": ["control/*-126", "control/control-whole"],
    "pong of pong": ["control/pong-0", "control/pong-125"],
    "text pongs": ["control/ping-binary"],
    # text
    "surrogates": ["utf8/invalid-surrogate", "utf8/text-is-utf8"],
    "UTF-8": ["utf8/invalid-*", "utf8/fail-fast", "utf8/text-is-utf8"],
    "UTF-8 of frames": ["utf8/valid-fragments"],
    # closing
    "codes": ["close/code-999", "close/code-1005", "close/code-*", "close/close-valid"],
    "goes on after Close": ["close/then-end", "close/message-after", "close/twice", "close/no*"],
    "goodbye": ["close/nothing-after-close"],
    "never ends": ["close/then-end", "close/end-after-failure", "close/[mt]*"],
    "no 4000": ["close/code-4000", "close/code-4999"],
    "no answer to Close": ["close/normal", "close/*"],
    "one byte": ["close/one-byte"],
    "reason": ["close/reason-invalid"],
    "twice": ["close/twice", "close/nothing-after-close"],
    # masking
    "mask of whole words": ["masking/lengths", "masking/fragments", "robustness/*"],
    "masks": ["masking/server-unmasked"],
    "not masked": ["masking/bare-*"],
    # compression
    "16 bits": ["compression/decline-bits-16"],
    "compressed text": ["compression/utf8"],
    "DEFLATE ignored": ["compression/invalid"],
    "RSV1 on continuation": ["compression/rsv1-continuation"],
    "server_max_window_bits ignored": ["compression/offer-server-bits", "compression/offer-q*"],
    "takeover ignored": ["compression/offer-server-takeover"],
    "takeover kept": ["compression/no-takeover", "compression/inflates"],
    "unasked client_max_window_bits": ["compression/offer-*"],
    "unknown parameter": ["compression/decline-unknown", "compression/offer-fallback"],
    "window ignored": ["compression/window-kept", "compression/inflates"],
    # other connections
    "dies of garbage": ["robustness/answers-after", "robustness/many"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str) -> None:
    patterns = FAULTS[fault]
    # The whole group, and whether other connections and the server are as they were.
    group = patterns[0].partition("/")[0]
    only = ["--only", group, "--only", "robustness/neighbour", "--only", "robustness/answers-after"]

    async def run() -> list[Outcome]:
        async with broken_server(fault) as uri:
            return await check_here(uri, *only, "--wait", "2", "--concurrency", "100")

    failed = told(asyncio.run(run()), Verdict.FAIL)
    found = {pattern: fnmatch.filter(failed, pattern) for pattern in patterns}
    assert all(found.values()), (found, failed)
    assert set(failed) == {name for names in found.values() for name in names}


def test_no_fault() -> None:
    async def run() -> list[Outcome]:
        async with broken_server("") as uri:
            return await check_here(uri, *PATIENT)

    judged(asyncio.run(run()))


def test_a_server_that_has_enough() -> None:
    """It accepted connections before the checks began: they tell that it doesn't any more."""
    accepted: list[Any] = []

    def process_request(connection: Any, request: Request) -> Response | None:
        accepted.append(connection)
        return connection.respond(503, "full\n") if len(accepted) > 3 else None

    async def run() -> list[Outcome]:
        async with on_asyncio(process_request=process_request) as uri:
            return await check_here(uri, "--only", "opening/response-*", *PATIENT)

    failed = told(asyncio.run(run()), Verdict.FAIL)
    assert "opening/response-connection" in failed
    assert set(failed.values()) == {"no opening handshake: 503 Service Unavailable"}


def test_one_failure_for_all() -> None:
    async def run() -> list[Outcome]:
        async with broken_server("fails all") as uri:
            return await check_here(
                uri, "--only", "frames/rsv1", "--only", "robustness/neighbour", *PATIENT
            )

    assert set(told(asyncio.run(run()), Verdict.FAIL)) == {"robustness/neighbour"}


# ---------------------------------------------------------------------- servers that don't echo


async def deaf(connection: Any) -> None:
    async for _ in connection:
        pass


async def greeting(connection: Any) -> None:
    await connection.send("welcome")
    async for _ in connection:
        await connection.send("what?")


async def greeting_echo(connection: Any) -> None:
    await connection.send("welcome")
    await echo(connection)


async def closing(connection: Any) -> None:
    await connection.recv()
    await connection.close(4000, "not JSON")


@pytest.mark.parametrize(
    "handler, why",
    [
        (deaf, "the server doesn't echo: a text message wasn't answered"),
        (greeting, "the server doesn't echo: it answered with TEXT 'welcome'"),
        (closing, "the server doesn't echo: Close 4000 'not JSON'"),
    ],
)
def test_no_echo(handler: Any, why: str) -> None:
    async def run(*options: str) -> list[Outcome]:
        async with serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await check_here(f"ws://127.0.0.1:{port}/", *options, *PATIENT)

    outcomes = asyncio.run(run())
    assert told(outcomes, Verdict.FAIL) == {}
    skipped = told(outcomes, Verdict.SKIPPED)
    assert skipped.pop("utf8/text-is-utf8", "") in ("", "it has sent no text")
    assert set(skipped) == {outcome.check.name for outcome in outcomes if outcome.check.echo}
    assert set(skipped.values()) == {why}
    outcomes = asyncio.run(run("--echo", "--only", "masking"))
    assert told(outcomes, Verdict.FAIL) == {
        name: why for name in skipped if name.startswith("masking/")
    }


def test_a_greeting_before_echoes() -> None:
    async def run() -> list[Outcome]:
        async with serve(greeting_echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            uri = f"ws://127.0.0.1:{port}/"
            return await check_here(
                uri, *PATIENT, "--only", "frames/*-6*", "--only", "masking/key*"
            )

    outcomes = asyncio.run(run())
    assert {outcome.verdict for outcome in outcomes} == {Verdict.PASS}


def test_no_compression() -> None:
    async def run(*options: str, compression: str | None) -> list[Outcome]:
        async with on_asyncio(compression=compression) as uri:
            return await check_here(uri, "--only", "compression", *options, *PATIENT)

    skipped = told(asyncio.run(run(compression=None)), Verdict.SKIPPED)
    assert set(skipped.values()) == {"no permessage-deflate"}
    skipped = told(asyncio.run(run("--no-compression", compression="deflate")), Verdict.SKIPPED)
    assert set(skipped.values()) == {"--no-compression"}


# ---------------------------------------------------------------------- reaching the server


def test_credentials_headers_and_subprotocols() -> None:
    seen: set[tuple[str, ...]] = set()

    def look(connection: Any, request: Request) -> None:
        names = ("X-Token", "Origin", "Sec-WebSocket-Protocol")
        seen.add(tuple(request.headers.get(name, "") for name in names))

    async def run() -> list[Outcome]:
        asks = basic_auth(realm="here", credentials=("me", "secret"))

        async def process(connection: Any, request: Request) -> Response | None:
            look(connection, request)
            answer: Response | None = await asks(connection, request)
            return answer

        async with on_asyncio(process_request=process, subprotocols=["chat"]) as uri:
            with pytest.raises(CommandError) as info:
                await check_here(uri, *PATIENT)
            assert info.value.status is Status.REFUSED
            seen.clear()
            return await check_here(
                *(uri, "--auth", "me:secret", "--subprotocol", "chat", "-H", "X-Token: 1"),
                *("--origin", "http://localhost", *PATIENT),
            )

    outcomes = asyncio.run(run())
    assert told(outcomes, Verdict.FAIL) == {}
    assert seen == {("1", "http://localhost", "chat")}
    assert told(outcomes, Verdict.SKIPPED) == {
        "opening/subprotocol-unknown": "there is --subprotocol"
    }


def test_credentials_of_the_uri_and_redirects() -> None:
    async def run() -> list[Outcome]:
        asks = basic_auth(realm="here", credentials=("me", "secret"))

        async def process(connection: Any, request: Request) -> Response | None:
            if request.path == "/":
                return Response(302, "Found", Headers({"Location": "/there"}))
            answer: Response | None = await asks(connection, request)
            return answer

        async with on_asyncio(process_request=process) as uri:
            uri = uri.replace("ws://", "ws://me:secret@")
            return await check_here(uri, "--only", "masking", *PATIENT)

    outcomes = asyncio.run(run())
    assert told(outcomes, Verdict.PASS).keys() == {
        name for name in CHECKS if name.startswith("masking/")
    }


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_through_a_proxy(scheme: str, server: str) -> None:
    if scheme == "socks5h":
        pytest.importorskip("python_socks")
    with proxying() as proxy:
        only = ("--only", "masking", "--only", "close/then-end")
        outcomes = check(server, "--proxy", proxy.url(scheme), *only, *PATIENT)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.PASS}
    assert len(proxy.targets) >= len(outcomes) - 1  # one of them has no connection of its own


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no Unix sockets")
def test_unix_socket(tmp_path: Path) -> None:
    async def run() -> list[Outcome]:
        path = str(tmp_path / "socket")
        async with unix_serve(echo, path):
            return await check_here("--unix", path, "--only", "masking", *PATIENT)

    assert {outcome.verdict for outcome in asyncio.run(run())} == {Verdict.PASS}


@pytest.mark.parametrize(
    "answer, status, message",
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Status.REFUSED, "HTTP 404"),
        (b"220 mail.example.com ESMTP\r\n\r\n", Status.PROTOCOL, "doesn't answer as HTTP does"),
        (b"", Status.PROTOCOL, "doesn't answer as HTTP does: nothing"),
    ],
)
def test_other_servers(answer: bytes, status: Status, message: str) -> None:
    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await check_here(f"ws://127.0.0.1:{port}/", *PATIENT)

    with pytest.raises(CommandError) as info:
        asyncio.run(run())
    assert info.value.status is status
    assert message in info.value.message


def test_a_server_that_says_nothing() -> None:
    async def run() -> None:
        silent = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await silent.wait()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for options in (("--open-timeout", "0.1"), ("--timeout", "0.1")):
                with pytest.raises(CommandError) as info:
                    await check_here(f"ws://127.0.0.1:{port}/", *options)
                assert info.value.status is Status.TIMEOUT
            silent.set()

    asyncio.run(run())


def test_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    # What there was no time for isn't there; that is a status of its own.
    async def run() -> list[Outcome]:
        async with broken_server("never ends") as uri:
            return await check_here(
                *(uri, "--only", "close/normal", "--only", "close/then-end"),
                *("--wait", "50", "--timeout", "3"),
            )

    assert set(told(asyncio.run(run()), Verdict.PASS)) <= {"close/normal"}


# ---------------------------------------------------------------------- the command


@pytest.fixture
def server() -> Iterator[str]:
    with on_threads() as uri:
        yield uri


def test_report(server: str) -> None:
    result = run(server, *PATIENT)
    assert (result.returncode, result.stderr) == (0, "")
    assert "echoes, permessage-deflate" in result.stdout
    assert "\x1b" not in result.stdout
    for title in GROUPS.values():
        assert f"\n{title}: " in result.stdout
    assert " failed" not in result.stdout


def test_report_of_everything(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", server, "-v", *PATIENT]) == 0
    output = capsys.readouterr().out
    for name in CHECKS:
        assert f"  {name}: " in output
    assert "sent      TEXT RSV2 'reserved'\n" in output
    assert "came      Close 1002 (protocol error)" in output


def test_json(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", server, "--json", "--only", "frames", *PATIENT]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["uri"], report["echo"], report["permessage_deflate"]) == (server, True, True)
    assert report["counts"]["fail"] == 0
    checks = {check["name"]: check for check in report["checks"]}
    assert set(checks) == {name for name in CHECKS if name.startswith("frames/")}
    reserved = checks["frames/rsv2"]
    assert reserved["verdict"] == "PASS"
    assert reserved["sent"] == ["TEXT RSV2 'reserved'"]
    assert reserved["expected"] == "Close 1002, and the end"
    assert reserved["came"].startswith("Close 1002 (protocol error)")
    assert reserved["section"] == "RFC 6455 §5.2"


def test_failures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {}
    ready = threading.Event()

    async def serve_broken() -> None:
        async with broken_server("not masked") as uri:
            found.update(uri=uri, loop=asyncio.get_running_loop(), stop=asyncio.Event())
            ready.set()
            await found["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve_broken(),))
    thread.start()
    assert ready.wait(TIMEOUT)
    try:
        status = main(["check", found["uri"], "--only", "masking", *PATIENT])
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join()
    output = capsys.readouterr().out
    assert status == Status.FAILURE
    assert "Masking: 4 passed, 4 failed, 1 info\n" in output
    assert "FAIL     masking/bare-ping: a Ping that isn't masked (RFC 6455 §5.1)\n" in output
    assert "sent      PING not masked 'bare'\n" in output
    assert "came      PONG 'bare': the connection goes on\n" in output


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(GROUPS.values())
    assert {line.split()[0] for line in lines if line.startswith(" ")} == set(CHECKS)
    assert main(["check", "--list", "--only", "close/code-1*"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(
        fnmatch.filter(CHECKS, "close/code-1*")
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "there is no URI"),
        (["--only", "nothing"], "--only: there is no check nothing (groups are opening, "),
        (["http://localhost/"], "isn't a WebSocket URI"),
        (["ws://localhost/", "--wait", "never"], "isn't a number of seconds"),
        (["ws://localhost/", "--wait", "none"], "checks would wait for ever"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == Status.USAGE
    assert message in capsys.readouterr().err


def test_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "ws://127.0.0.1:9/"]) == Status.UNREACHABLE
    assert "refuses connections" in capsys.readouterr().err


def test_control_characters_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    came = "Close 1000 '\x1b[2J'"
    outcome = Outcome(CHECKS["close/normal"], Verdict.INFO, (), "", came, 0.0)
    _check.Report(False).show("ws://localhost/", Known(server="a\x1b[2J\x9b"), [outcome], 0.1)
    output = capsys.readouterr().out
    assert "a\\x1b[2J\\x9b" in output
    assert "\x1b" not in output


# ---------------------------------------------------------------------- what it writes and reads


def test_checks_have_sections_and_titles() -> None:
    for check in CHECKS.values():
        assert check.section.startswith("RFC ")
        assert check.name.startswith(f"{check.group}/")
        assert check.title
    assert len({check.title for check in CHECKS.values()}) == len(CHECKS)


@pytest.mark.parametrize(
    "options, data",
    [
        ({"masked": False}, b"\x81\x02hi"),
        ({"key": b"\0\0\0\0"}, b"\x81\x82\0\0\0\0hi"),
        ({"key": b"\x01\x02\0\0", "fin": False, "rsv": 5}, b"\x51\x82\x01\x02\0\0ik"),
        ({"masked": False, "form": 16}, b"\x81\x7e\0\x02hi"),
        ({"masked": False, "form": 64}, b"\x81\x7f\0\0\0\0\0\0\0\x02hi"),
        ({"masked": False, "length": 2**16}, b"\x81\x7f\0\0\0\0\0\x01\0\0hi"),
    ],
)
def test_frames_are_written(options: dict[str, Any], data: bytes) -> None:
    assert frame(1, b"hi", **options).data == data


@pytest.mark.parametrize(
    "data, status",
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n", 101),
        (b"HTTP/1.1 200\r\n", 200),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
        (b"HTTP/1.1 banana\r\n", None),
        (b"", None),
    ],
)
def test_heads_are_read(data: bytes, status: int | None) -> None:
    assert Head.parse(data).status == status


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-bzip2",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; x=1",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    ],
)
def test_illegal_answers(answer: str) -> None:
    with pytest.raises(ValueError):
        Deflate(answer)
