"""permessage-deflate: what is compressed, how often, and what connections keep for it."""

import gc
import itertools
import random
import threading
import tracemalloc
import weakref
import zlib
from dataclasses import replace

import pytest
from websockets.client import ClientProtocol as TheirClient
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import State as TheirState
from websockets.server import ServerProtocol as TheirServer
from websockets.uri import parse_uri as their_parse_uri

from wsproto_fast import PreparedMessage, Protocol, Side, State, backends
from wsproto_fast.activity import ATTENTION
from wsproto_fast.backends import get_backend

from .deflate_helpers import (
    FLAGS,
    JSON,
    RSV1,
    TAIL,
    Peer,
    both_sides,
    connection,
    distances,
    each_backend,
    extension,
    noise,
)
from .helpers import BINARY, TEXT, frame, messages, output, parse

# How far back they refer


@both_sides
@each_backend
@pytest.mark.parametrize("compress_settings", [None, {"level": 9}])
@pytest.mark.parametrize("no_takeover", FLAGS)
def test_smallest_window(side, backend, compress_settings, no_takeover):
    """A window of 256 bytes, which zlib doesn't make, is kept to whatever the backend."""
    if backend == "native" and compress_settings:
        backend = None
    deflate = extension(
        local_max_window_bits=8,
        local_no_context_takeover=no_takeover,
        backend=backend,
        compress_settings=compress_settings,
    )
    protocol, peer = connection(side, deflate)
    large = extension(local_max_window_bits=15)
    elsewhere, _ = connection(side, large)
    payloads = [
        *JSON,
        "".join(JSON) * 3,
        bytes(3000),
        noise(200) + noise(100) * 3,
        "".join(JSON) * 8,
    ]
    found = []
    for payload in payloads:
        prepared = PreparedMessage(payload)
        elsewhere.send_prepared(prepared)
        for alone in FLAGS:
            if alone:
                protocol.send_prepared(prepared)
            else:
                protocol.send(payload)
            data = output(protocol)
            found += [
                distance
                for wire in parse(data)
                if wire.rsv
                for distance in distances(wire.payload + TAIL)
            ]
            assert [message for message, _ in peer.read(data)] == [payload]
        protocol.send_text("ab" * 500, fin=False)
        protocol.send_continuation("ab" * 500, fin=True)
        data = output(protocol)
        peer.read(data)
        found += distances(b"".join(wire.payload for wire in parse(data)) + TAIL)
    assert 200 < max(found) <= 256


# Which messages are compressed


@both_sides
@pytest.mark.parametrize("min_size", [0, 1, 50, 10**6])
def test_threshold(side, min_size):
    protocol, peer = connection(side, extension(min_size=min_size))
    for size in (0, 1, 49, 50, 51, 10**4):
        message = b"\x00" * size
        protocol.send(message)
        data = output(protocol)
        ((received, compressed),) = peer.read(data)
        assert received == message
        pays = size >= 49
        assert compressed is (size >= min_size and pays)
        for choice in FLAGS:
            protocol.send(message, compress=choice)
            assert peer.read(output(protocol)) == [(message, choice)]


def test_threshold_can_be_changed():
    deflate = extension()
    protocol, peer = connection(Side.SERVER, deflate)
    deflate.min_size = 10**6
    protocol.send(JSON[0])
    deflate.min_size = 0
    protocol.send(JSON[0])
    assert peer.read(output(protocol)) == [(JSON[0], False), (JSON[0], True)]


@both_sides
@each_backend
@pytest.mark.parametrize("no_takeover", FLAGS)
@pytest.mark.parametrize("bits", [9, 15])
def test_what_would_grow_goes_plain(side, backend, no_takeover, bits):
    deflate = extension(
        local_no_context_takeover=no_takeover, local_max_window_bits=bits, backend=backend
    )
    protocol, peer = connection(side, deflate)
    for i in range(10):
        protocol.send(JSON[0])
        assert peer.read(output(protocol)) == [(JSON[0], True)]
        protocol.send(noise(1000, i))
        assert peer.read(output(protocol)) == [(noise(1000, i), False)]
        protocol.send(noise(1000, i), compress=True)
        assert peer.read(output(protocol)) == [(noise(1000, i), True)]


