"""What a check is, and what the checks have in common."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ._check_wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Deflate,
    Ended,
    Event,
    Failure,
    Head,
    Observations,
    Piece,
    Place,
    Silence,
    Wire,
    accept_key,
    close_frame,
    frame,
    new_key,
)

__all__ = [
    "CHECKS",
    "GROUPS",
    "OFFER",
    "Check",
    "Info",
    "Known",
    "Outcome",
    "Probe",
    "Skip",
    "Verdict",
    "check",
    "describe_code",
]

GROUPS: Final = {
    "opening": "Opening handshake",
    "frames": "Frames",
    "fragmentation": "Fragmentation",
    "control": "Control frames",
    "utf8": "UTF-8",
    "close": "Closing",
    "masking": "Masking",
    "compression": "Compression",
    "limits": "Limits",
    "robustness": "Robustness",
}
"""Groups of checks, and what a report calls them."""

OFFER: Final = "permessage-deflate; client_max_window_bits"
QUIET: Final = 0.4  # seconds without an answer after which a Ping asks whether there is one at all
MOMENT: Final = 0.25  # seconds in which what comes at once has come
LEAVE: Final = 0.3  # seconds to wait for the end of a connection that isn't needed any more


class Verdict(enum.StrEnum):
    """What a check says."""

    PASS = "PASS"
    FAIL = "FAIL"
    INFO = "INFO"
    """The standard leaves it open, or only recommends something else."""
    SKIPPED = "SKIPPED"


class Info(Exception):
    """The server does what it may do, but not what most do."""


class Skip(Exception):
    """The check can't be made; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What a check has found."""

    check: Check
    verdict: Verdict
    sent: tuple[str, ...]
    expected: str
    came: str
    seconds: float


@dataclass
class Known:
    """What is known of the server before the checks."""

    echo: bool = False  # it sends back what it is sent
    why_no_echo: str = ""
    chatty: bool = False  # it sends messages without being asked
    unasked: set[bytes] = field(default_factory=set)  # some of these
    deflate: bool = False  # it accepts permessage-deflate
    server: str = ""  # what it calls itself
    neighbour: Wire | None = None  # a connection that is open during all checks


Run: TypeAlias = "Callable[[Probe], Awaitable[str]]"


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: Name, which stays the same from version to version.
        group: Name of its group.
        title: What is tried, for the report.
        section: Where the standard says what has to come.
        run: Makes the check, and returns what came, or raises `Failure`, `Info`, or `Skip`.
        echo: Whether it needs a server that echoes.
        deflate: Whether it needs permessage-deflate.
        late: Whether it comes after all others.
    """

    name: str
    group: str
    title: str
    section: str
    run: Run
    echo: bool = False
    deflate: bool = False
    late: bool = False


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order of the report."""


def check(
    group: str,
    name: str,
    title: str,
    section: str,
    *,
    echo: bool = False,
    deflate: bool = False,
    late: bool = False,
) -> Callable[[Run], Run]:
    """Make a check of a coroutine function; parameters are those of `Check`."""
    name = f"{group}/{name}"
    assert name not in CHECKS, name
    assert group in GROUPS, group

    def add(run: Run) -> Run:
        CHECKS[name] = Check(name, group, title, section, run, echo, deflate, late)
        return run

    return add


def describe_code(*codes: int) -> str:
    """Describe the Close frame that is expected."""
    return "Close " + " or ".join(map(str, codes))


