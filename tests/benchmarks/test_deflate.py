"""What is sent and expected where messages are compressed; no figure is looked at."""

from __future__ import annotations

import itertools
import json
import socket
import sys
import zlib
from pathlib import Path

import pytest

from benchmarks import compressed, data, deflate_backends, load
from wsproto_fast.backends import available_backends

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the load generator is for Linux")

SIZE = 1024
DEFAULT = data.Deflate()
COUNT = compressed.ROUND // SIZE


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    return data.json_payloads(COUNT, SIZE)


@pytest.mark.parametrize("size", [60, 200, 1024, 16384])
def test_json_payloads(size: int) -> None:
    payloads = data.json_payloads(3, size)
    assert payloads == data.json_payloads(3, size)
    assert len(set(payloads)) == 3
    for payload in payloads:
        assert len(payload) == size
        assert json.loads(payload)["records"] or size == 60
    assert payloads != data.json_payloads(3, size, seed="another")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_binary_payloads(share: float) -> None:
    payloads = data.binary_payloads(3, 4096, share)
    assert payloads == data.binary_payloads(3, 4096, share)
    assert all(len(payload) == 4096 for payload in payloads)
    ratio = len(zlib.compress(b"".join(payloads))) / (3 * 4096)
    assert share < ratio < share + 0.02


@pytest.mark.parametrize(
    "answer, deflate",
    [
        (b"permessage-deflate", data.Deflate()),
        (
            b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            data.Deflate(12, 10),
        ),
        (
            b"permessage-deflate;server_no_context_takeover;client_no_context_takeover",
            data.Deflate(server_takeover=False, client_takeover=False),
        ),
    ],
)
def test_answer(answer: bytes, deflate: data.Deflate) -> None:
    assert data.Deflate.parse(answer) == deflate


@pytest.mark.parametrize(
    "answer",
    [
        b"x-something-else",
        b"permessage-deflate; something_else",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=12; server_max_window_bits=12",
        b"permessage-deflate; client_max_window_bits",
    ],
)
def test_wrong_answer(answer: bytes) -> None:
    with pytest.raises(ValueError):
        data.Deflate.parse(answer)


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("takeover", [True, False])
def test_stream_can_be_sent_round_and_round(
    payloads: list[bytes], bits: int, takeover: bool
) -> None:
    stream = data.Stream.of(payloads, data.Deflate(client_bits=bits, client_takeover=takeover))
    inflater = zlib.decompressobj(-bits)
    for piece, text in zip(stream.first + stream.again * 3, payloads * 4, strict=True):
        if not takeover:
            inflater = zlib.decompressobj(-bits)
        assert inflater.decompress(piece + data.TAIL) == text
    # A round isn't in the window of the next one.
    assert sum(map(len, stream.again)) > 0.9 * sum(map(len, stream.first))


def test_stream_is_longer_than_the_window() -> None:
    with pytest.raises(ValueError):
        data.Stream.of([b"short"], DEFAULT)


def test_text_before_a_message() -> None:
    stream = data.Stream([b"abc", b"def"], [], [])
    assert [stream.before(number, 4) for number in range(4)] == [b"", b"abc", b"cdef", b"fabc"]


def frame(payload: bytes) -> bytes:
    return data.frame(data.TEXT | data.COMPRESSED, payload)


@pytest.mark.parametrize("deflate", [DEFAULT, data.Deflate(9), data.Deflate(server_takeover=False)])
def test_judge_inflates_what_is_new(payloads: list[bytes], deflate: data.Deflate) -> None:
    judge = compressed.Judge(data.Stream.of(payloads, DEFAULT), deflate)
    compressor = data.new_compressor(deflate.server_bits)
    for number, payload in enumerate(payloads * 4):
        if not deflate.server_takeover:
            compressor = data.new_compressor(deflate.server_bits)
        assert judge.complete(number, frame(data.compress(compressor, payload)))
    # The first two rounds differ, since nothing precedes the first one.
    assert COUNT <= judge.inflated <= 2 * COUNT


