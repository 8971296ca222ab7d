"""Side by side with wsproto: the same bytes in, the same events out; and in conversation with it.

Where the two differ on purpose:

- Faults are found at the first byte that shows them; wsproto waits for a whole header. Their
  reasons have other words.
- Close code 1014 is accepted, which was registered after wsproto's list was made. A Close frame
  with a bad code and a bad reason is a 1007 here, a 1002 there.
- A Ping between the fragments of a compressed message doesn't disturb it; wsproto takes the rest
  for uncompressed.
- Frames that wait when the stream ends come before the ``CloseConnection`` of that end.
- Messages that compression doesn't make smaller are sent as they are.
- Empty elements of ``Sec-WebSocket-Protocol`` are ignored (RFC 9110 section 5.6.1); wsproto offers
  a subprotocol without a name.
- ``Connection`` may come in several lines, one of which has ``Upgrade`` (RFC 9110 section 5.3);
  wsproto looks at the last one.
- Handshakes: see ``test_wsproto_handshake.py``; keys that aren't 16 bytes in base64, malformed
  extensions and HTTP/1.0 are refused, and frames that come early aren't lost.
"""

import itertools
from typing import Any

import pytest
import wsproto as their_root
import wsproto.connection as their_connection
import wsproto.events as their_events
import wsproto.extensions as their_extensions
import wsproto.utilities as their_utilities
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import Side
from wsproto_fast import wsproto as our_root
from wsproto_fast.wsproto import connection as our_connection
from wsproto_fast.wsproto import events as our_events
from wsproto_fast.wsproto import extensions as our_extensions

from .helpers import CLOSE, chopped, frame, header

OURS = (our_root, our_connection, our_events, our_extensions)
THEIRS = (their_root, their_connection, their_events, their_extensions)


def plain(event: Any) -> tuple[Any, ...]:
    """Describe an event in a way that both packages share; without the words of faults."""
    values = {name: getattr(event, name) for name in type(event).__match_args__}
    for name in ("data", "payload"):
        if isinstance(values.get(name), bytearray):
            values[name] = bytes(values[name])
    if "extensions" in values:
        values["extensions"] = [getattr(e, "name", e) for e in values["extensions"]]
    return type(event).__name__, values


def fault(events: list[tuple[Any, ...]], connection: Any) -> bool:
    """Take away the reason if the last event stands for a fault, and tell whether it does."""
    if not events or events[-1][0] != "CloseConnection" or connection.state.name != "OPEN":
        return False
    events[-1][1].pop("reason", None)
    return True


payloads = st.one_of(
    st.binary(max_size=10),
    st.text(max_size=10).map(str.encode),
    st.text(max_size=3).map(lambda text: text.encode() + b"\xe2\x82"),
    st.integers(0, 5000).map(lambda code: code.to_bytes(2, "big") + b"why"),
    st.integers(100, 200).map(lambda size: b"x" * size),
)


@st.composite
def wires(draw: st.DrawFn, side: Side) -> bytes:
    """Draw frames, most of them good."""
    data = b""
    for _ in range(draw(st.integers(0, 6))):
        opcode = draw(st.sampled_from([0, 0, 1, 1, 2, 2, 8, 9, 10, 1, 2, 0, 3]))
        payload = draw(payloads)
        fin = draw(st.booleans()) if opcode < 8 else draw(st.integers(0, 9)) > 0
        rsv = draw(st.sampled_from([0] * 20 + [1, 2, 4]))
        data += frame(side, opcode, payload, fin=fin, rsv=rsv)
    if draw(st.integers(0, 9)) == 0:
        data += draw(st.binary(max_size=20))
    return data


@settings(max_examples=400)
@given(data=st.data())
def test_same_events(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from(list(Side)))
    wire = data.draw(wires(side))
    if close_frames_with_two_faults(wire, side):
        return
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6))
    connections = [
        module.Connection(module.ConnectionType[side.name])
        for module in (our_connection, their_connection)
    ]
    events: list[list[tuple[Any, ...]]] = [[], []]
    failed = False
    for piece in chopped(wire, cuts):
        for connection, found in zip(connections, events, strict=True):
            connection.receive_data(piece)
            found += map(plain, connection.events())
        if fault(events[0], connections[0]):
            failed = True
            break
        assert events[0] == events[1]
        assert connections[0].state.name == connections[1].state.name
    if failed:
        ours, theirs = events
        for _ in range(4):
            if fault(theirs, connections[1]):
                break
            # What they wait for: the rest of a header, or of a character.
            connections[1].receive_data(bytes(14))
            theirs += map(plain, connections[1].events())
        same = len(ours) - 1
        assert theirs[:same] == ours[:same]
        assert theirs[-1] == ours[-1]
        assert all(name == "TextMessage" for name, _ in theirs[same:-1])


