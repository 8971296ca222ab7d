"""What the operating system tells of what a peer has taken."""

import socket
import sys
from math import inf

import pytest

from wsproto_fast.drivers.liveness import bytes_acknowledged, network_silence

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@linux
def test_bytes_that_a_peer_has_taken() -> None:
    """Nothing more once its buffers are full; more when it reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as ours:
            theirs, _ = listener.accept()
            with theirs:
                before = bytes_acknowledged(ours)
                assert before is not None
                ours.setblocking(False)
                written = 0
                with pytest.raises(BlockingIOError):
                    while True:
                        written += ours.send(bytes(65536))
                taken = bytes_acknowledged(ours)
                assert taken is not None
                assert before < taken < before + written
                while written > 0:
                    written -= len(theirs.recv(65536))
                more = bytes_acknowledged(ours)
                assert more is not None
                assert more > taken


@pytest.mark.parametrize("kind", ["unix", "none"])
def test_where_it_is_not_known(kind: str) -> None:
    if kind == "none":
        assert bytes_acknowledged(None) is None
        return
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("there are no Unix sockets")
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert bytes_acknowledged(one) is None


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        monkeypatch.setattr(sys, "platform", "win32")
        assert bytes_acknowledged(sock) is None


class FakeSocket:
    def __init__(self, **fields: int) -> None:
        self.fields = fields

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        places = {"state": 0, "probes": 3, "unacknowledged": 24, "last": 56}
        info = bytearray(size)
        for name, value in self.fields.items():
            width = 1 if name in ("state", "probes") else 4
            info[places[name] : places[name] + width] = value.to_bytes(width, sys.byteorder)
        return bytes(info)


@linux
@pytest.mark.parametrize(
    "fields, silence",
    [
        ({"state": 1, "last": 90_000}, 0.0),
        ({"state": 1, "unacknowledged": 2, "last": 1500}, 1.5),
        ({"state": 1, "unacknowledged": 1, "last": 200}, 0.0),
        # The peer doesn't read, and its host answers when it is asked about that.
        ({"state": 1, "probes": 1, "last": 90_000}, 0.0),
        ({"state": 1, "probes": 2, "last": 90_000}, 90.0),
        ({"state": 8, "unacknowledged": 1, "last": 2000}, 2.0),
        ({"state": 7, "last": 0}, inf),
    ],
)
def test_silence(fields: dict[str, int], silence: float) -> None:
    assert network_silence(FakeSocket(**fields)) == silence


def test_silence_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_silence(None) is None
    monkeypatch.setattr(sys, "platform", "elsewhere")
    assert network_silence(FakeSocket(state=7)) is None