def test_judge_accepts_what_is_not_compressed_and_what_is_compressed_afresh(
    payloads: list[bytes],
) -> None:
    judge = compressed.Judge(data.Stream.of(payloads, DEFAULT), DEFAULT)
    assert judge.complete(0, data.frame(data.TEXT, payloads[0]))
    afresh = data.compress(data.new_compressor(15), payloads[1])
    assert judge.complete(1, frame(afresh))


def test_judge_waits_for_all_bytes(payloads: list[bytes]) -> None:
    judge = compressed.Judge(data.Stream.of(payloads, DEFAULT), DEFAULT)
    wire = frame(data.compress(data.new_compressor(15), payloads[0]))
    assert not any(judge.complete(0, wire[:end]) for end in range(1, len(wire)))
    assert judge.complete(0, wire)


def test_judge_refuses(payloads: list[bytes]) -> None:
    judge = compressed.Judge(data.Stream.of(payloads, DEFAULT), data.Deflate(server_bits=9))
    squeezed = data.compress(data.new_compressor(9), payloads[0])
    wrong = {
        "closed": b"",
        "surplus": frame(squeezed) + b"x",
        "not an unmasked text": data.frame(data.BINARY | data.COMPRESSED, squeezed),
        "has the text": frame(data.compress(data.new_compressor(9), payloads[1])),
        "can't be inflated": frame(b"\xff" + squeezed),
    }
    for message, wire in wrong.items():
        with pytest.raises(load.WrongEcho, match=message):
            judge.complete(0, wire)
    assert judge.complete(0, frame(squeezed))
    with pytest.raises(load.WrongEcho):
        judge.complete(1, frame(squeezed))
    with pytest.raises(load.WrongEcho, match="too far back"):  # for a window of 512 bytes
        judge.complete(1, frame(data.Stream.of(payloads, DEFAULT).first[1]))
    with pytest.raises(load.WrongEcho, match="masked"):
        judge.complete(0, data.frame(data.TEXT, payloads[0], b"1234"))


def test_echo_in_pieces_is_accepted(payloads: list[bytes]) -> None:
    stream = data.Stream.of(payloads, DEFAULT)
    traffic = compressed.Traffic()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conversation = compressed.receive(
            ours, compressed.Judge(stream, DEFAULT), traffic, compressed.requests_of(stream)
        )
        next(conversation)
        finished, sent = 0, 0
        for piece in stream.first[:3]:
            assert theirs.recv(SIZE)[0] == 0xC1
            wire = frame(piece)
            sent += len(wire)
            for byte in wire:
                theirs.sendall(bytes([byte]))
                finished += next(conversation)
        assert finished == 3
        assert (traffic.wire, traffic.text) == (sent, 3 * SIZE)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(load.WrongEcho):
            next(conversation)


def test_requests_have_the_first_round_once(payloads: list[bytes]) -> None:
    stream = data.Stream.of(payloads, DEFAULT)
    requests = list(itertools.islice(compressed.requests_of(stream), 3 * COUNT))
    assert requests[COUNT : 2 * COUNT] == requests[2 * COUNT :]
    assert [len(request) for request in requests[:COUNT]] == [
        len(data.frame(data.TEXT, piece, b"1234")) for piece in stream.first
    ]


def test_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deflate_backends, "CONNECTIONS", 2)
    file = tmp_path / "results.json"
    assert deflate_backends.main(["--seconds", "0", "--level", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    for context in deflate_backends.CONTEXTS:
        assert f"json-16k, context {context}" in printed
    results = json.loads(file.read_text())["results"]
    assert {result["backend"] for result in results} == set(available_backends())
    assert {result["payload"] for result in results} == set(deflate_backends.PAYLOADS)


def test_a_backend_that_is_wrong_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deflate_backends, "inflate_all", lambda *_: [[b"something else"]])
    arguments = ["--seconds", "0", "--payload", "json-200", "--backend", "zlib"]
    assert deflate_backends.main(arguments) == 1
    assert "wrong data: zlib" in capsys.readouterr().err