def close_frames_with_two_faults(wire: bytes, side: Side) -> bool:
    """Tell whether a Close frame has a code or a reason that the two see differently."""
    connection = their_connection.Connection(their_connection.ConnectionType[side.name])
    connection.receive_data(wire)
    for event in connection.events():
        if isinstance(event, their_events.CloseConnection):
            text = event.reason or ""
            return "CLOSE with" in text or "remote CLOSE" in text or "CLOSE reason" in text
    return False


@pytest.mark.parametrize("code", [*range(990, 1020), 2999, 3000, 4000, 4999, 5000])
def test_same_close_codes(code: int) -> None:
    if code == 1014:
        return  # registered meanwhile
    found = []
    for _, connection, _, _ in (OURS, THEIRS):
        endpoint = connection.Connection(connection.ConnectionType.SERVER)
        endpoint.receive_data(frame(Side.SERVER, CLOSE, code.to_bytes(2, "big") + b"x"))
        (event,) = endpoint.events()
        found.append((event.code, type(event.code).__name__, endpoint.state.name))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "wire",
    [
        header(3, 0, key=b"abcd"),
        header(1, 0, rsv=4, key=b"abcd"),
        header(9, 0, fin=False, key=b"abcd"),
        header(9, 126, key=b"abcd"),
        header(1, 0) + b"abcd",
        header(1, 125, form=16, key=b"abcd"),
        header(1, 65535, form=64, key=b"abcd"),
        header(1, 2**63, form=64, key=b"abcd"),
        frame(Side.SERVER, 0, b""),
        frame(Side.SERVER, 1, b"", fin=False) + frame(Side.SERVER, 2, b""),
        frame(Side.SERVER, 8, b"\x03"),
        frame(Side.SERVER, 8, b"\x03\xe8\xff"),
        frame(Side.SERVER, 1, b"a\xff"),
        frame(Side.SERVER, 1, b"a\xe2"),
    ],
)
def test_same_codes_of_faults(wire: bytes) -> None:
    found = []
    for _, connection, _, _ in (OURS, THEIRS):
        endpoint = connection.Connection(connection.ConnectionType.SERVER)
        endpoint.receive_data(wire)
        *_, event = endpoint.events()
        endpoint.receive_data(frame(Side.SERVER, 1, b"more"))
        assert list(endpoint.events()) == []
        found.append((type(event).__name__, event.code, endpoint.state.name))
    assert found[0] == found[1]


STEPS = ["text", "part", "binary", "ping", "pong", "close", "receive close", "end", "request"]


@given(steps=st.lists(st.sampled_from(STEPS), max_size=6))
def test_same_states_and_errors(steps: list[str]) -> None:
    histories = []
    for _, connection, events, _ in (OURS, THEIRS):
        endpoint = connection.Connection(connection.ConnectionType.SERVER)
        history: list[Any] = []
        for step in steps:
            try:
                if step == "receive close":
                    endpoint.receive_data(frame(Side.SERVER, CLOSE, b"\x03\xe8bye"))
                elif step == "end":
                    endpoint.receive_data(None)
                else:
                    sent = {
                        "text": events.TextMessage("x"),
                        "part": events.TextMessage("x", message_finished=False),
                        "binary": events.BytesMessage(b"x"),
                        "ping": events.Ping(b"x"),
                        "pong": events.Pong(b"x"),
                        "close": events.CloseConnection(1001, "bye"),
                        "request": events.Request("h", "/"),
                    }[step]
                    history.append(bytes(endpoint.send(sent)))
                history.append([plain(event) for event in endpoint.events()])
            except Exception as exc:
                history.append((type(exc).__name__, str(exc)))
            history.append(endpoint.state.name)
        histories.append(history)
    assert histories[0] == histories[1]


# --- conversations


