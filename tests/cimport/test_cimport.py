"""What an installed package offers to `cimport`."""

from pathlib import Path

import pytest

from wsproto_fast import Listener, Protocol, Side
from wsproto_fast.exceptions import InvalidState

from ..compiling import compiled

EXAMPLE = Path(__file__).parents[2] / "examples" / "compiled" / "echo.pyx"


@pytest.mark.timeout(300)
def test_cimport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = compiled(Path(__file__).with_name("smoke.pyx"), tmp_path, monkeypatch)
    protocol = Protocol(Side.CLIENT)
    # A text message, a ping, and the beginning of another text message.
    wire = b"\x81\x02hi\x89\x01x\x81\x05hel"
    assert smoke.texts_received(protocol, wire) == [b"hi"]
    assert smoke.output_size(protocol) == protocol.output_size == 7
    assert smoke.texts_received(protocol, b"lo") == [b"hello"]
    with pytest.raises(TypeError):
        smoke.output_size(object())


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
