"""What a connection counts."""

import dataclasses
import random
import threading

import pytest

from wsproto_fast import (
    ClientProtocol,
    ConnectionStats,
    PreparedMessage,
    Protocol,
    Request,
    ServerProtocol,
    Side,
    Totals,
    Traffic,
)
from wsproto_fast.uri import parse_uri

from .deflate_helpers import connection, extension
from .helpers import (
    BINARY,
    CLOSE,
    CONT,
    PATHS,
    PING,
    PONG,
    SIDES,
    TEXT,
    Path,
    chopped,
    frame,
    messages,
    output,
    parse,
)

EACH_SIDE = pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name.lower())
EACH_PATH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)

ARRIVING = [
    (TEXT, b"abc", True),
    (TEXT, "ä€".encode(), True),
    (BINARY, bytes(300), True),
    (BINARY, b"", True),
    (TEXT, b"frag", False),
    (PING, b"in between", True),
    (CONT, b"", False),
    (CONT, b"mented", True),
    (PONG, b"nobody asked", True),
    (BINARY, bytes(70_000), True),
]


def counted(stats: Traffic, **expected: int) -> None:
    """Compare counters; those that aren't given must be 0."""
    actual = {field.name: getattr(stats, field.name) for field in dataclasses.fields(Traffic)}
    assert actual == dict.fromkeys(actual, 0) | expected


@EACH_SIDE
@EACH_PATH
@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("cut", ["whole", "bytes", "random"])
def test_what_is_received(side: Side, path: Path, queue: bool, cut: str) -> None:
    protocol = path.protocol(side, queue=queue)
    wire = b"".join(frame(side, opcode, payload, fin=fin) for opcode, payload, fin in ARRIVING)
    cuts = {
        "whole": [],
        "bytes": range(2000),
        "random": random.Random(3).sample(range(len(wire)), 60),
    }[cut]
    path.feed(protocol, chopped(wire, cuts))
    size = sum(len(payload) for opcode, payload, _ in ARRIVING if opcode < 8)
    stats = protocol.stats()
    pong = len(output(protocol))
    if queue:
        kept = [payload for opcode, payload, _ in ARRIVING if opcode < 8]
        assert stats.max_queued_frames == stats.queued_frames == len(kept)
        # The second message is a str of two bytes per character: two of them, where UTF-8 has five.
        assert stats.max_queued_bytes == stats.queued_bytes == size - 5 + 4 + 72 * len(kept)
        assert len(messages(protocol)) == 6
    stats = protocol.stats()
    counted(
        stats,
        messages_received=6,
        message_bytes_received=size,
        payload_bytes_received=size,
        frames_received=len(ARRIVING),
        wire_bytes_received=len(wire),
        pings_received=1,
        pongs_received=1,
        frames_sent=1,
        pongs_sent=1,
        wire_bytes_sent=pong,
        max_queued_frames=stats.max_queued_frames,
        max_queued_bytes=stats.max_queued_bytes,
        max_write_buffer_bytes=pong,
    )


@EACH_SIDE
def test_callbacks_count_the_same(side: Side) -> None:
    wire = b"".join(frame(side, opcode, payload, fin=fin) for opcode, payload, fin in ARRIVING)
    for callbacks in ({"on_message": list}, {"on_frame": lambda *_: None}):
        for path in PATHS:
            protocol = path.protocol(side, queue=True)
            protocol.listen(**callbacks)
            path.feed(protocol, [wire])
            stats = protocol.stats()
            assert (stats.messages_received, stats.frames_received) == (6, len(ARRIVING))
            assert stats.message_bytes_received == stats.payload_bytes_received == 70_318
            assert stats.queued_frames == 0


@EACH_SIDE
def test_what_is_sent(side: Side) -> None:
    protocol = Protocol(side)
    protocol.send("ä€")
    protocol.send(b"x" * 200, compress=True)
    protocol.send(bytearray(5))
    protocol.send_text("a", fin=False)
    protocol.send_continuation("bc", fin=False)
    protocol.ping(b"1")
    protocol.send_continuation("", fin=True)
    protocol.send_prepared(PreparedMessage("prepared"))
    protocol.send_pong(b"22")
    waiting = protocol.output_size
    assert protocol.stats().write_buffer_bytes == waiting
    assert protocol.stats().wire_bytes_sent == 0
    wire = output(protocol)
    counted(
        protocol.stats(),
        messages_sent=5,
        message_bytes_sent=5 + 200 + 5 + 3 + 8,
        payload_bytes_sent=5 + 200 + 5 + 3 + 8,
        frames_sent=len(parse(wire)),
        wire_bytes_sent=len(wire),
        pings_sent=1,
        pongs_sent=1,
        max_write_buffer_bytes=waiting,
    )


