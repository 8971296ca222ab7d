"""What the operating system tells of what a peer has taken."""

import socket
import sys

import pytest

from wsproto_fast.drivers.liveness import bytes_acknowledged

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
