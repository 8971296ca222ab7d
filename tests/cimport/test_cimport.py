"""What an installed package offers to `cimport`."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from wsproto_fast import Listener, PerMessageDeflate, PreparedMessage, Protocol, Side
from wsproto_fast.activity import (
    ABORT,
    ATTENTION,
    CLOSE,
    FLUSH,
    FRAGMENT,
    HALF_CLOSE,
    KEEP,
    MESSAGE,
    OUTPUT,
)
from wsproto_fast.exceptions import ConcurrencyError, InvalidState

from ..compiling import compiled

EXAMPLE = Path(__file__).parents[2] / "examples" / "compiled" / "echo.pyx"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        source = Path(__file__).with_name("smoke.pyx")
        yield compiled(source, tmp_path_factory.mktemp("smoke"), monkeypatch)


@pytest.mark.timeout(300)
def test_cimport(smoke: ModuleType) -> None:
    protocol = Protocol(Side.CLIENT)
    # A text message, a ping, and the beginning of another text message.
    wire = b"\x81\x02hi\x89\x01x\x81\x05hel"
    assert smoke.texts_received(protocol, wire) == [b"hi"]
    assert smoke.look(protocol)["output_left"] == protocol.output_size == 7
    assert smoke.texts_received(protocol, b"lo") == [b"hello"]
    with pytest.raises(TypeError):
        smoke.look(object())


def test_constants_for_compiled_drivers(smoke: ModuleType) -> None:
    assert smoke.ACTIONS == (KEEP, HALF_CLOSE, CLOSE, ABORT)
    assert smoke.BITS == (MESSAGE, FRAGMENT, OUTPUT, ATTENTION, FLUSH)


def test_compiled_driver(smoke: ModuleType) -> None:
    """What is for compiled drivers agrees with what there is for others."""
    client, server = Protocol(Side.CLIENT), Protocol(Side.SERVER)
    for protocol in (client, server):
        protocol.queue_messages()
        protocol.set_timeouts(ping_interval=20, ping_timeout=10, close_timeout=5, now=1.0)
    assert smoke.look(server) == {
        "is_open": True,
        "has_ended": False,
        "wants_reading": True,
        "has_fragment": False,
        "has_kept": False,
        "can_process_kept": False,
        "has_acknowledged_pings": False,
        "is_sending_fragments": False,
        "output_left": 0,
        "last_time": 1.0,
        "next_deadline": 21.0,
        "wants_network_silence": False,
    }

    assert smoke.send(client, "text", 2.0) == OUTPUT
    assert smoke.send(client, b"memory", 2.0) == OUTPUT
    assert smoke.send(client, PreparedMessage(b"binary"), 2.0) == OUTPUT
    assert smoke.look(client)["output_left"] == client.output_size == 3 * 6 + 4 + 6 + 6
    assert (
        smoke.receive(server, smoke.output(client), 3.0) & (MESSAGE | FRAGMENT)
        == MESSAGE | FRAGMENT
    )
    assert smoke.look(server)["has_fragment"]
    assert smoke.messages(server, 3.5) == ["text", "memory", b"binary"]
    assert smoke.look(server)["last_time"] == 3.5

    client.send_text("frag", fin=False)
    assert smoke.look(client)["is_sending_fragments"]
    with pytest.raises(ConcurrencyError):
        smoke.send(client, "text", 4.0)
    client.send_continuation("ment", fin=True)
    assert not smoke.look(client)["is_sending_fragments"]
    smoke.receive(server, smoke.output(client), 4.0)
    assert smoke.fragments(server, 4.0) == [("frag", False), ("ment", True)]

    server.ping(b"?", "waiter", now=5.0)
    smoke.receive(client, smoke.output(server), 5.0)
    assert smoke.receive(server, smoke.output(client), 6.0) & ATTENTION
    assert smoke.look(server)["has_acknowledged_pings"]
    assert server.acknowledged_pings() == [("waiter", 1.0)]
    assert not smoke.look(server)["has_acknowledged_pings"]

    assert smoke.look(server)["is_open"]
    server.close(now=7.0)
    assert smoke.look(server)["next_deadline"] == server.next_timeout() == 12.0
    assert not smoke.look(server)["is_open"]
    with pytest.raises(InvalidState):
        smoke.send(server, "text", 7.0)
    server.receive_eof(8.0)
    assert smoke.look(server)["has_ended"]
    server.connection_lost()
    assert smoke.look(server)["next_deadline"] == math.inf
    assert server.next_timeout() is None


def taken_and_processed(smoke: ModuleType, server: Protocol) -> list[object]:
    """Take fragments one by one, and process what was kept whenever there is room."""
    received: list[object] = []
    while smoke.look(server)["has_fragment"]:
        received += [fragment for fragment, _ in [server.next_fragment()]]
        if smoke.look(server)["can_process_kept"]:
            assert smoke.look(server)["next_deadline"] == smoke.look(server)["last_time"]
            smoke.process_kept(server, 21.0)
    return received


def taken_messages(smoke: ModuleType, server: Protocol) -> list[object]:
    received, activity = smoke.taken_messages(server, 21.0)
    assert activity & MESSAGE
    return list(received)


def taken_fragments(smoke: ModuleType, server: Protocol) -> list[object]:
    received, activity = smoke.taken_fragments(server, 21.0)
    assert activity & FRAGMENT
    return [fragment for fragment, _ in received]


@pytest.mark.parametrize("take", [taken_and_processed, taken_messages, taken_fragments])
def test_compiled_driver_heeds_a_full_queue(
    smoke: ModuleType, take: Callable[[ModuleType, Protocol], list[object]]
) -> None:
    client, server = Protocol(Side.CLIENT), Protocol(Side.SERVER)
    for protocol in (client, server):
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        protocol.queue_messages(high=1, low=0)
        protocol.set_timeouts(ping_interval=20, ping_timeout=10, now=0.0)
    sent = [f"message {number} " * 10 for number in range(8)]
    for message in sent:
        smoke.send(client, message, 1.0)
    # All at once: what there is no room for waits as it is.
    smoke.receive(server, smoke.output(client), 1.0)
    assert not smoke.look(server)["wants_reading"]
    assert not smoke.look(server)["can_process_kept"]
    server.handle_timeout(20.0)
    assert smoke.look(server)["wants_network_silence"]
    assert smoke.look(server)["has_kept"]
    assert take(smoke, server) == sent
    assert not smoke.look(server)["has_kept"]
    assert smoke.look(server)["wants_reading"]


@pytest.mark.timeout(300)
def test_compiled_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not EXAMPLE.exists():
        pytest.skip("the examples are not beside the tests")
    echo = compiled(EXAMPLE, tmp_path, monkeypatch)
    protocol = Protocol(Side.CLIENT)
    listener = echo.Echo(protocol)
    protocol.listen(listener=listener)
    # A message in one frame, one in two, a ping between them, and an empty message.
    protocol.receive_data(b"\x81\x02hi\x02\x01a\x89\x00\x80\x02bc\x82\x00")
    assert (listener.messages, listener.size) == (3, 5)

    server = Protocol(Side.SERVER)
    server.receive_data(b"".join(protocol.data_to_send()))
    frames = [(frame.opcode, frame.data) for frame in server.events_received()]
    assert frames == [(1, b"hi"), (10, b""), (2, b"abc"), (2, b"")]

    buffer = protocol.get_buffer()
    buffer[:4] = b"\x81\x02yo"
    protocol.buffer_updated(4)
    assert listener.messages == 4
    protocol.close()
    with pytest.raises(InvalidState):
        protocol.send("x")


def test_listener_overrides_a_method() -> None:
    protocol = Protocol(Side.CLIENT)
    protocol.listen(listener=Listener())
    protocol.receive_data(b"\x81\x02hi")
    assert isinstance(protocol.parser_exc, NotImplementedError)
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1011