@EACH_SIDE
@pytest.mark.parametrize("prepared", [True, False])
def test_compressed_messages(side: Side, prepared: bool) -> None:
    ours, _ = connection(side, extension())
    theirs, _ = connection(Side(1 - side), extension())
    theirs.queue_messages(None, max_bytes=None)
    texts = ["compressible " * 20, "short", "ä" * 5000, bytes(100_000)]
    for message in texts:
        if prepared:
            ours.send_prepared(PreparedMessage(message))
        else:
            ours.send(message)
    ours.send_text("fragments " * 50, fin=False)
    ours.send_continuation("of a message " * 50, fin=True)
    wire = output(ours)
    theirs.receive_data(wire)
    assert len(messages(theirs)) == 5
    size = 13 * 20 + 5 + 10_000 + 100_000 + 500 + 650
    squeezed = sum(len(wire.payload) for wire in parse(wire))
    assert squeezed < size / 10
    sent, received = ours.stats(), theirs.stats()
    assert (sent.messages_sent, received.messages_received) == (5, 5)
    assert (sent.frames_sent, received.frames_received) == (6, 6)
    assert (sent.message_bytes_sent, received.message_bytes_received) == (size, size)
    assert (sent.payload_bytes_sent, received.payload_bytes_received) == (squeezed, squeezed)
    assert (sent.wire_bytes_sent, received.wire_bytes_received) == (len(wire), len(wire))


class Doubling:
    """An extension that sends each byte of a message twice."""

    def encode(self, frame):
        return dataclasses.replace(frame, data=bytes(frame.data) * (1 if frame.opcode & 8 else 2))

    def decode(self, frame, *, max_size=None):
        data = bytes(frame.data)
        return dataclasses.replace(frame, data=data if frame.opcode & 8 else data[::2])


def test_extensions_of_programs() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.extensions = [Doubling()]
    protocol.send(b"abc")
    protocol.ping(b"p")
    protocol.receive_data(frame(Side.SERVER, BINARY, b"xxyyzz"))
    stats = protocol.stats()
    assert (stats.message_bytes_sent, stats.payload_bytes_sent) == (3, 6)
    assert (stats.message_bytes_received, stats.payload_bytes_received) == (3, 6)
    assert stats.pings_sent == 1


def test_what_comes_after_a_failure_is_bytes_only() -> None:
    protocol = Protocol(Side.SERVER)
    wire = frame(Side.SERVER, TEXT, b"fine") + frame(Side.SERVER, TEXT, b"\xff")
    protocol.receive_data(wire)
    after = frame(Side.SERVER, TEXT, b"more")
    protocol.receive_data(after)
    stats = protocol.stats()
    assert (stats.frames_received, stats.wire_bytes_received) == (2, len(wire) + len(after))
    assert stats.frames_sent == 1  # the Close frame


def test_output_that_is_given_up_was_not_sent() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send("sent")
    wire = output(protocol)
    protocol.send("waits")
    waiting = protocol.output_size
    protocol.give_up()
    stats = protocol.stats()
    assert (stats.messages_sent, stats.wire_bytes_sent) == (2, len(wire))
    assert (stats.write_buffer_bytes, stats.max_write_buffer_bytes) == (0, waiting)


def test_bytes_that_wait_elsewhere_count() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send(b"1234")
    protocol.pause_writing(1000)
    assert protocol.stats().max_write_buffer_bytes == 1006
    assert protocol.stats(unsent=10).write_buffer_bytes == 16
    protocol.pause_writing(5000)
    assert protocol.stats().max_write_buffer_bytes == 5006


def test_what_waits_compressed_counts_as_queued() -> None:
    protocol, _ = connection(Side.SERVER, extension())
    protocol.queue_messages(1)
    peer, _ = connection(Side.CLIENT, extension())
    for _ in range(4):
        peer.send("compressible " * 20)
    wire = output(peer)
    protocol.receive_data(wire)
    stats = protocol.stats()
    assert stats.queued_frames == 2
    assert stats.messages_received == 2
    kept = stats.queued_bytes - 2 * (260 + 72)
    assert 0 < kept < len(wire)
    assert len(messages(protocol)) == 2
    protocol.receive_kept()
    assert protocol.stats().queued_frames == 2


# ------------------------------------------------------------------ time


def opened(now: float, *, begin: float | None = None) -> tuple[ServerProtocol, ClientProtocol]:
    """Return both ends of a connection; the server begins at ``begin`` and opens at ``now``."""
    server, client = ServerProtocol(), ClientProtocol(parse_uri("ws://example.com/"))
    if begin is not None:
        server.set_timeouts(open_timeout=10, now=begin)
        client.set_timeouts(open_timeout=10, now=begin)
    client.send_request(client.connect())
    server.receive_data(output(client), begin)
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request), now)
    client.receive_data(output(server), now)
    return server, client


