"""Checks of open connections: frames, messages, control frames, closing (RFC 6455 §5 to §8)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ._check_base import MOMENT, Info, Probe, Skip, check, describe_code
from ._check_wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Ended,
    Event,
    Failure,
    Piece,
    Silence,
    close_frame,
    frame,
)

# ---------------------------------------------------------------------- tables


def echoes(
    group: str,
    name: str,
    title: str,
    section: str,
    sent: Sequence[Piece],
    *messages: tuple[int, bytes],
) -> None:
    """Make a check of frames that are right."""

    @check(group, name, title, section, echo=True)
    async def run(probe: Probe) -> str:
        wire = await probe.open()
        wire.write(*sent)
        return await probe.echoed(wire, *messages)


def fails(
    group: str,
    name: str,
    title: str,
    section: str,
    sent: Sequence[Piece],
    *codes: int,
    also: Sequence[int] = (),
) -> None:
    """Make a check of frames that fail the connection."""

    @check(group, name, title, section)
    async def run(probe: Probe) -> str:
        wire = await probe.open()
        wire.write(*sent)
        return await probe.failed(wire, *(codes or (1002,)), also=also)


def observed(group: str, name: str, title: str, section: str) -> None:
    """Make a check of what the server sent in all the others."""

    @check(group, name, title, section, late=True)
    async def run(probe: Probe) -> str:
        probe.expected = title
        seen = probe.observed
        if name in seen.faults:
            raise Failure(seen.faults[name])
        if not seen.frames:
            raise Skip("no frame has come")
        return f"in {seen.frames} frames"


def pattern(size: int) -> bytes:
    """Return text of ``size`` bytes."""
    return (b"wsapi check 0123456789 " * (size // 23 + 1))[:size]


# ---------------------------------------------------------------------- frames

for size in (0, 1, 125, 126, 127, 65535, 65536):
    echoes(
        *("frames", f"text-{size}", f"text of {size:,} bytes", "RFC 6455 §5.2"),
        [frame(TEXT, pattern(size))],
        (TEXT, pattern(size)),
    )
for size in (0, 125, 126, 65535, 65536):
    echoes(
        *("frames", f"binary-{size}", f"binary of {size:,} bytes", "RFC 6455 §5.2"),
        [frame(BINARY, (bytes(range(256)) * 257)[:size])],
        (BINARY, (bytes(range(256)) * 257)[:size]),
    )

for bits, name, title in (
    (4, "rsv1", "RSV1 without an extension"),
    (2, "rsv2", "RSV2"),
    (1, "rsv3", "RSV3"),
    (7, "rsv", "all reserved bits"),
):
    fails(
        *("frames", name, title, "RFC 6455 §5.2"),
        [frame(TEXT, b"reserved", rsv=bits)],
    )
for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    fails(
        *("frames", f"opcode-{opcode}", f"reserved opcode {opcode}", "RFC 6455 §5.2"),
        [frame(opcode, b"reserved")],
    )
fails(
    *("frames", "length-top-bit", "a length of 64 bits with its top bit set", "RFC 6455 §5.2"),
    [frame(BINARY, b"12345", length=2**63 + 5, form=64)],
    1002,
    also=(1009,),
)


def not_minimal(name: str, form: int, size: int) -> None:
    """Make a check of a length in more bytes than it needs."""

    @check("frames", f"length-{name}", f"length {size} in {form} bits", "RFC 6455 §5.2", echo=True)
    async def run(probe: Probe) -> str:
        probe.expected = "Close 1002; the standard doesn't say who checks it"
        wire = await probe.open()
        wire.write(frame(TEXT, pattern(size), form=form))
        event = await probe.event(wire)
        if isinstance(event, Event) and event.code == 1002:
            return str(event)
        if event == Event(TEXT, pattern(size)):
            raise Info("it was taken")
        raise (Info if isinstance(event, Ended) else Failure)(str(event))


not_minimal("16-for-7", 16, 5)
not_minimal("64-for-7", 64, 5)
not_minimal("64-for-16", 64, 300)


@check("frames", "chopped", "a message one byte at a time", "RFC 6455 §5.4", echo=True)
async def chopped(probe: Probe) -> str:
    wire = await probe.open()
    await wire.trickle(frame(TEXT, pattern(130)))
    return await probe.echoed(wire, (TEXT, pattern(130)))


@check("frames", "batch", "50 messages in one write, in order", "RFC 6455 §5.4", echo=True)
async def batch(probe: Probe) -> str:
    wire = await probe.open()
    messages = [(TEXT, f"message {number}".encode()) for number in range(50)]
    wire.write(*(frame(*message) for message in messages))
    return await probe.echoed(wire, *messages)


@check(
    *("frames", "split-in-header", "writes that end in headers of frames", "RFC 6455 §5.4"),
    echo=True,
)
async def split_in_header(probe: Probe) -> str:
    wire = await probe.open()
    messages = [(TEXT, pattern(200 + number)) for number in range(9)]
    whole = b"".join(frame(*message).data for message in messages)
    await wire.trickle(Piece(whole, f"{len(messages)} messages"), size=211)
    return await probe.echoed(wire, *messages)


observed(*("frames", "length-minimal", "lengths are as short as can be"), "RFC 6455 §5.2")
observed(*("frames", "reserved-unset", "reserved bits are 0"), "RFC 6455 §5.2")
observed(*("frames", "opcodes-known", "opcodes are known ones"), "RFC 6455 §5.2")
observed(*("frames", "frames-whole", "no connection ends inside a frame"), "RFC 6455 §5.2")

# ---------------------------------------------------------------------- fragmentation


def fragments(*parts: bytes, opcode: int = TEXT) -> list[Piece]:
    """Return the frames of a message."""
    last = len(parts) - 1
    return [
        frame(opcode if not number else CONT, part, fin=number == last)
        for number, part in enumerate(parts)
    ]


for name, title, parts in (
    ("two", "a message of two frames", [b"frag", b"mented"]),
    ("hundred", "a message of 100 frames", [b"%02d" % number for number in range(100)]),
    ("empty-ends", "a message with empty first and last frames", [b"", b"middle", b""]),
    ("all-empty", "a message of three empty frames", [b"", b"", b""]),
):
    echoes(
        *("fragmentation", name, title, "RFC 6455 §5.4"),
        fragments(*parts),
        (TEXT, b"".join(parts)),
    )
echoes(
    *("fragmentation", "binary", "a binary message of three frames", "RFC 6455 §5.4"),
    fragments(b"\x00\xff", b"\xfe", b"\x80", opcode=BINARY),
    (BINARY, b"\x00\xff\xfe\x80"),
)


@check("fragmentation", "apart", "frames of a message that come apart", "RFC 6455 §5.4", echo=True)
async def apart(probe: Probe) -> str:
    wire = await probe.open()
    for piece in fragments(b"one ", b"two ", b"three"):
        wire.write(piece)
        await asyncio.sleep(0.01)
    return await probe.echoed(wire, (TEXT, b"one two three"))


@check("fragmentation", "ping-between", "a Ping between frames of a message", "RFC 6455 §5.4")
async def ping_between(probe: Probe) -> str:
    wire = await probe.open()
    first, last = fragments(b"before ", b"after")
    wire.write(first, frame(PING, b"between"))
    came = await probe.ponged(wire, b"between")
    if not probe.known.echo:
        return came
    wire.write(last)
    return await probe.echoed(wire, (TEXT, b"before after"))


fails(
    *("fragmentation", "continuation-first", "a continuation outside a message", "RFC 6455 §5.4"),
    [frame(CONT, b"of nothing")],
)
fails(
    *("fragmentation", "continuation-open", "the same without FIN", "RFC 6455 §5.4"),
    [frame(CONT, b"of nothing", fin=False)],
)


@check("fragmentation", "continuation-after", "a continuation after a message", "RFC 6455 §5.4")
async def continuation_after(probe: Probe) -> str:
    wire = await probe.open()
    wire.write(*fragments(b"a ", b"message"), frame(CONT, b"and more"))
    probe.expected = describe_code(1002)
    if probe.known.echo:
        event = await probe.event(wire)
        if (isinstance(event, Event) and event.opcode == CLOSE) or isinstance(event, Ended):
            if getattr(event, "code", None) != 1002:
                raise Info(str(event))
            return str(event)
        if event != Event(TEXT, b"a message"):
            raise Failure(str(event))
    return await probe.failed(wire, 1002)


fails(
    *("fragmentation", "text-inside", "another message inside a message", "RFC 6455 §5.4"),
    [frame(TEXT, b"first", fin=False), frame(TEXT, b"second")],
)
fails(
    *("fragmentation", "binary-inside", "a binary message inside a text", "RFC 6455 §5.4"),
    [frame(TEXT, b"first", fin=False), frame(BINARY, b"second", fin=False)],
)


@check("fragmentation", "close-between", "a Close frame inside a message", "RFC 6455 §5.4")
async def close_between(probe: Probe) -> str:
    wire = await probe.open()
    wire.write(frame(TEXT, b"never finished", fin=False), close_frame(1000))
    return await closed(probe, 1000, 1002)


observed(
    *("fragmentation", "fragments-legal", "fragments are in order", "RFC 6455 §5.4"),
)

# ---------------------------------------------------------------------- control frames


def pongs(name: str, title: str, payload: bytes) -> None:
    """Make a check of a Ping."""

    @check("control", name, title, "RFC 6455 §5.5.2")
    async def run(probe: Probe) -> str:
        wire = await probe.open()
        wire.write(frame(PING, payload))
        return await probe.ponged(wire, payload)


pongs("ping-empty", "an empty Ping", b"")
pongs("ping-text", "a Ping with text", b"are you there?")
pongs("ping-binary", "a Ping with bytes that aren't UTF-8", b"\x00\xff\xfe\xfd\x80")
pongs("ping-125", "a Ping of 125 bytes", pattern(125))


@check("control", "ping-chopped", "a Ping one byte at a time", "RFC 6455 §5.5.2")
async def ping_chopped(probe: Probe) -> str:
    wire = await probe.open()
    await wire.trickle(frame(PING, b"piecemeal"))
    return await probe.ponged(wire, b"piecemeal")


@check("control", "pings", "20 Pings in one write", "RFC 6455 §5.5.3")
async def pings(probe: Probe) -> str:
    probe.expected = "a Pong for each, in order; at least for the last one"
    wire = await probe.open()
    wire.write(*(frame(PING, b"%d" % number) for number in range(20)))
    number = -1
    answered = 0
    while number < 19:
        event = await probe.event(wire)
        if not isinstance(event, Event) or event.opcode != PONG:
            raise Failure(f"{event}, after {answered} Pongs")
        if not event.payload.isdigit() or not number < int(event.payload) < 20:
            raise Failure(f"{event} after Pong {number}")
        number = int(event.payload)
        answered += 1
    return f"{answered} Pongs"


for size in (0, 125):

    @check("control", f"pong-{size}", f"a Pong of {size} bytes, unsolicited", "RFC 6455 §5.5.3")
    async def pong(probe: Probe, size: int = size) -> str:
        wire = await probe.open()
        wire.write(frame(PONG, pattern(size)))
        return await probe.lives(wire, "no answer")


for opcode, what in ((PING, "Ping"), (PONG, "Pong"), (CLOSE, "Close frame")):
    name = what.split()[0].lower()
    head = b"\x03\xe8" if opcode == CLOSE else b""
    fails(
        *("control", f"{name}-126", f"a {what} of 126 bytes", "RFC 6455 §5.5"),
        [frame(opcode, head + pattern(126 - len(head)))],
    )
    fails(
        *("control", f"{name}-fragmented", f"a {what} without FIN", "RFC 6455 §5.5"),
        [frame(opcode, head, fin=False)],
    )
    fails(
        *("control", f"{name}-rsv", f"a {what} with RSV1", "RFC 6455 §5.2"),
        [frame(opcode, head, rsv=4)],
    )
observed(
    *("control", "control-whole", "control frames are short and whole", "RFC 6455 §5.5"),
)

# ---------------------------------------------------------------------- UTF-8

VALID = "\N{GREEK SMALL LETTER KAPPA}\u00e9\N{EURO SIGN}\N{GRINNING FACE}\ufeff\uffff\0".encode()
INVALID = {
    "continuation": (b"\x80", "a byte of a continuation alone"),
    "overlong-2": (b"\xc0\xaf", "a slash in two bytes"),
    "overlong-3": (b"\xe0\x80\xaf", "a slash in three bytes"),
    "overlong-4": (b"\xf0\x80\x80\xaf", "a slash in four bytes"),
    "surrogate": (b"\xed\xa0\x80", "half a surrogate pair"),
    "above": (b"\xf4\x90\x80\x80", "a number above U+10FFFF"),
    "five-bytes": (b"\xf8\x88\x80\x80\x80", "a character of five bytes"),
    "fe": (b"\xfe", "the byte FE"),
    "cut": (b"\xce", "a message that ends inside a character"),
}

echoes(
    *("utf8", "valid", "characters of 1 to 4 bytes", "RFC 6455 §5.6"),
    [frame(TEXT, VALID)],
    (TEXT, VALID),
)
echoes(
    *("utf8", "valid-fragments", "characters that frames cut", "RFC 6455 §5.6"),
    fragments(*(VALID[at : at + 1] for at in range(len(VALID)))),
    (TEXT, VALID),
)


@check("utf8", "valid-chopped", "characters that writes cut", "RFC 6455 §5.6", echo=True)
async def valid_chopped(probe: Probe) -> str:
    wire = await probe.open()
    await wire.trickle(frame(TEXT, VALID))
    return await probe.echoed(wire, (TEXT, VALID))


for name, (data, what) in INVALID.items():
    fails(
        *("utf8", f"invalid-{name}", what, "RFC 6455 §8.1"),
        [frame(TEXT, b"text " + data)],
        1007,
    )
fails(
    *("utf8", "invalid-second-frame", "invalid UTF-8 in a second frame", "RFC 6455 §8.1"),
    fragments(b"good ", b"bad \xff"),
    1007,
)
fails(
    *("utf8", "invalid-across", "invalid UTF-8 across two frames", "RFC 6455 §8.1"),
    fragments(b"bad \xce", b"A"),
    1007,
)


@check("utf8", "fail-fast", "invalid UTF-8 in an unfinished message", "RFC 6455 §8.1")
async def fail_fast(probe: Probe) -> str:
    probe.expected = "Close 1007 at once; or when the message is complete"
    wire = await probe.open()
    wire.write(frame(TEXT, b"bad \xff", fin=False))
    loop = asyncio.get_running_loop()
    try:
        event = await probe.event(wire, loop.time() + MOMENT)
    except Silence:
        wire.write(frame(CONT, b"end"))
        came = await probe.failed(wire, 1007)
        raise Info(f"{came}, when the message was complete") from None
    if isinstance(event, Ended):
        raise Info(str(event))
    if event.code != 1007:
        raise Failure(str(event))
    return f"{event} at once"


@check("utf8", "text-is-utf8", "what the server sends as text is UTF-8", "RFC 6455 §5.6", late=True)
async def text_is_utf8(probe: Probe) -> str:
    probe.expected = "UTF-8"
    seen = probe.observed
    if "text-is-utf8" in seen.faults:
        raise Failure(seen.faults["text-is-utf8"])
    if not seen.texts:
        raise Skip("it has sent no text")
    return f"in {seen.texts} messages"


# ---------------------------------------------------------------------- closing


async def closed(probe: Probe, code: int | None, *also: int) -> str:
    """Expect an answer to a Close frame.

    Args:
        probe: What has opened the connection.
        code: Code that was sent, which commonly comes back.
        also: Codes that are worth no more than a remark, even 1002.
    """
    wire = probe.wires[-1]
    told = "no code" if code is None else str(code)
    probe.expected = f"a Close frame, commonly with {told}"
    event = await probe.event(wire)
    while isinstance(event, Event) and event.opcode in (TEXT, BINARY, PONG):
        event = await probe.event(wire)
    if isinstance(event, Ended):
        raise Failure(f"{event}, without a Close frame")
    if event.code == 1002 and event.code not in also:
        raise Failure(str(event))
    if event.code != code:
        raise Info(str(event))
    return str(event)


def closes(
    name: str, title: str, code: int | None, reason: bytes = b"", strict: bool = True
) -> None:
    """Make a check of a Close frame that is right."""

    @check("close", name, title, "RFC 6455 §7.4.1" if code != 1000 else "RFC 6455 §5.5.1")
    async def run(probe: Probe) -> str:
        wire = await probe.open()
        wire.write(close_frame(code, reason))
        try:
            return await closed(probe, code)
        except Failure as exc:
            if strict:
                raise
            raise Info(str(exc)) from None


closes("normal", "a Close frame with 1000", 1000)
closes("no-code", "a Close frame without a code", None)
closes("reason", "a Close frame with a reason", 1000, "au revoir \N{WAVING HAND SIGN}".encode())
closes("reason-123", "a Close frame with a reason of 123 bytes", 1000, pattern(123))
for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    if code != 1002:
        closes(f"code-{code}", f"Close code {code}", code)
for code in (1012, 1013, 1014):
    closes(f"code-{code}", f"Close code {code}, of the registry", code, strict=False)
for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999):
    fails(
        *("close", f"code-{code}", f"Close code {code}, which no frame may have"),
        "RFC 6455 §7.4",
        [close_frame(code)],
    )
for code in (5000, 65535):

    @check("close", f"code-{code}", f"Close code {code}, of no range", "RFC 6455 §7.4.2")
    async def beyond(probe: Probe, code: int = code) -> str:
        wire = await probe.open()
        wire.write(close_frame(code))
        try:
            return await probe.failed(wire, 1002)
        except Silence:
            raise
        except Failure as exc:
            raise Info(str(exc)) from None


fails(
    *("close", "one-byte", "a Close frame of one byte", "RFC 6455 §5.5.1"),
    [frame(CLOSE, b"\x03")],
)
fails(
    *("close", "reason-invalid", "a reason that isn't UTF-8", "RFC 6455 §5.5.1"),
    [close_frame(1000, b"bye \xff")],
    *(1007, 1002),
)


@check("close", "then-end", "the server ends TCP after the closing handshake", "RFC 6455 §7.1.1")
async def then_end(probe: Probe) -> str:
    probe.expected = "the end of the connection, at once"
    wire = await probe.open()
    wire.write(close_frame(1000))
    return await probe.ended(wire)


@check(
    *(
        "close",
        "end-after-failure",
        "the server ends TCP after a failure",
        "RFC 6455 §7.1.7",
    ),
)
async def end_after_failure(probe: Probe) -> str:
    probe.expected = "the end of the connection"
    wire = await probe.open()
    wire.write(frame(3, b"reserved"))
    event = await probe.event(wire)
    if isinstance(event, Ended):
        return str(event)
    if event.opcode != CLOSE:
        raise Skip(f"it doesn't fail: {event}")
    wire.write(close_frame(event.code))
    return await probe.ended(wire)


@check("close", "message-after", "a message after a Close frame", "RFC 6455 §5.5.1")
async def message_after(probe: Probe) -> str:
    probe.expected = "a Close frame, and nothing of the message"
    wire = await probe.open()
    wire.write(close_frame(1000), frame(TEXT, b"too late"))
    while not isinstance(event := await wire.event(), Ended):
        if event.opcode in (TEXT, BINARY) and event.payload == b"too late":
            raise Failure(f"{event}: it was taken")
        if event.opcode == CLOSE and event.code == 1002:
            raise Failure(str(event))
    return "nothing of it"


@check("close", "twice", "two Close frames in one write", "RFC 6455 §5.5.1")
async def twice(probe: Probe) -> str:
    probe.expected = "one Close frame, and the end"
    wire = await probe.open()
    wire.write(close_frame(1000), close_frame(1001))
    closes = 0
    while not isinstance(event := await wire.event(), Ended):
        closes += event.opcode == CLOSE
    if closes != 1:
        raise Failure(f"{closes} Close frames")
    return "one Close frame, and the end"


observed(
    *("close", "nothing-after-close", "no frame comes after a Close frame", "RFC 6455 §5.5.1"),
)
observed(
    *("close", "close-valid", "Close frames have valid codes and reasons", "RFC 6455 §7.4"),
)

# ---------------------------------------------------------------------- masking

for name, what, pieces in (
    ("text", "text", [frame(TEXT, b"bare", masked=False)]),
    ("empty", "message without payload", [frame(BINARY, masked=False)]),
    ("ping", "Ping", [frame(PING, b"bare", masked=False)]),
    (
        "continuation",
        "continuation",
        [frame(TEXT, b"a", fin=False), frame(CONT, b"b", masked=False)],
    ),
):
    fails("masking", f"bare-{name}", f"a {what} that isn't masked", "RFC 6455 §5.1", pieces)


@check("masking", "bare-close", "a Close frame that isn't masked", "RFC 6455 §5.1")
async def bare_close(probe: Probe) -> str:
    wire = await probe.open()
    wire.write(close_frame(1000, masked=False))
    return await probe.failed(wire, 1002, also=(1000,))


echoes(
    *("masking", "key-zero", "the masking key 0", "RFC 6455 §5.3"),
    [frame(TEXT, b"as it is", key=bytes(4))],
    (TEXT, b"as it is"),
)
KEYS = [bytes([n, 255 - n, 3 * n % 256, 7]) for n in range(17)]
echoes(
    *("masking", "lengths", "payloads of 0 to 16 bytes, each with its key", "RFC 6455 §5.3"),
    [frame(TEXT, pattern(size), key=key) for size, key in enumerate(KEYS)],
    *((TEXT, pattern(size)) for size in range(len(KEYS))),
)
echoes(
    *("masking", "fragments", "frames of a message, each with its key", "RFC 6455 §5.3"),
    [
        frame(TEXT, b"abc", fin=False, key=b"\x01\x02\x03\x04"),
        frame(CONT, b"defgh", fin=False, key=b"\xf0\x0f\xaa\x55"),
        frame(CONT, b"ij", key=bytes(4)),
    ],
    (TEXT, b"abcdefghij"),
)
observed(*("masking", "server-unmasked", "frames of the server aren't masked"), "RFC 6455 §5.1")