def converse(client: Any, server: Any, deflate: bool) -> list[tuple[Any, ...]]:
    """Open, talk, and close; return the events of both, as they come."""
    client_events, server_events = client[2], server[2]
    ends = {
        "client": client[0].WSConnection(client[0].ConnectionType.CLIENT),
        "server": server[0].WSConnection(server[0].ConnectionType.SERVER),
    }
    log: list[tuple[Any, ...]] = []

    def pass_on(receiver: str, data: bytes) -> None:
        # In pieces of 50 bytes, and those who receive answer what they must.
        modules = client if receiver == "client" else server
        for start in range(0, len(data), 50):
            ends[receiver].receive_data(data[start : start + 50])
            for event in ends[receiver].events():
                answer = b""
                name, values = plain(event)
                values.pop("extra_headers", None)
                log.append((receiver, name, values))
                if isinstance(event, modules[2].Request):
                    extensions = [modules[3].PerMessageDeflate()] if deflate else []
                    answer = ends[receiver].send(
                        modules[2].AcceptConnection("chat", extensions=extensions)
                    )
                elif isinstance(event, modules[2].Ping) or (
                    isinstance(event, modules[2].CloseConnection)
                    and ends[receiver].state.name == "REMOTE_CLOSING"
                ):
                    answer = ends[receiver].send(event.response())
                if answer:
                    pass_on("server" if receiver == "client" else "client", answer)

    request = client_events.Request(
        "localhost",
        "/",
        extensions=[client[3].PerMessageDeflate()] if deflate else [],
        subprotocols=["talk", "chat"],
    )
    pass_on("server", ends["client"].send(request))
    for sender, receiver, events in (
        ("client", "server", client_events),
        ("server", "client", server_events),
    ):
        for text in ("", "hello", "h€llo, 🌍 " * 40):
            pass_on(receiver, ends[sender].send(events.TextMessage(text)))
            pass_on(receiver, ends[sender].send(events.BytesMessage(text.encode())))
            pass_on(receiver, ends[sender].send(events.TextMessage(text, message_finished=False)))
            if not deflate:
                pass_on(receiver, ends[sender].send(events.Ping(b"between")))
            pass_on(receiver, ends[sender].send(events.TextMessage(text)))
    pass_on("client", ends["server"].send(server_events.CloseConnection(1001, "bye")))
    for name, end in ends.items():
        assert end.state.name == "CLOSED", name
    return log


def squeezed(log: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Join what belongs to a message: compressors may keep some of it back."""
    result: list[tuple[Any, ...]] = []
    for receiver, name, values in log:
        values = dict(values)
        if "data" in values and result and result[-1][2].get("message_finished") is False:
            values["data"] = result.pop()[2]["data"] + values["data"]
        result.append((receiver, name, values))
    return result


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize(
    ("client", "server"),
    [pair for pair in itertools.product((OURS, THEIRS), repeat=2) if OURS in pair],
    ids=["ours-ours", "ours-theirs", "theirs-ours"],
)
def test_conversation(client: Any, server: Any, deflate: bool) -> None:
    log = squeezed(converse(client, server, deflate))
    assert log == squeezed(converse(THEIRS, THEIRS, deflate))
    assert ("client", "CloseConnection", {"code": 1001, "reason": "bye"}) in log


@pytest.mark.parametrize("body", [b"", b"go away"])
@pytest.mark.parametrize(("client", "server"), [(OURS, THEIRS), (THEIRS, OURS), (OURS, OURS)])
def test_rejection(client: Any, server: Any, body: bytes) -> None:
    ours = client[0].WSConnection(client[0].ConnectionType.CLIENT)
    theirs = server[0].WSConnection(server[0].ConnectionType.SERVER)
    theirs.receive_data(ours.send(client[2].Request("localhost", "/")))
    assert len(list(theirs.events())) == 1
    answer = theirs.send(server[2].RejectConnection(403, has_body=bool(body)))
    if body:
        answer += theirs.send(server[2].RejectData(body))
    ours.receive_data(answer)
    rejection, *pieces = ours.events()
    assert (rejection.status_code, rejection.has_body) == (403, True)
    assert b"".join(bytes(piece.data) for piece in pieces) == body
    assert ours.state.name == theirs.state.name == "CLOSED"


def test_empty_elements_of_subprotocols() -> None:
    data = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: a,, b\r\n\r\n"
    )
    offered = []
    for modules in (OURS, THEIRS):
        server = modules[0].WSConnection(modules[0].ConnectionType.SERVER)
        server.receive_data(data)
        (request,) = server.events()
        offered.append(request.subprotocols)
    assert offered == [["a", "b"], ["a", "", "b"]]


@pytest.mark.parametrize(
    "lines",
    [
        b"Upgrade: websocket,\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nConnection: keep-alive\r\n",
    ],
    ids=["an empty element of Upgrade", "Connection in several lines"],
)
def test_lists_in_headers(lines: bytes) -> None:
    data = (
        b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n" + lines + b"\r\n"
    )
    ours, theirs = (
        modules[0].WSConnection(modules[0].ConnectionType.SERVER) for modules in (OURS, THEIRS)
    )
    ours.receive_data(data)
    assert [type(event).__name__ for event in ours.events()] == ["Request"]
    with pytest.raises(their_utilities.RemoteProtocolError):
        theirs.receive_data(data)