@both_sides
def test_without_extension_the_choice_means_nothing(side):
    protocol = Protocol(side)
    for compress in (None, True, False):
        protocol.send(JSON[0], compress=compress)
        protocol.send_text(JSON[0], compress=compress)
        protocol.send_binary(b"x", compress=compress)
        protocol.send_prepared(PreparedMessage(JSON[0]), compress=compress)
        assert [wire.rsv for wire in parse(output(protocol))] == [0] * 4


# Compressed once for many connections


@both_sides
@each_backend
def test_prepared_messages(side, backend):
    settings = list(itertools.product(FLAGS, (9, 12, 15)))
    random.Random(0).shuffle(settings)
    connections = [
        connection(
            side,
            extension(local_no_context_takeover=flag, local_max_window_bits=bits, backend=backend),
        )
        for flag, bits in settings
    ]
    text = "".join(JSON)
    large = text + noise(40000).hex() + text
    for message in (*JSON[:3], text, large, b"x" * 100, "\u20ac" * 50, *JSON[:3]):
        prepared = PreparedMessage(message)
        for i, (protocol, peer) in enumerate(connections):
            # Connections differ in what they have sent so far.
            for _ in range(i):
                protocol.send(JSON[i])
            protocol.send_prepared(prepared)
            protocol.send_prepared(prepared)
            protocol.send(JSON[i])
            *_, first, second, last = peer.read(output(protocol))
            assert first == second
            assert first[0] == message
            assert last == (JSON[i], True)
            assert first[1]


@both_sides
def test_prepared_messages_that_go_plain(side):
    protocol, peer = connection(side)
    for message in ("", "short", noise(1000)):
        protocol.send_prepared(PreparedMessage(message))
        assert peer.read(output(protocol)) == [(message, False)]
    prepared = PreparedMessage(JSON[0])
    for compress in (False, None, True, False):
        protocol.send_prepared(prepared, compress=compress)
        protocol.send(JSON[1])
        assert peer.read(output(protocol)) == [
            (JSON[0], compress is not False),
            (JSON[1], True),
        ]


class Counting:
    """A backend's compressor that notes the window bits with which it compresses."""

    def __init__(self, compressor, bits, used):
        self.compressor, self.bits, self.used = compressor, bits, used
        self.flush = compressor.flush

    def compress(self, payload):
        self.used.append(self.bits)
        return self.compressor.compress(payload)


@pytest.fixture
def counted(monkeypatch):
    """Install the backend "counted", which is zlib; give the list of what it compressed."""
    used = []
    real = get_backend("zlib")

    def new_compressor(bits, settings):
        return Counting(real.new_compressor(bits, settings), bits, used)

    backend = replace(real, name="counted", new_compressor=new_compressor)
    monkeypatch.setitem(backends._loaded, "counted", backend)
    return used


@pytest.mark.parametrize("no_takeover", FLAGS)
def test_prepared_message_is_compressed_once(counted, no_takeover):
    prepared = PreparedMessage("".join(JSON))
    frames = set()
    for _ in range(10):
        protocol = Protocol(Side.SERVER)
        protocol.extensions = [extension(local_no_context_takeover=no_takeover, backend="counted")]
        protocol.send_prepared(prepared)
        frames.add(output(protocol))
    assert counted == [15]
    assert len(frames) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    # What is as large as a window fits into it.
    [(512, [15]), (513, [15, 9]), (5000, [15, 12, 9]), (10**5, [15, 12, 9])],
)
def test_prepared_message_is_compressed_once_for_the_smallest_window(counted, size, expected):
    message = "".join(JSON * 100)[:size]
    prepared = PreparedMessage(message)
    for bits in (15, 15, 12, 14, 9, 9, 12, 15):
        protocol, peer = connection(
            Side.SERVER, extension(local_max_window_bits=bits, backend="counted")
        )
        protocol.send_prepared(prepared)
        assert peer.read(output(protocol)) == [(message, True)]
    assert counted == expected


# Compressors that the process shares