@dataclass
class Probe:
    """What a check works with.

    Args:
        place: Where connections are opened.
        known: What is known of the server.
        observed: Where it is noted what the server never may send.
        wait: Seconds to wait for what is expected.
    """

    place: Place
    known: Known
    observed: Observations
    wait: float
    expected: str = ""
    wires: list[Wire] = field(default_factory=list)

    # ------------------------------------------------------------------ opening

    async def connect(self) -> Wire:
        """Open a connection, without an opening handshake."""
        try:
            wire = await self.place.open()
        except Exception as exc:
            raise Failure(f"no connection: {type(exc).__name__}: {exc}") from exc
        wire.deadline = asyncio.get_running_loop().time() + self.wait
        wire.observed = self.observed
        self.wires.append(wire)
        return wire

    async def ask(self, request: Piece) -> Head:
        """Send a request on a connection of its own, and return the head of the response."""
        wire = await self.connect()
        wire.write(request)
        return await wire.read_head()

    async def open(self, *then: Piece, offer: str | None = None) -> Wire:
        """Open a connection, opening handshake included.

        Args:
            *then: What is sent behind the request, without waiting for the response.
            offer: Value of Sec-WebSocket-Extensions; what is agreed on is ``wire.deflate``.
        """
        wire = await self.connect()
        await self.upgrade(wire, *then, offer=offer)
        return wire

    async def upgrade(self, wire: Wire, *then: Piece, offer: str | None = None) -> None:
        """Do the opening handshake on a connection."""
        more = [] if offer is None else [("Sec-WebSocket-Extensions", offer)]
        key = new_key()
        request = self.place.request(key=key, more=more)
        wire.write(request, *then)
        head = await wire.read_head()
        if head.status != 101:
            raise Failure(f"no opening handshake: {head}")
        wire.upgraded = True
        wire.sent = wire.sent[1:]
        self.look_at_response(head, key)
        extensions = head.headers.get_all("Sec-WebSocket-Extensions")
        if offer is None:
            if extensions:
                self.observed.note("extensions-offered", f"{extensions[0]}, without an offer")
        elif extensions:
            try:
                wire.deflate = Deflate(", ".join(extensions))
            except ValueError as exc:
                raise Failure(f"an illegal answer to {offer!r}: {exc}") from exc

    def look_at_response(self, head: Head, key: str) -> None:
        """Note what isn't right in a response with status 101."""
        observed, headers = self.observed, head.headers
        observed.responses += 1
        accept = headers.get_all("Sec-WebSocket-Accept")
        if accept != [accept_key(key)]:
            came = ", ".join(accept) or "no Sec-WebSocket-Accept"
            observed.note("accept", f"{came} for the key {key}")
        if "websocket" not in tokens(headers.get_all("Upgrade")):
            observed.note("response-upgrade", f"Upgrade: {headers.get('Upgrade', '(none)')}")
        if "upgrade" not in tokens(headers.get_all("Connection")):
            observed.note("response-connection", f"Connection: {headers.get('Connection', '-')}")
        if not head.data.startswith(b"HTTP/1.1 "):
            observed.note("response-version", head.data.split(b"\r\n")[0][:40].decode("latin-1"))
        offered = tokens(self.place.headers.get_all("Sec-WebSocket-Protocol"), lower=False)
        chosen = headers.get_all("Sec-WebSocket-Protocol")
        if len(chosen) > 1 or not set(chosen) <= set(offered):
            observed.note("subprotocol-offered", f"Sec-WebSocket-Protocol: {', '.join(chosen)}")
        for name in ("Content-Length", "Transfer-Encoding"):
            if headers.get_all(name) not in ([], ["0"]):
                observed.note("response-no-body", f"{name}: {headers.get_all(name)[0]}")

    async def refused(self, request: Piece, *statuses: int, strict: bool = True) -> str:
        """Expect that a request is refused.

        Args:
            request: The request.
            *statuses: Statuses that say why; any other that refuses is worth a remark.
            strict: Whether accepting it is a failure.
        """
        wanted = " or ".join(map(str, statuses)) or "4xx"
        self.expected = f"HTTP {wanted}"
        head = await self.ask(request)
        status = head.status
        if status is None:
            if head.data:
                raise Failure(f"{head}, which isn't HTTP")
            raise Info("the end of the connection, without a response")
        if status == 101:
            if strict:
                raise Failure(f"{head}: it was accepted")
            raise Info(f"{head}: it was accepted")
        if status in statuses or (not statuses and 400 <= status < 500):
            return str(head)
        raise Info(str(head))

    # ------------------------------------------------------------------ messages

    async def event(self, wire: Wire, until: float | None = None) -> Event | Ended:
        """Return what comes next, messages that nobody asked for left out."""
        while True:
            event = await wire.event(until)
            known = self.known
            if not known.chatty or isinstance(event, Ended) or event.opcode not in (TEXT, BINARY):
                return event
            if known.echo and event.payload not in known.unasked:
                return event

    async def echoed(self, wire: Wire, *messages: tuple[int, bytes]) -> str:
        """Expect that messages come back, in order."""
        told = [str(Event(*message)) for message in messages]
        self.expected = f"the same: {', '.join(told[:3])}{', ...' if len(told) > 3 else ''}"
        came: Event | Ended | None = None
        for number, (opcode, payload) in enumerate(messages):
            while True:
                try:
                    came = await self.event(wire)
                except Silence:
                    raise Silence(self._so_far(number, len(messages), "nothing")) from None
                if came == Event(opcode, payload, getattr(came, "compressed", False)):
                    break
                if self.known.chatty and isinstance(came, Event) and came.opcode in (TEXT, BINARY):
                    continue
                raise Failure(self._so_far(number, len(messages), str(came)))
        return str(came) if len(messages) == 1 else f"{len(messages)} messages"

    @staticmethod
    def _so_far(number: int, total: int, came: str) -> str:
        return f"{came}, after {number} of {total} messages" if total > 1 else came

    async def ponged(self, wire: Wire, payload: bytes) -> str:
        """Expect a Pong with a payload."""
        self.expected = str(Event(PONG, payload))
        event = await self.event(wire)
        if event != Event(PONG, payload):
            raise Failure(str(event))
        return str(event)

    async def lives(self, wire: Wire, what: str) -> str:
        """Expect that a connection goes on: it answers a Ping."""
        wire.write(frame(PING, b"alive?"))
        try:
            await self.ponged(wire, b"alive?")
        finally:
            self.expected = what
        return "it goes on"

    # ------------------------------------------------------------------ failing

    async def failed(self, wire: Wire, *codes: int, also: Sequence[int] = ()) -> str:
        """Expect that the server fails the connection (RFC 6455 §7.1.7).

        Args:
            wire: The connection.
            *codes: Close codes that say why.
            also: Close codes that are worth no more than a remark.
        """
        loop = asyncio.get_running_loop()
        self.expected = f"{describe_code(*codes)}, and the end"
        asked = False
        while True:
            try:
                event = await self.event(wire, None if asked else loop.time() + QUIET)
            except Silence:
                if asked:
                    raise
                # Later than what has to fail the connection: it can't spoil the answer to that.
                asked = True
                wire.write(frame(PING, b"still there?"))
                wire.sent.pop()
                continue
            if isinstance(event, Ended):
                raise Info(f"{event}, without a Close frame")
            if event.opcode != CLOSE:
                raise Failure(f"{event}: the connection goes on")
            if event.code in codes:
                return str(event)
            # Without a code it may be the answer to a Close frame that was wrong.
            vague = event.code is None and not any(text.startswith("CLOSE") for text in wire.sent)
            raise (Info if vague or event.code in also else Failure)(str(event))

    async def ended(self, wire: Wire) -> str:
        """Expect the end of the TCP connection, whatever comes before it."""
        while True:
            try:
                event = await wire.event()
            except Silence:
                raise Silence("no end") from None
            if isinstance(event, Ended):
                return str(event)

    async def leave(self) -> None:
        """Leave the connections, politely if they let one."""
        loop = asyncio.get_running_loop()
        for wire in self.wires:
            if not wire.upgraded:
                wire.transport.abort()
            elif not (wire.ended or wire.finished or wire.transport.is_closing()):
                code = wire.close.code if wire.close is not None else 1000
                wire.transport.write(close_frame(code).data)
        for wire in self.wires:
            wire.lenient = True
            wire.deadline = until = loop.time() + LEAVE
            with contextlib.suppress(Failure):
                while wire.upgraded and not isinstance(await wire.event(until), Ended):
                    pass
            wire.transport.abort()


def tokens(values: Sequence[str], *, lower: bool = True) -> list[str]:
    """Return the elements of headers that are lists."""
    found = [word.strip() for value in values for word in value.split(",")]
    return [word.lower() if lower else word for word in found if word]


def with_headers(**replaced: str | None) -> Mapping[str, str | None]:
    """Return headers by name; ``_`` stands for ``-``."""
    return {name.replace("_", "-"): value for name, value in replaced.items()}
