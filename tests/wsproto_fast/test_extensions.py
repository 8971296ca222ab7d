"""Extensions that are written in Python."""

import dataclasses

import pytest

from wsproto_fast import (
    Close,
    Frame,
    PayloadTooBig,
    PerMessageDeflate,
    PreparedMessage,
    Protocol,
    ProtocolError,
    Side,
    State,
)
from wsproto_fast.wsproto._frame_events import FrameEvents

from .helpers import (
    BINARY,
    CONT,
    PATHS,
    PING,
    PONG,
    TEXT,
    Path,
    chopped,
    events,
    frame,
    messages,
    output,
    sent,
)
from .protocol_helpers import all_paths, both_sides, both_sinks, other


class Shift:
    """An extension that claims RSV1: bytes of data frames are shifted by one."""

    name = "shift"

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log

    def change(self, frame: Frame, by: int) -> bytes:
        return bytes((byte + by) % 256 for byte in bytes(frame.data))

    def encode(self, frame: Frame) -> Frame:
        self.log.append(f"{self.name} encode {frame.opcode.name}")
        if frame.opcode >= 8:
            return frame
        return dataclasses.replace(frame, data=self.change(frame, 1), rsv1=frame.opcode != 0)

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        self.log.append(f"{self.name} decode {max_size}")
        if frame.opcode >= 8:
            return frame
        if frame.rsv1 != (frame.opcode != 0):
            raise ProtocolError("shift is missing")
        return dataclasses.replace(frame, data=self.change(frame, -1), rsv1=False)


class Expand(Shift):
    """An extension that makes ten bytes of one and doesn't look at the limit."""

    name = "expand"
    obedient = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        data = bytes(frame.data) * 10
        if self.obedient and max_size is not None and len(data) > max_size:
            raise PayloadTooBig(len(data), max_size)
        return dataclasses.replace(frame, data=data)


class ObedientExpand(Expand):
    obedient = True


class Broken(Shift):
    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        raise ValueError("a defect")