@both_sides
@each_backend
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_shared_compressors(side, backend, bits):
    """Messages that need no context of a connection don't get one, nor do they see each other."""
    connections = [
        connection(
            side,
            extension(True, True, local_max_window_bits=bits, min_size=0, backend=backend),
        )
        for _ in range(10)
    ]
    whole = [*JSON, "".join(JSON), "x" * 5000, "abcdefgh" * 20, "\u20ac" * 1000, noise(100).hex()]
    for message in whole:
        for i, (protocol, peer) in enumerate(connections):
            # Half of a message in the meantime.
            protocol.send_text(message[:i], fin=False, compress=True)
            for other, its_peer in connections[i + 1 :: 3]:
                other.send(message, compress=True)
                other.send_prepared(PreparedMessage(message), compress=True)
                assert its_peer.read(output(other)) == [(message, True)] * 2
            protocol.send_continuation(message[i:], fin=True)
            assert peer.read(output(protocol)) == [(message, True)]
            assert protocol.next_timeout() is None or protocol.handle_timeout(10**6) is not None


def test_shared_compressors_are_made_once(monkeypatch):
    made = []
    real = get_backend("zlib")

    def new_compressor(bits, settings):
        made.append((bits, settings))
        return real.new_compressor(bits, settings)

    monkeypatch.setitem(
        backends._loaded, "made", replace(real, name="made", new_compressor=new_compressor)
    )
    for _ in range(100):
        for settings in ({}, {"level": 1}):
            protocol, peer = connection(
                Side.SERVER,
                extension(
                    local_no_context_takeover=True, compress_settings=settings, backend="made"
                ),
            )
            protocol.send(JSON[0])
            assert peer.read(output(protocol)) == [(JSON[0], True)]
            prepared = PreparedMessage(JSON[1])
            protocol.send_prepared(prepared)
            assert peer.read(output(protocol)) == [(JSON[1], True)]
    assert made == [(15, {}), (15, {"level": 1})]


def test_shared_compressors_in_threads():
    failures = []

    def work(number):
        deflate = extension(local_no_context_takeover=True)
        protocol, peer = connection(Side.SERVER, deflate)
        for i in range(100):
            message = f"{number} {i} " + JSON[i % len(JSON)] * (i % 7 + 1)
            protocol.send(message)
            if peer.read(output(protocol)) != [(message, True)]:
                failures.append(message)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@both_sides
def test_backend_that_makes_nothing_of_an_empty_message(side, monkeypatch):
    class Idle:
        def compress(self, payload):
            return b""

        def flush(self, mode):
            return b""

    idle = replace(get_backend("zlib"), name="idle", new_compressor=lambda bits, settings: Idle())
    monkeypatch.setitem(backends._loaded, "idle", idle)
    protocol, peer = connection(side, extension(backend="idle"))
    protocol.send("", compress=True)
    assert peer.read(output(protocol)) == [("", True)]


def test_few_shared_compressors_are_kept(monkeypatch):
    """There are as many as are in use at the same time, but not for ever."""
    real = get_backend("zlib")
    made = weakref.WeakSet()
    read = []

    class Nested:
        """A compressor in whose calls others are used."""

        def __init__(self, bits, settings):
            self.compressor = real.new_compressor(bits, settings)
            self.flush = self.compressor.flush
            made.add(self)

        def compress(self, payload):
            if len(made) < 6:
                send()
            return self.compressor.compress(payload)

    def send():
        deflate = extension(local_no_context_takeover=True, backend="nested")
        protocol, peer = connection(Side.SERVER, deflate)
        protocol.send(JSON[0])
        read.extend(peer.read(output(protocol)))

    nested = replace(real, name="nested", new_compressor=Nested)
    monkeypatch.setitem(backends._loaded, "nested", nested)
    send()
    assert read == [(JSON[0], True)] * 6
    gc.collect()
    assert len(made) == 4


