"""Headers, masks, masking keys, and the Frame object."""

import copy
import dataclasses
import inspect
import os
import pickle
import pprint
import sys

import pytest

from wsproto_fast import Close, Frame, Opcode, Protocol, Side, apply_mask, frames

from .helpers import (
    BINARY,
    CONT,
    KEY,
    PATHS,
    PING,
    SIDES,
    TEXT,
    Path,
    Wire,
    chopped,
    events,
    frame,
    messages,
    output,
    parse,
    through_buffer,
    through_data,
    xor,
)

PATTERN = bytes((7 * i + 3) % 256 for i in range(300))


class TestMask:
    @pytest.mark.parametrize("key", [KEY, bytes(4), b"\xff\x00\x80\x01"])
    def test_equals_masking_byte_by_byte(self, key: bytes) -> None:
        for size in range(301):
            assert apply_mask(PATTERN[:size], key) == xor(PATTERN[:size], key), size

    @pytest.mark.parametrize("misalignment", range(1, 9))
    def test_takes_memory_of_any_alignment(self, misalignment: int) -> None:
        view = memoryview(bytearray(PATTERN))[misalignment:]
        assert apply_mask(view, memoryview(KEY)) == xor(PATTERN[misalignment:], KEY)

    @pytest.mark.parametrize("size", range(1000, 1100))
    def test_long_payloads(self, size: int) -> None:
        data = (PATTERN * 4)[:size]
        for misalignment in range(5):
            view = memoryview(data)[misalignment:]
            assert apply_mask(view, KEY) == xor(data[misalignment:], KEY)

    def test_leaves_its_argument_alone(self) -> None:
        data = bytearray(PATTERN)
        apply_mask(data, KEY)
        assert data == PATTERN

    @pytest.mark.parametrize("key", [b"", b"123", b"12345"])
    def test_refuses_keys_of_another_size(self, key: bytes) -> None:
        with pytest.raises(ValueError):
            apply_mask(b"data", key)

    @pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
    def test_received_payloads_of_every_length_cut_at_every_place(self, path: Path) -> None:
        protocol = path.protocol(Side.SERVER, queue=False, max_size=None)
        for size in range(301):
            wire = frame(Side.SERVER, BINARY, PATTERN[:size])
            # Every place for the short ones; beyond, all remainders modulo 4 and 8.
            cuts = range(1, len(wire)) if size < 40 else range(1 + size % 7, len(wire), 29)
            for cut in cuts:
                path.feed(protocol, chopped(wire, [cut]))
                assert events(protocol) == [(BINARY, PATTERN[:size], True)], (size, cut)

    def test_received_payload_cut_three_times(self) -> None:
        wire = frame(Side.SERVER, BINARY, PATTERN[:20])
        protocol = Protocol(Side.SERVER)
        for a in range(6, len(wire)):
            for b in range(a + 1, min(a + 9, len(wire))):
                through_data(protocol, chopped(wire, [a, b]))
                assert events(protocol) == [(BINARY, PATTERN[:20], True)], (a, b)

    def test_large_payload_through_a_read_buffer_of_any_size(self) -> None:
        payload = os.urandom(5000)
        for size in (1, 2, 3, 5, 7, 13, 64, 1000, 4999, 5014):
            protocol = Protocol(Side.SERVER, max_size=None)
            protocol.queue_messages()
            protocol.use_read_buffer(memoryview(bytearray(size)))
            through_buffer(protocol, [frame(Side.SERVER, BINARY, payload)])
            assert messages(protocol) == [payload], size

    @pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
    def test_text_of_every_length(self, character: str) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.queue_messages()
        for size in range(1, 80):
            for place in {0, size // 2, size - 1}:
                text = "x" * place + character + "y" * (size - place - 1)
                protocol.receive_data(frame(Side.SERVER, TEXT, text.encode()))
                assert messages(protocol) == [text]


class TestHeader:
    @pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
    @pytest.mark.parametrize(
        "length", [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 65537, 2**20], ids=str
    )
    def test_sent_with_the_shortest_length(self, side: Side, length: int) -> None:
        protocol = Protocol(side)
        protocol.send(bytes(length))
        data = output(protocol)
        extra = 0 if length < 126 else 2 if length < 65536 else 8
        assert len(data) == 2 + extra + 4 * (side == Side.CLIENT) + length
        assert parse(data) == [Wire(BINARY, bytes(length), masked=side == Side.CLIENT)]

    @pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
    @pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 65537], ids=str)
    def test_received_at_each_boundary_of_lengths(self, side: Side, length: int) -> None:
        protocol = Protocol(side)
        protocol.receive_data(frame(side, BINARY, bytes(length)) + frame(side, PING, b"next"))
        assert events(protocol) == [(BINARY, bytes(length), True), (PING, b"next", True)]

    def test_carries_opcode_and_fin(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.send_text("a", fin=False)
        protocol.send_continuation(b"b", fin=False)
        protocol.send_continuation("c", fin=True)
        assert output(protocol) == b"\x01\x01a\x00\x01b\x80\x01c"


class TestMaskingKeys:
    def keys(self, count: int) -> list[bytes]:
        protocol = Protocol(Side.CLIENT)
        for _ in range(count):
            protocol.send(b"")
        data = output(protocol)
        return [data[i + 2 : i + 6] for i in range(0, 6 * count, 6)]

    def test_do_not_repeat(self) -> None:
        # 3,000 of 2**32: two equal ones are improbable, five aren't bad luck any more.
        assert len(set(self.keys(3000))) > 2995

    def test_use_all_their_bits(self) -> None:
        keys = [int.from_bytes(key, "big") for key in self.keys(300)]
        for bit in range(32):
            assert 50 < sum(key >> bit & 1 for key in keys) < 250

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_differ_between_a_process_and_its_forked_child(self) -> None:
        self.keys(1)  # the pool isn't empty
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"".join(self.keys(50)))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        theirs = {data[i : i + 4] for i in range(0, len(data), 4)}
        assert len(theirs) > 45
        assert len(theirs & set(self.keys(50))) <= 1

    def test_a_signal_handler_may_send_while_random_bytes_are_fetched(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch = os.urandom
        inner: list[bytes] = []

        def interrupted(size: int) -> bytes:
            monkeypatch.setattr(os, "urandom", fetch)
            inner.extend(self.keys(1))
            return fetch(size)

        monkeypatch.setattr(os, "urandom", interrupted)
        outer = self.keys(1025)  # more than one call of the system gives
        assert len(inner) == 1
        assert len({*inner, *outer}) > 1020

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_differ_if_the_process_forks_while_random_bytes_are_fetched(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch = os.urandom
        reader, writer = os.pipe()
        fetched: list[bytes] = []
        children: list[int] = []

        def noting(size: int) -> bytes:
            fetched.append(fetch(size))
            return fetched[-1]

        def forking(size: int) -> bytes:
            monkeypatch.setattr(os, "urandom", fetch)
            data = fetch(size)
            children.append(os.fork())
            return data

        monkeypatch.setattr(os, "urandom", noting)
        while not fetched:
            self.keys(1)
        self.keys(len(fetched[0]) // 4 - 1)  # now the pool is empty
        monkeypatch.setattr(os, "urandom", forking)
        keys = self.keys(50)
        [child] = children
        if child == 0:
            try:
                os.write(writer, b"".join(keys))
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        theirs = {data[i : i + 4] for i in range(0, len(data), 4)}
        assert len(theirs) > 45
        assert len(theirs & set(keys)) <= 1


class TestFrame:
    def test_has_the_fields_of_a_dataclass(self) -> None:
        assert dataclasses.is_dataclass(Frame)
        names = [field.name for field in dataclasses.fields(Frame)]
        assert names == ["opcode", "data", "fin", "rsv1", "rsv2", "rsv3"]
        assert dataclasses.asdict(Frame(Opcode.TEXT, b"a")) == {
            "opcode": Opcode.TEXT,
            "data": b"a",
            "fin": True,
            "rsv1": False,
            "rsv2": False,
            "rsv3": False,
        }

    def test_is_shown_as_a_dataclass(self) -> None:
        frame = Frame(Opcode.TEXT, b"a", fin=False)
        assert vars(frame) == dataclasses.asdict(frame)
        assert dataclasses.astuple(frame) == (Opcode.TEXT, b"a", False, False, False, False)
        assert pprint.pformat(frame) == repr(frame)

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": b"other"},
            {"opcode": Opcode.CONT},
            {"fin": False},
            {"rsv1": True},
            {"rsv2": True, "rsv3": True},
        ],
        ids=str,
    )
    def test_replace_changes_what_it_is_told(self, changes: dict[str, object]) -> None:
        original = Frame(Opcode.BINARY, b"data")
        functions = [dataclasses.replace]
        if sys.version_info >= (3, 13):
            functions.append(copy.replace)
        for replace in functions:
            changed = replace(original, **changes)
            assert {**dataclasses.asdict(original), **changes} == dataclasses.asdict(changed)
            assert changed != original
            assert original == Frame(Opcode.BINARY, b"data")

    def test_replace_refuses_unknown_fields(self) -> None:
        with pytest.raises(TypeError):
            dataclasses.replace(Frame(Opcode.TEXT, b""), payload=b"")

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_equality_goes_by_value(self, kind: type) -> None:
        assert Frame(Opcode.TEXT, kind(b"a")) == Frame(1, b"a", True, False, False, False)
        assert Frame(Opcode.TEXT, kind(b"a")) != Frame(Opcode.TEXT, b"b")
        assert Frame(Opcode.TEXT, b"a") != (Opcode.TEXT, b"a", True, False, False, False)

    def test_is_not_hashable(self) -> None:
        with pytest.raises(TypeError):
            hash(Frame(Opcode.TEXT, b""))

    def test_repr_can_be_evaluated(self) -> None:
        shown = repr(Frame(Opcode.PING, b"x", rsv2=True)).replace("<Opcode.PING: 9>", "9")
        assert eval(shown) == Frame(Opcode.PING, b"x", rsv2=True)

    def test_str_is_that_of_debug_logs(self) -> None:
        assert str(Frame(Opcode.TEXT, b"hello")) == "TEXT 'hello' [5 bytes]"
        assert str(Frame(Opcode.BINARY, memoryview(b"\x00\x01\xff"))) == "BINARY 00 01 ff [3 bytes]"
        close = Frame(Opcode.CLOSE, Close(1000, "bye").serialize())
        assert str(close) == "CLOSE 1000 (OK) bye [5 bytes]"

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_survives_pickling_and_copying(self, protocol: int) -> None:
        original = Frame(Opcode.CONT, b"abc", False, True, False, True)
        assert pickle.loads(pickle.dumps(original, protocol)) == original
        assert copy.deepcopy(original) == original

    def test_matches_positionally(self) -> None:
        match Frame(Opcode.PONG, b"x", False):
            case Frame(opcode, data, fin):
                assert (opcode, data, fin) == (Opcode.PONG, b"x", False)
            case _:
                raise AssertionError("no match")

    def test_log_size_is_an_attribute(self) -> None:
        """Also for tools that look at the class, although it follows a setting."""
        found = {item.name: item.kind for item in inspect.classify_class_attrs(Frame)}
        assert found["MAX_LOG_SIZE"] == found["DEFAULT_IS_TEXT"] == "data"
        assert Frame.MAX_LOG_SIZE == Frame(Opcode.PING, b"").MAX_LOG_SIZE == frames.MAX_LOG_SIZE
        with pytest.raises(AttributeError, match="setting of the environment"):
            Frame(Opcode.PING, b"").MAX_LOG_SIZE = 9  # type: ignore[misc] # that is it

    def test_events_carry_opcodes_not_numbers(self) -> None:
        protocol = Protocol(Side.CLIENT)
        protocol.receive_data(frame(Side.CLIENT, TEXT, b"a", fin=False))
        protocol.receive_data(frame(Side.CLIENT, CONT, b"b"))
        received = protocol.events_received()
        assert received == [Frame(Opcode.TEXT, b"a", False), Frame(Opcode.CONT, b"b")]
        assert [type(event.opcode) for event in received] == [Opcode, Opcode]
