"""The validator of UTF-8 against Python's codec."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsproto_fast import Protocol, Side

from .helpers import PATHS, SIDES, TEXT, Path, events, frame, is_open

# Both sides of every boundary that table 3-7 of the Unicode standard draws.
LEADS = [0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF]
LEADS += [0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFE, 0xFF]
SECONDS = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE1, 0xF1, 0xFF]
LATER = [0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xFF]

hostile_text = st.lists(
    st.one_of(
        st.text(max_size=6).map(str.encode),
        st.binary(max_size=3),
        st.sampled_from(
            [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe2\x82", b"a" * 20]
        ),
    ),
    max_size=6,
).map(b"".join)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_beginning_of_text(data: bytes) -> bool:
    """Tell whether up to three more bytes could make ``data`` valid."""
    for cut in range(max(len(data) - 3, 0), len(data) + 1):
        head, tail = data[:cut], data[cut:]
        if is_text(head) and (not tail or tail in BEGINNINGS):
            return True
    return False


BEGINNINGS = {
    encoded[:cut]
    for code in (*range(0x80, 0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 64))
    for encoded in [chr(code).encode()]
    for cut in range(1, len(encoded))
}


def is_accepted(data: bytes, *, fin: bool) -> bool:
    """Tell whether the engine takes a text message, or the beginning of one."""
    protocol = Protocol(Side.CLIENT, max_size=None)
    protocol.receive_data(frame(Side.CLIENT, TEXT, data, fin=fin))
    return is_open(protocol)


def agree(data: bytes) -> None:
    assert is_accepted(data, fin=True) == is_text(data), data
    assert is_accepted(data, fin=False) == is_beginning_of_text(data), data


def test_every_pair_of_bytes() -> None:
    for pair in itertools.product(range(256), repeat=2):
        agree(bytes(pair))


@pytest.mark.parametrize("shift", [0, 7], ids=["at the start", "across a word"])
def test_sequences_at_the_boundaries_of_the_standard_s_table(shift: int) -> None:
    for lead, second in itertools.product(LEADS, SECONDS):
        agree(bytes(shift) + bytes([lead, second]))
        for third in LATER:
            agree(bytes(shift) + bytes([lead, second, third]))
            for fourth in LATER:
                agree(bytes(shift) + bytes([lead, second, third, fourth]))


def test_every_character() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert is_accepted(text.encode(), fin=True)


@given(hostile_text)
def test_hostile_text(data: bytes) -> None:
    agree(data)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0", b"\xe2\x28", b"\xed\xa0", b"\xf4\x90"])
@pytest.mark.parametrize("position", [*range(18), 63, 64, 65])
def test_a_bad_byte_behind_ascii_of_any_length(bad: bytes, position: int) -> None:
    good = b"a" * position + bad[:-1]
    assert is_accepted(good, fin=False)
    assert not is_accepted(good + bad[-1:] + b"a" * 16, fin=False)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@given(data=hostile_text, cuts=st.lists(st.integers(0, 40), max_size=5))
@settings(max_examples=60)
def test_fragments_fail_at_the_first_bad_byte_wherever_they_are_cut(
    path: Path, data: bytes, cuts: list[int]
) -> None:
    # The longest acceptable beginning, according to the codec.
    good = max(n for n in range(len(data) + 1) if is_beginning_of_text(data[:n]))
    protocol = path.protocol(Side.CLIENT, queue=False)
    places = [0, *sorted(cut for cut in cuts if cut < good), good]
    opcode = TEXT
    for a, b in itertools.pairwise(places):
        path.feed(protocol, [frame(Side.CLIENT, opcode, data[a:b], fin=False)])
        opcode = 0
    assert is_open(protocol)
    assert b"".join(payload for _, payload, _ in events(protocol)) == data[:good]
    if good < len(data):
        # The frame's last byte is withheld: the fault must be seen without it.
        path.feed(
            protocol, [frame(Side.CLIENT, opcode, data[good : good + 1] + b"a", fin=False)[:-1]]
        )
        assert protocol.close_sent is not None
        assert protocol.close_sent.code == 1007
    else:
        path.feed(protocol, [frame(Side.CLIENT, opcode, b"")])
        assert is_open(protocol) == is_text(data)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
@pytest.mark.parametrize("queue", [False, True], ids=["events", "queue"])
def test_one_bad_byte_anywhere_in_a_whole_message(side: Side, queue: bool) -> None:
    for size in range(1, 34):
        for place in range(size):
            payload = b"a" * place + b"\x80" + b"a" * (size - place - 1)
            protocol = PATHS[0].protocol(side, queue=queue)
            protocol.receive_data(frame(side, TEXT, payload))
            assert protocol.close_sent is not None, (size, place)
            assert protocol.close_sent.code == 1007
