"""wsapi check: what it makes of answers that few servers give, without a server."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsapi.cli.servers import on_asyncio
from wsapi.asyncio.server import ServerConnection
from wsapi.cli import Parser, _check
from wsapi.cli._check_base import (
    CHECKS,
    OFFER,
    Check,
    Info,
    Known,
    Outcome,
    Probe,
    Skip,
    Verdict,
)
from wsapi.cli._check_wire import (
    Deflate,
    Ended,
    Event,
    Failure,
    Observations,
    Place,
    Silence,
    Wire,
    accept_key,
    apply_mask,
    frame,
)
from wsapi.cli._options import connect_arguments
from wsapi.datastructures import Headers
from wsapi.http11 import Request
from wsapi.uri import parse_uri

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
END = None
"""In place of bytes: the end of the connection."""

Answer = Callable[[bytes], Iterable[bytes | None]]


class Transport(asyncio.Transport):
    """Gives each write to what answers at once, before it returns."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self.wire: Any = None
        self.written: list[bytes] = []
        self.paused: list[bool] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        for came in self.answer(bytes(data)):
            if came is END:
                self.wire.connection_lost(None)
            else:
                self.wire.data_received(came)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True
        self.wire.connection_lost(None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.write(b"")

    def pause_reading(self) -> None:
        self.paused.append(True)

    def resume_reading(self) -> None:
        self.paused.append(False)


class Scripted(Place):
    """Where each connection answers as a script says.

    Args:
        answer: Makes the answer for a connection.
    """

    def __init__(self, answer: Callable[[], Answer]) -> None:
        super().__init__(parse_uri("ws://localhost/"), Headers(), {})
        self.make = answer

    async def open(self) -> Wire:
        transport = Transport(self.make())
        transport.wire = Wire(transport)
        return transport.wire


def accepted(request: bytes, *lines: str, version: str = "HTTP/1.1") -> bytes:
    """Return a response with status 101, and more lines."""
    key = next(
        line.partition(b": ")[2].decode()
        for line in request.split(b"\r\n")
        if line.startswith(b"Sec-WebSocket-Key")
    )
    head = [
        f"{version} 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


def script(*answers: Iterable[bytes | None], head: Iterable[str] = (), **options: Any) -> Scripted:
    """Return a place that opens connections, then answers writes in turn, the rest not at all."""

    def make() -> Answer:
        left = list(answers)
        opened = False

        def answer(data: bytes) -> Iterable[bytes | None]:
            nonlocal opened
            if not opened:
                opened = True
                return [accepted(data, *head, **options)]
            return left.pop(0) if left else []

        return answer

    return Scripted(make)


def once(*answer: bytes | None) -> Scripted:
    """Return a place that answers the first write so."""
    return Scripted(lambda: lambda data: answer)


def sent(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    """Return a frame of a server."""
    data: bytes = frame(opcode, payload, **{"masked": False, **options}).data
    return data


def close(code: int, reason: bytes = b"") -> bytes:
    return sent(CLOSE, struct.pack("!H", code) + reason)


def probe_of(place: Place, wait: float = 30, **known: Any) -> Probe:
    return Probe(place, Known(**known), Observations(), wait)


SHORT = 0.05
"""Seconds to wait for what doesn't come."""


# ---------------------------------------------------------------------- what a check says

DEFLATED = ["Sec-WebSocket-Extensions: permessage-deflate"]
TEXT_ = [sent(TEXT, b"hi")]

# A check, what it is answered, and what it says of that.
SAYS: list[tuple[str, Scripted, dict[str, Any], type[Exception] | str, str]] = [
    # the opening handshake
    (
        "opening/subprotocol-unknown",
        script(head=["Sec-WebSocket-Protocol: x-other"]),
        {},
        Info,
        "'x-other', which nobody knows, was selected",
    ),
    (
        "opening/subprotocol-unknown",
        script(head=["Sec-WebSocket-Protocol: chat"]),
        {},
        Failure,
        "Sec-WebSocket-Protocol: chat",
    ),
    # frames
    ("frames/opcodes-known", script(), {}, Skip, "no frame has come"),
    ("frames/rsv1", script([END]), {}, Info, "the end of the connection, without a Close frame"),
    # fragmentation
    ("fragmentation/continuation-after", script([close(1002)]), {"echo": True}, "", "Close 1002"),
    ("fragmentation/continuation-after", script([close(1003)]), {"echo": True}, Info, "Close 1003"),
    ("fragmentation/continuation-after", script([END]), {"echo": True}, Info, "the end of the con"),
    ("fragmentation/continuation-after", script(TEXT_), {"echo": True}, Failure, "TEXT 'hi'"),
    # control frames
    ("control/pings", script([sent(PONG, b"3"), *TEXT_]), {}, Failure, "'hi', after 1 Pongs"),
    # text
    ("utf8/fail-fast", script([close(1007)]), {}, "", "Close 1007 .* at once"),
    ("utf8/fail-fast", script([END]), {}, Info, "the end of the connection"),
    ("utf8/fail-fast", script([close(1002)]), {}, Failure, "Close 1002"),
    # closing
    ("close/normal", script([*TEXT_, sent(PONG), close(1000)]), {}, "", "Close 1000"),
    ("close/normal", script([*TEXT_, END]), {}, Failure, "without a Close frame"),
    ("close/end-after-failure", script([END]), {}, "", "the end of the connection"),
    ("close/end-after-failure", script(TEXT_), {}, Skip, "it doesn't fail: TEXT 'hi'"),
    ("close/end-after-failure", script([close(1002)], [END]), {}, "", "the end of the connection"),
    ("close/message-after", script([close(1002)]), {}, Failure, "Close 1002"),
    ("close/message-after", script([close(1000), END]), {}, "", "nothing of it"),
    # compression
    ("compression/offer-plain", once(b"HTTP/1.1 503 Full\r\n\r\n"), {}, Failure, "503 Full"),
    ("compression/decline-unknown", once(b"HTTP/1.1 503 Full\r\n\r\n"), {}, Failure, "503 Full"),
    ("compression/decline-unknown", once(b"HTTP/1.1 400 No\r\n\r\n"), {}, Info, "400 No"),
    ("compression/offer-common", script(), {}, Failure, "it was declined"),
    ("compression/offer-quoted", script(), {}, Info, "it was declined"),
    (
        "compression/offer-server-bits",
        script(head=["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15"]),
        {},
        Failure,
        "server_max_window_bits=15",
    ),
    (
        "compression/offer-plain",
        script(head=["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits"]),
        {},
        Failure,
        "server_max_window_bits=None",
    ),
    ("compression/message", script(), {}, Skip, "was declined"),
    ("compression/window-kept", script(TEXT_, head=DEFLATED), {}, Failure, "TEXT 'hi', after 0"),
    ("compression/final-block", script(TEXT_, head=DEFLATED), {}, Info, "TEXT 'hi'"),
    ("compression/final-block", script([close(1007)], head=DEFLATED), {}, Info, "Close 1007"),
    ("compression/truncated", script(TEXT_, head=DEFLATED), {}, Info, "TEXT 'hi': the connection"),
    # limits
    ("limits/length-40", script([END]), {}, Info, "the end of the connection, without a Close"),
    ("limits/length-40", script([close(1002)]), {}, Info, "Close 1002"),
    ("limits/length-40", script([close(1009)]), {}, "", "Close 1009"),
    ("limits/length-40", script(TEXT_), {}, Info, "it was taken"),
    ("limits/message-1m", script([close(1009)]), {}, Info, "Close 1009"),
    ("limits/message-1m", script([close(1011)]), {}, Failure, "Close 1011"),
    ("limits/request", once(b"HTTP/1.1 101 Now\r\n\r\n"), {}, Failure, "101, before the end"),
    ("limits/request", once(b"HTTP/1.1 431 Too much\r\n\r\n"), {}, "", "431 Too much"),
    ("limits/request", once(END), {}, "", "the end of the connection"),
    ("limits/line", once(b"HTTP/1.1 414 Long\r\n\r\n"), {}, "", "414 Long"),
    ("limits/line", once(END), {}, "", "the end of the connection"),
    # robustness
    ("robustness/garbage", once(b"HTTP/1.1 500 Oh\r\n\r\n"), {}, Failure, "500 Oh"),
    ("robustness/garbage", once(b"HTTP/1.1 101 Oh\r\n\r\n"), {}, Failure, "101 Oh"),
    ("robustness/garbage", once(b"\x15\x03\x01\0\x02\x02\x46", END), {}, Info, "F"),
    ("robustness/garbage", once(b"HTTP/1.1 400 No\r\n\r\n"), {}, "", "400 No"),
    ("robustness/neighbour", script(), {}, Skip, "it wasn't opened"),
]


@pytest.mark.parametrize(
    ("name", "place", "known", "says", "match"),
    SAYS,
    ids=[f"{name} {match[:20]}" for name, _, _, _, match in SAYS],
)
async def test_what_checks_say(
    name: str, place: Scripted, known: dict[str, Any], says: Any, match: str
) -> None:
    probe = probe_of(place, **known)
    if says == "":
        assert match.removesuffix(" .* at once") in await CHECKS[name].run(probe)
    else:
        with pytest.raises(says, match=match) as info:
            await CHECKS[name].run(probe)
        assert not isinstance(info.value, Silence)
    for wire in probe.wires:
        wire.transport.abort()


@pytest.mark.parametrize(
    ("name", "place", "says", "match"),
    [
        ("utf8/fail-fast", script([], [close(1007)]), Info, "when the message was complete"),
        ("close/code-5000", script(), Silence, "nothing"),
        ("close/code-5000", script([close(5000)]), Info, "Close 5000"),
        ("compression/final-block", script(head=DEFLATED), Silence, "nothing"),
        ("compression/truncated", script(head=DEFLATED), Silence, "nothing"),
        ("limits/length-40", script(), Info, "it waits for more"),
        ("limits/request", once(), Info, "it waits for more"),
        ("limits/line", once(), Info, "it waits for more"),
        ("robustness/eof", script(), Info, "no end"),
        ("robustness/eof-in-frame", script([], [END]), None, "the end of the connection"),
    ],
)
async def test_what_checks_say_of_silence(
    name: str, place: Scripted, says: Any, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("_check_base", "_check_messages", "_check_rest"):
        monkeypatch.setattr(f"wsapi.cli.{module}.MOMENT", SHORT)
    monkeypatch.setattr("wsapi.cli._check_base.QUIET", SHORT)
    probe = probe_of(place, 2 * SHORT)
    if says is None:
        assert await CHECKS[name].run(probe) == match
    else:
        with pytest.raises(says, match=match):
            await CHECKS[name].run(probe)
    for wire in probe.wires:
        wire.transport.abort()


# ---------------------------------------------------------------------- what checks work with


async def test_no_connection() -> None:
    class Nowhere(Scripted):
        async def open(self) -> Wire:
            raise ConnectionRefusedError(111, "refused")

    probe = probe_of(Nowhere(lambda: lambda data: []))
    with pytest.raises(Failure, match=r"no connection: ConnectionRefusedError: .*refused"):
        await probe.open()
    assert probe.wires == []


@pytest.mark.parametrize(
    ("offer", "answer", "noted", "agreed"),
    [
        (None, "", None, False),
        (None, "x-thing", "x-thing, without an offer", False),
        (OFFER, "", None, False),
        (OFFER, "permessage-deflate", None, True),
    ],
)
async def test_answers_to_offers(
    offer: str | None, answer: str, noted: str | None, agreed: bool
) -> None:
    head = [f"Sec-WebSocket-Extensions: {answer}"] if answer else []
    probe = probe_of(script(head=head))
    wire = await probe.open(offer=offer)
    assert probe.observed.faults.get("extensions-offered") == noted
    assert (wire.deflate is not None) is agreed


async def test_illegal_answer_to_an_offer() -> None:
    probe = probe_of(script(head=["Sec-WebSocket-Extensions: permessage-deflate; x=1"]))
    with pytest.raises(Failure, match=r"an illegal answer to 'permessage-deflate.*unknown param"):
        await probe.open(offer=OFFER)


async def test_version_of_a_response() -> None:
    probe = probe_of(script(version="HTTP/1.0"))
    await probe.open()
    assert probe.observed.faults == {"response-version": "HTTP/1.0 101 Switching Protocols"}


@pytest.mark.parametrize(
    ("answer", "says", "match"),
    [
        ([b"SSH-2.0\r\n\r\n"], Failure, "which isn't HTTP"),
        ([END], Info, "the end of the connection, without a response"),
        ([b"HTTP/1.1 101 Yes\r\n\r\n"], Failure, "101 Yes: it was accepted"),
        ([b"HTTP/1.1 500 No\r\n\r\n"], Info, "500 No"),
    ],
)
async def test_refusals(answer: list[bytes | None], says: type[Exception], match: str) -> None:
    probe = probe_of(once(*answer))
    with pytest.raises(says, match=match):
        await probe.refused(probe.place.request(), 400)


async def test_echo_among_other_messages() -> None:
    """Those of a server that sends by itself are left out, known or not."""
    answer = [sent(TEXT, b"known"), sent(TEXT, b"news"), sent(TEXT, b"x")]
    probe = probe_of(script(answer), echo=True, chatty=True, unasked={b"known"})
    wire = await probe.open()
    wire.write(frame(TEXT, b"x"))
    assert await probe.echoed(wire, (TEXT, b"x")) == "TEXT 'x'"
    probe = probe_of(script(answer), echo=True)
    wire = await probe.open()
    wire.write(frame(TEXT, b"x"))
    with pytest.raises(Failure, match="TEXT 'known'"):
        await probe.echoed(wire, (TEXT, b"x"))


# ---------------------------------------------------------------------- what comes


async def opened(*answer: bytes | None, **options: Any) -> tuple[Wire, Any]:
    """Return a connection that has received something, and its transport."""
    probe = probe_of(script(list(answer)), **options)
    wire = await probe.open()
    wire.write(frame(PING, b""))
    return wire, wire.transport


async def test_pings_and_fragments() -> None:
    """The server's own Pings are answered, also between the frames of a message."""
    wire, transport = await opened(
        sent(TEXT, b"a ", fin=False),
        sent(PING, b"p"),
        sent(CONT, b"b", fin=False),
        sent(CONT, b"c"),
    )
    assert await wire.event() == Event(TEXT, b"a bc")
    pong = transport.written[-1]
    assert pong[:2] == b"\x8a\x81"
    assert apply_mask(pong[6:], pong[2:6]) == b"p"
    assert wire.observed.faults == {}


@pytest.mark.parametrize(
    ("data", "name", "what"),
    [
        (sent(3, b"x"), "opcodes-known", "3"),
        (sent(11, b"x"), "opcodes-known", "11"),
        (sent(CONT, b"x"), "fragments-legal", "outside a message"),
        (sent(TEXT, b"x", fin=False) + sent(BINARY, b"y"), "fragments-legal", "in a message"),
    ],
)
async def test_what_no_server_may_send(data: bytes, name: str, what: str) -> None:
    wire, _ = await opened(data)
    await wire.event()
    assert list(wire.observed.faults) == [name]
    assert what in wire.observed.faults[name]


@pytest.mark.parametrize(
    "data",
    [
        b"\x81",  # the header
        b"\x81\x7e\x01",  # its length
        b"\x81\x81\x00\x00",  # the mask
        b"\x81\x05abc",  # the payload
    ],
)
async def test_frames_that_are_cut_off(data: bytes) -> None:
    wire, _ = await opened(data, END)
    assert await wire.event() == Ended(False)
    assert "frames-whole" in wire.observed.faults
    # Nobody minds after a Close frame, or when the connection is left.
    wire, _ = await opened(close(1000), data, END)
    assert (await wire.event()).code == 1000  # type: ignore[union-attr]
    assert await wire.event() == Ended(False)
    assert "frames-whole" not in wire.observed.faults


async def test_more_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server can fill the memory: neither with a frame, nor with many, nor with a head."""
    for name in ("MAX_FRAME", "MAX_BUFFERED", "MAX_HEAD"):
        monkeypatch.setattr(f"wsapi.cli._check_wire.{name}", 1000)
    wire, _ = await opened(sent(BINARY, b"", length=1001))
    with pytest.raises(Failure, match="a frame of 1,001 bytes"):
        await wire.event()
    wire, _ = await opened(sent(BINARY, bytes(900), fin=False) + sent(CONT, bytes(101)))
    with pytest.raises(Failure, match="a message of more than 1,000 bytes"):
        await wire.event()
    probe = probe_of(once(b"HTTP/1.1 200 OK\r\n" + b"x" * 1000))
    with pytest.raises(Failure, match="a response whose head is longer than 1,000 bytes"):
        await probe.ask(probe.place.request())


async def test_reading_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.cli._check_wire.MAX_BUFFERED", 100)
    wire, transport = await opened(sent(BINARY, bytes(80)) + sent(BINARY, bytes(80)))
    assert transport.paused == [True]
    wire.data_received(sent(PONG, b"p"))
    assert transport.paused == [True]
    for event in (Event(BINARY, bytes(80)), Event(BINARY, bytes(80)), Event(PONG, b"p")):
        assert await wire.event() == event
    # It goes on when there is nothing left.
    waiting = asyncio.ensure_future(wire.event())
    await asyncio.sleep(0)
    assert transport.paused == [True, False]
    wire.data_received(sent(PONG, b"q"))
    assert await waiting == Event(PONG, b"q")


async def test_end_of_what_is_closing() -> None:
    """What is lost already has no end of its own any more."""
    wire, transport = await opened()
    transport.closing = True
    count = len(transport.written)
    wire.finish()
    assert len(transport.written) == count
    assert wire.finished


def test_final_block() -> None:
    """After one, all begins anew (RFC 7692 §7.2.3.4)."""
    deflate = Deflate("permessage-deflate")
    final = zlib.compressobj(wbits=-15)
    data = final.compress(b"hello") + final.flush()
    assert deflate.inflate(data + b"\x00") == b"hello"
    other = Deflate("permessage-deflate")
    assert deflate.inflate(other.compress(b"again")) == b"again"


# ---------------------------------------------------------------------- the command


def options(**more: Any) -> Any:
    return SimpleNamespace(**{"echo": False, "no_compression": False, "wait": 30.0, **more})


async def test_checks_without_end() -> None:
    async def run(probe: Probe) -> str:
        await probe.open()
        raise TimeoutError

    check = Check("close/x", "close", "x", "RFC 6455", run)
    outcome = await _check.make_check(check, probe_of(script()), options())
    assert (outcome.verdict, outcome.came) == (Verdict.FAIL, "no end of it")


async def test_servers_that_refuse_later() -> None:
    """That there is no echo has its reason; checks tell what is wrong."""
    known = Known()
    await _check.explore(once(b"HTTP/1.1 503 Full\r\n\r\n"), known, options())
    assert not known.echo
    assert known.why_no_echo == "no echo: no opening handshake: 503 Full"


async def test_servers_that_refuse_offers() -> None:
    """What was found out before stays known."""
    made: list[Answer] = []

    def make() -> Answer:
        def answer(data: bytes) -> Iterable[bytes | None]:
            if len(made) > 1:
                return [END]
            if data.startswith(b"GET"):
                return [accepted(data)]
            return [sent(CLOSE, b"")]

        made.append(answer)
        return answer

    known = Known()
    await _check.explore(Scripted(make), known, options())
    assert (known.echo, known.deflate) == (False, False)
    assert known.why_no_echo == "the server doesn't echo: Close without a code"


async def test_many_messages_before_the_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.cli._check.MAX_UNASKED", 2)

    def make() -> Answer:
        def answer(data: bytes) -> Iterable[bytes | None]:
            if data.startswith(b"GET"):
                return [accepted(data)]
            echo = apply_mask(data[6:], data[2:6])
            return [*(sent(TEXT, b"%d" % number) for number in range(4)), sent(TEXT, echo)]

        return answer

    known = Known()
    await _check.explore(Scripted(make), known, options(no_compression=True))
    assert (known.echo, known.chatty, known.unasked) == (True, True, {b"0", b"1"})


def test_user_agent() -> None:
    """That of the command line is the only one."""
    seen: list[list[str]] = []

    def look(connection: ServerConnection, request: Request) -> None:
        seen.append(request.headers.get_all("User-Agent"))

    async def run() -> None:
        async with on_asyncio(process_request=look) as uri:
            parser = Parser(prog="wsapi check")
            _check.add_arguments(parser)
            parsed = parser.parse_args([uri, "-H", "User-Agent: mine"])
            await _check.find(parsed.uri, connect_arguments(parsed))

    asyncio.run(run())
    assert seen == [["mine"]]


def outcome(name: str, verdict: Verdict, came: str) -> Outcome:
    return Outcome(CHECKS[name], verdict, ("PING",), "PONG", came, 0.0)


@pytest.mark.parametrize("verbose", [False, True])
def test_remarks_are_told_once(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [
        outcome("close/normal", Verdict.INFO, "Close 1001"),
        outcome("close/reason", Verdict.INFO, "Close 1001"),
        outcome("close/twice", Verdict.INFO, "Close 1003"),
        outcome("close/no-code", Verdict.SKIPPED, "no echo\x1b"),
        outcome("close/then-end", Verdict.PASS, "the end"),
    ]
    _check.Report(verbose).show("ws://localhost/", Known(), outcomes, 0.1)
    output = capsys.readouterr().out
    assert output.count("Close 1001") == (2 if verbose else 1)
    assert ("  INFO     2 checks: Close 1001\n           normal reason\n" in output) is not verbose
    assert ("  SKIPPED  1 check: no echo\\x1b\n" in output) is not verbose
    titled = f"  SKIPPED  close/no-code: {CHECKS['close/no-code'].title} (RFC 6455 §7.4.1)\n"
    assert (f"{titled}           no echo\\x1b\n" in output) is verbose
    assert "close/twice" in output
    assert ("close/then-end" in output) is verbose