@pytest.mark.parametrize("size", [100, 10_000])
def test_few_shared_compressors_are_kept_by_threads(monkeypatch, size):
    """Also where all give them back at the same time."""
    real = get_backend("zlib")
    made = weakref.WeakSet()
    threads = 12
    barrier = threading.Barrier(threads)

    class Together:
        def __init__(self, bits, settings):
            self.compressor = real.new_compressor(bits, settings)
            self.compress = self.compressor.compress
            made.add(self)

        def flush(self, mode):
            barrier.wait(10)
            return self.compressor.flush(mode)

    together = replace(real, name="together", new_compressor=Together)
    monkeypatch.setitem(backends._loaded, "together", replace(together, bulk=together))
    payload = bytes(random.Random(1).choices(b"abc", k=size))

    def send():
        deflate = extension(local_no_context_takeover=True, backend="together")
        protocol, peer = connection(Side.SERVER, deflate)
        protocol.send(payload)
        read.extend(peer.read(output(protocol)))

    for _ in range(3):
        read = []
        senders = [threading.Thread(target=send) for _ in range(threads)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert read == [(payload, True)] * threads
    del senders
    gc.collect()
    assert len(made) <= 4


def test_failing_compressors_are_not_used_again(monkeypatch):
    real = get_backend("zlib")
    made = []

    class Failing:
        """A compressor whose second call fails, when it has seen the message."""

        def __init__(self, bits, settings):
            self.compressor = real.new_compressor(bits, settings)
            self.calls = 0
            self.flush = self.compressor.flush

        def compress(self, payload):
            self.calls += 1
            data = self.compressor.compress(payload)
            if self.calls == 2:
                raise MemoryError
            return data

    def new_compressor(bits, settings):
        made.append((real.new_compressor if made else Failing)(bits, settings))
        return made[-1]

    backend = replace(real, name="failing", new_compressor=new_compressor)
    monkeypatch.setitem(backends._loaded, "failing", backend)
    for no_takeover in FLAGS:
        made.clear()
        protocol, peer = connection(
            Side.SERVER,
            extension(local_no_context_takeover=no_takeover, backend="failing"),
        )
        protocol.send(JSON[0])
        assert peer.read(output(protocol)) == [(JSON[0], True)]
        with pytest.raises(MemoryError):
            protocol.send(JSON[1])
        assert output(protocol) == b""
        for message in JSON[1:]:
            protocol.send(message)
            assert peer.read(output(protocol)) == [(message, True)]


# websockets as the peer


def their_end(side, ours):
    if side == Side.CLIENT:
        peer = TheirClient(their_parse_uri("ws://localhost/"), state=TheirState.OPEN)
    else:
        peer = TheirServer(state=TheirState.OPEN)
    peer.extensions = [
        TheirDeflate(
            ours.local_no_context_takeover,
            ours.remote_no_context_takeover,
            ours.local_max_window_bits,
            ours.remote_max_window_bits,
        )
    ]
    return peer


@both_sides
@each_backend
@pytest.mark.parametrize("flags", list(itertools.product(FLAGS, FLAGS)))
@pytest.mark.parametrize("bits", [(9, 15), (12, 12), (15, 9)])
def test_with_websockets(side, backend, flags, bits):
    deflate = extension(*flags, *bits, backend=backend)
    protocol, _ = connection(side, deflate)
    peer = their_end(Side.SERVER if side == Side.CLIENT else Side.CLIENT, deflate)
    now = 0.0
    for i, message in enumerate([*JSON, "", "\u20ac" * 100, *JSON]):
        data = message.encode()
        # To them: whole, prepared, plain, in fragments.
        protocol.send(message, compress=(None, True, False)[i % 3])
        protocol.send_prepared(PreparedMessage(message))
        protocol.send_text(message[:9], fin=False)
        protocol.send_ping(b"")
        protocol.send_continuation(message[9:], fin=True)
        peer.receive_data(output(protocol))
        assert peer.parser_exc is None
        received = peer.events_received()
        assert [bytes(event.data) for event in received if event.opcode is TheirOpcode.TEXT] == [
            data,
            data,
            message[:9].encode(),
        ]
        assert bytes(received[-1].data) == message[9:].encode()
        # From them.
        peer.send_text(data)
        peer.send_text(data[:9], fin=False)
        peer.send_continuation(data[9:], fin=True)
        protocol.receive_data(b"".join(peer.data_to_send()), now)
        assert messages(protocol) == [message, message]
        if i % 5 == 0:
            now += 1000
            protocol.handle_timeout(now)
        output(protocol)


# Contexts exist only while they are used


@both_sides
@each_backend
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_contexts_released_when_idle(side, backend, bits):
    deflate = extension(remote_max_window_bits=bits, local_max_window_bits=bits, backend=backend)
    protocol, peer = connection(side, deflate)
    assert protocol.next_timeout() is None
    now = 0.0
    for message in (*JSON, noise(1 << bits) + b"x" * 100, *JSON, b"x" * (3 << bits), *JSON):
        opcode = TEXT if isinstance(message, str) else BINARY
        data = peer.deflate(message.encode() if opcode == TEXT else message)
        protocol.receive_data(frame(side, opcode, data, rsv=RSV1), now)
        assert messages(protocol) == [message]
        protocol.send(message, compress=True)
        assert peer.read(output(protocol)) == [(message, True)]
        timeout = protocol.next_timeout()
        assert timeout is not None
        assert timeout > now
        for _ in range(10):
            if protocol.next_timeout() is None:
                break
            now = protocol.next_timeout()
            protocol.handle_timeout(now)
        assert protocol.next_timeout() is None


@both_sides
@each_backend
@pytest.mark.parametrize("prepared", FLAGS)
def test_contexts_of_who_only_sends_are_released(side, backend, prepared):
    protocol, peer = connection(side, extension(backend=backend))
    now = 1000.0
    for _ in range(3):
        activity = 0
        for message in JSON:
            if prepared:
                # It would grow, so that it is compressed only because it must be.
                activity |= protocol.send_prepared(PreparedMessage("short"), compress=True)
            activity |= protocol.send(message)
            peer.read(output(protocol))
        assert activity & ATTENTION
        # Nobody said how late it is: it may be due at once.
        assert protocol.next_timeout() is not None
        held = 0
        while protocol.next_timeout() is not None:
            now = max(now, protocol.next_timeout())
            protocol.handle_timeout(now)
            held += 1
            # In use, they stay; and there is nothing new to attend to.
            if held < 5:
                assert not protocol.send(JSON[0]) & ATTENTION
                peer.read(output(protocol))
        assert held >= 6
        now += 1000


def test_contexts_are_held_for_seconds():
    protocol, peer = connection(Side.SERVER)
    protocol.receive_data(frame(Side.SERVER, TEXT, peer.deflate(b"Hello"), rsv=RSV1), 100.0)
    times = []
    while protocol.next_timeout() is not None:
        times.append(protocol.next_timeout())
        protocol.handle_timeout(times[-1])
    assert times == [103.0, 106.0]


def test_memory_of_idle_connections():
    def held(release):
        """Return bytes per connection that has received and sent compressed messages."""
        count = 20
        data = []
        for _ in range(count):
            deflate = extension(remote_max_window_bits=12, local_max_window_bits=12)
            peer = Peer(deflate)
            data.append([frame(Side.SERVER, TEXT, peer.deflate(m.encode()), rsv=4) for m in JSON])
        protocols = []
        tracemalloc.start()
        try:
            for frames in data:
                deflate = extension(remote_max_window_bits=12, local_max_window_bits=12)
                protocol, _ = connection(Side.SERVER, deflate)
                for wire in frames:
                    protocol.receive_data(wire)
                messages(protocol)
                for message in JSON:
                    protocol.send(message)
                output(protocol)
                while release and protocol.next_timeout() is not None:
                    protocol.handle_timeout(protocol.next_timeout())
                protocols.append(protocol)
            return tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()

    assert held(release=True) < 10 * 1024
    assert held(release=False) > held(release=True) + 20 * 1024


@pytest.mark.parametrize("size", [1, 3, 30, 1000])
@pytest.mark.parametrize("backend", [None, "objects"])
def test_memory_of_small_messages(size, backend, monkeypatch):
    """What is kept of them is the window, not the messages."""

    def new_decompressor(bits, window):
        return zlib.decompressobj(wbits=-bits, zdict=window)

    # One whose library can't be called without Python's objects.
    real = get_backend("zlib")
    objects = replace(real, name="objects", new_decompressor=new_decompressor)
    monkeypatch.setitem(backends._loaded, "objects", objects)
    protocol, _ = connection(Side.SERVER, extension(backend=backend), max_size=2**17)
    # A stored block needs no compressor.
    message = b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
    wire = frame(Side.SERVER, BINARY, message + bytes(size) + b"\x00", rsv=RSV1)
    protocol.receive_data(wire)
    messages(protocol)
    tracemalloc.start()
    try:
        for _ in range(60_000 // size):
            protocol.receive_data(wire)
            protocol.next_message()
        assert tracemalloc.get_traced_memory()[0] < 5 * 2**15
    finally:
        tracemalloc.stop()
    assert protocol.state is State.OPEN
