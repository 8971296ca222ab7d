"""Checks of compression (RFC 7692), of limits, and of what no peer should be able to do."""

from __future__ import annotations

import asyncio
import os
import random
import zlib

from ._check_base import (
    MOMENT,
    OFFER,
    Info,
    Probe,
    Skip,
    check,
)
from ._check_wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    TEXT,
    Deflate,
    Ended,
    Event,
    Failure,
    Silence,
    Wire,
    frame,
    raw,
)

# ---------------------------------------------------------------------- negotiation

DEFLATE = "permessage-deflate"


async def answer_to(probe: Probe, offer: str) -> Deflate | None:
    """Return the answer to an offer; None if it is declined."""
    head = await probe.ask(probe.place.request(more=[("Sec-WebSocket-Extensions", offer)]))
    if head.status != 101:
        raise Failure(str(head))
    given = ", ".join(head.headers.get_all("Sec-WebSocket-Extensions"))
    if not given:
        return None
    try:
        answer = Deflate(given)
    except ValueError as exc:
        raise Failure(f"{given}: {exc}") from exc
    if "client_max_window_bits" in answer.parameters and "client_max_window_bits" not in offer:
        raise Failure(f"{given}: client_max_window_bits wasn't offered")
    probe.expected += f"; came {given}"
    return answer


def shown(answer: Deflate) -> str:
    """Return an answer as it came."""
    words = [k if v is None else f"{k}={v}" for k, v in answer.parameters.items()]
    return "; ".join([DEFLATE, *words])


def answers(name: str, title: str, section: str, offer: str, *musts: str) -> None:
    """Make a check of the answer to an offer.

    Args:
        name: Name.
        title: Title.
        section: Section of the RFC.
        offer: The offer.
        *musts: Parameters that the answer must have if it accepts.
    """

    @check("compression", name, title, section, deflate=True)
    async def run(probe: Probe) -> str:
        expected = "an answer that fits" + (f", with {', '.join(musts)}" if musts else "")
        probe.expected = expected
        try:
            answer = await answer_to(probe, offer)
        finally:
            probe.expected = expected
        if answer is None:
            if "," in offer or offer in (DEFLATE, OFFER):
                raise Failure("it was declined")
            raise Info("it was declined")
        for must in musts:
            key, _, most = must.partition("<=")
            if key not in answer.parameters:
                raise Failure(f"{shown(answer)}: without {key}")
            if most and int(answer.parameters[key] or 99) > int(most):
                raise Failure(shown(answer))
        return shown(answer)


answers("offer-plain", "an offer without parameters", "RFC 7692 §7.1", DEFLATE)
answers("offer-common", "the offer of browsers", "RFC 7692 §7.1", OFFER)
answers(
    *("offer-server-bits", "server_max_window_bits=10", "RFC 7692 §7.1.2.1"),
    f"{DEFLATE}; server_max_window_bits=10",
    "server_max_window_bits<=10",
)
answers(
    *("offer-client-bits", "client_max_window_bits=10", "RFC 7692 §7.1.2.2"),
    f"{DEFLATE}; client_max_window_bits=10",
)
answers(
    *("offer-server-takeover", "server_no_context_takeover", "RFC 7692 §7.1.1.1"),
    f"{DEFLATE}; server_no_context_takeover",
    "server_no_context_takeover",
)
answers(
    *("offer-client-takeover", "client_no_context_takeover", "RFC 7692 §7.1.1.2"),
    f"{DEFLATE}; client_no_context_takeover",
)
answers(
    *("offer-quoted", 'server_max_window_bits="10", quoted', "RFC 6455 §9.1"),
    f'{DEFLATE}; server_max_window_bits="10"',
    "server_max_window_bits<=10",
)
answers(
    *("offer-fallback", "an unknown parameter, and an offer without", "RFC 7692 §7.1"),
    f"{DEFLATE}; x-unknown=1, {DEFLATE}",
)


