"""Text that isn't UTF-8: refused before it is sent, unless the application takes that on itself."""

import pytest

from wsproto_fast import Protocol, Side, State


@pytest.mark.parametrize(
    "send",
    [
        lambda protocol: protocol.send(b"\xff", text=True),
        lambda protocol: protocol.send(b"caf\xc3", text=True),
        lambda protocol: protocol.send_text(b"caf\xc3"),
        lambda protocol: protocol.send_text(b"\xff", fin=False),
    ],
)
def test_bad_text_is_not_sent(send) -> None:
    protocol = Protocol(Side.SERVER)
    with pytest.raises(UnicodeDecodeError, match="invalid text message"):
        send(protocol)
    assert protocol.data_to_send() == []
    assert protocol.state is State.OPEN
    protocol.send("next")
    assert protocol.data_to_send() == [b"\x81\x04next"]


def test_characters_may_be_cut_by_fragmentation() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.send_text(b"caf\xc3", fin=False)
    with pytest.raises(UnicodeDecodeError):
        protocol.send_continuation("x", fin=True)
    protocol.send_continuation(b"\xa9", fin=True)
    assert b"".join(protocol.data_to_send()) == b"\x01\x04caf\xc3\x80\x01\xa9"


def test_the_check_can_be_switched_off() -> None:
    protocol = Protocol(Side.SERVER)
    protocol.validate_text = False
    protocol.send(b"\xff", text=True)
    assert protocol.data_to_send() == [b"\x81\x01\xff"]


def test_received_text_is_then_checked_where_it_is_decoded() -> None:
    protocol = Protocol(Side.CLIENT)
    protocol.queue_messages()
    protocol.validate_text = False
    protocol.receive_data(b"\x81\x01\xff" + b"\x81\x01a" + b"\x81\x01\xff")
    assert protocol.next_message(decode=False) == b"\xff"
    assert protocol.next_message() == "a"
    assert protocol.state is State.OPEN
    assert protocol.next_message() is None
    assert protocol.close_sent.code == 1007
