"""Drives the engine through all that can happen in each state, and draws what it does.

``python docs/states.py`` writes docs/assets/states.svg, states-dark.svg, and states.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from wsproto_fast import (
    ClientProtocol,
    InvalidState,
    Protocol,
    ServerProtocol,
    Side,
    State,
    activity,
)
from wsproto_fast.uri import parse_uri

ASSETS = Path(__file__).parent / "assets"
URI = "ws://localhost/"
# Frames whose masking key is zero.
EMPTY_TEXT = {Side.SERVER: b"\x81\x80\0\0\0\0", Side.CLIENT: b"\x81\0"}
CLOSE_1000 = {Side.SERVER: b"\x88\x82\0\0\0\0\x03\xe8", Side.CLIENT: b"\x88\x02\x03\xe8"}
RESERVED_OPCODE = {Side.SERVER: b"\x83\x80\0\0\0\0", Side.CLIENT: b"\x83\0"}

ACTIONS = {
    activity.KEEP: "",
    activity.HALF_CLOSE: "end of stream",
    activity.CLOSE: "close TCP",
    activity.ABORT: "abort TCP",
}


class Outcome(NamedTuple):
    """What the engine has done."""

    state: State | None
    """Its state afterwards; None if the call is refused."""
    sent: str
    """What it has to send."""
    action: str
    """What is to be done with the TCP connection; the exception if the call is refused."""


class Line(NamedTuple):
    """What follows from an event in a state, on either side."""

    state: State
    event: str
    client: Outcome
    server: Outcome


def _request(protocol: Protocol) -> None:
    if isinstance(protocol, ClientProtocol):
        protocol.send_request(protocol.connect())
        protocol.take_output()


def succeed(protocol: Protocol) -> None:
    """Have the opening handshake succeed."""
    client = protocol if isinstance(protocol, ClientProtocol) else ClientProtocol(parse_uri(URI))
    request = client.connect()
    if isinstance(protocol, ServerProtocol):
        protocol.send_response(protocol.accept(request))
    else:
        client.send_request(request)
        client.take_output()
        client.receive_data(ServerProtocol().accept(request).serialize())


def fail_handshake(protocol: Protocol) -> None:
    """Have the opening handshake fail."""
    if isinstance(protocol, ServerProtocol):
        protocol.send_response(protocol.reject(403, "no\n"))
    else:
        _request(protocol)
        protocol.receive_data(ServerProtocol().reject(403, "no\n").serialize())


def silence(protocol: Protocol) -> None:
    """Let all deadlines pass."""
    _request(protocol) if protocol.state is State.CONNECTING else None
    for _ in range(4):
        deadline = protocol.next_timeout()
        if deadline is None:
            return
        protocol.handle_timeout(deadline)
        if protocol.transport_action == activity.ABORT:
            return


EVENTS: dict[str, Callable[[Protocol], object]] = {
    "opening handshake succeeds": succeed,
    "opening handshake fails": fail_handshake,
    "message is sent": lambda protocol: protocol.send("Hello!"),
    "message is received": lambda protocol: protocol.receive_data(EMPTY_TEXT[protocol.side]),
    "application closes": lambda protocol: protocol.close(1000),
    "Close frame is received": lambda protocol: protocol.receive_data(CLOSE_1000[protocol.side]),
    "peer breaks the protocol": lambda protocol: protocol.receive_data(
        RESERVED_OPCODE[protocol.side]
    ),
    "application fails": lambda protocol: protocol.fail(1011, "error"),
    "peer is silent, until a deadline": silence,
    "end of the stream is received": lambda protocol: protocol.receive_eof(),
    "TCP connection is lost": lambda protocol: protocol.connection_lost(),
}
# What can't happen in a state isn't asked for.
IMPOSSIBLE = {
    (state, event)
    for state in State
    for event in EVENTS
    if (state is not State.CONNECTING and event.startswith("opening"))
    or (
        state is State.CONNECTING
        and event in ("message is received", "Close frame is received", "peer breaks the protocol")
    )
}


def in_state(side: Side, state: State) -> Protocol:
    """Return an engine that has come to a state by the usual way."""
    protocol = ClientProtocol(parse_uri(URI)) if side is Side.CLIENT else ServerProtocol()
    protocol.set_timeouts(
        open_timeout=10, ping_interval=20, ping_timeout=20, close_timeout=10, now=0.0
    )
    if state > State.CONNECTING:
        succeed(protocol)
    if state > State.OPEN:
        protocol.close(1000)
    if state > State.CLOSING:
        protocol.connection_lost()
    while protocol.take_output():
        pass
    assert protocol.state is state
    return protocol


def outcome(side: Side, state: State, event: str) -> Outcome:
    """Return what the engine does."""
    protocol = in_state(side, state)
    if (
        state is State.CONNECTING
        and side is Side.CLIENT
        and event == "end of the stream is received"
    ):
        _request(protocol)
    before = protocol.transport_action
    try:
        EVENTS[event](protocol)
    except (InvalidState, EOFError) as exc:
        return Outcome(None, "", type(exc).__name__)
    sent = []
    while data := protocol.take_output():
        sent.append(data)
    action = ACTIONS[protocol.transport_action] if protocol.transport_action != before else ""
    return Outcome(protocol.state, _named(b"".join(sent), protocol), action)


def _named(data: bytes, protocol: Protocol) -> str:
    if data.startswith(b"HTTP/"):
        return f"response {data.split()[1].decode()}"
    if data.startswith(b"GET "):
        return "request"
    names = []
    while data:
        names.append({1: "message", 8: "Close", 9: "Ping", 10: "Pong"}[data[0] & 15])
        size = data[1] & 127
        data = data[2 + size + (4 if data[1] & 128 else 0) :]
    if names and names[-1] == "Close" and protocol.close_sent is not None:
        names[-1] = f"Close {int(protocol.close_sent.code)}"
    return ", ".join(names)


def table() -> list[Line]:
    """Return what follows from every event in every state."""
    return [
        Line(state, event, *(outcome(side, state, event) for side in (Side.CLIENT, Side.SERVER)))
        for state in State
        for event in EVENTS
        if (state, event) not in IMPOSSIBLE
    ]


def markdown(lines: list[Line]) -> str:
    """Return the table for a page."""
    rows = ["| in state | event | client | server |", "|---|---|---|---|"]
    for line in lines:
        cells = [_cell(line.state, each) for each in (line.client, line.server)]
        if set(cells) != {"nothing"}:
            rows.append(f"| {line.state.name} | {line.event} | {cells[0]} | {cells[1]} |")
    return "\n".join([*rows, ""])


def _cell(before: State, found: Outcome) -> str:
    if found.state is None:
        return f"raises `{found.action}`"
    parts = [f"**{found.state.name}**"] if found.state is not before else []
    if found.sent:
        parts.append(f"sends {found.sent}")
    if found.action:
        parts.append(found.action)
    return "; ".join(parts) or "nothing"


# ---------------------------------------------------------------------- the picture

INK, LINE, BOX_FILL, EDGE, TEXT = "ink", "line", "box", "edge", "text"
LIGHT = {INK: "#263238", LINE: "#546e7a", BOX_FILL: "#e8eaf6", EDGE: "#3f51b5", TEXT: "#37474f"}
DARK = {INK: "#eceff1", LINE: "#90a4ae", BOX_FILL: "#303a5c", EDGE: "#8c9eff", TEXT: "#cfd8dc"}
WIDTH, BOX, BOX_HEIGHT, GAP = 1000, 124, 48, 162
LINE_HEIGHT, ARC = 18, 50


def edges(lines: list[Line]) -> dict[tuple[State, State], list[str]]:
    """Return the events by which the state changes, with the side if the other's doesn't."""
    found: dict[tuple[State, State], list[str]] = {}
    for line in lines:
        for after in dict.fromkeys((line.client.state, line.server.state)):
            if after is None or after is line.state:
                continue
            sides = [
                side
                for side, each in (("client", line.client), ("server", line.server))
                if each.state is after
            ]
            label = line.event if len(sides) == 2 else f"{line.event} ({sides[0]})"
            found.setdefault((line.state, after), []).append(label)
    return found


def _left(state: State) -> int:
    return 9 + state * (BOX + GAP)


def picture(lines: list[Line], colours: dict[str, str]) -> str:
    """Return the diagram as SVG."""
    return "\n".join(_picture(lines, colours)) + "\n"


def _picture(lines: list[Line], colours: dict[str, str]) -> Iterator[str]:
    found = edges(lines)
    arcs = [(pair, labels) for pair, labels in found.items() if pair[1] - pair[0] > 1]
    arcs.sort(key=lambda arc: arc[0][1] - arc[0][0])
    steps = [(pair, labels) for pair, labels in found.items() if pair[1] - pair[0] == 1]
    # Labels stand above the middle of the boxes.
    top = max(sum(_heights(labels)) for _, labels in steps) + 10 - BOX_HEIGHT // 2
    bottom = top + BOX_HEIGHT
    height = bottom + 20 + ARC * len(arcs) + 10
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="15">'
    )
    yield "<title>States of a connection, and what changes them</title>"
    yield (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{colours[LINE]}"/>'
        "</marker></defs>"
    )
    for (before, after), labels in steps:
        start, end = _left(before) + BOX, _left(after)
        middle = top + BOX_HEIGHT // 2
        yield _path(f"M{start} {middle} H{end - 2}", colours)
        y = middle - sum(_heights(labels)) + 6
        for label, room in zip(labels, _heights(labels), strict=True):
            for number, line in enumerate(_wrapped(label)):
                yield _text((start + end) / 2, y + LINE_HEIGHT * number, line, colours[TEXT])
            y += room
    for number, ((before, after), labels) in enumerate(arcs):
        start = _left(before) + BOX // 2 - 20 * number
        end = _left(after) + BOX // 2 - 20 + 40 * number
        y = bottom + 30 + ARC * number
        yield _path(
            f"M{start} {bottom} V{y - 10} q0 10 10 10 H{end - 10} q10 0 10 -10 V{bottom + 2}",
            colours,
        )
        yield _text((start + end) / 2, y + 19, "; ".join(labels), colours[TEXT])
    for state in State:
        x = _left(state)
        yield (
            f'<rect x="{x}" y="{top}" width="{BOX}" height="{BOX_HEIGHT}" rx="8" '
            f'fill="{colours[BOX_FILL]}" stroke="{colours[EDGE]}" stroke-width="1.5"/>'
        )
        yield _text(x + BOX / 2, top + BOX_HEIGHT / 2 + 5, state.name, colours[INK], bold=True)
    yield "</svg>"


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, 21)


def _heights(labels: list[str]) -> list[int]:
    """Return how much room each label takes, with what is between it and the next one."""
    return [LINE_HEIGHT * len(_wrapped(label)) + 7 for label in labels]


def _path(path: str, colours: dict[str, str]) -> str:
    return (
        f'<path d="{path}" fill="none" stroke="{colours[LINE]}" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )


def _text(x: float, y: float, text: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )


def files() -> dict[Path, str]:
    """Return what belongs into the files."""
    lines = table()
    return {
        ASSETS / "states.svg": picture(lines, LIGHT),
        ASSETS / "states-dark.svg": picture(lines, DARK),
        ASSETS / "states.md": markdown(lines),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