def declined(name: str, title: str, offer: str, strict: bool = True) -> None:
    """Make a check of an offer that has to be declined."""

    @check("compression", name, title, "RFC 7692 §7.1", deflate=True)
    async def run(probe: Probe) -> str:
        probe.expected = "no extension"
        request = probe.place.request(more=[("Sec-WebSocket-Extensions", offer)])
        head = await probe.ask(request)
        if head.status is not None and 400 <= head.status < 500:
            raise Info(str(head))
        if head.status != 101:
            raise Failure(str(head))
        given = ", ".join(head.headers.get_all("Sec-WebSocket-Extensions"))
        if given:
            raise (Failure if strict else Info)(given)
        return "no extension"


declined("decline-unknown", "an unknown parameter", f"{DEFLATE}; x-unknown")
declined("decline-twice", "a parameter twice", f"{DEFLATE}; {'; '.join([OFFER[20:]] * 2)}")
declined("decline-bits-7", "server_max_window_bits=7", f"{DEFLATE}; server_max_window_bits=7")
declined("decline-bits-16", "server_max_window_bits=16", f"{DEFLATE}; server_max_window_bits=16")
declined("decline-bits-none", "server_max_window_bits alone", f"{DEFLATE}; server_max_window_bits")
declined("decline-bits-zero", "client_max_window_bits=08", f"{DEFLATE}; client_max_window_bits=08")
declined(
    *("decline-value", "server_no_context_takeover=1"), f"{DEFLATE}; server_no_context_takeover=1"
)

# ---------------------------------------------------------------------- compressed messages

PROSE = b'{"id": 4711, "name": "caf\xc3\xa9", "tags": ["a", "b"], "text": "to be or not to be"}'


async def opened(probe: Probe, offer: str = OFFER) -> tuple[Wire, Deflate]:
    """Open a connection with compression."""
    wire = await probe.open(offer=offer)
    if wire.deflate is None:
        raise Skip(f"{offer} was declined")
    return wire, wire.deflate


def compressed(name: str, title: str, offer: str, *messages: bytes, opcode: int = TEXT) -> None:
    """Make a check of compressed messages."""

    @check("compression", name, title, "RFC 7692 §7.2", echo=True, deflate=True)
    async def run(probe: Probe) -> str:
        wire, deflate = await opened(probe, offer)
        for message in messages:
            wire.write(frame(opcode, deflate.compress(message), rsv=4))
        return await probe.echoed(wire, *((opcode, message) for message in messages))


