"""The example of a driver in the documentation of drivers, which is run as it stands there."""

import select
import socket
import textwrap
import threading
from time import monotonic
from typing import Any

import pytest

from wsproto_fast import PerMessageDeflate, Protocol, Side, State, drivers
from wsproto_fast.activity import CLOSE, HALF_CLOSE
from wsproto_fast.exceptions import ConnectionClosed, ConnectionClosedOK


@pytest.fixture(scope="module")
def driver_class() -> Any:
    documentation = drivers.__doc__
    if documentation is None:
        pytest.skip("there are no docstrings with -OO")
    begin = documentation.index("    class Driver:")
    source = documentation[begin : documentation.index("\n``Protocol`` is open")]
    names: dict[str, Any] = {
        "select": select.select,
        "monotonic": monotonic,
        "State": State,
        "CLOSE": CLOSE,
        "HALF_CLOSE": HALF_CLOSE,
        "SHUT_WR": socket.SHUT_WR,
    }
    exec(textwrap.dedent(source), names)
    return names["Driver"]


def echo(driver: Any) -> None:
    try:
        while True:
            driver.send(driver.recv())
    except ConnectionClosed:
        pass


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_example_of_a_driver(driver_class: Any, compressed: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client, server = Protocol(Side.CLIENT), Protocol(Side.SERVER)
        if compressed:
            client.extensions = [PerMessageDeflate(False, False, 15, 15)]
            server.extensions = [PerMessageDeflate(False, False, 15, 15)]
        driver, peer = driver_class(ours, client), driver_class(theirs, server)
        thread = threading.Thread(target=echo, args=(peer,))
        thread.start()
        try:
            for message in ["text", b"binary", "x" * 300_000, ""]:
                driver.send(message)
                assert driver.recv() == message
            # Many at once, more than there is room for in queues.
            messages = [f"message {number} " * 20 for number in range(60)]
            for message in messages:
                driver.send(message)
            assert [driver.recv() for _ in messages] == messages
            driver.close()
            with pytest.raises(ConnectionClosedOK):
                driver.recv()
        finally:
            ours.close()
            thread.join()
        assert server.state is State.CLOSED
        assert server.close_code == client.close_code == 1000
        assert ours.fileno() == theirs.fileno() == -1


def test_example_notices_that_the_peer_is_silent(driver_class: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver = driver_class(ours, Protocol(Side.CLIENT))
        timeouts = {"ping_interval": 0.01, "ping_timeout": 0.01, "close_timeout": 0.01}
        driver.protocol.set_timeouts(**timeouts, now=monotonic())
        with pytest.raises(ConnectionClosed, match="keepalive ping timeout"):
            driver.recv()
        assert ours.fileno() == -1