@both_sides
class TestExtensions:
    @all_paths
    @both_sinks
    def test_transform_both_directions(self, side: Side, path: Path, queue: bool) -> None:
        sender = Protocol(other(side))
        receiver = path.protocol(side, queue=queue)
        sender.extensions = [Shift()]
        receiver.extensions = [Shift()]
        sender.send("žluť")
        sender.send_binary(bytes(100), fin=False)
        sender.send_ping(b"abc")
        sender.send_continuation(bytes(100), fin=True)
        wire = output(sender)
        for cuts in ([], range(1000)):
            path.feed(receiver, chopped(wire, cuts))
            assert receiver.parser_exc is None
            if queue:
                assert messages(receiver) == ["žluť", bytes(200)]
            else:
                assert events(receiver) == [
                    (TEXT, "žluť".encode(), True),
                    (BINARY, bytes(100), False),
                    (PING, b"abc", True),
                    (CONT, bytes(100), True),
                ]
            assert sent(receiver) == [(PONG, b"abc")]

    def test_what_was_sent_carries_the_bits(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.send(b"\x00")
        first = output(protocol)[0]
        assert first == 0xC2

    def test_are_applied_in_order_and_back(self, side: Side) -> None:
        log: list[str] = []
        first, second = Shift(log), Shift(log)
        first.name, second.name = "first", "second"
        protocol = Protocol(side, max_size=77)
        protocol.extensions = [first, second]
        protocol.send("")
        assert log == ["first encode TEXT", "second encode TEXT"]
        log.clear()
        protocol.receive_data(frame(side, PONG))
        assert log == ["second decode 77", "first decode 77"]

    def test_prepared_messages_pass_through_them(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.send_prepared(PreparedMessage(b"\x00"))
        assert sent(protocol) == [(BINARY, b"\x01")]

    @pytest.mark.parametrize("rsv", [5, 6, 7])
    def test_bits_that_none_claims_are_refused(self, side: Side, rsv: int) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, TEXT, b"b", rsv=rsv))
        assert protocol.close_sent == Close(1002, "reserved bits must be 0")

    def test_bits_on_control_frames_are_refused(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, PING, b"b", rsv=4))
        assert protocol.close_sent == Close(1002, "reserved bits must be 0")

    def test_may_be_appended(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions.append(Shift())
        protocol.receive_data(frame(side, TEXT, b"b", rsv=4))
        assert events(protocol) == [(TEXT, b"a", True)]

    @pytest.mark.parametrize("in_place", [False, True])
    def test_permessage_deflate_may_be_taken_away(self, side: Side, in_place: bool) -> None:
        protocol = Protocol(side)
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        if in_place:
            del protocol.extensions[0]
        else:
            protocol.extensions = []
        protocol.send_text(b"a" * 100)
        assert sent(protocol) == [(TEXT, b"a" * 100)]
        protocol.receive_data(frame(side, TEXT, b"b", rsv=4))
        assert protocol.close_sent == Close(1002, "reserved bits must be 0")

    @both_sinks
    @pytest.mark.parametrize("others", [0, 1])
    def test_rest_of_a_message_whose_extension_is_gone(
        self, side: Side, queue: bool, others: int
    ) -> None:
        protocol = Protocol(side)
        if queue:
            protocol.queue_messages()
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        compressed = PerMessageDeflate(False, False, 15, 15).encode(Frame(BINARY, b"ab" * 50))
        data = bytes(compressed.data)
        protocol.receive_data(frame(side, BINARY, data[:2], fin=False, rsv=4))
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)] * others
        # Nothing knows how to inflate it: it is what it is, as with websockets.
        protocol.receive_data(frame(side, CONT, data[2:]))
        if queue:
            message = protocol.next_message()
            assert isinstance(message, bytes)
            assert message.endswith(data[2:])
        else:
            assert events(protocol)[-1] == (CONT, data[2:], True)

    def test_faults_they_find_fail_the_connection(self, side: Side) -> None:
        protocol = Protocol(side)
        protocol.extensions = [Shift()]
        protocol.receive_data(frame(side, TEXT, b"b"))
        assert protocol.close_sent == Close(1002, "shift is missing")
        assert events(protocol) == []

    @pytest.mark.parametrize("extension", [Expand, ObedientExpand])
    @both_sinks
    def test_size_is_limited_after_decoding(
        self, side: Side, queue: bool, extension: type[Expand]
    ) -> None:
        protocol = PATHS[0].protocol(side, queue=queue, max_size=100)
        protocol.extensions = [extension()]
        protocol.receive_data(frame(side, BINARY, bytes(6), fin=False))
        assert protocol.state is State.OPEN
        protocol.receive_data(frame(side, CONT, bytes(5), fin=False))
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1009
        assert isinstance(protocol.parser_exc, PayloadTooBig)
        assert (protocol.parser_exc.current_size, protocol.parser_exc.max_size) == (60, 100)

    @both_sinks
    def test_decoded_text_is_validated(self, side: Side, queue: bool) -> None:
        for fin in (False, True):
            protocol = PATHS[0].protocol(side, queue=queue)
            protocol.extensions = [Shift()]
            protocol.receive_data(frame(side, TEXT, b"\x00", rsv=4, fin=fin))
            assert protocol.close_sent is not None
            assert protocol.close_sent.code == 1007

    @all_paths
    def test_defects_in_them_become_1011(
        self, side: Side, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        protocol = path.protocol(side, queue=True)
        protocol.extensions = [Broken()]
        path.feed(protocol, [frame(side, BINARY, bytes(500))])
        assert protocol.close_sent == Close(1011, "")
        assert isinstance(protocol.parser_exc, ValueError)
        assert [record.getMessage() for record in caplog.records] == ["parser failed"]


def test_what_takes_opcodes_is_not_for_python() -> None:
    """It trusts who calls it: another opcode would be read from behind a table."""
    for kind in (Protocol, FrameEvents):
        for name in ("_write_through_extensions", "_send_first", "_deliver_queued"):
            assert not hasattr(kind, name)