def test_times_of_a_connection() -> None:
    server, client = opened(100.5, begin=100)
    for protocol in (server, client):
        assert protocol.handshake_seconds == 0.5
        stats = protocol.stats(now=107)
        assert (stats.handshake_seconds, stats.open_seconds) == (0.5, 6.5)
        assert stats.wire_bytes_sent > 100
        protocol.connection_lost(now=110.5)
        for now in (None, 200):
            assert protocol.stats(now=now).open_seconds == 10


def test_times_before_and_without_an_opening_handshake() -> None:
    protocol = ServerProtocol()
    assert protocol.stats() == ConnectionStats()
    protocol.set_timeouts(open_timeout=10, now=5)
    assert protocol.stats(now=7) == ConnectionStats()
    protocol.handle_timeout(15)
    protocol.connection_lost(now=16)
    assert protocol.stats(now=17) == ConnectionStats()
    assert opened(3)[0].handshake_seconds is None  # nobody said when it began

    protocol = Protocol(Side.CLIENT)
    assert protocol.stats(now=3).open_seconds == 0
    protocol.set_timeouts(now=10)
    protocol.set_timeouts(now=20)
    assert (protocol.stats(now=30).open_seconds, protocol.handshake_seconds) == (20, None)
    assert protocol.stats(now=2).open_seconds == 0


def test_time_goes_on_while_the_connection_closes() -> None:
    server, _ = opened(1, begin=0)
    server.close(now=2)
    assert server.stats(now=4).open_seconds == 3
    server.receive_data(frame(Side.SERVER, CLOSE, b"\x03\xe8"), 5)
    assert server.stats(now=6).open_seconds == 5
    server.receive_eof(7)
    assert server.stats(now=8).open_seconds == 6
    assert server.stats().frames_sent == server.stats().frames_received == 1


def test_latency() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.ping(b"?", now=10)
    protocol.receive_data(frame(Side.SERVER, PONG, b"?"), 10.25)
    assert protocol.stats().latency == 0.25


def test_status_of_the_response() -> None:
    server = ServerProtocol()
    assert server.response_status == 0
    server.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    (request,) = server.events_received()
    server.send_response(server.accept(request))
    assert server.response_status == 426
    assert opened(1)[0].response_status == 101


# ------------------------------------------------------------------ several


def test_sums() -> None:
    server, client = opened(2, begin=1)
    server.queue_messages()
    client.send("to the server" * 100)
    server.receive_data(output(client), 3)
    closing = Protocol(Side.CLIENT)
    closing.close()
    new = ServerProtocol()
    refused = ServerProtocol()
    refused.send_response(refused.reject(403, ""))
    totals = Totals()
    assert not totals.add(server)
    server.pause_writing()
    assert Totals().add(server)
    for protocol in (client, closing, new, refused):
        totals.add(protocol, 1)
    assert (totals.opening, totals.open, totals.closing) == (1, 2, 2)
    counts = totals.counts()
    for name, value in counts.items():
        each = [getattr(p.stats(), name) for p in (server, client, closing, new, refused)]
        if name.startswith("max_queued"):
            assert value == max(each)
        elif name == "max_write_buffer_bytes":
            assert value == max(each) > 1300
        elif name == "write_buffer_bytes":
            assert value == sum(each) + 4
        else:
            assert value == sum(each), name
    copy = totals.copy()
    assert copy.counts() == counts
    copy.add_unsent(10)
    assert copy.counts()["write_buffer_bytes"] == counts["write_buffer_bytes"] + 10
    assert totals.counts() == counts


def test_the_past_has_no_present() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.queue_messages()
    protocol.receive_data(frame(Side.SERVER, TEXT, b"waits"))
    protocol.send("waits, too")
    totals = Totals()
    totals.add_past(protocol)
    counted(
        Traffic(**totals.counts()),
        messages_sent=1,
        messages_received=1,
        message_bytes_sent=10,
        message_bytes_received=5,
        payload_bytes_sent=10,
        payload_bytes_received=5,
        frames_sent=1,
        frames_received=1,
        wire_bytes_received=11,
        max_queued_frames=1,
        max_queued_bytes=77,
    )
    assert (totals.opening, totals.open, totals.closing) == (0, 0, 0)


def test_totals_are_of_protocols() -> None:
    with pytest.raises(TypeError):
        Totals().add(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Totals().add_past(object())  # type: ignore[arg-type]


def test_another_thread_may_read() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.queue_messages()
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(protocol.stats().messages_received)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(2000):
            protocol.receive_data(frame(Side.SERVER, TEXT, b"abc"))
            protocol.next_message()
    finally:
        done.set()
        thread.join()
    assert seen == sorted(seen)
    assert protocol.stats().messages_received == 2000


def test_stats_are_values() -> None:
    stats = Protocol(Side.SERVER).stats()
    assert stats == ConnectionStats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.frames_sent = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Protocol(Side.SERVER).stats(1)  # type: ignore[misc]