compressed("message", "a compressed message", OFFER, PROSE)
compressed("empty", "a compressed message that is empty", OFFER, b"")
compressed("several", "messages that refer to those before", OFFER, PROSE, PROSE, b"x" + PROSE)
compressed("large", "a message of 256 KiB", OFFER, PROSE * (2**18 // len(PROSE)))
compressed(
    *("random", "a message that can't be compressed", OFFER),
    random.Random(7692).randbytes(5000),
    opcode=BINARY,
)
compressed(
    *("no-takeover", "messages without context takeover"),
    f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover",
    *(PROSE, PROSE),
)
compressed(
    *("small-window", "a server's window of 512 bytes"),
    f"{DEFLATE}; server_max_window_bits=9",
    *(bytes(range(128)) * 20, bytes(range(128)) * 20),
)


@check(
    *("compression", "window-kept", "the server keeps to its window", "RFC 7692 §7.1.2.1"),
    echo=True,
    deflate=True,
)
async def window_kept(probe: Probe) -> str:
    wire, deflate = await opened(probe, f"{DEFLATE}; server_max_window_bits=9")
    bits = int(deflate.parameters.get("server_max_window_bits") or 15)
    probe.expected = f"no distance above {2**bits}"
    deflate.narrow(bits)
    message = os.urandom(1500).hex().encode()[:3000]
    wire.write(*(frame(TEXT, deflate.compress(message), rsv=4) for _ in range(3)))
    try:
        return await probe.echoed(wire, *[(TEXT, message)] * 3)
    except Failure as exc:
        if isinstance(exc.__cause__, zlib.error):
            raise Failure(f"a distance above {2**bits}") from exc
        raise


@check(
    *("compression", "mixed", "messages not compressed in between", "RFC 7692 §6"),
    echo=True,
    deflate=True,
)
async def mixed(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    wire.write(
        frame(TEXT, deflate.compress(PROSE), rsv=4),
        frame(TEXT, b"plain"),
        frame(TEXT, deflate.compress(PROSE), rsv=4),
    )
    return await probe.echoed(wire, (TEXT, PROSE), (TEXT, b"plain"), (TEXT, PROSE))


@check(
    *("compression", "fragments", "a compressed message of many frames", "RFC 7692 §6.1"),
    echo=True,
    deflate=True,
)
async def compressed_fragments(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    data = deflate.compress(PROSE)
    parts = [data[at : at + 5] for at in range(0, len(data), 5)]
    wire.write(frame(TEXT, parts[0], rsv=4, fin=False), frame(PING, b"p"))
    await probe.ponged(wire, b"p")
    wire.write(*(frame(CONT, part, fin=False) for part in parts[1:]), frame(CONT, b""))
    return await probe.echoed(wire, (TEXT, PROSE))


@check(
    *("compression", "stored", "a stored block, and an empty one", "RFC 7692 §7.2.3"),
    echo=True,
    deflate=True,
)
async def stored(probe: Probe) -> str:
    wire, _ = await opened(probe)
    block = b"\x00\x05\x00\xfa\xffhello\x00"
    wire.write(frame(TEXT, block, rsv=4, text="TEXT RSV1, a stored block"))
    return await probe.echoed(wire, (TEXT, b"hello"))


@check(
    *("compression", "final-block", "a block with BFINAL", "RFC 7692 §7.2.3.4"),
    echo=True,
    deflate=True,
)
async def final_block(probe: Probe) -> str:
    wire, _ = await opened(probe)
    block = b"\x01\x05\x00\xfa\xffhello\x00"
    wire.write(frame(TEXT, block, rsv=4, text="TEXT RSV1, a final block"))
    try:
        return await probe.echoed(wire, (TEXT, b"hello"))
    except Silence:
        raise
    except Failure as exc:
        raise Info(str(exc)) from None


@check("compression", "rsv1-continuation", "RSV1 on a continuation", "RFC 7692 §6", deflate=True)
async def rsv1_continuation(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    data = deflate.compress(PROSE)
    wire.write(frame(TEXT, data[:9], rsv=4, fin=False), frame(CONT, data[9:], rsv=4))
    return await probe.failed(wire, 1002)


@check("compression", "rsv1-control", "RSV1 on a Ping", "RFC 7692 §6", deflate=True)
async def rsv1_control(probe: Probe) -> str:
    wire, _ = await opened(probe)
    wire.write(frame(PING, b"p", rsv=4))
    return await probe.failed(wire, 1002)


@check("compression", "rsv2", "RSV2 beside RSV1", "RFC 7692 §6", deflate=True)
async def rsv2(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    wire.write(frame(TEXT, deflate.compress(PROSE), rsv=6))
    return await probe.failed(wire, 1002)


@check("compression", "invalid", "RSV1 on what isn't DEFLATE", "RFC 7692 §7.2.2", deflate=True)
async def invalid(probe: Probe) -> str:
    wire, _ = await opened(probe)
    wire.write(frame(TEXT, b"\x07\xff\xff not deflate", rsv=4))
    return await probe.failed(wire, 1007, 1002, also=(1003, 1011))


@check("compression", "truncated", "a compressed message cut off", "RFC 7692 §7.2.2", deflate=True)
async def truncated(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    data = deflate.compress(os.urandom(600).hex().encode())
    wire.write(frame(TEXT, data[: len(data) // 2], rsv=4, text="TEXT RSV1, half of a message"))
    try:
        return await probe.failed(wire, 1007, 1002, also=(1003, 1011))
    except Silence:
        raise
    except Failure as exc:
        raise Info(str(exc)) from None


@check("compression", "utf8", "invalid UTF-8 in a compressed text", "RFC 6455 §8.1", deflate=True)
async def utf8(probe: Probe) -> str:
    wire, deflate = await opened(probe)
    wire.write(frame(TEXT, deflate.compress(b"text \xff"), rsv=4))
    return await probe.failed(wire, 1007)


@check(
    *("compression", "inflates", "what the server compresses is DEFLATE", "RFC 7692 §7.2.1"),
    deflate=True,
    late=True,
)
async def inflates(probe: Probe) -> str:
    probe.expected = "DEFLATE"
    if "inflates" in probe.observed.faults:
        raise Failure(probe.observed.faults["inflates"])
    return "all of it"


@check("compression", "bomb", "16 MiB of zeros in a few kilobytes", "RFC 7692 §8", deflate=True)
async def bomb(probe: Probe) -> str:
    probe.expected = "Close 1009; or the message, if so much is allowed"
    wire, deflate = await opened(probe)
    data = deflate.compress(bytes(2**24))
    wire.write(frame(BINARY, data, rsv=4, text=f"BINARY RSV1, [{len(data):,} bytes]"))
    return await limited(probe, wire, 1009)


# ---------------------------------------------------------------------- limits


async def limited(probe: Probe, wire: Wire, *codes: int) -> str:
    """Expect a Close frame; anything but an answer that lies is a remark."""
    try:
        await wire.arrived()
        if wire.buffer and wire.buffer[0] & 0x0F in (CONT, TEXT, BINARY):
            raise Info("it was taken")
        event = await probe.event(wire)
    except Silence:
        raise Info("it waits for more") from None
    if isinstance(event, Ended):
        raise Info(f"{event}, without a Close frame")
    if event.opcode == CLOSE and event.code in codes:
        return str(event)
    raise Info(str(event))


for name, title, length in (
    ("length-40", "a length of 1 TiB in a header", 2**40),
    ("length-63", "the greatest length that there is", 2**63 - 1),
):

    @check("limits", name, title, "RFC 6455 §10.4")
    async def huge(probe: Probe, length: int = length) -> str:
        probe.expected = "Close 1009; or it waits, without memory for all of it"
        wire = await probe.open()
        wire.deadline = min(wire.deadline, asyncio.get_running_loop().time() + 2 * MOMENT)
        wire.write(frame(BINARY, b"begin", length=length, form=64))
        return await limited(probe, wire, 1009)


@check("limits", "message-1m", "a message of 1 MiB", "RFC 6455 §10.4", echo=True)
async def message_1m(probe: Probe) -> str:
    probe.expected = "the same, or Close 1009"
    wire = await probe.open()
    message = bytes(2**20)
    wire.write(frame(BINARY, message))
    event = await probe.event(wire)
    if event == Event(BINARY, message):
        return str(event)
    if isinstance(event, Event) and event.code == 1009:
        raise Info(str(event))
    raise Failure(str(event))


@check("limits", "fragments", "a message of 20,000 frames that never ends", "RFC 6455 §10.4")
async def many_fragments(probe: Probe) -> str:
    probe.expected = "Close 1009 or 1008; or it waits"
    wire = await probe.open()
    wire.deadline = min(wire.deadline, asyncio.get_running_loop().time() + 4 * MOMENT)
    data = frame(TEXT, b"", fin=False).data + frame(CONT, b"", fin=False).data * 20_000
    wire.write(raw(data, "TEXT without FIN, 20,000 continuations without FIN, all empty"))
    return await limited(probe, wire, 1009, 1008)


@check("limits", "request", "a request of 256 KiB that doesn't end", "RFC 9110 §5.4")
async def long_request(probe: Probe) -> str:
    probe.expected = "HTTP 431 or 400, or the end"
    head = probe.place.request().data.removesuffix(b"\r\n")
    data = head + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(256))
    wire = await probe.connect()
    wire.write(raw(data, "a request with 256 headers of 1,000 bytes"))
    wire.deadline = min(wire.deadline, asyncio.get_running_loop().time() + 4 * MOMENT)
    try:
        head_ = await wire.read_head()
    except Silence:
        raise Info("it waits for more") from None
    if head_.status == 101:
        raise Failure("101, before the end of the request")
    return str(head_) if head_.data else str(wire.ended)


@check("limits", "line", "a request line of 64 KiB", "RFC 9112 §3")
async def long_line(probe: Probe) -> str:
    probe.expected = "HTTP 414, 431 or 400, or the end"
    wire = await probe.connect()
    wire.write(raw(b"GET /" + b"x" * 2**16, "a request line of 64 KiB that doesn't end"))
    wire.deadline = min(wire.deadline, asyncio.get_running_loop().time() + 4 * MOMENT)
    try:
        head = await wire.read_head()
    except Silence:
        raise Info("it waits for more") from None
    return str(head) if head.data else str(wire.ended)


# ---------------------------------------------------------------------- robustness


@check("robustness", "garbage", "bytes that are no request", "RFC 9112 §3")
async def garbage(probe: Probe) -> str:
    probe.expected = "HTTP 400, or the end"
    head = await probe.ask(raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"))
    if head.status == 101 or (head.status is not None and head.status >= 500):
        raise Failure(str(head))
    if head.status is None and head.data:
        raise Info(str(head))
    return str(head)


async def half_ended(probe: Probe, wire: Wire) -> str:
    """End one direction, and expect the end of the other one."""
    try:
        wire.finish()
    except NotImplementedError:
        raise Skip("with TLS there is no end of one direction") from None
    try:
        return await probe.ended(wire)
    except Silence as exc:
        raise Info(str(exc)) from None


@check("robustness", "eof", "the end of TCP without a Close frame", "RFC 6455 §7.1.5")
async def eof(probe: Probe) -> str:
    probe.expected = "the end of the connection"
    wire = await probe.open()
    return await half_ended(probe, wire)


@check("robustness", "eof-in-frame", "the end of TCP inside a frame", "RFC 6455 §7.1.5")
async def eof_in_frame(probe: Probe) -> str:
    probe.expected = "the end of the connection"
    wire = await probe.open()
    wire.write(frame(TEXT, b"half", length=100))
    return await half_ended(probe, wire)


@check("robustness", "many", "connections that are dropped at all times", "RFC 6455 §10")
async def many(probe: Probe) -> str:
    probe.expected = "a connection after that"
    for number in range(10):
        wire = await probe.connect()
        request = probe.place.request().data
        if number % 2:
            wire.write(raw(request[: 20 * number], "a part of a request"))
        else:
            wire.write(raw(request, "a request"), frame(TEXT, b"half", length=100))
        await asyncio.sleep(0)
        if number % 3:
            wire.reset()
        else:
            wire.transport.abort()
    await probe.open()
    return "a connection"


@check(
    *("robustness", "neighbour", "a connection that was open all the time", "RFC 6455 §10"),
    late=True,
)
async def neighbour(probe: Probe) -> str:
    wire = probe.known.neighbour
    if wire is None:
        raise Skip("it wasn't opened")
    wire.deadline = asyncio.get_running_loop().time() + probe.wait
    return await probe.lives(wire, "it answers a Ping")


@check(
    *("robustness", "answers-after", "connections are accepted after all that", "RFC 6455 §4.2"),
    late=True,
)
async def answers_after(probe: Probe) -> str:
    wire = await probe.open()
    if probe.known.echo:
        wire.write(frame(TEXT, b"finally"))
        return await probe.echoed(wire, (TEXT, b"finally"))
    return await probe.lives(wire, "a connection that answers a Ping")
